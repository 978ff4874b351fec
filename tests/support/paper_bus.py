"""An in-memory bus in virtual time for the participants of `two-level-paper`.

Everything a run does follows from its seed.  Statements are authentic by construction; what the
participants relay at the end is the chain, and the clearing is derived from it as a replica does.
"""

import heapq
import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from market.clearing import Clearing
from market.mechanisms.two_level_paper import TwoLevelPaper
from market.negotiation.paper_game import Preference, preference_for
from market.negotiation.protocol import Turn
from market.negotiation.two_level_paper import TwoLevelPaperNegotiator
from market.orders import Book
from market.statements_paper import PaperStatement

DIGEST = b"\x03" * 32
HAIRCUT_PPM = 100_000
DELAY_MS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperOutcome:
    """What came of a run.  `rounds` is the longest trace; `relayed` is what is on the chain."""

    clearing: Clearing
    relayed: Mapping[str, tuple[PaperStatement, ...]]
    rounds: int
    traces: Mapping[str, tuple[tuple[int, int, int, int], ...]]
    prices_traces: Mapping[str, tuple[tuple[int, ...], ...]]
    evidence: frozenset[str]


@dataclass(slots=True, kw_only=True)
class PaperBus:
    """All participants of one slot and the messages between them.

    `loss` is the probability per message and receiver, also of messages that were asked for;
    `silent` members have an order and never speak.
    """

    book: Book
    preferences: Mapping[str, Preference] = field(default_factory=dict)
    loss: float = 0.0
    silent: Collection[str] = ()
    seed: int = 0
    phase_ms: int = 100
    deadline_ms: int = 10**6
    _events: list[tuple[int, int, str, str, PaperStatement | None]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _stated: dict[str, dict[int, PaperStatement]] = field(default_factory=lambda: defaultdict(dict))
    _relayed: set[tuple[str, int]] = field(default_factory=set)

    def run(self) -> PaperOutcome:
        """Negotiate until everybody has finished."""
        rng = random.Random(self.seed)  # noqa: S311 - a reproducible test, not a secret
        participants = {
            order.member: TwoLevelPaperNegotiator(
                book=self.book,
                book_digest=DIGEST,
                member=order.member,
                preference=self.preferences.get(
                    order.member, preference_for(order, self.book.band)
                ),
                phase_ms=self.phase_ms,
                deadline_ms=self.deadline_ms,
            )
            for order in self.book.orders
            if order.member not in self.silent
        }
        waiting = set(participants)
        for member in participants:
            self._schedule(rng.randint(0, DELAY_MS_MAX), member, "", None)
        active: set[str] = set()
        while waiting:
            now_ms, _, member, sender, statement = heapq.heappop(self._events)
            if member not in waiting:
                continue
            participant = participants[member]
            if statement is not None:
                turn = participant.receive(sender, statement, now_ms)
            elif member not in active:
                active.add(member)
                turn = participant.start(now_ms)
            elif now_ms >= participant.wake_ms:
                turn = participant.tick(now_ms)
            else:
                continue
            self._carry_out(rng, participants, member, turn, now_ms)
            if turn.finished:
                waiting.remove(member)
            elif member in active:
                self._schedule(max(participant.wake_ms, now_ms + 1), member, "", None)
        return self._outcome(participants)

    def _carry_out(
        self,
        rng: random.Random,
        members: Collection[str],
        member: str,
        turn: Turn,
        now_ms: int,
    ) -> None:
        for statement in turn.publish:
            assert statement.round not in self._stated[member], "one statement a round"
            self._stated[member][statement.round] = statement
            for receiver in members:
                if receiver != member:
                    self._deliver(rng, member, receiver, statement, now_ms)
        if turn.want is not None:
            in_round, authors = turn.want
            for author in authors:
                if (asked := self._stated[author].get(in_round)) is not None:
                    self._deliver(rng, author, member, asked, now_ms)
        self._relayed.update(turn.relay)

    def _deliver(
        self, rng: random.Random, sender: str, receiver: str, statement: PaperStatement, now_ms: int
    ) -> None:
        if rng.random() >= self.loss:
            self._schedule(now_ms + rng.randint(1, DELAY_MS_MAX), receiver, sender, statement)

    def _schedule(
        self, time_ms: int, receiver: str, sender: str, statement: PaperStatement | None
    ) -> None:
        heapq.heappush(self._events, (time_ms, next(self._order), receiver, sender, statement))

    def _outcome(self, participants: Mapping[str, TwoLevelPaperNegotiator]) -> PaperOutcome:
        relayed: dict[str, tuple[PaperStatement, ...]] = {}
        for member, in_round in sorted(self._relayed):
            if in_round in self._stated[member]:
                relayed[member] = (*relayed.get(member, ()), self._stated[member][in_round])
        evidence = frozenset(m for p in participants.values() for m in p.evidence)
        return PaperOutcome(
            clearing=TwoLevelPaper(HAIRCUT_PPM).clear(self.book, relayed, evidence),
            relayed=relayed,
            rounds=max((len(p.trace) for p in participants.values()), default=0),
            traces={member: p.trace for member, p in participants.items()},
            prices_traces={member: p.prices_trace for member, p in participants.items()},
            evidence=evidence,
        )

"""An in-memory bus in virtual time for negotiators: seeded loss, delay, repetition and liars.

Everything a run does follows from its seed.  Statements are authentic by construction; what the
participants relay at the end is the chain, and the clearing is derived from it as a replica does.
"""

import heapq
import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import msgspec

from market.ceilings import ceiling_mwh
from market.clearing import Clearing
from market.mechanisms.two_level import TwoLevel
from market.negotiation.protocol import Turn
from market.negotiation.two_level import TwoLevelNegotiator
from market.orders import Side
from market.statements import Statement
from tests.support.negotiation_streets import DIGEST, Street

HAIRCUT_PPM = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong.  Probabilities are per message and receiver; liars answer at random."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_ms_max: int = 20
    silent: Collection[str] = ()
    liars: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run: the clearing, and what each honest participant saw."""

    clearing: Clearing
    chain: Mapping[str, tuple[Statement, ...]]
    excluded: frozenset[str]
    rounds: int
    traces: Mapping[str, tuple[tuple[int, int, int, int], ...]]
    published: int
    finished_ms: int


@dataclass(slots=True)
class NegotiationBus:
    """All participants of one slot and the messages between them."""

    street: Street
    faults: Faults = field(default_factory=Faults)
    seed: int = 0
    phase_ms: int = 500
    deadline_ms: int = 100_000
    _events: list[tuple[int, int, str, str | None, Statement | None]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _stated: dict[str, dict[int, Statement]] = field(default_factory=lambda: defaultdict(dict))
    _relayed: set[tuple[str, int]] = field(default_factory=set)
    _holders: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    _rng: random.Random = field(init=False)
    _participants: dict[str, TwoLevelNegotiator] = field(init=False)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)  # noqa: S311 - a reproducible test, not a secret
        self._participants = {
            order.member: TwoLevelNegotiator(
                book=self.street.book,
                book_digest=DIGEST,
                member=order.member,
                curve=self.street.curves[order.member],
                phase_ms=self.phase_ms,
                deadline_ms=self.deadline_ms,
            )
            for order in self.street.book.orders
            if order.member not in self.faults.silent
        }

    def run(self) -> Outcome:
        """Negotiate until everybody has finished."""
        now_ms = 0
        for member in self._participants:
            self._schedule(self._rng.randint(0, self.faults.delay_ms_max), member)
        started: set[str] = set()
        finished: dict[str, int] = {}
        while self._events:
            now_ms, _, member, sender, statement = heapq.heappop(self._events)
            if member in finished:
                continue
            participant = self._participants[member]
            if sender is not None and statement is not None:
                self._holders[sender, statement.round].add(member)
                turn = participant.receive(sender, statement, now_ms)
            elif member not in started:
                started.add(member)
                turn = participant.start(now_ms)
            elif now_ms >= participant.wake_ms:
                turn = participant.tick(now_ms)
            else:
                continue
            self._carry_out(member, turn, now_ms)
            if turn.finished:
                finished[member] = now_ms
            elif member in started:
                assert participant.wake_ms > now_ms, "nothing is due twice"
                self._schedule(participant.wake_ms, member)
        assert finished.keys() == self._participants.keys()
        return self._outcome(max(finished.values(), default=0))

    def _carry_out(self, member: str, turn: Turn, now_ms: int) -> None:
        for statement in turn.publish:
            said = self._distort(member, statement) if member in self.faults.liars else statement
            assert said.round not in self._stated[member], "one statement a round"
            self._stated[member][said.round] = said
            for receiver in self._participants:
                if receiver != member:
                    self._deliver(member, receiver, said, now_ms)
        if turn.want is not None:
            self._answer(member, *turn.want, now_ms)
        self._relayed.update(turn.relay)

    def _answer(self, asker: str, price: int, authors: Collection[str], now_ms: int) -> None:
        """Let the author and two others who have it send a statement again."""
        for author in authors:
            for statement in self._stated.get(author, {}).values():
                if statement.price == price:
                    holders = self._holders[author, statement.round] - {asker}
                    others = self._rng.sample(sorted(holders), min(2, len(holders)))
                    for _ in (author, *others):
                        self._deliver(author, asker, statement, now_ms)

    def _deliver(self, sender: str, receiver: str, statement: Statement, now_ms: int) -> None:
        copies = 1 + (self._rng.random() < self.faults.repeat)
        for _ in range(copies):
            if self._rng.random() >= self.faults.loss:
                delay_ms = self._rng.randint(1, self.faults.delay_ms_max)
                self._schedule(now_ms + delay_ms, receiver, sender, statement)

    def _schedule(
        self,
        time_ms: int,
        receiver: str,
        sender: str | None = None,
        statement: Statement | None = None,
    ) -> None:
        entry = (time_ms, next(self._order), receiver, sender, statement)
        heapq.heappush(self._events, entry)

    def _distort(self, member: str, statement: Statement) -> Statement:
        order, band = self.street.book.by_member[member], self.street.book.band
        sells = order.side is Side.SELL
        price = self._rng.randint(band.lo, band.hi) if sells else statement.price
        energy = self._rng.randint(0, ceiling_mwh(band, order, price))
        return msgspec.structs.replace(statement, price=price, energy_mwh=energy)

    def _outcome(self, finished_ms: int) -> Outcome:
        excluded = frozenset(m for p in self._participants.values() for m in p.evidence)
        chain = {
            member: tuple(s for r, s in sorted(rounds.items()) if (member, r) in self._relayed)
            for member, rounds in self._stated.items()
        }
        honest = self._participants.keys() - set(self.faults.liars)
        traces = {member: self._participants[member].trace for member in sorted(honest)}
        return Outcome(
            clearing=TwoLevel(HAIRCUT_PPM).clear(self.street.book, chain, excluded),
            chain=chain,
            excluded=excluded,
            rounds=max((len(trace) for trace in traces.values()), default=0),
            traces=traces,
            published=sum(len(rounds) for rounds in self._stated.values()),
            finished_ms=finished_ms,
        )

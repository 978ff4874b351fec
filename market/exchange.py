"""The market as a replicated state machine: operations and deadlines in, events and writes out.

`apply` and `run` are pure functions of the view, so every replica derives the same bytes.  Whatever
breaks a rule is a deterministic no-op with a result code, never an exception.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from market.contracts import matching, membership, metering, offers, quota, settlement
from market.errors import Refused, Result
from market.events import Event
from market.mechanisms.protocol import Mechanism
from market.mechanisms.registry import mechanism_of
from market.payloads import (
    PAYLOADS,
    STATEMENT,
    ContradictionPayload,
    OrderPayload,
    ReadingPayload,
    WithdrawalPayload,
    channel_of,
)
from market.rules import Rules
from market.slot import Deadline, DeadlineKind
from market.state import CALENDAR, Draft, View, read

OpenStatement = Callable[[bytes], tuple[str, Any] | None]
"""Opens an encoded statement operation: (signer, statement), or None if it is not authentic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """An authenticated operation as the market sees it; its payload decoded, None if it cannot be.

    `channel` is numbered as in `market.events`, `size` is that of the whole operation [bytes].
    """

    kind: str
    channel: int
    signer: str
    payload: Any | None
    salt: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation or deadline did."""

    result: Result
    events: list[Event] = field(default_factory=list)
    writes: Mapping[str, bytes | None] = field(default_factory=dict)


class Progress(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The next slot for each kind of deadline; everything before it has run."""

    gate: int
    clearing: int
    settlement: int


class Exchange:
    """The rules of one community, applied.

    Args:
        rules: From genesis.
        open_statement: Authenticates the statements inside contradiction evidence.
    """

    def __init__(self, rules: Rules, open_statement: OpenStatement) -> None:
        self.rules = rules
        self.mechanism: Mechanism = mechanism_of(rules)
        self._open_statement = open_statement

    def payload_type(self, kind: str) -> type[Any] | None:
        """Return the type of an operation's payload, None if the market has no such kind."""
        if kind == STATEMENT:
            return self.mechanism.statement_type
        return PAYLOADS.get(kind)

    def genesis_writes(self) -> Mapping[str, bytes | None]:
        """Return the state before the first block."""
        draft = Draft(_NOTHING)
        first = self.rules.calendar.first
        draft.put(CALENDAR, Progress(first, first, first))
        membership.register_genesis(draft, self.rules)
        return draft.writes

    def next_deadline(self, view: View) -> Deadline | None:
        """Return the earliest deadline that has not run, None after the last slot."""
        progress = read(view, CALENDAR, Progress)
        assert progress is not None
        calendar = self.rules.calendar
        candidates = (
            (progress.gate, DeadlineKind.GATE),
            (progress.clearing, DeadlineKind.CLEARING),
            (progress.settlement, DeadlineKind.SETTLEMENT),
        )
        return min(
            (
                calendar.deadline(slot, kind)
                for slot, kind in candidates
                if calendar.is_traded(slot)
            ),
            default=None,
        )

    def run(self, view: View, deadline: Deadline, time_ms: int) -> Outcome:
        """Do what is due at a deadline, in a block of effective time `time_ms`."""
        draft = Draft(view)
        progress = draft.read(CALENDAR, Progress)
        assert progress is not None
        slot = deadline.slot
        match deadline.kind:
            case DeadlineKind.GATE:
                events = matching.close_gate(draft, self.rules, slot)
                progress = msgspec.structs.replace(progress, gate=slot + 1)
            case DeadlineKind.CLEARING:
                is_late = time_ms >= self.rules.calendar.start_ms(slot)
                events = matching.clear(draft, self.mechanism, slot, is_late=is_late)
                progress = msgspec.structs.replace(progress, clearing=slot + 1)
            case DeadlineKind.SETTLEMENT:
                events = settlement.settle(draft, self.rules, slot)
                progress = msgspec.structs.replace(progress, settlement=slot + 1)
        draft.put(CALENDAR, progress)
        return Outcome(Result.OK, events, draft.writes)

    def apply(self, view: View, submission: Submission, time_ms: int) -> Outcome:
        """Apply one operation at effective block time `time_ms`.

        A refusal writes nothing but that the member has used some of its quota.
        """
        draft = Draft(view)
        counted: Mapping[str, bytes | None] = {}
        try:
            membership.household(draft, submission.signer)
            if submission.kind != STATEMENT:
                quota.use(draft, self.rules, submission.signer, submission.size, time_ms=time_ms)
                counted = dict(draft.writes)
            self._check_form(submission)
            self._dispatch(draft, submission, time_ms)
        except Refused as refusal:
            return Outcome(refusal.result, [], counted)
        return Outcome(Result.OK, [], draft.writes)

    def _check_form(self, submission: Submission) -> None:
        """Check what every kind of operation has: a known kind, a payload and its channel."""
        if self.payload_type(submission.kind) is None:
            raise Refused(Result.UNKNOWN_KIND, f"there is no operation {submission.kind!r}")
        if submission.payload is None:
            raise Refused(Result.MALFORMED, f"the payload is not that of {submission.kind}")
        if submission.channel != channel_of(submission.kind):
            raise Refused(
                Result.WRONG_CHANNEL,
                f"{submission.kind} belongs to channel {channel_of(submission.kind)}",
            )

    def _dispatch(self, draft: Draft, submission: Submission, time_ms: int) -> None:
        signer, payload = submission.signer, submission.payload
        match payload:
            case ContradictionPayload():
                self._contradict(draft, payload)
            case OrderPayload():
                offers.submit(
                    draft, self.rules, signer, payload, time_ms=time_ms, salt=submission.salt
                )
            case WithdrawalPayload():
                offers.withdraw(draft, self.rules, signer, payload, time_ms=time_ms)
            case ReadingPayload():
                metering.record(
                    draft, self.rules, signer, payload, time_ms=time_ms, salt=submission.salt
                )
            case _:
                matching.state(draft, signer, payload)

    def _contradict(self, draft: Draft, payload: ContradictionPayload) -> None:
        first = self._open_statement(payload.first)
        second = self._open_statement(payload.second)
        if first is None or second is None:
            raise Refused(Result.MALFORMED, "the evidence does not hold two signed statements")
        if first[0] != second[0] or first[1].slot != second[1].slot:
            raise Refused(Result.NO_CONTRADICTION, "the statements are not about one member's slot")
        matching.contradict(
            draft, self.mechanism, member=first[0], first=first[1], second=second[1]
        )


class _Nothing:
    """The view before genesis."""

    def get(self, key: str) -> bytes | None:  # noqa: ARG002 - a view's signature
        return None


_NOTHING = _Nothing()

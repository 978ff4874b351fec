"""The market as a replicated state machine: operations and deadlines in, events and writes out.

`apply` and `run` are pure functions of the view, so every replica derives the same bytes.  Whatever
breaks a rule is a deterministic no-op with a result code, never an exception.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from market.contracts import matching, membership, metering, offers, settlement
from market.errors import Refused, Result
from market.events import Event
from market.mechanisms.protocol import Mechanism
from market.mechanisms.registry import mechanism_of
from market.payloads import (
    PAYLOADS,
    ContradictionPayload,
    OrderPayload,
    ReadingPayload,
    WithdrawalPayload,
)
from market.rules import Rules
from market.slot import Deadline, DeadlineKind
from market.state import CALENDAR, Draft, View, read, usage_key

OpenStatement = Callable[[bytes], tuple[str, Any] | None]
"""Opens an encoded statement operation: (signer, statement), or None if it is not authentic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """An authenticated operation with its payload decoded, as the market sees it."""

    kind: str
    signer: str
    payload: Any
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


class Usage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How much of its quota a member has used in a slot."""

    operations: int
    operation_bytes: int


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
        if kind == "statement":
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

    def run(self, view: View, deadline: Deadline) -> Outcome:
        """Do what is due at a deadline."""
        draft = Draft(view)
        progress = draft.read(CALENDAR, Progress)
        assert progress is not None
        match deadline.kind:
            case DeadlineKind.GATE:
                events = matching.close_gate(draft, self.rules, deadline.slot)
                progress = msgspec.structs.replace(progress, gate=deadline.slot + 1)
            case DeadlineKind.CLEARING:
                events = matching.clear(draft, self.mechanism, deadline.slot)
                progress = msgspec.structs.replace(progress, clearing=deadline.slot + 1)
            case DeadlineKind.SETTLEMENT:
                events = settlement.settle(draft, self.rules, deadline.slot)
                progress = msgspec.structs.replace(progress, settlement=deadline.slot + 1)
        draft.put(CALENDAR, progress)
        return Outcome(Result.OK, events, draft.writes)

    def apply(self, view: View, submission: Submission, time_ms: int) -> Outcome:
        """Apply one operation at effective block time `time_ms`; a refusal writes nothing."""
        draft = Draft(view)
        try:
            self._dispatch(draft, submission, time_ms)
        except Refused as refusal:
            return Outcome(refusal.result)
        return Outcome(Result.OK, [], draft.writes)

    def _dispatch(self, draft: Draft, submission: Submission, time_ms: int) -> None:
        signer, payload = submission.signer, submission.payload
        membership.household(draft, signer)
        match payload:
            case ContradictionPayload():
                self._contradict(draft, submission, payload)
            case OrderPayload():
                self._use_quota(draft, payload.slot, submission)
                offers.submit(
                    draft, self.rules, signer, payload, time_ms=time_ms, salt=submission.salt
                )
            case WithdrawalPayload():
                self._use_quota(draft, payload.slot, submission)
                offers.withdraw(draft, self.rules, signer, payload, time_ms=time_ms)
            case ReadingPayload():
                self._use_quota(draft, payload.slot, submission)
                metering.record(
                    draft, self.rules, signer, payload, time_ms=time_ms, salt=submission.salt
                )
            case _:
                self._use_quota(draft, payload.slot, submission)
                matching.state(draft, signer, payload)

    def _contradict(
        self, draft: Draft, submission: Submission, payload: ContradictionPayload
    ) -> None:
        first = self._open_statement(payload.first)
        second = self._open_statement(payload.second)
        if first is None or second is None:
            raise Refused(Result.MALFORMED, "the evidence does not hold two signed statements")
        if first[0] != second[0] or first[1].slot != second[1].slot:
            raise Refused(Result.NO_CONTRADICTION, "the statements are not about one member's slot")
        self._use_quota(draft, first[1].slot, submission)
        matching.contradict(
            draft, self.mechanism, member=first[0], first=first[1], second=second[1]
        )

    def _use_quota(self, draft: Draft, slot: int, submission: Submission) -> None:
        """Count an accepted operation against its signer's quota of the slot."""
        if not self.rules.calendar.is_traded(slot):
            raise Refused(Result.NO_SUCH_SLOT, f"slot {slot} is not traded")
        progress = draft.read(CALENDAR, Progress)
        if progress is not None and slot < progress.settlement:
            raise Refused(Result.SETTLED, f"slot {slot} has been settled")
        key = usage_key(slot, submission.signer)
        usage = draft.read(key, Usage) or Usage(0, 0)
        used = Usage(usage.operations + 1, usage.operation_bytes + submission.size)
        quotas = self.rules.quotas
        if used.operations > quotas.operations or used.operation_bytes > quotas.operation_bytes:
            raise Refused(
                Result.QUOTA,
                f"{submission.signer} may have {quotas.operations} operations and "
                f"{quotas.operation_bytes} bytes in a slot",
            )
        draft.put(key, used)


class _Nothing:
    """The view before genesis."""

    def get(self, key: str) -> bytes | None:  # noqa: ARG002 - a view's signature
        return None


_NOTHING = _Nothing()

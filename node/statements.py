"""Signed statements as heard on the bus: to relay, to answer wishes, to convict.

Authentic ones only; the driver checks.  Bounded by members, the slots under way and the rounds
that the longest mechanism has.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

from consensus.operation import Operation
from market.statements_paper import ROUNDS_MAX_PAPER

PER_MEMBER_MAX = ROUNDS_MAX_PAPER
"""An honest member makes one statement a round."""


class SignedStatements:
    """Statement operations by slot and member, in the order in which they came."""

    def __init__(self) -> None:
        self._held: dict[int, dict[str, dict[bytes, tuple[Operation, Any]]]] = {}

    def why_refused(self, operation: Operation, slot: int) -> str | None:
        """Return why another statement is not taken, None if there is room for a new one."""
        held = self._of(slot, operation.body.signer)
        if operation.id in held:
            return "statement already here"
        if len(held) >= PER_MEMBER_MAX:
            return "too many statements"
        return None

    def add(self, operation: Operation, statement: Any) -> None:  # noqa: ANN401 - of the mechanism's statement type
        """Keep an authentic statement."""
        by_member = self._held.setdefault(statement.slot, {})
        by_member.setdefault(operation.body.signer, {})[operation.id] = (operation, statement)

    def heard(self, slot: int) -> list[tuple[str, Any]]:
        """Return everything said about a slot so far, as (member, statement)."""
        return [
            (member, statement)
            for member, held in self._held.get(slot, {}).items()
            for _, statement in held.values()
        ]

    def find(self, slot: int, member: str, wanted: Callable[[Any], bool]) -> Operation | None:
        """Return the operation of a member's first statement that is `wanted`."""
        return next(self._matching(slot, member, wanted), None)

    def answering(self, slot: int, members: Collection[str], key: int) -> list[Operation]:
        """Return what `members` said at `key`: a price, or a round where prices are many."""
        return [
            operation
            for member in sorted(members)
            for operation in self._matching(slot, member, lambda said: _key(said) == key)
        ]

    def forget(self, slot: int) -> None:
        """Drop a slot that has been cleared."""
        self._held.pop(slot, None)

    def _of(self, slot: int, member: str) -> dict[bytes, tuple[Operation, Any]]:
        return self._held.get(slot, {}).get(member, {})

    def _matching(
        self, slot: int, member: str, wanted: Callable[[Any], bool]
    ) -> Iterator[Operation]:
        for operation, statement in self._of(slot, member).values():
            if wanted(statement):
                yield operation


def _key(statement: Any) -> int:  # noqa: ANN401 - of the mechanism's statement type
    key: int = getattr(statement, "price", statement.round)
    return key

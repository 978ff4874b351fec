"""What every negotiator offers: one participant's side of an iterative mechanism.

Pure: statements and time in, statements out.  The caller signs and publishes what comes out, and
hands in what it hears.  All times are milliseconds of the community's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Turn:
    """What the participant does after one input.

    `publish`: statements to sign and publish on the bus, in order.  `want`: (price, member ids)
    of statements that it has not heard and asks for.  `finished`: set once, when it stops; then
    `relay` names (member, round) of the statements that belong on the chain, its own first.
    """

    publish: tuple[Any, ...] = ()
    want: tuple[int, tuple[str, ...]] | None = None
    finished: bool = False
    relay: tuple[tuple[str, int], ...] = ()


class Negotiator(Protocol):
    """One participant of one slot's negotiation."""

    def start(self, now_ms: int) -> Turn:
        """Begin with round 1; called once, after gate closure is on the chain."""
        ...

    def receive(self, member: str, statement: Any, now_ms: int) -> Turn:  # noqa: ANN401 - of the mechanism's statement type
        """Take another member's statement, already authenticated; own ones are ignored."""
        ...

    def tick(self, now_ms: int) -> Turn:
        """Notice that time has passed: a phase, or the whole negotiation, may be over."""
        ...

    @property
    def wake_ms(self) -> int:
        """When `tick` is next due."""
        ...

    @property
    def trace(self) -> tuple[tuple[int, int, int, int], ...]:
        """(round, reference price, demand [mWh], supply [mWh]) per round so far, for the page."""
        ...

    @property
    def evidence(self) -> Mapping[str, tuple[Any, Any]]:
        """Members that contradicted themselves, with the two statements that convict them."""
        ...

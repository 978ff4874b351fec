"""The community's clock: origin + speed x (wall - start), in integer milliseconds.

Speed 1 is the field; a demonstration lets a day pass in a minute.  Everything that decides reads
this clock as an argument; only the daemon reads the wall.
"""

import time
from typing import Annotated

import msgspec

Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class ClockRules(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How wall time becomes community time; fixed in genesis."""

    origin_ms: Milliseconds
    start_ms: Milliseconds
    speed: Annotated[int, msgspec.Meta(ge=1, le=100_000)]

    def at(self, wall_ms: int) -> int:
        """Return the community's time at a wall time."""
        return self.origin_ms + self.speed * (wall_ms - self.start_ms)

    def wall_seconds(self, duration_ms: int) -> float:
        """Return how long a duration of the community's clock lasts on the wall [s]."""
        return duration_ms / self.speed / 1000


def wall_ms() -> int:
    """Return the wall clock, milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000

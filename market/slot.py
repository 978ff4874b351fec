"""Delivery slots and their deadlines on the community's clock.

A slot's id is its start in UTC divided by the slot length.  Deadlines are offsets from the start
of delivery; "in time" means that the block's time is before the deadline.
"""

import enum
from dataclasses import dataclass
from typing import Annotated

import msgspec

_MS_PER_HOUR = 3_600_000

SlotId = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class DeadlineKind(enum.IntEnum):
    """What happens at a deadline; equal times run in (slot, kind) order."""

    GATE = 0
    CLEARING = 1
    SETTLEMENT = 2


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """Something that the next block at or after `time_ms` does before its operations."""

    time_ms: int
    slot: int
    kind: DeadlineKind


class SlotCalendar(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which slots a community trades, and when each thing about a slot happens.

    All durations in milliseconds of the community's clock.  `opens_ms`, `gate_ms` and
    `clearing_ms` lie before the start of delivery, `settlement_ms` after its end, in this order,
    so that there is time to order, to negotiate and to report.  `count` 0 means that trading has no
    last slot.
    """

    length_ms: Annotated[int, msgspec.Meta(ge=60_000, le=86_400_000)]
    first: SlotId
    count: Annotated[int, msgspec.Meta(ge=0, le=10**9)]
    opens_ms: Milliseconds
    gate_ms: Milliseconds
    clearing_ms: Milliseconds
    settlement_ms: Milliseconds

    def __post_init__(self) -> None:
        if not self.opens_ms > self.gate_ms > self.clearing_ms > 0 < self.settlement_ms:
            raise ValueError(
                f"a slot must open, close its gate and clear before delivery and settle after it, "
                f"but opens_ms is {self.opens_ms}, gate_ms {self.gate_ms}, clearing_ms "
                f"{self.clearing_ms}, settlement_ms {self.settlement_ms}"
            )

    def is_traded(self, slot: int) -> bool:
        """Whether the community trades this slot at all."""
        return slot >= self.first and (self.count == 0 or slot < self.first + self.count)

    def slot_at(self, time_ms: int) -> int:
        """Return the slot in whose delivery `time_ms` lies."""
        return time_ms // self.length_ms

    def start_ms(self, slot: int) -> int:
        """Return when delivery starts."""
        return slot * self.length_ms

    def end_ms(self, slot: int) -> int:
        """Return when delivery ends."""
        return (slot + 1) * self.length_ms

    def opening_ms(self, slot: int) -> int:
        """Return from when on orders are taken."""
        return max(0, self.start_ms(slot) - self.opens_ms)

    def energy_wh(self, power_w: int) -> int:
        """Return the energy of a constant power over one slot, rounded down."""
        return power_w * self.length_ms // _MS_PER_HOUR

    def deadline(self, slot: int, kind: DeadlineKind) -> Deadline:
        """Return one deadline of a slot."""
        match kind:
            case DeadlineKind.GATE:
                time_ms = self.start_ms(slot) - self.gate_ms
            case DeadlineKind.CLEARING:
                time_ms = self.start_ms(slot) - self.clearing_ms
            case DeadlineKind.SETTLEMENT:
                time_ms = self.end_ms(slot) + self.settlement_ms
        return Deadline(time_ms=time_ms, slot=slot, kind=kind)

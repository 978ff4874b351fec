"""What operations say, by kind.  Statements have the type of the slot's mechanism."""

import enum
from typing import Annotated

import msgspec

from market.events import ENERGY, TRADE
from market.slot import SlotId

EnergyWh = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
Revision = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class Quality(enum.StrEnum):
    """How an energy came to be known; carried from the meter to the bill."""

    MEASURED = "measured"
    SUBSTITUTED = "substituted"


class Source(enum.StrEnum):
    """Who vouches for a reading; a sealed meter or the grid operator would outrank the home."""

    HOUSEHOLD = "household"


class OrderPayload(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Submit or amend: the highest revision stands.  `side` 0 buys, 1 sells; energies in Wh."""

    slot: SlotId
    revision: Revision
    side: Annotated[int, msgspec.Meta(ge=0, le=1)]
    firm_wh: EnergyWh
    flexible_wh: EnergyWh
    flexible_limit: Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class WithdrawalPayload(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Take an order out of the book; a later revision may put one in again."""

    slot: SlotId
    revision: Revision


class ContradictionPayload(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True
):
    """Two encoded statement operations of one member that contradict each other."""

    first: Annotated[bytes, msgspec.Meta(max_length=8192)]
    second: Annotated[bytes, msgspec.Meta(max_length=8192)]


class ReadingPayload(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the meter counted in a slot, netted: at most one of import and export is positive."""

    slot: SlotId
    import_wh: EnergyWh
    export_wh: EnergyWh
    quality: Quality
    source: Source


PAYLOADS: dict[str, type[msgspec.Struct]] = {
    "order": OrderPayload,
    "withdraw": WithdrawalPayload,
    "contradiction": ContradictionPayload,
    "reading": ReadingPayload,
}
"""Payload type per operation kind; that of a statement depends on the mechanism."""

STATEMENT = "statement"
"""The kind of operation whose payload is the mechanism's statement type."""


def channel_of(kind: str) -> int:
    """Return the channel, hence the retention, to which operations of a kind belong."""
    return ENERGY if kind == "reading" else TRADE

"""What execution derives: events, each a leaf of its channel, so that every line has a proof."""

from dataclasses import dataclass

import msgspec

from market.clearing import Rung

TRADE, ENERGY, INFO = 0, 1, 2
"""The channels, numbered as in operations."""


class GateClosed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The book of a slot is fixed."""

    slot: int
    book_digest: bytes
    orders: int
    lo: int
    hi: int


class Cleared(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The outcome of a slot; `price` is the reference price [micro/kWh], 0 on the grid rung."""

    slot: int
    mechanism: str
    rung: Rung
    price: int
    rounds: int
    traded_wh: int
    supply_wh: int
    demand_wh: int


class TradeExecuted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One participant's part in a slot: what it trades, with whom, for how much.

    `partners` lists (member, Wh) of the flows; `amount_nano` is what a buyer pays or a seller
    gets, before fees.
    """

    slot: int
    member: str
    side: int
    energy_wh: int
    amount_nano: int
    partners: tuple[tuple[str, int], ...]


class PriceFound(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Paper 003's information chain: final price, rounds, and each seller's share [ppm]."""

    slot: int
    price: int
    rounds: int
    shares_ppm: tuple[tuple[str, int], ...]


class SettlementLine(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One household's slot, settled.  Energies in Wh, prices in micro/kWh, money in nano.

    `bill_nano` is what the household owes for the slot (negative: it is owed);
    `grid_only_nano` is what the same meter reading would have cost without the street.
    `imbalance_import_wh` and `imbalance_export_wh` are the deviation from what was contracted,
    bought at the retail price or sold at the feed-in price, once.
    """

    slot: int
    member: str
    side: int
    contracted_wh: int
    trade_nano: int
    service_fee_nano: int
    grid_fee_nano: int
    import_wh: int
    export_wh: int
    quality: str
    source: str
    imbalance_import_wh: int
    imbalance_export_wh: int
    imbalance_nano: int
    retail_micro_per_kwh: int
    feed_in_micro_per_kwh: int
    bill_nano: int
    grid_only_nano: int


class SlotSettled(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Totals of a settled slot; the four accounts' changes and the households' bills sum to 0."""

    slot: int
    households_nano: int
    operator_nano: int
    network_nano: int
    community_nano: int
    grid_nano: int
    grid_import_wh: int
    grid_export_wh: int
    digest: bytes


Payload = GateClosed | Cleared | TradeExecuted | PriceFound | SettlementLine | SlotSettled

EVENTS: dict[str, type[msgspec.Struct]] = {
    "gate-closed": GateClosed,
    "cleared": Cleared,
    "trade": TradeExecuted,
    "price": PriceFound,
    "settlement-line": SettlementLine,
    "settled": SlotSettled,
}
"""Payload type per event kind."""

_KINDS = {type_: kind for kind, type_ in EVENTS.items()}


@dataclass(frozen=True, slots=True)
class Event:
    """A derived fact for one channel.

    `subject` is the member whom it concerns, "" for the street; `salt` is that member's own salt
    (of its order or reading), from which the leaf's salt is derived, so that erasing the member's
    operation blinds the events too.
    """

    channel: int
    subject: str
    payload: Payload
    salt: bytes = b""

    @property
    def kind(self) -> str:
        """The event's name."""
        return _KINDS[type(self.payload)]

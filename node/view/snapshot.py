"""A street as its ledger shows it, in plain values: what the page, the report and `--json` read.

Energies in Wh, prices in micro-currency per kWh, money in nano-currency, times in milliseconds of
the community's clock; rounding is left to whoever prints them.  All types are msgspec-encodable.
"""

import enum
from dataclasses import dataclass

from market.clearing import Rung
from market.events import SettlementLine


class Stage(enum.StrEnum):
    """How far a slot has come at the time of the last block."""

    WAITING = "waiting"
    ORDERS = "orders"
    NEGOTIATING = "negotiating"
    CLEARED = "cleared"
    DELIVERING = "delivering"
    SETTLING = "settling"
    SETTLED = "settled"


class Reason(enum.StrEnum):
    """Why a cleared slot has no negotiated price."""

    NO_ORDERS = "no-orders"
    NO_SELLERS = "no-sellers"
    NO_BUYERS = "no-buyers"
    NO_BAND = "no-band"
    NO_MATCH = "no-match"
    NO_AGREEMENT = "no-agreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenesisFacts:
    """What the community agreed on before the first block.

    `slots` is how many slots are traded, 0 if there is no last one; `quorum` is how many endorsers
    certify a block.
    """

    community: str
    currency: str
    mechanism: str
    chain_id: str
    speed: int
    slot_minutes: int
    first_slot: int
    slots: int
    homes: tuple[str, ...]
    endorsers: tuple[str, ...]
    quorum: int
    service_fee_ppm: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """One delivery slot.

    `label` and `label_end` are its times of day.  Price, rung and traded energy are None or 0
    until it is cleared; the metered sums, grid energies and savings until it is settled.
    `readings` counts meters that have reported so far.  Supply and demand are what was ordered.
    """

    slot: int
    label: str
    label_end: str
    stage: Stage
    retail_micro_per_kwh: int
    feed_in_micro_per_kwh: int
    lo_micro_per_kwh: int
    hi_micro_per_kwh: int
    orders: int
    readings: int
    rung: Rung | None
    reason: Reason | None
    price_micro_per_kwh: int | None
    rounds: int
    traded_wh: int
    supply_wh: int
    demand_wh: int
    import_wh: int
    export_wh: int
    grid_import_wh: int
    grid_export_wh: int
    saved_nano: int

    @property
    def is_settled(self) -> bool:
        """Whether every home's line is written."""
        return self.stage is Stage.SETTLED


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """Energy of one seller that one buyer has contracted [Wh]."""

    seller: str
    buyer: str
    energy_wh: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HomePart:
    """One home's part in one slot.

    The grid energies are metered once the slot is settled; before, they are what the orders leave
    after trading: firm energy that found no partner.  Flexible energy that was not traded stays in
    the home.
    """

    home: str
    sells: bool
    firm_wh: int
    flexible_wh: int
    traded_wh: int
    grid_import_wh: int
    grid_export_wh: int


@dataclass(frozen=True, slots=True)
class TraceRound:
    """One round of a negotiation as the ledger's own home saw it; energies in mWh."""

    round: int
    price_micro_per_kwh: int
    demand_mwh: int
    supply_mwh: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotDetail:
    """A slot with who trades with whom, and how its price was found."""

    facts: SlotFacts
    flows: tuple[FlowFacts, ...]
    parts: tuple[HomePart, ...]
    trace: tuple[TraceRound, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeTotals:
    """One home over all settled slots.

    `bought_wh` and `sold_wh` are contracted with neighbours, the grid energies are the deviations
    from that, `import_wh` and `export_wh` what the meter counted.  `substituted` counts slots whose
    reading never came.
    """

    home: str
    is_endorser: bool
    slots: int
    substituted: int
    bill_nano: int
    grid_only_nano: int
    fees_nano: int
    bought_wh: int
    sold_wh: int
    grid_import_wh: int
    grid_export_wh: int
    import_wh: int
    export_wh: int

    @property
    def saved_nano(self) -> int:
        """What the home is better off by than with the grid alone; negative: worse."""
        return self.grid_only_nano - self.bill_nano


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """How many slots were cleared on each rung."""

    negotiated: int
    standing: int
    grid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetTotals:
    """The whole street.

    `traded_wh` counts all cleared slots, all else the settled ones.  `shared_wh` is physical: per
    slot, what some homes drew while others fed in; without the street it is 0.  The accounts and
    `money_sum_nano`, over all balances, are the state's.
    """

    slots_cleared: int
    slots_settled: int
    traded_wh: int
    bill_nano: int
    grid_only_nano: int
    import_wh: int
    export_wh: int
    shared_wh: int
    grid_import_wh: int
    grid_export_wh: int
    operator_nano: int
    network_nano: int
    community_nano: int
    grid_nano: int
    money_sum_nano: int
    ladder: Ladder

    @property
    def saved_nano(self) -> int:
        """What all homes together are better off by; negative: worse."""
        return self.grid_only_nano - self.bill_nano

    @property
    def energy_balance_wh(self) -> int:
        """Metered net import less what was settled with the grid; anything but 0 is a bug."""
        metered_wh = self.import_wh - self.export_wh
        return metered_wh - (self.grid_import_wh - self.grid_export_wh)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFacts:
    """A block and who signed its certificate; no signers: the certificate is not here yet."""

    height: int
    time_ms: int
    operations: int
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFacts:
    """The chain of this ledger; `receipts` counts operations by their result code."""

    height: int
    certified_height: int
    head: str
    time_ms: int
    operations: dict[str, int]
    receipts: dict[str, int]
    last_blocks: tuple[BlockFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetSnapshot:
    """Everything that the page shows of a street, but for the details of a slot.

    `clock` is the time of day of the last block.  `slots` are the last ones up to those that are
    taking orders; `current` is the one in delivery, or the nearest to it.
    """

    genesis: GenesisFacts
    clock: str
    current: int
    slots: tuple[SlotFacts, ...]
    homes: tuple[HomeTotals, ...]
    totals: StreetTotals
    chain: ChainFacts

    @property
    def is_over(self) -> bool:
        """Whether the last slot is settled."""
        return 0 < self.genesis.slots == self.totals.slots_settled

    def slot_facts(self, slot: int) -> SlotFacts | None:
        """Return one of the slots shown."""
        return next((each for each in self.slots if each.slot == slot), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeSummary:
    """What `demo --json` says about a home."""

    id: str
    bill_nano: int
    grid_only_nano: int
    saved_nano: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetSummary:
    """What `demo --json` says about a street; `cleared` counts slots cleared on any rung."""

    slots: int
    cleared: int
    mechanism: str
    traded_wh: int
    homes: tuple[HomeSummary, ...]
    money_sum_nano: int
    energy_balance_wh: int
    blocks: int
    head: str
    ladder: Ladder


@dataclass(frozen=True, slots=True)
class HomeLines:
    """All settlement lines of one home, in slot order, with the label of each slot."""

    home: str
    lines: tuple[tuple[str, SettlementLine], ...]

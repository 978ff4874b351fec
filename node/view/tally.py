"""What a ledger's events add up to: per slot, per home, and for the street."""

from collections import Counter
from dataclasses import dataclass, field

from market.clearing import Rung
from market.events import Cleared, GateClosed, SettlementLine, SlotSettled, TradeExecuted
from market.orders import Book, Order, Side
from market.payloads import Quality
from node.view.snapshot import FlowFacts, HomePart, Reason, TraceRound


@dataclass(slots=True)
class SlotRecord:
    """What the events of a slot have said so far."""

    gate: GateClosed | None = None
    cleared: Cleared | None = None
    trades: list[TradeExecuted] = field(default_factory=list)
    lines: list[SettlementLine] = field(default_factory=list)
    settled: SlotSettled | None = None
    book: Book | None = None
    trace: list[TraceRound] = field(default_factory=list)


@dataclass(slots=True)
class HomeTally:
    """One home's sums over its settlement lines."""

    slots: int = 0
    substituted: int = 0
    bill_nano: int = 0
    grid_only_nano: int = 0
    fees_nano: int = 0
    bought_wh: int = 0
    sold_wh: int = 0
    grid_import_wh: int = 0
    grid_export_wh: int = 0
    import_wh: int = 0
    export_wh: int = 0

    def add(self, line: SettlementLine) -> None:
        """Count one more slot."""
        is_sale = line.side == Side.SELL
        self.slots += 1
        self.substituted += line.quality == Quality.SUBSTITUTED
        self.bill_nano += line.bill_nano
        self.grid_only_nano += line.grid_only_nano
        self.fees_nano += line.service_fee_nano + line.grid_fee_nano
        self.bought_wh += 0 if is_sale else line.contracted_wh
        self.sold_wh += line.contracted_wh if is_sale else 0
        self.grid_import_wh += line.imbalance_import_wh
        self.grid_export_wh += line.imbalance_export_wh
        self.import_wh += line.import_wh
        self.export_wh += line.export_wh


@dataclass(slots=True)
class StreetTally:
    """The street's sums over all cleared and settled slots."""

    rungs: Counter[Rung] = field(default_factory=Counter)
    settled: int = 0
    traded_wh: int = 0
    shared_wh: int = 0
    grid_import_wh: int = 0
    grid_export_wh: int = 0

    def clear(self, cleared: Cleared) -> None:
        """Count one more cleared slot."""
        self.rungs[cleared.rung] += 1
        self.traded_wh += cleared.traded_wh

    def settle(self, settled: SlotSettled, lines: list[SettlementLine]) -> None:
        """Count one more settled slot; shared is what homes drew while others fed in."""
        self.settled += 1
        self.shared_wh += min(
            sum(line.import_wh for line in lines), sum(line.export_wh for line in lines)
        )
        self.grid_import_wh += settled.grid_import_wh
        self.grid_export_wh += settled.grid_export_wh


def ordered_wh(known: SlotRecord) -> tuple[int, int]:
    """Return (supply, demand) [Wh] as ordered, 0 before the gate closes."""
    if known.cleared is not None:
        return known.cleared.supply_wh, known.cleared.demand_wh
    sums = {Side.BUY: 0, Side.SELL: 0}
    for order in known.book.orders if known.book else ():
        sums[order.side] += order.firm_wh + order.flexible_wh
    return sums[Side.SELL], sums[Side.BUY]


def reason_of(known: SlotRecord, *, is_band_open: bool) -> Reason | None:
    """Say why there is no negotiated price, None if there is one or the slot is not cleared."""
    cleared = known.cleared
    if cleared is None or cleared.rung is Rung.NEGOTIATED:
        return None
    if cleared.rung is Rung.STANDING:
        return Reason.NO_AGREEMENT
    if not is_band_open:
        return Reason.NO_BAND
    if cleared.supply_wh and cleared.demand_wh:
        return Reason.NO_MATCH
    if cleared.demand_wh:
        return Reason.NO_SELLERS
    return Reason.NO_BUYERS if cleared.supply_wh else Reason.NO_ORDERS


def flows_of(trades: list[TradeExecuted]) -> list[FlowFacts]:
    """Return who delivers to whom, from the buyers' trades, in the order of sellers and buyers."""
    flows = [
        FlowFacts(seller, trade.member, energy_wh)
        for trade in trades
        if trade.side == Side.BUY
        for seller, energy_wh in trade.partners
    ]
    return sorted(flows, key=lambda flow: (flow.seller, flow.buyer))


def parts_of(known: SlotRecord) -> list[HomePart]:
    """Return each home's part: by the settlement lines, before these by book and trades."""
    orders = known.book.by_member if known.book else {}
    if known.lines:
        return [_settled_part(line, orders.get(line.member)) for line in known.lines]
    traded_wh = {trade.member: trade.energy_wh for trade in known.trades}
    return [_expected_part(order, traded_wh.get(member, 0)) for member, order in orders.items()]


def _settled_part(line: SettlementLine, order: Order | None) -> HomePart:
    return HomePart(
        home=line.member,
        sells=line.side == Side.SELL,
        firm_wh=order.firm_wh if order else 0,
        flexible_wh=order.flexible_wh if order else 0,
        traded_wh=line.contracted_wh,
        grid_import_wh=line.imbalance_import_wh,
        grid_export_wh=line.imbalance_export_wh,
    )


def _expected_part(order: Order, traded_wh: int) -> HomePart:
    sells = order.side is Side.SELL
    left_wh = max(0, order.firm_wh - traded_wh)
    return HomePart(
        home=order.member,
        sells=sells,
        firm_wh=order.firm_wh,
        flexible_wh=order.flexible_wh,
        traded_wh=traded_wh,
        grid_import_wh=0 if sells else left_wh,
        grid_export_wh=left_wh if sells else 0,
    )

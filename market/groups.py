"""Groups: the statements of `two-level` at one price, and whether they clear the market.

Replicas derive a clearing from the best group that passes; participants stop negotiating when
they hold one.  Both ask here, so they cannot disagree.  Checks C1 (order on the chain) and the
signature and book digest of C3 are the caller's: every statement here is authentic.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from market.ceilings import ceiling_mwh
from market.orders import Book, Order, Side
from market.statements import ROUNDS_MAX, Statement
from market.tariffs import Band
from market.units import MWH_PER_WH

TOLERANCE_MWH = 1000
TOLERANCE_PARTS = 1000
"""Demand and supply may differ by 1 Wh and a thousandth of the smaller of the two."""


def is_balanced(demand_mwh: int, supply_mwh: int) -> bool:
    """Whether demand and supply are near enough to an equilibrium (check C7)."""
    slack = TOLERANCE_MWH + min(demand_mwh, supply_mwh) // TOLERANCE_PARTS
    return abs(demand_mwh - supply_mwh) <= slack


def narrow_micro_per_kwh(band: Band) -> int:
    """Return how far apart the two prices around a step in somebody's curve may be."""
    return max(1, band.width // 1000)


@dataclass(frozen=True, slots=True)
class Group:
    """Admissible statements at one price [micro/kWh], at most one per member, in id order.

    `other_side` are the statements of the same members at the neighbouring price beyond a step in
    somebody's curve: set if and only if the group passes by the bracket form.
    """

    price: int
    statements: Mapping[str, Statement]
    demand_mwh: int
    supply_mwh: int
    other_side: Mapping[str, Statement] | None = None

    @property
    def matched_mwh(self) -> int:
        """The smaller of demand and supply."""
        return min(self.demand_mwh, self.supply_mwh)

    @property
    def traded_wh(self) -> int:
        """T, the whole Wh that change hands (negotiation 4.2)."""
        return self.matched_mwh // MWH_PER_WH

    @property
    def rank(self) -> tuple[int, int, int]:
        """What decides between groups: most traded, then most members, then the higher price."""
        return self.traded_wh, len(self.statements), self.price

    @property
    def used(self) -> tuple[tuple[str, Statement], ...]:
        """Every statement that the group rests on, with its member."""
        return (*self.statements.items(), *(self.other_side or {}).items())


def is_admissible(band: Band, slot: int, order: Order, statement: Statement) -> bool:
    """Whether a statement by the owner of `order` may count (checks C3 to C5)."""
    return (
        statement.slot == slot
        and 1 <= statement.round <= ROUNDS_MAX
        and band.lo <= statement.price <= band.hi
        and 0 <= statement.energy_mwh <= ceiling_mwh(band, order, statement.price)
    )


def group_at(price: int, statements: Mapping[str, Statement], orders: Mapping[str, Order]) -> Group:
    """Sum up admissible statements at `price`, one per member; every member has an order."""
    demand_mwh = supply_mwh = 0
    for member, statement in statements.items():
        if orders[member].side is Side.BUY:
            demand_mwh += statement.energy_mwh
        else:
            supply_mwh += statement.energy_mwh
    return Group(price, dict(sorted(statements.items())), demand_mwh, supply_mwh)


def groups_of(
    book: Book, statements: Mapping[str, Sequence[Statement]], excluded: Collection[str] = ()
) -> list[Group]:
    """Group every admissible statement of a member that is not excluded by its price.

    Of several at one price the highest round counts (C2), the lower energy if that is equal: such
    a pair is evidence against its author and must not make the result depend on an order.
    """
    orders = book.by_member
    at_price: defaultdict[int, dict[str, Statement]] = defaultdict(dict)
    for member, stated in statements.items():
        order = orders.get(member)
        if order is None or member in excluded:
            continue
        for statement in sorted(stated, key=lambda s: (s.round, -s.energy_mwh)):
            if is_admissible(book.band, book.slot, order, statement):
                at_price[statement.price][member] = statement
    return [group_at(price, group, orders) for price, group in at_price.items()]


def best_group(band: Band, groups: Iterable[Group]) -> Group | None:
    """Return the highest ranking group that passes C7 and C8, or None."""
    by_members: defaultdict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in groups:
        by_members[tuple(group.statements)].append(group)
    passing = []
    for same_members in by_members.values():
        for group in same_members:
            if group.traded_wh < 1:
                continue
            if is_balanced(group.demand_mwh, group.supply_mwh):
                passing.append(group)
            elif (other := _other_side(band, group, same_members)) is not None:
                passing.append(replace(group, other_side=other.statements))
    return max(passing, key=lambda group: group.rank, default=None)


def passing_group(
    book: Book, statements: Mapping[str, Sequence[Statement]], excluded: Collection[str] = ()
) -> Group | None:
    """Return the group that the slot is cleared from (negotiation 4.3), or None."""
    return best_group(book.band, groups_of(book, statements, excluded))


def _other_side(band: Band, group: Group, same_members: Iterable[Group]) -> Group | None:
    """Return the nearest group beyond a step in somebody's curve, if `group` may stand for both.

    The bracket form of C7: two near prices, demand above supply at the lower and not at the
    higher, and at the price of `group` no less is matched than at the other.
    """
    others = [
        other
        for other in same_members
        if 0 < abs(other.price - group.price) <= narrow_micro_per_kwh(band)
        and other.matched_mwh <= group.matched_mwh
        and _is_bracket(*sorted((group, other), key=lambda side: side.price))
    ]
    return min(others, key=lambda other: abs(other.price - group.price), default=None)


def _is_bracket(lower: Group, higher: Group) -> bool:
    """Whether demand exceeds supply at the lower of two prices, and not at the higher."""
    return lower.demand_mwh > lower.supply_mwh and higher.demand_mwh <= higher.supply_mwh

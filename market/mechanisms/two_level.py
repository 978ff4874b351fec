"""`two-level`: one price found by iteration between participants, derived by every replica.

Paper 003 in the field: need and surplus are capped, every home's marginal utility falls along a
standard ramp, and all sellers quote the same price (at equal prices and shares the paper's own
iteration never leaves them).  The participants' side is `market.negotiation.two_level`.

Guarantees, whatever was stated: energy bought equals energy sold, nobody trades more than its
order, nobody pays more or gets less than the grid would have charged or paid.  Integers only.

The ladder: a group of statements that passes, else the standing orders at the standing price with
a haircut (so that sabotage does not pay), else the grid.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from market.ceilings import ceiling_mwh, standing_price
from market.clearing import GRID_ONLY, Clearing, Position, Rung, flows_between
from market.groups import Group, passing_group
from market.orders import Book, Order, Side
from market.statements import Statement
from market.tariffs import Band
from market.units import MWH_PER_WH, pro_rata, share_ppm


class TwoLevel:
    """The mechanism as replicas run it.

    Parameters
    ----------
    fallback_haircut_ppm
        What the standing rung takes from both sides' gain, in millionths of the distance between
        its price and the end of the band; it goes to the community account.
    """

    name = "two-level"
    statement_type: type[Statement] | None = Statement

    def __init__(self, fallback_haircut_ppm: int) -> None:
        self._haircut_ppm = fallback_haircut_ppm

    def clear(
        self,
        book: Book,
        statements: Mapping[str, Sequence[Statement]],
        excluded: Collection[str] = (),
    ) -> Clearing:
        """Derive the clearing of a slot; see `market.mechanisms.protocol.Mechanism.clear`."""
        orders = tuple(order for order in book.orders if order.member not in excluded)
        book = msgspec.structs.replace(book, orders=orders)
        if not book.has_market:
            return GRID_ONLY
        group = passing_group(book, statements)
        if group is None:
            return self._standing(book)
        return _negotiated(book, group)

    def contradict(self, book: Book, member: str, first: Statement, second: Statement) -> bool:
        """Whether two statements of `member` convict it; see `market.mechanisms.protocol`."""
        order = book.by_member.get(member)
        return order is not None and is_contradiction(book, order, first, second)

    def _standing(self, book: Book) -> Clearing:
        """Clear the orders at the standing price, each of them at its ceiling there."""
        price = standing_price(book)
        stated = {o.member: ceiling_mwh(book.band, o, price) for o in book.orders}
        prices = {
            Side.BUY: price + share_ppm(book.hi - price, self._haircut_ppm),
            Side.SELL: price - share_ppm(price - book.lo, self._haircut_ppm),
        }
        return _trade(Rung.STANDING, book, stated, price=price, prices=prices)


def is_contradiction(book: Book, order: Order, first: Statement, second: Statement) -> bool:
    """Whether two different statements by the owner of `order` convict it (negotiation 5.3).

    They do if they give (a) different energies for one price, (b) different content in one round,
    (c) a curve that bends the wrong way, or (d) more than the order's ceiling in either.  Both
    must be about `book`: one slot and one digest.
    """
    if first == second or not first.slot == second.slot == book.slot:
        return False
    if first.book_digest != second.book_digest:
        return False
    if first.price == second.price:
        bends = first.energy_mwh != second.energy_mwh
    else:
        low, high = sorted((first, second), key=lambda statement: statement.price)
        rise = high.energy_mwh - low.energy_mwh
        bends = rise > 0 if order.side is Side.BUY else rise < 0
    return bends or first.round == second.round or _exceeds(book.band, order, (first, second))


def _exceeds(band: Band, order: Order, statements: Sequence[Statement]) -> bool:
    """Whether any statement is above the ceiling of its author's order."""
    return any(s.energy_mwh > ceiling_mwh(band, order, s.price) for s in statements)


def _negotiated(book: Book, group: Group) -> Clearing:
    """Clear a group that passed, at its price."""
    stated = {member: s.energy_mwh for member, s in group.statements.items()}
    prices = dict.fromkeys(Side, group.price)
    rounds = max(statement.round for _, statement in group.used)
    return _trade(Rung.NEGOTIATED, book, stated, price=group.price, prices=prices, rounds=rounds)


def _trade(
    rung: Rung,
    book: Book,
    stated_mwh: Mapping[str, int],
    *,
    price: int,
    prices: Mapping[Side, int],
    rounds: int = 0,
) -> Clearing:
    """Share out what both sides can trade by largest remainder (paper 003 eq 10; negotiation 4.2).

    As no share exceeds its statement rounded up to a whole Wh, none exceeds its order.
    """
    sides = {
        side: {o.member: stated_mwh[o.member] for o in book.orders if _states(o, side, stated_mwh)}
        for side in Side
    }
    traded_wh = min(sum(energies.values()) // MWH_PER_WH for energies in sides.values())
    if traded_wh < 1:
        return GRID_ONLY
    shares = {side: pro_rata(traded_wh, energies) for side, energies in sides.items()}
    positions = [
        Position(member, side, energy_wh, prices[side])
        for side in Side
        for member, energy_wh in shares[side].items()
        if energy_wh
    ]
    return Clearing(
        rung=rung,
        price_micro_per_kwh=price,
        rounds=rounds,
        positions=tuple(sorted(positions, key=lambda position: position.member)),
        flows=flows_between(shares[Side.BUY], shares[Side.SELL]),
    )


def _states(order: Order, side: Side, stated_mwh: Mapping[str, int]) -> bool:
    """Whether the owner of `order` is on `side` and among those who stated something."""
    return order.side is side and order.member in stated_mwh

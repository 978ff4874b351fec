"""`two-level-paper`: paper 003 as printed, its equilibrium checked and traded by every replica.

Buyers choose among sellers by replicator dynamics, sellers lead with a price each (Zhou et al.,
"Electricity trading optimization decision for microgrid based on blockchain and two-level game",
sections 2 and 3).  The participants iterate in `market.negotiation.two_level_paper`; only their
last statements are committed.  At equilibrium z_j = P_j / sum P, so replicas need no shares:

    E_j      = z_j sum_i X*_ij = P_j D_j / S,   D_j = sum_i X*_ij, S = sum_j P_j    (eq 8)
    X_fact_ij = min(1, P_j / E_j) z_j X*_ij     = P_j X*_ij / max(S, D_j)           (eq 10)

A group of statements, all at the same vector of prices, is an equilibrium if
* prices of sellers with an offer differ by at most `price_tolerance` (at equal fitness xi and equal
  supply ratio they are equal; where demand is flat, this is what keeps cheap and dear apart), and
* for each of them |E_j - P_j| is at most `energy_tolerance_mwh`, or its price is at lo (within the
  price tolerance) and E_j <= P_j: too much is offered and the sellers share the demand, or its
  price is at hi and E_j >= P_j: too little is offered and the buyers share the supply.
At a bound the paper's z is not unique; taking P_j / sum P there settles which outcome is meant.

Capped against printed: X* is elastic and may exceed what the meter can take (the paper's P_in, eq
2, is never used), up to twice the order; a *trade* never exceeds the order: firm energy times the
claim factor, and flexible energy on its ramp below its limit.  Orders thus cap what is traded, not
what is stated, and the price stays unique when the street has a surplus.  A seller offers its firm
surplus; storable surplus is stored, which is where the paper leaves what is not sold.

Guarantees, whatever was stated: energy bought equals energy sold, buyers pay what sellers get,
nobody trades more than its order, every price is in the band.  Integers only.
Not guaranteed: truthfulness (a buyer may overstate X* up to the cap, as in the paper), nor that an
equilibrium is found in time: where more than twice the need is on offer, the last share settles
slowly at lo, and a buyer that changes its curve in every round can keep prices from settling.

The ladder: the best equilibrium stated, else the standing orders with a haircut and the grid, both
as in `two-level`.

Worked example (table 1 of the paper): X* 1600 and 2000 Wh, P 1728, 504 and 1368 Wh give z 0.48,
0.14, 0.38 and trades of 768, 224, 608 and 960, 280, 760 Wh.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from market.ceilings import firm_mwh, flexible_ramp
from market.clearing import Clearing, Position, Rung, flows_between
from market.mechanisms.two_level import TwoLevel
from market.orders import Book, Order, Side
from market.statements_paper import ROUNDS_MAX_PAPER, SHARES_SUM, PaperStatement
from market.tariffs import Band
from market.units import MWH_PER_WH, pro_rata

ENERGY_TOLERANCE_MWH = 500
ENERGY_TOLERANCE_PARTS = 1000
"""E_j may miss P_j by half a Wh, or by a thousandth of the largest surplus if that is more."""

PRICE_TOLERANCE_MICRO = 2
PRICE_TOLERANCE_PARTS = 1000
"""Prices may differ by 2 micro/kWh (the noise of integers), or a thousandth of the band."""

REACH = 2
"""How many times its order a buyer's elastic X* may be: what the field preference reaches at lo."""

_CELL_SCALE = 10**18
"""P_j / max(S, D_j) as an integer: exact to far below a mWh at 10^12 mWh."""


class TwoLevelPaper:
    """The mechanism as replicas run it.

    Parameters
    ----------
    fallback_haircut_ppm
        What the standing rung takes from both sides' gain; see `TwoLevel`.
    """

    name = "two-level-paper"
    statement_type: type[PaperStatement] | None = PaperStatement

    def __init__(self, fallback_haircut_ppm: int) -> None:
        self._ladder = TwoLevel(fallback_haircut_ppm)

    def clear(
        self,
        book: Book,
        statements: Mapping[str, Sequence[PaperStatement]],
        excluded: Collection[str] = (),
    ) -> Clearing:
        """Derive the clearing of a slot; see `market.mechanisms.protocol.Mechanism.clear`.

        Of the groups that pass: the most traded, then the most members, then the lower round.
        """
        if not book.has_market:
            return self._ladder.clear(book, {}, excluded)
        passing = [
            ((traded, len(group.statements), -group.rounds, group.prices), group)
            for group in _groups(book, statements, excluded)
            if (traded := traded_wh(book, group))
        ]
        if not passing:
            return self._ladder.clear(book, {}, excluded)
        _, best = max(passing, key=lambda ranked: ranked[0])
        outcome = _outcome(book, best)
        assert outcome is not None, "it trades something"
        return _trade(outcome, best.rounds)

    def contradict(
        self, book: Book, member: str, first: PaperStatement, second: PaperStatement
    ) -> bool:
        """Whether `member` stated two things in one round; see `market.mechanisms.protocol`."""
        return member in book.by_member and is_contradiction(book, first, second)


@dataclass(frozen=True, slots=True)
class PaperGroup:
    """Admissible statements at one vector of prices [micro/kWh], at most one per member."""

    prices: tuple[int, ...]
    statements: Mapping[str, PaperStatement]

    @property
    def rounds(self) -> int:
        """The highest round among the statements."""
        return max(statement.round for statement in self.statements.values())


def seller_ids(book: Book) -> tuple[str, ...]:
    """Return the members with a sell order, in the order in which statements list them."""
    return tuple(order.member for order in book.orders if order.side is Side.SELL)


def reach_mwh(order: Order) -> int:
    """Return the most that a buyer may state as X*_ij: a multiple of its order, at any price."""
    return REACH * (firm_mwh(order) + order.flexible_wh * MWH_PER_WH)


def allowed_mwh(band: Band, order: Order, price: int) -> int:
    """Return the most that a buyer may be sold at `price`: need, and flexible below its limit."""
    if not order.flexible_wh:
        return firm_mwh(order)
    ramp = flexible_ramp(band, order.side, order.flexible_limit)
    return firm_mwh(order) + ramp.energy_mwh(order.flexible_wh * MWH_PER_WH, price)


def energy_tolerance_mwh(offers_mwh: Collection[int]) -> int:
    """Return how far demand for a seller may be from its surplus."""
    return max(ENERGY_TOLERANCE_MWH, max(offers_mwh) // ENERGY_TOLERANCE_PARTS)


def price_tolerance(band: Band) -> int:
    """Return how far apart the sellers' prices may be [micro/kWh]."""
    return max(PRICE_TOLERANCE_MICRO, band.width // PRICE_TOLERANCE_PARTS)


def is_admissible(book: Book, sellers: int, order: Order, statement: PaperStatement) -> bool:
    """Whether a statement by the owner of `order` may count, in a book with that many sellers."""
    if (
        statement.slot != book.slot
        or not 1 <= statement.round <= ROUNDS_MAX_PAPER
        or len(statement.prices) != sellers
        or not book.lo <= min(statement.prices) <= max(statement.prices) <= book.hi
    ):
        return False
    energies = statement.energies_mwh
    if order.side is Side.BUY:
        return (
            len(energies) == sellers
            and 0 <= min(energies) <= max(energies) <= reach_mwh(order)
            and not statement.shares
            and statement.alpha >= 1
            and _is_falling(statement)
        )
    return (
        len(energies) == 1
        and 0 <= energies[0] <= firm_mwh(order)
        and len(statement.shares) == sellers
        and min(statement.shares) >= 0
        and sum(statement.shares) == SHARES_SUM
        and statement.alpha == 0
    )


def _is_falling(statement: PaperStatement) -> bool:
    """Whether no more is demanded at a higher price, and as much at an equal one (eq 7)."""
    by_price = sorted(zip(statement.prices, statement.energies_mwh, strict=True))
    return all(
        after <= before and (low < high or after == before)
        for (low, before), (high, after) in pairwise(by_price)
    )


def is_contradiction(book: Book, first: PaperStatement, second: PaperStatement) -> bool:
    """Whether two statements of one member about `book` differ within one round."""
    return (
        first.slot == second.slot == book.slot
        and first.book_digest == second.book_digest
        and first.round == second.round
        and first != second
    )


def traded_wh(book: Book, group: PaperGroup) -> int:
    """Return what a group trades, 0 if it is no equilibrium."""
    outcome = _outcome(book, group)
    return 0 if outcome is None else outcome.traded_wh


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What an equilibrium gives: per buyer what it gets, per seller offer [mWh] and price."""

    wanted: Mapping[str, int]
    offers: Mapping[str, int]
    prices: Mapping[str, int]

    @property
    def traded_wh(self) -> int:
        """The whole Wh that change hands: rounded to the nearest, never above the offers."""
        wanted_wh = (sum(self.wanted.values()) + MWH_PER_WH // 2) // MWH_PER_WH
        return min(wanted_wh, sum(self.offers.values()) // MWH_PER_WH)


def _outcome(book: Book, group: PaperGroup) -> _Outcome | None:
    """Apply eq 8 and 10 to a group, or return None if it is no equilibrium."""
    offers, demands = _sides(book, group)
    supply_mwh = sum(offers.values())
    if not supply_mwh or not demands:
        return None
    sellers, orders = seller_ids(book), book.by_member
    prices = dict(zip(sellers, group.prices, strict=True))
    totals = dict(zip(sellers, map(sum, zip(*demands.values(), strict=True)), strict=True))
    if not _is_equilibrium(book.band, offers, totals, prices):
        return None
    top_price = max(prices[seller] for seller in offers)
    cells = {
        seller: offer * _CELL_SCALE // max(supply_mwh, totals[seller])
        for seller, offer in offers.items()
    }
    wanted = {
        buyer: min(
            _expected_mwh(dict(zip(sellers, demand, strict=True)), cells),
            allowed_mwh(book.band, orders[buyer], top_price),
        )
        for buyer, demand in demands.items()
    }
    return _Outcome(wanted, offers, prices)


def _groups(
    book: Book, statements: Mapping[str, Sequence[PaperStatement]], excluded: Collection[str]
) -> list[PaperGroup]:
    """Group what may count by book digest and prices.

    Of several by one member the highest round counts, the lower energies if that is equal: such a
    pair is evidence against its author and must not make the result depend on an order.
    """
    orders, sellers = book.by_member, len(seller_ids(book))
    at: defaultdict[tuple[bytes, tuple[int, ...]], dict[str, PaperStatement]] = defaultdict(dict)
    for member in sorted(statements):
        if member in excluded or member not in orders:
            continue
        stated = [s for s in statements[member] if is_admissible(book, sellers, orders[member], s)]
        for statement in sorted(stated, key=_precedence):
            at[statement.book_digest, statement.prices][member] = statement
    return [PaperGroup(prices=key[1], statements=at[key]) for key in sorted(at)]


def _precedence(statement: PaperStatement) -> tuple[int, tuple[int, ...], int]:
    """Sort the statement that counts last."""
    return statement.round, tuple(-energy for energy in statement.energies_mwh), statement.alpha


def _sides(book: Book, group: PaperGroup) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Return the surplus per seller that offers one, and the demands per buyer [mWh]."""
    offers, demands = {}, {}
    for order in book.orders:
        statement = group.statements.get(order.member)
        if statement is None:
            continue
        if order.side is Side.BUY:
            demands[order.member] = statement.energies_mwh
        elif statement.energies_mwh[0]:
            offers[order.member] = statement.energies_mwh[0]
    return offers, demands


def _is_equilibrium(
    band: Band, offers: Mapping[str, int], totals: Mapping[str, int], prices: Mapping[str, int]
) -> bool:
    """Whether prices are equal and demand meets each seller's surplus, or a bound explains it."""
    supply_mwh = sum(offers.values())
    energy, spread = energy_tolerance_mwh(offers.values()), price_tolerance(band)
    quoted = [prices[seller] for seller in offers]
    if max(quoted) - min(quoted) > spread:
        return False
    for seller, offer in offers.items():
        excess = offer * totals[seller] // supply_mwh - offer
        is_glut = excess < 0 and prices[seller] <= band.lo + spread
        is_dearth = excess > 0 and prices[seller] >= band.hi - spread
        if abs(excess) > energy and not (is_glut or is_dearth):
            return False
    return True


def _expected_mwh(demand: Mapping[str, int], cells: Mapping[str, int]) -> int:
    """Return what a buyer gets from all sellers together: sum_j X_fact_ij (eq 10)."""
    return sum(cell * demand[seller] for seller, cell in cells.items()) // _CELL_SCALE


def _trade(outcome: _Outcome, rounds: int) -> Clearing:
    """Share out what is traded in whole Wh, nobody above its own energy rounded up."""
    traded, prices = outcome.traded_wh, outcome.prices
    bought, sold = _within(traded, outcome.wanted), _within(traded, outcome.offers)
    flows = tuple(
        replace(flow, price_micro_per_kwh=prices[flow.seller])
        for flow in flows_between(bought, sold)
    )
    positions = [Position(m, Side.BUY, energy, None) for m, energy in bought.items() if energy]
    positions += [Position(m, Side.SELL, e, prices[m]) for m, e in sold.items() if e]
    return Clearing(
        rung=Rung.NEGOTIATED,
        price_micro_per_kwh=sum(prices[m] * e for m, e in sold.items()) // traded,
        rounds=rounds,
        positions=tuple(sorted(positions, key=lambda position: position.member)),
        flows=flows,
    )


def _within(total_wh: int, energies_mwh: Mapping[str, int]) -> dict[str, int]:
    """Split by largest remainder, nobody above its energy rounded up to whole Wh.

    What that cuts goes to the lowest ids with room.  `total_wh` is at most the sum rounded up.
    """
    limits = {member: -(-energy // MWH_PER_WH) for member, energy in energies_mwh.items()}
    shares = {m: min(share, limits[m]) for m, share in pro_rata(total_wh, energies_mwh).items()}
    left_wh = total_wh - sum(shares.values())
    for member in sorted(shares):
        more_wh = min(left_wh, limits[member] - shares[member])
        shares[member] += more_wh
        left_wh -= more_wh
    return shares

"""The two-level game of paper 003: preferences, points, and the step from one to the next.

Sellers lead, each with a price p_j; buyers answer with their best demand X*_ij at each price
(eq 7).  The shares z_j in which buyers choose sellers follow replicator dynamics (eq 15) on the
fitness xi_j (eq 11), prices follow excess demand (eq 17, 18).  Both are functions of what was
stated in public, so every participant computes all of both for itself.

Steps.  Constant step lengths a, b diverge beyond about five households, so they are normalised by
curvature: b_j = alpha / (R_j z_j) and a = R / (4 alpha D^2), where R / alpha stands for the sum of
1 / alpha_i over buyers with X*_ij > 0.  This is critical damping.  No share moves by more than
half in a round, no price by more than a tenth of itself (the paper's delta) or a quarter of the
band.  Fitness is (t - t^2/2) sum_i alpha_i X*_ij^2 with t = min(1, P_j / E_j): eq 11 with its
halves repaired, less the constant C, which cancels in xi_j - mean xi.

Integers only: energies in mWh, prices in micro/kWh, z in parts of 10^12, t in parts of 10^9.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from market.ceilings import firm_mwh, firm_ramp, flexible_ramp
from market.mechanisms.two_level_paper import seller_ids
from market.orders import Book, Order, Side
from market.statements_paper import ALPHA_MAX, SHARES_SUM
from market.tariffs import Band
from market.units import MWH_PER_WH

ALPHA_AS_PRINTED = 400_000
"""The paper's alpha: 0.4 currency/kWh^2 (section 4.1)."""

MWH_PER_KWH = 1_000_000

_RATIO = 10**9
_SLOPE = 10**9
_PRICE_PARTS = 10
_BAND_PARTS = 4
_SEED_WEIGHTS = 10


@dataclass(frozen=True, slots=True)
class Preference:
    """A buyer's marginal utility of bought energy: w - alpha x (eq 4, 6).

    `w` = omega - alpha * PV [micro/kWh] is private, `alpha` [micro/kWh^2] is not.
    """

    w: int
    alpha: int

    @classmethod
    def of_omega(cls, omega: int, pv_wh: int, alpha: int = ALPHA_AS_PRINTED) -> Self:
        """Return the preference of a home that already consumes `pv_wh` of its own."""
        return cls(w=omega - alpha * pv_wh // 1000, alpha=alpha)

    def demand_mwh(self, price: int) -> int:
        """Return X* = max(0, (w - p) / alpha), the best purchase at `price` (eq 7)."""
        return max(0, (self.w - price) * MWH_PER_KWH // self.alpha)


def preference_for(order: Order, band: Band) -> Preference:
    """Return the preference that a buyer's order stands for.

    It wants its firm energy at the middle of the band and nothing at hi, so that the street's
    demand at mid-price is the street's need whatever the width of the band; at lo it would take
    twice the need.  An order without a firm part is full and zero where its flexible ramp is.
    (With the printed alpha, 0.4, a band of 0.08 currency/kWh moves a home by 0.2 kWh only, and
    nearly every slot ends at a bound.)
    """
    energy_mwh, ramp = firm_mwh(order), firm_ramp(band, Side.BUY)
    if not energy_mwh:
        energy_mwh = order.flexible_wh * MWH_PER_WH
        ramp = flexible_ramp(band, Side.BUY, order.flexible_limit)
    alpha = -(-(ramp.zero - ramp.full) * MWH_PER_KWH // max(1, energy_mwh))
    return Preference(w=ramp.zero, alpha=max(1, min(alpha, ALPHA_MAX)))


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """Where the game stands: prices p [micro/kWh] and shares z [10^-12], one per seller."""

    prices: tuple[int, ...]
    shares: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the participants say at a point.

    Per seller its offer P_j [mWh], 0 if it is out; per buyer its alpha and X*_ij [mWh].
    """

    offers: Sequence[int]
    demands: Sequence[tuple[int, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class _Column:
    """Sums over the buyers at one seller's price: X*, alpha X*^2 and 10^9 / alpha [mWh/micro]."""

    demand: int
    utility: int
    slope: int


def first_point(book: Book) -> Point:
    """Draw prices in the band and shares of 1 to 10 parts from SHA-256(slot, 8 bytes, and id)."""
    prices, parts = [], []
    for seller in seller_ids(book):
        seed = hashlib.sha256(book.slot.to_bytes(8, "big") + seller.encode()).digest()
        prices.append(book.lo + int.from_bytes(seed[:8], "big") % (book.band.width + 1))
        parts.append(1 + int.from_bytes(seed[8:16], "big") % _SEED_WEIGHTS)
    return Point(tuple(prices), _normalised(parts))


def next_point(band: Band, point: Point, answers: Answers) -> Point:
    """Return the point of the next round: eq 15 for the shares, eq 17 and 18 for the prices.

    A seller without an offer keeps its price and has no share.
    """
    shares = _shares_among(point.shares, answers.offers)
    columns = _columns(answers, len(shares))
    prices = tuple(
        _next_price(band, price, share, offer, column)
        for price, share, offer, column in zip(
            point.prices, shares, answers.offers, columns, strict=True
        )
    )
    return Point(prices, _next_shares(shares, answers.offers, columns))


def _columns(answers: Answers, sellers: int) -> list[_Column]:
    """Sum up the demands per seller."""
    alphas = [alpha for alpha, _ in answers.demands]
    slopes = [_SLOPE * MWH_PER_KWH // alpha for alpha in alphas]
    per_seller = zip(*(demand for _, demand in answers.demands), strict=True)
    columns = [
        _Column(
            demand=sum(demand),
            utility=sum(a * x * x for a, x in zip(alphas, demand, strict=True)) // MWH_PER_KWH,
            slope=sum(slope for slope, x in zip(slopes, demand, strict=True) if x),
        )
        for demand in per_seller
    ]
    return columns or [_Column(0, 0, 0)] * sellers


def _next_price(band: Band, price: int, share: int, offer: int, column: _Column) -> int:
    """Move a price by excess demand over its curvature, at most by psi (eq 17, 18)."""
    if not offer:
        return price
    step_max = max(1, min(price // _PRICE_PARTS, band.width // _BAND_PARTS))
    step = -step_max
    if column.slope:
        excess = share * column.demand - offer * SHARES_SUM
        step = excess * _SLOPE // (share * column.slope)
    step = max(-step_max, min(step, step_max))
    return max(band.lo, min(price + step, band.hi))


def _next_shares(
    shares: Sequence[int], offers: Sequence[int], columns: Sequence[_Column]
) -> tuple[int, ...]:
    """Grow shares of sellers fitter than the mean, shrink the others (eq 12, 15)."""
    demand = _mean(shares, [column.demand for column in columns])
    if not demand:
        return tuple(shares)
    slope = _mean(shares, [column.slope for column in columns])
    fitness = [
        _fitness(*each) if each[0] else 0 for each in zip(shares, offers, columns, strict=True)
    ]
    mean = _mean(shares, fitness)
    growth = [
        slope * (xi - mean) * SHARES_SUM // (4 * demand * demand * _SLOPE * _RATIO)
        for xi in fitness
    ]
    half = SHARES_SUM // 2
    fastest = max(half, *(abs(g) for g, share in zip(growth, shares, strict=True) if share))
    return _normalised(
        [
            max(1, share + share * (g * half // fastest) // SHARES_SUM) if share else 0
            for share, g in zip(shares, growth, strict=True)
        ]
    )


def _fitness(share: int, offer: int, column: _Column) -> int:
    """Return xi_j without its constant, in parts of 10^9 (eq 11)."""
    expected = share * column.demand // SHARES_SUM
    t = min(_RATIO, offer * _RATIO // expected) if expected else _RATIO
    return (2 * _RATIO * t - t * t) // (2 * _RATIO) * column.utility


def _mean(shares: Sequence[int], values: Sequence[int]) -> int:
    return sum(z * value for z, value in zip(shares, values, strict=True)) // SHARES_SUM


def _shares_among(shares: Sequence[int], offers: Sequence[int]) -> tuple[int, ...]:
    """Give the shares of sellers without an offer to the others, and newcomers their part."""
    supply = sum(offers)
    if not supply or all((z > 0) == (offer > 0) for z, offer in zip(shares, offers, strict=True)):
        return tuple(shares)
    return _normalised(
        [
            (z or SHARES_SUM * offer // supply) if offer else 0
            for z, offer in zip(shares, offers, strict=True)
        ]
    )


def _normalised(parts: Sequence[int]) -> tuple[int, ...]:
    """Scale to a sum of 10^12, floored; the residue goes to the largest, ties to the first."""
    if not parts:
        return ()
    total = sum(parts)
    shares = [part * SHARES_SUM // total for part in parts]
    shares[shares.index(max(shares))] += SHARES_SUM - sum(shares)
    return tuple(shares)

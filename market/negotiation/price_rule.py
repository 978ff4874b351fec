"""Where the price goes next: paper 003 eq 17, normalised by the curvature and bracketed.

Excess demand Z falls as the price rises; it is not negative at the lower end of the band and not
positive at the higher.  A secant step follows Z to its zero, inside an interval that every round
shrinks; where somebody's curve has a step, the interval closes around it and the better end wins.

The rule is a convention, not replicated state: whoever uses another one still clears, because
only statements are checked.  Demand and supply in mWh, prices in micro-currency per kWh.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from market.ceilings import excess_ceiling_mwh
from market.groups import is_balanced, narrow_micro_per_kwh
from market.orders import Order
from market.tariffs import Band

STEP_MAX_PARTS = 4
"""One step crosses at most a quarter of the band: far from the last two prices, slopes mislead."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Demand and supply [mWh] that a participant sees or estimates at a reference price.

    `is_complete`: every live member was heard there, so nothing is estimated.
    """

    price: int
    demand_mwh: int
    supply_mwh: int
    is_complete: bool = True

    @property
    def excess_mwh(self) -> int:
        """Z, demand less supply."""
        return self.demand_mwh - self.supply_mwh

    @property
    def matched_mwh(self) -> int:
        """The smaller of demand and supply."""
        return min(self.demand_mwh, self.supply_mwh)

    @property
    def is_balanced(self) -> bool:
        """Whether the price should be held here."""
        return is_balanced(self.demand_mwh, self.supply_mwh)


@dataclass(frozen=True, slots=True)
class Slope:
    """B, by how much excess demand falls per unit of price: a positive fraction of integers."""

    fall_mwh: int
    rise: int

    def step(self, excess_mwh: int, band: Band) -> int:
        """Return how far to go to cancel `excess_mwh`: at least 1, at most a quarter band."""
        size = abs(excess_mwh) * self.rise // self.fall_mwh
        size = max(1, min(size, band.width // STEP_MAX_PARTS))
        return size if excess_mwh > 0 else -size


def ceiling_slope(band: Band, orders: Iterable[Order], price: int) -> Slope:
    """Return the slope of the excess of the ceilings around `price`, at least 1 mWh per unit."""
    orders = tuple(orders)
    reach = narrow_micro_per_kwh(band)
    above = excess_ceiling_mwh(band, orders, price + reach)
    fall_mwh = excess_ceiling_mwh(band, orders, price - reach) - above
    return Slope(max(fall_mwh, 2 * reach), 2 * reach)


def next_price(band: Band, visits: Sequence[Visit], first_slope: Slope) -> int:
    """Return the price for the next round.

    Parameters
    ----------
    visits
        The reference prices since the set of live members last changed, oldest first, no price
        twice running, with what is known about them today; at least one.
    first_slope
        The slope of the ceilings at the first of them.
    """
    last = visits[-1]
    if last.is_balanced:
        return last.price
    below, above, is_slow = _bracket(band, visits)
    if above - below <= narrow_micro_per_kwh(band):
        return _around_step(visits, below, above)
    price = last.price + _slope(visits, first_slope).step(last.excess_mwh, band)
    if is_slow or not below < price < above:
        return (below + above) // 2
    return price


def _bracket(band: Band, visits: Sequence[Visit]) -> tuple[int, int, bool]:
    """Return the ends that enclose the crossing, and whether two rounds failed to halve them.

    What was estimated about an earlier price can turn out wrong; a later visit that lies beyond
    such an end removes it.
    """
    below, above = band.lo, band.hi
    widths = [band.width]
    for visit in visits:
        if visit.excess_mwh > 0:
            below = max(below, visit.price)
            above = above if below < above else band.hi
        else:
            above = min(above, visit.price)
            below = below if below < above else band.lo
        widths.append(above - below)
    is_slow = len(widths) > 2 and 2 * widths[-1] > widths[-3]
    return below, above, is_slow


def _around_step(visits: Sequence[Visit], below: int, above: int) -> int:
    """Return where to go in an interval that holds a step: its better end, or its middle.

    The market clears here only if everybody stated at both ends, so an end where somebody was
    missed does not count as visited: go there (again).  An end that was no reference is an end of
    the band, where nothing is matched: the middle is tried instead, while there is one.
    """
    ends = {visit.price: visit for visit in visits if visit.price in (below, above)}
    if len(ends) < 2 and above - below > 1:
        return (below + above) // 2
    candidates = [end for end in ends.values() if not end.is_complete] or list(ends.values())
    return max(candidates, key=lambda end: (end.matched_mwh, end.price)).price


def _slope(visits: Sequence[Visit], first_slope: Slope) -> Slope:
    """Return the latest secant through two visits that falls, or the slope of the ceilings."""
    for earlier, later in zip(reversed(visits[:-1]), reversed(visits), strict=False):
        fall, rise = earlier.excess_mwh - later.excess_mwh, later.price - earlier.price
        if fall and (fall > 0) == (rise > 0):
            return Slope(abs(fall), abs(rise))
    return first_slope

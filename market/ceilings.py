"""Ceilings: the most energy that an order allows its owner to trade at a price.

Every part of an order is a ramp: traded in full up to (buyers) or from (sellers) one price, not
at all beyond another, linear in between.  The ramps are a convention of the street that shares
the gain of a trade; below them a home's own curve is private.  In the letters of paper 003, a
part of d kWh that is full at s and zero at t has alpha = (t - s) / d and w_i = t.

Energies in mWh, prices in micro-currency per kWh, all divisions floor.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from market.orders import Book, Order, Side
from market.tariffs import Band
from market.units import MWH_PER_WH, share_ppm


@dataclass(frozen=True, slots=True)
class Ramp:
    """The prices at which a part of an order is traded in full and not at all [micro/kWh].

    `full` < `zero` for a buyer, `zero` < `full` for a seller; they are never equal.
    """

    full: int
    zero: int

    def energy_mwh(self, part_mwh: int, price: int) -> int:
        """Return how much of a part of `part_mwh` is traded at `price`."""
        width, beyond_zero = self.zero - self.full, self.zero - price
        if width < 0:
            width, beyond_zero = -width, -beyond_zero
        if beyond_zero >= width:
            return part_mwh
        if beyond_zero <= 0:
            return 0
        return part_mwh * beyond_zero // width


def firm_ramp(band: Band, side: Side) -> Ramp:
    """Return the ramp of firm energy: need from mid-price to hi, surplus from mid-price to lo."""
    return Ramp(full=band.middle, zero=band.hi if side is Side.BUY else band.lo)


def flexible_ramp(band: Band, side: Side, limit: int) -> Ramp:
    """Return the ramp of flexible energy with a published limit; it is an eighth of a band wide."""
    return Ramp(full=limit - band.eighth if side is Side.BUY else limit + band.eighth, zero=limit)


def allowed_limits(band: Band, side: Side) -> tuple[int, ...]:
    """Return the limits that flexible energy may have, rising: lo + e eighths of the band.

    e is 1 to 5 for buyers, which keeps the limit at or below the middle plus an eighth, and 0 to
    7 for sellers.
    """
    eighths = range(1, 6) if side is Side.BUY else range(8)
    return tuple(band.lo + e * band.eighth for e in eighths)


def firm_mwh(order: Order) -> int:
    """Return the firm energy that counts: the order's, times the claim factor of its owner."""
    return share_ppm(order.firm_wh * MWH_PER_WH, order.claim_ppm)


def ceiling_mwh(band: Band, order: Order, price: int) -> int:
    """Return the most that the owner of `order` may state at `price`."""
    firm = firm_ramp(band, order.side).energy_mwh(firm_mwh(order), price)
    if not order.flexible_wh:
        return firm
    ramp = flexible_ramp(band, order.side, order.flexible_limit)
    return firm + ramp.energy_mwh(order.flexible_wh * MWH_PER_WH, price)


def excess_ceiling_mwh(band: Band, orders: Iterable[Order], price: int) -> int:
    """Return the buyers' ceilings at `price` less the sellers'; non-increasing in price."""
    excess = 0
    for order in orders:
        energy = ceiling_mwh(band, order, price)
        excess += energy if order.side is Side.BUY else -energy
    return excess


def standing_price(book: Book) -> int:
    """Return p0, the price at standard preferences: where the ceilings of both sides meet.

    The smallest price in (lo, hi] at which the buyers' ceilings do not exceed the sellers'.  At hi
    nobody may buy, so there is one; the book needs an open band for it to mean anything.

    Examples
    --------
    With lo 80000 and hi 300000, sellers of 1000 and 500 Wh and buyers of 2000 and 1000 Wh, all of
    it firm, meet at 245000: the buyers are then halfway down their ramp.
    """
    band = book.band
    too_low, enough = band.lo, band.hi
    while enough - too_low > 1:
        price = (too_low + enough) // 2
        if excess_ceiling_mwh(band, book.orders, price) <= 0:
            enough = price
        else:
            too_low = price
    return enough

"""Presets: how a household values its flexible energy, as a private curve and a public limit.

A preset shapes the flexible part only.  Firm energy always stands at its ceiling: a lower curve is
a gift to the neighbours.  A home without flexible energy sees no difference between presets, and
measured over a year they matter by less than 1 % of a bill.

Prices in micro-currency per kWh, energies in mWh.
"""

import enum
from collections.abc import Callable

from market.ceilings import Ramp, allowed_limits, ceiling_mwh, firm_mwh, firm_ramp
from market.orders import Order, Side
from market.tariffs import Band
from market.units import MWH_PER_WH


class Preset(enum.StrEnum):
    """What the household prefers when it need not trade."""

    LOCAL_FIRST = "local-first"
    BALANCED = "balanced"
    CHEAPEST = "cheapest"


_STORE_ABOVE_EIGHTHS = {Preset.LOCAL_FIRST: 0, Preset.BALANCED: 1, Preset.CHEAPEST: 2}
"""By how many eighths of the band a seller's price must exceed the value of storing."""


def flexible_curve(
    preset: Preset, band: Band, side: Side, value: int, expected: int | None = None
) -> Ramp | None:
    """Return the private curve of a home's flexible energy, or None if it should offer none.

    Parameters
    ----------
    preset, band, side
        The household's choice, the prices of the slot, and whether it lacks or has energy.
    value
        What the energy is worth to this home [micro/kWh]: for deferrable load the lowest retail
        price until its deadline, for a battery the later price it avoids, less losses and wear.
        Nothing is bought above it, and nothing sold below it.
    expected
        The lowest local price that the home expects before its deadline [micro/kWh]; only
        `cheapest` buyers look at it.

    Notes
    -----
    A buyer's ramp whose zero falls to its full price or below is an eighth wide instead.
    """
    if side is Side.SELL:
        zero = value + _STORE_ABOVE_EIGHTHS[preset] * band.eighth
        return Ramp(full=zero + band.eighth, zero=zero) if zero < band.hi else None
    middle, eighth = band.middle, band.eighth
    if preset is Preset.LOCAL_FIRST:
        full, zero = middle, min(middle + eighth, value)
    elif preset is Preset.BALANCED:
        full, zero = middle - eighth, min(middle, value)
    else:
        zero = min(middle + eighth, value, value if expected is None else expected)
        full = zero - eighth
    if zero <= band.lo:
        return None
    return Ramp(full=full if full < zero else zero - eighth, zero=zero)


def standing_limit(band: Band, side: Side, curve: Ramp) -> int:
    """Return the limit to publish for a private curve [micro/kWh].

    It is the curve's zero, rounded outward to an eighth of the band (buyers up, sellers down), at
    the nearest allowed limit if there is none further out.
    """
    limits = allowed_limits(band, side)
    if side is Side.BUY:
        return next((limit for limit in limits if limit >= curve.zero), limits[-1])
    return next((limit for limit in reversed(limits) if limit <= curve.zero), limits[0])


def own_curve(band: Band, order: Order, flexible: Ramp | None) -> Callable[[int], int]:
    """Return a home's whole curve: what it would trade [mWh] at a price [micro/kWh].

    The firm part stands at its ceiling, the flexible part follows its private curve, and the sum
    never exceeds the order's ceiling.  Without a private curve the flexible part stands at its
    ceiling too.
    """
    firm, flexible_mwh = firm_mwh(order), order.flexible_wh * MWH_PER_WH
    firm_part = firm_ramp(band, order.side)

    def energy_mwh(price: int) -> int:
        most = ceiling_mwh(band, order, price)
        if flexible is None:
            return most
        wanted = firm_part.energy_mwh(firm, price) + flexible.energy_mwh(flexible_mwh, price)
        return min(wanted, most)

    return energy_mwh

"""The grid's tariffs of a slot, the street's fees, and the price band that they leave.

The band is where a trade leaves both sides no worse than the grid: fees and grid charges are
inside it (paper 000 eq 3 takes the service fee; `docs/mechanisms.md` derives the bounds).
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from market.units import PPM, share_ppm

BAND_MIN_MICRO_PER_KWH = 1000
"""A narrower band is no market: rounding would eat the gain."""

PRICE_MAX_MICRO_PER_KWH = 10**10
"""Ten thousand units of any currency for a kWh; it keeps every amount of a slot within 64 bits."""

TariffPrice = Annotated[int, msgspec.Meta(ge=0, le=PRICE_MAX_MICRO_PER_KWH)]
FeePpm = Annotated[int, msgspec.Meta(ge=0, lt=PPM)]


class Fees(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a trade costs beside its price: service fee of the operator and use of the local grid.

    Fees are in millionths of the amount traded [ppm], less than all of it; grid fees in
    micro-currency per kWh.
    """

    buyer_fee_ppm: FeePpm
    seller_fee_ppm: FeePpm
    buyer_grid_fee_micro_per_kwh: TariffPrice
    seller_grid_fee_micro_per_kwh: TariffPrice


class Tariff(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Retail and feed-in price of the grid during a slot [micro-currency per kWh].

    Neither is negative: a grid that charges for feeding in is not supported.
    """

    retail_micro_per_kwh: TariffPrice
    feed_in_micro_per_kwh: TariffPrice


@dataclass(frozen=True, slots=True)
class Band:
    """Lowest and highest price at which nobody is worse off than with the grid [micro/kWh]."""

    lo: int
    hi: int

    @property
    def width(self) -> int:
        """Hi - lo; negative or small means that there is no market."""
        return self.hi - self.lo

    @property
    def middle(self) -> int:
        """The price m at which the standard ramps of buyers and sellers meet."""
        return (self.lo + self.hi) // 2

    @property
    def eighth(self) -> int:
        """The width w of a flexible ramp, and the step of published limits."""
        return self.width // 8

    @property
    def is_open(self) -> bool:
        """Whether the band is wide enough to trade in."""
        return self.width >= BAND_MIN_MICRO_PER_KWH


def band_of(tariff: Tariff, fees: Fees) -> Band:
    """Return the band that `fees` leave between feed-in and retail.

    lo = ceil((feed_in + seller_grid_fee) * 1e6 / (1e6 - seller_fee)),
    hi = floor((retail - buyer_grid_fee) * 1e6 / (1e6 + buyer_fee)).
    """
    least = (tariff.feed_in_micro_per_kwh + fees.seller_grid_fee_micro_per_kwh) * PPM
    most = (tariff.retail_micro_per_kwh - fees.buyer_grid_fee_micro_per_kwh) * PPM
    return Band(lo=-(-least // (PPM - fees.seller_fee_ppm)), hi=most // (PPM + fees.buyer_fee_ppm))


def trade_fee_nano(amount_nano: int, fee_ppm: int) -> int:
    """Return the service fee on one side of a trade, rounded down in the household's favour."""
    return share_ppm(amount_nano, fee_ppm)

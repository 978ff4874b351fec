"""Orders of a slot, and the book that gate closure fixes.

An order says what a home could trade: a firm part that it will import or export anyway, and a
flexible part (battery room, deferrable load, storable surplus) with a limit price on a grid of
eighths of the band, so that only the eighth is public.
"""

import enum
from collections.abc import Mapping

import msgspec

from market.tariffs import Band
from market.units import PPM


class Side(enum.IntEnum):
    """Which way energy goes; quantities are never negative."""

    BUY = 0
    SELL = 1


class Order(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one home offers to trade in one slot, as it stands in the book.

    Energies in Wh.  `flexible_limit` is a price [micro/kWh] of the form lo + e * eighth, 0 when
    nothing is flexible.  `claim_ppm` is the claim factor kappa: the share of the firm part that
    the home's past orders make credible.  `salt` blinds the events derived from the order.
    """

    member: str
    side: Side
    firm_wh: int
    flexible_wh: int
    flexible_limit: int
    claim_ppm: int = PPM
    salt: bytes = b""


class Book(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All standing orders of a slot at gate closure, in id order, and the band they trade in."""

    slot: int
    lo: int
    hi: int
    orders: tuple[Order, ...]

    @property
    def band(self) -> Band:
        """The price band of the slot."""
        return Band(lo=self.lo, hi=self.hi)

    @property
    def by_member(self) -> Mapping[str, Order]:
        """The orders keyed by their owner."""
        return {order.member: order for order in self.orders}

    @property
    def has_market(self) -> bool:
        """Whether the band is open and both sides are present."""
        return self.band.is_open and {order.side for order in self.orders} == {Side.BUY, Side.SELL}

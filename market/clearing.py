"""The outcome of a slot: who buys and sells how much at which price, and from whom."""

import enum
from dataclasses import dataclass

from market.orders import Side
from market.units import pro_rata


class Rung(enum.StrEnum):
    """How the price came about; each rung is tried when the one before it gave nothing."""

    NEGOTIATED = "negotiated"
    STANDING = "standing"
    GRID = "grid"


@dataclass(frozen=True, slots=True)
class Position:
    """What one participant trades: energy [Wh] at the price it pays or gets [micro/kWh].

    The price is None for who trades at several: it pays, or gets, what its flows say.
    """

    member: str
    side: Side
    energy_wh: int
    price_micro_per_kwh: int | None


@dataclass(frozen=True, slots=True)
class Flow:
    """Energy [Wh] of one seller that one buyer takes; rows and columns sum to the positions.

    Where every seller has its own price [micro/kWh], the flow carries it; otherwise None.
    """

    seller: str
    buyer: str
    energy_wh: int
    price_micro_per_kwh: int | None = None


@dataclass(frozen=True, slots=True)
class Clearing:
    """Trades of one slot.  Energy bought equals energy sold; on the grid rung nothing is traded.

    `price_micro_per_kwh` is the reference price, 0 on the grid rung; `rounds` is the highest
    round among the statements used, 0 without negotiation.
    """

    rung: Rung
    price_micro_per_kwh: int = 0
    rounds: int = 0
    positions: tuple[Position, ...] = ()
    flows: tuple[Flow, ...] = ()

    @property
    def traded_wh(self) -> int:
        """Energy that changes hands [Wh]."""
        return sum(p.energy_wh for p in self.positions if p.side is Side.BUY)


GRID_ONLY = Clearing(rung=Rung.GRID)


def flows_between(bought: dict[str, int], sold: dict[str, int]) -> tuple[Flow, ...]:
    """Say who bought from whom: buyers in id order, each split over what the sellers have left.

    `bought` and `sold` [Wh] have equal sums; row and column sums of the result are exact.
    """
    left = dict(sorted(sold.items()))
    flows = []
    for buyer in sorted(bought):
        for seller, energy_wh in pro_rata(bought[buyer], left).items():
            if energy_wh:
                left[seller] -= energy_wh
                flows.append(Flow(seller=seller, buyer=buyer, energy_wh=energy_wh))
    return tuple(flows)

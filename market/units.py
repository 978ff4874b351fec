"""Units, rounding and largest remainders: the only place where integers are divided for money.

Energy is in Wh (mWh in statements), price in micro-currency per kWh, money in nano-currency.
Energy [Wh] times price [micro/kWh] is money [nano] exactly, so trades need no division.
"""

from collections.abc import Mapping

PPM = 1_000_000
MWH_PER_WH = 1000


def amount_nano(energy_wh: int, price_micro_per_kwh: int) -> int:
    """Price an energy exactly.

    Wh * micro/kWh = 1e-3 kWh * 1e-6 /kWh = 1e-9 currency: no rounding.
    """
    return energy_wh * price_micro_per_kwh


def share_ppm(amount: int, ppm: int) -> int:
    """Take `ppm` millionths of a non-negative amount, rounded down."""
    return amount * ppm // PPM


def pro_rata(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Split `total` over `weights` by largest remainder, ties to the lowest id.

    Parameters
    ----------
    total
        What is split; non-negative, in any unit.
    weights
        Non-negative weight per id; the sum is positive unless `total` is 0.

    Returns
    -------
    dict[str, int]
        A share per id in id order; the shares sum to `total`, and no share is further than one
        unit from the exact quotient.

    Raises
    ------
    ValueError
        If there is something to split and nobody to take it.
    """
    weight_sum = sum(weights.values())
    if total == 0:
        return dict.fromkeys(sorted(weights), 0)
    if weight_sum <= 0 or total < 0:
        raise ValueError(f"cannot split {total} over weights that sum to {weight_sum}")
    shares = {member: total * weights[member] // weight_sum for member in sorted(weights)}
    left_over = total - sum(shares.values())
    by_remainder = sorted(
        shares, key=lambda member: (-(total * weights[member] % weight_sum), member)
    )
    for member in by_remainder[:left_over]:
        shares[member] += 1
    return shares

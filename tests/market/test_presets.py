"""How a household's preference becomes a private curve and a public limit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.ceilings import Ramp, allowed_limits, ceiling_mwh
from market.negotiation.presets import Preset, flexible_curve, own_curve, standing_limit
from market.orders import Order, Side
from market.tariffs import Band
from tests.support.negotiation_streets import buys, sells

BAND = Band(80_000, 300_000)
DEAR, EIGHTH = 400_000, 27_500


@pytest.mark.parametrize(
    ("preset", "value", "expected", "curve"),
    [
        (Preset.LOCAL_FIRST, DEAR, None, Ramp(190_000, 217_500)),
        (Preset.LOCAL_FIRST, 200_000, None, Ramp(190_000, 200_000)),
        (Preset.BALANCED, DEAR, None, Ramp(162_500, 190_000)),
        (Preset.BALANCED, 170_000, None, Ramp(162_500, 170_000)),
        (Preset.CHEAPEST, DEAR, None, Ramp(190_000, 217_500)),
        (Preset.CHEAPEST, DEAR, 150_000, Ramp(122_500, 150_000)),
        (Preset.CHEAPEST, 140_000, 150_000, Ramp(112_500, 140_000)),
    ],
)
def test_a_buyer_buys_by_its_preset(
    preset: Preset, value: int, expected: int | None, curve: Ramp
) -> None:
    assert flexible_curve(preset, BAND, Side.BUY, value, expected) == curve


@pytest.mark.parametrize(
    ("preset", "zero"),
    [(Preset.LOCAL_FIRST, 100_000), (Preset.BALANCED, 127_500), (Preset.CHEAPEST, 155_000)],
)
def test_a_seller_sells_from_the_value_of_storing_up(preset: Preset, zero: int) -> None:
    curve = flexible_curve(preset, BAND, Side.SELL, 100_000)

    assert curve == Ramp(full=zero + EIGHTH, zero=zero)


@pytest.mark.parametrize("preset", Preset)
def test_energy_worth_less_than_its_ramp_needs_keeps_a_ramp_an_eighth_wide(preset: Preset) -> None:
    assert flexible_curve(preset, BAND, Side.BUY, 120_000) == Ramp(92_500, 120_000)


@pytest.mark.parametrize("preset", Preset)
def test_energy_that_no_price_of_the_band_suits_is_not_offered(preset: Preset) -> None:
    assert flexible_curve(preset, BAND, Side.BUY, BAND.lo) is None
    assert flexible_curve(preset, BAND, Side.SELL, BAND.hi) is None


@pytest.mark.parametrize(
    ("side", "zero", "limit"),
    [
        (Side.BUY, 190_000, 190_000),
        (Side.BUY, 162_501, 190_000),
        (Side.BUY, 80_001, 107_500),
        (Side.SELL, 190_000, 190_000),
        (Side.SELL, 189_999, 162_500),
        (Side.SELL, 299_999, 272_500),
        (Side.SELL, 60_000, 80_000),
    ],
)
def test_the_limit_is_the_zero_rounded_outward_to_an_eighth(
    side: Side, zero: int, limit: int
) -> None:
    curve = Ramp(zero - EIGHTH, zero) if side is Side.BUY else Ramp(zero + EIGHTH, zero)

    assert standing_limit(BAND, side, curve) == limit


def test_the_firm_part_is_at_its_ceiling_whatever_the_preset() -> None:
    order = buys(1, 1000, 500, 135_000)
    curve = own_curve(BAND, order, Ramp(80_000, 100_000))

    assert curve(120_000) == 1_000_000
    assert curve(90_000) == 1_250_000
    assert curve(245_000) == 500_000


def test_without_a_private_curve_a_home_stands_at_its_ceiling() -> None:
    order = sells(1, 1000, 500, 190_000)
    curve = own_curve(BAND, order, None)

    assert [curve(p) for p in range(80_000, 300_001, 20_000)] == [
        ceiling_mwh(BAND, order, p) for p in range(80_000, 300_001, 20_000)
    ]


@settings(deadline=None)
@given(
    st.sampled_from(Preset),
    st.sampled_from(Side),
    st.builds(
        lambda lo, width: Band(lo, lo + width), st.integers(0, 200_000), st.integers(1000, 300_000)
    ),
    st.integers(0, 600_000),
    st.none() | st.integers(0, 600_000),
    st.tuples(st.integers(0, 1000), st.integers(0, 1000)),
)
def test_own_curves_are_monotone_below_the_ceiling_and_on_the_right_side_of_value(
    preset: Preset,
    side: Side,
    band: Band,
    value: int,
    expected: int | None,
    thousandths: tuple[int, int],
) -> None:
    curve = flexible_curve(preset, band, side, value, expected)
    if curve is None:
        return
    limit = standing_limit(band, side, curve)
    order = Order("h01", side, 700, 1300, limit)
    own = own_curve(band, order, curve)
    low, high = (band.lo + band.width * part // 1000 for part in sorted(thousandths))

    assert limit in allowed_limits(band, side)
    assert own(low) >= own(high) if side is Side.BUY else own(low) <= own(high)
    assert all(0 <= own(price) <= ceiling_mwh(band, order, price) for price in (low, high))
    assert curve.energy_mwh(1000, value) == 0

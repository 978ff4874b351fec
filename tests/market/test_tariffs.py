import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.contracts.tariffs import band_in, tariff_of
from market.rules import TariffStep
from market.tariffs import (
    BAND_MIN_MICRO_PER_KWH,
    PRICE_MAX_MICRO_PER_KWH,
    Band,
    Fees,
    Tariff,
    band_of,
    trade_fee_nano,
)
from market.units import PPM, amount_nano
from tests.support.street import FIRST, NO_FEES, TARIFF, make_rules

PRICES = st.integers(0, 2_000_000)
PPMS = st.one_of(st.integers(0, 200_000), st.sampled_from((0, 1, 500_000, PPM - 1)))
FEES = st.builds(Fees, PPMS, PPMS, st.integers(0, 100_000), st.integers(0, 100_000))


def test_without_fees_the_band_reaches_from_feed_in_to_retail() -> None:
    assert band_of(TARIFF, NO_FEES) == Band(80_000, 300_000)


def test_fees_and_grid_fees_narrow_the_band_from_both_sides() -> None:
    # lo: 100000 / 0.995 = 100502.5, up; hi: 270000 / 1.01 = 267326.7, down.
    assert band_of(TARIFF, Fees(10_000, 5_000, 30_000, 20_000)) == Band(100_503, 267_326)


def test_middle_and_eighth_are_rounded_down() -> None:
    band = Band(80_403, 298_507)

    assert (band.middle, band.eighth) == (189_455, 27_263)


@pytest.mark.parametrize(
    ("width", "is_open"),
    [(BAND_MIN_MICRO_PER_KWH, True), (BAND_MIN_MICRO_PER_KWH - 1, False), (0, False), (-9, False)],
)
def test_a_narrow_or_negative_band_is_closed(width: int, *, is_open: bool) -> None:
    assert Band(5_000, 5_000 + width).is_open is is_open


def test_a_grid_fee_above_retail_gives_a_negative_band_and_no_error() -> None:
    assert not band_of(TARIFF, Fees(0, 0, 400_000, 0)).is_open


@given(PRICES, PRICES, FEES, st.integers(1, 10**6))
def test_nobody_ends_below_the_grid_at_any_price_of_the_band(
    retail: int, feed_in: int, fees: Fees, energy_wh: int
) -> None:
    band = band_of(Tariff(retail, feed_in), fees)
    prices = [band.lo, band.hi, band.middle] if band.width >= 0 else []

    for price in prices:
        amount = amount_nano(energy_wh, price)
        paid = amount + trade_fee_nano(amount, fees.buyer_fee_ppm)
        paid += amount_nano(energy_wh, fees.buyer_grid_fee_micro_per_kwh)
        got = amount - trade_fee_nano(amount, fees.seller_fee_ppm)
        got -= amount_nano(energy_wh, fees.seller_grid_fee_micro_per_kwh)
        assert paid <= amount_nano(energy_wh, retail)
        assert got >= amount_nano(energy_wh, feed_in)


@given(PRICES, PRICES, FEES)
def test_the_band_gives_nothing_away(retail: int, feed_in: int, fees: Fees) -> None:
    band = band_of(Tariff(retail, feed_in), fees)

    net_lo = (band.lo - 1) * (PPM - fees.seller_fee_ppm)
    assert net_lo < (feed_in + fees.seller_grid_fee_micro_per_kwh) * PPM
    net_hi = (band.hi + 1) * (PPM + fees.buyer_fee_ppm)
    assert net_hi > (retail - fees.buyer_grid_fee_micro_per_kwh) * PPM


@given(st.integers(0, 10**15), PPMS)
def test_the_service_fee_is_rounded_down_by_less_than_a_nano(amount: int, ppm: int) -> None:
    fee = trade_fee_nano(amount, ppm)

    assert 0 <= amount * ppm - fee * PPM < PPM


@pytest.mark.parametrize(
    "fields",
    [
        (PPM, 0, 0, 0),
        (0, PPM, 0, 0),
        (-1, 0, 0, 0),
        (0, -1, 0, 0),
        (0, 0, -1, 0),
        (0, 0, 0, PRICE_MAX_MICRO_PER_KWH + 1),
    ],
)
def test_fees_that_break_the_arithmetic_are_no_genesis(fields: tuple[int, ...]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Fees)


@pytest.mark.parametrize("fields", [(-1, 0), (0, -1), (PRICE_MAX_MICRO_PER_KWH + 1, 0)])
def test_prices_out_of_range_are_no_genesis(fields: tuple[int, ...]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, Tariff)


def step(from_slot: int, retail: int) -> TariffStep:
    return TariffStep(from_slot, Tariff(retail, 80_000))


def test_a_tariff_holds_from_its_slot_until_the_next_step() -> None:
    rules = make_rules(tariffs=(step(0, 200_000), step(FIRST + 2, 250_000), step(FIRST + 3, 300)))

    retail = [tariff_of(rules, FIRST + i).retail_micro_per_kwh for i in range(5)]

    assert retail == [200_000, 200_000, 250_000, 300, 300]
    assert band_in(rules, FIRST + 2) == Band(80_000, 250_000)
    assert not band_in(rules, FIRST + 10**6).is_open


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (step(FIRST + 1, 1),),
        (step(FIRST, 1), step(FIRST, 2)),
        (step(FIRST, 1), step(0, 2)),
    ],
    ids=["none", "too late", "twice", "falling"],
)
def test_rules_without_one_tariff_per_slot_are_refused(steps: tuple[TariffStep, ...]) -> None:
    with pytest.raises(ValueError, match="tariffs must rise"):
        make_rules(tariffs=steps)

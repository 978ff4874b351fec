"""What an order allows at a price, and the price at which orders meet."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.ceilings import (
    Ramp,
    allowed_limits,
    ceiling_mwh,
    excess_ceiling_mwh,
    standing_price,
)
from market.orders import Book, Order, Side
from market.tariffs import Band
from tests.support.negotiation_streets import Example, book_of, books, buys, examples, sells

BAND = Band(80_000, 300_000)
EXAMPLES = [example for example in examples() if example.expect["market"]]


@pytest.mark.parametrize(
    ("order", "price", "expected_mwh"),
    [
        (buys(1, 1000), 190_000, 1_000_000),
        (buys(1, 1000), 245_000, 500_000),
        (buys(1, 1000), 299_999, 9),
        (buys(1, 1000), 300_000, 0),
        (buys(1, 0, 1000, 135_000), 107_500, 1_000_000),
        (buys(1, 0, 1000, 135_000), 121_250, 500_000),
        (buys(1, 0, 1000, 135_000), 135_000, 0),
        (sells(1, 1000), 80_000, 0),
        (sells(1, 1000), 135_000, 500_000),
        (sells(1, 1000), 190_000, 1_000_000),
        (sells(1, 0, 1000, 190_000), 190_000, 0),
        (sells(1, 0, 1000, 190_000), 203_750, 500_000),
        (sells(1, 0, 1000, 190_000), 217_500, 1_000_000),
        (buys(1, 500, 1000, 217_500), 200_000, 454_545 + 636_363),
    ],
)
def test_each_part_of_an_order_follows_its_ramp(
    order: Order, price: int, expected_mwh: int
) -> None:
    assert ceiling_mwh(BAND, order, price) == expected_mwh


def test_the_claim_factor_shrinks_the_firm_part_only() -> None:
    order = msgspec.structs.replace(buys(1, 1000, 1000, 135_000), claim_ppm=250_000)

    assert ceiling_mwh(BAND, order, 100_000) == 250_000 + 1_000_000


def test_a_ramp_serves_both_directions() -> None:
    assert Ramp(full=10, zero=20).energy_mwh(100, 13) == 70
    assert Ramp(full=20, zero=10).energy_mwh(100, 13) == 30


def test_limits_are_eighths_of_the_band_that_keep_the_ramp_inside() -> None:
    assert allowed_limits(BAND, Side.BUY) == (107_500, 135_000, 162_500, 190_000, 217_500)
    assert allowed_limits(BAND, Side.SELL)[0] == BAND.lo
    assert allowed_limits(BAND, Side.SELL)[-1] + BAND.eighth <= BAND.hi


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_standing_price_is_that_of_the_worked_example(example: Example) -> None:
    assert standing_price(example.street.book) == example.expect["standing_price"]


@pytest.mark.parametrize(
    ("surplus_wh", "need_wh", "share_of_band"),
    [
        (250, 1000, 0.875),
        (500, 1000, 0.75),
        (1000, 1000, 0.5),
        (2000, 1000, 0.25),
        (4000, 1000, 0.125),
    ],
)
def test_firm_orders_meet_at_the_closed_form(
    surplus_wh: int, need_wh: int, share_of_band: float
) -> None:
    price = standing_price(book_of(sells(1, surplus_wh), buys(2, need_wh)))

    assert price == BAND.lo + round(BAND.width * share_of_band)


@settings(deadline=None)
@given(books())
def test_the_standing_price_is_the_lowest_at_which_the_ceilings_balance(book: Book) -> None:
    if not book.has_market:
        return
    price = standing_price(book)

    assert book.lo < price <= book.hi
    assert excess_ceiling_mwh(book.band, book.orders, price) <= 0
    lower = excess_ceiling_mwh(book.band, book.orders, price - 1)
    assert lower > 0 or price == book.lo + 1


@settings(deadline=None)
@given(st.data())
def test_ceilings_are_monotone_and_within_the_order(data: st.DataObject) -> None:
    book = data.draw(books())
    if not book.band.is_open:
        return
    low, high = sorted(data.draw(st.tuples(*[st.integers(book.lo, book.hi)] * 2)))
    for order in book.orders:
        at_low, at_high = (ceiling_mwh(book.band, order, price) for price in (low, high))

        assert at_low >= at_high if order.side is Side.BUY else at_low <= at_high
        assert min(at_low, at_high) >= 0
        assert max(at_low, at_high) <= (order.firm_wh + order.flexible_wh) * 1000

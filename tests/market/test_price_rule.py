"""Where the price goes next, step by step."""

from market.negotiation.price_rule import Slope, Visit, ceiling_slope, next_price
from market.tariffs import Band
from tests.support.negotiation_streets import book_of, buys, sells

BAND = Band(0, 100_000)
SLOPE = Slope(10, 1)


def visit(price: int, excess_mwh: int, matched_mwh: int = 10**6, complete: bool = True) -> Visit:
    demand, supply = matched_mwh + max(excess_mwh, 0), matched_mwh + max(-excess_mwh, 0)
    return Visit(price, demand, supply, complete)


def test_a_balanced_price_is_held() -> None:
    assert next_price(BAND, [visit(50_000, 2000)], SLOPE) == 50_000
    assert next_price(BAND, [visit(50_000, 2001)], SLOPE) != 50_000


def test_the_first_step_follows_the_slope_of_the_ceilings() -> None:
    assert next_price(BAND, [visit(50_000, 30_000)], SLOPE) == 53_000
    assert next_price(BAND, [visit(50_000, -30_000)], SLOPE) == 47_000


def test_later_steps_follow_the_secant_of_the_last_two_references() -> None:
    assert next_price(BAND, [visit(50_000, 30_000), visit(53_000, 15_000)], SLOPE) == 56_000
    assert next_price(BAND, [visit(50_000, 30_000), visit(51_000, -20_000)], SLOPE) == 50_600


def test_a_bracket_that_two_rounds_did_not_halve_is_bisected() -> None:
    visits = [visit(50_000, 30_000), visit(53_000, 15_000), visit(56_000, 7500)]

    assert next_price(BAND, visits, SLOPE) == (56_000 + 100_000) // 2


def test_a_slope_that_rises_is_not_believed() -> None:
    visits = [visit(90_000, -900_000), visit(51_000, -20_000), visit(20_000, -30_000)]

    # -30000 mWh at the secant before it, 880000 mWh over 39000, is 1329 down.
    assert next_price(BAND, visits, SLOPE) == 20_000 - 30_000 * 39_000 // 880_000


def test_a_step_crosses_at_most_a_quarter_of_the_band() -> None:
    assert next_price(BAND, [visit(30_000, 10**9)], SLOPE) == 55_000
    assert next_price(BAND, [visit(70_000, -(10**9))], SLOPE) == 45_000


def test_a_step_is_at_least_one_in_the_direction_of_the_excess() -> None:
    steep = Slope(10**9, 1)

    assert next_price(BAND, [visit(50_000, 30_000)], steep) == 50_001
    assert next_price(BAND, [visit(50_000, -30_000)], steep) == 49_999


def test_a_step_out_of_the_bracket_goes_to_its_middle() -> None:
    assert next_price(BAND, [visit(90_000, 10**9)], SLOPE) == 95_000


def test_around_a_step_the_end_that_matches_more_wins_then_the_higher() -> None:
    assert next_price(BAND, [visit(50_000, 9000, 500), visit(50_100, -9000, 400)], SLOPE) == 50_000
    assert next_price(BAND, [visit(50_000, 9000, 500), visit(50_100, -9000, 500)], SLOPE) == 50_100


def test_an_end_where_somebody_was_missed_is_visited_again() -> None:
    visits = [visit(50_000, 9000, 500), visit(50_100, -9000, 400, complete=False)]

    assert next_price(BAND, visits, SLOPE) == 50_100


def test_at_an_end_of_the_band_the_middle_is_tried_until_there_is_none() -> None:
    assert next_price(BAND, [visit(60, -9000)], SLOPE) == 30
    assert next_price(BAND, [visit(1, -9000)], SLOPE) == 1


def test_a_later_visit_removes_an_end_that_turned_out_wrong() -> None:
    visits = [visit(50_000, -20_000), visit(60_000, 20_000)]

    assert next_price(BAND, visits, SLOPE) == 62_000


def test_the_slope_of_the_ceilings_is_a_fraction_of_at_least_one() -> None:
    orders = book_of(sells(1, 1800), buys(3, 1500), buys(4, 1200)).orders
    tiny = book_of(sells(1, 1), buys(2, 1)).orders

    slope = ceiling_slope(Band(80_000, 300_000), orders, 245_000)

    assert abs(slope.fall_mwh - slope.rise * 2_700_000 // 110_000) <= 2
    assert ceiling_slope(Band(80_000, 300_000), tiny, 245_000) == Slope(440, 440)

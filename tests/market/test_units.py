from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.units import PPM, amount_nano, pro_rata, share_ppm

MEMBERS = st.text("abc123", min_size=1, max_size=4)
WEIGHTS = st.dictionaries(MEMBERS, st.integers(0, 10**12), min_size=1, max_size=12)


def test_a_kwh_at_a_third_of_a_unit_is_exact_in_nano() -> None:
    assert amount_nano(1000, 333_333) == 333_333_000
    assert amount_nano(1, 1) == 1
    assert amount_nano(0, 10**10) == 0


def test_a_share_is_rounded_down() -> None:
    assert share_ppm(1_999_999, 1) == 1
    assert share_ppm(999_999, 1) == 0
    assert share_ppm(7, PPM) == 7
    assert share_ppm(7, 0) == 0


def test_left_over_units_go_to_the_largest_remainders() -> None:
    assert pro_rata(10, {"a": 1, "b": 2, "c": 4}) == {"a": 1, "b": 3, "c": 6}


def test_equal_remainders_go_to_the_lowest_ids_whatever_the_order_of_weights() -> None:
    assert pro_rata(5, {"c": 1, "b": 1, "a": 1}) == {"a": 2, "b": 2, "c": 1}


def test_nothing_is_split_over_nobody() -> None:
    assert pro_rata(0, {}) == {}
    assert pro_rata(0, {"b": 0, "a": 0}) == {"a": 0, "b": 0}


@pytest.mark.parametrize(("total", "weights"), [(1, {}), (1, {"a": 0}), (-1, {"a": 1})])
def test_what_nobody_can_take_is_refused(total: int, weights: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot split"):
        pro_rata(total, weights)


@given(st.integers(0, 10**15), WEIGHTS.filter(lambda weights: sum(weights.values()) > 0))
def test_shares_sum_to_the_total_and_miss_the_exact_quotient_by_less_than_one(
    total: int, weights: dict[str, int]
) -> None:
    shares = pro_rata(total, weights)

    weight_sum = sum(weights.values())
    assert sum(shares.values()) == total
    assert list(shares) == sorted(weights)
    for member, weight in weights.items():
        assert abs(shares[member] * weight_sum - total * weight) < weight_sum
        assert shares[member] >= 0


@given(st.integers(0, 10**9), WEIGHTS, st.randoms())
def test_shares_do_not_depend_on_the_order_of_weights(
    total: int, weights: dict[str, int], random: Random
) -> None:
    shuffled = list(weights.items())
    random.shuffle(shuffled)

    if sum(weights.values()):
        assert pro_rata(total, weights) == pro_rata(total, dict(shuffled))

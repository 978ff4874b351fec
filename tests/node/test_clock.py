"""The community's clock: integer, monotonic in the wall's, and invertible for waiting."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import decode, encode
from consensus.errors import MalformedError
from node.clock import ClockRules, wall_ms

SPEEDS = st.integers(1, 100_000)
WALLS = st.integers(0, 2**45)


def test_field_clock_shows_the_wall() -> None:
    assert ClockRules(origin_ms=5_000, start_ms=5_000, speed=1).at(12_345) == 12_345


def test_demonstration_lets_a_day_pass_in_48_seconds() -> None:
    clock = ClockRules(origin_ms=1_000_000, start_ms=500, speed=1800)
    assert clock.at(500) == 1_000_000
    assert clock.at(500 + 48_000) == 1_000_000 + 24 * 3_600_000
    assert clock.wall_seconds(3_600_000) == 2.0


def test_time_before_the_start_lies_before_the_origin() -> None:
    assert ClockRules(origin_ms=1_000, start_ms=100, speed=10).at(99) == 990


@given(SPEEDS, WALLS, WALLS, st.integers(1, 10**6))
def test_clock_rises_by_its_speed(speed: int, start: int, wall: int, later: int) -> None:
    clock = ClockRules(origin_ms=2**50, start_ms=start, speed=speed)
    assert clock.at(wall + later) - clock.at(wall) == speed * later
    assert clock.wall_seconds(speed * later) == pytest.approx(later / 1000)


@pytest.mark.parametrize("fields", [(0, 0, 0), (-1, 0, 1), (0, -1, 1), (0, 0, 100_001)])
def test_clock_that_stands_or_lies_outside_its_bounds_is_malformed(
    fields: tuple[int, int, int],
) -> None:
    with pytest.raises(MalformedError):
        decode(msgspec.msgpack.encode(fields), ClockRules)


def test_rules_survive_their_encoding() -> None:
    clock = ClockRules(origin_ms=2**62, start_ms=0, speed=100_000)
    assert decode(encode(clock), ClockRules) == clock


def test_wall_clock_is_in_milliseconds_since_1970() -> None:
    assert 1_577_836_800_000 < wall_ms() < 4_102_444_800_000

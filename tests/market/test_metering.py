import pytest

from market.contracts.metering import Reading
from market.errors import Result
from market.payloads import Quality, ReadingPayload, Source
from market.state import read, reading_key
from tests.support.street import CONNECTION_W, FIRST, TradingStreet, make_calendar, reading, salt_of

END_MS = make_calendar().end_ms(FIRST)
SETTLEMENT_MS = TradingStreet().settlement_ms


def recorded(street: TradingStreet, member: str = "b1") -> Reading | None:
    return read(street, reading_key(FIRST, member), Reading)


def test_a_reading_is_kept_with_its_quality_source_and_salt() -> None:
    street = TradingStreet()

    outcome = street.meter("b1", 1234)

    assert outcome.result is Result.OK
    assert recorded(street) == Reading(1234, 0, Quality.MEASURED, Source.HOUSEHOLD, salt_of("b1"))


@pytest.mark.parametrize(
    ("time_ms", "result"),
    [
        (END_MS - 1, Result.NOT_DELIVERED_YET),
        (END_MS, Result.OK),
        (SETTLEMENT_MS - 1, Result.OK),
        (SETTLEMENT_MS, Result.SETTLED),
        (SETTLEMENT_MS + 10**9, Result.SETTLED),
    ],
)
def test_readings_are_taken_from_the_end_of_delivery_to_just_before_settlement(
    time_ms: int, result: Result
) -> None:
    assert TradingStreet().apply("b1", reading(5), time_ms).result is result


def test_the_first_reading_stands() -> None:
    street = TradingStreet()
    street.meter("b1", 100)

    outcome = street.meter("b1", 200)

    assert outcome.result is Result.REPEATED
    kept = recorded(street)
    assert kept is not None
    assert kept.import_wh == 100


def test_a_reading_of_nothing_is_a_reading() -> None:
    street = TradingStreet()

    assert street.meter("b1").result is Result.OK
    assert recorded(street) is not None


def test_a_reading_is_netted() -> None:
    assert TradingStreet().meter("b1", 1, 1).result is Result.BOTH_WAYS


@pytest.mark.parametrize("direction", [(1, 0), (0, 1)])
def test_a_reading_above_the_connection_is_refused(direction: tuple[int, int]) -> None:
    at_most = tuple(CONNECTION_W * each for each in direction)
    more = tuple((CONNECTION_W + 1) * each for each in direction)

    assert TradingStreet().meter("b1", *at_most).result is Result.OK
    assert TradingStreet().meter("b1", *more).result is Result.ABOVE_CONNECTION


def test_a_household_cannot_say_that_its_reading_is_a_substitute() -> None:
    payload = ReadingPayload(FIRST, 1, 0, Quality.SUBSTITUTED, Source.HOUSEHOLD)

    assert TradingStreet().apply("b1", payload, END_MS).result is Result.MALFORMED


def test_a_slot_that_is_not_traded_has_no_readings() -> None:
    outcome = TradingStreet().apply("b1", reading(5, slot=FIRST - 1), END_MS)

    assert outcome.result is Result.NO_SUCH_SLOT


def test_a_home_reads_its_own_meter_only() -> None:
    street = TradingStreet()

    street.meter("b1", 100)

    assert recorded(street, "b2") is None

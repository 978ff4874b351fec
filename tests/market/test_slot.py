import msgspec
import pytest

from consensus.codec import encode
from market.rules import Household, Rules
from market.slot import Deadline, DeadlineKind, SlotCalendar
from tests.support.street import FIRST, HOMES, HOUR_MS, make_calendar, make_rules

START_MS = FIRST * HOUR_MS
MINUTE_MS = 60_000


def test_a_slot_is_named_by_its_start() -> None:
    calendar = make_calendar()

    assert calendar.start_ms(FIRST) == START_MS
    assert calendar.end_ms(FIRST) == calendar.start_ms(FIRST + 1)
    assert calendar.slot_at(START_MS) == FIRST
    assert calendar.slot_at(START_MS - 1) == FIRST - 1


def test_deadlines_are_offsets_from_delivery() -> None:
    calendar = make_calendar()

    assert calendar.opening_ms(FIRST) == START_MS - 120 * MINUTE_MS
    assert [calendar.deadline(FIRST, kind) for kind in DeadlineKind] == [
        Deadline(START_MS - 54 * MINUTE_MS, FIRST, DeadlineKind.GATE),
        Deadline(START_MS - 12 * MINUTE_MS, FIRST, DeadlineKind.CLEARING),
        Deadline(START_MS + 2 * HOUR_MS, FIRST, DeadlineKind.SETTLEMENT),
    ]


def test_deadlines_run_by_time_then_slot_then_kind() -> None:
    gate, clearing = DeadlineKind.GATE, DeadlineKind.CLEARING
    deadlines = [
        Deadline(2, 1, gate),
        Deadline(1, 2, gate),
        Deadline(1, 1, clearing),
        Deadline(1, 1, gate),
    ]

    assert sorted(deadlines) == list(reversed(deadlines))


@pytest.mark.parametrize(
    ("slot", "is_traded"),
    [(FIRST - 1, False), (FIRST, True), (FIRST + 23, True), (FIRST + 24, False), (2**63, False)],
)
def test_slots_are_traded_from_the_first_to_the_last(slot: int, *, is_traded: bool) -> None:
    assert make_calendar().is_traded(slot) is is_traded


def test_a_count_of_zero_has_no_last_slot() -> None:
    calendar = make_calendar(count=0)

    assert calendar.is_traded(FIRST + 10**9)
    assert not calendar.is_traded(FIRST - 1)


def test_a_slot_at_the_beginning_of_time_opens_at_zero() -> None:
    assert make_calendar(first=0).opening_ms(0) == 0


def test_a_power_is_an_energy_over_a_slot_rounded_down() -> None:
    quarter = make_calendar(length_ms=HOUR_MS // 4)

    assert make_calendar().energy_wh(7000) == 7000
    assert quarter.energy_wh(7000) == 1750
    assert quarter.energy_wh(7) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"clearing_ms": make_calendar().gate_ms},
        {"gate_ms": make_calendar().opens_ms},
        {"clearing_ms": 0},
        {"settlement_ms": 0},
    ],
    ids=["no time to negotiate", "no time to order", "clears in delivery", "no time to report"],
)
def test_a_calendar_that_leaves_no_time_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a slot must open"):
        make_calendar(**changes)


def test_a_calendar_that_leaves_no_time_does_not_decode() -> None:
    fields = [HOUR_MS, FIRST, 24, 3, 1, 2, HOUR_MS]

    with pytest.raises(msgspec.ValidationError, match="a slot must open"):
        msgspec.msgpack.decode(encode(fields), type=SlotCalendar)


def test_the_rules_survive_their_encoding() -> None:
    rules = make_rules()

    assert msgspec.msgpack.decode(encode(rules), type=Rules) == rules


def test_two_households_of_one_id_are_refused() -> None:
    with pytest.raises(ValueError, match="same id"):
        make_rules([*HOMES, HOMES[0]])


@pytest.mark.parametrize("name", ["operator", "auditor", "bridge"])
def test_a_household_cannot_bear_the_name_of_another_role(name: str) -> None:
    with pytest.raises(ValueError, match="no household may be called"):
        Household(name, bytes(32), 1, 1)


def test_a_street_whose_amounts_outgrow_64_bits_is_refused() -> None:
    tariffs = make_rules().tariffs
    dear = msgspec.structs.replace(tariffs[0].tariff, retail_micro_per_kwh=10**10)
    steps = (msgspec.structs.replace(tariffs[0], tariff=dear),)
    huge = tuple(Household(f"h{n}", bytes(32), 10**7, 10**7) for n in range(200))

    with pytest.raises(ValueError, match="too large"):
        make_rules(tariffs=steps, households=huge)

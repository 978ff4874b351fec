import msgspec
import pytest

from market.contracts.offers import CLAIM_DAYS, ClaimRecord, claim_factor_ppm, record_claim
from market.errors import Result
from market.orders import Order, Side
from market.payloads import OrderPayload, WithdrawalPayload
from market.state import Draft, claim_key, read
from market.units import PPM
from tests.support.street import (
    CONNECTION_W,
    FIRST,
    HOUR_MS,
    TradingStreet,
    make_calendar,
    make_rules,
    order,
    salt_of,
)

OPENING_MS = make_calendar().opening_ms(FIRST)
LO, EIGHTH = 80_000, 27_500
SLOTS_PER_DAY = 24


def book_of(street: TradingStreet) -> dict[str, Order]:
    return dict(street.close_gate().book.by_member)


# -- submit, amend, withdraw


def test_an_order_stands_in_the_book_with_its_limit_and_salt() -> None:
    street = TradingStreet()

    street.order("b1", Side.BUY, 700, 300, LO + 5 * EIGHTH)

    assert book_of(street) == {
        "b1": Order("b1", Side.BUY, 700, 300, LO + 5 * EIGHTH, PPM, salt_of("b1"))
    }


def test_an_amendment_replaces_the_order_with_its_side() -> None:
    street = TradingStreet()
    street.order("b1", Side.BUY, 700)

    outcome = street.apply("b1", order(Side.SELL, 200, revision=2), OPENING_MS)

    assert outcome.result is Result.OK
    assert (book_of(street)["b1"].side, book_of(street)["b1"].firm_wh) == (Side.SELL, 200)


@pytest.mark.parametrize("revision", [1, 2])
def test_a_revision_that_is_not_higher_is_refused(revision: int) -> None:
    street = TradingStreet()
    street.apply("b1", order(Side.BUY, 700, revision=2), OPENING_MS)

    outcome = street.apply("b1", order(Side.BUY, 1, revision=revision), OPENING_MS)

    assert outcome.result is Result.STALE_REVISION
    assert book_of(street)["b1"].firm_wh == 700


def test_amendments_in_any_order_leave_the_highest_revision() -> None:
    street = TradingStreet()

    for revision in (3, 1, 5, 4, 2):
        street.apply("b1", order(Side.BUY, revision * 100, revision=revision), OPENING_MS)

    assert book_of(street)["b1"].firm_wh == 500


def test_a_withdrawn_order_is_not_in_the_book_and_a_later_revision_is() -> None:
    street = TradingStreet()
    street.order("b1", Side.BUY, 700)
    street.order("b2", Side.BUY, 700)

    street.apply("b1", WithdrawalPayload(FIRST, 2), OPENING_MS)
    street.apply("b2", WithdrawalPayload(FIRST, 2), OPENING_MS)
    again = street.apply("b2", order(Side.BUY, 50, revision=3), OPENING_MS)

    assert again.result is Result.OK
    assert {member: each.firm_wh for member, each in book_of(street).items()} == {"b2": 50}


def test_a_withdrawal_keeps_the_revision_so_that_an_older_order_cannot_come_back() -> None:
    street = TradingStreet()
    street.order("b1", Side.BUY, 700)
    street.apply("b1", WithdrawalPayload(FIRST, 9), OPENING_MS)

    outcome = street.apply("b1", order(Side.BUY, 50, revision=8), OPENING_MS)

    assert outcome.result is Result.STALE_REVISION


def test_withdrawing_twice_is_refused() -> None:
    street = TradingStreet()
    street.order("b1", Side.BUY, 700)
    street.apply("b1", WithdrawalPayload(FIRST, 2), OPENING_MS)

    outcome = street.apply("b1", WithdrawalPayload(FIRST, 3), OPENING_MS)

    assert outcome.result is Result.NO_ORDER


# -- when


@pytest.mark.parametrize(
    ("time_ms", "result"),
    [
        (OPENING_MS - 1, Result.NOT_OPEN),
        (OPENING_MS, Result.OK),
        (TradingStreet().gate_ms - 1, Result.OK),
        (TradingStreet().gate_ms, Result.GATE_CLOSED),
    ],
)
def test_the_gate_is_open_from_opening_to_just_before_closure_by_block_time(
    time_ms: int, result: Result
) -> None:
    assert TradingStreet().apply("b1", order(Side.BUY, 100), time_ms).result is result


def test_a_withdrawal_at_gate_closure_is_too_late() -> None:
    street = TradingStreet()
    street.order("b1", Side.BUY, 100)

    outcome = street.apply("b1", WithdrawalPayload(FIRST, 2), street.gate_ms)

    assert outcome.result is Result.GATE_CLOSED
    assert set(book_of(street)) == {"b1"}


@pytest.mark.parametrize("slot", [0, FIRST - 1, FIRST + 24, 2**53])
def test_slots_that_are_not_traded_take_no_orders(slot: int) -> None:
    outcome = TradingStreet().apply("b1", order(Side.BUY, 100, slot=slot), OPENING_MS)

    assert outcome.result is Result.NO_SUCH_SLOT


def test_a_slot_in_the_far_future_of_an_endless_calendar_is_not_open() -> None:
    street = TradingStreet(make_rules(calendar=make_calendar(count=0)))

    outcome = street.apply("b1", order(Side.BUY, 100, slot=2**53), OPENING_MS)

    assert outcome.result is Result.NOT_OPEN
    assert not street.keys_of(2**53)


# -- what


@pytest.mark.parametrize(
    ("side", "firm_wh", "flexible_wh", "result"),
    [
        (Side.BUY, 7000, 3000, Result.OK),
        (Side.BUY, 7000, 3001, Result.ABOVE_CONNECTION),
        (Side.SELL, 4000, 0, Result.OK),
        (Side.SELL, 4001, 0, Result.ABOVE_CONNECTION),
    ],
)
def test_an_order_is_at_most_what_the_connection_carries_in_its_direction(
    side: Side, firm_wh: int, flexible_wh: int, result: Result
) -> None:
    rules = make_rules()
    weak = msgspec.structs.replace(rules.households[0], export_w_max=4 * CONNECTION_W // 10)
    street = TradingStreet(msgspec.structs.replace(rules, households=(weak,)))
    limit = LO + EIGHTH if flexible_wh else 0

    outcome = street.apply("b1", order(side, firm_wh, flexible_wh, limit), OPENING_MS)

    assert outcome.result is result


def test_an_order_of_nothing_is_refused() -> None:
    outcome = TradingStreet().apply("b1", order(Side.BUY, 0), OPENING_MS)

    assert outcome.result is Result.EMPTY_ORDER


@pytest.mark.parametrize(("side", "eighths"), [(Side.BUY, range(1, 6)), (Side.SELL, range(8))])
def test_limits_are_eighths_of_the_band_and_nothing_else(side: Side, eighths: range) -> None:
    street = TradingStreet()
    limits = {LO + e * EIGHTH + off for e in range(-1, 10) for off in (-1, 0, 1)}

    taken = {
        limit
        for number, limit in enumerate(sorted(limits), start=1)
        if limit >= 0 and offer_limit(street, side, limit, revision=number) is Result.OK
    }

    assert taken == {LO + e * EIGHTH for e in eighths}


def offer_limit(street: TradingStreet, side: Side, limit: int, revision: int) -> Result:
    payload = order(side, 100, 50, limit, revision=revision)
    member = f"{'s' if side is Side.SELL else 'b'}{revision % 2 + 1}"
    # Each offer in a fresh quota: only limits are asked about here.
    street.state.pop(f"usage/{member}", None)
    return street.apply(member, payload, OPENING_MS).result


@pytest.mark.parametrize("limit", [1, LO, LO + EIGHTH])
def test_firm_energy_has_no_limit_of_its_own(limit: int) -> None:
    outcome = TradingStreet().apply("b1", order(Side.BUY, 100, 0, limit), OPENING_MS)

    assert outcome.result is Result.LIMIT_NOT_ALLOWED


def test_flexible_energy_has_no_limit_that_is_allowed_in_a_closed_band() -> None:
    rules = make_rules()
    flat = msgspec.structs.replace(rules.tariffs[0].tariff, retail_micro_per_kwh=80_999)
    steps = (msgspec.structs.replace(rules.tariffs[0], tariff=flat),)
    street = TradingStreet(msgspec.structs.replace(rules, tariffs=steps))

    flexible = street.apply("b1", order(Side.BUY, 100, 50, LO + 124), OPENING_MS)
    firm = street.apply("b2", order(Side.BUY, 100), OPENING_MS)

    assert (flexible.result, firm.result) == (Result.LIMIT_NOT_ALLOWED, Result.OK)


@pytest.mark.parametrize(
    "fields",
    [
        (FIRST, 0, 0, 1, 0, 0),
        (FIRST, 1, 2, 1, 0, 0),
        (FIRST, 1, 0, -1, 0, 0),
        (FIRST, 1, 0, 1, 10**9 + 1, 0),
        (-1, 1, 0, 1, 0, 0),
        (2**53 + 1, 1, 0, 1, 0, 0),
        (FIRST, 1, 0, 1, 0, 10**12 + 1),
    ],
)
def test_numbers_out_of_bounds_are_no_order(fields: tuple[int, ...]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, OrderPayload)


# -- the claim factor


def record_days(
    street: TradingStreet,
    slots: range,
    *,
    ordered_wh: int = 1000,
    metered_wh: int = 500,
    side: Side = Side.BUY,
) -> None:
    for slot in slots:
        draft = Draft(street)
        record_claim(
            draft,
            street.rules,
            "b1",
            slot=slot,
            side=side,
            ordered_wh=ordered_wh,
            metered_wh=metered_wh,
        )
        street._write(draft.writes)


def kappa(street: TradingStreet, slot: int, side: Side = Side.BUY) -> int:
    return claim_factor_ppm(street, street.rules, "b1", side, slot)


def test_the_claim_factor_is_one_until_24_slots_are_settled() -> None:
    street = TradingStreet()

    record_days(street, range(FIRST, FIRST + 23))
    before = kappa(street, FIRST + 23)
    record_days(street, range(FIRST + 23, FIRST + 24))

    assert (before, kappa(street, FIRST + 24)) == (PPM, 550_000)


def test_the_claim_factor_forgives_a_tenth_and_is_never_above_one() -> None:
    street = TradingStreet()

    record_days(street, range(FIRST, FIRST + 24), ordered_wh=1100, metered_wh=1000)

    assert kappa(street, FIRST + 24) == PPM


def test_the_claim_factor_is_rounded_down() -> None:
    street = TradingStreet()

    record_days(street, range(FIRST, FIRST + 24), ordered_wh=3, metered_wh=1)

    assert kappa(street, FIRST + 24) == 366_666


def test_the_claim_factor_of_one_side_says_nothing_about_the_other() -> None:
    street = TradingStreet()

    record_days(street, range(FIRST, FIRST + 24))
    record_days(street, range(FIRST, FIRST + 24), side=Side.SELL, metered_wh=100)

    assert (kappa(street, FIRST + 24), kappa(street, FIRST + 24, Side.SELL)) == (550_000, 110_000)


def test_the_claim_factor_forgets_what_is_28_days_old() -> None:
    street = TradingStreet()
    day = FIRST - FIRST % SLOTS_PER_DAY
    record_days(street, range(day, day + SLOTS_PER_DAY))

    last_day = day + (CLAIM_DAYS - 1) * SLOTS_PER_DAY

    assert kappa(street, last_day + SLOTS_PER_DAY - 1) == 550_000
    assert kappa(street, last_day + SLOTS_PER_DAY) == PPM


def test_the_record_of_claims_is_bounded_by_28_days_of_both_sides() -> None:
    street = TradingStreet()
    days = range(FIRST, FIRST + 40 * SLOTS_PER_DAY, SLOTS_PER_DAY)

    for slot in days:
        record_days(street, range(slot, slot + 1))
        record_days(street, range(slot, slot + 1), side=Side.SELL)

    record = read(street, claim_key("b1"), ClaimRecord)
    assert record is not None
    assert len(record.days) == 2 * CLAIM_DAYS
    assert record.days[0].day == days[-CLAIM_DAYS] * HOUR_MS // (24 * HOUR_MS)


def test_the_claim_factor_stands_in_the_book() -> None:
    street = TradingStreet()
    record_days(street, range(FIRST - 24, FIRST))

    street.order("b1", Side.BUY, 1000)

    assert book_of(street)["b1"].claim_ppm == 550_000

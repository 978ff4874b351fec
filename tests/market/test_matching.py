from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.clearing import Rung
from market.contracts.matching import STATEMENTS_MAX, Contracts, Statements
from market.errors import Result
from market.events import Cleared, GateClosed, PriceFound, TradeExecuted
from market.orders import Side
from market.payloads import ContradictionPayload, OrderPayload, WithdrawalPayload
from market.state import contracts_key, convicted_key, read, statements_key
from market.statements import Statement
from tests.support.street import (
    FIRST,
    TradingStreet,
    evidence,
    example_street,
    make_rules,
    order,
    salt_of,
)

LO, EIGHTH = 80_000, 27_500
OPENING_MS = TradingStreet().rules.calendar.opening_ms(FIRST)


def payloads(street: TradingStreet, kind: type[Any]) -> list[Any]:
    return [each.payload for each in street.events if isinstance(each.payload, kind)]


def cleared(street: TradingStreet) -> Cleared:
    street.clear()
    (event,) = payloads(street, Cleared)
    assert isinstance(event, Cleared)
    return event


def negotiating() -> TradingStreet:
    street = example_street()
    street.close_gate()
    return street


def at_gate(street: TradingStreet, member: str, payload: Any) -> Result:
    return street.apply(member, payload, street.gate_ms + 1).result


# -- the book

BASE = {
    "b1": order(Side.BUY, 2000, 500, LO + EIGHTH),
    "s1": order(Side.SELL, 1000, 300, LO),
}


def digest_of(orders: dict[str, OrderPayload], **changes: Any) -> bytes:
    street = TradingStreet()
    for member, payload in orders.items():
        assert street.apply(member, payload, OPENING_MS, **changes).result is Result.OK
    return street.close_gate().digest


@pytest.mark.parametrize("member", ["b1", "s1"])
@pytest.mark.parametrize(
    "change",
    [{"firm_wh": 999}, {"flexible_wh": 301}, {"flexible_limit": LO + 2 * EIGHTH}],
    ids=lambda change: next(iter(change)),
)
def test_the_book_digest_changes_with_any_field_of_any_order(
    member: str, change: dict[str, int]
) -> None:
    changed = msgspec.structs.replace(BASE[member], **change)

    assert digest_of(BASE | {member: changed}) != digest_of(BASE)


def test_the_book_digest_changes_with_side_presence_owner_and_salt() -> None:
    turned = msgspec.structs.replace(BASE["s1"], side=0, flexible_limit=LO + EIGHTH)
    digests = {
        digest_of(BASE),
        digest_of(BASE | {"s1": turned}),
        digest_of(BASE | {"s2": BASE["s1"]}),
        digest_of({"b1": BASE["b1"]}),
        digest_of({"b1": BASE["b1"], "s2": BASE["s1"]}),
        digest_of(BASE, salt=b"another salt...."),
    }

    assert len(digests) == 6


def test_the_book_digest_does_not_depend_on_the_sequence_of_orders() -> None:
    orders = BASE | {"b2": order(Side.BUY, 5)}

    assert len({digest_of(dict(each)) for each in permutations(orders.items())}) == 1


def test_gate_closure_publishes_book_and_band() -> None:
    street = example_street()
    digest = street.close_gate().digest

    assert payloads(street, GateClosed) == [GateClosed(FIRST, digest, 4, 80_000, 300_000)]


# -- statements


def test_a_statement_is_committed_once() -> None:
    street = negotiating()
    statement = street.statement(245_000, 1_000_000)

    assert at_gate(street, "b1", statement) is Result.OK
    assert at_gate(street, "b1", statement) is Result.REPEATED


def test_a_statement_before_gate_closure_is_refused() -> None:
    street = example_street()
    statement = Statement(FIRST, bytes(32), 1, 245_000, 1)

    assert street.apply("b1", statement, street.gate_ms - 1).result is Result.NOT_NEGOTIATING


def test_a_statement_counts_until_just_before_clearing() -> None:
    early, late = negotiating(), negotiating()

    in_time = early.apply("b1", early.statement(1, 1), early.clearing_ms - 1)
    too_late = late.apply("b1", late.statement(1, 1), late.clearing_ms)

    assert (in_time.result, too_late.result) == (Result.OK, Result.NOT_NEGOTIATING)


def test_a_statement_about_another_book_is_refused() -> None:
    street = negotiating()

    assert at_gate(street, "b1", Statement(FIRST, bytes(32), 1, 245_000, 1)) is Result.OTHER_BOOK


@pytest.mark.parametrize("slot", [0, FIRST + 1, 2**53, 2**64 - 1])
def test_a_statement_about_a_slot_that_is_not_negotiated_is_refused(slot: int) -> None:
    street = negotiating()

    assert at_gate(street, "b1", Statement(slot, bytes(32), 1, 1, 1)) is Result.NOT_NEGOTIATING


def test_a_statement_needs_an_order_that_stands() -> None:
    street = example_street()
    street.apply("b1", WithdrawalPayload(FIRST, 2), OPENING_MS)
    street.close_gate()

    assert at_gate(street, "b1", street.statement(245_000, 1)) is Result.NO_ORDER


def committed_rounds(street: TradingStreet, member: str) -> list[int]:
    committed = read(street, statements_key(FIRST, member), Statements)
    assert committed is not None
    return [msgspec.msgpack.decode(each, type=Statement).round for each in committed.payloads]


def test_early_statements_relayed_by_others_cannot_crowd_out_a_members_last_word() -> None:
    street = negotiating()
    for price in range(STATEMENTS_MAX + 5):
        at_gate(street, "b1", street.statement(100_000 + price, 1, 1 + price // 10))

    last_word = at_gate(street, "b1", street.statement(245_000, 1_000_000, 16))

    assert last_word is Result.OK
    assert committed_rounds(street, "b1") == [1] * 4 + [2] * 10 + [3, 16]


def test_a_statement_of_a_round_no_later_than_all_that_are_kept_is_refused() -> None:
    street = negotiating()
    for price in range(STATEMENTS_MAX):
        at_gate(street, "b1", street.statement(100_000 + price, 1, 2))

    results = [at_gate(street, "b1", street.statement(1, 1, number)) for number in (1, 2)]

    assert results == [Result.SUPERSEDED, Result.SUPERSEDED]
    assert committed_rounds(street, "b1") == [2] * STATEMENTS_MAX


@settings(max_examples=30, deadline=None)
@given(st.permutations([(1 + n % 16, 200_000 + n) for n in range(20)]))
def test_the_rounds_that_are_kept_do_not_depend_on_the_sequence(
    stated: list[tuple[int, int]],
) -> None:
    street = negotiating()

    for round_number, price in stated:
        at_gate(street, "b1", street.statement(price, 1, round_number))

    assert committed_rounds(street, "b1") == sorted(r for r, _ in stated)[-STATEMENTS_MAX:]


def test_statements_do_not_use_up_the_quota_of_their_member() -> None:
    street = negotiating()
    for round_number in range(1, 17):
        at_gate(street, "b1", street.statement(245_000, 1_000_000, round_number))

    assert street.meter("b1", 2000).result is Result.OK


# -- contradiction


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((245_000, 900_000, 1), (245_000, 900_001, 2)),
        ((245_000, 900_000, 1), (250_000, 800_000, 1)),
        ((245_000, 800_000, 1), (250_000, 800_001, 2)),
        ((245_000, 1_000_001, 1), (240_000, 1_000_001, 2)),
    ],
    ids=["two energies at a price", "two in a round", "bends the wrong way", "above the ceiling"],
)
def test_a_contradiction_takes_its_author_out_of_the_clearing(
    first: tuple[int, int, int], second: tuple[int, int, int]
) -> None:
    street = negotiating()
    proof = evidence("b1", street.statement(*first), street.statement(*second))

    result = at_gate(street, "s2", proof)
    street.negotiate()
    outcome = cleared(street)

    assert result is Result.OK
    traded = {each.member for each in payloads(street, TradeExecuted)}
    assert outcome.rung is Rung.STANDING
    assert traded == {"b2", "s1", "s2"}


def accusations(street: TradingStreet) -> dict[str, tuple[ContradictionPayload, Result]]:
    one, two = street.statement(245_000, 900_000, 1), street.statement(245_000, 900_001, 2)
    steady = street.statement(246_000, 900_000, 2)
    other_book = msgspec.structs.replace(two, book_digest=bytes(32))
    tomorrow = msgspec.structs.replace(two, slot=FIRST + 1)
    by_b1, by_b2 = evidence("b1", one, two), evidence("b2", one, two)
    stranger = evidence("ghost", one, two)
    return {
        "agree": (evidence("b1", one, steady), Result.NO_CONTRADICTION),
        "the same": (evidence("b1", one, one), Result.NO_CONTRADICTION),
        "two books": (evidence("b1", one, other_book), Result.OTHER_BOOK),
        "another book": (evidence("b1", other_book, other_book), Result.OTHER_BOOK),
        "two slots": (evidence("b1", one, tomorrow), Result.NO_CONTRADICTION),
        "not negotiated": (evidence("b1", tomorrow, tomorrow), Result.NOT_NEGOTIATING),
        "two members": (ContradictionPayload(by_b1.first, by_b2.second), Result.NO_CONTRADICTION),
        "no order": (stranger, Result.NO_CONTRADICTION),
        "rubbish": (ContradictionPayload(b"\xc1", by_b1.second), Result.MALFORMED),
        "empty": (ContradictionPayload(b"", b""), Result.MALFORMED),
    }


@pytest.mark.parametrize("name", accusations(negotiating()))
def test_what_is_no_contradiction_convicts_nobody(name: str) -> None:
    street = negotiating()
    proof, result = accusations(street)[name]

    assert at_gate(street, "s2", proof) is result
    assert convicted_key(FIRST) not in street.state


def test_a_member_is_convicted_once() -> None:
    street = negotiating()
    proof = evidence("b1", street.statement(245_000, 1), street.statement(245_000, 2))
    turned = ContradictionPayload(proof.second, proof.first)

    results = [at_gate(street, "s2", proof), at_gate(street, "s1", turned)]

    assert results == [Result.OK, Result.REPEATED]


def test_evidence_after_clearing_is_too_late() -> None:
    street = negotiating()
    proof = evidence("b1", street.statement(245_000, 1), street.statement(245_000, 2))

    outcome = street.apply("s2", proof, street.clearing_ms)

    assert outcome.result is Result.NOT_NEGOTIATING


# -- the ladder


def test_statements_that_pass_are_negotiated() -> None:
    street = example_street()
    street.negotiate()

    assert cleared(street) == Cleared(
        FIRST, "two-level", Rung.NEGOTIATED, 245_000, 1, 1500, 1500, 3000
    )
    assert payloads(street, PriceFound) == [
        PriceFound(FIRST, 245_000, 1, (("s1", 666_666), ("s2", 333_333)))
    ]
    assert payloads(street, TradeExecuted)[0] == TradeExecuted(
        FIRST, "b1", Side.BUY, 1000, 245_000_000, (("s1", 667), ("s2", 333))
    )


def test_without_statements_the_orders_stand_at_a_haircut_from_both_sides() -> None:
    street = example_street()

    outcome = cleared(street)

    # 245000 + 10 % of 55000 for buyers, 245000 - 10 % of 165000 for sellers.
    assert (outcome.rung, outcome.price, outcome.rounds) == (Rung.STANDING, 245_000, 0)
    amounts = {each.member: each.amount_nano for each in payloads(street, TradeExecuted)}
    assert amounts == {
        "b1": 1000 * 250_500,
        "b2": 500 * 250_500,
        "s1": 1000 * 228_500,
        "s2": 500 * 228_500,
    }
    assert not payloads(street, PriceFound)


@pytest.mark.parametrize("sides", [(), (Side.BUY,), (Side.SELL,)])
def test_without_both_sides_there_is_the_grid(sides: tuple[Side, ...]) -> None:
    street = TradingStreet()
    for side in sides:
        street.order("b1", side, 1000)

    outcome = cleared(street)

    assert (outcome.rung, outcome.price, outcome.traded_wh) == (Rung.GRID, 0, 0)
    contracts = read(street, contracts_key(FIRST), Contracts)
    assert contracts == Contracts(Rung.GRID, 0, ())


def test_in_a_closed_band_there_is_the_grid() -> None:
    rules = make_rules()
    flat = msgspec.structs.replace(rules.tariffs[0].tariff, retail_micro_per_kwh=80_999)
    steps = (msgspec.structs.replace(rules.tariffs[0], tariff=flat),)

    outcome = cleared(example_street(msgspec.structs.replace(rules, tariffs=steps)))

    assert outcome.rung is Rung.GRID


@pytest.mark.parametrize(
    ("delay_ms", "rung"), [(-1, Rung.NEGOTIATED), (0, Rung.GRID), (10**8, Rung.GRID)]
)
def test_a_slot_that_is_cleared_after_delivery_began_gets_the_grid(
    delay_ms: int, rung: Rung
) -> None:
    street = example_street()
    street.negotiate()

    street.run_until(street.rules.calendar.start_ms(FIRST) + delay_ms)

    assert payloads(street, Cleared)[0].rung is rung


def test_an_order_without_a_statement_is_left_out_of_a_negotiated_clearing() -> None:
    street = negotiating()
    for member, energy_mwh in (("b1", 1_000_000), ("s1", 1_000_000)):
        at_gate(street, member, street.statement(245_000, energy_mwh))

    outcome = cleared(street)

    assert (outcome.rung, outcome.traded_wh) == (Rung.NEGOTIATED, 1000)
    assert {each.member for each in payloads(street, TradeExecuted)} == {"b1", "s1"}


def test_events_of_a_trade_carry_the_members_own_salt() -> None:
    street = example_street()
    street.clear()

    salts = {e.subject: e.salt for e in street.events if isinstance(e.payload, TradeExecuted)}

    assert salts == {member: salt_of(member) for member in ("b1", "b2", "s1", "s2")}

"""Statements heard on the bus: bounded, found again, forgotten after the clearing."""

from typing import Any

import pytest

from consensus.operation import Operation
from market.statements import Statement
from market.statements_paper import PaperStatement
from node.statements import PER_MEMBER_MAX, SignedStatements
from tests.support.street import Chain

SLOT = 480_000
CHAIN = Chain()


def statement(
    round_number: int = 1, price: int = 200_000, energy_mwh: int = 1, *, slot: int = SLOT
) -> Statement:
    return Statement(slot, bytes(32), round_number, price, energy_mwh)


def said(heard: SignedStatements, member: str, what: Any) -> Operation:
    operation = CHAIN.sign(member, what)
    heard.add(operation, what)
    return operation


def test_what_was_said_is_heard_by_slot_in_order() -> None:
    heard = SignedStatements()
    first, second, other = statement(1), statement(2), statement(1, slot=SLOT + 1)
    for member, what in (("b1", first), ("b1", second), ("s1", first), ("s1", other)):
        said(heard, member, what)

    assert heard.heard(SLOT) == [("b1", first), ("b1", second), ("s1", first)]
    assert heard.heard(SLOT + 1) == [("s1", other)]
    assert heard.heard(SLOT + 2) == []


def test_same_operation_is_not_taken_twice() -> None:
    heard = SignedStatements()
    operation = said(heard, "b1", statement())

    assert heard.why_refused(operation, SLOT) == "statement already here"
    heard.add(operation, statement())
    assert len(heard.heard(SLOT)) == 1


def test_same_words_signed_anew_are_another_statement() -> None:
    heard = SignedStatements()
    said(heard, "b1", statement())
    assert heard.why_refused(CHAIN.sign("b1", statement()), SLOT) is None


def test_one_member_cannot_fill_the_memory_nor_take_the_room_of_others() -> None:
    heard = SignedStatements()
    for price in range(PER_MEMBER_MAX):
        said(heard, "b1", statement(price=price))

    assert heard.why_refused(CHAIN.sign("b1", statement(2)), SLOT) == "too many statements"
    assert heard.why_refused(CHAIN.sign("b2", statement(2)), SLOT) is None
    assert heard.why_refused(CHAIN.sign("b1", statement(2)), SLOT + 1) is None


def test_asking_does_not_make_room_in_memory() -> None:
    heard = SignedStatements()
    for slot in range(100):
        heard.why_refused(CHAIN.sign("b1", statement(slot=slot)), slot)
    assert heard._held == {}


def test_first_statement_that_fits_is_found() -> None:
    heard = SignedStatements()
    said(heard, "b1", statement(1))
    wanted = said(heard, "b1", statement(2, 210_000))
    said(heard, "b1", statement(2, 220_000))

    assert heard.find(SLOT, "b1", lambda each: each.round == 2) == wanted
    assert heard.find(SLOT, "b1", lambda each: each.round == 3) is None
    assert heard.find(SLOT, "s1", lambda _: True) is None
    assert heard.find(SLOT + 1, "b1", lambda _: True) is None


def test_wish_is_answered_with_what_was_said_at_the_price() -> None:
    heard = SignedStatements()
    at_price = [said(heard, member, statement(price=5)) for member in ("b2", "b1", "s1")]
    said(heard, "b1", statement(price=6))

    assert heard.answering(SLOT, {"b1", "b2"}, 5) == [at_price[1], at_price[0]]
    assert heard.answering(SLOT, {"s2"}, 5) == []


@pytest.mark.parametrize("round_number", [1, 2])
def test_where_prices_are_many_the_round_is_the_key(round_number: int) -> None:
    heard = SignedStatements()
    by_round = {
        number: said(heard, "s1", PaperStatement(SLOT, bytes(32), number, (1, 2), (3,), (), 0))
        for number in (1, 2)
    }
    assert heard.answering(SLOT, {"s1"}, round_number) == [by_round[round_number]]


def test_cleared_slot_is_forgotten() -> None:
    heard = SignedStatements()
    said(heard, "b1", statement())
    said(heard, "b1", statement(slot=SLOT + 1))
    heard.forget(SLOT)
    heard.forget(SLOT)

    assert heard.heard(SLOT) == []
    assert len(heard.heard(SLOT + 1)) == 1

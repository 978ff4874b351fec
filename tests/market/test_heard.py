"""What a participant makes of what it has heard."""

import pytest

from market.negotiation.heard import Heard
from market.statements import Statement
from tests.support.negotiation_streets import DIGEST, book_of, buys, home, sells, state

BOOK = book_of(sells(1, 1000), buys(2, 1000))
BUYER = home(2)


def heard_of(*statements: Statement, rounds: int = 3) -> Heard:
    heard = Heard(BOOK, DIGEST)
    for number in range(1, rounds + 1):
        heard.open_round(number)
    for statement in statements:
        heard.add(BUYER, statement)
    return heard


@pytest.mark.parametrize(
    ("statements", "expected_mwh"),
    [
        ((), 500_000),
        ((state(1, 245_000, 300_000),), 300_000),
        ((state(1, 240_000, 400_000), state(2, 250_000, 200_000)), 300_000),
        ((state(1, 267_500, 100_000),), 100_000 * 500_000 // 295_454),
        ((state(1, 300_000, 0),), 500_000),
    ],
    ids=["nothing yet", "exactly", "between two", "in proportion", "at a ceiling of zero"],
)
def test_a_contribution_is_the_best_that_its_statements_tell(
    statements: tuple[Statement, ...], expected_mwh: int
) -> None:
    assert heard_of(*statements).contribution_mwh(BUYER, 245_000, through=3) == expected_mwh


def test_what_was_said_after_the_round_in_question_does_not_count() -> None:
    heard = heard_of(state(3, 245_000, 300_000))

    assert heard.contribution_mwh(BUYER, 245_000, through=2) == 500_000
    assert heard.members_at(245_000, through=2) == set()
    assert heard.members_at(245_000, through=3) == {BUYER}


def test_a_statement_for_a_round_that_is_not_open_waits() -> None:
    heard = heard_of(state(2, 245_000, 300_000), rounds=1)
    before = heard.is_ahead(BUYER), heard.members_at(245_000, through=16)

    heard.open_round(2)

    assert before == (True, set())
    assert not heard.is_ahead(BUYER)
    assert heard.members_at(245_000, through=16) == {BUYER}


def test_a_group_holds_the_earliest_statement_of_each_member() -> None:
    heard = heard_of(state(3, 245_000, 300_000), state(1, 245_000, 300_000))

    assert heard.group(245_000).statements == {BUYER: state(1, 245_000, 300_000)}


def test_the_statements_of_the_convicted_are_in_no_group() -> None:
    heard = heard_of(state(1, 245_000, 300_000), state(2, 250_000, 300_001))

    assert heard.evidence.keys() == {BUYER}
    assert heard.group(245_000).statements == {}
    assert heard.has_spoken(BUYER, in_round=3)

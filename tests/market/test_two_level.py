"""How replicas derive a clearing from statements: worked examples, refusals, properties."""

from collections import defaultdict
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.ceilings import ceiling_mwh, firm_mwh, standing_price
from market.clearing import GRID_ONLY, Clearing, Position, Rung
from market.groups import Group, best_group, passing_group
from market.mechanisms.two_level import TwoLevel
from market.orders import Book, Side
from market.statements import Statement
from tests.support.negotiation_streets import (
    Example,
    book_of,
    books,
    buys,
    examples,
    home,
    random_street,
    sells,
    state,
    statements_about,
)

MECHANISM = TwoLevel(fallback_haircut_ppm=100_000)
EXAMPLES = examples()
SCARCE = book_of(sells(1, 1000), sells(2, 500), buys(3, 2000), buys(4, 1000))
H1, H2, H3, H4 = (home(number) for number in range(1, 5))
STEP = book_of(sells(1, 3000), buys(2, 500), buys(3, 0, 2400, 190_000))


def at_ceiling(book: Book, price: int, round_number: int = 1) -> dict[str, list[Statement]]:
    return {
        order.member: [state(round_number, price, ceiling_mwh(book.band, order, price))]
        for order in book.orders
    }


def traded_by(clearing: Clearing, side: Side) -> dict[str, int]:
    return {p.member: p.energy_wh for p in clearing.positions if p.side is side}


def price_of(position: Position) -> int:
    """The one price of a participant; `two-level` never leaves it to the flows."""
    assert position.price_micro_per_kwh is not None
    return position.price_micro_per_kwh


def prices_of(clearing: Clearing, side: Side) -> set[int]:
    return {price_of(p) for p in clearing.positions if p.side is side}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_standing_orders_clear_as_in_the_worked_example(example: Example) -> None:
    clearing = MECHANISM.clear(example.street.book, {})

    if not example.expect["market"]:
        assert clearing == GRID_ONLY
        return
    assert clearing.rung is Rung.STANDING
    assert clearing.price_micro_per_kwh == example.expect["standing_price"]
    assert clearing.traded_wh == example.expect["standing_traded_wh"]
    assert traded_by(clearing, Side.BUY) == example.expect["standing_buy_wh"]
    assert traded_by(clearing, Side.SELL) == example.expect["standing_sell_wh"]


def test_statements_in_equilibrium_are_negotiated_at_their_price() -> None:
    clearing = MECHANISM.clear(SCARCE, at_ceiling(SCARCE, 245_000, round_number=3))

    assert (clearing.rung, clearing.price_micro_per_kwh, clearing.rounds) == (
        "negotiated",
        245_000,
        3,
    )
    assert traded_by(clearing, Side.BUY) == {H3: 1000, H4: 500}
    assert traded_by(clearing, Side.SELL) == {H1: 1000, H2: 500}
    assert prices_of(clearing, Side.BUY) == prices_of(clearing, Side.SELL) == {245_000}


def test_a_statement_above_its_ceiling_counts_as_not_made() -> None:
    statements = at_ceiling(SCARCE, 245_000)
    statements[H3] = [state(1, 245_000, 1_000_001)]

    assert MECHANISM.clear(SCARCE, statements).rung is Rung.STANDING


@pytest.mark.parametrize(
    "changes", [{"slot": 8}, {"round": 0}, {"round": 17}, {"energy_mwh": -1}, {"price": 79_999}]
)
def test_a_statement_out_of_range_counts_as_not_made(changes: dict[str, int]) -> None:
    statements = at_ceiling(SCARCE, 245_000)
    statements[H3] = [msgspec.structs.replace(state(1, 245_000, 1_000_000), **changes)]

    assert MECHANISM.clear(SCARCE, statements).rung is Rung.STANDING


def test_a_price_far_from_equilibrium_does_not_pass() -> None:
    assert MECHANISM.clear(SCARCE, at_ceiling(SCARCE, 240_000)).rung is Rung.STANDING


def test_the_group_with_most_traded_wins() -> None:
    partial = {H1: [state(1, 244_999, 1_000_000)], H3: [state(1, 244_999, 1_000_000)]}
    complete = at_ceiling(SCARCE, 245_000, round_number=2)
    both = {member: partial.get(member, []) + complete[member] for member in complete}

    assert MECHANISM.clear(SCARCE, partial).traded_wh == 1000
    assert MECHANISM.clear(SCARCE, both).traded_wh == 1500


def test_among_equal_trades_more_members_win_then_the_higher_price() -> None:
    book = book_of(sells(1, 1000), sells(2, 1000), buys(3, 3000))
    pair = {H1: [state(1, 200_000, 500_000)], H3: [state(1, 200_000, 500_000)]}
    dearer = {H1: [state(2, 210_000, 500_000)], H3: [state(2, 210_000, 500_000)]}
    trio = {
        H1: [state(3, 190_000, 300_000)],
        H2: [state(3, 190_000, 200_000)],
        H3: [state(3, 190_000, 500_000)],
    }

    def winner(*groups: Mapping[str, list[Statement]]) -> int:
        merged = {m: [s for g in groups for s in g.get(m, [])] for m in (H1, H2, H3)}
        return MECHANISM.clear(book, merged).price_micro_per_kwh

    assert winner(pair, dearer) == 210_000
    assert winner(pair, dearer, trio) == 190_000


def test_the_highest_round_of_a_member_at_a_price_counts() -> None:
    statements = at_ceiling(SCARCE, 245_000, round_number=5)
    statements[H3] = [state(6, 245_000, 1_000_000), state(2, 245_000, 7)]

    assert MECHANISM.clear(SCARCE, statements).rounds == 6


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_energies_in_one_round_the_lower_counts(order: tuple[int, int]) -> None:
    book = book_of(sells(1, 1000), buys(3, 2000))
    said = state(1, 245_000, 900_000), state(1, 245_000, 1_000_000)
    statements = {H1: [state(1, 245_000, 900_000)], H3: [said[which] for which in order]}

    assert MECHANISM.clear(book, statements).traded_wh == 900


def test_nothing_is_cleared_below_one_watt_hour() -> None:
    book = book_of(sells(1, 10), buys(2, 10))
    statements = {H1: [state(1, 190_000, 999)], H2: [state(1, 190_000, 999)]}

    assert passing_group(book, statements) is None


def around_the_step(low: int, high: int) -> dict[str, list[Statement]]:
    """Home 3 takes all of its flexible energy up to 165000 and none above."""
    statements: dict[str, list[Statement]] = {}
    for order in STEP.orders:
        for number, price in enumerate((low, high), start=1):
            energy = ceiling_mwh(STEP.band, order, price)
            if order.member == H3 and price > 165_000:
                energy = 0
            statements.setdefault(order.member, []).append(state(number, price, energy))
    return statements


def test_two_prices_around_a_step_clear_at_the_end_that_matches_more() -> None:
    clearing = MECHANISM.clear(STEP, around_the_step(164_872, 165_004))

    assert (clearing.rung, clearing.price_micro_per_kwh) == (Rung.NEGOTIATED, 164_872)
    assert clearing.rounds == 2
    assert traded_by(clearing, Side.BUY) == {H2: 430, H3: 1884}


def test_at_equal_whole_watt_hours_a_bracket_stands_where_more_is_matched() -> None:
    low = {H1: state(1, 164_900, 1_000_500), H2: state(1, 164_900, 2_000_000)}
    high = {H1: state(2, 165_000, 2_000_000), H2: state(2, 165_000, 1_000_200)}
    groups = [
        Group(164_900, low, demand_mwh=2_000_000, supply_mwh=1_000_500),
        Group(165_000, high, demand_mwh=1_000_200, supply_mwh=2_000_000),
    ]

    best = best_group(STEP.band, groups)

    assert best is not None
    assert (best.price, best.traded_wh, best.other_side) == (164_900, 1000, high)


def test_two_prices_too_far_apart_are_no_bracket() -> None:
    assert MECHANISM.clear(STEP, around_the_step(164_700, 165_004)).rung is Rung.STANDING


def test_a_bracket_needs_the_same_members_at_both_prices() -> None:
    statements = around_the_step(164_872, 165_004)
    del statements[H2][1]

    assert MECHANISM.clear(STEP, statements).rung is Rung.STANDING


def test_a_bracket_needs_excess_demand_at_its_lower_end_only() -> None:
    statements = around_the_step(164_800, 164_872)

    assert MECHANISM.clear(STEP, statements).rung is Rung.STANDING


def test_the_standing_rung_takes_a_haircut_from_both_sides() -> None:
    clearing = MECHANISM.clear(SCARCE, {})

    assert prices_of(clearing, Side.BUY) == {245_000 + 5_500}
    assert prices_of(clearing, Side.SELL) == {245_000 - 16_500}


def test_excluded_members_are_left_out_of_everything() -> None:
    negotiated = MECHANISM.clear(SCARCE, at_ceiling(SCARCE, 245_000), excluded={H2, H4})
    standing = MECHANISM.clear(SCARCE, {}, excluded={H2, H4})
    grid = MECHANISM.clear(SCARCE, at_ceiling(SCARCE, 245_000), excluded={H1, H2})

    assert traded_by(negotiated, Side.BUY) == {H3: 1000}
    assert {p.member for p in standing.positions} == {H1, H3}
    assert standing.price_micro_per_kwh == standing_price(book_of(sells(1, 1000), buys(3, 2000)))
    assert grid == GRID_ONLY


@pytest.mark.parametrize(
    ("first", "second", "convicts"),
    [
        (state(1, 245_000, 10), state(2, 245_000, 11), True),
        (state(1, 245_000, 10), state(1, 245_001, 10), True),
        (state(1, 245_000, 10), state(2, 246_000, 11), True),
        (state(1, 245_000, 10), state(2, 246_000, 1_000_001), True),
        (state(1, 245_000, 1_000_001), state(2, 246_000, 10), True),
        (state(1, 245_000, 10), state(2, 245_000, 10), False),
        (state(1, 245_000, 10), state(2, 246_000, 10), False),
        (state(1, 245_000, 10), state(2, 244_000, 11), False),
        (state(1, 245_000, 10**9), state(1, 245_000, 10**9), False),
        (state(1, 245_000, 10), state(1, 245_000, 11, slot=8), False),
        (state(1, 245_000, 10), state(1, 245_000, 11, book_digest=bytes(32)), False),
    ],
)
def test_two_statements_of_a_buyer_convict_it_if_they_contradict(
    first: Statement, second: Statement, convicts: bool
) -> None:
    assert MECHANISM.contradict(SCARCE, H3, first, second) is convicts
    assert MECHANISM.contradict(SCARCE, H3, second, first) is convicts


def test_a_seller_is_convicted_by_an_offer_that_falls_with_the_price() -> None:
    falling = state(1, 245_000, 10), state(2, 246_000, 9)
    rising = state(1, 245_000, 10), state(2, 246_000, 11)

    assert MECHANISM.contradict(SCARCE, H1, *falling)
    assert not MECHANISM.contradict(SCARCE, H1, *rising)
    assert not MECHANISM.contradict(SCARCE, "stranger", *falling)


def assert_sound(book: Book, clearing: Clearing) -> None:
    """Energy in is energy out, within orders; nobody is worse off than with the grid."""
    orders = book.by_member
    rows: defaultdict[str, int] = defaultdict(int)
    for flow in clearing.flows:
        rows[flow.seller] += flow.energy_wh
        rows[flow.buyer] += flow.energy_wh
    bought, sold = (traded_by(clearing, side) for side in (Side.BUY, Side.SELL))
    assert sum(bought.values()) == sum(sold.values())
    assert {**bought, **sold} == rows
    for position in clearing.positions:
        order = orders[position.member]
        assert position.side is order.side
        assert 1 <= position.energy_wh <= -(-firm_mwh(order) // 1000) + order.flexible_wh
        assert book.lo <= price_of(position) <= book.hi


def community_takes(clearing: Clearing) -> int:
    return sum(
        p.energy_wh * price_of(p) * (1 if p.side is Side.BUY else -1) for p in clearing.positions
    )


@settings(deadline=None)
@given(st.data())
def test_whatever_is_stated_the_clearing_is_sound(data: st.DataObject) -> None:
    book = data.draw(books())
    statements = data.draw(statements_about(book))
    excluded = data.draw(st.sets(st.sampled_from([home(n) for n in range(8)]), max_size=2))

    clearing = MECHANISM.clear(book, statements, excluded)

    assert_sound(book, clearing)
    assert not excluded & {position.member for position in clearing.positions}
    price, traded_wh = clearing.price_micro_per_kwh, clearing.traded_wh
    if clearing.rung is Rung.STANDING:
        haircut = (book.hi - price) * 100_000 // 10**6 + (price - book.lo) * 100_000 // 10**6
        assert community_takes(clearing) == traded_wh * haircut
    else:
        assert community_takes(clearing) == 0
    assert (clearing.rung is Rung.GRID) == (traded_wh == 0)


@settings(deadline=None)
@given(st.data())
def test_the_order_of_statements_does_not_matter(data: st.DataObject) -> None:
    book = data.draw(books())
    statements = data.draw(statements_about(book))
    shuffled = {
        member: data.draw(st.permutations(statements[member]))
        for member in data.draw(st.permutations(sorted(statements)))
    }

    assert MECHANISM.clear(book, shuffled) == MECHANISM.clear(book, statements)


@settings(deadline=None)
@given(st.data())
def test_names_decide_nothing_but_the_last_watt_hour(data: st.DataObject) -> None:
    book = data.draw(books())
    statements = data.draw(statements_about(book))
    ids = [order.member for order in book.orders]
    renamed = dict(zip(ids, data.draw(st.permutations(ids)), strict=True))
    orders = [msgspec.structs.replace(o, member=renamed[o.member]) for o in book.orders]
    other_book = msgspec.structs.replace(book, orders=tuple(sorted(orders, key=lambda o: o.member)))
    other_statements = {renamed.get(m, m): stated for m, stated in statements.items()}

    one, other = MECHANISM.clear(book, statements), MECHANISM.clear(other_book, other_statements)

    assert (one.rung, one.price_micro_per_kwh, one.traded_wh, one.rounds) == (
        (other.rung, other.price_micro_per_kwh, other.traded_wh, other.rounds)
    )
    for side in Side:
        shares, other_shares = traded_by(one, side), traded_by(other, side)
        for member in ids:
            assert abs(shares.get(member, 0) - other_shares.get(renamed[member], 0)) <= 1


def test_two_hundred_homes_with_sixteen_statements_each_clear() -> None:
    street = random_street(seed=200, homes=200)
    book = street.book
    prices = [standing_price(book) + step * book.band.width // 40 for step in range(-8, 8)]
    statements = {
        order.member: [
            state(number, price, ceiling_mwh(book.band, order, price))
            for number, price in enumerate(prices, start=1)
        ]
        for order in book.orders
    }

    clearing = MECHANISM.clear(book, statements)

    assert (clearing.rung, clearing.price_micro_per_kwh) == (Rung.NEGOTIATED, standing_price(book))
    assert_sound(book, clearing)

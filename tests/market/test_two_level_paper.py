import random
from collections import defaultdict
from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.clearing import GRID_ONLY, Clearing, Flow, Rung
from market.mechanisms.two_level_paper import TwoLevelPaper
from market.negotiation.paper_game import (
    Answers,
    Point,
    Preference,
    first_point,
    next_point,
    preference_for,
)
from market.negotiation.two_level_paper import TwoLevelPaperNegotiator
from market.orders import Book, Order, Side
from market.statements_paper import ROUNDS_MAX_PAPER, SELLERS_MAX, SHARES_SUM, PaperStatement
from market.tariffs import Band
from tests.support.paper_bus import DIGEST, HAIRCUT_PPM, PaperBus

MECHANISM = TwoLevelPaper(HAIRCUT_PPM)
LO, HI = 450_000, 750_000
LIMIT = LO + 5 * 37_500

SALES = {"p1": 1728, "p2": 504, "p5": 1368}
NEEDS = {"p3": 1600, "p4": 2000}
TABLE_1 = {
    ("p3", "p1"): 768,
    ("p3", "p2"): 224,
    ("p3", "p5"): 608,
    ("p4", "p1"): 960,
    ("p4", "p2"): 280,
    ("p4", "p5"): 760,
}
PREFERENCES = {
    "p3": Preference.of_omega(600_000 + 640_000 + 160_000, pv_wh=400),
    "p4": Preference.of_omega(600_000 + 800_000, pv_wh=0),
}

# Zhao et al. 2019, table 10: net PV output of users 1 to 5 [kWh] in periods 7 to 18.
ZHAO = (
    (9.67, 3.98, -3.00, -7.08, -3.58),
    (12.73, 6.39, -5.05, -7.74, -6.81),
    (15.19, 7.25, -8.21, -7.11, -8.45),
    (16.35, 7.80, -8.64, -7.59, -8.56),
    (15.79, 7.96, -9.67, -7.50, -8.49),
    (16.53, 8.01, -11.54, -8.04, -8.92),
    (16.59, 8.13, -12.18, -5.55, -3.96),
    (15.94, 7.80, -13.36, -4.33, -3.75),
    (14.84, 7.07, -12.31, -8.34, -3.69),
    (12.54, 5.80, -9.17, -6.81, -3.41),
    (8.12, 3.72, -8.07, -4.49, -2.86),
    (0.07, 0.07, -0.58, -1.29, -4.25),
)


def order(member: str, side: Side, firm_wh: int, flexible_wh: int = 0, limit: int = 0) -> Order:
    return Order(member, side, firm_wh, flexible_wh, limit)


def book_of(*orders: Order, lo: int = LO, hi: int = HI, slot: int = 17) -> Book:
    return Book(slot=slot, lo=lo, hi=hi, orders=tuple(sorted(orders, key=lambda o: o.member)))


def table_1_book(slot: int = 17) -> Book:
    sellers = (order(member, Side.SELL, firm_wh) for member, firm_wh in SALES.items())
    buyers = (order(member, Side.BUY, need, 400, LIMIT) for member, need in NEEDS.items())
    return book_of(*sellers, *buyers, slot=slot)


def random_book(homes: int, seed: int) -> Book:
    rng = random.Random(f"{homes} {seed}")  # noqa: S311 - a reproducible test, not a secret
    members = [f"h{number:02}" for number in range(homes)]
    sellers = set(rng.sample(members, max(1, min(homes - 1, round(homes * rng.uniform(0.2, 0.8))))))
    orders = (
        order(member, Side.SELL if member in sellers else Side.BUY, rng.randint(50, 8000))
        for member in members
    )
    return book_of(*orders, lo=80_000, hi=rng.choice((210_000, 300_000, 540_000)), slot=seed)


def zhao_book(period: int) -> Book:
    users = {f"u{user}": net for user, net in enumerate(ZHAO[period - 7], start=1)}
    orders = (
        order(user, Side.SELL if net > 0 else Side.BUY, round(1000 * abs(net)))
        for user, net in users.items()
    )
    return book_of(*orders, lo=770_000, hi=850_000, slot=period)


def demand(energies: tuple[int, ...], **changes: object) -> PaperStatement:
    """State something for a buyer of table 1, at 600000 unless changed."""
    return msgspec.structs.replace(
        PaperStatement(17, DIGEST, 9, (600_000,) * 3, energies, (), 400_000), **changes
    )


def offer(energy_mwh: int, **changes: object) -> PaperStatement:
    """State something for a seller of table 1, at 600000 unless changed."""
    shares = (SHARES_SUM - 2, 1, 1)
    return msgspec.structs.replace(
        PaperStatement(17, DIGEST, 9, (600_000,) * 3, (energy_mwh,), shares, 0), **changes
    )


def table_1_statements(**changes: object) -> dict[str, list[PaperStatement]]:
    sales = {m: [offer(1000 * wh, **changes)] for m, wh in SALES.items()}
    needs = {m: [demand((1000 * wh,) * 3, **changes)] for m, wh in NEEDS.items()}
    return {**sales, **needs}


def need_and_surplus(book: Book, silent: str = "") -> tuple[int, int]:
    sums = {Side.BUY: 0, Side.SELL: 0}
    for each in book.orders:
        sums[each.side] += each.firm_wh if each.member != silent else 0
    return sums[Side.BUY], sums[Side.SELL]


def equilibrium_price(book: Book) -> int:
    """Return the lowest price at which the street's elastic demand is at most its surplus."""
    preferences = [preference_for(o, book.band) for o in book.orders if o.side is Side.BUY]
    supply_mwh = 1000 * need_and_surplus(book)[1]
    too_low, enough = book.lo - 1, book.hi
    while enough - too_low > 1:
        price = (too_low + enough) // 2
        if sum(each.demand_mwh(price) for each in preferences) <= supply_mwh:
            enough = price
        else:
            too_low = price
    return enough


def assert_sound(book: Book, clearing: Clearing) -> None:
    """Check that energy and money are conserved, orders kept, and prices in the band."""
    by_member: defaultdict[str, int] = defaultdict(int)
    paid = {Side.BUY: 0, Side.SELL: 0}
    for flow in clearing.flows:
        by_member[flow.seller] += flow.energy_wh
        by_member[flow.buyer] += flow.energy_wh
    for position in clearing.positions:
        limit = book.by_member[position.member]
        assert position.side is limit.side
        assert 0 < position.energy_wh <= limit.firm_wh + limit.flexible_wh
        assert by_member.pop(position.member) == position.energy_wh
        paid[position.side] += amount_nano(clearing, position.member)
        assert position.price_micro_per_kwh is None or (
            book.lo <= position.price_micro_per_kwh <= book.hi
        )
    assert not by_member
    if clearing.rung is Rung.NEGOTIATED:
        assert paid[Side.BUY] == paid[Side.SELL] > 0
        assert all(own_price(clearing, flow) == flow.price_micro_per_kwh for flow in clearing.flows)


def amount_nano(clearing: Clearing, member: str) -> int:
    position = next(each for each in clearing.positions if each.member == member)
    if position.price_micro_per_kwh is not None:
        return position.energy_wh * position.price_micro_per_kwh
    return sum(
        flow.energy_wh * (flow.price_micro_per_kwh or 0)
        for flow in clearing.flows
        if flow.buyer == member
    )


def own_price(clearing: Clearing, flow: Flow) -> int | None:
    return next(p for p in clearing.positions if p.member == flow.seller).price_micro_per_kwh


def bought(clearing: Clearing) -> dict[str, int]:
    return {p.member: p.energy_wh for p in clearing.positions if p.side is Side.BUY}


def sold(clearing: Clearing) -> dict[str, int]:
    return {p.member: p.energy_wh for p in clearing.positions if p.side is Side.SELL}


# The paper's own example.


@pytest.mark.parametrize("slot", range(17, 25))
def test_table_1_follows_from_any_start(slot: int) -> None:
    book = table_1_book(slot)

    outcome = PaperBus(book=book, preferences=PREFERENCES).run()

    clearing = outcome.clearing
    assert {(flow.buyer, flow.seller): flow.energy_wh for flow in clearing.flows} == TABLE_1
    assert all(abs((flow.price_micro_per_kwh or 0) - 600_000) <= 2 for flow in clearing.flows)
    assert clearing.rung is Rung.NEGOTIATED
    assert clearing.rounds <= 60
    assert_sound(book, clearing)


def test_shares_of_table_1_are_the_paper_s() -> None:
    outcome = PaperBus(book=table_1_book(), preferences=PREFERENCES).run()

    shares = outcome.relayed["p1"][-1].shares
    expected = (480_000_000_000, 140_000_000_000, 380_000_000_000)
    assert all(abs(z - e) <= SHARES_SUM // 10**6 for z, e in zip(shares, expected, strict=True))


def test_prices_start_apart_and_end_equal() -> None:
    outcome = PaperBus(book=table_1_book(), preferences=PREFERENCES).run()

    prices = outcome.prices_traces["p1"]
    assert max(prices[0]) - min(prices[0]) > 1000
    assert max(prices[-1]) - min(prices[-1]) <= 3
    rounds = [entry[0] for entry in outcome.traces["p1"]]
    assert rounds == sorted(set(rounds))
    assert outcome.traces["p1"][-1][1] == pytest.approx(600_000, abs=2)


def test_omega_becomes_a_demand_by_equation_7() -> None:
    preference = Preference.of_omega(2_500_000, pv_wh=1000)

    assert preference.w == 2_100_000
    assert preference.demand_mwh(600_000) == 3_750_000
    assert preference.demand_mwh(2_100_000) == preference.demand_mwh(3_000_000) == 0


# The field: what an order stands for.


def test_an_order_s_demand_is_its_need_at_mid_price() -> None:
    band = Band(lo=80_000, hi=300_000)

    preference = preference_for(order("a", Side.BUY, 1000), band)

    assert preference.demand_mwh(190_000) == 1_000_000
    assert preference.demand_mwh(300_000) == 0
    assert preference.demand_mwh(80_000) == 2_000_000


def test_an_order_of_flexible_energy_only_is_full_where_its_ramp_is() -> None:
    band = Band(lo=80_000, hi=300_000)

    preference = preference_for(order("a", Side.BUY, 0, 4000, 190_000), band)

    assert preference.demand_mwh(162_500) == 4_000_000
    assert preference.demand_mwh(190_000) == 0


@pytest.mark.parametrize("period", range(7, 19))
def test_every_hour_of_zhao_2019_converges_inside_its_narrow_band(period: int) -> None:
    book = zhao_book(period)

    outcome = PaperBus(book=book).run()

    clearing = outcome.clearing
    assert clearing.rung is Rung.NEGOTIATED
    assert outcome.rounds <= 30
    assert book.lo < clearing.price_micro_per_kwh < book.hi
    assert abs(clearing.price_micro_per_kwh - equilibrium_price(book)) <= 3
    assert clearing.traded_wh == min(need_and_surplus(book))
    assert_sound(book, clearing)


# Random streets.


@pytest.mark.parametrize(
    ("homes", "seed"),
    [*((n, seed) for n in (3, 4, 5, 8) for seed in range(4)), (12, 1), (12, 2), (16, 3)],
)
def test_random_streets_reach_the_closed_form(homes: int, seed: int) -> None:
    book = random_book(homes, seed)

    clearing = PaperBus(book=book).run().clearing

    least = min(need_and_surplus(book))
    assert clearing.rung is Rung.NEGOTIATED
    assert abs(clearing.price_micro_per_kwh - equilibrium_price(book)) <= 3
    assert least - 1 - least // 1000 <= clearing.traded_wh <= least
    assert_sound(book, clearing)


@pytest.mark.parametrize(
    ("homes", "seed", "rounds_max"),
    [
        (10, 0, 150),
        (10, 2, 150),
        (20, 2, 150),
        (20, 3, 150),
        (50, 0, 150),
        (50, 1, 150),
        (50, 2, 150),
        (50, 3, 150),
        (100, 0, 150),
        (200, 0, 150),
        # More than twice the need on offer: the last share at the lower bound settles slowly.
        (10, 1, 400),
        (20, 0, 400),
        (20, 1, 400),
    ],
)
def test_the_iteration_alone_converges_for_whole_communities(
    homes: int, seed: int, rounds_max: int
) -> None:
    book = random_book(homes, seed)
    buyers = [preference_for(o, book.band) for o in book.orders if o.side is Side.BUY]
    offers = [1000 * o.firm_wh for o in book.orders if o.side is Side.SELL]
    expected, point, rounds = equilibrium_price(book), first_point(book), 0

    tolerance = max(10, book.band.width // 1000)
    while rounds < rounds_max and any(abs(p - expected) > tolerance for p in point.prices):
        demands = [(each.alpha, tuple(map(each.demand_mwh, point.prices))) for each in buyers]
        point = next_point(book.band, point, Answers(offers, demands))
        rounds += 1

    assert rounds < rounds_max


@pytest.mark.parametrize(("homes", "seed"), [(3, 1), (5, 2), (8, 3), (12, 4)])
def test_the_others_trade_when_one_is_silent(homes: int, seed: int) -> None:
    book = random_book(homes, seed)
    crowded = max(Side, key=lambda side: sum(o.side is side for o in book.orders))
    silent = next(o.member for o in book.orders if o.side is crowded)

    clearing = PaperBus(book=book, silent=[silent]).run().clearing

    least = min(need_and_surplus(book, silent))
    assert clearing.rung is Rung.NEGOTIATED
    assert silent not in {*bought(clearing), *sold(clearing)}
    assert least - 1 - least // 1000 <= clearing.traded_wh <= least
    assert_sound(book, clearing)


@pytest.mark.parametrize("loss", [0.05, 0.2])
@pytest.mark.parametrize(("homes", "seed"), [(2, 1), (3, 19), (5, 1), (8, 3), (12, 4)])
def test_lost_messages_change_nothing_but_the_rounds(homes: int, seed: int, loss: float) -> None:
    book = random_book(homes, seed)

    clearing = PaperBus(book=book, loss=loss, seed=seed).run().clearing

    least = min(need_and_surplus(book))
    assert clearing.rung is Rung.NEGOTIATED
    assert least - 1 - least // 1000 <= clearing.traded_wh <= least
    assert_sound(book, clearing)


def test_nobody_left_on_one_side_leaves_the_standing_orders() -> None:
    book = book_of(order("a", Side.SELL, 1000), order("b", Side.BUY, 1000))

    outcome = PaperBus(book=book, silent=["b"], deadline_ms=2000).run()

    assert outcome.clearing.rung is Rung.STANDING
    assert_sound(book, outcome.clearing)


def test_a_deadline_before_the_end_leaves_the_standing_orders() -> None:
    book = random_book(5, 2)

    outcome = PaperBus(book=book, deadline_ms=60).run()

    assert outcome.clearing.rung is Rung.STANDING
    assert outcome.clearing == TwoLevelPaper(HAIRCUT_PPM).clear(book, {})


def test_the_same_seed_gives_the_same_run() -> None:
    book = random_book(8, 1)

    first, second = (PaperBus(book=book, loss=0.05, seed=4).run() for _ in range(2))

    assert first == second


# One step of the game.


@settings(max_examples=50)
@given(
    prices=st.lists(st.integers(LO, HI), min_size=1, max_size=6),
    data=st.data(),
)
def test_a_step_keeps_prices_in_the_band_and_the_sum_of_shares(
    prices: list[int], data: st.DataObject
) -> None:
    sellers = len(prices)
    energies = st.lists(st.integers(0, 10**8), min_size=sellers, max_size=sellers)
    offers = data.draw(energies)
    demands = data.draw(st.lists(st.tuples(st.integers(1, 10**9), energies), max_size=5))
    point = Point(tuple(prices), first_shares(sellers))

    following = next_point(Band(LO, HI), point, Answers(offers, demands))

    assert all(LO <= price <= HI for price in following.prices)
    assert sum(following.shares) == SHARES_SUM
    assert all(share >= 0 for share in following.shares)
    assert not any(offers) or all(
        (share > 0) == (mwh > 0)
        for share, mwh in zip(following.shares, offers, strict=True)
        if mwh == 0 or sum(offers) <= 10**6 * mwh
    )


def first_shares(sellers: int) -> tuple[int, ...]:
    book = book_of(*(order(f"s{number}", Side.SELL, 1) for number in range(sellers)))
    return first_point(book).shares


def test_equilibrium_is_a_fixed_point_of_a_step() -> None:
    z = (480_000_000_000, 140_000_000_000, 380_000_000_000)
    point = Point((600_000,) * 3, z)
    needs = [(400_000, (1_600_000,) * 3), (400_000, (2_000_000,) * 3)]

    following = next_point(Band(LO, HI), point, Answers((1_728_000, 504_000, 1_368_000), needs))

    assert following == point


def test_an_oversold_seller_raises_its_price_and_loses_shares() -> None:
    point = Point((600_000, 600_000), (SHARES_SUM * 9 // 10, SHARES_SUM // 10))
    answers = Answers((1_000_000, 1_000_000), [(400_000, (2_000_000, 2_000_000))])

    following = next_point(Band(LO, HI), point, answers)

    assert following.prices[0] > 600_000 > following.prices[1]
    assert following.shares[0] < point.shares[0]


# What replicas accept.


def test_stated_equilibrium_of_table_1_clears_exactly() -> None:
    clearing = MECHANISM.clear(table_1_book(), table_1_statements())

    assert {(flow.buyer, flow.seller): flow.energy_wh for flow in clearing.flows} == TABLE_1
    assert clearing.price_micro_per_kwh == 600_000
    assert clearing.rounds == 9


def test_unequal_prices_are_paid_as_each_seller_quoted() -> None:
    book = table_1_book()

    clearing = MECHANISM.clear(book, table_1_statements(prices=(599_900, 600_000, 600_000)))

    assert {f.seller: f.price_micro_per_kwh for f in clearing.flows}["p1"] == 599_900
    assert amount_nano(clearing, "p3") == 768 * 599_900 + 832 * 600_000
    assert_sound(book, clearing)


@pytest.mark.parametrize(
    "changes",
    [
        {"prices": (600_000, 600_000, 600_301)},
        {"prices": (440_000,) * 3},
        {"prices": (600_000,) * 2},
        {"slot": 18},
        {"round": ROUNDS_MAX_PAPER + 1},
    ],
)
def test_statements_that_break_a_rule_do_not_clear(changes: dict[str, object]) -> None:
    clearing = MECHANISM.clear(table_1_book(), table_1_statements(**changes))

    assert clearing.rung is Rung.STANDING


@pytest.mark.parametrize(
    ("member", "statement"),
    [
        ("p3", demand((1_610_000,) * 3)),
        ("p3", demand((5_000_000,) * 3)),
        ("p3", demand((1_600_000, 1_600_001, 1_600_000))),
        ("p3", demand((1_600_000,) * 3, alpha=0)),
        ("p3", demand((1_600_000,))),
        ("p3", demand((1_600_000,) * 3, book_digest=b"\x09" * 32)),
        ("p1", offer(1_728_001)),
        ("p1", offer(1_700_000)),
        ("p1", offer(1_728_000, shares=(SHARES_SUM, 1, 0))),
        ("p1", offer(1_728_000, alpha=1)),
    ],
)
def test_one_statement_off_the_equilibrium_or_the_rules_does_not_clear(
    member: str, statement: PaperStatement
) -> None:
    statements = {**table_1_statements(), member: [statement]}

    assert MECHANISM.clear(table_1_book(), statements).rung is Rung.STANDING


def test_too_much_supply_at_lo_serves_every_buyer_and_shares_among_sellers() -> None:
    book = book_of(
        order("a", Side.SELL, 6000), order("b", Side.SELL, 2000), order("c", Side.BUY, 1000)
    )

    outcome = PaperBus(book=book).run()

    assert outcome.clearing.rung is Rung.NEGOTIATED
    assert outcome.clearing.price_micro_per_kwh <= LO + 300
    assert bought(outcome.clearing) == {"c": 1000}
    assert sold(outcome.clearing) == {"a": 750, "b": 250}


def test_too_little_supply_at_hi_serves_every_seller_and_shares_among_buyers() -> None:
    book = book_of(
        order("a", Side.SELL, 1000), order("b", Side.BUY, 3000), order("c", Side.BUY, 1000)
    )
    eager = Preference(w=2_000_000, alpha=400_000)

    outcome = PaperBus(book=book, preferences={"b": eager, "c": eager}).run()

    assert outcome.clearing.rung is Rung.NEGOTIATED
    assert outcome.clearing.price_micro_per_kwh >= HI - 300
    assert sold(outcome.clearing) == {"a": 1000}
    assert bought(outcome.clearing).keys() == {"b", "c"}
    assert_sound(book, outcome.clearing)


def test_an_elastic_demand_beyond_the_order_is_not_sold() -> None:
    book = book_of(order("a", Side.SELL, 1500), order("b", Side.BUY, 1000))

    clearing = PaperBus(book=book).run().clearing

    assert LO < clearing.price_micro_per_kwh < (LO + HI) // 2
    assert bought(clearing) == {"b": 1000}


def test_flexible_energy_is_not_sold_above_its_limit() -> None:
    limit = LO + 37_500
    book = book_of(order("a", Side.SELL, 1500), order("b", Side.BUY, 1000, 1000, limit))
    eager = Preference(w=1_350_000, alpha=500_000)

    clearing = PaperBus(book=book, preferences={"b": eager}).run().clearing

    assert clearing.price_micro_per_kwh == pytest.approx(600_000, abs=3)
    assert bought(clearing) == {"b": 1000}


def test_the_group_that_trades_most_counts_then_the_lower_round() -> None:
    complete, later = table_1_statements(), table_1_statements(round=12)
    partial = {
        "p1": offer(1_600_000, prices=(600_001,) * 3),
        "p3": demand((1_600_000,) * 3, prices=(600_001,) * 3),
    }
    later_prices = {
        m: msgspec.structs.replace(s[0], prices=(599_999,) * 3) for m, s in later.items()
    }
    statements = {
        member: [*stated, later_prices[member], *filter(None, [partial.get(member)])]
        for member, stated in complete.items()
    }

    clearing = MECHANISM.clear(table_1_book(), statements)

    assert (clearing.traded_wh, clearing.rounds, clearing.price_micro_per_kwh) == (3600, 9, 600_000)


def test_the_order_of_members_and_statements_does_not_matter() -> None:
    book, statements = table_1_book(), table_1_statements()
    statements["p3"].append(demand((1_500_000,) * 3))
    statements["p3"].append(demand((1_600_000,) * 3, prices=(600_001,) * 3))

    clearings = {
        MECHANISM.clear(book, {m: sorted(statements[m], reverse=flip, key=repr) for m in members})
        for members in permutations(statements)
        for flip in (False, True)
    }

    assert len(clearings) == 1


def test_new_names_change_the_trades_by_rounding_only() -> None:
    book = random_book(6, 4)
    names = {o.member: f"n{99 - number}" for number, o in enumerate(book.orders)}
    orders = (msgspec.structs.replace(o, member=names[o.member]) for o in book.orders)
    renamed = msgspec.structs.replace(book, orders=tuple(sorted(orders, key=lambda o: o.member)))

    first, second = (PaperBus(book=each).run().clearing for each in (book, renamed))

    assert abs(first.traded_wh - second.traded_wh) <= 1
    assert abs(first.price_micro_per_kwh - second.price_micro_per_kwh) <= 3
    for position in first.positions:
        other = next(p for p in second.positions if p.member == names[position.member])
        assert abs(position.energy_wh - other.energy_wh) <= 2


def test_a_convicted_member_has_no_part_in_the_clearing() -> None:
    clearing = MECHANISM.clear(table_1_book(), table_1_statements(), excluded=["p3"])

    assert clearing.rung is Rung.STANDING
    assert "p3" not in bought(clearing)


def test_without_both_sides_nothing_is_traded() -> None:
    book = book_of(order("a", Side.BUY, 1000), order("b", Side.BUY, 1000))

    assert MECHANISM.clear(book, {}) == GRID_ONLY


garbage = st.builds(
    PaperStatement,
    slot=st.sampled_from((17, 18)),
    book_digest=st.sampled_from((DIGEST, b"\x00" * 32)),
    round=st.integers(1, ROUNDS_MAX_PAPER),
    prices=st.lists(st.sampled_from((0, LO, 600_000, HI)), min_size=1, max_size=4).map(tuple),
    energies_mwh=st.lists(st.sampled_from((0, 1, 499, 10**6, 10**12)), max_size=4).map(tuple),
    shares=st.sampled_from(((), (SHARES_SUM,), (SHARES_SUM, 0, 0), (1, 1, 1))),
    alpha=st.integers(0, 10**12),
)


@settings(max_examples=50)
@given(
    stated=st.dictionaries(st.sampled_from(("p1", "p2", "p3", "zz")), st.lists(garbage, max_size=3))
)
def test_garbage_never_raises_and_never_clears_unsoundly(
    stated: dict[str, list[PaperStatement]],
) -> None:
    book = table_1_book()

    assert_sound(book, MECHANISM.clear(book, stated))


@settings(max_examples=40)
@given(
    heard=st.lists(st.tuples(st.sampled_from(("p1", "p2", "p4", "zz", "p3")), garbage), max_size=12)
)
def test_a_participant_survives_garbage(heard: list[tuple[str, PaperStatement]]) -> None:
    participant = participant_of("p3")
    participant.start(0)

    for now_ms, (member, statement) in enumerate(heard):
        participant.receive(member, statement, now_ms)

    assert participant.tick(10_000).finished


@settings(max_examples=50)
@given(
    energies=st.lists(st.integers(0, 4_800_000), min_size=2, max_size=2),
    offers=st.lists(st.integers(0, 504_000), min_size=3, max_size=3),
)
def test_whatever_is_stated_conserves_energy_and_money(
    energies: list[int], offers: list[int]
) -> None:
    book = table_1_book()
    statements = {m: [offer(mwh)] for m, mwh in zip(SALES, offers, strict=True)}
    scale = sum(offers) / max(1, sum(energies))
    for member, mwh in zip(NEEDS, energies, strict=True):
        statements[member] = [demand((int(mwh * scale),) * 3)]

    assert_sound(book, MECHANISM.clear(book, statements))


# Evidence and the participant's side.


def test_two_statements_in_one_round_convict_their_author() -> None:
    book = table_1_book()
    first = demand((1_600_000,) * 3)

    assert MECHANISM.contradict(book, "p3", first, demand((1_500_000,) * 3))
    assert not MECHANISM.contradict(book, "p3", first, first)
    assert not MECHANISM.contradict(book, "p3", first, demand((1_500_000,) * 3, round=10))
    assert not MECHANISM.contradict(book, "zz", first, demand((1_500_000,) * 3))
    other_slot = (demand((mwh,) * 3, slot=18) for mwh in (1, 2))
    assert not MECHANISM.contradict(book, "p3", *other_slot)


def participant_of(member: str, book: Book | None = None) -> TwoLevelPaperNegotiator:
    book = book or table_1_book()
    return TwoLevelPaperNegotiator(
        book=book,
        book_digest=DIGEST,
        member=member,
        preference=preference_for(book.by_member[member], book.band),
        phase_ms=100,
        deadline_ms=10_000,
    )


def test_a_peer_that_contradicts_itself_becomes_evidence() -> None:
    participant = participant_of("p3")
    participant.start(0)
    statements = [demand((mwh,) * 3, round=1) for mwh in (2_000_000, 1_900_000)]

    for statement in statements:
        participant.receive("p4", statement, 1)

    assert participant.evidence == {"p4": tuple(statements)}


def test_a_participant_asks_once_for_what_it_misses() -> None:
    participant = participant_of("p3")
    participant.start(0)
    participant.receive("p1", offer(1_728_000, round=1), 1)

    asked = participant.tick(participant.wake_ms)

    assert asked.want == (1, ("p2", "p4", "p5"))
    assert participant.tick(60).want is None
    assert participant.wake_ms == 100


def test_all_start_from_one_point_that_the_slot_draws() -> None:
    starts = {participant_of(member).start(0).publish[0].prices for member in ("p1", "p3", "p4")}

    assert starts == {first_point(table_1_book()).prices}
    assert first_point(table_1_book(18)) != first_point(table_1_book())


def test_who_missed_a_round_follows_the_sellers() -> None:
    participant = participant_of("p3")
    participant.start(0)
    ahead = {"round": 7, "prices": (500_000, 510_000, 520_000)}

    participant.receive("p1", offer(1_728_000, **ahead), 1)
    turn = participant.receive("p2", offer(504_000, **ahead), 2)

    assert [(s.round, s.prices) for s in turn.publish] == [(7, (500_000, 510_000, 520_000))]


def test_without_a_market_a_participant_finishes_at_once() -> None:
    book = book_of(order("a", Side.BUY, 1000), order("b", Side.BUY, 1000))

    turn = participant_of("a", book).start(0)

    assert turn.finished
    assert not turn.publish
    assert not turn.relay


def test_the_largest_statement_fits_in_evidence() -> None:
    full = PaperStatement(
        slot=2**53,
        book_digest=DIGEST,
        round=ROUNDS_MAX_PAPER,
        prices=(10**12,) * SELLERS_MAX,
        energies_mwh=(10**12,) * SELLERS_MAX,
        shares=(SHARES_SUM,) * SELLERS_MAX,
        alpha=10**12,
    )

    encoded = msgspec.msgpack.encode(full)

    assert len(encoded) < 6 * 1024
    assert msgspec.msgpack.decode(encoded, type=PaperStatement) == full

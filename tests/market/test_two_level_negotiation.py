"""How participants find a price by messages: worked examples, faults, convergence."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.ceilings import ceiling_mwh, standing_price
from market.clearing import GRID_ONLY, Rung
from market.groups import is_balanced
from market.mechanisms.two_level import TwoLevel
from market.negotiation.price_rule import Visit, ceiling_slope, next_price
from market.negotiation.protocol import Turn
from market.negotiation.two_level import TwoLevelNegotiator, relay_rank
from market.orders import Book, Side
from market.statements import ROUNDS_MAX, Statement
from tests.support.negotiation_bus import HAIRCUT_PPM, Faults, NegotiationBus, Outcome
from tests.support.negotiation_streets import (
    DIGEST,
    Example,
    Street,
    book_of,
    books,
    buys,
    crossing,
    examples,
    home,
    random_street,
    sells,
    state,
    street_of,
)

EXAMPLES = [example for example in examples() if example.expect["market"]]
H1, H2, H3, H4, H5 = (home(number) for number in range(1, 6))
PHASE_MS, DEADLINE_MS = 500, 20_000

PAIR = book_of(sells(1, 1000), buys(2, 1000))
SCARCE = book_of(sells(1, 1000), sells(2, 500), buys(3, 2000), buys(4, 1000))


def negotiate(street: Street, faults: Faults | None = None, seed: int = 0) -> Outcome:
    return NegotiationBus(street, faults or Faults(), seed, PHASE_MS).run()


def negotiator(book: Book, member: str) -> TwoLevelNegotiator:
    return TwoLevelNegotiator(
        book=book,
        book_digest=DIGEST,
        member=member,
        curve=street_of(book).curves[member],
        phase_ms=PHASE_MS,
        deadline_ms=DEADLINE_MS,
    )


def answer_for(book: Book, member: str, asked: Statement) -> Statement:
    """What a member at its ceiling states at the price and in the round of another statement."""
    energy = ceiling_mwh(book.band, book.by_member[member], asked.price)
    return msgspec.structs.replace(asked, energy_mwh=energy)


def price_error(street: Street, outcome: Outcome, without: Sequence[str] = ()) -> float:
    """Distance from the true crossing, as a share of the band."""
    price = crossing(street, frozenset(without))
    return abs(outcome.clearing.price_micro_per_kwh - price) / street.book.band.width


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_worked_example_negotiates_its_price_and_trades(example: Example) -> None:
    expect = example.expect

    outcome = negotiate(example.street, Faults(silent=example.silent))

    clearing = outcome.clearing
    assert clearing.rung is Rung.NEGOTIATED
    assert (
        abs(clearing.price_micro_per_kwh - expect["negotiated_price"]) <= expect["price_tolerance"]
    )
    assert abs(clearing.traded_wh - expect["traded_wh"]) <= expect["trade_tolerance_wh"]
    wanted = {**expect["buy_wh"], **expect["sell_wh"]}
    assert {p.member for p in clearing.positions} == wanted.keys()
    for position in clearing.positions:
        difference = abs(position.energy_wh - wanted[position.member])
        assert difference <= expect["trade_tolerance_wh"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_worked_example_takes_the_rounds_of_the_prototype(example: Example) -> None:
    # The prototype left a silent member out after one round; the rule says two.
    rounds = example.expect["rounds_synchronous"] + len(example.silent)

    outcome = negotiate(example.street, Faults(silent=example.silent))

    assert outcome.rounds == outcome.clearing.rounds == rounds


def test_a_book_without_a_market_is_over_at_once() -> None:
    turn = negotiator(book_of(buys(1, 500), buys(2, 700)), H1).start(0)

    assert turn == Turn(finished=True)


def test_where_nothing_is_wanted_at_any_price_on_offer_the_grid_serves() -> None:
    orders = sells(1, 0, 1000, 245_000), buys(2, 0, 1000, 107_500)

    outcome = negotiate(street_of(book_of(*orders)))

    assert outcome.clearing == GRID_ONLY
    assert outcome.rounds == 1


def test_participants_relay_both_sides_of_a_step() -> None:
    example = next(e for e in EXAMPLES if e.expect["stopped_by"] == "bracket")

    outcome = negotiate(example.street)

    prices = {s.price for stated in outcome.chain.values() for s in stated}
    assert len(prices) == 2
    assert max(prices) - min(prices) <= example.street.book.band.width // 1000
    assert {len(stated) for stated in outcome.chain.values()} == {2}


# About one random street in 2000 has a kink so near to its crossing that the rule takes 17 rounds
# or more and the slot is cleared by the next rung; these seeds hold none.
STREETS = [random_street(seed, homes=2 + seed % 28) for seed in range(28, 112)]


@pytest.mark.parametrize("street", STREETS, ids=lambda street: str(len(street.book.orders)))
def test_a_calm_street_agrees_within_sixteen_rounds_near_the_true_price(street: Street) -> None:
    outcome = negotiate(street)

    if outcome.clearing == GRID_ONLY:
        assert TwoLevel(HAIRCUT_PPM).clear(street.book, {}) == GRID_ONLY
        return
    assert outcome.clearing.rung is Rung.NEGOTIATED
    assert outcome.rounds <= ROUNDS_MAX
    assert price_error(street, outcome) <= 0.001
    assert len(set(outcome.traces.values())) == 1


def test_a_kink_beside_the_crossing_can_cost_the_agreement_but_not_the_slot() -> None:
    street = random_street(seed=3, homes=5)

    outcome = negotiate(street)

    assert outcome.rounds == ROUNDS_MAX
    assert outcome.clearing.rung is Rung.STANDING


def rounds_by_the_rule(street: Street) -> int:
    """Rounds that the price rule alone takes, everybody being heard; 17 if it fails."""
    book, visits = street.book, list[Visit]()
    slope = ceiling_slope(book.band, book.orders, standing_price(book))
    price = standing_price(book)
    for number in range(1, ROUNDS_MAX + 1):
        sums = dict.fromkeys(Side, 0)
        for order in book.orders:
            sums[order.side] += street.curves[order.member](price)
        visits.append(Visit(price, sums[Side.BUY], sums[Side.SELL]))
        onward = next_price(book.band, visits, slope)
        if is_balanced(*sums.values()) or onward in {visit.price for visit in visits}:
            return number
        price = onward
    return ROUNDS_MAX + 1


def test_the_price_rule_needs_few_rounds_and_nearly_always_ends() -> None:
    rounds = sorted(
        rounds_by_the_rule(random_street(seed, homes=2 + seed % 28)) for seed in range(600)
    )

    assert rounds[len(rounds) // 2] <= 2
    assert rounds[len(rounds) * 95 // 100] <= 8
    assert sum(number > ROUNDS_MAX for number in rounds) <= 1


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("side", Side)
def test_a_silent_member_only_removes_itself(seed: int, side: Side) -> None:
    street = random_street(seed, homes=12)
    silent = [o.member for o in street.book.orders if o.side is side][:1]

    outcome = negotiate(street, Faults(silent=silent), seed)

    if outcome.clearing.rung is Rung.NEGOTIATED:
        assert price_error(street, outcome, silent) <= 0.001
    left = [o for o in street.book.orders if o.member not in silent]
    assert (outcome.clearing.rung is Rung.NEGOTIATED) == ({o.side for o in left} == set(Side))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("side", Side)
def test_a_member_that_answers_at_random_is_convicted_or_harmless(seed: int, side: Side) -> None:
    street = random_street(seed + 100, homes=16)
    liars = [o.member for o in street.book.orders if o.side is side][:1]

    outcome = negotiate(street, Faults(liars=liars), seed)

    assert outcome.excluded <= set(liars)
    assert outcome.clearing.rung is Rung.NEGOTIATED
    assert price_error(street, outcome, liars) <= 0.05


def test_with_some_loss_nearly_every_street_agrees_near_the_true_price() -> None:
    errors = []
    for seed in range(25):
        street = random_street(seed, homes=12)
        outcome = negotiate(street, Faults(loss=0.05, repeat=0.1), seed)
        if outcome.clearing.rung is Rung.NEGOTIATED:
            errors.append(price_error(street, outcome))

    assert len(errors) >= 24
    assert sorted(errors)[len(errors) * 9 // 10] <= 0.001


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 10),
    st.builds(
        Faults,
        loss=st.sampled_from((0.0, 0.2, 0.9)),
        repeat=st.sampled_from((0.0, 0.5)),
        delay_ms_max=st.sampled_from((1, 400, 3000)),
        silent=st.sampled_from(((), ("h000",))),
        liars=st.sampled_from(((), ("h001",))),
    ),
)
def test_however_bad_the_bus_a_negotiation_ends_and_the_slot_has_a_price(
    seed: int, homes: int, faults: Faults
) -> None:
    street = random_street(seed, homes)

    outcome = negotiate(street, faults, seed)

    assert outcome.finished_ms <= 2 * ROUNDS_MAX * PHASE_MS + faults.delay_ms_max
    assert outcome.excluded <= set(faults.liars)
    standing = TwoLevel(HAIRCUT_PPM).clear(street.book, {}, outcome.excluded)
    assert outcome.clearing.rung is Rung.NEGOTIATED or outcome.clearing == standing


def test_a_run_is_reproducible_by_its_seed() -> None:
    street = random_street(3, homes=9)
    faults = Faults(loss=0.1, repeat=0.1, delay_ms_max=300, liars=["h002"])

    assert negotiate(street, faults, seed=5) == negotiate(street, faults, seed=5)


def test_two_hundred_homes_agree() -> None:
    street = random_street(11, homes=200)
    book = street.book
    member = next(o.member for o in book.orders if o.side is Side.SELL)
    others = sorted((o for o in book.orders if o.member != member), key=lambda o: -o.side)
    one = TwoLevelNegotiator(
        book=book,
        book_digest=DIGEST,
        member=member,
        curve=street.curves[member],
        phase_ms=PHASE_MS,
        deadline_ms=DEADLINE_MS,
    )

    turn = one.start(0)
    while not turn.finished:
        quote = turn.publish[0]
        for order in others:
            energy = street.curves[order.member](quote.price)
            said = msgspec.structs.replace(quote, energy_mwh=energy)
            turn = one.receive(order.member, said, 1)

    assert turn.relay[0] == (member, len(one.trace))
    assert len(turn.relay) in (200, 400)
    assert abs(one.trace[-1][1] - crossing(street)) <= book.band.width // 1000


def test_a_seller_quotes_and_a_buyer_answers_at_the_standing_price() -> None:
    seller, buyer = negotiator(PAIR, H1), negotiator(PAIR, H2)

    quote = seller.start(0).publish
    silence = buyer.start(0).publish
    demand = buyer.receive(H1, quote[0], 1)

    assert quote == (state(1, 190_000, 1_000_000),)
    assert silence == ()
    assert demand.publish == (state(1, 190_000, 1_000_000),)
    assert demand.finished
    assert demand.relay == ((H2, 1), (H1, 1))


def test_early_messages_wait_for_their_round_and_late_ones_still_count() -> None:
    seller = negotiator(PAIR, H1)
    demand = state(1, 190_000, 1_000_000)

    before = seller.receive(H2, demand, 0)
    turn = seller.start(1)

    assert before == Turn()
    assert turn.finished
    assert turn.relay == ((H1, 1), (H2, 1))


@pytest.mark.parametrize(
    ("member", "changes"),
    [
        (H3, {"slot": 8}),
        (H3, {"book_digest": bytes(32)}),
        (H3, {"energy_mwh": 1_000_001}),
        (H3, {"price": 300_001}),
        (H3, {"round": 17}),
        ("stranger", {}),
        (H1, {}),
    ],
)
def test_what_may_not_count_is_ignored(member: str, changes: dict[str, int | bytes]) -> None:
    one, other = negotiator(SCARCE, H1), negotiator(SCARCE, H1)
    one.start(0)
    other.start(0)
    rubbish = msgspec.structs.replace(state(1, 245_000, 1_000_000), **changes)

    assert one.receive(member, rubbish, 1) == Turn()
    for heard in (H2, H3, H4):
        answer = answer_for(SCARCE, heard, state(1, 245_000, 0))
        assert one.receive(heard, answer, 2) == other.receive(heard, answer, 2)
    assert one.evidence == {}
    assert one.trace == other.trace


def test_a_member_that_contradicts_itself_is_evidence_and_counts_for_nothing() -> None:
    one = negotiator(SCARCE, H1)
    one.start(0)
    said, contrary = state(1, 245_000, 500_000), state(1, 245_000, 400_000)
    one.receive(H4, said, 1)
    one.receive(H4, contrary, 2)
    one.receive(H2, answer_for(SCARCE, H2, said), 3)
    turn = one.receive(H3, answer_for(SCARCE, H3, said), 4)

    assert one.evidence == {H4: (said, contrary)}
    assert not turn.finished
    assert one.trace == ((1, 245_000, 1_000_000, 1_500_000),)
    assert turn.publish[0].price < 245_000


def test_what_is_missing_is_asked_for_once_a_phase() -> None:
    one = negotiator(SCARCE, H1)
    one.start(0)
    one.receive(H2, answer_for(SCARCE, H2, state(1, 245_000, 0)), 1)
    one.receive(H4, answer_for(SCARCE, H4, state(1, 245_000, 0)), 1)

    assert one.wake_ms == 1 + PHASE_MS // 2
    assert one.tick(one.wake_ms).want == (245_000, (H3,))
    assert one.wake_ms == 1 + PHASE_MS
    assert one.tick(400) == Turn()


def test_what_the_last_round_lacked_is_asked_for_when_the_next_begins() -> None:
    one = negotiator(SCARCE, H1)
    one.start(0)
    for member in (H2, H4):
        one.receive(member, answer_for(SCARCE, member, state(1, 245_000, 0)), 1)
    one.tick(1 + PHASE_MS // 2)
    turn = one.tick(1 + PHASE_MS)

    assert turn.publish[0].round == 2
    assert turn.want == (245_000, (H3,))


def test_an_answer_that_comes_late_completes_the_last_round() -> None:
    one = negotiator(SCARCE, H1)
    one.start(0)
    for member in (H2, H4):
        one.receive(member, answer_for(SCARCE, member, state(1, 245_000, 0)), 1)
    one.tick(1 + PHASE_MS)
    one.receive(H3, answer_for(SCARCE, H3, state(1, 245_000, 0)), 600)
    one.tick(600 + PHASE_MS)
    turn = one.tick(600 + 2 * PHASE_MS)

    assert turn.finished
    assert turn.relay == ((H1, 1), (H2, 1), (H3, 1), (H4, 1))


@pytest.mark.parametrize(
    ("quotes", "reference"),
    [
        ((240_000, 245_001, 240_000), 240_000),
        ((240_000, 239_000, 246_000), 246_000),
        ((240_000, 244_000, 246_000), 244_000),
    ],
    ids=["most frequent", "nearest to its own", "lower"],
)
def test_who_missed_something_follows_the_quotes(
    quotes: tuple[int, int, int], reference: int
) -> None:
    book = book_of(sells(1, 500), sells(2, 500), sells(3, 500), buys(4, 2000), buys(5, 1000))
    one = negotiator(book, H4)
    one.start(0)
    for member in (H1, H2, H3):
        one.receive(member, answer_for(book, member, state(1, 245_000, 0)), 1)
    one.tick(1 + PHASE_MS)
    for member, price in zip((H1, H2, H3), quotes, strict=True):
        turn = one.receive(member, answer_for(book, member, state(2, price, 0)), 600)

    assert [statement.price for statement in turn.publish] == [reference]


def test_at_the_deadline_a_participant_relays_its_own_last_statement() -> None:
    one = negotiator(SCARCE, H1)
    one.start(0)
    turn = one.tick(DEADLINE_MS)

    assert turn.finished
    assert turn.relay == ((H1, 1),)
    assert one.tick(DEADLINE_MS + 1) == Turn()
    assert one.receive(H3, state(1, 245_000, 1), DEADLINE_MS + 2) == Turn()


def test_alone_on_the_bus_a_participant_stops_after_sixteen_rounds() -> None:
    one = negotiator(SCARCE, H3)
    turn = one.start(0)
    while not turn.finished:
        turn = one.tick(one.wake_ms)

    assert len(one.trace) == ROUNDS_MAX
    assert turn.relay == ((H3, ROUNDS_MAX),)


def test_answers_above_the_ceiling_are_cut_to_it() -> None:
    one = TwoLevelNegotiator(
        book=SCARCE,
        book_digest=DIGEST,
        member=H1,
        curve=lambda _price: 10**9,
        phase_ms=PHASE_MS,
        deadline_ms=DEADLINE_MS,
    )

    assert one.start(0).publish == (state(1, 245_000, 1_000_000),)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_statement_that_a_peer_can_make_raises(data: st.DataObject) -> None:
    book = data.draw(books())
    members = sorted(book.by_member)
    if not members:
        return
    one = negotiator(book, members[0])
    one.start(0)
    now_ms = 0
    for _ in range(data.draw(st.integers(0, 40))):
        now_ms += data.draw(st.sampled_from((0, 1, PHASE_MS)))
        price = data.draw(st.integers(0, book.hi + 1) | st.just(standing_price(book)))
        energy = data.draw(st.sampled_from((0, 1, 1000, 10**6, 10**12)))
        said = state(data.draw(st.integers(1, ROUNDS_MAX)), price, energy)
        one.receive(data.draw(st.sampled_from([*members, "stranger"])), said, now_ms)

    assert len(one.trace) <= ROUNDS_MAX
    assert members[0] not in one.evidence


def test_relays_take_turns_by_a_digest_that_changes_with_the_slot() -> None:
    members = [home(number) for number in range(20)]

    assert sorted(relay_rank(7, members)) == members
    assert relay_rank(7, members) == relay_rank(7, reversed(members))
    assert relay_rank(7, members) != relay_rank(8, members)

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.contracts.quota import Usage
from market.errors import Result
from market.events import ENERGY, INFO, TRADE, Cleared, Event, GateClosed, SlotSettled
from market.exchange import Progress, Submission
from market.orders import Side
from market.payloads import (
    PAYLOADS,
    ContradictionPayload,
    OrderPayload,
    Quality,
    ReadingPayload,
    Source,
    WithdrawalPayload,
)
from market.rules import Quotas, TariffStep
from market.slot import DeadlineKind
from market.state import CALENDAR, read, usage_key
from market.statements import ROUNDS_MAX, Statement
from market.statements_paper import ALPHA_MAX, ROUNDS_MAX_PAPER, SHARES_SUM, PaperStatement
from market.tariffs import Fees, Tariff
from market.units import PPM
from tests.support.street import (
    FIRST,
    HOMES,
    HOUR_MS,
    TradingStreet,
    evidence,
    example_street,
    make_calendar,
    make_rules,
    order,
    reading,
)

OPENING_MS = make_calendar().opening_ms(FIRST)
END_MS = make_calendar().end_ms(FIRST)


# -- refusals


Case = tuple[str, Any, int]
"""Who says what, at which block time."""


def refused(street: TradingStreet) -> dict[Result, tuple[Case, dict[str, Any]]]:
    """Return one operation for every result that the exchange can give."""
    one, two = street.statement(245_000, 1), street.statement(246_000, 1, 2)
    gate_ms, more = street.gate_ms + 1, {"slot": FIRST + 1, "revision": 2}
    buy = order(Side.BUY, 1, **more)
    cases: dict[Result, tuple[Case, dict[str, Any]]] = {
        Result.OK: (("b2", reading(5), END_MS), {}),
        Result.UNKNOWN_KIND: (("b1", buy, gate_ms), {"kind": "gift"}),
        Result.MALFORMED: (("b1", None, gate_ms), {"kind": "order"}),
        Result.WRONG_CHANNEL: (("b1", buy, gate_ms), {"channel": INFO}),
        Result.NOT_A_HOUSEHOLD: (("ghost", buy, gate_ms), {}),
        Result.QUOTA: (("b1", buy, gate_ms), {"size": 40_000}),
        Result.NO_SUCH_SLOT: (("b1", order(Side.BUY, 1, slot=1), gate_ms), {}),
        Result.NOT_OPEN: (("b1", order(Side.BUY, 1, slot=FIRST + 5), gate_ms), {}),
        Result.GATE_CLOSED: (("b1", order(Side.BUY, 1, revision=2), gate_ms), {}),
        Result.STALE_REVISION: (("b1", order(Side.BUY, 1, slot=FIRST + 1), gate_ms), {}),
        Result.NO_ORDER: (("b2", WithdrawalPayload(FIRST + 1, 2), gate_ms), {}),
        Result.EMPTY_ORDER: (("b1", order(Side.BUY, 0, **more), gate_ms), {}),
        Result.ABOVE_CONNECTION: (("b1", order(Side.BUY, 10_001, **more), gate_ms), {}),
        Result.LIMIT_NOT_ALLOWED: (("b1", order(Side.BUY, 1, 1, 1, **more), gate_ms), {}),
        Result.NOT_NEGOTIATING: (("b1", one, street.clearing_ms), {}),
        Result.OTHER_BOOK: (("b1", Statement(FIRST, bytes(32), 1, 1, 1), gate_ms), {}),
        Result.REPEATED: (("b1", reading(5), END_MS), {}),
        Result.SUPERSEDED: (("s1", street.statement(1, 1), gate_ms), {}),
        Result.NO_CONTRADICTION: (("b1", evidence("b1", one, two), gate_ms), {}),
        Result.NOT_DELIVERED_YET: (("b1", reading(5), END_MS - 1), {}),
        Result.SETTLED: (("b1", reading(5), street.settlement_ms), {}),
        Result.BOTH_WAYS: (("b2", reading(5, 5), END_MS), {}),
    }
    return cases


def busy_street() -> TradingStreet:
    """A street where every refusal can happen: an order for the next slot, many statements."""
    street = example_street()
    street.close_gate()
    for price in range(16):
        street.apply("s1", street.statement(100_000 + price, 1, 5), street.gate_ms)
    street.apply("b1", order(Side.BUY, 10, slot=FIRST + 1), street.gate_ms)
    return street


@pytest.mark.parametrize("result", [r for r in Result if r is not Result.NONCE_USED], ids=str)
def test_every_refusal_leaves_the_state_as_it_was_but_for_the_quota(result: Result) -> None:
    street = busy_street()
    (member, payload, time_ms), changes = refused(street)[result]
    street.pass_time(time_ms)
    if result is Result.REPEATED:
        street.apply(member, payload, time_ms)
    before = dict(street.state)

    outcome = street.apply(member, payload, time_ms, **changes)

    assert outcome.result is result
    changed = {key for key in before | street.state if before.get(key) != street.state.get(key)}
    if result is Result.OK:
        assert changed == {usage_key(member), f"reading/{FIRST}/{member}"}
    elif result in {Result.QUOTA, Result.NOT_A_HOUSEHOLD} or isinstance(payload, Statement):
        assert not changed
    else:
        assert changed == {usage_key(member)}
    assert outcome.events == []


def test_unknown_kinds_have_no_payload_and_statements_that_of_the_mechanism() -> None:
    paper = TradingStreet(make_rules(mechanism="two-level-paper"))

    assert TradingStreet().exchange.payload_type("gift") is None
    assert TradingStreet().exchange.payload_type("statement") is Statement
    assert paper.exchange.payload_type("statement") is PaperStatement
    assert TradingStreet().exchange.payload_type("order") is OrderPayload


# -- the quota


def used(street: TradingStreet, member: str) -> Usage | None:
    return read(street, usage_key(member), Usage)


def test_beyond_the_quota_nothing_is_taken_until_the_time_of_the_next_slot() -> None:
    street = TradingStreet(make_rules(quotas=Quotas(operations=3, operation_bytes=32_768)))

    def amend(revision: int, time_ms: int) -> Result:
        return street.apply("b1", order(Side.BUY, 9, revision=revision), time_ms).result

    next_ms = (OPENING_MS // HOUR_MS + 1) * HOUR_MS
    assert [amend(revision, OPENING_MS) for revision in (1, 2, 3, 4)] == [
        *(Result.OK,) * 3,
        Result.QUOTA,
    ]
    assert [amend(5, next_ms - 1), amend(6, next_ms)] == [Result.QUOTA, Result.OK]


def test_a_flood_of_refused_operations_uses_up_the_quota_too() -> None:
    street = TradingStreet()
    rubbish = [
        ("b1", order(Side.BUY, 0), {}),
        ("b1", None, {"kind": "order"}),
        ("b1", None, {"kind": "gift"}),
        ("b1", reading(1), {}),
    ]

    results = [
        street.apply(member, payload, OPENING_MS, **changes).result
        for member, payload, changes in rubbish * 5
    ]

    assert Result.QUOTA not in results[:16]
    assert results[16:] == [Result.QUOTA] * 4
    assert street.apply("b1", order(Side.BUY, 9), OPENING_MS).result is Result.QUOTA
    assert used(street, "b1") == Usage(OPENING_MS // HOUR_MS, 16, 16 * 200)


def test_bytes_count_as_well_as_operations() -> None:
    street = TradingStreet()

    results = [
        street.apply("b1", order(Side.BUY, 9, revision=n), OPENING_MS, size=10_922).result
        for n in (1, 2, 3, 4)
    ]

    assert results == [*(Result.OK,) * 3, Result.QUOTA]


def test_the_quota_of_one_member_is_not_that_of_another() -> None:
    street = TradingStreet()
    for _ in range(20):
        street.apply("b1", order(Side.BUY, 0), OPENING_MS)

    assert street.apply("b2", order(Side.BUY, 9), OPENING_MS).result is Result.OK


def test_the_record_of_a_quota_does_not_grow_with_slots() -> None:
    street = TradingStreet(make_rules(calendar=make_calendar(count=0)))

    for slot in range(10):
        street.apply("b1", order(Side.BUY, 0, slot=FIRST + 10**6 * slot), OPENING_MS + slot)

    assert [key for key in street.state if key.startswith("usage/")] == [usage_key("b1")]


# -- deadlines


def progress(street: TradingStreet) -> Progress:
    found = read(street, CALENDAR, Progress)
    assert found is not None
    return found


def run_order(events: list[Event]) -> list[tuple[int, DeadlineKind]]:
    kinds: dict[type[Any], DeadlineKind] = {
        GateClosed: DeadlineKind.GATE,
        Cleared: DeadlineKind.CLEARING,
        SlotSettled: DeadlineKind.SETTLEMENT,
    }
    return [
        (event.payload.slot, kinds[type(event.payload)])
        for event in events
        if type(event.payload) in kinds
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gate_ms": 3 * HOUR_MS, "opens_ms": 5 * HOUR_MS, "clearing_ms": 2 * HOUR_MS},
        {"settlement_ms": 1, "clearing_ms": 1},
        {"settlement_ms": 5 * HOUR_MS},
    ],
    ids=["as usual", "gates hours ahead", "at once", "settled late"],
)
def test_a_late_block_runs_every_deadline_by_time_slot_and_kind(changes: dict[str, int]) -> None:
    street = TradingStreet(make_rules(calendar=make_calendar(count=5, **changes)))
    calendar = street.rules.calendar
    due = sorted(
        calendar.deadline(slot, kind) for slot in range(FIRST, FIRST + 5) for kind in DeadlineKind
    )

    events = street.run_until(due[-1].time_ms)

    assert run_order(events) == [(each.slot, each.kind) for each in due]


def test_a_deadline_runs_in_the_block_of_exactly_its_time() -> None:
    street = TradingStreet()

    before, at = street.run_until(street.gate_ms - 1), street.run_until(street.gate_ms)

    assert (run_order(before), run_order(at)) == ([], [(FIRST, DeadlineKind.GATE)])


def test_after_the_last_slot_nothing_is_due() -> None:
    street = TradingStreet(make_rules(calendar=make_calendar(count=2)))

    street.pass_time(END_MS + 9 * HOUR_MS)

    assert street.exchange.next_deadline(street) is None
    assert progress(street) == Progress(FIRST + 2, FIRST + 2, FIRST + 2)
    assert street.apply("b1", order(Side.BUY, 1), END_MS).result is Result.GATE_CLOSED


def test_an_endless_calendar_always_has_a_next_deadline() -> None:
    street = TradingStreet(make_rules(calendar=make_calendar(count=0)))

    street.run_until(END_MS + 100 * HOUR_MS)

    deadline = street.exchange.next_deadline(street)
    assert deadline is not None
    assert deadline.time_ms > END_MS + 100 * HOUR_MS


def test_settled_slots_leave_one_key_each_and_nothing_else() -> None:
    street = TradingStreet()
    for slot in range(FIRST, FIRST + 24):
        for member, side in (("b1", Side.BUY), ("s1", Side.SELL)):
            street.order(member, side, 500, slot=slot)
        street.negotiate(slot)
        street.clear(slot)
        street.meter("b1", 500, slot=slot)
    street.settle(FIRST + 23)

    left = {key.split("/")[0] for key in street.state if len(key.split("/")) > 1}
    assert left == {"household", "account", "claim", "usage", "closed"}
    assert len([key for key in street.state if key.startswith("closed/")]) == 24


# -- determinism


def day_of(street: TradingStreet, reorder: Callable[[list[Any]], list[Any]]) -> TradingStreet:
    """Trade the first worked example with the operations inside each block reordered."""
    orders = {"s1": (Side.SELL, 1000), "s2": (Side.SELL, 500), "b1": (Side.BUY, 2000)}
    for member in reorder(list(orders)):
        street.order(member, *orders[member])
    record = street.close_gate()
    energies = {"s1": 500_000, "s2": 250_000, "b1": 750_000}
    for member in reorder(list(energies)):
        statement = Statement(FIRST, record.digest, 1, 190_000, energies[member])
        street.apply(member, statement, street.gate_ms + 1)
    street.clear()
    readings = {"s1": (0, 900), "s2": (0, 600), "b1": (2100, 0), "b2": (77, 0)}
    for member in reorder(list(readings)):
        street.meter(member, *readings[member])
    street.settle()
    return street


def test_the_same_operations_give_the_same_writes() -> None:
    first, second = (day_of(TradingStreet(), list) for _ in range(2))

    assert first.state == second.state
    assert first.events == second.events


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_sequence_of_members_inside_a_block_does_not_matter(random: Any) -> None:
    def shuffled(values: list[Any]) -> list[Any]:
        random.shuffle(values)
        return values

    usual, other = day_of(TradingStreet(), list), day_of(TradingStreet(), shuffled)

    assert other.state == usual.state
    assert other.events == usual.events
    assert any(isinstance(e.payload, Cleared) and e.payload.rounds for e in usual.events)


def test_the_sequence_of_households_in_genesis_does_not_matter() -> None:
    turned = TradingStreet(make_rules(tuple(reversed(HOMES))))

    usual, other = day_of(TradingStreet(), list), day_of(turned, list)

    assert other.state == usual.state
    assert other.events == usual.events


# -- whatever is ordered

NUMBERS = st.one_of(st.sampled_from((0, 1, 2, 80_000, 107_500, 245_000, 300_000)), st.integers(0))
SLOTS = st.one_of(
    st.integers(FIRST, FIRST + 1),
    st.sampled_from((0, FIRST - 1, FIRST + 2, FIRST + 3, FIRST + 24, 2**53)),
)


def bounded(low: int, high: int) -> st.SearchStrategy[int]:
    return st.one_of(
        st.sampled_from((low, high)),
        st.integers(low, min(high, low + 3000)),
        st.integers(low, high),
    )


MOMENTS = st.builds(
    lambda deadline_ms, off: deadline_ms + off,
    st.sampled_from(
        [OPENING_MS, FIRST * HOUR_MS, END_MS]
        + [make_calendar().deadline(s, k).time_ms for s in (FIRST, FIRST + 1) for k in DeadlineKind]
    ),
    st.sampled_from((-1, 0, 1, 60_000, 600_000)),
)


def some_statement(digest: bytes, type_: type[Any]) -> st.SearchStrategy[Any]:
    digests = st.sampled_from((digest, digest, digest, bytes(32)))
    price = st.one_of(bounded(0, 10**12), st.sampled_from((190_000, 245_000)))
    energy = st.one_of(bounded(0, 10**12), st.sampled_from((500_000, 1_000_000)))
    if type_ is Statement:
        return st.builds(Statement, SLOTS, digests, bounded(1, ROUNDS_MAX), price, energy)
    prices = st.one_of(st.tuples(price, price), st.lists(price, min_size=1).map(tuple))
    energies = st.lists(energy, max_size=3).map(tuple)
    shares = st.one_of(
        st.integers(0, SHARES_SUM).map(lambda share: (share, SHARES_SUM - share)),
        st.lists(bounded(0, SHARES_SUM), max_size=3).map(tuple),
    )
    alpha = bounded(0, ALPHA_MAX)
    return st.builds(
        PaperStatement,
        SLOTS,
        digests,
        bounded(1, ROUNDS_MAX_PAPER),
        prices,
        energies,
        shares,
        alpha,
    )


@cache
def some_payload(digest: bytes, type_: Any) -> st.SearchStrategy[Any]:
    energy, revision = bounded(0, 10**9), bounded(1, 10**6)
    limits = st.one_of(bounded(0, 10**12), st.integers(0, 8).map(lambda e: 80_000 + e * 27_500))
    small, near, price = st.integers(0, 5000), st.integers(FIRST, FIRST + 1), bounded(0, 10**6)
    statements = some_statement(digest, type_)
    rubbish = st.binary(max_size=9)
    qualities, sources = st.sampled_from(Quality), st.sampled_from(Source)
    return st.one_of(
        st.builds(OrderPayload, SLOTS, revision, bounded(0, 1), energy, energy, limits),
        st.builds(order, st.sampled_from(Side), small, slot=near, revision=st.integers(2, 9)),
        st.builds(
            order,
            *(st.sampled_from(Side), small, small, limits),
            slot=near,
            revision=st.integers(2, 9),
        ),
        st.builds(WithdrawalPayload, SLOTS, revision),
        st.builds(ReadingPayload, SLOTS, energy, energy, qualities, sources),
        st.builds(reading, small, slot=near),
        statements,
        st.builds(Statement, st.just(FIRST), st.just(digest), st.integers(1, 16), limits, price)
        if type_ is Statement
        else statements,
        st.builds(evidence, st.sampled_from((*HOMES, "ghost")), statements, statements),
        st.builds(ContradictionPayload, rubbish, rubbish),
    )


def tariffs(retail: int, feed_in: int) -> tuple[TariffStep, ...]:
    return (TariffStep(0, Tariff(retail, feed_in)),)


STREETS: dict[str, dict[str, Any]] = {
    "open band": {},
    "no fees, equal prices": {"tariffs": tariffs(80_000, 80_000)},
    "almost open": {"tariffs": tariffs(80_999, 80_000)},
    "negative band": {"tariffs": tariffs(0, 300_000)},
    "grid fees above retail": {"fees": Fees(PPM - 1, PPM - 1, 400_000, 400_000)},
    "as in the paper": {"mechanism": "two-level-paper"},
    "three slots": {"calendar": make_calendar(count=3)},
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(STREETS)), st.data())
def test_no_payload_at_any_time_raises_or_breaks_the_books(name: str, data: st.DataObject) -> None:
    changes = STREETS[name]
    street = example_street(make_rules(**changes))
    digest = street.close_gate().digest
    street = example_street(make_rules(**changes))
    type_: Any = street.exchange.mechanism.statement_type
    for time_ms in sorted(data.draw(st.lists(MOMENTS, min_size=5, max_size=25))):
        member = data.draw(st.sampled_from((*HOMES, *HOMES, "ghost")))
        payload = data.draw(some_payload(digest, type_))
        kind = data.draw(st.sampled_from((*(None,) * 20, *PAYLOADS, "statement", "gift")))
        street.run_until(time_ms)
        submission = street.submission(member, payload)
        if kind is not None:
            submission = dataclasses.replace(submission, kind=kind, payload=None)
        outcome = street.exchange.apply(street, submission, time_ms)
        street._write(outcome.writes)
        assert isinstance(outcome.result, Result)
        assert outcome.result is Result.OK or set(outcome.writes) <= {usage_key(member)}
    street.run_until(END_MS + 3 * HOUR_MS)

    assert sum(street.balances().values()) == 0


def test_a_submission_says_its_channel() -> None:
    street = TradingStreet()

    submissions: list[Submission] = [
        street.submission("b1", order(Side.BUY, 1)),
        street.submission("b1", reading(1)),
    ]

    assert [each.channel for each in submissions] == [TRADE, ENERGY]

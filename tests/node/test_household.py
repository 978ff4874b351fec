"""What a home decides: pure, by time, blocks and statements; no bus, no disk, no clock."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.contracts.matching import BookRecord
from market.negotiation.presets import Preset
from market.negotiation.protocol import Turn
from market.negotiation.registry import negotiator_of
from market.negotiation.two_level import relay_rank
from market.orders import Book, Side
from market.payloads import OrderPayload, ReadingPayload, WithdrawalPayload
from market.rules import Rules, TariffStep
from market.slot import DeadlineKind
from market.state import book_key, order_key
from market.statements import Statement
from market.tariffs import Tariff
from node.assets.device import Battery, Device
from node.assets.home import SimulatedHome
from node.household import NEVER_MS, ORDERING_PARTS, Actions, Convict, Household, Relay, Submit
from node.streets.street import HomeProfile
from tests.support.street import FIRST, HOUR_MS, TradingStreet, make_calendar, make_rules

HOMES = ("b1", "b2", "s1", "s2")
SLOTS = 6
MINUTE_MS = 60_000
LOAD_WH = (1000, 2000, 3000, 4000, 5000, 6000)
DARK = (0,) * SLOTS
BATTERY = Battery(
    label="battery", capacity_wh=6000, power_w=3000, efficiency_ppm=900_000, wear_micro_per_kwh=0
)


def rules_of(**changes: Any) -> Rules:
    calendar = make_calendar(count=SLOTS)
    return make_rules(HOMES, **({"calendar": calendar} | changes))


def opening_ms(index: int = 0) -> int:
    return make_calendar().opening_ms(FIRST + index)


def deadline_ms(kind: DeadlineKind, index: int = 0) -> int:
    return make_calendar().deadline(FIRST + index, kind).time_ms


def end_ms(index: int = 0) -> int:
    return make_calendar().end_ms(FIRST + index)


GATE_MS, CLEARING_MS, SETTLEMENT_MS = (deadline_ms(kind) for kind in DeadlineKind)


@dataclass(slots=True)
class ScriptedNegotiator:
    """Says what a test has written down, and remembers what it was told."""

    book: BookRecord
    member: str
    curve: Callable[[int], int]
    deadline_ms: int
    turns: list[Turn] = field(default_factory=list)
    told: list[tuple[str, Any]] = field(default_factory=list)
    evidence: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    wake_ms: int = NEVER_MS
    trace: tuple[tuple[int, int, int, int], ...] = ()

    def start(self, now_ms: int) -> Turn:
        self.told.append(("start", now_ms))
        return self._next()

    def receive(self, member: str, statement: Any, now_ms: int) -> Turn:  # noqa: ARG002 - a negotiator's signature
        self.told.append((member, statement))
        return self._next()

    def tick(self, now_ms: int) -> Turn:
        self.told.append(("tick", now_ms))
        return self._next()

    def _next(self) -> Turn:
        return self.turns.pop(0) if self.turns else Turn()


class House:
    """One household, and the exchange that takes what it submits."""

    def __init__(
        self,
        member: str = "b1",
        *,
        load_wh: tuple[int, ...] = LOAD_WH,
        pv_wh: tuple[int, ...] = DARK,
        device: Device | None = None,
        rules: Rules | None = None,
        street: TradingStreet | None = None,
        resumed: bytes | None = None,
        joined_ms: int = 0,
        negotiator: Callable[..., Any] | None = None,
        preset: Preset = Preset.BALANCED,
    ) -> None:
        self.street = street or TradingStreet(rules or rules_of())
        self.member = member
        self.talks: list[ScriptedNegotiator] = []
        self.turns: list[Turn] = []
        self.home = SimulatedHome(
            profile=HomeProfile(member, load_wh, pv_wh), seed=1, device=device
        )
        self.household = Household(
            member=member,
            rules=self.street.rules,
            view=self.street,
            home=self.home,
            preset=preset,
            make_negotiator=negotiator or self._scripted,
            resumed=resumed,
            joined_ms=joined_ms,
        )

    def tick(self, now_ms: int) -> Actions:
        """Let time come; what is submitted is executed at once."""
        return self.take(self.household.tick(now_ms), now_ms)

    def take(self, actions: Actions, now_ms: int) -> Actions:
        for submit in actions.submit:
            outcome = self.street.apply(self.member, submit.payload, now_ms)
            assert outcome.result == "ok", (submit, outcome.result)
        return actions

    def gate_closed(self, now_ms: int = GATE_MS, heard: Any = ()) -> Actions:
        self.street.run_until(GATE_MS)
        return self.household.gate_closed(FIRST, heard, now_ms)

    def cleared(self, traded_wh: int, index: int = 0) -> Actions:
        now_ms = deadline_ms(DeadlineKind.CLEARING, index)
        self.street.run_until(now_ms)
        return self.household.cleared(FIRST + index, traded_wh, None, now_ms)

    def forecast_wh(self, index: int = 0) -> int:
        forecast = self.home.forecast(index)
        return forecast.load_wh - forecast.pv_wh

    def _scripted(
        self,
        *,
        book: Book,
        book_digest: bytes,
        member: str,
        curve: Callable[[int], int],
        phase_ms: int,  # noqa: ARG002 - a factory's signature
        deadline_ms: int,
    ) -> ScriptedNegotiator:
        record = BookRecord(book, book_digest)
        talk = ScriptedNegotiator(record, member, curve, deadline_ms, turns=self.turns)
        self.talks.append(talk)
        return talk


def orders(actions: Actions) -> list[OrderPayload]:
    return [each.payload for each in actions.submit if isinstance(each.payload, OrderPayload)]


def readings(actions: Actions) -> list[ReadingPayload]:
    return [each.payload for each in actions.submit if isinstance(each.payload, ReadingPayload)]


def stated(house: House, round_number: int = 1, price: int = 200_000) -> Statement:
    record = msgspec.msgpack.decode(house.street.state[book_key(FIRST)], type=BookRecord)
    return Statement(FIRST, record.digest, round_number, price, 1)


def with_neighbours(house: House) -> House:
    """Give the book of the first slot both sides."""
    house.street.order("s1", Side.SELL, 700)
    house.street.order("b2", Side.BUY, 300)
    return house


def negotiating(house: House | None = None, **changes: Any) -> House:
    """Return a house that has ordered and whose gate is about to close."""
    house = with_neighbours(house or House(**changes))
    house.tick(opening_ms())
    house.tick(GATE_MS - 1)
    return house


# -- orders ----------------------------------------------------------------------------------------


def test_order_is_made_when_the_slot_opens_and_not_before() -> None:
    house = House()
    assert house.household.wake_ms == opening_ms()
    assert house.tick(opening_ms() - 1).submit == []

    (order,) = orders(house.tick(opening_ms()))

    assert (order.slot, order.revision, order.side) == (FIRST, 1, Side.BUY)
    assert (order.firm_wh, order.flexible_wh) == (house.forecast_wh(), 0)
    assert house.household.wake_ms == opening_ms(1)


def test_order_is_not_made_again_while_nothing_changes() -> None:
    house = House()
    house.tick(opening_ms())
    for minute in range(1, 40):
        assert house.tick(opening_ms() + minute * MINUTE_MS).submit == []


def test_home_with_surplus_sells() -> None:
    house = House("s1", load_wh=DARK, pv_wh=LOAD_WH)
    (order,) = orders(house.tick(opening_ms()))
    assert (order.side, order.firm_wh) == (Side.SELL, -house.forecast_wh())


def test_home_without_need_and_surplus_orders_nothing() -> None:
    assert House(load_wh=DARK).tick(opening_ms()).submit == []


def test_home_that_comes_late_orders_what_is_still_open() -> None:
    now_ms = GATE_MS + 20 * MINUTE_MS
    house = House(joined_ms=now_ms)
    made = orders(house.tick(now_ms))
    assert [each.slot for each in made] == [FIRST + 1]


@pytest.mark.parametrize("late_ms", [0, 1])
def test_no_order_is_made_once_the_gate_has_closed(late_ms: int) -> None:
    house = House()
    made = orders(house.tick(GATE_MS + late_ms))
    assert FIRST not in [each.slot for each in made]


def test_nothing_is_ordered_beyond_the_last_slot() -> None:
    house = House()
    made = [
        order.slot
        for index in range(SLOTS + 3)
        for order in orders(house.household.tick(opening_ms(index)))
    ]
    assert made == [FIRST + index for index in range(SLOTS)]


@pytest.mark.parametrize(("side", "member"), [(Side.BUY, "b1"), (Side.SELL, "s1")])
def test_order_never_exceeds_the_connection(side: Side, member: str) -> None:
    huge = (30_000,) * SLOTS
    house = House(
        member,
        load_wh=huge if side is Side.BUY else DARK,
        pv_wh=DARK if side is Side.BUY else huge,
        device=BATTERY,
    )
    (order,) = orders(house.tick(opening_ms()))
    assert order.side == side
    assert order.firm_wh + order.flexible_wh == 10_000


def test_tariff_that_holds_for_many_slots_is_understood() -> None:
    tariffs = (TariffStep(0, Tariff(300_000, 80_000)), TariffStep(FIRST + 3, Tariff(900_000, 0)))
    house = House(rules=rules_of(tariffs=tariffs), device=BATTERY)
    (order,) = orders(house.tick(opening_ms()))
    assert order.flexible_wh > 0


SUNNY = (4000, 0, 0, 0, 0, 0)
EVENING = (0, 500, 500, 0, 0, 0)


def sunny(**changes: Any) -> House:
    """Return a home that has its sun now and its need in the slots after."""
    return House("s1", load_wh=EVENING, pv_wh=SUNNY, device=BATTERY, **changes)


def test_storable_surplus_is_offered_with_a_limit() -> None:
    (order,) = orders(sunny().tick(opening_ms()))
    assert order.side == Side.SELL
    assert order.flexible_wh > 500
    assert order.flexible_limit > 80_000


def test_order_is_withdrawn_when_the_battery_will_serve_the_slot() -> None:
    house = sunny()
    house.tick(opening_ms())
    (second,) = orders(house.tick(opening_ms(1)))
    assert (second.slot, second.firm_wh) == (FIRST + 1, house.forecast_wh(1))

    actions = house.take(house.cleared(traded_wh=0), CLEARING_MS)

    assert actions.submit == [Submit("withdraw", FIRST + 1, WithdrawalPayload(FIRST + 1, 2))]


def test_order_is_amended_when_the_clearing_has_changed_the_battery() -> None:
    house = sunny()
    (first,) = orders(house.tick(opening_ms()))
    (second,) = orders(house.tick(opening_ms(1)))
    sold_wh = first.firm_wh + first.flexible_wh - 300

    (amended,) = orders(house.take(house.cleared(traded_wh=sold_wh), CLEARING_MS))

    assert (amended.slot, amended.revision) == (FIRST + 1, 2)
    assert amended.firm_wh == second.firm_wh - 270


def test_clearing_that_changes_nothing_amends_nothing() -> None:
    house = sunny()
    (first,) = orders(house.tick(opening_ms()))
    house.tick(opening_ms(1))
    assert house.cleared(traded_wh=first.firm_wh + first.flexible_wh).submit == []


def test_home_without_a_device_never_amends() -> None:
    house = House()
    house.tick(opening_ms(1))
    assert house.cleared(traded_wh=100).submit == []


def test_surplus_worth_more_than_anybody_would_pay_is_stored_and_not_given_away() -> None:
    # Stored for the evening a kWh is worth 283500: between retail and an eighth of the band below.
    tariffs = (TariffStep(0, Tariff(300_000, 80_000)), TariffStep(FIRST + 1, Tariff(315_000, 0)))
    house = sunny(rules=rules_of(tariffs=tariffs))
    (order,) = orders(house.tick(opening_ms()))
    assert order.flexible_wh == 0

    house.cleared(traded_wh=order.firm_wh)
    actions = house.household.tick(end_ms())

    stored_wh = msgspec.msgpack.decode(actions.state or b"")[1]
    assert stored_wh >= house.forecast_wh(1) + house.forecast_wh(2) - 2


def test_amendment_after_a_restart_is_numbered_above_what_stands() -> None:
    before = House()
    before.tick(opening_ms())
    after = House(street=before.street, load_wh=(1500, *LOAD_WH[1:]), joined_ms=opening_ms() + 1)
    (order,) = orders(after.tick(opening_ms() + 1))
    assert (order.slot, order.revision) == (FIRST, 2)


# -- what is traded becomes what the device does ---------------------------------------------------


def test_amendment_that_comes_too_late_does_not_count() -> None:
    house = sunny()
    (first,) = orders(house.tick(opening_ms()))
    (second,) = orders(house.tick(opening_ms(1)))
    (withdrawal,) = house.cleared(traded_wh=first.firm_wh).submit
    assert withdrawal.kind == "withdraw"

    # The chain never saw the withdrawal, and sold what was ordered first.
    house.cleared(traded_wh=second.firm_wh, index=1)
    house.household.tick(end_ms(1))


def test_negotiation_is_about_the_order_in_the_book_not_about_a_late_amendment() -> None:
    house = with_neighbours(House("b1", device=BATTERY, load_wh=(500, 0, 4000, 0, 0, 0)))
    (first,) = orders(house.tick(opening_ms()))
    later = replace(house.home.profile, load_wh=(100, 0, 0, 0, 0, 0))
    house.household._home = replace(house.home, profile=later)
    amended = Actions()
    house.household._order(FIRST, opening_ms() + 1, amended)
    assert [each.firm_wh for each in orders(amended)] != [first.firm_wh]

    house.gate_closed()

    (talk,) = house.talks
    assert talk.curve(80_001) == (first.firm_wh + first.flexible_wh) * 1000
    house.cleared(traded_wh=first.firm_wh + first.flexible_wh)
    assert house.household._actions[FIRST].charge_wh == first.flexible_wh


def test_bought_flexible_energy_is_charged() -> None:
    house = House("b1", device=BATTERY, load_wh=(500, 0, 4000, 0, 0, 0))
    (order,) = orders(house.tick(opening_ms()))
    assert order.flexible_wh > 0
    house.cleared(traded_wh=order.firm_wh + order.flexible_wh)

    actions = house.household.tick(end_ms())

    (reading,) = readings(actions)
    assert reading.import_wh == 500 + order.flexible_wh
    assert msgspec.msgpack.decode(actions.state or b"") == [
        FIRST,
        order.flexible_wh * 900_000 // 1_000_000,
    ]


def test_device_follows_the_plan_although_the_order_never_got_through() -> None:
    house = sunny()
    (order,) = orders(house.household.tick(opening_ms()))
    assert order_key(FIRST, "s1") not in house.street.state

    house.cleared(traded_wh=0)

    assert house.household._actions[FIRST].charge_wh == order.flexible_wh


def test_trade_of_an_order_that_is_not_known_here_moves_no_device() -> None:
    house = sunny()
    house.street.order("s1", Side.SELL, 900)
    house.cleared(traded_wh=900)
    assert FIRST not in house.household._actions


# -- negotiation -----------------------------------------------------------------------------------


def test_negotiation_begins_with_the_gate_block_and_leaves_time_to_order() -> None:
    house = negotiating()
    first = Statement(FIRST, bytes(32), 1, 200_000, 1)
    house.turns.append(Turn(publish=(first,)))

    actions = house.gate_closed(GATE_MS + 5)

    (talk,) = house.talks
    assert talk.told == [("start", GATE_MS + 5)]
    assert talk.deadline_ms == CLEARING_MS - (CLEARING_MS - GATE_MS) // ORDERING_PARTS
    assert actions.publish == [first]


def test_statements_heard_before_the_gate_block_are_used_after_the_start() -> None:
    house = negotiating()
    house.street.run_until(GATE_MS)
    own, answer = stated(house), stated(house, 2)
    house.turns += [Turn(publish=(own,)), Turn(), Turn(publish=(answer,))]
    early = [("s1", stated(house)), ("b2", stated(house, 2))]

    actions = house.gate_closed(heard=early)

    assert house.talks[0].told == [("start", GATE_MS), *early]
    assert actions.publish == [own, answer]


def test_statement_reaches_the_negotiation_of_its_slot_only() -> None:
    house = negotiating()
    house.gate_closed()
    statement = stated(house)
    house.household.hear("s1", statement, GATE_MS + 1)
    other = msgspec.structs.replace(statement, slot=FIRST + 1)

    assert house.household.hear("s1", other, GATE_MS + 1) == Actions()
    assert house.talks[0].told[1:] == [("s1", statement)]


def test_wish_and_trace_are_handed_on() -> None:
    house = negotiating()
    house.turns.append(Turn(want=(200_000, ("s1",))))
    assert house.gate_closed().want == [(FIRST, 200_000, ("s1",))]

    house.talks[0].trace = ((1, 2, 3, 4),)
    house.turns.append(Turn(finished=True))
    assert house.household.hear("s1", stated(house), GATE_MS + 1).traces == [(FIRST, 1, 2, 3, 4)]


def test_home_restarted_after_gate_closure_stays_out_of_that_negotiation() -> None:
    before = negotiating()
    after = House(street=before.street, joined_ms=GATE_MS + 1)
    after.gate_closed(GATE_MS + 2)
    assert after.talks == []


def test_home_restarted_before_gate_closure_takes_part() -> None:
    before = negotiating()
    after = House(street=before.street, joined_ms=GATE_MS - 1)
    after.tick(GATE_MS - 1)
    after.gate_closed()
    assert len(after.talks) == 1


def test_gate_block_that_comes_after_the_clearing_deadline_starts_nothing() -> None:
    house = negotiating()
    house.gate_closed(CLEARING_MS)
    assert house.talks == []


def test_home_without_an_order_does_not_negotiate() -> None:
    house = with_neighbours(House(load_wh=DARK))
    house.tick(opening_ms())
    house.gate_closed()
    assert house.talks == []


def test_there_is_no_negotiation_without_a_market() -> None:
    house = House()
    house.tick(opening_ms())
    house.gate_closed()
    assert house.talks == []


def test_finished_negotiation_hears_no_more() -> None:
    house = negotiating()
    house.turns.append(Turn(finished=True))
    house.gate_closed()
    told = list(house.talks[0].told)
    house.household.hear("s1", stated(house), GATE_MS + 1)
    house.household.tick(GATE_MS + 2)
    assert house.talks[0].told == told


def test_cleared_slot_is_not_negotiated_any_more() -> None:
    house = negotiating()
    house.gate_closed()
    house.cleared(traded_wh=0)
    assert house.household.hear("s1", stated(house), CLEARING_MS + 1) == Actions()


GROUP = (("b1", 2), ("b2", 1), ("s1", 2))


def finished(house: House) -> Actions:
    """Let a negotiation end with a group of three statements."""
    house.turns.append(Turn(finished=True, relay=GROUP))
    return house.gate_closed()


def test_own_statement_is_relayed_at_once_and_others_by_rank() -> None:
    house = negotiating()
    rank = relay_rank(FIRST, ("b1", "b2", "s1")).index("b1")
    due_ms = GATE_MS + (rank + 1) * house.street.rules.relay_step_ms

    assert finished(house).relay == [Relay(FIRST, "b1", 2)]
    assert house.household.wake_ms == due_ms
    assert house.household.tick(due_ms - 1).relay == []
    assert house.household.tick(due_ms).relay == [Relay(FIRST, "b2", 1), Relay(FIRST, "s1", 2)]
    assert house.household.tick(due_ms + 1).relay == []
    assert house.household.wake_ms > due_ms


def test_every_member_relays_in_its_own_turn() -> None:
    due = set()
    for member in ("b1", "b2"):
        house = House(member)
        house.street.order("s1", Side.SELL, 700)
        other = "b2" if member == "b1" else "b1"
        house.street.order(other, Side.BUY, 300)
        house.tick(opening_ms())
        house.tick(GATE_MS - 1)
        house.turns.append(Turn(finished=True, relay=GROUP))
        house.gate_closed()
        due.add(house.household.wake_ms)
    assert len(due) == 2


def test_only_what_the_chain_lacks_is_relayed() -> None:
    house = negotiating()
    finished(house)
    statement = stated(house, 2)
    assert house.street.apply("s1", statement, GATE_MS + 1).result == "ok"
    earlier = stated(house, 2)
    assert house.street.apply("b2", earlier, GATE_MS + 1).result == "ok"

    relayed = house.household.tick(house.household.wake_ms).relay

    assert relayed == [Relay(FIRST, "b2", 1)]


def test_nothing_is_relayed_once_the_slot_is_cleared() -> None:
    house = negotiating()
    finished(house)
    due_ms = house.household.wake_ms
    house.street.run_until(CLEARING_MS)
    assert house.household.tick(due_ms).relay == []


def test_contradiction_is_brought_to_the_chain_once() -> None:
    house = negotiating()
    house.gate_closed()
    pair = (stated(house), stated(house, price=210_000))
    house.talks[0].evidence = {"s1": pair}

    actions = house.household.hear("s1", pair[1], GATE_MS + 1)

    assert actions.convict == [Convict(FIRST, "s1", *pair)]
    assert house.household.hear("s1", pair[1], GATE_MS + 2).convict == []


# -- delivery --------------------------------------------------------------------------------------


def test_meter_is_read_once_after_delivery() -> None:
    house = House(joined_ms=end_ms() - 1)
    assert readings(house.household.tick(end_ms() - 1)) == []
    (reading,) = readings(house.household.tick(end_ms()))
    assert (reading.slot, reading.import_wh, reading.export_wh) == (FIRST, LOAD_WH[0], 0)
    assert readings(house.household.tick(end_ms() + 1)) == []


def test_export_is_read_as_export() -> None:
    house = House("s1", load_wh=DARK, pv_wh=LOAD_WH)
    (reading,) = readings(house.household.tick(end_ms()))
    assert (reading.import_wh, reading.export_wh) == (0, LOAD_WH[0])


def test_restarted_home_goes_on_with_the_slot_after_the_last_delivered() -> None:
    before = House(device=BATTERY)
    state = before.household.tick(end_ms()).state
    after = House(device=BATTERY, resumed=state, joined_ms=end_ms() + 1)

    actions = after.household.tick(end_ms(1))

    assert [each.slot for each in readings(actions)] == [FIRST + 1]


def test_restarted_home_knows_what_its_battery_holds() -> None:
    before = sunny()
    (order,) = orders(before.tick(opening_ms()))
    before.cleared(traded_wh=order.firm_wh)
    state = before.household.tick(end_ms()).state
    assert state is not None
    after = sunny(resumed=state, joined_ms=end_ms())
    assert isinstance(after.household._device, Battery)
    assert after.household._device.stored_wh == msgspec.msgpack.decode(state)[1] > 0


def test_reading_that_the_chain_has_is_not_submitted_again() -> None:
    before = House()
    before.tick(end_ms())
    after = House(street=before.street, joined_ms=end_ms() + 1)
    assert readings(after.household.tick(end_ms() + 1)) == []


def test_home_that_was_away_reports_what_is_not_settled_yet() -> None:
    house = House(joined_ms=end_ms(3))
    actions = house.household.tick(end_ms(3) + 1)
    assert [each.slot for each in readings(actions)] == [FIRST + 3]
    assert actions.state is not None
    assert msgspec.msgpack.decode(actions.state)[0] == FIRST + 3


def test_after_the_last_slot_there_is_nothing_to_do() -> None:
    house = House()
    house.household.tick(end_ms(SLOTS - 1))
    assert house.household.wake_ms == NEVER_MS
    assert house.household.tick(NEVER_MS - 1) == Actions()


# -- no busy loop ----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    mechanism=st.sampled_from(["two-level", "two-level-paper"]),
    late_ms=st.integers(0, 40 * MINUTE_MS),
    oversleep_ms=st.lists(st.integers(0, 5 * MINUTE_MS), min_size=1, max_size=5),
    joined_ms=st.integers(opening_ms() - HOUR_MS, end_ms(2)),
)
def test_home_never_wants_to_be_woken_in_the_past(
    mechanism: str, late_ms: int, oversleep_ms: list[int], joined_ms: int
) -> None:
    house = House(
        device=BATTERY,
        rules=rules_of(mechanism=mechanism),
        joined_ms=joined_ms,
        negotiator=partial(negotiator_of, mechanism),
    )
    with_neighbours(house)
    now_ms, closed, cleared, turns = joined_ms, set[int](), set[int](), 0
    while now_ms < SETTLEMENT_MS + SLOTS * HOUR_MS:
        house.street.run_until(now_ms - late_ms)
        for index in range(SLOTS):
            if index not in closed and now_ms - late_ms >= deadline_ms(DeadlineKind.GATE, index):
                closed.add(index)
                house.household.gate_closed(FIRST + index, (), now_ms)
            if index not in cleared and now_ms - late_ms >= deadline_ms(
                DeadlineKind.CLEARING, index
            ):
                cleared.add(index)
                house.household.cleared(FIRST + index, 0, None, now_ms)
        actions = house.household.tick(now_ms)
        for submit in actions.submit:
            house.street.apply("b1", submit.payload, max(0, now_ms - late_ms))
        assert house.household.wake_ms > now_ms
        turns += 1
        wake_ms = min(house.household.wake_ms, now_ms + 15 * MINUTE_MS)
        now_ms = wake_ms + oversleep_ms[turns % len(oversleep_ms)]
    assert turns < 3000

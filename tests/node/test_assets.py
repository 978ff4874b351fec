from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.orders import Side
from market.tariffs import Tariff
from node.assets.device import Battery, DeferrableLoad, Device
from node.assets.equipment import equipment_of
from node.assets.forecast import Forecast
from node.assets.home import SimulatedHome
from node.assets.plan import Action, Delivery, Plan, deliver, dispatch, plan
from node.streets.street import HomeProfile, load_street

BATTERY = Battery(
    label="simulated battery",
    capacity_wh=6000,
    power_w=3000,
    efficiency_ppm=900_000,
    wear_micro_per_kwh=20_000,
)
CAR = DeferrableLoad(
    label="simulated car", energy_wh=6000, power_w=3000, earliest_slot=1, deadline_slot=4
)


def tariffs_of(*retail: int) -> tuple[Tariff, ...]:
    return tuple(
        Tariff(retail_micro_per_kwh=price, feed_in_micro_per_kwh=80_000) for price in retail
    )


def outlook_of(*nets: int) -> tuple[Forecast, ...]:
    """Forecast a need (positive) or a surplus (negative) per slot."""
    return tuple(Forecast(load_wh=100 + max(0, net), pv_wh=100 + max(0, -net)) for net in nets)


def plan_first(
    nets: tuple[int, ...], retail: tuple[int, ...], device: Device | None, slot_index: int = 0
) -> Plan:
    return plan(
        outlook_of(*nets),
        tariffs_of(*retail),
        device,
        slot_index=slot_index,
        slot_minutes=60,
    )


# Devices


def test_battery_loses_its_round_trip_on_charging() -> None:
    charged = BATTERY.charge(1000)

    assert charged.stored_wh == 900
    assert charged.discharge(900).stored_wh == 0


@pytest.mark.parametrize(
    ("stored", "minutes", "room", "output"),
    [
        (0, 60, 3000, 0),
        (0, 15, 750, 0),
        (5100, 60, 1000, 3000),
        (6000, 60, 0, 3000),
        (70, 5, 250, 70),
    ],
)
def test_battery_is_bounded_by_its_power_and_its_capacity(
    stored: int, minutes: int, room: int, output: int
) -> None:
    battery = replace(BATTERY, stored_wh=stored)

    assert (battery.room_wh(minutes), battery.output_wh(minutes)) == (room, output)


@given(stored=st.integers(0, 6000), efficiency=st.integers(1, 1_000_000))
def test_battery_that_takes_all_it_has_room_for_is_full(stored: int, efficiency: int) -> None:
    battery = replace(BATTERY, stored_wh=stored, efficiency_ppm=efficiency, power_w=10**15)

    assert battery.charge(battery.room_wh(60)).stored_wh == 6000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stored_wh", 6001),
        ("stored_wh", -1),
        ("efficiency_ppm", 0),
        ("efficiency_ppm", 1_000_001),
        ("power_w", -1),
        ("wear_micro_per_kwh", -1),
    ],
)
def test_impossible_battery_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=r"cannot hold|is not within|never negative"):
        replace(BATTERY, **{field: value})  # type: ignore[arg-type]  # one of several int fields


@pytest.mark.parametrize(
    ("field", "value"), [("energy_wh", -1), ("power_w", -1), ("deadline_slot", 1)]
)
def test_impossible_deferrable_load_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=r"never negative|no slot lies between"):
        replace(CAR, **{field: value})  # type: ignore[arg-type]  # one of several int fields


def test_deferrable_load_takes_nothing_before_its_earliest_slot() -> None:
    assert [CAR.room_wh(slot, 60) for slot in (0, 1, 3, 9)] == [0, 3000, 3000, 3000]
    assert CAR.charge(5000).room_wh(1, 60) == 1000


# Forecasts and readings


def test_forecast_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    profile = load_street("clear-day").homes[0]

    outlooks = [SimulatedHome(profile, seed).outlook(0) for seed in (1, 1, 2)]

    assert outlooks[0] == outlooks[1] != outlooks[2]


def test_forecast_of_a_known_slot_never_changes() -> None:
    home = SimulatedHome(HomeProfile("h01", (1000, 0), (2000, 0)), seed=1)

    assert (home.forecast(0), home.forecast(1)) == (Forecast(1072, 2170), Forecast(0, 0))


def test_forecast_misses_by_the_stated_share_on_average() -> None:
    truth = 10_000
    home = SimulatedHome(HomeProfile("h01", (truth,) * 4000, (truth,) * 4000), seed=7)

    outlook = home.outlook(0)
    load_errors = [slot.load_wh - truth for slot in outlook]
    pv_errors = [slot.pv_wh - truth for slot in outlook]

    assert sum(map(abs, load_errors)) / len(outlook) == pytest.approx(800, rel=0.05)
    assert sum(map(abs, pv_errors)) / len(outlook) == pytest.approx(500, rel=0.05)
    assert abs(sum(load_errors)) / len(outlook) < 50
    assert max(map(abs, load_errors)) <= 2400
    assert max(map(abs, pv_errors)) <= 1500


def test_forecast_has_no_pv_where_there_is_none() -> None:
    for profile in load_street("clear-day", homes=17).homes:
        outlook = SimulatedHome(profile, seed=3).outlook(0)
        assert [slot.pv_wh == 0 for slot in outlook] == [pv == 0 for pv in profile.pv_wh]


def test_outlook_begins_with_the_slot_that_is_asked_for() -> None:
    home = SimulatedHome(load_street("clear-day").homes[0], seed=3)

    assert home.outlook(20) == tuple(home.forecast(slot) for slot in (20, 21, 22, 23))


def test_reading_nets_the_slot() -> None:
    home = SimulatedHome(HomeProfile("h01", (1000, 1000), (0, 1500)), seed=1)

    assert home.reading(0) == (1000, 0)
    assert home.reading(0, given_wh=400) == (600, 0)
    assert home.reading(1) == (0, 500)
    assert home.reading(1, taken_wh=800) == (300, 0)


# Plans without a device


def test_home_without_a_device_orders_its_net() -> None:
    assert plan_first((700,), (300_000,), None) == Plan(side=Side.BUY, firm_wh=700)
    assert plan_first((-700,), (300_000,), None) == Plan(side=Side.SELL, firm_wh=700)
    assert plan_first((0,), (300_000,), None) == Plan(side=Side.BUY, firm_wh=0)


# Plans with a battery


def test_empty_battery_buys_for_the_dearest_need_ahead() -> None:
    planned = plan_first((500, 400, 900), (200_000, 300_000, 500_000), BATTERY)

    assert planned == Plan(
        side=Side.BUY, firm_wh=500, flexible_wh=1000, value_micro_per_kwh=430_000
    )


def test_battery_buys_no_more_than_its_power_allows() -> None:
    planned = plan_first((500, 2900, 2900), (200_000, 500_000, 500_000), BATTERY)

    assert planned.flexible_wh == 3000


def test_battery_buys_nothing_that_the_own_roof_will_bring() -> None:
    planned = plan_first((500, -700, 900), (200_000, 300_000, 500_000), BATTERY)

    assert planned.flexible_wh == 300


def test_battery_buys_nothing_whose_losses_and_wear_cost_more_than_it_saves() -> None:
    planned = plan_first((500, 900), (200_000, 22_000), BATTERY)

    assert planned == Plan(side=Side.BUY, firm_wh=500)


def test_battery_buys_nothing_at_the_end_of_the_day() -> None:
    assert plan_first((500,), (200_000,), BATTERY) == Plan(side=Side.BUY, firm_wh=500)


def test_battery_leaves_crumbs_alone() -> None:
    assert plan_first((500, 8), (200_000, 500_000), BATTERY).flexible_wh == 0
    assert plan_first((-8, 500), (200_000, 500_000), BATTERY).firm_wh == 8


def test_balanced_home_may_buy_for_its_battery_only() -> None:
    planned = plan_first((0, 900), (200_000, 500_000), BATTERY)

    assert (planned.side, planned.firm_wh, planned.flexible_wh) == (Side.BUY, 0, 1000)


def test_battery_keeps_its_energy_for_dearer_needs() -> None:
    battery = replace(BATTERY, stored_wh=900)

    planned = plan_first((500, 900), (200_000, 500_000), battery)

    assert (planned.firm_wh, planned.battery_gives_wh) == (500, 0)


def test_battery_gives_what_dearer_needs_leave_and_takes_nothing_then() -> None:
    battery = replace(BATTERY, stored_wh=1200)

    planned = plan_first((500, 900, 4000), (300_000, 500_000, 100_000), battery)

    assert planned == Plan(side=Side.BUY, firm_wh=200, battery_gives_wh=300)


def test_surplus_worth_storing_is_flexible_and_the_rest_firm() -> None:
    planned = plan_first((-2000, 900), (200_000, 200_000), BATTERY)

    assert planned == Plan(
        side=Side.SELL, firm_wh=1000, flexible_wh=1000, value_micro_per_kwh=160_000
    )


def test_surplus_worth_more_stored_than_anybody_would_pay_is_not_offered() -> None:
    planned = plan_first((-2500, 900, 900), (200_000, 500_000, 200_000), BATTERY)

    assert planned == Plan(
        side=Side.SELL,
        firm_wh=500,
        flexible_wh=1000,
        value_micro_per_kwh=160_000,
        device_takes_wh=1000,
    )


def test_surplus_worth_less_stored_than_exported_is_firm() -> None:
    planned = plan_first((-2000, 900), (200_000, 110_000), BATTERY)

    assert planned == Plan(side=Side.SELL, firm_wh=2000)


# Plans with a deferrable load


def test_deferrable_load_is_flexible_until_its_last_cheapest_slots() -> None:
    prices = (300_000, 200_000, 200_000, 200_000, 200_000)

    planned = [
        plan_first((100,) * (5 - slot), prices[slot:], CAR, slot_index=slot) for slot in range(4)
    ]

    assert [(p.firm_wh, p.flexible_wh, p.value_micro_per_kwh) for p in planned] == [
        (100, 0, 0),
        (100, 3000, 200_000),
        (3100, 0, 0),
        (3100, 0, 0),
    ]


def test_deferrable_load_does_not_wait_for_a_dearer_slot() -> None:
    planned = plan_first((0, 0, 0), (200_000, 300_000, 500_000), CAR, slot_index=1)

    assert (planned.firm_wh, planned.flexible_wh, planned.device_takes_wh) == (3000, 0, 3000)


def test_deferrable_load_past_its_deadline_is_firm() -> None:
    planned = plan_first((0, 0), (500_000, 100_000), CAR, slot_index=4)

    assert (planned.side, planned.firm_wh, planned.flexible_wh) == (Side.BUY, 3000, 0)


def test_surplus_supplies_the_own_deferrable_load_before_it_is_sold() -> None:
    nets, prices = (-4000, 0, 0), (200_000,) * 3

    planned = plan_first(nets, prices, CAR, slot_index=1)

    assert planned == Plan(side=Side.SELL, firm_wh=1000, device_takes_wh=3000)


def test_surplus_that_does_not_fill_the_own_deferrable_load_leaves_a_flexible_purchase() -> None:
    planned = plan_first((-1000, 0, 0), (200_000,) * 3, CAR, slot_index=1)

    assert planned == Plan(
        side=Side.BUY,
        firm_wh=0,
        flexible_wh=2000,
        value_micro_per_kwh=200_000,
        device_takes_wh=1000,
    )


# Dispatch


def test_buyers_energy_above_the_firm_part_goes_into_the_device() -> None:
    planned = Plan(side=Side.BUY, firm_wh=500, flexible_wh=1000)

    assert [dispatch(planned, traded).charge_wh for traded in (0, 500, 700, 1500)] == [
        0,
        0,
        200,
        1000,
    ]


def test_seller_stores_what_it_could_have_stored_and_did_not_sell() -> None:
    planned = Plan(side=Side.SELL, firm_wh=500, flexible_wh=1000)

    assert [dispatch(planned, traded).charge_wh for traded in (0, 500, 700, 1500)] == [
        1000,
        1000,
        800,
        0,
    ]


def test_what_happens_anyway_is_dispatched_whatever_is_traded() -> None:
    gives = Plan(side=Side.BUY, firm_wh=500, battery_gives_wh=300)
    takes = Plan(side=Side.BUY, firm_wh=500, flexible_wh=1000, device_takes_wh=200)

    assert dispatch(gives, 0) == Action(discharge_wh=300)
    assert dispatch(takes, 600) == Action(charge_wh=300)


@pytest.mark.parametrize("traded", [-1, 1501])
def test_more_traded_than_planned_is_refused(traded: int) -> None:
    with pytest.raises(ValueError, match="1500 Wh were planned"):
        dispatch(Plan(side=Side.SELL, firm_wh=500, flexible_wh=1000), traded)


# Delivery


def deliver_hour(device: Device | None, action: Action, load_wh: int, pv_wh: int) -> Delivery:
    return deliver(device, action, load_wh=load_wh, pv_wh=pv_wh, slot_index=1, slot_minutes=60)


def test_device_keeps_its_set_point_and_the_meter_takes_the_forecast_error() -> None:
    delivered = deliver_hour(BATTERY, Action(charge_wh=1000), load_wh=200, pv_wh=900)

    assert (delivered.import_wh, delivered.export_wh) == (300, 0)
    assert (delivered.taken_wh, delivered.lost_wh) == (1000, 100)
    assert delivered.device == replace(BATTERY, stored_wh=900)


def test_battery_gives_no_more_than_the_home_truly_needs() -> None:
    battery = replace(BATTERY, stored_wh=2000)

    delivered = deliver_hour(battery, Action(discharge_wh=1500), load_wh=1200, pv_wh=200)

    assert (delivered.import_wh, delivered.export_wh, delivered.given_wh) == (0, 0, 1000)
    assert delivered.device == replace(BATTERY, stored_wh=1000)


def test_deferrable_load_takes_no_more_than_it_needs() -> None:
    car = replace(CAR, energy_wh=400)

    delivered = deliver_hour(car, Action(charge_wh=3000), load_wh=100, pv_wh=0)

    assert (delivered.import_wh, delivered.taken_wh) == (500, 400)
    assert delivered.device == replace(CAR, energy_wh=0)


# Properties

WH = st.integers(0, 8000)
PRICES = st.integers(0, 600_000)
BATTERIES = st.builds(
    lambda capacity, share, power, efficiency, wear: Battery(
        label="simulated battery",
        capacity_wh=capacity,
        power_w=power,
        efficiency_ppm=efficiency,
        wear_micro_per_kwh=wear,
        stored_wh=capacity * share // 100,
    ),
    st.integers(0, 12_000),
    st.integers(0, 100),
    st.integers(0, 10_000),
    st.integers(1, 1_000_000),
    st.integers(0, 100_000),
)
LOADS = st.builds(
    lambda energy, power, earliest, width: DeferrableLoad(
        label="simulated load",
        energy_wh=energy,
        power_w=power,
        earliest_slot=earliest,
        deadline_slot=earliest + width,
    ),
    st.integers(0, 12_000),
    st.integers(0, 10_000),
    st.integers(0, 6),
    st.integers(1, 6),
)
DEVICES = st.one_of(st.none(), BATTERIES, LOADS)
DAYS = st.lists(st.tuples(WH, WH, WH, WH, PRICES, st.integers(0, 1000)), min_size=1, max_size=8)
MINUTES = st.sampled_from([5, 15, 60])


def check_plan(planned: Plan, forecast: Forecast) -> None:
    net = forecast.load_wh - forecast.pv_wh
    signed_firm = planned.firm_wh if planned.side is Side.BUY else -planned.firm_wh
    stored = planned.flexible_wh if planned.side is Side.SELL else 0
    assert min(planned.firm_wh, planned.flexible_wh, planned.value_micro_per_kwh) >= 0
    if net >= 0:
        assert planned.side is Side.BUY
    if planned.side is Side.SELL:
        assert planned.firm_wh + planned.flexible_wh <= -net
    if planned.battery_gives_wh > 0:
        assert planned.flexible_wh == planned.device_takes_wh == 0
    assert net + planned.device_takes_wh - planned.battery_gives_wh == signed_firm - stored


def check_delivery(delivered: Delivery, device: Device | None, load: int, pv: int) -> None:
    flows_in = pv + delivered.given_wh + delivered.import_wh
    assert load + delivered.taken_wh + delivered.export_wh == flows_in
    assert 0 in {delivered.import_wh, delivered.export_wh}
    assert 0 in {delivered.taken_wh, delivered.given_wh}
    if isinstance(device, Battery):
        assert isinstance(delivered.device, Battery)
        change = delivered.device.stored_wh - device.stored_wh
        assert change == delivered.taken_wh - delivered.lost_wh - delivered.given_wh
        assert 0 <= delivered.device.stored_wh <= device.capacity_wh
        assert delivered.lost_wh >= 0
        assert delivered.export_wh <= max(0, pv - load)
    if isinstance(device, DeferrableLoad):
        assert isinstance(delivered.device, DeferrableLoad)
        assert delivered.device.energy_wh == device.energy_wh - delivered.taken_wh >= 0


@given(day=DAYS, device=DEVICES, minutes=MINUTES)
def test_day_conserves_energy_whatever_is_traded(
    day: list[tuple[int, int, int, int, int, int]], device: Device | None, minutes: int
) -> None:
    """Per slot: expected load and PV, true load and PV, retail price, traded share of the order."""
    outlook = [Forecast(expected_load, expected_pv) for expected_load, expected_pv, *_ in day]
    tariffs = tariffs_of(*(price for *_, price, _ in day))
    for slot, (_, _, load, pv, _, share) in enumerate(day):
        planned = plan(
            outlook[slot:], tariffs[slot:], device, slot_index=slot, slot_minutes=minutes
        )
        check_plan(planned, outlook[slot])
        action = dispatch(planned, (planned.firm_wh + planned.flexible_wh) * share // 1000)
        delivered = deliver(
            device, action, load_wh=load, pv_wh=pv, slot_index=slot, slot_minutes=minutes
        )
        check_delivery(delivered, device, load, pv)
        device = delivered.device


@given(day=DAYS, device=DEVICES, minutes=MINUTES)
def test_plan_is_possible_for_its_device(
    day: list[tuple[int, int, int, int, int, int]], device: Device | None, minutes: int
) -> None:
    outlook = [Forecast(load, pv) for load, pv, *_ in day]
    tariffs = tariffs_of(*(price for *_, price, _ in day))

    planned = plan(outlook, tariffs, device, slot_index=0, slot_minutes=minutes)
    action = dispatch(planned, planned.firm_wh + planned.flexible_wh)
    delivered = deliver(
        device,
        action,
        load_wh=outlook[0].load_wh,
        pv_wh=outlook[0].pv_wh,
        slot_index=0,
        slot_minutes=minutes,
    )

    traded = planned.firm_wh + planned.flexible_wh
    metered = delivered.import_wh if planned.side is Side.BUY else delivered.export_wh
    assert (delivered.taken_wh, delivered.given_wh) == (action.charge_wh, action.discharge_wh)
    assert metered == traded


@given(energy=st.integers(0, 9000), prices=st.lists(PRICES, min_size=3, max_size=3))
def test_deferrable_load_is_done_at_its_deadline_though_nothing_is_traded(
    energy: int, prices: list[int]
) -> None:
    device: Device | None = replace(CAR, energy_wh=energy)
    tariffs = tariffs_of(0, *prices)
    for slot in range(4):
        planned = plan(
            outlook_of(*(100,) * (4 - slot)),
            tariffs[slot:],
            device,
            slot_index=slot,
            slot_minutes=60,
        )
        device = deliver(
            device,
            dispatch(planned, 0),
            load_wh=100,
            pv_wh=0,
            slot_index=slot,
            slot_minutes=60,
        ).device

    assert device == replace(CAR, energy_wh=0)


# Equipment of the presets


def test_three_homes_of_clear_day_have_something_flexible_and_say_that_it_is_simulated() -> None:
    street, equipment = load_street("clear-day"), equipment_of("clear-day")

    assert sorted(equipment) == ["h02", "h04", "h11"]
    assert set(equipment) <= {home.id for home in street.homes}
    assert all(device.label.startswith("simulated ") for device in equipment.values())


def test_other_streets_have_no_equipment() -> None:
    assert not equipment_of("zhao2019")
    assert not equipment_of("own.csv")


def test_every_device_of_clear_day_has_flexible_energy_while_neighbours_can_trade() -> None:
    street, equipment = load_street("clear-day"), equipment_of("clear-day")
    profiles = {home.id: home for home in street.homes}
    sides: dict[str, set[Side]] = {}
    for member, device in equipment.items():
        home = SimulatedHome(profiles[member], 1, device)
        for slot in range(7, 15):
            planned = plan(
                home.outlook(slot),
                street.tariffs[slot:],
                home.device,
                slot_index=slot,
                slot_minutes=60,
            )
            if planned.flexible_wh:
                sides.setdefault(member, set()).add(planned.side)

    assert sides == {"h02": {Side.SELL}, "h04": {Side.BUY}, "h11": {Side.BUY}}

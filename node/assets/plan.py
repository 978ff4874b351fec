"""What a home offers, what its device then does, and what the meter sees in the end.

Three steps per slot, all pure: `plan` turns the outlook into the two parts of an order, `dispatch`
turns what was traded into set-points of the device, `deliver` plays the slot with its true load and
PV.

The rules (two-level market, order parts):

* A buyer's firm part is load less PV less what its battery gives; flexible is the battery's room,
  or the deferrable load that may still wait.  A battery that gives in a slot takes nothing in it.
* A home with surplus supplies its own deferrable load first.  Of the rest, flexible is what it
  could store, firm is what it exports anyway; what is worth more in the battery than anybody would
  pay is no part of the order.  Stored energy serves its owner and is not sold.
* The battery keeps what it holds for the dearest needs ahead.  Its flexible energy is worth the
  retail price of the dearest need that it cannot yet serve, less losses and wear; it never asks
  for more than that need, nor for what the own roof should bring before it.
* A deferrable load that the market does not serve runs in the cheapest slots before its deadline,
  the latest of equals: what that schedule puts into this slot is firm, the rest is flexible and
  worth the lowest retail price until the deadline.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from market.orders import Side
from market.tariffs import Tariff
from market.units import share_ppm
from node.assets.device import Battery, DeferrableLoad, Device, slot_energy_wh
from node.assets.forecast import Forecast

BATTERY_FLEXIBLE_WH_MIN = 10
"""Less is left alone: rounded losses would eat it, and an order would tell more than it trades."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a home would trade in one slot.  Energies in Wh, the value in micro-currency per kWh.

    `value_micro_per_kwh` is what a kWh of the flexible part is worth to the home: as a buyer the
    most that it pays, as a seller the least that it takes; 0 if nothing is flexible.
    `battery_gives_wh` and `device_takes_wh` happen whatever is traded; the firm part is what they
    leave of the home's net.  A plan with no energy is no order.
    """

    side: Side
    firm_wh: int
    flexible_wh: int = 0
    value_micro_per_kwh: int = 0
    battery_gives_wh: int = 0
    device_takes_wh: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """Set-points of the device for one slot [Wh]; at most one of them is positive."""

    charge_wh: int = 0
    discharge_wh: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What happened in a slot [Wh], with the device as it is afterwards.

    load + taken + export = pv + given + import; `lost_wh` of what the device took is heat.
    """

    import_wh: int
    export_wh: int
    taken_wh: int
    given_wh: int
    lost_wh: int
    device: Device | None


def plan(
    outlook: Sequence[Forecast],
    tariffs: Sequence[Tariff],
    device: Device | None,
    *,
    slot_index: int,
    slot_minutes: int,
) -> Plan:
    """Decide the two parts of a home's order for a slot.

    `outlook` and `tariffs` begin with this slot and end together at the last slot known; energy
    is worth nothing beyond it.  `device` is as it will be when the slot begins.
    """
    match device:
        case Battery():
            return _plan_battery(outlook, tariffs, device, slot_minutes)
        case DeferrableLoad():
            return _plan_deferrable(outlook[0], tariffs, device, slot_index, slot_minutes)
        case None:
            return _order(outlook[0].load_wh - outlook[0].pv_wh)


def dispatch(planned: Plan, traded_wh: int) -> Action:
    """Turn what the home bought or sold in a slot (its side's energy) into set-points.

    A buyer's energy above its firm part goes into the device; a seller stores what it could have
    stored and did not sell.

    Raises
    ------
    ValueError
        If more was traded than was planned.
    """
    beyond_firm_wh = max(0, traded_wh - planned.firm_wh)
    if traded_wh < 0 or beyond_firm_wh > planned.flexible_wh:
        offered_wh = planned.firm_wh + planned.flexible_wh
        raise ValueError(f"{traded_wh} Wh traded, {offered_wh} Wh were planned")
    if planned.side is Side.BUY:
        flexible_wh = beyond_firm_wh
    else:
        flexible_wh = planned.flexible_wh - beyond_firm_wh
    return Action(planned.device_takes_wh + flexible_wh, planned.battery_gives_wh)


def deliver(
    device: Device | None,
    action: Action,
    *,
    load_wh: int,
    pv_wh: int,
    slot_index: int,
    slot_minutes: int,
) -> Delivery:
    """Play a slot with its true load and PV.

    The device keeps its set-points as far as it can; the meter takes the difference to the
    forecast.  A battery does not give more than the home needs, since stored energy is not sold.
    """
    taken_wh = given_wh = lost_wh = 0
    after = device
    match device:
        case Battery() if action.discharge_wh > 0:
            need_wh = max(0, load_wh - pv_wh)
            given_wh = min(action.discharge_wh, device.output_wh(slot_minutes), need_wh)
            after = device.discharge(given_wh)
        case Battery():
            taken_wh = min(action.charge_wh, device.room_wh(slot_minutes))
            after = charged = device.charge(taken_wh)
            lost_wh = taken_wh - (charged.stored_wh - device.stored_wh)
        case DeferrableLoad():
            taken_wh = min(action.charge_wh, device.room_wh(slot_index, slot_minutes))
            after = device.charge(taken_wh)
        case None:
            pass
    import_wh, export_wh = net_meter(load_wh, pv_wh, taken_wh, given_wh)
    return Delivery(
        import_wh=import_wh,
        export_wh=export_wh,
        taken_wh=taken_wh,
        given_wh=given_wh,
        lost_wh=lost_wh,
        device=after,
    )


def net_meter(load_wh: int, pv_wh: int, taken_wh: int, given_wh: int) -> tuple[int, int]:
    """Return (import, export) [Wh] of a meter that nets over the slot; one of them is zero."""
    net_wh = load_wh + taken_wh - pv_wh - given_wh
    return max(0, net_wh), max(0, -net_wh)


def _order(net_wh: int) -> Plan:
    """Plan a home with nothing to shift: it buys its deficit or sells its surplus."""
    if net_wh >= 0:
        return Plan(side=Side.BUY, firm_wh=net_wh)
    return Plan(side=Side.SELL, firm_wh=-net_wh)


def _plan_deferrable(
    forecast: Forecast,
    tariffs: Sequence[Tariff],
    load: DeferrableLoad,
    slot_index: int,
    slot_minutes: int,
) -> Plan:
    net_wh = forecast.load_wh - forecast.pv_wh
    room_wh = load.room_wh(slot_index, slot_minutes)
    own_wh = min(room_wh, max(0, -net_wh))
    if own_wh == room_wh:
        rest = _order(net_wh + own_wh)
        return Plan(side=rest.side, firm_wh=rest.firm_wh, device_takes_wh=own_wh)
    slots_left = min(max(1, load.deadline_slot - slot_index), len(tariffs))
    prices = [tariff.retail_micro_per_kwh for tariff in tariffs[:slots_left]]
    cheapest_last = sorted(range(slots_left), key=lambda slot: (prices[slot], -slot))
    power_wh = slot_energy_wh(load.power_w, slot_minutes)
    schedule = _fill(load.energy_wh, [power_wh] * slots_left, cheapest_last)
    takes_wh = max(own_wh, schedule[0])
    return Plan(
        side=Side.BUY,
        firm_wh=max(0, net_wh) + takes_wh - own_wh,
        flexible_wh=room_wh - takes_wh,
        value_micro_per_kwh=min(prices) if room_wh > takes_wh else 0,
        device_takes_wh=takes_wh,
    )


def _plan_battery(
    outlook: Sequence[Forecast], tariffs: Sequence[Tariff], battery: Battery, slot_minutes: int
) -> Plan:
    net_wh = outlook[0].load_wh - outlook[0].pv_wh
    power_wh = slot_energy_wh(battery.power_w, slot_minutes)
    needs = [min(power_wh, max(0, slot.load_wh - slot.pv_wh)) for slot in outlook]
    prices = [tariff.retail_micro_per_kwh for tariff in tariffs]
    dearest_first = sorted(range(len(outlook)), key=lambda slot: (-prices[slot], slot))
    served = _fill(battery.stored_wh, needs, dearest_first)
    unserved = [
        _Need(slot, needs[slot] - served[slot], _stored_value(battery, prices[slot]))
        for slot in dearest_first
        if slot > 0 and needs[slot] > served[slot]
    ]
    if net_wh < 0:
        return _plan_storable(-net_wh, unserved, battery, tariffs[0], slot_minutes)
    gives_wh = served[0]
    if gives_wh > 0 or not unserved or unserved[0].value == 0:
        return Plan(side=Side.BUY, firm_wh=net_wh - gives_wh, battery_gives_wh=gives_wh)
    return _plan_purchase(net_wh, unserved, battery, outlook, slot_minutes)


@dataclass(frozen=True, slots=True)
class _Need:
    """A later need that the battery cannot serve yet, and what a kWh taken in for it is worth."""

    slot: int
    energy_wh: int
    value: int


def _stored_value(battery: Battery, price_micro_per_kwh: int) -> int:
    worth = share_ppm(price_micro_per_kwh, battery.efficiency_ppm) - battery.wear_micro_per_kwh
    return max(0, worth)


def _plan_storable(
    surplus_wh: int,
    unserved: Sequence[_Need],
    battery: Battery,
    tariff: Tariff,
    slot_minutes: int,
) -> Plan:
    """Plan a surplus by what a kWh of it is worth in the battery.

    At least this slot's retail price: stored, since no neighbour would pay more.  Between retail
    and feed-in: flexible.  Not more than feed-in: exported.
    """
    retail, feed_in = tariff.retail_micro_per_kwh, tariff.feed_in_micro_per_kwh
    kept = [need for need in unserved if need.value >= max(retail, feed_in + 1)]
    offered = [need for need in unserved if feed_in < need.value < retail]
    room_wh = battery.room_wh(slot_minutes)
    takes_wh = _worthwhile_wh(surplus_wh, room_wh, battery.intake_wh(_energy_wh(kept)))
    wanted_wh = battery.intake_wh(_energy_wh(kept) + _energy_wh(offered))
    flexible_wh = _worthwhile_wh(
        surplus_wh - takes_wh, room_wh - takes_wh, wanted_wh - takes_wh if offered else 0
    )
    return Plan(
        side=Side.SELL,
        firm_wh=surplus_wh - takes_wh - flexible_wh,
        flexible_wh=flexible_wh,
        value_micro_per_kwh=offered[0].value if flexible_wh > 0 else 0,
        device_takes_wh=takes_wh,
    )


def _plan_purchase(
    deficit_wh: int,
    unserved: Sequence[_Need],
    battery: Battery,
    outlook: Sequence[Forecast],
    slot_minutes: int,
) -> Plan:
    """Plan a deficit with room in the battery: flexible is what the dearest needs still lack."""
    value = unserved[0].value
    dearest = [need for need in unserved if need.value == value]
    power_wh = slot_energy_wh(battery.power_w, slot_minutes)
    own_roof_wh = sum(
        min(power_wh, max(0, slot.pv_wh - slot.load_wh))
        for slot in outlook[: max(need.slot for need in dearest)]
    )
    lacking_wh = battery.intake_wh(_energy_wh(dearest)) - own_roof_wh
    flexible_wh = _worthwhile_wh(lacking_wh, battery.room_wh(slot_minutes))
    return Plan(
        side=Side.BUY,
        firm_wh=deficit_wh,
        flexible_wh=flexible_wh,
        value_micro_per_kwh=value if flexible_wh > 0 else 0,
    )


def _worthwhile_wh(*limits_wh: int) -> int:
    energy_wh = min(limits_wh)
    return energy_wh if energy_wh >= BATTERY_FLEXIBLE_WH_MIN else 0


def _energy_wh(needs: Iterable[_Need]) -> int:
    return sum(need.energy_wh for need in needs)


def _fill(total_wh: int, limits_wh: Sequence[int], order: Iterable[int]) -> list[int]:
    """Share out a total over places in the given order, each up to its limit."""
    filled = [0] * len(limits_wh)
    for place in order:
        filled[place] = min(total_wh, limits_wh[place])
        total_wh -= filled[place]
    return filled

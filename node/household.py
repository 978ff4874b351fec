"""What this home decides, and when: pure, events and time in, actions out.

Per delivery slot: forecast and order at opening, amended when the clearing of the slot before has
changed what the battery will hold; negotiate after gate closure; take the traded energy as
set-points of the device; read the meter after delivery.  Signing, nonces, the bus and the disk are
the driver's.

A home that was restarted stays out of negotiations whose gate closed before it was back: it cannot
know what it had stated, and two different statements would convict it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from market.ceilings import Ramp
from market.contracts.matching import BookRecord, Statements
from market.contracts.membership import household
from market.contracts.offers import DAY_MS, StandingOrder
from market.contracts.tariffs import band_in, tariff_of
from market.negotiation.presets import Preset, flexible_curve, own_curve, standing_limit
from market.negotiation.protocol import Negotiator, Turn
from market.negotiation.two_level import relay_rank
from market.orders import Book, Side
from market.payloads import OrderPayload, Quality, ReadingPayload, Source, WithdrawalPayload
from market.rules import Rules
from market.slot import DeadlineKind
from market.state import View, book_key, contracts_key, order_key, read, reading_key, statements_key
from market.tariffs import Band
from node.assets.device import Battery, DeferrableLoad, Device
from node.assets.home import SimulatedHome
from node.assets.plan import Action, Plan, deliver, dispatch, plan

NEVER_MS = 2**62
ORDERING_PARTS = 5
"""A fifth of the time between gate and clearing is kept for getting statements ordered."""


class NegotiatorFactory(Protocol):
    """Makes this member's side of one slot's negotiation, see `negotiator_of`."""

    def __call__(
        self,
        *,
        book: Book,
        book_digest: bytes,
        member: str,
        curve: Callable[[int], int],
        phase_ms: int,
        deadline_ms: int,
    ) -> Negotiator:
        """Return a participant that has not started yet."""
        ...


@dataclass(frozen=True, slots=True)
class Submit:
    """Sign this payload as an operation and get it ordered."""

    kind: str
    slot: int
    payload: msgspec.Struct


@dataclass(frozen=True, slots=True)
class Relay:
    """Get a member's statement ordered, as it was published."""

    slot: int
    member: str
    round: int


@dataclass(frozen=True, slots=True)
class Convict:
    """Get two contradictory statements of a member ordered as evidence."""

    slot: int
    member: str
    first: msgspec.Struct
    second: msgspec.Struct


@dataclass(slots=True)
class Actions:
    """What the driver does for the household, in this order."""

    submit: list[Submit] = field(default_factory=list)
    publish: list[msgspec.Struct] = field(default_factory=list)
    want: list[tuple[int, int, tuple[str, ...]]] = field(default_factory=list)
    relay: list[Relay] = field(default_factory=list)
    convict: list[Convict] = field(default_factory=list)
    traces: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    state: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Offer:
    """What one revision of a slot's order says, and why."""

    plan: Plan
    curve: Ramp | None
    limit: int
    revision: int

    @property
    def energy_wh(self) -> int:
        """What is ordered; 0 if this revision withdraws."""
        return self.plan.firm_wh + self.plan.flexible_wh

    def is_of(self, standing: StandingOrder) -> bool:
        """Whether the chain's order is this one."""
        plan, order = self.plan, standing
        return not order.is_withdrawn and (
            (self.revision, plan.side, plan.firm_wh, plan.flexible_wh, self.limit)
            == (order.revision, order.side, order.firm_wh, order.flexible_wh, order.flexible_limit)
        )


@dataclass(slots=True)
class _Talk:
    """One slot's negotiation."""

    negotiator: Negotiator
    members: tuple[str, ...]
    is_over: bool = False
    relay_at_ms: int = NEVER_MS
    to_relay: tuple[tuple[str, int], ...] = ()
    convicted: set[str] = field(default_factory=set)


class _Resumable(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the home must know after a restart: the last delivered slot, and its device's content.

    `device_wh` is what a battery holds, or what a deferrable load still needs.
    """

    delivered: int
    device_wh: int


def _content_wh(device: Device | None) -> int:
    match device:
        case Battery():
            return device.stored_wh
        case DeferrableLoad():
            return device.energy_wh
        case None:
            return 0


def _with_flexible(planned: Plan, flexible_wh: int) -> Plan:
    """Order less flexible energy than was planned: a surplus that is not offered is stored."""
    kept_wh = planned.flexible_wh - flexible_wh if planned.side is Side.SELL else 0
    return replace(
        planned, flexible_wh=flexible_wh, device_takes_wh=planned.device_takes_wh + kept_wh
    )


def _restored(device: Device | None, content_wh: int) -> Device | None:
    match device:
        case Battery():
            return replace(device, stored_wh=content_wh)
        case DeferrableLoad():
            return replace(device, energy_wh=content_wh)
        case None:
            return None


class Household:
    """One home of the street.

    Args:
        member: Its id.
        rules: The community's.
        view: Committed state, read only.
        home: Profile, forecasts and device; simulated.
        preset: How flexible energy is valued.
        make_negotiator: The mechanism's participant.
        resumed: The last `Actions.state` of before a restart, if any.
        joined_ms: When this process started [community ms].
    """

    def __init__(
        self,
        *,
        member: str,
        rules: Rules,
        view: View,
        home: SimulatedHome,
        preset: Preset,
        make_negotiator: NegotiatorFactory,
        resumed: bytes | None,
        joined_ms: int,
    ) -> None:
        self._member = member
        self._rules = rules
        self._calendar = rules.calendar
        self._view = view
        self._home = home
        self._preset = preset
        self._make_negotiator = make_negotiator
        self._joined_ms = joined_ms
        self._device = home.device
        self._next_delivery = self._calendar.first
        if resumed is not None:
            state = msgspec.msgpack.decode(resumed, type=_Resumable)
            self._next_delivery = state.delivered + 1
            self._device = _restored(home.device, state.device_wh)
        self._offers: dict[int, list[_Offer]] = {}
        self._actions: dict[int, Action] = {}
        self._talks: dict[int, _Talk] = {}
        # The local prices of the last day's trades: the lowest is what `cheapest` waits for.
        self._prices: deque[int] = deque(maxlen=DAY_MS // rules.calendar.length_ms)
        self._next_order = max(self._calendar.first, self._calendar.slot_at(joined_ms) + 1)

    # -- inputs ----------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> Actions:
        """Do what time has made due."""
        actions = Actions()
        self._order_due(now_ms, actions)
        for slot, talk in list(self._talks.items()):
            if not talk.is_over and now_ms >= talk.negotiator.wake_ms:
                self._take_turn(slot, talk.negotiator.tick(now_ms), now_ms, actions)
            self._relay_due(slot, talk, now_ms, actions)
        self._deliver_due(now_ms, actions)
        return actions

    def gate_closed(self, slot: int, heard: Iterable[tuple[str, Any]], now_ms: int) -> Actions:
        """Begin to negotiate, if this home has an order in the book.

        `heard` are authentic statements about the slot by members to whom the block came earlier.
        """
        actions = Actions()
        record = read(self._view, book_key(slot), BookRecord)
        gate = self._calendar.deadline(slot, DeadlineKind.GATE)
        clearing_ms = self._calendar.deadline(slot, DeadlineKind.CLEARING).time_ms
        is_late = gate.time_ms < self._joined_ms or now_ms >= clearing_ms
        if record is None or is_late or not record.book.has_market:
            return actions
        order = record.book.by_member.get(self._member)
        offer = self._standing_offer(slot)
        if order is None or offer is None:
            return actions
        curve = own_curve(record.book.band, order, offer.curve)
        deadline_ms = clearing_ms - (clearing_ms - gate.time_ms) // ORDERING_PARTS
        negotiator = self._make_negotiator(
            book=record.book,
            book_digest=record.digest,
            member=self._member,
            curve=curve,
            phase_ms=self._rules.phase_ms,
            deadline_ms=deadline_ms,
        )
        self._talks[slot] = _Talk(negotiator, tuple(record.book.by_member))
        self._take_turn(slot, negotiator.start(now_ms), now_ms, actions)
        for other, statement in heard:
            self._hear(other, statement, now_ms, actions)
        return actions

    def hear(self, member: str, statement: Any, now_ms: int) -> Actions:  # noqa: ANN401 - of the mechanism's statement type
        """Take another member's authenticated statement."""
        actions = Actions()
        self._hear(member, statement, now_ms, actions)
        return actions

    def _hear(self, member: str, statement: Any, now_ms: int, actions: Actions) -> None:  # noqa: ANN401 - the same
        talk = self._talks.get(statement.slot)
        if talk is not None and not talk.is_over:
            turn = talk.negotiator.receive(member, statement, now_ms)
            self._take_turn(statement.slot, turn, now_ms, actions)

    def cleared(self, slot: int, traded_wh: int, price: int | None, now_ms: int) -> Actions:
        """Turn the traded energy into set-points, and reconsider the order of the next slot.

        `price` is the street's price of the slot [micro/kWh], None if nothing was traded.
        """
        actions = Actions()
        if price is not None:
            self._prices.append(price)
        self._talks.pop(slot, None)
        offer = self._standing_offer(slot)
        if offer is None and traded_wh == 0 and slot in self._offers:
            # Nothing was ordered, or it did not get through: the device still follows the plan.
            offer = self._offers[slot][-1]
        if offer is not None:
            self._actions[slot] = dispatch(offer.plan, traded_wh)
        if self._home.device is not None:
            self._order(slot + 1, now_ms, actions)
        return actions

    @property
    def wake_ms(self) -> int:
        """When `tick` is next due."""
        due = []
        if self._calendar.is_traded(self._next_delivery):
            due.append(self._calendar.end_ms(self._next_delivery))
        if self._calendar.is_traded(self._next_order):
            due.append(self._calendar.opening_ms(self._next_order))
        due += (
            talk.relay_at_ms if talk.is_over else talk.negotiator.wake_ms
            for talk in self._talks.values()
        )
        return min(due, default=NEVER_MS)

    # -- orders ----------------------------------------------------------------------------------

    def _order_due(self, now_ms: int, actions: Actions) -> None:
        while self._calendar.is_traded(self._next_order) and now_ms >= self._calendar.opening_ms(
            self._next_order
        ):
            self._order(self._next_order, now_ms, actions)
            self._next_order += 1

    def _order(self, slot: int, now_ms: int, actions: Actions) -> None:
        """Submit, amend or withdraw the order of a slot if what it should say has changed."""
        gate = self._calendar.deadline(slot, DeadlineKind.GATE)
        is_open = self._calendar.opening_ms(slot) <= now_ms < gate.time_ms
        if not self._calendar.is_traded(slot) or not is_open:
            return
        planned = self._within_connection(self._plan(slot))
        band = band_in(self._rules, slot)
        curve, limit = self._curve(band, planned)
        if planned.flexible_wh and curve is None:
            planned = _with_flexible(planned, 0)
        offers = self._offers.setdefault(slot, [])
        last = offers[-1] if offers else None
        if last is not None and (last.plan, last.limit) == (planned, limit):
            return
        revision = self._next_revision(slot)
        offers.append(_Offer(planned, curve, limit, revision))
        if offers[-1].energy_wh > 0:
            payload = OrderPayload(
                slot=slot,
                revision=revision,
                side=planned.side,
                firm_wh=planned.firm_wh,
                flexible_wh=planned.flexible_wh,
                flexible_limit=limit,
            )
            actions.submit.append(Submit("order", slot, payload))
        elif last is not None and last.energy_wh > 0:
            actions.submit.append(Submit("withdraw", slot, WithdrawalPayload(slot, revision)))

    def _plan(self, slot: int) -> Plan:
        index = slot - self._calendar.first
        outlook = self._home.outlook(index)
        return plan(
            outlook,
            [tariff_of(self._rules, slot + ahead) for ahead in range(len(outlook))],
            self._device_at(slot),
            slot_index=index,
            slot_minutes=self._slot_minutes,
        )

    def _standing_offer(self, slot: int) -> _Offer | None:
        """Return the own offer that the chain holds: the last amendment may have come too late."""
        standing = read(self._view, order_key(slot, self._member), StandingOrder)
        if standing is None:
            return None
        return next((each for each in self._offers.get(slot, ()) if each.is_of(standing)), None)

    def _device_at(self, slot: int) -> Device | None:
        """Foresee the device at the start of a slot from set-points and forecasts."""
        device = self._device
        for each in range(self._next_delivery, slot):
            index = each - self._calendar.first
            forecast = self._home.forecast(index)
            device = deliver(
                device,
                self._actions.get(each, Action()),
                load_wh=forecast.load_wh,
                pv_wh=forecast.pv_wh,
                slot_index=index,
                slot_minutes=self._slot_minutes,
            ).device
        return device

    def _within_connection(self, planned: Plan) -> Plan:
        """Cut a plan to what the connection carries; the grid serves the rest at its tariff."""
        own = household(self._view, self._member)
        power_w = own.export_w_max if planned.side is Side.SELL else own.import_w_max
        most_wh = self._calendar.energy_wh(power_w)
        firm_wh = min(planned.firm_wh, most_wh)
        flexible_wh = min(planned.flexible_wh, most_wh - firm_wh)
        return _with_flexible(replace(planned, firm_wh=firm_wh), flexible_wh)

    def _curve(self, band: Band, planned: Plan) -> tuple[Ramp | None, int]:
        if planned.flexible_wh == 0 or not band.is_open:
            return None, 0
        curve = flexible_curve(
            self._preset,
            band,
            planned.side,
            planned.value_micro_per_kwh,
            min(self._prices, default=None),
        )
        return (None, 0) if curve is None else (curve, standing_limit(band, planned.side, curve))

    def _next_revision(self, slot: int) -> int:
        """One above everything that this home has ordered, also before a restart."""
        standing = read(self._view, order_key(slot, self._member), StandingOrder)
        own = self._offers.get(slot)
        return 1 + max(standing.revision if standing else 0, own[-1].revision if own else 0)

    @property
    def _slot_minutes(self) -> int:
        return self._calendar.length_ms // 60_000

    # -- negotiation -----------------------------------------------------------------------------

    def _take_turn(self, slot: int, turn: Turn, now_ms: int, actions: Actions) -> None:
        talk = self._talks[slot]
        actions.publish.extend(turn.publish)
        if turn.want is not None:
            price, members = turn.want
            actions.want.append((slot, price, members))
        for member, (first, second) in talk.negotiator.evidence.items():
            if member not in talk.convicted:
                talk.convicted.add(member)
                actions.convict.append(Convict(slot, member, first, second))
        if not turn.finished:
            return
        talk.is_over = True
        actions.traces.extend((slot, *entry) for entry in talk.negotiator.trace)
        own = [each for each in turn.relay if each[0] == self._member]
        actions.relay.extend(Relay(slot, *each) for each in own)
        rank = relay_rank(slot, talk.members).index(self._member)
        talk.to_relay = tuple(each for each in turn.relay if each[0] != self._member)
        talk.relay_at_ms = now_ms + (rank + 1) * self._rules.relay_step_ms

    def _relay_due(self, slot: int, talk: _Talk, now_ms: int, actions: Actions) -> None:
        """Relay others' statements that the chain still lacks."""
        if now_ms < talk.relay_at_ms:
            return
        talk.relay_at_ms = NEVER_MS
        if self._view.get(contracts_key(slot)) is None:
            lacking = (each for each in talk.to_relay if not self._is_committed(slot, *each))
            actions.relay.extend(Relay(slot, *each) for each in lacking)

    def _is_committed(self, slot: int, member: str, round_number: int) -> bool:
        committed = read(self._view, statements_key(slot, member), Statements)
        payloads = committed.payloads if committed else ()
        return any(msgspec.msgpack.decode(each)[2] == round_number for each in payloads)

    # -- delivery --------------------------------------------------------------------------------

    def _deliver_due(self, now_ms: int, actions: Actions) -> None:
        while self._calendar.is_traded(self._next_delivery) and now_ms >= self._calendar.end_ms(
            self._next_delivery
        ):
            self._deliver(self._next_delivery, now_ms, actions)
            self._next_delivery += 1

    def _deliver(self, slot: int, now_ms: int, actions: Actions) -> None:
        """Play the slot with its true load and PV, and report what the meter counted."""
        index = slot - self._calendar.first
        delivery = deliver(
            self._device,
            self._actions.pop(slot, Action()),
            load_wh=self._home.profile.load_wh[index],
            pv_wh=self._home.profile.pv_wh[index],
            slot_index=index,
            slot_minutes=self._slot_minutes,
        )
        self._device = delivery.device
        self._offers.pop(slot, None)
        state = _Resumable(delivered=slot, device_wh=_content_wh(delivery.device))
        actions.state = msgspec.msgpack.encode(state)
        settlement = self._calendar.deadline(slot, DeadlineKind.SETTLEMENT)
        is_settled = now_ms >= settlement.time_ms
        if not is_settled and self._view.get(reading_key(slot, self._member)) is None:
            reading = ReadingPayload(
                slot, delivery.import_wh, delivery.export_wh, Quality.MEASURED, Source.HOUSEHOLD
            )
            actions.submit.append(Submit("reading", slot, reading))

"""Contract `offers`: orders of a slot until gate closure, and how credible a home's claims are.

State: `order/<slot>/<member>` (the standing revision), `claim/<member>` (28 days of claimed and
metered energy per side).  Operations: `order` (submit or amend), `withdraw`.
Refusals: slot not traded, not open yet or closed; a revision that is not higher; an order that is
empty, above the connection, or with a limit that is not an allowed eighth of an open band.
"""

from typing import Annotated

import msgspec

from market.ceilings import allowed_limits
from market.contracts.membership import check_connection
from market.contracts.tariffs import band_in
from market.errors import Refused, Result
from market.orders import Order, Side
from market.payloads import OrderPayload, WithdrawalPayload
from market.rules import Rules
from market.slot import DeadlineKind
from market.state import Draft, View, claim_key, order_key, read
from market.tariffs import Band
from market.units import PPM

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CLAIM_DAYS = 28
CLAIM_SLOTS_MIN = 24
CLAIM_ALLOWANCE_PPM = 1_100_000
"""Ten percent over-claim is forgiven: an honest forecast errs by that much."""


class StandingOrder(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The highest revision of a member's order; `is_withdrawn` keeps the revision only."""

    revision: int
    side: Side
    firm_wh: int
    flexible_wh: int
    flexible_limit: int
    is_withdrawn: bool
    salt: bytes


class ClaimDay(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One day of one side: firm energy ordered and metered [Wh], and how many slots."""

    day: int
    side: Side
    ordered_wh: int
    metered_wh: int
    slots: int


class ClaimRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A household's last 28 days, oldest first."""

    days: Annotated[tuple[ClaimDay, ...], msgspec.Meta(max_length=2 * CLAIM_DAYS)]


def check_open(rules: Rules, slot: int, time_ms: int) -> None:
    """Check that orders for `slot` are taken at block time `time_ms`.

    Raises:
        Refused: The slot is not traded, its gate is not open yet, or it has closed.
    """
    calendar = rules.calendar
    if not calendar.is_traded(slot):
        raise Refused(Result.NO_SUCH_SLOT, f"slot {slot} is not traded")
    if time_ms < calendar.opening_ms(slot):
        raise Refused(Result.NOT_OPEN, f"slot {slot} opens at {calendar.opening_ms(slot)}")
    gate = calendar.deadline(slot, DeadlineKind.GATE)
    if time_ms >= gate.time_ms:
        raise Refused(Result.GATE_CLOSED, f"the gate of slot {slot} closed at {gate.time_ms}")


def submit(
    draft: Draft, rules: Rules, member: str, payload: OrderPayload, *, time_ms: int, salt: bytes
) -> None:
    """Take an order, or a higher revision of one.

    Raises:
        Refused: See the refusals of this contract.
    """
    check_open(rules, payload.slot, time_ms)
    _check_revision(draft, payload.slot, member, payload.revision)
    _check_energy(draft, rules, member, payload)
    _check_limit(band_in(rules, payload.slot), payload)
    draft.put(
        order_key(payload.slot, member),
        StandingOrder(
            revision=payload.revision,
            side=Side(payload.side),
            firm_wh=payload.firm_wh,
            flexible_wh=payload.flexible_wh,
            flexible_limit=payload.flexible_limit,
            is_withdrawn=False,
            salt=salt,
        ),
    )


def withdraw(
    draft: Draft, rules: Rules, member: str, payload: WithdrawalPayload, *, time_ms: int
) -> None:
    """Take an order out of the book.

    Raises:
        Refused: Gate closed, no order stands, or the revision is not higher.
    """
    check_open(rules, payload.slot, time_ms)
    standing = draft.read(order_key(payload.slot, member), StandingOrder)
    if standing is None or standing.is_withdrawn:
        raise Refused(Result.NO_ORDER, f"{member} has no order in slot {payload.slot}")
    _check_revision(draft, payload.slot, member, payload.revision)
    withdrawn = StandingOrder(
        revision=payload.revision,
        side=standing.side,
        firm_wh=0,
        flexible_wh=0,
        flexible_limit=0,
        is_withdrawn=True,
        salt=standing.salt,
    )
    draft.put(order_key(payload.slot, member), withdrawn)


def standing_orders(view: View, rules: Rules, slot: int) -> tuple[Order, ...]:
    """Return the orders of a slot that stand, in id order, with their claim factors."""
    orders = []
    for entry in sorted(rules.households, key=lambda each: each.member):
        standing = read(view, order_key(slot, entry.member), StandingOrder)
        if standing is None or standing.is_withdrawn:
            continue
        orders.append(
            Order(
                member=entry.member,
                side=standing.side,
                firm_wh=standing.firm_wh,
                flexible_wh=standing.flexible_wh,
                flexible_limit=standing.flexible_limit,
                claim_ppm=claim_factor_ppm(view, rules, entry.member, standing.side, slot),
                salt=standing.salt,
            )
        )
    return tuple(orders)


def claim_factor_ppm(view: View, rules: Rules, member: str, side: Side, slot: int) -> int:
    """Return kappa: how much of the firm claims of the last 28 days the meter bore out [ppm].

    min(1, 1.1 * metered / ordered) over the member's slots on that side; 1 until 24 such slots
    exist (negotiation, section 5.2).
    """
    record = read(view, claim_key(member), ClaimRecord)
    if record is None:
        return PPM
    oldest = _day_of(rules, slot) - CLAIM_DAYS
    days = [each for each in record.days if each.side is side and each.day > oldest]
    ordered_wh = sum(each.ordered_wh for each in days)
    if sum(each.slots for each in days) < CLAIM_SLOTS_MIN or ordered_wh == 0:
        return PPM
    return min(PPM, CLAIM_ALLOWANCE_PPM * sum(each.metered_wh for each in days) // ordered_wh)


def record_claim(
    draft: Draft,
    rules: Rules,
    member: str,
    *,
    slot: int,
    side: Side,
    ordered_wh: int,
    metered_wh: int,
) -> None:
    """Add a settled slot to the member's record: firm energy ordered, and metered on that side."""
    day = _day_of(rules, slot)
    record = draft.read(claim_key(member), ClaimRecord)
    days = list(record.days) if record else []
    same = next((each for each in days if (each.day, each.side) == (day, side)), None)
    if same is not None:
        days.remove(same)
    earlier = same or ClaimDay(day, side, 0, 0, 0)
    days.append(
        ClaimDay(
            day=day,
            side=side,
            ordered_wh=earlier.ordered_wh + ordered_wh,
            metered_wh=earlier.metered_wh + metered_wh,
            slots=earlier.slots + 1,
        )
    )
    kept = sorted(
        (each for each in days if each.day > day - CLAIM_DAYS),
        key=lambda each: (each.day, each.side),
    )
    draft.put(claim_key(member), ClaimRecord(days=tuple(kept)))


def _day_of(rules: Rules, slot: int) -> int:
    return rules.calendar.start_ms(slot) // DAY_MS


def _check_revision(draft: Draft, slot: int, member: str, revision: int) -> None:
    standing = draft.read(order_key(slot, member), StandingOrder)
    if standing is not None and revision <= standing.revision:
        raise Refused(
            Result.STALE_REVISION,
            f"revision {revision} of {member} in slot {slot}: {standing.revision} stands",
        )


def _check_energy(draft: Draft, rules: Rules, member: str, payload: OrderPayload) -> None:
    energy_wh = payload.firm_wh + payload.flexible_wh
    if energy_wh == 0:
        raise Refused(Result.EMPTY_ORDER, "an order of 0 Wh; withdraw instead")
    check_connection(draft, rules, member, Side(payload.side), energy_wh)


def _check_limit(band: Band, payload: OrderPayload) -> None:
    allowed: tuple[int, ...] = (0,)
    if payload.flexible_wh:
        allowed = allowed_limits(band, Side(payload.side)) if band.is_open else ()
    if payload.flexible_limit not in allowed:
        raise Refused(
            Result.LIMIT_NOT_ALLOWED,
            f"flexible limit {payload.flexible_limit}; allowed are {allowed} micro/kWh",
        )

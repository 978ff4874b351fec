"""Contract `metering`: what the meters counted in a slot.

State: `reading/<slot>/<member>` until settlement.  Operation: `reading`, by the household for its
own meter.  Refusals: slot not traded, delivery not over, slot settled already, import and export
both positive (a slot is netted), more than the connection carries.  A missing reading is never a
zero: settlement substitutes it.
"""

import msgspec

from market.contracts.membership import check_connection
from market.errors import Refused, Result
from market.orders import Side
from market.payloads import Quality, ReadingPayload, Source
from market.rules import Rules
from market.slot import DeadlineKind
from market.state import Draft, reading_key


class Reading(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A slot's metered energy [Wh], how it is known and who vouches for it."""

    import_wh: int
    export_wh: int
    quality: Quality
    source: Source
    salt: bytes


def record(
    draft: Draft, rules: Rules, member: str, payload: ReadingPayload, *, time_ms: int, salt: bytes
) -> None:
    """Take a meter reading of a slot whose delivery is over; the first one stands.

    Raises:
        Refused: See the refusals of this contract.
    """
    calendar = rules.calendar
    if not calendar.is_traded(payload.slot):
        raise Refused(Result.NO_SUCH_SLOT, f"slot {payload.slot} is not traded")
    if time_ms < calendar.end_ms(payload.slot):
        raise Refused(
            Result.NOT_DELIVERED_YET, f"slot {payload.slot} ends at {calendar.end_ms(payload.slot)}"
        )
    if time_ms >= calendar.deadline(payload.slot, DeadlineKind.SETTLEMENT).time_ms:
        raise Refused(Result.SETTLED, f"slot {payload.slot} has been settled")
    if payload.import_wh and payload.export_wh:
        raise Refused(Result.BOTH_WAYS, "a slot's reading is netted: one of the two is 0")
    if payload.quality is not Quality.MEASURED:
        raise Refused(Result.MALFORMED, "a household can only report what was measured")
    check_connection(draft, rules, member, Side.BUY, payload.import_wh)
    check_connection(draft, rules, member, Side.SELL, payload.export_wh)
    key = reading_key(payload.slot, member)
    if draft.get(key) is not None:
        raise Refused(Result.REPEATED, f"{member} has reported slot {payload.slot} already")
    draft.put(
        key, Reading(payload.import_wh, payload.export_wh, payload.quality, payload.source, salt)
    )

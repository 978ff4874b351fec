"""Contract `quota`: how much of the chain one member may use in the time of one slot.

State: `usage/<member>`, what was used in the slot's time that the last block fell into.  It counts
whatever is ordered, also what is refused: beyond the quota an operation is not even looked at.
Statements do not count, because others may relay them; `matching` bounds them.
"""

import msgspec

from market.errors import Refused, Result
from market.rules import Rules
from market.state import Draft, usage_key


class Usage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Operations and their bytes during the delivery of `slot`."""

    slot: int
    operations: int
    operation_bytes: int


def use(draft: Draft, rules: Rules, member: str, size: int, *, time_ms: int) -> None:
    """Count an operation of `size` bytes at block time `time_ms`.

    Raises:
        Refused: The member's quota is used up.
    """
    slot = rules.calendar.slot_at(time_ms)
    usage = draft.read(usage_key(member), Usage)
    if usage is None or usage.slot != slot:
        usage = Usage(slot, 0, 0)
    used = Usage(slot, usage.operations + 1, usage.operation_bytes + size)
    quotas = rules.quotas
    if used.operations > quotas.operations or used.operation_bytes > quotas.operation_bytes:
        raise Refused(
            Result.QUOTA,
            f"{member} may have {quotas.operations} operations and {quotas.operation_bytes} "
            "bytes in the time of a slot",
        )
    draft.put(usage_key(member), used)

"""Operations that wait to be ordered, and the bodies that proposals refer to by id."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from consensus.block import OPERATIONS_BYTES_MAX, OPERATIONS_MAX
from consensus.operation import EXPIRY_MS_MAX, Operation

WAITING_MAX = 10_000
"""Operations held; beyond it new ones are refused and their clients send them again."""

WAITING_PER_SIGNER_MAX = 64
"""One signer's share: as many as its nonce window can tell apart."""


class OperationPool:
    """Admitted operations by id: some wait for their turn, some are part of a proposal."""

    def __init__(self) -> None:
        self._bodies: dict[bytes, Operation] = {}
        self._waiting: OrderedDict[bytes, int] = OrderedDict()
        self._per_signer: dict[str, int] = {}

    def __contains__(self, operation_id: bytes) -> bool:
        return operation_id in self._bodies

    def admit(self, operation: Operation, now_ms: int) -> bool:
        """Let an authenticated operation wait; False if known already or over a bound."""
        operation_id = operation.id
        signer = operation.body.signer
        if (
            operation_id in self._bodies
            or len(self._waiting) >= WAITING_MAX
            or self._per_signer.get(signer, 0) >= WAITING_PER_SIGNER_MAX
        ):
            return False
        self._bodies[operation_id] = operation
        self._waiting[operation_id] = now_ms
        self._per_signer[signer] = self._per_signer.get(signer, 0) + 1
        return True

    def hold(self, operation: Operation) -> None:
        """Keep a body that a proposal needs; it does not count against any bound."""
        self._bodies.setdefault(operation.id, operation)

    def get(self, operation_id: bytes) -> Operation | None:
        """Return a body by id."""
        return self._bodies.get(operation_id)

    def bodies(self, operation_ids: Iterable[bytes]) -> tuple[Operation, ...]:
        """Return the bodies of a proposal whose operations are all here."""
        return tuple(self._bodies[operation_id] for operation_id in operation_ids)

    def missing(self, operation_ids: Iterable[bytes]) -> tuple[bytes, ...]:
        """Return the ids whose bodies are not here, in order."""
        return tuple(each for each in operation_ids if each not in self._bodies)

    def oldest_ms(self) -> int | None:
        """Return when the longest waiting operation arrived, None if nothing waits."""
        return next(iter(self._waiting.values()), None)

    @property
    def is_full_batch(self) -> bool:
        """Whether enough waits to fill a block without waiting for more."""
        return len(self._waiting) >= OPERATIONS_MAX

    def mark_proposed(self, operation_ids: Iterable[bytes]) -> None:
        """Take operations out of the queue: a proposal carries them now."""
        for operation_id in operation_ids:
            if self._waiting.pop(operation_id, None) is not None:
                self._release(self._bodies[operation_id].body.signer)

    def take_batch(self, time_ms: int) -> tuple[bytes, ...]:
        """Pick operations for a block: one per signer in turn, oldest first, within the bounds.

        Taking turns keeps a flooding signer from crowding out the others.  Operations that have
        expired by `time_ms` are dropped.
        """
        self._drop_expired(time_ms)
        queues: dict[str, list[bytes]] = {}
        for operation_id in self._waiting:
            queues.setdefault(self._bodies[operation_id].body.signer, []).append(operation_id)
        batch: list[bytes] = []
        size = 0
        while queues and len(batch) < OPERATIONS_MAX:
            for signer in list(queues):
                operation_id = queues[signer].pop(0)
                if not queues[signer]:
                    del queues[signer]
                size += self._bodies[operation_id].size
                if size > OPERATIONS_BYTES_MAX or len(batch) == OPERATIONS_MAX:
                    return tuple(batch)
                batch.append(operation_id)
        return tuple(batch)

    def forget(self, operation_ids: Sequence[bytes]) -> None:
        """Drop operations whose block has been executed."""
        self.mark_proposed(operation_ids)
        for operation_id in operation_ids:
            self._bodies.pop(operation_id, None)

    def _drop_expired(self, time_ms: int) -> None:
        expired = [each for each in self._waiting if not is_timely(self._bodies[each], time_ms)]
        self.forget(expired)

    def _release(self, signer: str) -> None:
        self._per_signer[signer] -= 1
        if not self._per_signer[signer]:
            del self._per_signer[signer]


def is_timely(operation: Operation, time_ms: int) -> bool:
    """Whether a block of `time_ms` may carry the operation: not expired, not for the far future."""
    return time_ms <= operation.body.expires_ms <= time_ms + EXPIRY_MS_MAX

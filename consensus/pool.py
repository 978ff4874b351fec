"""Operations that wait to be ordered, and the bodies that proposals refer to by id."""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from consensus.block import OPERATIONS_BYTES_MAX, OPERATIONS_MAX
from consensus.operation import EXPIRY_MS_MAX, OPERATION_BYTES_MAX, Operation

WAITING_PER_SIGNER_MAX = 64
"""One signer's share: as many as its nonce window can tell apart."""

WAITING_BYTES_PER_SIGNER_MAX = 4 * OPERATION_BYTES_MAX
"""The same share in bytes, so that a street of liars cannot fill the memory of a small computer."""

WAITING_MAX = 200 * WAITING_PER_SIGNER_MAX
"""Operations held; the members of the largest street cannot fill it, nor crowd anybody out."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What is known of a waiting operation without encoding it again."""

    since_ms: int
    signer: str
    size: int


@dataclass(slots=True)
class _Share:
    """What one signer has waiting."""

    operations: int = 0
    size: int = 0


class OperationPool:
    """Admitted operations by id: some wait for their turn, some are held for proposals.

    An operation is held once for each proposal that orders it and stays until all of them release
    it: two blocks may order the same operation, and a slower peer may ask for the body after this
    replica has executed it.
    """

    def __init__(self) -> None:
        self._bodies: dict[bytes, Operation] = {}
        self._waiting: OrderedDict[bytes, _Waiting] = OrderedDict()
        self._waiting_bytes = 0
        self._shares: dict[str, _Share] = {}
        self._held: Counter[bytes] = Counter()

    def __contains__(self, operation_id: bytes) -> bool:
        return operation_id in self._bodies

    def __len__(self) -> int:
        return len(self._bodies)

    def admit(self, operation: Operation, now_ms: int) -> bool:
        """Take an authenticated operation; False if known already or over a bound.

        It waits for its turn unless a proposal orders it already; such a body counts against no
        bound, proposals are bounded themselves.
        """
        operation_id = operation.id
        if operation_id in self._bodies:
            return False
        if operation_id in self._held:
            self._bodies[operation_id] = operation
            return True
        waiting = _Waiting(now_ms, operation.body.signer, operation.size)
        if not self._has_room(waiting):
            return False
        share = self._shares.setdefault(waiting.signer, _Share())
        share.operations += 1
        share.size += waiting.size
        self._waiting_bytes += waiting.size
        self._bodies[operation_id] = operation
        self._waiting[operation_id] = waiting
        return True

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
        return next((each.since_ms for each in self._waiting.values()), None)

    @property
    def is_full_batch(self) -> bool:
        """Whether enough waits to fill a block without waiting for more."""
        return len(self._waiting) >= OPERATIONS_MAX or self._waiting_bytes >= OPERATIONS_BYTES_MAX

    def hold(self, operation_ids: Iterable[bytes]) -> None:
        """Keep the operations of a proposal until it releases them; they wait no longer."""
        for operation_id in operation_ids:
            self._held[operation_id] += 1
            self._end_wait(operation_id)

    def release(self, operation_ids: Iterable[bytes]) -> None:
        """End one proposal's hold."""
        for operation_id in operation_ids:
            self._held[operation_id] -= 1
            if not self._held[operation_id]:
                del self._held[operation_id]
                self._bodies.pop(operation_id, None)

    def drop(self, operation_ids: Iterable[bytes]) -> None:
        """Let operations wait no longer that a block from elsewhere has ordered."""
        for operation_id in operation_ids:
            if self._end_wait(operation_id):
                del self._bodies[operation_id]

    def drop_expired(self, time_ms: int) -> None:
        """Drop what no block of `time_ms` or later may carry."""
        self.drop([each for each in self._waiting if self._bodies[each].body.expires_ms < time_ms])

    def take_batch(self, time_ms: int) -> tuple[bytes, ...]:
        """Pick operations for a block: one per signer in turn, oldest first, within the bounds.

        Taking turns keeps a flooding signer from crowding out the others.  Operations that a block
        of `time_ms` may not carry are dropped.
        """
        self.drop([each for each in self._waiting if not is_timely(self._bodies[each], time_ms)])
        queues: dict[str, list[bytes]] = {}
        for operation_id, waiting in self._waiting.items():
            queues.setdefault(waiting.signer, []).append(operation_id)
        batch: list[bytes] = []
        size = 0
        while queues:
            for signer in list(queues):
                operation_id = queues[signer].pop(0)
                if not queues[signer]:
                    del queues[signer]
                size += self._waiting[operation_id].size
                if size > OPERATIONS_BYTES_MAX or len(batch) == OPERATIONS_MAX:
                    return tuple(batch)
                batch.append(operation_id)
        return tuple(batch)

    def _has_room(self, waiting: _Waiting) -> bool:
        share = self._shares.get(waiting.signer, _Share())
        return (
            len(self._waiting) < WAITING_MAX
            and share.operations < WAITING_PER_SIGNER_MAX
            and share.size + waiting.size <= WAITING_BYTES_PER_SIGNER_MAX
        )

    def _end_wait(self, operation_id: bytes) -> bool:
        """Take an operation out of the queue; whether it was there."""
        waiting = self._waiting.pop(operation_id, None)
        if waiting is None:
            return False
        self._waiting_bytes -= waiting.size
        share = self._shares[waiting.signer]
        share.operations -= 1
        share.size -= waiting.size
        if not share.operations:
            del self._shares[waiting.signer]
        return True


def is_timely(operation: Operation, time_ms: int) -> bool:
    """Whether a block of `time_ms` may carry the operation: not expired, not for the far future."""
    return time_ms <= operation.body.expires_ms <= time_ms + EXPIRY_MS_MAX

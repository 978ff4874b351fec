import pytest

from consensus.block import OPERATIONS_BYTES_MAX, OPERATIONS_MAX
from consensus.operation import EXPIRY_MS_MAX, OPERATION_BYTES_MAX, Operation
from consensus.pool import (
    WAITING_BYTES_PER_SIGNER_MAX,
    WAITING_MAX,
    WAITING_PER_SIGNER_MAX,
    OperationPool,
    is_timely,
)
from tests.support.replicas import make_operation

LARGEST = bytes(OPERATION_BYTES_MAX - 256)


def pool_with(*operations: Operation) -> OperationPool:
    pool = OperationPool()
    for now_ms, operation in enumerate(operations):
        assert pool.admit(operation, now_ms)
    return pool


def from_signers(count: int, each: int, payload: bytes = b"") -> list[Operation]:
    return [
        make_operation(f"s{signer}", nonce, payload=payload)
        for signer in range(count)
        for nonce in range(1, each + 1)
    ]


def test_an_operation_is_taken_once() -> None:
    operation = make_operation("ann", 1)
    pool = pool_with(operation)

    assert not pool.admit(operation, 5)
    assert len(pool.take_batch(0)) == 1


def test_one_signer_gets_its_share_and_no_more() -> None:
    pool = pool_with(*from_signers(1, WAITING_PER_SIGNER_MAX))

    assert not pool.admit(make_operation("s0", 1000), 0)
    assert pool.admit(make_operation("s1", 1), 0)


def test_one_signer_s_bytes_are_bounded() -> None:
    largest = WAITING_BYTES_PER_SIGNER_MAX // OPERATION_BYTES_MAX
    pool = pool_with(*from_signers(1, largest, LARGEST))

    assert not pool.admit(make_operation("s0", 1000, payload=LARGEST), 0)
    assert pool.admit(make_operation("s1", 1, payload=LARGEST), 0)


def test_everybody_s_waiting_is_bounded_and_a_full_street_fits() -> None:
    signers = WAITING_MAX // WAITING_PER_SIGNER_MAX
    pool = pool_with(*from_signers(signers, WAITING_PER_SIGNER_MAX))

    assert signers >= 200
    assert not pool.admit(make_operation("late", 1), 0)


@pytest.mark.parametrize("end", ["hold", "drop"])
def test_the_share_is_free_again_when_the_wait_ends(end: str) -> None:
    operations = from_signers(1, WAITING_PER_SIGNER_MAX)
    pool = pool_with(*operations)

    getattr(pool, end)([operations[0].id])

    assert pool.admit(make_operation("s0", 1000), 0)


def test_signers_take_turns_under_a_flood() -> None:
    flood = from_signers(1, WAITING_PER_SIGNER_MAX)
    late = [make_operation(f"t{signer}", 1) for signer in range(3)]
    pool = pool_with(*flood, *late)

    batch = pool.take_batch(0)

    assert {operation.id for operation in late} <= set(batch[:4])
    assert [each for each in batch if each in {op.id for op in flood}] == [op.id for op in flood]


def test_a_flood_delays_nobody_beyond_the_next_block() -> None:
    flood = from_signers(100, WAITING_PER_SIGNER_MAX)
    late = make_operation("late", 1)
    pool = pool_with(*flood, late)

    assert late.id in pool.take_batch(0)


def test_a_batch_keeps_within_the_bounds_of_a_block() -> None:
    many = pool_with(*from_signers(20, 30))
    large = pool_with(*from_signers(20, 2, LARGEST))

    assert len(many.take_batch(0)) == OPERATIONS_MAX
    taken = large.bodies(large.take_batch(0))
    assert sum(each.size for each in taken) > OPERATIONS_BYTES_MAX - OPERATION_BYTES_MAX
    assert sum(each.size for each in taken) <= OPERATIONS_BYTES_MAX


def test_a_batch_is_full_by_count_and_by_bytes() -> None:
    assert not pool_with(*from_signers(1, 10)).is_full_batch
    assert pool_with(*from_signers(10, 50)).is_full_batch
    assert pool_with(*from_signers(9, 1, LARGEST)).is_full_batch


def test_taking_a_batch_drops_what_no_block_may_carry() -> None:
    expired = make_operation("ann", 1, expires_ms=99)
    far = make_operation("ann", 2, expires_ms=100 + EXPIRY_MS_MAX + 1)
    good = make_operation("ann", 3, expires_ms=100)
    pool = pool_with(expired, far, good)

    assert pool.take_batch(100) == (good.id,)
    assert (expired.id in pool, far.id in pool) == (False, False)


def test_expired_operations_leave_also_where_nobody_takes_batches() -> None:
    expired, good = make_operation("ann", 1, expires_ms=99), make_operation("ann", 2)
    pool = pool_with(expired, good)

    pool.drop_expired(100)

    assert (expired.id in pool, good.id in pool) == (False, True)


def test_the_oldest_wait_is_known() -> None:
    first, second = make_operation("ann", 1), make_operation("bob", 1)
    pool = OperationPool()
    assert pool.oldest_ms() is None
    pool.admit(first, 10)
    pool.admit(second, 20)

    pool.hold([first.id])

    assert pool.oldest_ms() == 20


def test_a_held_body_stays_until_the_last_proposal_releases_it() -> None:
    operation = make_operation("ann", 1)
    pool = pool_with(operation)
    pool.hold([operation.id])
    pool.hold([operation.id])

    pool.release([operation.id])
    assert pool.get(operation.id) == operation
    pool.release([operation.id])

    assert pool.get(operation.id) is None
    assert len(pool) == 0


def test_a_body_that_comes_after_the_proposal_is_held_and_does_not_wait() -> None:
    operation = make_operation("ann", 1)
    pool = pool_with(*from_signers(1, WAITING_PER_SIGNER_MAX))
    pool.hold([operation.id])
    assert pool.missing([operation.id]) == (operation.id,)

    assert pool.admit(operation, 0)

    assert pool.missing([operation.id]) == ()
    assert operation.id not in pool.take_batch(0)


def test_dropping_spares_what_a_proposal_holds() -> None:
    operation = make_operation("ann", 1)
    pool = pool_with(operation)
    pool.hold([operation.id])

    pool.drop([operation.id])

    assert operation.id in pool


def test_timely_means_not_expired_and_not_for_the_far_future() -> None:
    def timely(expires_ms: int) -> bool:
        return is_timely(make_operation("ann", 1, expires_ms=expires_ms), 100)

    assert [timely(99), timely(100)] == [False, True]
    assert [timely(100 + EXPIRY_MS_MAX), timely(101 + EXPIRY_MS_MAX)] == [True, False]

"""A member's operations: nonces that are never used twice, and repetition until the receipt."""

import msgspec
import pytest

from consensus.nonces import WINDOW_BITS
from consensus.operation import Channel, Operation, has_valid_signature
from market.orders import Side
from market.payloads import WithdrawalPayload
from node.client import Client
from node.identity import Identity, SodiumVerifier
from tests.support.street import order, reading

CHAIN_ID = bytes(range(32))
IDENTITY = Identity(bytes(32))
NEVER_MS = 2**62
RESEND_MS = 1000


class Salts:
    """Gives different salts, as a random source would."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self) -> bytes:
        self.given += 1
        return self.given.to_bytes(16, "big")


def client(first_nonce: int = 1, outbox: tuple[Operation, ...] = ()) -> Client:
    return Client(
        member="ann",
        chain_id=CHAIN_ID,
        signer=IDENTITY,
        first_nonce=first_nonce,
        outbox=outbox,
        resend_ms=RESEND_MS,
        random_salt=Salts(),
    )


def withdrawal(mine: Client, expires_ms: int = 10_000) -> Operation:
    return mine.sign("withdraw", WithdrawalPayload(1, 1), expires_ms)


def test_operation_is_signed_for_its_chain() -> None:
    operation = withdrawal(client())
    for chain_id, holds in ((CHAIN_ID, True), (bytes(32), False)):
        assert holds is has_valid_signature(
            operation,
            chain_id=chain_id,
            public_key=IDENTITY.public_key,
            verifier=SodiumVerifier(),
        )


def test_nonces_rise_by_one_and_salts_are_fresh() -> None:
    mine = client(first_nonce=7)
    made = [withdrawal(mine) for _ in range(3)]

    assert [each.body.nonce for each in made] == [7, 8, 9]
    assert mine.next_nonce == 10
    assert len({each.body.salt for each in made}) == 3


@pytest.mark.parametrize(
    ("kind", "payload", "channel"),
    [
        ("reading", reading(1), Channel.ENERGY),
        ("order", order(Side.BUY, 1), Channel.TRADE),
        ("withdraw", WithdrawalPayload(1, 1), Channel.TRADE),
    ],
)
def test_operation_is_of_the_channel_of_its_kind(
    kind: str, payload: msgspec.Struct, channel: Channel
) -> None:
    assert client().sign(kind, payload, 1).body.channel is channel


def test_what_is_not_kept_is_not_repeated() -> None:
    mine = client()
    withdrawal(mine)
    assert (mine.due(NEVER_MS), mine.wake_ms) == (([], []), NEVER_MS)


def test_kept_operation_is_repeated_with_the_same_bytes_until_its_receipt() -> None:
    mine = client()
    operation = withdrawal(mine)
    mine.keep(operation, 0)

    assert mine.due(RESEND_MS - 1) == ([], [])
    assert mine.wake_ms == RESEND_MS
    assert mine.due(RESEND_MS) == ([operation], [])
    assert mine.wake_ms == 2 * RESEND_MS
    assert mine.due(2 * RESEND_MS) == ([operation], [])
    assert mine.received(operation.body.nonce)
    assert mine.due(3 * RESEND_MS) == ([], [])
    assert mine.wake_ms == NEVER_MS


def test_second_receipt_means_nothing() -> None:
    mine = client()
    operation = withdrawal(mine)
    mine.keep(operation, 0)
    mine.received(operation.body.nonce)
    assert not mine.received(operation.body.nonce)


def test_expired_operation_is_given_up_and_reported_once() -> None:
    mine = client()
    short, long = withdrawal(mine, expires_ms=500), withdrawal(mine, expires_ms=5000)
    mine.keep(short, 0)
    mine.keep(long, 0)

    assert mine.due(500) == ([], [])
    assert mine.due(501) == ([], [short.body.nonce])
    assert mine.due(RESEND_MS) == ([long], [])


def test_outbox_of_before_a_restart_is_repeated_at_once() -> None:
    before = client()
    operation = withdrawal(before)

    after = client(first_nonce=100, outbox=(operation,))

    assert after.wake_ms <= 0
    assert after.due(0) == ([operation], [])
    assert withdrawal(after).body.nonce == 100


def test_interruption_of_the_bus_brings_the_repetition_forward() -> None:
    mine = client()
    operation = withdrawal(mine)
    mine.keep(operation, 0)
    mine.hurry()

    assert mine.due(1) == ([operation], [])
    assert mine.wake_ms == 1 + RESEND_MS


def test_keeping_more_does_not_put_off_what_waits() -> None:
    mine = client()
    first, second = withdrawal(mine), withdrawal(mine)
    mine.keep(first, 0)
    mine.keep(second, RESEND_MS - 1)

    assert mine.due(RESEND_MS) == ([first, second], [])


def test_client_that_lost_its_disk_skips_ahead_of_what_it_once_used() -> None:
    mine = client(first_nonce=1)

    assert not mine.received(500)

    assert mine.next_nonce == 501 + WINDOW_BITS


def test_receipt_of_an_own_nonce_skips_nothing() -> None:
    mine = client(first_nonce=5)
    operation = withdrawal(mine)
    mine.keep(operation, 0)
    mine.received(operation.body.nonce)
    assert mine.next_nonce == 6

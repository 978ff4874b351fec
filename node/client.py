"""A member's operations on their way to the chain: nonces, signatures, repetition until receipt.

Pure but for the salt, which is handed in.  A nonce is never used twice, also across restarts:
nonces are reserved on disk in blocks ahead of use.
"""

from collections.abc import Callable, Iterable

import msgspec

from consensus.codec import encode
from consensus.domain import Signer
from consensus.nonces import WINDOW_BITS
from consensus.operation import Channel, Operation, OperationBody, sign_operation
from market.payloads import channel_of

RESERVED_AT_ONCE = WINDOW_BITS


class Client:
    """Signs one member's operations and keeps those that the chain has not confirmed.

    Args:
        member: Who signs.
        chain_id, signer: For which chain, with which key.
        first_nonce: Above everything that was ever reserved or used.
        outbox: Operations from before a restart that have no receipt.
        resend_ms: How long to wait for a receipt before publishing the same bytes again.
        random_salt: Gives 16 fresh random bytes.
    """

    def __init__(
        self,
        *,
        member: str,
        chain_id: bytes,
        signer: Signer,
        first_nonce: int,
        outbox: Iterable[Operation],
        resend_ms: int,
        random_salt: Callable[[], bytes],
    ) -> None:
        self._member = member
        self._chain_id = chain_id
        self._signer = signer
        self._nonce = first_nonce
        self._outbox = {operation.body.nonce: operation for operation in outbox}
        self._resend_ms = resend_ms
        self._resend_at_ms = 0
        self._random_salt = random_salt

    @property
    def next_nonce(self) -> int:
        """The nonce of the next operation; it must be reserved on disk before use."""
        return self._nonce

    @property
    def wake_ms(self) -> int:
        """When `due` may next give something."""
        return self._resend_at_ms if self._outbox else 2**62

    def sign(self, kind: str, payload: msgspec.Struct, expires_ms: int) -> Operation:
        """Make an operation with the next nonce."""
        body = OperationBody(
            kind=kind,
            channel=Channel(channel_of(kind)),
            signer=self._member,
            key_version=1,
            nonce=self._nonce,
            expires_ms=expires_ms,
            salt=self._random_salt(),
            payload=encode(payload),
        )
        self._nonce += 1
        return sign_operation(body, chain_id=self._chain_id, signer=self._signer)

    def keep(self, operation: Operation, now_ms: int) -> None:
        """Repeat this operation until its receipt."""
        if not self._outbox:
            self._resend_at_ms = now_ms + self._resend_ms
        self._outbox[operation.body.nonce] = operation

    def received(self, nonce: int) -> bool:
        """Forget an operation that the chain has executed; whether it was kept.

        A nonce that this client has not reached was used before its disk was lost: it skips ahead,
        beyond what may still be under way from then.
        """
        if nonce >= self._nonce:
            self._nonce = nonce + 1 + WINDOW_BITS
        return self._outbox.pop(nonce, None) is not None

    def due(self, now_ms: int) -> tuple[list[Operation], list[int]]:
        """Return (operations to publish again, nonces of those that have expired)."""
        expired = [nonce for nonce, each in self._outbox.items() if each.body.expires_ms < now_ms]
        for nonce in expired:
            del self._outbox[nonce]
        if now_ms < self._resend_at_ms:
            return [], expired
        self._resend_at_ms = now_ms + self._resend_ms
        return list(self._outbox.values()), expired

    def hurry(self) -> None:
        """Publish again at the next occasion: the bus was interrupted."""
        self._resend_at_ms = 0

"""Signed operations: what members submit, opaque to consensus, exactly once in effect.

An operation is ``[[kind, channel, signer, key version, nonce, expiry, salt, payload], signature]``.
The signature covers tag, chain id and body; tag and chain id are not carried.  The id is the Merkle
leaf of the body, so it never depends on the signature bytes (a signer can make many).  Erasing
body and signature later leaves the leaf, hence every proof of everything else, intact.
"""

import enum
from typing import Annotated

import msgspec

from consensus.codec import encode
from consensus.domain import (
    MemberId,
    Salt,
    Signature,
    Signer,
    Tag,
    UInt,
    Verifier,
    leaf_digest,
    tagged,
)

OPERATION_BYTES_MAX = 32_768
"""Half a frame, so that an operation always travels in one piece, with room for a wrapper."""

EXPIRY_MS_MAX = 24 * 3600 * 1000
"""No operation lives longer: replay windows and pools stay bounded."""


class Channel(enum.IntEnum):
    """The three chains of paper 003 as channels of one block."""

    TRADE = 0
    ENERGY = 1
    INFO = 2


class OperationBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is signed.  `expires_ms` is block time; `nonce` is per signer, see `nonces`."""

    kind: Annotated[str, msgspec.Meta(pattern=r"^[a-z-]{1,24}\Z")]
    channel: Channel
    signer: MemberId
    key_version: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
    nonce: UInt
    expires_ms: UInt
    salt: Salt
    payload: Annotated[bytes, msgspec.Meta(max_length=OPERATION_BYTES_MAX - 256)]


class Operation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A body and its one signature; travels bare, anybody may relay it."""

    body: OperationBody
    signature: Signature

    @property
    def id(self) -> bytes:
        """The operation's identity and Merkle leaf (32 bytes)."""
        return leaf_digest(Tag.OPERATION, encode(self.body))

    @property
    def size(self) -> int:
        """Length of the encoding [bytes]."""
        return len(encode(self))


def sign_operation(body: OperationBody, *, chain_id: bytes, signer: Signer) -> Operation:
    """Sign `body` for one chain."""
    message = tagged(Tag.OPERATION, chain_id, encode(body))
    return Operation(body=body, signature=signer.sign(message))


def has_valid_signature(
    operation: Operation, *, chain_id: bytes, public_key: bytes, verifier: Verifier
) -> bool:
    """Whether the operation was signed with `public_key` for this chain."""
    message = tagged(Tag.OPERATION, chain_id, encode(operation.body))
    return verifier.verify(public_key, message, operation.signature)

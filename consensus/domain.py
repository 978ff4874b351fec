"""Domain separation: no signature or hash made for one purpose verifies as another."""

import enum
import hashlib
from typing import Annotated, Protocol

import msgspec

PROTOCOL = b"WATTSTREET-v1\0"

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Salt = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
MemberId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{1,16}\Z")]  # `$` would let "\n" pass
UInt = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

EMPTY_DIGEST = bytes(32)


class Tag(enum.IntEnum):
    """One number per purpose; never reused."""

    GENESIS = 1
    OPERATION = 2
    PRE_PREPARE = 3
    PREPARE = 4
    COMMIT = 5
    CHECKPOINT = 6
    BUS = 7
    CONTENT = 8
    HEADER = 9
    EVENT = 10
    EVENT_SALT = 11
    STATE_ENTRY = 12
    ENDORSERS = 13
    OBJECT = 14


def tagged(tag: Tag, chain_id: bytes, body: bytes) -> bytes:
    """Return the bytes to sign for `body`: protocol, tag, chain id, body."""
    return PROTOCOL + bytes((tag,)) + chain_id + body


def tagged_digest(tag: Tag, chain_id: bytes, body: bytes) -> bytes:
    """Return the SHA-256 digest of `body` in its domain."""
    return hashlib.sha256(tagged(tag, chain_id, body)).digest()


def leaf_digest(tag: Tag, body: bytes) -> bytes:
    """Return the Merkle leaf of a salted body: SHA-256(0x00 || tag || body), RFC 9162 style."""
    return hashlib.sha256(b"\0" + bytes((tag,)) + body).digest()


class Signer(Protocol):
    """Holds this member's private key."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        ...


class Verifier(Protocol):
    """Checks signatures; handed in, so that the pure core owns no cryptography library."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is `public_key`'s Ed25519 signature of `message`; never raises."""
        ...

"""Blocks: the content that is ordered first, and the header that execution makes of it.

Consensus binds the *content* of a sequence number (epoch, sequence, time, operation ids): it names
no parent and no state, so it is the same in every view and pipelines freely.  Execution, strictly
in sequence, makes the *header*; a quorum of CHECKPOINT signatures over its hash is the block's
certificate, which lies beside the block and is never hashed into the chain.
"""

from typing import Annotated

import msgspec

from consensus.codec import encode
from consensus.domain import Digest, MemberId, Signature, Tag, UInt, tagged_digest
from consensus.operation import Operation

OPERATIONS_MAX = 500
OPERATIONS_BYTES_MAX = 256 * 1024
BLOCK_BYTES_MAX = 2 * OPERATIONS_BYTES_MAX
"""Bound for a transferred block: operations, ids, header and certificate with room to spare."""


class Content(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one sequence number orders: proposed block time [community ms] and operation ids."""

    epoch: UInt
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    time_ms: UInt
    operation_ids: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=OPERATIONS_MAX)]

    def digest(self, chain_id: bytes) -> bytes:
        """Return the digest on which replicas vote; it covers every field."""
        return tagged_digest(Tag.CONTENT, chain_id, encode(self))


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block after execution; `time_ms` is effective: max of parent's and proposed."""

    height: UInt
    parent: Digest
    epoch: UInt
    content_digest: Digest
    time_ms: UInt
    trade_root: Digest
    energy_root: Digest
    info_root: Digest
    state_root: Digest
    endorsers: Digest
    next_endorsers: Digest

    def digest(self, chain_id: bytes) -> bytes:
        """Return the header hash, which CHECKPOINT certifies and the next header names."""
        return tagged_digest(Tag.HEADER, chain_id, encode(self))


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Q endorsers' CHECKPOINT signatures over one header hash, sorted by member."""

    epoch: UInt
    height: UInt
    header_digest: Digest
    signatures: Annotated[tuple[tuple[MemberId, Signature], ...], msgspec.Meta(max_length=200)]


class CertifiedBlock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Everything a follower needs to take one block: it proves itself."""

    header: Header
    content: Content
    certificate: Certificate
    operations: Annotated[tuple[Operation, ...], msgspec.Meta(max_length=OPERATIONS_MAX)]

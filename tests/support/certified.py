"""Certified blocks of a `Chain`: the endorsers' real signatures over what it executed.

A `TimelyChain` signs operations that expire within the day, so that its ledger passes the audit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from consensus.block import Certificate, CertifiedBlock
from consensus.domain import Tag
from consensus.messages import vote_bytes
from consensus.operation import Operation
from node.execution import ExecutedBlock
from node.genesis import Genesis
from node.identity import Identity
from tests.support.street import FIRST, HOUR_MS, Chain


class TimelyChain(Chain):
    """A chain whose operations expire two hours after the delivery of the first slot."""

    def sign(self, member: str, payload: msgspec.Struct | bytes, **changes: Any) -> Operation:
        """Sign an operation with the member's next nonce."""
        fields = {"expires_ms": (FIRST + 3) * HOUR_MS} | changes
        return super().sign(member, payload, **fields)


def sign_certificate(
    genesis: Genesis,
    identities: Mapping[str, Identity],
    executed: ExecutedBlock,
    members: Sequence[str],
) -> Certificate:
    """Sign CHECKPOINT for a block in the names of `members`."""
    height, digest = executed.header.height, executed.digest
    signatures = []
    for member in members:
        message = vote_bytes(
            Tag.CHECKPOINT,
            genesis.chain_id,
            epoch=0,
            view=0,
            sequence=height,
            digest=digest,
            member=member,
        )
        signatures.append((member, identities[member].sign(message)))
    return Certificate(0, height, digest, tuple(signatures))


def certificate_of(
    chain: Chain, executed: ExecutedBlock, members: Sequence[str] | None = None
) -> Certificate:
    """Sign CHECKPOINT for a block with a quorum, or with those that are named."""
    epoch = chain.genesis.epoch
    quorum = epoch.members[: epoch.quorum] if members is None else members
    return sign_certificate(chain.genesis, chain.identities, executed, quorum)


def certified(
    chain: Chain, executed: ExecutedBlock, members: Sequence[str] | None = None
) -> CertifiedBlock:
    """Return a block with its certificate, as peers send it."""
    certificate = certificate_of(chain, executed, members)
    return CertifiedBlock(executed.header, executed.content, certificate, executed.operations)

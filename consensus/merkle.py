"""Merkle trees in the manner of RFC 9162 section 2.1: split at the largest power of two below n.

Leaves come already hashed with prefix 0x00 (`domain.leaf_digest`); inner nodes carry 0x01, so a
leaf can never be read as a node.  No leaf is ever duplicated.
"""

import hashlib
from collections.abc import Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over the leaf digests; SHA-256 of nothing for an empty sequence."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        # Pairing from the left and carrying an odd last node up gives the RFC's tree.
        paired = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0]


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the audit path of leaf `index`, from the leaf upwards (RFC 9162 2.1.3.1).

    Raises:
        IndexError: If there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    if len(leaves) == 1:
        return ()
    cut = _split(len(leaves))
    if index < cut:
        return (*inclusion_proof(leaves[:cut], index), merkle_root(leaves[cut:]))
    return (*inclusion_proof(leaves[cut:], index - cut), merkle_root(leaves[:cut]))


def root_from_proof(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that `path` leads to, None if the path does not fit the tree's size."""
    if not 0 <= index < size:
        return None
    node, last = leaf, size - 1
    for sibling in path:
        if last == 0:
            return None
        if index % 2 or index == last:
            node = _node(sibling, node)
            while index % 2 == 0 and index:
                index >>= 1
                last >>= 1
        else:
            node = _node(node, sibling)
        index >>= 1
        last >>= 1
    return node if last == 0 else None

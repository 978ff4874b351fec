"""Merkle trees against RFC 9162 section 2.1, written down a second time and slowly."""

import hashlib
from collections.abc import Sequence

import pytest

from consensus.domain import Tag, leaf_digest
from consensus.merkle import EMPTY_ROOT, inclusion_proof, merkle_root, root_from_proof

SIZES = range(21)


def leaves_of(size: int) -> list[bytes]:
    return [leaf_digest(Tag.OPERATION, bytes([index])) for index in range(size)]


def slow_root(leaves: Sequence[bytes]) -> bytes:
    """MTH(D[n]) = SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n])), k the largest power of two < n."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    cut = max(2**power for power in range(10) if 2**power < len(leaves))
    left, right = slow_root(leaves[:cut]), slow_root(leaves[cut:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@pytest.mark.parametrize("size", SIZES)
def test_the_root_is_the_rfc_s(size: int) -> None:
    assert merkle_root(leaves_of(size)) == slow_root(leaves_of(size))


def test_the_empty_tree_is_the_digest_of_nothing() -> None:
    assert merkle_root([]) == EMPTY_ROOT == hashlib.sha256(b"").digest()


def test_a_published_vector_holds() -> None:
    """Inputs and roots of the Certificate Transparency reference tests."""
    inputs = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")
    leaves = [hashlib.sha256(b"\0" + bytes.fromhex(each)).digest() for each in inputs]

    assert leaves[0].hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert merkle_root(leaves[:2]).hex() == (
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    )
    assert merkle_root(leaves[:7]).hex() == (
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"
    )


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_is_proved(size: int) -> None:
    leaves = leaves_of(size)

    for index, leaf in enumerate(leaves):
        path = inclusion_proof(leaves, index)
        assert root_from_proof(leaf, index, size, path) == merkle_root(leaves)


@pytest.mark.parametrize("size", SIZES)
def test_a_proof_holds_for_no_other_index_and_no_other_leaf(size: int) -> None:
    leaves = leaves_of(size)
    root = merkle_root(leaves)

    for index in range(size):
        path = inclusion_proof(leaves, index)
        for other in range(-1, size + 2):
            if other != index:
                assert root_from_proof(leaves[index], other, size, path) != root
            if other != index and 0 <= other < size:
                assert root_from_proof(leaves[other], index, size, path) != root


@pytest.mark.parametrize("size", SIZES)
def test_a_changed_path_is_refused(size: int) -> None:
    leaves = leaves_of(size)
    root = merkle_root(leaves)

    for index, leaf in enumerate(leaves):
        path = inclusion_proof(leaves, index)
        wrong = [path[:-1], (*path, bytes(32)), (bytes(32), *path)]
        if len(path) > 1 and path[0] != path[1]:
            wrong.append((path[1], path[0], *path[2:]))
        for each in wrong if path else wrong[1:]:
            assert root_from_proof(leaf, index, size, each) != root


def turns(index: int, size: int) -> tuple[bool, ...]:
    """List, from the leaf upwards, whether the sibling stands to the left."""
    if size == 1:
        return ()
    cut = max(2**power for power in range(10) if 2**power < size)
    return (*turns(index, cut), False) if index < cut else (*turns(index - cut, size - cut), True)


@pytest.mark.parametrize("size", range(1, 21))
def test_another_size_is_refused_unless_the_leaf_stands_alike_in_it(size: int) -> None:
    leaves = leaves_of(size)
    root = merkle_root(leaves)

    for index, leaf in enumerate(leaves):
        path = inclusion_proof(leaves, index)
        for other in range(25):
            stands_alike = index < other and turns(index, other) == turns(index, size)
            assert (root_from_proof(leaf, index, other, path) == root) == stands_alike


def test_there_is_no_leaf_beyond_the_tree() -> None:
    with pytest.raises(IndexError):
        inclusion_proof(leaves_of(3), 3)
    with pytest.raises(IndexError):
        inclusion_proof([], 0)
    assert root_from_proof(bytes(32), 0, 0, ()) is None
    assert root_from_proof(bytes(32), 3, 3, ()) is None


def test_a_node_cannot_be_passed_off_as_a_leaf() -> None:
    leaves = leaves_of(4)
    left = merkle_root(leaves[:2])

    assert leaf_digest(Tag.OPERATION, leaves[0] + leaves[1]) != left
    forged = hashlib.sha256(b"\0" + leaves[0] + leaves[1]).digest()
    assert merkle_root([forged, merkle_root(leaves[2:])]) != merkle_root(leaves)


def test_the_last_leaf_is_never_doubled() -> None:
    leaves = leaves_of(3)

    assert merkle_root(leaves) != merkle_root([*leaves, leaves[-1]])

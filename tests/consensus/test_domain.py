"""No signature or digest made for one purpose, chain or epoch holds for another."""

import itertools
from collections.abc import Callable

import msgspec
import pytest

from consensus.block import Content
from consensus.domain import Tag, leaf_digest, tagged, tagged_digest
from consensus.messages import (
    Checkpoint,
    Commit,
    Message,
    Prepare,
    PrePrepare,
    has_valid_signature,
    vote_bytes,
)
from consensus.operation import Operation, sign_operation
from consensus.operation import has_valid_signature as has_valid_operation_signature
from tests.support.replicas import (
    CHAIN_ID,
    FakeSigner,
    FakeVerifier,
    ballot_of,
    key_of,
    make_operation,
)

OTHER_CHAIN = bytes(32)
VOTE_TAGS = (Tag.PRE_PREPARE, Tag.PREPARE, Tag.COMMIT, Tag.CHECKPOINT)
CONTENT = Content(0, 5, 1_000, ())
DIGEST = CONTENT.digest(CHAIN_ID)

MAKERS: dict[str, Callable[[bytes, int], Message]] = {
    "PrePrepare": lambda chain, epoch: ballot_of("b", chain).pre_prepare(
        0, msgspec.structs.replace(CONTENT, epoch=epoch)
    ),
    "Prepare": lambda chain, epoch: ballot_of("b", chain).prepare(epoch, 0, 5, DIGEST),
    "Commit": lambda chain, epoch: ballot_of("b", chain).commit(epoch, 0, 5, DIGEST),
    "Checkpoint": lambda chain, epoch: ballot_of("b", chain).checkpoint(epoch, 5, DIGEST),
}


def holds(message: Message, chain_id: bytes = CHAIN_ID) -> bool:
    return has_valid_signature(
        message, chain_id=chain_id, public_key=key_of("b"), verifier=FakeVerifier()
    )


def test_tags_are_one_byte_and_never_shared() -> None:
    assert len({int(tag) for tag in Tag}) == len(Tag.__members__)
    assert all(1 <= tag <= 255 for tag in Tag)


def test_no_tag_s_bytes_or_digests_are_another_s() -> None:
    chains = (CHAIN_ID, OTHER_CHAIN)
    cases = list(itertools.product(Tag, chains, (b"", b"x", b"\0x")))

    assert len({tagged(*case) for case in cases}) == len(cases)
    assert len({tagged_digest(*case) for case in cases}) == len(cases)
    leaves = {leaf_digest(tag, body) for tag in Tag for body in (b"", b"x")}
    assert len(leaves) == 2 * len(Tag)
    assert not leaves & {tagged_digest(*case) for case in cases}


def test_a_vote_s_bytes_differ_in_every_field() -> None:
    fields = itertools.product(
        VOTE_TAGS, (CHAIN_ID, OTHER_CHAIN), (0, 1), (0, 1), (1, 2), (DIGEST, bytes(32)), ("a", "b")
    )

    signed = [
        vote_bytes(tag, chain, epoch=epoch, view=view, sequence=n, digest=digest, member=member)
        for tag, chain, epoch, view, n, digest, member in fields
    ]

    assert len(set(signed)) == len(signed) == 4 * 2**6


@pytest.mark.parametrize("made_as", MAKERS)
@pytest.mark.parametrize("used_as", MAKERS)
@pytest.mark.parametrize("chain", [CHAIN_ID, OTHER_CHAIN], ids=["chain", "other chain"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_signature_holds_only_for_its_type_chain_and_epoch(
    made_as: str, used_as: str, chain: bytes, epoch: int
) -> None:
    signature = MAKERS[made_as](chain, epoch).signature

    transplanted = msgspec.structs.replace(MAKERS[used_as](CHAIN_ID, 0), signature=signature)

    is_genuine = (made_as, chain, epoch) == (used_as, CHAIN_ID, 0)
    assert holds(transplanted) == is_genuine


def test_a_vote_holds_on_no_other_chain() -> None:
    assert not any(holds(make(CHAIN_ID, 0), OTHER_CHAIN) for make in MAKERS.values())


@pytest.mark.parametrize("field", ["epoch", "view", "sequence", "digest", "member"])
def test_every_field_of_a_vote_is_signed(field: str) -> None:
    other = {"epoch": 1, "view": 1, "sequence": 6, "digest": bytes(32), "member": "c"}[field]

    for make in MAKERS.values():
        message = make(CHAIN_ID, 0)
        if field not in message.__struct_fields__:
            continue
        assert not holds(msgspec.structs.replace(message, **{field: other}))


@pytest.mark.parametrize("field", ["epoch", "sequence", "time_ms", "operation_ids"])
def test_every_field_of_a_content_is_in_its_digest(field: str) -> None:
    other = {"epoch": 1, "sequence": 6, "time_ms": 1_001, "operation_ids": (bytes(32),)}[field]
    changed = msgspec.structs.replace(CONTENT, **{field: other})

    assert changed.digest(CHAIN_ID) != DIGEST
    proposal = ballot_of("b").pre_prepare(0, CONTENT)
    assert not holds(msgspec.structs.replace(proposal, content=changed))


def test_the_order_of_operations_is_in_the_digest() -> None:
    first, second = bytes(32), bytes([1]) * 32
    one = msgspec.structs.replace(CONTENT, operation_ids=(first, second))
    other = msgspec.structs.replace(CONTENT, operation_ids=(second, first))

    assert one.digest(CHAIN_ID) != other.digest(CHAIN_ID)


def test_a_digest_names_its_chain() -> None:
    assert CONTENT.digest(CHAIN_ID) != CONTENT.digest(OTHER_CHAIN)


def test_an_operation_holds_for_its_chain_and_body_only() -> None:
    operation = make_operation("ann", 1)
    elsewhere = sign_operation(operation.body, chain_id=OTHER_CHAIN, signer=FakeSigner("ann"))
    changed = msgspec.structs.replace(operation.body, nonce=2)

    assert genuine(operation)
    assert not genuine(elsewhere)
    assert not genuine(Operation(changed, operation.signature))


def test_no_vote_s_signature_holds_for_an_operation() -> None:
    operation = make_operation("b", 1)
    signatures = [make(CHAIN_ID, 0).signature for make in MAKERS.values()]

    assert not any(genuine(Operation(operation.body, each)) for each in signatures)


def genuine(operation: Operation) -> bool:
    return has_valid_operation_signature(
        operation,
        chain_id=CHAIN_ID,
        public_key=key_of(operation.body.signer),
        verifier=FakeVerifier(),
    )


def test_all_messages_are_in_the_matrix() -> None:
    kinds = {type(make(CHAIN_ID, 0)) for make in MAKERS.values()}

    assert kinds == {PrePrepare, Prepare, Commit, Checkpoint}

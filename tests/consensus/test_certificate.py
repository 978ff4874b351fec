"""Certificates and certified blocks: every way in which one can be wrong."""

from collections.abc import Callable, Sequence

import msgspec
import pytest

from consensus.block import Certificate, CertifiedBlock, Content, Header
from consensus.certificate import verify_block, verify_certificate
from consensus.domain import Tag
from consensus.errors import CertificateError
from consensus.membership import Epoch
from consensus.messages import vote_bytes
from tests.support.replicas import (
    CHAIN_ID,
    FakeSigner,
    FakeVerifier,
    epoch_of,
    key_of,
    make_header,
    make_operation,
)

EPOCH = epoch_of(7)
OPERATIONS = (make_operation("ann", 1), make_operation("bob", 1))
CONTENT = Content(0, 3, 1_000, tuple(each.id for each in OPERATIONS))
HEADER = make_header(
    3, endorsers=EPOCH.digest(CHAIN_ID), content_digest=CONTENT.digest(CHAIN_ID), time_ms=1_000
)


def certificate_of(
    header: Header,
    signers: Sequence[str] = "abcde",
    *,
    tag: Tag = Tag.CHECKPOINT,
    epoch: int = 0,
    view: int = 0,
    chain_id: bytes = CHAIN_ID,
) -> Certificate:
    """Certify a header, with what is signed as asked for."""
    digest = header.digest(CHAIN_ID)
    signatures = tuple(
        (
            member,
            FakeSigner(member).sign(
                vote_bytes(
                    tag,
                    chain_id,
                    epoch=epoch,
                    view=view,
                    sequence=header.height,
                    digest=digest,
                    member=member,
                )
            ),
        )
        for member in signers
    )
    return Certificate(0, header.height, digest, signatures)


def check(certificate: Certificate, header: Header = HEADER, epoch: Epoch = EPOCH) -> None:
    verify_certificate(certificate, header, epoch=epoch, chain_id=CHAIN_ID, verifier=FakeVerifier())


@pytest.mark.parametrize("signers", ["abcde", "cdefg", "abcdefg"])
def test_any_quorum_certifies(signers: str) -> None:
    check(certificate_of(HEADER, signers))


def test_one_signature_short_is_refused() -> None:
    with pytest.raises(CertificateError, match="4 signatures, 5 are needed"):
        check(certificate_of(HEADER, "abcd"))


@pytest.mark.parametrize("signers", ["aabcd", "abcdd", "abcdedcba"])
def test_a_repeated_signer_is_refused(signers: str) -> None:
    with pytest.raises(CertificateError, match="not distinct"):
        check(certificate_of(HEADER, signers))


def test_unsorted_signers_are_refused() -> None:
    with pytest.raises(CertificateError, match="not distinct"):
        check(certificate_of(HEADER, "bacde"))


@pytest.mark.parametrize("signers", ["abcdx", "abcdex"])
def test_a_stranger_s_signature_is_refused_even_beside_a_quorum(signers: str) -> None:
    with pytest.raises(CertificateError, match="x may not vote"):
        check(certificate_of(HEADER, signers))


def test_strangers_are_refused_before_any_signature_is_checked() -> None:
    verifier = FakeVerifier()

    with pytest.raises(CertificateError):
        verify_certificate(
            certificate_of(HEADER, "abcdx"),
            HEADER,
            epoch=EPOCH,
            chain_id=CHAIN_ID,
            verifier=verifier,
        )

    assert verifier.calls == 0


def test_one_bad_signature_is_refused_even_beside_a_quorum() -> None:
    good = certificate_of(HEADER, "abcdef")

    for index, (member, signature) in enumerate(good.signatures):
        bad = (member, bytes([signature[0] ^ 1]) + signature[1:])
        signatures = (*good.signatures[:index], bad, *good.signatures[index + 1 :])
        with pytest.raises(CertificateError, match=f"signature of {member} does not hold"):
            check(Certificate(0, 3, good.header_digest, signatures))


def test_a_signature_under_another_member_s_name_is_refused() -> None:
    signatures = list(certificate_of(HEADER, "abcde").signatures)
    signatures[4] = ("f", signatures[4][1])

    with pytest.raises(CertificateError, match="f does not hold"):
        check(Certificate(0, 3, HEADER.digest(CHAIN_ID), tuple(signatures)))


@pytest.mark.parametrize("tag", [tag for tag in Tag if tag is not Tag.CHECKPOINT])
def test_votes_of_another_kind_certify_nothing(tag: Tag) -> None:
    with pytest.raises(CertificateError, match="does not hold"):
        check(certificate_of(HEADER, tag=tag))


def test_signatures_of_another_epoch_view_or_chain_certify_nothing() -> None:
    for certificate in (
        certificate_of(HEADER, epoch=1),
        certificate_of(HEADER, view=1),
        certificate_of(HEADER, chain_id=bytes(32)),
    ):
        with pytest.raises(CertificateError, match="does not hold"):
            check(certificate)


@pytest.mark.parametrize(
    "fields", [{"epoch": 1}, {"height": 2}, {"height": 4}, {"header_digest": bytes(32)}]
)
def test_every_unsigned_field_of_a_certificate_must_fit(fields: dict[str, object]) -> None:
    certificate = msgspec.structs.replace(certificate_of(HEADER), **fields)

    with pytest.raises(CertificateError):
        check(certificate)


@pytest.mark.parametrize("field", Header.__struct_fields__)
def test_a_header_changed_in_any_field_is_refused(field: str) -> None:
    value = getattr(HEADER, field)
    other = bytes([7]) * 32 if isinstance(value, bytes) else value + 1

    with pytest.raises(CertificateError):
        check(certificate_of(HEADER), msgspec.structs.replace(HEADER, **{field: other}))


def test_a_header_of_another_epoch_is_refused_though_its_own_votes_certify_it() -> None:
    header = msgspec.structs.replace(HEADER, epoch=1)

    with pytest.raises(CertificateError, match="epoch 1"):
        check(certificate_of(header), header)


def test_a_header_that_names_other_endorsers_is_refused_though_votes_certify_it() -> None:
    header = msgspec.structs.replace(HEADER, endorsers=epoch_of(8).digest(CHAIN_ID))

    with pytest.raises(CertificateError, match="other endorsers"):
        check(certificate_of(header), header)


def test_another_epoch_s_members_cannot_certify() -> None:
    keys = tuple((member, key_of(f"new {member}")) for member in EPOCH.members)

    with pytest.raises(CertificateError):
        check(certificate_of(HEADER), epoch=Epoch(number=0, keys=keys))
    with pytest.raises(CertificateError):
        check(certificate_of(HEADER), epoch=Epoch(number=1, keys=EPOCH.keys))


BLOCK = CertifiedBlock(HEADER, CONTENT, certificate_of(HEADER), OPERATIONS)


def check_block(block: CertifiedBlock) -> None:
    verify_block(block, epoch=EPOCH, chain_id=CHAIN_ID, verifier=FakeVerifier())


def test_a_whole_block_proves_itself() -> None:
    check_block(BLOCK)


@pytest.mark.parametrize(
    "change",
    [
        lambda: {"content": msgspec.structs.replace(CONTENT, time_ms=1_001)},
        lambda: {"content": msgspec.structs.replace(CONTENT, sequence=4)},
        lambda: {"content": msgspec.structs.replace(CONTENT, epoch=1)},
        lambda: {"content": msgspec.structs.replace(CONTENT, operation_ids=())},
        lambda: {"operations": OPERATIONS[:1]},
        lambda: {"operations": OPERATIONS[::-1]},
        lambda: {"operations": (*OPERATIONS, OPERATIONS[0])},
        lambda: {"operations": (OPERATIONS[0], make_operation("bob", 2))},
        lambda: {"certificate": certificate_of(HEADER, "abcd")},
        lambda: {"header": msgspec.structs.replace(HEADER, parent=bytes([1]) * 32)},
    ],
)
def test_a_block_whose_parts_do_not_fit_is_refused(
    change: Callable[[], dict[str, object]],
) -> None:
    with pytest.raises(CertificateError):
        check_block(msgspec.structs.replace(BLOCK, **change()))


def test_certificates_of_different_members_certify_the_same_block() -> None:
    other = msgspec.structs.replace(BLOCK, certificate=certificate_of(HEADER, "cdefg"))

    check_block(other)

    assert other.header.digest(CHAIN_ID) == BLOCK.header.digest(CHAIN_ID)

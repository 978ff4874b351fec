"""Block certificates: checked with the endorsers' keys and nothing else."""

from consensus.block import Certificate, CertifiedBlock, Header
from consensus.domain import Tag, Verifier
from consensus.errors import CertificateError
from consensus.membership import Epoch
from consensus.messages import vote_bytes


def verify_certificate(
    certificate: Certificate, header: Header, *, epoch: Epoch, chain_id: bytes, verifier: Verifier
) -> None:
    """Check that a quorum of `epoch` signed CHECKPOINT for exactly this header.

    Every signature must hold, not only Q of them: a stored certificate has no room for junk.

    Raises:
        CertificateError: Names the rule that failed.
    """
    if header.epoch != epoch.number:
        raise CertificateError(f"header {header.height} is of epoch {header.epoch}")
    if (certificate.epoch, certificate.height) != (epoch.number, header.height):
        raise CertificateError(
            f"certificate is for epoch {certificate.epoch}, height {certificate.height}; "
            f"the header is of epoch {epoch.number}, height {header.height}"
        )
    if certificate.header_digest != header.digest(chain_id):
        raise CertificateError(f"certificate of height {header.height} names another header")
    if header.endorsers != epoch.digest(chain_id):
        raise CertificateError(f"header {header.height} names other endorsers than its epoch has")
    signers = [member for member, _ in certificate.signatures]
    if signers != sorted(set(signers)):
        raise CertificateError(f"certificate of height {header.height}: signers not distinct")
    if len(signers) < epoch.quorum:
        raise CertificateError(
            f"certificate of height {header.height} has {len(signers)} signatures, "
            f"{epoch.quorum} are needed"
        )
    strangers = sorted(set(signers) - set(epoch.members))
    if strangers:
        raise CertificateError(
            f"certificate of height {header.height}: {', '.join(strangers)} may not vote"
        )
    for member, signature in certificate.signatures:
        key = epoch.public_key(member)
        message = vote_bytes(
            Tag.CHECKPOINT,
            chain_id,
            epoch=epoch.number,
            view=0,
            sequence=header.height,
            digest=certificate.header_digest,
            member=member,
        )
        if key is None or not verifier.verify(key, message, signature):
            raise CertificateError(
                f"certificate of height {header.height}: the signature of {member} does not hold"
            )


def verify_block(
    block: CertifiedBlock, *, epoch: Epoch, chain_id: bytes, verifier: Verifier
) -> None:
    """Check certificate, header, content and operations of one block against each other.

    What is left is execution: that the header's roots follow from the operations.

    Raises:
        CertificateError: Names the rule that failed.
    """
    header, content = block.header, block.content
    verify_certificate(block.certificate, header, epoch=epoch, chain_id=chain_id, verifier=verifier)
    if (content.epoch, content.sequence) != (header.epoch, header.height):
        raise CertificateError(f"content of height {header.height} is of another sequence")
    if content.digest(chain_id) != header.content_digest:
        raise CertificateError(f"content of height {header.height} is not the certified one")
    if tuple(operation.id for operation in block.operations) != content.operation_ids:
        raise CertificateError(f"operations of height {header.height} are not the ordered ones")

"""The messages of PBFT.  Each carries one signature over tag, chain id, epoch and its vote.

| message | from | says | reference (Castro & Liskov 1999) |
|---|---|---|---|
| PRE-PREPARE | primary | sequence n orders this content in view v | section 4.2 |
| PREPARE | backups | I accepted digest d for (v, n) | section 4.2 |
| COMMIT | all | digest d is prepared at (v, n) here | section 4.2 |
| CHECKPOINT | all | executing n gave this header; no view | section 4.3 |
"""

from typing import Annotated

import msgspec

from consensus.block import Content
from consensus.codec import encode
from consensus.domain import Digest, MemberId, Signature, Signer, Tag, UInt, Verifier, tagged

Sequence = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class PrePrepare(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="pp"
):
    """The primary's proposal: the content itself, so that its digest can be checked."""

    epoch: UInt
    view: UInt
    content: Content
    member: MemberId
    signature: Signature

    @property
    def sequence(self) -> int:
        """The sequence number that the content names."""
        return self.content.sequence


class Prepare(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="p"):
    """A backup's acceptance of a proposal."""

    epoch: UInt
    view: UInt
    sequence: Sequence
    digest: Digest
    member: MemberId
    signature: Signature


class Commit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="c"):
    """A replica's word that the digest is prepared at it."""

    epoch: UInt
    view: UInt
    sequence: Sequence
    digest: Digest
    member: MemberId
    signature: Signature


class Checkpoint(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="cp"
):
    """A replica's word for the header that executing a sequence gave."""

    epoch: UInt
    sequence: Sequence
    digest: Digest
    member: MemberId
    signature: Signature


Message = PrePrepare | Prepare | Commit | Checkpoint


def vote_bytes(
    tag: Tag, chain_id: bytes, *, epoch: int, view: int, sequence: int, digest: bytes, member: str
) -> bytes:
    """Return what a vote signs; a checkpoint has no view and signs view 0 under its own tag."""
    body = epoch.to_bytes(8, "big") + encode((view, sequence, digest, member))
    return tagged(tag, chain_id, body)


def _signed_part(message: Message, chain_id: bytes) -> bytes:
    match message:
        case PrePrepare():
            tag, view, digest = Tag.PRE_PREPARE, message.view, message.content.digest(chain_id)
        case Prepare():
            tag, view, digest = Tag.PREPARE, message.view, message.digest
        case Commit():
            tag, view, digest = Tag.COMMIT, message.view, message.digest
        case Checkpoint():
            tag, view, digest = Tag.CHECKPOINT, 0, message.digest
    return vote_bytes(
        tag,
        chain_id,
        epoch=message.epoch,
        view=view,
        sequence=message.sequence,
        digest=digest,
        member=message.member,
    )


def has_valid_signature(
    message: Message, *, chain_id: bytes, public_key: bytes, verifier: Verifier
) -> bool:
    """Whether `message` carries its member's signature for this chain."""
    return verifier.verify(public_key, _signed_part(message, chain_id), message.signature)


class Ballot:
    """Makes one member's signed messages."""

    def __init__(self, *, member: str, chain_id: bytes, signer: Signer) -> None:
        self.member = member
        self._chain_id = chain_id
        self._signer = signer

    def pre_prepare(self, view: int, content: Content) -> PrePrepare:
        """Propose `content` in `view`."""
        signature = self._sign(
            Tag.PRE_PREPARE, content.epoch, view, content.sequence, content.digest(self._chain_id)
        )
        return PrePrepare(content.epoch, view, content, self.member, signature)

    def prepare(self, epoch: int, view: int, sequence: int, digest: bytes) -> Prepare:
        """Accept a proposal."""
        signature = self._sign(Tag.PREPARE, epoch, view, sequence, digest)
        return Prepare(epoch, view, sequence, digest, self.member, signature)

    def commit(self, epoch: int, view: int, sequence: int, digest: bytes) -> Commit:
        """Say that a proposal is prepared here."""
        signature = self._sign(Tag.COMMIT, epoch, view, sequence, digest)
        return Commit(epoch, view, sequence, digest, self.member, signature)

    def checkpoint(self, epoch: int, height: int, header_digest: bytes) -> Checkpoint:
        """Vouch for an executed header."""
        signature = self._sign(Tag.CHECKPOINT, epoch, 0, height, header_digest)
        return Checkpoint(epoch, height, header_digest, self.member, signature)

    def _sign(self, tag: Tag, epoch: int, view: int, sequence: int, digest: bytes) -> bytes:
        return self._signer.sign(
            vote_bytes(
                tag,
                self._chain_id,
                epoch=epoch,
                view=view,
                sequence=sequence,
                digest=digest,
                member=self.member,
            )
        )

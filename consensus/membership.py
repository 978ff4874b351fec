"""Who may vote: the ordered endorsers of one epoch and their keys."""

from dataclasses import dataclass

from consensus import quorum
from consensus.codec import encode
from consensus.domain import Tag, tagged_digest


@dataclass(frozen=True, slots=True)
class Epoch:
    """The endorsers of one epoch, in id order; the primary of view v is number v mod n.

    Attributes:
        number: 0 for the set that genesis names.
        keys: (member id, Ed25519 public key) of every endorser, sorted by id.
    """

    number: int
    keys: tuple[tuple[str, bytes], ...]

    def __post_init__(self) -> None:
        members = [member for member, _ in self.keys]
        if members != sorted(set(members)):
            raise ValueError(f"endorsers must be distinct and in id order, not {members}")
        if len({key for _, key in self.keys}) != len(members):
            raise ValueError("two endorsers share a key: one person would vote twice")
        if len(members) < quorum.MEMBERS_MIN:
            raise ValueError(
                f"{len(members)} endorsers cannot withstand a faulty one; "
                f"name at least {quorum.MEMBERS_MIN}"
            )

    @property
    def members(self) -> tuple[str, ...]:
        """The endorsers' ids, in order."""
        return tuple(member for member, _ in self.keys)

    @property
    def quorum(self) -> int:
        """Matching votes that decide."""
        return quorum.quorum(len(self.keys))

    @property
    def weak_quorum(self) -> int:
        """Votes among which one is honest."""
        return quorum.weak_quorum(len(self.keys))

    def primary(self, view: int) -> str:
        """Return the member that proposes in `view`."""
        return self.keys[view % len(self.keys)][0]

    def public_key(self, member: str) -> bytes | None:
        """Return a member's voting key, None if it does not endorse in this epoch."""
        return dict(self.keys).get(member)

    def digest(self, chain_id: bytes) -> bytes:
        """Return the digest by which headers name this set."""
        return tagged_digest(Tag.ENDORSERS, chain_id, encode((self.number, self.keys)))

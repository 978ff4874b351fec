"""Which executed blocks are certified, and the CHECKPOINT votes on the way there (section 4.3).

Every block gets a certificate, since who comes later needs each of them: a height counts as stable
only when it and everything below it is certified here.  A certificate that comes for a later height
does not make up for a missing one.
"""

from collections.abc import Iterable

from consensus.block import Certificate
from consensus.errors import DivergedError
from consensus.membership import Epoch
from consensus.message_log import Tally
from consensus.messages import Checkpoint


class CheckpointLog:
    """The executed heights without a certificate, and everybody's checkpoints above them.

    Args:
        epoch: Whose checkpoints count.
        height: Where the ledger stands.
        own: This replica's checkpoints for executed heights without a certificate.
    """

    def __init__(self, *, epoch: Epoch, height: int, own: Iterable[Checkpoint]) -> None:
        self._epoch = epoch
        self._height = height
        self._own: dict[int, Checkpoint] = {}
        self._tallies: dict[int, Tally[Checkpoint]] = {}
        for checkpoint in own:
            self._vouch(checkpoint)

    @property
    def stable(self) -> int:
        """The height through which every block is certified."""
        return min(self._own, default=self._height + 1) - 1

    @property
    def uncertified(self) -> tuple[int, ...]:
        """The executed heights without a certificate."""
        return tuple(sorted(self._own))

    def own(self, height: int) -> Checkpoint | None:
        """Return this replica's checkpoint, None if the height needs no more votes."""
        return self._own.get(height)

    def is_certified(self, height: int) -> bool:
        """Whether the height is executed and certified here."""
        return height <= self._height and height not in self._own

    def knows(self, message: Checkpoint) -> bool:
        """Whether the message would change nothing, whatever its signature."""
        tally = self._tallies.get(message.sequence)
        return tally is not None and tally.knows(message)

    def count(self, message: Checkpoint) -> Checkpoint | None:
        """Count a verified vote; return the earlier one that it contradicts (Q3)."""
        return self._tallies.setdefault(message.sequence, Tally()).count(message)

    def executed(self, checkpoint: Checkpoint) -> None:
        """Note that the next height is executed here, and vouched for."""
        self._height = checkpoint.sequence
        self._vouch(checkpoint)

    def adopted(self, height: int) -> None:
        """Note that the next height is executed here, and came with its certificate."""
        self._height = height
        self._tallies.pop(height, None)

    def certificate(self, height: int) -> Certificate | None:
        """Return the certificate that the votes for an executed height give, if it needs one.

        Raises:
            DivergedError: A quorum vouches for another header than this replica executed.
        """
        own = self._own.get(height)
        if own is None:
            return None
        tally = self._tallies[height]
        for digest in {vote.digest for vote in tally.votes.values()}:
            votes = tally.matching(digest)[: self._epoch.quorum]
            if len(votes) < self._epoch.quorum:
                continue
            if digest != own.digest:
                raise DivergedError(
                    f"a quorum certified header {digest.hex()[:16]} at height {height}, "
                    f"this replica executed {own.digest.hex()[:16]}"
                )
            signatures = tuple((vote.member, vote.signature) for vote in votes)
            return Certificate(self._epoch.number, height, digest, signatures)
        return None

    def settle(self, height: int) -> None:
        """Note that an executed height is certified."""
        self._own.pop(height, None)
        self._tallies.pop(height, None)

    def _vouch(self, checkpoint: Checkpoint) -> None:
        self._own[checkpoint.sequence] = checkpoint
        votes = self._tallies.setdefault(checkpoint.sequence, Tally()).votes
        votes[checkpoint.member] = checkpoint

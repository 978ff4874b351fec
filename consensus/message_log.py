"""What a replica has heard and said about one sequence number in one view."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from consensus.messages import Checkpoint, Commit, Message, Prepare, PrePrepare

Vote = Prepare | Commit | Checkpoint


@dataclass(slots=True)
class Tally:
    """One vote per member; a second one either repeats the first or convicts its sender (Q3)."""

    votes: dict[str, Vote] = field(default_factory=dict)

    def matching(self, digest: bytes, *, without: str | None = None) -> tuple[Vote, ...]:
        """Return the votes for `digest` in member order, leaving out one member if asked (Q2)."""
        return tuple(
            vote
            for member, vote in sorted(self.votes.items())
            if vote.digest == digest and member != without
        )


@dataclass(slots=True)
class Instance:
    """One (view, sequence): the accepted proposal, the votes, and what this replica sent.

    Votes may come before the proposal; they wait here and count when it arrives (N5).
    """

    view: int
    sequence: int
    accepted: PrePrepare | None = None
    digest: bytes = b""
    missing: set[bytes] = field(default_factory=set)
    is_refused: bool = False
    prepares: Tally = field(default_factory=Tally)
    commits: Tally = field(default_factory=Tally)
    sent: list[Message] = field(default_factory=list)
    has_prepared_vote: bool = False
    has_commit_vote: bool = False
    is_committed: bool = False
    pulls: int = 0

    def count_sent(self, messages: Iterable[Message]) -> None:
        """Restore what this replica said before a restart."""
        for message in messages:
            self.sent.append(message)
            if isinstance(message, Prepare):
                self.prepares.votes[message.member] = message
                self.has_prepared_vote = True
            elif isinstance(message, Commit):
                self.commits.votes[message.member] = message
                self.has_commit_vote = True


@dataclass(slots=True)
class Resend:
    """When to say something again: doubling waits, reset by progress."""

    due_ms: int
    wait_ms: int

    def postpone(self, now_ms: int, wait_ms_max: int) -> None:
        """Wait twice as long next time, up to a cap."""
        self.wait_ms = min(2 * self.wait_ms, wait_ms_max)
        self.due_ms = now_ms + self.wait_ms

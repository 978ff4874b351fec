"""What a replica has heard and said about one sequence number in one view."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from consensus.messages import Checkpoint, Commit, Message, Prepare, PrePrepare

Vote = TypeVar("Vote", Prepare, Commit, Checkpoint)


@dataclass(slots=True)
class Tally(Generic[Vote]):
    """One vote per member; a second one either repeats the first or convicts its sender (Q3).

    Once convicted, a member is not heard again here: further contradictions prove nothing new and
    would cost a signature check each.
    """

    votes: dict[str, Vote] = field(default_factory=dict)
    convicted: set[str] = field(default_factory=set)

    def knows(self, vote: Vote) -> bool:
        """Whether `vote` would change nothing, whatever its signature."""
        earlier = self.votes.get(vote.member)
        is_repetition = earlier is not None and earlier.digest == vote.digest
        return is_repetition or vote.member in self.convicted

    def count(self, vote: Vote) -> Vote | None:
        """Count a verified vote; return the earlier one that it contradicts."""
        earlier = self.votes.setdefault(vote.member, vote)
        if earlier.digest == vote.digest:
            return None
        self.convicted.add(vote.member)
        return earlier

    def matching(self, digest: bytes) -> tuple[Vote, ...]:
        """Return the votes for `digest` in member order."""
        return tuple(vote for _, vote in sorted(self.votes.items()) if vote.digest == digest)


@dataclass(slots=True)
class Instance:
    """One (view, sequence): the accepted proposal, the votes, and what this replica sent.

    Votes may come before the proposal; they wait here and count when it arrives (N5).  `missing`
    holds the ids of ordered operations whose bodies are not here; once all are, the proposal
    `is_admissible` or `is_refused` for good.  `is_contested` when the primary has signed another
    content for the same sequence.
    """

    view: int
    sequence: int
    accepted: PrePrepare | None = None
    digest: bytes = b""
    missing: set[bytes] = field(default_factory=set)
    is_admissible: bool = False
    is_refused: bool = False
    is_contested: bool = False
    prepares: Tally[Prepare] = field(default_factory=Tally)
    commits: Tally[Commit] = field(default_factory=Tally)
    sent: list[Message] = field(default_factory=list)
    has_prepared_vote: bool = False
    has_commit_vote: bool = False
    is_committed: bool = False
    pulls: int = 0

    def note_sent(self, message: Message) -> None:
        """Keep what this replica says, to say it again, and count its own votes once (Q4)."""
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

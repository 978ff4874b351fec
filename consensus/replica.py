"""The PBFT replica as a pure state machine: messages and ticks in, effects out.

No sockets, files, clock or randomness: two replicas given the same inputs in the same order reach
the same state and return the same effects.  `node.driver` does the I/O.

The rules, by the names that the tests use (Castro & Liskov 1999, section 4):

* N1  A backup accepts a PRE-PREPARE only from the primary of its view, inside the watermarks, not
      ahead of the clock, within the bounds of a block, and only one per (view, sequence).
* N2  Votes are on the digest of the whole content; the view is in the vote, not in the content.
* N3  At most one PREPARE and one COMMIT per (view, sequence), for ever: persisted before sent.
* N4  COMMIT follows prepared; execution needs Q commits and prepared.
* N5  Votes may come before the proposal.
* N6  Execution is strictly in sequence.
* N7  Bodies that a proposal orders and that are not here are pulled, from one member after another;
      a body stays until its block is collected as garbage, so that slower members find it.
* N8  A primary never proposes twice for a sequence number, also after a restart.
* Q2  prepared = PRE-PREPARE + Q-1 PREPAREs of distinct non-primary members.
* Q3  A second, different vote is evidence and never counts.
* Q4  Only endorsers of the epoch count, and the own vote once.
* K1  Nothing is stored for sequences outside (low, low + LOG_SIZE].
* K2  Q CHECKPOINTs for one header are a block's certificate.
* K3  Low moves only with certified blocks; everything at or below it is dropped.
* S4  Cheap checks come first, the signature last.

The bus loses messages, so every replica repeats what it said about each sequence number until that
number's block is certified; members who fell further behind take certified blocks instead.

Without view changes the chain rests for as long as the primary of view 0 is silent, proposes what
others must refuse, or tells different members different things.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consensus.block import OPERATIONS_BYTES_MAX, CertifiedBlock, Content
from consensus.checkpoint import CheckpointLog
from consensus.domain import Signer, Verifier
from consensus.effects import DurableVote, Effects, Equivocation, Ordered, Pull, Rejection
from consensus.errors import LocalProtocolError
from consensus.membership import Epoch
from consensus.message_log import Instance, Resend
from consensus.messages import (
    Ballot,
    Checkpoint,
    Commit,
    Message,
    Prepare,
    PrePrepare,
    has_valid_signature,
)
from consensus.operation import Operation
from consensus.pool import OperationPool, is_timely

LOG_SIZE = 16
"""L: distance between low and high watermark, in sequence numbers."""

CHECKPOINT_INTERVAL = 8
"""Blocks between garbage collections; L is twice that, so the window never closes in health."""

PIPELINE_MAX = 4
"""Proposals of one primary that may be under way at once; more gains nothing on a street's bus."""

RESEND_DOUBLINGS = 3
"""A repeated message waits at most 2^3 times the first interval."""

NEVER_MS = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations on the community's clock [ms].

    `batch_wait_ms`: how long the oldest operation waits for company.  `resend_ms`: first interval
    of repetition.  `clock_ahead_ms`: how far a proposal's time may lie after this replica's clock
    when it first arrives; a late one is taken, since without view changes refusing it would stop
    the chain for good.
    """

    batch_wait_ms: int
    resend_ms: int
    clock_ahead_ms: int


@dataclass(frozen=True, slots=True)
class Executed:
    """The last executed block: its height, header digest and effective time."""

    height: int
    header_digest: bytes
    time_ms: int


class Replica:
    """One member of a group of n >= 4 replicas.

    Args:
        member: This replica's id; must be in `epoch`.
        epoch: Endorsers, keys and quorum sizes.
        chain_id: Signed in every message.
        signer, verifier: This member's key, and the check of everybody's signatures.
        timing: Durations on the community's clock.
        executed: Where the ledger stands.
        uncertified: Header digests, by height, of executed blocks without a certificate.
        votes: What this replica persisted for uncertified heights before a restart.
    """

    def __init__(
        self,
        *,
        member: str,
        epoch: Epoch,
        chain_id: bytes,
        signer: Signer,
        verifier: Verifier,
        timing: Timing,
        executed: Executed,
        uncertified: Mapping[int, bytes] | None = None,
        votes: Iterable[DurableVote] = (),
    ) -> None:
        if epoch.public_key(member) is None:
            raise LocalProtocolError(f"{member} is not an endorser of epoch {epoch.number}")
        self.member = member
        self.view = 0
        self.pool = OperationPool()
        self._epoch = epoch
        self._chain_id = chain_id
        self._ballot = Ballot(member=member, chain_id=chain_id, signer=signer)
        self._verifier = verifier
        self._timing = timing
        self._executed = executed
        self._executing: int | None = None
        self._checkpoints = CheckpointLog(
            epoch=epoch,
            height=executed.height,
            own=[
                self._ballot.checkpoint(epoch.number, height, digest)
                for height, digest in (uncertified or {}).items()
            ],
        )
        self._low = _low_watermark(self.stable)
        self._instances: dict[tuple[int, int], Instance] = {}
        self._resends = {
            height: self._fresh_resend(executed.time_ms) for height in self._checkpoints.uncertified
        }
        self._expected_ms: int | None = None
        self._proposed = executed.height
        self._proposed_ms = executed.time_ms
        self._restore(votes)

    # -- what the world may ask ----------------------------------------------------------------

    @property
    def height(self) -> int:
        """The last executed height."""
        return self._executed.height

    @property
    def stable(self) -> int:
        """The height through which every block is certified here."""
        return self._checkpoints.stable

    @property
    def high(self) -> int:
        """The high watermark H."""
        return self._low + LOG_SIZE

    @property
    def is_primary(self) -> bool:
        """Whether this replica proposes in the current view."""
        return self._epoch.primary(self.view) == self.member

    @property
    def wake_ms(self) -> int:
        """When `tick` is next worth calling."""
        due = [resend.due_ms for resend in self._resends.values()]
        if self.is_primary and self._can_propose():
            oldest_ms = self.pool.oldest_ms()
            if oldest_ms is not None:
                due.append(oldest_ms + self._timing.batch_wait_ms)
            if self._owes_block():
                due.append(self._expected_ms or 0)
        return min(due, default=NEVER_MS)

    def wants(self, operation_id: bytes) -> bool:
        """Whether a proposal waits for this operation's body."""
        return any(operation_id in each.missing for each in self._instances.values())

    # -- inputs --------------------------------------------------------------------------------

    def admit(self, operation: Operation, now_ms: int) -> Effects:
        """Take an operation whose signature the caller has checked.

        It waits for its turn to be ordered, or completes a proposal that lacked its body.
        """
        effects = Effects()
        operation_id = operation.id
        self.pool.admit(operation, now_ms)
        for instance in self._instances.values():
            if operation_id in instance.missing:
                instance.missing.discard(operation_id)
                self._advance_instance(instance, now_ms, effects)
        self._propose_if_due(now_ms, effects)
        return effects

    def expect(self, time_ms: int | None) -> None:
        """Say when the application next needs a block: the primary then owes one, even empty."""
        self._expected_ms = time_ms

    def receive(self, message: Message, now_ms: int) -> Effects:
        """Take one message from another replica.

        Never raises for anything that a peer can send: a bad message changes no state and comes
        back in `Effects.rejected`.

        Raises:
            DivergedError: A quorum certified another header than this replica executed.
        """
        effects = Effects()
        rule = self._why_refused(message, now_ms)
        if rule is not None:
            effects.rejected.append(Rejection(rule, message.member))
            return effects
        match message:
            case PrePrepare():
                self._on_pre_prepare(message, now_ms, effects)
            case Prepare() | Commit():
                self._on_vote(message, now_ms, effects)
            case Checkpoint():
                self._on_checkpoint(message, effects)
        return effects

    def executed(self, height: int, header_digest: bytes, time_ms: int, now_ms: int) -> Effects:
        """Report the header that executing `height` gave; vouch for it and go on.

        Raises:
            DivergedError: A quorum certified another header for this height.
            LocalProtocolError: `height` is not the next one.
        """
        effects = Effects()
        self._step_to(Executed(height, header_digest, time_ms))
        checkpoint = self._ballot.checkpoint(self._epoch.number, height, header_digest)
        self._checkpoints.executed(checkpoint)
        self._send(checkpoint, now_ms, effects)
        self._certify(height, effects)
        self._execute_next(effects)
        self._propose_if_due(now_ms, effects)
        return effects

    def adopt(self, block: CertifiedBlock) -> Effects:
        """Report that a block, certified and taken from a peer, has been executed.

        Raises:
            LocalProtocolError: Its height is not the next one.
        """
        effects = Effects()
        header = block.header
        self._step_to(Executed(header.height, header.digest(self._chain_id), header.time_ms))
        self.pool.drop(block.content.operation_ids)
        self._checkpoints.adopted(header.height)
        self._end_resends(header.height, effects)
        self._execute_next(effects)
        return effects

    def settle(self, height: int) -> Effects:
        """Report that a certificate of this replica's header at `height` came from a peer.

        The caller has verified it.

        Raises:
            LocalProtocolError: Nothing has been executed at that height.
        """
        if height > self._executed.height:
            raise LocalProtocolError(f"height {height} settled, {self._executed.height} executed")
        effects = Effects()
        self._settle(height, effects)
        return effects

    def tick(self, now_ms: int) -> Effects:
        """Let time pass: propose what is due, repeat what is unanswered."""
        effects = Effects()
        self._propose_if_due(now_ms, effects)
        for sequence, resend in sorted(self._resends.items()):
            if now_ms < resend.due_ms:
                continue
            resend.postpone(now_ms, self._timing.resend_ms << RESEND_DOUBLINGS)
            instance = self._instances.get((self.view, sequence))
            if instance is not None:
                effects.broadcast.extend(instance.sent)
                self._pull_missing(instance, effects)
            checkpoint = self._checkpoints.own(sequence)
            if checkpoint is not None:
                effects.broadcast.append(checkpoint)
        return effects

    def operations(self, operation_ids: Iterable[bytes]) -> tuple[Operation, ...]:
        """Return those bodies that are here, for a peer that pulls them."""
        found = (self.pool.get(operation_id) for operation_id in operation_ids)
        return tuple(operation for operation in found if operation is not None)

    # -- refusals: cheap checks first, the signature last (S4) -----------------------------------

    def _why_refused(self, message: Message, now_ms: int) -> str | None:
        if message.member == self.member:
            return "Q4 own message came back"
        if message.epoch != self._epoch.number:
            return "Q4 other epoch"
        key = self._epoch.public_key(message.member)
        if key is None:
            return "Q4 not an endorser"
        if not self._low < message.sequence <= self.high:
            return "K1 outside the watermarks"
        match message:
            case Checkpoint():
                rule = self._why_no_checkpoint(message)
            case PrePrepare():
                rule = self._why_no_proposal(message, now_ms)
            case Prepare() | Commit():
                rule = self._why_no_vote(message)
        if rule is None and not has_valid_signature(
            message, chain_id=self._chain_id, public_key=key, verifier=self._verifier
        ):
            return "S1 signature"
        return rule

    def _why_no_checkpoint(self, message: Checkpoint) -> str | None:
        if self._checkpoints.is_certified(message.sequence):
            return "K2 already certified"
        return "Q3 nothing new" if self._checkpoints.knows(message) else None

    def _why_no_proposal(self, message: PrePrepare, now_ms: int) -> str | None:
        content = message.content
        instance = self._instances.get((message.view, message.sequence))
        rule = self._why_closed(message)
        if rule is not None:
            return rule
        if message.member != self._epoch.primary(message.view):
            return "N1 not from the primary"
        if content.epoch != message.epoch:
            return "N1 content of another epoch"
        if len(set(content.operation_ids)) != len(content.operation_ids):
            return "N1 an operation twice"
        if instance is not None and instance.accepted is not None:
            is_known = instance.is_contested or instance.accepted.content == content
            return "Q3 nothing new" if is_known else None
        if content.time_ms > now_ms + self._timing.clock_ahead_ms:
            return "T1 proposed time ahead of the clock"
        return None

    def _why_no_vote(self, vote: Prepare | Commit) -> str | None:
        rule = self._why_closed(vote)
        if rule is not None:
            return rule
        if isinstance(vote, Prepare) and vote.member == self._epoch.primary(vote.view):
            return "Q2 PREPARE from the primary"
        instance = self._instances.get((vote.view, vote.sequence))
        if instance is None:
            return None
        is_known = (
            instance.prepares.knows(vote)
            if isinstance(vote, Prepare)
            else instance.commits.knows(vote)
        )
        return "Q3 nothing new" if is_known else None

    def _why_closed(self, message: PrePrepare | Prepare | Commit) -> str | None:
        if message.view != self.view:
            return "N1 other view"
        if message.sequence <= self._executed.height:
            return "N6 already executed"
        return None

    # -- the three phases ------------------------------------------------------------------------

    def _on_pre_prepare(self, message: PrePrepare, now_ms: int, effects: Effects) -> None:
        instance = self._instance(message.sequence)
        if instance.accepted is not None:
            instance.is_contested = True
            self._convict(instance.accepted, message, effects)
            return
        self._accept(instance, message)
        self._resends[message.sequence] = self._fresh_resend(now_ms)
        self._pull_missing(instance, effects)
        self._advance_instance(instance, now_ms, effects)

    def _accept(self, instance: Instance, message: PrePrepare) -> None:
        instance.accepted = message
        instance.digest = message.content.digest(self._chain_id)
        self.pool.hold(message.content.operation_ids)
        instance.missing = set(self.pool.missing(message.content.operation_ids))

    def _on_vote(self, vote: Prepare | Commit, now_ms: int, effects: Effects) -> None:
        instance = self._instance(vote.sequence)
        contradicted = (
            instance.prepares.count(vote)
            if isinstance(vote, Prepare)
            else instance.commits.count(vote)
        )
        if contradicted is not None:
            self._convict(contradicted, vote, effects)
        else:
            self._advance_instance(instance, now_ms, effects)

    @staticmethod
    def _convict(first: Message, second: Message, effects: Effects) -> None:
        effects.evidence.append(Equivocation(first, second))
        effects.rejected.append(Rejection("Q3 contradiction", second.member))

    def _advance_instance(self, instance: Instance, now_ms: int, effects: Effects) -> None:
        """Say whatever may be said about an instance now, and execute if it is its turn."""
        if instance.accepted is None or instance.missing:
            return
        if not instance.is_admissible:
            self._judge_bodies(instance, instance.accepted, effects)
        if instance.is_refused:
            return
        if not instance.has_prepared_vote and not self.is_primary:
            self._vote_prepare(instance, instance.accepted, now_ms, effects)
        prepares = instance.prepares.matching(instance.digest)[: self._epoch.quorum - 1]
        if len(prepares) == self._epoch.quorum - 1 and not instance.has_commit_vote:
            self._vote_commit(instance, (instance.accepted, *prepares), now_ms, effects)
        if instance.has_commit_vote:
            commits = instance.commits.matching(instance.digest)
            instance.is_committed = len(commits) >= self._epoch.quorum
        self._execute_next(effects)

    def _judge_bodies(self, instance: Instance, accepted: PrePrepare, effects: Effects) -> None:
        """Judge once what a proposal orders; every replica comes to the same verdict."""
        if instance.is_refused:
            return
        content = accepted.content
        operations = self.pool.bodies(content.operation_ids)
        if not all(is_timely(operation, content.time_ms) for operation in operations):
            rule = "N1 operation not timely"
        elif sum(operation.size for operation in operations) > OPERATIONS_BYTES_MAX:
            rule = "N1 larger than a block"
        else:
            instance.is_admissible = True
            return
        instance.is_refused = True
        effects.rejected.append(Rejection(rule, accepted.member))

    def _vote_prepare(
        self, instance: Instance, accepted: PrePrepare, now_ms: int, effects: Effects
    ) -> None:
        vote = self._ballot.prepare(
            self._epoch.number, instance.view, instance.sequence, instance.digest
        )
        operations = self.pool.bodies(accepted.content.operation_ids)
        effects.persist.append(DurableVote(vote, (accepted,), operations))
        instance.note_sent(vote)
        self._send(vote, now_ms, effects)

    def _vote_commit(
        self, instance: Instance, proof: tuple[Message, ...], now_ms: int, effects: Effects
    ) -> None:
        vote = self._ballot.commit(
            self._epoch.number, instance.view, instance.sequence, instance.digest
        )
        effects.persist.append(DurableVote(vote, proof))
        instance.note_sent(vote)
        self._send(vote, now_ms, effects)

    def _execute_next(self, effects: Effects) -> None:
        sequence = self._executed.height + 1
        instance = self._instances.get((self.view, sequence))
        if instance is None or not instance.is_committed or self._executing is not None:
            return
        assert instance.accepted is not None
        content = instance.accepted.content
        self._executing = sequence
        effects.execute = Ordered(content, self.pool.bodies(content.operation_ids))

    # -- proposing -------------------------------------------------------------------------------

    def _can_propose(self) -> bool:
        next_sequence = self._proposed + 1
        return next_sequence <= self.high and next_sequence <= self._executed.height + PIPELINE_MAX

    def _owes_block(self) -> bool:
        return self._expected_ms is not None and self._proposed_ms < self._expected_ms

    def _propose_if_due(self, now_ms: int, effects: Effects) -> None:
        if not self.is_primary or not self._can_propose():
            return
        oldest_ms = self.pool.oldest_ms()
        has_waited = oldest_ms is not None and oldest_ms + self._timing.batch_wait_ms <= now_ms
        owes = self._owes_block() and (self._expected_ms or 0) <= now_ms
        if not (has_waited or owes or self.pool.is_full_batch):
            return
        self._propose(max(now_ms, self._proposed_ms), now_ms, effects)

    def _propose(self, time_ms: int, now_ms: int, effects: Effects) -> None:
        batch = self.pool.take_batch(time_ms)
        if not batch and not self._owes_block():
            return
        self._proposed += 1
        self._proposed_ms = time_ms
        content = Content(self._epoch.number, self._proposed, time_ms, batch)
        message = self._ballot.pre_prepare(self.view, content)
        instance = self._instance(self._proposed)
        self._accept(instance, message)
        effects.persist.append(DurableVote(message, (), self.pool.bodies(batch)))
        instance.note_sent(message)
        self._send(message, now_ms, effects)

    # -- checkpoints, watermarks, garbage ----------------------------------------------------------

    def _on_checkpoint(self, message: Checkpoint, effects: Effects) -> None:
        contradicted = self._checkpoints.count(message)
        if contradicted is not None:
            self._convict(contradicted, message, effects)
        else:
            self._certify(message.sequence, effects)

    def _certify(self, height: int, effects: Effects) -> None:
        certificate = self._checkpoints.certificate(height)
        if certificate is not None:
            effects.certified.append(certificate)
            self._settle(height, effects)

    def _settle(self, height: int, effects: Effects) -> None:
        self._checkpoints.settle(height)
        self._end_resends(height, effects)

    def _end_resends(self, height: int, effects: Effects) -> None:
        """Say no more about a certified height, and drop what is below the new low watermark."""
        self._resends.pop(height, None)
        low = _low_watermark(self.stable)
        if low <= self._low:
            return
        self._low = low
        for key in [each for each in self._instances if each[1] <= low]:
            instance = self._instances.pop(key)
            if instance.accepted is not None:
                self.pool.release(instance.accepted.content.operation_ids)
        effects.discard_through = low

    # -- small pieces ----------------------------------------------------------------------------

    def _step_to(self, executed: Executed) -> None:
        if executed.height != self._executed.height + 1:
            raise LocalProtocolError(
                f"height {executed.height} reported, {self._executed.height + 1} is next"
            )
        self._executed = executed
        self._executing = None
        self._proposed = max(self._proposed, executed.height)
        self._proposed_ms = max(self._proposed_ms, executed.time_ms)
        self.pool.drop_expired(executed.time_ms)

    def _instance(self, sequence: int) -> Instance:
        return self._instances.setdefault(
            (self.view, sequence), Instance(view=self.view, sequence=sequence)
        )

    def _pull_missing(self, instance: Instance, effects: Effects) -> None:
        if not instance.missing or instance.accepted is None:
            return
        others = [each for each in self._epoch.members if each != self.member]
        first = others.index(instance.accepted.member)
        member = others[(first + instance.pulls) % len(others)]
        instance.pulls += 1
        effects.pull.append(Pull(member, tuple(sorted(instance.missing))))

    def _fresh_resend(self, now_ms: int) -> Resend:
        return Resend(due_ms=now_ms + self._timing.resend_ms, wait_ms=self._timing.resend_ms)

    def _send(self, message: Message, now_ms: int, effects: Effects) -> None:
        effects.broadcast.append(message)
        self._resends[message.sequence] = self._fresh_resend(now_ms)

    def _restore(self, votes: Iterable[DurableVote]) -> None:
        """Rebuild from persisted votes; never votes differently from before the restart."""
        for durable in votes:
            vote = durable.vote
            if self._checkpoints.is_certified(vote.sequence) or isinstance(vote, Checkpoint):
                continue
            instance = self._instance(vote.sequence)
            for message in (*durable.proof, vote):
                if isinstance(message, PrePrepare) and instance.accepted is None:
                    self._accept(instance, message)
                elif isinstance(message, Prepare):
                    instance.prepares.votes.setdefault(message.member, message)
            for operation in durable.operations:
                self.pool.admit(operation, self._executed.time_ms)
            instance.note_sent(vote)
            self._resends[vote.sequence] = self._fresh_resend(self._executed.time_ms)
            if isinstance(vote, PrePrepare):
                self._proposed = max(self._proposed, vote.sequence)
                self._proposed_ms = max(self._proposed_ms, vote.content.time_ms)
        for instance in self._instances.values():
            if instance.accepted is not None:
                instance.missing = set(self.pool.missing(instance.accepted.content.operation_ids))


def _low_watermark(stable: int) -> int:
    """Return h: the last height at which garbage was due."""
    return stable // CHECKPOINT_INTERVAL * CHECKPOINT_INTERVAL

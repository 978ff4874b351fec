"""The PBFT replica as a pure state machine: messages and ticks in, effects out.

No sockets, files, clock or randomness: two replicas given the same inputs in the same order reach
the same state and return the same effects.  `node.driver` does the I/O.

The rules, by the names that the tests use (Castro & Liskov 1999, section 4):

* N1  A backup accepts a PRE-PREPARE only from the primary of its view, inside the watermarks, not
      ahead of the clock, and only one per (view, sequence).
* N2  Votes are on the digest of the whole content; the view is in the vote, not in the content.
* N3  At most one PREPARE and one COMMIT per (view, sequence), for ever: persisted before sent.
* N4  COMMIT follows prepared; execution needs Q commits and prepared.
* N5  Votes may come before the proposal.
* N6  Execution is strictly in sequence.
* Q2  prepared = PRE-PREPARE + Q-1 PREPAREs of distinct non-primary members.
* Q3  A second, different vote is evidence and never counts.
* K1  Nothing is stored for sequences outside (low, low + LOG_SIZE].

The bus loses messages, so every replica repeats what it said about each sequence number until that
number's block is certified; members who fell further behind take certified blocks instead.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consensus.block import Certificate, Content
from consensus.domain import Signer, Verifier
from consensus.effects import DurableVote, Effects, Equivocation, Ordered, Pull, Rejection
from consensus.errors import DivergedError, LocalProtocolError
from consensus.membership import Epoch
from consensus.message_log import Instance, Resend, Tally, Vote
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
        self._stable = executed.height - len(uncertified or {})
        self._low = self._stable // CHECKPOINT_INTERVAL * CHECKPOINT_INTERVAL
        self._instances: dict[tuple[int, int], Instance] = {}
        self._checkpoints: dict[int, Tally] = {}
        self._headers: dict[int, bytes] = {executed.height: executed.header_digest}
        self._own_checkpoints: dict[int, Checkpoint] = {}
        self._resends: dict[int, Resend] = {}
        self._expected_ms: int | None = None
        self._proposed = executed.height
        self._proposed_ms = executed.time_ms
        for height, digest in sorted((uncertified or {}).items()):
            self._headers[height] = digest
            self._vouch(height, digest)
            self._resends[height] = self._fresh_resend(executed.time_ms)
        for durable in votes:
            self._restore(durable)

    # -- what the world may ask ----------------------------------------------------------------

    @property
    def height(self) -> int:
        """The last executed height."""
        return self._executed.height

    @property
    def stable(self) -> int:
        """The highest height known to be certified."""
        return self._stable

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
        wanted = [each for each in self._instances.values() if operation_id in each.missing]
        if wanted:
            self.pool.hold(operation)
        else:
            self.pool.admit(operation, now_ms)
        for instance in wanted:
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
        rule = self._why_refused(message)
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
        self._send([self._vouch(height, header_digest)], height, now_ms, effects)
        self._certify(height, effects)
        self._execute_next(effects)
        self._propose_if_due(now_ms, effects)
        return effects

    def adopt(self, height: int, header_digest: bytes, time_ms: int) -> Effects:
        """Report that a certified block, taken from a peer, has been executed."""
        effects = Effects()
        self._step_to(Executed(height, header_digest, time_ms))
        self._settle_stable(height, effects)
        self._execute_next(effects)
        return effects

    def settle(self, height: int) -> Effects:
        """Report that the certificate of an executed block came from a peer."""
        effects = Effects()
        if height <= self._executed.height:
            self._settle_stable(height, effects)
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
            if sequence in self._own_checkpoints:
                effects.broadcast.append(self._own_checkpoints[sequence])
        return effects

    def operations(self, operation_ids: Iterable[bytes]) -> tuple[Operation, ...]:
        """Return those bodies that are here, for a peer that pulls them."""
        found = (self.pool.get(operation_id) for operation_id in operation_ids)
        return tuple(operation for operation in found if operation is not None)

    # -- refusals: cheap checks first, the signature last (S4) -----------------------------------

    def _why_refused(self, message: Message) -> str | None:
        if message.member == self.member:
            return "own message came back"
        if message.epoch != self._epoch.number:
            return "Q4 other epoch"
        key = self._epoch.public_key(message.member)
        if key is None:
            return "Q4 not an endorser"
        if not self._low < message.sequence <= self.high:
            return "K1 outside the watermarks"
        if isinstance(message, Checkpoint):
            if message.sequence <= self._stable:
                return "already stable"
        elif message.view != self.view:
            return "N1 other view"
        elif message.sequence <= self._executed.height:
            return "already executed"
        if self._is_repetition(message):
            return "repetition"
        if not has_valid_signature(
            message, chain_id=self._chain_id, public_key=key, verifier=self._verifier
        ):
            return "S1 signature"
        return None

    def _is_repetition(self, message: Message) -> bool:
        if isinstance(message, Checkpoint):
            tally = self._checkpoints.get(message.sequence)
            return tally is not None and tally.votes.get(message.member) == message
        instance = self._instances.get((self.view, message.sequence))
        if instance is None:
            return False
        match message:
            case PrePrepare():
                return instance.accepted == message
            case Prepare():
                return instance.prepares.votes.get(message.member) == message
            case Commit():
                return instance.commits.votes.get(message.member) == message

    # -- the three phases ------------------------------------------------------------------------

    def _on_pre_prepare(self, message: PrePrepare, now_ms: int, effects: Effects) -> None:
        content = message.content
        rule = None
        if message.member != self._epoch.primary(message.view):
            rule = "N1 not from the primary"
        elif content.epoch != message.epoch:
            rule = "N1 content of another epoch"
        elif content.time_ms > now_ms + self._timing.clock_ahead_ms:
            rule = "T1 proposed time ahead of the clock"
        elif len(set(content.operation_ids)) != len(content.operation_ids):
            rule = "N1 an operation twice"
        if rule is not None:
            effects.rejected.append(Rejection(rule, message.member))
            return
        instance = self._instance(message.sequence)
        if instance.accepted is not None:
            effects.evidence.append(Equivocation(instance.accepted, message))
            return
        self._accept(instance, message)
        self._resends.setdefault(message.sequence, self._fresh_resend(now_ms))
        self._pull_missing(instance, effects)
        self._advance_instance(instance, now_ms, effects)

    def _accept(self, instance: Instance, message: PrePrepare) -> None:
        instance.accepted = message
        instance.digest = message.content.digest(self._chain_id)
        instance.missing = set(self.pool.missing(message.content.operation_ids))
        self.pool.mark_proposed(message.content.operation_ids)

    def _on_vote(self, vote: Prepare | Commit, now_ms: int, effects: Effects) -> None:
        if isinstance(vote, Prepare) and vote.member == self._epoch.primary(vote.view):
            effects.rejected.append(Rejection("Q2 PREPARE from the primary", vote.member))
            return
        instance = self._instance(vote.sequence)
        tally = instance.prepares if isinstance(vote, Prepare) else instance.commits
        if self._count(tally, vote, effects):
            self._resends.setdefault(vote.sequence, self._fresh_resend(now_ms))
            self._advance_instance(instance, now_ms, effects)

    @staticmethod
    def _count(tally: Tally, vote: Vote, effects: Effects) -> bool:
        earlier = tally.votes.setdefault(vote.member, vote)
        if earlier.digest != vote.digest:
            effects.evidence.append(Equivocation(earlier, vote))
            effects.rejected.append(Rejection("Q3 second vote", vote.member))
            return False
        return True

    def _advance_instance(self, instance: Instance, now_ms: int, effects: Effects) -> None:
        """Say whatever may be said about an instance now, and execute if it is its turn."""
        if instance.accepted is None or instance.missing or instance.is_refused:
            return
        content = instance.accepted.content
        operations = self.pool.bodies(content.operation_ids)
        if not all(is_timely(operation, content.time_ms) for operation in operations):
            instance.is_refused = True
            effects.rejected.append(Rejection("N1 expired operation", instance.accepted.member))
            return
        if not instance.has_prepared_vote and not self.is_primary:
            self._vote_prepare(instance, operations, now_ms, effects)
        primary = self._epoch.primary(instance.view)
        prepares = instance.prepares.matching(instance.digest, without=primary)
        if len(prepares) >= self._epoch.quorum - 1 and not instance.has_commit_vote:
            proof = (instance.accepted, *prepares[: self._epoch.quorum - 1])
            self._vote_commit(instance, proof, now_ms, effects)
        if instance.has_commit_vote:
            commits = instance.commits.matching(instance.digest)
            instance.is_committed = len(commits) >= self._epoch.quorum
        self._execute_next(effects)

    def _vote_prepare(
        self,
        instance: Instance,
        operations: tuple[Operation, ...],
        now_ms: int,
        effects: Effects,
    ) -> None:
        assert instance.accepted is not None
        vote = self._ballot.prepare(
            self._epoch.number, instance.view, instance.sequence, instance.digest
        )
        effects.persist.append(DurableVote(vote, (instance.accepted,), operations))
        instance.count_sent([vote])
        self._send([vote], instance.sequence, now_ms, effects)

    def _vote_commit(
        self, instance: Instance, proof: tuple[Message, ...], now_ms: int, effects: Effects
    ) -> None:
        vote = self._ballot.commit(
            self._epoch.number, instance.view, instance.sequence, instance.digest
        )
        effects.persist.append(DurableVote(vote, proof))
        instance.count_sent([vote])
        self._send([vote], instance.sequence, now_ms, effects)

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
        instance.count_sent([message])
        self._send([message], self._proposed, now_ms, effects)
        self._advance_instance(instance, now_ms, effects)

    # -- checkpoints, watermarks, garbage ----------------------------------------------------------

    def _on_checkpoint(self, message: Checkpoint, effects: Effects) -> None:
        tally = self._checkpoints.setdefault(message.sequence, Tally())
        if self._count(tally, message, effects):
            self._certify(message.sequence, effects)

    def _certify(self, height: int, effects: Effects) -> None:
        tally = self._checkpoints.get(height)
        if tally is None or height > self._executed.height or height <= self._stable:
            return
        own = self._headers[height]
        for digest in {vote.digest for vote in tally.votes.values()}:
            votes = tally.matching(digest)
            if len(votes) < self._epoch.quorum:
                continue
            if digest != own:
                raise DivergedError(
                    f"a quorum certified header {digest.hex()[:16]} at height {height}, "
                    f"this replica executed {own.hex()[:16]}"
                )
            effects.certified.append(self._certificate(height, digest, votes))
            self._settle_stable(height, effects)
            return

    def _vouch(self, height: int, header_digest: bytes) -> Checkpoint:
        checkpoint = self._ballot.checkpoint(self._epoch.number, height, header_digest)
        self._own_checkpoints[height] = checkpoint
        self._checkpoints.setdefault(height, Tally()).votes[self.member] = checkpoint
        return checkpoint

    def _certificate(self, height: int, digest: bytes, votes: tuple[Vote, ...]) -> Certificate:
        chosen = votes[: self._epoch.quorum]
        return Certificate(
            epoch=self._epoch.number,
            height=height,
            header_digest=digest,
            signatures=tuple((vote.member, vote.signature) for vote in chosen),
        )

    def _settle_stable(self, height: int, effects: Effects) -> None:
        self._stable = max(self._stable, height)
        self._resends.pop(height, None)
        self._own_checkpoints.pop(height, None)
        self._checkpoints.pop(height, None)
        low = self._stable // CHECKPOINT_INTERVAL * CHECKPOINT_INTERVAL
        if low <= self._low:
            return
        self._low = low
        self._instances = {key: each for key, each in self._instances.items() if key[1] > low}
        self._headers = {key: each for key, each in self._headers.items() if key >= low}
        for bookkeeping in (self._checkpoints, self._own_checkpoints, self._resends):
            for sequence in [each for each in bookkeeping if each <= low]:
                del bookkeeping[sequence]
        effects.discard_through = low

    # -- small pieces ----------------------------------------------------------------------------

    def _step_to(self, executed: Executed) -> None:
        if executed.height != self._executed.height + 1:
            raise LocalProtocolError(
                f"height {executed.height} reported, {self._executed.height + 1} is next"
            )
        self._executed = executed
        self._executing = None
        self._headers[executed.height] = executed.header_digest
        self._proposed = max(self._proposed, executed.height)
        self._proposed_ms = max(self._proposed_ms, executed.time_ms)
        instance = self._instances.get((self.view, executed.height))
        if instance is not None and instance.accepted is not None:
            self.pool.forget(instance.accepted.content.operation_ids)

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

    def _send(self, messages: list[Message], sequence: int, now_ms: int, effects: Effects) -> None:
        effects.broadcast.extend(messages)
        self._resends[sequence] = self._fresh_resend(now_ms)

    def _restore(self, durable: DurableVote) -> None:
        """Rebuild from one persisted vote; never votes differently from before the restart."""
        vote = durable.vote
        if vote.sequence <= self._stable or isinstance(vote, Checkpoint):
            return
        for operation in durable.operations:
            self.pool.hold(operation)
        instance = self._instance(vote.sequence)
        for message in (*durable.proof, vote):
            if isinstance(message, PrePrepare) and instance.accepted is None:
                self._accept(instance, message)
            elif isinstance(message, Prepare):
                instance.prepares.votes.setdefault(message.member, message)
        instance.count_sent([vote])
        self._resends[vote.sequence] = self._fresh_resend(self._executed.time_ms)
        if isinstance(vote, PrePrepare):
            self._proposed = max(self._proposed, vote.sequence)
            self._proposed_ms = max(self._proposed_ms, vote.content.time_ms)

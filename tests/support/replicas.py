"""Replicas for tests: signatures that cost nothing, a disk that survives, a trivial executor.

`Member` does what the node's driver does around one replica: persist, send, execute; it answers
pulls and takes certified blocks.  What it sends lies in `outbox` until a test delivers it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from consensus.block import Certificate, CertifiedBlock, Content, Header
from consensus.certificate import verify_block
from consensus.domain import EMPTY_DIGEST
from consensus.effects import DurableVote, Effects, Equivocation, Ordered, Rejection
from consensus.errors import DivergedError
from consensus.membership import Epoch
from consensus.messages import Ballot, Checkpoint, Message, PrePrepare
from consensus.nonces import FRESH_WINDOW, NonceWindow
from consensus.operation import Channel, Operation, OperationBody, sign_operation
from consensus.replica import Executed, Replica, Timing

CHAIN_ID = bytes(range(32))
TIMING = Timing(batch_wait_ms=20, resend_ms=100, clock_ahead_ms=250)
START_MS = 1_000


def key_of(member: str) -> bytes:
    return hashlib.sha256(member.encode()).digest()


class FakeSigner:
    """Signs with a hash that anybody could compute: fast, and as binding as a test needs."""

    def __init__(self, member: str) -> None:
        self._key = key_of(member)

    def sign(self, message: bytes) -> bytes:
        return hashlib.sha512(self._key + message).digest()


class FakeVerifier:
    """Checks such signatures, and counts how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.calls += 1
        return hashlib.sha512(public_key + message).digest() == signature


def epoch_of(count: int) -> Epoch:
    """Make the members a, b, c, ...; a is the primary of view 0."""
    members = [chr(ord("a") + index) for index in range(count)]
    return Epoch(number=0, keys=tuple((member, key_of(member)) for member in members))


def ballot_of(member: str, chain_id: bytes = CHAIN_ID) -> Ballot:
    return Ballot(member=member, chain_id=chain_id, signer=FakeSigner(member))


def make_operation(
    signer: str, nonce: int, *, expires_ms: int = 1_000_000, payload: bytes = b""
) -> Operation:
    body = OperationBody(
        kind="test",
        channel=Channel.TRADE,
        signer=signer,
        key_version=1,
        nonce=nonce,
        expires_ms=expires_ms,
        salt=bytes(16),
        payload=payload,
    )
    return sign_operation(body, chain_id=CHAIN_ID, signer=FakeSigner(signer))


@dataclass(slots=True)
class Block:
    """An executed block as the disk keeps it."""

    header: Header
    content: Content
    operations: tuple[Operation, ...]


@dataclass(slots=True)
class Disk:
    """What survives a crash.  `said` outlives garbage collection, for the checker of N3."""

    votes: dict[tuple[str, int, int], DurableVote] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    certificates: dict[int, Certificate] = field(default_factory=dict)
    said: dict[tuple[str, int, int], bytes] = field(default_factory=dict)

    def append(self, durable: DurableVote) -> None:
        vote = durable.vote
        assert not isinstance(vote, Checkpoint), "the ledger says what a checkpoint would"
        key = (type(vote).__name__, vote.view, vote.sequence)
        digest = digest_of(vote)
        assert key not in self.votes, f"N3: a second vote for {key}"
        assert self.said.setdefault(key, digest) == digest, f"N3: another vote for {key}"
        self.votes[key] = durable

    def discard_through(self, sequence: int) -> None:
        assert all(height in self.certificates for height in range(1, sequence + 1))
        self.votes = {key: each for key, each in self.votes.items() if key[2] > sequence}

    def certified_block(self, height: int) -> CertifiedBlock | None:
        certificate = self.certificates.get(height)
        if certificate is None or height > len(self.blocks):
            return None
        block = self.blocks[height - 1]
        return CertifiedBlock(block.header, block.content, certificate, block.operations)


def digest_of(message: Message) -> bytes:
    """Return what a message votes for."""
    if isinstance(message, PrePrepare):
        return message.content.digest(CHAIN_ID)
    return message.digest


class Executor:
    """Runs each operation once per (signer, nonce); the state root is a hash over what ran."""

    def __init__(self, epoch: Epoch, blocks: Iterable[Block] = ()) -> None:
        self.done: list[bytes] = []
        self._endorsers = epoch.digest(CHAIN_ID)
        self._windows: dict[str, NonceWindow] = {}
        self._root = EMPTY_DIGEST
        self.height = 0
        self.digest = EMPTY_DIGEST
        self.time_ms = 0
        for block in blocks:
            assert self.execute(block.content, block.operations).header == block.header

    def execute(self, content: Content, operations: tuple[Operation, ...]) -> Block:
        assert content.sequence == self.height + 1, "N6"
        assert tuple(each.id for each in operations) == content.operation_ids
        for operation in operations:
            window = self._windows.get(operation.body.signer, FRESH_WINDOW)
            if not window.is_used(operation.body.nonce):
                self._windows[operation.body.signer] = window.use(operation.body.nonce)
                self.done.append(operation.id)
                self._root = hashlib.sha256(self._root + operation.id).digest()
        self.height += 1
        self.time_ms = max(self.time_ms, content.time_ms)
        header = make_header(
            self.height,
            parent=self.digest,
            content_digest=content.digest(CHAIN_ID),
            time_ms=self.time_ms,
            state_root=self._root,
            endorsers=self._endorsers,
        )
        self.digest = header.digest(CHAIN_ID)
        return Block(header, content, operations)


def make_header(
    height: int,
    *,
    endorsers: bytes,
    parent: bytes = EMPTY_DIGEST,
    content_digest: bytes = EMPTY_DIGEST,
    time_ms: int = START_MS,
    state_root: bytes = EMPTY_DIGEST,
) -> Header:
    return Header(
        height=height,
        parent=parent,
        epoch=0,
        content_digest=content_digest,
        time_ms=time_ms,
        trade_root=EMPTY_DIGEST,
        energy_root=EMPTY_DIGEST,
        info_root=EMPTY_DIGEST,
        state_root=state_root,
        endorsers=endorsers,
        next_endorsers=endorsers,
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ask for bodies."""

    operation_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Bodies:
    """Bodies that were asked for."""

    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class BlockWanted:
    """Ask for a certified block."""

    height: int


Payload = Message | Wanted | Bodies | BlockWanted | CertifiedBlock


@dataclass(frozen=True, slots=True)
class Sent:
    """A message to one member, or to all others."""

    receiver: str | None
    payload: Payload


Happening = DurableVote | Sent | Block | Certificate | Rejection | Equivocation


class Member:
    """One replica with its disk, started from it as often as a test likes."""

    def __init__(self, member: str, epoch: Epoch, timing: Timing = TIMING) -> None:
        self.member = member
        self.disk = Disk()
        self.outbox: list[Sent] = []
        self.journal: list[Happening] = []
        self.evidence: list[Equivocation] = []
        self.verifier = FakeVerifier()
        self.is_up = False
        self.dies_before_sending = False
        self._epoch = epoch
        self._timing = timing
        self.start()

    def start(self, uncertified: Mapping[int, bytes] | None = None) -> None:
        """Start from what is on disk; `uncertified` overrides what the disk says."""
        self.executor = Executor(self._epoch, self.disk.blocks)
        if uncertified is None:
            uncertified = {
                block.header.height: block.header.digest(CHAIN_ID)
                for block in self.disk.blocks
                if block.header.height not in self.disk.certificates
            }
        self.replica = Replica(
            member=self.member,
            epoch=self._epoch,
            chain_id=CHAIN_ID,
            signer=FakeSigner(self.member),
            verifier=self.verifier,
            timing=self._timing,
            executed=Executed(self.executor.height, self.executor.digest, self.executor.time_ms),
            uncertified=uncertified,
            votes=self.disk.votes.values(),
        )
        self.is_up = True

    def crash(self) -> None:
        """Lose everything that is not on disk."""
        self.is_up = False
        self.dies_before_sending = False
        self.outbox.clear()

    def submit(self, operation: Operation, now_ms: int) -> None:
        self.carry_out(self.replica.admit(operation, now_ms), now_ms)

    def tick(self, now_ms: int) -> None:
        self.carry_out(self.replica.tick(now_ms), now_ms)

    def hear(self, sender: str, payload: Payload, now_ms: int) -> None:
        """Take what another member sent."""
        match payload:
            case Wanted(ids):
                found = self.replica.operations(ids)
                if found:
                    self._send(sender, Bodies(found))
            case Bodies(operations):
                for operation in operations:
                    if self.replica.wants(operation.id):
                        self.submit(operation, now_ms)
            case BlockWanted(height):
                block = self.disk.certified_block(height)
                if block is not None:
                    self._send(sender, block)
            case CertifiedBlock():
                self.take_block(payload, now_ms)
            case _:
                self.carry_out(self.replica.receive(payload, now_ms), now_ms)

    def take_block(self, block: CertifiedBlock, now_ms: int) -> None:
        """Adopt the next certified block, or use its certificate for one executed here."""
        height = block.header.height
        if height > self.executor.height + 1 or height in self.disk.certificates:
            return
        verify_block(block, epoch=self._epoch, chain_id=CHAIN_ID, verifier=self.verifier)
        if height <= self.executor.height:
            own = self.disk.blocks[height - 1].header
        else:
            executed = self.executor.execute(block.content, block.operations)
            self._append(executed)
            own = executed.header
        if own != block.header:
            raise DivergedError(f"height {height}")
        self._certify(block.certificate)
        if len(self.disk.blocks) == self.replica.height:
            self.carry_out(self.replica.settle(height), now_ms)
        else:
            self.carry_out(self.replica.adopt(block), now_ms)

    def carry_out(self, effects: Effects, now_ms: int) -> None:
        """Persist, send, execute, as the driver does."""
        self.journal += effects.rejected
        self.journal += effects.evidence
        self.evidence += effects.evidence
        for durable in effects.persist:
            self.disk.append(durable)
            self.journal.append(durable)
        for certificate in effects.certified:
            self._certify(certificate)
        if effects.discard_through is not None:
            self.disk.discard_through(effects.discard_through)
        if effects.persist and self.dies_before_sending:
            self.crash()
            return
        for message in effects.broadcast:
            self._send(None, message)
        for pull in effects.pull:
            self._send(pull.member, Wanted(pull.operation_ids))
        if effects.execute is not None:
            self.execute(effects.execute, now_ms)

    def execute(self, ordered: Ordered, now_ms: int) -> None:
        block = self.executor.execute(ordered.content, ordered.operations)
        self._append(block)
        header = block.header
        self.carry_out(
            self.replica.executed(header.height, header.digest(CHAIN_ID), header.time_ms, now_ms),
            now_ms,
        )

    def _append(self, block: Block) -> None:
        self.disk.blocks.append(block)
        self.journal.append(block)

    def _certify(self, certificate: Certificate) -> None:
        self.disk.certificates[certificate.height] = certificate
        self.journal.append(certificate)

    def _send(self, receiver: str | None, payload: Payload) -> None:
        sent = Sent(receiver, payload)
        self.outbox.append(sent)
        self.journal.append(sent)

"""A group of replicas driven by commands, and a trace of all that happens: interaction files.

The manner is etcd-raft's: a file tells a story in commands, each followed by `----` and everything
that the group did.  Nothing happens between commands; messages wait in one queue, in the order in
which they were sent, until a command delivers, drops, holds or reorders them.

Commands (`key=value`; lists with commas; `from`, `to` and `kind` select queued messages):

    group n=4                       start members a, b, c, ...; a is the primary
    operation ann/1 [at=a,b] [expires=MS]  hand a signed operation to members (default: all up)
    deliver [n=1]                   deliver what matches; without a selection, until all is quiet
    deliver quietly                 the same to the end, and only count the messages
    drop / duplicate / reorder      lose, repeat, or reverse what matches
    hold / release                  keep what matches, now and later; end all that
    tick ms=100                     let time pass for everybody
    crash b, restart b              lose all but the disk; start from the disk
    break b                         the next time b persists a vote, it crashes before it sends
    expect time=MS                  the application needs a block by then
    propose seq=1 to=b,c ops=ann/1 [time=MS]   a proposal signed by a, whatever a itself does
    vote PREPARE from=d seq=1 to=b ops=...     a vote for that content, signed by `from`
    adopt d from=a height=1         d takes a certified block, or its certificate, from a's disk
    status                          where everybody stands
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from consensus.block import Certificate, CertifiedBlock, Content
from consensus.effects import DurableVote, Equivocation, Rejection
from consensus.errors import DivergedError
from consensus.messages import Checkpoint, Commit, Message, Prepare, PrePrepare
from consensus.operation import Operation
from tests.support.replicas import (
    CHAIN_ID,
    START_MS,
    TIMING,
    Block,
    BlockWanted,
    Bodies,
    Happening,
    Member,
    Payload,
    Sent,
    Wanted,
    ballot_of,
    epoch_of,
    make_operation,
)

KINDS: Mapping[type, str] = {
    PrePrepare: "PRE-PREPARE",
    Prepare: "PREPARE",
    Commit: "COMMIT",
    Checkpoint: "CHECKPOINT",
    Wanted: "WANTED",
    Bodies: "BODIES",
    BlockWanted: "BLOCK-WANTED",
    CertifiedBlock: "BLOCK",
}
DELIVERIES_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way."""

    sender: str
    receiver: str
    payload: Payload

    @property
    def kind(self) -> str:
        return KINDS[type(self.payload)]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages a command is about; empty sets select all."""

    senders: frozenset[str] = frozenset()
    receivers: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()

    def __contains__(self, envelope: object) -> bool:
        assert isinstance(envelope, Envelope)
        return (
            (not self.senders or envelope.sender in self.senders)
            and (not self.receivers or envelope.receiver in self.receivers)
            and (not self.kinds or envelope.kind in self.kinds)
        )


@dataclass(slots=True)
class Command:
    """One line of a story: its words, the verb first, and its settings."""

    text: str
    words: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in self.text.split():
            key, separator, value = part.partition("=")
            if separator:
                self.settings[key] = value
            else:
                self.words.append(part)

    def names(self, key: str) -> list[str]:
        return [each for each in self.settings.get(key, "").split(",") if each]

    def number(self, key: str) -> int:
        return int(self.settings[key])

    @property
    def selection(self) -> Selection:
        return Selection(
            frozenset(self.names("from")),
            frozenset(self.names("to")),
            frozenset(self.names("kind")),
        )


class Cluster:
    """The group, its queue of messages and its clock."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self._members: dict[str, Member] = {}
        self._queue: list[Envelope] = []
        self._held: list[Selection] = []
        self._operations: dict[bytes, str] = {}
        self._trace: list[str] = []
        self._verbs: dict[str, Callable[[Command], None]] = {
            "group": self._group,
            "operation": self._operation,
            "deliver": self._deliver,
            "drop": self._drop,
            "duplicate": self._duplicate,
            "reorder": self._reorder,
            "hold": self._hold,
            "release": self._release,
            "tick": self._tick,
            "crash": self._crash,
            "restart": self._restart,
            "break": self._break,
            "expect": self._expect,
            "propose": self._propose,
            "vote": self._vote,
            "adopt": self._adopt,
            "status": self._status,
        }

    def obey(self, command: Command) -> str:
        """Carry out one command and return the trace of it."""
        self._trace = []
        self._verbs[command.words[0]](command)
        return "\n".join(self._trace) or "nothing"

    # -- commands ------------------------------------------------------------------------------

    def _group(self, command: Command) -> None:
        epoch = epoch_of(command.number("n"))
        self._members = {each: Member(each, epoch, TIMING) for each in epoch.members}
        self._say(
            f"{len(epoch.members)} members, quorum {epoch.quorum}, primary {epoch.primary(0)}"
        )

    def _operation(self, command: Command) -> None:
        operation = self._named(command.words[1], int(command.settings.get("expires", "1000000")))
        for name in command.names("at") or list(self._members):
            member = self._members[name]
            if member.is_up:
                self._do(member, partial(member.submit, operation, self.now_ms))

    def _deliver(self, command: Command) -> None:
        if not command.settings:
            delivered = 0
            while (envelope := self._next()) is not None:
                self._hand_over(envelope)
                delivered += 1
                assert delivered < DELIVERIES_MAX, "the group never comes to rest"
            if "quietly" in command.words:
                self._trace = [f"{delivered} messages"]
            return
        matching = [each for each in self._queue if each in command.selection]
        for envelope in matching[: int(command.settings.get("n", "1000"))]:
            self._queue.remove(envelope)
            self._hand_over(envelope)

    def _drop(self, command: Command) -> None:
        for envelope in [each for each in self._queue if each in command.selection]:
            self._queue.remove(envelope)
            self._say(f"lost: {self._envelope(envelope)}")

    def _duplicate(self, command: Command) -> None:
        again = [each for each in self._queue if each in command.selection]
        self._queue += again
        self._say(f"{len(again)} messages twice")

    def _reorder(self, command: Command) -> None:
        chosen = [each for each in self._queue if each in command.selection]
        self._queue = [each for each in self._queue if each not in command.selection]
        self._queue += reversed(chosen)
        self._say(f"{len(chosen)} messages reversed")

    def _hold(self, command: Command) -> None:
        self._held.append(command.selection)
        self._say("held")

    def _release(self, _command: Command) -> None:
        self._held.clear()
        self._say(f"released, {len(self._queue)} messages wait")

    def _tick(self, command: Command) -> None:
        self.now_ms += command.number("ms")
        self._say(f"now {self.now_ms}")
        for member in self._members.values():
            if member.is_up:
                self._do(member, partial(member.tick, self.now_ms))

    def _crash(self, command: Command) -> None:
        for name in command.words[1:]:
            self._members[name].crash()
            self._say(f"{name} is down")

    def _restart(self, command: Command) -> None:
        for name in command.words[1:]:
            self._members[name].start()
            self._say(f"{name} is up: {self._standing(self._members[name])}")

    def _break(self, command: Command) -> None:
        self._members[command.words[1]].dies_before_sending = True
        self._say(f"{command.words[1]} will die before it sends its next vote")

    def _expect(self, command: Command) -> None:
        for member in self._members.values():
            if member.is_up:
                member.replica.expect(command.number("time"))
        self._say("expected")

    def _propose(self, command: Command) -> None:
        message = ballot_of("a").pre_prepare(0, self._content(command))
        self._inject("a", command.names("to"), message)

    def _vote(self, command: Command) -> None:
        sender, sequence = command.settings["from"], command.number("seq")
        digest = self._content(command).digest(CHAIN_ID)
        ballot = ballot_of(sender)
        votes: dict[str, Message] = {
            "PREPARE": ballot.prepare(0, 0, sequence, digest),
            "COMMIT": ballot.commit(0, 0, sequence, digest),
            "CHECKPOINT": ballot.checkpoint(0, sequence, digest),
        }
        self._inject(sender, command.names("to"), votes[command.words[1]])

    def _adopt(self, command: Command) -> None:
        height = command.number("height")
        block = self._members[command.settings["from"]].disk.certified_block(height)
        member = self._members[command.words[1]]
        if block is None:
            self._say(f"{command.settings['from']} has no certificate of {height}")
            return
        self._do(member, partial(member.take_block, block, self.now_ms))

    def _status(self, _command: Command) -> None:
        for name, member in self._members.items():
            self._say(f"{name}: {self._standing(member) if member.is_up else 'down'}")

    # -- what happens ----------------------------------------------------------------------------

    def _content(self, command: Command) -> Content:
        ids = tuple(self._named(each).id for each in command.names("ops"))
        time_ms = int(command.settings.get("time", str(self.now_ms)))
        return Content(0, command.number("seq"), time_ms, ids)

    def _named(self, name: str, expires_ms: int = 1_000_000) -> Operation:
        signer, _, nonce = name.partition("/")
        operation = make_operation(signer, int(nonce), expires_ms=expires_ms)
        self._operations[operation.id] = name
        return operation

    def _inject(self, sender: str, receivers: Iterable[str], payload: Payload) -> None:
        for receiver in receivers:
            envelope = Envelope(sender, receiver, payload)
            self._queue.append(envelope)
            self._say(f"queued: {self._envelope(envelope)}")

    def _next(self) -> Envelope | None:
        for envelope in self._queue:
            if not any(envelope in each for each in self._held):
                self._queue.remove(envelope)
                return envelope
        return None

    def _hand_over(self, envelope: Envelope) -> None:
        member = self._members[envelope.receiver]
        if not member.is_up:
            self._say(f"{self._envelope(envelope)}: down")
            return
        self._say(self._envelope(envelope))
        act = partial(member.hear, envelope.sender, envelope.payload, self.now_ms)
        self._do(member, act, is_answer=True)

    def _do(self, member: Member, act: Callable[[], None], *, is_answer: bool = False) -> None:
        """Let a member act, and tell what it did, in the order in which it did it."""
        indent = "  " if is_answer else f"{member.member}: "
        high = member.replica.high
        try:
            act()
        except DivergedError as error:
            member.crash()
            self._say(f"{indent}HALT: {error}")
            return
        journal, member.journal = member.journal, []
        for happening in journal:
            self._say(indent + self._happening(happening))
        if not member.is_up:
            self._say(f"{indent}DIES before sending")
        elif member.replica.high != high:
            self._say(f"{indent}window now up to {member.replica.high}")
        outbox, member.outbox = member.outbox, []
        for sent in outbox:
            others = (each for each in self._members if each != member.member)
            self._queue += [
                Envelope(member.member, each, sent.payload)
                for each in (others if sent.receiver is None else (sent.receiver,))
            ]

    # -- words -----------------------------------------------------------------------------------

    def _happening(self, happening: Happening) -> str:
        match happening:
            case DurableVote():
                return f"persist {self._message(happening.vote)}"
            case Sent():
                towards = "" if happening.receiver is None else f" to {happening.receiver}"
                return f"send{towards} {self._message(happening.payload)}"
            case Block():
                header = happening.header
                names = self._names(each.id for each in happening.operations)
                digest = header.digest(CHAIN_ID).hex()[:4]
                return f"execute {header.height} {names} -> header {digest}"
            case Certificate():
                signers = " ".join(each for each, _ in happening.signatures)
                return f"certified {happening.height} by {signers}"
            case Rejection():
                return f"refuse: {happening.rule}"
            case Equivocation():
                first, second = self._message(happening.first), self._message(happening.second)
                return f"evidence against {happening.first.member}: {first}, {second}"

    def _say(self, line: str) -> None:
        self._trace.append(line)

    def _envelope(self, envelope: Envelope) -> str:
        return f"{envelope.sender} > {envelope.receiver} {self._message(envelope.payload)}"

    def _message(self, payload: Payload) -> str:
        kind = KINDS[type(payload)]
        match payload:
            case PrePrepare():
                content = payload.content
                digest = content.digest(CHAIN_ID).hex()[:4]
                names = self._names(content.operation_ids)
                return f"{kind} {content.sequence} {digest} {names} at {content.time_ms}"
            case Prepare() | Commit() | Checkpoint():
                return f"{kind} {payload.sequence} {payload.digest.hex()[:4]}"
            case Wanted():
                return f"{kind} {self._names(payload.operation_ids)}"
            case Bodies():
                return f"{kind} {self._names(each.id for each in payload.operations)}"
            case BlockWanted():
                return f"{kind} {payload.height}"
            case CertifiedBlock():
                return f"{kind} {payload.header.height}"

    def _names(self, ids: Iterable[bytes]) -> str:
        return "[" + " ".join(self._operations.get(each, "unknown") for each in ids) + "]"

    @staticmethod
    def _standing(member: Member) -> str:
        replica = member.replica
        votes = sorted({key[2] for key in member.disk.votes})
        return (
            f"executed {replica.height}, certified through {replica.stable}, "
            f"window up to {replica.high}, votes on disk for {votes or 'nothing'}"
        )


def tell_story(path: Path) -> str:
    """Run an interaction file and return it with the traces as they are now."""
    cluster = Cluster()
    told: list[str] = []
    for paragraph in path.read_text().rstrip("\n").split("\n\n"):
        lines = paragraph.splitlines()
        comments = [line for line in lines if line.startswith("#")]
        for line in lines[len(comments) : len(comments) + 1]:
            comments += [line, "----", *cluster.obey(Command(line)).splitlines()]
        told.append("\n".join(comments))
    return "\n\n".join(told) + "\n"

"""What a replica asks its caller to do, in one order: persist, send, execute."""

from dataclasses import dataclass, field

from consensus.block import Certificate, Content
from consensus.messages import Message
from consensus.operation import Operation


@dataclass(frozen=True, slots=True)
class DurableVote:
    """A vote that must be on disk before it is on the bus, with what it rests on.

    `proof` holds the accepted PRE-PREPARE for a PREPARE, and with it the Q-1 PREPAREs for a
    COMMIT (the prepared certificate); `operations` are the bodies that the content orders.
    """

    vote: Message
    proof: tuple[Message, ...] = ()
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class Pull:
    """Ask `member` for operation bodies that a proposal orders and that are not here."""

    member: str
    operation_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ordered:
    """Content that is committed-local and next in sequence, with its operations in order."""

    content: Content
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message that changed nothing: which rule it broke (pbft rule or plain words), and whose."""

    rule: str
    member: str


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two validly signed, conflicting messages of one member: evidence that needs no witness."""

    first: Message
    second: Message


@dataclass(slots=True)
class Effects:
    """Duties of the caller after one input.

    A message may leave the machine only after `persist` is durable; otherwise a replica that
    restarts could contradict its own vote.  `execute` holds at most one block; the caller reports
    it through `Replica.executed`, which may ask for the next.
    """

    persist: list[DurableVote] = field(default_factory=list)
    broadcast: list[Message] = field(default_factory=list)
    pull: list[Pull] = field(default_factory=list)
    execute: Ordered | None = None
    certified: list[Certificate] = field(default_factory=list)
    discard_through: int | None = None
    rejected: list[Rejection] = field(default_factory=list)
    evidence: list[Equivocation] = field(default_factory=list)

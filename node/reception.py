"""The door of a node: frames in, authentic, timely and new things out; all else refused, counted.

Cheap checks come first, a signature is checked last and once.  The sender in the topic must be a
member and the signer; only operations on `tx` may be relayed by others.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from consensus.codec import decode
from consensus.errors import MalformedError
from consensus.messages import Message
from consensus.operation import Operation
from consensus.pool import is_timely
from consensus.replica import Replica
from market.payloads import STATEMENT
from market.state import contracts_key
from node.execution import Execution
from node.statements import SignedStatements
from node.topics import Topic, TopicClass
from node.transport import Frame
from node.wire import Doorman

SLOTS_UNDER_WAY = 3
"""A member acts on the slot it orders, the one it negotiates and the one it reads."""

STATEMENTS_OF_A_MEMBER = 2
"""Statements of one member and slot that a clearing needs: two prices in the bracket form."""

_log = structlog.get_logger(__name__)
_MESSAGE: Any = Message


@dataclass(frozen=True, slots=True)
class NewOperation:
    """An operation to be ordered."""

    operation: Operation


@dataclass(frozen=True, slots=True)
class NewStatement:
    """A participant's statement, and the operation that signs it."""

    operation: Operation
    statement: Any


@dataclass(frozen=True, slots=True)
class NewVote:
    """A consensus message; the replica checks it."""

    message: Message


@dataclass(frozen=True, slots=True)
class Said:
    """What a member says in a bus message."""

    sender: str
    payload: msgspec.Struct


Received = NewOperation | NewStatement | NewVote | Said


class Reception:
    """Opens frames for one node.

    Args:
        member: This node; its own frames, which the broker echoes, are ignored.
        execution: Keys and committed state.
        replica: Whose pool says what is known, None if this node does not endorse.
        statements: What has been heard.
        doorman: Opens bus messages.
    """

    def __init__(
        self,
        *,
        member: str,
        execution: Execution,
        replica: Replica | None,
        statements: SignedStatements,
        doorman: Doorman,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._member = member
        self._execution = execution
        self._keys = execution.genesis.keys
        self._rules = execution.genesis.rules
        self._replica = replica
        self._statements = statements
        self._doorman = doorman
        self._quota_slot = 0
        self._admitted: Counter[str] = Counter()
        self._relayed: Counter[str] = Counter()

    def open(self, frame: Frame, now_ms: int) -> Received | None:
        """Return what a frame brings, None if it is refused."""
        topic = frame.topic
        if topic.sender == self._member:
            return None
        self.counters[f"frames_{topic.topic_class}"] += 1
        try:
            opened = self._open(topic, frame.payload, now_ms)
        except MalformedError:
            opened = "malformed"
        if isinstance(opened, str):
            self.refuse(opened, topic.sender)
            return None
        return opened

    def open_sent(self, operation: Operation, sender: str, now_ms: int) -> list[Received]:
        """Return what an operation brings that was asked for.

        A statement may also be a body that a proposal lacks; nobody wants it ordered otherwise.
        """
        is_statement = operation.body.kind == STATEMENT
        opened: list[Received | str | None] = []
        if not is_statement or (self._replica is not None and self._replica.wants(operation.id)):
            opened.append(self._operation(operation, sender, now_ms))
        if is_statement:
            opened.append(self._statement(operation, now_ms))
        for why in opened:
            if isinstance(why, str):
                self.refuse(why, sender)
        return [each for each in opened if each is not None and not isinstance(each, str)]

    def refuse(self, why: str, sender: str) -> None:
        """Count a refusal."""
        self.counters["refused " + why] += 1
        _log.debug("refused", why=why, sender=sender)

    def _open(self, topic: Topic, payload: bytes, now_ms: int) -> Received | str | None:
        if topic.sender not in self._keys:
            return "stranger"
        match topic.topic_class:
            case TopicClass.OPERATION:
                return self._operation(decode(payload, Operation), topic.sender, now_ms)
            case TopicClass.PRICE if not topic.rest:
                operation = decode(payload, Operation)
                if operation.body.signer != topic.sender:
                    return "topic and signer differ"
                return self._statement(operation, now_ms)
            case TopicClass.CONSENSUS:
                message = decode(payload, _MESSAGE)
                is_own = message.member == topic.sender
                return NewVote(message) if is_own else "topic and signer differ"
            case TopicClass.STATUS | TopicClass.BLOCK | TopicClass.INBOX | TopicClass.PRICE:
                opened = self._doorman.open(payload, topic.sender)
                return opened if isinstance(opened, str) else Said(topic.sender, opened[1])
            case _:
                return "unused class"

    def _operation(self, operation: Operation, sender: str, now_ms: int) -> Received | str | None:
        if self._replica is None:
            return None
        if operation.id in self._replica.pool:
            return "operation already here"
        # What a proposal orders is judged by the proposal's time, not by when it gets here.
        if not self._replica.wants(operation.id):
            if not is_timely(operation, now_ms):
                return "operation expired"
            if self._execution.has_used(operation):
                return "operation already executed"
            if not self._is_within_quota(operation, sender, now_ms):
                return "quota"
        if not self._execution.is_authentic(operation):
            return "signature"
        if operation.body.kind == STATEMENT:
            self._relayed[sender] += 1
        else:
            self._admitted[operation.body.signer] += 1
        return NewOperation(operation)

    def _is_within_quota(self, operation: Operation, sender: str, now_ms: int) -> bool:
        """Whether one more operation may be ordered in this slot's time.

        Anybody may relay what others have stated, so statements are charged to who relays them:
        nobody can use up what another member needs for its orders and readings.
        """
        slot = self._rules.calendar.slot_at(now_ms)
        if slot != self._quota_slot:
            self._quota_slot = slot
            self._admitted.clear()
            self._relayed.clear()
        if operation.body.kind == STATEMENT:
            relays_max = SLOTS_UNDER_WAY * STATEMENTS_OF_A_MEMBER * len(self._keys)
            return self._relayed[sender] < relays_max
        operations_max = SLOTS_UNDER_WAY * self._rules.quotas.operations
        return self._admitted[operation.body.signer] < operations_max

    def _statement(self, operation: Operation, now_ms: int) -> Received | str:
        if operation.body.kind != STATEMENT:
            return "not a statement"
        statement = self._execution.decode_payload(operation)
        if statement is None:
            return "not a statement"
        if not is_timely(operation, now_ms):
            return "statement expired"
        calendar, slot = self._rules.calendar, statement.slot
        if not calendar.is_traded(slot) or now_ms < calendar.opening_ms(slot):
            return "statement early"
        is_cleared = self._execution.state.get(contracts_key(slot)) is not None
        if is_cleared or calendar.start_ms(slot) < now_ms:
            return "statement stale"
        why = self._statements.why_refused(operation, statement.slot)
        if why is not None:
            return why
        if not self._execution.is_authentic(operation):
            return "signature"
        return NewStatement(operation, statement)

"""Runs replica, follower and household against bus and disk: receive, persist, send, execute.

The only place where decisions become I/O.  One task owns everything; frames and time come in, and
every turn ends with all duties done in one order: votes durable, then sent; blocks executed and
durable, then vouched for; the client's nonces and outbox durable, then published.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from consensus.block import Certificate, CertifiedBlock
from consensus.codec import encode
from consensus.effects import DurableVote, Effects, Ordered, Pull
from consensus.errors import DivergedError
from consensus.messages import Checkpoint, Commit, Message, Prepare, PrePrepare
from consensus.operation import EXPIRY_MS_MAX, Operation
from consensus.replica import Replica
from market.events import Cleared, GateClosed, TradeExecuted
from market.payloads import ContradictionPayload
from market.slot import DeadlineKind
from node.client import RESERVED_AT_ONCE, Client
from node.execution import ExecutedBlock, Execution
from node.follower import Follower
from node.household import Actions, Convict, Household, Relay
from node.mailroom import Mailroom
from node.reception import NewOperation, NewStatement, NewVote, Received, Reception, Said
from node.statements import SignedStatements
from node.store import LedgerStore, VoteStore
from node.topics import TopicClass
from node.transport import Frame, Transport
from node.wire import (
    INLINE_BLOCK_BYTES_MAX,
    BlockAnnounced,
    BlockPart,
    BlockWanted,
    Doorman,
    Head,
    OperationsSent,
    OperationsWanted,
    Postmark,
    StatementsWanted,
    Status,
)

LIFE_MS_MAX = EXPIRY_MS_MAX // 2
"""What lives longer is refused by everybody; half of it forgives clocks that differ."""

_PHASE_LEVELS: dict[type[Message], str] = {
    PrePrepare: "pp",
    Prepare: "p",
    Commit: "c",
    Checkpoint: "cp",
}

_USEFUL_UNTIL = {
    "order": DeadlineKind.GATE,
    "withdraw": DeadlineKind.GATE,
    "statement": DeadlineKind.CLEARING,
    "contradiction": DeadlineKind.CLEARING,
    "reading": DeadlineKind.SETTLEMENT,
}
"""Until when an operation of a kind can still have an effect."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Duties:
    """What the current turn has yet to do."""

    votes: list[DurableVote] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    execute: Ordered | None = None
    discard_through: int | None = None
    kept: list[Operation] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    statements: list[Operation] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    values: list[tuple[str, bytes]] = field(default_factory=list)
    traces: list[tuple[int, int, int, int, int]] = field(default_factory=list)


class Driver:
    """One node of the street.

    Args:
        member: This node's id.
        execution: The chain's state; owned by this driver from now on.
        follower: What is known of blocks ahead.
        replica: This node's vote, None if it does not endorse.
        household: This home's decisions, None if it only follows.
        client: Signs and repeats this member's operations.
        postmark, doorman: Signed bus messages, out and in.
        transport, ledger, votes: The world.
        now_ms: The community's clock.
    """

    def __init__(
        self,
        *,
        member: str,
        execution: Execution,
        follower: Follower,
        replica: Replica | None,
        household: Household | None,
        client: Client,
        postmark: Postmark,
        doorman: Doorman,
        transport: Transport,
        ledger: LedgerStore,
        votes: VoteStore | None,
        nonces_reserved: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._member = member
        self._execution = execution
        self._follower = follower
        self._replica = replica
        self._household = household
        self._client = client
        self._transport = transport
        self._ledger = ledger
        self._votes = votes
        self._nonces_reserved = nonces_reserved
        self._now_ms = now_ms
        self._duties = _Duties()
        self._statements = SignedStatements()
        self._reception = Reception(
            member=member,
            execution=execution,
            replica=replica,
            statements=self._statements,
            doorman=doorman,
        )
        self.counters = self._reception.counters
        self._mailroom = Mailroom(
            member=member,
            members=execution.genesis.keys,
            transport=transport,
            postmark=postmark,
            counters=self.counters,
        )
        self._wishes: list[tuple[str, BlockWanted]] = []
        self._connects = 0
        self._announced_height = -1
        self._head_at_ms = 0
        self._endorsers = execution.genesis.epoch.members
        self._expect_next_deadline()

    @property
    def height(self) -> int:
        """The last executed height."""
        return self._execution.header.height

    @property
    def wake_ms(self) -> int:
        """When a turn is next worth taking without a frame [community ms]."""
        due = [self._follower.wake_ms, self._client.wake_ms]
        if self._replica is not None:
            due.append(self._replica.wake_ms)
        if self._household is not None:
            due.append(self._household.wake_ms)
        return min(due)

    async def turn(self, frames: Iterable[Frame]) -> None:
        """Take frames, notice the time, and do everything that follows.

        Raises:
            StoreError: The disk failed; the process must stop.
            DivergedError: A quorum certified another header than ours; the process must stop.
        """
        now_ms = self._now_ms()
        if self._transport.connects != self._connects:
            self._connects = self._transport.connects
            self._greet()
        for frame in frames:
            received = self._reception.open(frame, now_ms)
            if received is not None:
                self._take(received, now_ms)
        self._tick(now_ms)
        await self._do_duties(now_ms)

    # -- time ------------------------------------------------------------------------------------

    def _tick(self, now_ms: int) -> None:
        if self._replica is not None:
            self._note(self._replica.tick(now_ms))
        if self._household is not None:
            self._act(self._household.tick(now_ms))
        for source, wish in self._follower.tick(now_ms):
            self.counters["blocks_pulled"] += 1
            self._mailroom.mail(source, "block-wanted", wish)
        again, expired = self._client.due(now_ms)
        self._duties.operations += again
        self._duties.received += expired
        self.counters["operations_expired"] += len(expired)
        self._announce_head(now_ms)

    def _greet(self) -> None:
        """Say again what the broker may have lost with the connection."""
        self._mailroom.tell(TopicClass.STATUS, "status", Status("ready"), "status")
        self._announced_height = -1
        self._client.hurry()

    def _announce_head(self, now_ms: int) -> None:
        """Publish the certified height, at most once per `resend_ms`."""
        if self._replica is None or now_ms < self._head_at_ms:
            return
        height = self._replica.stable
        if height == self._announced_height:
            return
        self._announced_height = height
        self._head_at_ms = now_ms + self._execution.genesis.timing.resend_ms
        head = Head(height, self._execution.digest, self._replica.view)
        self._mailroom.tell(TopicClass.STATUS, "head", head, "head")

    # -- what frames bring -----------------------------------------------------------------------

    def _take(self, received: Received, now_ms: int) -> None:
        """Hand an authentic thing to whom it concerns."""
        match received:
            case NewOperation():
                if self._replica is not None:
                    self._note(self._replica.admit(received.operation, now_ms))
            case NewStatement():
                self._statements.add(received.operation, received.statement)
                if self._household is not None:
                    member = received.operation.body.signer
                    self._act(self._household.hear(member, received.statement, now_ms))
            case NewVote():
                self._take_vote(received.message, now_ms)
            case Said():
                self._listen(received.sender, received.payload, now_ms)

    def _take_vote(self, message: Message, now_ms: int) -> None:
        if self._replica is None:
            return
        effects = self._replica.receive(message, now_ms)
        for rejection in effects.rejected:
            self._reception.refuse(rejection.rule, message.member)
        self._note(effects)

    def _listen(self, sender: str, payload: msgspec.Struct, now_ms: int) -> None:
        """Take news about blocks and what was asked for; answer wishes."""
        why = None
        match payload:
            case Head() if sender in self._endorsers:
                self._follower.note_height(payload.height, now_ms)
            case BlockAnnounced():
                why = self._follower.announced(payload.header, payload.certificate, now_ms)
                self._take_certificates()
            case CertifiedBlock():
                why = self._take_block(payload, now_ms)
            case BlockPart():
                why = self._take_part(sender, payload, now_ms)
            case OperationsSent():
                for operation in payload.operations:
                    for received in self._reception.open_sent(operation, sender, now_ms):
                        self._take(received, now_ms)
            case _:
                self._answer(sender, payload)
        if why is not None:
            self._reception.refuse(why, sender)

    def _take_part(self, sender: str, part: BlockPart, now_ms: int) -> str | None:
        answer = self._follower.receive_part(sender, part, now_ms)
        self._take_certificates()
        if isinstance(answer, BlockWanted):
            self._mailroom.mail(sender, "block-wanted", answer)
            return None
        return answer

    def _take_block(self, block: CertifiedBlock, now_ms: int) -> str | None:
        why = self._follower.offer(block, now_ms)
        self._take_certificates()
        return why

    def _take_certificates(self) -> None:
        """Use certificates from peers for blocks whose votes were lost."""
        for certificate in self._follower.take_certificates():
            self._duties.certificates.append(certificate)
            if self._replica is not None:
                self._note(self._replica.settle(certificate.height))

    # -- answers ---------------------------------------------------------------------------------

    def _answer(self, sender: str, wish: Any) -> None:  # noqa: ANN401 - any bus payload
        match wish:
            case BlockWanted():
                self._wishes.append((sender, wish))
            case OperationsWanted() if self._replica is not None:
                self._mailroom.send_operations(sender, self._replica.operations(wish.ids))
            case StatementsWanted():
                self._mailroom.answer_statements(sender, wish, self._statements)
            case _:
                pass

    # -- duties ----------------------------------------------------------------------------------

    def _note(self, effects: Effects) -> None:
        """Collect what a replica asks for."""
        duties = self._duties
        duties.votes += effects.persist
        duties.messages += effects.broadcast
        duties.certificates += effects.certified
        duties.execute = effects.execute or duties.execute
        if effects.discard_through is not None:
            duties.discard_through = effects.discard_through
        for pull in effects.pull:
            self._pull(pull)
        for evidence in effects.evidence:
            _log.warning("equivocation", member=evidence.first.member)
            self.counters["equivocations"] += 1

    def _pull(self, pull: Pull) -> None:
        self.counters["operations_pulled"] += len(pull.operation_ids)
        self._mailroom.mail(pull.member, "operations-wanted", OperationsWanted(pull.operation_ids))

    def _act(self, actions: Actions) -> None:
        """Collect what the household asks for."""
        duties = self._duties
        for submit in actions.submit:
            self._submit(submit.kind, submit.slot, submit.payload)
        for statement in actions.publish:
            self._publish_statement(statement)
        for slot, price, members in actions.want:
            wish = StatementsWanted(slot, price, members)
            self._mailroom.tell(TopicClass.PRICE, "statements-wanted", wish, "want")
        for relay in actions.relay:
            self._relay(relay)
        for convict in actions.convict:
            self._convict(convict)
        if actions.traces:
            slot, rounds, price, demand_mwh, supply_mwh = actions.traces[-1]
            _log.info(
                "negotiation over",
                slot=slot,
                rounds=rounds,
                price=price,
                demand_mwh=demand_mwh,
                supply_mwh=supply_mwh,
            )
        duties.traces += actions.traces
        if actions.state is not None:
            duties.values.append(("household", actions.state))

    def _submit(self, kind: str, slot: int, payload: msgspec.Struct) -> None:
        """Sign an operation and see it through: durable, published, repeated until its receipt."""
        operation = self._client.sign(kind, payload, self._expiry(kind, slot))
        self._see_through(operation)

    def _see_through(self, operation: Operation) -> None:
        self._client.keep(operation, self._now_ms())
        self._duties.kept.append(operation)
        self._duties.operations.append(operation)

    def _expiry(self, kind: str, slot: int) -> int:
        """Return when an operation about a slot is of no use any more."""
        deadline = self._execution.genesis.rules.calendar.deadline(slot, _USEFUL_UNTIL[kind])
        return min(deadline.time_ms, self._now_ms() + LIFE_MS_MAX)

    def _publish_statement(self, statement: Any) -> None:  # noqa: ANN401 - of the mechanism's statement type
        expires_ms = self._expiry("statement", statement.slot)
        operation = self._client.sign("statement", statement, expires_ms)
        self._statements.add(operation, statement)
        self._duties.statements.append(operation)

    def _relay(self, relay: Relay) -> None:
        operation = self._statements.find(
            relay.slot, relay.member, lambda said: said.round == relay.round
        )
        if operation is not None and not self._execution.has_used(operation):
            if relay.member == self._member:
                self._see_through(operation)
            else:
                self._duties.operations.append(operation)
            self.counters["statements_relayed"] += 1

    def _convict(self, convict: Convict) -> None:
        first = self._statements.find(convict.slot, convict.member, convict.first.__eq__)
        second = self._statements.find(convict.slot, convict.member, convict.second.__eq__)
        if first is not None and second is not None:
            evidence = ContradictionPayload(encode(first), encode(second))
            self._submit("contradiction", convict.slot, evidence)

    async def _do_duties(self, now_ms: int) -> None:
        """Persist, send, execute, until nothing is left to do."""
        while True:
            duties, self._duties = self._duties, _Duties()
            await self._reserve_nonces()
            # A statement needs no disk beyond its nonce, and its round waits for it.
            for statement in duties.statements:
                self._mailroom.publish(TopicClass.PRICE, encode(statement))
            await self._persist(duties)
            self._send(duties, now_ms)
            for wish in self._wishes:
                await self._mailroom.answer_block(*wish, self._ledger)
            self._wishes.clear()
            for certificate in duties.certificates:
                await self._publish_block(certificate)
            if duties.execute is not None:
                await self._execute(duties.execute, now_ms)
            elif self._duties.execute is None:
                block = self._follower.next_block()
                if block is not None:
                    await self._adopt(block, now_ms)
                elif self._duties == _Duties():
                    return

    async def _persist(self, duties: _Duties) -> None:
        if duties.votes:
            assert self._votes is not None
            await self._votes.append(duties.votes)
        if duties.discard_through is not None and self._votes is not None:
            await self._ledger.harden(duties.discard_through)
            await self._votes.discard_through(duties.discard_through)
        if duties.certificates:
            await self._ledger.certify(duties.certificates)
            for certificate in duties.certificates:
                self._follower.certified(certificate.height)
        if duties.kept:
            await self._ledger.keep(duties.kept)
        if duties.received or duties.values or duties.traces:
            await self._ledger.note(
                received=duties.received, values=duties.values, traces=duties.traces
            )

    async def _reserve_nonces(self) -> None:
        """See that every nonce used so far is reserved on disk, with some to come."""
        if self._client.next_nonce > self._nonces_reserved:
            self._nonces_reserved = self._client.next_nonce + RESERVED_AT_ONCE
            await self._ledger.reserve_nonces(self._nonces_reserved)

    def _send(self, duties: _Duties, now_ms: int) -> None:
        for message in duties.messages:
            self._mailroom.publish(
                TopicClass.CONSENSUS, encode(message), _PHASE_LEVELS[type(message)]
            )
        for operation in duties.operations:
            self._mailroom.publish(TopicClass.OPERATION, encode(operation))
            if self._replica is not None:
                self._note(self._replica.admit(operation, now_ms))

    async def _publish_block(self, certificate: Certificate) -> None:
        """Publish the certified block if it is this endorser's turn."""
        turn = self._endorsers[certificate.height % len(self._endorsers)]
        if turn != self._member:
            return
        block = await self._ledger.block(certificate.height)
        assert block is not None
        if len(encode(block)) > INLINE_BLOCK_BYTES_MAX:
            announced = BlockAnnounced(block.header, block.certificate)
            self._mailroom.tell(TopicClass.BLOCK, "block-announced", announced)
        else:
            self._mailroom.tell(TopicClass.BLOCK, "block", block)

    async def _execute(self, ordered: Ordered, now_ms: int) -> None:
        """Execute what consensus ordered, and vouch for the result once it is durable."""
        assert self._replica is not None
        executed = self._execution.execute(ordered.content, ordered.operations)
        await self._ledger.append(executed)
        self._expect_next_deadline()
        header = executed.header
        self._follower.executed_uncertified(header.height, executed.digest, now_ms)
        self._note(self._replica.executed(header.height, executed.digest, header.time_ms, now_ms))
        self._follow_block(executed, now_ms)

    async def _adopt(self, block: CertifiedBlock, now_ms: int) -> None:
        """Execute a certified block from a peer; another header would mean that we diverged."""
        executed = self._execution.execute(block.content, block.operations)
        if executed.header != block.header:
            raise DivergedError(
                f"executing certified height {block.header.height} gives another header here"
            )
        await self._ledger.append(executed, block.certificate)
        self.counters["blocks_adopted"] += 1
        self._expect_next_deadline()
        if self._replica is not None:
            self._note(self._replica.adopt(block))
        self._follow_block(executed, now_ms)

    def _follow_block(self, executed: ExecutedBlock, now_ms: int) -> None:
        """Tell client and household what the block means for them."""
        self._follower.stepped_to(executed.header.height, now_ms)
        for operation in executed.operations:
            body = operation.body
            if body.signer == self._member and self._client.received(body.nonce):
                self._duties.received.append(body.nonce)
        if self._household is None:
            return
        traded_wh: dict[int, int] = {}
        cleared: list[Cleared] = []
        for record in executed.events:
            match record.kind:
                case "gate-closed":
                    slot = msgspec.msgpack.decode(record.payload, type=GateClosed).slot
                    self._act(
                        self._household.gate_closed(slot, self._statements.heard(slot), now_ms)
                    )
                case "cleared":
                    cleared.append(msgspec.msgpack.decode(record.payload, type=Cleared))
                case "trade" if record.subject == self._member:
                    trade = msgspec.msgpack.decode(record.payload, type=TradeExecuted)
                    traded_wh[trade.slot] = trade.energy_wh
                case _:
                    pass
        for each in cleared:
            self._statements.forget(each.slot)
            price = each.price if each.traded_wh else None
            energy_wh = traded_wh.get(each.slot, 0)
            self._act(self._household.cleared(each.slot, energy_wh, price, now_ms))

    def _expect_next_deadline(self) -> None:
        if self._replica is not None:
            deadline = self._execution.next_deadline()
            self._replica.expect(None if deadline is None else deadline.time_ms)

"""Execution: what an ordered block does to the state, and the header that certifies it.

Pure: the same content on the same state gives the same header on every replica.  A block first runs
every market deadline at or before its effective time, then its operations; all writes, events and
receipts follow from these alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from consensus.block import Content, Header
from consensus.codec import decode, encode
from consensus.domain import Tag, Verifier, leaf_digest, tagged_digest
from consensus.errors import MalformedError
from consensus.merkle import merkle_root
from consensus.nonces import FRESH_WINDOW, NonceWindow
from consensus.operation import Channel, Operation, has_valid_signature
from consensus.state_tree import StateTree
from market.errors import Result
from market.events import Event
from market.exchange import Exchange, Submission
from market.payloads import STATEMENT
from market.slot import Deadline
from market.state import nonce_key
from node.genesis import Genesis

SALT_BYTES = 16


class Receipt(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What became of an ordered operation."""

    operation_id: bytes
    result: Result


class EventRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A derived event as stored and as hashed into its channel's root."""

    kind: str
    channel: int
    subject: str
    salt: bytes
    payload: bytes

    @property
    def leaf(self) -> bytes:
        """The event's Merkle leaf."""
        return leaf_digest(Tag.EVENT, encode(self))


@dataclass(frozen=True, slots=True)
class ExecutedBlock:
    """A block with everything that follows from it."""

    header: Header
    digest: bytes
    content: Content
    operations: tuple[Operation, ...]
    events: tuple[EventRecord, ...]
    writes: dict[str, bytes | None]


class _Overlay:
    """The state as the block's writes so far leave it."""

    def __init__(self, tree: StateTree) -> None:
        self._tree = tree
        self.writes: dict[str, bytes | None] = {}

    def get(self, key: str) -> bytes | None:
        return self.writes[key] if key in self.writes else self._tree.get(key)


class Execution:
    """The replicated state of one chain, advanced block by block.

    Args:
        genesis: The community's rules.
        verifier: Checks signatures inside contradiction evidence.
        state: All entries after `header`; None to start from genesis.
        header: The last executed header; None to start from genesis.
    """

    def __init__(
        self,
        genesis: Genesis,
        verifier: Verifier,
        *,
        state: Iterable[tuple[str, bytes]] | None = None,
        header: Header | None = None,
    ) -> None:
        self.genesis = genesis
        self.chain_id = genesis.chain_id
        self._verifier = verifier
        self._keys = genesis.keys
        self._endorsers = genesis.epoch.digest(self.chain_id)
        self.exchange = Exchange(genesis.rules, self._open_statement)
        if state is None or header is None:
            entries = self.exchange.genesis_writes()
            self.state = StateTree((key, value) for key, value in entries.items() if value)
            self.header = genesis.header(self.state.root)
        else:
            self.state = StateTree(state)
            self.header = header
        self.digest = self.header.digest(self.chain_id)

    def next_deadline(self) -> Deadline | None:
        """Return the market's next deadline, for which a block is owed."""
        return self.exchange.next_deadline(self.state)

    def execute(self, content: Content, operations: Sequence[Operation]) -> ExecutedBlock:
        """Execute the content that follows the last header, whose operations are authenticated."""
        assert content.sequence == self.header.height + 1, content.sequence
        time_ms = max(self.header.time_ms, content.time_ms)
        content_digest = content.digest(self.chain_id)
        overlay = _Overlay(self.state)
        events: list[Event | tuple[Operation, Receipt]] = []
        while (deadline := self.exchange.next_deadline(overlay)) and deadline.time_ms <= time_ms:
            outcome = self.exchange.run(overlay, deadline, time_ms)
            overlay.writes.update(outcome.writes)
            events.extend(outcome.events)
        for operation in operations:
            result, derived = self._apply(overlay, operation, time_ms)
            events.append((operation, Receipt(operation.id, result)))
            events.extend(derived)
        records = tuple(
            self._record(event, content_digest, index) for index, event in enumerate(events)
        )
        self.state.apply(overlay.writes)
        self.header = self._header(content_digest, time_ms, operations, records)
        self.digest = self.header.digest(self.chain_id)
        return ExecutedBlock(
            self.header, self.digest, content, tuple(operations), records, overlay.writes
        )

    def decode_payload(self, operation: Operation) -> Any | None:  # noqa: ANN401 - any payload type
        """Return an operation's payload by its kind, None if the market cannot read it."""
        type_ = self.exchange.payload_type(operation.body.kind)
        if type_ is None:
            return None
        try:
            return decode(operation.body.payload, type_)
        except MalformedError:
            return None

    def is_authentic(self, operation: Operation) -> bool:
        """Whether a member signed the operation with the key that the chain knows."""
        key = self._keys.get(operation.body.signer)
        return (
            key is not None
            and operation.body.key_version == 1
            and has_valid_signature(
                operation, chain_id=self.chain_id, public_key=key, verifier=self._verifier
            )
        )

    def has_used(self, operation: Operation) -> bool:
        """Whether the operation's nonce has been used: ordering it again would be a no-op."""
        return self._window(self.state, operation.body.signer).is_used(operation.body.nonce)

    def highest_nonce(self, member: str) -> int:
        """Return the highest nonce that a member has used."""
        return self._window(self.state, member).highest

    @staticmethod
    def _window(view: StateTree | _Overlay, member: str) -> NonceWindow:
        data = view.get(nonce_key(member))
        return FRESH_WINDOW if data is None else msgspec.msgpack.decode(data, type=NonceWindow)

    def _apply(
        self, overlay: _Overlay, operation: Operation, time_ms: int
    ) -> tuple[Result, list[Event]]:
        body = operation.body
        window = self._window(overlay, body.signer)
        if window.is_used(body.nonce):
            return Result.NONCE_USED, []
        overlay.writes[nonce_key(body.signer)] = encode(window.use(body.nonce))
        submission = Submission(
            kind=body.kind,
            channel=int(body.channel),
            signer=body.signer,
            payload=self.decode_payload(operation),
            salt=body.salt,
            size=operation.size,
        )
        outcome = self.exchange.apply(overlay, submission, time_ms)
        overlay.writes.update(outcome.writes)
        return outcome.result, outcome.events

    def _open_statement(self, data: bytes) -> tuple[str, Any] | None:
        try:
            operation = decode(data, Operation)
        except MalformedError:
            return None
        if operation.body.kind != STATEMENT or not self.is_authentic(operation):
            return None
        statement = self.decode_payload(operation)
        return None if statement is None else (operation.body.signer, statement)

    def _record(
        self, event: Event | tuple[Operation, Receipt], content_digest: bytes, index: int
    ) -> EventRecord:
        if isinstance(event, Event):
            kind, channel, subject, payload, source = (
                event.kind,
                event.channel,
                event.subject,
                encode(event.payload),
                event.salt,
            )
        else:
            operation, receipt = event
            kind, channel, subject, payload, source = (
                "receipt",
                int(operation.body.channel),
                operation.body.signer,
                encode(receipt),
                operation.body.salt,
            )
        seed = encode((source, content_digest, index))
        salt = tagged_digest(Tag.EVENT_SALT, self.chain_id, seed)[:SALT_BYTES]
        return EventRecord(kind, channel, subject, salt, payload)

    def _header(
        self,
        content_digest: bytes,
        time_ms: int,
        operations: Sequence[Operation],
        records: Sequence[EventRecord],
    ) -> Header:
        def root(channel: Channel) -> bytes:
            leaves = [each.id for each in operations if each.body.channel is channel]
            leaves += [each.leaf for each in records if each.channel == channel]
            return merkle_root(leaves)

        return Header(
            height=self.header.height + 1,
            parent=self.digest,
            epoch=self.header.epoch,
            content_digest=content_digest,
            time_ms=time_ms,
            trade_root=root(Channel.TRADE),
            energy_root=root(Channel.ENERGY),
            info_root=root(Channel.INFO),
            state_root=self.state.root,
            endorsers=self._endorsers,
            next_endorsers=self._endorsers,
        )

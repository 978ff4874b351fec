"""What a node says on the bus: frames out, and answers to what others ask for.

Answers are bounded: a wish names what it wants, and what is large travels in parts.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from consensus.operation import Operation
from node.statements import SignedStatements
from node.store import LedgerStore
from node.topics import Topic, TopicClass
from node.transport import Transport
from node.wire import (
    BlockWanted,
    OperationsSent,
    Postmark,
    StatementsWanted,
    split_block,
)

ANSWER_BYTES_MAX = 48 * 1024
"""Operations in one answer: well below a frame, with room for the envelope."""


class Mailroom:
    """Sends one member's frames and counts them.

    Args:
        member: Who speaks.
        members: Everybody on the street; its order says who answers for whom.
        transport: Queues frames and never blocks.
        postmark: Signs bus messages.
        counters: Where frames are counted.
    """

    def __init__(
        self,
        *,
        member: str,
        members: Iterable[str],
        transport: Transport,
        postmark: Postmark,
        counters: Counter[str],
    ) -> None:
        self._member = member
        self._transport = transport
        self._postmark = postmark
        self._counters = counters
        ids = sorted(members)
        place = ids.index(member)
        self._answers_for = {member, ids[place - 1], ids[place - 2]}

    def publish(self, topic_class: TopicClass, payload: bytes, *rest: str) -> None:
        """Queue an encoded operation or vote for everybody."""
        self._send(Topic(topic_class, self._member, rest=rest), payload)

    def tell(self, topic_class: TopicClass, kind: str, payload: msgspec.Struct, *rest: str) -> None:
        """Sign a bus message for everybody and queue it."""
        self.publish(topic_class, self._postmark.seal(kind, payload), *rest)

    def mail(self, recipient: str, kind: str, payload: msgspec.Struct) -> None:
        """Sign a bus message for one member and queue it."""
        sealed = self._postmark.seal(kind, payload, recipient)
        self._send(Topic(TopicClass.INBOX, self._member, recipient, (kind,)), sealed)

    def send_operations(self, recipient: str, operations: Iterable[Operation]) -> None:
        """Mail operations in as many frames as they need."""
        batch: list[Operation] = []
        size = 0
        for operation in operations:
            size += operation.size
            if size > ANSWER_BYTES_MAX:
                self.mail(recipient, "operations", OperationsSent(tuple(batch)))
                batch, size = [], operation.size
            batch.append(operation)
        if batch:
            self.mail(recipient, "operations", OperationsSent(tuple(batch)))

    def answer_statements(
        self, recipient: str, wish: StatementsWanted, statements: SignedStatements
    ) -> None:
        """Send statements that a participant missed: one's own, and those of the two before.

        Three can answer any wish, so a lost or withheld answer does no harm, and a hundred are
        not sent.
        """
        asked = self._answers_for & set(wish.members)
        self.send_operations(recipient, statements.answering(wish.slot, asked, wish.price))

    async def answer_block(self, recipient: str, wish: BlockWanted, ledger: LedgerStore) -> None:
        """Send the wanted part of a certified block, if it is here."""
        block = await ledger.block(wish.height)
        parts = [] if block is None else split_block(block)
        if wish.part < len(parts):
            self.mail(recipient, "block-part", parts[wish.part])

    def _send(self, topic: Topic, payload: bytes) -> None:
        self._counters[f"sent_{topic.topic_class}"] += 1
        self._counters[f"sent_bytes_{topic.topic_class}"] += len(payload)
        self._transport.publish(topic, payload)

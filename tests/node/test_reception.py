"""The door of a node: what gets in, and every refusal by its name, counted, without a trace."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.block import Content
from consensus.codec import FRAME_BYTES_MAX, encode
from consensus.domain import Verifier
from consensus.messages import Ballot, Message
from consensus.operation import EXPIRY_MS_MAX, Operation, OperationBody
from consensus.replica import Executed, Replica
from market.orders import Side
from market.payloads import WithdrawalPayload
from market.statements import Statement
from node.execution import Execution
from node.identity import SodiumVerifier
from node.reception import (
    SLOTS_UNDER_WAY,
    STATEMENTS_OF_A_MEMBER,
    NewOperation,
    NewStatement,
    NewVote,
    Received,
    Reception,
    Said,
)
from node.statements import PER_MEMBER_MAX, SignedStatements
from node.topics import Topic, TopicClass
from node.transport import Frame
from node.wire import Doorman, Head, OperationsSent, Postmark, StatementsWanted
from tests.support.street import FIRST, HOUR_MS, Chain, order, reading

HOMES = ("b1", "b2", "s1", "s2", "z1")
"""The first four endorse; b1 is the primary, b2 the node under test."""

GATE_MS = FIRST * HOUR_MS - 54 * 60_000
NOW_MS = GATE_MS + 1
"""In the middle of the first slot's negotiation."""


class CountingVerifier:
    """Counts how many signatures were checked."""

    def __init__(self) -> None:
        self.calls = 0

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.calls += 1
        return SodiumVerifier().verify(public_key, message, signature)


class Node:
    """The door of one node, and the chain behind it."""

    def __init__(self, member: str = "b2") -> None:
        self.chain = Chain(HOMES)
        self.verifier = CountingVerifier()
        verifier: Verifier = self.verifier
        self.chain.execution = Execution(self.chain.genesis, verifier)
        genesis = self.chain.genesis
        header = self.chain.execution.header
        self.replica: Replica | None = None
        if genesis.epoch.public_key(member) is not None:
            self.replica = Replica(
                member=member,
                epoch=genesis.epoch,
                chain_id=genesis.chain_id,
                signer=self.chain.identities[member],
                verifier=verifier,
                timing=genesis.timing,
                executed=Executed(0, self.chain.execution.digest, header.time_ms),
            )
        self.statements = SignedStatements()
        self.door = Reception(
            member=member,
            execution=self.chain.execution,
            replica=self.replica,
            statements=self.statements,
            doorman=Doorman(
                member=member, chain_id=genesis.chain_id, keys=genesis.keys, verifier=verifier
            ),
        )

    @property
    def refused(self) -> dict[str, int]:
        """How often each refusal was counted."""
        return {
            key.removeprefix("refused "): count
            for key, count in self.door.counters.items()
            if key.startswith("refused ")
        }

    def frame(
        self,
        topic_class: TopicClass,
        payload: bytes | msgspec.Struct,
        sender: str = "s1",
        rest: tuple[str, ...] = (),
        now_ms: int = NOW_MS,
    ) -> Received | None:
        """Let a frame come."""
        data = payload if isinstance(payload, bytes) else encode(payload)
        recipient = "b2" if topic_class is TopicClass.INBOX else None
        return self.door.open(Frame(Topic(topic_class, sender, recipient, rest), data), now_ms)

    def operation(self, operation: Operation, sender: str = "s1", now_ms: int = NOW_MS) -> Any:
        """Let an operation come on `tx` and admit it, as the driver does."""
        received = self.frame(TopicClass.OPERATION, operation, sender, now_ms=now_ms)
        if isinstance(received, NewOperation) and self.replica is not None:
            self.replica.admit(operation, now_ms)
        return received

    def statement(self, operation: Operation, sender: str = "s1", now_ms: int = NOW_MS) -> Any:
        """Let a statement come on `px` and keep it, as the driver does."""
        received = self.frame(TopicClass.PRICE, operation, sender, now_ms=now_ms)
        if isinstance(received, NewStatement):
            self.statements.add(received.operation, received.statement)
        return received

    def sign(self, member: str, payload: Any = None, **changes: Any) -> Operation:
        """Sign an operation that is in time now."""
        fields = {"expires_ms": NOW_MS + HOUR_MS} | changes
        return self.chain.sign(
            member, order(Side.SELL, 1) if payload is None else payload, **fields
        )

    def postmark(self, member: str = "s1") -> Postmark:
        """Seal messages as a member."""
        return Postmark(
            member=member,
            chain_id=self.chain.genesis.chain_id,
            signer=self.chain.identities[member],
            session=1,
        )


@pytest.fixture
def node() -> Node:
    return Node()


def stated(round_number: int = 1, *, slot: int = FIRST, price: int = 200_000) -> Statement:
    return Statement(slot, bytes(32), round_number, price, 1)


def broken(operation: Operation) -> Operation:
    """Return the operation with a signature that does not hold."""
    changed = operation.signature[:-1] + bytes([operation.signature[-1] ^ 1])
    return msgspec.structs.replace(operation, signature=changed)


def altered(operation: Operation, **changes: Any) -> Operation:
    """Return the operation with another body under the same signature."""
    body: OperationBody = msgspec.structs.replace(operation.body, **changes)
    return msgspec.structs.replace(operation, body=body)


# -- what gets in ----------------------------------------------------------------------------------


def test_operation_gets_in(node: Node) -> None:
    operation = node.sign("s1")
    assert node.operation(operation) == NewOperation(operation)
    assert node.refused == {}
    assert node.door.counters["frames_tx"] == 1


def test_operation_may_be_relayed_by_any_other_member(node: Node) -> None:
    operation = node.sign("s1")
    assert node.operation(operation, sender="z1") == NewOperation(operation)


def test_statement_gets_in_from_its_author(node: Node) -> None:
    operation = node.sign("s1", stated())
    assert node.statement(operation) == NewStatement(operation, stated())


def test_vote_and_message_get_in(node: Node) -> None:
    vote = ballot(node, "s1").prepare(0, 0, 1, bytes(32))
    head = Head(1, bytes(32), 0)
    wish = StatementsWanted(FIRST, 1, ("b2",))

    assert node.frame(TopicClass.CONSENSUS, vote, rest=("p",)) == NewVote(vote)
    sealed = node.postmark().seal("head", head)
    assert node.frame(TopicClass.STATUS, sealed, rest=("head",)) == Said("s1", head)
    sealed = node.postmark().seal("statements-wanted", wish)
    assert node.frame(TopicClass.PRICE, sealed, rest=("want",)) == Said("s1", wish)


def ballot(node: Node, member: str) -> Ballot:
    chain = node.chain
    return Ballot(member=member, chain_id=chain.genesis.chain_id, signer=chain.identities[member])


def test_own_frames_that_the_broker_echoes_are_ignored_and_not_counted(node: Node) -> None:
    assert node.operation(node.sign("b2"), sender="b2") is None
    assert node.frame(TopicClass.OPERATION, b"junk", sender="b2") is None
    assert node.door.counters == {}
    assert node.verifier.calls == 0


def test_node_that_does_not_endorse_takes_no_operations_but_hears_statements() -> None:
    follower = Node("z1")
    assert follower.operation(follower.sign("s1")) is None
    assert follower.refused == {}
    operation = follower.sign("s1", stated())
    assert follower.statement(operation) == NewStatement(operation, stated())


# -- refusals of operations ------------------------------------------------------------------------


def assert_refused(node: Node, received: object, why: str) -> None:
    """Nothing got in, one refusal was counted, and nothing is remembered."""
    assert received is None
    assert node.refused == {why: 1}
    assert node.replica is not None
    assert len(node.replica.pool) == 0
    assert node.statements._held == {}
    assert not node.door._admitted
    assert not node.door._relayed


def test_stranger_is_refused_unread(node: Node) -> None:
    assert_refused(node, node.operation(node.sign("s1"), sender="eve"), "stranger")
    assert node.verifier.calls == 0


@pytest.mark.parametrize("topic_class", list(TopicClass))
def test_junk_is_malformed_in_every_class_that_is_used(topic_class: TopicClass, node: Node) -> None:
    rest = ("kind",) if topic_class is TopicClass.INBOX else ()
    is_unused = topic_class in (TopicClass.OPERATOR, TopicClass.PUBLIC)
    received = node.frame(topic_class, b"junk", rest=rest)
    assert_refused(node, received, "unused class" if is_unused else "malformed")


@pytest.mark.parametrize("topic_class", [TopicClass.OPERATION, TopicClass.CONSENSUS])
def test_oversized_frame_is_malformed(topic_class: TopicClass, node: Node) -> None:
    assert_refused(node, node.frame(topic_class, bytes(FRAME_BYTES_MAX + 1)), "malformed")


def test_operation_by_nobody_is_refused(node: Node) -> None:
    assert_refused(node, node.operation(altered(node.sign("s1"), signer="eve")), "signature")


@pytest.mark.parametrize(
    ("expires_ms", "why"),
    [
        (NOW_MS - 1, "operation expired"),
        (NOW_MS + EXPIRY_MS_MAX + 1, "operation expired"),
    ],
)
def test_operation_that_no_block_of_now_may_carry_is_refused(
    expires_ms: int, why: str, node: Node
) -> None:
    assert_refused(node, node.operation(node.sign("s1", expires_ms=expires_ms)), why)


@pytest.mark.parametrize("expires_ms", [NOW_MS, NOW_MS + EXPIRY_MS_MAX])
def test_operation_at_the_edge_of_its_time_gets_in(expires_ms: int, node: Node) -> None:
    assert node.operation(node.sign("s1", expires_ms=expires_ms)) is not None


def test_executed_operation_is_refused(node: Node) -> None:
    operation = node.sign("s1")
    node.chain.block(node.chain.execution.header.time_ms, operation)
    assert_refused(node, node.operation(operation), "operation already executed")


def test_another_operation_with_a_used_nonce_is_refused(node: Node) -> None:
    node.chain.block(node.chain.execution.header.time_ms, node.sign("s1"))
    node.chain.nonces["s1"] = 0
    second = node.sign("s1", order(Side.SELL, 2))
    assert_refused(node, node.operation(second), "operation already executed")


def test_operation_is_taken_once(node: Node) -> None:
    operation = node.sign("s1")
    node.operation(operation)
    assert node.operation(operation, sender="z1") is None
    assert node.refused == {"operation already here": 1}


@pytest.mark.parametrize("change", [{"kind": "orders"}, {"nonce": 99}, {"key_version": 2}])
def test_operation_that_was_altered_is_refused(change: dict[str, Any], node: Node) -> None:
    assert_refused(node, node.operation(altered(node.sign("s1"), **change)), "signature")


def test_operation_with_a_broken_signature_is_refused(node: Node) -> None:
    assert_refused(node, node.operation(broken(node.sign("s1"))), "signature")


def test_operation_of_another_chain_is_refused(node: Node) -> None:
    other = Chain(HOMES, phase_ms=7)
    operation = other.sign("s1", order(Side.SELL, 1), expires_ms=NOW_MS)
    assert_refused(node, node.operation(operation), "signature")


OPERATIONS_MAX = SLOTS_UNDER_WAY * 16


def fill_quota(node: Node, member: str) -> None:
    for _ in range(OPERATIONS_MAX):
        assert node.frame(TopicClass.OPERATION, node.sign(member)) is not None


def test_member_may_not_have_more_ordered_than_its_quota(node: Node) -> None:
    fill_quota(node, "s1")
    assert node.operation(node.sign("s1")) is None
    assert node.refused == {"quota": 1}


def test_quota_of_one_member_is_not_that_of_another_and_begins_anew_with_the_slot(
    node: Node,
) -> None:
    fill_quota(node, "s1")
    assert node.operation(node.sign("s2")) is not None
    assert node.operation(node.sign("s1"), now_ms=NOW_MS + HOUR_MS) is not None


def test_forgeries_do_not_use_up_the_quota_of_their_victim(node: Node) -> None:
    for _ in range(OPERATIONS_MAX + 1):
        assert node.operation(broken(node.sign("s1")), sender="z1") is None
    assert node.operation(node.sign("s1")) is not None


RELAYS_MAX = SLOTS_UNDER_WAY * STATEMENTS_OF_A_MEMBER * len(HOMES)


def test_relaying_what_a_member_stated_does_not_use_up_its_quota(node: Node) -> None:
    for price in range(OPERATIONS_MAX + 1):
        node.operation(node.sign("s1", stated(price=price)), sender="z1")
    assert node.refused["quota"] == OPERATIONS_MAX + 1 - RELAYS_MAX

    assert node.operation(node.sign("s1")) is not None
    assert node.operation(node.sign("s1", stated(2)), sender="s1") is not None


def test_relays_of_one_member_are_bounded_and_begin_anew_with_the_slot(node: Node) -> None:
    for price in range(RELAYS_MAX):
        assert node.frame(TopicClass.OPERATION, node.sign("s1", stated(price=price)), "z1")
    more = node.sign("s2", stated())
    assert node.operation(more, sender="z1") is None
    assert node.refused == {"quota": 1}
    assert node.operation(more, sender="z1", now_ms=NOW_MS + HOUR_MS) is not None


# -- refusals of statements ------------------------------------------------------------------------


def test_statement_from_another_ones_topic_is_refused(node: Node) -> None:
    received = node.statement(node.sign("s1", stated()), sender="z1")
    assert_refused(node, received, "topic and signer differ")
    assert node.verifier.calls == 0


@pytest.mark.parametrize("payload", [order(Side.SELL, 1), reading(1), WithdrawalPayload(1, 1)])
def test_other_operation_on_px_is_no_statement(payload: msgspec.Struct, node: Node) -> None:
    assert_refused(node, node.statement(node.sign("s1", payload)), "not a statement")


def test_statement_that_the_mechanism_cannot_read_is_none(node: Node) -> None:
    operation = node.sign("s1", b"\x90", kind="statement")
    assert_refused(node, node.statement(operation), "not a statement")


def test_expired_statement_is_refused(node: Node) -> None:
    operation = node.sign("s1", stated(), expires_ms=NOW_MS - 1)
    assert_refused(node, node.statement(operation), "statement expired")


def test_statement_about_a_slot_under_delivery_is_stale(node: Node) -> None:
    late_ms = FIRST * HOUR_MS + 1
    operation = node.sign("s1", stated(), expires_ms=late_ms + 1)
    assert_refused(node, node.statement(operation, now_ms=late_ms), "statement stale")


def test_statement_about_a_cleared_slot_is_stale_and_not_kept_for_ever(node: Node) -> None:
    node.chain.block(FIRST * HOUR_MS - 12 * 60_000)
    now_ms = FIRST * HOUR_MS - 60_000
    received = node.statement(node.sign("s1", stated()), now_ms=now_ms)
    assert_refused(node, received, "statement stale")


@pytest.mark.parametrize("slot", [FIRST + 2, FIRST + 24, FIRST - 1, 2**53])
def test_statement_about_a_slot_that_is_not_open_is_refused(slot: int, node: Node) -> None:
    received = node.statement(node.sign("s1", stated(slot=slot)))
    assert_refused(node, received, "statement early")
    assert node.verifier.calls == 0


def test_statement_before_the_gate_block_is_kept(node: Node) -> None:
    operation = node.sign("s1", stated())
    assert node.statement(operation, now_ms=GATE_MS - 1) == NewStatement(operation, stated())


def test_statement_with_a_broken_signature_is_refused(node: Node) -> None:
    assert_refused(node, node.statement(broken(node.sign("s1", stated()))), "signature")


def test_statement_is_heard_once(node: Node) -> None:
    operation = node.sign("s1", stated())
    node.statement(operation)
    calls = node.verifier.calls
    assert node.statement(operation) is None
    assert node.refused == {"statement already here": 1}
    assert node.verifier.calls == calls


def test_member_that_states_without_end_is_not_heard_any_more(node: Node) -> None:
    for price in range(PER_MEMBER_MAX):
        node.statements.add(node.sign("s1", stated(price=price)), stated(price=price))
    assert node.statement(node.sign("s1", stated())) is None
    assert node.refused == {"too many statements": 1}
    assert node.verifier.calls == 0


# -- refusals of votes and messages ----------------------------------------------------------------


def test_vote_from_another_ones_topic_is_refused(node: Node) -> None:
    vote = ballot(node, "s1").prepare(0, 0, 1, bytes(32))
    received = node.frame(TopicClass.CONSENSUS, vote, sender="s2", rest=("p",))
    assert_refused(node, received, "topic and signer differ")


def test_message_from_another_ones_topic_is_refused(node: Node) -> None:
    sealed = node.postmark().seal("head", Head(1, bytes(32), 0))
    received = node.frame(TopicClass.STATUS, sealed, sender="s2", rest=("head",))
    assert_refused(node, received, "topic and sender differ")


def test_mail_for_somebody_else_is_refused(node: Node) -> None:
    sealed = node.postmark().seal("head", Head(1, bytes(32), 0), "z1")
    received = node.frame(TopicClass.INBOX, sealed, rest=("head",))
    assert_refused(node, received, "for somebody else")


# -- cheap checks first ----------------------------------------------------------------------------


def test_no_signature_is_checked_of_what_a_cheap_check_refuses(node: Node) -> None:
    used = node.sign("s1")
    node.chain.block(node.chain.execution.header.time_ms, used)
    calls = node.verifier.calls
    node.operation(used)
    node.operation(node.sign("s1", expires_ms=1))
    node.operation(node.sign("s1"), sender="eve")
    node.statement(node.sign("s1", stated(), expires_ms=1))
    node.statement(node.sign("s1", stated(slot=1)))
    node.statement(node.sign("s1", stated()), sender="s2")
    node.frame(TopicClass.CONSENSUS, b"junk")
    assert sum(node.refused.values()) == 7
    assert node.verifier.calls == calls


def test_one_signature_is_checked_of_what_gets_in(node: Node) -> None:
    node.operation(node.sign("s1"))
    node.statement(node.sign("s1", stated()))
    assert node.verifier.calls == 2


# -- bodies that were asked for --------------------------------------------------------------------


def propose(node: Node, *operations: Operation) -> None:
    """Let the primary propose operations whose bodies are not here."""
    assert node.replica is not None
    content = Content(0, 1, NOW_MS, tuple(each.id for each in operations))
    message: Message = ballot(node, "b1").pre_prepare(0, content)
    assert not node.replica.receive(message, NOW_MS).rejected


def test_body_that_a_proposal_lacks_gets_in_although_it_has_expired(node: Node) -> None:
    operation = node.sign("s1", expires_ms=NOW_MS)
    propose(node, operation)
    assert node.operation(operation, now_ms=NOW_MS + 1) == NewOperation(operation)


def test_body_that_a_proposal_lacks_gets_in_although_the_quota_is_used_up(node: Node) -> None:
    fill_quota(node, "s1")
    operation = node.sign("s1")
    propose(node, operation)
    assert node.operation(operation) == NewOperation(operation)


def test_forged_body_is_refused_although_it_is_wanted(node: Node) -> None:
    operation = node.sign("s1")
    propose(node, operation)
    assert node.operation(broken(operation)) is None
    assert node.refused == {"signature": 1}
    assert node.operation(operation) is not None


def test_sent_statement_is_heard_but_not_ordered(node: Node) -> None:
    operation = node.sign("s1", stated())
    assert node.door.open_sent(operation, "z1", NOW_MS) == [NewStatement(operation, stated())]


def test_sent_statement_that_a_proposal_lacks_is_both(node: Node) -> None:
    operation = node.sign("s1", stated())
    propose(node, operation)
    assert node.door.open_sent(operation, "z1", NOW_MS) == [
        NewOperation(operation),
        NewStatement(operation, stated()),
    ]


def test_sent_forgery_is_refused_and_counted(node: Node) -> None:
    assert node.door.open_sent(broken(node.sign("s1")), "z1", NOW_MS) == []
    assert node.door.open_sent(broken(node.sign("s1", stated())), "z1", NOW_MS) == []
    assert node.refused == {"signature": 2}


def test_follower_keeps_no_body_that_is_sent_to_it() -> None:
    follower = Node("z1")
    assert follower.door.open_sent(follower.sign("s1"), "s1", NOW_MS) == []
    assert follower.refused == {}


# -- liars -----------------------------------------------------------------------------------------

LIAR = Node()
GENUINE = encode(LIAR.sign("s1", stated()))
SEALED = LIAR.postmark().seal("operations", OperationsSent((LIAR.sign("s1"),)))


@settings(max_examples=200)
@given(st.sampled_from(list(TopicClass)), st.binary(max_size=200))
def test_random_bytes_never_get_in(topic_class: TopicClass, data: bytes) -> None:
    rest = ("x",) if topic_class is TopicClass.INBOX else ()
    assert LIAR.frame(topic_class, data, rest=rest) is None


@settings(max_examples=300)
@given(
    st.sampled_from([(TopicClass.PRICE, GENUINE), (TopicClass.BLOCK, SEALED)]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 255),
)
def test_genuine_frame_with_one_byte_changed_never_gets_in(
    frame: tuple[TopicClass, bytes], where: float, flip: int
) -> None:
    topic_class, data = frame
    changed = bytearray(data)
    changed[int(where * len(data))] ^= flip
    assert LIAR.frame(topic_class, bytes(changed)) is None

"""Bus messages: signed once, opened once, and nothing else gets through."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consensus.block import OPERATIONS_BYTES_MAX, Certificate, CertifiedBlock, Content, Header
from consensus.codec import FRAME_BYTES_MAX, encode
from consensus.domain import Tag, tagged
from consensus.errors import MalformedError
from consensus.operation import Operation
from market.orders import Side
from node.identity import Identity, SodiumVerifier
from node.wire import (
    BUS_PAYLOADS,
    PART_BYTES_MAX,
    BlockAnnounced,
    BlockPart,
    BlockWanted,
    BusBody,
    BusMessage,
    Doorman,
    Head,
    OperationsSent,
    OperationsWanted,
    Postmark,
    StatementsWanted,
    Status,
    split_block,
)
from tests.support.certified import certified
from tests.support.street import Chain, order, reading

CHAIN_ID = bytes(range(32))
MEMBERS = {name: Identity(name.encode().ljust(32)) for name in ("ann", "bob", "eve")}
HEAD = Head(height=7, digest=bytes(32), view=0)


def keys() -> dict[str, bytes]:
    return {name: MEMBERS[name].public_key for name in ("ann", "bob")}


def postmark(member: str = "ann", *, session: int = 5, chain_id: bytes = CHAIN_ID) -> Postmark:
    return Postmark(member=member, chain_id=chain_id, signer=MEMBERS[member], session=session)


def doorman(member: str = "bob") -> Doorman:
    return Doorman(member=member, chain_id=CHAIN_ID, keys=keys(), verifier=SodiumVerifier())


def sealed(body: BusBody, signer: str = "ann") -> bytes:
    """Sign any body, whatever a `Postmark` would say to it."""
    signature = MEMBERS[signer].sign(tagged(Tag.BUS, CHAIN_ID, encode(body)))
    return encode(BusMessage(body, signature))


def body(**changes: Any) -> BusBody:
    fields: dict[str, Any] = {
        "kind": "head",
        "sender": "ann",
        "recipient": "",
        "session": 5,
        "counter": 1,
        "payload": encode(HEAD),
    }
    return BusBody(**(fields | changes))


def a_block(operations: int = 1) -> CertifiedBlock:
    chain = Chain()
    signed = [chain.sign("b1", reading(1)) for _ in range(operations)]
    return certified(chain, chain.block(chain.execution.header.time_ms, *signed))


def test_message_is_opened_by_its_recipient() -> None:
    data = postmark().seal("head", HEAD, "bob")
    assert doorman().open(data, "ann") == ("head", HEAD)


def test_message_to_everybody_is_opened_by_anybody() -> None:
    data = postmark().seal("head", HEAD)
    assert doorman().open(data, "ann") == ("head", HEAD)
    assert doorman("carl").open(data, "ann") == ("head", HEAD)


def test_every_kind_of_message_survives_the_post() -> None:
    block = a_block()
    operation = block.operations[0]
    payloads: dict[str, msgspec.Struct] = {
        "status": Status("ready"),
        "head": HEAD,
        "block": block,
        "block-announced": BlockAnnounced(block.header, block.certificate),
        "block-wanted": BlockWanted(3, 1),
        "block-part": BlockPart(3, 1, 2, b"data"),
        "operations-wanted": OperationsWanted((operation.id,)),
        "operations": OperationsSent((operation,)),
        "statements-wanted": StatementsWanted(1, 2, ("ann", "bob")),
    }
    assert payloads.keys() == BUS_PAYLOADS.keys()
    sender, receiver = postmark(), doorman()
    for kind, payload in payloads.items():
        assert receiver.open(sender.seal(kind, payload), "ann") == (kind, payload)


def test_repeated_message_is_a_replay() -> None:
    receiver, data = doorman(), postmark().seal("head", HEAD)
    receiver.open(data, "ann")
    assert receiver.open(data, "ann") == "replay"


def test_older_counter_is_a_replay() -> None:
    sender, receiver = postmark(), doorman()
    first, second = sender.seal("head", HEAD), sender.seal("head", HEAD)
    assert receiver.open(second, "ann") == ("head", HEAD)
    assert receiver.open(first, "ann") == "replay"


def test_kinds_are_counted_apart_so_that_topics_may_overtake_each_other() -> None:
    sender, receiver = postmark(), doorman()
    status, head = sender.seal("status", Status("ready")), sender.seal("head", HEAD)
    assert receiver.open(head, "ann") == ("head", HEAD)
    assert receiver.open(status, "ann") == ("status", Status("ready"))


def test_later_session_begins_anew_and_ends_the_one_before() -> None:
    receiver, old = doorman(), postmark(session=5)
    before, late = old.seal("head", HEAD), old.seal("head", HEAD)
    receiver.open(before, "ann")

    assert receiver.open(postmark(session=6).seal("head", HEAD), "ann") == ("head", HEAD)
    assert receiver.open(late, "ann") == "replay"


def test_refused_message_does_not_use_up_its_counter() -> None:
    receiver = doorman()
    genuine = postmark().seal("head", HEAD)
    forged = sealed(body(counter=99), signer="eve")

    assert receiver.open(forged, "ann") == "signature"
    assert receiver.open(genuine, "ann") == ("head", HEAD)


def test_one_member_does_not_use_up_another_ones_counters() -> None:
    receiver = doorman("carl")
    receiver.open(postmark("ann", session=9).seal("head", HEAD), "ann")
    assert receiver.open(postmark("bob", session=1).seal("head", HEAD), "bob") == ("head", HEAD)


@pytest.mark.parametrize(
    ("data", "topic_sender", "why"),
    [
        (postmark().seal("head", HEAD), "bob", "topic and sender differ"),
        (postmark("eve").seal("head", HEAD), "eve", "stranger"),
        (postmark().seal("head", HEAD, "carl"), "ann", "for somebody else"),
        (sealed(body(kind="gossip")), "ann", "unknown kind"),
        (sealed(body(), signer="bob"), "ann", "signature"),
        (postmark(chain_id=bytes(32)).seal("head", HEAD), "ann", "signature"),
    ],
)
def test_message_that_breaks_a_rule_is_refused_by_name(
    data: bytes, topic_sender: str, why: str
) -> None:
    assert doorman().open(data, topic_sender) == why


class CountingVerifier:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.calls += 1
        return SodiumVerifier().verify(public_key, message, signature)


def test_signature_is_checked_last_and_once() -> None:
    verifier = CountingVerifier()
    receiver = Doorman(member="bob", chain_id=CHAIN_ID, keys=keys(), verifier=verifier)
    data = postmark().seal("head", HEAD)
    receiver.open(data, "ann")
    assert verifier.calls == 1

    receiver.open(data, "ann")
    receiver.open(data, "bob")
    receiver.open(postmark("eve").seal("head", HEAD), "eve")
    receiver.open(postmark(session=7).seal("head", HEAD, "carl"), "ann")
    receiver.open(sealed(body(kind="gossip")), "ann")
    with pytest.raises(MalformedError):
        receiver.open(sealed(body(counter=2, payload=b"\xc0")), "ann")

    assert verifier.calls == 1


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "Head"},
        {"kind": "head\n"},
        {"kind": ""},
        {"sender": "Ann"},
        {"sender": "ann\n"},
        {"recipient": "bob\n"},
        {"session": -1},
        {"counter": 2**63},
        {"payload": b"\xc0"},
        {"payload": encode(HEAD) + b"\0"},
        {"payload": bytes(FRAME_BYTES_MAX + 1)},
    ],
)
def test_body_outside_its_bounds_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        doorman().open(sealed(body(**change)), "ann")


def test_status_says_one_of_two_words() -> None:
    for word in ("ready\n", "hello", ""):
        data = sealed(body(kind="status", payload=encode((word,))))
        with pytest.raises(MalformedError):
            doorman().open(data, "ann")


def test_oversized_frame_is_malformed_before_anything_else() -> None:
    with pytest.raises(MalformedError, match="at most 65536"):
        doorman().open(bytes(FRAME_BYTES_MAX + 1), "ann")


def opened(receiver: Doorman, data: bytes) -> tuple[str, msgspec.Struct] | str | None:
    """Open a frame of a liar; None for malformed.  Nothing else may be raised."""
    try:
        return receiver.open(data, "ann")
    except MalformedError:
        return None


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x92" * 300)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x92\x96" + b"\xc4\xff" * 20)
def test_random_bytes_are_refused(data: bytes) -> None:
    assert not isinstance(opened(doorman(), data), tuple)


GENUINE = postmark().seal("operations", OperationsSent(a_block().operations))


@settings(max_examples=300)
@given(st.integers(0, len(GENUINE) - 1), st.integers(1, 255))
def test_one_changed_byte_is_refused(index: int, flip: int) -> None:
    changed = bytearray(GENUINE)
    changed[index] ^= flip
    assert not isinstance(opened(doorman(), bytes(changed)), tuple)


@given(st.integers(0, len(GENUINE) - 1), st.binary(min_size=1, max_size=20))
def test_cut_or_lengthened_message_is_refused(index: int, more: bytes) -> None:
    assert not isinstance(opened(doorman(), GENUINE[:index]), tuple)
    assert not isinstance(opened(doorman(), GENUINE + more), tuple)
    assert not isinstance(opened(doorman(), GENUINE[:index] + more + GENUINE[index:]), tuple)


def large_block() -> CertifiedBlock:
    """Make a block as large as a block may be; nobody checks its signatures here."""
    chain = Chain()
    small = chain.sign("b1", order(Side.BUY, 1))
    large = msgspec.structs.replace(
        small, body=msgspec.structs.replace(small.body, payload=bytes(32_000))
    )
    operations: tuple[Operation, ...] = (large,) * (OPERATIONS_BYTES_MAX // 32_200)
    content = Content(0, 1, 1, tuple(each.id for each in operations))
    header: Header = a_block().header
    signatures = tuple((member, bytes(64)) for member, _ in chain.genesis.endorsers)
    return CertifiedBlock(header, content, Certificate(0, 1, bytes(32), signatures), operations)


@pytest.mark.parametrize("make", [a_block, large_block])
def test_block_is_the_sum_of_its_parts(make: Callable[[], CertifiedBlock]) -> None:
    block = make()
    parts = split_block(block)

    assert b"".join(each.data for each in parts) == encode(block)
    assert [each.part for each in parts] == list(range(len(parts)))
    assert {each.parts for each in parts} == {len(parts)}
    assert {each.height for each in parts} == {block.header.height}
    assert all(len(each.data) == PART_BYTES_MAX for each in parts[:-1])


def test_every_part_of_the_largest_block_fits_a_frame() -> None:
    sender, receiver = postmark(), doorman()
    parts = split_block(large_block())
    assert len(parts) > 5
    for part in parts:
        data = sender.seal("block-part", part, "bob")
        assert len(data) <= FRAME_BYTES_MAX
        assert receiver.open(data, "ann") == ("block-part", part)

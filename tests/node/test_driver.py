"""Drivers with real files on a bus in memory: what is said is on disk, and junk changes nothing."""

import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consensus.block import CertifiedBlock
from consensus.codec import decode, encode
from consensus.errors import DivergedError
from consensus.messages import Checkpoint, Commit, Message, Prepare, PrePrepare
from consensus.operation import EXPIRY_MS_MAX, Operation
from market.clearing import Rung
from market.events import Cleared
from market.orders import Side
from market.statements import Statement
from node.assets.device import Battery
from node.audit import verify_ledger
from node.errors import StoreError
from node.store import LedgerStore, VoteStore
from node.topics import Topic, TopicClass
from node.transport import Frame
from node.wire import BlockWanted, BusMessage, Head, Postmark
from tests.support.certified import certified
from tests.support.nodes import HOMES, NodeStreet, losing
from tests.support.street import FIRST, HOUR_MS, Chain, order

pytestmark = pytest.mark.timeout(60)

PHASES: dict[type[Any], str] = {PrePrepare: "pre-prepare", Prepare: "prepare", Commit: "commit"}
MESSAGE: Any = Message


@pytest.fixture
async def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NodeStreet]:
    made = NodeStreet(tmp_path, monkeypatch)
    yield made
    await made.crash()


def rows(path: Path, query: str, *values: object) -> list[Any]:
    """Ask a node's file as somebody else would."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query, values).fetchall()


def outcomes(path: Path) -> list[Rung]:
    """Return how each slot was cleared."""
    payloads = rows(path, "SELECT payload FROM events WHERE kind = 'cleared' ORDER BY height")
    return [msgspec.msgpack.decode(each, type=Cleared).rung for (each,) in payloads]


def assert_sound(street: NodeStreet) -> None:
    """Every ledger verifies, has one head, and has settled the day."""
    found = {member: verify_ledger(street.ledger_of(member)) for member in HOMES}
    assert {member: each.errors for member, each in found.items() if not each.ok} == {}
    assert len({each.head for each in found.values()}) == 1
    for member in HOMES:
        settled = rows(
            street.ledger_of(member), "SELECT count(*) FROM events WHERE kind = 'settled'"
        )
        assert settled == [(3,)]


def votes_of(street: NodeStreet) -> list[Message]:
    return [
        decode(payload, MESSAGE)
        for topic, payload in street.bus.published
        if topic.topic_class is TopicClass.CONSENSUS
    ]


def assert_nobody_contradicts_itself(street: NodeStreet) -> None:
    """No member voted for two digests, and no nonce was used for two operations."""
    digests = defaultdict(set)
    for vote in votes_of(street):
        said = vote.content.digest(b"") if isinstance(vote, PrePrepare) else vote.digest
        digests[vote.member, type(vote), vote.sequence].add(said)
    assert [key for key, each in digests.items() if len(each) > 1] == []
    ids = defaultdict(set)
    for topic, payload in street.bus.published:
        is_operation = topic.topic_class is TopicClass.OPERATION
        if is_operation or (topic.topic_class is TopicClass.PRICE and not topic.rest):
            operation = decode(payload, Operation)
            ids[operation.body.signer, operation.body.nonce].add(operation.id)
    assert [key for key, each in ids.items() if len(each) > 1] == []


# -- the normal case -------------------------------------------------------------------------------


async def test_street_trades_a_day(street: NodeStreet) -> None:
    await street.start()
    await street.run_day()

    assert_sound(street)
    assert_nobody_contradicts_itself(street)
    assert outcomes(street.ledger_of("z1")) == [Rung.NEGOTIATED] * 3


async def test_nothing_unusual_is_refused_on_a_quiet_day(street: NodeStreet) -> None:
    await street.start()
    await street.run_day()

    usual = {
        "block already here",
        "operation already here",
        "operation already executed",
        "statement already here",
    }
    for member, driver in street.drivers.items():
        refused = {
            key.removeprefix("refused ")
            for key in driver.counters
            if key.startswith("refused ") and key[8] not in "KNQ"
        }
        assert refused <= usual, member
        assert driver.counters["equivocations"] == 0
        assert driver.counters["operations_expired"] == 0


async def test_battery_is_planned_and_traded_over_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    battery = Battery(
        label="b", capacity_wh=4000, power_w=2000, efficiency_ppm=900_000, wear_micro_per_kwh=0
    )
    street = NodeStreet(tmp_path, monkeypatch, devices={"s1": battery, "b1": battery})
    await street.start()
    await street.run_day()
    await street.crash()

    assert_sound(street)


# -- disk before bus -------------------------------------------------------------------------------


def is_on_disk(street: NodeStreet, topic: Topic, payload: bytes) -> bool:
    """Whether what a frame says would survive the sender's end, as its files show from outside."""
    data = street.data_of(topic.sender)
    if topic.topic_class is TopicClass.CONSENSUS:
        vote = decode(payload, MESSAGE)
        if isinstance(vote, Checkpoint):
            (header,) = rows(
                data / "ledger.db", "SELECT header FROM blocks WHERE height = ?", vote.sequence
            )
            return bool(header[0])
        key = (vote.view, vote.sequence, PHASES[type(vote)])
        query = "SELECT 1 FROM votes WHERE view = ? AND sequence = ? AND phase = ?"
        return bool(rows(data / "votes.db", query, *key))
    if topic.topic_class in (TopicClass.OPERATION, TopicClass.PRICE) and not topic.rest:
        operation = decode(payload, Operation)
        if operation.body.signer != topic.sender:
            return True
        (reserved,) = rows(
            data / "ledger.db", "SELECT value FROM local_values WHERE key = 'nonces_reserved'"
        )
        is_reserved = operation.body.nonce < decode(reserved[0], int)
        if topic.topic_class is TopicClass.PRICE:
            return is_reserved
        kept = rows(
            data / "ledger.db",
            "SELECT operation FROM local_outbox WHERE nonce = ?",
            operation.body.nonce,
        )
        return is_reserved and kept == [(payload,)]
    return True


async def test_votes_blocks_and_operations_are_on_disk_before_they_are_on_the_bus(
    street: NodeStreet,
) -> None:
    checked: dict[TopicClass, int] = defaultdict(int)

    def on_publish(topic: Topic, payload: bytes) -> None:
        assert is_on_disk(street, topic, payload), topic
        checked[topic.topic_class] += 1

    street.bus.on_publish = on_publish
    await street.start()
    await street.run_until(FIRST * HOUR_MS)

    assert {type(vote) for vote in votes_of(street)} == {PrePrepare, Prepare, Commit, Checkpoint}
    assert checked[TopicClass.OPERATION] > 5
    assert checked[TopicClass.PRICE] >= 5


async def test_turn_persists_then_sends_then_executes(
    street: NodeStreet, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    append_votes, append_block = VoteStore.append, LedgerStore.append

    async def votes(store: VoteStore, *args: Any) -> None:
        await append_votes(store, *args)
        calls.append("votes")

    async def block(store: LedgerStore, *args: Any) -> None:
        await append_block(store, *args)
        calls.append("block")

    monkeypatch.setattr(VoteStore, "append", votes)
    monkeypatch.setattr(LedgerStore, "append", block)
    await street.start("b1", "b2", "s1")
    await street.settle()
    calls.clear()
    street.bus.on_publish = lambda topic, _: (
        calls.append(topic.rest[0]) if topic.topic_class is TopicClass.CONSENSUS else None
    )

    # The gate of the first slot: one empty block, seen from the primary that proposes it.
    gate_ms = street.genesis.rules.calendar.start_ms(FIRST) - 54 * 60_000
    await street.run_until(gate_ms - 1)
    calls.clear()
    street.now_ms = gate_ms
    await street.turn("b1")
    assert calls == ["votes", "pp"]
    calls.clear()
    await street.turn("b2")
    assert calls == ["votes", "p"]
    calls.clear()
    await street.turn("s1")
    assert calls in (["votes", "p", "votes", "c"], ["votes", "p", "c"])
    calls.clear()
    await street.turn("b1")
    assert calls == ["votes", "c"]
    calls.clear()
    await street.turn("b2")
    assert calls == ["votes", "c", "block", "cp"]


# -- the disk fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["_votes", "_ledger"])
async def test_full_disk_stops_the_node_and_it_says_no_more(what: str, street: NodeStreet) -> None:
    await street.start()
    await street.run_until(FIRST * HOUR_MS - 60 * 60_000)
    store = getattr(street.drivers["b2"], what)
    await store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await store._connection.execute("PRAGMA max_page_count = 1")
    said: list[Topic] = []

    def on_publish(topic: Topic, payload: bytes) -> None:
        assert is_on_disk(street, topic, payload), topic
        if topic.sender == "b2":
            said.append(topic)

    street.bus.on_publish = on_publish
    with pytest.raises(StoreError, match="full"):
        await street.run_day()
    assert said


# -- restart ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "minutes"),
    [("b1", -119), ("s2", -119), ("b1", -53), ("s2", -53), ("z1", -53), ("b1", 30), ("z1", 61)],
)
async def test_node_restarted_from_its_disk_goes_on(
    member: str, minutes: int, street: NodeStreet
) -> None:
    await street.start()
    await street.run_until(FIRST * HOUR_MS + minutes * 60_000)
    await street.crash(member)
    await street.run_until(street.now_ms + 5_000)
    await street.start(member)
    await street.run_day()

    assert_sound(street)
    assert_nobody_contradicts_itself(street)


async def test_all_nodes_restarted_in_the_middle_of_a_block_go_on(street: NodeStreet) -> None:
    await street.start()
    await street.run_until(FIRST * HOUR_MS - 54 * 60_000 - 1)
    street.now_ms += 1
    for member in ("b1", "b2", "s1", "b1"):
        await street.turn(member)
    await street.crash()
    await street.start()
    await street.run_day()

    assert_sound(street)
    assert_nobody_contradicts_itself(street)


async def test_node_that_lost_its_ledger_trades_again(street: NodeStreet) -> None:
    await street.start()
    await street.run_until(FIRST * HOUR_MS + 30 * 60_000)
    await street.crash("z1")
    for path in street.data_of("z1").iterdir():
        path.unlink()
    await street.start("z1")
    await street.run_day()

    assert_sound(street)
    readings = rows(
        street.ledger_of("b1"),
        "SELECT count(*) FROM operations WHERE signer='z1' AND kind='reading'",
    )
    assert readings[0][0] >= 3


# -- a bad bus -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
async def test_day_settles_although_a_fifth_of_all_frames_is_lost(
    seed: int, street: NodeStreet
) -> None:
    street.bus.is_lost = losing(0.2, seed)
    await street.start()
    await street.run_day()

    assert_sound(street)
    assert_nobody_contradicts_itself(street)


async def test_follower_that_hears_no_block_pulls_them_all(street: NodeStreet) -> None:
    street.bus.is_lost = lambda receiver, topic: (
        receiver == "z1" and topic.topic_class is TopicClass.BLOCK
    )
    await street.start()
    await street.run_day()

    assert_sound(street)
    assert street.drivers["z1"].counters["blocks_pulled"] > 0


async def test_operation_that_was_lost_is_said_again_until_the_chain_has_it(
    street: NodeStreet,
) -> None:
    lost: list[Topic] = []

    def is_lost(_: str, topic: Topic) -> bool:
        if topic.sender == "z1" and topic.topic_class is TopicClass.OPERATION and len(lost) < 12:
            lost.append(topic)
            return True
        return False

    street.bus.is_lost = is_lost
    await street.start()
    await street.run_until(street.now_ms + 10_000)

    assert len(lost) == 12
    orders = rows(street.ledger_of("b1"), "SELECT 1 FROM operations WHERE signer = 'z1'")
    assert len(orders) == 1
    assert rows(street.ledger_of("z1"), "SELECT * FROM local_outbox") == []


async def test_interrupted_bus_makes_a_node_say_again_what_waits(street: NodeStreet) -> None:
    street.bus.is_lost = lambda _receiver, _topic: True
    await street.start("z1")
    await street.settle()
    street.bus.published.clear()
    street.bus.transports["z1"].connects += 1

    await street.turn("z1")

    classes = [topic.topic_class for topic, _ in street.bus.published]
    assert classes == [TopicClass.STATUS, TopicClass.OPERATION]


# -- junk ------------------------------------------------------------------------------------------


async def test_junk_is_refused_counted_and_answered_with_nothing(street: NodeStreet) -> None:
    await street.start("b2")
    await street.settle()
    driver = street.drivers["b2"]
    before = (driver.height, dict(driver._execution.state.items()))
    street.bus.published.clear()
    junk = [
        Frame(
            Topic(topic_class, sender, "b2" if topic_class is TopicClass.INBOX else None, ("x",)),
            data,
        )
        for topic_class in TopicClass
        for sender in ("s1", "eve")
        for data in (b"", b"\xc1", b"\x90", bytes(70_000))
    ]

    await driver.turn(junk)

    refused = {key: count for key, count in driver.counters.items() if key.startswith("refused")}
    assert refused["refused stranger"] == len(junk) // 2
    assert sum(refused.values()) == len(junk)
    assert (driver.height, dict(driver._execution.state.items())) == before
    assert street.bus.published == []


async def test_wish_for_a_block_that_is_not_here_is_answered_with_nothing(
    street: NodeStreet,
) -> None:
    await street.start("b2")
    await street.settle()
    street.bus.published.clear()
    mine = Postmark(
        member="s1",
        chain_id=street.genesis.chain_id,
        signer=street.chain.identities["s1"],
        session=1,
    )
    topic = Topic(TopicClass.INBOX, "s1", "b2", ("block-wanted",))
    wishes = [BlockWanted(height, 0) for height in (0, 1, 2**63 - 1)]
    await street.drivers["b2"].turn(
        [Frame(topic, mine.seal("block-wanted", wish, "b2")) for wish in wishes]
    )
    assert street.bus.published == []


async def test_liar_that_contradicts_itself_is_convicted(street: NodeStreet) -> None:
    await street.start()
    gate_ms = street.genesis.rules.calendar.start_ms(FIRST) - 54 * 60_000
    await street.run_until(gate_ms - 1)
    await street.crash("s2")
    await street.run_until(gate_ms + 100)
    record = street.drivers["b1"]._execution.state.get(f"book/{FIRST}")
    assert record is not None
    digest = msgspec.msgpack.decode(record)[1]
    street.chain.nonces["s2"] = 1000
    for energy_mwh in (1, 2):
        statement = Statement(FIRST, digest, 1, 200_000, energy_mwh)
        operation = street.chain.sign("s2", statement, expires_ms=gate_ms + HOUR_MS // 2)
        street.bus.publish(Topic(TopicClass.PRICE, "s2"), encode(operation))
    await street.run_until(gate_ms + 30_000)

    convicted = street.drivers["b1"]._execution.state.get(f"convicted/{FIRST}")
    assert convicted is not None
    assert msgspec.msgpack.decode(convicted) == [["s2"]]


async def test_certified_block_that_executes_otherwise_here_stops_the_node(
    street: NodeStreet,
) -> None:
    await street.start("z1")
    await street.settle()
    other = Chain(HOMES, calendar=street.genesis.rules.calendar)
    executed = other.block(street.now_ms)
    header = msgspec.structs.replace(executed.header, state_root=bytes(32))
    lie = msgspec.structs.replace(certified(other, executed), header=header)
    forged = _recertified(street, lie)
    mine = Postmark(
        member="b2",
        chain_id=street.genesis.chain_id,
        signer=street.chain.identities["b2"],
        session=1,
    )
    frame = Frame(Topic(TopicClass.BLOCK, "b2"), mine.seal("block", forged))

    with pytest.raises(DivergedError, match="height 1"):
        await street.drivers["z1"].turn([frame])


def _recertified(street: NodeStreet, block: CertifiedBlock) -> CertifiedBlock:
    """Let a quorum of liars sign a header that does not follow from its block."""
    fake = Chain(HOMES, calendar=street.genesis.rules.calendar)
    executed = fake.block(block.content.time_ms)
    digest = block.header.digest(street.genesis.chain_id)
    lied = msgspec.structs.replace
    certificate = certified(
        street.chain,
        # Only height and digest of what was executed are signed.
        type(executed)(block.header, digest, block.content, (), (), {}),
    ).certificate
    return lied(block, certificate=certificate)


# -- small duties ----------------------------------------------------------------------------------


async def test_operation_about_a_far_slot_expires_while_everybody_still_takes_it(
    street: NodeStreet,
) -> None:
    await street.start("b1")
    driver = street.drivers["b1"]
    expires_ms = driver._expiry("order", FIRST + 1000)
    assert street.now_ms < expires_ms < street.now_ms + EXPIRY_MS_MAX
    near_ms = driver._expiry("order", FIRST)
    assert near_ms == FIRST * HOUR_MS - 54 * 60_000


async def test_operation_of_an_order_is_accepted_by_the_market(street: NodeStreet) -> None:
    await street.start()
    await street.settle()
    await street.run_until(street.now_ms + 1000)
    state = street.drivers["z1"]._execution.state
    assert all(state.get(f"order/{FIRST}/{home}") is not None for home in HOMES)
    assert order(Side.BUY, 1).slot == FIRST


async def test_heads_are_announced_by_endorsers_only(street: NodeStreet) -> None:
    await street.start()
    await street.run_until(street.now_ms + 2000)
    heads = {
        topic.sender
        for topic, payload in street.bus.published
        if topic.rest == ("head",) and decode(payload, BusMessage).body.kind == "head"
    }
    assert heads == set(street.genesis.epoch.members)
    bodies = [
        decode(decode(payload, BusMessage).body.payload, Head)
        for topic, payload in street.bus.published
        if topic.rest == ("head",)
    ]
    assert max(each.height for each in bodies) == street.drivers["b1"].height

"""The bus with real brokers: the embedded one and mosquitto must behave alike."""

import asyncio
import contextlib
import errno
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from aiomqtt import MqttError, Will

from consensus.codec import FRAME_BYTES_MAX
from node.brokers import private
from node.brokers.embedded import EmbeddedBroker
from node.brokers.mosquitto import MosquittoBroker
from node.brokers.private import BrokerError, PrivateBroker
from node.mqtt import BrokerAddress, MqttTransport, connection
from node.topics import Role, Subscription, Topic, TopicClass, subscriptions
from node.transport import Frame
from tests.support.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(60)]

COMMUNITY = "demo"
KINDS: tuple[type[PrivateBroker], ...] = (EmbeddedBroker, MosquittoBroker)
PASSWORDS = {"h1": "password-of-h1", "h2": "password-of-h2", "h3": "password-of-h3"}
VOTE = Topic(TopicClass.CONSENSUS, "h1", None, ("p",))
STATUS = Topic(TopicClass.STATUS, "h1", None, ("status",))
OPERATION = Topic(TopicClass.OPERATION, "h1")


class Join(Protocol):
    def __call__(
        self, user: str, role: Role = Role.ENDORSER, will: tuple[Topic, bytes] | None = None
    ) -> AbstractAsyncContextManager[MqttTransport]: ...


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[PrivateBroker]:
    chosen: type[PrivateBroker] = request.param
    return chosen


@pytest.fixture
async def broker(kind: type[PrivateBroker], tmp_path: Path) -> AsyncIterator[PrivateBroker]:
    async with kind(
        COMMUNITY,
        PASSWORDS,
        operators={"operator": "password-of-operator"},
        auditors={"auditor": "password-of-auditor"},
        parent=tmp_path,
    ) as running:
        yield running


@asynccontextmanager
async def running(transport: MqttTransport) -> AsyncIterator[MqttTransport]:
    task = asyncio.create_task(transport.run())
    try:
        yield transport
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def join(broker: PrivateBroker) -> Join:
    @asynccontextmanager
    async def joined(
        user: str, role: Role = Role.ENDORSER, will: tuple[Topic, bytes] | None = None
    ) -> AsyncIterator[MqttTransport]:
        wanted = subscriptions(COMMUNITY, role, user)
        transport = MqttTransport(broker.address(user), COMMUNITY, wanted, will=will)
        async with running(transport):
            await until(lambda: transport.is_connected, f"{user} being connected")
            yield transport

    return joined


async def receive_until(transport: MqttTransport, last: bytes) -> list[Frame]:
    """Collect all frames up to the one with the payload `last`."""
    frames: list[Frame] = []
    async with asyncio.timeout(10):
        while not frames or frames[-1].payload != last:
            frames.append(await transport.receive())
    return frames


async def payloads_until(transport: MqttTransport, last: bytes) -> list[bytes]:
    return [frame.payload for frame in await receive_until(transport, last)]


def topics_of(sender: str, recipient: str) -> list[Topic]:
    return [
        Topic(name, sender, recipient if name is TopicClass.INBOX else None, ("k",))
        for name in TopicClass
        if name is not TopicClass.OPERATOR
    ]


async def test_an_endorser_hears_every_class_that_it_subscribed(join: Join) -> None:
    async with join("h1") as sender, join("h2") as receiver:
        for topic in topics_of("h1", "h2"):
            sender.publish(topic, b"hello")
        await until(lambda: receiver.pending >= 6, "six frames")
        frames = [await receiver.receive() for _ in range(receiver.pending)]

    expected = {topic for topic in topics_of("h1", "h2") if topic.topic_class != "pub"}
    assert {frame.topic for frame in frames} == expected
    assert len(frames) == len(expected)
    assert all(frame.payload == b"hello" for frame in frames)


async def test_one_sender_keeps_its_order_within_a_class(join: Join) -> None:
    sent = [b"%d" % number for number in range(300)]
    async with join("h1") as sender, join("h2") as receiver:
        for payload in sent:
            sender.publish(OPERATION, payload)

        assert await payloads_until(receiver, sent[-1]) == sent


async def test_a_household_hears_neither_operations_nor_votes(join: Join) -> None:
    async with join("h1") as sender, join("h2", Role.HOUSEHOLD) as receiver:
        sender.publish(OPERATION, b"operation")
        sender.publish(VOTE, b"vote")
        async with join("h3") as witness:
            sender.publish(OPERATION, b"witnessed")
            await payloads_until(witness, b"witnessed")
        sender.publish(Topic(TopicClass.BLOCK, "h1"), b"block")

        assert await payloads_until(receiver, b"block") == [b"block"]


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("is_retained", [False, True])
async def test_a_forged_topic_reaches_nobody(
    broker: PrivateBroker, join: Join, qos: int, is_retained: bool
) -> None:
    async with join("h2") as receiver, connection(broker.address("h3")) as liar:
        for topic in topics_of("h1", "h2"):
            await liar.publish(topic.render(COMMUNITY), b"forged", qos, is_retained)
        await liar.publish(f"ws/1/{COMMUNITY}/op/operator/notice", b"forged", qos, is_retained)
        await liar.publish(f"ws/1/{COMMUNITY}/op/h3/notice", b"forged", qos, is_retained)
        for topic in topics_of("h3", "h2"):
            await liar.publish(topic.render(COMMUNITY), b"honest", qos)
        await until(lambda: receiver.pending >= 6, "the honest frames")
        async with join("h1") as late:
            late.publish(VOTE, b"end")
            frames = await receive_until(receiver, b"end")
            retained = await receive_until(late, b"end")

    assert [frame.payload for frame in frames] == [b"honest"] * 6 + [b"end"]
    assert b"forged" not in {frame.payload for frame in retained}


async def test_a_forged_last_will_reaches_nobody(broker: PrivateBroker, join: Join) -> None:
    forged = Will(STATUS.render(COMMUNITY), b"forged", 1, retain=True)
    own = Will(f"ws/1/{COMMUNITY}/st/h3/status", b"lost", 1, retain=True)
    async with join("h2") as receiver:
        for will in (forged, own):
            # A broker may also refuse the login altogether.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await die_with_will(broker.address("h3"), will)

        assert await payloads_until(receiver, b"lost") == [b"lost"]


async def die_with_will(address: BrokerAddress, will: Will) -> None:
    """Log in by hand with a last will, and cut the connection without a farewell."""
    assert isinstance(will.payload, bytes)
    assert address.username is not None
    assert address.password is not None
    texts = (
        b"dying-client",
        will.topic.encode(),
        will.payload,
        address.username.encode(),
        address.password.encode(),
    )
    body = struct.pack("!H4sBBH", 4, b"MQTT", 4, 0b1110_1110, 30)
    body += b"".join(struct.pack("!H", len(text)) + text for text in texts)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(bytes((0x10, len(body))) + body)
        await reader.readexactly(4)
    finally:
        writer.transport.abort()


async def test_a_stranger_cannot_connect(broker: PrivateBroker) -> None:
    address = broker.address("h1")
    strangers = (
        replace(address, password=PASSWORDS["h2"]),
        replace(address, username="h9"),
        replace(address, username=None, password=None),
    )
    for stranger in strangers:
        with pytest.raises(MqttError):
            async with connection(stranger):
                pass


async def test_a_refused_login_is_counted_and_tried_again(broker: PrivateBroker) -> None:
    address = replace(broker.address("h1"), password=PASSWORDS["h2"])
    async with running(MqttTransport(address, COMMUNITY, [])) as transport:
        await until(lambda: transport.counters["failed_connects"] >= 2, "a second attempt")

    assert transport.connects == 0
    assert not transport.is_connected


async def test_mail_is_read_by_its_recipient_only(broker: PrivateBroker, join: Join) -> None:
    mail = Topic(TopicClass.INBOX, "h1", "h2", ("pull",))
    async with (
        connection(broker.address("h3")) as spy,
        join("h1") as sender,
        join("h2") as receiver,
    ):
        for text in ("in/#", "in/h2/#", "in/+/h1/pull", "+/h2/h1/pull", "#"):
            await spy.subscribe(f"ws/1/{COMMUNITY}/{text}", 0)
        await spy.subscribe("#", 1)
        await spy.subscribe("$MQTT/sub/#", 1)
        await spy.subscribe(f"ws/1/{COMMUNITY}/in/h3/#", 0)
        sender.publish(mail, b"secret")
        assert await payloads_until(receiver, b"secret") == [b"secret"]
        sender.publish(Topic(TopicClass.INBOX, "h1", "h3", ("pull",)), b"for h3")

        async with asyncio.timeout(10):
            heard = await anext(aiter(spy.messages))

    assert heard.payload == b"for h3"


async def test_an_auditor_hears_everything_and_is_not_heard(
    broker: PrivateBroker, join: Join
) -> None:
    async with (
        join("auditor", Role.AUDITOR) as auditor,
        join("h1") as sender,
        join("h2") as receiver,
        connection(broker.address("auditor")) as writing_auditor,
    ):
        for topic in topics_of("auditor", "h2"):
            await writing_auditor.publish(topic.render(COMMUNITY), b"written", 1)
        for topic in topics_of("h1", "h2"):
            sender.publish(topic, b"hello")
        await until(lambda: auditor.pending >= 7, "seven frames")
        heard = [await auditor.receive() for _ in range(auditor.pending)]
        sender.publish(VOTE, b"end")
        received = await payloads_until(receiver, b"end")

    assert {frame.topic for frame in heard} == set(topics_of("h1", "h2"))
    assert b"written" not in received


async def test_only_the_operator_sends_notices(join: Join) -> None:
    notice = Topic(TopicClass.OPERATOR, "operator", None, ("notice",))
    async with join("operator", Role.OPERATOR) as operator, join("h1") as receiver:
        operator.publish(notice, b"notice")

        assert (await receive_until(receiver, b"notice"))[-1].topic == notice


async def test_oversized_frames_are_dropped_on_both_sides(
    broker: PrivateBroker, join: Join
) -> None:
    largest, too_large = b"x" * FRAME_BYTES_MAX, b"x" * (FRAME_BYTES_MAX + 1)
    async with join("h1") as sender, join("h2") as receiver:
        sender.publish(VOTE, too_large)
        sender.publish(VOTE, largest)
        async with connection(broker.address("h1")) as careless:
            await careless.publish(VOTE.render(COMMUNITY), too_large)
        sender.publish(VOTE, b"end")
        received = await payloads_until(receiver, b"end")
        await until(lambda: receiver.counters["oversized_in"] == 1, "the large frame")

    assert received == [largest, b"end"]
    assert sender.counters["oversized_out"] == 1


async def test_a_far_too_large_packet_does_not_pass_the_broker(
    broker: PrivateBroker, join: Join
) -> None:
    async with join("h1") as sender, join("h2") as receiver:
        with contextlib.suppress(MqttError):
            async with connection(broker.address("h1")) as flooding:
                await flooding.publish(VOTE.render(COMMUNITY), bytes(1_000_000))
        sender.publish(VOTE, b"end")

        assert await payloads_until(receiver, b"end") == [b"end"]
        assert receiver.counters["oversized_in"] == 0


async def test_topics_that_are_none_of_ours_are_counted_and_dropped(
    broker: PrivateBroker, join: Join
) -> None:
    async with join("h1") as sender, join("h2") as receiver:
        async with connection(broker.address("h1")) as careless:
            await careless.publish(f"ws/1/{COMMUNITY}/bft/h1/a/b/c", b"deep", 1)
            await careless.publish(f"ws/1/{COMMUNITY}/bft/h1/Ünïcode", b"odd", 1)
        await until(lambda: receiver.counters["unparsable"] == 2, "two unparsable topics")
        sender.publish(VOTE, b"end")

        assert await payloads_until(receiver, b"end") == [b"end"]


async def test_only_status_is_taken_from_what_a_broker_retained(
    broker: PrivateBroker, join: Join
) -> None:
    async with connection(broker.address("h1")) as careless:
        await careless.publish(VOTE.render(COMMUNITY), b"stale", 1, retain=True)
    async with join("h1") as sender:
        sender.publish(STATUS, b"ready")
        await payloads_until(sender, b"ready")
    async with join("h2") as late:
        frames = await receive_until(late, b"ready")
        await until(lambda: late.counters["retained_elsewhere"] == 1, "the retained vote")

    assert frames == [Frame(STATUS, b"ready", retained=True)]


async def test_a_refused_filter_is_named_and_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # mosquitto grants every filter and then delivers nothing by it.
    forbidden = Subscription(f"ws/1/{COMMUNITY}/in/h2/#", 0)
    async with EmbeddedBroker(COMMUNITY, PASSWORDS) as broker:
        transport = MqttTransport(broker.address("h1"), COMMUNITY, [forbidden])
        async with running(transport):
            await until(lambda: transport.counters["refused_subscriptions"] >= 2, "two refusals")

    assert transport.connects == 0
    assert capsys.readouterr().out.count(f"subscribe to {forbidden.topic_filter}") == 1


async def test_everything_works_again_after_the_broker_was_away(
    broker: PrivateBroker, join: Join, capsys: pytest.CaptureFixture[str]
) -> None:
    async with join("h1") as sender, join("h2") as receiver:
        await broker.stop()
        await until(lambda: not (sender.is_connected or receiver.is_connected), "the break")
        sender.publish(OPERATION, b"meanwhile")
        await broker.start()
        await until(lambda: sender.connects == receiver.connects == 2, "the reconnection")
        sender.publish(VOTE, b"vote")
        sender.publish(STATUS, b"status")
        await receive_until(receiver, b"status")
        assert sender.counters["reconnects"] == 1

    lines = capsys.readouterr().out
    assert lines.count("bus_disconnected") >= 2
    assert lines.count("bus_connected") == 4


async def test_a_full_outbox_drops_the_newest_and_counts(broker: PrivateBroker) -> None:
    transport = MqttTransport(broker.address("h1"), COMMUNITY, [])

    for _ in range(5_000):
        transport.publish(VOTE, b"vote")

    assert transport.counters["dropped_out"] == 5_000 - 4_096


async def test_a_full_inbox_drops_the_newest_and_counts(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.mqtt.INBOX_FRAMES_MAX", 2)
    async with join("h1") as sender, join("h2") as receiver:
        for payload in (b"1", b"2", b"3", b"4"):
            sender.publish(VOTE, payload)
        await until(lambda: receiver.counters["dropped_in"] == 2, "two dropped frames")

        assert await payloads_until(receiver, b"2") == [b"1", b"2"]


async def test_a_last_will_is_published_when_the_connection_is_cut(
    broker: PrivateBroker, join: Join
) -> None:
    async with join("h2") as receiver:
        await die_with_will(
            broker.address("h1"), Will(STATUS.render(COMMUNITY), b"lost", 1, retain=True)
        )

        assert (await receive_until(receiver, b"lost"))[-1].topic == STATUS


async def test_what_was_published_before_the_end_is_still_sent(join: Join) -> None:
    async with join("h2") as receiver:
        async with join("h1", will=(STATUS, b"lost")) as sender:
            sender.publish(STATUS, b"paused")
            sender.publish(VOTE, b"last vote")

        missing = {b"paused", b"last vote"}
        async with asyncio.timeout(10):
            while missing:
                missing.discard((await receiver.receive()).payload)


async def test_a_cancelled_transport_ends_whatever_arrives_at_that_moment(join: Join) -> None:
    async with join("h2") as receiver:
        for _ in range(20):
            async with asyncio.timeout(10), join("h1") as sender:
                sender.publish(OPERATION, b"operation")
                await receiver.receive()


@asynccontextmanager
async def deaf_broker(heard: list[bytes]) -> AsyncIterator[BrokerAddress]:
    """Run a broker that lets everybody in, collects what is published, and confirms nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                kind, length = await reader.readexactly(2)
                body = await reader.readexactly(length)
                if kind >> 4 == 1:
                    writer.write(bytes((0x20, 2, 0, 0)))
                elif kind >> 4 == 3:
                    heard.append(body)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield BrokerAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1])


async def test_a_missing_acknowledgement_holds_up_no_vote() -> None:
    heard: list[bytes] = []
    async with deaf_broker(heard) as address:
        transport = MqttTransport(address, COMMUNITY, [])
        for _ in range(100):
            transport.publish(OPERATION, b"operation")
        async with running(transport):
            await until(lambda: b"operation" in b"".join(heard), "an operation")
            for _ in range(100):
                transport.publish(VOTE, b"vote")
            await until(lambda: b"".join(heard).count(b"vote") == 100, "all votes")

    assert transport.connects == 1


async def test_what_is_never_acknowledged_is_sent_again_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.mqtt.ACKNOWLEDGE_WAIT_S", 0.2)
    heard: list[bytes] = []
    async with deaf_broker(heard) as address:
        transport = MqttTransport(address, COMMUNITY, [])
        for payload in (b"first", b"second"):
            transport.publish(OPERATION, payload)
        async with running(transport):
            await until(lambda: len(heard) >= 4, "a second attempt")

    assert transport.connects >= 2
    assert [b"first" in body for body in heard[:4]] == [True, False, True, False]


async def test_a_user_may_be_connected_twice(join: Join) -> None:
    async with join("h1") as first, join("h1") as second:
        first.publish(VOTE, b"from the first")
        await payloads_until(second, b"from the first")
        second.publish(VOTE, b"from the second")
        await payloads_until(first, b"from the second")

    assert first.connects == second.connects == 1


async def test_two_brokers_run_beside_each_other(kind: type[PrivateBroker]) -> None:
    async with kind(COMMUNITY, PASSWORDS) as one, kind(COMMUNITY, PASSWORDS) as other:
        assert one.address("h1").port != other.address("h1").port


async def test_nothing_is_left_after_a_broker(kind: type[PrivateBroker], tmp_path: Path) -> None:
    async with kind(COMMUNITY, PASSWORDS, parent=tmp_path) as broker:
        process_id = broker.process_id
        assert readable_by_others(tmp_path) == []

    assert process_id is not None
    assert not is_alive(process_id)
    assert entries(tmp_path) == []


async def test_a_port_that_is_taken_is_replaced(
    kind: type[PrivateBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kind(COMMUNITY, PASSWORDS) as first:
        taken = first.address("h1").port
        ports = iter((taken, private._free_port()))
        monkeypatch.setattr(private, "_free_port", lambda: next(ports))
        async with kind(COMMUNITY, PASSWORDS) as second:
            assert second.address("h1").port != taken


async def test_a_broker_that_dies_at_start_shows_its_log(
    kind: type[PrivateBroker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure = kind.configure

    def spoil(self: PrivateBroker, directory: Path, port: int) -> list[str]:
        arguments = configure(self, directory, port)
        Path(arguments[-1]).write_text("nonsense here\n")
        return arguments

    monkeypatch.setattr(kind, "configure", spoil)
    with pytest.raises(BrokerError, match=r"ended at once with code(.|\n)*nonsense"):
        async with kind(COMMUNITY, PASSWORDS, parent=tmp_path):
            pass

    assert entries(tmp_path) == []


async def test_a_full_disk_is_named_and_leaves_nothing(
    kind: type[PrivateBroker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: PrivateBroker, directory: Path, port: int) -> list[str]:
        del self, directory, port
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(kind, "configure", refuse)
    with pytest.raises(BrokerError, match="No space left on device; free some space"):
        async with kind(COMMUNITY, PASSWORDS, parent=tmp_path):
            pass

    assert entries(tmp_path) == []


async def test_a_nearly_full_disk_is_named_before_anything_starts(
    kind: type[PrivateBroker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "_ROOM_BYTES_MIN", 1 << 62)

    with pytest.raises(BrokerError, match="KiB are free; free some space"):
        async with kind(COMMUNITY, PASSWORDS, parent=tmp_path):
            pass

    assert entries(tmp_path) == []


async def test_a_place_that_cannot_be_written_is_named(
    kind: type[PrivateBroker], tmp_path: Path
) -> None:
    with pytest.raises(BrokerError, match=r"cannot be written in .*missing"):
        async with kind(COMMUNITY, PASSWORDS, parent=tmp_path / "missing"):
            pass


async def test_a_missing_program_is_named_with_the_remedy(
    kind: type[PrivateBroker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: False)
    monkeypatch.setattr("shutil.which", lambda _: None)

    with pytest.raises(BrokerError, match="install"):
        async with kind(COMMUNITY, PASSWORDS):
            pass


@pytest.mark.parametrize(
    ("users", "complaint"),
    [
        ({"H1": "long-password"}, "cannot be a user"),
        ({"h1": "short"}, "8 to 128"),
        ({"h1": 'long"password'}, "8 to 128"),
    ],
)
def test_users_that_no_configuration_can_hold_are_refused(
    kind: type[PrivateBroker], users: dict[str, str], complaint: str
) -> None:
    with pytest.raises(BrokerError, match=complaint):
        kind(COMMUNITY, users)


PARENT = """
import asyncio, sys
from node.brokers.{module} import {name}

async def main():
    async with {name}("demo", {{"h1": "password-of-h1"}}) as broker:
        print(broker.process_id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_broker_dies_with_a_parent_that_is_killed(
    kind: type[PrivateBroker], tmp_path: Path
) -> None:
    script = PARENT.format(module=kind.__module__.rpartition(".")[2], name=kind.__name__)
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", script),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    async with asyncio.timeout(20):
        process_id = int(await parent.stdout.readline())
    assert is_alive(process_id)

    parent.send_signal(signal.SIGKILL)
    await parent.wait()

    await until(lambda: not is_alive(process_id), "the end of the broker")


def is_alive(process_id: int) -> bool:
    """Whether the process runs; one that ended and was not yet collected does not."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def entries(directory: Path) -> list[Path]:
    """What a directory holds, all levels down."""
    return list(directory.rglob("*"))


def readable_by_others(directory: Path) -> list[Path]:
    """The brokers' directories, and the files with a password in them, that others could read."""
    # Deeper down is only the store, whose files come and go.
    files = [path for path in directory.glob("*/*") if path.is_file()]
    secret = [path for path in files if b"password" in path.read_bytes()]
    assert secret, "the configuration of a broker holds passwords"
    return [path for path in (*directory.iterdir(), *secret) if path.stat().st_mode & 0o077]

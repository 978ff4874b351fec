"""The community bus over MQTT 3.1.1: a transport that stays connected.

`MqttTransport.run` connects, subscribes, checks every answer, moves frames, and starts again
with capped exponential backoff whenever the connection breaks.  Sessions are clean and client ids
random: nothing relies on what a broker remembers.  A frame that was being sent when the
connection broke or the transport was cancelled is sent again, so receivers may see it twice.

aiomqtt neither reconnects nor reports a full queue of its own; both are done here.  A larger
payload than the bus allows is dropped before anything else looks at it.
"""

import asyncio
import contextlib
import logging
import math
import random
import secrets
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import structlog
from aiomqtt import Client, Message, MqttError, Will

from consensus.codec import FRAME_BYTES_MAX
from node.topics import Subscription, Topic
from node.transport import Frame, Mailbox

KEEPALIVE_S = 15
"""A silent connection is probed after this time and given up after twice of it."""

CONNECT_WAIT_S = 5.0
"""How long CONNACK, SUBACK and a clean disconnection may take."""

ACKNOWLEDGE_WAIT_S = 30.0
"""How long a PUBACK may take before the connection counts as broken."""

FAREWELL_WAIT_S = 1.0
"""How long a cancelled transport goes on sending what still waits."""

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 15.0
STABLE_AFTER_S = 10.0
"""A connection that lived this long resets the backoff."""

INBOX_FRAMES_MAX = 16_384
INBOX_BYTES_MAX = 16 * 1024 * 1024
"""A second of the fastest traffic that one core can decode; beyond it, waiting helps nobody."""

OUTBOX_FRAMES_MAX = 4_096
OUTBOX_BYTES_MAX = 8 * 1024 * 1024
"""Per quality of service.  Holds the burst of a reconnection; all of it is repeated anyway."""

SENDERS_BY_QOS = (16, 16)
"""Publishes under way at a time, per quality of service: they share system calls and waiting."""

_REFUSED_FROM = 0x80
"""SUBACK return codes from here on are refusals (MQTT 3.1.1, section 3.9.3)."""

_PORT_DEFAULT = 1883

_log = structlog.get_logger(__name__)

# An outage is one line, and that line is ours.
_library_log = logging.getLogger(f"{__name__}.aiomqtt")
_library_log.setLevel(logging.CRITICAL)


class BrokerAddressError(ValueError):
    """A broker's URL cannot be used; the message says what is wrong and never holds a password."""


class SubscriptionRefusedError(MqttError):
    """The broker refused a filter, most likely by its access rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker listens, and as whom to log in; TLS when `ca_file` is given."""

    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read `mqtt://user:password@host:port`, parts percent-encoded, port 1883 if missing.

        Raises BrokerAddressError.
        """
        try:
            parts = urlsplit(url)
            port = _PORT_DEFAULT if parts.port is None else parts.port
        except ValueError:
            port = 0
        if port == 0:
            # Python's own message would quote a piece of a password that holds a "/".
            raise BrokerAddressError(
                "the broker's URL has no usable host and port; write "
                "mqtt://user:password@host:port and percent-encode the characters / ? # @ : in "
                "user and password"
            )
        if parts.scheme != "mqtt":
            raise BrokerAddressError(
                f"the broker's URL starts with {parts.scheme or 'no scheme'!r}; "
                "write mqtt://user:password@host:port"
            )
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise BrokerAddressError(
                "the broker's URL has something after host and port; percent-encode the "
                "characters / ? # @ : in user and password"
            )
        return cls(
            host=_checked_host(parts.hostname),
            port=port,
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )

    def tls_context(self) -> ssl.SSLContext | None:
        """Make the TLS context of the files named, None without; OSError when one is unusable."""
        if self.ca_file is None:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate_file is not None:
            context.load_cert_chain(self.certificate_file, self.key_file)
        return context


def _checked_host(host: str | None) -> str:
    if not host:
        raise BrokerAddressError("the broker's URL names no host; write mqtt://host:port")
    try:
        host.encode("idna")
    except UnicodeError:
        raise BrokerAddressError(f"{host!r} in the broker's URL is not a host name") from None
    return host


@contextlib.asynccontextmanager
async def connection(
    address: BrokerAddress,
    *,
    will: Will | None = None,
    queue_type: type[asyncio.Queue[Message]] | None = None,
) -> AsyncIterator[Client]:
    """Hold one clean MQTT session, without Nagle's delay and under a random client id.

    Raises MqttError when it cannot be had and when it breaks.  aiomqtt connects in a thread that
    cannot be interrupted, so a cancelled caller waits for it and closes what it opened.
    """
    client = Client(
        address.host,
        address.port,
        username=address.username,
        password=address.password,
        identifier=f"ws-{secrets.token_hex(8)}",
        will=will,
        clean_session=True,
        keepalive=KEEPALIVE_S,
        timeout=CONNECT_WAIT_S,
        queue_type=queue_type,
        tls_context=address.tls_context(),
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        logger=_library_log,
    )
    try:
        await _undisturbed(client.__aenter__(), "mqtt-connect")
    except (MqttError, asyncio.CancelledError):
        await _close(client)
        raise
    try:
        yield client
    finally:
        await _close(client)


async def _close(client: Client) -> None:
    """Disconnect as cleanly as the broker lets us; a connection that is gone is closed too."""
    with contextlib.suppress(MqttError):
        await _undisturbed(client.__aexit__(None, None, None), "mqtt-close")


async def _undisturbed(work: Coroutine[Any, Any, object], name: str) -> None:
    """Await what must not be interrupted half way; a cancellation is passed on when it is done."""
    task = asyncio.create_task(work, name=name)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # Looked at, so that the loop does not complain: nobody waits for it.
        raise


@contextlib.asynccontextmanager
async def _answer_within(wait_s: float | None) -> AsyncIterator[None]:
    """Limit the wait for an answer of the broker: MqttError after it, no limit for None.

    aiomqtt's own limit uses `asyncio.wait_for`, which in Python 3.11 swallows a cancellation that
    comes together with the answer; so aiomqtt is told to wait for ever (`math.inf`) instead.
    """
    try:
        async with asyncio.timeout(wait_s):
            yield
    except TimeoutError:
        raise MqttError(f"the broker did not answer within {wait_s} s") from None


class MqttTransport:
    """A `node.transport.Transport` over one MQTT broker.

    `subscriptions` are asked for at every connect and must not overlap.  The broker publishes
    `will` in our name when the connection breaks; after a clean end nobody does, so an owner
    publishes its last word before it cancels `run`.
    """

    def __init__(
        self,
        address: BrokerAddress,
        community: str,
        subscriptions: Sequence[Subscription],
        *,
        will: tuple[Topic, bytes] | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.connects = 0
        self.is_connected = False
        self._address = address
        self._community = community
        self._subscriptions = tuple(subscriptions)
        self._will = will
        self._inbox = Mailbox(frames_max=INBOX_FRAMES_MAX, bytes_max=INBOX_BYTES_MAX)
        # A PUBACK that is late must not hold up a vote, so each quality of service has its own.
        self._outboxes = tuple(
            Mailbox(frames_max=OUTBOX_FRAMES_MAX, bytes_max=OUTBOX_BYTES_MAX)
            for _ in SENDERS_BY_QOS
        )
        self._outage = ""

    @property
    def pending(self) -> int:
        """How many frames `receive` would give at once, without waiting."""
        return len(self._inbox)

    def publish(self, topic: Topic, payload: bytes) -> None:
        """Queue a frame and return at once; drop and count it when it is too large or too much."""
        if len(payload) > FRAME_BYTES_MAX:
            self.counters["oversized_out"] += 1
        elif not self._outboxes[topic.topic_class.qos].put(Frame(topic, payload)):
            self.counters["dropped_out"] += 1

    async def receive(self) -> Frame:
        """Wait for the next frame."""
        return await self._inbox.take()

    async def run(self) -> None:
        """Keep the bus connected until cancelled, then send what waits and disconnect.

        Raises OSError when a TLS file of the address cannot be used.
        """
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started_s = loop.time()
            try:
                await self._session()
            except* MqttError as errors:
                self._report_broken(_first(errors))
            finally:
                self.is_connected = False
            lived_s = loop.time() - started_s
            failures = 0 if lived_s > STABLE_AFTER_S else failures + 1
            await asyncio.sleep(_backoff_s(failures))

    async def _session(self) -> None:
        """Connect, subscribe, and move frames until the connection breaks: MqttError."""
        async with connection(
            self._address, will=self._wire_will(), queue_type=_tap(self._accept)
        ) as client:
            await self._subscribe(client)
            self._report_connected()
            try:
                await self._move_frames(client)
            except asyncio.CancelledError:
                await self._send_what_waits(client)
                raise

    async def _subscribe(self, client: Client) -> None:
        """Ask for every filter; SubscriptionRefusedError names the first that is refused."""
        for wanted in self._subscriptions:
            async with _answer_within(CONNECT_WAIT_S):
                codes = await client.subscribe(wanted.topic_filter, wanted.qos, timeout=math.inf)
            for code in codes:
                if (code if isinstance(code, int) else code.value) >= _REFUSED_FROM:
                    self.counters["refused_subscriptions"] += 1
                    raise SubscriptionRefusedError(
                        f"the broker does not let {self._address.username} subscribe to "
                        f"{wanted.topic_filter}; its access rules must grant it"
                    )

    async def _move_frames(self, client: Client) -> None:
        """Receive and send until the connection breaks; what was under way is queued again."""
        under_way: tuple[dict[int, Frame], ...] = tuple({} for _ in SENDERS_BY_QOS)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_watch(client), name="mqtt-watch")
                for qos, senders in enumerate(SENDERS_BY_QOS):
                    for _ in range(senders):
                        group.create_task(self._send(client, qos, under_way[qos]), name="mqtt-send")
        finally:
            for outbox, frames in zip(self._outboxes, under_way, strict=True):
                outbox.put_back(frames.values())

    async def _send(self, client: Client, qos: int, under_way: dict[int, Frame]) -> None:
        """Publish from one outbox; `under_way` holds what was taken and not yet confirmed."""
        while True:
            frame = await self._outboxes[qos].take()
            under_way[id(frame)] = frame
            await self._publish_now(client, frame)
            del under_way[id(frame)]

    async def _publish_now(self, client: Client, frame: Frame) -> None:
        topic_class = frame.topic.topic_class
        # At QoS 0 this waits for the socket only, whose end `_watch` notices.
        async with _answer_within(ACKNOWLEDGE_WAIT_S if topic_class.qos else None):
            await client.publish(
                frame.topic.render(self._community),
                frame.payload,
                topic_class.qos,
                topic_class.is_retained,
                timeout=math.inf,
            )

    async def _send_what_waits(self, client: Client) -> None:
        """Empty the outboxes, for a limited time; what a broken connection holds back is lost."""
        with contextlib.suppress(MqttError, TimeoutError):
            async with asyncio.timeout(FAREWELL_WAIT_S):
                for outbox in self._outboxes:
                    while len(outbox):
                        await self._publish_now(client, await outbox.take())

    def _accept(self, message: Message) -> None:
        """Take a message from aiomqtt: measure it first, then read its topic, then keep it."""
        if len(message.payload) > FRAME_BYTES_MAX:
            self.counters["oversized_in"] += 1
            return
        topic = Topic.parse(message.topic.value, self._community)
        if topic is None:
            self.counters["unparsable"] += 1
        elif message.retain and not topic.topic_class.is_retained:
            self.counters["retained_elsewhere"] += 1
        elif not self._inbox.put(Frame(topic, message.payload, message.retain)):
            self.counters["dropped_in"] += 1

    def _wire_will(self) -> Will | None:
        if self._will is None:
            return None
        topic, payload = self._will
        topic_class = topic.topic_class
        return Will(
            topic.render(self._community), payload, topic_class.qos, topic_class.is_retained
        )

    def _report_connected(self) -> None:
        self.connects += 1
        if self.connects > 1:
            self.counters["reconnects"] += 1
        self.is_connected = True
        self._outage = ""
        _log.info("bus_connected", broker=self._broker, connects=self.connects)

    def _report_broken(self, error: BaseException) -> None:
        """Log an outage once, and again only when its reason changes."""
        reason = str(error)
        if not self.is_connected:
            self.counters["failed_connects"] += 1
        if reason == self._outage:
            return
        self._outage = reason
        if isinstance(error, SubscriptionRefusedError):
            _log.error("bus_subscription_refused", broker=self._broker, reason=reason)
        else:
            _log.warning("bus_disconnected", broker=self._broker, reason=reason)

    @property
    def _broker(self) -> str:
        return f"{self._address.host}:{self._address.port}"


async def _watch(client: Client) -> None:
    """Wait for the connection to break: MqttError.  Messages never get here, `_tap` has them."""
    async for _ in client.messages:
        raise AssertionError("aiomqtt queued a message past the tap")


def _tap(accept: Callable[[Message], None]) -> type[asyncio.Queue[Message]]:
    """Make a queue that hands every message on at once, so that aiomqtt's never holds any.

    Iterating over aiomqtt's messages costs a task for each one; this costs a call.
    """

    class Tap(asyncio.Queue[Message]):
        """A queue that is always empty."""

        def put_nowait(self, item: Message) -> None:
            """Hand the message on."""
            accept(item)

    return Tap


def _first(errors: BaseExceptionGroup[MqttError]) -> BaseException:
    """Find the first cause in a group of errors, however deeply it nests."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _backoff_s(failures: int) -> float:
    """Draw a wait that doubles with every failure in a row, halved at random against stampedes."""
    longest_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 16))
    return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret

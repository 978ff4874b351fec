"""Nodes of one street in one process: real drivers and files, a bus in memory, a clock of our own.

Nodes are put together by the daemon's own code.  Time moves only from one node's next duty to the
next, so a day of hourly slots passes as fast as its messages are made.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from node import daemon
from node.assets.device import Device
from node.assets.home import SimulatedHome
from node.config import BrokerConfig, Config, NodeConfig, SimulatedConfig
from node.driver import Driver
from node.streets.street import HomeProfile
from node.topics import Topic, TopicClass
from node.transport import Frame
from tests.support.street import Chain, make_calendar

HOMES = ("b1", "b2", "s1", "s2", "z1")
"""The first four endorse, b1 is the primary; z1 follows."""

SLOTS = 3
TURNS_MAX = 200
"""Turns of one node at one instant; more would be a loop without end."""


@dataclass(slots=True)
class MemoryTransport:
    """One node's end of the bus."""

    bus: "MemoryBus"
    frames: list[Frame] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    connects: int = 1
    is_connected: bool = True

    @property
    def pending(self) -> int:
        """How many frames wait."""
        return len(self.frames)

    def publish(self, topic: Topic, payload: bytes) -> None:
        """Send at once to everybody who would subscribe."""
        self.bus.publish(topic, payload)

    async def receive(self) -> Frame:
        """Take the oldest frame; there must be one."""
        return self.frames.pop(0)

    async def run(self) -> None:
        """Nothing has to run."""


@dataclass(slots=True)
class MemoryBus:
    """Delivers every frame to whom the topics' rules say; `is_lost` decides per receiver."""

    endorsers: Sequence[str]
    transports: dict[str, MemoryTransport] = field(default_factory=dict)
    is_lost: Callable[[str, Topic], bool] = lambda _receiver, _topic: False
    on_publish: Callable[[Topic, bytes], None] = lambda _topic, _payload: None
    published: list[tuple[Topic, bytes]] = field(default_factory=list)

    def publish(self, topic: Topic, payload: bytes) -> None:
        """Deliver a frame, also to who sent it."""
        self.on_publish(topic, payload)
        self.published.append((topic, payload))
        for member, transport in self.transports.items():
            if self._reads(member, topic) and not self.is_lost(member, topic):
                transport.frames.append(Frame(topic, payload))

    def _reads(self, member: str, topic: Topic) -> bool:
        if topic.topic_class is TopicClass.INBOX:
            return topic.recipient == member
        if topic.topic_class in (TopicClass.OPERATION, TopicClass.CONSENSUS):
            return member in self.endorsers
        return True


def losing(share: float, seed: int) -> Callable[[str, Topic], bool]:
    """Lose a share of all frames, per receiver."""
    choice = random.Random(seed)  # noqa: S311 - a reproducible choice
    return lambda _receiver, _topic: choice.random() < share


class NodeStreet:
    """Nodes, their bus and their clock."""

    def __init__(
        self,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        homes: Sequence[str] = HOMES,
        devices: Mapping[str, Device] | None = None,
    ) -> None:
        self.directory = directory
        self.chain = Chain(homes, calendar=make_calendar(count=SLOTS))
        self.genesis = self.chain.genesis
        self.bus = MemoryBus(self.genesis.epoch.members)
        self.drivers: dict[str, Driver] = {}
        self.now_ms = self.genesis.clock.origin_ms
        self._devices = devices or {}
        self._stacks: dict[str, AsyncExitStack] = {}
        monkeypatch.setattr(daemon, "wall_ms", self._wall_ms)
        monkeypatch.setattr(daemon, "_simulated_home", self._home)

    async def start(self, *members: str) -> None:
        """Start nodes, or start them again, from what is on their disks."""
        for member in members or self.genesis.keys:
            self.now_ms += 1
            data = self.data_of(member)
            data.mkdir(exist_ok=True)
            transport = MemoryTransport(self.bus)
            stack = AsyncExitStack()
            self.drivers[member] = await daemon._build(
                stack,
                _config(member, data),
                self.genesis,
                self.chain.identities[member],
                transport,
            )
            self._stacks[member] = stack
            self.bus.transports[member] = transport

    async def crash(self, *members: str) -> None:
        """End nodes between two turns: nothing is left but their files."""
        for member in members or list(self.drivers):
            del self.drivers[member]
            del self.bus.transports[member]
            await self._stacks.pop(member).aclose()

    async def run_until(self, time_ms: int) -> None:
        """Let everything happen that is due until then."""
        while self.now_ms < time_ms:
            await self.settle()
            due_ms = min(driver.wake_ms for driver in self.drivers.values())
            self.now_ms = min(time_ms, max(self.now_ms + 1, due_ms))
        await self.settle()

    async def run_day(self) -> None:
        """Run until the last slot is settled, and a little longer."""
        calendar = self.genesis.rules.calendar
        last = calendar.first + calendar.count - 1
        await self.run_until(calendar.end_ms(last) + calendar.settlement_ms + 60_000)

    async def settle(self) -> None:
        """Take turns until nobody has anything to do now."""
        for _ in range(TURNS_MAX):
            busy = [
                member
                for member, driver in self.drivers.items()
                if self.bus.transports[member].frames or driver.wake_ms <= self.now_ms
            ]
            if not busy:
                return
            for member in busy:
                await self.turn(member)
        raise AssertionError(f"{busy} never come to rest at {self.now_ms}")

    async def turn(self, member: str) -> None:
        """Give a node its frames."""
        transport = self.bus.transports[member]
        frames, transport.frames = transport.frames, []
        await self.drivers[member].turn(frames)

    def data_of(self, member: str) -> Path:
        """Return where a node keeps its files."""
        return self.directory / member

    def ledger_of(self, member: str) -> Path:
        """Return a node's ledger."""
        return self.data_of(member) / "ledger.db"

    def _wall_ms(self) -> int:
        clock = self.genesis.clock
        return clock.start_ms + (self.now_ms - clock.origin_ms) // clock.speed

    def _home(self, config: Config) -> SimulatedHome:
        member = config.node.member
        load_wh, pv_wh = (0,) * SLOTS, (0,) * SLOTS
        if member.startswith("s"):
            pv_wh = (3000, 2000, 1500)
        else:
            load_wh = (1000, 1200, 900)
        profile = HomeProfile(member, load_wh, pv_wh)
        return SimulatedHome(profile=profile, seed=1, device=self._devices.get(member))


def _config(member: str, data: Path) -> Config:
    return Config(
        node=NodeConfig(member=member, data=str(data), genesis=""),
        broker=BrokerConfig(host="", port=1, password_file=""),
        simulated=SimulatedConfig(street="", home=member, seed=1),
    )

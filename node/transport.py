"""What the rest of a node sees of the bus: frames in, frames out, and counters of what got lost.

The bus may lose, delay, repeat and reorder, and anybody may publish junk; a transport promises
only that its own queues are bounded and that whatever it drops is counted.  Payloads are opaque.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from node.topics import Topic


@dataclass(frozen=True, slots=True)
class Frame:
    """One message on the bus; `retained` when the broker had kept it from earlier."""

    topic: Topic
    payload: bytes
    retained: bool = False


class Transport(Protocol):
    """The bus as its owner uses it; `run` must be running for anything to move.

    `counters` counts by name: `dropped_in` and `dropped_out` (queue full), `oversized_in` and
    `oversized_out` (above `FRAME_BYTES_MAX`), `unparsable` (no topic of ours),
    `retained_elsewhere` (retained, though not of class `st`), `failed_connects`, `reconnects`,
    `refused_subscriptions`.
    """

    @property
    def counters(self) -> Counter[str]:
        """What happened so far, by name."""
        ...

    @property
    def connects(self) -> int:
        """How often the bus was connected and subscribed so far; an owner republishes on change."""
        ...

    @property
    def is_connected(self) -> bool:
        """Whether the bus is connected and subscribed now."""
        ...

    @property
    def pending(self) -> int:
        """How many frames `receive` would give at once, without waiting."""
        ...

    def publish(self, topic: Topic, payload: bytes) -> None:
        """Queue a frame and return at once; drop and count it when the queue is full."""
        ...

    async def receive(self) -> Frame:
        """Wait for the next frame; one that was taken is gone, so only one task should receive."""
        ...

    async def run(self) -> None:
        """Keep the bus connected until cancelled."""
        ...


class Mailbox:
    """A queue of frames with two bounds; when either is reached, the newest frame is refused."""

    def __init__(self, *, frames_max: int, bytes_max: int) -> None:
        self._frames_max = frames_max
        self._bytes_max = bytes_max
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame) -> bool:
        """Append a frame; False when it would pass a bound, and then nothing changes."""
        size_bytes = self._bytes + len(frame.payload)
        if len(self._frames) >= self._frames_max or size_bytes > self._bytes_max:
            return False
        self._frames.append(frame)
        self._bytes = size_bytes
        self._arrived.set()
        return True

    def put_back(self, frames: Iterable[Frame]) -> None:
        """Put frames that were taken in this order before all others, whatever the bounds say."""
        returned = list(frames)
        self._frames.extendleft(reversed(returned))
        self._bytes += sum(len(frame.payload) for frame in returned)
        if returned:
            self._arrived.set()

    async def take(self) -> Frame:
        """Wait for the oldest frame and remove it."""
        while not self._frames:
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame.payload)
        return frame

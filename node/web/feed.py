"""The furthest of a street's ledgers, watched: one reader for however many pages are open."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from node.errors import ConfigError
from node.view.snapshot import StreetSnapshot
from node.view.street import StreetView

POLL_SECONDS = 0.25
HEARTBEAT_SECONDS = 15.0
BEHIND_POLLS_MAX = 4
"""How many polls in a row a ledger may be behind another before the other is shown: a second."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Ledgers:
    """Several nodes' ledgers of one chain; whichever has got furthest is read.

    A ledger that is not there yet, or not any more, is tried again at every poll, so that one
    home's end never blanks the page.  Not safe for two threads at a time.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._views: dict[Path, StreetView] = {}
        self._source: Path | None = None
        self._behind = 0

    @property
    def view(self) -> StreetView | None:
        """The ledger that is read, None while there is none."""
        return None if self._source is None else self._views.get(self._source)

    def refresh(self) -> bool:
        """Read what is new, changing to another ledger if this one stays behind."""
        heights = self._heights()
        if not heights:
            return False
        furthest = max(heights, key=lambda path: heights[path])
        source = self._source
        if source is None or source not in heights:
            self._source, self._behind = furthest, 0
        elif heights[source] < heights[furthest]:
            self._behind += 1
            if self._behind >= BEHIND_POLLS_MAX:
                self._source, self._behind = furthest, 0
        else:
            self._behind = 0
        assert self._source is not None
        has_news = self._try(self._source, StreetView.refresh)
        return bool(has_news) or source != self._source

    def close(self) -> None:
        """Close all files."""
        for view in self._views.values():
            view.close()
        self._views.clear()
        self._source = None

    def _heights(self) -> dict[Path, int]:
        heights = {}
        for path in self._paths:
            height = self._try(path, StreetView.height_on_disk)
            if height is not None:
                heights[path] = height
        return heights

    def _try(self, path: Path, question: Callable[[StreetView], _T]) -> _T | None:
        """Ask one ledger; None if it cannot be read now."""
        try:
            if path not in self._views:
                self._views[path] = StreetView(path)
            return question(self._views[path])
        except ConfigError:
            return None
        except sqlite3.Error as error:
            _log.warning("ledger unreadable", path=str(path), error=str(error))
            view = self._views.pop(path, None)
            if view is not None:
                view.close()
            return None


class StreetFeed:
    """Polls the ledgers in a thread and tells every page when there is something new."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._ledgers = Ledgers(paths)
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._is_closed = False
        self._snapshot: StreetSnapshot | None = None

    async def run(self) -> None:
        """Poll until cancelled; then close the files."""
        try:
            while True:
                await self.poll()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._ledgers.close()

    def close(self) -> None:
        """End every stream of `snapshots`."""
        self._is_closed = True
        self._announce()

    async def ask(self, question: Callable[[StreetView], _T]) -> _T | None:
        """Ask the ledger in a thread, None if there is none yet."""
        async with self._lock:
            view = self._ledgers.view
            return None if view is None else await asyncio.to_thread(question, view)

    async def snapshots(self) -> AsyncIterator[StreetSnapshot | None]:
        """Yield the present snapshot and then every newer one; None is a heartbeat.

        A slow reader skips to the newest; nothing is queued for it.
        """
        last: StreetSnapshot | None = None
        while not self._is_closed:
            news = self._news
            if self._snapshot is not None and self._snapshot is not last:
                last = self._snapshot
                yield last
                continue
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await news.wait()
            except TimeoutError:
                yield None

    async def poll(self) -> None:
        """Read what is new and tell the pages."""
        async with self._lock:
            if not await asyncio.to_thread(self._ledgers.refresh):
                return
            view = self._ledgers.view
            if view is not None:
                self._snapshot = await asyncio.to_thread(view.snapshot)
        self._announce()

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

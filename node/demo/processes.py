"""The daemons of a demonstration as child processes: started, watched, always stopped."""

import asyncio
import contextlib
import sys
from types import TracebackType
from typing import Self

from node.demo.homes import public_keys, write_config
from node.demo.plan import DemoPlan
from node.errors import WattstreetError
from node.mqtt import BrokerAddress

STOP_SECONDS = 5.0
KEY_SECONDS = 30.0
POLL_SECONDS = 0.02
LOG_TAIL_BYTES = 2000


class DaemonError(WattstreetError):
    """A daemon ended that should run; the message holds the last line of its log."""


class Daemons:
    """One real daemon per home; an async context manager that leaves none behind.

    Each child reads its standard input, a pipe that ends with this process, however it ends.
    """

    def __init__(self, plan: DemoPlan, addresses: dict[str, BrokerAddress]) -> None:
        self._plan = plan
        self._addresses = addresses
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        try:
            for home in self._plan.homes:
                write_config(self._plan, home, self._addresses[home])
                await self.start(home)
        except BaseException:
            await self.stop_all()
            raise
        return self

    async def __aexit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.shield(self.stop_all())

    def process_id(self, home: str) -> int:
        """Return the process id of a home's daemon."""
        return self._processes[home].pid

    async def start(self, home: str) -> None:
        """Start, or start again, one home's daemon."""
        directory = self._plan.home_directory(home)
        with (directory / "daemon.log").open("ab") as log:
            self._processes[home] = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "node", "run", "--config", str(directory / "wattstreet.toml")),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C at a terminal is for the runner, which then stops the daemons in order.
                start_new_session=True,
            )

    async def kill(self, home: str) -> None:
        """End a home's daemon as a power cut would."""
        process = self._processes.pop(home)
        process.kill()
        await process.wait()

    async def stop_all(self) -> None:
        """Ask every daemon to stop, and end those that do not."""
        processes = list(self._processes.values())
        self._processes.clear()
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waits = [asyncio.ensure_future(process.wait()) for process in processes]
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=STOP_SECONDS)
        if late:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await asyncio.wait(waits)

    def check_alive(self) -> None:
        """Check that no daemon has ended.

        Raises:
            DaemonError: Names the home and the end of its log.
        """
        for home, process in self._processes.items():
            if process.returncode is not None:
                log = self._plan.home_directory(home) / "daemon.log"
                tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
                raise DaemonError(
                    f"the daemon of {home} ended with code {process.returncode}; see {log}\n{tail}"
                )

    async def public_keys(self) -> dict[str, bytes]:
        """Wait until every daemon has made its key, and return the public halves."""
        async with asyncio.timeout(KEY_SECONDS):
            while len(keys := public_keys(self._plan)) < len(self._plan.homes):
                self.check_alive()
                await asyncio.sleep(POLL_SECONDS)
        return keys

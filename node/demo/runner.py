"""Starts a street, watches its ledgers until the day is settled, verifies and reports.

It takes no part: keys are made by the daemons, prices by the homes, blocks by the endorsers.
"""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consensus.codec import encode
from node.audit import Verification, verify_ledger
from node.clock import wall_ms
from node.demo.homes import genesis_path, write_whole
from node.demo.plan import DemoPlan, make_genesis
from node.demo.processes import Daemons
from node.demo.watch import Watch
from node.errors import ConfigError, WattstreetError
from node.genesis import Genesis
from node.mqtt import BrokerAddress

MARKER = "wattstreet-demo"
"""Lies in a demonstration's data directory, so that only such a directory is ever replaced."""

LEAD_SECONDS = 1.0
"""From writing genesis to the community's first instant: time to read it and connect."""

OVERTIME_SECONDS = 60.0
POLL_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a finished day left behind."""

    plan: DemoPlan
    genesis: Genesis
    seconds: float
    verifications: dict[str, Verification]


class DemoError(WattstreetError):
    """The street did not get to the end of its day."""


def prepare_data(data: Path) -> None:
    """Make an empty data directory, replacing only what an earlier demonstration left.

    Raises:
        ConfigError: The directory holds something else, or cannot be written.
    """
    try:
        if data.exists():
            if not (data / MARKER).exists() and any(data.iterdir()):
                raise ConfigError(
                    f"{data} is not empty and not of a demonstration; name an empty one with --data"
                )
            shutil.rmtree(data)
        data.mkdir(parents=True)
        (data / MARKER).touch()
    except OSError as error:
        raise ConfigError(
            f"cannot use {data}: {error.strerror}; name another directory with --data"
        ) from error


async def run_day(
    plan: DemoPlan,
    addresses: dict[str, BrokerAddress],
    *,
    on_start: Callable[[Genesis], None] = lambda _: None,
    on_progress: Callable[[Watch], None] = lambda _: None,
    intervene: Callable[[Daemons, Watch], Any] | None = None,
) -> DemoResult:
    """Run the street through its day and stop it.

    `on_progress` is called about four times a second; `intervene`, for tests, is awaited beside
    the day and may kill and start daemons.

    Raises:
        DemoError: The day did not settle in time.
        DaemonError: A daemon ended that nobody killed.
    """
    async with AsyncExitStack() as stack:
        daemons = await stack.enter_async_context(Daemons(plan, addresses))
        keys = await daemons.public_keys()
        start_ms = wall_ms() + int(LEAD_SECONDS * 1000)
        genesis = make_genesis(plan, keys, start_ms)
        write_whole(genesis_path(plan), encode(genesis))
        on_start(genesis)
        watch = watch_of(plan, genesis)
        async with asyncio.TaskGroup() as tasks:
            meddling = tasks.create_task(intervene(daemons, watch)) if intervene else None
            await until_settled(plan, genesis, watch, on_progress, daemons.check_alive)
            if meddling is not None:
                await meddling
        seconds = (wall_ms() - start_ms) / 1000
    verifications = await asyncio.to_thread(verify_all, plan)
    return DemoResult(plan, genesis, seconds, verifications)


def verify_all(plan: DemoPlan) -> dict[str, Verification]:
    """Verify every home's ledger from its file alone."""
    return {home: verify_ledger(plan.home_directory(home) / "ledger.db") for home in plan.homes}


def watch_of(plan: DemoPlan, genesis: Genesis) -> Watch:
    """Return a watch over the ledgers of every home."""
    return Watch({home: plan.home_directory(home) / "ledger.db" for home in plan.homes}, genesis)


async def until_settled(
    plan: DemoPlan,
    genesis: Genesis,
    watch: Watch,
    on_progress: Callable[[Watch], None],
    check_alive: Callable[[], None] = lambda: None,
) -> None:
    """Wait until every ledger has the last settlement, certified, and all heads are equal.

    Raises:
        DemoError: It takes half as long again as planned, and a minute.
        DaemonError: From `check_alive`.
    """
    deadline_ms = genesis.clock.start_ms + int((plan.day_seconds * 1.5 + OVERTIME_SECONDS) * 1000)
    while not watch.is_finished:
        check_alive()
        if wall_ms() > deadline_ms:
            raise DemoError(
                f"the day did not settle; {watch.describe()}; the logs are in {plan.data}/homes"
            )
        await asyncio.sleep(POLL_SECONDS)
        await asyncio.to_thread(watch.refresh)
        on_progress(watch)

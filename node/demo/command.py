"""`wattstreet demo`: the whole main job, from nothing to bills, on this machine."""

import asyncio
import json
import math
import secrets
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from market.mechanisms.registry import MECHANISM_NAMES
from node.assets.equipment import equipment_of
from node.brokers.embedded import EmbeddedBroker
from node.brokers.mosquitto import MosquittoBroker
from node.brokers.private import BrokerError
from node.demo.plan import DemoPlan, check_endorsers, default_day_seconds
from node.demo.runner import DemoResult, prepare_data, run_day
from node.demo.terminal import Terminal
from node.errors import ConfigError
from node.genesis import Genesis
from node.mqtt import BrokerAddress, BrokerAddressError
from node.streets.street import StreetError, load_street
from node.view.labels import StreetLabels
from node.view.report import write_report
from node.view.snapshot import StreetSummary
from node.view.street import StreetView
from node.web.app import create_app
from node.web.server import serve

EXIT_FAILED = 1
PAGE_PORT = 8377


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRequest:
    """What the command line asked for."""

    street: str
    homes: int | None
    slot_minutes: int | None
    mechanism: str
    endorsers: int
    seed: int
    day_seconds: float | None
    broker: str
    is_headless: bool
    data: Path
    is_json: bool


def run_demo(request: DemoRequest) -> int:
    """Run a demonstration and return the exit code.

    Raises:
        WattstreetError: It could not be set up, or did not get to its end.
    """
    plan = make_plan(request)
    prepare_data(plan.data)
    terminal = Terminal(sys.stderr if request.is_json else sys.stdout, plan)
    try:
        result = asyncio.run(_run(request, plan, terminal))
    except (KeyboardInterrupt, asyncio.CancelledError):
        terminal.say("stopped; the broker and every daemon have ended")
        return EXIT_FAILED
    except BrokerError as error:
        raise ConfigError(str(error)) from error
    return _conclude(request, result, terminal)


def make_plan(request: DemoRequest) -> DemoPlan:
    """Check what was asked for.

    Raises:
        ConfigError: A mechanism, street, number of homes or endorsers that there is not.
    """
    if request.mechanism not in MECHANISM_NAMES:
        raise ConfigError(
            f"no mechanism {request.mechanism!r}; choose one of {', '.join(MECHANISM_NAMES)}"
        )
    try:
        street = load_street(request.street, homes=request.homes, slot_minutes=request.slot_minutes)
    except StreetError as error:
        raise ConfigError(str(error)) from error
    check_endorsers(request.endorsers, len(street.homes))
    day_seconds = request.day_seconds
    if day_seconds is None:
        day_seconds = default_day_seconds(street)
    if not 0 < day_seconds < math.inf:
        raise ConfigError(f"a day of {day_seconds} s; --day-seconds takes a positive number")
    path = Path(request.street)
    return DemoPlan(
        street=street,
        street_argument=str(path.absolute()) if path.is_file() else request.street,
        mechanism=request.mechanism,
        endorsers=request.endorsers,
        seed=request.seed,
        day_seconds=day_seconds,
        data=request.data,
    )


async def _run(request: DemoRequest, plan: DemoPlan, terminal: Terminal) -> DemoResult:
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    async with AsyncExitStack() as stack:
        addresses = await _broker(stack, request.broker, plan)
        page = asyncio.Event()

        def on_start(genesis: Genesis) -> None:
            terminal.started(genesis)
            page.set()

        if request.is_headless:
            return await run_day(plan, addresses, on_start=on_start, on_progress=terminal.progress)
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(_serve_page(plan, page, terminal), name="page")
            result = await run_day(
                plan, addresses, on_start=on_start, on_progress=terminal.progress
            )
            serving.cancel()
        return result


async def _serve_page(plan: DemoPlan, ready: asyncio.Event, terminal: Terminal) -> None:
    """Serve the live page once the daemons have a genesis to found their ledgers on."""
    await ready.wait()
    ledgers = [plan.home_directory(home) / "ledger.db" for home in plan.homes]
    app = create_app(ledgers, labels_of(plan))
    await serve(app, "127.0.0.1", PAGE_PORT, announce=terminal.page_is_up)


async def _broker(stack: AsyncExitStack, broker: str, plan: DemoPlan) -> dict[str, BrokerAddress]:
    """Start or name the bus, and return where each home logs in."""
    if broker in ("embedded", "mosquitto"):
        make = EmbeddedBroker if broker == "embedded" else MosquittoBroker
        passwords = {home: secrets.token_urlsafe(24) for home in plan.homes}
        private = await stack.enter_async_context(make(plan.community, passwords))
        return {home: private.address(home) for home in plan.homes}
    try:
        address = BrokerAddress.from_url(broker)
    except BrokerAddressError as error:
        raise ConfigError(f"--broker takes embedded, mosquitto or a URL: {error}") from error
    if address.username:
        raise ConfigError(
            f"--broker names the user {address.username!r}, but each home logs in with its own id; "
            "write mqtt://:password@host:port, or leave the password out"
        )
    return dict.fromkeys(plan.homes, address)


def labels_of(plan: DemoPlan) -> StreetLabels:
    """Say in words what the ledgers cannot know: sources, equipment, and what is simulated."""
    equipment = equipment_of(plan.street.name)
    tags = {}
    for home in plan.street.homes:
        device = equipment.get(home.id)
        tags[home.id] = (
            *(("PV",) if any(home.pv_wh) else ()),
            *((device.label,) if device else ()),
        )
    return StreetLabels(
        title=plan.street.name,
        source=plan.street.source,
        homes=tags,
        presets=dict.fromkeys(plan.homes, "balanced"),
        simulated=(
            "The meters are simulated: they replay recorded hours.",
            "The forecasts are simulated: the record with seeded errors.",
            "Batteries and the deferrable load are simulated.",
        ),
    )


def _conclude(request: DemoRequest, result: DemoResult, terminal: Terminal) -> int:
    """Report from the first home's ledger, and judge."""
    plan = result.plan
    with StreetView(plan.home_directory(plan.homes[0]) / "ledger.db") as view:
        view.refresh()
        summary = view.summary()
        report = plan.data / "report" / "index.html"
        report.parent.mkdir()
        write_report(view, labels_of(plan), result.verifications, report)
    faults = _faults(summary, result)
    if request.is_json:
        sys.stdout.write(json.dumps(_json(summary, result), separators=(",", ":")) + "\n")
    else:
        terminal.finished(summary, result, report)
    for fault in faults:
        sys.stderr.write(f"wattstreet: {fault}\n")
    return EXIT_FAILED if faults else 0


def _faults(summary: StreetSummary, result: DemoResult) -> list[str]:
    """Return what must not be, in words."""
    faults = [
        f"the ledger of {home} does not verify: {found.errors[0]}"
        for home, found in result.verifications.items()
        if not found.ok
    ]
    if len({found.head for found in result.verifications.values()}) != 1:
        faults.append("the ledgers have different heads")
    if summary.money_sum_nano:
        faults.append(f"all balances sum to {summary.money_sum_nano} nano, not 0")
    if summary.energy_balance_wh:
        faults.append(f"energy is off balance by {summary.energy_balance_wh} Wh")
    return faults


def _json(summary: StreetSummary, result: DemoResult) -> dict[str, Any]:
    """Return the object of `demo --json`."""
    found: dict[str, Any] = msgspec.to_builtins(summary)
    del found["head"]
    found["heads"] = {home: each.head for home, each in result.verifications.items()}
    found["seconds"] = round(result.seconds, 1)
    return found

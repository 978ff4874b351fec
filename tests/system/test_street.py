"""A real street: one process per home, a real broker, real consensus, real trouble."""

import asyncio
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from market.clearing import Rung
from node.brokers.private import PrivateBroker
from node.demo.plan import DemoPlan
from node.demo.processes import Daemons
from node.demo.runner import DemoResult, prepare_data, run_day
from node.demo.watch import Watch
from node.mqtt import MqttTransport
from node.topics import Topic, TopicClass
from node.view.street import StreetView
from tests.support.streets import broker_for, short_plan
from tests.support.waiting import until as wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

Trouble = Callable[[Daemons, Watch], Awaitable[None]]


async def until(watch: Watch, condition: Callable[[Watch], bool]) -> None:
    """Wait until the ledgers show what is waited for; the runner refreshes the watch."""
    async with asyncio.timeout(90):
        while not condition(watch):  # noqa: ASYNC110 - files of other processes
            await asyncio.sleep(0.05)


def cleared_slots(count: int) -> Callable[[Watch], bool]:
    return lambda watch: len(watch.cleared) >= count


async def run_street(
    kind: str, plan: DemoPlan, trouble: Callable[[PrivateBroker], Trouble] | None = None
) -> tuple[DemoResult, Watch]:
    """Run a plan on a private broker and return its result and the last look at its ledgers."""
    prepare_data(plan.data)
    looks: list[Watch] = []
    async with broker_for(kind, plan) as broker:
        result = await run_day(
            plan,
            {home: broker.address(home) for home in plan.homes},
            on_progress=looks.append,
            intervene=trouble(broker) if trouble else None,
        )
    return result, looks[-1]


def assert_street_is_sound(result: DemoResult) -> None:
    """All ledgers verify, have one head, and conserve money and energy."""
    assert [found.errors for found in result.verifications.values() if not found.ok] == []
    assert len({found.head for found in result.verifications.values()}) == 1
    for home in result.plan.homes:
        with StreetView(result.plan.home_directory(home) / "ledger.db") as view:
            view.refresh()
            summary = view.summary()
            assert (summary.money_sum_nano, summary.energy_balance_wh) == (0, 0)
            assert summary.cleared == result.plan.street.slots


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
async def test_street_settles_although_endorser_and_seller_are_killed_and_broker_stops(
    kind: str, tmp_path: Path
) -> None:
    plan = short_plan(tmp_path)

    def trouble(broker: PrivateBroker) -> Trouble:
        async def act(daemons: Daemons, watch: Watch) -> None:
            await until(watch, cleared_slots(1))
            await daemons.kill("h02")  # endorses, sells, has the certificate duty every 4th block
            await until(watch, cleared_slots(2))
            await daemons.start("h02")
            await until(watch, lambda look: look.is_negotiating)
            await daemons.kill("h03")  # sells, and is in the middle of a negotiation
            await until(watch, cleared_slots(3))
            await daemons.start("h03")
            await broker.stop()
            await asyncio.sleep(3)  # the outage itself
            await broker.start()

        return act

    result, _ = await run_street(kind, plan, trouble)

    assert_street_is_sound(result)


async def test_primary_killed_and_restarted_contradicts_nothing_and_the_day_settles(
    tmp_path: Path,
) -> None:
    plan = short_plan(tmp_path, last=12)

    def trouble(_: PrivateBroker) -> Trouble:
        async def act(daemons: Daemons, watch: Watch) -> None:
            for count in (1, 2):
                await until(watch, cleared_slots(count))
                await daemons.kill("h01")
                await daemons.start("h01")

        return act

    result, _ = await run_street("embedded", plan, trouble)

    assert_street_is_sound(result)
    for home in plan.endorsing:
        log = (plan.home_directory(home) / "daemon.log").read_text()
        assert "equivocation" not in log


async def test_all_daemons_killed_at_once_continue_from_their_disks(tmp_path: Path) -> None:
    plan = short_plan(tmp_path, last=11)

    def trouble(_: PrivateBroker) -> Trouble:
        async def act(daemons: Daemons, watch: Watch) -> None:
            await until(watch, cleared_slots(2))
            await asyncio.gather(*(daemons.kill(home) for home in plan.homes))
            for home in plan.homes:
                await daemons.start(home)

        return act

    result, _ = await run_street("embedded", plan, trouble)

    assert_street_is_sound(result)


async def publish_junk(broker: PrivateBroker, community: str, member: str) -> int:
    """Publish junk in a member's name on every class of topic; return how many frames."""
    choice = random.Random(7)  # noqa: S311 - reproducible junk
    junk = MqttTransport(broker.address(member), community, [])
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(junk.run())
        await wait_until(lambda: junk.is_connected)
        count = 0
        for topic_class in TopicClass:
            for _ in range(200):
                rest = ("h01", ("block-part",)) if topic_class is TopicClass.INBOX else (None, ())
                junk.publish(
                    Topic(topic_class, member, *rest), choice.randbytes(choice.randrange(2000))
                )
                count += 1
            await asyncio.sleep(0.05)
        running.cancel()
    return count


async def test_junk_in_a_members_name_is_refused_counted_and_harms_nobody(tmp_path: Path) -> None:
    plan = short_plan(tmp_path, last=11)

    def trouble(broker: PrivateBroker) -> Trouble:
        async def act(_: Daemons, watch: Watch) -> None:
            await until(watch, cleared_slots(1))
            assert await publish_junk(broker, plan.community, "h11") > 1000

        return act

    result, watch = await run_street("mosquitto", plan, trouble)

    assert_street_is_sound(result)
    assert any(each.rung is Rung.NEGOTIATED for each in watch.cleared[2:])
    for home in ("h01", "h03"):
        log = (plan.home_directory(home) / "daemon.log").read_text()
        refused = re.search(r"'refused malformed': (\d+)", log)
        assert refused is not None
        assert int(refused[1]) >= 500


async def test_calm_street_negotiates_every_slot_that_has_both_sides(tmp_path: Path) -> None:
    result, watch = await run_street("mosquitto", short_plan(tmp_path, pace=2.0))

    assert_street_is_sound(result)
    two_sided = [each for each in watch.cleared if each.supply_wh and each.demand_wh]
    assert len(two_sided) >= 6
    assert [each.rung for each in two_sided] == [Rung.NEGOTIATED] * len(two_sided)


def processes_in_session_of(directory: Path) -> list[int]:
    """Return the ids of processes whose command line names `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(directory) in command:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_ending_the_demo_leaves_no_daemon_and_no_broker(
    number: signal.Signals, tmp_path: Path
) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    demo = subprocess.Popen(  # noqa: ASYNC220 - the test waits for it in a thread
        [sys.executable, "-m", "node", "demo", "--headless", "--data", str(tmp_path / "data")],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    with demo.stdout:
        first = await asyncio.to_thread(demo.stdout.readline)
        assert "8 homes" in first
        assert len(processes_in_session_of(tmp_path)) >= 10

        demo.send_signal(number)
        await asyncio.to_thread(demo.wait, 20)

    async with asyncio.timeout(10):
        while processes_in_session_of(tmp_path):  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.05)


def test_full_disk_ends_the_demo_with_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    # A limit on file size stands in for the disk: ledgers fill up within some slots.
    command = f"ulimit -f 300; exec {sys.executable} -m node demo --headless --data {data}"
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("wattstreet: ")
    assert "Traceback" not in done.stderr.splitlines()[0]
    assert processes_in_session_of(tmp_path) == []


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def demo_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """The default demonstration, run once: its data directory and its JSON."""
    data = tmp_path_factory.mktemp("demo") / "data"
    done = run_cli("demo", "--headless", "--json", "--data", str(data))
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return data, found


def two_sided_slots(ledger: Path) -> tuple[int, int]:
    """Return (slots with surplus and deficit, of these negotiated) as the ledger has them."""
    with StreetView(ledger) as view:
        view.refresh()
        slots = [each for each in view.snapshot().slots if each.supply_wh and each.demand_wh]
    return len(slots), sum(each.rung is Rung.NEGOTIATED for each in slots)


def test_default_demo_trades_by_negotiation_and_balances(
    demo_day: tuple[Path, dict[str, object]],
) -> None:
    data, found = demo_day

    assert isinstance(found["heads"], dict)
    assert len(found["heads"]) == 8
    assert len(set(found["heads"].values())) == 1
    assert (found["money_sum_nano"], found["energy_balance_wh"]) == (0, 0)
    assert (found["slots"], found["cleared"], found["mechanism"]) == (24, 24, "two-level")
    two_sided, negotiated = two_sided_slots(data / "homes/h01/ledger.db")
    assert two_sided >= 12
    assert negotiated >= max(10, 0.9 * two_sided)
    assert (data / "report/index.html").read_text().startswith("<!doctype html>")


def test_every_home_of_the_demo_has_a_ledger_that_verifies(
    demo_day: tuple[Path, dict[str, object]],
) -> None:
    data, found = demo_day
    heads = found["heads"]
    assert isinstance(heads, dict)
    for home, head in heads.items():
        done = run_cli("ledger", "verify", str(data / f"homes/{home}/ledger.db"), "--json")

        verification = json.loads(done.stdout)
        assert done.returncode == 0
        assert (verification["ok"], verification["head"]) == (True, head)
        assert (verification["certified_from"], verification["replayed_from"]) == (0, 0)


def test_keys_are_readable_by_their_owner_only(demo_day: tuple[Path, dict[str, object]]) -> None:
    data, _ = demo_day
    modes = {path.stat().st_mode & 0o777 for path in data.glob("homes/*/identity.key")}
    assert modes == {0o600}


def test_votes_are_no_part_of_the_ledger(demo_day: tuple[Path, dict[str, object]]) -> None:
    data, _ = demo_day
    with closing(sqlite3.connect(data / "homes/h01/ledger.db")) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert "votes" not in tables
    assert not (data / "homes/h17/votes.db").exists()


def test_paper_mode_converges_on_the_street_of_zhao_2019(tmp_path: Path) -> None:
    done = run_cli(
        *("demo", "--headless", "--json", "--street", "zhao2019"),
        *("--mechanism", "two-level-paper", "--data", str(tmp_path / "data")),
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["slots"], found["mechanism"]) == (12, "two-level-paper")
    assert found["ladder"]["negotiated"] >= 10
    assert (found["money_sum_nano"], found["energy_balance_wh"]) == (0, 0)

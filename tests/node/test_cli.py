"""The command line's contract: exit codes, one line per error with the remedy, one JSON object."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from node.cli import main
from node.execution import Execution
from node.identity import SodiumVerifier
from node.store import LedgerStore
from tests.support.certified import TimelyChain, certificate_of


class Ran:
    """What a command did."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    def assert_failed(self, *words: str) -> None:
        """Exit 1, nothing on stdout, one line on stderr that says what and how to mend it."""
        assert self.code == 1, self.err
        assert self.out == ""
        assert self.err.startswith("wattstreet: ")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        for word in words:
            assert word in self.err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["wattstreet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ran(ended.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    chain = TimelyChain()
    store = await LedgerStore.open(tmp_path / "ledger.db")
    await store.found(chain.genesis, Execution(chain.genesis, SodiumVerifier()).state.items())
    for block in chain.play_slot():
        await store.append(block, certificate_of(chain, block))
    await store.close()
    return tmp_path / "ledger.db"


@pytest.fixture
def forged(ledger: Path) -> Path:
    data = ledger.read_bytes()
    ledger.write_bytes(data.replace(b"settlement-line", b"settlement-lime"))
    assert ledger.read_bytes() != data
    return ledger


def test_good_ledger_is_told_in_one_line(run: Any, ledger: Path) -> None:
    ran = run("ledger", "verify", str(ledger))
    assert (ran.code, ran.err, ran.out.count("\n")) == (0, "", 1)
    assert "6 blocks to height 6" in ran.out
    assert "certified from 0, replayed from 0" in ran.out


def test_good_ledger_as_json_is_exactly_one_object(run: Any, ledger: Path) -> None:
    ran = run("ledger", "verify", str(ledger), "--json")
    assert (ran.code, ran.err, ran.out.count("\n")) == (0, "", 1)
    found = json.loads(ran.out)
    assert (found["ok"], found["errors"], found["height"]) == (True, [], 6)


def test_forged_ledger_exits_3_and_says_where(run: Any, forged: Path) -> None:
    ran = run("ledger", "verify", str(forged))
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith(f"wattstreet: {forged}: ")


def test_forged_ledger_as_json_exits_3_with_one_object(run: Any, forged: Path) -> None:
    ran = run("ledger", "verify", "--json", str(forged))
    assert (ran.code, ran.err, ran.out.count("\n")) == (3, "", 1)
    found = json.loads(ran.out)
    assert found["ok"] is False
    assert found["errors"]


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_missing_ledger_exits_1_with_one_line(run: Any, flags: tuple[str, ...]) -> None:
    run("ledger", "verify", "nowhere.db", *flags).assert_failed("nowhere.db", "name a node's")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mechanism", "lottery"), ("lottery", "two-level")),
        (("--street", "nowhere"), ("nowhere", "clear-day")),
        (("--street", "nowhere.csv"), ("nowhere.csv",)),
        (("--endorsers", "3"), ("3 endorsers", "--endorsers 4 to 8")),
        (("--endorsers", "9"), ("9 endorsers", "--endorsers 4 to 8")),
        (("--homes", "0"), ("homes",)),
        (("--homes", "1000"), ("homes",)),
        (("--day-seconds", "-1"), ("--day-seconds",)),
        (("--broker", "carrier-pigeon"), ("--broker",)),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_demo_that_cannot_be_set_up_exits_1_with_one_line(
    run: Any, arguments: tuple[str, ...], words: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    run("demo", "--headless", *arguments, *flags).assert_failed(*words)


def test_demo_does_not_replace_what_is_not_its_own(run: Any, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").touch()
    run("demo", "--headless", "--data", "photos").assert_failed("photos", "--data")
    assert (tmp_path / "photos/cat.jpg").exists()


def test_daemon_without_a_file_exits_1_with_one_line(run: Any) -> None:
    run("run", "--config", "nowhere.toml").assert_failed("nowhere.toml", "--config")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--hoems", "3"),
        ("demo", "--hoems", "3"),
        ("demo", "--homes", "many"),
        ("demo", "--homes"),
        ("run",),
        ("ledger", "verify"),
        ("ledger", "verfy", "x"),
        ("lottery",),
    ],
)
def test_wrong_usage_exits_2(run: Any, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    assert ran.err


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("demo", "--help"), ("run", "--help"), ("ledger", "verify", "--help")],
)
def test_help_exits_0(run: Any, arguments: tuple[str, ...]) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Usage: ")

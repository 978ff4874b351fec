"""`ledger verify` refuses a ledger in which any one value was changed, and says where."""

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from node.audit import verify_ledger
from node.demo.plan import DemoPlan
from node.demo.runner import prepare_data, run_day
from tests.support.streets import broker_for, short_plan

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

MUTATIONS = 60

KEYS = {
    "chain": ("key",),
    "blocks": ("height",),
    "operations": ("height", "position"),
    "events": ("height", "position"),
    "state": ("key",),
}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of a real street, some hours long."""
    plan = short_plan(tmp_path_factory.mktemp("street"), first=9, last=12)
    asyncio.run(trade(plan))
    return plan.home_directory("h01") / "ledger.db"


async def trade(plan: DemoPlan) -> None:
    prepare_data(plan.data)
    async with broker_for("embedded", plan) as broker:
        await run_day(plan, {home: broker.address(home) for home in plan.homes})


def columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def changed(value: object, choice: random.Random) -> object:
    """Change one byte, letter or unit of a value."""
    if isinstance(value, int):
        return value + choice.choice((-1, 1))
    if isinstance(value, str):
        index = choice.randrange(len(value)) if value else 0
        letter = "y" if value[index : index + 1] == "x" else "x"
        return value[:index] + letter + value[index + 1 :]
    assert isinstance(value, bytes)
    if not value:
        return b"\0"
    index = choice.randrange(len(value))
    return value[:index] + bytes([value[index] ^ 1 << choice.randrange(8)]) + value[index + 1 :]


def mutate(path: Path, seed: int) -> str:
    """Change one value of one row through SQL; return what was changed."""
    choice = random.Random(seed)  # noqa: S311 - a reproducible choice
    tables = sorted(KEYS)
    table = tables[seed % len(tables)]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        columns = columns_of(connection, table)
        column = columns[seed // len(tables) % len(columns)]
        rows = connection.execute(
            f"SELECT {', '.join(KEYS[table])}, {column} FROM {table}"  # noqa: S608 - own names
        ).fetchall()
        *key, value = choice.choice(rows)
        where = " AND ".join(f"{name} = ?" for name in KEYS[table])
        connection.execute(
            f"UPDATE OR REPLACE {table} SET {column} = ? WHERE {where}",  # noqa: S608 - own names
            (changed(value, choice), *key),
        )
    return f"{table}.{column} of {key}"


def test_untouched_ledger_is_accepted(ledger: Path) -> None:
    found = verify_ledger(ledger)
    assert (found.ok, found.errors) == (True, [])
    assert found.blocks > 10


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_one_changed_value_is_refused(seed: int, ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ledger.db"
    shutil.copy(ledger, copy)

    what = mutate(copy, seed)

    found = verify_ledger(copy)
    assert not found.ok, what
    assert found.errors, what


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM blocks WHERE height = (SELECT max(height) FROM blocks)",
        "DELETE FROM operations WHERE height = (SELECT min(height) FROM operations)",
        "DELETE FROM events WHERE height = 5 AND position = 0",
        "DELETE FROM state WHERE key = (SELECT max(key) FROM state)",
        "INSERT INTO state VALUES ('account/h99', x'9100')",
        "INSERT INTO chain VALUES ('note', x'00')",
        "INSERT INTO events VALUES (9999, 0, 0, 'trade', '', x'', x'')",
        "UPDATE blocks SET certificate = NULL WHERE height = (SELECT max(height) FROM blocks)",
    ],
)
def test_rows_taken_out_or_put_in_are_refused(statement: str, ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ledger.db"
    shutil.copy(ledger, copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute(statement)

    assert not verify_ledger(copy).ok


def test_damaged_file_is_refused_with_a_sentence(ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ledger.db"
    data = bytearray(ledger.read_bytes())
    for index in range(4096, 4096 + 64):
        data[index] ^= 0xFF
    copy.write_bytes(data)

    found = verify_ledger(copy)

    assert not found.ok
    assert found.errors

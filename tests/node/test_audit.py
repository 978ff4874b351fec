"""`ledger verify` on small ledgers made by hand: files that a forger would make.

`tests/system/test_ledger_mutations.py` changes single values of a real street's ledger; here are
the forgeries that need more thought.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from consensus.block import Header
from consensus.codec import decode, encode
from market.orders import Side
from node.audit import ERRORS_MAX, Verification, verify_ledger
from node.errors import ConfigError
from node.execution import Execution
from node.identity import SodiumVerifier
from node.store import LedgerStore
from tests.support.certified import TimelyChain, certificate_of
from tests.support.street import FIRST, HOUR_MS, Chain, order


async def written(path: Path, chain: Chain, *, empty_blocks: int = 0) -> Path:
    """Play a slot, and some blocks without operations, into a ledger."""
    fresh = Execution(chain.genesis, SodiumVerifier())
    store = await LedgerStore.open(path)
    await store.found(chain.genesis, fresh.state.items())
    blocks = chain.play_slot()
    for index in range(empty_blocks):
        blocks.append(chain.block(chain.execution.header.time_ms + index))
    for block in blocks:
        await store.append(block, certificate_of(chain, block))
    await store.close()
    return path


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    return await written(tmp_path / "ledger.db", TimelyChain(), empty_blocks=3)


def change(path: Path, *statements: str, **values: object) -> None:
    """Forge through SQL."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement, values)


def assert_refused(path: Path, says: str) -> Verification:
    found = verify_ledger(path)
    assert not found.ok
    assert says in " ".join(found.errors), found.errors
    assert all("\n" not in each for each in found.errors)
    return found


def test_honest_ledger_is_accepted(ledger: Path) -> None:
    found = verify_ledger(ledger)
    assert (found.ok, found.errors, found.blocks, found.height) == (True, [], 9, 9)
    assert (found.certified_from, found.replayed_from) == (0, 0)
    assert found.absent == {"retention": [], "erased": []}


async def test_ledger_without_a_block_is_accepted(tmp_path: Path) -> None:
    chain = TimelyChain()
    store = await LedgerStore.open(tmp_path / "ledger.db")
    await store.found(chain.genesis, chain.execution.state.items())
    await store.close()
    found = verify_ledger(tmp_path / "ledger.db")
    assert (found.ok, found.height, found.head) == (True, 0, chain.execution.digest.hex())


@pytest.mark.parametrize("name", ["a?b#c%d e.db", "lédger.db", "-ledger.db"])
async def test_any_file_name_will_do(name: str, tmp_path: Path) -> None:
    assert verify_ledger(await written(tmp_path / name, TimelyChain())).ok


def test_verification_writes_nothing(ledger: Path) -> None:
    before = ledger.read_bytes()
    verify_ledger(ledger)
    assert ledger.read_bytes() == before


@pytest.mark.parametrize("name", ["nowhere.db", "."])
def test_missing_file_is_named_with_the_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no ledger.*name a node's ledger\.db"):
        verify_ledger(tmp_path / name)


@pytest.mark.parametrize("data", [b"", b"junk" * 1000, b"SQLite format 3\0" + bytes(4096)])
def test_other_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.db").write_bytes(data)
    assert not verify_ledger(tmp_path / "file.db").ok


def test_empty_blocks_cannot_be_left_out_by_renumbering(ledger: Path) -> None:
    change(
        ledger,
        "DELETE FROM blocks WHERE height = 7",
        "UPDATE blocks SET height = height - 1 WHERE height > 7",
    )
    assert_refused(ledger, "block 7")


def test_two_empty_blocks_cannot_change_places(ledger: Path) -> None:
    change(
        ledger,
        "UPDATE blocks SET height = 70 WHERE height = 7",
        "UPDATE blocks SET height = 7 WHERE height = 8",
        "UPDATE blocks SET height = 8 WHERE height = 70",
    )
    assert_refused(ledger, "block 7")


def test_blocks_cannot_begin_later(ledger: Path) -> None:
    change(ledger, "DELETE FROM blocks WHERE height = 1")
    assert_refused(ledger, "height 2 follows 0")


async def test_chain_of_other_endorsers_is_refused(tmp_path: Path) -> None:
    ledger = await written(tmp_path / "ledger.db", TimelyChain())
    other = TimelyChain(phase_ms=7)
    change(ledger, "UPDATE chain SET value = :genesis", genesis=encode(other.genesis))
    assert_refused(ledger, "block 1")


def test_minority_of_endorsers_certifies_nothing(ledger: Path) -> None:
    chain = TimelyChain()
    block = chain.play_slot()[0]
    certificate = encode(certificate_of(chain, block, ("b1", "b2")))
    change(ledger, "UPDATE blocks SET certificate = :it WHERE height = 1", it=certificate)
    assert_refused(ledger, "2 signatures, 3 are needed")


def test_one_endorser_does_not_count_twice(ledger: Path) -> None:
    chain = TimelyChain()
    block = chain.play_slot()[0]
    certificate = encode(certificate_of(chain, block, ("b1", "b2", "b2")))
    change(ledger, "UPDATE blocks SET certificate = :it WHERE height = 1", it=certificate)
    assert_refused(ledger, "signers not distinct")


async def test_quorum_of_liars_cannot_make_a_header_that_does_not_follow(tmp_path: Path) -> None:
    chain = TimelyChain()
    path = await written(tmp_path / "ledger.db", chain)
    with closing(sqlite3.connect(path)) as connection:
        ((data,),) = connection.execute("SELECT header FROM blocks WHERE height = 6")
    header = msgspec.structs.replace(decode(data, Header), trade_root=bytes(32))
    replayed = TimelyChain()
    last = replayed.play_slot()[-1]
    lie = type(last)(header, header.digest(chain.genesis.chain_id), last.content, (), (), {})
    change(
        path,
        "UPDATE blocks SET header = :header, certificate = :certificate WHERE height = 6",
        header=encode(header),
        certificate=encode(certificate_of(chain, lie)),
    )
    assert_refused(path, "block 6: executing it gives another trade_root")


async def test_quorum_of_liars_cannot_order_what_nobody_signed(tmp_path: Path) -> None:
    chain = TimelyChain()
    store = await LedgerStore.open(tmp_path / "ledger.db")
    await store.found(chain.genesis, chain.execution.state.items())
    genuine = chain.sign("s1", order(Side.SELL, 100), expires_ms=FIRST * HOUR_MS)
    forged = msgspec.structs.replace(genuine, signature=bytes(64))
    block = chain.block(FIRST * HOUR_MS - 100 * 60_000, forged)
    await store.append(block, certificate_of(chain, block))
    await store.close()
    assert_refused(tmp_path / "ledger.db", "block 1, operation 0: the signature of s1")


async def test_quorum_of_liars_cannot_order_what_has_expired(tmp_path: Path) -> None:
    chain = TimelyChain()
    store = await LedgerStore.open(tmp_path / "ledger.db")
    await store.found(chain.genesis, chain.execution.state.items())
    late = chain.sign("s1", order(Side.SELL, 100), expires_ms=FIRST * HOUR_MS - 1)
    block = chain.block(FIRST * HOUR_MS, late)
    await store.append(block, certificate_of(chain, block))
    await store.close()
    assert_refused(tmp_path / "ledger.db", "block 1, operation 0: not in time")


def test_row_about_an_operation_cannot_lie(ledger: Path) -> None:
    change(ledger, "UPDATE operations SET signer = 'b2' WHERE height = 1 AND position = 0")
    assert_refused(ledger, "block 1, operation 0: its row does not fit it")


def test_money_cannot_be_written_into_an_account(ledger: Path) -> None:
    change(ledger, "UPDATE state SET value = x'cd0fff' WHERE key = 'account/b1'")
    assert_refused(ledger, "state, account/b1: not what the blocks leave")


def test_long_list_of_errors_is_cut(ledger: Path) -> None:
    for index in range(2 * ERRORS_MAX):
        change(ledger, f"INSERT INTO state VALUES ('extra/{index}', x'00')")  # noqa: S608 - own names
    assert len(verify_ledger(ledger).errors) == ERRORS_MAX


def test_own_tables_of_the_node_are_no_part_of_the_claim(ledger: Path) -> None:
    change(
        ledger,
        "INSERT INTO local_values VALUES ('anything', x'00')",
        "CREATE TABLE local_notes (text TEXT)",
        "DROP TABLE local_traces",
    )
    assert verify_ledger(ledger).ok


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE bills (member TEXT, amount INTEGER)",
        "CREATE VIEW bills AS SELECT * FROM state",
        "CREATE TRIGGER t AFTER INSERT ON state BEGIN DELETE FROM events; END",
        "DROP INDEX events_by_kind",
        "ALTER TABLE blocks ADD COLUMN note TEXT",
    ],
)
def test_file_with_other_tables_than_ours_is_refused(statement: str, ledger: Path) -> None:
    change(ledger, statement)
    assert_refused(ledger, "is not as it must be")


@pytest.mark.parametrize("table", ["blocks", "operations", "events", "state", "chain"])
def test_table_without_types_is_refused_and_crashes_nobody(table: str, ledger: Path) -> None:
    # Without STRICT a forger could put text where bytes belong.
    with closing(sqlite3.connect(ledger)) as connection:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    change(
        ledger,
        f"ALTER TABLE {table} RENAME TO local_{table}",
        f"CREATE TABLE {table} ({', '.join(names)})",
        f"INSERT INTO {table} SELECT * FROM local_{table}",  # noqa: S608 - own names
        f"UPDATE {table} SET {names[-1]} = 'text'",  # noqa: S608 - own names
    )
    assert_refused(ledger, f"{table} is not as it must be")


def test_result_is_one_flat_object_for_scripts(ledger: Path) -> None:
    assert set(verify_ledger(ledger).as_json()) == {
        "height",
        "head",
        "blocks",
        "certified_from",
        "replayed_from",
        "absent",
        "ok",
        "errors",
    }

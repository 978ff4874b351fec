"""Votes and ledger on a real disk: what is written stays, and what cannot be written stops us."""

import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consensus.block import Content
from consensus.codec import encode
from consensus.effects import DurableVote
from consensus.messages import Ballot
from consensus.operation import Operation
from market.orders import Side
from node.errors import ConfigError, StoreError
from node.execution import ExecutedBlock
from node.store import SCHEMA_VERSION, LedgerStore, VoteStore
from tests.support.certified import certificate_of, certified
from tests.support.street import Chain, order
from tests.support.waiting import until

Step = tuple[Chain, list[ExecutedBlock]]


@pytest.fixture
async def votes(tmp_path: Path) -> AsyncIterator[VoteStore]:
    store = await VoteStore.open(tmp_path / "votes.db")
    yield store
    await store.close()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[LedgerStore]:
    store = await LedgerStore.open(tmp_path / "ledger.db")
    yield store
    await store.close()


CHAIN = Chain()
BALLOT = Ballot(member="b1", chain_id=CHAIN.genesis.chain_id, signer=CHAIN.identities["b1"])
OPERATION = CHAIN.sign("b1", order(Side.BUY, 100))


def content(sequence: int = 1, time_ms: int = 5) -> Content:
    return Content(0, sequence, time_ms, (OPERATION.id,))


def proposal(sequence: int = 1, time_ms: int = 5) -> DurableVote:
    message = BALLOT.pre_prepare(0, content(sequence, time_ms))
    return DurableVote(message, (), (OPERATION,))


def commit(sequence: int = 1, digest: bytes = bytes(32)) -> DurableVote:
    proof = tuple(BALLOT.prepare(0, 0, sequence, digest) for _ in range(2))
    return DurableVote(BALLOT.commit(0, 0, sequence, digest), proof)


def played() -> Step:
    """Play a slot on a fresh chain."""
    chain = Chain()
    return chain, chain.play_slot()


async def refilled(store: LedgerStore, step: Step, *, is_certified: bool = True) -> None:
    """Write a chain into an empty ledger."""
    chain, blocks = step
    fresh = Chain()
    await store.found(chain.genesis, fresh.execution.state.items())
    for block in blocks:
        await store.append(block, certificate_of(chain, block) if is_certified else None)


def asked(path: Path, query: str) -> list[Any]:
    """Ask the file through another connection, as after a crash."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


async def assert_unusable_and_no_thread_left(
    path: Path, error: type[Exception], match: str
) -> None:
    before = set(threading.enumerate())
    for store in (VoteStore, LedgerStore):
        with pytest.raises(error, match=match):
            await store.open(path)
    # A thread that lives on would keep the process from ending.
    await until(lambda: set(threading.enumerate()) <= before, "the end of the file's thread")


# -- votes -----------------------------------------------------------------------------------------


async def test_votes_survive_a_crash_in_the_order_of_their_phases(
    votes: VoteStore, tmp_path: Path
) -> None:
    said = [proposal(1), commit(1), proposal(2)]
    await votes.append(said[:2])
    await votes.append(said[2:])

    # The first connection is still open, as if its process had just been killed.
    after = await VoteStore.open(tmp_path / "votes.db")
    found = await after.read()
    await after.close()

    assert found == said


async def test_votes_are_synchronised_before_append_returns(votes: VoteStore) -> None:
    modes = []
    for pragma in ("journal_mode", "synchronous"):
        cursor = await votes._connection.execute(f"PRAGMA {pragma}")
        modes.append(await cursor.fetchone())
    assert modes == [("wal",), (2,)]


async def test_discarding_does_not_leave_later_votes_unsynchronised(
    votes: VoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await votes.discard_through(0)
    seen = []
    execute = votes._connection.executemany

    async def spy(*args: Any) -> Any:
        cursor = await votes._connection.execute("PRAGMA synchronous")
        seen.append(await cursor.fetchone())
        return await execute(*args)

    monkeypatch.setattr(votes._connection, "executemany", spy)
    await votes.append([proposal()])
    assert seen == [(2,)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (proposal(), proposal()),
        (proposal(), proposal(time_ms=6)),
        (commit(), commit(digest=bytes([1]) * 32)),
    ],
)
async def test_second_vote_for_one_phase_is_refused_and_the_first_stays(
    first: DurableVote, second: DurableVote, votes: VoteStore
) -> None:
    await votes.append([first])
    with pytest.raises(StoreError, match="UNIQUE"):
        await votes.append([second])
    assert await votes.read() == [first]


async def test_votes_are_written_all_or_none(votes: VoteStore, tmp_path: Path) -> None:
    await votes.append([proposal(1)])
    with pytest.raises(StoreError):
        await votes.append([proposal(2), proposal(1)])
    assert await votes.read() == [proposal(1)]
    assert asked(tmp_path / "votes.db", "SELECT count(*) FROM votes") == [(1,)]

    await votes.append([proposal(2)])
    assert await votes.read() == [proposal(1), proposal(2)]


async def test_votes_of_stable_sequences_are_forgotten(votes: VoteStore) -> None:
    await votes.append([proposal(1), proposal(2), proposal(3)])
    await votes.discard_through(2)
    assert await votes.read() == [proposal(3)]


async def test_checkpoint_is_no_vote_to_keep(votes: VoteStore) -> None:
    checkpoint = BALLOT.checkpoint(0, 1, bytes(32))
    with pytest.raises(AssertionError):
        await votes.append([DurableVote(checkpoint)])


async def test_damaged_vote_stops_the_node(votes: VoteStore, tmp_path: Path) -> None:
    await votes.append([proposal()])
    with closing(sqlite3.connect(tmp_path / "votes.db", isolation_level=None)) as connection:
        connection.execute("UPDATE votes SET vote = x'c0'")
    with pytest.raises(StoreError, match="damaged"):
        await votes.read()


# -- the chain -------------------------------------------------------------------------------------


async def test_ledger_continues_where_it_was_left(ledger: LedgerStore, tmp_path: Path) -> None:
    chain, blocks = step = played()
    await refilled(ledger, step)

    after = await LedgerStore.open(tmp_path / "ledger.db")
    assert await after.genesis() == chain.genesis
    assert await after.head() == blocks[-1].header
    assert sorted(await after.state()) == sorted(chain.execution.state.items())
    assert await after.uncertified() == {}
    for block in blocks:
        assert await after.block(block.header.height) == certified(chain, block)
    await after.close()


async def test_empty_ledger_has_nothing(ledger: LedgerStore) -> None:
    assert await ledger.genesis() is None
    assert await ledger.head() is None
    assert await ledger.state() == []
    assert await ledger.block(1) is None
    assert await ledger.value("household") is None
    assert await ledger.outbox() == []


async def test_block_without_a_certificate_is_not_given_away(ledger: LedgerStore) -> None:
    chain, blocks = step = played()
    await refilled(ledger, step, is_certified=False)

    assert await ledger.block(1) is None
    assert await ledger.uncertified() == {each.header.height: each.header for each in blocks}

    await ledger.certify([certificate_of(chain, blocks[0])])
    assert await ledger.block(1) == certified(chain, blocks[0])
    assert 1 not in await ledger.uncertified()


async def test_first_certificate_of_a_block_stays(ledger: LedgerStore) -> None:
    chain, blocks = step = played()
    await refilled(ledger, step, is_certified=False)
    first = certificate_of(chain, blocks[0], ("b1", "b2", "s1"))
    other = certificate_of(chain, blocks[0], ("b2", "s1", "s2"))

    await ledger.certify([first])
    await ledger.certify([other])

    found = await ledger.block(1)
    assert found is not None
    assert found.certificate == first


async def test_certificate_of_a_block_that_is_not_here_changes_nothing(
    ledger: LedgerStore,
) -> None:
    chain, blocks = played()
    await ledger.certify([certificate_of(chain, blocks[0])])
    assert await ledger.head() is None


async def test_block_is_written_once_and_whole(ledger: LedgerStore, tmp_path: Path) -> None:
    _, blocks = step = played()
    await refilled(ledger, step)
    before = asked(tmp_path / "ledger.db", "SELECT count(*) FROM events")

    with pytest.raises(StoreError, match="UNIQUE"):
        await ledger.append(blocks[0])

    assert asked(tmp_path / "ledger.db", "SELECT count(*) FROM events") == before
    assert await ledger.head() == blocks[-1].header


async def test_founding_again_changes_nothing(ledger: LedgerStore) -> None:
    chain, _ = step = played()
    await refilled(ledger, step)
    await ledger.found(chain.genesis, [("other", b"")])
    assert "other" not in dict(await ledger.state())


async def test_ledger_of_another_community_is_refused_with_the_remedy(
    ledger: LedgerStore,
) -> None:
    await refilled(ledger, played())
    foreign = msgspec.structs.replace(CHAIN.genesis, community="other")
    with pytest.raises(ConfigError, match=r"ledger\.db belongs to another.*empty data"):
        await ledger.found(foreign, [])


async def test_hardening_writes_the_log_through(ledger: LedgerStore, tmp_path: Path) -> None:
    await refilled(ledger, played())
    await ledger.harden(5)
    assert await ledger.value("hardened") == encode(5)
    tables = asked(tmp_path / "ledger.db", "SELECT key FROM chain")
    assert tables == [("genesis",)]


async def test_damaged_block_stops_the_node(ledger: LedgerStore, tmp_path: Path) -> None:
    await refilled(ledger, played())
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as connection:
        connection.execute("UPDATE blocks SET header = x'c0'")
    for read in (ledger.head(), ledger.block(1)):
        with pytest.raises(StoreError, match="damaged"):
            await read


# -- local tables ----------------------------------------------------------------------------------


async def test_outbox_keeps_operations_until_their_receipt(ledger: LedgerStore) -> None:
    operations: list[Operation] = [CHAIN.sign("b1", order(Side.BUY, wh)) for wh in (1, 2, 3)]
    await ledger.keep(operations)
    assert await ledger.outbox() == operations

    await ledger.note(received=[operations[1].body.nonce], values=[], traces=[])
    assert await ledger.outbox() == [operations[0], operations[2]]


async def test_values_and_traces_may_be_written_again(ledger: LedgerStore, tmp_path: Path) -> None:
    for content_wh in (b"1", b"2"):
        await ledger.note(received=[], values=[("household", content_wh)], traces=[(7, 1, 2, 3, 4)])
    assert await ledger.value("household") == b"2"
    assert asked(tmp_path / "ledger.db", "SELECT * FROM local_traces") == [(7, 1, 2, 3, 4)]


async def test_reservation_of_nonces_survives_a_crash(ledger: LedgerStore, tmp_path: Path) -> None:
    await ledger.reserve_nonces(70)
    await ledger.reserve_nonces(135)
    after = await LedgerStore.open(tmp_path / "ledger.db")
    assert await after.value("nonces_reserved") == encode(135)
    await after.close()


# -- disks and files that fail ---------------------------------------------------------------------


async def test_full_disk_is_an_error_and_changes_nothing(
    ledger: LedgerStore, tmp_path: Path
) -> None:
    chain, blocks = played()
    await ledger.found(chain.genesis, Chain().execution.state.items())
    await ledger._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await ledger._connection.execute("PRAGMA max_page_count = 1")
    before = asked(tmp_path / "ledger.db", "SELECT * FROM state")

    large = Chain()
    operations = [large.sign("b1", bytes(30_000), kind="order") for _ in range(8)]
    with pytest.raises(StoreError, match="full"):
        await ledger.append(large.block(blocks[0].header.time_ms, *operations))

    for table in ("blocks", "operations", "events"):
        assert asked(tmp_path / "ledger.db", f"SELECT * FROM {table}") == []  # noqa: S608 - own names
    assert asked(tmp_path / "ledger.db", "SELECT * FROM state") == before


async def test_full_disk_refuses_votes(votes: VoteStore) -> None:
    await votes._connection.execute("PRAGMA max_page_count = 1")
    await votes.append([proposal(1)])
    with pytest.raises(StoreError, match="full"):
        await votes.append([proposal(sequence) for sequence in range(2, 200)])
    assert await votes.read() == [proposal(1)]


async def test_disk_that_becomes_read_only_is_an_error(
    ledger: LedgerStore, votes: VoteStore
) -> None:
    for store in (ledger, votes):
        await store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="readonly"):
        await ledger.reserve_nonces(1)
    with pytest.raises(StoreError, match="readonly"):
        await votes.append([proposal()])


async def test_reading_from_a_broken_disk_is_an_error(ledger: LedgerStore) -> None:
    await ledger._connection.execute("DROP TABLE blocks")
    for read in (ledger.head(), ledger.block(1), ledger.uncertified()):
        with pytest.raises(StoreError, match="cannot read"):
            await read


async def test_place_without_a_directory_is_unusable(tmp_path: Path) -> None:
    await assert_unusable_and_no_thread_left(
        tmp_path / "nowhere" / "file.db", StoreError, r"cannot open .*check the disk"
    )


async def test_directory_is_no_file(tmp_path: Path) -> None:
    await assert_unusable_and_no_thread_left(tmp_path, StoreError, "cannot open")


async def test_file_that_is_no_database_is_unusable(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    await assert_unusable_and_no_thread_left(path, StoreError, "not a database")


async def test_file_of_another_schema_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    await assert_unusable_and_no_thread_left(
        path, ConfigError, r"schema 2.*install the matching version"
    )


async def test_copy_of_the_file_is_the_same_ledger(ledger: LedgerStore, tmp_path: Path) -> None:
    chain, blocks = step = played()
    await refilled(ledger, step)
    await ledger.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "copy.db")
    copy = await LedgerStore.open(tmp_path / "copy.db")
    assert await copy.head() == blocks[-1].header
    assert await copy.genesis() == chain.genesis
    await copy.close()

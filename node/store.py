"""What survives a power cut: `votes.db` (the replica's word) and `ledger.db` (chain and state).

Two files, because backup and export must never carry votes.  Each has one writer and one explicit
transaction per turn of the driver; a vote is on disk before it is on the bus (`synchronous=FULL`,
write-ahead log).  Tables whose names start with `local_` are this node's own business and no part
of what `ledger verify` vouches for.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import msgspec

from consensus.block import Certificate, CertifiedBlock, Content, Header
from consensus.codec import FRAME_BYTES_MAX, decode, encode
from consensus.effects import DurableVote
from consensus.errors import MalformedError
from consensus.messages import Checkpoint, Commit, Message, Prepare, PrePrepare
from consensus.operation import Operation
from node.errors import ConfigError, StoreError
from node.execution import ExecutedBlock
from node.genesis import Genesis, parse_genesis

SCHEMA_VERSION = 1

LEDGER_SCHEMA = """
CREATE TABLE chain (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE blocks (
    height INTEGER PRIMARY KEY, header BLOB NOT NULL, content BLOB NOT NULL, certificate BLOB
) STRICT;
CREATE TABLE operations (
    height INTEGER NOT NULL, position INTEGER NOT NULL, id BLOB NOT NULL,
    signer TEXT NOT NULL, kind TEXT NOT NULL, operation BLOB NOT NULL,
    PRIMARY KEY (height, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    height INTEGER NOT NULL, position INTEGER NOT NULL, channel INTEGER NOT NULL,
    kind TEXT NOT NULL, subject TEXT NOT NULL, salt BLOB NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (height, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX events_by_kind ON events (kind, height);
CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE local_outbox (nonce INTEGER PRIMARY KEY, operation BLOB NOT NULL) STRICT;
CREATE TABLE local_values (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE local_traces (
    slot INTEGER NOT NULL, round INTEGER NOT NULL, price INTEGER NOT NULL,
    demand_mwh INTEGER NOT NULL, supply_mwh INTEGER NOT NULL, PRIMARY KEY (slot, round)
) STRICT, WITHOUT ROWID;
"""

_VOTES_SCHEMA = """
CREATE TABLE votes (
    view INTEGER NOT NULL, sequence INTEGER NOT NULL, phase TEXT NOT NULL, vote BLOB NOT NULL,
    PRIMARY KEY (view, sequence, phase)
) STRICT, WITHOUT ROWID;
"""

_PHASES = {PrePrepare: "pre-prepare", Prepare: "prepare", Commit: "commit"}
_VOTE_BYTES_MAX = 1 << 20

T = TypeVar("T")


class _VoteRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    vote: Message
    proof: tuple[Message, ...]
    operations: tuple[Operation, ...]


async def _open(path: Path, schema: str) -> aiosqlite.Connection:
    """Open a database for one writer, creating its schema in an empty file."""
    try:
        connection = await aiosqlite.connect(path, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"cannot open {path}: {error}; check the disk") from error
    try:
        await _prepare(connection, path, schema)
    except BaseException as error:
        # Its thread would keep the process from ending.
        await connection.close()
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"cannot open {path}: {error}; check the disk") from error
        raise
    return connection


async def _prepare(connection: aiosqlite.Connection, path: Path, schema: str) -> None:
    """Make commits durable, and see that the schema is the one that this program writes."""
    await connection.execute("PRAGMA journal_mode = WAL")
    await connection.execute("PRAGMA synchronous = FULL")
    row = await (await connection.execute("PRAGMA user_version")).fetchone()
    version = row[0] if row else 0
    if version == 0:
        await connection.executescript(
            f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    elif version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema {version}, this program writes {SCHEMA_VERSION}; "
            "install the matching version"
        )


class _Database:
    """One file, one writer."""

    def __init__(self, connection: aiosqlite.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._is_durable = True

    async def close(self) -> None:
        """Close the file; what was written stays."""
        await self._connection.close()

    async def _set_synchronous(self, durable: bool) -> None:
        if durable != self._is_durable:
            level = "FULL" if durable else "NORMAL"
            await self._connection.execute(f"PRAGMA synchronous = {level}")
            self._is_durable = durable

    @asynccontextmanager
    async def _transaction(self, *, durable: bool) -> AsyncIterator[aiosqlite.Connection]:
        """Run one BEGIN..COMMIT; any failure of the disk means that this process must stop.

        A `durable` one survives a power cut when it returns; another may be lost with the most
        recent of its kind, never in part.
        """
        try:
            await self._set_synchronous(durable)
            await self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            await self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                await self._connection.rollback()
            raise StoreError(f"cannot write {self._path}: {error}") from error

    async def _rows(self, query: str, *values: object) -> list[Any]:
        """Return all rows of a query; any failure of the disk means that this process must stop."""
        try:
            cursor = await self._connection.execute(query, values)
            return list(await cursor.fetchall())
        except sqlite3.Error as error:
            raise StoreError(f"cannot read {self._path}: {error}") from error

    def _decoded(self, data: bytes, type_: type[T], *, bytes_max: int = FRAME_BYTES_MAX) -> T:
        try:
            return decode(data, type_, bytes_max=bytes_max)
        except MalformedError as error:
            raise StoreError(
                f"{self._path} is damaged: {error}; restore it or start anew"
            ) from error


class VoteStore(_Database):
    """The votes of this replica above its last garbage collection."""

    @classmethod
    async def open(cls, path: Path) -> "VoteStore":
        """Open or create the file.

        Raises:
            StoreError: The disk or the file is unusable.
        """
        return cls(await _open(path, _VOTES_SCHEMA), path)

    async def read(self) -> list[DurableVote]:
        """Return all votes in the order of sequence and phase."""
        rows = await self._rows("SELECT vote FROM votes ORDER BY sequence, phase DESC")
        found = [self._decoded(row[0], _VoteRow, bytes_max=_VOTE_BYTES_MAX) for row in rows]
        return [DurableVote(each.vote, each.proof, each.operations) for each in found]

    async def append(self, votes: Sequence[DurableVote]) -> None:
        """Return once the votes survive a power cut.

        Raises:
            StoreError: They may not; also when a vote for this (view, sequence, phase) exists.
        """
        rows = []
        for durable in votes:
            vote = durable.vote
            assert not isinstance(vote, Checkpoint), (
                "checkpoints are votes on what the ledger holds"
            )
            row = encode(_VoteRow(vote, durable.proof, durable.operations))
            rows.append((vote.view, vote.sequence, _PHASES[type(vote)], row))
        async with self._transaction(durable=True) as connection:
            await connection.executemany("INSERT INTO votes VALUES (?, ?, ?, ?)", rows)

    async def discard_through(self, sequence: int) -> None:
        """Forget the votes of stable sequences."""
        async with self._transaction(durable=False) as connection:
            await connection.execute("DELETE FROM votes WHERE sequence <= ?", (sequence,))


class LedgerStore(_Database):
    """The chain, the state after its last block, and this node's own local tables."""

    @classmethod
    async def open(cls, path: Path) -> "LedgerStore":
        """Open or create the file.

        Raises:
            StoreError: The disk or the file is unusable.
        """
        return cls(await _open(path, LEDGER_SCHEMA), path)

    async def found(self, genesis: Genesis, state: Iterable[tuple[str, bytes]]) -> None:
        """Write genesis and the state that it gives into an empty ledger.

        Raises:
            ConfigError: The ledger belongs to another chain.
        """
        stored = await self.genesis()
        if stored is not None:
            if stored != genesis:
                raise ConfigError(
                    f"{self._path} belongs to another community or an older genesis; "
                    "use an empty data directory"
                )
            return
        async with self._transaction(durable=True) as connection:
            await connection.execute("INSERT INTO chain VALUES ('genesis', ?)", (encode(genesis),))
            await connection.executemany("INSERT INTO state VALUES (?, ?)", list(state))

    async def genesis(self) -> Genesis | None:
        """Return the stored genesis, None in an empty ledger."""
        rows = await self._rows("SELECT value FROM chain WHERE key = 'genesis'")
        return parse_genesis(rows[0][0]) if rows else None

    async def state(self) -> list[tuple[str, bytes]]:
        """Return every entry of the state after the last block."""
        return await self._rows("SELECT key, value FROM state")

    async def head(self) -> Header | None:
        """Return the last executed header, None before the first block."""
        rows = await self._rows("SELECT header FROM blocks ORDER BY height DESC LIMIT 1")
        return self._decoded(rows[0][0], Header) if rows else None

    async def uncertified(self) -> dict[int, Header]:
        """Return the executed blocks that lack a certificate, by height."""
        rows = await self._rows(
            "SELECT header FROM blocks WHERE certificate IS NULL ORDER BY height"
        )
        headers = [self._decoded(row[0], Header) for row in rows]
        return {header.height: header for header in headers}

    async def block(self, height: int) -> CertifiedBlock | None:
        """Return a certified block, None if it is not here or not certified yet."""
        rows = await self._rows(
            "SELECT header, content, certificate FROM blocks "
            "WHERE height = ? AND certificate IS NOT NULL",
            height,
        )
        if not rows:
            return None
        header, content, certificate = rows[0]
        operations = await self._rows(
            "SELECT operation FROM operations WHERE height = ? ORDER BY position", height
        )
        return CertifiedBlock(
            header=self._decoded(header, Header),
            content=self._decoded(content, Content),
            certificate=self._decoded(certificate, Certificate),
            operations=tuple(self._decoded(each[0], Operation) for each in operations),
        )

    async def append(self, executed: ExecutedBlock, certificate: Certificate | None = None) -> None:
        """Write a block with everything that follows from it, in one transaction.

        Without a certificate it is durable on return: the caller is about to vouch for it.

        Raises:
            StoreError: It may not survive a power cut; the process must stop.
        """
        height = executed.header.height
        operations = [
            (height, position, each.id, each.body.signer, each.body.kind, encode(each))
            for position, each in enumerate(executed.operations)
        ]
        events = [
            (height, position, each.channel, each.kind, each.subject, each.salt, each.payload)
            for position, each in enumerate(executed.events)
        ]
        puts = [(key, value) for key, value in executed.writes.items() if value is not None]
        deletes = [(key,) for key, value in executed.writes.items() if value is None]
        block = (
            height,
            encode(executed.header),
            encode(executed.content),
            encode(certificate) if certificate else None,
        )
        # A block from a peer can be pulled again; one that this replica vouches for must stay.
        async with self._transaction(durable=certificate is None) as connection:
            await connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", block)
            await connection.executemany(
                "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?)", operations
            )
            await connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", events)
            await connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", puts)
            await connection.executemany("DELETE FROM state WHERE key = ?", deletes)

    async def certify(self, certificates: Sequence[Certificate]) -> None:
        """Put certificates beside their blocks; peers have them too, should they be lost."""
        rows = [(encode(each), each.height) for each in certificates]
        async with self._transaction(durable=False) as connection:
            await connection.executemany(
                "UPDATE blocks SET certificate = ? WHERE height = ? AND certificate IS NULL", rows
            )

    async def harden(self, height: int) -> None:
        """Return once the blocks through `height`, which this node has, survive a power cut.

        Only then may the votes for them be forgotten: a replica that lost both would vote again.
        """
        # A commit with synchronous=FULL takes everything before it in the log to the disk.
        async with self._transaction(durable=True) as connection:
            await connection.execute(
                "INSERT OR REPLACE INTO local_values VALUES ('hardened', ?)", (encode(height),)
            )

    # -- local tables: this node's own business ---------------------------------------------------

    async def outbox(self) -> list[Operation]:
        """Return operations that were submitted and have no receipt yet."""
        rows = await self._rows("SELECT operation FROM local_outbox ORDER BY nonce")
        return [self._decoded(row[0], Operation) for row in rows]

    async def value(self, key: str) -> bytes | None:
        """Return a local value."""
        rows = await self._rows("SELECT value FROM local_values WHERE key = ?", key)
        return bytes(rows[0][0]) if rows else None

    async def reserve_nonces(self, through: int) -> None:
        """Return once every restart starts at nonce `through` or above."""
        async with self._transaction(durable=True) as connection:
            await connection.execute(
                "INSERT OR REPLACE INTO local_values VALUES ('nonces_reserved', ?)",
                (encode(through),),
            )

    async def keep(self, operations: Sequence[Operation]) -> None:
        """Put submitted operations into the outbox, durably: the same bytes are sent again."""
        rows = [(each.body.nonce, encode(each)) for each in operations]
        async with self._transaction(durable=True) as connection:
            await connection.executemany("INSERT INTO local_outbox VALUES (?, ?)", rows)

    async def note(
        self,
        *,
        received: Sequence[int],
        values: Sequence[tuple[str, bytes]],
        traces: Sequence[tuple[int, int, int, int, int]],
    ) -> None:
        """Write what may be lost: receipts (by nonce), local values, negotiation traces."""
        nonces = [(each,) for each in received]
        async with self._transaction(durable=False) as connection:
            await connection.executemany("DELETE FROM local_outbox WHERE nonce = ?", nonces)
            await connection.executemany(
                "INSERT OR REPLACE INTO local_values VALUES (?, ?)", values
            )
            await connection.executemany(
                "INSERT OR REPLACE INTO local_traces VALUES (?, ?, ?, ?, ?)", traces
            )

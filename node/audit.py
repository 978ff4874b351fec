"""Offline verification of a node's ledger: every hash, signature, certificate, rule and balance.

Nothing in the file is believed.  Genesis gives keys and rules; from there every block is checked
against its certificate and executed again, and every row of the chain and state tables must be
exactly what execution gives.  Only tables named `local_...` are no part of the claim.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from consensus.block import Certificate, CertifiedBlock, Content, Header
from consensus.certificate import verify_block
from consensus.codec import decode
from consensus.errors import CertificateError, MalformedError
from consensus.operation import Operation
from consensus.pool import is_timely
from market.contracts import accounts
from node.errors import ConfigError
from node.execution import Execution
from node.genesis import Genesis, parse_genesis
from node.identity import SodiumVerifier
from node.store import LEDGER_SCHEMA

ERRORS_MAX = 20
"""A broken ledger is broken; more findings than this help nobody."""


@dataclass(slots=True)
class Verification:
    """What was found.

    `certified_from`: first height covered by headers and certificates (0: genesis).
    `replayed_from`: first height from which every rule was executed again.  `absent`: heights
    whose bodies are missing, by the rule that allows it.
    """

    height: int = 0
    head: str = ""
    blocks: int = 0
    certified_from: int = 0
    replayed_from: int = 0
    absent: dict[str, list[int]] = field(default_factory=lambda: {"retention": [], "erased": []})
    ok: bool = False
    errors: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the object of `ledger verify --json`."""
        return asdict(self)


class _BrokenError(Exception):
    """A row is not what it must be; says where and what."""


def verify_ledger(path: Path) -> Verification:
    """Check a ledger file whole, without a node and without a network.

    Raises:
        ConfigError: There is no such file, or it is no ledger at all.
    """
    if not path.is_file():
        raise ConfigError(f"there is no ledger {path}; name a node's ledger.db")
    found = Verification()
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            _verify(connection, found)
    except _BrokenError as error:
        found.errors.append(str(error))
    except sqlite3.Error as error:
        found.errors.append(f"the file is damaged: {error}")
    found.ok = not found.errors
    return found


def _verify(connection: sqlite3.Connection, found: Verification) -> None:
    for (line,) in connection.execute("PRAGMA integrity_check"):
        if line != "ok":
            raise _BrokenError(f"the file is damaged: {line}")
    _check_schema(connection)
    genesis = _genesis(connection)
    execution = Execution(genesis, SodiumVerifier())
    found.head = execution.digest.hex()
    rows = connection.execute(
        "SELECT height, header, content, certificate FROM blocks ORDER BY height"
    )
    for height, header, content, certificate in rows:
        block = _block(connection, execution, height, header, content, certificate)
        _replay(connection, execution, block)
        found.height, found.head, found.blocks = height, execution.digest.hex(), found.blocks + 1
    for table in ("operations", "events"):
        (beyond,) = connection.execute(
            f"SELECT count(*) FROM {table} WHERE height NOT BETWEEN 1 AND ?",  # noqa: S608 - own names
            (found.height,),
        ).fetchone()
        if beyond:
            raise _BrokenError(f"{table}: {beyond} rows of no block")
    found.errors += list(_state_errors(connection, execution))[:ERRORS_MAX]


def _check_schema(connection: sqlite3.Connection) -> None:
    """Check that the tables are exactly ours, so that every value has its type."""
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(LEDGER_SCHEMA)
        expected = _schema(ours)
    found = _schema(connection)
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise _BrokenError(
                f"the file is no ledger of this version: {name} is not as it must be"
            )


def _schema(connection: sqlite3.Connection) -> dict[str, str | None]:
    """Return how everything is defined, but for the node's own tables."""
    rows = connection.execute("SELECT name, tbl_name, sql FROM sqlite_master")
    return {name: sql for name, table, sql in rows if not table.startswith("local_")}


def _genesis(connection: sqlite3.Connection) -> Genesis:
    rows = connection.execute("SELECT key, value FROM chain").fetchall()
    if [key for key, _ in rows] != ["genesis"]:
        raise _BrokenError("chain: it must hold genesis and nothing else")
    try:
        return parse_genesis(rows[0][1])
    except ConfigError as error:
        raise _BrokenError(f"chain, genesis: {error}") from error


def _block(
    connection: sqlite3.Connection,
    execution: Execution,
    height: int,
    header: bytes,
    content: bytes,
    certificate: bytes | None,
) -> CertifiedBlock:
    """Decode a block's rows and check everything that needs no execution."""
    if height != execution.header.height + 1:
        raise _BrokenError(f"blocks: height {height} follows {execution.header.height}")
    if certificate is None:
        raise _BrokenError(
            f"block {height}: no certificate; if the node is running it may still come, "
            "verify again in a moment"
        )
    try:
        block = CertifiedBlock(
            header=decode(header, Header),
            content=decode(content, Content),
            certificate=decode(certificate, Certificate),
            operations=_operations(connection, height),
        )
    except MalformedError as error:
        raise _BrokenError(f"block {height}: {error}") from error
    if block.header.height != height:
        raise _BrokenError(f"block {height}: its header is of height {block.header.height}")
    try:
        verify_block(
            block,
            epoch=execution.genesis.epoch,
            chain_id=execution.chain_id,
            verifier=SodiumVerifier(),
        )
    except CertificateError as error:
        raise _BrokenError(f"block {height}: {error}") from error
    for position, operation in enumerate(block.operations):
        if not execution.is_authentic(operation):
            raise _BrokenError(
                f"block {height}, operation {position}: the signature of "
                f"{operation.body.signer} does not hold"
            )
        if not is_timely(operation, block.content.time_ms):
            raise _BrokenError(f"block {height}, operation {position}: not in time")
    return block


def _operations(connection: sqlite3.Connection, height: int) -> tuple[Operation, ...]:
    operations = []
    rows = connection.execute(
        "SELECT position, id, signer, kind, operation FROM operations "
        "WHERE height = ? ORDER BY position",
        (height,),
    )
    for index, (position, id_, signer, kind, data) in enumerate(rows):
        operation = decode(data, Operation)
        expected = (index, operation.id, operation.body.signer, operation.body.kind)
        if (position, id_, signer, kind) != expected:
            raise _BrokenError(f"block {height}, operation {position}: its row does not fit it")
        operations.append(operation)
    return tuple(operations)


def _replay(connection: sqlite3.Connection, execution: Execution, block: CertifiedBlock) -> None:
    """Execute the block again; header and events must be those that are stored."""
    height = block.header.height
    executed = execution.execute(block.content, block.operations)
    if executed.header != block.header:
        names = [
            name
            for name in Header.__struct_fields__
            if getattr(executed.header, name) != getattr(block.header, name)
        ]
        raise _BrokenError(f"block {height}: executing it gives another {', '.join(names)}")
    stored = connection.execute(
        "SELECT position, channel, kind, subject, salt, payload FROM events "
        "WHERE height = ? ORDER BY position",
        (height,),
    ).fetchall()
    derived = [
        (position, each.channel, each.kind, each.subject, each.salt, each.payload)
        for position, each in enumerate(executed.events)
    ]
    for position, (row, event) in enumerate(zip(stored, derived, strict=False)):
        if row != event:
            raise _BrokenError(f"block {height}, event {position}: not what execution derives")
    if len(stored) != len(derived):
        raise _BrokenError(
            f"block {height}: {len(stored)} events stored, {len(derived)} follow from execution"
        )
    total_nano = sum(
        accounts.balance_nano(execution.state, owner)
        for owner in (
            *accounts.SHARED,
            *(each.member for each in execution.genesis.rules.households),
        )
    )
    if total_nano:
        raise _BrokenError(f"block {height}: all balances sum to {total_nano}, not 0")


def _state_errors(connection: sqlite3.Connection, execution: Execution) -> Iterator[str]:
    """Compare the state table with the state that replay gives, entry by entry."""
    stored = dict(connection.execute("SELECT key, value FROM state"))
    derived = dict(execution.state.items())
    for key in sorted(stored.keys() | derived.keys()):
        if key not in derived:
            yield f"state, {key}: no block writes it"
        elif key not in stored:
            yield f"state, {key}: missing"
        elif stored[key] != derived[key]:
            yield f"state, {key}: not what the blocks leave"

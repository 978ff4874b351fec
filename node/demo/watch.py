"""Watches a street's ledgers from outside, read only: how far each is, and what was cleared."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from consensus.block import Header
from consensus.codec import decode
from market.events import Cleared
from node.genesis import Genesis


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one ledger is."""

    height: int
    head: str
    is_certified: bool
    settled: int


_NOTHING = Progress(0, "", is_certified=False, settled=0)


class Watch:
    """The state of a street as its ledgers show it."""

    def __init__(self, ledgers: dict[str, Path], genesis: Genesis) -> None:
        self._ledgers = ledgers
        self._chain_id = genesis.chain_id
        self._slots = genesis.rules.calendar.count
        self.progress: dict[str, Progress] = dict.fromkeys(ledgers, _NOTHING)
        self.cleared: list[Cleared] = []
        self.gates_closed = 0

    @property
    def is_negotiating(self) -> bool:
        """Whether a gate has closed whose slot is not cleared yet."""
        return self.gates_closed > len(self.cleared)

    @property
    def is_finished(self) -> bool:
        """Whether every ledger has settled the whole day and all have one certified head."""
        every = self.progress.values()
        return (
            all(each.is_certified and each.settled == self._slots for each in every)
            and len({each.head for each in every}) == 1
        )

    def refresh(self) -> None:
        """Read every ledger."""
        for home, path in self._ledgers.items():
            try:
                with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                    self._read(home, connection)
            except sqlite3.Error:
                # Not created yet, or its daemon is just being started again.
                continue

    def describe(self) -> str:
        """Say how far each ledger is, for an error message."""
        return ", ".join(
            f"{home}: height {each.height}, {each.settled} of {self._slots} slots settled"
            for home, each in self.progress.items()
        )

    def _read(self, home: str, connection: sqlite3.Connection) -> None:
        row = connection.execute(
            "SELECT height, header FROM blocks ORDER BY height DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return
        height, header = row
        (uncertified,) = connection.execute(
            "SELECT count(*) FROM blocks WHERE certificate IS NULL"
        ).fetchone()
        counts: dict[str, int] = dict(
            connection.execute("SELECT kind, count(*) FROM events GROUP BY kind").fetchall()
        )
        self.progress[home] = Progress(
            height,
            decode(header, Header).digest(self._chain_id).hex(),
            is_certified=uncertified == 0,
            settled=counts.get("settled", 0),
        )
        self.gates_closed = max(self.gates_closed, counts.get("gate-closed", 0))
        if counts.get("cleared", 0) > len(self.cleared):
            rows = connection.execute(
                "SELECT payload FROM events WHERE kind = 'cleared' ORDER BY height, position"
            )
            self.cleared = [msgspec.msgpack.decode(each, type=Cleared) for (each,) in rows]

"""Reads a street out of one node's ledger: a second connection, read only, beside the daemon's.

Everything comes from the file: genesis, blocks, events and state, and this home's own negotiation
traces.  `refresh` reads what was added since the last call, in one transaction, so that a snapshot
never mixes two heights.  It verifies nothing; `node/audit.py` does.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from consensus.block import Certificate, Header
from consensus.codec import decode
from market.clearing import Rung
from market.contracts import accounts
from market.contracts.matching import BookRecord
from market.contracts.offers import StandingOrder
from market.contracts.tariffs import band_in, tariff_of
from market.events import Cleared, GateClosed, SettlementLine, SlotSettled, TradeExecuted
from market.orders import Book
from market.slot import DeadlineKind
from market.state import book_key
from node.errors import ConfigError
from node.execution import Receipt
from node.genesis import Genesis, parse_genesis
from node.view.snapshot import (
    BlockFacts,
    ChainFacts,
    GenesisFacts,
    HomeLines,
    HomeSummary,
    HomeTotals,
    Ladder,
    SlotDetail,
    SlotFacts,
    Stage,
    StreetSnapshot,
    StreetSummary,
    StreetTotals,
    TraceRound,
)
from node.view.tally import (
    HomeTally,
    SlotRecord,
    StreetTally,
    flows_of,
    ordered_wh,
    parts_of,
    reason_of,
)

SLOTS_SHOWN_MAX = 96
"""A day of quarter hours; a community that trades for years shows its last day."""

BLOCKS_SHOWN = 20
CERTIFICATE_BYTES_MAX = 1 << 16
MINUTE_MS = 60_000
MINUTES_PER_DAY = 1440

_T = TypeVar("_T")


class StreetView:
    """One home's ledger, read only.  Not safe for two threads at a time.

    Raises:
        ConfigError: There is no ledger yet, or it has no genesis yet.
    """

    def __init__(self, path: Path) -> None:
        self._connection = _open(path)
        try:
            self.genesis = _read_genesis(self._connection, path)
        except ConfigError:
            self._connection.close()
            raise
        self._calendar = self.genesis.rules.calendar
        self._homes = sorted(each.member for each in self.genesis.rules.households)
        self._data_version = -1
        self._header = self.genesis.header(bytes(32))
        self._certified_height = 0
        self._last_blocks: tuple[BlockFacts, ...] = ()
        self._operations: Counter[str] = Counter()
        self._receipts: Counter[str] = Counter()
        self._slots: defaultdict[int, SlotRecord] = defaultdict(SlotRecord)
        self._street = StreetTally()
        self._tallies = {home: HomeTally() for home in self._homes}
        self._balances: dict[str, int] = {}
        self._open_orders: Counter[int] = Counter()
        self._readings: Counter[int] = Counter()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def height(self) -> int:
        """The last height that `refresh` has read."""
        return self._header.height

    def height_on_disk(self) -> int:
        """Return the last height in the file, without reading anything else."""
        (height,) = self._connection.execute("SELECT max(height) FROM blocks").fetchone()
        return height or 0

    def refresh(self) -> bool:
        """Read what was written since the last call; return whether there was anything.

        Raises:
            sqlite3.Error: The file is damaged or gone.
        """
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._data_version:
            return False
        self._connection.execute("BEGIN")
        try:
            self._read_traces()
            self._read_events()
            self._read_blocks()
            self._read_state()
        finally:
            self._connection.execute("COMMIT")
        self._data_version = version
        self._forget_old_slots()
        return True

    # -- answers ---------------------------------------------------------------------------------

    def snapshot(self) -> StreetSnapshot:
        """Return everything that the page shows, as of the last `refresh`."""
        slots = self._slots_shown()
        return StreetSnapshot(
            genesis=self._genesis_facts(),
            clock=_time_of_day(self._header.time_ms),
            current=self._current_slot(),
            slots=tuple(self._facts(slot) for slot in slots),
            homes=tuple(self._home_totals(home) for home in self._homes),
            totals=self._totals(),
            chain=self._chain_facts(),
        )

    def detail(self, slot: int) -> SlotDetail | None:
        """Return one slot with its flows, parts and trace, None if it is not traded."""
        if not self._calendar.is_traded(slot):
            return None
        known = self._slots.get(slot, SlotRecord())
        return SlotDetail(
            facts=self._facts(slot),
            flows=tuple(flows_of(known.trades)),
            parts=tuple(parts_of(known)),
            trace=tuple(known.trace),
        )

    def last_traced(self) -> SlotDetail | None:
        """Return the last slot whose negotiation this home took part in, None before the first."""
        traced = [slot for slot, known in self._slots.items() if known.trace]
        return self.detail(max(traced)) if traced else None

    def lines(self) -> tuple[HomeLines, ...]:
        """Read every settlement line of every home from the file.

        Raises:
            sqlite3.Error: The file is damaged or gone.
        """
        by_home: dict[str, list[tuple[str, SettlementLine]]] = {home: [] for home in self._homes}
        rows = self._connection.execute(
            "SELECT payload FROM events WHERE kind = 'settlement-line' AND height <= ? "
            "ORDER BY height, position",
            (self.height,),
        )
        for (payload,) in rows:
            line = _payload(payload, SettlementLine)
            by_home[line.member].append((self._label(line.slot), line))
        return tuple(HomeLines(home, tuple(lines)) for home, lines in by_home.items())

    def summary(self) -> StreetSummary:
        """Return the street in the words of `demo --json`, as of the last `refresh`."""
        totals = self._totals()
        return StreetSummary(
            slots=self._calendar.count or totals.slots_cleared,
            cleared=totals.slots_cleared,
            mechanism=self.genesis.rules.mechanism,
            traded_wh=totals.traded_wh,
            homes=tuple(
                HomeSummary(
                    id=home.home,
                    bill_nano=home.bill_nano,
                    grid_only_nano=home.grid_only_nano,
                    saved_nano=home.saved_nano,
                )
                for home in map(self._home_totals, self._homes)
            ),
            money_sum_nano=totals.money_sum_nano,
            energy_balance_wh=totals.energy_balance_wh,
            blocks=self.height,
            head=self._head,
            ladder=totals.ladder,
        )

    # -- reading ---------------------------------------------------------------------------------

    def _read_blocks(self) -> None:
        rows = self._connection.execute(
            "SELECT height, header, certificate FROM blocks ORDER BY height DESC LIMIT ?",
            (BLOCKS_SHOWN,),
        ).fetchall()
        if not rows:
            return
        last, first = rows[0][0], rows[-1][0]
        counts = dict(
            self._connection.execute(
                "SELECT height, count(*) FROM operations WHERE height >= ? GROUP BY height",
                (first,),
            )
        )
        self._operations.update(
            dict(
                self._connection.execute(
                    "SELECT kind, count(*) FROM operations WHERE height > ? AND height <= ? "
                    "GROUP BY kind",
                    (self.height, last),
                )
            )
        )
        self._last_blocks = tuple(
            _block_facts(decode(header, Header), certificate, counts.get(height, 0))
            for height, header, certificate in reversed(rows)
        )
        certified = [block.height for block in self._last_blocks if block.signers]
        self._certified_height = max(certified, default=self._certified_height)
        self._header = decode(rows[0][1], Header)

    def _read_events(self) -> None:
        rows = self._connection.execute(
            "SELECT kind, payload FROM events WHERE height > ? ORDER BY height, position",
            (self.height,),
        )
        for kind, payload in rows:
            self._take_event(kind, payload)

    def _take_event(self, kind: str, payload: bytes) -> None:
        match kind:
            case "receipt":
                self._receipts[_payload(payload, Receipt).result] += 1
            case "gate-closed":
                gate = _payload(payload, GateClosed)
                self._slots[gate.slot].gate = gate
            case "cleared":
                cleared = _payload(payload, Cleared)
                self._slots[cleared.slot].cleared = cleared
                self._street.clear(cleared)
            case "trade":
                trade = _payload(payload, TradeExecuted)
                self._slots[trade.slot].trades.append(trade)
            case "settlement-line":
                line = _payload(payload, SettlementLine)
                self._slots[line.slot].lines.append(line)
                self._tallies[line.member].add(line)
            case "settled":
                settled = _payload(payload, SlotSettled)
                known = self._slots[settled.slot]
                known.settled = settled
                self._street.settle(settled, known.lines)
            case _:
                pass

    def _read_traces(self) -> None:
        """Read the traces of slots that were not settled when last seen; others do not change."""
        traces: dict[int, list[TraceRound]] = {}
        rows = self._connection.execute(
            "SELECT slot, round, price, demand_mwh, supply_mwh FROM local_traces "
            "WHERE slot >= ? ORDER BY slot, round",
            (min(self._unsettled(), default=0),),
        )
        for slot, *entry in rows:
            traces.setdefault(slot, []).append(TraceRound(*entry))
        for slot, trace in traces.items():
            self._slots[slot].trace = trace

    def _read_state(self) -> None:
        self._balances = {
            key.partition("/")[2]: _payload(value, accounts.Account).balance_nano
            for key, value in self._entries("account")
        }
        self._open_orders = Counter(
            int(key.split("/")[1])
            for key, value in self._entries("order")
            if not _payload(value, StandingOrder).is_withdrawn
        )
        self._readings = Counter(int(key.split("/")[1]) for key, _ in self._entries("reading"))
        for slot in self._unsettled():
            known = self._slots[slot]
            if known.book is None and known.gate is not None:
                known.book = self._book(slot)

    def _entries(self, kind: str) -> Iterable[tuple[str, bytes]]:
        """Return the state's entries of one kind; "0" is the character after "/"."""
        return self._connection.execute(
            "SELECT key, value FROM state WHERE key >= ? AND key < ?", (f"{kind}/", f"{kind}0")
        )

    def _book(self, slot: int) -> Book | None:
        row = self._connection.execute(
            "SELECT value FROM state WHERE key = ?", (book_key(slot),)
        ).fetchone()
        return None if row is None else _payload(row[0], BookRecord).book

    def _forget_old_slots(self) -> None:
        """Keep what is shown; the tallies hold the rest, and `lines` reads the file."""
        for slot in sorted(self._slots)[:-SLOTS_SHOWN_MAX]:
            if self._slots[slot].settled is not None:
                del self._slots[slot]

    def _unsettled(self) -> list[int]:
        return [slot for slot, known in self._slots.items() if known.settled is None]

    # -- facts -----------------------------------------------------------------------------------

    @property
    def _head(self) -> str:
        return self._header.digest(self.genesis.chain_id).hex() if self.height else ""

    def _genesis_facts(self) -> GenesisFacts:
        genesis, rules = self.genesis, self.genesis.rules
        return GenesisFacts(
            community=genesis.community,
            currency=rules.currency,
            mechanism=rules.mechanism,
            chain_id=genesis.chain_id.hex(),
            speed=genesis.clock.speed,
            slot_minutes=self._calendar.length_ms // MINUTE_MS,
            first_slot=self._calendar.first,
            slots=self._calendar.count,
            homes=tuple(self._homes),
            endorsers=genesis.epoch.members,
            quorum=genesis.epoch.quorum,
            service_fee_ppm=rules.fees.buyer_fee_ppm,
        )

    def _current_slot(self) -> int:
        first = self._calendar.first
        slot = max(first, self._calendar.slot_at(self._header.time_ms))
        return min(slot, first + self._calendar.count - 1) if self._calendar.count else slot

    def _slots_shown(self) -> range:
        """Return the whole calendar if it is short, else the last slots up to the newest known."""
        first, count = self._calendar.first, self._calendar.count
        if 0 < count <= SLOTS_SHOWN_MAX:
            return range(first, first + count)
        newest = max((*self._slots, *self._open_orders, self._current_slot()))
        return range(max(first, newest + 1 - SLOTS_SHOWN_MAX), newest + 1)

    def _label(self, slot: int) -> str:
        return _time_of_day(self._calendar.start_ms(slot))

    def _facts(self, slot: int) -> SlotFacts:
        known = self._slots.get(slot, SlotRecord())
        tariff, band = tariff_of(self.genesis.rules, slot), band_in(self.genesis.rules, slot)
        cleared, settled = known.cleared, known.settled
        supply_wh, demand_wh = ordered_wh(known)
        return SlotFacts(
            slot=slot,
            label=self._label(slot),
            label_end=_time_of_day(self._calendar.end_ms(slot)),
            stage=self._stage(slot, known),
            retail_micro_per_kwh=tariff.retail_micro_per_kwh,
            feed_in_micro_per_kwh=tariff.feed_in_micro_per_kwh,
            lo_micro_per_kwh=band.lo,
            hi_micro_per_kwh=band.hi,
            orders=known.gate.orders if known.gate else self._open_orders[slot],
            readings=self._readings[slot],
            rung=cleared.rung if cleared else None,
            reason=reason_of(known, is_band_open=band.is_open),
            price_micro_per_kwh=cleared.price if cleared and cleared.traded_wh else None,
            rounds=cleared.rounds if cleared else 0,
            traded_wh=cleared.traded_wh if cleared else 0,
            supply_wh=supply_wh,
            demand_wh=demand_wh,
            import_wh=sum(line.import_wh for line in known.lines),
            export_wh=sum(line.export_wh for line in known.lines),
            grid_import_wh=settled.grid_import_wh if settled else 0,
            grid_export_wh=settled.grid_export_wh if settled else 0,
            saved_nano=sum(line.grid_only_nano - line.bill_nano for line in known.lines),
        )

    def _stage(self, slot: int, known: SlotRecord) -> Stage:
        """Say how far a slot has come: by its events, and by the time of the last block."""
        time_ms = self._header.time_ms
        if known.settled is not None:
            return Stage.SETTLED
        if time_ms >= self._calendar.end_ms(slot):
            return Stage.SETTLING
        if time_ms >= self._calendar.start_ms(slot):
            return Stage.DELIVERING
        if known.cleared is not None:
            return Stage.CLEARED
        if known.gate is not None:
            return Stage.NEGOTIATING
        gate_ms = self._calendar.deadline(slot, DeadlineKind.GATE).time_ms
        is_open = self._calendar.opening_ms(slot) <= time_ms < gate_ms
        return Stage.ORDERS if is_open else Stage.WAITING

    def _home_totals(self, home: str) -> HomeTotals:
        tally = self._tallies[home]
        return HomeTotals(
            home=home,
            is_endorser=home in self.genesis.epoch.members,
            slots=tally.slots,
            substituted=tally.substituted,
            bill_nano=tally.bill_nano,
            grid_only_nano=tally.grid_only_nano,
            fees_nano=tally.fees_nano,
            bought_wh=tally.bought_wh,
            sold_wh=tally.sold_wh,
            grid_import_wh=tally.grid_import_wh,
            grid_export_wh=tally.grid_export_wh,
            import_wh=tally.import_wh,
            export_wh=tally.export_wh,
        )

    def _totals(self) -> StreetTotals:
        tallies, street = self._tallies.values(), self._street
        return StreetTotals(
            slots_cleared=street.rungs.total(),
            slots_settled=street.settled,
            traded_wh=street.traded_wh,
            bill_nano=sum(tally.bill_nano for tally in tallies),
            grid_only_nano=sum(tally.grid_only_nano for tally in tallies),
            import_wh=sum(tally.import_wh for tally in tallies),
            export_wh=sum(tally.export_wh for tally in tallies),
            shared_wh=street.shared_wh,
            grid_import_wh=street.grid_import_wh,
            grid_export_wh=street.grid_export_wh,
            operator_nano=self._balances.get(accounts.OPERATOR, 0),
            network_nano=self._balances.get(accounts.NETWORK, 0),
            community_nano=self._balances.get(accounts.COMMUNITY, 0),
            grid_nano=self._balances.get(accounts.GRID, 0),
            money_sum_nano=sum(self._balances.values()),
            ladder=Ladder(
                negotiated=street.rungs[Rung.NEGOTIATED],
                standing=street.rungs[Rung.STANDING],
                grid=street.rungs[Rung.GRID],
            ),
        )

    def _chain_facts(self) -> ChainFacts:
        return ChainFacts(
            height=self.height,
            certified_height=self._certified_height,
            head=self._head,
            time_ms=self._header.time_ms,
            operations=dict(sorted(self._operations.items())),
            receipts=dict(sorted(self._receipts.items())),
            last_blocks=self._last_blocks,
        )


def _open(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise ConfigError(f"there is no ledger {path}; name a node's ledger.db")
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )


def _read_genesis(connection: sqlite3.Connection, path: Path) -> Genesis:
    try:
        row = connection.execute("SELECT value FROM chain WHERE key = 'genesis'").fetchone()
    except sqlite3.Error as error:
        raise ConfigError(f"{path} cannot be read: {error}; name a node's ledger.db") from error
    if row is None:
        raise ConfigError(f"{path} has no genesis yet; the node is waiting for it")
    return parse_genesis(row[0])


def _payload(data: bytes, type_: type[_T]) -> _T:
    """Decode what this node's own execution has written."""
    decoder_key: Any = type_
    return _DECODERS[decoder_key].decode(data)  # type: ignore[no-any-return] # keyed by its type


_DECODERS: dict[type[Any], msgspec.msgpack.Decoder[Any]] = {
    type_: msgspec.msgpack.Decoder(type_)
    for type_ in (
        *(Receipt, GateClosed, Cleared, TradeExecuted, SettlementLine, SlotSettled),
        *(accounts.Account, StandingOrder, BookRecord),
    )
}


def _time_of_day(time_ms: int) -> str:
    minute = time_ms // MINUTE_MS % MINUTES_PER_DAY
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _block_facts(header: Header, certificate: bytes | None, operations: int) -> BlockFacts:
    signatures = (
        decode(certificate, Certificate, bytes_max=CERTIFICATE_BYTES_MAX).signatures
        if certificate
        else ()
    )
    return BlockFacts(
        height=header.height,
        time_ms=header.time_ms,
        operations=operations,
        signers=tuple(member for member, _ in signatures),
    )

"""A street's ledger made by hand: signed operations, real execution, real certificates, no bus.

One process plays every home: orders from a street's profiles with a small error, negotiation with
the homes' own negotiators, readings from the profiles.  Time is the block time that is written.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import msgspec

from consensus.block import Certificate, Content
from consensus.operation import Operation
from market.ceilings import ceiling_mwh
from market.contracts.matching import BookRecord
from market.negotiation.protocol import Turn
from market.negotiation.two_level import TwoLevelNegotiator
from market.orders import Side
from market.payloads import OrderPayload, Quality, ReadingPayload, Source
from market.rules import Household, Quotas, Rules, TariffStep
from market.slot import DeadlineKind, SlotCalendar
from market.state import book_key, read
from market.statements import Statement
from market.tariffs import Fees
from node.client import Client
from node.clock import ClockRules
from node.execution import ExecutedBlock, Execution
from node.genesis import PROTOCOL_VERSION, ConsensusRules, Genesis
from node.identity import Identity, SodiumVerifier
from node.store import LedgerStore
from node.streets.street import HomeProfile, Street
from tests.support.certified import sign_certificate

EPOCH_DAY = 20_625
MINUTE_MS = 60_000
BUYERS_WANT_PERCENT = 70
"""Buyers ask for less than they may at a price, so that finding one takes several rounds."""

Step = Callable[[], Iterable[Operation]]


def small_street(
    *, loads: Mapping[str, Sequence[int]], roofs: Mapping[str, Sequence[int]], first_minute: int = 0
) -> Street:
    """Make a street of hourly slots from net profiles [Wh]: 0.30 retail, 0.08 feed-in."""
    slots = len(next(iter(loads.values())))
    return Street(
        name="small",
        source="made for a test",
        currency="EUR",
        slot_minutes=60,
        first_minute=first_minute,
        homes=tuple(
            HomeProfile(home, tuple(load), tuple(roofs.get(home, (0,) * slots)))
            for home, load in loads.items()
        ),
        retail_micro_per_kwh=(300_000,) * slots,
        feed_in_micro_per_kwh=(80_000,) * slots,
    )


def street_genesis(street: Street, identities: Mapping[str, Identity], endorsers: int) -> Genesis:
    """Write down a street's rules, paced as in the demonstration."""
    slot_ms = street.slot_minutes * MINUTE_MS
    first = (EPOCH_DAY * 24 * 60 + street.first_minute) // street.slot_minutes
    keys = {home: identity.public_key for home, identity in identities.items()}
    rules = Rules(
        currency=street.currency,
        calendar=SlotCalendar(
            length_ms=slot_ms,
            first=first,
            count=street.slots,
            opens_ms=slot_ms * 14 // 10,
            gate_ms=slot_ms * 9 // 10,
            clearing_ms=slot_ms * 2 // 10,
            settlement_ms=slot_ms,
        ),
        tariffs=tuple(TariffStep(first + i, each) for i, each in enumerate(street.tariffs)),
        fees=Fees(5_000, 5_000, 0, 0),
        mechanism="two-level",
        fallback_haircut_ppm=100_000,
        phase_ms=1000,
        relay_step_ms=1000,
        quotas=Quotas(operations=16, operation_bytes=32 * 1024),
        households=tuple(Household(home, key, 50_000, 50_000) for home, key in keys.items()),
    )
    return Genesis(
        protocol_version=PROTOCOL_VERSION,
        community="demo",
        clock=ClockRules(origin_ms=(first - 2) * slot_ms, start_ms=0, speed=1800),
        consensus=ConsensusRules(batch_wait_ms=20, resend_ms=150, clock_ahead_ms=250),
        rules=rules,
        endorsers=tuple(sorted(keys.items())[:endorsers]),
    )


@dataclass(slots=True)
class StreetLedger:
    """Writes a street's day into one ledger, block by block.

    Slots in `quiet` are not negotiated, so that they fall back to the standing orders; homes in
    `unread` never report.
    """

    path: Path
    street: Street
    genesis: Genesis
    store: LedgerStore
    execution: Execution
    identities: dict[str, Identity]
    clients: dict[str, Client]
    quiet: frozenset[int]
    unread: frozenset[str]
    steps: list[tuple[int, Step]] = field(default_factory=list)
    _traces: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    @classmethod
    async def create(
        cls,
        path: Path,
        street: Street,
        *,
        endorsers: int = 4,
        quiet: Iterable[int] = (),
        unread: Iterable[str] = (),
    ) -> Self:
        """Found a ledger; nothing has happened yet."""
        identities = {
            home.id: Identity(bytes((index + 1,)) * 32) for index, home in enumerate(street.homes)
        }
        genesis = street_genesis(street, identities, endorsers)
        execution = Execution(genesis, SodiumVerifier())
        store = await LedgerStore.open(path)
        await store.found(genesis, execution.state.items())
        ledger = cls(
            path,
            street,
            genesis,
            store,
            execution,
            identities,
            {home: _client(home, each, genesis) for home, each in identities.items()},
            frozenset(quiet),
            frozenset(unread),
        )
        ledger.steps = sorted(ledger._day(), key=lambda step: step[0])
        return ledger

    async def close(self) -> None:
        """Close the file."""
        await self.store.close()

    async def run_day(self) -> None:
        """Write the whole day."""
        while self.steps:
            await self.step()

    async def run_until(self, slot_index: int, part: float = 0.5) -> None:
        """Write everything up to a point in a slot's delivery."""
        length_ms = self.genesis.rules.calendar.length_ms
        until_ms = self._slot(slot_index) * length_ms + int(part * length_ms)
        while self.steps and self.steps[0][0] <= until_ms:
            await self.step()

    async def step(self) -> None:
        """Write the next block."""
        time_ms, operations_of = self.steps.pop(0)
        await self.write_block(time_ms, tuple(operations_of()))
        if self._traces:
            await self.store.note(received=(), values=(), traces=self._traces)
            self._traces = []

    async def write_block(
        self, time_ms: int, operations: tuple[Operation, ...], *, is_certified: bool = True
    ) -> None:
        """Execute and store one block, certified by a quorum that rotates."""
        height = self.execution.header.height + 1
        content = Content(0, height, time_ms, tuple(each.id for each in operations))
        executed = self.execution.execute(content, operations)
        certificate = self._certificate(executed) if is_certified else None
        await self.store.append(executed, certificate)

    def sign_order_again(self, home: str, index: int) -> Operation:
        """Return a second, valid revision of a home's order; whether it is in time is not asked."""
        order = OrderPayload(self._slot(index), 2, Side.BUY, 100, 0, 0)
        return self._sign(home, "order", index, order)

    def _certificate(self, executed: ExecutedBlock) -> Certificate:
        epoch = self.genesis.epoch
        members, height = epoch.members, executed.header.height
        turned = [members[(height + i) % len(members)] for i in range(epoch.quorum)]
        return sign_certificate(self.genesis, self.identities, executed, sorted(turned))

    # -- the day -------------------------------------------------------------------------------

    def _day(self) -> Iterator[tuple[int, Step]]:
        calendar = self.genesis.rules.calendar
        for index in range(self.street.slots):
            slot = self._slot(index)
            gate, clearing, settlement = (
                calendar.deadline(slot, kind).time_ms for kind in DeadlineKind
            )
            yield calendar.opening_ms(slot) + 1, partial(self._orders, index)
            yield gate, tuple
            if index not in self.quiet:
                yield gate + 1, partial(self._statements, index)
            yield clearing, tuple
            yield calendar.end_ms(slot), partial(self._readings, index)
            yield settlement, tuple

    def _slot(self, index: int) -> int:
        return self.genesis.rules.calendar.first + index

    def _net_wh(self, home: HomeProfile, index: int) -> int:
        return home.load_wh[index] - home.pv_wh[index]

    def _orders(self, index: int) -> Iterator[Operation]:
        for number, home in enumerate(self.street.homes):
            error_percent = (7 * index + 3 * number) % 11 - 5
            net_wh = self._net_wh(home, index) * (100 + error_percent) // 100
            if net_wh:
                side = Side.BUY if net_wh > 0 else Side.SELL
                order = OrderPayload(self._slot(index), 1, side, abs(net_wh), 0, 0)
                yield self._sign(home.id, "order", index, order)

    def _readings(self, index: int) -> Iterator[Operation]:
        for home in self.street.homes:
            if home.id not in self.unread:
                net_wh = self._net_wh(home, index)
                reading = ReadingPayload(
                    self._slot(index),
                    max(0, net_wh),
                    max(0, -net_wh),
                    Quality.MEASURED,
                    Source.HOUSEHOLD,
                )
                yield self._sign(home.id, "reading", index, reading)

    def _statements(self, index: int) -> Iterator[Operation]:
        record = read(self.execution.state, book_key(self._slot(index)), BookRecord)
        assert record is not None
        if record.book.has_market:
            relayed, trace = _negotiate(record)
            self._traces += [(record.book.slot, *entry) for entry in trace]
            for member, statement in relayed:
                yield self._sign(member, "statement", index, statement)

    def _sign(self, home: str, kind: str, index: int, payload: msgspec.Struct) -> Operation:
        expires_ms = self.genesis.rules.calendar.end_ms(self._slot(index)) + 2 * 3_600_000
        return self.clients[home].sign(kind, payload, expires_ms)


def _client(home: str, identity: Identity, genesis: Genesis) -> Client:
    return Client(
        member=home,
        chain_id=genesis.chain_id,
        signer=identity,
        first_nonce=1,
        outbox=(),
        resend_ms=1000,
        random_salt=lambda: bytes(16),
    )


def _negotiate(
    record: BookRecord,
) -> tuple[list[tuple[str, Statement]], tuple[tuple[int, int, int, int], ...]]:
    """Let the homes of a book find a price, with no loss and no delay."""
    book = record.book

    def curve_of(member: str) -> Callable[[int], int]:
        order = book.by_member[member]
        percent = BUYERS_WANT_PERCENT if order.side is Side.BUY else 100
        return lambda price: ceiling_mwh(book.band, order, price) * percent // 100

    homes = {
        member: TwoLevelNegotiator(
            book=book,
            book_digest=record.digest,
            member=member,
            curve=curve_of(member),
            phase_ms=1000,
            deadline_ms=10**9,
        )
        for member in book.by_member
    }
    said: dict[tuple[str, int], Statement] = {}
    relayed: set[tuple[str, int]] = set()
    waiting: list[tuple[str, Statement]] = []

    def note(member: str, turn: Turn) -> None:
        for statement in turn.publish:
            said[member, statement.round] = statement
            waiting.append((member, statement))
        relayed.update(turn.relay)

    for member, home in homes.items():
        note(member, home.start(0))
    while waiting:
        sender, statement = waiting.pop(0)
        for member, home in homes.items():
            note(member, home.receive(sender, statement, 0))
    trace = next(iter(homes.values())).trace
    return [(member, said[member, number]) for member, number in sorted(relayed)], trace

"""A small street without bus, disk and votes: rules, an exchange to play with, signed blocks.

`TradingStreet` applies operations to an `Exchange` as execution would, deadlines first; `Chain`
signs them and executes whole blocks.  Homes `s1`, `s2` and `b1`, `b2` trade hourly slots in the
band 80000 to 300000 micro/kWh unless a test says otherwise.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from consensus.block import Content
from consensus.codec import encode
from consensus.operation import Channel, Operation, OperationBody, sign_operation
from market.ceilings import ceiling_mwh, standing_price
from market.contracts import accounts
from market.contracts.matching import BookRecord
from market.events import Event, SettlementLine
from market.exchange import Exchange, Outcome, Submission
from market.orders import Side
from market.payloads import (
    ContradictionPayload,
    OrderPayload,
    Quality,
    ReadingPayload,
    Source,
    WithdrawalPayload,
    channel_of,
)
from market.rules import Household, Quotas, Rules, TariffStep
from market.slot import DeadlineKind, SlotCalendar
from market.state import book_key, closed_key, contracts_key, read
from market.statements import Statement
from market.statements_paper import PaperStatement
from market.tariffs import Fees, Tariff
from node.clock import ClockRules
from node.execution import ExecutedBlock, Execution
from node.genesis import PROTOCOL_VERSION, ConsensusRules, Genesis
from node.identity import Identity, SodiumVerifier

HOUR_MS = 3_600_000
FIRST = 480_000
HOMES = ("b1", "b2", "s1", "s2")
CONNECTION_W = 10_000
NO_FEES = Fees(0, 0, 0, 0)
TARIFF = Tariff(retail_micro_per_kwh=300_000, feed_in_micro_per_kwh=80_000)

_KINDS: dict[type[Any], str] = {
    OrderPayload: "order",
    WithdrawalPayload: "withdraw",
    ReadingPayload: "reading",
    ContradictionPayload: "contradiction",
    Statement: "statement",
    PaperStatement: "statement",
}


def make_calendar(**changes: int) -> SlotCalendar:
    """Make hourly slots; they open 120, close 54 and clear 12 minutes before delivery."""
    minute_ms = HOUR_MS // 60
    fields = {
        "length_ms": HOUR_MS,
        "first": FIRST,
        "count": 24,
        "opens_ms": 120 * minute_ms,
        "gate_ms": 54 * minute_ms,
        "clearing_ms": 12 * minute_ms,
        "settlement_ms": HOUR_MS,
    }
    return SlotCalendar(**(fields | changes))


def make_rules(
    homes: Sequence[str] = HOMES, *, keys: Mapping[str, bytes] | None = None, **changes: Any
) -> Rules:
    """Make the rules of a street without fees; `changes` replace whole fields."""
    fields: dict[str, Any] = {
        "currency": "EUR",
        "calendar": make_calendar(),
        "tariffs": (TariffStep(0, TARIFF),),
        "fees": NO_FEES,
        "mechanism": "two-level",
        "fallback_haircut_ppm": 100_000,
        "phase_ms": 1000,
        "relay_step_ms": 1000,
        "quotas": Quotas(operations=16, operation_bytes=32 * 1024),
        "households": tuple(
            Household(home, keys[home] if keys else bytes(32), CONNECTION_W, CONNECTION_W)
            for home in homes
        ),
    }
    return Rules(**(fields | changes))


def order(
    side: Side,
    firm_wh: int,
    flexible_wh: int = 0,
    limit: int = 0,
    *,
    slot: int = FIRST,
    revision: int = 1,
) -> OrderPayload:
    """Make an order of the first slot."""
    return OrderPayload(slot, revision, int(side), firm_wh, flexible_wh, limit)


def reading(import_wh: int = 0, export_wh: int = 0, *, slot: int = FIRST) -> ReadingPayload:
    """Make a meter reading of the first slot."""
    return ReadingPayload(slot, import_wh, export_wh, Quality.MEASURED, Source.HOUSEHOLD)


def salt_of(member: str) -> bytes:
    """Return the salt that a home uses in these tests."""
    return hashlib.sha256(member.encode()).digest()[:16]


def evidence(member: str, first: msgspec.Struct, second: msgspec.Struct) -> ContradictionPayload:
    """Wrap two statements of a member as `TradingStreet` opens them."""
    return ContradictionPayload(encode((member, first)), encode((member, second)))


class TradingStreet:
    """An exchange and its state, moved by operations and time."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or make_rules()
        self.exchange = Exchange(self.rules, self._open_statement)
        self.state: dict[str, bytes] = {}
        self.events: list[Event] = []
        self._write(self.exchange.genesis_writes())

    def get(self, key: str) -> bytes | None:
        """Be a view of the state."""
        return self.state.get(key)

    def deadline_ms(self, kind: DeadlineKind, slot: int = FIRST) -> int:
        """Return when something is due."""
        return self.rules.calendar.deadline(slot, kind).time_ms

    @property
    def gate_ms(self) -> int:
        """The gate closure of the first slot."""
        return self.deadline_ms(DeadlineKind.GATE)

    @property
    def clearing_ms(self) -> int:
        """The clearing of the first slot."""
        return self.deadline_ms(DeadlineKind.CLEARING)

    @property
    def settlement_ms(self) -> int:
        """The settlement of the first slot."""
        return self.deadline_ms(DeadlineKind.SETTLEMENT)

    def pass_time(self, time_ms: int) -> None:
        """Run every deadline until this time in a block of its own, as a chain in time does."""
        while (deadline := self.exchange.next_deadline(self)) and deadline.time_ms <= time_ms:
            self.run_until(deadline.time_ms)

    def run_until(self, time_ms: int) -> list[Event]:
        """Run all that is due in one block of this time; return what it gave."""
        events = []
        while (deadline := self.exchange.next_deadline(self)) and deadline.time_ms <= time_ms:
            outcome = self.exchange.run(self, deadline, time_ms)
            self._write(outcome.writes)
            events += outcome.events
        self.events += events
        return events

    def submission(self, member: str, payload: Any, **changes: Any) -> Submission:
        """Make what execution would hand to the exchange."""
        kind = changes.get("kind") or _KINDS[type(payload)]
        fields = {
            "kind": kind,
            "channel": channel_of(kind),
            "signer": member,
            "payload": payload,
            "salt": salt_of(member),
            "size": 200,
        }
        return Submission(**(fields | changes))

    def apply(self, member: str, payload: Any, time_ms: int, **changes: Any) -> Outcome:
        """Apply one operation in a block of this time, after the deadlines."""
        self.pass_time(time_ms)
        outcome = self.exchange.apply(self, self.submission(member, payload, **changes), time_ms)
        self._write(outcome.writes)
        return outcome

    def order(self, member: str, side: Side, firm_wh: int, *rest: int, slot: int = FIRST) -> None:
        """Have an order taken just after opening."""
        opening_ms = self.rules.calendar.opening_ms(slot)
        payload = order(side, firm_wh, *rest, slot=slot)
        result = self.apply(member, payload, opening_ms).result
        assert result == "ok", result

    def close_gate(self, slot: int = FIRST) -> BookRecord:
        """Close the gate of a slot and return its book."""
        self.pass_time(self.deadline_ms(DeadlineKind.GATE, slot))
        record = read(self, book_key(slot), BookRecord)
        assert record is not None
        return record

    def statement(self, price: int, energy_mwh: int, round_number: int = 1) -> Statement:
        """Make a statement about the book of the first slot."""
        record = read(self, book_key(FIRST), BookRecord)
        assert record is not None
        return Statement(FIRST, record.digest, round_number, price, energy_mwh)

    def negotiate(self, slot: int = FIRST) -> int:
        """Have everybody state its ceiling at the standing price, which is returned."""
        record = self.close_gate(slot)
        price = standing_price(record.book)
        for member, each in record.book.by_member.items():
            energy_mwh = ceiling_mwh(record.book.band, each, price)
            statement = Statement(slot, record.digest, 1, price, energy_mwh)
            time_ms = self.deadline_ms(DeadlineKind.GATE, slot) + 1
            assert self.apply(member, statement, time_ms).result == "ok"
        return price

    def clear(self, slot: int = FIRST) -> None:
        """Clear a slot in time."""
        self.pass_time(self.deadline_ms(DeadlineKind.CLEARING, slot))

    def meter(
        self, member: str, import_wh: int = 0, export_wh: int = 0, slot: int = FIRST
    ) -> Outcome:
        """Report a reading right after delivery."""
        end_ms = self.rules.calendar.end_ms(slot)
        return self.apply(member, reading(import_wh, export_wh, slot=slot), end_ms)

    def settle(self, slot: int = FIRST) -> dict[str, SettlementLine]:
        """Settle a slot and return its lines."""
        self.pass_time(self.deadline_ms(DeadlineKind.SETTLEMENT, slot))
        return {
            event.payload.member: event.payload
            for event in self.events
            if isinstance(event.payload, SettlementLine) and event.payload.slot == slot
        }

    def balances(self) -> dict[str, int]:
        """Return every account [nano]."""
        owners = [*accounts.SHARED, *(each.member for each in self.rules.households)]
        return {owner: accounts.balance_nano(self, owner) for owner in owners}

    def keys_of(self, slot: int) -> set[str]:
        """Return every key of the state that names a slot."""
        return {key for key in self.state if str(slot) in key.split("/")}

    def _write(self, writes: Mapping[str, bytes | None]) -> None:
        for key, value in writes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def _open_statement(self, data: bytes) -> tuple[str, Any] | None:
        type_ = self.exchange.mechanism.statement_type
        assert type_ is not None
        try:
            member, statement = msgspec.msgpack.decode(data, type=tuple[str, msgspec.Raw])
            return member, msgspec.msgpack.decode(statement, type=type_)
        except msgspec.MsgspecError:
            return None


def example_street(rules: Rules | None = None) -> TradingStreet:
    """Make the first worked example of the negotiation, with its orders taken.

    Sellers of 1000 and 500 Wh, buyers of 2000 and 1000 Wh: without fees the price is 245000, and
    the buyers get half of their need.
    """
    street = TradingStreet(rules)
    street.order("s1", Side.SELL, 1000)
    street.order("s2", Side.SELL, 500)
    street.order("b1", Side.BUY, 2000)
    street.order("b2", Side.BUY, 1000)
    return street


def is_settled(street: TradingStreet, slot: int = FIRST) -> bool:
    """Whether a slot is closed and has no contracts any more."""
    state = street.state
    return closed_key(slot) in state and contracts_key(slot) not in state


class Chain:
    """Signed operations and their execution, block by block."""

    def __init__(self, homes: Sequence[str] = HOMES, **changes: Any) -> None:
        self.identities = {home: Identity(hashlib.sha256(home.encode()).digest()) for home in homes}
        keys = {home: each.public_key for home, each in self.identities.items()}
        rules = make_rules(homes, keys=keys, **changes)
        self.genesis = Genesis(
            protocol_version=PROTOCOL_VERSION,
            community="tests",
            clock=ClockRules(origin_ms=(FIRST - 2) * HOUR_MS, start_ms=0, speed=1),
            consensus=ConsensusRules(batch_wait_ms=20, resend_ms=150, clock_ahead_ms=250),
            rules=rules,
            endorsers=tuple(sorted(keys.items())[:4]),
        )
        self.execution = Execution(self.genesis, SodiumVerifier())
        self.nonces = dict.fromkeys(homes, 0)

    def sign(self, member: str, payload: msgspec.Struct | bytes, **changes: Any) -> Operation:
        """Sign an operation with the member's next nonce; `changes` replace fields of the body."""
        self.nonces[member] += 1
        kind = changes.get("kind") or _KINDS[type(payload)]
        fields: dict[str, Any] = {
            "kind": kind,
            "channel": Channel(channel_of(kind)),
            "signer": member,
            "key_version": 1,
            "nonce": self.nonces[member],
            "expires_ms": 2**62,
            "salt": salt_of(f"{member} {self.nonces[member]}"),
            "payload": payload if isinstance(payload, bytes) else encode(payload),
        }
        body = OperationBody(**(fields | changes))
        chain_id = self.genesis.chain_id
        return sign_operation(body, chain_id=chain_id, signer=self.identities[member])

    def block(self, time_ms: int, *operations: Operation) -> ExecutedBlock:
        """Execute the next block."""
        height = self.execution.header.height + 1
        content = Content(0, height, time_ms, tuple(each.id for each in operations))
        return self.execution.execute(content, operations)

    def play_slot(self, slot: int = FIRST) -> list[ExecutedBlock]:
        """Trade, deliver and settle the first worked example in a slot."""
        calendar = self.genesis.rules.calendar
        gate, clearing, settlement = (
            calendar.deadline(slot, kind).time_ms for kind in DeadlineKind
        )
        orders = {
            "s1": order(Side.SELL, 1000, slot=slot),
            "s2": order(Side.SELL, 500, slot=slot),
            "b1": order(Side.BUY, 2000, slot=slot),
            "b2": order(Side.BUY, 1000, slot=slot),
        }
        blocks = [
            self.block(calendar.opening_ms(slot), *(self.sign(*each) for each in orders.items())),
            self.block(gate),
        ]
        record = read(self.execution.state, book_key(slot), BookRecord)
        assert record is not None
        statements = [
            self.sign(
                each.member,
                Statement(slot, record.digest, 1, 245_000, each.firm_wh * 1000 // (2 - each.side)),
            )
            for each in record.book.orders
        ]
        readings = [
            self.sign("s1", reading(export_wh=900, slot=slot)),
            self.sign("s2", reading(export_wh=700, slot=slot)),
            self.sign("b1", reading(2100, slot=slot)),
        ]
        return [
            *blocks,
            self.block(gate + 1, *statements),
            self.block(clearing),
            self.block(calendar.end_ms(slot), *readings),
            self.block(settlement),
        ]

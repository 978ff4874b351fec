"""Contract `matching`: from the book through committed statements to the trades of a slot.

State: `book/<slot>`, `statements/<slot>/<member>`, `convicted/<slot>`, `contracts/<slot>`.
A member's statements are bounded apart from its quota, since others may relay them: the last
rounds are kept, so that nobody can crowd out a member's last word with its earlier ones.
Operations: `statement` (a participant's last word, relayed by anybody), `contradiction` (two signed
statements that convict their sender).  Nobody submits a clearing: at the deadline every replica
derives it from what is committed, so nobody can forge, choose or withhold it for others.
Refusals: outside the negotiation, about another book, from a member without an order, repeated,
of an earlier round than all that are kept.
"""

import hashlib
from typing import Any

import msgspec

from market.clearing import GRID_ONLY, Clearing, Position, Rung
from market.contracts.offers import standing_orders
from market.contracts.tariffs import band_in
from market.errors import Refused, Result
from market.events import INFO, TRADE, Cleared, Event, GateClosed, PriceFound, TradeExecuted
from market.mechanisms.protocol import Mechanism
from market.orders import Book, Order, Side
from market.rules import Rules
from market.state import (
    Draft,
    View,
    book_key,
    contracts_key,
    convicted_key,
    read,
    statements_key,
)
from market.units import PPM, amount_nano

STATEMENTS_MAX = 16
"""Statements that count, per member and slot: as many as `two-level` has rounds."""

_encode = msgspec.msgpack.Encoder().encode


class BookRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The book of a slot and the digest that statements name."""

    book: Book
    digest: bytes


class Statements(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member's committed statements, encoded, by rising round."""

    payloads: tuple[bytes, ...]


class Convicted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Members left out of a slot's clearing because they contradicted themselves."""

    members: tuple[str, ...]


class ContractedPosition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a participant has contracted: energy [Wh] and the amount it pays or gets [nano]."""

    member: str
    side: Side
    energy_wh: int
    amount_nano: int


class Contracts(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The trades of a slot, kept until settlement."""

    rung: Rung
    price: int
    positions: tuple[ContractedPosition, ...]


def book_digest(book: Book) -> bytes:
    """Return the digest by which statements refer to `book`."""
    return hashlib.sha256(b"book\0" + _encode(book)).digest()


def close_gate(draft: Draft, rules: Rules, slot: int) -> list[Event]:
    """Fix the book of a slot."""
    band = band_in(rules, slot)
    orders = standing_orders(draft, rules, slot)
    book = Book(slot=slot, lo=band.lo, hi=band.hi, orders=orders)
    digest = book_digest(book)
    draft.put(book_key(slot), BookRecord(book, digest))
    return [Event(TRADE, "", GateClosed(slot, digest, len(orders), band.lo, band.hi))]


def open_book(view: View, slot: int) -> BookRecord:
    """Return the book of a slot under negotiation.

    Raises:
        Refused: The gate has not closed, or the slot has been cleared.
    """
    record = read(view, book_key(slot), BookRecord)
    if record is None or view.get(contracts_key(slot)) is not None:
        raise Refused(Result.NOT_NEGOTIATING, f"slot {slot} is not under negotiation")
    return record


def state(draft: Draft, member: str, statement: Any) -> None:  # noqa: ANN401 - of the mechanism's statement type
    """Take a participant's statement.

    Raises:
        Refused: Not under negotiation, another book, no order, the same statement again, or
            `STATEMENTS_MAX` of the same or a later round are kept.
    """
    record = open_book(draft, statement.slot)
    if statement.book_digest != record.digest:
        raise Refused(Result.OTHER_BOOK, f"slot {statement.slot} has another book")
    if member not in record.book.by_member:
        raise Refused(Result.NO_ORDER, f"{member} has no order in slot {statement.slot}")
    key = statements_key(statement.slot, member)
    earlier = draft.read(key, Statements) or Statements(())
    payload = _encode(statement)
    if payload in earlier.payloads:
        raise Refused(Result.REPEATED, f"{member} has stated this already")
    decoder = msgspec.msgpack.Decoder(type(statement))
    kept = [decoder.decode(each) for each in earlier.payloads]
    if len(kept) == STATEMENTS_MAX and kept.pop(0).round >= statement.round:
        raise Refused(
            Result.SUPERSEDED, f"{STATEMENTS_MAX} statements of {member} are no older than this"
        )
    kept = sorted((*kept, statement), key=lambda each: each.round)
    draft.put(key, Statements(tuple(_encode(each) for each in kept)))


def contradict(
    draft: Draft,
    mechanism: Mechanism,
    *,
    member: str,
    first: Any,  # noqa: ANN401 - of the mechanism's statement type
    second: Any,  # noqa: ANN401 - the same
) -> None:
    """Take evidence that `member` contradicted itself; both statements are authenticated.

    Raises:
        Refused: Not under negotiation, not a contradiction, or convicted already.
    """
    record = open_book(draft, first.slot)
    if {first.book_digest, second.book_digest} != {record.digest}:
        raise Refused(Result.OTHER_BOOK, f"slot {first.slot} has another book")
    if not mechanism.contradict(record.book, member, first, second):
        raise Refused(Result.NO_CONTRADICTION, f"the statements of {member} agree")
    convicted = draft.read(convicted_key(first.slot), Convicted) or Convicted(())
    if member in convicted.members:
        raise Refused(Result.REPEATED, f"{member} is convicted already")
    draft.put(convicted_key(first.slot), Convicted(tuple(sorted((*convicted.members, member)))))


def clear(draft: Draft, mechanism: Mechanism, slot: int, *, is_late: bool) -> list[Event]:
    """Derive the trades of a slot from what is committed, and record them.

    `is_late` says that delivery has begun: the slot then gets the grid tariff, never an auction of
    what has been delivered already.
    """
    record = open_book(draft, slot)
    book = record.book
    convicted = draft.read(convicted_key(slot), Convicted) or Convicted(())
    clearing = GRID_ONLY
    if not is_late:
        statements = _committed_statements(draft, mechanism, book)
        clearing = mechanism.clear(book, statements, convicted.members)
    positions = tuple(
        ContractedPosition(each.member, each.side, each.energy_wh, _amount_nano(clearing, each))
        for each in clearing.positions
        if each.energy_wh
    )
    draft.put(
        contracts_key(slot), Contracts(clearing.rung, clearing.price_micro_per_kwh, positions)
    )
    return [
        _cleared_event(mechanism, book, clearing),
        *(_trade_event(book, clearing, each) for each in positions),
        *_price_events(book, clearing),
    ]


def _committed_statements(draft: Draft, mechanism: Mechanism, book: Book) -> dict[str, list[Any]]:
    if mechanism.statement_type is None:
        return {}
    decoder = msgspec.msgpack.Decoder(mechanism.statement_type)
    committed = {}
    for order in book.orders:
        statements = draft.read(statements_key(book.slot, order.member), Statements)
        if statements is not None:
            committed[order.member] = [decoder.decode(each) for each in statements.payloads]
    return committed


def _amount_nano(clearing: Clearing, position: Position) -> int:
    """Money of one participant: its own price, or the sum over flows that have their own."""
    if position.price_micro_per_kwh is not None:
        return amount_nano(position.energy_wh, position.price_micro_per_kwh)
    amount = 0
    for flow in clearing.flows:
        if position.member in (flow.buyer, flow.seller):
            assert flow.price_micro_per_kwh is not None, flow
            amount += amount_nano(flow.energy_wh, flow.price_micro_per_kwh)
    return amount


def _ordered_wh(book: Book, side: Side) -> int:
    return sum(each.firm_wh + each.flexible_wh for each in book.orders if each.side is side)


def _cleared_event(mechanism: Mechanism, book: Book, clearing: Clearing) -> Event:
    cleared = Cleared(
        slot=book.slot,
        mechanism=mechanism.name,
        rung=clearing.rung,
        price=clearing.price_micro_per_kwh,
        rounds=clearing.rounds,
        traded_wh=clearing.traded_wh,
        supply_wh=_ordered_wh(book, Side.SELL),
        demand_wh=_ordered_wh(book, Side.BUY),
    )
    return Event(TRADE, "", cleared)


def _trade_event(book: Book, clearing: Clearing, position: ContractedPosition) -> Event:
    partners = tuple(
        (flow.seller if position.side is Side.BUY else flow.buyer, flow.energy_wh)
        for flow in clearing.flows
        if position.member in (flow.buyer, flow.seller)
    )
    order: Order = book.by_member[position.member]
    trade = TradeExecuted(
        slot=book.slot,
        member=position.member,
        side=position.side,
        energy_wh=position.energy_wh,
        amount_nano=position.amount_nano,
        partners=partners,
    )
    return Event(TRADE, position.member, trade, order.salt)


def _price_events(book: Book, clearing: Clearing) -> list[Event]:
    if clearing.rung is not Rung.NEGOTIATED or not clearing.traded_wh:
        return []
    shares = tuple(
        (each.member, each.energy_wh * PPM // clearing.traded_wh)
        for each in clearing.positions
        if each.side is Side.SELL
    )
    found = PriceFound(book.slot, clearing.price_micro_per_kwh, clearing.rounds, shares)
    return [Event(INFO, "", found)]

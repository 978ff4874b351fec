"""Contract `settlement`: contracted against metered energy, each deviation charged exactly once.

For every household and slot, the imbalance is what the meter counted beyond the contract, whatever
number of trades the contract has.  A shortfall is bought from the grid at the retail price by
whoever caused it, a surplus goes to the grid at the feed-in price (Zhao et al. 2019, section 4.4:
the seller pays for what it did not deliver).  Fees lie inside the price band.  Every slot's money
sums to zero over households, operator, network, community and grid.
Operations: none; it runs at the settlement deadline.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from market.ceilings import firm_mwh
from market.contracts import accounts
from market.contracts.matching import BookRecord, ContractedPosition, Contracts
from market.contracts.metering import Reading
from market.contracts.offers import record_claim
from market.contracts.tariffs import tariff_of
from market.events import TRADE, Event, SettlementLine, SlotSettled
from market.orders import Order, Side
from market.payloads import Quality, Source
from market.rules import Rules
from market.state import (
    Draft,
    book_key,
    closed_key,
    contracts_key,
    convicted_key,
    order_key,
    reading_key,
    statements_key,
)
from market.tariffs import Tariff, trade_fee_nano
from market.units import MWH_PER_WH, amount_nano

_encode = msgspec.msgpack.Encoder().encode


class ClosedSlot(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What state keeps of a settled slot: the digest of its settlement lines and their salts."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A settlement line, and the member's own salt that blinds it."""

    line: SettlementLine
    salt: bytes


def settle(draft: Draft, rules: Rules, slot: int) -> list[Event]:
    """Settle a slot: one line per household, one booking, one digest in place of its inputs."""
    contracts = draft.read(contracts_key(slot), Contracts)
    book = draft.read(book_key(slot), BookRecord)
    positions = {each.member: each for each in contracts.positions} if contracts else {}
    orders = book.book.by_member if book else {}
    tariff = tariff_of(rules, slot)
    outcomes = []
    for household in sorted(rules.households, key=lambda each: each.member):
        member = household.member
        reading = draft.read(reading_key(slot, member), Reading)
        outcome = _settle_household(
            rules, tariff, slot, member, positions.get(member), orders.get(member), reading
        )
        outcomes.append(outcome)
        _record_claim(draft, rules, outcome.line, orders.get(member))
    settled = _book(draft, slot, outcomes)
    _close(draft, rules, slot, settled.digest)
    events = [Event(TRADE, each.line.member, each.line, each.salt) for each in outcomes]
    return [*events, Event(TRADE, "", settled)]


def _settle_household(
    rules: Rules,
    tariff: Tariff,
    slot: int,
    member: str,
    position: ContractedPosition | None,
    order: Order | None,
    reading: Reading | None,
) -> _Outcome:
    side = position.side if position else Side.BUY
    contracted_wh = position.energy_wh if position else 0
    trade_nano = position.amount_nano if position else 0
    salt = reading.salt if reading else order.salt if order else b""
    if reading is None:
        reading = _substitute(side, contracted_wh, order, salt)
    fees = rules.fees
    is_sale = side is Side.SELL
    fee_ppm = fees.seller_fee_ppm if is_sale else fees.buyer_fee_ppm
    network = fees.seller_grid_fee_micro_per_kwh if is_sale else fees.buyer_grid_fee_micro_per_kwh
    service_fee_nano = trade_fee_nano(trade_nano, fee_ppm)
    grid_fee_nano = amount_nano(contracted_wh, network)
    imbalance_wh = reading.import_wh - reading.export_wh
    imbalance_wh += contracted_wh if is_sale else -contracted_wh
    imbalance_nano = _grid_cost_nano(tariff, imbalance_wh)
    paid_nano = -trade_nano if is_sale else trade_nano
    line = SettlementLine(
        slot=slot,
        member=member,
        side=side,
        contracted_wh=contracted_wh,
        trade_nano=trade_nano,
        service_fee_nano=service_fee_nano,
        grid_fee_nano=grid_fee_nano,
        import_wh=reading.import_wh,
        export_wh=reading.export_wh,
        quality=reading.quality,
        source=reading.source,
        imbalance_import_wh=max(imbalance_wh, 0),
        imbalance_export_wh=max(-imbalance_wh, 0),
        imbalance_nano=imbalance_nano,
        retail_micro_per_kwh=tariff.retail_micro_per_kwh,
        feed_in_micro_per_kwh=tariff.feed_in_micro_per_kwh,
        bill_nano=paid_nano + service_fee_nano + grid_fee_nano + imbalance_nano,
        grid_only_nano=_grid_cost_nano(tariff, reading.import_wh - reading.export_wh),
    )
    return _Outcome(line, salt)


def _substitute(side: Side, contracted_wh: int, order: Order | None, salt: bytes) -> Reading:
    """Stand in for a missing reading with what was contracted.

    A buyer is taken to have needed at least the firm energy that it ordered, so that nobody pays
    less by not reporting what the street did not sell to it.  A seller is paid for nothing beyond
    its contract.
    """
    is_sale = side is Side.SELL
    is_need = order is not None and order.side is Side.BUY
    need_wh = order.firm_wh if order is not None and is_need else 0
    return Reading(
        import_wh=0 if is_sale else max(contracted_wh, need_wh),
        export_wh=contracted_wh if is_sale else 0,
        quality=Quality.SUBSTITUTED,
        source=Source.HOUSEHOLD,
        salt=salt,
    )


def _grid_cost_nano(tariff: Tariff, net_import_wh: int) -> int:
    """Return what the grid charges for a net import, or (negative) pays for a net export."""
    if net_import_wh >= 0:
        return amount_nano(net_import_wh, tariff.retail_micro_per_kwh)
    return -amount_nano(-net_import_wh, tariff.feed_in_micro_per_kwh)


def _record_claim(draft: Draft, rules: Rules, line: SettlementLine, order: Order | None) -> None:
    """Note what was claimed and what the meter says of it: net, less flexible purchases.

    Of what it buys, a home uses the firm part that counted as credible first.
    """
    if order is None or order.firm_wh == 0 or line.quality != Quality.MEASURED:
        return
    credible_wh = firm_mwh(order) // MWH_PER_WH
    flexible_wh = min(order.flexible_wh, max(0, line.contracted_wh - credible_wh))
    is_sale = order.side is Side.SELL
    metered_wh = line.export_wh if is_sale else max(0, line.import_wh - flexible_wh)
    record_claim(
        draft,
        rules,
        line.member,
        slot=line.slot,
        side=order.side,
        ordered_wh=order.firm_wh,
        metered_wh=metered_wh,
    )


def _book(draft: Draft, slot: int, outcomes: list[_Outcome]) -> SlotSettled:
    """Post the slot's money and return its totals."""
    lines = [outcome.line for outcome in outcomes]
    operator_nano = sum(line.service_fee_nano for line in lines)
    network_nano = sum(line.grid_fee_nano for line in lines)
    grid_nano = sum(line.imbalance_nano for line in lines)
    paid_nano = sum(line.trade_nano for line in lines if line.side == Side.BUY)
    received_nano = sum(line.trade_nano for line in lines if line.side == Side.SELL)
    community_nano = paid_nano - received_nano
    accounts.post(
        draft,
        {
            **{line.member: -line.bill_nano for line in lines},
            accounts.OPERATOR: operator_nano,
            accounts.NETWORK: network_nano,
            accounts.COMMUNITY: community_nano,
            accounts.GRID: grid_nano,
        },
    )
    return SlotSettled(
        slot=slot,
        households_nano=-sum(line.bill_nano for line in lines),
        operator_nano=operator_nano,
        network_nano=network_nano,
        community_nano=community_nano,
        grid_nano=grid_nano,
        grid_import_wh=sum(line.imbalance_import_wh for line in lines),
        grid_export_wh=sum(line.imbalance_export_wh for line in lines),
        digest=_lines_digest(outcomes),
    )


def _lines_digest(outcomes: list[_Outcome]) -> bytes:
    """Return the digest of the lines with their salts.

    The digest outlives erasure, and without salts a line could be guessed from it.
    """
    salted = [(outcome.salt, outcome.line) for outcome in outcomes]
    return hashlib.sha256(b"slot\0" + _encode(salted)).digest()


def _close(draft: Draft, rules: Rules, slot: int, digest: bytes) -> None:
    """Replace the slot's inputs, which stay in the chain's bodies, by their digest."""
    draft.put(closed_key(slot), ClosedSlot(digest))
    for household in rules.households:
        for key_of in (order_key, statements_key, reading_key):
            draft.delete(key_of(slot, household.member))
    for key in (book_key(slot), convicted_key(slot), contracts_key(slot)):
        draft.delete(key)

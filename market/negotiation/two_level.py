"""One participant of the `two-level` negotiation.

The rules, for round k = 1 to 16 (negotiation section 3):

1. Quote phase.  A seller states its offer at its own next price.  The phase closes when every live
   seller was heard, or after `phase_ms`.
2. The reference price.  Round 1: the standing price.  Later: who heard every live member at the
   last reference computes it; who missed something follows the most frequent quote.
3. Demand phase.  A buyer states its demand at the reference.  It closes like the quote phase.
4. A member not heard at the last two references is not live: it counts for nothing until it is
   heard at one again.  When the live set changes, the price rule starts afresh.
5. If the statements at a reference price pass the checks of the replicas, the negotiation is over
   for this participant.  Otherwise the price rule gives its next price.

Once in a phase it asks for what it misses.  State is what was heard, which references were taken
and who was live at each; prices are derived anew from it every time, so messages may come late,
early, twice or not at all.

It does not sign, send or keep time; it never raises for anything a peer can say.
"""

import enum
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import groupby

from market.ceilings import ceiling_mwh, standing_price
from market.groups import Group, best_group
from market.negotiation.heard import Heard
from market.negotiation.price_rule import Visit, ceiling_slope, next_price
from market.negotiation.protocol import Turn
from market.orders import Book, Side
from market.statements import ROUNDS_MAX, Statement
from market.units import MWH_PER_WH


def relay_rank(slot: int, members: Iterable[str]) -> tuple[str, ...]:
    """Return members in the order in which they relay: rising SHA-256 of slot (8 bytes) and id."""
    prefix = slot.to_bytes(8, "big")
    return tuple(sorted(members, key=lambda m: hashlib.sha256(prefix + m.encode()).digest()))


class _Phase(enum.Enum):
    """Where in a round the participant is."""

    NOT_STARTED = enum.auto()
    QUOTE = enum.auto()
    DEMAND = enum.auto()
    OVER = enum.auto()


class TwoLevelNegotiator:
    """A member's side of one slot's negotiation; see `market.negotiation.protocol.Negotiator`.

    Parameters
    ----------
    book, book_digest
        The orders that gate closure fixed, the member's own among them, and their digest.
    member
        Whose side this is.
    curve
        What the member would trade [mWh] at a price [micro/kWh]: non-increasing for a buyer,
        non-decreasing for a seller.  Answers above the order's ceiling are cut to it.
    phase_ms
        How long a phase waits for those who are silent.
    deadline_ms
        When to stop without agreement; early enough for relayed statements to be ordered in time.
    """

    def __init__(
        self,
        *,
        book: Book,
        book_digest: bytes,
        member: str,
        curve: Callable[[int], int],
        phase_ms: int,
        deadline_ms: int,
    ) -> None:
        self._book = book
        self._band = book.band
        self._digest = book_digest
        self._orders = book.by_member
        self._member = member
        self._order = self._orders[member]
        self._curve = curve
        self._phase_ms = phase_ms
        self._deadline_ms = deadline_ms
        self._heard = Heard(book, book_digest)
        self._live = set(self._orders)
        self._live_at_close = set(self._orders)
        self._phase = _Phase.NOT_STARTED
        self._phase_end_ms = deadline_ms
        self._awaited: set[str] = set()
        self._has_asked = False
        self._round = 0
        self._references: list[int] = []
        self._afresh_from = 0
        self._trace: list[tuple[int, int, int, int]] = []

    def start(self, now_ms: int) -> Turn:
        """Begin with round 1, or finish at once if there is no market."""
        if not self._book.has_market:
            self._phase = _Phase.OVER
            return Turn(finished=True)
        return self._turn(now_ms, self._open_round(now_ms))

    def receive(self, member: str, statement: Statement, now_ms: int) -> Turn:
        """Take another member's authentic statement; what may not count is ignored."""
        if self._phase is _Phase.OVER or member == self._member:
            return Turn()
        self._heard.add(member, statement)
        if member in self._awaited and self._has_passed(member):
            self._awaited.discard(member)
        return self._turn(now_ms)

    def tick(self, now_ms: int) -> Turn:
        """Close what is due."""
        return self._turn(now_ms)

    @property
    def wake_ms(self) -> int:
        """When the participant next asks for what it misses, or a phase ends."""
        if self._phase in (_Phase.NOT_STARTED, _Phase.OVER):
            return self._deadline_ms
        due_ms = self._phase_end_ms if self._has_asked else self._ask_ms
        return min(due_ms, self._deadline_ms)

    @property
    def trace(self) -> tuple[tuple[int, int, int, int], ...]:
        """(round, reference price, demand [mWh], supply [mWh]) per closed round."""
        return tuple(self._trace)

    @property
    def evidence(self) -> Mapping[str, tuple[Statement, Statement]]:
        """Members that contradicted themselves, with the two statements that convict them."""
        return self._heard.evidence

    @property
    def _ask_ms(self) -> int:
        return self._phase_end_ms - self._phase_ms // 2

    def _turn(self, now_ms: int, published: Iterable[Statement] = ()) -> Turn:
        """Close every phase that is over, and say what to do."""
        publish = list(published)
        while self._phase in (_Phase.QUOTE, _Phase.DEMAND):
            if now_ms >= self._deadline_ms:
                return self._finish(publish, self._passing_group())
            if self._awaited and now_ms < self._phase_end_ms:
                return Turn(publish=tuple(publish), want=self._ask(now_ms))
            if self._phase is _Phase.QUOTE:
                publish += self._close_quotes(now_ms)
                continue
            self._close_demands()
            group = self._passing_group()
            if group is not None or self._round == ROUNDS_MAX or self._has_nothing_to_trade():
                return self._finish(publish, group)
            publish += self._open_round(now_ms)
        return Turn(publish=tuple(publish))

    def _open_round(self, now_ms: int) -> list[Statement]:
        """Begin the quote phase of the next round; a seller quotes its own next price."""
        self._round += 1
        self._heard.open_round(self._round)
        self._open_phase(_Phase.QUOTE, Side.SELL, now_ms)
        return [self._state(self._next_price())] if self._order.side is Side.SELL else []

    def _close_quotes(self, now_ms: int) -> list[Statement]:
        """Take the reference price and begin the demand phase; a buyer answers it."""
        reference = self._reference()
        self._references.append(reference)
        self._open_phase(_Phase.DEMAND, Side.BUY, now_ms)
        return [self._state(reference)] if self._order.side is Side.BUY else []

    def _close_demands(self) -> None:
        """Note who is live and what was heard at the reference."""
        at_last_two = self._heard_at(self._references[-2:])
        self._live = {
            member
            for member in self._orders.keys() - self._heard.evidence.keys()
            if self._round == 1 or member in at_last_two
        }
        if self._live != self._live_at_close:
            self._live_at_close = set(self._live)
            self._afresh_from = len(self._references) - 1
        visit = self._visit(self._references[-1])
        self._trace.append((self._round, visit.price, visit.demand_mwh, visit.supply_mwh))

    def _open_phase(self, phase: _Phase, side: Side, now_ms: int) -> None:
        """Wait for every live member of `side` that has not spoken in this round."""
        self._phase = phase
        self._phase_end_ms = now_ms + self._phase_ms
        self._has_asked = False
        self._awaited = {
            member
            for member in self._live - {self._member}
            if self._orders[member].side is side and not self._has_passed(member)
        }

    def _has_passed(self, member: str) -> bool:
        """Whether there is nothing to wait for: `member` has spoken, or has gone on without us."""
        return self._heard.has_spoken(member, self._round) or self._heard.is_ahead(member)

    def _ask(self, now_ms: int) -> tuple[int, tuple[str, ...]] | None:
        """Ask, once in a phase, for statements at a price of interest that did not come.

        At once for what the phase before should have brought, else half-way for what this one
        should: an answer that comes before the next price is computed keeps the prices together.
        """
        if self._has_asked:
            return None
        price, missing = self._overdue()
        if not missing and now_ms >= self._ask_ms:
            self._has_asked = True
            price, missing = self._due()
        if not missing:
            return None
        self._has_asked = True
        return price, tuple(missing)

    def _overdue(self) -> tuple[int, list[str]]:
        """Return the last reference, and who should have stated at it before this phase."""
        if not self._references:
            return 0, []
        price, in_round = self._references[-1], len(self._references)
        sides = (Side.SELL,) if self._phase is _Phase.DEMAND else tuple(Side)
        return price, self._unheard(price, in_round, sides)

    def _due(self) -> tuple[int, list[str]]:
        """Return the price of this phase, and who should state at it by the end of the phase."""
        if self._phase is _Phase.DEMAND:
            price, sides = self._references[-1], tuple(Side)
        else:
            price, sides = self._next_price(), (Side.SELL,)
        return price, self._unheard(price, self._round, sides)

    def _unheard(self, price: int, in_round: int, sides: Collection[Side]) -> list[str]:
        """Return the other live members of `sides` whose statement at `price` may be lost."""
        others = self._live - self._heard.members_at(price, in_round) - {self._member}
        return [
            member
            for member in sorted(others)
            if self._orders[member].side in sides and not self._heard.has_spoken(member, in_round)
        ]

    def _state(self, price: int) -> Statement:
        """Make the own statement of this round."""
        statement = Statement(
            slot=self._book.slot,
            book_digest=self._digest,
            round=self._round,
            price=price,
            energy_mwh=self._own_mwh(price),
        )
        self._heard.add(self._member, statement)
        return statement

    def _own_mwh(self, price: int) -> int:
        return max(0, min(self._curve(price), ceiling_mwh(self._band, self._order, price)))

    def _reference(self) -> int:
        """Return the reference price of this round (negotiation 3.3, step 2)."""
        own = self._next_price()
        quotes = Counter(self._heard.quotes(self._round))
        if self._has_complete_view() or not quotes:
            return own
        return min(quotes, key=lambda price: (-quotes[price], abs(price - own), price))

    def _has_complete_view(self) -> bool:
        """Whether every live member was heard at the last reference; in round 1 that is given."""
        return not self._references or self._live <= self._heard_at(self._references[-1:])

    def _heard_at(self, prices: Iterable[int]) -> set[str]:
        closed = len(self._references)
        return {m for price in prices for m in self._heard.members_at(price, closed)}

    def _next_price(self) -> int:
        """Return the own next price: by the public rule, from what is known today."""
        if not self._references:
            return standing_price(self._book)
        prices = [price for price, _ in groupby(self._references[self._afresh_from :])]
        live = [self._orders[member] for member in self._live]
        slope = ceiling_slope(self._band, live, prices[0])
        return next_price(self._band, [self._visit(p) for p in prices], slope)

    def _visit(self, price: int) -> Visit:
        """Sum up what the live members trade at `price`, as far as is known.

        The own curve is not asked: a seller that quoted off the reference would otherwise see
        another balance than those who have to estimate it, and never find back to them.
        """
        closed = len(self._references)
        traded_mwh = {Side.BUY: 0, Side.SELL: 0}
        for member in self._live:
            side = self._orders[member].side
            traded_mwh[side] += self._heard.contribution_mwh(member, price, closed)
        is_complete = self._live <= self._heard.members_at(price, closed)
        return Visit(price, traded_mwh[Side.BUY], traded_mwh[Side.SELL], is_complete)

    def _passing_group(self) -> Group | None:
        """Return the best group at a reference price so far that replicas would accept."""
        return best_group(self._band, map(self._heard.group, set(self._references)))

    def _has_nothing_to_trade(self) -> bool:
        """Whether the price stands, everybody with an order was heard, and T is below 1 Wh.

        No later round could differ, so the grid tariff need not wait for the sixteenth.
        """
        visit = self._visit(self._references[-1])
        return (
            visit.is_balanced
            and visit.matched_mwh < MWH_PER_WH
            and visit.is_complete
            and self._live | self._heard.evidence.keys() == self._orders.keys()
        )

    def _finish(self, publish: list[Statement], group: Group | None) -> Turn:
        """Stop; name what belongs on the chain, own statements first, else the own last one."""
        self._phase = _Phase.OVER
        if group is None:
            last = self._heard.last_round(self._member)
            relay = [(self._member, last)] if last else []
        else:
            relay = [(member, statement.round) for member, statement in group.used]
            relay.sort(key=lambda entry: (entry[0] != self._member, entry))
        return Turn(publish=tuple(publish), finished=True, relay=tuple(relay))

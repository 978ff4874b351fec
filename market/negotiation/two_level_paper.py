"""One participant of the `two-level-paper` negotiation; the game is in `paper_game`.

The rules, for round k = 1 to 400:

1. Everybody states once: a buyer X*_ij at the prices of its point (p, z), a seller its surplus P_j
   and the point.  The first point is arbitrary but equal for all: it is drawn from a hash.
2. The round closes when every live member was heard in it, or after `phase_ms`.  Half-way through
   it, a participant asks once for what it misses; the price in `want` is then the round's number.
3. The point of the round is the one most sellers stated; ties go to the own one, then the smallest.
   Demands stated at other prices are moved along their line (by alpha) to the point's.
4. From the point and the statements follows the next point.  Who missed something takes the point
   that sellers state for a later round, if it has heard one, and need not wait where more than
   half of them agree.  Who has not been heard of yet counts with what its order says.
5. A member silent for as long as two rounds may last is not live: it counts for nothing, and its
   share goes to the others, until it is heard again.  Nor does it count once it has contradicted
   itself.  With nobody live on the other side, a participant waits in its round.
6. Over for this participant when everybody live stands at an equilibrium that replicas accept and
   no price would move by more than 2 micro/kWh; at the last round; or at the deadline.  The best
   accepted group so far belongs on the chain.

It does not sign, send or keep time; it never raises for anything a peer can say.
"""

from collections import Counter
from collections.abc import Mapping

from market.ceilings import firm_mwh
from market.mechanisms.two_level_paper import (
    PaperGroup,
    is_admissible,
    is_contradiction,
    reach_mwh,
    seller_ids,
    traded_wh,
)
from market.negotiation.paper_game import (
    MWH_PER_KWH,
    Answers,
    Point,
    Preference,
    first_point,
    next_point,
    preference_for,
)
from market.negotiation.protocol import Turn
from market.orders import Book, Side
from market.statements_paper import ROUNDS_MAX_PAPER, SHARES_SUM, PaperStatement

_SILENT_ROUNDS_MAX = 2

_STEADY_MICRO = 2
_STEADY_PARTS = 100_000
"""Steady: no price moves by more than integers make it, nor differs by more than 1e-5 of a band."""

_ALPHA_PARTS = 4
"""A stated alpha counts at least as this part of what the order implies: one liar with a tiny
alpha, hence a huge curvature, would otherwise freeze everybody's steps."""


class TwoLevelPaperNegotiator:
    """A member's side of one slot's negotiation; see `market.negotiation.protocol.Negotiator`.

    Parameters
    ----------
    book, book_digest
        The orders that gate closure fixed, the member's own among them, and their digest.
    member
        Whose side this is.
    preference
        What a buyer wants, see `preference_for`; cut to what its order can reach.  Not used by a
        seller: as printed, it offers its (firm) surplus at any price.
    phase_ms
        How long a round waits for those who are silent.
    deadline_ms
        When to stop without agreement; early enough for relayed statements to be ordered in time.
    """

    def __init__(
        self,
        *,
        book: Book,
        book_digest: bytes,
        member: str,
        preference: Preference,
        phase_ms: int,
        deadline_ms: int,
    ) -> None:
        self._book = book
        self._digest = book_digest
        self._orders = book.by_member
        self._sellers = seller_ids(book)
        self._member = member
        self._order = self._orders[member]
        self._preference = preference
        self._implied = {
            order.member: preference_for(order, book.band)
            for order in book.orders
            if order.side is Side.BUY
        }
        self._phase_ms = phase_ms
        self._deadline_ms = deadline_ms
        self._round = 0
        self._point = first_point(book)
        self._is_over = False
        self._round_end_ms = deadline_ms
        self._has_asked = False
        self._current: dict[str, PaperStatement] = {}
        self._latest: dict[str, PaperStatement] = {}
        self._others = self._orders.keys() - {member}
        self._heard_ms = dict.fromkeys(self._others, 0)
        self._live: set[str] = set()
        self._awaited: set[str] = set()
        self._ahead_round = 0
        self._evidence: dict[str, tuple[PaperStatement, PaperStatement]] = {}
        self._best_rank = (0, 0, 0)
        self._best: dict[str, int] = {}
        self._trace: list[tuple[int, int, int, int]] = []
        self._prices_trace: list[tuple[int, ...]] = []

    def start(self, now_ms: int) -> Turn:
        """Begin with round 1, or finish at once if there is no market."""
        if not self._book.has_market:
            self._is_over = True
            return Turn(finished=True)
        self._revive(now_ms)
        return self._turn(now_ms, [self._enter(1, self._point, now_ms)])

    def receive(self, member: str, statement: PaperStatement, now_ms: int) -> Turn:
        """Take another member's authentic statement; what may not count is ignored."""
        if self._is_over or member not in self._others or member in self._evidence:
            return Turn()
        order = self._orders[member]
        if statement.book_digest == self._digest and is_admissible(
            self._book, len(self._sellers), order, statement
        ):
            self._hear(member, statement, now_ms)
        return self._turn(now_ms, [])

    def tick(self, now_ms: int) -> Turn:
        """Close what is due."""
        return self._turn(now_ms, [])

    @property
    def wake_ms(self) -> int:
        """When the participant next asks for what it misses, or a round ends."""
        if self._is_over or not self._round:
            return self._deadline_ms
        due_ms = self._round_end_ms if self._has_asked else self._ask_ms
        return min(due_ms, self._deadline_ms)

    @property
    def trace(self) -> tuple[tuple[int, int, int, int], ...]:
        """(round, mean price weighted by surplus, demand, supply [mWh]) per closed round."""
        return tuple(self._trace)

    @property
    def prices_trace(self) -> tuple[tuple[int, ...], ...]:
        """The sellers' prices [micro/kWh] per closed round, in the order of their ids."""
        return tuple(self._prices_trace)

    @property
    def evidence(self) -> Mapping[str, tuple[PaperStatement, PaperStatement]]:
        """Members that contradicted themselves, with the two statements that convict them."""
        return self._evidence

    @property
    def _ask_ms(self) -> int:
        return self._round_end_ms - self._phase_ms // 2

    def _turn(self, now_ms: int, publish: list[PaperStatement]) -> Turn:
        """Close every round that is over, and say what to do."""
        while not self._is_over and self._round:
            if now_ms >= self._deadline_ms:
                return self._finish(publish)
            if not self._awaited or now_ms >= self._round_end_ms:
                self._drop_silent(now_ms)
                if not self._has_counterpart():
                    self._awaited, self._round_end_ms = set(self._others), self._deadline_ms
                    return Turn(publish=tuple(publish))
                following = self._close()
            elif (following := self._agreed_ahead()) is not None:
                self._drop_silent(now_ms)
            else:
                return Turn(publish=tuple(publish), want=self._ask(now_ms))
            if following is None:
                return self._finish(publish)
            publish.append(self._enter(*following, now_ms))
        return Turn(publish=tuple(publish))

    def _drop_silent(self, now_ms: int) -> None:
        """Forget who could have spoken in two whole rounds and did not."""
        patience_ms = _SILENT_ROUNDS_MAX * self._phase_ms
        self._live = {m for m in self._live if now_ms - self._heard_ms[m] < patience_ms}

    def _revive(self, now_ms: int) -> None:
        """Take everybody for live who has not contradicted itself."""
        self._live = self._others - self._evidence.keys()
        self._heard_ms = dict.fromkeys(self._others, now_ms)

    def _enter(self, in_round: int, point: Point, now_ms: int) -> PaperStatement:
        """Begin a round at a point, and state the own answer there."""
        self._round, self._point = in_round, point
        self._round_end_ms = now_ms + self._phase_ms
        self._has_asked = False
        self._current = {m: s for m, s in self._latest.items() if s.round == in_round}
        self._awaited = self._live - self._current.keys()
        statement = self._answer()
        self._current[self._member] = self._latest[self._member] = statement
        return statement

    def _answer(self) -> PaperStatement:
        """Make the own statement at the point of this round."""
        if self._order.side is Side.SELL:
            energies: tuple[int, ...] = (firm_mwh(self._order),)
            shares, alpha = self._point.shares, 0
        else:
            wanted = map(self._preference.demand_mwh, self._point.prices)
            energies = tuple(min(energy, reach_mwh(self._order)) for energy in wanted)
            shares, alpha = (), self._preference.alpha
        return PaperStatement(
            slot=self._book.slot,
            book_digest=self._digest,
            round=self._round,
            prices=self._point.prices,
            energies_mwh=energies,
            shares=shares,
            alpha=alpha,
        )

    def _hear(self, member: str, statement: PaperStatement, now_ms: int) -> None:
        """Note a statement that may count, or what convicts its author."""
        for known in (self._current.get(member), self._latest.get(member)):
            if known is not None and is_contradiction(self._book, known, statement):
                self._convict(member, known, statement)
                return
        latest = self._latest.get(member)
        if latest is None or statement.round > latest.round:
            self._latest[member] = statement
        if statement.round < self._round:
            return
        if not self._has_counterpart():
            self._revive(now_ms)
            self._awaited = self._live - self._current.keys()
            self._round_end_ms = now_ms + self._phase_ms
        self._live.add(member)
        self._heard_ms[member] = now_ms
        if statement.round == self._round:
            self._current[member] = statement
            self._awaited.discard(member)
        elif statement.shares:
            self._ahead_round = max(self._ahead_round, statement.round)

    def _convict(self, member: str, first: PaperStatement, second: PaperStatement) -> None:
        """Keep the evidence; its author counts for nothing from now on."""
        self._evidence[member] = (first, second)
        self._current.pop(member, None)
        self._live.discard(member)
        self._awaited.discard(member)

    def _close(self) -> tuple[int, Point] | None:
        """End this round: return the next one with its point, or None if this was the last."""
        point = self._stated_point()
        answers = self._answers(point)
        self._record(point, answers)
        is_accepted = self._note_group(point)
        following = next_point(self._book.band, point, answers)
        if is_accepted and self._is_steady(point, following, answers):
            return None
        if self._round == ROUNDS_MAX_PAPER:
            return None
        ahead = self._stated_ahead() if self._awaited else None
        return ahead or (self._round + 1, following)

    def _stated_point(self) -> Point:
        """Return the point of this round: what most sellers stated (rule 3)."""
        points = Counter(
            Point(statement.prices, statement.shares)
            for statement in self._current.values()
            if statement.shares
        )
        return min(
            {*points, self._point}, key=lambda point: (-points[point], point != self._point, point)
        )

    def _answers(self, point: Point) -> Answers:
        """Return what the live members and this one say at `point`, as far as is known."""
        live = self._live | {self._member}
        offers, demands = [], []
        for member, order in self._orders.items():
            if order.side is Side.SELL:
                offers.append(self._offer_mwh(member) if member in live else 0)
            elif member in live:
                demands.append(self._demand(member, point))
        return Answers(offers, demands)

    def _offer_mwh(self, seller: str) -> int:
        latest = self._latest.get(seller)
        return firm_mwh(self._orders[seller]) if latest is None else latest.energies_mwh[0]

    def _demand(self, buyer: str, point: Point) -> tuple[int, tuple[int, ...]]:
        """Return alpha and X*_ij at `point`: as stated, moved along its line, or as ordered."""
        order = self._orders[buyer]
        implied = self._implied[buyer]
        statement = self._current.get(buyer) or self._latest.get(buyer)
        if statement is None:
            return implied.alpha, tuple(map(implied.demand_mwh, point.prices))
        alpha = max(statement.alpha, implied.alpha // _ALPHA_PARTS)
        if statement.prices == point.prices:
            return alpha, statement.energies_mwh
        moved = (
            energy + (stated - price) * MWH_PER_KWH // alpha
            for energy, stated, price in zip(
                statement.energies_mwh, statement.prices, point.prices, strict=True
            )
        )
        return alpha, tuple(max(0, min(energy, reach_mwh(order))) for energy in moved)

    def _record(self, point: Point, answers: Answers) -> None:
        """Add this round to the traces."""
        supply = sum(answers.offers)
        totals = [sum(column) for column in zip(*(x for _, x in answers.demands), strict=True)]
        weighted = sum(p * offer for p, offer in zip(point.prices, answers.offers, strict=True))
        demand = sum(z * total for z, total in zip(point.shares, totals, strict=False))
        mean = weighted // supply if supply else sum(point.prices) // len(point.prices)
        self._trace.append((self._round, mean, demand // SHARES_SUM, supply))
        self._prices_trace.append(point.prices)

    def _note_group(self, point: Point) -> bool:
        """Keep the group at `point` if replicas would take it and rather than the best so far.

        Return whether it passes and nobody live is missing from it.
        """
        at_point = {m: s for m, s in self._current.items() if s.prices == point.prices}
        traded = traded_wh(self._book, PaperGroup(point.prices, at_point))
        if not traded:
            return False
        rank = (traded, len(at_point), self._round)
        if rank > self._best_rank:
            self._best_rank, self._best = rank, dict.fromkeys(at_point, self._round)
        return self._live <= at_point.keys()

    def _is_steady(self, point: Point, following: Point, answers: Answers) -> bool:
        """Whether p(u+1) - p(u) is nearly zero, and the prices of those who offer nearly equal."""
        moves = (abs(a - b) for a, b in zip(point.prices, following.prices, strict=True))
        quoted = [p for p, offer in zip(point.prices, answers.offers, strict=True) if offer]
        spread = max(_STEADY_MICRO, self._book.band.width // _STEADY_PARTS)
        return max(moves) <= _STEADY_MICRO and max(quoted) - min(quoted) <= spread

    def _has_counterpart(self) -> bool:
        return any(self._orders[member].side is not self._order.side for member in self._live)

    def _agreed_ahead(self) -> tuple[int, Point] | None:
        """Return a later round and its point if more than half of the live sellers stand there."""
        if self._ahead_round <= self._round:
            return None
        sellers = [member for member in self._live if self._orders[member].side is Side.SELL]
        points = self._points_ahead()
        return next((ahead for ahead in points if 2 * points[ahead] > len(sellers)), None)

    def _stated_ahead(self) -> tuple[int, Point] | None:
        """Return the round and point that most sellers ahead state, ties to the smallest."""
        points = self._points_ahead()
        return min(points, key=lambda ahead: (-points[ahead], ahead), default=None)

    def _points_ahead(self) -> Counter[tuple[int, Point]]:
        """Count the points that live sellers state for later rounds."""
        return Counter(
            (statement.round, Point(statement.prices, statement.shares))
            for member in self._live
            if (statement := self._latest.get(member)) is not None
            and statement.shares
            and statement.round > self._round
        )

    def _ask(self, now_ms: int) -> tuple[int, tuple[str, ...]] | None:
        """Ask, once in a round, for the statements of this round that did not come."""
        if self._has_asked or now_ms < self._ask_ms:
            return None
        self._has_asked = True
        return self._round, tuple(sorted(self._awaited))

    def _finish(self, publish: list[PaperStatement]) -> Turn:
        """Stop; name what belongs on the chain, own statements first, else the own last one."""
        self._is_over = True
        relay = sorted(self._best.items(), key=lambda entry: (entry[0] != self._member, entry))
        if not relay:
            relay = [(self._member, self._round)]
        return Turn(publish=tuple(publish), finished=True, relay=tuple(relay))

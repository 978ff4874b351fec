"""What a participant has heard in a negotiation, in whatever order it came.

Keeps at most one statement per member and round, so a flood changes nothing.  Statements that are
early wait here for their round; late ones still tell a point of their author's curve.
"""

from collections import defaultdict

from market.ceilings import ceiling_mwh
from market.groups import Group, group_at, is_admissible
from market.mechanisms.two_level import is_contradiction
from market.orders import Book, Side
from market.statements import Statement


class Heard:
    """The statements about one book that may count.

    Statements by members without an order, about another book or slot, out of the band, above
    the ceiling or of an impossible round are dropped.  Members that contradict themselves are
    kept in `evidence` with the two statements that convict them, and count for nothing.
    """

    def __init__(self, book: Book, book_digest: bytes) -> None:
        self._book = book
        self._band = book.band
        self._digest = book_digest
        self._orders = book.by_member
        self._round = 0
        self._early: dict[str, dict[int, Statement]] = {m: {} for m in self._orders}
        self._by_round: dict[str, dict[int, Statement]] = {m: {} for m in self._orders}
        self._by_price: defaultdict[int, dict[str, Statement]] = defaultdict(dict)
        self.evidence: dict[str, tuple[Statement, Statement]] = {}

    def open_round(self, number: int) -> None:
        """Let the statements of a round count; call it for every round in turn."""
        self._round = number
        for member, waiting in self._early.items():
            if number in waiting:
                self._take(member, waiting.pop(number))

    def add(self, member: str, statement: Statement) -> None:
        """Take an authentic statement of `member`, if it may count; one that is early waits."""
        order = self._orders.get(member)
        if order is None or statement.book_digest != self._digest:
            return
        if statement.round <= self._round:
            self._take(member, statement)
        elif is_admissible(self._band, self._book.slot, order, statement):
            self._early[member].setdefault(statement.round, statement)

    def has_spoken(self, member: str, in_round: int) -> bool:
        """Whether the statement of `member` for an opened round is here, or would be in vain."""
        return member in self.evidence or in_round in self._by_round[member]

    def is_ahead(self, member: str) -> bool:
        """Whether `member` has already spoken in a round that is not open yet."""
        return bool(self._early[member])

    def members_at(self, price: int, through: int) -> set[str]:
        """Return who was heard at exactly `price` in rounds up to and including `through`."""
        statements = self._by_price.get(price, {})
        return {member for member, s in statements.items() if s.round <= through}

    def group(self, price: int) -> Group:
        """Return the group of statements at `price`, of each member the earliest."""
        statements = self._by_price.get(price, {})
        credible = {m: s for m, s in statements.items() if m not in self.evidence}
        return group_at(price, credible, self._orders)

    def last_round(self, member: str) -> int:
        """Return the highest round that a member with an order spoke in, 0 if none."""
        return max(self._by_round[member], default=0)

    def quotes(self, in_round: int) -> list[int]:
        """Return the prices that sellers quoted in a round."""
        return [
            rounds[in_round].price
            for member, rounds in self._by_round.items()
            if in_round in rounds and self._orders[member].side is Side.SELL
        ]

    def contribution_mwh(self, member: str, price: int, through: int) -> int:
        """Return what `member` trades at `price`, as far as rounds up to `through` tell.

        Its statement at exactly that price; else between its two nearest; else the last one in
        proportion to the ceilings; else its ceiling.  What is early for the round has to wait:
        otherwise equal participants would compute different prices.
        """
        exact = self._by_price.get(price, {}).get(member)
        if exact is not None and exact.round <= through:
            return exact.energy_mwh
        stated = [s for s in self._by_round[member].values() if s.round <= through]
        below = max((s for s in stated if s.price < price), key=_price, default=None)
        above = min((s for s in stated if s.price > price), key=_price, default=None)
        if below is not None and above is not None:
            rise = above.energy_mwh - below.energy_mwh
            part, whole = price - below.price, above.price - below.price
            return below.energy_mwh + rise * part // whole
        ceiling = ceiling_mwh(self._band, self._orders[member], price)
        if not stated:
            return ceiling
        last = max(stated, key=_round)
        last_ceiling = ceiling_mwh(self._band, self._orders[member], last.price)
        # A ceiling of zero says nothing about the rest of the curve.
        return last.energy_mwh * ceiling // last_ceiling if last_ceiling else ceiling

    def _take(self, member: str, statement: Statement) -> None:
        """Keep a statement of an open round, or the evidence that it completes."""
        if member in self.evidence:
            return
        order, rounds = self._orders[member], self._by_round[member]
        for earlier in rounds.values():
            if is_contradiction(self._book, order, earlier, statement):
                self.evidence[member] = (earlier, statement)
                return
        if is_admissible(self._band, self._book.slot, order, statement):
            rounds[statement.round] = statement
            same_price = self._by_price[statement.price].get(member)
            if same_price is None or statement.round < same_price.round:
                self._by_price[statement.price][member] = statement


def _price(statement: Statement) -> int:
    return statement.price


def _round(statement: Statement) -> int:
    return statement.round

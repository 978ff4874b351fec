"""A participant's side of each iterative mechanism, by the mechanism's name."""

from collections.abc import Callable

from market.negotiation.paper_game import preference_for
from market.negotiation.protocol import Negotiator
from market.negotiation.two_level import TwoLevelNegotiator
from market.negotiation.two_level_paper import TwoLevelPaperNegotiator
from market.orders import Book


def negotiator_of(
    mechanism: str,
    *,
    book: Book,
    book_digest: bytes,
    member: str,
    curve: Callable[[int], int],
    phase_ms: int,
    deadline_ms: int,
) -> Negotiator:
    """Return `member`'s side of the negotiation about `book`.

    `curve` is the member's own energy [mWh] at a price [micro/kWh]; `two-level-paper` has a
    utility in its place, which it takes from the order.
    """
    if mechanism == "two-level-paper":
        return TwoLevelPaperNegotiator(
            book=book,
            book_digest=book_digest,
            member=member,
            preference=preference_for(book.by_member[member], book.band),
            phase_ms=phase_ms,
            deadline_ms=deadline_ms,
        )
    assert mechanism == "two-level", mechanism
    return TwoLevelNegotiator(
        book=book,
        book_digest=book_digest,
        member=member,
        curve=curve,
        phase_ms=phase_ms,
        deadline_ms=deadline_ms,
    )

"""What every mechanism offers: a clearing derived from a book and what was stated about it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from market.clearing import Clearing
from market.orders import Book


class Mechanism(Protocol):
    """A way to find the trades of a slot.

    `name` is what genesis and the command line call it.  `statement_type` is the msgspec Struct
    that its participants exchange and that ends on the chain, None if it needs no negotiation.
    """

    name: str
    statement_type: type[Any] | None

    def clear(
        self,
        book: Book,
        statements: Mapping[str, Sequence[Any]],
        excluded: Collection[str] = (),
    ) -> Clearing:
        """Derive the clearing from committed statements, or take the next rung of the ladder.

        `statements` holds every committed statement per member (of `statement_type`, at most 16
        each, any order); `excluded` are members with committed contradiction evidence.  Integer,
        deterministic, never raises: a statement that breaks a rule counts as not made.
        """
        ...

    def contradict(self, book: Book, member: str, first: Any, second: Any) -> bool:  # noqa: ANN401 - of statement_type
        """Whether two statements of one member about this book convict it (negotiation 5.3)."""
        ...

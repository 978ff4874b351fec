"""Typed access to replicated state: a read view, and a draft of the writes on top of it.

Keys are text such as ``order/482150/h03``; values are msgspec Structs as MessagePack arrays.  This
module is the only place that knows how keys are spelled.
"""

from functools import cache
from typing import Any, Protocol, TypeVar

import msgspec

T = TypeVar("T")


class View(Protocol):
    """Reading access to committed state."""

    def get(self, key: str) -> bytes | None:
        """Return the value under `key`, None if there is none."""
        ...


@cache
def _decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:  # noqa: ANN401 - any state type
    return msgspec.msgpack.Decoder(type_)


_encode = msgspec.msgpack.Encoder().encode


def read(view: View, key: str, type_: type[T]) -> T | None:
    """Return the typed value under `key`, None if there is none."""
    data = view.get(key)
    decoder_key: Any = type_
    return None if data is None else _decoder(decoder_key).decode(data)


class Draft:
    """A read view plus the writes of one operation or deadline; discarded if it is refused."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.writes: dict[str, bytes | None] = {}

    def get(self, key: str) -> bytes | None:
        """Return the value under `key` as this draft leaves it."""
        return self.writes[key] if key in self.writes else self._view.get(key)

    def read(self, key: str, type_: type[T]) -> T | None:
        """Return the typed value under `key`, None if there is none."""
        return read(self, key, type_)

    def put(self, key: str, value: msgspec.Struct) -> None:
        """Write a typed value."""
        self.writes[key] = _encode(value)

    def delete(self, key: str) -> None:
        """Delete what is under `key`, if anything."""
        if self.get(key) is not None:
            self.writes[key] = None


CALENDAR = "calendar"


def nonce_key(member: str) -> str:
    """Where a signer's nonce window lies."""
    return f"nonce/{member}"


def household_key(member: str) -> str:
    """Where a household's registration lies."""
    return f"household/{member}"


def account_key(owner: str) -> str:
    """Where an account's balance lies."""
    return f"account/{owner}"


def claim_key(member: str) -> str:
    """Where a household's record of claims and deliveries lies."""
    return f"claim/{member}"


def order_key(slot: int, member: str) -> str:
    """Where a standing order lies until its slot is settled."""
    return f"order/{slot}/{member}"


def usage_key(member: str) -> str:
    """Where a member's use of its quota lies."""
    return f"usage/{member}"


def book_key(slot: int) -> str:
    """Where the book that gate closure fixed lies."""
    return f"book/{slot}"


def statements_key(slot: int, member: str) -> str:
    """Where a member's committed statements lie."""
    return f"statements/{slot}/{member}"


def convicted_key(slot: int) -> str:
    """Where the members with committed contradiction evidence are listed."""
    return f"convicted/{slot}"


def contracts_key(slot: int) -> str:
    """Where the cleared trades lie until settlement."""
    return f"contracts/{slot}"


def reading_key(slot: int, member: str) -> str:
    """Where a meter reading lies until settlement."""
    return f"reading/{slot}/{member}"


def closed_key(slot: int) -> str:
    """Where a settled slot's digest lies, for ever."""
    return f"closed/{slot}"

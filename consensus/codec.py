"""The canonical encoding: MessagePack arrays by schema, and exactly one encoding per value.

Integers, bytes, ASCII text and arrays only.  `decode` re-encodes and compares, so a peer cannot
present the same value under two byte strings (non-minimal integers, for instance).
"""

from functools import cache
from typing import Any, TypeVar

import msgspec

from consensus.errors import MalformedError

FRAME_BYTES_MAX = 65_536
"""No frame on the bus is larger; larger objects travel in chunks."""

T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode


@cache
def _decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:  # noqa: ANN401 - any wire type or union
    return msgspec.msgpack.Decoder(type_)


def decode(data: bytes, type_: type[T], *, bytes_max: int = FRAME_BYTES_MAX) -> T:
    """Decode the canonical encoding of `type_`.

    Raises:
        MalformedError: Too long, not MessagePack, not of the type or its bounds, or not canonical.
    """
    if len(data) > bytes_max:
        raise MalformedError(f"{len(data)} bytes, at most {bytes_max} are allowed")
    key: Any = type_
    try:
        value: T = _decoder(key).decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise MalformedError(str(error)) from error
    if encode(value) != data:
        raise MalformedError("the bytes are not the canonical encoding of their value")
    return value

"""Statements: what a participant says in the negotiation, and what a clearing is derived from."""

from typing import Annotated

import msgspec

ROUNDS_MAX = 16
"""Rounds of `two-level`; p95 is 6 at 8 to 200 homes, so 16 leaves room for loss and silence."""

Price = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
EnergyMwh = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Statement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`two-level`: at `price` the sender sells or buys `energy_mwh` (its side is its order's).

    From a seller it is a quote, from a buyer a demand.  It refers to one book and one round.
    """

    slot: Annotated[int, msgspec.Meta(ge=0)]
    book_digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    round: Annotated[int, msgspec.Meta(ge=1, le=ROUNDS_MAX)]
    price: Price
    energy_mwh: EnergyMwh

"""Statements of `two-level-paper`: one point of the paper's game, and an answer to it."""

from typing import Annotated

import msgspec

from market.statements import EnergyMwh, Price

ROUNDS_MAX_PAPER = 400
"""Rounds of `two-level-paper`: what is not found by then is left to the ladder.  The streets of
`tests/market/test_two_level_paper.py` stay below it."""

SELLERS_MAX = 200
"""Sellers of one slot.  It keeps a statement below 6 KiB, so that two of them fit in evidence."""

SHARES_SUM = 10**12
"""What the shares z sum to.  At 1e9 the residue of rounding drifts to the largest seller."""

ALPHA_MAX = 10**12

Share = Annotated[int, msgspec.Meta(ge=0, le=SHARES_SUM)]


class PaperStatement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`two-level-paper`: what the sender demands or offers at one price per seller.

    `prices` [micro/kWh] has one entry per sell order of the book, in id order.  A buyer answers
    with X*_ij [mWh], its demand at each of these prices as if it bought from that seller alone,
    and with its alpha [micro/kWh^2], which the paper holds to be known; its preference omega stays
    at home.  A seller answers with its surplus P_j, and carries the shares z, so that whoever
    missed a round can follow.  `shares` is empty from buyers, `alpha` 0 from sellers.
    """

    slot: Annotated[int, msgspec.Meta(ge=0)]
    book_digest: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    round: Annotated[int, msgspec.Meta(ge=1, le=ROUNDS_MAX_PAPER)]
    prices: Annotated[tuple[Price, ...], msgspec.Meta(min_length=1, max_length=SELLERS_MAX)]
    energies_mwh: Annotated[tuple[EnergyMwh, ...], msgspec.Meta(max_length=SELLERS_MAX)]
    shares: Annotated[tuple[Share, ...], msgspec.Meta(max_length=SELLERS_MAX)]
    alpha: Annotated[int, msgspec.Meta(ge=0, le=ALPHA_MAX)]

"""Streets to negotiate in: the worked examples, random ones by seed, and hypothesis strategies."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from market.ceilings import Ramp, allowed_limits, ceiling_mwh, standing_price
from market.negotiation.presets import Preset, flexible_curve, own_curve, standing_limit
from market.orders import Book, Order, Side
from market.statements import ROUNDS_MAX, Statement
from market.tariffs import Band
from market.units import PPM

SLOT = 7
DIGEST = b"\x07" * 32

_VECTORS = Path(__file__).parents[1] / "market" / "negotiation_vectors.json"

Curve = Callable[[int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """A book, and the private curve of everybody in it."""

    book: Book
    curves: Mapping[str, Curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A worked example with what is expected of it; `expect` is as in the file, by member id."""

    name: str
    street: Street
    silent: tuple[str, ...]
    expect: Mapping[str, Any]


def home(number: int | str) -> str:
    return f"h{int(number):02d}"


def buys(number: int, firm_wh: int, flexible_wh: int = 0, limit: int = 0) -> Order:
    return Order(home(number), Side.BUY, firm_wh, flexible_wh, limit)


def sells(number: int, firm_wh: int, flexible_wh: int = 0, limit: int = 0) -> Order:
    return Order(home(number), Side.SELL, firm_wh, flexible_wh, limit)


def book_of(*orders: Order, lo: int = 80_000, hi: int = 300_000) -> Book:
    return Book(SLOT, lo, hi, orders)


def state(round_number: int, price: int, energy_mwh: int, **changes: Any) -> Statement:
    fields = {"slot": SLOT, "book_digest": DIGEST, "round": round_number}
    return Statement(**{**fields, "price": price, "energy_mwh": energy_mwh, **changes})


def ceiling_curve(book: Book, member: str) -> Curve:
    order, band = book.by_member[member], book.band
    return lambda price: ceiling_mwh(band, order, price)


def street_of(book: Book, flexible: Mapping[str, Ramp] | None = None) -> Street:
    """Everybody at its ceiling, but for the private flexible curves given."""
    private = flexible or {}
    curves = {o.member: own_curve(book.band, o, private.get(o.member)) for o in book.orders}
    return Street(book=book, curves=curves)


def examples() -> list[Example]:
    """Read the worked examples."""
    return [_example(vector) for vector in json.loads(_VECTORS.read_text())]


def _example(vector: Mapping[str, Any]) -> Example:
    make = {"s": sells, "b": buys}
    orders = [make[side](number, *rest) for number, side, *rest in vector["orders"]]
    book = book_of(*orders, lo=vector["lo"], hi=vector["hi"])
    flexible = {home(number): Ramp(*ramp) for number, ramp in vector["own"].items()}
    expect = {key: _by_home(value) for key, value in vector["expect"].items()}
    return Example(
        name=vector["name"],
        street=street_of(book, flexible),
        silent=tuple(home(number) for number in vector["silent"]),
        expect=expect,
    )


def _by_home(value: Any) -> Any:
    """Name homes where a value is a table by number."""
    return {home(number): wh for number, wh in value.items()} if isinstance(value, dict) else value


def random_street(seed: int, homes: int) -> Street:
    """A market of homes with random orders; most flexible ones have a preset's private curve."""
    rng = random.Random(seed)  # noqa: S311 - a reproducible test, not a secret
    lo = rng.randint(50_000, 120_000)
    band = Band(lo, lo + rng.randint(20_000, 400_000))
    sides = [Side.BUY, Side.SELL, *(rng.choice(list(Side)) for _ in range(homes - 2))]
    orders, flexible = [], {}
    for number, side in enumerate(sides):
        member = f"h{number:03d}"
        curve = _random_curve(rng, band, side) if rng.random() < 0.5 else None
        flexible_wh = rng.randint(1, 4000) if curve else 0
        limit = standing_limit(band, side, curve) if curve else 0
        orders.append(Order(member, side, rng.randint(1, 3000), flexible_wh, limit))
        if curve and rng.random() < 0.7:
            flexible[member] = curve
    return street_of(Book(SLOT, band.lo, band.hi, tuple(orders)), flexible)


def _random_curve(rng: random.Random, band: Band, side: Side) -> Ramp | None:
    value = rng.randint(band.lo, band.hi)
    return flexible_curve(
        rng.choice(list(Preset)), band, side, value, rng.randint(band.lo, band.hi)
    )


def crossing(street: Street, without: frozenset[str] = frozenset()) -> int:
    """The lowest price at which the private curves do not ask for more than they offer."""
    below, enough = street.book.lo, street.book.hi
    while enough - below > 1:
        price = (below + enough) // 2
        excess = sum(
            street.curves[o.member](price) * (1 if o.side is Side.BUY else -1)
            for o in street.book.orders
            if o.member not in without
        )
        below, enough = (below, price) if excess <= 0 else (price, enough)
    return enough


@st.composite
def books(draw: st.DrawFn, homes_max: int = 8) -> Book:
    """Books of any shape, most of them markets; closed bands, one side only, claim factors."""
    lo = draw(st.integers(0, 200_000))
    if draw(st.integers(0, 3)):
        band = Band(lo, lo + draw(st.integers(1000, 400_000)))
        sides = [Side.BUY, Side.SELL]
    else:
        band = Band(lo, lo + draw(st.integers(-10, 1200)))
        sides = []
    sides += draw(st.lists(st.sampled_from(Side), max_size=homes_max - 2))
    orders = tuple(draw(_orders(home(n), side, band)) for n, side in enumerate(sides))
    return Book(SLOT, band.lo, band.hi, orders)


@st.composite
def _orders(draw: st.DrawFn, member: str, side: Side, band: Band) -> Order:
    flexible_wh = draw(st.sampled_from((0, 1, 700, 5000)))
    return Order(
        member,
        side,
        firm_wh=draw(st.integers(0, 3000)),
        flexible_wh=flexible_wh,
        flexible_limit=draw(st.sampled_from(allowed_limits(band, side))) if flexible_wh else 0,
        claim_ppm=draw(st.sampled_from((PPM, 731_000, 0))),
    )


@st.composite
def statements_about(draw: st.DrawFn, book: Book) -> dict[str, list[Statement]]:
    """Statements of members and strangers: some agree, some are near a few prices, some rubbish."""
    prices = draw(st.lists(st.integers(book.lo - 2, max(book.lo, book.hi) + 2), min_size=1))
    prices = [near for price in prices[:3] for near in (price, price + 1)]
    agreed = standing_price(book) if book.has_market and draw(st.booleans()) else None
    if agreed is not None:
        prices += [agreed, agreed - 1]
    stated = {}
    for member in draw(st.permutations(["stranger", *book.by_member])):
        stated[member] = draw(st.lists(_statements(book, member, prices), max_size=4))
        if agreed is not None and member in book.by_member:
            energy = ceiling_curve(book, member)(agreed)
            stated[member].append(state(draw(st.integers(1, ROUNDS_MAX)), agreed, energy))
    return stated


@st.composite
def _statements(draw: st.DrawFn, book: Book, member: str, prices: list[int]) -> Statement:
    price = draw(st.sampled_from(prices))
    is_known = member in book.by_member and book.band.is_open
    ceiling = ceiling_curve(book, member)(price) if is_known else 0
    energy = draw(st.sampled_from((ceiling, ceiling, ceiling // 2, ceiling + 1, -1, 10**15)))
    slot = draw(st.sampled_from((SLOT, SLOT, SLOT, SLOT + 1)))
    return state(draw(st.integers(0, ROUNDS_MAX + 1)), price, energy, slot=slot)

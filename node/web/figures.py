"""Charts of a street: prices, energies, negotiations and signatures.

Colours are classes of the style sheet, and never the only carrier of a meaning: rungs differ in
shape, directions in position.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from market.clearing import Rung
from node.view.snapshot import BlockFacts, ChainFacts, SlotFacts, TraceRound
from node.web.markup import Markup, element, join
from node.web.plot import Columns, Scale, axis, chart, gridlines, line, nice_step, picture, px, text
from node.web.wording import MICRO, decimal, outcome, price, span

PRICE_CHART_PX = 190
ENERGY_CHART_PX = 150
TRACE_CHART_PX = 150
ROW_PX = 18
TIME_LABELS_MAX = 8
ROUND_LABELS_MAX = 8

Link = Callable[[SlotFacts], str]
"""Where a click on a slot leads."""


def price_chart(
    slots: Sequence[SlotFacts],
    *,
    currency: str,
    selected: int | None = None,
    link: Link | None = None,
) -> Markup:
    """Draw local prices between feed-in and retail, with a mark per rung."""
    highest = max(each.retail_micro_per_kwh for each in slots)
    step = nice_step(highest)
    scale = Scale(0, -(-highest // step) * step, PRICE_CHART_PX - 26, 10)
    columns = Columns(len(slots))
    plot = join(
        _selection(slots, selected, columns, PRICE_CHART_PX),
        gridlines(scale, step),
        *(_tariff_of_slot(each, columns, index, scale) for index, each in enumerate(slots)),
        _price_line(slots, columns, scale),
        *(_price_mark(each, columns, index, scale) for index, each in enumerate(slots)),
        _time_labels(slots, columns, PRICE_CHART_PX - 6),
        _targets(slots, columns, PRICE_CHART_PX, currency, link),
    )
    label = f"Local price per slot in {currency} per kWh, between feed-in and retail price"
    return chart(axis(scale, step, PRICE_CHART_PX, _tick_price), plot, PRICE_CHART_PX, label)


def energy_chart(
    slots: Sequence[SlotFacts],
    *,
    currency: str,
    selected: int | None = None,
    link: Link | None = None,
) -> Markup:
    """Draw what neighbours traded and the grid delivered (up), and what the grid took (down)."""
    bars = [_energies(each) for each in slots]
    up = max(1, *(traded + from_grid for traded, from_grid, _ in bars))
    down = max(to_grid for _, _, to_grid in bars)
    step = nice_step(up + down)
    low, high = -(-(-down // step) * step), -(-up // step) * step
    scale = Scale(low, high, ENERGY_CHART_PX - 24, 8)
    columns = Columns(len(slots))
    plot = join(
        _selection(slots, selected, columns, ENERGY_CHART_PX),
        gridlines(scale, step),
        *(
            _energy_bar(each, bar, columns, index, scale)
            for index, (each, bar) in enumerate(zip(slots, bars, strict=True))
        ),
        _time_labels(slots, columns, ENERGY_CHART_PX - 6),
        _targets(slots, columns, ENERGY_CHART_PX, currency, link),
    )
    label = "Energy per slot: traded between neighbours, from the grid, and to the grid"
    return chart(axis(scale, step, ENERGY_CHART_PX, _kilo), plot, ENERGY_CHART_PX, label)


def trace_chart(trace: Sequence[TraceRound], facts: SlotFacts, currency: str) -> Markup:
    """Draw the price of every round of one negotiation, within the band."""
    prices = [each.price_micro_per_kwh for each in trace]
    step = nice_step(facts.hi_micro_per_kwh)
    high = -(-max(facts.hi_micro_per_kwh, *prices) // step) * step
    scale = Scale(0, high, TRACE_CHART_PX - 24, 12)
    columns = Columns(len(trace))
    band = element(
        "rect",
        class_="band",
        x=0,
        width="100%",
        y=px(scale.at(facts.hi_micro_per_kwh)),
        height=px(scale.at(facts.lo_micro_per_kwh) - scale.at(facts.hi_micro_per_kwh)),
    )
    steps = [
        line("price", columns.middle(i), columns.middle(i + 1), scale.at(a), scale.at(b))
        for i, (a, b) in enumerate(pairwise(prices))
    ]
    every = -(-len(trace) // ROUND_LABELS_MAX)
    marks = [
        _round_mark(each, columns.middle(index), scale, has_label=index % every == 0)
        for index, each in enumerate(trace)
    ]
    label = f"Price per round of the negotiation for {span(facts)}, in {currency} per kWh"
    plot = join(band, gridlines(scale, step), steps, marks)
    return chart(axis(scale, step, TRACE_CHART_PX, _tick_price), plot, TRACE_CHART_PX, label)


def _round_mark(each: TraceRound, x: str, scale: Scale, *, has_label: bool) -> Markup:
    y = scale.at(each.price_micro_per_kwh)
    words = element("title", f"round {each.round}: {price(each.price_micro_per_kwh)}")
    mark = element("circle", words, class_="mark", cx=x, cy=px(y), r="4.5")
    if not has_label:
        return mark
    return join(
        mark,
        text(price(each.price_micro_per_kwh), x, y - 9, "middle", "value"),
        text(str(each.round), x, TRACE_CHART_PX - 6, "middle", "tick"),
    )


def signature_chart(chain: ChainFacts, endorsers: Sequence[str]) -> Markup:
    """Draw who signed the certificates of the last blocks: a full dot per signature."""
    blocks = chain.last_blocks
    columns = Columns(max(1, len(blocks)))
    height = ROW_PX * len(endorsers) + 20
    names, dots, counts = [], [], []
    for row, member in enumerate(endorsers):
        middle = ROW_PX * row + ROW_PX / 2
        signed = sum(member in block.signers for block in blocks)
        names.append(text(member, "0", middle + 4, "start", "tick"))
        counts.append(text(f"{signed} of {len(blocks)}", "100%", middle + 4, "end", "tick"))
        dots += [
            _signature(block, member, columns.middle(index), middle)
            for index, block in enumerate(blocks)
        ]
    if blocks:
        dots.append(text(f"block {blocks[0].height}", "0", height - 4, "start", "tick"))
        dots.append(text(str(blocks[-1].height), "100%", height - 4, "end", "tick"))
    return element(
        "div",
        picture(names, height, "axis names"),
        picture(dots, height, "plot", "Which endorsers signed the certificates of the last blocks"),
        picture(counts, height, "axis"),
        class_="chart signatures",
    )


def _signature(block: BlockFacts, member: str, x: str, y: float) -> Markup:
    """Draw a full dot for a signature, a ring for none, a point while there is no certificate."""
    if member in block.signers:
        kind, radius, says = "dot", "4.5", "signed"
    elif block.signers:
        kind, radius, says = "dot absent", "3.5", "not in the certificate"
    else:
        kind, radius, says = "dot awaited", "1.5", "no certificate here yet"
    words = element("title", f"block {block.height}, {member}: {says}")
    return element("circle", words, class_=kind, cx=x, cy=px(y), r=radius)


def _tariff_of_slot(facts: SlotFacts, columns: Columns, index: int, scale: Scale) -> Markup:
    left, right = columns.left(index), columns.left(index + 1)
    retail, feed_in = scale.at(facts.retail_micro_per_kwh), scale.at(facts.feed_in_micro_per_kwh)
    band = element(
        "rect",
        class_="band",
        x=left,
        width=columns.width,
        y=px(retail),
        height=px(max(0.0, feed_in - retail)),
    )
    return join(
        band,
        line("retail", left, right, retail, retail),
        line("feed-in", left, right, feed_in, feed_in),
    )


def _price_line(slots: Sequence[SlotFacts], columns: Columns, scale: Scale) -> Markup:
    """Draw a level per priced slot, joined to the next one if that has a price too."""
    parts = []
    for index, facts in enumerate(slots):
        if facts.price_micro_per_kwh is None:
            continue
        y = scale.at(facts.price_micro_per_kwh)
        left, right = columns.left(index), columns.left(index + 1)
        parts.append(line("price", left, right, y, y))
        following = slots[index + 1].price_micro_per_kwh if index + 1 < len(slots) else None
        if following is not None:
            parts.append(line("price riser", right, right, y, scale.at(following)))
    return join(parts)


def _price_mark(facts: SlotFacts, columns: Columns, index: int, scale: Scale) -> Markup | None:
    if facts.rung is None:
        return None
    value = facts.price_micro_per_kwh or 0
    shape = rung_shape(facts.rung)
    return element("svg", shape, x=columns.middle(index), y=px(scale.at(value)), overflow="visible")


def rung_shape(rung: Rung) -> Markup:
    """Return the mark of a rung around the origin: circle, diamond or hollow square."""
    match rung:
        case Rung.NEGOTIATED:
            return element("circle", class_="mark", r="4")
        case Rung.STANDING:
            return element("path", class_="mark", d="M0-6L6 0L0 6L-6 0Z")
        case Rung.GRID:
            return element("rect", class_="mark hollow", x="-3", y="-3", width="6", height="6")


def _energies(facts: SlotFacts) -> tuple[int, int, int]:
    """Return (traded, from the grid, to the grid) [Wh]: metered, or what the orders leave."""
    if facts.is_settled:
        return facts.traded_wh, facts.grid_import_wh, facts.grid_export_wh
    if facts.rung is None:
        return 0, 0, 0
    left_wh = max(0, facts.demand_wh - facts.traded_wh), max(0, facts.supply_wh - facts.traded_wh)
    return (facts.traded_wh, *left_wh)


def _energy_bar(
    facts: SlotFacts, bar: tuple[int, int, int], columns: Columns, index: int, scale: Scale
) -> Markup:
    traded, from_grid, to_grid = bar
    expected = "" if facts.is_settled else " expected"
    x, width = columns.left(index + 0.15), columns.left(0.7)

    def piece(kind: str, low: int, high: int) -> Markup | None:
        if high == low:
            return None
        y = scale.at(high)
        height = px(scale.at(low) - y)
        return element("rect", class_=f"bar {kind}", x=x, width=width, y=px(y), height=height)

    return join(
        piece("local", 0, traded),
        piece("from-grid" + expected, traded, traded + from_grid),
        piece("to-grid" + expected, -to_grid, 0),
    )


def _selection(
    slots: Sequence[SlotFacts], selected: int | None, columns: Columns, height: int
) -> Markup | None:
    for index, facts in enumerate(slots):
        if facts.slot == selected:
            return element(
                "rect",
                class_="selected",
                x=columns.left(index),
                y=0,
                width=columns.width,
                height=height - 18,
            )
    return None


def _targets(
    slots: Sequence[SlotFacts], columns: Columns, height: int, currency: str, link: Link | None
) -> Markup:
    """Cover every column with its explanation, and with a link if there is one."""
    targets = []
    for index, facts in enumerate(slots):
        words = f"{span(facts)}: {outcome(facts, currency)}"
        cover = element(
            "rect",
            element("title", words),
            class_="target",
            x=columns.left(index),
            y=0,
            width=columns.width,
            height=height - 18,
        )
        is_linked = link is not None and facts.rung is not None
        targets.append(
            element("a", cover, href=link(facts), data_slot=facts.slot, aria_label=words)
            if is_linked and link is not None
            else cover
        )
    return join(targets)


def _time_labels(slots: Sequence[SlotFacts], columns: Columns, y: float) -> Markup:
    """Label some columns; every other label gives way on a narrow screen."""
    every = -(-len(slots) // TIME_LABELS_MAX)
    return join(
        text(
            facts.label,
            columns.left(index),
            y,
            "middle" if index else "start",
            "tick minor" if index // every % 2 else "tick",
        )
        for index, facts in enumerate(slots)
        if index % every == 0
    )


def _tick_price(price_micro_per_kwh: int) -> str:
    return decimal(price_micro_per_kwh, MICRO, 2)


def _kilo(energy_wh: int) -> str:
    """Write a tick in kWh without its unit; the caption names it."""
    return f"{abs(energy_wh) / 1000:g}"

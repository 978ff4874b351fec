"""Pictures of a street as SVG without script and without inline styles.

Horizontal places are percentages and vertical ones pixels, so a picture is as wide as its column
while letters and lines keep their size.  Colours are classes of the style sheet, and never the only
carrier of a meaning: rungs differ in shape, directions in position.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from market.clearing import Rung
from node.street_snapshot import ChainFacts, SlotDetail, SlotFacts, TraceRound
from node.web.markup import Child, Markup, element, join
from node.web.wording import energy, outcome, price, span

PRICE_CHART_PX = 190
ENERGY_CHART_PX = 150
TRACE_CHART_PX = 150
FLOW_PX = 190
ROW_PX = 18
TIME_LABELS_MAX = 8
TICKS = 4
NODES_MAX = 9
"""Homes per side of the flow picture; the smallest beyond are drawn as one."""

Link = Callable[[SlotFacts], str]
"""Where a click on a slot leads."""


@dataclass(frozen=True, slots=True)
class _Scale:
    """A linear scale from `low`..`high` to `bottom`..`top` [px]."""

    low: int
    high: int
    bottom: float
    top: float

    def at(self, value: float) -> float:
        share = (value - self.low) / max(1, self.high - self.low)
        return round(self.bottom + share * (self.top - self.bottom), 1)


def price_chart(
    slots: Sequence[SlotFacts],
    *,
    currency: str,
    selected: int | None = None,
    link: Link | None = None,
) -> Markup:
    """Draw local prices between feed-in and retail, with a mark per rung."""
    highest = max(each.retail_micro_per_kwh for each in slots)
    step = _nice_step(highest)
    scale = _Scale(0, -(-highest // step) * step, PRICE_CHART_PX - 26, 10)
    columns = _Columns(len(slots))
    plot = join(
        _selection(slots, selected, columns, PRICE_CHART_PX),
        _gridlines(scale, step),
        *(_tariff_of_slot(each, columns, index, scale) for index, each in enumerate(slots)),
        _price_line(slots, columns, scale),
        *(_price_mark(each, columns, index, scale) for index, each in enumerate(slots)),
        _time_labels(slots, columns, PRICE_CHART_PX - 6),
        _targets(slots, columns, PRICE_CHART_PX, currency, link),
    )
    label = f"Local price per slot in {currency} per kWh, between feed-in and retail price"
    return _chart(_axis(scale, step, PRICE_CHART_PX, price), plot, PRICE_CHART_PX, label)


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
    step = _nice_step(up + down)
    low, high = -(-(-down // step) * step), -(-up // step) * step
    scale = _Scale(low, high, ENERGY_CHART_PX - 24, 8)
    columns = _Columns(len(slots))
    plot = join(
        _selection(slots, selected, columns, ENERGY_CHART_PX),
        _gridlines(scale, step),
        *(
            _energy_bar(each, bar, columns, index, scale)
            for index, (each, bar) in enumerate(zip(slots, bars, strict=True))
        ),
        _time_labels(slots, columns, ENERGY_CHART_PX - 6),
        _targets(slots, columns, ENERGY_CHART_PX, currency, link),
    )
    label = "Energy per slot: traded between neighbours, from the grid, and to the grid"
    return _chart(_axis(scale, step, ENERGY_CHART_PX, _kilo), plot, ENERGY_CHART_PX, label)


def trace_chart(trace: Sequence[TraceRound], facts: SlotFacts, currency: str) -> Markup:
    """Draw the price of every round of one negotiation, within the band."""
    prices = [each.price_micro_per_kwh for each in trace]
    step = _nice_step(facts.hi_micro_per_kwh)
    high = -(-max(facts.hi_micro_per_kwh, *prices) // step) * step
    scale = _Scale(0, high, TRACE_CHART_PX - 24, 12)
    columns = _Columns(len(trace))
    band = element(
        "rect",
        class_="band",
        x=0,
        width="100%",
        y=_px(scale.at(facts.hi_micro_per_kwh)),
        height=_px(scale.at(facts.lo_micro_per_kwh) - scale.at(facts.hi_micro_per_kwh)),
    )
    steps = [
        _line("price", columns.middle(i), columns.middle(i + 1), scale.at(a), scale.at(b))
        for i, (a, b) in enumerate(pairwise(prices))
    ]
    marks = [
        join(
            element(
                "circle", class_="mark", cx=columns.middle(i), cy=_px(scale.at(value)), r="4.5"
            ),
            _text(price(value), columns.middle(i), scale.at(value) - 9, "middle", "value"),
            _text(str(each.round), columns.middle(i), TRACE_CHART_PX - 6, "middle", "tick"),
        )
        for i, (each, value) in enumerate(zip(trace, prices, strict=True))
    ]
    label = f"Price per round of the negotiation for {span(facts)}, in {currency} per kWh"
    plot = join(band, _gridlines(scale, step), steps, marks)
    return _chart(_axis(scale, step, TRACE_CHART_PX, price), plot, TRACE_CHART_PX, label)


def signature_chart(chain: ChainFacts, endorsers: Sequence[str]) -> Markup:
    """Draw who signed the certificates of the last blocks: a full dot per signature."""
    blocks = chain.last_blocks
    columns = _Columns(max(1, len(blocks)))
    height = ROW_PX * len(endorsers) + 20
    names, dots, counts = [], [], []
    for row, member in enumerate(endorsers):
        middle = ROW_PX * row + ROW_PX / 2
        signed = sum(member in block.signers for block in blocks)
        names.append(_text(member, "0", middle + 4, "start", "tick"))
        counts.append(_text(f"{signed} of {len(blocks)}", "100%", middle + 4, "end", "tick"))
        for index, block in enumerate(blocks):
            has_signed = member in block.signers
            kind = "dot" if has_signed else "dot absent" if block.signers else "dot awaited"
            says = "signed" if has_signed else "not in it" if block.signers else "not here yet"
            dots.append(
                element(
                    "circle",
                    element("title", f"block {block.height}, {member}: {says}"),
                    class_=kind,
                    cx=columns.middle(index),
                    cy=_px(middle),
                    r="4.5" if has_signed else "3.5" if block.signers else "1.5",
                )
            )
    if blocks:
        dots.append(_text(f"block {blocks[0].height}", "0", height - 4, "start", "tick"))
        dots.append(_text(str(blocks[-1].height), "100%", height - 4, "end", "tick"))
    return element(
        "div",
        _svg(names, height, "axis names"),
        _svg(dots, height, "plot", "Which endorsers signed the certificates of the last blocks"),
        _svg(counts, height, "axis"),
        class_="chart signatures",
    )


# -- the flow picture ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Node:
    """One end of flows: a home, several small homes, or the grid."""

    name: str
    energy_wh: int
    is_grid: bool
    top: float = 0
    bottom: float = 0
    used: float = 0

    def take(self, height: float) -> float:
        """Return where the next ribbon of this height begins."""
        begin = self.top + self.used
        self.used += height
        return begin


GRID = "grid"
_OTHERS = "other homes"


def flow_picture(detail: SlotDetail) -> Markup:
    """Draw sellers and grid on the left, buyers and grid on the right, ribbons between them."""
    flows = list(_gathered(_all_flows(detail)))
    total_wh = sum(energy_wh for _, _, energy_wh in flows)
    if not total_wh:
        return element("p", "No energy changes hands in this slot.", class_="nothing")
    scale = FLOW_PX / total_wh
    left = _nodes((seller, energy_wh) for seller, _, energy_wh in flows)
    right = _nodes((buyer, energy_wh) for _, buyer, energy_wh in flows)
    height = max(_place(left.values(), scale), _place(right.values(), scale))
    ribbons = [
        _ribbon(left[seller], right[buyer], energy_wh, scale)
        for seller, buyer, energy_wh in sorted(
            flows, key=lambda flow: (left[flow[0]].top, right[flow[1]].top)
        )
    ]
    ends = [
        *(_end(node, 0) for node in left.values()),
        *(_end(node, 98.5) for node in right.values()),
    ]
    ribbon_box = element(
        "svg",
        ribbons,
        ends,
        class_="plot",
        viewBox=f"0 0 100 {height:.0f}",
        preserveAspectRatio="none",
        height=_px(height),
        width="100%",
        role="img",
        aria_label=_flow_words(detail),
    )
    return element(
        "div",
        _svg([_node_label(node, "100%", "end") for node in left.values()], height, "axis"),
        ribbon_box,
        _svg([_node_label(node, "0", "start") for node in right.values()], height, "axis"),
        class_="chart flows",
    )


def _all_flows(detail: SlotDetail) -> Iterator[tuple[str, str, int]]:
    for flow in detail.flows:
        yield flow.seller, flow.buyer, flow.energy_wh
    for part in detail.parts:
        if part.grid_export_wh:
            yield part.home, GRID, part.grid_export_wh
        if part.grid_import_wh:
            yield GRID, part.home, part.grid_import_wh


def _gathered(flows: Iterable[tuple[str, str, int]]) -> Iterator[tuple[str, str, int]]:
    """Draw the smallest homes of each side as one, so that the picture stays readable."""
    flows = list(flows)
    kept = [_largest(flows, side) for side in (0, 1)]
    sums: dict[tuple[str, str], int] = {}
    for seller, buyer, energy_wh in flows:
        key = (
            seller if seller in kept[0] else _OTHERS,
            buyer if buyer in kept[1] else _OTHERS,
        )
        sums[key] = sums.get(key, 0) + energy_wh
    for (seller, buyer), energy_wh in sums.items():
        yield seller, buyer, energy_wh


def _largest(flows: Sequence[tuple[str, str, int]], side: int) -> set[str]:
    sums: dict[str, int] = {}
    for flow in flows:
        sums[str(flow[side])] = sums.get(str(flow[side]), 0) + flow[2]
    homes = sorted((name for name in sums if name != GRID), key=lambda name: (-sums[name], name))
    return {*(homes if len(homes) <= NODES_MAX else homes[: NODES_MAX - 1]), GRID}


def _nodes(ends: Iterable[tuple[str, int]]) -> dict[str, _Node]:
    """Sum up energy per end; homes in id order, others after them, the grid last."""
    nodes: dict[str, _Node] = {}
    for name, energy_wh in ends:
        node = nodes.setdefault(name, _Node(name, 0, is_grid=name == GRID))
        node.energy_wh += energy_wh
    order = sorted(nodes, key=lambda name: (name == GRID, name == _OTHERS, name))
    return {name: nodes[name] for name in order}


def _place(nodes: Iterable[_Node], scale: float) -> float:
    """Stack nodes from the top, each at least as high as its label; return the height."""
    below = 0.0
    for node in nodes:
        bar = node.energy_wh * scale
        room = max(ROW_PX, bar + 4)
        node.top = below + (room - bar) / 2
        node.bottom = node.top + bar
        below += room
    return below


def _ribbon(left: _Node, right: _Node, energy_wh: int, scale: float) -> Markup:
    height = energy_wh * scale
    a, b = left.take(height), right.take(height)
    path = (
        f"M1.5 {a:.1f}C50 {a:.1f} 50 {b:.1f} 98.5 {b:.1f}V{b + height:.1f}"
        f"C50 {b + height:.1f} 50 {a + height:.1f} 1.5 {a + height:.1f}Z"
    )
    kind = "from-grid" if left.is_grid else "to-grid" if right.is_grid else "local"
    title = element("title", f"{left.name} to {right.name}: {energy(energy_wh, 2)}")
    return element("path", title, class_=f"ribbon {kind}", d=path)


def _end(node: _Node, x: float) -> Markup:
    return element(
        "rect",
        class_="end grid" if node.is_grid else "end",
        x=str(x),
        width="1.5",
        y=_px(node.top),
        height=_px(max(1.0, node.bottom - node.top)),
    )


def _node_label(node: _Node, x: str, anchor: str) -> Markup:
    middle = (node.top + node.bottom) / 2 + 4
    words = (element("tspan", node.name, class_="name"), f" {energy(node.energy_wh)}")
    return _text(words, x, middle, anchor, "node")


def _flow_words(detail: SlotDetail) -> str:
    traded_wh = sum(flow.energy_wh for flow in detail.flows)
    to_grid_wh = sum(part.grid_export_wh for part in detail.parts)
    from_grid_wh = sum(part.grid_import_wh for part in detail.parts)
    return (
        f"{span(detail.facts)}: {energy(traded_wh)} between neighbours, "
        f"{energy(from_grid_wh)} from the grid, {energy(to_grid_wh)} to the grid"
    )


# -- parts of charts -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Columns:
    """Equal columns over the width of a plot."""

    number: int

    def left(self, index: float) -> str:
        return f"{100 * index / self.number:.3f}%"

    def middle(self, index: int) -> str:
        return self.left(index + 0.5)

    @property
    def width(self) -> str:
        return self.left(1)


def _chart(axis: Markup, plot: Markup, height: int, label: str) -> Markup:
    return element("div", axis, _svg(plot, height, "plot", label), class_="chart")


def _svg(content: Child, height: float, class_: str, label: str | None = None) -> Markup:
    return element(
        "svg",
        content,
        class_=class_,
        width="100%",
        height=_px(height),
        role="group" if label else None,
        aria_label=label,
        aria_hidden=None if label else "true",
    )


def _axis(scale: _Scale, step: int, height: int, written: Callable[[int], str]) -> Markup:
    ticks = range(scale.low, scale.high + 1, step)
    labels = [_text(written(tick), "100%", scale.at(tick) + 4, "end", "tick") for tick in ticks]
    return _svg(labels, height, "axis")


def _gridlines(scale: _Scale, step: int) -> Markup:
    lines = []
    for tick in range(scale.low, scale.high + 1, step):
        y = scale.at(tick)
        lines.append(_line("zero" if tick == 0 else "rule", "0", "100%", y, y))
    return join(lines)


def _tariff_of_slot(facts: SlotFacts, columns: _Columns, index: int, scale: _Scale) -> Markup:
    left, right = columns.left(index), columns.left(index + 1)
    retail, feed_in = scale.at(facts.retail_micro_per_kwh), scale.at(facts.feed_in_micro_per_kwh)
    band = element(
        "rect",
        class_="band",
        x=left,
        width=columns.width,
        y=_px(retail),
        height=_px(max(0.0, feed_in - retail)),
    )
    return join(
        band,
        _line("retail", left, right, retail, retail),
        _line("feed-in", left, right, feed_in, feed_in),
    )


def _price_line(slots: Sequence[SlotFacts], columns: _Columns, scale: _Scale) -> Markup:
    """Draw a level per priced slot, joined to the next one if that has a price too."""
    parts = []
    for index, facts in enumerate(slots):
        if facts.price_micro_per_kwh is None:
            continue
        y = scale.at(facts.price_micro_per_kwh)
        left, right = columns.left(index), columns.left(index + 1)
        parts.append(_line("price", left, right, y, y))
        following = slots[index + 1].price_micro_per_kwh if index + 1 < len(slots) else None
        if following is not None:
            parts.append(_line("price riser", right, right, y, scale.at(following)))
    return join(parts)


def _price_mark(facts: SlotFacts, columns: _Columns, index: int, scale: _Scale) -> Markup | None:
    if facts.rung is None:
        return None
    value = facts.price_micro_per_kwh or 0
    shape = rung_shape(facts.rung)
    return element(
        "svg", shape, x=columns.middle(index), y=_px(scale.at(value)), overflow="visible"
    )


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
    facts: SlotFacts, bar: tuple[int, int, int], columns: _Columns, index: int, scale: _Scale
) -> Markup:
    traded, from_grid, to_grid = bar
    expected = "" if facts.is_settled else " expected"
    x, width = columns.left(index + 0.15), columns.left(0.7)

    def piece(kind: str, low: int, high: int) -> Markup | None:
        if high == low:
            return None
        y = scale.at(high)
        height = _px(scale.at(low) - y)
        return element("rect", class_=f"bar {kind}", x=x, width=width, y=_px(y), height=height)

    return join(
        piece("local", 0, traded),
        piece("from-grid" + expected, traded, traded + from_grid),
        piece("to-grid" + expected, -to_grid, 0),
    )


def _selection(
    slots: Sequence[SlotFacts], selected: int | None, columns: _Columns, height: int
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
    slots: Sequence[SlotFacts], columns: _Columns, height: int, currency: str, link: Link | None
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


def _time_labels(slots: Sequence[SlotFacts], columns: _Columns, y: float) -> Markup:
    every = -(-len(slots) // TIME_LABELS_MAX)
    return join(
        _text(facts.label, columns.left(index), y, "middle" if index else "start", "tick")
        for index, facts in enumerate(slots)
        if index % every == 0
    )


def _line(class_: str, x1: str, x2: str, y1: float, y2: float) -> Markup:
    return element("line", class_=class_, x1=x1, x2=x2, y1=_px(y1), y2=_px(y2))


def _text(words: Child, x: str, y: float, anchor: str, class_: str) -> Markup:
    return element("text", words, class_=class_, x=x, y=_px(y), text_anchor=anchor)


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _kilo(energy_wh: int) -> str:
    """Write a tick in kWh without its unit; the caption names it."""
    return f"{abs(energy_wh) / 1000:g}"


def _nice_step(most: int) -> int:
    """Return 1, 2 or 5 times a power of ten such that a few of them reach `most`."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor * TICKS >= most:
                return step * factor
        step *= 10

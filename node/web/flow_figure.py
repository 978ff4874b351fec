"""Who delivers to whom in a slot: sellers and grid on the left, buyers and grid on the right."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from node.view.snapshot import SlotDetail
from node.web.markup import Markup, element
from node.web.plot import picture, px, text
from node.web.wording import energy, span

FLOW_PX = 190
ROW_PX = 18
NODES_MAX = 9
"""Homes per side; the smallest beyond are drawn as one."""

GRID = "grid"
_OTHERS = "other homes"


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
        height=px(height),
        width="100%",
        role="img",
        aria_label=_flow_words(detail),
    )
    return element(
        "div",
        picture([_node_label(node, "100%", "end") for node in left.values()], height, "axis"),
        ribbon_box,
        picture([_node_label(node, "0", "start") for node in right.values()], height, "axis"),
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
        y=px(node.top),
        height=px(max(1.0, node.bottom - node.top)),
    )


def _node_label(node: _Node, x: str, anchor: str) -> Markup:
    middle = (node.top + node.bottom) / 2 + 4
    words = (element("tspan", node.name, class_="name"), f" {energy(node.energy_wh)}")
    return text(words, x, middle, anchor, "node")


def _flow_words(detail: SlotDetail) -> str:
    traded_wh = sum(flow.energy_wh for flow in detail.flows)
    to_grid_wh = sum(part.grid_export_wh for part in detail.parts)
    from_grid_wh = sum(part.grid_import_wh for part in detail.parts)
    return (
        f"{span(detail.facts)}: {energy(traded_wh)} between neighbours, "
        f"{energy(from_grid_wh)} from the grid, {energy(to_grid_wh)} to the grid"
    )

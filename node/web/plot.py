"""Parts of pictures: scales, columns, axes and letters, as SVG without script or inline styles.

Horizontal places are percentages and vertical ones pixels, so a picture is as wide as its column
while letters and lines keep their size.
"""

from collections.abc import Callable
from dataclasses import dataclass

from node.web.markup import Child, Markup, element, join

TICKS = 4
"""How many steps a scale has at most."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear scale from `low`..`high` to `bottom`..`top` [px]."""

    low: int
    high: int
    bottom: float
    top: float

    def at(self, value: float) -> float:
        """Return the height of a value [px]."""
        share = (value - self.low) / max(1, self.high - self.low)
        return round(self.bottom + share * (self.top - self.bottom), 1)


@dataclass(frozen=True, slots=True)
class Columns:
    """Equal columns over the width of a plot."""

    number: int

    def left(self, index: float) -> str:
        """Return where a column begins."""
        return f"{100 * index / self.number:.3f}%"

    def middle(self, index: int) -> str:
        """Return where the middle of a column is."""
        return self.left(index + 0.5)

    @property
    def width(self) -> str:
        """The width of one column."""
        return self.left(1)


def chart(axis_picture: Markup, plot: Markup, height: int, label: str) -> Markup:
    """Put an axis and a plot side by side; `label` is what a screen reader says."""
    return element("div", axis_picture, picture(plot, height, "plot", label), class_="chart")


def picture(content: Child, height: float, class_: str, label: str | None = None) -> Markup:
    """Make a picture as wide as its column; without a label it is decoration."""
    return element(
        "svg",
        content,
        class_=class_,
        width="100%",
        height=px(height),
        role="group" if label else None,
        aria_label=label,
        aria_hidden=None if label else "true",
    )


def axis(scale: Scale, step: int, height: int, written: Callable[[int], str]) -> Markup:
    """Write the ticks of a scale."""
    ticks = range(scale.low, scale.high + 1, step)
    labels = [text(written(tick), "100%", scale.at(tick) + 4, "end", "tick") for tick in ticks]
    return picture(labels, height, "axis")


def gridlines(scale: Scale, step: int) -> Markup:
    """Draw a rule per tick; the one at zero is stronger."""
    lines = []
    for tick in range(scale.low, scale.high + 1, step):
        y = scale.at(tick)
        lines.append(line("zero" if tick == 0 else "rule", "0", "100%", y, y))
    return join(lines)


def line(class_: str, x1: str, x2: str, y1: float, y2: float) -> Markup:
    """Draw a line."""
    return element("line", class_=class_, x1=x1, x2=x2, y1=px(y1), y2=px(y2))


def text(words: Child, x: str, y: float, anchor: str, class_: str) -> Markup:
    """Write a text; `anchor` is start, middle or end."""
    return element("text", words, class_=class_, x=x, y=px(y), text_anchor=anchor)


def px(value: float) -> str:
    """Write pixels with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def nice_step(most: int) -> int:
    """Return 1, 2 or 5 times a power of ten such that a few of them reach `most`."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if step * factor * TICKS >= most:
                return step * factor
        step *= 10

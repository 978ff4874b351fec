"""HTML and SVG that cannot forget to escape: text is escaped unless it is `Markup` already."""

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Child = Markup | str | int | None | Iterable["Child"]
"""Elements, text, or nested lists of both; None is nothing."""

_VOID = frozenset({"meta", "link", "br", "col"})


def element(name: str, /, *children: Child, **attributes: str | int | None) -> Markup:
    """Make an element.

    Attributes are named as in Python: `class_` is class, `aria_label` is aria-label; None leaves
    an attribute out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Put children side by side."""
    return Markup("".join(_written(child) for child in children))


def _written(child: Child) -> str:
    match child:
        case None:
            return ""
        case Markup():
            return child
        case str() | int():
            return escape(str(child))
        case _:
            return "".join(_written(each) for each in child)

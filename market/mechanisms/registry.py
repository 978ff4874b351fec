"""The mechanisms by name; a community chooses one in genesis."""

from collections.abc import Callable

from market.mechanisms.protocol import Mechanism
from market.mechanisms.two_level import TwoLevel
from market.mechanisms.two_level_paper import TwoLevelPaper
from market.rules import Rules

_MECHANISMS: dict[str, Callable[[int], Mechanism]] = {
    "two-level": TwoLevel,
    "two-level-paper": TwoLevelPaper,
}

MECHANISM_NAMES = tuple(_MECHANISMS)


def mechanism_of(rules: Rules) -> Mechanism:
    """Return the mechanism that the rules name.

    Raises:
        ValueError: There is no such mechanism; the message lists those that there are.
    """
    make = _MECHANISMS.get(rules.mechanism)
    if make is None:
        raise ValueError(
            f"unknown mechanism {rules.mechanism!r}; choose one of {', '.join(MECHANISM_NAMES)}"
        )
    return make(rules.fallback_haircut_ppm)

"""Contract `tariffs`: which retail and feed-in price holds in a slot.

State: the steps of genesis, each from a slot on.  Operations: none yet; changes with effective
times come with the community's life cycle.
"""

from market.rules import Rules
from market.tariffs import Band, Tariff, band_of


def tariff_of(rules: Rules, slot: int) -> Tariff:
    """Return the grid's tariff of `slot`: the last step that starts at or before it."""
    steps = [step for step in rules.tariffs if step.from_slot <= slot]
    return (steps[-1] if steps else rules.tariffs[0]).tariff


def band_in(rules: Rules, slot: int) -> Band:
    """Return the price band that tariff and fees leave in `slot`."""
    return band_of(tariff_of(rules, slot), rules.fees)

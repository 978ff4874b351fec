"""Contract `tariffs`: which retail and feed-in price holds in a slot.

State: the steps of genesis, each from a slot on.  Operations: none yet; changes with effective
times come with the community's life cycle.
"""

from bisect import bisect_right

from market.rules import Rules
from market.tariffs import Band, Tariff, band_of


def tariff_of(rules: Rules, slot: int) -> Tariff:
    """Return the grid's tariff of `slot`: the last step that starts at or before it."""
    following = bisect_right(rules.tariffs, slot, key=lambda step: step.from_slot)
    assert following, f"the rules have no tariff for slot {slot}"
    return rules.tariffs[following - 1].tariff


def band_in(rules: Rules, slot: int) -> Band:
    """Return the price band that tariff and fees leave in `slot`."""
    return band_of(tariff_of(rules, slot), rules.fees)

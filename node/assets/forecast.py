"""What a home expects of a slot."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expected load and PV of one slot [Wh], before any device."""

    load_wh: int
    pv_wh: int

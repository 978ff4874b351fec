"""What a ledger cannot know about a street: names, equipment, presets, and what is simulated."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetLabels:
    """Words for the page and the report; no figure in either comes from here.

    `source` says in one line where the street's load and PV come from.  `homes` lists short tags
    per home id, such as "PV" or "simulated battery 6 kWh"; `presets` names each home's preset.
    `simulated` holds one sentence per thing that is not real.
    """

    title: str
    source: str
    homes: Mapping[str, tuple[str, ...]]
    presets: Mapping[str, str]
    simulated: tuple[str, ...]

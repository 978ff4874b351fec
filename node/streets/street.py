"""Streets: what every home uses and produces, slot by slot, and what the grid charges.

A street is a preset of this package (`node/streets/`; its README has the sources) or a CSV file of
the user's own, whose format is at the head of `node/streets/table.py`.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from market.tariffs import Tariff
from node.streets.table import (
    DEFAULT_SLOT_MINUTES,
    HOMES_MIN,
    MINUTES_PER_DAY,
    StreetError,
    StreetTable,
    parse_table,
)

__all__ = ["PRESETS", "HomeProfile", "Preset", "Street", "StreetError", "load_street"]


@dataclass(frozen=True, slots=True)
class HomeProfile:
    """What one home uses and what its roof produces, per slot [Wh]."""

    id: str
    load_wh: tuple[int, ...]
    pv_wh: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """Homes over consecutive slots of equal length, with the grid's tariff of every slot.

    `first_minute` is the minute of the day at which slot 0 begins.  `source` says in one line
    where the numbers come from, for the page and the report.
    """

    name: str
    source: str
    currency: str
    slot_minutes: int
    first_minute: int
    homes: tuple[HomeProfile, ...]
    retail_micro_per_kwh: tuple[int, ...]
    feed_in_micro_per_kwh: tuple[int, ...]

    @property
    def slots(self) -> int:
        """How many slots the street has data for."""
        return len(self.retail_micro_per_kwh)

    @property
    def tariffs(self) -> tuple[Tariff, ...]:
        """The grid's tariff of every slot."""
        pairs = zip(self.retail_micro_per_kwh, self.feed_in_micro_per_kwh, strict=True)
        return tuple(
            Tariff(retail_micro_per_kwh=retail, feed_in_micro_per_kwh=feed_in)
            for retail, feed_in in pairs
        )

    def slot_label(self, slot_index: int) -> str:
        """Return the time of day at which a slot begins, such as "07:00"."""
        minute = (self.first_minute + slot_index * self.slot_minutes) % MINUTES_PER_DAY
        return f"{minute // 60:02d}:{minute % 60:02d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A street that comes with the package, in hourly slots.

    `order` names its homes in the order in which `--homes N` takes them; `homes` is how many are
    taken when nobody says.
    """

    file: str
    source: str
    currency: str
    order: tuple[str, ...]
    homes: int


PRESETS = {
    "clear-day": Preset(
        file="clear_day.csv",
        source="17 real homes on one clear June day, hourly (CityLearn Challenge 2022, MIT)",
        currency="USD",
        # Roofs and consumers in turn, so that a small street has both sides; homes whose load
        # record has gaps on this day come last.
        order=(
            *("h01", "h10", "h02", "h11", "h03", "h17", "h04", "h05"),
            *("h06", "h16", "h08", "h13", "h09", "h07", "h14", "h12", "h15"),
        ),
        homes=8,
    ),
    "zhao2019": Preset(
        file="zhao2019.csv",
        source="five users, 7 to 18 h, Zhao et al. 2019 (Energies 12, 3812), tables 8 and 9",
        currency="CNY",
        order=("user1", "user3", "user2", "user4", "user5"),
        homes=5,
    ),
}


def load_street(
    name_or_path: str, *, homes: int | None = None, slot_minutes: int | None = None
) -> Street:
    """Return a preset by its name, or a street read from a CSV file.

    `homes` takes that many homes only: of a preset in its stated order, of a file from the left.
    Those taken are listed in the table's order.  `slot_minutes` says how long a file's slots are
    (60 if None); a preset knows its own.

    Raises
    ------
    StreetError
        If there is no such preset or file, the file is not a street, or it has fewer homes.
    """
    preset = PRESETS.get(name_or_path)
    if preset is not None:
        return _load_preset(name_or_path, preset, homes, slot_minutes)
    path = Path(name_or_path)
    if not path.is_file():
        raise StreetError(
            name_or_path,
            "no preset and no file of that name",
            f"give one of {', '.join(PRESETS)}, or the path of a CSV file",
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            table = parse_table(
                lines,
                source=path.name,
                slot_minutes=DEFAULT_SLOT_MINUTES if slot_minutes is None else slot_minutes,
            )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StreetError(
            path.name, f"cannot be read ({error})", "give comma-separated values in UTF-8"
        ) from error
    street = _street(path.name, f"the file {path.name}", table)
    order = tuple(home.id for home in street.homes)
    return _select_homes(street, order, len(order) if homes is None else homes)


def _load_preset(name: str, preset: Preset, homes: int | None, slot_minutes: int | None) -> Street:
    if slot_minutes not in {None, DEFAULT_SLOT_MINUTES}:
        raise StreetError(
            name,
            f"slots of {slot_minutes} minutes were asked, its data is hourly",
            "leave --slot-minutes out, or give a CSV file of your own",
        )
    text = (files("node") / "streets" / preset.file).read_text(encoding="utf-8")
    table = parse_table(text.splitlines(), source=name, slot_minutes=DEFAULT_SLOT_MINUTES)
    street = replace(_street(name, preset.source, table), currency=preset.currency)
    return _select_homes(street, preset.order, preset.homes if homes is None else homes)


def _street(name: str, source: str, table: StreetTable) -> Street:
    return Street(
        name=name,
        source=source,
        currency=table.currency,
        slot_minutes=table.slot_minutes,
        first_minute=table.first_minute,
        homes=tuple(
            HomeProfile(home, load_wh, table.pv_wh[home]) for home, load_wh in table.load_wh.items()
        ),
        retail_micro_per_kwh=table.retail_micro_per_kwh,
        feed_in_micro_per_kwh=table.feed_in_micro_per_kwh,
    )


def _select_homes(street: Street, order: Sequence[str], count: int) -> Street:
    """Keep the first `count` homes of `order`, listed as the table lists them."""
    if not HOMES_MIN <= count <= len(order):
        raise StreetError(
            street.name,
            f"{count} homes were asked, it has {len(order)}",
            f"give --homes {HOMES_MIN} to {len(order)}, or a CSV file of your own with more",
        )
    chosen = frozenset(order[:count])
    return replace(street, homes=tuple(home for home in street.homes if home.id in chosen))

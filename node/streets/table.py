"""The CSV table of a street: read exactly, or refused with row, column and remedy.

* The first column orders the slots: whole numbers that rise by one (slot 0 begins at midnight) or
  ISO date-times one slot apart.  Its name is free.
* `<home>_load_wh` and `<home>_pv_wh`: energy of the slot [Wh], whole, not negative.
* Optional tariffs: `retail_micro_per_kwh` and `feed_in_micro_per_kwh`, or in decimals
  `retail_price_<currency>_per_kwh` and `feed_in_price_<currency>_per_kwh`.  Without them the
  defaults below hold.
* `month`, `hour_ending` and `grid_kg_co2_per_kwh` may be there, as in CityLearn's data; unread.

Whatever else is in the file is refused.  Numbers are exact integers throughout; nothing is
interpolated, and a gap is never filled.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

DEFAULT_CURRENCY = "EUR"
DEFAULT_RETAIL_MICRO_PER_KWH = 300_000
DEFAULT_FEED_IN_MICRO_PER_KWH = 80_000
DEFAULT_SLOT_MINUTES = 60
SLOT_MINUTES_ALLOWED = (5, 10, 15, 20, 30, 60)
MINUTES_PER_DAY = 1440

HOMES_MIN = 2
"""One home has no neighbour to trade with."""
HOMES_MAX = 200
"""The largest street that the price negotiation was measured with."""
SLOTS_MAX = 366 * 96
"""A leap year of quarter hours."""
ENERGY_WH_MAX = 1_000_000
"""A megawatt-hour in one slot is no home; such a number is in another unit."""
PRICE_MICRO_PER_KWH_MAX = 10**12
"""The bound of a price in a statement."""

CONTEXT_COLUMNS = frozenset({"month", "hour_ending", "grid_kg_co2_per_kwh"})
RESERVED_IDS = frozenset({"operator", "auditor", "bridge"})

_ENERGY_TITLE = re.compile(r"(?P<home>.*)_(?P<quantity>load|pv)_wh")
_TARIFF_TITLE = re.compile(
    r"(?P<tariff>retail|feed_in)_(?:micro|price_(?P<currency>[a-z]{3}))_per_kwh"
)
_MEMBER_ID = re.compile(r"[a-z0-9]{1,16}")
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"(?P<sign>-?)(?P<units>[0-9]{1,9})(?:\.(?P<fraction>[0-9]{1,6}))?")


class StreetError(Exception):
    """A street that cannot be used: where, what was given, what is allowed and how to mend it.

    `row` counts lines of the file from 1 (the header); `column` is the column's name.  Both are
    None where the trouble is not in one place.
    """

    def __init__(
        self,
        source: str,
        problem: str,
        remedy: str,
        *,
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        place = source
        if row is not None:
            place += f", row {row}"
        if column is not None:
            place += f", column {column}"
        super().__init__(f"{place}: {problem}; {remedy}")
        self.row = row
        self.column = column


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetTable:
    """What a street's file says, column by column, over consecutive slots.

    `first_minute` is the minute of the day at which the first slot begins.  Energies [Wh] are
    keyed by home, in the file's order; prices are micro-currency per kWh.
    """

    currency: str
    slot_minutes: int
    first_minute: int
    load_wh: Mapping[str, tuple[int, ...]]
    pv_wh: Mapping[str, tuple[int, ...]]
    retail_micro_per_kwh: tuple[int, ...]
    feed_in_micro_per_kwh: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column that is read: what it is called, what it may hold, and what it held so far."""

    index: int
    title: str
    most: int
    unit: str
    is_decimal: bool = False
    values: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns that are read, by what they mean."""

    energies: Mapping[tuple[str, str], _Column]
    tariffs: Mapping[str, _Column]
    currency: str

    @property
    def homes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(home for home, _ in self.energies))

    @property
    def columns(self) -> tuple[_Column, ...]:
        return (*self.energies.values(), *self.tariffs.values())


def parse_table(lines: Iterable[str], *, source: str, slot_minutes: int) -> StreetTable:
    """Read a street's table from the lines of a CSV file; `source` names it in refusals.

    Raises
    ------
    StreetError
        With row and column of the first thing that is wrong.
    csv.Error
        If the lines are not CSV at all.
    """
    if slot_minutes not in SLOT_MINUTES_ALLOWED:
        allowed = ", ".join(map(str, SLOT_MINUTES_ALLOWED))
        raise StreetError(
            source, f"slots of {slot_minutes} minutes are not offered", f"give one of {allowed}"
        )
    return _TableReader(source, slot_minutes).read(lines)


@dataclass(frozen=True, slots=True)
class _TableReader:
    """Reads one table; holds what every refusal and every slot has to know."""

    source: str
    slot_minutes: int

    def read(self, lines: Iterable[str]) -> StreetTable:
        rows = csv.reader(lines)
        header = [cell.strip() for cell in next(rows, [])]
        layout = self._layout(header)
        first = previous = None
        for cells in _up_to_last(rows):
            row = rows.line_num
            self._check_row(row, header, cells)
            begin = self._begin(row, header[0], cells[0].strip(), previous)
            first, previous = begin if first is None else first, begin
            for column in layout.columns:
                column.values.append(self._value(row, column, cells[column.index].strip()))
        if first is None:
            raise StreetError(self.source, "has no slots", "give one row per slot under the header")
        return self._table(layout, first % MINUTES_PER_DAY)

    def _table(self, layout: _Layout, first_minute: int) -> StreetTable:
        slots = len(layout.columns[0].values)
        tariffs = {name: tuple(column.values) for name, column in layout.tariffs.items()}
        energies = {key: tuple(column.values) for key, column in layout.energies.items()}
        return StreetTable(
            currency=layout.currency,
            slot_minutes=self.slot_minutes,
            first_minute=first_minute,
            load_wh={home: energies[home, "load"] for home in layout.homes},
            pv_wh={home: energies[home, "pv"] for home in layout.homes},
            retail_micro_per_kwh=tariffs.get("retail", (DEFAULT_RETAIL_MICRO_PER_KWH,) * slots),
            feed_in_micro_per_kwh=tariffs.get("feed_in", (DEFAULT_FEED_IN_MICRO_PER_KWH,) * slots),
        )

    def _layout(self, header: Sequence[str]) -> _Layout:
        if not any(header):
            raise StreetError(self.source, "is empty", "give a header and one row per slot", row=1)
        if len(header) == 1:
            raise StreetError(
                self.source,
                "there is one column only",
                "separate columns by commas, as in slot,a_load_wh,a_pv_wh",
                row=1,
                column=header[0],
            )
        if _ENERGY_TITLE.fullmatch(header[0]) or _TARIFF_TITLE.fullmatch(header[0]):
            raise StreetError(
                self.source,
                "the first column must order the slots",
                "put slot numbers or date-times before it",
                row=1,
                column=header[0],
            )
        energies: dict[tuple[str, str], _Column] = {}
        tariffs: dict[str, _Column] = {}
        currencies: dict[str, str] = {}
        for index, title in enumerate(header[1:], start=1):
            if energy := _ENERGY_TITLE.fullmatch(title):
                key = (self._home(title, energy["home"]), energy["quantity"])
                self._check_new(title, key in energies)
                energies[key] = _Column(index, title, ENERGY_WH_MAX, "Wh")
            elif tariff := _TARIFF_TITLE.fullmatch(title):
                self._check_new(title, tariff["tariff"] in tariffs)
                tariffs[tariff["tariff"]] = _tariff_column(index, title, tariff["currency"])
                currencies[title] = (tariff["currency"] or "").upper()
            elif title not in CONTEXT_COLUMNS:
                raise self._unknown(index, title)
        layout = _Layout(energies, tariffs, self._currency(currencies))
        self._check_homes(layout)
        return layout

    def _home(self, title: str, home: str) -> str:
        if _MEMBER_ID.fullmatch(home) and home not in RESERVED_IDS:
            return home
        raise StreetError(
            self.source,
            f"{home!r} cannot be a home's id",
            f"use 1 to 16 of a-z and 0-9, and none of {', '.join(sorted(RESERVED_IDS))}",
            row=1,
            column=title,
        )

    def _check_new(self, title: str, is_known: bool) -> None:
        if is_known:
            raise StreetError(
                self.source, "is given twice", "keep one of them", row=1, column=title
            )

    def _unknown(self, index: int, title: str) -> StreetError:
        return StreetError(
            self.source,
            f"{title!r} is unknown" if title else "has no name",
            "known are <home>_load_wh, <home>_pv_wh, retail_micro_per_kwh and "
            "feed_in_micro_per_kwh, separated by commas: rename or remove it",
            row=1,
            column=title or f"number {index + 1}",
        )

    def _currency(self, currencies: Mapping[str, str]) -> str:
        """Return the one currency that the tariffs name; micro-currency columns name none."""
        named = {currency for currency in currencies.values() if currency}
        if len(named) > 1:
            raise StreetError(
                self.source,
                f"prices are in {' and '.join(sorted(named))}",
                "give both tariffs in one currency",
                row=1,
                column=list(currencies)[-1],
            )
        return named.pop() if named else DEFAULT_CURRENCY

    def _check_homes(self, layout: _Layout) -> None:
        for (home, quantity), column in layout.energies.items():
            other = "pv" if quantity == "load" else "load"
            if (home, other) not in layout.energies:
                raise StreetError(
                    self.source,
                    f"{home}_{other}_wh is missing beside it",
                    "give both of a home, zeros where it has no PV",
                    row=1,
                    column=column.title,
                )
        if not HOMES_MIN <= len(layout.homes) <= HOMES_MAX:
            raise StreetError(
                self.source,
                f"{len(layout.homes)} homes are no street",
                f"give {HOMES_MIN} to {HOMES_MAX}, each as <home>_load_wh and <home>_pv_wh",
                row=1,
            )

    def _check_row(self, row: int, header: Sequence[str], cells: Sequence[str]) -> None:
        if row > SLOTS_MAX + 1:
            raise StreetError(
                self.source, f"more than {SLOTS_MAX} slots", "give at most a year", row=row
            )
        if not cells:
            raise StreetError(
                self.source, "comes after a blank line", "fill in the slot or remove it", row=row
            )
        if len(cells) < len(header):
            raise StreetError(
                self.source,
                f"the row ends before it, after {len(cells)} cells",
                f"give {len(header)} cells in every row",
                row=row,
                column=header[len(cells)],
            )
        if len(cells) > len(header):
            raise StreetError(
                self.source,
                f"the row has {len(cells)} cells",
                f"give {len(header)}, one per column of the header",
                row=row,
                column=f"number {len(header) + 1}",
            )

    def _begin(self, row: int, title: str, text: str, previous: int | None) -> int:
        """Return the minute at which a slot begins; its remainder by days is the time of day."""
        begin = _minute_of(text, self.slot_minutes)
        if begin is None:
            raise StreetError(
                self.source,
                f"{text!r} is no slot",
                "give whole numbers from 0, or date-times such as 2024-06-01T07:00",
                row=row,
                column=title,
            )
        if previous is not None and begin != previous + self.slot_minutes:
            raise StreetError(
                self.source,
                f"{text!r} is not one slot of {self.slot_minutes} minutes after the row before it",
                "give every slot once and in order, or their length with --slot-minutes",
                row=row,
                column=title,
            )
        return begin

    def _value(self, row: int, column: _Column, text: str) -> int:
        value = _micro_of(text) if column.is_decimal else _whole_of(text)
        if value is not None and 0 <= value <= column.most:
            return value
        if not text:
            problem = "is empty"
        elif value is None:
            problem = f"{text!r} is not {'a price' if column.is_decimal else 'a whole number'}"
        else:
            problem = f"{text} is {'negative' if value < 0 else 'too large'}"
        allowed = (
            f"give a price from 0 to {column.most // 10**6} {column.unit} with up to six decimals"
            if column.is_decimal
            else f"give whole {column.unit} from 0 to {column.most}"
        )
        raise StreetError(self.source, problem, allowed, row=row, column=column.title)


def _tariff_column(index: int, title: str, currency: str | None) -> _Column:
    if currency is None:
        return _Column(index, title, PRICE_MICRO_PER_KWH_MAX, "micro-currency per kWh")
    unit = f"{currency.upper()} per kWh"
    return _Column(index, title, PRICE_MICRO_PER_KWH_MAX, unit, is_decimal=True)


def _up_to_last(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the rows; blank lines are forgiven at the end of the file and nowhere else.

    What follows a blank line is handed on as an empty row, for the caller to refuse.
    """
    is_after_blank = False
    for cells in rows:
        if any(cell.strip() for cell in cells):
            yield [] if is_after_blank else cells
        else:
            is_after_blank = True


def _minute_of(text: str, slot_minutes: int) -> int | None:
    if _WHOLE.fullmatch(text):
        return int(text) * slot_minutes if int(text) >= 0 else None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    if time.second or time.microsecond:
        return None
    # A time with an offset is an instant; midnight is then UTC's.
    instant = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return int(instant.timestamp()) // 60


def _whole_of(text: str) -> int | None:
    return int(text) if _WHOLE.fullmatch(text) else None


def _micro_of(text: str) -> int | None:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    micro = int(match["units"]) * 10**6 + int((match["fraction"] or "").ljust(6, "0"))
    return -micro if match["sign"] else micro

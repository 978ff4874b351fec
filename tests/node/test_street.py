import re
from pathlib import Path

import pytest

from node.streets.street import PRESETS, Street, StreetError, load_street

HEADER = "slot,a_load_wh,a_pv_wh,b_load_wh,b_pv_wh"
TWO_ROWS = f"{HEADER}\n0,100,0,200,50\n1,110,300,210,60\n"


@pytest.fixture
def write(tmp_path: Path) -> "Writer":
    return Writer(tmp_path / "own.csv")


class Writer:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, text: str) -> str:
        self.path.write_text(text, encoding="utf-8")
        return str(self.path)


def balances(street: Street) -> list[tuple[int, int]]:
    """Sum surplus and need [Wh] of every slot, after own PV and before any device."""
    result = []
    for slot in range(street.slots):
        nets = [home.pv_wh[slot] - home.load_wh[slot] for home in street.homes]
        result.append((sum(n for n in nets if n > 0), -sum(n for n in nets if n < 0)))
    return result


def count_slots(street: Street) -> tuple[int, int]:
    """Count slots with both sides, and slots with more surplus than need."""
    both = sum(1 for surplus, need in balances(street) if surplus > 0 and need > 0)
    return both, sum(1 for surplus, need in balances(street) if surplus > need)


def test_clear_day_has_eight_homes_five_of_them_with_pv() -> None:
    street = load_street("clear-day")

    with_pv = [home.id for home in street.homes if any(home.pv_wh)]

    assert [home.id for home in street.homes] == [
        "h01",
        "h02",
        "h03",
        "h04",
        "h05",
        "h10",
        "h11",
        "h17",
    ]
    assert with_pv == ["h01", "h02", "h03", "h04", "h05"]
    assert (street.slots, street.slot_minutes, street.currency) == (24, 60, "USD")


def test_clear_day_has_the_slots_that_its_readme_states() -> None:
    assert count_slots(load_street("clear-day")) == (13, 6)
    assert count_slots(load_street("clear-day", homes=17)) == (14, 1)


def test_clear_day_shares_the_energy_that_its_readme_states() -> None:
    street = load_street("clear-day")

    load = sum(sum(home.load_wh) for home in street.homes)
    own = sum(sum(map(min, home.load_wh, home.pv_wh)) for home in street.homes)
    shared = sum(min(pair) for pair in balances(street))

    assert (load, own, shared) == (253_620, 72_195, 44_201)


def test_clear_day_has_no_gap_in_the_load_of_its_default_homes() -> None:
    assert all(all(home.load_wh) for home in load_street("clear-day").homes)


def test_clear_day_homes_with_gaps_come_last() -> None:
    gaps = {home.id: home.load_wh.count(0) for home in load_street("clear-day", homes=17).homes}

    assert {home: count for home, count in gaps.items() if count} == {
        "h07": 4,
        "h14": 6,
        "h12": 11,
        "h15": 11,
    }
    assert PRESETS["clear-day"].order[-4:] == ("h07", "h14", "h12", "h15")


def test_clear_day_pv_is_nobodys_at_night_and_never_a_consumers() -> None:
    for home in load_street("clear-day", homes=17).homes:
        assert not any(home.pv_wh[slot] for slot in (0, 1, 2, 3, 4, 21, 22, 23))
        assert home.id <= "h09" or not any(home.pv_wh)


def test_clear_day_tariff_peaks_in_the_late_afternoon() -> None:
    street = load_street("clear-day")

    dear = [s for s, price in enumerate(street.retail_micro_per_kwh) if price == 540_000]

    assert dear == [15, 16, 17, 18, 19]
    assert set(street.retail_micro_per_kwh) == {220_000, 540_000}
    assert set(street.feed_in_micro_per_kwh) == {80_000}


@pytest.mark.parametrize("homes", range(2, 18))
def test_clear_day_of_any_size_has_both_sides(homes: int) -> None:
    street = load_street("clear-day", homes=homes)

    assert len(street.homes) == homes
    assert [home.id for home in street.homes] == sorted(home.id for home in street.homes)
    assert count_slots(street)[0] >= 9


def test_zhao2019_nets_to_the_totals_of_table_11() -> None:
    street = load_street("zhao2019")

    sold = [1365, 1912, 2244, 2415, 2375, 2454, 2472, 2374, 2191, 1834, 1184, 14]
    bought = [1366, 1960, 2377, 2479, 2566, 2850, 2169, 2144, 2434, 1939, 1542, 612]

    assert balances(street) == [(10 * s, 10 * b) for s, b in zip(sold, bought, strict=True)]
    assert (street.currency, street.slots, len(street.homes)) == ("CNY", 12, 5)
    assert set(zip(street.retail_micro_per_kwh, street.feed_in_micro_per_kwh, strict=True)) == {
        (850_000, 770_000)
    }


def test_slots_are_labelled_by_the_time_they_begin() -> None:
    assert load_street("zhao2019").slot_label(0) == "07:00"
    assert load_street("clear-day").slot_label(23) == "23:00"


def test_tariffs_pair_the_prices_of_a_slot() -> None:
    tariffs = load_street("clear-day").tariffs

    assert len(tariffs) == 24
    assert (tariffs[15].retail_micro_per_kwh, tariffs[15].feed_in_micro_per_kwh) == (
        540_000,
        80_000,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_preset_names_each_of_its_homes_once_in_its_order(name: str) -> None:
    order = PRESETS[name].order

    street = load_street(name, homes=len(order))

    assert sorted(order) == [home.id for home in street.homes]


def test_own_file_gets_the_documented_tariff(write: Writer) -> None:
    street = load_street(write(TWO_ROWS))

    assert [(home.id, home.load_wh, home.pv_wh) for home in street.homes] == [
        ("a", (100, 110), (0, 300)),
        ("b", (200, 210), (50, 60)),
    ]
    assert street.retail_micro_per_kwh == (300_000, 300_000)
    assert street.feed_in_micro_per_kwh == (80_000, 80_000)
    assert (street.name, street.currency, street.slot_minutes) == ("own.csv", "EUR", 60)


def test_own_file_may_bring_its_tariffs_in_micro_currency(write: Writer) -> None:
    street = load_street(
        write(
            "slot,feed_in_micro_per_kwh,a_pv_wh,a_load_wh,b_load_wh,b_pv_wh,retail_micro_per_kwh\n"
            "5,70000,1,2,3,4,250000\n"
        )
    )

    assert street.retail_micro_per_kwh == (250_000,)
    assert street.feed_in_micro_per_kwh == (70_000,)
    assert street.homes[0].load_wh == (2,)
    assert street.slot_label(0) == "05:00"


def test_own_file_may_have_the_columns_of_citylearns_data(write: Writer) -> None:
    street = load_street(
        write(
            "hour_index,month,hour_ending,retail_price_usd_per_kwh,grid_kg_co2_per_kwh,"
            "home01_load_wh,home02_load_wh,home01_pv_wh,home02_pv_wh\n"
            "0,7,24,0.22,0.17072,2276,2189,0,0\n1,8,1,0.5,0.15732,851,1371,0,0\n"
        )
    )

    assert street.currency == "USD"
    assert street.retail_micro_per_kwh == (220_000, 500_000)
    assert [home.load_wh for home in street.homes] == [(2276, 851), (2189, 1371)]


def test_own_file_may_order_its_slots_by_date_time(write: Writer) -> None:
    street = load_street(
        write(f"{HEADER}\n2024-06-01T23:45,1,0,1,0\n2024-06-02T00:00,1,0,1,0\n"), slot_minutes=15
    )

    assert (street.slot_label(0), street.slot_label(1)) == ("23:45", "00:00")


def test_own_file_may_have_a_byte_order_mark_crlf_and_blank_lines_at_the_end(
    write: Writer,
) -> None:
    street = load_street(write("\ufeff" + TWO_ROWS.replace("\n", "\r\n") + "\r\n\r\n"))

    assert street.slots == 2


def test_fewer_homes_of_an_own_file_are_taken_from_the_left(write: Writer) -> None:
    path = write("slot,c_load_wh,c_pv_wh,a_load_wh,a_pv_wh,b_load_wh,b_pv_wh\n0,1,0,1,0,1,0\n")

    street = load_street(path, homes=2)

    assert [home.id for home in street.homes] == ["c", "a"]


REFUSED_HEADERS = {
    "": (None, "is empty"),
    "slot": ("slot", "one column only"),
    "slot,month": (None, "0 homes"),
    "slot,a_load_wh,a_pv_wh": (None, "1 homes"),
    "a_load_wh,a_pv_wh,b_load_wh,b_pv_wh": ("a_load_wh", "first column must order"),
    f"{HEADER},weather": ("weather", "'weather' is unknown"),
    f"{HEADER},": ("number 6", "has no name"),
    "slot;a_load_wh;a_pv_wh": ("slot;a_load_wh;a_pv_wh", "separate columns by commas"),
    f"{HEADER},a_load_wh": ("a_load_wh", "given twice"),
    f"{HEADER},retail_micro_per_kwh,retail_price_usd_per_kwh": (
        "retail_price_usd_per_kwh",
        "given twice",
    ),
    f"{HEADER},retail_price_usd_per_kwh,feed_in_price_eur_per_kwh": (
        "feed_in_price_eur_per_kwh",
        "EUR and USD",
    ),
    f"{HEADER},c_load_wh": ("c_load_wh", "c_pv_wh is missing"),
    f"{HEADER},c_pv_wh": ("c_pv_wh", "c_load_wh is missing"),
    f"{HEADER},C_load_wh,C_pv_wh": ("C_load_wh", "'C' cannot be a home's id"),
    f"{HEADER},_load_wh,_pv_wh": ("_load_wh", "'' cannot be a home's id"),
    f"{HEADER},{'x' * 17}_load_wh": (f"{'x' * 17}_load_wh", "cannot be a home's id"),
    f"{HEADER},operator_load_wh,operator_pv_wh": ("operator_load_wh", "'operator' cannot be"),
}


@pytest.mark.parametrize("header", REFUSED_HEADERS)
def test_header_is_refused_with_its_column(write: Writer, header: str) -> None:
    column, problem = REFUSED_HEADERS[header]

    with pytest.raises(StreetError, match=re.escape(problem)) as refusal:
        load_street(write(f"{header}\n0,1,0,1,0,1,1\n"))

    assert (refusal.value.row, refusal.value.column) == (1, column)


def test_more_homes_than_the_largest_street_are_refused(write: Writer) -> None:
    header = "slot," + ",".join(f"h{n}_load_wh,h{n}_pv_wh" for n in range(201))

    with pytest.raises(StreetError, match="201 homes are no street; give 2 to 200"):
        load_street(write(header + "\n"))


REFUSED_ROWS = {
    "7,100,-5,200,50": ("a_pv_wh", "-5 is negative"),
    "7,100,,200,50": ("a_pv_wh", "is empty"),
    "7,100,0.5,200,50": ("a_pv_wh", "'0.5' is not a whole number"),
    "7,1e3,0,200,50": ("a_load_wh", "'1e3' is not a whole number"),
    "7,1_000,0,200,50": ("a_load_wh", "'1_000' is not a whole number"),
    "7,٣,0,200,50": ("a_load_wh", "is not a whole number"),
    "7,100,nan,200,50": ("a_pv_wh", "'nan' is not a whole number"),
    "7,1000001,0,200,50": ("a_load_wh", "1000001 is too large"),
    "7,100,0,200": ("b_pv_wh", "the row ends before it, after 4 cells"),
    "7,100,0,200,50,1": ("number 6", "the row has 6 cells"),
    "8,100,0,200,50": ("slot", "'8' is not one slot of 60 minutes after"),
    "6,100,0,200,50": ("slot", "'6' is not one slot of 60 minutes after"),
    "seven,100,0,200,50": ("slot", "'seven' is no slot"),
    "-7,100,0,200,50": ("slot", "'-7' is no slot"),
    ",100,0,200,50": ("slot", "'' is no slot"),
    "2024-06-01T07:00:30,100,0,200,50": ("slot", "is no slot"),
    "\n7,100,0,200,50": (None, "comes after a blank line"),
}


@pytest.mark.parametrize("line", REFUSED_ROWS)
def test_row_is_refused_with_its_number_and_column(write: Writer, line: str) -> None:
    column, problem = REFUSED_ROWS[line]

    with pytest.raises(StreetError, match=re.escape(problem)) as refusal:
        load_street(write(f"{HEADER}\n6,1,0,1,0\n{line}\n"))

    assert (refusal.value.row, refusal.value.column) == (3 + line.count("\n"), column)


@pytest.mark.parametrize("price", ["-0.1", "0.1234567", "abc", "", "0,22"])
def test_price_that_is_not_exact_is_refused(write: Writer, price: str) -> None:
    with pytest.raises(StreetError) as refusal:
        load_street(write(f'{HEADER},retail_price_usd_per_kwh\n0,1,0,1,0,"{price}"\n'))

    assert (refusal.value.row, refusal.value.column) == (2, "retail_price_usd_per_kwh")
    assert "give a price from 0 to 1000000 USD per kWh with up to six decimals" in str(
        refusal.value
    )


def test_refusal_is_one_line_with_place_problem_and_remedy(write: Writer) -> None:
    with pytest.raises(StreetError) as refusal:
        load_street(write(f"{HEADER}\n0,1,0,-3,0\n"))

    assert str(refusal.value) == (
        "own.csv, row 2, column b_load_wh: -3 is negative; give whole Wh from 0 to 1000000"
    )


def test_table_without_rows_is_refused(write: Writer) -> None:
    with pytest.raises(StreetError, match="has no slots"):
        load_street(write(HEADER + "\n"))


def test_table_longer_than_a_year_of_quarter_hours_is_refused(write: Writer) -> None:
    rows = "\n".join(f"{slot},1,0,1,0" for slot in range(35_137))

    with pytest.raises(StreetError, match="more than 35136 slots") as refusal:
        load_street(write(f"{HEADER}\n{rows}\n"))

    assert refusal.value.row == 35_138


def test_slot_length_that_does_not_fit_the_date_times_is_refused(write: Writer) -> None:
    path = write(f"{HEADER}\n2024-06-01T07:00,1,0,1,0\n2024-06-01T07:15,1,0,1,0\n")

    with pytest.raises(StreetError, match="give every slot once and in order, or their length"):
        load_street(path)


def test_slot_length_that_is_not_offered_is_refused(write: Writer) -> None:
    with pytest.raises(StreetError, match="slots of 7 minutes are not offered; give one of 5, 10"):
        load_street(write(TWO_ROWS), slot_minutes=7)


def test_another_slot_length_than_a_presets_is_refused() -> None:
    with pytest.raises(StreetError, match="its data is hourly"):
        load_street("clear-day", slot_minutes=15)

    assert load_street("clear-day", slot_minutes=60).slot_minutes == 60


@pytest.mark.parametrize("homes", [-1, 0, 1, 18])
def test_more_homes_than_a_street_has_or_fewer_than_two_are_refused(homes: int) -> None:
    with pytest.raises(
        StreetError, match=f"{homes} homes were asked, it has 17; give --homes 2 to"
    ):
        load_street("clear-day", homes=homes)


def test_unknown_name_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(StreetError, match="give one of clear-day, zhao2019, or the path"):
        load_street("cloudy-day")
    with pytest.raises(StreetError, match="no preset and no file"):
        load_street(str(tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00slot", b"slot,\xe9_load_wh"])
def test_file_that_is_no_utf_8_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes(content)

    with pytest.raises(StreetError, match="give comma-separated values in UTF-8"):
        load_street(str(path))


def test_cell_beyond_all_measure_is_refused(write: Writer) -> None:
    with pytest.raises(StreetError, match="cannot be read"):
        load_street(write(f"{HEADER}\n0,{'1' * 200_000},0,1,0\n"))

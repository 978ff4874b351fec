import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest

from node.view.street import StreetView
from node.web.feed import BEHIND_POLLS_MAX, Ledgers
from node.web.markup import Markup, element, join
from node.web.sections import PageModel, sections
from node.web.wording import decimal, energy, money, percent, price
from tests.support.page_server import LABELS
from tests.support.street_ledger import StreetLedger, small_street

STREET = small_street(
    loads={"a": (200, 300), "b": (900, 800), "c": (700, 900), "d": (100, 100)},
    roofs={"a": (1600, 1400)},
)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[StreetLedger, StreetLedger]]:
    first = await StreetLedger.create(tmp_path / "first.db", STREET)
    second = await StreetLedger.create(tmp_path / "second.db", STREET)
    yield first, second
    await first.close()
    await second.close()


@pytest.mark.parametrize(
    ("value", "unit", "places", "text"),
    [
        (0, 10, 0, "0"),
        (5, 10, 0, "1"),
        (-5, 10, 0, "\N{MINUS SIGN}1"),
        (-4, 10, 0, "0"),
        (1_234_567, 1000, 1, "1\N{NARROW NO-BREAK SPACE}234.6"),
        (1_999, 1000, 2, "2.00"),
    ],
)
def test_figures_are_rounded_half_away_from_zero(
    value: int, unit: int, places: int, text: str
) -> None:
    assert decimal(value, unit, places) == text


def test_figures_carry_their_units() -> None:
    assert money(-4_123_456_789, "EUR") == "\N{MINUS SIGN}4.12\N{NO-BREAK SPACE}EUR"
    assert energy(999) == "999\N{NO-BREAK SPACE}Wh"
    assert energy(1_250, 2) == "1.25\N{NO-BREAK SPACE}kWh"
    assert price(154_400) == "0.154"
    assert percent(1, 3) == "33\N{NO-BREAK SPACE}%"
    assert percent(1, 0) == "\N{EN DASH}"


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", '<&"')

    assert inner == "<b>&lt;&amp;&quot;</b>"
    assert join(inner, "<", [inner, None, 3]) == f"{inner}&lt;{inner}3"
    assert element("a", title='"><script>') == '<a title="&quot;&gt;&lt;script&gt;"></a>'
    assert element("meta", name="x", content=None) == '<meta name="x">'


async def test_the_page_leaves_a_ledger_that_stays_behind(
    two: tuple[StreetLedger, StreetLedger],
) -> None:
    first, second = two
    ledgers = Ledgers([first.path, second.path])
    await first.step()
    ledgers.refresh()

    await second.run_day()
    heights = []
    for _ in range(BEHIND_POLLS_MAX):
        ledgers.refresh()
        assert ledgers.view is not None
        heights.append(ledgers.view.height)
    ledgers.close()

    assert heights == [1] * (BEHIND_POLLS_MAX - 1) + [second.execution.header.height]


async def test_the_page_stays_with_a_ledger_that_catches_up(
    two: tuple[StreetLedger, StreetLedger],
) -> None:
    first, second = two
    ledgers = Ledgers([first.path, second.path])
    await first.step()
    ledgers.refresh()
    view = ledgers.view

    for _ in range(3):
        await second.step()
        await second.step()
        ledgers.refresh()
        await first.step()
        await first.step()
        ledgers.refresh()

    assert ledgers.view is view
    ledgers.close()


async def test_a_ledger_that_is_not_there_yet_is_taken_when_it_comes(tmp_path: Path) -> None:
    ledgers = Ledgers([tmp_path / "late.db"])
    before = ledgers.refresh()

    late = await StreetLedger.create(tmp_path / "late.db", STREET)
    after = ledgers.refresh()
    ledgers.close()
    await late.close()

    assert (before, after) == (False, True)


async def test_the_page_has_every_section_at_every_block(
    two: tuple[StreetLedger, StreetLedger],
) -> None:
    ledger = two[0]
    with StreetView(ledger.path) as view:
        while True:
            view.refresh()
            parts = _sections(view)
            assert all(parts.values())
            assert "<img" not in "".join(parts.values())
            if not ledger.steps:
                break
            await ledger.step()

    assert re.search(
        r"The street saved <strong>0\.\d\d.EUR</strong> in 2 slots\.", parts["headline"]
    )
    assert parts["homes"].count('role="row"') == 1 + len(STREET.homes) + 1


async def test_every_link_is_relative(two: tuple[StreetLedger, StreetLedger]) -> None:
    await two[0].run_day()
    with StreetView(two[0].path) as view:
        view.refresh()
        markup = "".join(_sections(view).values())
    page = (files("node.web") / "static" / "index.html").read_text(encoding="utf-8")
    script = (files("node.web") / "static" / "page.js").read_text(encoding="utf-8")

    links = re.findall(r'(?:href|src)="([^"]*)"', markup + page)
    asked = re.findall(r"(?:fetch|EventSource)\([\"`]([^\"`]*)", script)

    assert len(links) > 4
    assert len(asked) == 2
    assert not [link for link in links + asked if link.startswith(("/", "http", "//"))]


def _sections(view: StreetView) -> dict[str, Markup]:
    snapshot = view.snapshot()
    detail = view.detail(snapshot.current)
    model = PageModel(
        snapshot=snapshot,
        labels=LABELS,
        detail=detail,
        traced=view.last_traced(),
        is_pinned=False,
    )
    return sections(model)

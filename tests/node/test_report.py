from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from node.audit import Verification, verify_ledger
from node.view.labels import StreetLabels
from node.view.report import write_report
from node.view.street import StreetView
from tests.support.street_ledger import StreetLedger, small_street

LABELS = StreetLabels(
    title="<b>small</b>",
    source="made & measured for a test",
    homes={"a": ("PV", '"><script>alert(1)</script>')},
    presets={"a": "balanced"},
    simulated=("Meters are simulated.",),
)


class Outline(HTMLParser):
    """Collects tags and text, and refuses what does not nest."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attrs if key in {"src", "href"}]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words).replace("\N{NO-BREAK SPACE}", " ")


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed._open == []
    return parsed


@pytest.fixture
async def view(tmp_path: Path) -> AsyncIterator[StreetView]:
    street = small_street(
        loads={"a": (200, 300), "b": (900, 800), "c": (700, 900), "d": (100, 100)},
        roofs={"a": (1600, 1400)},
        first_minute=600,
    )
    ledger = await StreetLedger.create(tmp_path / "ledger.db", street)
    try:
        await ledger.run_day()
    finally:
        await ledger.close()
    with StreetView(ledger.path) as opened:
        opened.refresh()
        yield opened


def written(view: StreetView, path: Path, verification: dict[str, Verification]) -> str:
    write_report(view, LABELS, verification, path / "report" / "index.html")
    return (path / "report" / "index.html").read_text(encoding="utf-8")


def test_the_report_says_what_was_saved_and_lists_every_home(
    view: StreetView, tmp_path: Path
) -> None:
    page = outline(written(view, tmp_path, {}))

    saved_nano = view.snapshot().totals.saved_nano
    assert f"The street saved {saved_nano / 10**9:.2f} EUR in 2 slots." in page.text
    assert page.tags.count("details") == 4
    assert all(f"{home}" in page.words for home in "abcd")


def test_every_line_of_every_bill_is_in_it(view: StreetView, tmp_path: Path) -> None:
    page = outline(written(view, tmp_path, {}))

    for home in view.lines():
        for _, line in home.lines:
            amount = f"{abs(line.bill_nano) / 10**9:.4f}"
            assert amount in page.text


def test_it_needs_no_script_and_no_other_file(view: StreetView, tmp_path: Path) -> None:
    page = outline(written(view, tmp_path, {}))

    assert not {"script", "link", "img", "iframe", "form"} & set(page.tags)
    assert page.sources == []


def test_what_others_wrote_is_escaped(view: StreetView, tmp_path: Path) -> None:
    page = written(view, tmp_path, {})

    assert "<script>" not in page
    assert "&lt;b&gt;small&lt;/b&gt;" in page
    assert "made &amp; measured" in page


def test_a_verification_that_holds_is_reported_with_height_and_head(
    view: StreetView, tmp_path: Path
) -> None:
    found = verify_ledger(tmp_path / "ledger.db")

    page = outline(written(view, tmp_path, {"a": found, "b": found}))

    assert found.ok
    assert "2 ledgers checked whole, ending in the same block" in page.text
    assert found.head[:16] in page.text


def test_a_refused_ledger_is_not_hidden(view: StreetView, tmp_path: Path) -> None:
    good = verify_ledger(tmp_path / "ledger.db")
    bad = Verification(height=3, head="ab" * 32, errors=["block 4: <no> certificate"])

    page = written(view, tmp_path, {"a": good, "b": bad})

    assert "A ledger does not hold" in page
    assert "block 4: &lt;no&gt; certificate" in page


def test_ledgers_with_different_heads_are_not_called_equal(
    view: StreetView, tmp_path: Path
) -> None:
    good = verify_ledger(tmp_path / "ledger.db")
    other = Verification(height=3, head="ab" * 32, ok=True)

    page = written(view, tmp_path, {"a": good, "b": other})

    assert "do not end in the same block" in page


def test_without_verification_it_says_so(view: StreetView, tmp_path: Path) -> None:
    assert "No ledger was verified" in written(view, tmp_path, {})

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import BrowserContext, Page, async_playwright, expect

from tests.support.page_server import page_server
from tests.support.street_ledger import StreetLedger, small_street

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

STREET = small_street(
    loads={
        "a": (200, 300, 250),
        "b": (900, 800, 700),
        "c": (700, 900, 800),
        "d": (100, 100, 900),
    },
    roofs={"a": (1600, 1400, 1500)},
    first_minute=11 * 60,
)
FIRST_HEADLINE = "No bill yet: the first slot is still to be settled."


@dataclass
class Reader:
    """Somebody who looks at the page, and everything that the browser complained of."""

    page: Page
    ledger: StreetLedger
    url: str
    complaints: list[str] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[BrowserContext]:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=CHROMIUM,
            headless=True,
            args=ARGUMENTS,
            viewport={"width": 1280, "height": 1600},
        )
        yield opened
        await opened.close()


@pytest.fixture
async def reader(tmp_path: Path, context: BrowserContext) -> AsyncIterator[Reader]:
    ledger = await StreetLedger.create(tmp_path / "ledger.db", STREET)
    try:
        await ledger.run_until(0)
        async with page_server([ledger.path]) as url:
            page = await context.new_page()
            opened = Reader(page, ledger, url)
            page.on("console", lambda message: opened.complaints.append(message.text))
            page.on("pageerror", lambda error: opened.complaints.append(str(error)))
            page.on("request", lambda request: opened.asked.add(urlsplit(request.url).netloc))
            await page.goto(url)
            yield opened
            assert opened.complaints == []
            assert opened.asked == {urlsplit(url).netloc}
            await page.close()
    finally:
        await ledger.close()


async def test_the_page_shows_the_street_and_follows_it(reader: Reader) -> None:
    page, ledger = reader.page, reader.ledger
    await expect(page.locator("h1")).to_have_text(FIRST_HEADLINE)
    await expect(page.locator("#connection")).to_have_text("live")
    await expect(page.locator("#homes tbody tr")).to_have_count(len(STREET.homes))
    await expect(page.locator(".stage-delivering .when")).to_have_text("11:00\N{EN DASH}12:00")

    await ledger.run_day()

    await expect(page.locator("h1")).to_contain_text("The street saved")
    await expect(page.locator("#connection")).to_have_text("the day is over")
    await expect(page.locator("#group b").first).to_have_text(
        f"Block {ledger.execution.header.height}"
    )


async def test_what_is_shown_is_what_the_ledger_says(reader: Reader) -> None:
    page = reader.page
    await reader.ledger.run_day()
    await expect(page.locator("h1")).to_contain_text("The street saved")

    street = await page.evaluate("fetch('api/street').then((answer) => answer.json())")
    shown = await page.locator("#homes tbody td:last-child").all_inner_texts()

    saved = [(h["grid_only_nano"] - h["bill_nano"]) / 10**9 for h in street["homes"]]
    assert [text.split("\N{NO-BREAK SPACE}")[0] for text in shown] == [f"{s:.2f}" for s in saved]


async def test_a_slot_can_be_pinned_with_the_keyboard_and_let_go(reader: Reader) -> None:
    page = reader.page
    await reader.ledger.run_until(2)
    await expect(page.locator(".stage-delivering .when")).to_have_text("13:00\N{EN DASH}14:00")

    slot = page.locator("#day a[data-slot]").first
    await slot.focus()
    await slot.press("Enter")
    await expect(page.locator("#flows .lead b")).to_have_text("11:00\N{EN DASH}12:00")
    await reader.ledger.step()
    await expect(page.locator("#flows .lead b")).to_have_text("11:00\N{EN DASH}12:00")
    await page.get_by_text("Follow the street again").click()

    await expect(page.locator("#flows .lead b")).to_have_text("13:00\N{EN DASH}14:00")


async def test_what_the_reader_opened_stays_open(reader: Reader) -> None:
    page = reader.page
    await page.get_by_text("The books").click()
    await expect(page.locator("#details-books dl")).to_be_visible()

    await reader.ledger.step()
    await expect(page.locator("#group b").first).to_have_text(
        f"Block {reader.ledger.execution.header.height}"
    )

    await expect(page.locator("#details-books dl")).to_be_visible()


async def test_no_width_needs_sideways_scrolling(reader: Reader) -> None:
    await reader.ledger.run_day()
    await expect(reader.page.locator("h1")).to_contain_text("The street saved")

    for width in (320, 360, 768, 1280):
        await reader.page.set_viewport_size({"width": width, "height": 800})
        needed = await reader.page.evaluate("document.documentElement.scrollWidth")
        assert needed <= width


async def test_text_stands_out_in_light_and_dark(reader: Reader) -> None:
    await reader.ledger.run_until(2)
    await expect(reader.page.locator("h1")).to_contain_text("The street has saved")
    await expect(reader.page.locator(".stage-delivering")).to_be_visible()

    await reader.page.emulate_media(color_scheme="light")
    faint_in_light = await reader.page.evaluate(CONTRAST_SCRIPT)
    await reader.page.emulate_media(color_scheme="dark")
    faint_in_dark = await reader.page.evaluate(CONTRAST_SCRIPT)

    assert (faint_in_light, faint_in_dark) == ([], [])


async def test_without_script_the_page_is_whole(reader: Reader, context: BrowserContext) -> None:
    await reader.ledger.run_day()
    await expect(reader.page.locator("h1")).to_contain_text("The street saved")

    answer = await context.request.get(reader.url)
    html = await answer.text()

    assert "The street saved" in html
    assert html.count("<tr") >= len(STREET.homes)


# WCAG 2: 4.5 to 1 for text, taken between an element's colour and the first ground under it.
CONTRAST_SCRIPT = """
() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const parts = channels(text).slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = (element) => {
    for (let each = element; each !== null; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0.9) {
        return colour;
      }
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const owns = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== "");
    if (!owns || ["TITLE", "title", "SCRIPT"].includes(element.tagName)) {
      continue;
    }
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(ground(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) {
      faint.push(`${element.tagName} ${element.className.baseVal ?? element.className} ${ink}`);
    }
  }
  return faint;
}
"""

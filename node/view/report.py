"""The report of a street: one HTML file with everything in it, made from one node's ledger.

It needs no script, no network and no program but a browser; every text in it is escaped.  What is
verified, and from which height, is said by whoever verified and handed in.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from market.events import SettlementLine
from market.orders import Side
from market.payloads import Quality
from node.audit import Verification
from node.view.labels import StreetLabels
from node.view.snapshot import HomeLines, StreetSnapshot
from node.view.street import StreetView
from node.web.figures import energy_chart, price_chart
from node.web.markup import Markup, element, join
from node.web.sections import (
    energy_key,
    headline,
    homes_table,
    key_figures,
    ladder,
    limits,
    price_key,
)
from node.web.wording import amount, count, energy, money, price

MONEY_PLACES = 4
"""A slot's amounts are small; more digits than on a bill."""


def write_report(
    view: StreetView,
    labels: StreetLabels,
    verification: Mapping[str, Verification],
    path: Path,
) -> None:
    """Write the report of a street to `path`, creating its directory.

    `view` has been refreshed; `verification` holds what was found per home whose ledger was
    checked.

    Raises:
        sqlite3.Error: The view's file is damaged or gone.
    """
    snapshot = view.snapshot()
    body = join(
        element(
            "header",
            element("p", f"wattstreet \N{MIDDLE DOT} {labels.title}", class_="brand"),
            class_="top",
        ),
        element(
            "main",
            element(
                "section",
                element("h1", headline(snapshot)),
                key_figures(snapshot),
                class_="hero",
            ),
            _card("Every home", homes_table(snapshot, labels), "homes"),
            _card("The day, slot by slot", _charts(snapshot)),
            _card("Where prices came from, and why not", ladder(snapshot)),
            _card("Verification of the ledgers", _verification(verification)),
            _card("Every line of every bill", _bills(view.lines(), snapshot.genesis.currency)),
            _card("What is simulated, and what this cannot show", limits(snapshot, labels)),
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_document(labels.title, body), encoding="utf-8")


def _document(title: str, body: Markup) -> str:
    style = (files("node.web") / "static" / "page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", f"wattstreet \N{MIDDLE DOT} {title} \N{MIDDLE DOT} report"),
        element("style", Markup(style)),
    )
    page = element("html", head, element("body", body, class_="report"), lang="en")
    return f"<!doctype html>\n{page}\n"


def _card(title: str, content: Markup, id_: str | None = None) -> Markup:
    inner = element("div", content, id=id_)
    return element("section", element("h2", title), inner, class_="card wide")


def _charts(snapshot: StreetSnapshot) -> Markup:
    slots, currency = snapshot.slots, snapshot.genesis.currency
    return join(
        element("h3", f"Price, {currency}/kWh"),
        price_chart(slots, currency=currency),
        price_key(),
        element("h3", "Energy per slot, kWh"),
        energy_chart(slots, currency=currency),
        energy_key(),
    )


def _verification(verification: Mapping[str, Verification]) -> Markup:
    if not verification:
        return element("p", "No ledger was verified for this report.", class_="warning")
    heads = {found.head for found in verification.values()}
    are_good = all(found.ok for found in verification.values())
    if are_good and len(heads) == 1:
        says = (
            f"{count(len(verification), 'ledger')} checked whole, ending in the same block: every "
            "signature, certificate, rule and balance holds."
        )
        verdict = element("p", says, class_="lead")
    elif are_good:
        says = "Every ledger holds, but they do not end in the same block."
        verdict = element("p", says, class_="warning")
    else:
        verdict = element("p", "A ledger does not hold; see its errors.", class_="warning")
    titles = ("Ledger of", "Result", "Height", "Last block", "Certified from", "Replayed from")
    table = element(
        "table",
        element("thead", element("tr", *(element("th", each, scope="col") for each in titles))),
        element("tbody", *(_verified(home, found) for home, found in verification.items())),
    )
    note = (
        "Check a ledger yourself: wattstreet ledger verify homes/ID/ledger.db. "
        "Certified from: first height that headers and certificates cover. Replayed from: first "
        "height from which every rule was executed again and compared row by row."
    )
    return join(verdict, element("div", table, class_="scroll"), element("p", note, class_="note"))


def _verified(home: str, found: Verification) -> Markup:
    errors = element("ul", *(element("li", each) for each in found.errors), class_="plain")
    return element(
        "tr",
        element("th", home, scope="row"),
        element("td", "holds" if found.ok else "refused", errors if found.errors else None),
        element("td", found.height),
        element("td", element("code", found.head[:16])),
        element("td", found.certified_from),
        element("td", found.replayed_from),
    )


def _bills(homes: tuple[HomeLines, ...], currency: str) -> Markup:
    return join(*(_bill(home, currency) for home in homes))


def _bill(home: HomeLines, currency: str) -> Markup:
    bill_nano = sum(line.bill_nano for _, line in home.lines)
    summary = element(
        "summary",
        element("b", home.home),
        f" {money(bill_nano, currency)} over {count(len(home.lines), 'slot')}",
    )
    titles = (
        *("Slot", "Traded", f"Trade, {currency}", f"Fees, {currency}", "Meter", "Known"),
        *("With the grid", f"Grid, {currency}", "Retail / feed-in"),
        *(f"Bill, {currency}", f"Grid alone, {currency}"),
    )
    table = element(
        "table",
        element("thead", element("tr", *(element("th", each, scope="col") for each in titles))),
        element("tbody", *(_line(label, line) for label, line in home.lines)),
    )
    return element("details", summary, element("div", table, class_="scroll"))


def _line(label: str, line: SettlementLine) -> Markup:
    is_sale = line.side == Side.SELL
    traded = f"{'sold' if is_sale else 'bought'} {energy(line.contracted_wh, 2)}"
    quality = "measured" if line.quality == Quality.MEASURED else f"{line.quality} (no reading)"
    tariff = f"{price(line.retail_micro_per_kwh)} / {price(line.feed_in_micro_per_kwh)}"
    return element(
        "tr",
        element("th", label, scope="row"),
        element("td", traded if line.contracted_wh else "nothing"),
        element("td", _amount(-line.trade_nano if is_sale else line.trade_nano)),
        element("td", _amount(line.service_fee_nano + line.grid_fee_nano)),
        element("td", _both_ways(line.import_wh, line.export_wh)),
        element("td", quality),
        element("td", _both_ways(line.imbalance_import_wh, line.imbalance_export_wh)),
        element("td", _amount(line.imbalance_nano)),
        element("td", tariff),
        element("td", element("b", _amount(line.bill_nano))),
        element("td", _amount(line.grid_only_nano)),
    )


def _both_ways(import_wh: int, export_wh: int) -> str:
    if export_wh:
        return f"out {energy(export_wh, 2)}"
    return f"in {energy(import_wh, 2)}" if import_wh else "nothing"


def _amount(amount_nano: int) -> str:
    return amount(amount_nano, MONEY_PLACES)

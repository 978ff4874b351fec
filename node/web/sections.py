"""The page's sections, each a function of what the ledger says: the page answers in their order.

What did the street save, what happens now, who delivers to whom, prices and energies of the day,
every home's bill, how the last price was found, is the group healthy, why was there no price, and
what of all this is simulated.
"""

from collections import defaultdict
from dataclasses import dataclass

from market.clearing import Rung
from node.view.labels import StreetLabels
from node.view.snapshot import (
    HomeTotals,
    Reason,
    SlotDetail,
    SlotFacts,
    Stage,
    StreetSnapshot,
)
from node.web.figures import (
    energy_chart,
    price_chart,
    rung_shape,
    signature_chart,
    trace_chart,
)
from node.web.flow_figure import flow_picture
from node.web.markup import Child, Markup, element, join
from node.web.wording import (
    PRESET_TRUTH,
    REASONS,
    RUNGS,
    STAGES,
    count,
    decimal,
    energy,
    fee_percent,
    money,
    outcome,
    percent,
    price,
    span,
)

NOW_STAGES = (
    Stage.SETTLING,
    Stage.DELIVERING,
    Stage.CLEARED,
    Stage.NEGOTIATING,
    Stage.ORDERS,
)
DIGEST_SHOWN = 12
MINUTE_MS = 60_000

OWN_ROOF = (
    "Meters see what crosses the house connection; what a home uses from its own roof is in no "
    "ledger and on no bill."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageModel:
    """What the page is made of.

    `detail` is the slot that the flow picture shows, `traced` the one whose negotiation is shown;
    `is_pinned` says that the reader chose it.
    """

    snapshot: StreetSnapshot
    labels: StreetLabels
    detail: SlotDetail | None
    traced: SlotDetail | None
    is_pinned: bool

    @property
    def currency(self) -> str:
        """The community's currency."""
        return self.snapshot.genesis.currency


def sections(model: PageModel) -> dict[str, Markup]:
    """Return the inner markup of every section by the id of its element."""
    return {
        "headline": headline(model.snapshot),
        "clock": _clock(model.snapshot),
        "key-figures": key_figures(model.snapshot),
        "now": _now(model),
        "flows": _flows(model),
        "day": _day(model),
        "homes": homes_table(model.snapshot, model.labels),
        "convergence": _convergence(model),
        "group": _group(model.snapshot),
        "ladder": ladder(model.snapshot),
        "truth": limits(model.snapshot, model.labels),
    }


def headline(snapshot: StreetSnapshot) -> Markup:
    """Say in one sentence what the street saved."""
    saved_nano, currency = snapshot.totals.saved_nano, snapshot.genesis.currency
    if not snapshot.totals.slots_settled:
        return join("No bill yet: the first slot is still to be settled.")
    amount = element("strong", money(abs(saved_nano), currency))
    if saved_nano < 0:
        return join("So far the street costs its homes ", amount, " more than the grid alone.")
    if snapshot.is_over:
        slots = count(snapshot.genesis.slots, "slot")
        return join("The street saved ", amount, f" in {slots}.")
    return join("The street has saved ", amount, " so far.")


def key_figures(snapshot: StreetSnapshot) -> Markup:
    """Say what the saving is made of."""
    totals, currency = snapshot.totals, snapshot.genesis.currency
    slots = snapshot.genesis.slots or totals.slots_cleared
    best = [home.saved_nano for home in snapshot.homes]
    figures = element(
        "dl",
        _figure("All bills together", money(totals.bill_nano, currency)),
        _figure("The grid alone would cost", money(totals.grid_only_nano, currency)),
        _figure(
            "Savings per home", f"{money(min(best), currency)} to {money(max(best), currency)}"
        ),
        _figure("Traded between neighbours", energy(totals.traded_wh)),
        _figure(
            "Of what the meters drew, came from neighbours",
            (
                percent(totals.shared_wh, totals.import_wh),
                element("small", " without the street 0\N{NO-BREAK SPACE}%"),
            ),
        ),
        _figure("Slots settled", f"{totals.slots_settled} of {slots}"),
        class_="figures",
    )
    progress = element(
        "progress", max=max(1, slots), value=totals.slots_settled, aria_label="Slots settled"
    )
    return join(figures, progress)


def homes_table(snapshot: StreetSnapshot, labels: StreetLabels) -> Markup:
    """Tabulate every home's bill beside what the grid alone would have cost."""
    currency, totals = snapshot.genesis.currency, snapshot.totals
    titles = ("Home", "Preset", "Bought", "Sold", "Bill", "Grid alone", "Saved")
    head = element(
        "tr",
        *(element("th", title, scope="col", role="columnheader") for title in titles),
        role="row",
    )
    most = max((abs(home.saved_nano) for home in snapshot.homes), default=0)
    rows = [_home_row(home, labels, currency, most) for home in snapshot.homes]
    foot = element(
        "tr",
        element("th", "All homes", scope="row", role="rowheader"),
        _cell("Preset", "", "wide"),
        _cell("Bought", energy(sum(home.bought_wh for home in snapshot.homes))),
        _cell("Sold", energy(sum(home.sold_wh for home in snapshot.homes))),
        _cell("Bill", money(totals.bill_nano, currency)),
        _cell("Grid alone", money(totals.grid_only_nano, currency)),
        _cell("Saved", money(totals.saved_nano, currency), "saved"),
        role="row",
    )
    table = element(
        "table",
        element("caption", "Every home, over all settled slots", class_="hidden"),
        element("thead", head, role="rowgroup"),
        element("tbody", rows, role="rowgroup"),
        element("tfoot", foot, role="rowgroup"),
        role="table",
    )
    note = element(
        "p",
        "Bought and sold are with neighbours. A negative bill is money that the home receives. "
        "\N{LEFT DOUBLE QUOTATION MARK}Grid alone\N{RIGHT DOUBLE QUOTATION MARK} is the same meter "
        "reading at the retail and feed-in price of its slot; the bill includes the service fee "
        f"of {fee_percent(snapshot.genesis.service_fee_ppm)} on each side of a trade. "
        f"{PRESET_TRUTH}",
        class_="note",
    )
    return join(table, note)


def ladder(snapshot: StreetSnapshot) -> Markup:
    """Say how many slots had which kind of price, and why some had none of their own."""
    rungs = snapshot.totals.ladder
    counts = ((Rung.NEGOTIATED, rungs.negotiated), (Rung.STANDING, rungs.standing))
    steps = element(
        "ol",
        *(_rung(rung, number) for rung, number in (*counts, (Rung.GRID, rungs.grid))),
        class_="rungs",
    )
    by_reason: defaultdict[Reason, list[SlotFacts]] = defaultdict(list)
    for facts in snapshot.slots:
        if facts.reason is not None:
            by_reason[facts.reason].append(facts)
    reasons = [
        element("li", element("b", REASONS[reason]), ": ", _labels_of(slots))
        for reason, slots in by_reason.items()
    ]
    promise = (
        "Nothing is lost without a local price: the normal grid tariff applies, and settlement "
        "goes on as ever."
    )
    return join(
        steps,
        element("ul", reasons, class_="plain") if reasons else None,
        element("p", promise, class_="note"),
    )


def limits(snapshot: StreetSnapshot, labels: StreetLabels) -> Markup:
    """Say what is simulated, and what no ledger can show."""
    genesis = snapshot.genesis
    slot_ms = genesis.slot_minutes * MINUTE_MS // genesis.speed
    clock = (
        f"The clock runs {genesis.speed} times as fast as real time: "
        f"{genesis.slot_minutes} minutes take {decimal(slot_ms, 1000, 1)}\N{NO-BREAK SPACE}s."
    )
    statements = [
        *labels.simulated,
        *([clock] if genesis.speed > 1 else []),
        OWN_ROOF,
        PRESET_TRUTH,
        f"Load and PV: {labels.source}.",
    ]
    end = (
        "Every figure here is computed from one node's ledger file "
        f"(mechanism {genesis.mechanism}); amounts are rounded for reading only."
    )
    return join(
        element("ul", *(element("li", each) for each in statements), class_="plain"),
        element("p", end, class_="note"),
    )


def _clock(snapshot: StreetSnapshot) -> Markup:
    if snapshot.is_over:
        return join("the day is settled")
    return join(element("span", "street time ", class_="words"), element("b", snapshot.clock))


def _figure(title: str, value: Child) -> Markup:
    return element("div", element("dt", title), element("dd", value))


def _now(model: PageModel) -> Markup:
    snapshot = model.snapshot
    if snapshot.is_over:
        words = "Every slot is settled. The bills below are final."
        return element("p", words, class_="nothing")
    rows = [
        _now_row(facts, model.currency, len(snapshot.homes))
        for facts in snapshot.slots
        if facts.stage in NOW_STAGES
    ]
    if not rows:
        return element("p", "The street is waiting for its first slot.", class_="nothing")
    current = snapshot.slot_facts(snapshot.current)
    return join(_band(current, model.currency), element("ol", rows, class_="stages"))


def _now_row(facts: SlotFacts, currency: str, homes: int) -> Markup:
    return element(
        "li",
        element("span", span(facts), class_="when"),
        element("span", STAGES[facts.stage], class_="stage"),
        element("span", _doing(facts, currency, homes), class_="what"),
        class_=f"stage-{facts.stage}",
    )


def _doing(facts: SlotFacts, currency: str, homes: int) -> str:
    match facts.stage:
        case Stage.ORDERS:
            return f"{facts.orders} of {count(homes, 'home')} have ordered"
        case Stage.NEGOTIATING:
            return f"{energy(facts.supply_wh)} offered, {energy(facts.demand_wh)} wanted"
        case Stage.SETTLING:
            return f"{facts.readings} of {count(homes, 'meter')} read"
        case _:
            return outcome(facts, currency)


def _band(facts: SlotFacts | None, currency: str) -> Markup | None:
    """Draw where the price of the slot in delivery lies between feed-in and retail."""
    if facts is None or facts.stage is not Stage.DELIVERING:
        return None
    low, high = facts.feed_in_micro_per_kwh, facts.retail_micro_per_kwh
    local = facts.price_micro_per_kwh
    if local is None:
        words = "No local price now: the grid's retail and feed-in prices apply."
        mark: Child = None
    else:
        words = f"Local price {price(local)} {currency}/kWh, between feed-in and retail price"
        place = f"{100 * (local - low) / max(1, high - low):.2f}%"
        mark = element("circle", class_="mark", cx=place, cy="9", r="7")
    bar = element(
        "svg",
        element("rect", class_="band", x="0", y="5", width="100%", height="8", rx="4"),
        mark,
        class_="gauge",
        width="100%",
        height="18",
        role="img",
        aria_label=words,
    )
    ends = element(
        "div",
        element("span", "feed-in ", element("span", price(low), class_="figure")),
        element("b", f"{price(local)} {currency}/kWh" if local is not None else "grid tariff"),
        element("span", "retail ", element("span", price(high), class_="figure")),
        class_="ends",
    )
    return element("div", ends, bar, class_="band-now")


def _flows(model: PageModel) -> Markup:
    detail = model.detail
    if detail is None:
        return element("p", "No slot has been cleared yet.", class_="nothing")
    facts = detail.facts
    known = "metered" if facts.is_settled else "expected from the orders"
    summary = element(
        "p",
        element("b", span(facts)),
        f" {outcome(facts, model.currency)}; grid energy is {known}.",
        class_="lead",
    )
    key = element(
        "p",
        _swatch("local", "between neighbours"),
        _swatch("from-grid", "from the grid"),
        _swatch("to-grid", "to the grid"),
        class_="key",
    )
    back = element("a", "Follow the street again", href="./", data_slot="", class_="button")
    return join(summary, flow_picture(detail), key, back if model.is_pinned else None)


def _day(model: PageModel) -> Markup:
    selected = model.detail.facts.slot if model.detail else None
    slots, currency = model.snapshot.slots, model.currency

    def link(facts: SlotFacts) -> str:
        return f"./?slot={facts.slot}"

    prices = price_chart(slots, currency=currency, selected=selected, link=link)
    energies = energy_chart(slots, currency=currency, selected=selected, link=link)
    return join(
        element("h3", f"Price, {currency}/kWh"),
        prices,
        price_key(),
        element("h3", "Energy per slot, kWh"),
        energies,
        energy_key(),
        element("p", "Choose a slot to see who delivered to whom.", class_="note script"),
    )


def price_key() -> Markup:
    """Explain the marks of the price chart."""
    return element(
        "p",
        *(_rung_key(rung) for rung in Rung),
        _swatch("retail-line", "retail (top edge)"),
        _swatch("feed-in-line", "feed-in (bottom edge)"),
        class_="key",
    )


def energy_key() -> Markup:
    """Explain the bars of the energy chart."""
    return element(
        "p",
        _swatch("local", "traded between neighbours"),
        _swatch("from-grid", "bought from the grid"),
        _swatch("to-grid", "sold to the grid (down)"),
        _swatch("from-grid expected", "pale: expected, not metered yet"),
        class_="key",
    )


def _rung_key(rung: Rung) -> Markup:
    shape = element(
        "svg", rung_shape(rung), viewBox="-8 -8 16 16", width="14", height="14", aria_hidden="true"
    )
    return element("span", shape, f" {RUNGS[rung]}", class_="item")


def _swatch(kind: str, words: str) -> Markup:
    box = element("rect", class_=f"bar {kind}", width="12", height="12", rx="2")
    picture = element("svg", box, width="12", height="12", aria_hidden="true")
    return element("span", picture, f" {words}", class_="item")


def _home_row(home: HomeTotals, labels: StreetLabels, currency: str, most: int) -> Markup:
    tags = list(labels.homes.get(home.home, ()))
    if home.is_endorser:
        tags.append("endorses")
    if home.substituted:
        tags.append(f"{count(home.substituted, 'reading')} missing")
    name = element(
        "th",
        element("span", home.home, class_="name"),
        *(element("span", tag, class_="tag") for tag in tags),
        scope="row",
        role="rowheader",
    )
    saved = (money(home.saved_nano, currency), _saved_bar(home.saved_nano, most))
    return element(
        "tr",
        name,
        _cell("Preset", labels.presets.get(home.home, "\N{EN DASH}"), "wide"),
        _cell("Bought", energy(home.bought_wh)),
        _cell("Sold", energy(home.sold_wh)),
        _cell("Bill", money(home.bill_nano, currency)),
        _cell("Grid alone", money(home.grid_only_nano, currency)),
        _cell("Saved", saved, "saved"),
        role="row",
    )


def _cell(title: str, content: Child, class_: str | None = None) -> Markup:
    return element("td", content, data_title=title, class_=class_, role="cell")


def _saved_bar(saved_nano: int, most: int) -> Markup:
    share = 100 * abs(saved_nano) / max(1, most)
    kind = "bar lost" if saved_nano < 0 else "bar local"
    bar = element(
        "rect", class_=kind, x=f"{100 - share:.1f}%", width=f"{share:.1f}%", height="4", rx="2"
    )
    return element("svg", bar, class_="saved-bar", width="100%", height="4", aria_hidden="true")


def _convergence(model: PageModel) -> Markup:
    if model.traced is None:
        return element("p", "No price has been negotiated yet.", class_="nothing")
    facts, trace = model.traced.facts, model.traced.trace
    rows = [
        element(
            "tr",
            element("th", each.round, scope="row"),
            element("td", price(each.price_micro_per_kwh)),
            element("td", decimal(each.demand_mwh, 10**6, 3)),
            element("td", decimal(each.supply_mwh, 10**6, 3)),
        )
        for each in trace
    ]
    titles = ("Round", f"{model.currency}/kWh", "wanted, kWh", "offered, kWh")
    table = element(
        "table",
        element("thead", element("tr", *(element("th", each, scope="col") for each in titles))),
        element("tbody", rows),
        class_="rounds",
    )
    lead = element(
        "p",
        element("b", span(facts)),
        f" {count(len(trace), 'round')}: sellers quote, buyers answer, until what is wanted and "
        "offered at one price are the same.",
        class_="lead",
    )
    return join(lead, trace_chart(trace, facts, model.currency), _details("rounds", table))


def _details(key: str, content: Markup) -> Markup:
    return element("details", element("summary", "All figures"), content, id=f"details-{key}")


def _group(snapshot: StreetSnapshot) -> Markup:
    chain, genesis = snapshot.chain, snapshot.genesis
    if not chain.height:
        return element("p", "No block has been made yet.", class_="nothing")
    signed = {member for block in chain.last_blocks for member in block.signers}
    silent = [member for member in genesis.endorsers if member not in signed]
    certified = (
        "every block is certified"
        if chain.certified_height == chain.height
        else f"certified up to {chain.certified_height}"
    )
    lead = element(
        "p",
        element("b", f"Block {chain.height}"),
        f", {certified}: {genesis.quorum} of {count(len(genesis.endorsers), 'endorser')} must sign "
        "the same result.",
        class_="lead",
    )
    warning = element(
        "p",
        f"Not heard in the last {count(len(chain.last_blocks), 'block')}: {', '.join(silent)}. "
        f"The street goes on while {genesis.quorum} endorsers sign.",
        class_="warning",
    )
    note = element(
        "p",
        f"A certificate holds the first {genesis.quorum} signatures or more, so single gaps are "
        "normal; a row that stays empty is an endorser that is silent.",
        class_="note",
    )
    return join(
        lead,
        warning if silent else None,
        signature_chart(chain, genesis.endorsers),
        note,
        _books(snapshot),
    )


def _books(snapshot: StreetSnapshot) -> Markup:
    """Say what is in the chain, and that money and energy add up."""
    chain, totals, currency = snapshot.chain, snapshot.totals, snapshot.genesis.currency
    refused = {code: number for code, number in chain.receipts.items() if code != "ok"}
    without_effect = ", ".join(f"{code} {number}" for code, number in refused.items())
    kinds = ", ".join(f"{kind} {number}" for kind, number in chain.operations.items())
    figures = element(
        "dl",
        _figure("Last block", element("code", chain.head[:DIGEST_SHOWN])),
        _figure("Signed operations", kinds or "none"),
        _figure("Without effect, by result code", without_effect or "none"),
        _figure("Service fees", money(totals.operator_nano, currency, 4)),
        _figure("Haircuts of standing orders", money(totals.community_nano, currency, 4)),
        _figure("Local grid fees", money(totals.network_nano, currency, 4)),
        _figure("Paid to the grid, net", money(totals.grid_nano, currency, 4)),
        _figure("Sum of all balances", f"{totals.money_sum_nano} nano-{currency}"),
        _figure("Metered less settled energy", energy(totals.energy_balance_wh)),
        class_="figures small",
    )
    return element("details", element("summary", "The books"), figures, id="details-books")


def _rung(rung: Rung, number: int) -> Markup:
    return element(
        "li", _rung_key(rung), element("b", count(number, "slot")), class_=f"rung-{rung}"
    )


def _labels_of(slots: list[SlotFacts]) -> str:
    """List slots by their labels, runs of neighbours as one span."""
    runs: list[list[SlotFacts]] = []
    for facts in slots:
        if runs and runs[-1][-1].slot + 1 == facts.slot:
            runs[-1].append(facts)
        else:
            runs.append([facts])
    return ", ".join(f"{run[0].label}\N{EN DASH}{run[-1].label_end}" for run in runs)

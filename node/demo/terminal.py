"""What the terminal shows of a demonstration: one line a slot, then the bills."""

import sys
from pathlib import Path
from typing import TextIO

from market.clearing import Rung
from market.events import Cleared
from node.demo.plan import DemoPlan
from node.demo.runner import DemoResult
from node.demo.watch import Watch
from node.genesis import Genesis
from node.view.snapshot import StreetSummary

NANO = 10**9
MICRO = 10**6

_RUNGS = {
    Rung.NEGOTIATED: "negotiated",
    Rung.STANDING: "standing orders",
    Rung.GRID: "grid tariff",
}


class Terminal:
    """Writes progress and result as plain lines."""

    def __init__(self, out: TextIO, plan: DemoPlan) -> None:
        self._out = out
        self._plan = plan
        self._currency = plan.street.currency
        self._shown = 0
        self._first_slot = 0

    def say(self, line: str) -> None:
        """Write one line at once."""
        self._out.write(line + "\n")
        self._out.flush()

    def started(self, genesis: Genesis) -> None:
        """Introduce the street."""
        plan = self._plan
        self._first_slot = genesis.rules.calendar.first
        self.say(
            f"{len(plan.homes)} homes, one process each; {len(plan.endorsing)} endorse; "
            f"mechanism {plan.mechanism}; seed {plan.seed}"
        )
        self.say(
            f"a day of {plan.street.slots} slots takes {plan.day_seconds:.0f} s "
            f"(the clock runs at {genesis.clock.speed}x); load and PV: {plan.street.source}; "
            "meters and devices are simulated"
        )

    def page_is_up(self, url: str) -> None:
        """Say where the page is."""
        self.say(f"live page: {url}")

    def progress(self, watch: Watch) -> None:
        """Show the slots that have been cleared since the last call."""
        for cleared in watch.cleared[self._shown :]:
            self.say(self._slot_line(cleared))
        self._shown = len(watch.cleared)

    def finished(self, summary: StreetSummary, result: DemoResult, report: Path) -> None:
        """Show every home's bill, and whether the ledgers hold."""
        currency = self._currency
        self.say("")
        self.say(f"{'home':<8}{'bill':>12}{'grid alone':>12}{'saved':>12}   [{currency}]")
        for home in summary.homes:
            self.say(
                f"{home.id:<8}{_money(home.bill_nano):>12}{_money(home.grid_only_nano):>12}"
                f"{_money(home.saved_nano):>12}"
            )
        totals = [
            sum(getattr(home, name) for home in summary.homes)
            for name in ("bill_nano", "grid_only_nano", "saved_nano")
        ]
        self.say(f"{'street':<8}" + "".join(f"{_money(total):>12}" for total in totals))
        ladder = summary.ladder
        self.say("")
        self.say(
            f"{summary.traded_wh / 1000:.1f} kWh traded; {ladder.negotiated} slots negotiated, "
            f"{ladder.standing} on standing orders, {ladder.grid} on the grid tariff; "
            f"{result.seconds:.0f} s"
        )
        good = sum(found.ok for found in result.verifications.values())
        heads = len({found.head for found in result.verifications.values()})
        self.say(
            f"{good} of {len(result.verifications)} ledgers verify, {heads} distinct head(s), "
            f"{summary.blocks} blocks; all balances sum to {summary.money_sum_nano}"
        )
        self.say(f"report: {report}")
        ledger = self._plan.home_directory(self._plan.homes[0]) / "ledger.db"
        command = Path(sys.executable).with_name("wattstreet")
        name = command if command.exists() else f"{sys.executable} -m node"
        self.say(f"check a ledger yourself: {name} ledger verify {ledger}")

    def _slot_line(self, cleared: Cleared) -> str:
        label = self._plan.street.slot_label(cleared.slot - self._first_slot)
        if cleared.rung is Rung.GRID:
            why = "nobody sells" if not cleared.supply_wh else "no trade"
            return f"{label}  grid tariff ({why})"
        rounds = f" in {cleared.rounds} round(s)" if cleared.rounds else ""
        return (
            f"{label}  {cleared.price / MICRO:.3f} {self._currency}/kWh  "
            f"{cleared.traded_wh / 1000:6.2f} kWh  {_RUNGS[cleared.rung]}{rounds}"
        )


def _money(amount_nano: int) -> str:
    return f"{amount_nano / NANO:.2f}"

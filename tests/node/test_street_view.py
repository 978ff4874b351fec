from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from market.clearing import Rung
from node.audit import verify_ledger
from node.errors import ConfigError
from node.store import LedgerStore
from node.view.snapshot import Reason, Stage
from node.view.street import StreetView
from tests.support.street_ledger import StreetLedger, small_street

# Net of load and roof: nobody sells in slot 0, both sides in 1 and 2, nobody buys in 3.
LOADS = {"a": (400, 200, 300, 0), "b": (600, 900, 800, 0), "c": (500, 700, 900, 0), "d": (100,) * 4}
ROOFS = {"a": (0, 1600, 1400, 500), "d": (0, 100, 900, 600)}
FIRST_MINUTE = 7 * 60


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[StreetLedger]:
    street = small_street(loads=LOADS, roofs=ROOFS, first_minute=FIRST_MINUTE)
    made = await StreetLedger.create(tmp_path / "ledger.db", street, quiet={2}, unread={"c"})
    yield made
    await made.close()


def read(ledger: StreetLedger) -> StreetView:
    view = StreetView(ledger.path)
    view.refresh()
    return view


async def test_the_ledger_of_these_tests_is_one_that_verification_accepts(
    ledger: StreetLedger,
) -> None:
    await ledger.run_day()

    assert verify_ledger(ledger.path).errors == []


async def test_a_day_is_summed_up_as_the_command_line_reports_it(ledger: StreetLedger) -> None:
    await ledger.run_day()

    with read(ledger) as view:
        summary = view.summary()

    assert (summary.slots, summary.cleared, summary.mechanism) == (4, 4, "two-level")
    assert (summary.ladder.negotiated, summary.ladder.standing, summary.ladder.grid) == (1, 1, 2)
    assert (summary.money_sum_nano, summary.energy_balance_wh) == (0, 0)
    assert (summary.blocks, summary.head) == (
        ledger.execution.header.height,
        ledger.execution.digest.hex(),
    )
    assert [home.id for home in summary.homes] == ["a", "b", "c", "d"]
    assert all(h.saved_nano == h.grid_only_nano - h.bill_nano for h in summary.homes)
    assert sum(h.saved_nano for h in summary.homes) > 0


async def test_totals_follow_from_the_settlement_lines(ledger: StreetLedger) -> None:
    await ledger.run_day()

    with read(ledger) as view:
        snapshot, homes = view.snapshot(), view.lines()

    for home, totals in zip(homes, snapshot.homes, strict=True):
        lines = [line for _, line in home.lines]
        assert [label for label, _ in home.lines] == ["07:00", "08:00", "09:00", "10:00"]
        assert totals.bill_nano == sum(line.bill_nano for line in lines)
        assert totals.import_wh == sum(line.import_wh for line in lines)
        assert totals.slots == 4
    assert snapshot.totals.bill_nano == sum(home.bill_nano for home in snapshot.homes)
    assert {home.home: home.substituted for home in snapshot.homes} == {
        "a": 0,
        "b": 0,
        "c": 4,
        "d": 0,
    }
    assert sum(home.bought_wh for home in snapshot.homes) == snapshot.totals.traded_wh
    assert sum(home.sold_wh for home in snapshot.homes) == snapshot.totals.traded_wh


async def test_every_rung_is_given_with_its_reason(ledger: StreetLedger) -> None:
    await ledger.run_day()

    with read(ledger) as view:
        slots = view.snapshot().slots

    assert [slot.rung for slot in slots] == [Rung.GRID, Rung.NEGOTIATED, Rung.STANDING, Rung.GRID]
    assert [slot.reason for slot in slots] == [
        Reason.NO_SELLERS,
        None,
        Reason.NO_AGREEMENT,
        Reason.NO_BUYERS,
    ]
    assert slots[0].price_micro_per_kwh is None
    negotiated = slots[1].price_micro_per_kwh
    assert negotiated is not None
    assert slots[1].lo_micro_per_kwh <= negotiated <= slots[1].hi_micro_per_kwh


async def test_a_slot_passes_through_its_stages(ledger: StreetLedger) -> None:
    seen: list[Stage] = []

    with StreetView(ledger.path) as view:
        while ledger.steps:
            await ledger.step()
            view.refresh()
            stage = view.snapshot().slots[1].stage
            if not seen or seen[-1] is not stage:
                seen.append(stage)

    assert seen == [
        Stage.WAITING,
        Stage.ORDERS,
        Stage.NEGOTIATING,
        Stage.CLEARED,
        Stage.DELIVERING,
        Stage.SETTLING,
        Stage.SETTLED,
    ]


async def test_reading_step_by_step_gives_what_reading_at_once_gives(ledger: StreetLedger) -> None:
    with StreetView(ledger.path) as slow:
        while ledger.steps:
            await ledger.step()
            slow.refresh()
        with read(ledger) as fast:
            assert slow.snapshot() == fast.snapshot()
            assert slow.summary() == fast.summary()
            assert slow.lines() == fast.lines()


async def test_refresh_says_whether_anything_was_written(ledger: StreetLedger) -> None:
    with StreetView(ledger.path) as view:
        first, again = view.refresh(), view.refresh()
        await ledger.step()

        assert (first, again, view.refresh(), view.refresh()) == (True, False, True, False)


async def test_flows_sum_to_what_each_home_trades(ledger: StreetLedger) -> None:
    await ledger.run_until(1)

    with read(ledger) as view:
        detail = view.detail(view.snapshot().current)

    assert detail is not None
    assert detail.facts.stage is Stage.DELIVERING
    assert sum(flow.energy_wh for flow in detail.flows) == detail.facts.traded_wh > 0
    for part in detail.parts:
        own = [f.energy_wh for f in detail.flows if part.home in {f.seller, f.buyer}]
        assert part.traded_wh == sum(own)
        left_wh = part.grid_export_wh if part.sells else part.grid_import_wh
        assert left_wh == part.firm_wh - part.traded_wh


async def test_the_last_negotiation_is_traced_round_by_round(ledger: StreetLedger) -> None:
    await ledger.run_day()

    with read(ledger) as view:
        traced = view.last_traced()

    assert traced is not None
    assert traced.facts.label == "08:00"
    assert [each.round for each in traced.trace] == list(range(1, len(traced.trace) + 1))
    assert traced.trace[-1].price_micro_per_kwh == traced.facts.price_micro_per_kwh


async def test_certificates_name_their_signers_and_may_come_later(ledger: StreetLedger) -> None:
    await ledger.step()
    await ledger.write_block(ledger.execution.header.time_ms, (), is_certified=False)

    with read(ledger) as view:
        chain = view.snapshot().chain

    assert (chain.height, chain.certified_height) == (2, 1)
    assert [len(block.signers) for block in chain.last_blocks] == [3, 0]
    assert set(chain.last_blocks[0].signers) < {"a", "b", "c", "d"}


async def test_receipts_are_counted_by_result(ledger: StreetLedger) -> None:
    await ledger.step()
    late = ledger.sign_order_again("a", 0)
    gate_ms = ledger.genesis.rules.calendar.end_ms(ledger.genesis.rules.calendar.first)
    await ledger.write_block(gate_ms, (late,))

    with read(ledger) as view:
        chain = view.snapshot().chain

    assert chain.receipts == {"ok": 4, "gate-closed": 1}
    assert chain.operations == {"order": 5}


async def test_a_snapshot_is_json(ledger: StreetLedger) -> None:
    await ledger.run_until(2)

    with read(ledger) as view:
        plain = msgspec.json.decode(msgspec.json.encode(view.snapshot()))

    assert plain["genesis"]["homes"] == ["a", "b", "c", "d"]
    assert plain["totals"]["ladder"] == {"negotiated": 1, "standing": 1, "grid": 1}


async def test_a_ledger_that_its_node_has_closed_is_read_too(ledger: StreetLedger) -> None:
    await ledger.run_until(1)
    await ledger.close()

    with read(ledger) as view:
        assert view.height == ledger.execution.header.height


async def test_nothing_can_be_written_through_a_view(ledger: StreetLedger) -> None:
    with read(ledger) as view, pytest.raises(Exception, match="readonly"):
        view._connection.execute("DELETE FROM state")


async def test_a_file_without_a_chain_is_refused(tmp_path: Path) -> None:
    store = await LedgerStore.open(tmp_path / "empty.db")
    await store.close()
    (tmp_path / "text.db").write_text("not a database " * 100)

    with pytest.raises(ConfigError, match="no genesis yet"):
        StreetView(tmp_path / "empty.db")
    with pytest.raises(ConfigError, match="cannot be read"):
        StreetView(tmp_path / "text.db")
    with pytest.raises(ConfigError, match="no ledger"):
        StreetView(tmp_path / "missing.db")

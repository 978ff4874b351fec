from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.ceilings import allowed_limits
from market.contracts import accounts
from market.contracts.matching import Contracts
from market.contracts.offers import ClaimRecord, record_claim
from market.contracts.tariffs import band_in
from market.errors import Result
from market.events import SettlementLine, SlotSettled
from market.orders import Side
from market.payloads import Quality
from market.rules import Rules, TariffStep
from market.state import Draft, claim_key, contracts_key, read
from market.statements_paper import SHARES_SUM, PaperStatement
from market.tariffs import Fees, Tariff
from market.units import PPM
from tests.support.street import (
    FIRST,
    HOMES,
    NO_FEES,
    TradingStreet,
    example_street,
    is_settled,
    make_rules,
)

PERFECT = {"s1": (0, 1000), "s2": (0, 500), "b1": (2000, 0), "b2": (1000, 0)}


def negotiated(fees: Fees = NO_FEES, **metered: tuple[int, int]) -> dict[str, SettlementLine]:
    """Settle the first worked example at 245000, with other readings where given."""
    street = example_street(make_rules(fees=fees))
    street.negotiate()
    street.clear()
    for member, (import_wh, export_wh) in (PERFECT | metered).items():
        assert street.meter(member, import_wh, export_wh).result is Result.OK
    return street.settle()


# -- by hand: seller s1 sells 1000 Wh, buyer b1 buys 1000 Wh, both at 0.245 per kWh


@pytest.mark.parametrize(
    ("import_wh", "export_wh", "bill_nano"),
    [
        (0, 1000, -245_000_000),
        (0, 600, -245_000_000 + 400 * 300_000),
        (0, 0, -245_000_000 + 1000 * 300_000),
        (200, 0, -245_000_000 + 1200 * 300_000),
        (0, 1200, -245_000_000 - 200 * 80_000),
    ],
    ids=["as contracted", "short", "nothing", "even consumes", "over-delivers"],
)
def test_a_seller_pays_retail_for_its_shortfall_and_gets_feed_in_for_its_surplus(
    import_wh: int, export_wh: int, bill_nano: int
) -> None:
    line = negotiated(s1=(import_wh, export_wh))["s1"]

    assert line.bill_nano == bill_nano
    assert (line.contracted_wh, line.trade_nano) == (1000, 245_000_000)


@pytest.mark.parametrize(
    ("import_wh", "export_wh", "bill_nano"),
    [
        (1000, 0, 245_000_000),
        (2000, 0, 245_000_000 + 1000 * 300_000),
        (700, 0, 245_000_000 - 300 * 80_000),
        (0, 0, 245_000_000 - 1000 * 80_000),
        (0, 400, 245_000_000 - 1400 * 80_000),
    ],
    ids=["as contracted", "more", "less", "nothing", "even exports"],
)
def test_a_buyer_pays_retail_for_more_and_gets_feed_in_for_less(
    import_wh: int, export_wh: int, bill_nano: int
) -> None:
    assert negotiated(b1=(import_wh, export_wh))["b1"].bill_nano == bill_nano


def test_a_line_shows_what_the_grid_alone_would_have_cost() -> None:
    lines = negotiated(s2=(0, 700))

    assert (lines["b1"].grid_only_nano, lines["s2"].grid_only_nano) == (600_000_000, -56_000_000)


def test_a_deviation_is_charged_to_who_deviates_and_to_nobody_else() -> None:
    perfect, short = negotiated(), negotiated(s1=(0, 1))

    assert all(short[member] == perfect[member] for member in ("s2", "b1", "b2"))


def test_fees_come_on_top_for_buyers_and_off_for_sellers() -> None:
    # Band 100503 to 267326, middle 183914: half of the need is met at 225620.
    lines = negotiated(Fees(10_000, 5_000, 30_000, 20_000))

    buyer, seller = lines["b1"], lines["s1"]
    assert (buyer.contracted_wh, buyer.trade_nano) == (1000, 225_620_000)
    assert (buyer.service_fee_nano, buyer.grid_fee_nano) == (2_256_200, 30_000_000)
    assert buyer.bill_nano == 225_620_000 + 2_256_200 + 30_000_000 + 300_000_000
    assert (seller.service_fee_nano, seller.grid_fee_nano) == (1_128_100, 20_000_000)
    assert seller.bill_nano == -225_620_000 + 1_128_100 + 20_000_000


def test_without_trade_the_bill_is_exactly_the_grids() -> None:
    street = TradingStreet()
    street.meter("b1", 1234)
    street.meter("s1", 0, 567)
    street.meter("b2")

    lines = street.settle()

    bills = {member: line.bill_nano for member, line in lines.items()}
    assert bills == {"b1": 1234 * 300_000, "b2": 0, "s1": -567 * 80_000, "s2": 0}
    assert all(line.bill_nano == line.grid_only_nano for line in lines.values())


def test_every_household_gets_one_line_whether_it_trades_or_not() -> None:
    assert list(TradingStreet().settle()) == sorted(HOMES)


# -- missing readings


def test_a_missing_reading_of_a_seller_is_what_it_contracted() -> None:
    street = example_street()
    street.negotiate()

    line = street.settle()["s1"]

    assert (line.import_wh, line.export_wh, line.quality) == (0, 1000, Quality.SUBSTITUTED)
    assert line.bill_nano == -245_000_000


def test_a_missing_reading_of_a_buyer_is_at_least_the_need_that_it_ordered() -> None:
    street = example_street()
    street.negotiate()

    line = street.settle()["b1"]

    assert (line.import_wh, line.export_wh, line.quality) == (2000, 0, Quality.SUBSTITUTED)
    assert line.bill_nano == 245_000_000 + 1000 * 300_000


def test_a_gap_is_not_free_where_nothing_was_traded() -> None:
    street = TradingStreet()
    street.order("b1", Side.BUY, 800)
    street.order("b2", Side.BUY, 100)

    lines = street.settle()

    assert (lines["b1"].bill_nano, lines["b2"].bill_nano) == (800 * 300_000, 100 * 300_000)


def test_a_missing_reading_of_a_seller_without_trade_earns_nothing() -> None:
    street = TradingStreet()
    street.order("s1", Side.SELL, 800)

    assert street.settle()["s1"].bill_nano == 0


# -- claims


def claimed(street: TradingStreet, member: str) -> tuple[int, int] | None:
    record = read(street, claim_key(member), ClaimRecord)
    if record is None:
        return None
    (day,) = record.days
    return day.ordered_wh, day.metered_wh


def settle_one(
    side: Side, firm_wh: int, flexible_wh: int, metered: tuple[int, int]
) -> tuple[int, int] | None:
    """Settle an order beside a partner that matches all of it, and return what was claimed."""
    street = TradingStreet()
    limit = 80_000 + 5 * 27_500 if flexible_wh else 0
    street.order("b1", side, firm_wh, flexible_wh, limit)
    street.order("s1", Side(1 - side), 9000)
    street.negotiate()
    street.clear()
    street.meter("b1", *metered)
    street.settle()
    return claimed(street, "b1")


def test_a_claim_is_measured_by_net_import_or_export() -> None:
    assert settle_one(Side.BUY, 1000, 0, (900, 0)) == (1000, 900)
    assert settle_one(Side.SELL, 1000, 0, (0, 700)) == (1000, 700)


def test_metered_the_other_way_nothing_bears_out_a_claim() -> None:
    assert settle_one(Side.BUY, 1000, 0, (0, 400)) == (1000, 0)
    assert settle_one(Side.SELL, 1000, 0, (300, 0)) == (1000, 0)


def test_flexible_purchases_do_not_bear_out_a_claim_of_need() -> None:
    assert settle_one(Side.BUY, 1000, 600, (1600, 0)) == (1000, 1000)
    assert settle_one(Side.BUY, 1000, 600, (500, 0)) == (1000, 0)


def test_flexible_purchases_cannot_make_good_a_claim_that_was_discounted() -> None:
    street = TradingStreet()
    _discount(street, "b1")
    street.order("b1", Side.BUY, 2000, 2000, 80_000 + 5 * 27_500)
    street.order("s1", Side.SELL, 9000)
    street.negotiate()
    street.clear()
    # Claimed 2000 of need, of which 1100 are credible; needs 1000 and stores 2000.
    street.meter("b1", 3000)
    street.settle()

    assert _last_claim(street, "b1") == (2000, 1000)


def _discount(street: TradingStreet, member: str) -> None:
    for slot in range(FIRST - 48, FIRST - 24):
        draft = Draft(street)
        record_claim(
            draft,
            street.rules,
            member,
            slot=slot,
            side=Side.BUY,
            ordered_wh=1000,
            metered_wh=500,
        )
        street._write(draft.writes)


def _last_claim(street: TradingStreet, member: str) -> tuple[int, int]:
    record = read(street, claim_key(member), ClaimRecord)
    assert record is not None
    return record.days[-1].ordered_wh, record.days[-1].metered_wh


def test_only_measured_slots_with_a_firm_order_are_claims() -> None:
    street = TradingStreet()
    street.order("b1", Side.BUY, 1000)
    street.order("b2", Side.BUY, 0, 500, 80_000 + 27_500)
    street.meter("b2", 500)
    street.meter("s1", 0, 500)
    street.settle()

    assert [claimed(street, member) for member in ("b1", "b2", "s1")] == [None, None, None]


# -- prices per seller


def test_where_every_seller_has_its_price_a_buyer_pays_each_of_them() -> None:
    street = TradingStreet(make_rules(mechanism="two-level-paper"))
    street.order("s1", Side.SELL, 1000)
    street.order("s2", Side.SELL, 500)
    street.order("b1", Side.BUY, 1500)
    digest = street.close_gate().digest
    prices = (200_000, 200_100)

    def say(member: str, energies: tuple[int, ...], shares: tuple[int, ...], alpha: int) -> None:
        statement = PaperStatement(FIRST, digest, 1, prices, energies, shares, alpha)
        assert street.apply(member, statement, street.gate_ms + 1).result is Result.OK

    third = SHARES_SUM // 3
    say("b1", (1_500_000, 1_499_900), (), 1)
    say("s1", (1_000_000,), (SHARES_SUM - third, third), 0)
    say("s2", (500_000,), (SHARES_SUM - third, third), 0)
    street.clear()
    for member, metered in (("b1", (1500, 0)), ("s1", (0, 1000)), ("s2", (0, 500))):
        street.meter(member, *metered)
    lines = street.settle()

    bills = {member: line.bill_nano for member, line in lines.items()}
    assert bills == {"b1": 300_050_000, "b2": 0, "s1": -200_000_000, "s2": -100_050_000}


# -- what is left


def test_totals_of_the_slot_are_booked_and_published() -> None:
    street = example_street()
    street.clear()
    for member, metered in PERFECT.items():
        street.meter(member, *metered)
    street.settle()

    settled = street.events[-1].payload
    assert isinstance(settled, SlotSettled)
    balances = street.balances()
    # The haircut: 1500 Wh between 250500 and 228500.
    assert balances[accounts.COMMUNITY] == settled.community_nano == 1500 * 22_000
    assert balances[accounts.GRID] == settled.grid_nano == 1500 * 300_000
    assert sum(balances[member] for member in HOMES) == settled.households_nano
    assert (settled.grid_import_wh, settled.grid_export_wh) == (1500, 0)


def test_nothing_of_a_settled_slot_remains_but_its_digest() -> None:
    street = example_street()
    street.negotiate()
    street.clear()
    street.meter("b1", 2000)

    street.settle()

    assert is_settled(street)
    assert street.keys_of(FIRST) == {f"closed/{FIRST}"}


def test_the_digest_of_a_settled_slot_is_blinded_by_the_members_salts() -> None:
    digests = set()
    for salt in (b"one salt........", b"another salt...."):
        street = TradingStreet()
        street.meter("b1", 100)
        key = f"reading/{FIRST}/b1"
        street.state[key] = street.state[key].replace(
            street.submission("b1", None, kind="reading").salt, salt
        )
        street.settle()
        digests.add(street.state[f"closed/{FIRST}"])

    assert len(digests) == 2


@pytest.mark.parametrize("changes", [(-1, 1), (10**9, -(10**9)), (10**26, -(10**26)), (0, 0)])
def test_a_balance_of_any_size_is_kept_to_the_nano(changes: tuple[int, int]) -> None:
    street = TradingStreet()
    draft = Draft(street)

    for _ in range(3):
        accounts.post(draft, dict(zip(("b1", accounts.GRID), changes, strict=True)))

    assert accounts.balance_nano(draft, "b1") == 3 * changes[0]
    assert accounts.balance_nano(draft, accounts.GRID) == 3 * changes[1]


def test_money_is_never_made() -> None:
    with pytest.raises(AssertionError):
        accounts.post(Draft(TradingStreet()), {"b1": 1, "b2": 1})


# -- properties

HOMES_MAX = 6


@dataclass(frozen=True)
class Case:
    fees: Fees
    tariff: Tariff
    orders: dict[str, tuple[Side, int, int, int]]
    metered: dict[str, tuple[int, int]]
    is_negotiated: bool


@st.composite
def cases(draw: st.DrawFn, *, is_perfect: bool = False) -> Case:
    ppm = st.sampled_from((0, 1, 5_000, 100_000, PPM - 1))
    grid_fee = st.sampled_from((0, 1, 20_000))
    feed_in = draw(st.integers(0, 100_000))
    tariff = Tariff(draw(st.integers(0, 500_000)), feed_in)
    orders, metered = {}, {}
    for number in range(draw(st.integers(1, HOMES_MAX))):
        home, firm_wh = f"h{number}", draw(st.integers(0, 3000))
        side = draw(st.sampled_from(Side))
        if firm_wh:
            orders[home] = (side, firm_wh, 0, 0)
        if is_perfect:
            metered[home] = (firm_wh, 0) if side is Side.BUY else (0, firm_wh)
        elif draw(st.booleans()):
            energy_wh = draw(st.integers(0, 5000))
            metered[home] = draw(st.sampled_from(((energy_wh, 0), (0, energy_wh))))
    fees = Fees(draw(ppm), draw(ppm), draw(grid_fee), draw(grid_fee))
    return Case(fees, tariff, orders, metered, draw(st.booleans()))


def case_rules(case: Case) -> Rules:
    homes = [f"h{number}" for number in range(HOMES_MAX)]
    return make_rules(homes, fees=case.fees, tariffs=(TariffStep(0, case.tariff),))


def play(case: Case) -> tuple[TradingStreet, dict[str, SettlementLine]]:
    street = TradingStreet(case_rules(case))
    for home, payload in case.orders.items():
        street.order(home, *payload)
    if case.is_negotiated and street.close_gate().book.has_market:
        street.negotiate()
    street.clear()
    for home, energies in case.metered.items():
        assert street.meter(home, *energies).result is Result.OK
    return street, street.settle()


@settings(max_examples=150, deadline=None)
@given(cases())
def test_all_changes_of_accounts_sum_to_zero(case: Case) -> None:
    street, lines = play(case)

    balances = street.balances()
    assert sum(balances.values()) == 0
    assert all(balances[member] == -line.bill_nano for member, line in lines.items())
    assert balances[accounts.COMMUNITY] >= 0
    assert balances[accounts.OPERATOR] >= 0


@settings(max_examples=150, deadline=None)
@given(cases())
def test_energy_is_balanced_and_each_deviation_charged_once(case: Case) -> None:
    street, lines = play(case)

    net_wh = sum(line.import_wh - line.export_wh for line in lines.values())
    settled = street.events[-1].payload
    assert isinstance(settled, SlotSettled)
    assert settled.grid_import_wh - settled.grid_export_wh == net_wh
    for line in lines.values():
        contract_wh = line.contracted_wh * (1 if line.side == Side.BUY else -1)
        deviation_wh = line.import_wh - line.export_wh - contract_wh
        assert line.imbalance_import_wh - line.imbalance_export_wh == deviation_wh
        assert 0 in (line.imbalance_import_wh, line.imbalance_export_wh)
        price = (
            case.tariff.retail_micro_per_kwh
            if deviation_wh > 0
            else case.tariff.feed_in_micro_per_kwh
        )
        assert line.imbalance_nano == deviation_wh * price


@settings(max_examples=200, deadline=None)
@given(cases(is_perfect=True))
def test_at_a_perfect_forecast_nobody_is_worse_off_than_with_the_grid(case: Case) -> None:
    _, lines = play(case)

    assert all(line.bill_nano <= line.grid_only_nano for line in lines.values())


@settings(max_examples=150, deadline=None)
@given(cases(), st.data())
def test_nobody_whose_meter_bears_out_its_contract_loses_whatever_the_others_do(
    case: Case, data: st.DataObject
) -> None:
    street = TradingStreet(case_rules(case))
    for home, (side, firm_wh, _, _) in case.orders.items():
        limits = allowed_limits(band_in(street.rules, FIRST), side)
        is_flexible = band_in(street.rules, FIRST).is_open and data.draw(st.booleans())
        flexible = (900, data.draw(st.sampled_from(limits))) if is_flexible else (0, 0)
        street.order(home, side, firm_wh, *flexible)
    if case.is_negotiated and street.close_gate().book.has_market:
        street.negotiate()
    street.clear()
    contracts = read(street, contracts_key(FIRST), Contracts)
    assert contracts is not None
    honest = [each for each in contracts.positions if data.draw(st.booleans())]
    for each in honest:
        metered_wh = each.energy_wh + data.draw(st.sampled_from((0, 1, 700)))
        energies = (metered_wh, 0) if each.side is Side.BUY else (0, metered_wh)
        street.meter(each.member, *energies)
    for home in set(case.orders) - {each.member for each in honest}:
        street.meter(home, *case.metered.get(home, (0, 0)))

    lines = street.settle()

    for each in honest:
        assert lines[each.member].bill_nano <= lines[each.member].grid_only_nano


@settings(max_examples=100, deadline=None)
@given(cases())
def test_service_fees_are_the_exact_ones_rounded_down(case: Case) -> None:
    _, lines = play(case)

    for line in lines.values():
        is_sale = line.side == Side.SELL
        ppm = case.fees.seller_fee_ppm if is_sale else case.fees.buyer_fee_ppm
        assert 0 <= line.trade_nano * ppm - line.service_fee_nano * PPM < PPM

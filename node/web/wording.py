"""Figures and states in words: the only place where an exact integer is rounded for a reader."""

from market.clearing import Rung
from market.units import PPM
from node.view.snapshot import Reason, SlotFacts, Stage

NANO = 10**9
MICRO = 10**6

STAGES = {
    Stage.WAITING: "not open yet",
    Stage.ORDERS: "taking orders",
    Stage.NEGOTIATING: "negotiating",
    Stage.CLEARED: "price fixed",
    Stage.DELIVERING: "delivering",
    Stage.SETTLING: "reading meters",
    Stage.SETTLED: "settled",
}

RUNGS = {
    Rung.NEGOTIATED: "negotiated",
    Rung.STANDING: "standing orders",
    Rung.GRID: "grid tariff",
}

REASONS = {
    Reason.NO_ORDERS: "nobody ordered anything",
    Reason.NO_SELLERS: "nobody had energy to sell",
    Reason.NO_BUYERS: "nobody needed energy",
    Reason.NO_BAND: "feed-in and retail price leave no room for a price between them",
    Reason.NO_MATCH: "both sides were there, but less than 1 Wh could change hands",
    Reason.NO_AGREEMENT: "no price was agreed in time, so the standing orders were cleared",
}

PRESET_TRUTH = (
    "Presets shape flexible energy only; a home without flexible energy sees no difference."
)


def decimal(value: int, unit: int, places: int) -> str:
    """Write `value` / `unit` with so many places, half away from zero, and a real minus sign."""
    scale = 10**places
    rounded = (2 * abs(value) * scale + unit) // (2 * unit)
    whole, fraction = divmod(rounded, scale)
    text = f"{whole:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if places:
        text += f".{fraction:0{places}d}"
    return f"\N{MINUS SIGN}{text}" if value < 0 and rounded else text


def amount(amount_nano: int, places: int = 2) -> str:
    """Write an amount without its currency."""
    return decimal(amount_nano, NANO, places)


def money(amount_nano: int, currency: str, places: int = 2) -> str:
    """Write an amount with its currency."""
    return f"{amount(amount_nano, places)}\N{NO-BREAK SPACE}{currency}"


def energy(energy_wh: int, places: int = 1) -> str:
    """Write an energy: in Wh below 1 kWh, else in kWh."""
    if abs(energy_wh) < 1000:
        return f"{decimal(energy_wh, 1, 0)}\N{NO-BREAK SPACE}Wh"
    return f"{decimal(energy_wh, 1000, places)}\N{NO-BREAK SPACE}kWh"


def price(price_micro_per_kwh: int) -> str:
    """Write a price per kWh without its currency."""
    return decimal(price_micro_per_kwh, MICRO, 3)


def percent(part: int, whole: int) -> str:
    """Write a share in whole percent; of nothing it is a dash."""
    if not whole:
        return "\N{EN DASH}"
    return f"{decimal(part * 100, whole, 0)}\N{NO-BREAK SPACE}%"


def fee_percent(ppm: int) -> str:
    """Write a fee given in millionths."""
    return f"{decimal(ppm * 100, PPM, 1)}\N{NO-BREAK SPACE}%"


def count(number: int, noun: str) -> str:
    """Write "1 slot", "2 slots"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def span(facts: SlotFacts) -> str:
    """Write when a slot begins and ends."""
    return f"{facts.label}\N{EN DASH}{facts.label_end}"


def outcome(facts: SlotFacts, currency: str) -> str:
    """Say in one line what came of a slot so far."""
    if facts.rung is None:
        return STAGES[facts.stage]
    if facts.price_micro_per_kwh is None:
        reason = REASONS[facts.reason] if facts.reason else "nothing was traded"
        return f"grid tariff: {reason}"
    at_price = f"{price(facts.price_micro_per_kwh)} {currency}/kWh"
    traded = f"{energy(facts.traded_wh)} traded at {at_price}"
    if facts.rung is Rung.STANDING:
        return f"{traded}, standing orders"
    return f"{traded}, negotiated in {count(facts.rounds, 'round')}"

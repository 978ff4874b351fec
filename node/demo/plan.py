"""What a demonstration consists of: which street, how fast, which rules."""

from dataclasses import dataclass
from pathlib import Path

from market.rules import Household, Quotas, Rules, TariffStep
from market.slot import SlotCalendar
from market.tariffs import Fees
from node.clock import ClockRules
from node.errors import ConfigError
from node.genesis import PROTOCOL_VERSION, ConsensusRules, Genesis
from node.streets.street import Street

SECONDS_PER_SLOT = 2.0
HOMES_AT_FULL_SPEED = 12
"""Up to so many daemons share two cores at two seconds a slot; beyond, messages grow with N^2."""

SERVICE_FEE_PPM = 5_000
"""The operator's fee on each side of a trade (paper 000's eta): half a percent."""

FALLBACK_HAIRCUT_PPM = 100_000
DEVICE_W = 5_000
PHASES_TO_FIT = 10
"""A silent member costs a phase in two rounds; others last as long as their messages take."""

EPOCH_DAY = 20_625
"""The demonstration's calendar day, 2026-06-21, in days since 1970: a label for a recorded day."""

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """A demonstration as asked for on the command line."""

    street: Street
    street_argument: str
    mechanism: str
    endorsers: int
    seed: int
    day_seconds: float
    data: Path

    @property
    def community(self) -> str:
        """The community's name on the bus."""
        return "demo"

    @property
    def homes(self) -> tuple[str, ...]:
        """The homes' ids, in order."""
        return tuple(home.id for home in self.street.homes)

    @property
    def endorsing(self) -> tuple[str, ...]:
        """The homes that endorse: the first ones."""
        return self.homes[: self.endorsers]

    @property
    def speed(self) -> int:
        """How much faster than the wall the community's clock runs."""
        street_ms = self.street.slots * self.street.slot_minutes * MINUTE_MS
        return max(1, round(street_ms / (self.day_seconds * 1000)))

    def home_directory(self, home: str) -> Path:
        """Return where a home keeps its key, votes and ledger."""
        return self.data / "homes" / home


def default_day_seconds(street: Street) -> float:
    """Return how long the street's day takes [s]: two seconds a slot, more for many homes."""
    crowd = max(1.0, (len(street.homes) / HOMES_AT_FULL_SPEED) ** 2)
    return street.slots * SECONDS_PER_SLOT * crowd


def check_endorsers(endorsers: int, homes: int) -> None:
    """Check that so many of the homes can endorse.

    Raises:
        ConfigError: Fewer than four, or more than there are homes.
    """
    if not 4 <= endorsers <= homes:
        raise ConfigError(
            f"{endorsers} endorsers of {homes} homes: consensus needs at least 4, and a street "
            f"has no more than its homes; choose --endorsers 4 to {homes}"
        )


def make_genesis(plan: DemoPlan, keys: dict[str, bytes], start_wall_ms: int) -> Genesis:
    """Write down the demonstration's rules, with the keys that the daemons have made.

    The clock starts at `start_wall_ms`, one and a half slots before the first delivery.
    """
    street = plan.street
    slot_ms = street.slot_minutes * MINUTE_MS
    first = (EPOCH_DAY * 24 * 60 + street.first_minute) // street.slot_minutes
    gate_ms, clearing_ms = slot_ms * 9 // 10, slot_ms * 2 // 10
    negotiating_ms = (gate_ms - clearing_ms) * 4 // 5
    calendar = SlotCalendar(
        length_ms=slot_ms,
        first=first,
        count=street.slots,
        opens_ms=slot_ms * 14 // 10,
        gate_ms=gate_ms,
        clearing_ms=clearing_ms,
        settlement_ms=slot_ms,
    )
    rules = Rules(
        currency=street.currency,
        calendar=calendar,
        tariffs=tuple(
            TariffStep(first + index, tariff) for index, tariff in enumerate(street.tariffs)
        ),
        fees=Fees(
            buyer_fee_ppm=SERVICE_FEE_PPM,
            seller_fee_ppm=SERVICE_FEE_PPM,
            buyer_grid_fee_micro_per_kwh=0,
            seller_grid_fee_micro_per_kwh=0,
        ),
        mechanism=plan.mechanism,
        fallback_haircut_ppm=FALLBACK_HAIRCUT_PPM,
        phase_ms=negotiating_ms // PHASES_TO_FIT,
        relay_step_ms=(gate_ms - clearing_ms) // (5 * (len(plan.homes) + 1)),
        quotas=Quotas(operations=16, operation_bytes=32 * 1024),
        households=_households(plan, keys),
    )
    return Genesis(
        protocol_version=PROTOCOL_VERSION,
        community=plan.community,
        clock=ClockRules(
            origin_ms=first * slot_ms - slot_ms * 3 // 2,
            start_ms=start_wall_ms,
            speed=plan.speed,
        ),
        consensus=ConsensusRules(batch_wait_ms=20, resend_ms=150, clock_ahead_ms=250),
        rules=rules,
        endorsers=tuple((home, keys[home]) for home in sorted(plan.endorsing)),
    )


def _households(plan: DemoPlan, keys: dict[str, bytes]) -> tuple[Household, ...]:
    """Register every home with a connection that carries its record and a device beside it."""
    households = []
    for home in plan.street.homes:
        import_w, export_w = (
            max(energy_wh) * 60 // plan.street.slot_minutes + DEVICE_W
            for energy_wh in (home.load_wh, home.pv_wh)
        )
        # A forecast may lie a quarter above the record.
        households.append(Household(home.id, keys[home.id], import_w * 5 // 4, export_w * 5 // 4))
    return tuple(households)

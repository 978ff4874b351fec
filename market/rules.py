"""The community's rules, fixed in genesis: nothing outside them changes a committed byte."""

from typing import Annotated

import msgspec

from market.slot import SlotCalendar
from market.tariffs import Fees, Tariff
from market.units import amount_nano

Watts = Annotated[int, msgspec.Meta(ge=0, le=10**7)]

RESERVED_IDS = frozenset({"operator", "auditor", "bridge"})
"""Names of others on the bus, which no household may bear."""

SLOT_TURNOVER_MAX_NANO = 2**60
"""What all connections together may cost in a slot: its totals are sums of a few such amounts,
and must be 64-bit integers."""


class Household(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member that trades, and what its connection can carry [W]."""

    member: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{1,16}\Z")]
    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    import_w_max: Watts
    export_w_max: Watts

    def __post_init__(self) -> None:
        if self.member in RESERVED_IDS:
            raise ValueError(f"no household may be called {self.member!r}")


class TariffStep(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A tariff that holds from a slot on, until the next step."""

    from_slot: Annotated[int, msgspec.Meta(ge=0)]
    tariff: Tariff


class Quotas(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one member may have ordered per slot."""

    operations: Annotated[int, msgspec.Meta(ge=1, le=64)]
    operation_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**20)]


class Rules(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Everything that the market's replicated state depends on besides its operations.

    `phase_ms` and `relay_step_ms` pace the negotiation, on the community's clock.
    """

    currency: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]
    calendar: SlotCalendar
    tariffs: tuple[TariffStep, ...]
    fees: Fees
    mechanism: str
    fallback_haircut_ppm: Annotated[int, msgspec.Meta(ge=0, le=10**6)]
    phase_ms: Annotated[int, msgspec.Meta(ge=1)]
    relay_step_ms: Annotated[int, msgspec.Meta(ge=1)]
    quotas: Quotas
    households: tuple[Household, ...]

    def __post_init__(self) -> None:
        members = {each.member for each in self.households}
        if len(members) < len(self.households):
            raise ValueError("two households have the same id")
        starts = [step.from_slot for step in self.tariffs]
        if not starts or starts[0] > self.calendar.first or starts != sorted(set(starts)):
            raise ValueError(
                f"tariffs must rise by slot and begin at or before slot {self.calendar.first}"
            )
        if self._turnover_max_nano() > SLOT_TURNOVER_MAX_NANO:
            raise ValueError("connections and tariffs are too large for the amounts of a slot")

    def _turnover_max_nano(self) -> int:
        """Return what all connections would cost at their limit, at the highest price there is."""
        power_w = sum(max(each.import_w_max, each.export_w_max) for each in self.households)
        price = max(
            max(step.tariff.retail_micro_per_kwh, step.tariff.feed_in_micro_per_kwh)
            for step in self.tariffs
        )
        return amount_nano(self.calendar.energy_wh(power_w), price)

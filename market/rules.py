"""The community's rules, fixed in genesis: nothing outside them changes a committed byte."""

from typing import Annotated

import msgspec

from market.slot import SlotCalendar
from market.tariffs import Fees, Tariff

Watts = Annotated[int, msgspec.Meta(ge=0, le=10**7)]


class Household(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member that trades, and what its connection can carry [W]."""

    member: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]{1,16}$")]
    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    import_w_max: Watts
    export_w_max: Watts


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

    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    calendar: SlotCalendar
    tariffs: tuple[TariffStep, ...]
    fees: Fees
    mechanism: str
    fallback_haircut_ppm: Annotated[int, msgspec.Meta(ge=0, le=10**6)]
    phase_ms: Annotated[int, msgspec.Meta(ge=1)]
    relay_step_ms: Annotated[int, msgspec.Meta(ge=1)]
    quotas: Quotas
    households: tuple[Household, ...]

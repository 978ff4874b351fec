"""What a simulated home can shift: a battery, or a load that may wait.

Values, not objects with a life: every change returns a new device.  Energies are whole Wh at the
home's wiring; a power limit [W] becomes the energy of one slot, rounded down.
"""

from dataclasses import dataclass, replace

from market.units import PPM, share_ppm

MINUTES_PER_HOUR = 60


def slot_energy_wh(power_w: int, slot_minutes: int) -> int:
    """Return what a constant power brings in one slot, rounded down."""
    return power_w * slot_minutes // MINUTES_PER_HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """A battery with what it holds.

    `stored_wh` and `capacity_wh` count energy that can be taken out again: the losses of the round
    trip (`efficiency_ppm`, 900 000 = 90 %) all fall on charging.  `power_w` bounds both directions.
    `wear_micro_per_kwh` is what a kWh through the battery costs its owner in ageing.
    """

    label: str
    capacity_wh: int
    power_w: int
    efficiency_ppm: int
    wear_micro_per_kwh: int
    stored_wh: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.stored_wh <= self.capacity_wh:
            raise ValueError(f"a battery of {self.capacity_wh} Wh cannot hold {self.stored_wh} Wh")
        if not 0 < self.efficiency_ppm <= PPM:
            raise ValueError(f"efficiency {self.efficiency_ppm} ppm is not within 1 and {PPM}")
        if self.power_w < 0 or self.wear_micro_per_kwh < 0:
            raise ValueError("power and wear are never negative")

    def room_wh(self, slot_minutes: int) -> int:
        """Return the most that it can take in during one slot."""
        full_wh = self.intake_wh(self.capacity_wh - self.stored_wh)
        return min(full_wh, slot_energy_wh(self.power_w, slot_minutes))

    def output_wh(self, slot_minutes: int) -> int:
        """Return the most that it can give during one slot."""
        return min(self.stored_wh, slot_energy_wh(self.power_w, slot_minutes))

    def intake_wh(self, stored_wh: int) -> int:
        """Return the least intake after which `stored_wh` more can be taken out."""
        return -(-stored_wh * PPM // self.efficiency_ppm)

    def charge(self, energy_wh: int) -> "Battery":
        """Take energy in; what does not arrive in the store is lost."""
        return replace(self, stored_wh=self.stored_wh + share_ppm(energy_wh, self.efficiency_ppm))

    def discharge(self, energy_wh: int) -> "Battery":
        """Give energy out."""
        return replace(self, stored_wh=self.stored_wh - energy_wh)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferrableLoad:
    """A load that must have its energy by a deadline and does not care when before it.

    `energy_wh` is what it still needs.  It may run from `earliest_slot` on and should be done when
    `deadline_slot` begins; what is then missing is supplied at once.
    """

    label: str
    energy_wh: int
    power_w: int
    earliest_slot: int
    deadline_slot: int

    def __post_init__(self) -> None:
        if self.energy_wh < 0 or self.power_w < 0:
            raise ValueError("energy and power are never negative")
        if not 0 <= self.earliest_slot < self.deadline_slot:
            raise ValueError(
                f"no slot lies between {self.earliest_slot} and the deadline {self.deadline_slot}"
            )

    def room_wh(self, slot_index: int, slot_minutes: int) -> int:
        """Return the most that it can take in during a slot; nothing before its earliest."""
        if slot_index < self.earliest_slot:
            return 0
        return min(self.energy_wh, slot_energy_wh(self.power_w, slot_minutes))

    def charge(self, energy_wh: int) -> "DeferrableLoad":
        """Supply a part of its energy."""
        return replace(self, energy_wh=self.energy_wh - energy_wh)


Device = Battery | DeferrableLoad

"""Which homes of the presets have something flexible: simulated, added to the recorded load.

The recorded streets know no batteries and no cars.  Three homes of `clear-day` get one so that the
flexible part of an order has something to say; `zhao2019` stays as printed.
"""

from collections.abc import Mapping
from types import MappingProxyType

from node.assets.device import Battery, DeferrableLoad, Device

_HOME_BATTERY = Battery(
    label="simulated battery 6 kWh",
    capacity_wh=6000,
    power_w=3000,
    efficiency_ppm=900_000,
    wear_micro_per_kwh=20_000,
)

_EQUIPMENT: Mapping[str, Mapping[str, Device]] = {
    "clear-day": {
        "h02": _HOME_BATTERY,
        "h04": _HOME_BATTERY,
        # Hourly slots from midnight: at home at 09:00, needed at 17:00.
        "h11": DeferrableLoad(
            label="simulated car 6 kWh, 09:00 to 17:00",
            energy_wh=6000,
            power_w=3000,
            earliest_slot=9,
            deadline_slot=17,
        ),
    }
}


def equipment_of(street: str) -> Mapping[str, Device]:
    """Return the simulated device of each home that has one, as it is before the first slot."""
    return MappingProxyType(_EQUIPMENT.get(street, {}))

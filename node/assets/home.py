"""A simulated home: a recorded profile as its meter's truth, and forecasts that miss it a little.

The forecast is no forecasting method: it is the truth of the slot plus seeded noise, so that the
market meets errors of a known size.  A slot's forecast is the same whenever it is asked for, errors
are independent between homes and slots (real ones are not: clouds cover a street), and there is no
PV in a forecast where there is none in truth.
"""

import hashlib
from dataclasses import dataclass

from market.units import PPM
from node.assets.device import Device
from node.assets.forecast import Forecast
from node.assets.plan import net_meter
from node.streets.street import HomeProfile

LOAD_NOISE_PPM = 120_000
"""Half-width of each of two uniform errors that add up: 8 % off on average, 24 % at most."""
PV_NOISE_PPM = 75_000
"""The same for PV: 5 % off on average, 15 % at most."""


@dataclass(frozen=True, slots=True)
class SimulatedHome:
    """A recorded home with a seed for its forecast errors and, perhaps, a simulated device.

    `device` is as it is before the first slot; `node/assets/plan.py` carries it on.
    """

    profile: HomeProfile
    seed: int
    device: Device | None = None

    def forecast(self, slot_index: int) -> Forecast:
        """Return what the home expects of a slot: the truth and a seeded error."""
        return Forecast(
            load_wh=self._with_noise(self.profile.load_wh, "load", slot_index, LOAD_NOISE_PPM),
            pv_wh=self._with_noise(self.profile.pv_wh, "pv", slot_index, PV_NOISE_PPM),
        )

    def outlook(self, slot_index: int) -> tuple[Forecast, ...]:
        """Return the forecasts from a slot to the last one known."""
        return tuple(self.forecast(slot) for slot in range(slot_index, len(self.profile.load_wh)))

    def reading(self, slot_index: int, taken_wh: int = 0, given_wh: int = 0) -> tuple[int, int]:
        """Return (import, export) [Wh] of a slot, netted, with what the device took and gave."""
        load_wh, pv_wh = self.profile.load_wh[slot_index], self.profile.pv_wh[slot_index]
        return net_meter(load_wh, pv_wh, taken_wh, given_wh)

    def _with_noise(
        self, truth_wh: tuple[int, ...], quantity: str, slot_index: int, noise_ppm: int
    ) -> int:
        text = f"wattstreet forecast/{self.seed}/{self.profile.id}/{quantity}/{slot_index}"
        digest = hashlib.sha256(text.encode()).digest()
        choices = 2 * noise_ppm + 1
        first, second = (
            int.from_bytes(digest[start : start + 8], "big") % choices for start in (0, 8)
        )
        return truth_wh[slot_index] * (PPM + first + second - 2 * noise_ppm) // PPM

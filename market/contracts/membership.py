"""Contract `membership`: which households trade, with which key, over which connection.

State: `household/<id>`.  Operations: none yet; the members are those of genesis.
Refusals: an operation of somebody who is no household.
"""

from market.errors import Refused, Result
from market.orders import Side
from market.rules import Household, Rules
from market.state import Draft, View, household_key, read


def register_genesis(draft: Draft, rules: Rules) -> None:
    """Write the first members."""
    for household in rules.households:
        draft.put(household_key(household.member), household)


def household(view: View, member: str) -> Household:
    """Return a household's registration.

    Raises:
        Refused: `member` does not trade.
    """
    found = read(view, household_key(member), Household)
    if found is None:
        raise Refused(Result.NOT_A_HOUSEHOLD, f"{member} is not registered to trade")
    return found


def check_connection(view: View, rules: Rules, member: str, side: Side, energy_wh: int) -> None:
    """Check that a household's connection carries so much in a slot, in the direction of `side`.

    Raises:
        Refused: It does not, or `member` does not trade.
    """
    registered = household(view, member)
    power_w = registered.export_w_max if side is Side.SELL else registered.import_w_max
    energy_wh_max = rules.calendar.energy_wh(power_w)
    if energy_wh > energy_wh_max:
        raise Refused(
            Result.ABOVE_CONNECTION,
            f"{energy_wh} Wh; the connection carries {energy_wh_max} Wh in a slot",
        )

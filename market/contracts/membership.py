"""Contract `membership`: which households trade, with which key, over which connection.

State: `household/<id>`.  Operations: none yet; the members are those of genesis.
Refusals: an operation of somebody who is no household.
"""

from market.errors import Refused, Result
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

"""Contract `accounts`: balances in nano-currency that sum to zero after every block.

State: `account/<owner>`.  Owners are the households and four accounts of the street, whose names
cannot be member ids: `@operator` (service fees), `@network` (grid fees), `@community` (haircuts of
the standing rung), `@grid` (everything bought from and sold to the grid at its tariff).
"""

import msgspec

from market.state import Draft, View, account_key, read

OPERATOR = "@operator"
NETWORK = "@network"
COMMUNITY = "@community"
GRID = "@grid"
NANO_PER_UNIT = 10**9
SHARED = (OPERATOR, NETWORK, COMMUNITY, GRID)


class Account(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the street owes the owner; negative: the owner owes it.

    In whole units of the currency and 0 to 999 999 999 nano on top, because a balance in nano alone
    would outgrow 64 bits within weeks where a kWh costs thousands.
    """

    units: int
    nano: int

    @property
    def balance_nano(self) -> int:
        """The balance [nano-currency]."""
        return self.units * NANO_PER_UNIT + self.nano


def balance_nano(view: View, owner: str) -> int:
    """Return an owner's balance, 0 before its first entry."""
    account = read(view, account_key(owner), Account)
    return account.balance_nano if account else 0


def post(draft: Draft, changes: dict[str, int]) -> None:
    """Book changes per owner [nano] that sum to zero, in one go.

    A sum other than zero is a bug of the caller: money is never made.
    """
    assert sum(changes.values()) == 0, changes
    for owner, change_nano in sorted(changes.items()):
        if change_nano:
            balance = divmod(balance_nano(draft, owner) + change_nano, NANO_PER_UNIT)
            draft.put(account_key(owner), Account(*balance))

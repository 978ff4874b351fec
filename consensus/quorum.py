"""Quorum sizes for any group of at least four members.

With f = floor((n - 1) / 3) faulty members, a quorum is Q = ceil((n + f + 1) / 2): two quorums share
at least f + 1 members, so at least one honest one, and Q <= n - f, so the honest ones suffice.  The
often quoted 2f + 1 is unsafe for n = 5, 6, 8, 9, ... (Castro & Liskov 1999 assume n = 3f + 1).
"""

MEMBERS_MIN = 4


def faulty_max(members: int) -> int:
    """Return f, the number of arbitrary faults that `members` replicas withstand."""
    return (members - 1) // 3


def quorum(members: int) -> int:
    """Return Q, the number of matching votes that no two decisions can both have."""
    return (members + faulty_max(members) + 2) // 2


def weak_quorum(members: int) -> int:
    """Return W = f + 1, among which at least one member is honest."""
    return faulty_max(members) + 1

"""Genesis: everything that a community's replicas agree on before the first block.

The chain id is the digest of its canonical encoding, so nothing outside it can change a committed
byte, and no signature for one community holds in another.
"""

from typing import Annotated

import msgspec

from consensus.block import Header
from consensus.codec import decode, encode
from consensus.domain import EMPTY_DIGEST, MemberId, PublicKey, Tag, tagged_digest
from consensus.errors import MalformedError
from consensus.membership import Epoch
from consensus.merkle import EMPTY_ROOT
from consensus.replica import Timing
from market.mechanisms.registry import MECHANISM_NAMES
from market.rules import Rules
from node.clock import ClockRules
from node.errors import ConfigError

PROTOCOL_VERSION = 1
GENESIS_BYTES_MAX = 1 << 20


class ConsensusRules(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Durations of consensus, in milliseconds of wall time; they scale with the clock's speed."""

    batch_wait_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)]
    resend_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)]
    clock_ahead_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)]


class Genesis(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A community: its name, clock, rules, endorsers and first members."""

    protocol_version: int
    community: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
    clock: ClockRules
    consensus: ConsensusRules
    rules: Rules
    endorsers: tuple[tuple[MemberId, PublicKey], ...]

    def __post_init__(self) -> None:
        keys = dict(self.endorsers)
        for each in self.rules.households:
            if keys.get(each.member, each.public_key) != each.public_key:
                raise ValueError(f"{each.member} has another key as endorser than as household")

    @property
    def chain_id(self) -> bytes:
        """The digest by which every signature names this chain."""
        return tagged_digest(Tag.GENESIS, b"", encode(self))

    @property
    def epoch(self) -> Epoch:
        """The first set of endorsers."""
        return Epoch(number=0, keys=self.endorsers)

    @property
    def timing(self) -> Timing:
        """The durations of consensus on the community's clock."""
        speed, rules = self.clock.speed, self.consensus
        return Timing(
            batch_wait_ms=rules.batch_wait_ms * speed,
            resend_ms=rules.resend_ms * speed,
            clock_ahead_ms=rules.clock_ahead_ms * speed,
        )

    @property
    def keys(self) -> dict[str, bytes]:
        """Every member's public key: households and endorsers."""
        households = {each.member: each.public_key for each in self.rules.households}
        return households | dict(self.endorsers)

    def header(self, state_root: bytes) -> Header:
        """Return block 0, which everybody derives and nobody certifies."""
        endorsers = self.epoch.digest(self.chain_id)
        return Header(
            height=0,
            parent=EMPTY_DIGEST,
            epoch=0,
            content_digest=EMPTY_DIGEST,
            time_ms=self.clock.origin_ms,
            trade_root=EMPTY_ROOT,
            energy_root=EMPTY_ROOT,
            info_root=EMPTY_ROOT,
            state_root=state_root,
            endorsers=endorsers,
            next_endorsers=endorsers,
        )


def parse_genesis(data: bytes) -> Genesis:
    """Read a genesis file.

    Raises:
        ConfigError: Not canonical, of another protocol version, or not a working community.
    """
    try:
        genesis = decode(data, Genesis, bytes_max=GENESIS_BYTES_MAX)
        _ = genesis.epoch
    except (MalformedError, ValueError) as error:
        raise ConfigError(
            f"genesis is not usable: {error}; get the file from your operator"
        ) from error
    if genesis.protocol_version != PROTOCOL_VERSION:
        raise ConfigError(
            f"genesis is of protocol {genesis.protocol_version}, this program speaks "
            f"{PROTOCOL_VERSION}; install the matching version"
        )
    if genesis.rules.mechanism not in MECHANISM_NAMES:
        raise ConfigError(
            f"genesis asks for mechanism {genesis.rules.mechanism!r}; this program has "
            f"{', '.join(MECHANISM_NAMES)}"
        )
    return genesis

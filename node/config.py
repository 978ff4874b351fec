"""The configuration of one daemon: a TOML file, checked whole before anything starts."""

from pathlib import Path
from typing import Annotated

import msgspec

from market.negotiation.presets import Preset
from node.errors import ConfigError


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[node]`: who this is and where its files are.

    `genesis` may not exist yet; the daemon waits for it.
    """

    member: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{1,16}\Z")]
    data: str
    genesis: str


class BrokerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[broker]`: the community's bus; the password is in a file of mode 0600."""

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    password_file: str


class SimulatedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[simulated]`: a recorded home in place of a meter, with seeded forecast errors."""

    street: str
    home: str
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    slot_minutes: Annotated[int, msgspec.Meta(ge=0, le=60)] = 0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that `wattstreet run` is told."""

    node: NodeConfig
    broker: BrokerConfig
    simulated: SimulatedConfig
    preset: Preset = Preset.BALANCED


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: Missing, unreadable, not TOML, or a key that does not fit; it says which.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}; name one with --config") from None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; name a file with --config"
        ) from error
    try:
        return msgspec.toml.decode(data, type=Config)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; see docs/operations.md for every key") from error

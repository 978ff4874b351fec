"""The homes' directories of a demonstration: written for the daemons, read for their keys."""

from pathlib import Path

from node.demo.plan import DemoPlan
from node.identity import KEY_BYTES
from node.mqtt import BrokerAddress
from node.streets.street import PRESETS


def genesis_path(plan: DemoPlan) -> Path:
    """Return where the daemons look for genesis."""
    return plan.data / "genesis.bin"


def write_config(plan: DemoPlan, home: str, address: BrokerAddress) -> Path:
    """Write a home's configuration and broker password, and return the configuration's path."""
    directory = plan.home_directory(home)
    directory.mkdir(parents=True, exist_ok=True)
    password = directory / "broker.password"
    password.touch(mode=0o600)
    password.write_text(f"{address.password or ''}\n")
    # A preset knows the length of its slots.
    slot_minutes = 0 if plan.street_argument in PRESETS else plan.street.slot_minutes
    path = directory / "wattstreet.toml"
    path.write_text(
        "# Written by the demonstration.\n"
        "[node]\n"
        f"member = {_toml(home)}\n"
        f"data = {_toml(str(directory))}\n"
        f"genesis = {_toml(str(genesis_path(plan)))}\n"
        "\n[broker]\n"
        f"host = {_toml(address.host)}\n"
        f"port = {address.port}\n"
        f"password_file = {_toml(str(password))}\n"
        "\n[simulated]\n"
        f"street = {_toml(plan.street_argument)}\n"
        f"home = {_toml(home)}\n"
        f"seed = {plan.seed}\n"
        f"slot_minutes = {slot_minutes}\n"
    )
    return path


def public_keys(plan: DemoPlan) -> dict[str, bytes]:
    """Return the public keys that the daemons have made so far."""
    keys = {}
    for home in plan.homes:
        path = plan.home_directory(home) / "identity.pub"
        text = path.read_text().strip() if path.exists() else ""
        if len(text) == 2 * KEY_BYTES:
            keys[home] = bytes.fromhex(text)
    return keys


def write_whole(path: Path, data: bytes) -> None:
    """Let a file appear with all of its content at once."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(data)
    draft.rename(path)


def _toml(text: str) -> str:
    """Write a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

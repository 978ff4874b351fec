"""The daemon's file: everything that does not fit is one sentence with the remedy."""

from pathlib import Path

import pytest

from market.negotiation.presets import Preset
from node.config import load_config
from node.errors import ConfigError

GOOD = """
[node]
member = "h01"
data = "/var/lib/wattstreet"
genesis = "/etc/wattstreet/genesis.bin"

[broker]
host = "127.0.0.1"
port = 1883
password_file = "/etc/wattstreet/broker.password"

[simulated]
street = "clear-day"
home = "h01"
seed = 1
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "wattstreet.toml"
    path.write_text(text)
    return path


def test_good_file_is_read(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD))

    assert (config.node.member, config.broker.port, config.simulated.seed) == ("h01", 1883, 1)
    assert config.simulated.slot_minutes == 0
    assert config.preset is Preset.BALANCED


@pytest.mark.parametrize("preset", list(Preset))
def test_every_preset_may_be_chosen(preset: Preset, tmp_path: Path) -> None:
    assert load_config(written(tmp_path, f'preset = "{preset}"\n{GOOD}')).preset is preset


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*nowhere\.toml; name one with --config"):
        load_config(tmp_path / "nowhere.toml")


def test_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read.*--config"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('member = "h01"', 'member = "H01"', r"node\.member"),
        ('member = "h01"', 'member = "h01\\n"', r"node\.member"),
        ('member = "h01"', 'member = ""', r"node\.member"),
        ('member = "h01"', 'member = "abcdefghijklmnopq"', r"node\.member"),
        ('member = "h01"', "member = 1", r"node\.member"),
        ('member = "h01"\n', "", "member"),
        ("port = 1883", "port = 0", r"broker\.port"),
        ("port = 1883", "port = 65536", r"broker\.port"),
        ("port = 1883", "port = 1883\nhots = 1", "hots"),
        ("seed = 1", "seed = -1", r"simulated\.seed"),
        ("[broker]", "[brokre]", "brokre"),
        ("[node]", 'preset = "greedy"\n[node]', "greedy"),
        ("[node]", "[node", "TOML|Invalid|Expected"),
    ],
)
def test_what_does_not_fit_is_named_with_the_remedy(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))

    with pytest.raises(ConfigError) as caught:
        load_config(path)

    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "docs/operations.md" in message
    assert "\n" not in message
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wattstreet.toml"
    path.write_bytes(b"[node]\nmember = '\xff'\n")

    with pytest.raises(ConfigError, match="utf-8"):
        load_config(path)

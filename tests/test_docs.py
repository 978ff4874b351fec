"""The documents keep up with the code: commands, keys, mechanisms, results, sizes, links."""

import re
import string
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from consensus.block import Certificate, Content, Header
from consensus.codec import encode
from consensus.messages import Prepare, PrePrepare
from consensus.operation import Channel, Operation, OperationBody
from market.errors import Result
from market.events import EVENTS
from market.mechanisms.registry import MECHANISM_NAMES
from market.negotiation.presets import Preset
from market.payloads import PAYLOADS, STATEMENT, OrderPayload, Quality, ReadingPayload, Source
from market.statements import Statement
from market.statements_paper import PaperStatement
from node.cli import EXIT_FAILED, EXIT_REFUSED, app
from node.config import Config
from node.daemon import EXIT_DISK, EXIT_DIVERGED
from node.topics import TopicClass
from node.wire import BUS_PAYLOADS, BusBody, BusMessage, Head, OperationsWanted, StatementsWanted

ROOT = Path(__file__).parent.parent
IGNORED = {".git", ".venv", ".hypothesis", ".pytest_cache", "wattstreet-demo", "node_modules"}
DOCUMENTS = sorted(
    path for path in ROOT.rglob("*.md") if not IGNORED & set(path.relative_to(ROOT).parts)
)
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
MECHANISMS = (ROOT / "docs/mechanisms.md").read_text()

HOSTS = {
    "127.0.0.1",
    "creativecommons.org",
    "doi.org",
    "keepachangelog.com",
    "semver.org",
}
"""Whom the documents may point to; a machine of ours, or a shop of packages, is not among them."""

PLACES = {"dev", "etc", "proc", "tmp", "usr", "var"}
"""Directories that every machine has."""

DIGEST, SIGNATURE, SALT = bytes(32), bytes(64), bytes(16)
MEMBER, SLOT, NOW_MS = "h01", 495_017, 1_782_061_200_000


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(command: Any, path: str = "wattstreet") -> list[str]:
    """List every command that does something, as it is typed."""
    nested = getattr(command, "commands", None)
    if nested is None:
        return [path]
    return [each for name in nested for each in commands(nested[name], f"{path} {name}")]


def config_keys(type_: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """List every key of a configuration, as `section.key`."""
    keys = []
    for field in msgspec.structs.fields(type_):
        is_section = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        if is_section:
            keys += config_keys(field.type, f"{field.encode_name}.")
        else:
            keys.append(prefix + field.encode_name)
    return keys


@pytest.mark.parametrize("command", commands(typer.main.get_command(app)))
def test_every_command_is_documented(command: str) -> None:
    assert any(f"`{command}" in path.read_text() for path in DOCUMENTS)


def test_no_document_promises_a_command_that_there_is_not() -> None:
    known = commands(typer.main.get_command(app))
    for path in DOCUMENTS:
        if path.name == "limitations.md":
            continue
        for words in re.findall(r"`wattstreet ((?:[a-z]+ ?)+)", path.read_text()):
            typed = f"wattstreet {words.strip()}"
            assert any(typed.startswith(each) for each in known), f"{names(path)}: {typed}"


@pytest.mark.parametrize("key", config_keys(Config))
def test_every_configuration_key_is_documented(key: str) -> None:
    assert f"`{key}`" in OPERATIONS


@pytest.mark.parametrize("code", [EXIT_FAILED, EXIT_REFUSED, EXIT_DIVERGED, EXIT_DISK])
def test_every_exit_code_is_documented(code: int) -> None:
    assert f"\n| {code} |" in OPERATIONS


@pytest.mark.parametrize("mechanism", MECHANISM_NAMES)
def test_every_mechanism_has_a_section(mechanism: str) -> None:
    assert f"\n## `{mechanism}`\n" in MECHANISMS


@pytest.mark.parametrize("preset", Preset)
def test_every_preset_is_documented(preset: Preset) -> None:
    assert f"\n| `{preset}` |" in MECHANISMS


@pytest.mark.parametrize("result", Result)
def test_every_result_is_documented(result: Result) -> None:
    assert f"\n| `{result}` |" in PROTOCOL


@pytest.mark.parametrize("kind", [*PAYLOADS, STATEMENT])
def test_every_kind_of_operation_is_documented(kind: str) -> None:
    assert f"\n| `{kind}` |" in PROTOCOL


@pytest.mark.parametrize("kind", [*EVENTS, *BUS_PAYLOADS, *TopicClass])
def test_every_event_bus_message_and_class_is_documented(kind: str) -> None:
    assert f"`{kind}`" in PROTOCOL


def operation(kind: str, payload: msgspec.Struct) -> Operation:
    channel = Channel.ENERGY if kind == "reading" else Channel.TRADE
    body = OperationBody(kind, channel, MEMBER, 1, 100, NOW_MS, SALT, encode(payload))
    return Operation(body, SIGNATURE)


def bus_message(kind: str, payload: msgspec.Struct) -> BusMessage:
    return BusMessage(BusBody(kind, MEMBER, "", NOW_MS, 100, encode(payload)), SIGNATURE)


def sizes() -> dict[str, int]:
    """Encode what the table of sizes names; the numbers inside are of a usual magnitude."""
    paper = PaperStatement(SLOT, DIGEST, 20, (150_000,) * 10, (700_000,) * 10, (), 10**6)
    signed = tuple((member, SIGNATURE) for member in ("h01", "h02", "h03"))
    content = Content(0, 200, NOW_MS, (DIGEST,) * 10)
    roots = (DIGEST,) * 6
    samples: dict[str, msgspec.Struct] = {
        "PREPARE, COMMIT or CHECKPOINT": Prepare(0, 0, 200, DIGEST, MEMBER, SIGNATURE),
        "PRE-PREPARE with ten operations": PrePrepare(0, 0, content, MEMBER, SIGNATURE),
        "operation `order`": operation("order", OrderPayload(SLOT, 1, 0, 1500, 0, 0)),
        "operation `reading`": operation(
            "reading", ReadingPayload(SLOT, 1500, 0, Quality.MEASURED, Source.HOUSEHOLD)
        ),
        "operation `statement` of `two-level`": operation(
            STATEMENT, Statement(SLOT, DIGEST, 2, 150_000, 700_000)
        ),
        "operation `statement` of `two-level-paper`, buyer, ten sellers": operation(
            STATEMENT, paper
        ),
        "header": Header(200, DIGEST, 0, DIGEST, NOW_MS, *roots),
        "certificate with three signatures": Certificate(0, 200, DIGEST, signed),
        "bus message `head`": bus_message("head", Head(200, DIGEST, 0)),
        "bus message `statements-wanted` for two members": bus_message(
            "statements-wanted", StatementsWanted(SLOT, 150_000, ("h02", "h03"))
        ),
        "bus message `operations-wanted` for one operation": bus_message(
            "operations-wanted", OperationsWanted((DIGEST,))
        ),
    }
    return {name: len(encode(sample)) for name, sample in samples.items()}


def test_the_table_of_sizes_is_what_is_encoded() -> None:
    section = PROTOCOL.split("### Sizes")[1].split("\n### ")[0]
    printed = dict(re.findall(r"^\| (.+?) \| (\d+) \|$", section, re.MULTILINE))

    assert {name: int(size) for name, size in printed.items()} == sizes()


def test_every_installed_distribution_has_its_licence_listed() -> None:
    listed = (ROOT / "THIRD-PARTY.md").read_text().lower().replace("_", "-")
    pins = re.findall(
        r"^([a-z0-9-]+)==\S+(?![^\n]*win32)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
    assert len(pins) > 10
    assert [pin for pin in pins if f"\n| {pin} |" not in listed] == []


def test_the_version_is_in_the_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\n## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def anchors(text: str) -> set[str]:
    """Return the anchors that headings get."""
    kept = string.ascii_lowercase + string.digits + "- "
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        "".join(letter for letter in title.lower() if letter in kept).replace(" ", "-")
        for title in titles
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        aim = (path.parent / file).resolve() if file else path
        assert aim.exists(), f"{names(path)} links to {target}"
        if anchor:
            assert anchor in anchors(aim.read_text()), f"{names(path)} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=names)
def test_a_document_names_known_hosts_and_common_places_only(path: Path) -> None:
    text = path.read_text()
    assert set(re.findall(r"https?://([^/\s:)>\"]+)", text)) <= HOSTS
    assert set(re.findall(r"(?<![\w./:>)}*…-])/([a-z]+)/", text)) <= PLACES


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs/decisions"
    listed = (folder / "README.md").read_text()
    for path in folder.glob("[0-9]*.md"):
        assert f"({path.name})" in listed
        for heading in ("Status", "Context", "Alternatives", "Decision", "Consequences"):
            assert f"\n## {heading}\n" in path.read_text(), f"{path.name}: {heading}"

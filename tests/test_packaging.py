"""What is installed: our three packages and no other's, with their data, and strict wire types."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("node", "consensus", "market")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", PACKAGES)
def test_package_is_ours(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__file__ is not None
    assert Path(package.__file__) == ROOT / name / "__init__.py"


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_claims_our_names(name: str) -> None:
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {PROJECT["project"]["name"]}


def test_no_module_is_named_after_one_of_the_standard_library() -> None:
    assert not set(PACKAGES) & sys.stdlib_module_names


def data_files() -> set[str]:
    """Return what the packages hold besides code."""
    return {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }


def test_there_are_streets_and_a_page() -> None:
    suffixes = {Path(each).suffix for each in data_files()}
    assert {".csv", ".css", ".js"} <= suffixes
    assert any(each.startswith("node/streets/") for each in data_files())
    assert any(each.startswith("node/web/static/") for each in data_files())


def test_data_lies_inside_the_packages_that_the_wheel_takes() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) == set(PACKAGES)
    assert not {"exclude", "only-include", "include"} & wheel.keys()
    ignored = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        input="\n".join(sorted(data_files())),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    # Hatchling leaves out what git ignores.
    assert ignored.stdout == ""


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None,
    reason="hatchling is not installed; its configuration is checked instead",
)
def test_wheel_holds_code_and_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert data_files() <= names
    assert {"node/cli.py", "consensus/replica.py", "market/exchange.py"} <= names
    assert not any(name.startswith(("tests/", "deploy/", "docs/")) for name in names)


def test_command_is_the_one_that_the_documents_name() -> None:
    assert PROJECT["project"]["scripts"] == {"wattstreet": "node.cli:main"}
    module, _, function = PROJECT["project"]["scripts"]["wattstreet"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def modules() -> Iterator[Any]:
    for package in PACKAGES:
        for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def structs() -> list[type[msgspec.Struct]]:
    """Return every Struct that is defined in our packages."""
    return sorted(
        {
            each
            for module in modules()
            for each in vars(module).values()
            if isinstance(each, type)
            and issubclass(each, msgspec.Struct)
            and each.__module__.partition(".")[0] in PACKAGES
        },
        key=lambda each: f"{each.__module__}.{each.__qualname__}",
    )


NOT_ON_THE_WIRE = ("node.config", "node.view.snapshot", "node.web")
"""Configuration and the page's JSON are objects with names, not arrays."""


@pytest.mark.parametrize("struct", structs(), ids=lambda each: each.__qualname__)
def test_struct_is_strict(struct: type[msgspec.Struct]) -> None:
    config = struct.__struct_config__
    assert config.frozen
    if not struct.__module__.startswith(NOT_ON_THE_WIRE):
        assert config.array_like
        assert config.forbid_unknown_fields
        assert struct.__struct_encode_fields__ == struct.__struct_fields__


def test_wire_types_have_no_defaults_that_two_encodings_could_share() -> None:
    from consensus import block, messages, operation  # noqa: PLC0415 - only their types
    from node import wire  # noqa: PLC0415 - the same

    for module in (block, messages, operation, wire):
        for each in structs():
            if each.__module__ == module.__name__:
                assert each.__struct_defaults__ == (), each

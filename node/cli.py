"""The command line; every error is one line on stderr with the remedy.

Exit codes: 0 fine, 1 failed, 2 usage, 3 verification refused; of the daemon also 70 and 74.
Heavy parts are imported by the command that needs them, so that a daemon starts light.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from node.errors import WattstreetError

EXIT_FAILED = 1
EXIT_REFUSED = 3

app = typer.Typer(
    name="wattstreet",
    help="A peer-to-peer energy market for a street.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ledger_app = typer.Typer(help="The chain of a node, checked offline.", no_args_is_help=True)
app.add_typer(ledger_app, name="ledger")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The daemon's TOML file.")],
) -> None:
    """Run the daemon of one home until it is told to stop."""
    from node.config import load_config  # noqa: PLC0415 - see the head of this file
    from node.daemon import run_daemon  # noqa: PLC0415

    raise typer.Exit(run_daemon(load_config(config)))


@app.command()
def demo(
    *,
    homes: Annotated[int | None, typer.Option(help="How many homes of the street.")] = None,
    mechanism: Annotated[str, typer.Option(help="How prices are found.")] = "two-level",
    street: Annotated[str, typer.Option(help="A preset's name or a CSV file.")] = "clear-day",
    slot_minutes: Annotated[
        int | None, typer.Option(help="Slot length of a CSV file's rows.")
    ] = None,
    day_seconds: Annotated[
        float | None, typer.Option(help="How long the day takes on the wall.")
    ] = None,
    endorsers: Annotated[int, typer.Option(help="How many homes run consensus.")] = 4,
    broker: Annotated[
        str, typer.Option(help="embedded, mosquitto, or mqtt://host:port.")
    ] = "embedded",
    seed: Annotated[
        int, typer.Option(min=0, max=2**31, help="Fixes forecast errors, not the ledger.")
    ] = 1,
    headless: Annotated[bool, typer.Option("--headless", help="No page.")] = False,
    data: Annotated[Path, typer.Option(help="Where ledgers and report go.")] = Path(
        "wattstreet-demo"
    ),
    json_: JsonFlag = False,
) -> None:
    """Trade one day on a street of real daemons, one process each, on this machine."""
    from node.demo.command import DemoRequest, run_demo  # noqa: PLC0415

    request = DemoRequest(
        street=street,
        homes=homes,
        slot_minutes=slot_minutes,
        mechanism=mechanism,
        endorsers=endorsers,
        seed=seed,
        day_seconds=day_seconds,
        broker=broker,
        is_headless=headless,
        data=data.absolute(),
        is_json=json_,
    )
    raise typer.Exit(run_demo(request))


@ledger_app.command("verify")
def ledger_verify(
    database: Annotated[Path, typer.Argument(help="A node's ledger.db.")],
    json_: JsonFlag = False,
) -> None:
    """Check every hash, signature, certificate, rule and balance of a ledger."""
    from node.audit import verify_ledger  # noqa: PLC0415

    found = verify_ledger(database)
    if json_:
        _print_json(found.as_json())
    elif found.ok:
        sys.stdout.write(
            f"{database}: {found.blocks} blocks to height {found.height}, head {found.head[:16]}; "
            f"certified from {found.certified_from}, replayed from {found.replayed_from}; "
            "nothing is absent\n"
        )
    else:
        for error in found.errors:
            sys.stderr.write(f"wattstreet: {database}: {error}\n")
    raise typer.Exit(0 if found.ok else EXIT_REFUSED)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, separators=(",", ":"), sort_keys=True) + "\n")


def main() -> NoReturn:
    """Run the command line; the entry point of ``wattstreet`` and ``python -m node``."""
    try:
        app(prog_name="wattstreet")
    except (WattstreetError, BaseExceptionGroup) as error:
        sys.stderr.write(f"wattstreet: {_first_line(error)}\n")
        sys.exit(EXIT_FAILED)
    sys.exit(0)


def _first_line(error: BaseException) -> str:
    """Say what went wrong; a group says what its first error says."""
    while isinstance(error, BaseExceptionGroup):
        known = error.subgroup(WattstreetError)
        if known is None:
            raise error
        error = known.exceptions[0]
    return str(error)

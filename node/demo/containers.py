"""The operator's part of a street in containers: `python -m node.demo.containers DIRECTORY`.

Writes the broker's and the homes' configuration into a directory that the containers share,
collects the public keys that the daemons make, writes genesis, watches the day and verifies every
ledger.
See `docker-compose.yml`; the broker, each home and this are one container each.
"""

import asyncio
import os
import secrets
import sys
from pathlib import Path

from consensus.codec import encode
from node.brokers.mosquitto import write_settings
from node.clock import wall_ms
from node.demo.homes import genesis_path, public_keys, write_config, write_whole
from node.demo.plan import DemoPlan, default_day_seconds, make_genesis
from node.demo.runner import prepare_data, until_settled, verify_all, watch_of
from node.demo.terminal import Terminal
from node.errors import WattstreetError
from node.mqtt import BrokerAddress
from node.streets.street import load_street

BROKER_HOST = "broker"
BROKER_PORT = 1883
ENDORSERS = 4
LEAD_SECONDS = 5.0
POLL_SECONDS = 0.1


def main() -> int:
    """Found the street, watch its day, and return 0 if every ledger verifies."""
    street = load_street("clear-day")
    plan = DemoPlan(
        street=street,
        street_argument="clear-day",
        mechanism="two-level",
        endorsers=ENDORSERS,
        seed=1,
        day_seconds=float(os.environ.get("WATTSTREET_DAY_SECONDS", default_day_seconds(street))),
        data=Path(sys.argv[1]) / "street",
    )
    try:
        return asyncio.run(_found(plan))
    except WattstreetError as error:
        sys.stderr.write(f"wattstreet: {error}\n")
        return 1


async def _found(plan: DemoPlan) -> int:
    prepare_data(plan.data)
    passwords = {home: secrets.token_urlsafe(24) for home in plan.homes}
    broker = plan.data / "broker"
    broker.mkdir()
    for home, password in passwords.items():
        address = BrokerAddress(
            host=BROKER_HOST, port=BROKER_PORT, username=home, password=password
        )
        write_config(plan, home, address)
    write_settings(
        broker,
        community=plan.community,
        listener=str(BROKER_PORT),
        passwords=passwords,
        named={},
        run_as="root",
    )
    (plan.data / "ready").touch()
    while len(keys := public_keys(plan)) < len(plan.homes):  # noqa: ASYNC110 - other containers
        await asyncio.sleep(POLL_SECONDS)
    genesis = make_genesis(plan, keys, wall_ms() + int(LEAD_SECONDS * 1000))
    write_whole(genesis_path(plan), encode(genesis))
    terminal = Terminal(sys.stdout, plan)
    terminal.started(genesis)
    await until_settled(plan, genesis, watch_of(plan, genesis), terminal.progress)
    found = verify_all(plan)
    for home, verification in found.items():
        verdict = "verifies" if verification.ok else verification.errors[0]
        terminal.say(f"{home}: height {verification.height}, {verification.head[:16]}, {verdict}")
    is_one = len({verification.head for verification in found.values()}) == 1
    return 0 if is_one and all(verification.ok for verification in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

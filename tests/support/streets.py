"""A short real street for system tests: part of the clear day, as a CSV of the user's own."""

from pathlib import Path

from node.brokers.embedded import EmbeddedBroker
from node.brokers.mosquitto import MosquittoBroker
from node.brokers.private import PrivateBroker
from node.demo.plan import DemoPlan, default_day_seconds
from node.streets.street import Street, load_street

BROKERS = {"embedded": EmbeddedBroker, "mosquitto": MosquittoBroker}


def write_street(path: Path, street: Street, first: int, last: int) -> Path:
    """Write the slots from `first` to before `last` in the format that users write."""
    columns = [f"{home.id}_{what}_wh" for home in street.homes for what in ("load", "pv")]
    lines = ["slot,retail_micro_per_kwh,feed_in_micro_per_kwh," + ",".join(columns)]
    for index in range(first, last):
        energies = [
            str(values[index]) for home in street.homes for values in (home.load_wh, home.pv_wh)
        ]
        tariff = street.tariffs[index]
        row = [index, tariff.retail_micro_per_kwh, tariff.feed_in_micro_per_kwh]
        lines.append(",".join([*map(str, row), *energies]))
    path.write_text("\n".join(lines) + "\n")
    return path


def short_plan(
    directory: Path, *, first: int = 7, last: int = 15, homes: int = 6, pace: float = 1.0
) -> DemoPlan:
    """Plan a street of some homes of the clear day for some of its hours.

    `pace` stretches its day: what is asserted must not depend on how busy the machine is.
    """
    source = load_street("clear-day", homes=homes)
    path = write_street(directory / "street.csv", source, first, last)
    street = load_street(str(path))
    return DemoPlan(
        street=street,
        street_argument=str(path),
        mechanism="two-level",
        endorsers=4,
        seed=1,
        day_seconds=pace * default_day_seconds(street),
        data=directory / "data",
    )


def broker_for(kind: str, plan: DemoPlan) -> PrivateBroker:
    """Make the private broker of a plan, with a password per home."""
    return BROKERS[kind](plan.community, {home: f"password-of-{home}" for home in plan.homes})

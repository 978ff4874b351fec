"""A broker of our own as a child process: a fresh private directory, loopback, one login per user.

It is ready when a real MQTT login succeeded.  It ends with its context, and when the thread that
started it dies, even by SIGKILL; then only its directory stays behind.  It keeps nothing across
`stop` and `start` but its port and its logins.

Reference: prctl(2), PR_SET_PDEATHSIG: the signal is tied to the thread that made the child.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from aiomqtt import MqttError

from consensus.codec import FRAME_BYTES_MAX
from node.mqtt import BrokerAddress, connection
from node.topics import Role, is_member_id

LOOPBACK = "127.0.0.1"

PACKET_BYTES_MAX = FRAME_BYTES_MAX + 4096
"""What the broker lets pass: a little more than a frame, so that only liars meet this limit."""

PROBE_USER = "ready-probe"
"""Logs in to see whether the broker is up and may do nothing else; no member id has a hyphen."""

_START_WAIT_S = 15.0
_STOP_WAIT_S = 3.0
_POLL_S = 0.02
_PORT_ATTEMPTS = 8
_ROOM_BYTES_MIN = 16 * 1024 * 1024
"""Free space to ask for: with less, the NATS server starts but never answers, and logs nothing."""

_LOG_LINES = 12
_LOG_NAME = "broker.log"
_PASSWORD = re.compile(r"[A-Za-z0-9_-]{8,128}")

# The child asks for its end with ours before it becomes the broker.  Between our fork and that
# request we may have died already; then its parent is another process.
_LAUNCH = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {signal.SIGKILL.value})
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class BrokerError(Exception):
    """A private broker cannot run; the message says why and what to do."""


class _PortTakenError(Exception):
    """Somebody else listens on the port."""


@dataclass(frozen=True, slots=True)
class BusUser:
    """Somebody who may log in at the broker."""

    name: str
    password: str = field(repr=False)
    role: Role


class PrivateBroker(ABC):
    """What both kinds of private broker have in common; use as an async context manager.

    `members`, `operators` and `auditors` map a user name to its password.  The broker's files go
    to a new directory inside `parent`, by default where temporary files belong.
    """

    def __init__(
        self,
        community: str,
        members: Mapping[str, str],
        *,
        operators: Mapping[str, str] | None = None,
        auditors: Mapping[str, str] | None = None,
        parent: Path | None = None,
    ) -> None:
        self.community = community
        self.users = (
            *_users(members, Role.HOUSEHOLD),
            *_users(operators or {}, Role.OPERATOR),
            *_users(auditors or {}, Role.AUDITOR),
        )
        self.probe_password = secrets.token_urlsafe(24)
        self._passwords = {user.name: user.password for user in self.users}
        if len(self._passwords) != len(self.users):
            raise BrokerError("two users of the broker have the same name")
        self._parent = Path(tempfile.gettempdir()) if parent is None else parent
        self._directory: Path | None = None
        self._port: int | None = None
        self._process: asyncio.subprocess.Process | None = None

    @abstractmethod
    def executable(self) -> Path:
        """Find the broker's program; BrokerError with the remedy when there is none."""

    @abstractmethod
    def configure(self, directory: Path, port: int) -> list[str]:
        """Write the configuration afresh, without earlier state, and return the arguments."""

    def address(self, user: str) -> BrokerAddress:
        """Where a user logs in, and how; BrokerError for a user that the broker does not know."""
        if user not in self._passwords:
            raise BrokerError(f"the broker has no user {user!r}")
        return self._address(user, self._passwords[user])

    @property
    def process_id(self) -> int | None:
        """The id of the broker's process, None while it is stopped."""
        return None if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        executable = self.executable()
        try:
            free_bytes = shutil.disk_usage(self._parent).free
            if free_bytes < _ROOM_BYTES_MIN:
                raise self._unwritable(f"only {free_bytes // 1024} KiB are free")
            self._directory = Path(tempfile.mkdtemp(prefix="wattstreet-bus-", dir=self._parent))
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        try:
            await self._start_on_free_port(executable)
        except BaseException:
            await self._remove()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._remove()

    async def start(self) -> None:
        """Start again after `stop`, on the same port; BrokerError when that does not succeed."""
        if self._port is None or self._process is not None:
            raise BrokerError("only a broker that was started and stopped can start again")
        try:
            async with asyncio.timeout(_START_WAIT_S):
                while True:
                    with contextlib.suppress(_PortTakenError):
                        return await self._start_on(self.executable(), self._port)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BrokerError(f"somebody else took port {self._port} of the broker") from None

    async def stop(self) -> None:
        """End the process, gently first; whoever is connected loses the connection."""
        process = self._process
        if process is None:
            return
        try:
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_WAIT_S):
                        await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
        await process.wait()
        self._process = None

    async def _remove(self) -> None:
        """Stop, and leave nothing behind."""
        try:
            await self.stop()
        finally:
            self._port = None
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None

    async def _start_on_free_port(self, executable: Path) -> None:
        """Start on a port that is free now; another one when somebody was faster."""
        for _ in range(_PORT_ATTEMPTS):
            port = _free_port()
            with contextlib.suppress(_PortTakenError):
                await self._start_on(executable, port)
                self._port = port
                return
        raise BrokerError(f"no free port for the broker in {_PORT_ATTEMPTS} attempts")

    async def _start_on(self, executable: Path, port: int) -> None:
        """Start and wait until a login succeeds; on any failure the process is gone."""
        assert self._directory is not None, "the directory lives as long as the context"
        try:
            arguments = self.configure(self._directory, port)
            self._process = await self._spawn(self._directory, executable, arguments)
        except OSError as error:
            raise self._unwritable(error.strerror) from error
        try:
            await self._wait_until_ready(self._process, port)
        except BaseException:
            await self.stop()
            raise

    async def _spawn(
        self, directory: Path, executable: Path, arguments: list[str]
    ) -> asyncio.subprocess.Process:
        with open_private(directory / _LOG_NAME) as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(executable), *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                # Ctrl-C at a terminal is for us: the broker must outlive those who use it.
                start_new_session=True,
            )

    async def _wait_until_ready(self, process: asyncio.subprocess.Process, port: int) -> None:
        """Log in until it works; _PortTakenError or BrokerError when the broker gives up."""
        probe = self._address(PROBE_USER, self.probe_password, port)
        reason = "it did not answer"
        try:
            async with asyncio.timeout(_START_WAIT_S):
                while process.returncode is None:
                    try:
                        async with connection(probe):
                            return
                    except MqttError as error:
                        reason = str(error)
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise self._broken(f"was not ready within {_START_WAIT_S:.0f} s: {reason}") from None
        if "address already in use" in self._log_tail().lower():
            raise _PortTakenError
        raise self._broken(f"ended at once with code {process.returncode}")

    def _address(self, user: str, password: str, port: int | None = None) -> BrokerAddress:
        port = self._port if port is None else port
        if port is None:
            raise BrokerError("the broker has no address before it is started")
        return BrokerAddress(host=LOOPBACK, port=port, username=user, password=password)

    def _broken(self, what: str) -> BrokerError:
        return BrokerError(f"the broker {self.executable()} {what}\n{self._log_tail()}".rstrip())

    def _unwritable(self, reason: str | None) -> BrokerError:
        return BrokerError(
            f"the broker's files cannot be written in {self._parent}: {reason}; "
            "free some space there, or name another directory with TMPDIR"
        )

    def _log_tail(self) -> str:
        assert self._directory is not None, "the directory lives as long as the context"
        try:
            text = (self._directory / _LOG_NAME).read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_LOG_LINES:])


def open_private(path: Path) -> BinaryIO:
    """Open a file for writing that only its owner can read, emptying an earlier one."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    with open_private(path) as file:
        file.write(text.encode())


def _users(passwords: Mapping[str, str], role: Role) -> list[BusUser]:
    for name, password in passwords.items():
        if not is_member_id(name):
            raise BrokerError(f"{name!r} cannot be a user of the bus: 1 to 16 of a-z and 0-9")
        if _PASSWORD.fullmatch(password) is None:
            raise BrokerError(f"the password of {name} needs 8 to 128 of A-Z, a-z, 0-9, - and _")
    return [BusUser(name, password, role) for name, password in passwords.items()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port

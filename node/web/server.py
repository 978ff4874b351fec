"""Serves the page until cancelled: quietly, on a free port, and without leaving streams open."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.applications import Starlette

from node.errors import ConfigError

PORTS_TRIED = 20
STOP_SECONDS = 2
BACKLOG = 64


class _Server(uvicorn.Server):
    """A server that leaves the process's signals to whoever started it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    app: Starlette, host: str, port: int, *, announce: Callable[[str], None] | None = None
) -> None:
    """Serve an application of `create_app` until cancelled.

    Takes the next free port if `port` is busy (any free one if it is 0), and hands `announce` the
    address once it listens.  When cancelled, ends the open streams before it returns.

    Raises:
        ConfigError: `host` is not an address of this machine, or no port near `port` is free.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="web server")
    try:
        if announce is not None:
            announce(_address(host, listener.getsockname()[1]))
        await asyncio.shield(serving)
    finally:
        app.state.feed.close()
        server.should_exit = True
        await serving
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    """Bind the first free port from `port` on; connections wait in the backlog from here on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, port + (PORTS_TRIED if port else 1)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(
                    f"cannot serve the page on {host} port {candidate}: {error.strerror}; "
                    "choose another address or port"
                ) from error
        else:
            return listener
    raise ConfigError(
        f"ports {port} to {port + PORTS_TRIED - 1} of {host} are busy; choose another port"
    )


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

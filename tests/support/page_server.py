"""The page of a street on a loopback port of this process, for tests."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from node.view.labels import StreetLabels
from node.web.app import create_app
from node.web.server import serve

LABELS = StreetLabels(
    title="small & sunny",
    source="made for a test",
    homes={"a": ("PV",), "b": ('<img src=x onerror="alert(1)">',)},
    presets={"a": "balanced"},
    simulated=("Meters are simulated.",),
)


@contextlib.asynccontextmanager
async def page_server(ledgers: Sequence[Path], *, port: int = 0) -> AsyncIterator[str]:
    """Serve the page and yield its address; it has ended when the context has."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(create_app(ledgers, LABELS), "127.0.0.1", port, announce=address.set_result)
    )
    try:
        yield await address
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

"""The page's web application: reads ledgers, answers GET, and nothing else.

* `/` the page, whole without script; `?slot=ID` pins a slot.
* `/api/street` the snapshot as JSON; `/api/events` the same as server-sent events when it changes.
* `/api/sections` the page's sections as JSON, for the script that keeps it current.

All links are relative, so it works under a path prefix.  Who binds it decides who can reach it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.view.labels import StreetLabels
from node.view.snapshot import SlotDetail, StreetSnapshot
from node.view.street import StreetView
from node.web.feed import StreetFeed
from node.web.markup import Markup, element
from node.web.sections import PageModel, sections

STREAMS_MAX = 64
"""Open pages at a time; each costs a connection and no more."""

LOCAL_HOSTS = ("127.0.0.1", "localhost")

_STATIC = Path(__file__).parent / "static"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(
    ledgers: Sequence[Path], labels: StreetLabels, *, hosts: Sequence[str] = LOCAL_HOSTS
) -> Starlette:
    """Make the application for a street whose nodes keep these ledgers.

    `hosts` are the names under which it may be asked: a foreign site whose name was pointed at
    this machine gets nothing.
    """
    page = _Page(StreetFeed(ledgers), labels)
    app = Starlette(
        routes=[
            Route("/", page.whole),
            Route("/api/street", page.street),
            Route("/api/sections", page.sections),
            Route("/api/events", page.events),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[
            Middleware(_SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
        ],
        exception_handlers={Exception: _fail},
        lifespan=page.lifespan,
    )
    app.state.feed = page.feed
    return app


class _Page:
    """The handlers, and the feed that they share."""

    def __init__(self, feed: StreetFeed, labels: StreetLabels) -> None:
        self.feed = feed
        self._labels = labels
        self._template = (_STATIC / "index.html").read_text(encoding="utf-8")
        self._streams = 0

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Poll the ledgers while the application runs, once before it answers."""
        await self.feed.poll()
        async with asyncio.TaskGroup() as tasks:
            polling = tasks.create_task(self.feed.run(), name="street feed")
            yield
            self.feed.close()
            polling.cancel()

    async def whole(self, request: Request) -> Response:
        """Return the page."""
        parts = await self._sections(request)
        title = element("title", f"wattstreet \N{MIDDLE DOT} {self._labels.title}")
        html = self._template.replace("<!-- title -->", title)
        for name, markup in parts.items():
            html = html.replace(f"<!-- {name} -->", markup)
        return HTMLResponse(html)

    async def sections(self, request: Request) -> Response:
        """Return the page's sections by id."""
        return _json({name: str(each) for name, each in (await self._sections(request)).items()})

    async def street(self, _request: Request) -> Response:
        """Return the snapshot, 503 while no node has a ledger."""
        snapshot = await self.feed.ask(StreetView.snapshot)
        if snapshot is None:
            raise HTTPException(503, "no node has a ledger yet")
        return _json(snapshot)

    async def events(self, _request: Request) -> Response:
        """Stream snapshots, 503 if too many pages are open."""
        if self._streams >= STREAMS_MAX:
            raise HTTPException(503, "too many pages are open")
        return StreamingResponse(
            self._stream(),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    async def _stream(self) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            yield b"retry: 1000\n\n"
            async for snapshot in self.feed.snapshots():
                yield b": heartbeat\n\n" if snapshot is None else _event(snapshot)
        finally:
            self._streams -= 1

    async def _sections(self, request: Request) -> dict[str, Markup]:
        slot = _slot_asked(request)
        found = await self.feed.ask(_question(slot))
        if found is None:
            return {"headline": Markup("The street is starting.")}
        snapshot, detail, traced = found
        model = PageModel(
            snapshot=snapshot,
            labels=self._labels,
            detail=detail,
            traced=traced,
            is_pinned=slot is not None,
        )
        return sections(model)


_Found = tuple[StreetSnapshot, SlotDetail | None, SlotDetail | None]


def _question(slot: int | None) -> Callable[[StreetView], _Found]:
    """Ask for a snapshot and details: of the pinned slot, or the one in delivery."""

    def ask(view: StreetView) -> _Found:
        snapshot = view.snapshot()
        detail = view.detail(snapshot.current if slot is None else slot)
        if slot is None and detail is not None and detail.facts.rung is None:
            detail = None
        pinned_trace = detail if slot is not None and detail and detail.trace else None
        return snapshot, detail, pinned_trace or view.last_traced()

    return ask


def _slot_asked(request: Request) -> int | None:
    text = request.query_params.get("slot", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None


def _event(snapshot: StreetSnapshot) -> bytes:
    data = msgspec.json.encode(snapshot)
    return b"event: street\nid: %d\ndata: %s\n\n" % (snapshot.chain.height, data)


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _fail(_request: Request, _error: Exception) -> Response:
    """Answer for a bug of ours; the server logs the error itself."""
    return Response("the page has failed; its node goes on", 500, _HEADERS, "text/plain")


class _SecurityHeaders:
    """Adds the headers that every answer carries."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        is_http = scope["type"] == "http"
        await self._app(scope, receive, send_with_headers if is_http else send)

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from node.errors import ConfigError
from node.web.app import create_app
from node.web.server import serve
from tests.support.page_server import LABELS, page_server
from tests.support.street_ledger import StreetLedger, small_street

pytestmark = pytest.mark.system

STREET = small_street(
    loads={"a": (200, 300), "b": (900, 800), "c": (700, 900), "d": (100, 100)},
    roofs={"a": (1600, 1400)},
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[StreetLedger]:
    made = await StreetLedger.create(tmp_path / "ledger.db", STREET)
    yield made
    await made.close()


async def get(url: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    def ask() -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(url, headers={"Host": host} if host else {})  # noqa: S310 - loopback
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
                return answer.status, _lower(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _lower(error.headers), error.read()

    return await asyncio.to_thread(ask)


def _lower(headers: Any) -> dict[str, str]:
    return {key.lower(): value for key, value in headers.items()}


async def open_stream(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = urlsplit(url).port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await writer.drain()
    return reader, writer


async def next_street(reader: asyncio.StreamReader) -> dict[str, Any]:
    while True:
        line = await asyncio.wait_for(reader.readline(), 10)
        assert line, "the stream has ended"
        if line.startswith(b"data: "):
            found: dict[str, Any] = json.loads(line[6:])
            return found


@pytest.mark.parametrize("path", ["", "api/street", "api/sections", "static/page.css", "nothing"])
async def test_every_answer_forbids_what_the_page_does_not_need(
    ledger: StreetLedger, path: str
) -> None:
    async with page_server([ledger.path]) as url:
        _, headers, _ = await get(url + path)

    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


async def test_a_foreign_name_for_this_machine_is_refused(ledger: StreetLedger) -> None:
    async with page_server([ledger.path]) as url:
        status, _, body = await get(url, host="attacker.example")

    assert status == 400
    assert b"street" not in body


async def test_the_snapshot_is_served_as_json(ledger: StreetLedger) -> None:
    await ledger.run_day()

    async with page_server([ledger.path]) as url:
        status, _, body = await get(url + "api/street")

    street = json.loads(body)
    assert status == 200
    assert street["chain"]["head"] == ledger.execution.digest.hex()
    assert street["totals"]["money_sum_nano"] == 0


@pytest.mark.parametrize("slot", ["", "?slot=1", "?slot=x", "?slot=-1", f"?slot={10**40}"])
async def test_any_slot_may_be_asked_for(ledger: StreetLedger, slot: str) -> None:
    await ledger.run_until(1)

    async with page_server([ledger.path]) as url:
        status, _, body = await get(url + slot)

    assert status == 200
    assert b"<!--" not in body


async def test_before_any_ledger_exists_the_page_says_that_the_street_starts(
    tmp_path: Path,
) -> None:
    async with page_server([tmp_path / "none.db"]) as url:
        page, street = await get(url), await get(url + "api/street")

    assert (page[0], street[0]) == (200, 503)
    assert b"The street is starting." in page[2]


async def test_a_new_block_is_streamed(ledger: StreetLedger) -> None:
    await ledger.step()

    async with page_server([ledger.path]) as url:
        reader, writer = await open_stream(url)
        first = await next_street(reader)
        await ledger.step()
        second = await next_street(reader)
        writer.close()

    assert (first["chain"]["height"], second["chain"]["height"]) == (1, 2)


async def test_stopping_ends_open_streams_at_once(ledger: StreetLedger) -> None:
    async with page_server([ledger.path]) as url:
        reader, writer = await open_stream(url)
        await next_street(reader)

        stopping = asyncio.get_running_loop().time()
    rest = await asyncio.wait_for(reader.read(), 5)
    writer.close()

    assert rest.endswith(b"0\r\n\r\n"), "the stream ends as HTTP wants it, not by a cut"
    assert asyncio.get_running_loop().time() - stopping < 2


async def test_a_busy_port_gives_way_to_the_next_free_one(ledger: StreetLedger) -> None:
    async with page_server([ledger.path]) as first:
        port = urlsplit(first).port
        assert port is not None
        async with page_server([ledger.path], port=port) as second:
            other = urlsplit(second).port
            assert other is not None
            assert port < other < port + 20
            assert (await get(second))[0] == 200


async def test_an_address_of_another_machine_is_refused_with_a_remedy(
    ledger: StreetLedger,
) -> None:
    app = create_app([ledger.path], LABELS)

    with pytest.raises(ConfigError, match="choose another address or port"):
        await serve(app, "192.0.2.1", 8377)


async def test_labels_are_escaped_in_the_page(ledger: StreetLedger) -> None:
    async with page_server([ledger.path]) as url:
        _, _, body = await get(url)

    assert b"small &amp; sunny" in body
    assert b"<img" not in body

"""Wait for conditions instead of for time."""

import asyncio
from collections.abc import Callable

DEADLINE_S = 10.0
POLL_S = 0.005


async def until(
    is_met: Callable[[], bool], what: str = "the condition", within_s: float = DEADLINE_S
) -> None:
    """Return as soon as the condition holds; fail with its name when the deadline passes."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    while not is_met():
        if loop.time() > deadline_s:
            raise AssertionError(f"{what} did not come true within {within_s} s")
        await asyncio.sleep(POLL_S)

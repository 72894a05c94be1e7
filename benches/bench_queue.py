"""What a message costs from `put_nowait` to the handler, through Python.

Compared with what one would write by hand: a deque per room, a task per busy room, a dict of both.
It keeps order by room only; chinwag has every rule switched on. Run with `make bench`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from chinwag import Batch, Queue

MESSAGES, ROOMS, PEOPLE = 20_000, 1_000, 5
RANDOM = np.random.default_rng(1)
ROWS = [
    (f"room:{room:06}", f"user:{room * PEOPLE + who:07}")
    for room, who in zip(
        (RANDOM.zipf(1.3, MESSAGES) % ROOMS).tolist(),
        RANDOM.integers(0, PEOPLE, MESSAGES).tolist(),
        strict=True,
    )
]
PAYLOAD = {"text": "hi"}


class ByHand:
    """A deque and, while there is something in it, a task for each room."""

    def __init__(self, handle: Callable[[str, list[Any]], Awaitable[None]]) -> None:
        self.handle = handle
        self.rooms: dict[str, deque[Any]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def put_nowait(self, group: str, sender: str, payload: object) -> None:
        waiting = self.rooms.get(group)
        if waiting is None:
            self.rooms[group] = waiting = deque()
            task = asyncio.get_running_loop().create_task(self.work(group, waiting))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        waiting.append(payload)

    async def work(self, group: str, waiting: deque[Any]) -> None:
        while waiting:
            await self.handle(group, [waiting.popleft()])
        del self.rooms[group]


async def by_hand(pause: Callable[[], Awaitable[None]] | None) -> int:
    count = 0

    async def handle(group: str, messages: list[Any]) -> None:
        nonlocal count
        if pause is not None:
            await pause()
        count += len(messages)

    rooms = ByHand(handle)
    for number, (group, sender) in enumerate(ROWS):
        rooms.put_nowait(group, sender, PAYLOAD)
        if not number % 256:
            await asyncio.sleep(0)
    while rooms.tasks:
        await asyncio.wait(rooms.tasks)
    return count


async def by_chinwag(pause: Callable[[], Awaitable[None]] | None) -> int:
    count = 0

    async def handle(batch: Batch[Any]) -> None:
        nonlocal count
        if pause is not None:
            await pause()
        count += len(batch)

    async with Queue(handle, max_batch=1) as queue:
        put_nowait = queue.put_nowait
        for number, (group, sender) in enumerate(ROWS):
            put_nowait(group, sender, PAYLOAD)
            if not number % 256:
                await asyncio.sleep(0)
        await queue.join()
    return count


async def turn() -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("who", [by_hand, by_chinwag], ids=["by hand", "chinwag"])
@pytest.mark.parametrize("pause", [None, turn], ids=["returns", "suspends"])
def bench_put_to_handler(benchmark: Any, who: Any, pause: Any) -> None:
    """Of a handler that returns at once, and of one that suspends once, 20,000 messages."""
    benchmark.group = "20,000 messages, handler " + ("suspends" if pause else "returns")

    assert benchmark.pedantic(lambda: asyncio.run(who(pause)), rounds=5) == MESSAGES

"""The loops that tests of the loop side run on, and what they ask of a queue there."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from chinwag import Dropped, Receipt
from chinwag._runner import RunnerTask
from chinwag.testing import new_event_loop as new_manual_loop

Main = Callable[[], Coroutine[Any, Any, Any]]
Run = Callable[[Main], Any]

# Only a test that fails waits as long.
WATCHDOG_S = 30


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "virtual":
        return new_manual_loop()
    if kind == "uvloop":
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        return loop
    return asyncio.new_event_loop()


REAL_LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
        ),
    ),
]
LOOPS = ["virtual", *REAL_LOOPS]


async def outcome(receipt: Receipt) -> object:
    """What a receipt tells: the result, or end and reason."""
    try:
        return await receipt
    except Dropped as dropped:
        return (dropped.end, dropped.reason)


def other_tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if isinstance(task, RunnerTask)}

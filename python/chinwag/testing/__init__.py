"""Tests for what is built on chinwag: a clock they move, a handler that records, a pytest plug-in.

Nothing here sleeps. `run` executes a coroutine function on an event loop whose time is a `Clock`:
`asyncio.sleep`, `asyncio.timeout` and every window of a `Queue` started there pass in no real time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chinwag.testing.clock import Clock, ClockError, DeadlockError
    from chinwag.testing.loop import ManualEventLoop, new_event_loop, run
    from chinwag.testing.recording import Call, RecordingHandler

__all__ = [
    "Call",
    "Clock",
    "ClockError",
    "DeadlockError",
    "ManualEventLoop",
    "RecordingHandler",
    "new_event_loop",
    "run",
]

# pytest imports this package in every project that has chinwag installed, so nothing is loaded
# before it is asked for.
_HOMES = {
    "Call": "recording",
    "Clock": "clock",
    "ClockError": "clock",
    "DeadlockError": "clock",
    "ManualEventLoop": "loop",
    "RecordingHandler": "recording",
    "new_event_loop": "loop",
    "run": "loop",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__

"""The clock that a test moves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVarTuple

from chinwag._checks import real, show, whole
from chinwag._core import ManualClock

if TYPE_CHECKING:
    import asyncio

    from chinwag.testing.loop import ManualEventLoop

_Ts = TypeVarTuple("_Ts")


class ClockError(RuntimeError):
    """The clock cannot go on: something never becomes idle, or there is no loop to drive."""


class DeadlockError(ClockError):
    """Every task waits, nothing is scheduled and no thread works: no time can change that."""


class Clock:
    """Virtual time, in whole microseconds, for the engine and the event loop alike.

    Nobody has to move it: when everything waits, the loop goes on to the next timer by itself, as
    a real loop would, only at once. `advance` and `run_until_idle` are for tests that want to look
    at a certain moment.

    Three things happen in this order at one instant: tasks wake from their sleep, so that calls
    end; what `at`, `loop.call_at` and `loop.call_later` have booked runs; then chinwag's own timer,
    which closes windows and starts calls. Within each it is first booked, first run.

    Args:
        start_s: Where time begins, in seconds since the epoch. By default a whole second just
            ahead of the real clock, so that messages pushed by that clock before are older.
        thread_wait_s: How many real seconds the loop waits for a handler in a thread before it
            treats it as hanging and lets virtual time go on.
    """

    def __init__(self, start_s: float | None = None, *, thread_wait_s: float = 10.0) -> None:
        # One second more leaves time between making the clock and pushing by the real one.
        self.manual = ManualClock(math.ceil(time.time()) + 1 if start_s is None else start_s)
        """The engine's side of it, for a `Queue(clock=...)` outside this clock's loop."""
        self._start_us = self.manual.now_us
        self.start_s: float = self._start_us / 1e6
        """Its start in seconds since the epoch, as in `message.arrived_at`."""
        self.thread_wait_s = _number("thread_wait_s", thread_wait_s, most=_LONGEST_WAIT_S)
        self._loop: ManualEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Clock now={self.now}>"

    @property
    def now(self) -> float:
        """Seconds since this clock's start."""
        return self.elapsed_us / 1e6

    @property
    def elapsed_us(self) -> int:
        """Microseconds since this clock's start."""
        return self.manual.now_us - self._start_us

    async def advance(self, seconds: float) -> None:
        """Let time pass and everything happen that falls due in it.

        Every timer on the way runs at its own moment, and whatever it makes ready runs before
        time goes on. Returns at exactly `now + seconds`, when nothing is ready there any more.
        `advance(0)` runs what is ready now.

        Raises:
            ValueError: `seconds` is no number from 0 to 1,000,000,000.
        """
        span = _number("seconds", seconds)
        await self._running_loop().reach(self.elapsed_us + round(span * 1e6))

    async def run_until_idle(self, *, limit: int = 100_000) -> None:
        """Let time pass until nothing is scheduled, ready or running in a thread.

        Args:
            limit: How many times the clock may move. Something that re-arms a timer for ever
                is never idle.

        Raises:
            ClockError: The clock has moved `limit` times and timers are still scheduled.
            ValueError: `limit` is no whole number of at least 0.
        """
        moves = whole(limit)
        if moves is None or moves < 0:
            raise ValueError(f"limit={show(limit)}: must be a whole number of at least 0")
        await self._running_loop().idle(moves)

    def at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts
    ) -> asyncio.TimerHandle:
        """Call `callback(*args)` when `now` is `when`, after what sleeps until that instant.

        Args:
            when: Seconds since the clock's start, not before `now`.
            callback: What to call; an exception goes to the loop's exception handler.
            *args: Its arguments.

        Raises:
            ValueError: `when` is no number from `now` to 1,000,000,000.
        """
        loop = self._running_loop()
        return loop.call_at(_number("when", when, least=self.now), callback, *args)

    def bind(self, loop: ManualEventLoop) -> None:
        """Make this the clock of one loop; a second loop may follow when the first is closed."""
        if self._loop is not None and not self._loop.is_closed():
            raise ClockError("this clock already drives an event loop that is not closed")
        self._loop = loop

    def move_to_us(self, elapsed_us: int) -> None:
        """Set the clock forward to so many microseconds after its start."""
        self.manual.advance_to_us(self._start_us + elapsed_us)

    def _running_loop(self) -> ManualEventLoop:
        if self._loop is None or self._loop.is_closed():
            raise ClockError(
                "this clock drives no event loop: use chinwag.testing.run(main, clock=clock), "
                "the fixture chinwag_run, or new_event_loop(clock)"
            )
        return self._loop


def _number(name: str, value: object, least: float = 0, most: float = 1e9) -> float:
    number = real(value)
    if number is None or not least <= number <= most:
        raise ValueError(f"{name}={show(value)}: must be a number from {least} to {most:,.0f}")
    return number


# In milliseconds it must fit into 32 bits.
_LONGEST_WAIT_S = 1e6

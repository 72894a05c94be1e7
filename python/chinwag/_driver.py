"""The loop side of a queue: one timer, the runner tasks, and everybody who waits for them.

The engine decides; the driver asks it for the next batch, hands it to a runner, and sleeps only
when there is nothing left to do now. Whenever a runner has got a batch, one *turn* is scheduled: if
the runner made all calls without suspending, the turn finds nothing; if it is held up in a handler,
the turn takes the next batch to another runner. So a task is made when it is needed and not for
every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context as Variables
from contextvars import copy_context
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from chinwag._runner import Runner, RunnerTask, calling, log

if TYPE_CHECKING:
    from chinwag._core import Batch, Core
    from chinwag._handler import Handler

__all__ = ["Driver"]


class Driver:
    """Makes the calls of one queue on one event loop.

    Args:
        core: The compiled half of the queue.
        handler: What is called.
        grace_s: How long a call that was asked to end may take for it.
        threads: How many plain-function handlers run at once.
        tell: Called on the loop when there may be events to deliver.
    """

    def __init__(
        self,
        core: Core[Any],
        handler: Handler,
        *,
        grace_s: float,
        threads: int,
        tell: Callable[[], None],
    ) -> None:
        self.core = core
        self.handler = handler
        self.loop = asyncio.get_running_loop()
        self.grace_s = grace_s
        self.done = core._done
        self.promoting = False
        """A turn is scheduled."""
        self._tell = tell
        self._max_threads = threads
        self._thread = threading.get_ident()
        # What every call starts from: the variables as they are at the start of the queue.
        self._variables: Variables = copy_context()
        self._runners: set[Runner] = set()
        self._parked: list[Runner] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us: int | None = None
        self._watch: weakref.ref[asyncio.TimerHandle] | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._state: Literal["open", "draining", "ending", "closed"] = "open"
        self._closing: asyncio.Future[None] | None = None

    def start(self) -> None:
        """From now on pushes wake it, and what has been pushed is handled."""
        watch = self.loop.call_at(
            self.loop.time() + _NEVER_S, id, _Watch(self), context=self._variables
        )
        # Weakly, so that closing the loop frees it.
        self._watch = weakref.ref(watch)
        self.core._attach(self.wake)
        self.promote()

    # What the core and the runners call.

    def wake(self) -> bool:
        """Look soon; from any thread. False: the loop is gone."""
        if self.loop.is_closed():
            self.lose()
            return False
        if threading.get_ident() == self._thread:
            self.promote()
            return True
        try:
            self.loop.call_soon_threadsafe(self.promote)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            self.lose()
            return False
        return True

    def promote(self) -> None:
        """Schedule a turn, unless one is scheduled."""
        if not self.promoting and self._state != "closed":
            self.promoting = True
            self.loop.call_soon(self._turn, context=self._variables)

    def park(self, runner: Runner, batch: Batch[Any] | Literal[False] | None) -> bool:
        """Take a runner that has nothing to do; whether it is to wait for the next batch.

        Args:
            runner: Whose call has ended.
            batch: None: nothing is left to do now. False: the loop must turn before there is more.
        """
        if batch is False:
            self.promote()
        else:
            self._rest()
        if self._state in ("ending", "closed") or len(self._parked) >= _MOST_PARKED:
            return False
        runner.parking = self.loop.create_future()
        self._parked.append(runner)
        return True

    def is_ending(self) -> bool:
        """Whether a call that is cancelled now is cancelled because everything ends."""
        return self._state in ("ending", "closed")

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """Where plain functions run; made for the first of them."""
        return ThreadPoolExecutor(self._max_threads, thread_name_prefix="chinwag")

    # Waiting and closing.

    def refuse_inside(self, what: str) -> None:
        """Raise if called from within a call of this queue, which would wait for its own end."""
        runner = calling.get()
        if runner is not None and runner in self._runners and runner.batch:
            raise RuntimeError(
                f"{what} would wait for the very call that it is called in; do it outside the "
                "handler, or in a task that the handler does not await"
            )

    async def join(self) -> None:
        """Wait until nothing waits or runs."""
        await self._until(self.core._is_idle)

    async def close(self, *, drain: bool, timeout_s: float) -> None:
        """Refuse pushes, finish what there is if asked to, end the rest, and wait for all tasks.

        Whoever comes second waits for the first. When it is cancelled, what is left ends at once.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self._closing = self.loop.create_future()
        try:
            await self._close(drain=drain, timeout_s=timeout_s)
        finally:
            self._end_calls()
            self._fence()
            self._finish()
            self._closing.set_result(None)

    async def _close(self, *, drain: bool, timeout_s: float) -> None:
        self.core._close()
        if drain:
            self._state = "draining"
            self.promote()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._until(lambda: self.core._is_idle() or self._is_stuck())
        self._end_calls()
        if busy := [runner.task for runner in self._runners]:
            await asyncio.wait(busy, timeout=self.grace_s)

    def _is_stuck(self) -> bool:
        """Whether only a pause holds what is left; nothing else does after a turn found nothing."""
        return not self.promoting and self.core._is_stuck()

    def _end_calls(self) -> None:
        """End what waits, ask the calls that run to end, let the other runners go."""
        if self._state in ("ending", "closed"):
            return
        self._state = "ending"
        self.core._abandon()
        for runner in tuple(self._runners):
            if runner.batch:
                runner.end("closed")
        self._release_parked()

    def _release_parked(self) -> None:
        parked, self._parked = self._parked, []
        for runner in parked:
            runner.batch = None
            assert runner.parking is not None
            if not runner.parking.done():
                runner.parking.set_result(None)

    def _fence(self) -> None:
        """Take the leases of calls that have not ended: what they still do counts for nothing."""
        for runner in tuple(self._runners):
            if runner.batch and not runner.fenced:
                runner.fenced = True
                log.warning(
                    "a call in group %r has not ended %g s after it was asked to; its result will "
                    "count for nothing",
                    runner.batch.group,
                    self.grace_s,
                )
                self.core._end(runner.batch, "closed", None)
                # Somebody must hold a task that goes on.
                _fenced.add(runner.task)
                runner.task.add_done_callback(_fenced.discard)

    def _finish(self) -> None:
        self._state = "closed"
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None and (watch := self._watch()) is not None:
            watch.cancel()
        if "threads" in self.__dict__:
            self.threads.shutdown(wait=False, cancel_futures=True)
        self.core._detach()
        self._tell()
        self._tell_waiting()

    def lose(self) -> None:
        """The loop was closed before the queue: account for what is there, refuse the rest."""
        if self._state == "closed":
            return
        self._state = "closed"
        log.error("the event loop of a queue was closed before the queue; what waited is abandoned")
        self.core._lose()
        self.core._close()
        self.core._abandon()
        for runner in tuple(self._runners):
            # What the loop has left undone is told above, once.
            runner.task._log_destroy_pending = False
            if runner.batch:
                runner.fenced = True
                runner.decide("closed")
                self.core._end(runner.batch, "closed", None)
        self.core._detach()

    # The turn.

    def _turn(self) -> None:
        self.promoting = False
        if self._state == "closed":
            return
        batch = self.core._next()
        if batch is None:
            self._rest()
            return
        self._hand(batch)
        self.promote()
        self._tell()

    def _hand(self, batch: Batch[Any]) -> None:
        """Give a batch to a runner that waits, or to a new one."""
        while self._parked:
            runner = self._parked.pop()
            assert runner.parking is not None
            if not runner.parking.done():
                runner.batch = batch
                runner.parking.set_result(None)
                return
        variables = self._variables.copy()
        runner = Runner(self, batch, variables)
        work = runner.work()
        runner.task = RunnerTask(work, loop=self.loop, name="chinwag runner", context=variables)
        self._runners.add(runner)
        runner.task.add_done_callback(lambda task: self._gone(runner, task))

    def _gone(self, runner: Runner, task: asyncio.Task[None]) -> None:
        """A runner's task has ended."""
        self._runners.discard(runner)
        if runner in self._parked:
            self._parked.remove(runner)
        if runner.batch and not runner.fenced:
            # Its task was cancelled before it could begin, or it failed where no call was at fault.
            reason = "closed" if self.is_ending() else "cancelled"
            self.core._end(runner.batch, reason, None)
            runner.batch = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a runner has ended", exc_info=error)
        self.promote()

    def _rest(self) -> None:
        """Nothing is left to do now: set the timer, tell those who wait."""
        due_us = self.core._due()
        if due_us != self._timer_us:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._timer_us = due_us
            if due_us is not None:
                after_s = max(0, due_us - self.core._now_us()) / 1e6
                at = self.loop.time() + after_s
                self._timer = self.loop.call_at(at, self._ring, context=self._variables)
        self._tell()
        if self._waiting:
            self._tell_waiting()

    def _ring(self) -> None:
        self._timer = self._timer_us = None
        self.promote()

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that can only become true when the driver has nothing to do."""
        while not holds() and self._state != "closed":
            looked = self.loop.create_future()
            self._waiting.add(looked)
            try:
                await looked
            finally:
                self._waiting.discard(looked)

    def _tell_waiting(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class _Watch:
    """Tells the driver that its loop has been closed, so that the next push is refused.

    It is the argument of a timer that never rings. A loop that is closed lets its timers go, and
    tells nobody otherwise: a turn that is scheduled never comes, and pushes wait for it.
    """

    __slots__ = ("_driver",)

    def __init__(self, driver: Driver) -> None:
        self._driver = weakref.ref(driver)

    def __del__(self) -> None:
        driver = self._driver()
        if driver is not None and driver.loop.is_closed():
            driver.lose()


_NEVER_S = 200 * 365 * 86_400.0

# Runners that wait for work; more than this are let go.
_MOST_PARKED = 1_000

# Tasks whose calls were fenced, until they end after all.
_fenced: set[asyncio.Task[None]] = set()

"""The loop side of a queue: one timer, the runner tasks, and everybody who waits for them.

The engine decides what may start; the driver makes it happen. It *turns* when something may have
changed: a push that found it at rest, a control, the timer, a runner with nothing more to do. A
turn hands the next batch to a runner, a parked one or a new one, and asks for another turn right
behind it. The runner goes on with whatever its freed slot gives. So when handlers do not suspend,
one runner makes all calls and the next turn finds nothing; when it is held up in a handler, the
next turn takes more batches to others. A task is made when it is needed and not for every message.

The driver rests only once the engine has said, in one step with "nothing is left to do now", that
the next push will wake it.

This is the one place that creates tasks. Each is held until it has ended.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context as Variables
from contextvars import copy_context
from functools import cached_property, partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from chinwag._calling import current
from chinwag._runner import Failure, Runner, RunnerTask, is_rooted, log
from chinwag.dead import DeadLetter, DeadLetters
from chinwag.stats import Ledger

if TYPE_CHECKING:
    from chinwag._core import Batch, Core, Message
    from chinwag._handler import Handler
    from chinwag._listeners import Listeners
    from chinwag.config import Retry

__all__ = ["Driver"]


class Driver:
    """Makes the calls of one queue on one event loop.

    Args:
        core: The compiled half of the queue.
        handler: What is called.
        fallback: What is called for groups that are out of service.
        grace_s: How long a call that was asked to end may take for it.
        emit_limit: Items of a call that are kept.
        threads: How many plain-function handlers run at once.
        listeners: Told on the loop, when no call of the engine is under way.
        retry: What is tried again.
        dead: Where messages go that could not be handled.
        on_error: Told of every failure: the batch, the exception, which attempt it was.
    """

    def __init__(
        self,
        core: Core[Any],
        handler: Handler,
        *,
        fallback: Handler | None,
        grace_s: float,
        emit_limit: int,
        threads: int,
        listeners: Listeners,
        retry: Retry,
        dead: DeadLetters[Any],
        on_error: Callable[[Batch[Any], BaseException | None, int], object] | None,
    ) -> None:
        self.core = core
        self.handler = handler
        self.fallback = fallback
        self.loop = asyncio.get_running_loop()
        self.grace_s = grace_s
        self.emit_limit = emit_limit
        self.done = core._done
        self.promoting = False
        """A turn is scheduled."""
        self._listeners = listeners
        self._no_retry = retry.no_retry
        self._retry_if = retry.retry_if
        self._dead = dead
        self._on_error = on_error
        self._max_threads = threads
        self._virtual = core._manual
        # What every call starts from: the variables as they are at the start of the queue. What
        # subscribers leave behind stays among the driver's own.
        self._variables: Variables = copy_context()
        self._own_variables: Variables = self._variables.copy()
        self.rooted = is_rooted(self._variables.copy())
        """Whether the runners' contexts are so that they need little looking after."""
        self._runners: set[Runner] = set()
        self._parked: list[Runner] = []
        # Who got the last batch, and how many a turn hands out.
        self._latest: Runner | None = None
        self._width = 1
        # Batches whose runner was cancelled before it could begin.
        self._returned: list[Batch[Any]] = []
        self._next_turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us: int | None = None
        self._forgotten = 0
        self._joining: set[asyncio.Future[None]] = set()
        # Closing goes from one of these to the next: somebody asked, nothing is left to drain, no
        # call runs, all is done.
        self._asked: asyncio.Future[tuple[bool, float]] = self.loop.create_future()
        self._drained: asyncio.Future[None] = self.loop.create_future()
        self._quiet: asyncio.Future[None] = self.loop.create_future()
        self._closed: asyncio.Future[None] = self.loop.create_future()
        self._closers = 0
        self._lost = False
        self._halted: str | None = None
        self._keeper: RunnerTask
        self._watch: weakref.ref[asyncio.TimerHandle]

    def start(self) -> None:
        """From now on pushes wake it, and what has been pushed is handled."""
        # Whoever cancels all tasks of the loop cancels this one too. It makes no calls, so that is
        # how the driver knows that the loop itself is about to end.
        self._keeper = RunnerTask(self._keep(), loop=self.loop, name="chinwag keeper")
        self._keeper.add_done_callback(self._kept, context=self._own_variables)
        watch = self.loop.call_at(
            self.loop.time() + _NEVER_S, id, _Watch(self), context=self._own_variables
        )
        # Weakly, so that closing the loop frees it.
        self._watch = weakref.ref(watch)
        _started.add(self)
        self.core._attach(self.wake)
        self.promote()

    # What the core and the runners call.

    def wake(self) -> bool:
        """Look soon; from any thread. False: the loop is gone, and with it the queue."""
        try:
            # Not the thread that started the queue: the loop may run in another by now.
            if asyncio._get_running_loop() is self.loop:
                self.promote()
            else:
                self.loop.call_soon_threadsafe(self.promote)
        except RuntimeError:
            if not self.loop.is_closed():
                raise
            self.lose()
            return False
        return True

    def promote(self) -> None:
        """Schedule a turn, unless one is scheduled."""
        if not self.promoting:
            self._next_turn = self.loop.call_soon(self._promoted, context=self._own_variables)
            self.promoting = True

    def park(self, runner: Runner, batch: Batch[Any] | Literal[False] | None) -> bool:
        """Take a runner that has nothing to do; whether it is to wait for the next batch.

        Args:
            runner: Whose call has ended.
            batch: None: nothing is left to do now. False: the loop must turn before there is more.
        """
        runner.batch = None
        if batch is False:
            self.promote()
        elif not self.promoting:
            self._rest()
            if self._listeners.observed:
                # Not in the context of a runner: calls would see what subscribers leave behind.
                self._own_variables.copy().run(self._listeners.tell)
        if self._closed.done() or runner.ending or len(self._parked) >= _MOST_PARKED:
            return False
        runner.parking = self.loop.create_future()
        self._parked.append(runner)
        return True

    def fail(
        self,
        batch: Batch[Any],
        error: BaseException | None,
        reason: str,
        *,
        more: bool = False,
    ) -> Batch[Any] | Literal[False] | None:
        """Settle a call that has failed; the next batch if there may be more."""
        if error is None:
            error = TimeoutError(f"the call was ended: {reason}")
        self.tell_of(batch, error, reason)
        retry = self._may_retry(error)
        known = reason if reason in _REASONS else "error"
        return self.core._end(batch, known, Failure(self, batch, error, reason), more, retry)

    def put_back(
        self, batch: Batch[Any], error: BaseException, *, more: bool = False
    ) -> Batch[Any] | Literal[False] | None:
        """Settle a call that somebody else has cancelled: its messages go back if they may."""
        if self.core._would_go_back(batch):
            return self.core._end(batch, "put_back", None, more)
        return self.fail(batch, error, "cancelled", more=more)

    def halt(self, reason: str) -> None:
        """Make no more calls: what was raised in one is to end the program."""
        self._halted = reason
        self.core.pause()

    def tell_of(self, batch: Batch[Any], error: BaseException | None, reason: str) -> None:
        """Tell who wants to know of every failure."""
        if self._on_error is None:
            return
        try:
            self._own_variables.copy().run(self._on_error, batch, error, batch._attempt)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # also a cancellation, as of a subscriber
            log.exception("what is told of failures has itself failed, of a call that %s", reason)

    def bury(
        self, message: Message[Any], attempts: int, reason: str, error: BaseException | None
    ) -> None:
        """Keep a message that has ended dead for somebody to look at."""
        self._dead._keep(DeadLetter(message=message, attempts=attempts, reason=reason, error=error))

    def _may_retry(self, error: BaseException) -> bool:
        """Whether trying again may help; a rule that fails itself stands in nobody's way."""
        if isinstance(error, self._no_retry):
            return False
        if self._retry_if is None:
            return True
        try:
            return bool(self._retry_if(error))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            log.exception("retry_if has failed; the call is tried again")
            return True

    def _see_to_endings(self) -> None:
        """Ask calls to end that are to, and give up those that have not."""
        endings, dead = self.core._take_endings()
        if not endings:
            return
        runners = {runner.batch._lease: runner for runner in self._runners if runner.batch}
        for lease, reason in endings:
            runner = runners.get(lease)
            if runner is None or not runner.batch:
                continue
            if reason == "superseded":
                runner.supersede()
                continue
            if reason is not None:
                if runner.ending is None:
                    runner.end(reason)
                continue
            runner.fenced = True
            batch = runner.batch
            log.warning(
                "a call in group %r has not ended %g s after it was asked to (%s); its result will "
                "count for nothing",
                batch.group,
                self.grace_s,
                runner.ending,
            )
            for message in (*batch, *batch._taken, *batch.context) if dead else ():
                if message._seq in dead:
                    self.bury(message, batch._attempt, dead[message._seq], None)
            _fenced.add(runner.task)
            asyncio.Task.add_done_callback(runner.task, _fenced.discard)
            if not runner.handler.is_async:
                runner.task.cancel()  # its thread may never return, and nobody waits for that

    def is_ending(self) -> bool:
        """Whether a call that is cancelled now is cancelled because everything ends."""
        return self._closed.done() or self._keeper.cancelling() > 0

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """Where plain functions run; made for the first of them."""
        return ThreadPoolExecutor(self._max_threads, thread_name_prefix="chinwag")

    # Waiting and closing.

    async def join(self) -> None:
        """Wait until nothing waits or runs."""
        if self.loop.is_closed():
            self.lose()
            return
        self._refuse("join()")
        if self._halted:
            raise RuntimeError(
                f"join() would wait for ever: {self._halted} in a handler has stopped the queue; "
                "close it"
            )
        if self._closed.done() or self.core._is_idle():
            return
        future: asyncio.Future[None] = self.loop.create_future()
        self._joining.add(future)
        try:
            await future
        finally:
            self._joining.discard(future)

    async def close(self, *, drain: bool, timeout_s: float) -> None:
        """Refuse pushes, finish what there is if asked to, end the rest, and wait for all tasks.

        Whoever comes second waits for the same end. When the last of them is cancelled, what is
        left ends at once.
        """
        if self.loop.is_closed():
            self.lose()
            return
        self._refuse("aclose()")
        if not self._asked.done():
            self._asked.set_result((drain, timeout_s))
            self.core._close()
            self.promote()
        if not drain:
            self._end_calls()
            _resolve(self._drained)
        self._closers += 1
        try:
            await asyncio.shield(self._closed)
        except asyncio.CancelledError:
            if self._closers == 1 and not self._closed.done():
                self._force()
            raise
        finally:
            self._closers -= 1

    async def _keep(self) -> None:
        """Wait for the end, and bring it about in a task that no caller's cancellation reaches."""
        try:
            drain, timeout_s = await self._asked
            self._end_lost_calls()
            await self._close(drain=drain, timeout_s=timeout_s)
        except BaseException:
            if not self._lost:  # otherwise that has been seen to
                self._force()
            raise
        finally:
            self._finish()

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        """The keeper has ended."""
        if not self._closed.done():  # before it began
            self._asked.cancel()
            self._force()
            self._finish()

    async def _close(self, *, drain: bool, timeout_s: float) -> None:
        if drain:
            await self._until(self._drained, timeout_s)
        self._end_calls()
        self._look_for_quiet()
        await self._until(self._quiet, self.grace_s)
        for runner in self._runners:
            if runner.batch and not runner.fenced:
                log.warning(
                    "a call in group %r has not ended %g s after it was asked to; its result will "
                    "count for nothing",
                    runner.batch.group,
                    self.grace_s,
                )
        self._fence()
        self._release_parked()
        # A fenced task that goes on is not waited for, unless only its thread does.
        ending = [r.task for r in self._runners if not (r.fenced and r.handler.is_async)]
        if ending:
            await asyncio.wait(ending)

    async def _until(self, future: asyncio.Future[None], seconds: float) -> None:
        timer = None
        if seconds < math.inf:
            timer = self.loop.call_at(self.loop.time() + seconds, _resolve, future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()

    def _end_calls(self) -> None:
        """End what waits, and ask the calls that run to end."""
        self._abandon()
        for runner in tuple(self._runners):
            if runner.batch and runner.ending is None:
                runner.end("closed")

    def _force(self) -> None:
        """Do at once what is left of closing."""
        lost = self._lost or self._asked.cancelled()
        if lost:
            self.core._lose()
        self.core._close()
        self._abandon()
        self._fence()
        if not self._lost:
            _resolve(self._drained)
            _resolve(self._quiet)
            self._release_parked()
        if lost:  # told last: a handler of the log that pushes is refused
            log.error(
                "the event loop of a queue was closed before the queue; what waited is abandoned"
            )

    def _abandon(self) -> None:
        """End what waits, and what was handed out and never begun."""
        self.core._abandon()
        returned, self._returned = self._returned, []
        for batch in returned:
            self.core._end(batch, "closed", None)

    def _end_lost_calls(self) -> None:
        """End the calls of batches that nobody has.

        What a signal handler raises can come between the engine, which has handed out a batch, and
        the runner that was to make the call. Not while a runner is at work.
        """
        held = [runner.batch for runner in self._runners if runner.batch]
        self.core._abandon_calls([*held, *self._returned])

    def _fence(self) -> None:
        """Take the leases of calls that have not ended: what they still do counts for nothing."""
        for runner in tuple(self._runners):
            if not runner.batch or runner.fenced:
                continue
            runner.fenced = True
            self.core._end(runner.batch, "closed", None)
            if self._lost:
                runner.decide("closed")
                continue
            if runner.ending is None and not runner.task.cancelling():
                runner.end("closed")
            else:
                runner.decide("closed")  # not cancelled twice: it may be cleaning up
            if not runner.handler.is_async:
                runner.task.cancel()
            # Somebody must hold a task that goes on.
            _fenced.add(runner.task)
            runner.task.add_done_callback(_fenced.discard)

    def _release_parked(self) -> None:
        parked, self._parked = self._parked, []
        for runner in parked:
            runner.ending = "closed"
            assert runner.parking is not None
            _resolve(runner.parking)

    def _finish(self) -> None:
        """Let go of everything but fenced calls."""
        try:
            self._let_go()
        finally:
            if not self._lost:
                for future in (*self._joining, self._closed):
                    _resolve(future)

    def _let_go(self) -> None:
        _started.discard(self)
        self.core._abandon_calls([])
        self.core._detach()
        for handle in (self._timer, self._next_turn):
            if handle is not None:
                handle.cancel()
        if (watch := self._watch()) is not None:
            watch.cancel()
        if "threads" in self.__dict__:
            self.threads.shutdown(wait=False, cancel_futures=True)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("closed: %s", Ledger(**self.core._ledger()))
        self._listeners.end(called=not self._lost)

    def lose(self) -> None:
        """The loop was closed before the queue: account for what is there, refuse the rest."""
        # In this order: from the second look to the note no other thread comes between.
        if self._closed.done() or self._lost:
            return
        self._lost = True
        for task in (self._keeper, *(runner.task for runner in self._runners)):
            # What the loop has left undone is told once, by the driver.
            task._log_destroy_pending = False
        self._force()
        self._finish()

    def _refuse(self, what: str) -> None:
        """Raise where waiting would wait for itself (rule H8), or on another loop."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError(f"{what} must be awaited on the event loop that started the queue")
        runner = current()
        if runner is not None and runner in self._runners:
            raise RuntimeError(
                f"{what} would wait for the very call that it is called in; do it outside the "
                "handler, or in a task with a context of its own: "
                f"asyncio.create_task(queue.{what}, context=contextvars.Context())"
            )

    # The turn.

    def _promoted(self) -> None:
        self.promoting = False
        self._turn()

    def _turn(self) -> None:
        """Hand out what may start now, or rest."""
        if self._closed.done():
            return
        try:
            self._hand_out()
            self._see_to_endings()
        except BaseException:
            # Raised by a signal handler, in the middle of anything.
            self._end_lost_calls()
            self.promote()
            raise
        self._listeners.tell()

    def _hand_out(self) -> None:
        # If the last batch handed out is still being handled, its handler has suspended, and so
        # will more of them. Otherwise one runner is enough for all.
        held_up = self._latest is not None and self._latest.batch
        self._width = min(2 * self._width, _WIDEST) if held_up else 1
        for _ in range(self._width):
            batch = self._returned.pop() if self._returned else self.core._next()
            if batch is None:
                self._rest()
                break
            self._hand(batch)
        else:
            self.promote()

    def _hand(self, batch: Batch[Any]) -> None:
        """Give a batch to a runner that waits, or to a new one."""
        while self._parked:
            runner = self._parked.pop()
            if runner.parking is not None and not runner.parking.done():
                runner.batch = batch
                runner.parking.set_result(None)
                self._latest = runner
                return
        variables = self._variables.copy()
        self._latest = runner = Runner(self, batch, variables)
        work = runner.work()
        runner.task = RunnerTask(work, loop=self.loop, name="chinwag runner", context=variables)
        self._runners.add(runner)
        # The plain method: this is nobody else's callback.
        gone = partial(self._gone, runner)
        asyncio.Task.add_done_callback(runner.task, gone, context=self._own_variables)

    def _gone(self, runner: Runner, task: asyncio.Task[None]) -> None:
        """A runner's task has ended."""
        self._runners.discard(runner)
        if runner is self._latest:
            self._latest = None
        if runner in self._parked:
            self._parked.remove(runner)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):  # others the loop has raised already
            log.error("a runner has failed where no handler was at fault", exc_info=error)
        if runner.batch and not runner.fenced:
            if runner.ending or self.is_ending():
                self.core._end(runner.batch, "closed", None)
            elif error is not None:
                self.core._end(runner.batch, "error", None)
            else:
                # Its task was cancelled before it could begin: somebody else's call, then.
                self._returned.append(runner.batch)
        runner.batch = None
        if error is not None and not isinstance(error, Exception):
            self._end_lost_calls()
        if not self._closed.done():
            self._look_for_quiet()
            self.promote()

    def _rest(self) -> None:
        """Nothing is left to do now: set the timer, tell those who wait."""
        self._width = 1
        self._see_to_endings()
        self._set_timer(self.core._due())
        if self._joining and self.core._is_idle():
            for future in self._joining:
                _resolve(future)
        if self._asked.done():
            if self.core._is_idle() or self.core._is_stuck():
                _resolve(self._drained)
            self._look_for_quiet()

    def _set_timer(self, due_us: int | None) -> None:
        if due_us == self._timer_us:
            return
        if self._timer is not None:
            # Looking too early is cheaper than another timer for every push of a window. But
            # virtual time must not stop where nothing happens.
            assert self._timer_us is not None
            if not self._virtual and due_us is not None and due_us > self._timer_us:
                return
            self._timer.cancel()
            self._timer = None
        self._timer_us = due_us
        if due_us is None:
            return
        after_s = max(0, due_us - self.core._now_us()) / 1e6
        if not self._virtual:
            # uvloop rounds to milliseconds, down too; and no loop sleeps for years.
            after_s = min(max(after_s, _SHORTEST_S), _LONGEST_S)
        self._timer = self.loop.call_at(
            self.loop.time() + after_s, self._ring, context=self._own_variables
        )

    def _ring(self) -> None:
        self._timer = self._timer_us = None
        self._turn()
        if log.isEnabledFor(logging.DEBUG):
            before, self._forgotten = self._forgotten, self.core._forgotten()
            if self._forgotten > before:
                log.debug("forgot %d idle groups", self._forgotten - before)

    def _look_for_quiet(self) -> None:
        if not self._asked.done():
            return
        if not any(runner.batch and not runner.fenced for runner in self._runners):
            _resolve(self._quiet)


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


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wake_no_more() -> None:
    """Have pushes wake nobody any more, and wait for threads that are about it.

    When the interpreter ends, daemon threads are ended as they next ask for its lock. One that was
    called from compiled code cannot be, and takes the process along: it aborts.
    """
    for driver in tuple(_started):
        driver.core._detach()
    patience = time.monotonic() + _PATIENCE_S
    while _is_waking() and time.monotonic() < patience:
        time.sleep(_SHORTEST_S)


def _is_waking() -> bool:
    """Whether another thread is inside `Driver.wake`."""
    frames: dict[int, FrameType | None] = {**sys._current_frames()}
    frames.pop(threading.get_ident())
    for frame in frames.values():
        while frame is not None:
            if frame.f_code is Driver.wake.__code__:
                return True
            frame = frame.f_back
    return False


if sys.version_info < (3, 14):  # from then on such threads are left where they are
    atexit.register(_wake_no_more)


# Runners that wait for work; more than this are let go.
_MOST_PARKED = 64

# Batches that a turn hands out at most, when all handlers suspend.
_WIDEST = 64

# What the engine is told of a failure; of a call that it ends itself it knows better.
_REASONS = ("error", "cancelled")

_NEVER_S = 200 * 365 * 86_400.0
_SHORTEST_S = 0.001
_LONGEST_S = 86_400.0
_PATIENCE_S = 1.0

# Drivers until they have closed: a loop holds its tasks only weakly.
_started: set[Driver] = set()

# Tasks whose calls were fenced, until they end after all.
_fenced: set[asyncio.Task[None]] = set()

"""An event loop whose time is a `Clock`.

The loop is asyncio's own, with two parts replaced: its timers, which are ordered by whole
microsecond and then by booking, and its selector, which never waits for a timer. The base loop
asks the selector to wait only when nothing is ready. That is the one place where time may move:

1. a job in a thread is outstanding: wait for it, in real time, while virtual time stands still;
2. a timer or an `advance` is next: move the clock there and run what is due;
3. someone waits for the loop to be idle: it is;
4. a socket is open: wait for it, in real time;
5. otherwise nothing can ever happen again: `DeadlockError`.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import itertools
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from chinwag._checks import show
from chinwag.testing.clock import Clock, ClockError, DeadlockError

if TYPE_CHECKING:
    from chinwag._core import ManualClock

T = TypeVar("T")
_Ts = TypeVarTuple("_Ts")
_Events = list[tuple[selectors.SelectorKey, int]]

Main = Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]]
"""What `run` takes besides a coroutine function of the clock."""


def run(main: Callable[[Clock], Coroutine[Any, Any, T]] | Main[T], clock: Clock | None = None) -> T:
    """Run a coroutine function on a loop with virtual time and close everything behind it.

    What is left is cancelled: tasks, async generators; the default executor is shut down.

    Args:
        main: A coroutine function, called with the clock if it takes an argument; or a coroutine.
        clock: The clock to use; by default a new one.

    Returns:
        What `main` returns.

    Raises:
        DeadlockError: `main` waits for something that cannot happen any more.
        ClockError: Something is ready for ever at one instant, or a thread hangs.
    """
    clock = Clock() if clock is None else clock
    with asyncio.Runner(loop_factory=lambda: new_event_loop(clock)) as runner:
        result: T = runner.run(_coroutine(main, clock))
        return result


def new_event_loop(clock: Clock | None = None) -> ManualEventLoop:
    """Make an event loop that takes its time from `clock`, by default a new one."""
    return ManualEventLoop(Clock() if clock is None else clock)


def _coroutine(main: object, clock: Clock) -> Coroutine[Any, Any, Any]:
    made = main
    if callable(main):
        made = main(clock) if _takes_argument(main) else main()
    if not inspect.iscoroutine(made):
        raise TypeError(f"main must be a coroutine function or a coroutine, not {show(main)}")
    return made


def _takes_argument(function: Callable[..., object]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(kind in positional for kind in kinds)


class ManualEventLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on virtual time; a `Queue` started on it uses the same clock."""

    # asyncio's own; the base loop runs what is in `_ready` once its selector has returned.
    _ready: deque[asyncio.Handle]
    _selector: selectors.BaseSelector

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.chinwag_clock: ManualClock = clock.manual
        """The engine's clock: `Queue.start` looks for this attribute."""
        self._order = itertools.count()
        # (due in microseconds, rank, booking, handle)
        self._timers: list[tuple[int, int, int, asyncio.TimerHandle]] = []
        self._cancelled_timers = 0
        # (microseconds to reach, booking, future)
        self._reaching: list[tuple[int, int, asyncio.Future[None]]] = []
        # (count of moves not to exceed, future)
        self._idling: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._jobs: set[asyncio.Future[Any]] = set()
        self._hanging: set[asyncio.Future[Any]] = set()
        self._moves = 0
        self._rounds = 0
        super().__init__(_Selector(self))
        try:
            clock.bind(self)
        except ClockError:
            self.close()
            raise

    def close(self) -> None:
        """Close it, and let go of what is still booked."""
        super().close()
        self._timers.clear()

    def time(self) -> float:
        """Seconds since the clock's start."""
        return self.clock.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Book a callback; it runs at the whole microsecond nearest to `when`."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        due = round(min(when * 1e6, _NEVER))
        heapq.heappush(self._timers, (due, _rank(callback), next(self._order), timer))
        return timer

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], T], *args: *_Ts
    ) -> asyncio.Future[T]:
        """Run a function in a thread; no virtual time passes until it has returned."""
        return self._outstanding(super().run_in_executor(executor, func, *args))

    async def shutdown_default_executor(self, *timeout: Any) -> None:
        """Wait for the threads of the default executor."""
        job = self._outstanding(self.create_future())
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            job.cancel()

    async def reach(self, due_us: int) -> None:
        """Wait until the clock reads `due_us` microseconds and nothing is ready there."""
        future = self.create_future()
        heapq.heappush(self._reaching, (due_us, next(self._order), future))
        await future

    async def idle(self, limit: int) -> None:
        """Wait until nothing is scheduled, at most `limit` moves of the clock."""
        future = self.create_future()
        self._idling.append((self._moves + limit, future))
        await future

    def still_ready(self) -> None:
        """Count a round of callbacks at this instant, and give up on one that never ends."""
        self._rounds += 1
        if self._rounds > _MOST_ROUNDS:
            self._rounds = 0
            raise ClockError(
                f"something is ready for ever at {self.clock.now} s: {_MOST_ROUNDS} rounds of "
                f"callbacks and time cannot pass{self._waiting_tasks()}"
            )

    def pass_time(self, wait: Callable[[float | None], _Events]) -> _Events:
        """Let the next thing happen; called when nothing is ready at this instant."""
        self._rounds = 0
        if self._jobs:
            fresh = self._jobs > self._hanging
            if events := wait(self.clock.thread_wait_s if fresh else _SHORT_WAIT_S):
                return events
            # What it waits for may be a timer, so time goes on.
            self._hanging = set(self._jobs)
        reaching, timer = self._next_reaching(), self._next_timer()
        if timer is not None and (reaching is None or timer <= reaching):
            self._move(timer)
            self._run_due(timer)
        elif reaching is not None:
            self._move(reaching)
            _resolve(heapq.heappop(self._reaching)[2])
        elif self._jobs:
            if events := wait(self.clock.thread_wait_s):
                return events
            raise ClockError(
                f"a job in a thread hangs: {self.clock.thread_wait_s} real seconds are over and "
                f"nothing else is scheduled at {self.clock.now} s{self._waiting_tasks()}"
            )
        elif self._idling:
            _resolve(self._idling.popleft()[1])
        elif self._watches_a_socket():
            return wait(None)
        else:
            raise DeadlockError(
                f"deadlock at {self.clock.now} s: every task waits, nothing is scheduled and no "
                f"thread works{self._waiting_tasks()}"
            )
        return []

    def _move(self, due_us: int) -> None:
        self._moves += 1
        if due_us > self.clock.elapsed_us:
            self.clock.move_to_us(due_us)
        while self._idling and self._moves > self._idling[0][0]:
            _, future = self._idling.popleft()
            if not future.done():
                future.set_exception(
                    ClockError(
                        f"not idle at {self.clock.now} s: the clock has moved as often as the "
                        "limit allows and timers are scheduled; one may re-arm itself for ever"
                    )
                )

    def _run_due(self, due_us: int) -> None:
        # chinwag's own timer has an instant's last turn for itself: by then calls that end have
        # been settled and everything pushed at this instant is in its inbox.
        last = self._timers[0][1] == _LAST
        first: list[asyncio.Handle] = []
        then: list[asyncio.Handle] = []
        while self._timers and self._timers[0][0] <= due_us:
            rank = self._timers[0][1]
            if (rank == _LAST) != last:
                break
            timer = heapq.heappop(self._timers)[3]
            if timer.cancelled():
                self._cancelled_timers -= 1
            else:
                (first if rank == _FIRST else then).append(timer)
        if not first:
            self._ready.extend(then)
            return
        self._ready.extend(first)
        # Behind the steps of the tasks that wake, which are appended while this round runs.
        self.call_soon(self._ready.extend, then)

    def _next_timer(self) -> int | None:
        while self._timers and self._timers[0][3].cancelled():
            heapq.heappop(self._timers)
            self._cancelled_timers -= 1
        return self._timers[0][0] if self._timers and self._timers[0][0] < _NEVER else None

    def _next_reaching(self) -> int | None:
        while self._reaching and self._reaching[0][2].done():
            heapq.heappop(self._reaching)
        return self._reaching[0][0] if self._reaching else None

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        # Called by every handle that is cancelled, some after they have run, so this counts a few
        # too many. A timer pushed back again and again must not leave its former selves behind.
        self._cancelled_timers += 1
        if self._cancelled_timers > 100 and self._cancelled_timers * 2 > len(self._timers):
            # The handle itself is marked as cancelled only after this call.
            live = [t for t in self._timers if t[3] is not handle and not t[3].cancelled()]
            heapq.heapify(live)
            self._timers, self._cancelled_timers = live, 0

    def _outstanding(self, job: asyncio.Future[T]) -> asyncio.Future[T]:
        self._jobs.add(job)
        job.add_done_callback(self._job_left)
        return job

    def _job_left(self, job: asyncio.Future[Any]) -> None:
        self._jobs.discard(job)
        self._hanging.discard(job)

    def _watches_a_socket(self) -> bool:
        # One is the loop's own, by which threads wake it.
        return len(self._selector.get_map()) > 1

    def _waiting_tasks(self) -> str:
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=lambda task: task.get_name()):
            for frame in task.get_stack(limit=1):
                code = frame.f_code
                where = f"{code.co_filename}:{frame.f_lineno}, in {code.co_qualname}"
                lines.append(f"\n  {task.get_name()} at {where}")
        return ":" + "".join(lines) if lines else ""


class _Selector(selectors.DefaultSelector):
    """Looks for events, and hands over to the loop where another selector would wait."""

    def __init__(self, loop: ManualEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> _Events:
        events = super().select(0)
        if timeout == 0:
            self._loop.still_ready()
            return events
        return events or self._loop.pass_time(super().select)


def _rank(callback: Callable[..., object]) -> int:
    if callback is _WAKE:
        return _FIRST
    return _LAST if getattr(callback, "__module__", None) == _DRIVER else _BETWEEN


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_FIRST, _BETWEEN, _LAST = range(3)
_DRIVER = "chinwag._driver"
# What asyncio.sleep books; an alternative loop or a later Python may book something else, which
# then runs with the other timers.
_WAKE = getattr(asyncio.futures, "_set_result_unless_cancelled", None)
_NEVER = 2**52  # a hundred and forty years: `asyncio.sleep(math.inf)` is no timer
_MOST_ROUNDS = 1_000_000
_SHORT_WAIT_S = 0.05

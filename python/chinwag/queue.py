"""The queue: put messages into it, give it a handler, and it decides the rest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from array import array
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from numbers import Real
from types import TracebackType
from typing import Any, TypeVar

from chinwag import _core
from chinwag._core import Batch
from chinwag._driver import Driver
from chinwag._handler import Handler
from chinwag._listeners import EventStream, Listeners
from chinwag._runner import log
from chinwag.config import Config
from chinwag.context import Context
from chinwag.errors import ConfigError
from chinwag.events import Event
from chinwag.stats import Histogram, Ledger, Stats, Status

__all__ = ["Queue"]

P = TypeVar("P")
F = TypeVar("F", bound=Callable[..., Any])


class Queue(_core.Core[P]):
    """Decides when, in which order and together with what each message is handled.

    Messages can be put into it from any thread and before it is started; the handler is called on
    the event loop that it is started on, or in a thread if it is a plain function.

    Args:
        handler: `async def reply(batch)` or `(batch, ctx)`; a plain function runs in a thread.
            Can be given later, with `@queue.handler`.
        config: All settings at once; single ones given beside it go before.
        clock: A clock that a test moves; by default the system's.
        **settings: Single settings by their names in `chinwag.config`, such as `quiet_s=2`.

    Raises:
        ConfigError: A setting is unknown, has a wrong value, or contradicts another.
        TypeError: The handler is not callable, or takes other arguments.
    """

    def __init__(
        self,
        handler: Callable[[Batch[P]], Any] | Callable[[Batch[P], Context], Any] | None = None,
        *,
        config: Config | None = None,
        clock: _core.ManualClock | None = None,
        **settings: Any,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise ConfigError(f"config must be a chinwag.Config, not {type(config).__name__}")
        if config is None or settings:
            config = Config.of(**{**(config.flat() if config else {}), **settings})
        if clock is None:
            # On the event loop of a test the queue goes by the test's clock from the beginning.
            clock = getattr(asyncio._get_running_loop(), "chinwag_clock", None)
        super().__init__(config.flat(), clock)
        self._config = config
        self._handler = None if handler is None else Handler.of(handler)
        self._driver: Driver | None = None
        self._listeners = Listeners(self)
        self._forked = False
        _alive.add(self)

    @property
    def settings(self) -> Config:
        """What this queue goes by."""
        return self._config

    def handler(self, function: F) -> F:
        """Make a function the handler; used as a decorator.

        Raises:
            TypeError: It is not callable, or takes neither (batch) nor (batch, ctx).
            RuntimeError: The queue has a handler, or has been started.
        """
        if self._handler is not None:
            raise RuntimeError("this queue has a handler already; it can have one")
        self._handler = Handler.of(function)
        return function

    # Life.

    async def start(self) -> None:
        """Begin to handle what has been and will be put into the queue, on the running loop.

        Raises:
            RuntimeError: It has been started or closed, or there is no running event loop.
            ConfigError: It has no handler.
        """
        if self._forked:
            raise RuntimeError(_FORKED)
        if self._is_closed():
            raise RuntimeError("this queue has been closed; make a new one")
        if self._driver is not None:
            raise RuntimeError("this queue has been started already; it can be started once")
        if self._handler is None:
            raise ConfigError(
                "the queue has no handler: give it one with Queue(reply) or @queue.handler"
            )
        limits, busy = self._config.limits, self._config.busy
        driver = Driver(
            self,
            self._handler,
            grace_s=busy.cancel_grace_s,
            threads=limits.max_concurrent or _MOST_THREADS,
            listeners=self._listeners,
        )
        manual = getattr(driver.loop, "chinwag_clock", None)
        if manual is not None and not self._manual:
            self._follow(manual)
        self._driver = driver
        driver.start()
        log.debug("started on %r: %r", driver.loop, self._handler.function)

    async def aclose(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """Refuse pushes, handle what there is, and end.

        Lifts no pause and does not wait for what only a pause holds. Calling it again does
        nothing, or waits for the first call. If it is cancelled, what is left ends at once.

        Args:
            drain: Whether to handle what waits and let calls finish. Otherwise what waits ends
                `abandoned`, and calls are cancelled.
            timeout_s: Seconds to drain for, at most; `close_timeout_s` unless given. After that
                it goes on as without draining.

        Raises:
            RuntimeError: It is called inside a handler of this queue, which it would wait for.
            ValueError: `timeout_s` is negative or not a number.
        """
        timeout_s = self._config.retry.close_timeout_s if timeout_s is None else timeout_s
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, Real) or not timeout_s >= 0:
            raise ValueError(f"timeout_s={timeout_s!r}: must be seconds of at least 0")
        if self._forked:
            return
        if self._driver is not None:
            await self._driver.close(drain=drain, timeout_s=float(timeout_s))
            return
        self._close()
        self._abandon()
        self._listeners.end()

    async def __aenter__(self) -> Queue[P]:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it: with draining, unless the body has raised."""
        await self.aclose(drain=kind is None)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run the queue for as long as an ASGI application: `FastAPI(lifespan=queue.lifespan)`.

        Args:
            app: The application, which is not looked at.
        """
        async with self:
            yield

    async def join(self) -> None:
        """Wait until nothing waits and nothing runs, in paused groups too.

        Cancelling it changes nothing for the messages.

        Raises:
            RuntimeError: The queue has not been started, or this is inside a handler of it.
        """
        if self._driver is None:
            if self._is_idle():
                return
            raise RuntimeError("messages wait and the queue has not been started; await start()")
        await self._driver.join()

    # Looks.

    def status(self, group: str) -> Status:
        """Tell how a group is; one that is not known has nothing waiting and nothing running.

        Raises:
            TypeError, ValueError: `group` cannot be the name of a group.
        """
        figures = self._status(group)
        if figures is None:
            return Status(group=group, paused=False, waiting=0, running=0)
        return Status(group=group, **figures)

    def stats(self) -> Stats:
        """Count what has happened since the queue was made, and how it stands now."""
        figures = dict(self._figures())
        ledger = Ledger(**figures.pop("ledger"))
        back_to_back, bursts = figures.pop("back_to_back"), figures.pop("bursts")
        wait, handling = (_seconds(figures.pop(name)) for name in ("wait", "handling"))
        return Stats(
            total_messages=ledger.accepted,
            processed_messages=ledger.done,
            failed_messages=ledger.dead,
            back_to_back_groups=back_to_back + bursts,
            waiting=ledger.waiting,
            running_messages=ledger.running,
            bursts=bursts,
            ends=ledger.ends,
            wait=wait,
            handling=handling,
            batch_size=_messages(figures.pop("batch_size")),
            **figures,
        )

    def check(self) -> Ledger:
        """Prove that every accepted message is in exactly one place, and say where they are.

        Raises:
            Imbalance: The sums do not add up, which is a bug in chinwag.
        """
        return Ledger(**self._ledger())

    def events(self, *, buffer: int = 10_000) -> EventStream:
        """Read what happens from now on: `async for event in queue.events()`.

        Ends when the queue is closed and everything has been read. Events that are not read in
        time are dropped, the oldest first, and an `EventsMissed` says how many.

        Args:
            buffer: How many events to keep for a slow reader.

        Raises:
            ValueError: `buffer` is not a whole number of at least 1.
        """
        return self._listeners.stream(buffer)

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call `callback(event)` on the event loop for whatever happens from now on.

        It is called after the queue has done its work; what it raises is logged.

        Returns:
            A function that ends the subscription.

        Raises:
            TypeError: `callback` is not callable.
        """
        return self._listeners.add(callback)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed() else "started" if self._driver else "not started"
        return f"<Queue, {state}, {'idle' if self._is_idle() else 'at work'}>"


@cache
def _edges(step: float) -> tuple[float, ...]:
    return tuple(edge * step for edge in _core.histogram_edges())


def _seconds(figures: Mapping[str, Any]) -> Histogram:
    return Histogram(
        _edges(_MICROSECOND),
        array("Q", figures["counts"]),
        total=figures["total"] * _MICROSECOND,
        maximum=figures["maximum"] * _MICROSECOND,
        step=_MICROSECOND,
        unit="s",
    )


def _messages(figures: Mapping[str, Any]) -> Histogram:
    counts = array("Q", figures["counts"])
    return Histogram(_edges(1), counts, total=figures["total"], maximum=figures["maximum"])


def _inert_after_fork() -> None:
    for queue in tuple(_alive):
        # One that was only made, before a server forks its workers say, is as good as new.
        if queue._driver is not None or not queue._is_idle():
            queue._forked = True
            queue._fork()


_MICROSECOND = 1e-6

_FORKED = "this queue belongs to the process that this one was forked from; make a new one"

# Plain functions that run at once when `max_concurrent` sets no limit.
_MOST_THREADS = 64

# A forked process has no loop and no runners for the queues of its parent.
_alive: weakref.WeakSet[Queue[Any]] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inert_after_fork)

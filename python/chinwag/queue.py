"""The queue: put messages into it, give it a handler, and it decides the rest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, TypeVar

from chinwag import _core
from chinwag._checks import real, show
from chinwag._core import Batch
from chinwag._driver import Driver
from chinwag._handler import Handler
from chinwag._listeners import EventStream, Listeners
from chinwag._runner import log
from chinwag.columns import Verdicts, column, options
from chinwag.config import Config, settings_of_a_group, sources_in_a_group
from chinwag.context import Context
from chinwag.dead import DeadLetters
from chinwag.errors import ConfigError
from chinwag.events import Event
from chinwag.explain import Explanation, explanation
from chinwag.group import Group
from chinwag.stats import Ledger, Stats, Status, summed_up

__all__ = ["Queue"]

P = TypeVar("P")
F = TypeVar("F", bound=Callable[..., Any])


class Queue(_core.Core[P]):
    """Decides when, in which order and together with what each message is handled.

    Messages can be put into it from any thread and before it is started; the handler is called on
    the event loop that it is started on, or in a thread if it is a plain function.

    Args:
        handler: `async def reply(batch)` or `(batch, ctx)`; a plain function runs in a thread.
            Can be given later, with `@queue.handler`. There are `max_concurrent` threads, or 64
            if that is not set; calls beyond them wait for one, and count as running.
        config: All settings at once; single ones given beside it go before.
        clock: A clock that a test moves; by default the system's.
        **settings: Single settings by their names in `chinwag.settings`, such as `quiet_s=2`.

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
        if config is not None and not issubclass(type(config), Config):
            raise ConfigError(f"config must be a chinwag.Config, not {type(config).__name__}")
        if config is None or settings:
            config = Config.of(**{**(config.flat() if config else {}), **settings})
        if clock is None:
            # On the event loop of a test the queue goes by the test's clock from the beginning.
            clock = getattr(asyncio._get_running_loop(), "chinwag_clock", None)
        super().__init__(config.profile(), clock)
        self._config = config
        # What was given for single groups, and what they go by.
        self._configured: dict[str, tuple[dict[str, Any], Config]] = {}
        # Reentrant: the collector may run a finalizer that configures, whatever is at work.
        self._configuring = threading.RLock()
        self._handler = None if handler is None else Handler.of(handler)
        self._driver: Driver | None = None
        self._listeners = Listeners(self)
        self._dead: DeadLetters[P] = DeadLetters(self, config.retry.dead_limit)
        self._fallback: Handler | None = None
        self._on_error: Callable[[Batch[P], BaseException | None, int], object] | None = None
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

    def fallback(self, function: F) -> F:
        """Register what is called for the messages of groups that are out of service.

        Like a handler, it takes (batch) or (batch, ctx), and is a coroutine function or a plain
        one; each batch has one message. See `disable`.

        Raises:
            TypeError: It is not callable, or takes neither (batch) nor (batch, ctx).
            RuntimeError: There is one already, or the queue has been started.
        """
        if self._fallback is not None:
            raise RuntimeError("this queue has a fallback already; it can have one")
        if self._driver is not None:
            raise RuntimeError("the queue has been started; register the fallback before that")
        self._fallback = Handler.of(function)
        return function

    # Pushing.

    async def put(
        self,
        group: str,
        sender: str,
        payload: P,
        *,
        id: str | None = None,
        at: float | datetime | None = None,
        real_time: bool = False,
        rank: float = 0,
        size: float = 1,
        batch_key: str | None = None,
        quiet_s: float | None = None,
        flush: bool = False,
        standalone: bool = False,
        bypass: bool = False,
        context: bool = False,
        ttl_s: float | None = None,
        delay_s: float | None = None,
        background: bool = False,
        on_busy: Literal["enqueue", "inject", "interrupt", "rollback", "reject"] | None = None,
    ) -> _core.Receipt:
        """Accept a message, as `put_nowait` does, and wait for room if there is none.

        It waits for the whole queue's room, and for the group's under `overflow="refuse"`. Those
        who wait for a group are served first come, first served, and meanwhile `put_nowait` to it
        is refused. Cancelling it leaves no trace, unless the message has been accepted by then.

        Args:
            group: As for `put_nowait`, like everything else.
            sender: See there.
            payload: See there.
            id: See there.
            at: See there.
            real_time: See there.
            rank: See there.
            size: See there.
            batch_key: See there.
            quiet_s: See there.
            flush: See there.
            standalone: See there.
            bypass: See there. It never waits.
            context: See there. It never waits.
            ttl_s: See there.
            delay_s: See there.
            background: See there.
            on_busy: See there.

        Raises:
            QueueClosed: The queue has been closed, maybe while this waited.
            Rejected: A message with this id is there, or was a moment ago; or its lane is busy.
            QueueFull: As many messages bypass the others as may.
            TypeError, ValueError: An argument cannot be taken.
        """
        # In the order of `put_nowait`.
        asked = (
            id,
            at,
            real_time,
            rank,
            size,
            batch_key,
            quiet_s,
            flush,
            standalone,
            bypass,
            context,
            ttl_s,
            delay_s,
            background,
            on_busy,
        )
        ticket: int | None = None
        while True:
            try:
                receipt = self._put(ticket, group, sender, payload, asked)
            except BaseException:
                if ticket is not None:  # the place that is kept goes to the next
                    self._leave_line(ticket)
                raise
            if receipt is not None:
                return receipt
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            ticket = self._queue_up(group, place)
            try:
                await place
            except BaseException:
                self._leave_line(ticket)
                raise

    def put_many(
        self,
        groups: Iterable[str],
        senders: Iterable[str],
        payloads: Iterable[P],
        **columns: Any,
    ) -> Verdicts:
        """Push many messages at once, in the order of the rows, from any thread.

        Args:
            groups: One name a row: a list, a numpy array of texts or objects, any iterable.
            senders: Likewise.
            payloads: One payload a row. It says how many rows there are, so it must end.
            **columns: The options of `put_nowait`, such as `at`, `id` or `rank`: a column of the
                same length, in which None is an option left out, or (but for `id`) one value for
                all rows. `at` can also be a column of `datetime64`, taken as UTC.

        Returns:
            What became of each row. No row raises; receipts are for those who push one by one.

        Raises:
            QueueClosed: The queue has been closed.
            TypeError, ValueError: A column is none, has another length, or a value that cannot be
                taken; the message names column and row. Nothing was pushed.
        """
        try:
            payload_list = column("payloads", payloads, None)
            rows = len(payload_list)
            group_list = column("groups", groups, rows)
            sender_list = column("senders", senders, rows)
            chosen = options(columns, rows)
        except (TypeError, ValueError):
            self._put_many([], [], [], {})  # a closed queue says that first
            raise
        return Verdicts(self._put_many(group_list, sender_list, payload_list, chosen))

    def group(self, name: str) -> Group[P]:
        """Give a handle on a group: its verbs without naming it each time.

        Raises:
            TypeError, ValueError: `name` cannot be the name of a group.
        """
        return Group(self, self._named(name))

    # Groups out of service.

    def disable(self, group: str) -> bool:
        """Take a group out of service: hand its messages to the fallback, one by one.

        Running calls end first. Then whatever waits there, what backs off and the context too, and
        all that comes, goes to `@queue.fallback` in push order, each message in a call of its own;
        windows and policies are ignored. One that fails is `dead`. Nothing is lost or reordered.

        Args:
            group: It need not exist yet.

        Returns:
            Whether that changed something.

        Raises:
            RuntimeError: There is no fallback.
        """
        if self._fallback is None:
            raise RuntimeError(
                "there is nobody to hand the messages to; register a fallback: @queue.fallback"
            )
        return self._disable(group)

    # Settings of groups.

    def configure(self, group: str, **settings: Any) -> Config:
        """Set something for one group, whether it exists yet or not.

        Windows opened, calls started and batches scored from now on follow it. It goes before the
        queue's settings and those of its size, keeps what was set for the group before, and
        outlives the group's messages.

        Args:
            group: Which.
            **settings: By their names in `chinwag.settings`; those of the whole queue, such as
                `capacity`, cannot be set for a group.

        Returns:
            What the group goes by below the first size band.

        Raises:
            ConfigError: A setting is unknown, has a wrong value, contradicts another or is the
                whole queue's; or `lanes` changes while something of the group waits or runs.
            TypeError, ValueError: `group` cannot be the name of a group.
        """
        name = self._named(group)
        given = settings_of_a_group(settings)  # before the lock: it calls methods of the values
        with self._configuring:
            while True:
                known = self._configured.get(name)
                wanted = {**(known[0] if known else {}), **given}
                config = self._config.for_group(**wanted)
                if not self._configure(name, config.profile()):
                    raise ConfigError(
                        f"lanes={config.window.lanes!r}: cannot change while something of "
                        f"{show(name)} waits or runs; set it before the first message, or after "
                        "it has come to rest"
                    )
                if self._configured.get(name) is known:
                    self._configured[name] = wanted, config
                    return config
                # A finalizer has configured this group meanwhile, so both are put together.

    def on_error(self, function: F) -> F:
        """Have a function told of every failure; used as a decorator.

        It is called on the event loop with the batch, the exception and which attempt it was, also
        when the batch will be tried again, and for a message that the handler gave up on (None if
        it said of what). What it raises is logged.

        Raises:
            TypeError: It is not callable.
            RuntimeError: There is one already, or the queue has been started.
        """
        if not callable(function):
            raise TypeError(f"on_error={show(function)}: must be callable")
        if self._on_error is not None or self._driver is not None:
            raise RuntimeError("on_error can be given once, before the queue is started")
        self._on_error = function
        return function

    @property
    def dead(self) -> DeadLetters[P]:
        """Messages that ended `dead`, the latest `dead_limit`: to look at, retry or drop."""
        return self._dead

    # Life.

    async def start(self) -> None:
        """Begin to handle what has been and will be put into the queue, on the running loop.

        Raises:
            RuntimeError: It has been started or closed, or there is no running event loop.
            ConfigError: It has no handler.
        """
        self._refuse_forked()
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
            fallback=self._fallback,
            grace_s=busy.cancel_grace_s,
            emit_limit=busy.emit_limit,
            threads=limits.max_concurrent or _MOST_THREADS,
            listeners=self._listeners,
            retry=self._config.retry,
            dead=self._dead,
            on_error=self._on_error,
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
        if timeout_s is None:
            timeout_s = self._config.retry.close_timeout_s
        span = real(timeout_s)
        if span is None or not span >= 0:
            raise ValueError(f"timeout_s={show(timeout_s)}: must be seconds of at least 0")
        if self._forked:
            return
        if self._driver is not None:
            await self._driver.close(drain=drain, timeout_s=span)
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
        self._refuse_forked()
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
        name = self._named(group)
        figures = self._status(name)
        if figures is None:
            size, _, _ = self._outlook(name)
            return Status(group=name, paused=False, waiting=0, running=0, size=size)
        return Status(group=name, **figures)

    def explain(self, group: str) -> Explanation:
        """Tell why what runs in a group has started, and what everything else in it waits for.

        A group that is not known has nothing waiting and nothing running.

        Raises:
            TypeError, ValueError: `group` cannot be the name of a group.
        """
        name = self._named(group)
        facts = self._explain(name)
        at = self._now_us() / 1e6
        own, config = self._configured.get(name, ({}, self._config))
        if facts is None:
            size, strategy, mark = self._outlook(name)
            facts = {"size": size, "strategy": strategy, "band_from": mark}
        settings = sources_in_a_group(config, own, facts.pop("band_from"))
        return explanation(name, at, facts, settings)

    def stats(self) -> Stats:
        """Count what has happened since the queue was made, and how it stands now."""
        return summed_up(self._figures())

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
        self._refuse_forked()
        return self._listeners.stream(buffer)

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call `callback(event)` on the event loop for whatever happens from now on.

        It is called after the queue has done its work; what it raises is logged.

        Returns:
            A function that ends the subscription.

        Raises:
            TypeError: `callback` is not callable.
        """
        self._refuse_forked()
        return self._listeners.add(callback)

    def _refuse_forked(self) -> None:
        if self._forked:
            raise RuntimeError(_FORKED)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed() else "started" if self._driver else "not started"
        return f"<Queue, {state}, {'idle' if self._is_idle() else 'at work'}>"


def _inert_after_fork() -> None:
    for queue in tuple(_alive):
        # One that was only made, before a server forks its workers say, is as good as new.
        if queue._driver is not None or not queue._is_idle():
            queue._forked = True
            queue._fork()
            queue._listeners.fork(_FORKED)


_FORKED = "this queue belongs to the process that this one was forked from; make a new one"

# Plain functions that run at once when `max_concurrent` sets no limit.
_MOST_THREADS = 64

# A forked process has no loop and no runners for the queues of its parent.
_alive: weakref.WeakSet[Queue[Any]] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inert_after_fork)

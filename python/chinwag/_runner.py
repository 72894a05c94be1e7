"""A long-lived task that makes one call after the other.

A task for each call would be most of what a message costs, so a runner makes many. Yet no call
may see anything of the one before it. After a call the runner is retired, and a new one takes
over, when the call left something behind: context variables that are not what they were before, a
request to cancel the task that has not been withdrawn, a name or callbacks of the task, or
somebody who still refers to the task and could cancel it when it makes a call for another group.

Looking at all that after every call would cost more than the call, so reference counts are looked
at. Whatever happens, one of four is not what it was (see `_alone` and `Runner._renew`), and only
then the rest is looked at.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context as Variables
from contextvars import copy_context
from functools import cache
from gc import get_referents
from operator import is_
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import getweakrefcount

from chinwag._calling import Call, calling
from chinwag.context import Context

if TYPE_CHECKING:
    from chinwag._core import Batch, Message
    from chinwag._driver import Driver
    from chinwag._handler import Handler

__all__ = ["Failure", "Runner", "RunnerTask", "is_rooted", "log"]

log = logging.getLogger("chinwag")


class RunnerTask(asyncio.Task[None]):
    """A task that knows what others did to it."""

    touched: RunnerTask | None = None
    """Itself when others did something: one reference more, so a look at those tells that too."""
    marked = False
    """Of what they did something is left, such as a name."""
    _log_destroy_pending: bool  # asyncio's own

    def touch(self, *, mark: bool) -> None:
        """Note that something was done to it."""
        super().__setattr__("touched", self)
        if mark:
            super().__setattr__("marked", True)

    def forget(self) -> None:
        """Nothing is left of what was done to it."""
        super().__setattr__("touched", None)

    def cancel(self, msg: Any | None = None) -> bool:
        """Request cancellation, and remember it."""
        self.touch(mark=False)
        return super().cancel(msg)

    def add_done_callback(
        self, fn: Callable[[RunnerTask], object], /, *, context: Variables | None = None
    ) -> None:
        """Have it called, and remember that."""
        self.touch(mark=True)
        super().add_done_callback(fn, context=context)

    def set_name(self, value: object, /) -> None:
        """Give it a name, and remember that."""
        self.touch(mark=True)
        super().set_name(value)

    def __setattr__(self, name: str, value: object) -> None:
        self.touch(mark=True)
        super().__setattr__(name, value)


class Failure:
    """What a call failed of: for the receipts of its messages, and for the dead letters.

    If a message is dead of it, it goes, and nobody has seen it, it is logged: once for the call, at
    the latest moment at which somebody could still have looked.
    """

    __slots__ = ("_batch", "_by_seq", "_dead", "_driver", "_error", "_message", "_reason", "_seen")

    def __init__(
        self,
        driver: Driver,
        batch: Batch[Any],
        error: BaseException | None,
        reason: str,
        *,
        message: Message[Any] | None = None,
    ) -> None:
        self._driver = driver
        self._batch = batch
        # The one that failed, if the call itself did not.
        self._message = message
        self._by_seq: dict[int, Message[Any]] | None = None
        self._error = error
        self._reason = reason
        self._dead = 0
        self._seen = False

    def seen(self) -> BaseException | None:
        """Take the error; from now on somebody knows of it."""
        self._seen = True
        return self._error

    def die(self, seq: int, reason: str) -> None:
        """Note that a message has ended `dead` of it."""
        self._dead += 1
        self._reason = reason
        if self._by_seq is None:
            of_call = (*self._batch, *self._batch._taken, *self._batch.context)
            failed = of_call if self._message is None else (self._message,)
            self._by_seq = {message._seq: message for message in failed}
        if message := self._by_seq.get(seq):
            self._driver.bury(message, self._batch._attempt, reason, self._error)

    def __del__(self) -> None:
        if self._seen or not self._dead:
            return
        log.error(
            "a call in group %r failed (%s); it was for %d message(s), which ended dead",
            self._batch.group,
            self._reason,
            self._dead,
            exc_info=self._error,
        )


class Runner:
    """Makes calls, one at a time, as the driver hands out batches."""

    __slots__ = (
        "_alone",
        "_base",
        "_caller",
        "_context",
        "_driver",
        "_over",
        "_variables",
        "batch",
        "call",
        "ending",
        "fenced",
        "parking",
        "task",
    )

    def __init__(self, driver: Driver, batch: Batch[Any], variables: Variables) -> None:
        self.batch: Batch[Any] | Literal[False] | None = batch
        """What it is calling the handler for."""
        self.call: Call
        """What `calling` is in the call that it makes."""
        self.ending: str | None = None
        """Why the driver ends its call."""
        self.fenced = False
        """Its call has lost its lease and goes on all the same."""
        self.parking: asyncio.Future[None] | None = None
        """Resolved when there is a new batch, or no more."""
        self.task: RunnerTask
        self._driver = driver
        self._caller = self._call()
        self._context: Context | None = None
        self._over = False
        self._variables = variables
        self._base: Variables
        self._alone = _alone()

    async def work(self) -> None:
        """Make calls until the driver has no more use for this runner."""
        driver, task = self._driver, self.task
        call = self._caller
        # Only who is told of its call can have said something about it.
        takes_context = driver.handler.takes_context or driver.fallback is not None
        done = self._settled if takes_context else driver.done
        batch = self.batch
        refs, weakrefs = self._alone
        values, token = self._renew()
        held, known = getrefcount(values), getrefcount(token) if driver.rooted else 0
        while True:
            if batch is None or batch is False:
                if (
                    not driver.park(self, batch)
                    or getrefcount(task) != refs
                    or getweakrefcount(task) != weakrefs
                ):
                    return
                assert self.parking is not None
                await self.parking
                batch = self.batch
                if not batch:
                    return
            try:
                result = await call(batch)
            except BaseException as error:
                left = (
                    self._is_touched()
                    or getrefcount(task) != refs
                    or getweakrefcount(task) != weakrefs
                    or self._differs(values)
                )
                self.batch = batch = self._failed(batch, error, left)
                if not isinstance(error, Exception) and self._over:
                    raise
                if self._over:
                    return
                values, token = self._renew()
                held, known = getrefcount(values), getrefcount(token) if driver.rooted else 0
            else:
                if (
                    getrefcount(values) != held
                    or getrefcount(token) != known
                    or getrefcount(task) != refs
                    or getweakrefcount(task) != weakrefs
                ):
                    if (
                        self._is_touched()
                        or getrefcount(task) != refs
                        or getweakrefcount(task) != weakrefs
                        or self._differs(values)
                    ):
                        self._end_last(batch, result)
                        return
                    values, token = self._renew()
                    held, known = getrefcount(values), getrefcount(token) if driver.rooted else 0
                try:
                    self.batch = batch = done(batch, result)
                except TimeoutError:
                    assert batch
                    self.batch = batch = driver.fail(batch, None, "timeout", more=True)
                result = None
            # In this order: a batch is asked for its length.
            if not driver.promoting and batch:
                driver.promote()

    def end(self, reason: str) -> None:
        """Ask the call to end; what comes of it now counts for nothing."""
        self.decide(reason)
        if self.handler.is_async:
            self.task.cancel()

    @property
    def handler(self) -> Handler:
        """What it is calling."""
        fallback = self._driver.fallback
        if fallback is not None and self.batch and self.batch._fallback:
            return fallback
        return self._driver.handler

    def decide(self, reason: str) -> None:
        """Let nothing count that comes of the call from now on."""
        self.ending = reason
        self.task.touch(mark=False)
        if self._context is not None:
            self._context._ending._set(reason)

    def supersede(self) -> None:
        """Tell the call that something waits behind it."""
        if self._context is not None and self._context._superseded is not None:
            self._context._superseded._set()

    def _renew(self) -> tuple[object, Call]:
        """Tell the next call from those before, also for what these have started.

        Returns what the context has its variables in, and what stands for the call there. While
        the context is as it is now and nobody has a copy of it, references to both are as many as
        now. A copy is one more to the first; another value of a variable, here or in a copy, makes
        a copy of the node that holds the second, if that is where it is (see `is_rooted`).
        """
        variables = self._variables
        self.call = call = (self,)
        calling.set(call)
        self._base = variables.copy()
        return get_referents(variables)[-1], call

    def _differs(self, values: object) -> bool:
        """Whether a variable is not what it was; being equal is not enough."""
        variables, base = self._variables, self._base
        return get_referents(variables)[-1] is not values and not (
            len(variables) == len(base)
            and all(map(is_, variables, base))
            and all(map(is_, variables.values(), base.values()))
        )

    def _end_last(self, batch: Batch[Any], result: object) -> None:
        """Settle a call that returned and left something behind; its runner takes no other."""
        core = self._driver.core
        if self._context is not None:
            self._context._over = True
        if self.ending == "timeout":
            self._driver.fail(batch, None, self.ending)
        elif self.ending is not None:
            core._end(batch, _how(self.ending), None)
        elif getattr(self.task, _PENDING, False):
            # It cancelled itself and returned before that could reach it.
            self._driver.put_back(batch, asyncio.CancelledError())
        else:
            try:
                if self._context is not None:
                    self._settled(batch, result, more=False)
                else:
                    core._end(batch, None, result)
            except TimeoutError:
                self._driver.fail(batch, None, "timeout")
        self._retire()

    def _settled(
        self, batch: Batch[Any], result: object, *, more: bool = True
    ) -> Batch[Any] | Literal[False] | None:
        """Settle a call that returned, as it said in its context; the next batch if wanted."""
        driver, context = self._driver, self._context
        if context is None:
            return driver.done(batch, result) if more else driver.core._end(batch, None, result)
        # A snooze is no success, and a call whose end is decided has none.
        if context._buffer and context._snooze_s is None and driver.core._commit(batch):
            context._flush()
        context._over = True
        if not context._failures and context._snooze_s is None:
            return driver.done(batch, result) if more else driver.core._end(batch, None, result)
        failures = []
        for place, error in context._failures.items():
            message = context._message(place)
            failure = Failure(driver, batch, error, "failed", message=message)
            failures.append((place, failure))
        after = driver.core._part(batch, result, failures, context._snooze_s, more)
        for error in context._failures.values():  # now that the call itself has not failed
            driver.tell_of(batch, error, "failed")
        return after

    def _failed(
        self, batch: Batch[Any], error: BaseException, left: bool
    ) -> Batch[Any] | Literal[False] | None:
        """Settle a call that raised; the next batch, unless this was the runner's last."""
        cancelled = isinstance(error, asyncio.CancelledError)
        if error.__traceback__ is not None:  # without the runner's own frame
            error.__traceback__ = error.__traceback__.tb_next
        self._over = left or not (cancelled or isinstance(error, Exception))
        if self._context is not None:
            self._context._over = True
        driver, more = self._driver, not self._over
        after: Batch[Any] | Literal[False] | None
        if self.ending == "timeout":
            after = driver.fail(batch, None if cancelled else error, self.ending, more=more)
        elif self.ending is not None:
            after = driver.core._end(batch, _how(self.ending), None, more)
        elif cancelled and driver.is_ending():
            after = driver.core._end(batch, "closed", None, more)
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            driver.halt(type(error).__name__)
            after = driver.put_back(batch, error)
        elif cancelled and self.task.cancelling():
            after = driver.put_back(batch, error, more=more)
        else:
            after = driver.fail(batch, error, "cancelled" if cancelled else "error", more=more)
        if self._over:
            self._retire(quietly=isinstance(error, GeneratorExit))
            return None
        return after

    def _retire(self, *, quietly: bool = False) -> None:
        self.batch = None
        if not quietly:
            self._driver.promote()

    def _is_touched(self) -> bool:
        """Whether something is left of what others did to the task, as not of a past time-out."""
        task = self.task
        if task.touched is None:
            return False
        if (
            task.marked
            or self.ending is not None
            or task.cancelling()
            or getattr(task, _PENDING, False)
        ):
            return True
        task.forget()
        return False

    def _call(self) -> Callable[[Batch[Any]], Awaitable[Any]]:
        driver = self._driver
        usual = self._call_of(driver.handler)
        if driver.fallback is None:
            return usual
        fallback = self._call_of(driver.fallback)

        def call(batch: Batch[Any]) -> Awaitable[Any]:
            self._context = None
            return fallback(batch) if batch._fallback else usual(batch)

        return call

    def _call_of(self, handler: Handler) -> Callable[[Batch[Any]], Awaitable[Any]]:
        if not handler.is_async:
            return self._call_in_thread
        if not handler.takes_context:
            function: Callable[[Batch[Any]], Awaitable[Any]] = handler.function
            return function

        def call(batch: Batch[Any]) -> Awaitable[Any]:
            self._context = context = Context(self._driver.core, batch, self._driver.emit_limit)
            awaitable: Awaitable[Any] = handler.function(batch, context)
            return awaitable

        return call

    async def _call_in_thread(self, batch: Batch[Any]) -> Any:
        """Call a plain function; a thread cannot be cancelled, so an end waits for it."""
        handler, driver = self.handler, self._driver
        self._context = context = Context(driver.core, batch, driver.emit_limit)
        args = (batch, context) if handler.takes_context else (batch,)
        job = driver.loop.run_in_executor(
            driver.threads, copy_context().run, _outcome, handler.function, *args
        )
        try:
            result, error = await asyncio.shield(job)
        except asyncio.CancelledError:
            if self.ending is None and not job.done():
                context._ending._set("cancelled")
                await asyncio.wait({job}, timeout=driver.grace_s)
            raise
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result


def _how(ending: str) -> str:
    """How a call is settled that was told to end: the engine knows what it has decided itself."""
    return "closed" if ending == "closed" else "decided"


def _outcome(function: Callable[..., Any], *args: object) -> tuple[Any, BaseException | None]:
    """Call it and hand over what it raises as a value: a future cannot carry every exception."""
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


def is_rooted(variables: Variables) -> bool:
    """Whether `calling` is in the uppermost node of the tree of a context's variables.

    Every change of a variable copies that node. With few variables most are there.
    """
    mark = cast("Call", (None,))
    variables.run(calling.set, mark)
    (root,) = get_referents(get_referents(variables)[-1])
    return any(node is mark for node in get_referents(root))


class _Aside:
    """What little of an event loop one step of a task needs."""

    def get_debug(self) -> bool:
        return False

    def call_soon(self, step: Callable[[], object], *, context: Variables) -> None:
        self._step = step

    def run(self) -> None:
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(cast("asyncio.AbstractEventLoop", self))
        try:
            self._step()
        finally:
            asyncio._set_running_loop(loop)


@cache
def _alone() -> tuple[int, int]:
    """How many refer to the task of a runner at work, strongly and weakly, if nobody else does.

    Counted in a task on a loop of its own, since others may look at all that are on the real one.
    """
    counts: list[int] = []
    runner = type("Runner", (), {})()

    async def work() -> None:
        task = runner.task
        counts.extend((getrefcount(task), getweakrefcount(task)))

    aside = _Aside()
    runner.task = RunnerTask(work(), loop=cast("asyncio.AbstractEventLoop", aside))
    aside.run()
    return counts[0], counts[1]


_PENDING = "_must_cancel"

"""A long-lived task that makes one call after the other.

A task for each call would be most of what a message costs, so a runner makes many. Yet no call
may see anything of the one before it. After a call the runner is retired, and a new one takes
over, when the call left something behind: context variables that differ from before, a request to
cancel the task that has not been withdrawn, or somebody who still refers to the task and could
cancel it when it makes a call for another group.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context as Variables
from contextvars import ContextVar, copy_context
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Literal

from chinwag.context import Context

if TYPE_CHECKING:
    from chinwag._core import Batch
    from chinwag._driver import Driver
    from chinwag._handler import Handler

__all__ = ["Failure", "Runner", "RunnerTask", "calling", "log"]

log = logging.getLogger("chinwag")

calling: ContextVar[Runner | None] = ContextVar("chinwag_calling", default=None)
"""The runner in whose call this code runs, or was started."""


class RunnerTask(asyncio.Task[None]):
    """A task that knows that it was asked to end."""

    touched = False
    _log_destroy_pending: bool  # asyncio's own

    def cancel(self, msg: Any | None = None) -> bool:
        """Request cancellation, and remember it."""
        self.touched = True
        return super().cancel(msg)


class Failure:
    """What a dead call raised, for the receipts of its messages.

    If it goes and nobody has seen it, it is logged: once for the call, at the latest moment at
    which somebody could still have looked.
    """

    __slots__ = ("_error", "_messages", "_reason", "_seen", "_where")

    def __init__(self, batch: Batch[Any], error: BaseException, reason: str) -> None:
        self._error = error
        self._reason = reason
        self._where = batch.group
        self._messages = len(batch)
        self._seen = False

    def seen(self) -> BaseException:
        """Take the error; from now on somebody knows of it."""
        self._seen = True
        return self._error

    def __del__(self) -> None:
        if self._seen:
            return
        log.error(
            "a call in group %r failed (%s); it was for %d message(s), which ended dead",
            self._where,
            self._reason,
            self._messages,
            exc_info=self._error,
        )


class Runner:
    """Makes calls, one at a time, as the driver hands out batches."""

    __slots__ = (
        "_call",
        "_context",
        "_driver",
        "_over",
        "_variables",
        "base",
        "batch",
        "ending",
        "fenced",
        "parking",
        "task",
    )

    def __init__(self, driver: Driver, batch: Batch[Any], variables: Variables) -> None:
        self.batch: Batch[Any] | Literal[False] | None = batch
        """What it is calling the handler for."""
        self.ending: str | None = None
        """Why the driver ends its call."""
        self.fenced = False
        """Its call has lost its lease and goes on all the same."""
        self.parking: asyncio.Future[None] | None = None
        """Resolved when there is a new batch, or no more."""
        self.task: RunnerTask
        self._driver = driver
        self._call = self._caller(driver.handler)
        self._context: Context | None = None
        self._over = False
        variables.run(calling.set, self)
        self._variables = variables
        self.base = variables.copy()

    async def work(self) -> None:
        """Make calls until the driver has no more use for this runner."""
        driver, task, variables, base = self._driver, self.task, self._variables, self.base
        call, done = self._call, driver.done
        batch = self.batch
        refs = getrefcount(task)
        while True:
            if not batch:
                if not driver.park(self, batch):
                    return
                assert self.parking is not None
                await self.parking
                batch = self.batch
                if not batch:
                    return
            try:
                result = await call(batch)
            except BaseException as error:
                left = _differ(variables, base) or getrefcount(task) != refs
                self.batch = batch = self._failed(batch, error, left)
                if not isinstance(error, Exception) and self._over:
                    raise
                if self._over:
                    return
            else:
                # Comparing contexts may run any code; what raises counts as changed.
                try:
                    left = task.touched or variables != base or getrefcount(task) != refs
                except Exception:
                    left = True
                if left and self._must_retire(batch, result, refs):
                    return
                self.batch = batch = done(batch, result)
                result = None
            if batch and not driver.promoting:
                driver.promote()

    def end(self, reason: str) -> None:
        """Ask the call to end; what comes of it now counts for nothing."""
        self.decide(reason)
        if self._driver.handler.is_async:
            self.task.cancel()

    def decide(self, reason: str) -> None:
        """Let nothing count that comes of the call from now on."""
        self.ending = reason
        self.task.touched = True
        if self._context is not None:
            self._context._ending = reason

    def _must_retire(self, batch: Batch[Any], result: object, refs: int) -> bool:
        """Settle a call that returned and left something behind; false if it did not."""
        task = self.task
        cancelled = self._is_cancelled()
        if not (
            cancelled or _differ(self._variables, self.base) or getrefcount(task) - _HERE != refs
        ):
            return False
        core = self._driver.core
        if self.ending is not None:
            core._end(batch, "closed", None)
        elif getattr(task, "_must_cancel", False):
            # It cancelled itself and returned before that could reach it.
            core._end(batch, "cancelled", Failure(batch, asyncio.CancelledError(), "cancelled"))
        else:
            core._end(batch, None, result)
        self._retire()
        return True

    def _failed(
        self, batch: Batch[Any], error: BaseException, left: bool
    ) -> Batch[Any] | Literal[False] | None:
        """Settle a call that raised; the next batch, unless this was the runner's last."""
        cancelled = isinstance(error, asyncio.CancelledError)
        if error.__traceback__ is not None:  # without the runner's own frame
            error.__traceback__ = error.__traceback__.tb_next
        self._over = self._is_cancelled() or left or not (cancelled or isinstance(error, Exception))
        core, more = self._driver.core, not self._over
        after: Batch[Any] | Literal[False] | None
        if self.ending is not None or (cancelled and self._driver.is_ending()):
            after = core._end(batch, "closed", None, more)
        else:
            reason = "cancelled" if cancelled else "error"
            after = core._end(batch, reason, Failure(batch, error, reason), more)
        if self._over:
            self._retire(quietly=isinstance(error, GeneratorExit))
            return None
        return after

    def _retire(self, *, quietly: bool = False) -> None:
        self.batch = None
        if not quietly:
            self._driver.promote()

    def _is_cancelled(self) -> bool:
        """Whether somebody wants this task to end; a time-out that is over does not."""
        task = self.task
        if not task.touched:
            return False
        if self.ending is None and not task.cancelling() and not getattr(task, _PENDING, False):
            task.touched = False
            return False
        return True

    def _caller(self, handler: Handler) -> Callable[[Batch[Any]], Awaitable[Any]]:
        if not handler.is_async:
            return self._call_in_thread
        if not handler.takes_context:
            return handler.function

        def call(batch: Batch[Any]) -> Awaitable[Any]:
            self._context = context = Context(batch._attempt)
            awaitable: Awaitable[Any] = handler.function(batch, context)
            return awaitable

        return call

    async def _call_in_thread(self, batch: Batch[Any]) -> Any:
        """Call a plain function; a thread cannot be cancelled, so an end waits for it."""
        handler, driver = self._driver.handler, self._driver
        self._context = context = Context(batch._attempt)
        args = (batch, context) if handler.takes_context else (batch,)
        job = driver.loop.run_in_executor(
            driver.threads, copy_context().run, _outcome, handler.function, *args
        )
        try:
            result, error = await asyncio.shield(job)
        except asyncio.CancelledError:
            if self.ending is None and not job.done():
                context._ending = "cancelled"
                await asyncio.wait({job}, timeout=driver.grace_s)
            raise
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result


def _outcome(function: Callable[..., Any], *args: object) -> tuple[Any, BaseException | None]:
    """Call it and hand over what it raises as a value: a future cannot carry every exception."""
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


def _differ(variables: Variables, base: Variables) -> bool:
    try:
        return variables != base
    except Exception:
        return True


_PENDING = "_must_cancel"
# In a method of the runner, its local variable is one reference more.
_HERE = 1

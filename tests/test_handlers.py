"""Whatever a handler uses to wait, limit and group behaves as in any other task.

Each body runs twice, in a plain task and in a handler, and both must have seen the same: the same
steps, the same end, as many requests for cancellation pending at the end. The next call must see
nothing of it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.lowlevel import checkpoint

from chinwag import Batch, Context, Dropped, Queue, Receipt

# Only a test that fails waits as long.
WATCHDOG_S = 30
LONG_S = 3_600.0
SHORT_S = 0.001


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        return loop
    return asyncio.new_event_loop()


LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
        ),
    ),
]
Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine function, and see that no task is left."""

    def run_on(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def watched() -> Any:
            async with asyncio.timeout(WATCHDOG_S):
                result = await main()
                while left := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(left)
                return result

        with asyncio.Runner(loop_factory=lambda: new_loop(request.param)) as runner:
            return runner.run(watched())

    return run_on


class Seen(NamedTuple):
    """What can be told of a body from inside."""

    steps: list[object]
    end: object
    """What it returned, or the shape of what it raised."""
    cancelling: int
    """Requests for cancellation that are pending at the end."""


class Steps:
    """What a body notes; somebody may wait until it has come as far as it gets by itself."""

    def __init__(self) -> None:
        self.taken: list[object] = []
        self.waits = asyncio.Event()
        self.seen: Seen | None = None

    def __call__(self, step: object) -> None:
        self.taken.append(step)

    async def wait(self) -> None:
        """Wait for an end that others bring about."""
        self.waits.set()
        await asyncio.sleep(LONG_S)

    async def watch(self, body: Body) -> object:
        task = asyncio.current_task()
        assert task is not None
        end: object = None
        try:
            end = await body(self)
        except BaseException as error:
            end = shape(error)
            raise
        finally:
            self.seen = Seen(self.taken, end, task.cancelling())
        return end


Body = Callable[[Steps], Awaitable[object]]


def shape(error: BaseException) -> object:
    if isinstance(error, BaseExceptionGroup):
        return (type(error).__name__, [shape(part) for part in error.exceptions])
    return type(error).__name__


async def in_task(body: Body, *, ended: bool) -> Seen | None:
    steps = Steps()
    task = asyncio.ensure_future(steps.watch(body))
    if ended:
        await steps.waits.wait()
        task.cancel()
    await asyncio.wait([task])
    task.cancelled() or task.exception()  # as seen
    return steps.seen


async def in_handler(body: Body, *, ended: str | None) -> Seen | None:
    steps = Steps()

    async def handle(batch: Batch[str], ctx: Context) -> object:
        task = asyncio.current_task()
        assert task is not None
        if batch.payloads == ["next"]:
            await asyncio.sleep(0)  # where a cancellation that was left over would show
            return task.cancelling()
        return await steps.watch(body)

    limit_s = 0.1 if ended == "timeout" else None
    settings: dict[str, Any] = {"max_attempts": 1, "handler_timeout_s": limit_s}
    async with Queue[str](handle, max_batch=1, **settings) as queue:
        receipt = queue.put_nowait("room", "ann", "body")
        if ended in ("stop", "aclose"):
            await steps.waits.wait()
        if ended == "aclose":
            await queue.aclose(drain=False)
        elif ended == "stop":
            queue.stop("room")
        came = await outcome(receipt)
        if ended != "aclose":
            for _ in range(2):
                assert await queue.put_nowait("room", "ann", "next") == 0
    assert steps.seen is not None
    if ended is None:
        assert came == steps.seen.end or isinstance(came, tuple)
        came = None
    ends = {"stop": ("abandoned", "stopped"), "aclose": ("abandoned", "closed")}
    assert came == ({"timeout": ("dead", "timeout")} | ends).get(ended or "")
    return steps.seen


async def outcome(receipt: Receipt) -> object:
    """The result, or end and reason."""
    try:
        return await receipt
    except Dropped as dropped:
        return (dropped.end, dropped.reason)


# Bodies that end by themselves.


async def timeout_expires(steps: Steps) -> object:
    try:
        async with asyncio.timeout(SHORT_S) as limit:
            await asyncio.Event().wait()
    except TimeoutError:
        steps("expired")
    return limit.expired()


async def timeout_is_not_due(steps: Steps) -> object:
    async with asyncio.timeout(LONG_S) as limit:
        await asyncio.sleep(0)
    return limit.expired()


async def timeout_is_over_before_it_begins(steps: Steps) -> None:
    async with asyncio.timeout(-1):
        await asyncio.sleep(0)
        steps("not reached")


async def timeout_is_put_off(steps: Steps) -> object:
    async with asyncio.timeout(0) as limit:
        limit.reschedule(asyncio.get_running_loop().time() + LONG_S)
        await asyncio.sleep(SHORT_S)
    return limit.expired()


async def timeouts_expire_together(steps: Steps) -> None:
    async with asyncio.timeout(0):
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            steps("the inner one")
            await asyncio.Event().wait()


async def wait_for_times_out(steps: Steps) -> object:
    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps("tidied up")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(tidy(), SHORT_S)
    return await asyncio.wait_for(asyncio.sleep(0, "in time"), LONG_S)


async def wait_for_what_does_not_give_up(steps: Steps) -> object:
    async def swallow() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            steps("swallowed")
        return "late"

    return await asyncio.wait_for(swallow(), SHORT_S)


async def tasks_return(steps: Steps) -> object:
    async with asyncio.TaskGroup() as tasks:
        parts = [tasks.create_task(asyncio.sleep(0, number)) for number in range(3)]
    return [part.result() for part in parts]


async def a_task_fails(steps: Steps) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        other = tasks.create_task(asyncio.Event().wait())
        other.add_done_callback(lambda task: steps(task.cancelled()))
        try:
            await asyncio.Event().wait()
        finally:
            steps("cancelled by its group")


async def a_failing_task_is_made_good(steps: Steps) -> object:
    try:
        await a_task_fails(steps)
    except* ValueError:
        steps("made good")
    await asyncio.sleep(0)
    return "as if nothing had been"


async def tasks_have_a_time_limit(steps: Steps) -> None:
    async with asyncio.timeout(SHORT_S), asyncio.TaskGroup() as tasks:
        for _ in range(2):
            part = tasks.create_task(asyncio.Event().wait())
            part.add_done_callback(lambda task: steps(task.cancelled()))


async def a_shielded_part_goes_on(steps: Steps) -> object:
    part = asyncio.ensure_future(asyncio.sleep(2 * SHORT_S, "kept"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(part), 0)
    return await part


async def a_part_is_cancelled(steps: Steps) -> None:
    part = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(part.cancel)
    await part


async def parts_are_gathered(steps: Steps) -> object:
    part = asyncio.ensure_future(asyncio.Event().wait())
    part.cancel()
    done = await asyncio.gather(asyncio.sleep(0, 1), part, return_exceptions=True)
    return [shape(x) if isinstance(x, BaseException) else x for x in done]


async def anyio_moves_on(steps: Steps) -> object:
    with anyio.move_on_after(SHORT_S) as scope:
        await anyio.sleep_forever()
    await checkpoint()
    return scope.cancelled_caught


async def anyio_fails(steps: Steps) -> None:
    with anyio.fail_after(SHORT_S):
        await anyio.sleep_forever()


async def anyio_scopes_are_nested(steps: Steps) -> object:
    with anyio.move_on_after(SHORT_S) as outer:
        with anyio.move_on_after(LONG_S) as inner:
            await anyio.sleep_forever()
        steps("not reached")
    return (outer.cancelled_caught, inner.cancelled_caught)


async def anyio_shields(steps: Steps) -> object:
    with anyio.move_on_after(0) as scope:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(SHORT_S)
                steps("tidied up")
    return scope.cancelled_caught


async def anyio_tasks_are_cancelled(steps: Steps) -> object:
    async def wait(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        task_status.started("begun")
        try:
            await anyio.sleep_forever()
        finally:
            steps("ended")

    async with anyio.create_task_group() as tasks:
        steps(await tasks.start(wait))
        steps(await tasks.start(wait))
        tasks.cancel_scope.cancel()
    await checkpoint()
    return tasks.cancel_scope.cancelled_caught


async def an_anyio_task_fails(steps: Steps) -> None:
    async def fail() -> None:
        await checkpoint()
        raise ValueError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        try:
            await anyio.sleep_forever()
        finally:
            steps("cancelled by its group")


async def anyio_and_asyncio_are_mixed(steps: Steps) -> object:
    with anyio.move_on_after(LONG_S) as scope:
        try:
            async with asyncio.timeout(SHORT_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(anyio.sleep_forever())
        except TimeoutError:
            steps("the inner one")
        scope.cancel()
        await checkpoint()
        steps("not reached")
    return scope.cancelled_caught


async def anyio_uses_a_thread(steps: Steps) -> object:
    return await anyio.to_thread.run_sync(lambda: "from a thread")


@pytest.mark.parametrize(
    "body",
    [
        timeout_expires,
        timeout_is_not_due,
        timeout_is_over_before_it_begins,
        timeout_is_put_off,
        timeouts_expire_together,
        wait_for_times_out,
        wait_for_what_does_not_give_up,
        tasks_return,
        a_task_fails,
        a_failing_task_is_made_good,
        tasks_have_a_time_limit,
        a_shielded_part_goes_on,
        a_part_is_cancelled,
        parts_are_gathered,
        anyio_moves_on,
        anyio_fails,
        anyio_scopes_are_nested,
        anyio_shields,
        anyio_tasks_are_cancelled,
        an_anyio_task_fails,
        anyio_and_asyncio_are_mixed,
        anyio_uses_a_thread,
    ],
)
def test_a_body_ends_as_in_any_task(run: Run, body: Body) -> None:
    async def main() -> tuple[Seen | None, Seen | None]:
        return await in_task(body, ended=False), await in_handler(body, ended=None)

    plain, handled = run(main)

    assert handled == plain


# Bodies that others end.


async def waits(steps: Steps) -> None:
    await steps.wait()


async def swallows_it(steps: Steps) -> object:
    with suppress(asyncio.CancelledError):
        await steps.wait()
    await asyncio.sleep(0)
    return "what counts for nothing"


async def tidies_up_within_a_time_limit(steps: Steps) -> None:
    try:
        await steps.wait()
    finally:
        try:
            async with asyncio.timeout(SHORT_S):
                await asyncio.Event().wait()
        except TimeoutError:
            steps("expired, and no more than that")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(0))
        steps("tidied up")


async def has_a_time_limit(steps: Steps) -> None:
    try:
        async with asyncio.timeout(LONG_S):
            await steps.wait()
    except TimeoutError:
        steps("not its own")


async def has_a_time_limit_for_a_part(steps: Steps) -> None:
    try:
        await asyncio.wait_for(steps.wait(), LONG_S)
    except TimeoutError:
        steps("not its own")


async def has_tasks(steps: Steps) -> None:
    async with asyncio.TaskGroup() as tasks:
        part = tasks.create_task(asyncio.Event().wait())
        part.add_done_callback(lambda task: steps(task.cancelled()))
        await steps.wait()


async def has_tasks_that_fail_at_the_end(steps: Steps) -> None:
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        await steps.wait()


async def gathers_parts(steps: Steps) -> None:
    async def part() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            steps("ended")

    await asyncio.gather(steps.wait(), part())


async def shields_a_part(steps: Steps) -> None:
    part = asyncio.ensure_future(asyncio.sleep(SHORT_S, "kept"))
    steps.waits.set()
    try:
        await asyncio.shield(asyncio.shield(part))
        await asyncio.Event().wait()
    finally:
        steps(await part)


async def moves_on_with_anyio(steps: Steps) -> None:
    with anyio.move_on_after(LONG_S) as scope:
        try:
            await steps.wait()
        finally:
            steps(scope.cancel_called)
    steps("not reached")


async def shields_with_anyio(steps: Steps) -> None:
    with anyio.CancelScope(shield=True):
        try:
            await steps.wait()
        finally:
            await checkpoint()
            steps("tidied up")


async def has_anyio_tasks(steps: Steps) -> None:
    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            steps("ended")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await checkpoint()
        await steps.wait()


async def fails_with_anyio_at_the_end(steps: Steps) -> None:
    try:
        await steps.wait()
    finally:
        with anyio.fail_after(SHORT_S, shield=True):
            await anyio.sleep_forever()


@pytest.mark.parametrize("by", ["stop", "aclose", "timeout"])
@pytest.mark.parametrize(
    "body",
    [
        waits,
        swallows_it,
        tidies_up_within_a_time_limit,
        has_a_time_limit,
        has_a_time_limit_for_a_part,
        has_tasks,
        has_tasks_that_fail_at_the_end,
        gathers_parts,
        shields_a_part,
        moves_on_with_anyio,
        shields_with_anyio,
        has_anyio_tasks,
        fails_with_anyio_at_the_end,
    ],
)
def test_a_body_is_ended_as_any_task_is(run: Run, body: Body, by: str) -> None:
    async def main() -> tuple[Seen | None, Seen | None]:
        return await in_task(body, ended=True), await in_handler(body, ended=by)

    plain, handled = run(main)

    assert handled == plain


# What is told of failures.


class Odd(BaseException):
    """Not an `Exception`."""


@pytest.mark.parametrize("kind", [ValueError, Odd, asyncio.CancelledError])
@pytest.mark.parametrize("what", ["on_error", "retry_if"])
def test_what_is_told_of_failures_may_fail_itself(
    run: Run, what: str, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """A cancellation is nobody's here: it asked a cancelled future, say."""
    attempts: list[int] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        if batch.payloads == ["bad"]:
            attempts.append(ctx.attempt)
            raise ValueError("bad")
        return batch.payloads[0]

    def fail(*args: object) -> bool:
        raise kind

    async def main() -> list[object]:
        settings: dict[str, Any] = {"retry_if": fail} if what == "retry_if" else {}
        queue = Queue[str](handle, max_batch=1, max_attempts=2, backoff_s=0, **settings)
        if what == "on_error":
            queue.on_error(fail)
        async with queue:
            receipts = [queue.put_nowait("room", "ann", word) for word in ("bad", "good")]
            ends = [await outcome(receipt) for receipt in receipts]
        assert len(queue.dead) == 1
        return ends

    assert run(main) == [("dead", "error"), "good"]
    assert attempts == [1, 2]
    assert sum(record.exc_info is not None for record in caplog.records) == 2


# What comes next.

mark: ContextVar[object] = ContextVar("mark")


@pytest.mark.parametrize("says", ["nothing", "fail", "snooze"])
def test_a_call_that_left_something_hands_its_lane_on(run: Run, says: str) -> None:
    """Its runner makes no other call, and what its slot is to do next is for another."""

    async def handle(batch: Batch[str], ctx: Context) -> str:
        mark.set(object())
        if batch.payloads == ["b"] and ctx.attempt == 1:
            if says == "fail":
                ctx.fail(batch[0], ValueError("b"))
            elif says == "snooze" and not snoozed:
                snoozed.append(batch[0].id)
                ctx.snooze(0)
        return batch.payloads[0]

    snoozed: list[str] = []

    async def main() -> list[object]:
        async with Queue[str](handle, max_batch=1, max_concurrent=1, backoff_s=0) as queue:
            receipts = [queue.put_nowait("room", "ann", word) for word in "abc"]
            return [await outcome(receipt) for receipt in receipts]

    assert run(main) == ["a", "b", "c"]

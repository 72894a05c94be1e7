"""The loop side of a queue: tasks, cancellation, closing, and what becomes of a loop or process."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import logging
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from chinwag import Batch, Context, Dropped, Queue, QueueClosed, Receipt, _driver
from chinwag._runner import RunnerTask
from chinwag.events import BatchSettled, Event
from chinwag.stats import Ledger
from chinwag.testing import Clock, ManualEventLoop, RecordingHandler
from chinwag.testing import new_event_loop as new_manual_loop
from chinwag.testing import run as run_on_clock

Main = Callable[[], Coroutine[Any, Any, Any]]
Handle = Callable[[Batch[str]], Coroutine[Any, Any, Any]]
Run = Callable[[Main], Any]

# Only a test that fails waits as long.
WATCHDOG_S = 30
# The loop's own idea of a time that does not come.
NEVER_S = 2**52 / 1e6


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "virtual":
        return new_manual_loop()
    if kind == "uvloop":
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        return loop
    return asyncio.new_event_loop()


REAL_LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
        ),
    ),
]
LOOPS = ["virtual", *REAL_LOOPS]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine function on a loop of the kind the test is for."""

    def run_on(main: Main) -> Any:
        with asyncio.Runner(loop_factory=lambda: new_loop(request.param)) as runner:
            return runner.run(asyncio.wait_for(main(), WATCHDOG_S))

    return run_on


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every runner's task that is made. Whose task is held makes no second call."""
    names: list[str] = []

    def make(*args: Any, **options: Any) -> RunnerTask:
        names.append(options["name"])
        return RunnerTask(*args, **options)

    monkeypatch.setattr(_driver, "RunnerTask", make)
    return names


async def outcome(receipt: Receipt) -> object:
    """What a receipt tells: the result, or end and reason."""
    try:
        return await receipt
    except Dropped as dropped:
        return (dropped.end, dropped.reason)


def other_tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if isinstance(task, RunnerTask)}


def given_context(handle: Handle, told: bool) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The handler, or one that takes a context too; what it leaves behind is the same."""

    async def handle_with_context(batch: Batch[str], ctx: Context) -> Any:
        return await handle(batch)

    return handle_with_context if told else handle


# What a call sees of the others.


@pytest.mark.parametrize("told", [False, True], ids=["batch", "batch and context"])
@pytest.mark.parametrize("suspends", [False, True])
def test_no_call_sees_the_variables_of_another(run: Run, suspends: bool, told: bool) -> None:
    seen: list[str | None] = []
    variable: ContextVar[str | None] = ContextVar("variable", default=None)

    async def handle(batch: Batch[str]) -> None:
        seen.append(variable.get())
        variable.set(batch.group)
        if suspends:
            await asyncio.sleep(0)
            assert variable.get() == batch.group

    async def main() -> None:
        handler = given_context(handle, told)
        async with Queue[str](handler, max_batch=1, max_concurrent=2) as queue:
            for number in range(60):
                queue.put_nowait(f"room {number % 7}", "ann", "hello")

    run(main)

    assert seen == [None] * 60


def test_calls_see_the_variables_of_the_start(run: Run) -> None:
    variable: ContextVar[str] = ContextVar("variable")

    async def handle(batch: Batch[str]) -> str:
        return variable.get()

    async def main() -> list[object]:
        variable.set("at the start")
        async with Queue[str](handle) as queue:
            variable.set("later")
            return [await outcome(queue.put_nowait("room", "ann", "hello")) for _ in range(3)]

    assert run(main) == ["at the start"] * 3


@pytest.mark.parametrize("task", ["no task", "task before", "task after"])
def test_an_equal_variable_is_not_the_same(run: Run, task: str) -> None:
    """What a call goes on with could be filled by another, or compared by code of anybody."""

    class State:
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return True

        __hash__ = None  # type: ignore[assignment]

    compared: list[object] = []
    at_start, seen, tasks = State(), list[bool](), set[asyncio.Task[None]]()
    states: ContextVar[State] = ContextVar("states")
    equal: ContextVar[list[str]] = ContextVar("equal")
    empty: list[str] = []

    async def handle(batch: Batch[str]) -> None:
        seen.append(states.get() is at_start and equal.get() is empty)
        if task == "task before":
            tasks.add(asyncio.create_task(asyncio.sleep(0.001)))
        if batch.payloads == ["list"]:
            equal.set([])
        else:
            states.set(State())
        if task == "task after":
            tasks.add(asyncio.create_task(asyncio.sleep(0.001)))

    async def main() -> None:
        states.set(at_start)
        equal.set(empty)
        async with Queue[str](handle, max_batch=1) as queue:
            for number in range(8):
                queue.put_nowait("room", "ann", "list" if number % 2 else "state")

    run(main)

    assert seen == [True] * 8
    assert compared == []


def test_variables_put_back_cost_no_task(run: Run, made: list[str]) -> None:
    """What tracers and loggers do around every call of something."""
    variable: ContextVar[str] = ContextVar("variable")
    other: ContextVar[str] = ContextVar("other")

    async def handle(batch: Batch[int]) -> None:
        token = variable.set("in the call")
        unset = other.set("in the call")
        other.reset(unset)
        variable.reset(token)

    async def main() -> None:
        variable.set("at the start")
        async with Queue[int](handle, max_batch=1) as queue:
            for number in range(1_000):
                queue.put_nowait(f"room {number % 50}", "ann", number)

    run(main)

    assert len(made) <= 5


@pytest.mark.parametrize("count", [0, 5, 40, 300])
def test_any_number_of_variables_costs_no_task(run: Run, made: list[str], count: int) -> None:
    variables = [ContextVar[int](f"variable {number}") for number in range(count)]

    async def handle(batch: Batch[int]) -> int:
        return sum(variable.get() for variable in variables)

    async def main() -> None:
        for variable in variables:
            variable.set(1)
        async with Queue[int](handle, max_batch=1) as queue:
            receipts = [queue.put_nowait(f"room {n % 50}", "ann", n) for n in range(1_000)]
        assert {await receipt for receipt in receipts} == {count}

    run(main)

    assert len(made) <= 5


@pytest.mark.parametrize("told", [False, True], ids=["batch", "batch and context"])
@pytest.mark.parametrize(
    "how", ["weakly", "in a weak dictionary", "name", "callback", "attribute", "not"]
)
def test_a_task_that_was_marked_makes_no_other_call(
    run: Run, made: list[str], how: str, told: bool
) -> None:
    refs: list[object] = []
    of_task: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
    ended: list[str] = []
    seen: list[tuple[object, ...]] = []

    async def handle(batch: Batch[str]) -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append((task.get_name(), of_task.get(task), getattr(task, "room", None)))
        if how == "weakly":
            refs.append(weakref.ref(task))
        elif how == "in a weak dictionary":
            of_task[task] = batch.group
        elif how == "name":
            task.set_name(batch.group)
        elif how == "callback":
            task.add_done_callback(lambda _: ended.append(batch.group))
        elif how == "attribute":
            task.room = batch.group  # type: ignore[attr-defined]

    async def main() -> None:
        handler = given_context(handle, told)
        async with Queue[str](handler, max_batch=1, max_concurrent=1) as queue:
            for number in range(4):
                queue.put_nowait(f"{number}", "ann", "hello")
            await queue.join()
            for _ in range(3):
                await asyncio.sleep(0)
            assert ended == (["0", "1", "2", "3"] if how == "callback" else [])

    run(main)

    assert seen == [("chinwag runner", None, None)] * 4
    runners = made.count("chinwag runner")
    assert runners < 4 if how == "not" else runners >= 4


@pytest.mark.parametrize("when", ["before the start", "at work"])
def test_a_monitor_of_tasks_hides_no_task(run: Run, when: str) -> None:
    """It lets go of the task at the very time at which somebody remembers it."""
    sample: list[Any] = []
    remembered: list[asyncio.Task[Any] | None] = []
    monitor: asyncio.Task[None]

    async def watch() -> None:
        while True:
            sample[:] = asyncio.all_tasks()
            await asyncio.sleep(0)

    async def handle(batch: Batch[str]) -> str:
        if batch.group == "first":
            remembered.append(asyncio.current_task())
            monitor.cancel()
            sample.clear()
            return "first"
        await asyncio.sleep(0.001)
        first = remembered[0]
        assert first is not None
        first.cancel()
        await asyncio.sleep(0.001)
        return "second"

    async def main() -> list[object]:
        nonlocal monitor
        queue = Queue[str](handle)
        if when == "before the start":
            monitor = asyncio.create_task(watch())
            await asyncio.sleep(0)
        async with queue:
            if when == "at work":
                monitor = asyncio.create_task(watch())
                await asyncio.sleep(0)
            rooms = ("first", "second")
            return [await outcome(queue.put_nowait(room, "ann", "hello")) for room in rooms]

    assert run(main) == ["first", "second"]


@pytest.mark.parametrize("told", [False, True], ids=["batch", "batch and context"])
@pytest.mark.parametrize("suspends", [False, True])
def test_a_remembered_task_never_hits_another_room(run: Run, suspends: bool, told: bool) -> None:
    """The idiom `running[room] = asyncio.current_task()` meets tasks that make many calls."""
    running: dict[str, asyncio.Task[Any] | None] = {}
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def handle(batch: Batch[str]) -> str:
        running[batch.group] = asyncio.current_task()
        if suspends:
            await asyncio.sleep(0)
        if batch.group == "second":
            entered.set()
            await go_on.wait()
        return batch.group

    async def main() -> object:
        async with Queue[str](given_context(handle, told), max_concurrent=1) as queue:
            first_receipt = queue.put_nowait("first", "ann", "hello")
            second = queue.put_nowait("second", "bob", "hello")
            await first_receipt
            await entered.wait()
            first = running["first"]
            assert first is not None
            first.cancel()
            await asyncio.sleep(0)
            go_on.set()
            return await outcome(second)

    assert run(main) == "second"


@pytest.mark.parametrize("says", ["fail", "snooze"])
def test_a_call_that_leaves_something_behind_may_part_its_batch(run: Run, says: str) -> None:
    """Its runner makes no other call, so it must not be given the next batch."""
    tasks: list[asyncio.Task[Any] | None] = []
    parted: set[str] = set()

    async def handle(batch: Batch[str], ctx: Context) -> None:
        tasks.append(asyncio.current_task())
        if batch.group not in parted:
            parted.add(batch.group)
            if says == "fail":
                ctx.fail(batch[0])
            else:
                ctx.snooze(0)

    async def main() -> Ledger:
        async with Queue[str](handle, max_concurrent=1, backoff_s=0) as queue:
            for number in range(20):
                queue.put_nowait(f"{number}", "ann", "hello")
            await queue.join()
            return queue.check()

    assert run(main).done == 20
    assert len(set(tasks)) == 40


def test_the_task_of_a_call_is_its_own_while_it_runs(run: Run) -> None:
    tasks: list[asyncio.Task[Any] | None] = []
    together = asyncio.Barrier(3)

    async def handle(batch: Batch[str]) -> None:
        tasks.append(asyncio.current_task())
        await together.wait()

    async def main() -> None:
        async with Queue[str](handle) as queue:
            for room in ("ants", "bees", "cats"):
                queue.put_nowait(room, "ann", "hello")

    run(main)

    assert len(set(tasks)) == 3


# Cancellation of one call.


@pytest.mark.parametrize("how", ["and returns", "and waits", "from a callback"])
def test_a_handler_that_cancels_itself_ends_alone(run: Run, how: str) -> None:
    async def handle(batch: Batch[str]) -> str:
        task = asyncio.current_task()
        assert task is not None
        if batch.payloads == ["stop"]:
            if how == "from a callback":
                asyncio.get_running_loop().call_soon(task.cancel)
            else:
                task.cancel()
            if how != "and returns":
                await asyncio.Event().wait()
        return "answered"

    async def main() -> list[object]:
        queue = Queue[str](handle, max_batch=1)
        words = ("hello", "stop", "hello", "hello")
        receipts = [queue.put_nowait("room", "ann", word) for word in words]
        async with queue:
            return [await outcome(receipt) for receipt in receipts]

    expected = ["answered", ("dead", "cancelled"), "answered", "answered"]
    assert run(main) == expected


def test_cancelling_from_outside_ends_exactly_that_call(run: Run) -> None:
    running: dict[str, asyncio.Task[Any]] = {}
    entered, go_on = asyncio.Barrier(3), asyncio.Event()

    async def handle(batch: Batch[str]) -> str:
        task = asyncio.current_task()
        assert task is not None
        if batch.payloads == ["wait"]:
            running[batch.group] = task
            await entered.wait()
            await go_on.wait()
        return batch.group

    async def main() -> list[object]:
        async with Queue[str](handle, max_attempts=1) as queue:
            ants, bees = (queue.put_nowait(room, "ann", "wait") for room in ("ants", "bees"))
            await entered.wait()
            running["ants"].cancel()
            after = await outcome(queue.put_nowait("ants", "bob", "hello"))
            go_on.set()
            ends = [await outcome(ants), await outcome(bees), after]
            assert queue.check().dead == 1
            return ends

    assert run(main) == [("dead", "cancelled"), "bees", "ants"]


def test_a_swallowed_cancellation_is_a_result(run: Run) -> None:
    entered = asyncio.Event()
    task: list[asyncio.Task[Any] | None] = []

    async def handle(batch: Batch[str]) -> str:
        if batch.payloads == ["wait"]:
            task.append(asyncio.current_task())
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "made do"  # on purpose: what is tested
        return "answered"

    async def main() -> list[object]:
        async with Queue[str](handle) as queue:
            waits = queue.put_nowait("room", "ann", "wait")
            await entered.wait()
            assert task[0] is not None
            task[0].cancel()
            return [await outcome(waits), await outcome(queue.put_nowait("room", "ann", "hello"))]

    assert run(main) == ["made do", "answered"]


def test_time_outs_inside_handlers_leave_nothing_behind(run: Run) -> None:
    async def handle(batch: Batch[str]) -> str:
        (word,) = batch.payloads
        if word == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.Event().wait()
        elif word == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        elif word == "not due":
            async with asyncio.timeout(60):
                await asyncio.sleep(0)
        elif word == "raised":
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        await asyncio.sleep(0)
        return word

    async def main() -> list[object]:
        words = ("timeout", "hello", "wait_for", "hello", "not due", "raised", "hello")
        async with Queue[str](handle, max_batch=1) as queue:
            receipts = [queue.put_nowait("room", "ann", word) for word in words]
            return [await outcome(receipt) for receipt in receipts]

    ends = run(main)

    assert ends == [
        "timeout", "hello", "wait_for", "hello", "not due", ("dead", "error"), "hello",
    ]  # fmt: skip


def test_task_groups_inside_handlers(run: Run) -> None:
    async def fail() -> None:
        raise ValueError("one part")

    async def part(word: str) -> str:
        await asyncio.sleep(0)
        return word

    async def handle(batch: Batch[str]) -> list[str]:
        (word,) = batch.payloads
        async with asyncio.TaskGroup() as tasks:
            parts = [tasks.create_task(part(f"{word} {number}")) for number in range(3)]
            if word == "fails":
                tasks.create_task(fail())
                await asyncio.Event().wait()
        return [task.result() for task in parts]

    async def main() -> list[object]:
        async with Queue[str](handle, max_batch=1) as queue:
            receipts = [queue.put_nowait("room", "ann", word) for word in ("a", "fails", "b")]
            ends = [await outcome(receipt) for receipt in receipts]
            with pytest.raises(Dropped) as dropped:
                await receipts[1]
            assert isinstance(dropped.value.__cause__, ExceptionGroup)
            return ends

    assert run(main) == [["a 0", "a 1", "a 2"], ("dead", "error"), ["b 0", "b 1", "b 2"]]


# What handlers raise.


class Odd(BaseException):
    """Not an `Exception`."""


@pytest.mark.parametrize(
    "kind", [ValueError, Odd, GeneratorExit, StopIteration, StopAsyncIteration]
)
@pytest.mark.parametrize("suspends", [False, True])
def test_whatever_a_handler_raises_ends_its_call(
    run: Run, kind: type[BaseException], suspends: bool
) -> None:
    async def handle(batch: Batch[str]) -> str:
        if suspends:
            await asyncio.sleep(0)
        if batch.payloads == ["bad"]:
            raise kind("bad")
        return "answered"

    async def main() -> list[object]:
        async with Queue[str](handle, max_batch=1) as queue:
            receipts = [queue.put_nowait("room", "ann", word) for word in ("bad", "hello")]
            ends = [await outcome(receipt) for receipt in receipts]
            assert queue.check().dead == queue.check().done == 1
            return ends

    assert run(main) == [("dead", "error"), "answered"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_handler_stops_the_program(
    run: Run, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue[str](max_batch=1, max_concurrent=1)

    @queue.handler
    async def handle(batch: Batch[str]) -> None:
        await asyncio.sleep(0)
        if batch.payloads == ["bad"]:
            raise kind

    async def main() -> None:
        async with queue:
            for word in ("fine", "bad", "late", "late"):
                queue.put_nowait("room", "ann", word)
            await asyncio.Event().wait()

    with pytest.raises(kind):
        run(main)

    ledger = queue.check()
    assert (ledger.done, ledger.dead, ledger.waiting, ledger.running) == (1, 0, 0, 0)
    assert ledger.abandoned == 3, "it would have been tried again"
    assert "destroyed" not in caplog.text


def interrupt_after(where: str, queue: Queue[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise as a signal handler may: when a batch has been handed out and nobody has it yet."""
    owner = queue._driver if where == "done" else queue
    hand_out: Callable[..., Any] = getattr(owner, where)
    interrupted = False

    def interrupt(*args: Any) -> Any:
        nonlocal interrupted
        batch = hand_out(*args)
        if batch and not interrupted:
            interrupted = True
            raise KeyboardInterrupt
        return batch

    monkeypatch.setattr(owner, where, interrupt)


@pytest.mark.parametrize("kind", REAL_LOOPS)
@pytest.mark.parametrize("where", ["_next", "done"])
def test_an_interrupt_between_calls_loses_no_message(
    kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue[str](RecordingHandler[str](), max_batch=1)

    async def main() -> None:
        async with queue:
            interrupt_after(where, queue, monkeypatch)
            for _ in range(3):
                queue.put_nowait("room", "ann", "hello")
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=lambda: new_loop(kind)) as r:
        r.run(main())

    ledger = queue.check()
    assert (ledger.accepted, ledger.waiting, ledger.running) == (3, 0, 0)


@pytest.mark.parametrize("verb", ["join", "aclose"])
@pytest.mark.parametrize("where", ["_next", "done"])
def test_a_loop_that_goes_on_after_an_interrupt_waits_for_nobody(
    where: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue[str](RecordingHandler[str](), max_batch=1)

    async def main() -> None:
        await queue.start()
        interrupt_after(where, queue, monkeypatch)
        for _ in range(5):
            queue.put_nowait("room", "ann", "hello")
        await asyncio.Event().wait()

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        runner.run(asyncio.wait_for(getattr(queue, verb)(), 10))  # closing alone waits for longer
        ledger = queue.check()
        runner.run(queue.aclose())

    assert (ledger.waiting, ledger.running, ledger.abandoned, ledger.done) == (0, 0, 1, 4)


def test_a_failure_that_nobody_sees_is_logged_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(batch: Batch[str]) -> None:
        raise ValueError("nobody looks")

    async def main() -> None:
        async with Queue[str](handle, max_attempts=1) as queue:
            for _ in range(3):
                queue.put_nowait("room", "ann", "hello")

    run(main)
    gc.collect()

    (record,) = caplog.records
    assert record.name == "chinwag"
    assert "3 message(s)" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


# Tasks and timers.


def test_ten_thousand_messages_need_a_handful_of_tasks(run: Run, made: list[str]) -> None:
    calls = 0

    async def handle(batch: Batch[int]) -> None:
        nonlocal calls
        calls += 1

    async def main() -> None:
        async with Queue[int](handle, max_batch=1) as queue:
            for number in range(10_000):
                queue.put_nowait(f"room {number % 50}", "ann", number)
            await queue.join()
            assert len(other_tasks()) <= 5

    run(main)

    assert calls == 10_000
    assert len(made) <= 5


def test_suspending_handlers_need_a_task_for_each_at_once(run: Run, made: list[str]) -> None:
    at_once = most = 0

    async def handle(batch: Batch[int]) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        at_once -= 1

    async def main() -> None:
        async with Queue[int](handle, max_batch=1, max_concurrent=12) as queue:
            for number in range(10_000):
                queue.put_nowait(f"room {number % 50}", "ann", number)

    run(main)

    assert 1 < most <= 12
    assert len(made) <= 12 + 1  # and one that makes no calls


def test_a_thousand_suspended_calls_start_within_few_turns() -> None:
    """One call a turn of the loop would let the last room wait for a thousand of them."""
    running = turns = 0

    async def main() -> None:
        nonlocal turns
        go_on = asyncio.Event()

        async def handle(batch: Batch[int]) -> None:
            nonlocal running
            running += 1
            await go_on.wait()

        async with Queue[int](handle) as queue:
            for number in range(1_000):
                queue.put_nowait(f"room {number}", "ann", number)
            while running < 1_000:
                await asyncio.sleep(0)
                turns += 1
            go_on.set()

    asyncio.run(main())

    assert turns < 100


def test_a_batch_whose_task_never_began_is_handled(run: Run, made: list[str]) -> None:
    """A task can be cancelled before its first step; then the call has not begun either."""

    async def handle(batch: Batch[str]) -> str:
        return "answered"

    async def main() -> object:
        async with Queue[str](handle) as queue:
            before = len(made)
            receipt = queue.put_nowait("room", "ann", "hello")
            while len(made) == before:  # noqa: ASYNC110 -- before its first step
                await asyncio.sleep(0)
            (task,) = (t for t in other_tasks() if t.get_name() == made[-1])
            task.cancel()
            return await outcome(receipt)

    assert run(main) == "answered"


def test_a_growing_window_keeps_its_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer for every push would cost more than the push."""
    booked = 0

    async def main() -> None:
        nonlocal booked
        loop = asyncio.get_running_loop()
        call_at = loop.call_at

        def count(*args: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal booked
            booked += 1
            return call_at(*args, **options)

        async with Queue[int](RecordingHandler[int](), quiet_s=60) as queue:
            monkeypatch.setattr(loop, "call_at", count)
            for number in range(100):
                queue.put_nowait("room", "ann", number)
                await asyncio.sleep(0)
            monkeypatch.undo()

    asyncio.run(main())

    assert booked == 1


def test_a_started_queue_that_nobody_holds_goes_on(run: Run) -> None:
    """A loop holds its tasks only weakly."""

    async def handle(batch: Batch[str]) -> str:
        await asyncio.sleep(0.001)
        return "answered"

    async def main() -> object:
        queue = Queue[str](handle, quiet_s=0.001)
        await queue.start()
        receipt = queue.put_nowait("room", "ann", "hello")
        del queue
        gc.collect()
        return await outcome(receipt)

    assert run(main) == "answered"


def test_closing_leaves_no_task(run: Run) -> None:
    async def handle(batch: Batch[int]) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        queue = Queue[int](handle, quiet_s=0.001)
        await queue.start()
        for number in range(200):
            queue.put_nowait(f"room {number}", "ann", number)
        await queue.join()
        queue.put_nowait("room", "ann", 0)
        before = asyncio.all_tasks()
        assert other_tasks()
        await queue.aclose()
        assert asyncio.all_tasks() == before - {t for t in before if isinstance(t, RunnerTask)}

    run(main)


def timers(loop: ManualEventLoop) -> list[asyncio.TimerHandle]:
    timers = (entry[-1] for entry in loop._timers)
    return [timer for timer in timers if not timer.cancelled() and timer.when() < NEVER_S]


def test_a_thousand_windows_share_one_timer() -> None:
    async def main(clock: Clock) -> list[int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ManualEventLoop)
        counts = []
        async with Queue[int](RecordingHandler[int](), quiet_s=5) as queue:
            for number in range(1_000):
                queue.put_nowait(f"room {number}", "ann", number)
                await clock.advance(0.001)
                counts.append(len(timers(loop)))
        counts.append(len(timers(loop)))
        return counts

    assert run_on_clock(main) == [1] * 1_000 + [0]


def test_closing_leaves_no_timer() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ManualEventLoop)
        queue = Queue[int](RecordingHandler[int](), quiet_s=5)
        await queue.start()
        queue.put_nowait("room", "ann", 1)
        queue.pause("other", for_s=100)
        await asyncio.sleep(1)
        await queue.aclose(drain=False)
        return len(timers(loop))

    assert run_on_clock(main) == 0


def test_a_blocked_loop_shifts_nothing() -> None:
    """Windows are counted from when messages were pushed, not from when the loop looked."""

    async def main(clock: Clock) -> list[tuple[float, list[str]]]:
        handler = RecordingHandler[str]()
        async with Queue[str](handler, quiet_s=2) as queue:
            queue.put_nowait("early", "ann", "due while blocked")
            await clock.advance(1)

            # A callback that does not return for three seconds, in which others push.
            clock.move_to_us(2_500_000)
            queue.put_nowait("late", "ann", "first")
            clock.move_to_us(3_500_000)
            queue.put_nowait("late", "ann", "second")
            clock.move_to_us(4_000_000)
            await clock.run_until_idle()
        return [(call.started, call.payloads) for call in handler.calls]

    assert run_on_clock(main) == [(4.0, ["due while blocked"]), (5.5, ["first", "second"])]


# Pushes from odd places.


def test_pushes_from_inside_a_handler_are_handled(run: Run) -> None:
    handled: list[tuple[str, str]] = []
    queue = Queue[str](max_batch=1)

    @queue.handler
    async def handle(batch: Batch[str]) -> None:
        (word,) = batch.payloads
        handled.append((batch.group, word))
        if word == "hello":
            queue.put_nowait(batch.group, batch.sender, "own lane")
            queue.put_nowait(batch.group, "bob", "own group")
            queue.put_nowait("elsewhere", "ann", "other group")
            await asyncio.sleep(0)

    async def main() -> None:
        async with queue:
            queue.put_nowait("room", "ann", "hello")
            await queue.join()

    run(main)

    assert sorted(handled) == [
        ("elsewhere", "other group"),
        ("room", "hello"),
        ("room", "own group"),
        ("room", "own lane"),
    ]


def test_pushes_from_callbacks_and_events_are_handled(run: Run) -> None:
    handled: list[str] = []

    async def handle(batch: Batch[str]) -> None:
        handled.extend(batch.payloads)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Queue[str](handle, max_batch=1) as queue:

            def in_callback() -> None:
                queue.put_nowait("room", "ann", "from a callback")
                loop.call_later(0.001, queue.put_nowait, "room", "ann", "from a timer")

            def follow_up(event: Event) -> None:
                if isinstance(event, BatchSettled) and handled[-1] == "from a timer":
                    unsubscribe()  # a busy machine tells of both calls at once
                    queue.put_nowait("room", "ann", "from an event")

            unsubscribe = queue.subscribe(follow_up)
            loop.call_soon(in_callback)
            while len(handled) < 3:  # noqa: ASYNC110  nothing else may wake the loop
                await asyncio.sleep(0.001)

    run(main)

    assert handled == ["from a callback", "from a timer", "from an event"]


def test_a_handler_that_pushes_for_ever_starves_nobody(run: Run) -> None:
    """It never suspends, and there is always a next message for it."""
    calls = 0
    queue = Queue[str](max_batch=1)

    @queue.handler
    async def handle(batch: Batch[str]) -> None:
        nonlocal calls
        calls += 1
        if calls < 1_000_000:
            queue.put_nowait(batch.group, batch.sender, "again")

    async def main() -> int:
        async with queue:
            queue.put_nowait("room", "ann", "hello")
            for _ in range(20):
                await asyncio.sleep(0)
            so_far = calls
            queue.clear()
            await queue.aclose(drain=False)
            return so_far

    so_far = run(main)

    assert 0 < so_far <= 20 * 300
    assert queue.check().waiting == 0


# Closing.


def test_closing_drains_what_waits(run: Run) -> None:
    handler = RecordingHandler[int]()
    queue = Queue[int](handler, quiet_s=3_600, max_wait_s=3_600)

    async def main() -> list[object]:
        await queue.start()
        receipts = [queue.put_nowait(f"room {n}", "ann", n) for n in range(20)]
        await queue.aclose()
        with pytest.raises(QueueClosed, match="closed"):
            queue.put_nowait("room", "ann", 1)
        return [receipt.state for receipt in receipts]

    assert run(main) == ["done"] * 20
    assert queue.check().done == 20


def test_a_drain_that_takes_too_long_cancels() -> None:
    async def main(clock: Clock) -> tuple[float, list[object]]:
        handler = RecordingHandler[str](
            duration_s=lambda batch: batch.primary.payload == "b" and 60
        )
        queue = Queue[str](handler, max_batch=1, max_concurrent_per_group=1)
        await queue.start()
        receipts = [queue.put_nowait("room", "ann", word) for word in "abc"]
        await queue.aclose(timeout_s=7)
        assert [call.outcome for call in handler.calls] == ["done", "cancelled"]
        assert not other_tasks()
        return clock.now, [await outcome(receipt) for receipt in receipts]

    lost = ("abandoned", "closed")
    assert run_on_clock(main) == (7.0, [None, lost, lost])


def test_closing_without_draining_cancels_at_once(run: Run) -> None:
    entered = asyncio.Event()

    async def handle(batch: Batch[str]) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def main() -> list[object]:
        queue = Queue[str](handle, max_batch=1)
        await queue.start()
        receipts = [queue.put_nowait("room", "ann", word) for word in "ab"]
        await entered.wait()
        await queue.aclose(drain=False)
        assert not other_tasks()
        return [await outcome(receipt) for receipt in receipts]

    assert run(main) == [("abandoned", "closed")] * 2


def test_a_call_that_swallows_cancellation_is_fenced(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: Clock) -> tuple[float, object]:
        go_on = asyncio.Event()
        ended = []

        async def handle(batch: Batch[str], ctx: Context) -> str:
            while not go_on.is_set():
                try:
                    await go_on.wait()
                except asyncio.CancelledError:
                    assert ctx.ending == "closed"  # and it goes on, against all manners
            ended.append("late")
            return "late"

        queue = Queue[str](handle, cancel_grace_s=3)
        await queue.start()
        receipt = queue.put_nowait("room", "ann", "hello")
        await clock.advance(1)
        await queue.aclose(drain=False)
        closed_at, before = clock.now, queue.check()
        go_on.set()
        await clock.advance(1)
        assert ended == ["late"]
        assert not other_tasks()
        assert queue.check() == before
        return closed_at, await outcome(receipt)

    assert run_on_clock(main) == (4.0, ("abandoned", "closed"))
    assert "has not ended 3 s after it was asked to" in caplog.text


def test_a_thread_that_does_not_end_is_fenced(caplog: pytest.LogCaptureFixture) -> None:
    entered, go_on, left = threading.Event(), threading.Event(), threading.Event()
    seen: list[str | None] = []

    def handle(batch: Batch[str], ctx: Context) -> str:
        entered.set()
        go_on.wait(WATCHDOG_S)
        seen.append(ctx.ending)
        left.set()
        return "late"

    async def main() -> object:
        queue = Queue[str](handle, cancel_grace_s=0.01)
        await queue.start()
        receipt = queue.put_nowait("room", "ann", "hello")
        await asyncio.to_thread(entered.wait, WATCHDOG_S)
        await queue.aclose(drain=False)
        before = queue.check()
        go_on.set()
        await asyncio.to_thread(left.wait, WATCHDOG_S)
        for task in other_tasks():
            await task
        assert queue.check() == before
        return await outcome(receipt)

    assert asyncio.run(main()) == ("abandoned", "closed")
    assert seen == ["closed"]
    assert "has not ended" in caplog.text


def test_a_thread_that_ends_in_time_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    entered = threading.Event()

    def handle(batch: Batch[str], ctx: Context) -> str:
        entered.set()
        while ctx.ending is None:
            pass
        return "too late all the same"

    async def main() -> object:
        queue = Queue[str](handle, cancel_grace_s=WATCHDOG_S)
        await queue.start()
        receipt = queue.put_nowait("room", "ann", "hello")
        await asyncio.to_thread(entered.wait, WATCHDOG_S)
        await queue.aclose(drain=False)
        assert not other_tasks()
        return await outcome(receipt)

    assert asyncio.run(main()) == ("abandoned", "closed")
    assert caplog.text == ""


@pytest.mark.parametrize("what", ["the group", "the queue"])
def test_draining_does_not_wait_for_a_pause(run: Run, what: str) -> None:
    async def handle(batch: Batch[str]) -> str:
        await asyncio.sleep(0)
        return "answered"

    async def main() -> list[object]:
        queue = Queue[str](handle)
        await queue.start()
        queue.pause("paused" if what == "the group" else None)
        paused = queue.put_nowait("paused", "ann", "hello")
        other = queue.put_nowait("other", "ann", "hello")
        await queue.aclose(timeout_s=WATCHDOG_S * 2)
        return [await outcome(paused), await outcome(other)]

    lost = ("abandoned", "closed")
    assert run(main) == ([lost, "answered"] if what == "the group" else [lost, lost])


def test_draining_waits_for_a_call_beside_a_pause() -> None:
    async def main(clock: Clock) -> tuple[float, object]:
        queue = Queue[str](RecordingHandler[str](duration_s=5))
        await queue.start()
        receipt = queue.put_nowait("paused", "ann", "hello")
        await clock.advance(1)
        queue.pause("paused")
        queue.put_nowait("paused", "ann", "held back")
        await queue.aclose()
        return clock.now, receipt.state

    assert run_on_clock(main) == (5.0, "done")


@pytest.mark.parametrize("timeout_s", [10**400, float("inf"), 1e300, 10**30])
def test_a_close_may_take_any_time(run: Run, timeout_s: float) -> None:
    async def main() -> Ledger:
        queue = Queue[str](RecordingHandler[str]())
        await queue.start()
        queue.put_nowait("room", "ann", "hello")
        await queue.aclose(timeout_s=timeout_s)
        return queue.check()

    assert run(main).done == 1


def test_cancelling_a_close_accounts_for_everything(run: Run) -> None:
    entered = asyncio.Event()

    async def handle(batch: Batch[str]) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def main() -> list[object]:
        queue = Queue[str](handle, max_batch=1)
        await queue.start()
        receipts = [queue.put_nowait("room", "ann", word) for word in "abc"]
        await entered.wait()
        closing = asyncio.create_task(queue.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        ledger = queue.check()
        assert (ledger.waiting, ledger.running, ledger.abandoned) == (0, 0, 3)
        for task in other_tasks():
            await asyncio.wait([task])
        assert queue.check() == ledger
        await queue.aclose()
        return [await outcome(receipt) for receipt in receipts]

    assert run(main) == [("abandoned", "closed")] * 3


def test_whoever_closes_second_waits_for_the_first() -> None:
    async def main(clock: Clock) -> list[float]:
        queue = Queue[str](RecordingHandler[str](duration_s=5))
        await queue.start()
        queue.put_nowait("room", "ann", "hello")
        await clock.advance(1)

        async def close() -> float:
            await queue.aclose()
            return clock.now

        return list(await asyncio.gather(close(), close(), close()))

    assert run_on_clock(main) == [5.0, 5.0, 5.0]


def test_closing_at_once_cuts_a_drain_short() -> None:
    async def main(clock: Clock) -> tuple[float, Ledger]:
        queue = Queue[str](RecordingHandler[str](duration_s=5))
        await queue.start()
        queue.put_nowait("room", "ann", "hello")
        gentle = asyncio.create_task(queue.aclose())
        await clock.advance(1)
        await queue.aclose(drain=False)
        await gentle
        return clock.now, queue.check()

    now, ledger = run_on_clock(main)

    assert now == 1.0
    assert ledger.abandoned == 1


def test_a_cancelled_closer_leaves_the_others_waiting() -> None:
    async def main(clock: Clock) -> tuple[float, Ledger]:
        queue = Queue[str](RecordingHandler[str](duration_s=5))
        await queue.start()
        queue.put_nowait("room", "ann", "hello")
        first = asyncio.create_task(queue.aclose())
        second = asyncio.create_task(queue.aclose())
        await clock.advance(1)
        first.cancel()
        await second
        return clock.now, queue.check()

    now, ledger = run_on_clock(main)

    assert now == 5.0
    assert ledger.done == 1


@pytest.mark.parametrize("turns", range(3))
def test_closing_ends_though_every_task_was_cancelled_before(run: Run, turns: int) -> None:
    """Also the driver's own, which may not even have begun."""

    async def main() -> Ledger:
        queue = Queue[str](RecordingHandler[str]())
        await queue.start()
        receipt = queue.put_nowait("room", "ann", "hello")
        queue.pause()
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in other_tasks():
            task.cancel()
        await queue.aclose()
        assert not other_tasks()
        assert await outcome(receipt) == ("abandoned", "closed")
        return queue.check()

    assert run(main).abandoned == 1


@pytest.mark.parametrize("verb", ["aclose", "join"])
def test_other_loops_are_refused(verb: str) -> None:
    """Half of it would happen and the rest never, in a loop that nothing wakes."""

    async def main() -> Ledger:
        async with Queue[str](RecordingHandler[str]()) as queue:
            queue.pause()
            queue.put_nowait("room", "ann", "hello")

            async def elsewhere() -> None:
                await getattr(queue, verb)()

            with pytest.raises(RuntimeError, match="on the event loop that started the queue"):
                await asyncio.to_thread(asyncio.run, elsewhere())
            queue.put_nowait("room", "ann", "there?")
            queue.resume()
            await queue.join()
            return queue.check()

    assert asyncio.run(main()).done == 2


@pytest.mark.parametrize("verb", ["aclose", "join"])
def test_waiting_for_oneself_raises(run: Run, verb: str) -> None:
    queue = Queue[str](max_batch=1)

    @queue.handler
    async def handle(batch: Batch[str]) -> str:
        with pytest.raises(RuntimeError, match=rf"{verb}\(\) would wait for the very call"):
            await getattr(queue, verb)()
        return "answered"

    async def main() -> list[object]:
        async with queue:
            return [await outcome(queue.put_nowait("room", "ann", "hello")) for _ in range(2)]

    assert run(main) == ["answered", "answered"]


@pytest.mark.parametrize("rooted", [True, False])
@pytest.mark.parametrize("sets", [True, False])
@pytest.mark.parametrize("suspends", [True, False])
@pytest.mark.parametrize("verb", ["aclose", "join", "receipt"])
def test_what_a_call_has_started_may_wait_once_it_ended(
    run: Run,
    verb: str,
    suspends: bool,
    sets: bool,
    rooted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the task of the call makes another, which would end without it."""
    if not rooted:
        monkeypatch.setattr(_driver, "is_rooted", lambda variables: False)
    variable: ContextVar[str] = ContextVar("variable")
    left: list[asyncio.Task[Any]] = []
    receipts: list[Receipt] = []
    second, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> Any:
        if sets:
            variable.set("in the background")
        await second.wait()
        asyncio.get_running_loop().call_soon(go_on.set)
        if verb == "receipt":
            return await receipts[1]
        return await getattr(queue, verb)()

    async def handle(batch: Batch[str]) -> str:
        if batch.group == "first":
            left.append(asyncio.create_task(wait()))
            if suspends:
                await asyncio.sleep(0)
        else:
            second.set()
            await go_on.wait()
        return batch.group

    queue = Queue[str](handle)

    async def main() -> object:
        async with queue:
            receipts.extend(queue.put_nowait(room, "ann", "hello") for room in ("first", "second"))
            await second.wait()
            return await left[0]

    assert run(main) == ("second" if verb == "receipt" else None)


@pytest.mark.parametrize("sets", [True, False])
@pytest.mark.parametrize("verb", ["aclose", "join", "receipt"])
def test_what_a_call_waits_for_may_not_wait_for_it(run: Run, verb: str, sets: bool) -> None:
    variable: ContextVar[str] = ContextVar("variable")
    receipts: list[Receipt] = []

    async def wait() -> None:
        if sets:
            variable.set("in a part of the call")
        if verb == "receipt":
            await receipts.pop()
        await getattr(queue, verb)()

    async def handle(batch: Batch[str]) -> str:
        receipts.append(queue.put_nowait("room", "ann", "later"))
        with pytest.raises(RuntimeError, match="wait for"):
            await asyncio.gather(wait())
        return "answered"

    queue = Queue[str](max_batch=1)

    @queue.handler
    async def first(batch: Batch[str]) -> str:
        return "answered" if batch.payloads == ["later"] else await handle(batch)

    async def main() -> list[object]:
        async with queue:
            return [await outcome(queue.put_nowait("room", "ann", "hello")) for _ in range(3)]

    assert run(main) == ["answered"] * 3


def test_cancelling_a_join_changes_nothing(run: Run) -> None:
    go_on = asyncio.Event()

    async def handle(batch: Batch[str]) -> str:
        await go_on.wait()
        return "answered"

    async def main() -> object:
        async with Queue[str](handle) as queue:
            receipt = queue.put_nowait("room", "ann", "hello")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(queue.join(), 0.001)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(outcome(receipt), 0.001)
            go_on.set()
            await queue.join()
            return await outcome(receipt)

    assert run(main) == "answered"


# Loops and processes that go away.


def leave(kind: str, state: str) -> Ledger:
    """Close a loop and not its queue, push once more, and say what the books of the queue say."""
    queue = Queue[str](max_batch=1, quiet_s=3_600 if state == "waiting" else 0, max_wait_s=7_200)

    @queue.handler
    async def handle(batch: Batch[str]) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await queue.start()
        if state != "idle":
            for number in range(5):
                queue.put_nowait("room", "ann", f"{number}")
        for _ in range(0 if state == "pushed at the end" else 10):
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        runner.run(main())

    for _ in range(2):
        with pytest.raises(QueueClosed, match="loop was closed without aclose"):
            queue.put_nowait("room", "bob", "hello")
    return queue.check()


@pytest.mark.parametrize("kind", REAL_LOOPS)
@pytest.mark.parametrize("state", ["idle", "waiting", "running", "pushed at the end"])
def test_a_loop_closed_before_the_queue_refuses(
    kind: str, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = leave(kind, state)
    gc.collect()

    assert (ledger.waiting, ledger.running, ledger.done) == (0, 0, 0)
    assert ledger.accepted == (0 if state == "idle" else 5)
    # Calls that the loop has left in the middle ended as what waited did, and that is told once.
    assert "GeneratorExit" not in caplog.text
    assert "destroyed" not in caplog.text


@pytest.mark.parametrize("kind", REAL_LOOPS)
def test_a_push_before_its_loop_closes_hides_nothing(kind: str) -> None:
    """The loop was asked to look, and is closed before it could."""
    loop = new_loop(kind)
    queue = Queue[str](RecordingHandler[str]())
    loop.run_until_complete(queue.start())
    queue.put_nowait("room", "ann", "hello")
    loop.close()

    with pytest.raises(QueueClosed, match="loop was closed without aclose"):
        queue.put_nowait("room", "ann", "hello")

    ledger = queue.check()
    assert (ledger.waiting, ledger.running) == (0, 0)


def test_a_log_of_a_lost_loop_may_push() -> None:
    """A handler of the log that sends what it gets through the queue is refused, and no more."""
    pushed: list[object] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                pushed.append(queue.put_nowait("log", "bot", record.getMessage()))
            except QueueClosed as error:
                pushed.append(error.reason)

    loop = asyncio.new_event_loop()
    queue = Queue[str](RecordingHandler[str]())
    loop.run_until_complete(queue.start())
    handler = Handler()
    logging.getLogger("chinwag").addHandler(handler)
    try:
        loop.close()
    finally:
        logging.getLogger("chinwag").removeHandler(handler)

    assert pushed == ["loop_closed"]
    assert queue.check().accepted == 0


def test_nothing_starts_while_the_loop_ends_all_tasks(caplog: pytest.LogCaptureFixture) -> None:
    """`asyncio.run` cancels all tasks; a call begun for the next message would be cut off too."""
    started = 0
    running = asyncio.Event()
    queue = Queue[str](max_batch=1, max_concurrent=3)

    @queue.handler
    async def handle(batch: Batch[str]) -> None:
        nonlocal started
        started += 1
        if started == 3:
            running.set()
        await asyncio.Event().wait()

    async def main() -> None:
        await queue.start()
        for number in range(10):
            queue.put_nowait(f"room {number}", "ann", "hello")
        await running.wait()

    asyncio.run(main())

    assert started == 3
    assert queue.check().abandoned == 10
    assert "ended dead" not in caplog.text


def test_a_loop_may_move_to_another_thread() -> None:
    """It is started here and run there; pushes from here must still wake it."""
    seen: list[str] = []
    handled = threading.Event()

    async def handle(batch: Batch[str]) -> None:
        seen.extend(batch.payloads)
        handled.set()

    loop = asyncio.new_event_loop()
    queue = Queue[str](handle)
    loop.run_until_complete(queue.start())
    loop.run_until_complete(asyncio.sleep(0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(WATCHDOG_S)

    queue.put_nowait("room", "ann", "hello")
    in_time = handled.wait(WATCHDOG_S)

    asyncio.run_coroutine_threadsafe(queue.aclose(), loop).result(WATCHDOG_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert in_time
    assert seen == ["hello"]


def script(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_told_so() -> None:
    ran = script(
        """
        import asyncio, os, threading, traceback
        from chinwag import Dropped, Queue, QueueClosed

        async def handle(batch):
            await asyncio.Event().wait()

        def answer(ask):
            try:
                return ask()
            except (QueueClosed, RuntimeError, Dropped) as error:
                return str(error)

        async def wait(awaitable):
            async with asyncio.timeout(10):
                return await awaitable

        def in_child(queue, receipts, stream):
            answers = [answer(ask) for ask in (
                lambda: queue.put_nowait("room", "ann", "hello"),
                lambda: queue.pause("room"),
                lambda: queue.check(),
                lambda: queue.events(),
                lambda: queue.subscribe(print),
            )]

            def in_loop():
                answers.extend(answer(lambda: asyncio.run(wait(ask()))) for ask in (
                    queue.start,
                    queue.join,
                    lambda: anext(stream),
                    lambda: outcome(receipts[0]),
                    lambda: outcome(receipts[1]),
                ))

            async def outcome(receipt):
                return await receipt

            thread = threading.Thread(target=in_loop)
            thread.start()
            thread.join()
            assert len(answers) == 10, answers
            assert all("forked" in str(answer) for answer in answers), answers
            fresh = Queue(handle)
            fresh.put_nowait("room", "ann", "hello")
            assert fresh.check().waiting == 1

        async def main():
            async with Queue(handle) as queue:
                stream = queue.events()
                receipts = [queue.put_nowait("room", "ann", "hello")]
                await asyncio.sleep(0)
                receipts.append(queue.put_nowait("room", "ann", "and?"))
                child = os.fork()
                if not child:
                    status = 1
                    try:
                        in_child(queue, receipts, stream)
                        status = 0
                    except BaseException:
                        traceback.print_exc()
                    finally:
                        os._exit(status)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                queue.put_nowait("room", "bob", "hello")
                assert queue.check().accepted == 3
                await queue.aclose(drain=False)

        asyncio.run(main())
        print("sound")
        """
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "sound\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_queue_only_made_can_be_used_in_a_forked_process() -> None:
    """Servers load the application and then fork their workers."""
    ran = script(
        """
        import asyncio, os
        from chinwag import Queue

        async def handle(batch):
            return batch.payloads[0]

        async def main():
            async with queue:
                print(await queue.put_nowait("room", "ann", "hello"), flush=True)

        queue = Queue(handle)
        child = os.fork()
        if not child:
            asyncio.run(main())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        asyncio.run(main())
        """
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello\nhello\n", "")


@pytest.mark.parametrize("when", ["before the start", "at work", "in a thread", "with receipts"])
def test_the_interpreter_exits_with_work_waiting(when: str) -> None:
    ran = script(
        f"""
        import asyncio, threading, logging
        from chinwag import Queue

        logging.disable()  # a loop that was closed too early is an error, and logged as one
        when = {when!r}
        queue = Queue(max_batch=1, quiet_s=3600, max_wait_s=7200)

        @queue.handler
        async def handle(batch):
            await asyncio.Event().wait()

        def push():
            for number in range(100):
                receipts.append(queue.put_nowait("room", f"user {{number}}", number))
            if when != "with receipts":
                receipts.clear()

        receipts = []
        push()

        async def main():
            await queue.start()
            queue.flush("room")
            for _ in range(10):
                await asyncio.sleep(0)

        if when == "in a thread":
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, daemon=True).start()
            asyncio.run_coroutine_threadsafe(main(), loop).result()
            push()
        elif when != "before the start":
            asyncio.run(main())
        print("end")
        """
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "end\n", "")

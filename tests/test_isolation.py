"""What a call sees of the others: not their variables, and no task that could hit another room."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from chinwag import Batch, Context, Queue
from chinwag.stats import Ledger
from tests.loops import Run, outcome

Handle = Callable[[Batch[str]], Coroutine[Any, Any, Any]]


def given_context(handle: Handle, told: bool) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The handler, or one that takes a context too; what it leaves behind is the same."""

    async def handle_with_context(batch: Batch[str], ctx: Context) -> Any:
        return await handle(batch)

    return handle_with_context if told else handle


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

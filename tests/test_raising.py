"""What is raised in a call: a cancellation, an error of the handler, an interrupt."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from chinwag import Batch, Dropped, Queue
from chinwag.testing import RecordingHandler
from tests.loops import REAL_LOOPS, Run, new_loop, outcome

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
        async with Queue[str](handle, max_attempts=1, max_interrupts=0) as queue:
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

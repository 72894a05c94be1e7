"""The loop side of a queue: its tasks, its one timer, and pushes from odd places."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from chinwag import Batch, Queue
from chinwag._runner import RunnerTask
from chinwag.events import BatchSettled, Event
from chinwag.testing import Clock, ManualEventLoop, RecordingHandler
from chinwag.testing import run as run_on_clock
from tests.loops import Run, other_tasks, outcome

# The loop's own idea of a time that does not come.
NEVER_S = 2**52 / 1e6


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

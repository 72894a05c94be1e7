"""The clock that tests move, the loop it drives, the recording handler and the fixtures."""

from __future__ import annotations

import asyncio
import itertools
import math
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from chinwag import Batch, Queue
from chinwag._core import ManualClock
from chinwag.testing import (
    Clock,
    ClockError,
    DeadlockError,
    RecordingHandler,
    new_event_loop,
    run,
)
from chinwag.testing.plugin import Run


def test_sleep_takes_no_real_time() -> None:
    began = time.monotonic()

    async def main(clock: Clock) -> float:
        await asyncio.sleep(86_400 * 3)
        return clock.now

    assert run(main) == 86_400 * 3
    assert time.monotonic() - began < 5


def test_run_takes_functions_and_coroutines() -> None:
    async def without() -> str:
        return "no argument"

    async def with_clock(clock: Clock) -> Clock:
        return clock

    clock = Clock()

    assert run(without) == "no argument"
    assert run(without()) == "no argument"
    assert run(with_clock, clock) is clock
    with pytest.raises(TypeError, match="must be a coroutine function or a coroutine, not 3"):
        run(3)  # type: ignore[arg-type]


def test_time_outs_and_task_groups_live_on_the_clock() -> None:
    async def main(clock: Clock) -> list[float]:
        ended = []

        async def part(seconds: float) -> None:
            await asyncio.sleep(seconds)
            ended.append(clock.now)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(part(3))
            tasks.create_task(part(1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 2)
        return [*ended, clock.now]

    assert run(main) == [1.0, 3.0, 10.0]


def test_advance_lands_exactly_on_its_target() -> None:
    async def main(clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.3, int)

        for _ in range(10):
            await clock.advance(0.1)

        assert clock.now == 1.0
        assert clock.elapsed_us == 1_000_000
        assert loop.time() == 1.0

    run(main)


def test_advance_runs_every_timer_at_its_own_moment() -> None:
    """Otherwise a chain of short waits would all happen at the end of a long one."""

    async def main(clock: Clock) -> list[float]:
        seen: list[float] = []

        async def chain() -> None:
            for _ in range(4):
                await asyncio.sleep(0.25)
                seen.append(clock.now)

        task = asyncio.create_task(chain())
        await clock.advance(1.0)
        assert task.done()
        return seen

    assert run(main) == [0.25, 0.5, 0.75, 1.0]


def test_advance_returns_when_its_instant_is_over() -> None:
    async def main(clock: Clock) -> list[str]:
        seen: list[str] = []

        async def later() -> None:
            await asyncio.sleep(1.0)
            for step in "abc":
                await asyncio.sleep(0)
                seen.append(step)

        task = asyncio.create_task(later())
        await clock.advance(1.0)
        seen.append("advanced")
        await task
        return seen

    assert run(main) == ["a", "b", "c", "advanced"]


def test_several_tasks_may_advance_at_once() -> None:
    async def main(clock: Clock) -> list[tuple[str, float]]:
        seen = []

        async def each(name: str, seconds: float) -> None:
            await clock.advance(seconds)
            seen.append((name, clock.now))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(each("long", 3))
            tasks.create_task(each("short", 1))
            tasks.create_task(each("short too", 1))
        return seen

    assert run(main) == [("short", 1.0), ("short too", 1.0), ("long", 3.0)]


def test_run_until_idle_leaves_nothing_scheduled() -> None:
    async def main(clock: Clock) -> float:
        asyncio.get_running_loop().call_later(7, int)
        task = asyncio.create_task(asyncio.sleep(40))

        await clock.run_until_idle()

        assert task.done()
        return clock.now

    assert run(main) == 40


def test_run_until_idle_gives_up_on_a_periodic_timer() -> None:
    async def main(clock: Clock) -> None:
        async def tick() -> None:
            for _ in itertools.count():
                await asyncio.sleep(1)

        task = asyncio.create_task(tick())
        with pytest.raises(ClockError, match=r"not idle at 101\.0 s: .* re-arm itself for ever"):
            await clock.run_until_idle(limit=100)
        assert not task.done()

    run(main)


def test_something_ready_for_ever_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chinwag.testing.loop._MOST_ROUNDS", 1000)

    async def main() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(ClockError, match=r"ready for ever at 0\.0 s(?s:.*)in .*main"):
        run(main)


def test_a_deadlock_says_who_waits_where() -> None:
    async def main(clock: Clock) -> None:
        await asyncio.sleep(2)
        task = asyncio.create_task(asyncio.Event().wait(), name="the other")
        await task

    with pytest.raises(DeadlockError) as caught:
        run(main)

    text = str(caught.value)
    assert text.startswith("deadlock at 2.0 s: every task waits, nothing is scheduled")
    assert "the other at " in text
    assert f"{__file__}:" in text


def test_an_endless_sleep_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.sleep(math.inf)

    with pytest.raises(DeadlockError):
        run(main)


def test_tasks_are_cancelled_after_a_deadlock() -> None:
    ended = []

    async def main() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("main")

    with pytest.raises(DeadlockError):
        run(main)

    assert ended == ["main"]


def test_run_closes_tasks_and_threads() -> None:
    closed = []
    tasks = []

    async def forever() -> None:
        try:
            await asyncio.sleep(math.inf)
        finally:
            closed.append("task")

    async def main() -> None:
        tasks.append(asyncio.create_task(forever()))
        await asyncio.to_thread(int)
        await asyncio.sleep(0)

    before = threading.active_count()

    run(main)

    assert closed == ["task"]
    assert tasks[0].cancelled()
    assert threading.active_count() == before


def test_threads_take_no_virtual_time() -> None:
    async def main(clock: Clock) -> None:
        asyncio.get_running_loop().call_later(1, seen.append, "timer")

        await asyncio.to_thread(time.sleep, 0.02)
        seen.append("thread")

        assert clock.now == 0
        await clock.run_until_idle()

    seen: list[str] = []
    run(main)
    assert seen == ["thread", "timer"]


def test_a_thread_that_waits_for_the_clock_is_left_behind() -> None:
    async def main(clock: Clock) -> None:
        go = threading.Event()
        asyncio.get_running_loop().call_later(60, go.set)

        assert await asyncio.to_thread(go.wait, 30)

        assert clock.now == 60

    run(main, Clock(thread_wait_s=0.05))


def test_a_thread_that_hangs_is_an_error() -> None:
    go = threading.Event()

    async def main() -> None:
        hangs = asyncio.get_running_loop().run_in_executor(None, go.wait, 30)
        try:
            await hangs
        finally:
            go.set()

    with pytest.raises(ClockError, match="a job in a thread hangs"):
        run(main, Clock(thread_wait_s=0.05))


def test_a_foreign_thread_wakes_the_loop() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        thread = threading.Thread(
            target=lambda: loop.call_soon_threadsafe(future.set_result, "from outside")
        )
        thread.start()
        await asyncio.to_thread(thread.join)
        return await future

    assert run(main) == "from outside"


def test_sockets_are_waited_for_in_real_time() -> None:
    async def main() -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hi\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return line

    assert run(main) == b"hi\n"


def test_one_instant_runs_in_booking_order() -> None:
    """A heap alone leaves the order of equal times to chance."""

    async def main(clock: Clock) -> list[int]:
        seen: list[int] = []
        for number in range(50):
            clock.at(1.0, seen.append, number)
            clock.at(1.0 + number / 10, int)
        await clock.run_until_idle()
        return seen

    assert run(main) == list(range(50))


def test_sleepers_wake_before_what_is_booked() -> None:
    """So calls have ended when something is pushed at the same instant."""

    async def main(clock: Clock) -> list[str]:
        seen: list[str] = []

        async def sleeper() -> None:
            await asyncio.sleep(1.0)
            seen.append("awake")

        clock.at(1.0, seen.append, "booked")
        clock.at(1.0, seen.append, "booked, too")
        task = asyncio.create_task(sleeper())
        await clock.advance(1.0)
        assert task.done()
        return seen

    assert run(main) == ["awake", "booked", "booked, too"]


def test_timers_fire_at_the_nearest_microsecond() -> None:
    async def main(clock: Clock) -> list[int]:
        seen: list[int] = []
        loop = asyncio.get_running_loop()
        for when in (0.1 + 0.2, 0.3, 0.3000004, 0.3000006):
            loop.call_at(when, lambda: seen.append(clock.elapsed_us))
        await clock.run_until_idle()
        return seen

    assert run(main) == [300_000, 300_000, 300_000, 300_001]


def test_cancelled_timers_are_forgotten() -> None:
    """A timer that is pushed back with every message must not pile up."""

    async def main(clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(10_000):
            loop.call_later(60, int).cancel()
        assert len(loop._timers) < 1000  # type: ignore[attr-defined]

        kept = loop.call_later(1, int)
        await clock.run_until_idle()
        assert clock.now == kept.when() == 1.0

    run(main)


def test_at_refuses_the_past() -> None:
    async def main(clock: Clock) -> None:
        await clock.advance(2)
        with pytest.raises(ValueError, match=r"when=1\.0: must be a number from 2\.0"):
            clock.at(1.0, int)

    run(main)


@pytest.mark.parametrize(
    "wrong",
    ["1", True, -1, 10**400, math.inf, math.nan, np.timedelta64(1, "s"), np.array([1.0])],
    ids=range(8),
)
def test_a_clock_takes_seconds(wrong: Any) -> None:
    async def main(clock: Clock) -> None:
        with pytest.raises(ValueError, match="seconds="):
            await clock.advance(wrong)
        with pytest.raises(ValueError, match="when="):
            clock.at(wrong, int)
        await clock.advance(1)  # and it goes on

    run(main)
    with pytest.raises(ValueError, match="thread_wait_s="):
        Clock(thread_wait_s=wrong)


@pytest.mark.parametrize("limit", [-1, 1.5, "1", True, None])
def test_a_limit_of_moves_is_a_count(limit: Any) -> None:
    async def main(clock: Clock) -> None:
        with pytest.raises(ValueError, match="limit="):
            await clock.run_until_idle(limit=limit)

    run(main)


@pytest.mark.parametrize(
    ("now_us", "error"),
    [
        *((wrong, TypeError) for wrong in (1.5, "1", True, None)),
        *((wrong, ValueError) for wrong in (-1, 2**64, 10**400, 253_402_300_800_000_001, 9)),
    ],
)
def test_a_manual_clock_takes_microseconds(now_us: Any, error: type[Exception]) -> None:
    clock = ManualClock(10e-6)

    with pytest.raises(error, match="now_us="):
        clock.advance_to_us(now_us)

    assert clock.now_us == 10
    clock.advance_to_us(np.int64(11))  # type: ignore[arg-type]
    assert clock.now_us == 11


def test_a_clock_without_a_loop_says_so() -> None:
    with pytest.raises(ClockError, match="drives no event loop"):
        Clock().at(1.0, int)


def test_a_clock_drives_one_loop_at_a_time() -> None:
    clock = Clock()
    loop = new_event_loop(clock)

    with pytest.raises(ClockError, match="already drives"):
        new_event_loop(clock)

    loop.close()
    new_event_loop(clock).close()


def test_a_clock_starts_at_a_whole_second_not_past() -> None:
    """Messages pushed with the real clock before must not seem to come from the future."""
    before = time.time()

    clock = Clock()

    assert clock.start_s >= before
    assert clock.start_s == int(clock.start_s)
    assert clock.now == 0


def test_engine_and_loop_share_one_clock() -> None:
    async def main(clock: Clock) -> None:
        handler = RecordingHandler[str]()
        async with Queue(handler, quiet_s=1.5) as queue:
            queue.put_nowait("room", "ann", "one")
            await clock.advance(1.0)
            queue.put_nowait("room", "ann", "two")
            await clock.advance(1.499_999)
            assert handler.calls == []
            await clock.advance(0.000_001)

            (call,) = handler.calls
            assert call.payloads == ["one", "two"]
            assert call.started == 2.5
            arrived = [message.arrived_at - clock.start_s for message in call.batch.messages]
            assert arrived == [0.0, 1.0]

    run(main)


def test_pushes_before_the_loop_runs_are_older() -> None:
    handler = RecordingHandler[str]()
    queue = Queue(handler, quiet_s=1.5)
    queue.put_nowait("room", "ann", "early")

    async def main(clock: Clock) -> None:
        async with queue:
            await clock.advance(1.5)
            assert handler.batches == [["early"]]

    run(main)


def test_calls_end_then_pushes_come_then_calls_start() -> None:
    """T1, where it shows: what is pushed as a call ends is in the next one."""

    async def main(clock: Clock) -> list[tuple[float, list[str]]]:
        handler = RecordingHandler[str](duration_s=2.0)
        async with Queue(handler) as queue:
            for second, payload in enumerate("abcde"):
                clock.at(float(second), queue.put_nowait, "room", "ann", payload)
            await clock.run_until_idle()
        return [(call.started, call.payloads) for call in handler.calls]

    assert run(main) == [(0.0, ["a"]), (2.0, ["b", "c"]), (4.0, ["d", "e"])]


def test_a_push_at_the_end_of_a_call_finds_its_lane_idle() -> None:
    """T1 again: it waits for its own quiet period, as `quiet_when_busy` is not about it."""

    async def main(clock: Clock) -> list[float]:
        handler = RecordingHandler[str](duration_s=2.0)
        async with Queue(handler, quiet_s=1.0, quiet_when_busy=False) as queue:
            clock.at(0.0, queue.put_nowait, "room", "ann", "one")
            clock.at(3.0, queue.put_nowait, "room", "ann", "two")
            await clock.run_until_idle()
        return [call.started for call in handler.calls]

    assert run(main) == [1.0, 4.0]


def test_a_pause_at_the_end_of_a_call_holds_the_next() -> None:
    """T1: the call ends, then the pause comes, then nothing starts."""

    async def main(clock: Clock) -> list[float]:
        handler = RecordingHandler[str](duration_s=2.0)
        async with Queue(handler) as queue:
            clock.at(0.0, queue.put_nowait, "room", "ann", "one")
            clock.at(1.0, queue.put_nowait, "room", "ann", "two")
            clock.at(2.0, queue.pause, "room")
            clock.at(5.0, queue.resume, "room")
            await clock.run_until_idle()
        return [call.started for call in handler.calls]

    assert run(main) == [0.0, 5.0]


def test_closing_at_the_end_of_a_call_leaves_it_done() -> None:
    """T1: it has ended before the queue closes, and nothing starts between the two."""

    async def main(clock: Clock) -> tuple[list[str], int]:
        handler = RecordingHandler[str](duration_s=2.0)
        queue = Queue(handler)
        await queue.start()
        for payload in ("one", "two"):
            receipts.append(queue.put_nowait("room", "ann", payload))
            await clock.advance(0)
        loop = asyncio.get_running_loop()
        clock.at(2.0, lambda: closing.append(loop.create_task(queue.aclose(drain=False))))
        await clock.run_until_idle()
        await closing[0]
        return [receipt.state for receipt in receipts], len(handler.calls)

    receipts: list[Any] = []
    closing: list[asyncio.Task[None]] = []
    assert run(main) == (["done", "abandoned"], 1)


def test_all_calls_of_an_instant_end_before_one_starts() -> None:
    """T1: otherwise who waits longest would lose to who ends first."""

    async def main(clock: Clock) -> list[str]:
        handler = RecordingHandler[str](duration_s=2.0)
        async with Queue(handler, max_concurrent_per_group=2) as queue:
            for second, sender in ((0, "ann"), (0, "bob"), (1, "bob"), (1, "ann")):
                clock.at(second, queue.put_nowait, "room", sender, f"{sender}{second}")
            await clock.run_until_idle()
        return [payload for batch in handler.batches for payload in batch]

    assert run(main) == ["ann0", "bob0", "bob1", "ann1"]


def test_a_push_at_the_due_time_joins_the_window() -> None:
    """T3: exactly at its limit is not past it."""

    async def main(clock: Clock) -> list[list[str]]:
        handler = RecordingHandler[str]()
        async with Queue(handler, quiet_s=1.0) as queue:
            clock.at(0.0, queue.put_nowait, "room", "ann", "one")
            clock.at(1.0, queue.put_nowait, "room", "ann", "two")
            await clock.run_until_idle()
        return handler.batches

    assert run(main) == [["one", "two"]]


def test_the_same_run_gives_the_same_record() -> None:
    async def main(clock: Clock) -> list[tuple[str, float, float | None, list[int]]]:
        handler = RecordingHandler[int](duration_s=lambda batch: 0.5 * len(batch))
        async with Queue(handler, quiet_s=0.5, max_concurrent=3) as queue:
            for n in range(200):
                clock.at(n // 4 * 0.25, queue.put_nowait, f"g{n % 7}", f"s{n % 3}", n)
            await clock.run_until_idle()
            queue.check()
        return [(call.group, call.started, call.ended, call.payloads) for call in handler.calls]

    first = run(main)

    assert len(first) > 20
    assert run(main) == first


def test_plain_handlers_run_in_threads_on_virtual_time() -> None:
    seen: list[tuple[list[str], bool]] = []

    def handler(batch: Batch[str]) -> str:
        in_main = threading.current_thread() is threading.main_thread()
        seen.append((list(batch.payloads), in_main))
        return "answer"

    async def main(clock: Clock) -> None:
        async with Queue(handler, quiet_s=5.0) as queue:
            receipt = queue.put_nowait("room", "ann", "hi")
            assert await receipt == "answer"
            assert clock.now == 5.0

    run(main)

    assert seen == [(["hi"], False)]


def test_the_recording_handler_records() -> None:
    receipts: list[Any] = []

    async def main(clock: Clock) -> RecordingHandler[str]:
        handler = RecordingHandler[str](
            duration_s=1.0,
            results={"m1": "R1"},
            failures={"m3": ValueError("broken"), "m4": [KeyError, None]},
        )
        async with Queue(handler, max_batch=1, max_concurrent_per_group=2, max_attempts=1) as queue:
            for n, sender in enumerate(("ann", "bob", "ann", "bob", "eve"), 1):
                receipts.append(queue.put_nowait("room", sender, f"p{n}", id=f"m{n}"))
            await clock.advance(0)
            assert handler.running("room") == handler.running() == 2
            await clock.run_until_idle()
            assert handler.running() == 0
            assert await receipts[0] == "R1"
        return handler

    handler = run(main)

    assert sorted(call.ids[0] for call in handler.calls) == ["m1", "m2", "m3", "m4", "m5"]
    calls = {call.ids[0]: call for call in handler.calls}
    assert (calls["m1"].group, calls["m1"].sender, calls["m1"].payloads) == ("room", "ann", ["p1"])
    assert (calls["m1"].started, calls["m1"].ended) == (0.0, 1.0)
    assert (calls["m1"].outcome, calls["m1"].result) == ("done", "R1")
    assert calls["m1"].kind == "single"
    assert (calls["m3"].outcome, str(calls["m3"].error)) == ("failed", "broken")
    assert (calls["m4"].outcome, type(calls["m4"].error)) == ("failed", KeyError)
    assert handler.peak("room") == handler.peak() == 2
    assert handler.peak("elsewhere") == 0


def test_the_recording_handler_records_cancellation() -> None:
    async def main(clock: Clock) -> RecordingHandler[str]:
        handler = RecordingHandler[str](duration_s=lambda batch: 60.0)
        async with Queue(handler) as queue:
            queue.put_nowait("room", "ann", "hi")
            await clock.advance(1.0)
            await queue.aclose(drain=False)
        return handler

    (call,) = run(main).calls

    assert (call.outcome, call.ended) == ("cancelled", 1.0)


def test_fixture_runs_a_body_on_its_clock(chinwag_clock: Clock, chinwag_run: Run) -> None:
    async def body(clock: Clock) -> str:
        assert clock is chinwag_clock
        await asyncio.sleep(5)
        return "ran"

    assert chinwag_run(body) == "ran"
    assert chinwag_clock.now == 5


def test_fixture_may_run_twice(chinwag_clock: Clock, chinwag_run: Run) -> None:
    async def body() -> None:
        await asyncio.sleep(1)

    chinwag_run(body)
    chinwag_run(body())

    assert chinwag_clock.now == 2


def test_the_plug_in_loads_nothing_that_it_may_not_need() -> None:
    code = (
        "import sys; import chinwag.testing.plugin; "
        "print([name for name in sys.modules if name.startswith('chinwag.testing.')])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['chinwag.testing.plugin']"

"""Closing: what is drained, cancelled or fenced, and who may wait for it, or for a `join`."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from chinwag import Batch, Context, Queue, QueueClosed, Receipt, _driver
from chinwag.stats import Ledger
from chinwag.testing import Clock, RecordingHandler
from chinwag.testing import run as run_on_clock
from tests.loops import WATCHDOG_S, Run, other_tasks, outcome


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
        seen.append(ctx.ending.reason)
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
        while not ctx.ending:
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

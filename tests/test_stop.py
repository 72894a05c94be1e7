"""Stop: at once, and it owns what waits."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from chinwag import Batch, Context, Dropped, Queue
from chinwag.testing import Clock, RecordingHandler, run
from chinwag.testing.plugin import Run


def test_stop_ends_what_runs_and_what_waits(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=100)

    async def body() -> None:
        async with Queue(handler) as queue:
            running = queue.put_nowait("room", "ann", "a")
            other = queue.put_nowait("other", "ann", "b")
            await asyncio.sleep(1)
            waiting = queue.put_nowait("room", "ann", "c")
            later = queue.put_nowait("room", "bob", "d", delay_s=50)
            assert queue.stop("room") == (2, 1)
            with pytest.raises(Dropped, match=r"abandoned \(stopped\)"):
                await running
            assert asyncio.get_running_loop().time() == 1
            for receipt in (waiting, later):
                with pytest.raises(Dropped, match=r"cleared \(stopped\)"):
                    await receipt
            queue.put_nowait("room", "ann", "e")
            await other
            await queue.join()
            assert queue.stop("nowhere") == (0, 0)

    chinwag_run(body)
    assert [call.outcome for call in handler.calls] == ["cancelled", "done", "done"]


def test_a_call_that_stops_its_own_group_ends_like_the_others(chinwag_run: Run) -> None:
    after: list[object] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        after.append(queue.stop(batch.group))
        try:
            await asyncio.sleep(10)
        finally:
            after.append(ctx.ending.reason)

    queue = Queue(handle)

    async def body() -> None:
        async with queue:
            receipt = queue.put_nowait("room", "ann", "a")
            with pytest.raises(Dropped, match="stopped"):
                await receipt
            assert len(queue.dead) == 0

    chinwag_run(body)
    assert after == [(0, 1), "stopped"]


def test_stop_meets_a_call_that_has_not_begun(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        async with Queue(handler) as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            asyncio.get_running_loop().call_soon(queue.stop, "room")
            with pytest.raises(Dropped, match="stopped"):
                await receipt

    chinwag_run(body)


def test_stop_of_a_sender(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=5)

    async def body() -> None:
        async with Queue(handler) as queue:
            ann, bob = (queue.put_nowait("room", name, name) for name in ("ann", "bob"))
            await asyncio.sleep(1)
            assert queue.group("room").stop("ann") == (0, 1)
            with pytest.raises(Dropped, match="stopped"):
                await ann
            await bob

    chinwag_run(body)


def test_closing_waits_for_no_call_that_was_given_up(
    chinwag_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """It has had its grace; and it was told of once."""

    async def handle(batch: Batch[str]) -> None:
        for _ in range(3):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)

    async def body() -> float:
        queue = Queue(handle, cancel_grace_s=5)
        async with queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.stop("room")
            await asyncio.sleep(6)
            await queue.aclose()
            return asyncio.get_running_loop().time()

    assert chinwag_run(body) == 7
    assert caplog.text.count("has not ended 5 s after it was asked to") == 1


def test_closing_waits_for_no_thread_that_was_given_up() -> None:
    """A plain function cannot be cancelled, and may never return."""
    go_on = threading.Event()

    def handle(batch: Batch[str]) -> None:
        go_on.wait()

    async def body() -> None:
        try:
            async with Queue(handle, handler_timeout_s=10, max_attempts=1) as queue:
                with pytest.raises(Dropped, match="timeout"):
                    await queue.put_nowait("room", "ann", "a")
        finally:
            go_on.set()

    run(body, Clock(thread_wait_s=0.05))

"""A group out of service: its messages go to the fallback, one by one."""

from __future__ import annotations

import asyncio

import pytest

from chinwag import Batch, Context, Dropped, Queue
from chinwag.testing import RecordingHandler
from chinwag.testing.plugin import Run


@pytest.mark.parametrize("kind", ["async", "plain", "with context"])
def test_the_fallback_gets_everything_in_push_order(chinwag_run: Run, kind: str) -> None:
    handler = RecordingHandler[str](duration_s=1)
    told: list[list[str]] = []

    async def body() -> list[object]:
        queue = Queue[str](handler)
        if kind == "async":

            @queue.fallback
            async def tell(batch: Batch[str]) -> str:
                told.append(batch.payloads)
                return "told"

        elif kind == "plain":

            @queue.fallback
            def tell_from_a_thread(batch: Batch[str]) -> str:
                told.append(batch.payloads)
                return "told"

        else:

            @queue.fallback
            async def tell_with(batch: Batch[str], ctx: Context) -> str:
                told.append(batch.payloads)
                ctx.commit()
                return "told"

        async with queue:
            runs = queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(0)
            queue.put_nowait("room", "eve", "heard", context=True)
            receipts = [queue.put_nowait("room", "ann", word) for word in "bc"]
            assert queue.group("room").disable()
            assert not queue.disable("room")
            answers = [await receipt for receipt in (runs, *receipts)]
            assert queue.group("room").enable()
            assert not queue.enable("room")
            answers.append(await queue.put_nowait("room", "ann", "d"))
            return answers[1:3]

    assert chinwag_run(body) == ["told", "told"]
    assert told == [["heard"], ["b"], ["c"]]
    assert handler.batches == [["a"], ["d"]]


def test_a_failing_fallback_makes_a_dead_letter(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue[str](RecordingHandler[str]())

        @queue.fallback
        async def fail(batch: Batch[str]) -> None:
            raise OSError("the desk is closed")

        async with queue:
            queue.disable("room")
            with pytest.raises(Dropped, match="dead"):
                await queue.put_nowait("room", "ann", "a")
            (letter,) = queue.dead
            assert letter.attempts == 1

    chinwag_run(body)


def test_nobody_is_disabled_without_a_fallback() -> None:
    queue = Queue[str](RecordingHandler[str]())
    with pytest.raises(RuntimeError, match=r"register a fallback: @queue\.fallback"):
        queue.disable("room")

    queue.fallback(print_batch)
    with pytest.raises(RuntimeError, match="a fallback already"):
        queue.fallback(print_batch)


def print_batch(batch: Batch[str]) -> None:
    """Stand for a fallback."""

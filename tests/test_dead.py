"""Dead letters that come back, and the function that is told of failures."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from chinwag import Batch, Context, DeadLetter, Dropped, Queue, QueueClosed, QueueFull, Rejected
from chinwag.testing import RecordingHandler
from chinwag.testing.plugin import Run


async def a_letter(queue: Queue[str]) -> DeadLetter[str]:
    queue.put_nowait("room", "ann", "bad", id="1")
    await queue.join()
    (letter,) = queue.dead
    return letter


@pytest.mark.parametrize("why", ["full", "duplicate", "closed"])
def test_a_letter_that_is_refused_stays(chinwag_run: Run, why: str) -> None:
    handler = RecordingHandler[str](failures={"1": OSError("down")})
    refusal = {"full": QueueFull, "duplicate": Rejected, "closed": QueueClosed}[why]

    async def body() -> None:
        async with Queue(handler, max_attempts=1, capacity_per_group=1) as queue:
            letter = await a_letter(queue)
            queue.pause("room")
            if why != "closed":
                queue.put_nowait("room", "ann", "another", id="1" if why == "duplicate" else "2")
            else:
                await queue.aclose()

            with pytest.raises(refusal):
                queue.dead.retry(letter)

            assert list(queue.dead) == [letter]
            queue.resume("room")

    chinwag_run(body)


def test_every_failure_is_told(chinwag_run: Run) -> None:
    """Also one that is tried again, and of a message that was given up on without saying why."""
    told: list[tuple[list[str], str, int]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        if batch.payloads == ["bad"]:
            raise OSError("down")
        ctx.fail(batch[0])

    async def body() -> None:
        queue = Queue[str](handle, max_attempts=2, max_batch=1)

        @queue.on_error
        def tell(batch: Batch[str], error: BaseException | None, attempt: int) -> None:
            told.append((batch.payloads, str(error), attempt))

        async with queue:
            for payload in ("bad", "given up on"):
                with pytest.raises(Dropped):
                    await queue.put_nowait("room", "ann", payload)

    chinwag_run(body)
    assert told == [
        (["bad"], "down", 1),
        (["bad"], "down", 2),
        (["given up on"], "None", 1),
        (["given up on"], "None", 2),
    ]


def test_who_is_told_of_failures_may_fail(
    chinwag_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    handler = RecordingHandler[str](failures={"1": [OSError("down"), None]})

    async def body() -> None:
        queue = Queue(handler)

        @queue.on_error
        def tell(batch: Batch[str], error: BaseException | None, attempt: int) -> None:
            raise LookupError("no pager")

        async with queue:
            await queue.put_nowait("room", "ann", "a", id="1")

    with caplog.at_level(logging.ERROR, "chinwag"):
        chinwag_run(body)
    assert "what is told of failures has itself failed" in caplog.text
    assert "no pager" in caplog.text


def test_only_a_function_is_told_of_failures() -> None:
    value: Any = "a pager"

    with pytest.raises(TypeError, match="on_error='a pager': must be callable"):
        Queue(RecordingHandler[str]()).on_error(value)


def test_who_is_told_of_failures_is_said_once(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str]())
        queue.on_error(print)
        with pytest.raises(RuntimeError, match="once"):
            queue.on_error(print)
        async with Queue(RecordingHandler[str]()) as started:
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="before the queue is started"):
                started.on_error(print)

    chinwag_run(body)

"""Calls that fail: tried again, in halves, one by one, later, or dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from chinwag import Batch, ConfigError, Context, DeadLetter, Dropped, LeaseLost, Queue
from chinwag.testing import Clock, RecordingHandler, run
from chinwag.testing.plugin import Run


def test_a_failed_batch_comes_back_before_anything_newer(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](failures={"1": [OSError("down"), OSError("down"), None]})

    async def body() -> None:
        async with Queue(handler, jitter="none") as queue:
            first = queue.put_nowait("room", "ann", "a", id="1")
            await asyncio.sleep(0.5)
            assert first.state == "retrying"
            assert queue.check().retrying == 1
            assert [batch.waits_for for batch in queue.explain("room").waiting] == ["backoff"]
            queue.put_nowait("room", "ann", "b")
            await first
            await queue.join()

    chinwag_run(body)
    assert [(call.started, call.payloads) for call in handler.calls] == [
        (0, ["a"]),
        (1, ["a"]),
        (3, ["a"]),
        (3, ["b"]),
    ]


def test_what_fails_for_good_is_kept_and_can_be_tried_again(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](failures={"1": [OSError("down"), None]})
    told: list[tuple[list[str], str, int]] = []

    async def body() -> None:
        queue = Queue(handler, max_attempts=1)

        @queue.on_error
        def tell(batch: Batch[str], error: BaseException | None, attempt: int) -> None:
            told.append((batch.payloads, str(error), attempt))

        async with queue:
            receipt = queue.put_nowait("room", "ann", "a", id="1", rank=2)
            with pytest.raises(Dropped, match="dead") as caught:
                await receipt
            assert isinstance(caught.value.__cause__, OSError)
            (letter,) = queue.dead
            assert (letter.message.payload, letter.attempts, letter.reason) == ("a", 1, "error")
            assert isinstance(letter.error, OSError)
            await queue.dead.retry(letter)
            assert len(queue.dead) == 0
            with pytest.raises(ValueError, match="not here any more"):
                queue.dead.retry(letter)
        assert queue.check().done == 1

    chinwag_run(body)
    assert told == [(["a"], "down", 1)]
    assert handler.calls[1].batch[0].rank == 2


def test_a_letter_is_pushed_again_with_its_own_id(chinwag_run: Run) -> None:
    """It may look like those that chinwag gives; without it, it would not be filtered."""
    handler = RecordingHandler[str](failures={"#general": [OSError("down"), None]})

    async def body() -> list[str]:
        async with Queue(handler, max_attempts=1) as queue:
            queue.put_nowait("room", "ann", "a", id="#general")
            await queue.join()
            (letter,) = queue.dead
            queue.dead.retry(letter)
            await queue.join()
            return [call.batch[0].id for call in handler.calls]

    assert chinwag_run(body) == ["#general", "#general"]


def test_what_was_listened_to_is_dead_with_its_call(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](failures={"1": OSError("down")})

    async def body() -> list[str]:
        async with Queue(handler, max_attempts=1) as queue:
            queue.put_nowait("room", "bob", "listened to", context=True)
            queue.put_nowait("room", "ann", "a", id="1")
            await queue.join()
            assert queue.check().dead == 2
            return [letter.message.payload for letter in queue.dead]

    assert chinwag_run(body) == ["a", "listened to"]


@pytest.mark.parametrize("how", ["the call raises", "each message is given up on"])
def test_a_dead_letter_costs_the_same_among_many(how: str) -> None:
    async def handle(batch: Batch[int], ctx: Context) -> None:
        if how == "the call raises":
            raise OSError("down")
        for message in batch:
            ctx.fail(message)

    def lines(messages: int) -> int:
        """How many lines of Python are run for a batch of so many that end dead."""
        count = 0

        def trace(frame: object, event: str, _: object) -> Callable[..., Any]:
            nonlocal count
            count += event == "line"
            return trace

        async def body() -> None:
            queue = Queue[int](handle, max_attempts=1)
            for number in range(messages):
                queue.put_nowait("room", "ann", number)
            async with queue:
                before = sys.gettrace()
                sys.settrace(trace)
                try:
                    await queue.join()
                finally:
                    sys.settrace(before)
            assert len(queue.dead) == messages

        run(body)
        return count

    few, more, many = (lines(messages) for messages in (100, 200, 300))

    assert many - more <= 1.2 * (more - few)


def test_dead_letters_are_bounded(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](failures={str(n): OSError() for n in range(5)})

    async def body() -> None:
        async with Queue(handler, max_attempts=1, max_batch=1, dead_limit=2) as queue:
            for n in range(5):
                queue.put_nowait("room", "ann", "a", id=str(n))
            await queue.join()
            kept: Sequence[DeadLetter[str]] = list(queue.dead)
            assert [letter.message.id for letter in kept] == ["3", "4"]
            assert queue.dead.dropped == 3
            assert queue.dead.drop(kept[0])
            assert queue.dead.clear() == 1

    chinwag_run(body)


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({"no_retry": (OSError,)}, 1),
        ({"no_retry": KeyError}, 3),
        ({"retry_if": lambda error: "up" in str(error)}, 1),
        ({"retry_if": lambda error: 1 / 0}, 3),
    ],
)
def test_some_failures_are_not_worth_another_attempt(
    chinwag_run: Run, settings: dict[str, Any], calls: int
) -> None:
    handler = RecordingHandler[str](failures={"1": OSError("down")})

    async def body() -> None:
        async with Queue(handler, **settings) as queue:
            queue.put_nowait("room", "ann", "a", id="1")
            await queue.join()
            assert queue.check().dead == 1

    chinwag_run(body)
    assert len(handler.calls) == calls


def test_a_handler_gives_up_on_one_message(chinwag_run: Run) -> None:
    calls: list[list[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        calls.append(batch.payloads)
        for message in batch:
            if message.payload == "bad":
                ctx.fail(message, ValueError("bad"))
        return "ok"

    async def body() -> None:
        async with Queue(handle, max_attempts=2) as queue:
            receipts = [queue.put_nowait("room", "ann", text) for text in ("a", "bad", "b")]
            assert await receipts[0] == await receipts[2] == "ok"
            with pytest.raises(Dropped, match="failed") as caught:
                await receipts[1]
            assert isinstance(caught.value.__cause__, ValueError)
            (letter,) = queue.dead
            assert (letter.message.payload, letter.attempts) == ("bad", 2)

    chinwag_run(body)
    assert calls == [["a", "bad", "b"], ["bad"]]


def test_a_batch_snoozes(chinwag_run: Run) -> None:
    started: list[tuple[float, int]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        started.append((asyncio.get_running_loop().time(), ctx.attempt))
        if len(started) == 1:
            ctx.snooze(30)

    async def body() -> None:
        async with Queue(handle) as queue:
            await queue.put_nowait("room", "ann", "a")

    chinwag_run(body)
    assert started == [(0, 1), (30, 1)]


def test_after_commit_a_failure_is_final(chinwag_run: Run) -> None:
    kept: list[Context] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        ctx.commit()
        kept.append(ctx)
        raise OSError

    async def body() -> None:
        async with Queue(handle) as queue:
            with pytest.raises(Dropped, match="committed"):
                await queue.put_nowait("room", "ann", "a")

    chinwag_run(body)
    (ctx,) = kept
    for late in (ctx.commit, lambda: ctx.snooze(1)):
        with pytest.raises(LeaseLost):
            late()


def test_a_call_that_was_ended_has_no_more_to_say(chinwag_run: Run) -> None:
    """It swallows its cancellation and returns: what it says after that is for nobody."""
    kept: list[Context] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        kept.append(ctx)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)

    async def body() -> None:
        async with Queue(handle, handler_timeout_s=10, max_attempts=1) as queue:
            with pytest.raises(Dropped, match="timeout"):
                await queue.put_nowait("room", "ann", "a")

    chinwag_run(body)
    (ctx,) = kept
    with pytest.raises(LeaseLost):
        ctx.snooze(1)


def test_a_committed_call_may_be_tried_again(chinwag_run: Run) -> None:
    """Where a second answer does no harm."""
    attempts: list[int] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        attempts.append(ctx.attempt)
        ctx.commit()
        if ctx.attempt < 3:
            raise OSError("down")
        return "answered"

    async def body() -> object:
        async with Queue[str](handle, retry_committed=True) as queue:
            return await queue.put_nowait("room", "ann", "a")

    assert chinwag_run(body) == "answered"
    assert attempts == [1, 2, 3]


def pauses(seed: int, **settings: Any) -> list[float]:
    """How long a batch that always fails waits between its attempts."""
    handler = RecordingHandler[str](failures={"1": OSError("down")})

    async def body() -> None:
        async with Queue(handler, seed=seed, **settings) as queue:
            queue.put_nowait("room", "ann", "a", id="1")
            await queue.join()

    run(body)
    starts = [call.started for call in handler.calls]
    return [after - before for before, after in pairwise(starts)]


def test_pauses_grow_up_to_their_cap() -> None:
    settings = {"max_attempts": 7, "jitter": "none", "backoff_s": 1, "backoff_factor": 3}

    assert pauses(0, **settings, backoff_cap_s=20) == [1, 3, 9, 20, 20, 20]


def test_jitter_takes_any_length_up_to_the_longest() -> None:
    """So that many who failed together do not come back together."""
    settings = {"max_attempts": 6, "backoff_s": 1, "backoff_factor": 3, "backoff_cap_s": 20}
    longest = (1, 3, 9, 20, 20)

    shares = [
        pause / most
        for seed in range(40)
        for pause, most in zip(pauses(seed, **settings), longest, strict=True)
    ]

    assert 0 <= min(shares) < 0.05
    assert 0.95 < max(shares) <= 1
    assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.08)


def test_jitter_is_the_seeds() -> None:
    assert pauses(7, max_attempts=6) == pauses(7, max_attempts=6)
    assert pauses(7, max_attempts=6) != pauses(8, max_attempts=6)


def test_a_slow_call_is_cancelled_and_tried_again(chinwag_run: Run) -> None:
    ends: list[str | None] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        try:
            await asyncio.sleep(100 if ctx.attempt == 1 else 1)
        except asyncio.CancelledError:
            ends.append(ctx.ending.reason)
            raise
        return "in time"

    async def body() -> None:
        async with Queue(handle, handler_timeout_s=10, jitter="none") as queue:
            assert await queue.put_nowait("room", "ann", "a") == "in time"
            assert asyncio.get_running_loop().time() == 12

    chinwag_run(body)
    assert ends == ["timeout"]


def test_a_call_that_will_not_end_loses_its_batch(
    chinwag_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def handle(batch: Batch[str], ctx: Context) -> str:
        nonlocal calls
        calls += 1
        mine = calls
        for _ in range(3 if mine == 1 else 0):
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                continue
        return f"call {mine}"

    async def body() -> None:
        queue = Queue(handle, handler_timeout_s=10, cancel_grace_s=5, jitter="none")
        async with queue:
            receipt = queue.put_nowait("room", "ann", "a")
            assert await receipt == "call 2"
            await asyncio.sleep(100)
            queue.check()

    with caplog.at_level(logging.WARNING, "chinwag"):
        chinwag_run(body)
    assert "has not ended 5 s after it was asked to (timeout)" in caplog.text


def test_a_result_is_told_to_nobody_elses_message(chinwag_run: Run, chinwag_clock: Clock) -> None:
    """A call that holds up the loop ends last, and with it all those whose time is over by then."""
    cancelled: list[str] = []

    async def handle(batch: Batch[str]) -> object:
        if batch.group == "short":
            chinwag_clock.move_to_us(16_000_000)
            return "answered"
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        cancelled.append(batch.group)
        return await asyncio.Event().wait()

    async def body() -> None:
        queue = Queue(handle, handler_timeout_s=10, cancel_grace_s=5, max_attempts=1)
        async with queue:
            late = queue.put_nowait("long", "ann", "a")
            await asyncio.sleep(12)
            assert cancelled == ["long"]
            assert await queue.put_nowait("short", "ann", "b") == "answered"
            with pytest.raises(Dropped, match=r"dead \(timeout\)") as caught:
                await late
            assert caught.value.__cause__ is None
            assert queue.check().dead == queue.check().done == 1

    chinwag_run(body)


@pytest.mark.parametrize("why", ["timeout", "stopped"])
def test_only_what_ended_dead_is_a_dead_letter(chinwag_run: Run, why: str) -> None:
    """A call that will not end loses its messages: dead to a time-out, abandoned to a stop."""

    async def handle(batch: Batch[str]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(100)

    async def body() -> list[tuple[str, str, int]]:
        timeout_s = 10 if why == "timeout" else None
        async with Queue(handle, max_attempts=1, handler_timeout_s=timeout_s) as queue:
            receipt = queue.put_nowait("room", "ann", "a", id="1")
            await asyncio.sleep(10)
            if why == "stopped":
                queue.stop("room")
            with pytest.raises(Dropped):
                await receipt
            queue.put_nowait("other room", "ann", "b", id="1")
            return [(each.message.id, each.reason, each.attempts) for each in queue.dead]

    letters = chinwag_run(body)
    assert letters == ([("1", "timeout", 1)] if why == "timeout" else [])


def test_a_letter_is_kept_of_a_message_whose_id_is_taken_again(
    chinwag_run: Run, chinwag_clock: Clock
) -> None:
    async def handle(batch: Batch[str]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(100)

    async def body() -> list[str]:
        async with Queue(handle, handler_timeout_s=10, max_attempts=1) as queue:
            queue.put_nowait("room", "ann", "old", id="1")
            await asyncio.sleep(12)
            chinwag_clock.move_to_us(16_000_000)
            assert queue.check().dead == 1
            queue.put_nowait("room", "ann", "new", id="1")
            await asyncio.sleep(1)
            return [letter.message.payload for letter in queue.dead]

    assert chinwag_run(body) == ["old"]


def test_what_lost_its_lease_and_its_time_is_a_dead_letter(chinwag_run: Run) -> None:
    """It would be tried again after its `ttl_s`, so it is dead of that."""

    async def handle(batch: Batch[str]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(100)

    async def body() -> list[tuple[str, str]]:
        async with Queue(handle, handler_timeout_s=10, ttl_s=12) as queue:
            with pytest.raises(Dropped, match=r"dead \(ttl\)"):
                await queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(0)
            return [(letter.message.payload, letter.reason) for letter in queue.dead]

    assert chinwag_run(body) == [("a", "ttl")]


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_a_call_that_ends_just_after_its_lease_leaves_a_letter(
    chinwag_run: Run, chinwag_clock: Clock, ends: str
) -> None:
    """Nobody has told its runner yet."""
    go_on = asyncio.Event()

    async def handle(batch: Batch[str]) -> None:
        if batch.group == "short":
            chinwag_clock.move_to_us(16_000_000)
            go_on.set()
            return
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await go_on.wait()
        if ends == "raises":
            raise OSError("down")

    async def body() -> list[tuple[str, str, str]]:
        async with Queue(handle, handler_timeout_s=10, max_attempts=1) as queue:
            queue.put_nowait("long", "ann", "a")
            await asyncio.sleep(12)
            await queue.put_nowait("short", "ann", "b")
            await asyncio.sleep(0)
            return [
                (letter.message.payload, letter.reason, type(letter.error).__name__)
                for letter in queue.dead
            ]

    error = "OSError" if ends == "raises" else "TimeoutError"
    assert chinwag_run(body) == [("a", "timeout", error)]


@pytest.mark.parametrize("told", [False, True], ids=["batch", "batch and context"])
@pytest.mark.parametrize("attempts", [1, 2])
def test_a_call_that_returns_too_late_has_failed(
    chinwag_run: Run, chinwag_clock: Clock, told: bool, attempts: int
) -> None:
    """It has held up the loop, so nobody could tell it that its time was over."""
    heard: list[tuple[str, int]] = []

    async def late(batch: Batch[str]) -> str:
        chinwag_clock.move_to_us(chinwag_clock.elapsed_us + 11_000_000)
        return "too late"

    async def late_with_context(batch: Batch[str], ctx: Context) -> str:
        ctx.fail(batch[0])
        return await late(batch)

    async def body() -> None:
        queue = Queue[str](
            late_with_context if told else late, handler_timeout_s=10, max_attempts=attempts
        )

        @queue.on_error
        def hear(batch: Batch[str], error: BaseException | None, attempt: int) -> None:
            heard.append((type(error).__name__, attempt))

        async with queue:
            with pytest.raises(Dropped, match=r"dead \(timeout\)") as caught:
                await queue.put_nowait("room", "ann", "a")
            assert isinstance(caught.value.__cause__, TimeoutError)
            (letter,) = queue.dead
            assert (letter.attempts, letter.reason) == (attempts, "timeout")

    chinwag_run(body)
    assert heard == [("TimeoutError", attempt + 1) for attempt in range(attempts)]


@pytest.mark.parametrize("given", ["ValueError", (ValueError, 7), int])
def test_no_retry_takes_exceptions(given: object) -> None:
    with pytest.raises(ConfigError, match="no_retry="):
        Queue(no_retry=given)

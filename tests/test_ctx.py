"""What a handler may say about its call, and what is no answer to give."""

from __future__ import annotations

from typing import Any

import pytest

from chinwag import Batch, Context, Dropped, LeaseLost, Message, Queue
from chinwag.testing.plugin import Run


def refusals(chinwag_run: Run, say: Any) -> tuple[BaseException | None, list[BaseException | None]]:
    """What saying it raises, in the call and after it; the call is done all the same."""
    kept: list[tuple[Batch[str], Context]] = []
    raised: list[BaseException | None] = []

    def try_it(batch: Batch[str], ctx: Context) -> None:
        try:
            say(batch, ctx)
        except Exception as error:
            raised.append(error)
        else:
            raised.append(None)

    async def handle(batch: Batch[str], ctx: Context) -> None:
        kept.append((batch, ctx))
        try_it(batch, ctx)

    async def body() -> None:
        async with Queue[str](handle) as queue:
            queue.put_nowait("room", "bob", "listened to", context=True)
            await queue.put_nowait("room", "ann", "a")
        try_it(*kept[0])

    chinwag_run(body)
    return raised[0], raised[1:]


@pytest.mark.parametrize(
    "strange",
    [
        lambda batch: batch.context[0],
        lambda batch: "a",
        lambda batch: None,
        lambda batch: batch,
    ],
    ids=["of its context", "a payload", "none", "the batch"],
)
def test_only_a_message_of_the_batch_is_given_up_on(chinwag_run: Run, strange: Any) -> None:
    error, _ = refusals(chinwag_run, lambda batch, ctx: ctx.fail(strange(batch)))

    assert isinstance(error, ValueError)
    assert "is not a message of this batch" in str(error)


def test_a_message_of_another_batch_is_not_given_up_on(chinwag_run: Run) -> None:
    seen: list[Message[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        seen.append(batch[0])
        if len(seen) == 2:
            with pytest.raises(ValueError, match="is not a message of this batch"):
                ctx.fail(seen[0])

    async def body() -> None:
        async with Queue[str](handle) as queue:
            await queue.put_nowait("room", "ann", "a")
            await queue.put_nowait("room", "ann", "b")
            assert queue.check().done == 2

    chinwag_run(body)


def test_what_a_message_failed_of_is_an_exception(chinwag_run: Run) -> None:
    error, _ = refusals(chinwag_run, lambda batch, ctx: ctx.fail(batch[0], "down"))

    assert isinstance(error, TypeError)
    assert str(error) == "error='down': must be an exception, or None"


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [(-1, ValueError), (float("nan"), ValueError), ("5", TypeError), (None, TypeError)],
)
def test_a_batch_snoozes_for_a_span_of_time(
    chinwag_run: Run, seconds: Any, kind: type[Exception]
) -> None:
    error, _ = refusals(chinwag_run, lambda batch, ctx: ctx.snooze(seconds))

    assert type(error) is kind
    assert "seconds=" in str(error)


def test_a_call_that_has_returned_has_no_more_to_say(chinwag_run: Run) -> None:
    for say in (
        lambda batch, ctx: ctx.fail("no message"),
        lambda batch, ctx: ctx.snooze("no span"),
    ):
        _, (late,) = refusals(chinwag_run, say)
        assert isinstance(late, LeaseLost)


def test_giving_up_twice_counts_once(chinwag_run: Run) -> None:
    """The last word holds."""

    async def handle(batch: Batch[str], ctx: Context) -> None:
        ctx.fail(batch[0], OSError("first"))
        ctx.fail(batch[0], OSError("second"))

    async def body() -> str:
        async with Queue[str](handle, max_attempts=1) as queue:
            with pytest.raises(Dropped, match="failed") as caught:
                await queue.put_nowait("room", "ann", "a")
            assert queue.check().dead == len(queue.dead) == 1
            return str(caught.value.__cause__)

    assert chinwag_run(body) == "second"


def test_the_failure_of_the_call_goes_before(chinwag_run: Run) -> None:
    """A message that was given up on fails of the same as the others then."""
    calls: list[list[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        calls.append(batch.payloads)
        ctx.fail(batch[0], OSError("the message"))
        raise OSError("the call")

    async def body() -> list[tuple[str, str, str]]:
        async with Queue[str](handle, max_attempts=2) as queue:
            for payload in ("a", "b"):
                queue.put_nowait("room", "ann", payload)
            await queue.join()
            return [
                (letter.message.payload, letter.reason, str(letter.error)) for letter in queue.dead
            ]

    assert chinwag_run(body) == [("a", "error", "the call"), ("b", "error", "the call")]
    assert calls == [["a", "b"], ["a", "b"]]


def test_a_batch_has_the_same_messages_at_each_look(chinwag_run: Run) -> None:
    """So that a handler can tell by identity which one it has seen."""
    same: list[bool] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        same.append(batch.messages is batch.messages and batch[0] is batch.primary)
        same.append(batch.context is batch.context and len(batch.context) == 1)

    async def body() -> None:
        async with Queue[str](handle) as queue:
            queue.put_nowait("room", "bob", "listened to", context=True)
            await queue.put_nowait("room", "ann", "a")

    chinwag_run(body)
    assert same == [True, True]

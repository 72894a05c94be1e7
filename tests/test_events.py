"""What happened, for callbacks and for readers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging

import pytest

from chinwag import Queue, QueueFull, events
from chinwag.events import Event
from chinwag.testing import RecordingHandler
from chinwag.testing.plugin import Run


def names(happened: list[Event]) -> list[str]:
    return [type(event).__name__ for event in happened]


def test_a_message_leaves_a_trail_of_events(chinwag_run: Run) -> None:
    happened: list[Event] = []

    async def body() -> None:
        async with Queue(RecordingHandler[str](duration_s=1.0)) as queue:
            queue.subscribe(happened.append)
            queue.put_nowait("room", "ann", "hi", id="m1")
            await queue.join()

    chinwag_run(body)
    assert names(happened) == [
        "MessageAccepted",
        "WindowClosed",
        "BatchLeased",
        "BatchSettled",
        "MessageEnded",
        "QueueClosed",
    ]
    accepted, closed, leased, settled, ended, _ = happened
    assert isinstance(accepted, events.MessageAccepted)
    assert (accepted.group, accepted.sender, accepted.id) == ("room", "ann", "m1")
    assert isinstance(closed, events.WindowClosed)
    assert (closed.messages, closed.closed_by) == (1, "quiet")
    assert isinstance(leased, events.BatchLeased)
    assert isinstance(settled, events.BatchSettled)
    assert (leased.lease, settled.ok) == (settled.lease, True)
    assert settled.handling_s == pytest.approx(1.0)
    assert isinstance(ended, events.MessageEnded)
    assert (ended.id, ended.end) == ("m1", "done")


def test_refusals_and_pauses_are_events_too(chinwag_run: Run) -> None:
    happened: list[Event] = []

    async def body() -> None:
        async with Queue(RecordingHandler[str](), capacity_per_group=1) as queue:
            queue.subscribe(happened.append)
            queue.pause("room", for_s=1.0)
            queue.put_nowait("room", "ann", "a")
            with pytest.raises(QueueFull):
                queue.put_nowait("room", "bob", "b", id="m2")
            await queue.join()

    chinwag_run(body)
    (refused,) = [event for event in happened if isinstance(event, events.MessageRefused)]
    assert (refused.sender, refused.id, refused.reason, refused.depth) == (
        "bob",
        "m2",
        "group_full",
        1,
    )
    assert {"GroupPaused", "GroupResumed"} <= set(names(happened))


def test_a_reader_gets_what_happens_until_the_close(chinwag_run: Run) -> None:
    async def body() -> list[Event]:
        async with Queue(RecordingHandler[str]()) as queue:
            stream = queue.events()
            queue.put_nowait("room", "ann", "hi")
        return [event async for event in stream]

    happened = chinwag_run(body)
    assert names(happened)[0] == "MessageAccepted"
    assert "QueueClosed" in names(happened)
    assert names(happened)[-1] == "MessageEnded"


def test_a_reader_comes_to_an_end_though_the_close_is_cancelled(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue[str](RecordingHandler[str](duration_s=60))
        await queue.start()
        events = queue.events()
        queue.put_nowait("room", "ann", "hello")
        closing = asyncio.create_task(queue.aclose())
        await asyncio.sleep(1)
        closing.cancel()

        names = [type(event).__name__ async for event in events]

        assert names[-2:] == ["BatchSettled", "MessageEnded"]

    chinwag_run(body)


def test_a_slow_reader_is_told_how_much_it_missed(chinwag_run: Run) -> None:
    async def body() -> list[Event]:
        async with Queue(RecordingHandler[str]()) as queue:
            stream = queue.events(buffer=3)
            for n in range(10):
                queue.put_nowait("room", "ann", str(n))
            await queue.join()
        return [event async for event in stream]

    missed, *rest = chinwag_run(body)
    assert isinstance(missed, events.EventsMissed)
    assert missed.count > 10
    assert len(rest) == 3


def test_a_subscription_can_be_ended(chinwag_run: Run) -> None:
    happened: list[Event] = []

    async def body() -> None:
        async with Queue(RecordingHandler[str]()) as queue:
            unsubscribe = queue.subscribe(happened.append)
            unsubscribe()
            unsubscribe()
            queue.put_nowait("room", "ann", "hi")
            await queue.join()

    chinwag_run(body)
    assert happened == []


def test_a_subscriber_that_raises_disturbs_nobody(
    chinwag_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    happened: list[Event] = []

    def broken(event: Event) -> None:
        raise LookupError("mine")

    async def body() -> None:
        async with Queue(RecordingHandler[str]()) as queue:
            queue.subscribe(broken)
            queue.subscribe(happened.append)
            queue.put_nowait("room", "ann", "hi")
            await queue.join()
            assert queue.check().done == 1

    with caplog.at_level(logging.ERROR, "chinwag"):
        chinwag_run(body)
    assert "MessageEnded" in names(happened)
    assert "a subscriber raised" in caplog.text


def test_a_reader_that_is_gone_is_forgotten(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str]()) as queue:
            stream = queue.events()
            queue.put_nowait("room", "ann", "read")
            assert isinstance(await anext(stream), events.MessageAccepted)
            del stream
            gc.collect()
            queue.put_nowait("room", "ann", "hi")
            await queue.join()
            assert queue._take_events() == [], "nobody listens, so none are built"

    chinwag_run(body)


@pytest.mark.parametrize("buffer", [0, -1, 2.5, True, None])
def test_a_buffer_is_a_whole_number(buffer: object) -> None:
    queue = Queue(RecordingHandler[str]())

    with pytest.raises(ValueError, match="buffer="):
        queue.events(buffer=buffer)  # type: ignore[arg-type]


def test_a_callback_must_be_callable() -> None:
    with pytest.raises(TypeError, match="callable"):
        Queue(RecordingHandler[str]()).subscribe(None)  # type: ignore[arg-type]


def test_one_stream_has_one_reader(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str]()) as queue:
            stream = queue.events()
            first = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await anext(stream)
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await first

    chinwag_run(body)

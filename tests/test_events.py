"""What happened, for callbacks and for readers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
from contextvars import ContextVar

import pytest

from chinwag import Batch, Queue, QueueFull, events
from chinwag._listeners import EventStream
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


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit, BaseException])
def test_whatever_a_subscriber_raises_others_are_told(
    chinwag_run: Run, caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    """The result of a future that was cancelled is enough to raise what is no `Exception`."""
    happened: list[Event] = []

    def broken(event: Event) -> None:
        raise kind

    async def body() -> list[Event]:
        queue = Queue(RecordingHandler[str]())
        await queue.start()
        queue.subscribe(broken)
        queue.subscribe(happened.append)
        stream = queue.events()
        queue.put_nowait("room", "ann", "hi")
        await queue.aclose()
        return [event async for event in stream]

    assert chinwag_run(body) == happened
    assert names(happened)[-1] == "MessageEnded"
    assert "a subscriber raised" in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_subscriber_that_stops_the_program_leaves_the_queue_closed(
    kind: type[BaseException],
) -> None:
    happened: list[Event] = []
    ends: list[str] = []

    def stop(event: Event) -> None:
        if isinstance(event, events.MessageEnded):
            raise kind

    async def body(queue: Queue[str]) -> None:
        await queue.start()
        queue.subscribe(stop)
        queue.subscribe(happened.append)
        queue.put_nowait("room", "ann", "hi")
        queue.pause()
        await queue.aclose()

    queue = Queue(RecordingHandler[str]())
    with asyncio.Runner() as runner:
        with pytest.raises(kind):
            runner.run(body(queue))
        runner.run(asyncio.wait_for(queue.aclose(), 10))
        ends = names(happened)

    assert ends[-1] == "MessageEnded"
    assert queue.check().abandoned == 1


def test_a_subscriber_may_end_its_subscription_itself(chinwag_run: Run) -> None:
    """It wants the first of something; more of it came at the same time."""
    happened: list[Event] = []

    async def body() -> None:
        async with Queue(RecordingHandler[str]()) as queue:

            def first(event: Event) -> None:
                happened.append(event)
                unsubscribe()

            unsubscribe = queue.subscribe(first)
            for _ in range(5):
                queue.put_nowait("room", "ann", "hi")
            await queue.join()

    chinwag_run(body)
    assert names(happened) == ["MessageAccepted"]


def test_what_a_subscriber_sets_no_call_sees(chinwag_run: Run) -> None:
    variable: ContextVar[str | None] = ContextVar("variable", default=None)
    seen: list[str | None] = []

    async def handle(batch: Batch[str]) -> None:
        seen.append(variable.get())

    async def body() -> None:
        async with Queue[str](handle) as queue:
            queue.subscribe(lambda event: variable.set("set by a subscriber"))
            for _ in range(3):
                await queue.put_nowait("room", "ann", "hi")
                await queue.join()

    chinwag_run(body)
    assert seen == [None] * 3


def test_a_task_of_a_subscriber_is_in_no_call(chinwag_run: Run) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def body() -> None:
        async with Queue(RecordingHandler[str](duration_s=1)) as queue:

            def wait(event: Event) -> None:
                if isinstance(event, events.MessageEnded) and not tasks:
                    tasks.append(asyncio.create_task(queue.join()))

            queue.subscribe(wait)
            queue.put_nowait("room", "ann", "hi")
            await queue.join()
            queue.put_nowait("room", "ann", "and now?")
            await tasks[0]

    chinwag_run(body)


def test_a_reader_on_another_loop_is_woken() -> None:
    got: list[str] = []
    waits = threading.Event()

    async def read(queue: Queue[str]) -> None:
        stream = queue.events()
        asyncio.get_running_loop().call_soon(waits.set)
        got.extend([type(event).__name__ async for event in stream])

    async def body() -> None:
        async with Queue(RecordingHandler[str]()) as queue:
            # In debug mode a loop says when it is touched by the wrong thread.
            thread = threading.Thread(target=lambda: asyncio.run(read(queue), debug=True))
            thread.start()
            await asyncio.to_thread(waits.wait)
            await queue.put_nowait("room", "ann", "hi")
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()

    asyncio.run(body())
    assert got[0] == "MessageAccepted"
    assert got[-2:] == ["MessageEnded", "QueueClosed"]


def test_readers_and_writers_race_for_no_event() -> None:
    """Each is read or counted as missed, though the buffer is small and the reader elsewhere."""
    told: list[Event] = []
    counts = [0, 0]
    waits = threading.Event()

    async def read(stream: EventStream) -> None:
        waits.set()
        async for event in stream:
            if isinstance(event, events.EventsMissed):
                counts[1] += event.count
            else:
                counts[0] += 1

    async def body() -> None:
        async with Queue(RecordingHandler[str](), max_batch=1) as queue:
            queue.subscribe(told.append)
            stream = queue.events(buffer=2)
            thread = threading.Thread(target=lambda: asyncio.run(read(stream)))
            thread.start()
            await asyncio.to_thread(waits.wait)
            for n in range(2_000):
                queue.put_nowait(f"room {n % 3}", "ann", "hi")
                if n % 10 == 0:
                    await asyncio.sleep(0)
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()

    asyncio.run(body())
    assert sum(counts) == len(told)


def test_a_reader_whose_loop_was_closed_disturbs_nobody() -> None:
    queue = Queue(RecordingHandler[str](results={"m1": "hello"}))
    stream = queue.events()
    other = asyncio.new_event_loop()
    reader = other.create_task(anext(stream))
    other.run_until_complete(asyncio.sleep(0))
    reader._log_destroy_pending = False  # type: ignore[attr-defined]
    other.close()

    async def body() -> list[Event]:
        async with queue:
            assert await queue.put_nowait("room", "ann", "hi", id="m1") == "hello"
        return [event async for event in stream]

    assert names(asyncio.run(body()))[-2:] == ["MessageEnded", "QueueClosed"]


def test_a_reader_comes_to_an_end_though_the_loop_of_the_queue_was_closed() -> None:
    async def start() -> EventStream:
        await queue.start()
        queue.pause()
        stream = queue.events()
        queue.put_nowait("room", "ann", "hi")
        return stream

    async def read(stream: EventStream) -> list[Event]:
        return [event async for event in stream]

    queue = Queue(RecordingHandler[str](duration_s=60))
    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(start())
    loop.close()

    happened = asyncio.run(asyncio.wait_for(read(stream), 10))

    assert names(happened)[-1] == "MessageEnded"


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

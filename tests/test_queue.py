"""The queue as its user sees it: its life, its handler, its verbs."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from chinwag import Batch, Config, ConfigError, Context, Dropped, Message, Queue, QueueClosed
from chinwag.testing import Clock, RecordingHandler
from chinwag.testing.plugin import Run


def test_a_queue_starts_once(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str]()) as queue:
            with pytest.raises(RuntimeError, match="started already"):
                await queue.start()
        with pytest.raises(RuntimeError, match="has been closed"):
            await queue.start()

    chinwag_run(body)


def test_a_queue_needs_a_handler_to_start(chinwag_run: Run) -> None:
    async def body() -> None:
        queue: Queue[str] = Queue()
        with pytest.raises(ConfigError, match="no handler"):
            await queue.start()
        queue.handler(RecordingHandler[str]())
        await queue.start()
        await queue.aclose()

    chinwag_run(body)


def test_a_queue_needs_a_running_loop_to_start() -> None:
    queue = Queue(RecordingHandler[str]())

    with pytest.raises(RuntimeError, match="no running event loop"):
        queue.start().send(None)


def test_what_was_pushed_before_the_start_is_handled(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()
    queue = Queue(handler)
    queue.put_nowait("room", "ann", "early")

    async def body() -> None:
        async with queue:
            await queue.join()

    chinwag_run(body)
    assert handler.batches == [["early"]]


def test_leaving_the_block_handles_what_waits(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=1.0)

    async def body() -> None:
        async with Queue(handler, quiet_s=5.0) as queue:
            queue.put_nowait("room", "ann", "hi")
        assert queue.check().done == 1

    chinwag_run(body)
    assert handler.calls[0].closed_by == "drain"


def test_an_error_in_the_block_abandons_what_waits(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        queue = Queue(handler, quiet_s=5.0)

        async def use_it() -> None:
            async with queue:
                queue.put_nowait("room", "ann", "hi")
                raise KeyError

        with pytest.raises(KeyError):
            await use_it()
        assert queue.check().abandoned == 1

    chinwag_run(body)
    assert handler.calls == []


def test_a_lifespan_lasts_as_long_as_the_application(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str]())
        async with queue.lifespan(object()):
            receipt = queue.put_nowait("room", "ann", "hi")
        assert receipt.state == "done"
        with pytest.raises(QueueClosed):
            queue.put_nowait("room", "ann", "late")

    chinwag_run(body)


def test_closing_lets_calls_finish_and_then_ends_them(
    chinwag_run: Run, chinwag_clock: Clock
) -> None:
    handler = RecordingHandler[str](duration_s=100.0)

    async def body() -> None:
        queue = Queue(handler)
        await queue.start()
        receipt = queue.put_nowait("room", "ann", "long")
        await queue.aclose(timeout_s=10.0)

        assert chinwag_clock.now == pytest.approx(10.0)
        with pytest.raises(Dropped) as dropped:
            await receipt
        assert (dropped.value.end, dropped.value.reason) == ("abandoned", "closed")

    chinwag_run(body)
    assert handler.calls[0].outcome == "cancelled"


def test_closing_without_draining_takes_no_time(chinwag_run: Run, chinwag_clock: Clock) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str](duration_s=100.0), max_concurrent=1)
        await queue.start()
        for sender in ("ann", "bob"):
            queue.put_nowait("room", sender, "hi")
        await asyncio.sleep(1.0)
        await queue.aclose(drain=False)

        assert chinwag_clock.now == 1.0
        assert queue.check().abandoned == 2

    chinwag_run(body)


def test_closing_does_not_wait_for_what_is_paused(chinwag_run: Run, chinwag_clock: Clock) -> None:
    handler = RecordingHandler[str](duration_s=1.0)

    async def body() -> None:
        queue = Queue(handler)
        await queue.start()
        queue.pause("held")
        queue.put_nowait("held", "ann", "held")
        queue.put_nowait("room", "ann", "free")
        await queue.aclose()

        assert chinwag_clock.now == 1.0
        assert (queue.check().done, queue.check().abandoned) == (1, 1)

    chinwag_run(body)
    assert handler.batches == [["free"]]


def test_whoever_closes_second_waits_for_the_first(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str](duration_s=1.0))
        await queue.start()
        receipt = queue.put_nowait("room", "ann", "hi")
        await asyncio.gather(queue.aclose(), queue.aclose(), queue.aclose())
        assert receipt.state == "done"
        await queue.aclose()

    chinwag_run(body)


def test_a_cancelled_close_leaves_nothing_half_done(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str](duration_s=100.0), max_concurrent=1)
        await queue.start()
        for sender in ("ann", "bob"):
            queue.put_nowait("room", sender, "hi")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await queue.aclose()
        assert queue.check().abandoned == 2

    chinwag_run(body)


def test_join_waits_for_paused_groups_too(chinwag_run: Run, chinwag_clock: Clock) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](duration_s=1.0)) as queue:
            queue.pause("room", for_s=3.0)
            queue.put_nowait("room", "ann", "hi")
            await queue.join()
            assert chinwag_clock.now == 4.0

    chinwag_run(body)


def test_cancelling_join_changes_nothing(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](duration_s=2.0)) as queue:
            receipt = queue.put_nowait("room", "ann", "hi")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await queue.join()
            await queue.join()
            assert receipt.state == "done"

    chinwag_run(body)


@pytest.mark.parametrize("verb", ["join", "aclose"])
def test_a_handler_cannot_wait_for_its_own_end(chinwag_run: Run, verb: str) -> None:
    async def body() -> None:
        raised: list[RuntimeError] = []

        async def handler(batch: Batch[str]) -> None:
            try:
                await getattr(queue, verb)()
            except RuntimeError as error:
                raised.append(error)

        queue = Queue(handler)
        async with queue:
            queue.put_nowait("room", "ann", "hi")
            await queue.join()
        assert len(raised) == 1

    chinwag_run(body)


class Bot:
    """Handlers of every form."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def method(self, batch: Batch[str]) -> None:
        self.seen.append(batch.payloads)

    async def with_context(self, batch: Batch[str], ctx: Context) -> None:
        self.seen.append((batch.payloads, ctx.attempt, ctx.ending.reason))

    async def with_more(self, more: str, batch: Batch[str]) -> None:
        self.seen.append((more, batch.payloads))

    async def __call__(self, batch: Batch[str]) -> None:
        self.seen.append(batch.payloads)

    def plain(self, batch: Batch[str]) -> None:
        self.seen.append((batch.payloads, threading.current_thread().name))


@pytest.mark.parametrize("form", ["method", "with_context", "partial", "object", "plain"])
def test_a_handler_can_have_any_form(chinwag_run: Run, form: str) -> None:
    bot = Bot()
    handler: Any = {
        "method": bot.method,
        "with_context": bot.with_context,
        "partial": functools.partial(bot.with_more, "more"),
        "object": bot,
        "plain": bot.plain,
    }[form]

    async def body() -> None:
        async with Queue(handler) as queue:
            queue.put_nowait("room", "ann", "hi")
            await queue.join()

    chinwag_run(body)
    if form == "plain":
        ((payloads, thread),) = bot.seen
        assert payloads == ["hi"]
        assert thread.startswith("chinwag")
    else:
        expected: Any = {"with_context": (["hi"], 1, None), "partial": ("more", ["hi"])}
        assert bot.seen == [expected.get(form, ["hi"])]


def test_a_batch_is_a_sequence_of_messages(chinwag_run: Run) -> None:
    batches: list[Batch[str]] = []

    async def handler(batch: Batch[str]) -> None:
        batches.append(batch)

    async def body() -> None:
        async with Queue(handler, lanes="group", quiet_s=1.0) as queue:
            queue.put_nowait("room", "ann", "a", id="m1", at=12.5, batch_key="k", size=2)
            queue.put_nowait("room", "bob", "b", batch_key="k", flush=True)
            await queue.join()

    chinwag_run(body)
    (batch,) = batches
    first, last = batch
    assert isinstance(batch, Sequence) or len(batch) == 2
    assert (batch.group, batch.sender, batch.payloads) == ("room", "bob", ["a", "b"])
    assert (batch[0], batch[-1], batch[0:1], last in batch) == (first, last, (first,), True)
    assert batch.primary is last
    assert isinstance(first, Message)
    assert (first.id, first.sender, first.payload, first.at) == ("m1", "ann", "a", 12.5)
    assert (first.batch_key, first.size, first.flush, last.flush) == ("k", 2.0, False, True)
    assert (last.id, last.at, last.size) == ("#1", None, 1.0)
    assert (batch.kind, batch.closed_by) == ("single", "flush")


def test_pause_resume_clear_and_flush_say_what_they_did(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        async with Queue(handler, quiet_s=5.0) as queue:
            assert (queue.resume("room"), queue.pause("room"), queue.pause("room")) == (
                False,
                True,
                False,
            )
            queue.put_nowait("room", "ann", "a", id="m1")
            assert ("room", "m1") in queue
            assert ("hall", "m1") not in queue
            assert queue.clear("room") == 1
            assert ("room", "m1") not in queue
            assert (queue.resume("room"), queue.resume("room")) == (True, False)
            queue.put_nowait("room", "ann", "b")
            assert (queue.flush("room"), queue.flush("room"), queue.clear()) == (1, 0, 1)
            queue.put_nowait("room", "ann", "c")
            assert queue.flush("room", "ann") == 1
            await queue.join()

    chinwag_run(body)
    assert handler.batches == [["c"]]


def test_status_and_stats_tell_how_it_stands(chinwag_run: Run, chinwag_clock: Clock) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](duration_s=10.0)) as queue:
            queue.put_nowait("room", "ann", "a", id="m1")
            await asyncio.sleep(1.0)
            queue.put_nowait("room", "ann", "b")
            await asyncio.sleep(2.0)

            status = queue.status("room")
            assert (status.is_processing, status.message_count) == (True, 1)
            assert (status.current_message_ids, status.back_to_back_groups) == (("m1",), 1)
            assert status.oldest_age_s == pytest.approx(2.0)
            assert queue.groups() == ["room"]
            await queue.join()

            stats = queue.stats()
            assert (stats.total_messages, stats.processed_messages, stats.failed_messages) == (
                2,
                2,
                0,
            )
            assert (stats.calls, stats.back_to_back_groups, stats.success_rate) == (2, 1, 1.0)
            assert stats.wait.maximum == pytest.approx(9.0)
            assert stats.handling.mean == pytest.approx(10.0)
            assert stats.batch_size.counts.sum() == 2

    chinwag_run(body)


def test_a_group_nobody_knows_has_nothing_waiting() -> None:
    status = Queue(RecordingHandler[str]()).status("nowhere")

    assert (status.is_processing, status.message_count, status.senders) == (False, 0, 0)


def test_whoever_only_looks_wakes_nobody() -> None:
    queue = Queue(RecordingHandler[str]())
    woken: list[str] = []

    def wake() -> bool:
        woken.append("woken")
        return True

    queue._attach(wake)
    queue.put_nowait("room", "ann", "hi")
    assert woken == ["woken"]

    queue.groups()
    queue.check()
    queue.stats()
    queue.status("room")
    queue.explain("room")
    assert ("room", "#0") in queue

    assert woken == ["woken"]
    queue.pause()
    assert len(woken) == 2


def test_a_group_nobody_pushed_to_has_the_size_it_was_given() -> None:
    queue = Queue(RecordingHandler[str](), size_by="members")
    queue.set_members("room", 40)

    assert queue.status("room").size == queue.explain("room").size == 40


@pytest.mark.parametrize("given", ["#+0", "#-0", "# 0", "#", "+0"])
def test_only_what_looks_like_an_automatic_id_is_one(given: str) -> None:
    queue = Queue(RecordingHandler[str]())
    receipt = queue.put_nowait("room", "ann", "hi")

    assert receipt.id == "#0"
    assert ("room", given) not in queue
    assert queue.withdraw("room", given) == "too_late"
    assert queue.withdraw("room", "#0") == "done"


def test_settings_are_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at every group should not have all settings checked for each of them."""
    worked_out: list[Config] = []
    check = Config.__post_init__

    def checked(config: Config) -> None:
        worked_out.append(config)
        check(config)

    queue = Queue(RecordingHandler[str]())
    queue.put_nowait("other", "ann", "hi")
    queue.explain("other")
    monkeypatch.setattr(Config, "__post_init__", checked)

    config = queue.configure("room", quiet_s=2)

    assert worked_out == [config]
    assert queue.explain("room").settings["quiet_s"] == (2.0, "group")
    assert queue.explain("other").settings["quiet_s"] == (0.0, "default")
    assert len(worked_out) == 1

"""Receipts: what the caller of a push is told about the end of its message."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from typing import Any

import pytest

from chinwag import Batch, Dropped, Queue, Receipt
from chinwag.testing import Clock, RecordingHandler
from chinwag.testing.plugin import Run


class ModelError(Exception):
    """What handlers of these tests raise."""


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    gc.collect()
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]


def test_a_receipt_gives_the_result_of_the_call(chinwag_run: Run) -> None:
    async def body() -> None:
        handler = RecordingHandler[str](results={"m1": "hello"}, duration_s=1.0)
        async with Queue(handler) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")

            assert await receipt == "hello"

    chinwag_run(body)


def test_a_receipt_can_be_awaited_after_the_end(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](results={"m1": "hello"})) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")
            await queue.join()

            assert receipt.state == "done"
            assert await receipt == "hello"
            assert await receipt == "hello"

        assert await receipt == "hello"

    chinwag_run(body)


def test_all_messages_of_a_batch_get_its_result(chinwag_run: Run) -> None:
    async def body() -> None:
        async def handler(batch: Batch[str]) -> str:
            return " ".join(batch.payloads)

        async with Queue(handler, quiet_s=1.0) as queue:
            receipts = [queue.put_nowait("room", "ann", word) for word in ("a", "b", "c")]

            assert await asyncio.gather(*receipts) == ["a b c"] * 3

    chinwag_run(body)


def test_a_result_may_be_none_or_an_exception(chinwag_run: Run) -> None:
    """An exception that a handler returns is a value like any other."""

    async def body() -> None:
        returned: list[Any] = [None, ModelError("only a value")]

        async def handler(batch: Batch[int]) -> Any:
            return returned[batch.primary.payload]

        async with Queue(handler) as queue:
            assert await queue.put_nowait("room", "ann", 0) is None
            assert await queue.put_nowait("room", "ann", 1) is returned[1]

    chinwag_run(body)


def test_a_receipt_tells_its_names_and_state(chinwag_clock: Clock, chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](duration_s=2.0), quiet_s=1.0) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")
            automatic = queue.put_nowait("hall", "bob", "hi")

            assert (receipt.id, receipt.group, receipt.state) == ("m1", "room", "waiting")
            assert (automatic.id, automatic.group) == ("#1", "hall")
            await chinwag_clock.advance(1.0)
            assert receipt.state == automatic.state == "running"
            await chinwag_clock.advance(2.0)
            assert receipt.state == automatic.state == "done"
            assert repr(receipt) == '<Receipt m1 in "room": done>'

    chinwag_run(body)


def test_several_tasks_await_one_receipt(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](results={"m1": "hello"}, duration_s=1.0)) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")

            async def wait() -> Any:
                return await receipt

            assert await asyncio.gather(*(wait() for _ in range(20))) == ["hello"] * 20

    chinwag_run(body)


def test_a_failed_call_is_the_cause_of_dropped(chinwag_run: Run) -> None:
    async def body() -> None:
        failure = ModelError("no model")
        async with Queue(RecordingHandler[str](failures={"m1": failure}, duration_s=1.0)) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")

            with pytest.raises(Dropped, match="ended dead") as caught:
                await receipt

            assert (caught.value.end, caught.value.reason) == ("dead", "error")
            assert caught.value.__cause__ is failure
            assert receipt.state == "dead"

    chinwag_run(body)


def test_a_failure_is_raised_at_every_await(chinwag_run: Run) -> None:
    async def body() -> None:
        failure = ModelError("no model")
        async with Queue(RecordingHandler[str](failures={"m1": failure}), quiet_s=1.0) as queue:
            receipts = [queue.put_nowait("room", "ann", "hi", id=id) for id in ("m1", "m2")]

            for receipt in (*receipts, *receipts):
                with pytest.raises(Dropped) as caught:
                    await receipt
                assert caught.value.__cause__ is failure

    chinwag_run(body)


def test_a_cleared_message_has_no_cause(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](), quiet_s=5.0) as queue:
            receipt = queue.put_nowait("room", "ann", "hi")
            queue.clear("room")

            with pytest.raises(Dropped) as caught:
                await receipt

            assert (caught.value.end, receipt.state) == ("cleared", "cleared")
            assert caught.value.__cause__ is None

    chinwag_run(body)


def test_clearing_wakes_whoever_awaits(chinwag_clock: Clock, chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](), quiet_s=5.0) as queue:
            receipt = queue.put_nowait("room", "ann", "hi")
            chinwag_clock.at(1.0, queue.clear, "room")

            with pytest.raises(Dropped, match="cleared"):
                await receipt

            assert chinwag_clock.now == 1.0

    chinwag_run(body)


def test_closing_abandons_what_waits_and_runs(chinwag_clock: Clock, chinwag_run: Run) -> None:
    async def body() -> None:
        queue: Queue[str] = Queue(RecordingHandler[str](duration_s=60.0))
        await queue.start()
        running = queue.put_nowait("room", "ann", "one")
        await chinwag_clock.advance(0)
        waiting = queue.put_nowait("room", "ann", "two")

        await queue.aclose(drain=False)

        for receipt in (running, waiting):
            with pytest.raises(Dropped) as caught:
                await receipt
            assert (caught.value.end, caught.value.reason) == ("abandoned", "closed")
            assert caught.value.__cause__ is None

    chinwag_run(body)


def test_cancelling_an_await_changes_nothing(chinwag_clock: Clock, chinwag_run: Run) -> None:
    async def body() -> None:
        handler = RecordingHandler[str](results={"m1": "hello"}, duration_s=5.0)
        async with Queue(handler) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await receipt

            assert receipt.state == "running"
            assert await receipt == "hello"
            assert chinwag_clock.now == 5.0
        assert [call.outcome for call in handler.calls] == ["done"]

    chinwag_run(body)


def test_one_cancelled_await_leaves_the_others(chinwag_clock: Clock, chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](results={"m1": "hello"}, duration_s=5.0)) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")

            async def wait() -> Any:
                return await receipt

            tasks = [asyncio.create_task(wait()) for _ in range(3)]
            await chinwag_clock.advance(1.0)
            tasks[1].cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)

            assert ends[0] == ends[2] == "hello"
            assert isinstance(ends[1], asyncio.CancelledError)

    chinwag_run(body)


def test_kept_receipts_are_never_used_again(chinwag_run: Run) -> None:
    """A receipt that was thrown away serves the next push, one that somebody holds must not."""

    async def body() -> None:
        async def handler(batch: Batch[int]) -> list[int]:
            return batch.payloads

        kept: dict[int, Receipt] = {}
        async with Queue(handler, max_batch=7) as queue:
            for number in range(6000):
                receipt = queue.put_nowait(f"room {number % 11}", f"sender {number % 5}", number)
                if number % 7 == 0 or number % 100 < 3:
                    kept[number] = receipt
                del receipt
                if number % 500 == 0:
                    await asyncio.sleep(0)

            for number, receipt in kept.items():
                assert number in await receipt
                assert receipt.id == f"#{number}"
                assert receipt.group == f"room {number % 11}"
            queue.check()
        assert len({id(receipt) for receipt in kept.values()}) == len(kept)

    chinwag_run(body)


def test_kept_receipts_outlive_failures_and_clears(chinwag_run: Run) -> None:
    async def body() -> None:
        async def handler(batch: Batch[int]) -> list[int]:
            if batch.group == "bad":
                raise ModelError(batch.payloads)
            return batch.payloads

        kept: list[tuple[int, Receipt]] = []
        async with Queue(handler, max_batch=3) as queue:
            queue.pause("cleared")
            for number in range(3000):
                group = ("good", "bad", "cleared")[number % 3]
                receipt = queue.put_nowait(group, "ann", number)
                if number % 10 < 4:
                    kept.append((number, receipt))
                del receipt
                if number % 600 == 0:
                    queue.clear("cleared")
                    await asyncio.sleep(0)
            queue.clear("cleared")

            for number, receipt in kept:
                if number % 3 == 0:
                    assert number in await receipt
                    continue
                with pytest.raises(Dropped) as caught:
                    await receipt
                assert caught.value.end == ("dead" if number % 3 == 1 else "cleared")
                if number % 3 == 1:
                    assert isinstance(caught.value.__cause__, ModelError)
                    assert number in caught.value.__cause__.args[0]

    chinwag_run(body)


def test_a_thrown_away_receipt_is_used_again(chinwag_run: Run) -> None:
    """What makes a receipt that nobody awaits cost next to nothing."""

    async def body() -> None:
        async with Queue(RecordingHandler[int]()) as queue:
            seen = {id(queue.put_nowait("room", "ann", number)) for number in range(100)}

            assert len(seen) == 1

    chinwag_run(body)


def test_a_refused_push_disturbs_no_receipt(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[int](results={"m1": "hello"}), quiet_s=1.0) as queue:
            receipt = queue.put_nowait("room", "ann", 1, id="m1")
            for _ in range(3):
                with pytest.raises(Exception, match="not accepted"):
                    queue.put_nowait("room", "ann", 2, id="m1")
                queue.put_nowait("room", "ann", 3)

            assert (receipt.id, receipt.state) == ("m1", "waiting")
            assert await receipt == "hello"

    chinwag_run(body)


def test_a_receipt_of_the_own_lane_raises_inside(chinwag_run: Run) -> None:
    """Its message is handled after this call, so the two would wait for each other for ever."""

    async def body() -> None:
        async def handler(batch: Batch[str]) -> str:
            if batch.primary.payload == "second":
                return "handled"
            receipt = queue.put_nowait("room", "ann", "second")
            with pytest.raises(RuntimeError, match="own lane"):
                await receipt
            later.append(receipt)
            return "went on"

        later: list[Receipt] = []
        queue: Queue[str] = Queue(handler)
        async with queue:
            assert await queue.put_nowait("room", "ann", "first") == "went on"
            assert await later[0] == "handled"

    chinwag_run(body)


def test_a_task_of_the_handler_may_await_its_lane_later(chinwag_run: Run) -> None:
    """Such a task does not hold the call up; it is over when the message is handled."""

    async def body() -> None:
        answers: list[Any] = []

        async def wait(receipt: Receipt) -> None:
            await ended.wait()
            answers.append(await receipt)

        async def handler(batch: Batch[str]) -> str:
            if batch.primary.payload == "first":
                tasks.append(asyncio.create_task(wait(queue.put_nowait("room", "ann", "second"))))
            return batch.primary.payload

        tasks: list[asyncio.Task[None]] = []
        ended = asyncio.Event()
        queue: Queue[str] = Queue(handler)
        async with queue:
            assert await queue.put_nowait("room", "ann", "first") == "first"
            ended.set()
            await tasks[0]

        assert answers == ["second"]

    chinwag_run(body)


def test_a_handler_may_await_another_lane(chinwag_run: Run) -> None:
    async def body() -> None:
        async def handler(batch: Batch[str]) -> str:
            if batch.sender == "ann":
                return f"ann got {await queue.put_nowait('room', 'bob', 'ask')}"
            return "an answer"

        queue: Queue[str] = Queue(handler)
        async with queue:
            assert await queue.put_nowait("room", "ann", "hi") == "ann got an answer"

    chinwag_run(body)


@pytest.mark.parametrize(("lanes", "refused"), [("group", True), ("message", False)])
def test_the_own_lane_depends_on_the_setting(chinwag_run: Run, lanes: str, refused: bool) -> None:
    async def body() -> None:
        async def handler(batch: Batch[str]) -> str:
            if batch.sender == "bob":
                return "answer"
            try:
                return f"got {await queue.put_nowait('room', 'bob', 'ask')}"
            except RuntimeError:
                return "refused"

        queue: Queue[str] = Queue(handler, lanes=lanes)
        async with queue:
            result = await queue.put_nowait("room", "ann", "hi")

        assert result == ("refused" if refused else "got answer")

    chinwag_run(body)


def test_an_ended_receipt_may_be_awaited_inside(chinwag_run: Run) -> None:
    async def body() -> None:
        async def handler(batch: Batch[str]) -> Any:
            return await before if before else "first"

        before: Receipt | None = None
        queue: Queue[str] = Queue(handler)
        async with queue:
            receipt = queue.put_nowait("room", "ann", "one")
            await receipt
            before = receipt

            assert await queue.put_nowait("room", "ann", "two") == "first"

    chinwag_run(body)


def test_awaiting_without_a_loop_says_so() -> None:
    queue: Queue[str] = Queue(RecordingHandler[str]())
    receipt = queue.put_nowait("room", "ann", "hi")

    with pytest.raises(RuntimeError, match="this thread has none"):
        receipt.__await__().send(None)

    assert receipt.state == "waiting"
    queue.check()


def test_a_receipt_is_awaited_on_another_loop(chinwag_run: Run) -> None:
    """Each await waits on the loop that it runs in, and is woken there."""

    async def body() -> None:
        async with Queue(RecordingHandler[str](results={"m1": "hello"})) as queue:
            queue.pause()
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")
            waiting = threading.Event()

            async def wait() -> Any:
                asyncio.get_running_loop().call_soon(waiting.set)
                return await receipt

            other = asyncio.to_thread(asyncio.run, wait())
            task = asyncio.create_task(other)
            await asyncio.to_thread(waiting.wait, 10)
            queue.resume()

            assert await task == "hello"

    chinwag_run(body)


def test_a_closed_loop_that_waited_harms_nobody(chinwag_run: Run) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[str](results={"m1": "hello"}), quiet_s=1.0) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")

            def abandon() -> None:
                loop = asyncio.new_event_loop()
                asyncio.set_event_loop(loop)
                awaiting = loop.create_task(wait())
                loop.run_until_complete(asyncio.sleep(0))
                leftover.append(awaiting)
                loop.close()

            async def wait() -> Any:
                return await receipt

            leftover: list[asyncio.Task[Any]] = []
            await asyncio.to_thread(abandon)

            assert await receipt == "hello"
            queue.check()
            leftover[0]._log_destroy_pending = False  # type: ignore[attr-defined]

    chinwag_run(body)


def test_an_unseen_failure_is_logged_once(
    chinwag_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        handler = RecordingHandler[str](failures={"m1": ModelError("no model")})
        async with Queue(handler, quiet_s=1.0, max_attempts=1) as queue:
            for id in ("m1", "m2", "m3"):
                queue.put_nowait("room", "ann", "hi", id=id)
            await queue.join()
            handler.calls.clear()

    chinwag_run(body)

    assert errors(caplog) == [
        "a call in group 'room' failed (error); it was for 3 message(s), which ended dead"
    ]
    assert caplog.records[-1].exc_info is not None
    assert isinstance(caplog.records[-1].exc_info[1], ModelError)


def test_a_kept_unseen_failure_is_logged_when_let_go(
    chinwag_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then somebody could still look."""
    kept: list[Receipt] = []

    async def body() -> None:
        handler = RecordingHandler[str](failures={"m1": ModelError("no model")})
        async with Queue(handler, max_attempts=1) as queue:
            kept.append(queue.put_nowait("room", "ann", "hi", id="m1"))
            await queue.join()
            handler.calls.clear()

    chinwag_run(body)
    assert errors(caplog) == []

    kept.clear()

    assert len(errors(caplog)) == 1


def test_a_seen_failure_is_not_logged(chinwag_run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """One of the batch's receipts was awaited: somebody knows."""

    async def body() -> None:
        handler = RecordingHandler[str](failures={"m1": ModelError("no model")})
        async with Queue(handler, quiet_s=1.0) as queue:
            receipt = queue.put_nowait("room", "ann", "hi", id="m1")
            queue.put_nowait("room", "ann", "there", id="m2")
            with pytest.raises(Dropped):
                await receipt
            handler.calls.clear()

    chinwag_run(body)

    assert errors(caplog) == []


def test_cleared_and_abandoned_are_not_logged(
    chinwag_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        queue: Queue[str] = Queue(RecordingHandler[str](), quiet_s=5.0)
        await queue.start()
        queue.put_nowait("room", "ann", "one")
        queue.clear()
        queue.put_nowait("room", "ann", "two")
        await queue.aclose(drain=False)

    chinwag_run(body)

    assert errors(caplog) == []


def test_results_are_not_kept_without_a_receipt(chinwag_run: Run) -> None:
    class Result:
        pass

    async def body() -> None:
        made: list[weakref.ref[Result]] = []

        async def handler(batch: Batch[str]) -> Result:
            result = Result()
            made.append(weakref.ref(result))
            return result

        async with Queue(handler) as queue:
            queue.put_nowait("room", "ann", "one")
            await queue.join()
            queue.put_nowait("room", "ann", "two")
            await queue.join()
            gc.collect()

            assert made[0]() is None

    chinwag_run(body)


def test_payloads_are_let_go_at_the_end(chinwag_run: Run) -> None:
    class Payload:
        pass

    async def body() -> None:
        async def handler(batch: Batch[Payload]) -> None: ...

        async with Queue(handler) as queue:
            payload = Payload()
            gone = weakref.ref(payload)
            receipt = queue.put_nowait("room", "ann", payload)
            del payload
            await receipt
            await queue.put_nowait("room", "ann", Payload())
            gc.collect()

            assert gone() is None

    chinwag_run(body)

"""Loops and processes that go away: a loop closed too early, a fork, an interpreter that exits."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from chinwag import Batch, Queue, QueueClosed
from chinwag.stats import Ledger
from chinwag.testing import RecordingHandler
from tests.loops import REAL_LOOPS, WATCHDOG_S, new_loop


def leave(kind: str, state: str) -> Ledger:
    """Close a loop and not its queue, push once more, and say what the books of the queue say."""
    queue = Queue[str](max_batch=1, quiet_s=3_600 if state == "waiting" else 0, max_wait_s=7_200)

    @queue.handler
    async def handle(batch: Batch[str]) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await queue.start()
        if state != "idle":
            for number in range(5):
                queue.put_nowait("room", "ann", f"{number}")
        for _ in range(0 if state == "pushed at the end" else 10):
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=lambda: new_loop(kind)) as runner:
        runner.run(main())

    for _ in range(2):
        with pytest.raises(QueueClosed, match="loop was closed without aclose"):
            queue.put_nowait("room", "bob", "hello")
    return queue.check()


@pytest.mark.parametrize("kind", REAL_LOOPS)
@pytest.mark.parametrize("state", ["idle", "waiting", "running", "pushed at the end"])
def test_a_loop_closed_before_the_queue_refuses(
    kind: str, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = leave(kind, state)
    gc.collect()

    assert (ledger.waiting, ledger.running, ledger.done) == (0, 0, 0)
    assert ledger.accepted == (0 if state == "idle" else 5)
    # Calls that the loop has left in the middle ended as what waited did, and that is told once.
    assert "GeneratorExit" not in caplog.text
    assert "destroyed" not in caplog.text


@pytest.mark.parametrize("kind", REAL_LOOPS)
def test_a_push_before_its_loop_closes_hides_nothing(kind: str) -> None:
    """The loop was asked to look, and is closed before it could."""
    loop = new_loop(kind)
    queue = Queue[str](RecordingHandler[str]())
    loop.run_until_complete(queue.start())
    queue.put_nowait("room", "ann", "hello")
    loop.close()

    with pytest.raises(QueueClosed, match="loop was closed without aclose"):
        queue.put_nowait("room", "ann", "hello")

    ledger = queue.check()
    assert (ledger.waiting, ledger.running) == (0, 0)


def test_a_log_of_a_lost_loop_may_push() -> None:
    """A handler of the log that sends what it gets through the queue is refused, and no more."""
    pushed: list[object] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                pushed.append(queue.put_nowait("log", "bot", record.getMessage()))
            except QueueClosed as error:
                pushed.append(error.reason)

    loop = asyncio.new_event_loop()
    queue = Queue[str](RecordingHandler[str]())
    loop.run_until_complete(queue.start())
    handler = Handler()
    logging.getLogger("chinwag").addHandler(handler)
    try:
        loop.close()
    finally:
        logging.getLogger("chinwag").removeHandler(handler)

    assert pushed == ["loop_closed"]
    assert queue.check().accepted == 0


def test_nothing_starts_while_the_loop_ends_all_tasks(caplog: pytest.LogCaptureFixture) -> None:
    """`asyncio.run` cancels all tasks; a call begun for the next message would be cut off too."""
    started = 0
    running = asyncio.Event()
    queue = Queue[str](max_batch=1, max_concurrent=3)

    @queue.handler
    async def handle(batch: Batch[str]) -> None:
        nonlocal started
        started += 1
        if started == 3:
            running.set()
        await asyncio.Event().wait()

    async def main() -> None:
        await queue.start()
        for number in range(10):
            queue.put_nowait(f"room {number}", "ann", "hello")
        await running.wait()

    asyncio.run(main())

    assert started == 3
    assert queue.check().abandoned == 10
    assert "ended dead" not in caplog.text


def test_a_loop_may_move_to_another_thread() -> None:
    """It is started here and run there; pushes from here must still wake it."""
    seen: list[str] = []
    handled = threading.Event()

    async def handle(batch: Batch[str]) -> None:
        seen.extend(batch.payloads)
        handled.set()

    loop = asyncio.new_event_loop()
    queue = Queue[str](handle)
    loop.run_until_complete(queue.start())
    loop.run_until_complete(asyncio.sleep(0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(WATCHDOG_S)

    queue.put_nowait("room", "ann", "hello")
    in_time = handled.wait(WATCHDOG_S)

    asyncio.run_coroutine_threadsafe(queue.aclose(), loop).result(WATCHDOG_S)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert in_time
    assert seen == ["hello"]


def script(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_told_so() -> None:
    ran = script(
        """
        import asyncio, os, threading, traceback
        from chinwag import Dropped, Queue, QueueClosed

        async def handle(batch):
            await asyncio.Event().wait()

        def answer(ask):
            try:
                return ask()
            except (QueueClosed, RuntimeError, Dropped) as error:
                return str(error)

        async def wait(awaitable):
            async with asyncio.timeout(10):
                return await awaitable

        def in_child(queue, receipts, stream):
            answers = [answer(ask) for ask in (
                lambda: queue.put_nowait("room", "ann", "hello"),
                lambda: queue.pause("room"),
                lambda: queue.check(),
                lambda: queue.events(),
                lambda: queue.subscribe(print),
            )]

            def in_loop():
                answers.extend(answer(lambda: asyncio.run(wait(ask()))) for ask in (
                    queue.start,
                    queue.join,
                    lambda: anext(stream),
                    lambda: outcome(receipts[0]),
                    lambda: outcome(receipts[1]),
                ))

            async def outcome(receipt):
                return await receipt

            thread = threading.Thread(target=in_loop)
            thread.start()
            thread.join()
            assert len(answers) == 10, answers
            assert all("forked" in str(answer) for answer in answers), answers
            fresh = Queue(handle)
            fresh.put_nowait("room", "ann", "hello")
            assert fresh.check().waiting == 1

        async def main():
            async with Queue(handle) as queue:
                stream = queue.events()
                receipts = [queue.put_nowait("room", "ann", "hello")]
                await asyncio.sleep(0)
                receipts.append(queue.put_nowait("room", "ann", "and?"))
                child = os.fork()
                if not child:
                    status = 1
                    try:
                        in_child(queue, receipts, stream)
                        status = 0
                    except BaseException:
                        traceback.print_exc()
                    finally:
                        os._exit(status)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                queue.put_nowait("room", "bob", "hello")
                assert queue.check().accepted == 3
                await queue.aclose(drain=False)

        asyncio.run(main())
        print("sound")
        """
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "sound\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_queue_only_made_can_be_used_in_a_forked_process() -> None:
    """Servers load the application and then fork their workers."""
    ran = script(
        """
        import asyncio, os
        from chinwag import Queue

        async def handle(batch):
            return batch.payloads[0]

        async def main():
            async with queue:
                print(await queue.put_nowait("room", "ann", "hello"), flush=True)

        queue = Queue(handle)
        child = os.fork()
        if not child:
            asyncio.run(main())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        asyncio.run(main())
        """
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello\nhello\n", "")


@pytest.mark.parametrize("when", ["before the start", "at work", "in a thread", "with receipts"])
def test_the_interpreter_exits_with_work_waiting(when: str) -> None:
    ran = script(
        f"""
        import asyncio, threading, logging
        from chinwag import Queue

        logging.disable()  # a loop that was closed too early is an error, and logged as one
        when = {when!r}
        queue = Queue(max_batch=1, quiet_s=3600, max_wait_s=7200)

        @queue.handler
        async def handle(batch):
            await asyncio.Event().wait()

        def push():
            for number in range(100):
                receipts.append(queue.put_nowait("room", f"user {{number}}", number))
            if when != "with receipts":
                receipts.clear()

        receipts = []
        push()

        async def main():
            await queue.start()
            queue.flush("room")
            for _ in range(10):
                await asyncio.sleep(0)

        if when == "in a thread":
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, daemon=True).start()
            asyncio.run_coroutine_threadsafe(main(), loop).result()
            push()
        elif when != "before the start":
            asyncio.run(main())
        print("end")
        """
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "end\n", "")

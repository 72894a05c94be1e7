"""What becomes of a queue when its loop, its process or its handler does not keep to the rules.

Each case is a program of its own, and how it ends, what it prints and what it complains of are all
asserted. `docs/control.md` has the answers in a table. More of them are in `test_driver.py` (loops
that are closed or blocked, forked processes that are told so, interrupts, what handlers raise),
`test_servers.py` (signals) and `test_threads.py` (pushes that race with closing).
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

import pytest

# Only a test that fails waits as long.
WATCHDOG_S = 30

LOOPS = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
        ),
    ),
]
LOST = "the event loop of a queue was closed before the queue; what waited is abandoned\n"
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def program(code: str, *arguments: str) -> list[str]:
    # Not in development mode, in which asyncio tells of every delay on a busy machine.
    options = ("-X", "faulthandler", "-W", "error")
    return [sys.executable, *options, "-c", textwrap.dedent(code), *arguments]


def run(code: str, *arguments: str) -> Ended:
    ran = subprocess.run(
        program(code, *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    return Ended(ran.returncode, ran.stdout, ran.stderr)


# The loop.


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_was_stopped_goes_on_where_it_was(kind: str) -> None:
    ended = run(
        """
        import importlib, sys, threading
        from chinwag import Queue

        loop = importlib.import_module(sys.argv[1]).new_event_loop()
        handled = []

        async def handle(batch):
            if batch.payloads == ["stops"]:
                loop.stop()
                await queue.put("room", "bob", "from inside")
            handled.extend(batch.payloads)

        queue = Queue(handle, max_batch=1, max_concurrent=1)
        loop.run_until_complete(queue.start())
        queue.put_nowait("room", "ann", "stops")
        queue.put_nowait("room", "ann", "waits")
        loop.run_forever()

        stopped = list(handled)
        queue.put_nowait("room", "ann", "late")
        thread = threading.Thread(target=queue.put_nowait, args=("room", "ann", "later"))
        thread.start()
        thread.join()
        assert handled == stopped, "nothing happens"
        assert queue.check().accepted == 5

        loop.run_until_complete(queue.join())
        assert [word for word in handled if word != "from inside"] == [
            "stops", "waits", "late", "later",
        ]
        loop.run_until_complete(queue.aclose())
        loop.close()
        print(queue.check())
        """,
        kind,
    )

    assert ended == (0, "5 accepted = 5 done\n", "")


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_stays_stopped_lets_the_program_end(kind: str) -> None:
    ended = run(
        """
        import asyncio, importlib, sys
        from chinwag import Queue

        loop = importlib.import_module(sys.argv[1]).new_event_loop()

        async def handle(batch):
            loop.stop()
            await asyncio.Event().wait()

        queue = Queue(handle, max_batch=1)
        loop.run_until_complete(queue.start())
        for word in ("runs", "waits"):
            queue.put_nowait("room", "ann", word)
        loop.run_forever()
        print(queue.check())
        loop.close()
        print(queue.check())
        """,
        kind,
    )

    stopped, closed = "2 accepted = 1 waiting + 1 running\n", "2 accepted = 2 abandoned\n"
    assert ended == (0, stopped + closed, LOST)


@pytest.mark.parametrize("kind", LOOPS)
def test_a_program_that_forgets_aclose_ends_everything(kind: str) -> None:
    """And whoever waits in a thread for what becomes of a message hears it."""
    ended = run(
        """
        import asyncio, sys, threading
        from chinwag import Dropped, Queue, QueueClosed

        heard = []

        def ask(receipt):
            try:
                receipt.result()
            except Dropped as dropped:
                heard.append((dropped.end, dropped.reason))

        async def handle(batch):
            if batch.payloads == ["retries"]:
                raise ValueError
            entered.set()
            await asyncio.Event().wait()

        async def main():
            await queue.start()
            receipts = [
                queue.put_nowait("room", "ann", "runs"),
                queue.put_nowait("room", "ann", "waits"),
                queue.put_nowait("room", "bob", "retries"),
                queue.put_nowait("room", "cat", "is delayed", delay_s=1_000),
                queue.put_nowait("hall", "ann", "is held by a pause"),
            ]
            queue.put_nowait("room", "dan", "listened", context=True)
            threads = [threading.Thread(target=ask, args=(receipt,)) for receipt in receipts]
            for thread in threads:
                thread.start()
            await entered.wait()
            while not queue.check().retrying:
                await asyncio.sleep(0)
            return threads

        entered = asyncio.Event()
        queue = Queue(handle, max_batch=1, backoff_s=1_000, jitter="none")
        queue.pause("hall")
        if sys.argv[1] == "uvloop":
            import uvloop
            new_loop = uvloop.new_event_loop
        else:
            new_loop = asyncio.new_event_loop
        with asyncio.Runner(loop_factory=new_loop) as runner:
            threads = runner.run(main())
        for thread in threads:
            thread.join()
        assert heard == [("abandoned", "closed")] * 5, heard
        try:
            queue.put_nowait("room", "ann", "late")
        except QueueClosed as closed:
            print(closed.reason)
        print(queue.check())
        """,
        kind,
    )

    assert ended == (0, "loop_closed\n6 accepted = 6 abandoned\n", LOST)


def test_threads_that_push_as_the_loop_closes_are_told() -> None:
    ended = run(
        """
        import asyncio, threading
        from chinwag import Queue, QueueClosed

        pushed, refused = [], []

        def push(sender):
            count = 0
            try:
                while True:
                    queue.put_nowait("room", sender, count)
                    count += 1
                    going.set()
            except QueueClosed:
                refused.append(sender)
                pushed.append(count)

        async def handle(batch):
            pass

        going = threading.Event()
        queue = Queue(handle)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(queue.start())
        threads = [threading.Thread(target=push, args=(name,)) for name in ("ann", "bob")]
        for thread in threads:
            thread.start()
        going.wait()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        for thread in threads:
            thread.join()
        ledger = queue.check()
        # A push that found the loop closed had been accepted by then; it was abandoned.
        assert sum(pushed) <= ledger.accepted <= sum(pushed) + 2, (pushed, ledger)
        assert ledger.ended == ledger.accepted
        print(sorted(refused))
        """
    )

    assert ended == (0, "['ann', 'bob']\n", LOST)


def test_a_queue_of_a_loop_that_is_gone_cannot_move() -> None:
    ended = run(
        """
        import asyncio
        from chinwag import Queue

        async def handle(batch):
            pass

        async def main():
            await queue.start()

        queue = Queue(handle)
        asyncio.run(main())
        try:
            asyncio.run(main())
        except RuntimeError as error:
            print(error)
        asyncio.run(queue.aclose())
        asyncio.run(queue.join())
        """
    )

    assert ended == (0, "this queue has been closed; make a new one\n", LOST)


# Blocked for long.

WINDOWS = """
    import asyncio, os, signal, threading, time
    from chinwag import Queue

    QUIET_S = 0.1
    starts = {}

    async def handle(batch):
        starts[batch.group] = (time.monotonic(), batch)

    def push(group, word):
        pushed[word] = time.monotonic()
        queue.put_nowait(group, "ann", word)

    def check():
        # No window is longer than it should be because of it, or shorter.
        assert starts["before"][1].payloads == ["before"]
        _, late = starts["late"]
        assert late.payloads == ["first", "second"], "due is for good, and takes in what fits"
        first, second = (message.arrived_at for message in late)
        assert second - first > QUIET_S, "they arrived when they were pushed"
        began, fresh = starts["fresh"]
        assert fresh.payloads == ["fresh"]
        assert began - pushed["fresh"] >= QUIET_S - 0.001, "it waits all of its quiet period"
        print(queue.check())

    pushed = {}
    queue = Queue(handle, quiet_s=QUIET_S)
"""


def test_a_loop_blocked_for_long_shifts_no_window() -> None:
    ended = run(
        textwrap.dedent(WINDOWS)
        + textwrap.dedent(
            """
            def others():
                push("late", "first")
                time.sleep(2 * QUIET_S)
                push("late", "second")
                push("fresh", "fresh")

            async def main():
                async with queue:
                    push("before", "before")
                    await asyncio.sleep(0)
                    thread = threading.Thread(target=others)
                    thread.start()
                    thread.join()  # the loop does nothing else meanwhile
                    await queue.join()
                check()

            asyncio.run(main())
            """
        )
    )

    assert ended == (0, "4 accepted = 4 done\n", "")


@posix
def test_a_process_held_for_long_shifts_no_window() -> None:
    code = textwrap.dedent(WINDOWS) + textwrap.dedent(
        """
        async def main():
            async with queue:
                push("before", "before")
                push("late", "first")
                os.kill(os.getpid(), signal.SIGSTOP)
                push("late", "second")
                push("fresh", "fresh")
                await queue.join()
            check()

        asyncio.run(main())
        """
    )
    with subprocess.Popen(
        program(code), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            os.waitpid(child.pid, os.WUNTRACED)  # until it holds
            time.sleep(0.2)  # what it is held for
            child.send_signal(signal.SIGCONT)
            out, err = child.communicate(timeout=WATCHDOG_S)
        finally:
            child.kill()

    assert (child.returncode, out, err) == (0, "4 accepted = 4 done\n", "")


# Forks.


@posix
def test_a_forked_process_disturbs_its_parent_in_nothing() -> None:
    """What waits and runs as it is forked is handled in the parent, once, and so is what comes."""
    ended = run(
        """
        import asyncio, multiprocessing, os
        from chinwag import Dropped, Queue, QueueClosed

        async def handle(batch):
            entered.set()
            await go_on.wait()
            handled.extend(batch.payloads)
            return os.getpid()

        def in_child():
            answers = []
            for ask in (
                lambda: queue.put_nowait("room", "ann", "from the child"),
                lambda: asyncio.run(queue.put("room", "ann", "from the child")),
                lambda: receipt.result(timeout=10),
                lambda: queue.stop("room"),
                lambda: queue.status("room"),
            ):
                try:
                    answers.append(ask())
                except (Dropped, QueueClosed, RuntimeError) as error:
                    answers.append(str(error))
            assert all("forked" in str(answer) for answer in answers), answers
            asyncio.run(queue.aclose())

        async def main():
            global receipt
            async with queue:
                receipt = queue.put_nowait("room", "ann", "runs")
                queue.put_nowait("room", "ann", "waits")
                await entered.wait()
                child = multiprocessing.get_context("fork").Process(target=in_child)
                child.start()
                queue.put_nowait("room", "bob", "pushed meanwhile")
                child.join()
                assert child.exitcode == 0
                assert handled == []
                go_on.set()
                await queue.join()
                assert await receipt == os.getpid()
            assert sorted(handled) == ["pushed meanwhile", "runs", "waits"]
            print(queue.check())

        handled = []
        entered, go_on = asyncio.Event(), asyncio.Event()
        queue = Queue(handle, max_batch=1)
        asyncio.run(main())
        """
    )

    assert ended == (0, "3 accepted = 3 done\n", "")


@posix
def test_a_fork_while_threads_push_hangs_nobody() -> None:
    """A lock that another thread holds at that moment is held for ever in the child."""
    ended = run(
        """
        import asyncio, os, threading, warnings
        from chinwag import Queue, QueueClosed

        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, since 3.12

        async def handle(batch):
            pass

        def push(sender):
            while not over:
                queue.put_nowait("room", sender, sender)
                queue.status("room")

        def in_child():
            try:
                queue.put_nowait("room", "ann", "from the child")
            except QueueClosed as closed:
                if closed.reason == "forked":
                    fresh = Queue(handle)
                    fresh.put_nowait("room", "ann", "hello")
                    os._exit(0 if fresh.check().waiting == 1 else 1)
            os._exit(1)

        async def main():
            async with queue:
                threads = [threading.Thread(target=push, args=(name,)) for name in ("ann", "bob")]
                for thread in threads:
                    thread.start()
                try:
                    for _ in range(10):
                        await asyncio.sleep(0)
                        if not (child := os.fork()):
                            in_child()
                        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                finally:
                    over.append(True)
                    for thread in threads:
                        thread.join()
            ledger = queue.check()
            print(ledger.accepted == ledger.done)

        over = []
        queue = Queue(handle)
        asyncio.run(main())
        """
    )

    assert ended == (0, "True\n", "")


# The interpreter ends.


def test_threads_that_push_as_the_interpreter_ends_take_nothing_along() -> None:
    """Until 3.14 daemon threads are ended as they wait for the interpreter's lock.

    One that is in the waking of the loop then would abort the process.
    """
    ended = run(
        """
        import asyncio, threading, time
        from chinwag import Queue

        class Loop(asyncio.SelectorEventLoop):
            def call_soon_threadsafe(self, *args, **options):
                handle = super().call_soon_threadsafe(*args, **options)
                if threading.current_thread().name == "pushes":
                    waking.set()
                    for _ in range(100):  # as on a busy machine
                        time.sleep(0.0001)
                return handle

        def push():
            while True:
                queue.put_nowait("room", "ann", "hello")

        async def handle(batch):
            pass

        waking = threading.Event()
        queue = Queue(handle)
        loop = Loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(queue.start(), loop).result()
        threading.Thread(target=push, name="pushes", daemon=True).start()
        waking.wait()
        print("end")
        """
    )

    assert ended == (0, "end\n", "")


@pytest.mark.parametrize("registered", ["before", "after"])
def test_a_program_may_close_its_queue_as_it_exits(registered: str) -> None:
    """Its callback may have been registered before chinwag was imported, and thus runs last."""
    ended = run(
        """
        import asyncio, atexit, sys, threading

        def close():
            queue.put_nowait("room", "ann", "goodbye")
            asyncio.run_coroutine_threadsafe(queue.aclose(), loop).result()
            print(queue.check())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        async def handle(batch):
            await asyncio.sleep(0)

        if sys.argv[1] == "before":
            atexit.register(close)
        from chinwag import Queue
        if sys.argv[1] == "after":
            atexit.register(close)

        queue = Queue(handle, quiet_s=1_000, max_wait_s=2_000)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        asyncio.run_coroutine_threadsafe(queue.start(), loop).result()
        queue.put_nowait("room", "ann", "hello")
        """,
        registered,
    )

    assert ended == (0, "2 accepted = 2 done\n", "")


# The handler.


def test_a_handler_that_pushes_on_and_on_is_refused_at_the_end() -> None:
    """That is an error like any other: of that call."""
    ended = run(
        """
        import asyncio
        from chinwag import Queue, QueueClosed

        async def handle(batch):
            await asyncio.sleep(0)
            try:
                queue.put_nowait(batch.group, batch.sender, "again")
            except QueueClosed:
                print("refused")
                raise

        async def main():
            async with queue:
                queue.put_nowait("room", "ann", "hello")
                while queue.check().done < 10:
                    await asyncio.sleep(0)
            ledger = queue.check()
            assert ledger.done >= 10
            assert ledger.accepted == ledger.done + ledger.dead
            print(ledger.dead, len(queue.dead))

        queue = Queue(handle, no_retry=(QueueClosed,))
        asyncio.run(main())
        """
    )

    assert (ended.code, ended.out) == (0, "refused\n1 1\n")
    assert ended.err.count("which ended dead") == ended.err.count("Traceback") == 1


def test_a_handler_that_hangs_is_ended_by_closing() -> None:
    ended = run(
        """
        import asyncio
        from chinwag import Queue

        async def handle(batch):
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                print("ended")

        async def main():
            async with queue:
                queue.put_nowait("room", "ann", "hello")
                queue.put_nowait("room", "ann", "and?")
                await entered.wait()
            print(queue.check())

        entered = asyncio.Event()
        queue = Queue(handle, max_batch=1, close_timeout_s=0.01)
        asyncio.run(main())
        """
    )

    assert ended == (0, "ended\n2 accepted = 2 abandoned\n", "")


def test_a_plain_function_that_hangs_holds_up_only_the_exit() -> None:
    """Closing does not wait for it, nor does the loop; the interpreter does, as for any thread."""
    code = """
        import asyncio, sys
        from chinwag import Queue

        def handle(batch, ctx):
            loop.call_soon_threadsafe(entered.set)
            sys.stdin.read()
            print("returned,", "as asked" if ctx.ending else "by itself", flush=True)

        async def main():
            global loop
            loop = asyncio.get_running_loop()
            await queue.start()
            queue.put_nowait("room", "ann", "hello")
            await entered.wait()
            await queue.aclose(drain=False)
            print(queue.check())

        entered = asyncio.Event()
        queue = Queue(handle, cancel_grace_s=0.01)
        asyncio.run(main())
        print("the loop has ended", flush=True)
        """
    with subprocess.Popen(
        program(code),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(2)]
            assert lines == ["1 accepted = 1 abandoned\n", "the loop has ended\n"]
            out, err = child.communicate(timeout=WATCHDOG_S)
        finally:
            child.kill()

    assert (child.returncode, out) == (0, "returned, as asked\n")
    assert re.fullmatch(r"a call in group 'room' has not ended 0.01 s after .*\n", err)


def test_a_handler_that_swallows_cancellation_is_left_to_the_loop() -> None:
    """It is cancelled once, and fenced; then it is a task like any other, that asyncio.run ends."""
    ended = run(
        """
        import asyncio
        from chinwag import Queue

        async def handle(batch):
            entered.set()
            for number in range(2):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    print("swallowed", number)
            return "late"

        async def main():
            await queue.start()
            receipt = queue.put_nowait("room", "ann", "hello")
            queue.put_nowait("room", "ann", "and?")
            await entered.wait()
            await queue.aclose(drain=False)
            print(queue.check(), receipt.state)

        entered = asyncio.Event()
        queue = Queue(handle, max_batch=1, cancel_grace_s=0.01)
        asyncio.run(main())
        print(queue.check())
        """
    )

    assert ended.code == 0
    assert ended.out == (
        "swallowed 0\n2 accepted = 2 abandoned abandoned\nswallowed 1\n2 accepted = 2 abandoned\n"
    )
    assert re.fullmatch(r"a call in group 'room' has not ended 0.01 s after .*\n", ended.err)


@pytest.mark.parametrize("how", ["async", "plain"])
def test_a_handler_that_raises_what_is_no_exception_fails_alone(how: str) -> None:
    ended = run(
        """
        import asyncio, sys
        from chinwag import Queue

        class Odd(BaseException):
            pass

        def plain(batch):
            if batch.payloads == ["bad"]:
                raise Odd("no exception")
            return batch.payloads[0]

        async def handle(batch):
            return plain(batch)

        async def main():
            async with queue:
                queue.put_nowait("room", "ann", "bad")
                assert await queue.put_nowait("room", "ann", "good") == "good"
                assert await queue.put_nowait("room", "bob", "good") == "good"
            (letter,) = queue.dead
            assert isinstance(letter.error, Odd)
            assert letter.attempts == 2
            print(queue.check())

        queue = Queue(
            handle if sys.argv[1] == "async" else plain, max_batch=1, max_attempts=2, backoff_s=0
        )
        asyncio.run(main())
        """,
        how,
    )

    assert (ended.code, ended.out) == (0, "3 accepted = 2 done + 1 dead\n")
    assert ended.err.count("which ended dead") == ended.err.count("Traceback") == 1
    assert "Odd: no exception" in ended.err

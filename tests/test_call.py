"""Section H: what a running call can say and learn, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import importlib
import importlib.util
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import pytest

from chinwag import Batch, Context, Dropped, LeaseLost, Queue, Receipt
from chinwag.context import Previous
from chinwag.stream import Restarted
from chinwag.testing import Clock, run
from chinwag.testing.plugin import Run

UVLOOP = pytest.mark.skipif(
    importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
)


class AnyRun(Protocol):
    """Runs a coroutine function that needs no time to pass."""

    def __call__(self, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any: ...


@pytest.fixture(params=["virtual", "asyncio", pytest.param("uvloop", marks=UVLOOP)])
def any_run(request: pytest.FixtureRequest) -> AnyRun:
    """A loop of each kind; what takes longer than it should is a failure."""
    if request.param == "virtual":
        return run
    factory = asyncio.new_event_loop
    if request.param == "uvloop":
        factory = importlib.import_module("uvloop").new_event_loop

    def on_real_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def guarded() -> Any:
            async with asyncio.timeout(30):
                return await main()

        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(guarded())

    return on_real_loop


async def for_ever() -> None:
    await asyncio.Event().wait()


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something holds."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0)


def told(receipt: Receipt) -> tuple[str, str]:
    """Say how a message ended that has ended."""
    with pytest.raises(Dropped) as caught:
        receipt._outcome()
    return caught.value.end, caught.value.reason


# How a call is ended (rule H1).


@pytest.mark.parametrize(
    "reason", ["interrupted", "preempted", "restarted", "timeout", "stopped", "closed", "cancelled"]
)
def test_a_coroutine_is_cancelled_and_told_why(chinwag_run: Run, reason: str) -> None:
    seen: list[str | None] = []
    tasks: list[asyncio.Task[Any]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        if batch.payloads != ["a"] or seen:
            return
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        assert not ctx.ending
        assert ctx.ending.reason is None
        try:
            await for_ever()
        except asyncio.CancelledError:
            seen.append(ctx.ending.reason)
            raise

    async def body() -> None:
        settings: dict[str, Any] = {"max_concurrent_per_group": 1}
        if reason == "timeout":
            settings["handler_timeout_s"] = 1
        if reason == "preempted":
            settings["preempt_margin"] = 1
        async with Queue(handle, **settings) as queue:
            queue.put_nowait("room", "ann", "a", id="1")
            await asyncio.sleep(1)
            if reason == "interrupted":
                queue.put_nowait("room", "ann", "b", on_busy="interrupt")
            elif reason == "preempted":
                queue.put_nowait("room", "bob", "b", rank=9)
            elif reason == "restarted":
                queue.edit("room", "1", "A", restart=True)
            elif reason == "stopped":
                queue.stop("room")
            elif reason == "closed":
                await queue.aclose(drain=False)
            elif reason == "cancelled":
                tasks[0].cancel()
            await queue.join()

    chinwag_run(body)
    assert seen == [reason if reason != "cancelled" else None]


def test_only_the_call_that_is_to_end_is_cancelled(any_run: AnyRun) -> None:
    ended: list[str] = []

    async def handle(batch: Batch[str]) -> None:
        try:
            await (for_ever() if len(batch) == 1 else asyncio.sleep(0))
        finally:
            ended.append(" ".join(batch.payloads))

    async def body() -> None:
        queue = Queue(handle, on_busy="interrupt")
        await queue.start()
        queue.put_nowait("room", "ann", "a")
        bob = queue.put_nowait("room", "bob", "b")
        eve = queue.put_nowait("other", "eve", "c")
        await until(lambda: (bob.state, eve.state) == ("running", "running"))
        assert await queue.put_nowait("room", "ann", "more") is None
        assert ended == ["a", "a more"]
        assert (bob.state, eve.state) == ("running", "running")
        await queue.aclose(drain=False)

    any_run(body)


def test_the_lane_waits_until_the_call_has_really_ended(chinwag_run: Run) -> None:
    starts: list[tuple[float, list[str]]] = []

    async def handle(batch: Batch[str]) -> None:
        starts.append((asyncio.get_running_loop().time(), batch.payloads))
        try:
            await asyncio.sleep(10 if len(starts) == 1 else 0)
        except asyncio.CancelledError:
            await asyncio.sleep(4.999)
            raise

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    assert starts == [(0, ["a"]), (5.999, ["a", "b"])]


@pytest.mark.parametrize("grace_s", [0, 3])
@pytest.mark.parametrize("reason", ["interrupted", "restarted", "timeout", "stopped"])
def test_after_the_grace_the_lane_goes_on(
    chinwag_run: Run, reason: str, grace_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    starts: list[tuple[float, list[str]]] = []
    late: list[BaseException] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        starts.append((asyncio.get_running_loop().time(), batch.payloads))
        if len(starts) > 1:
            return "answer"
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        await asyncio.sleep(10)
        with pytest.raises(LeaseLost) as caught:
            ctx.save("too late")
        late.append(caught.value)
        return "too late"

    async def body() -> None:
        settings: dict[str, Any] = {"cancel_grace_s": grace_s, "jitter": "none", "backoff_s": 1}
        if reason == "timeout":
            settings["handler_timeout_s"] = 1
        async with Queue(handle, on_busy="interrupt", **settings) as queue:
            first = queue.put_nowait("room", "ann", "a", id="1")
            await asyncio.sleep(1)
            if reason == "interrupted":
                queue.put_nowait("room", "ann", "b")
            elif reason == "restarted":
                queue.edit("room", "1", "A", restart=True)
            elif reason == "stopped":
                queue.stop("room")
                queue.put_nowait("room", "ann", "b")
            await queue.join()
            if reason == "stopped":
                assert told(first) == ("abandoned", "stopped")
            else:
                assert await first == "answer"
            await asyncio.sleep(50)
            queue.check()

    with caplog.at_level(logging.WARNING, "chinwag"):
        chinwag_run(body)
    words = {"interrupted": ["a", "b"], "restarted": ["A"], "timeout": ["a"], "stopped": ["b"]}
    backoff_s = 1 if reason == "timeout" else 0
    assert starts == [(0, ["a"]), (1 + grace_s + backoff_s, words[reason])]
    assert len(late) == 1
    assert f"has not ended {grace_s} s after it was asked to ({reason})" in caplog.text


@pytest.mark.parametrize("how", ["returns", "raises", "fails a message", "snoozes"])
@pytest.mark.parametrize("interrupted", ["merge", "resume", "abandon"])
def test_a_call_ends_as_decided_whatever_it_says(
    chinwag_run: Run, how: str, interrupted: str
) -> None:
    calls: list[list[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        calls.append(batch.payloads)
        if len(calls) > 1:
            return "answer"
        with contextlib.suppress(asyncio.CancelledError):
            await for_ever()
        if how == "raises":
            raise OSError("down")
        if how == "fails a message":
            ctx.fail(batch[0], OSError("down"))
        if how == "snoozes":
            ctx.snooze(100)
        return "not asked for"

    async def body() -> str:
        async with Queue(handle, on_busy="interrupt", interrupted=interrupted) as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await queue.join()
            assert len(queue.dead) == 0
            assert asyncio.get_running_loop().time() == 1
            if interrupted != "abandon":
                assert await receipt == "answer"
            return receipt.state

    assert chinwag_run(body) == ("abandoned" if interrupted == "abandon" else "done")
    then = {"merge": [["a", "b"]], "resume": [["b"], ["a"]], "abandon": [["b"]]}
    assert calls == [["a"], *then[interrupted]]


def test_a_plain_function_sees_that_it_is_to_end(any_run: AnyRun) -> None:
    reasons: list[str | None] = []
    began = threading.Event()

    def handle(batch: Batch[str], ctx: Context) -> str:
        if len(batch) > 1:
            return "answer"
        began.set()
        while not ctx.ending:
            time.sleep(0.000_1)
        reasons.append(ctx.ending.reason)
        return "not asked for"

    async def body() -> str:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await until(began.is_set)
            answer: str = await queue.put_nowait("room", "ann", "b")
            return answer

    assert any_run(body) == "answer"
    assert reasons == ["interrupted"]


@pytest.mark.parametrize("takes_context", [False, True])
def test_a_plain_function_is_fenced_after_the_grace(takes_context: bool) -> None:
    """A thread cannot be cancelled; it is not waited for either."""
    go_on = threading.Event()
    batches: list[list[str]] = []

    def hang(batch: Batch[str]) -> str:
        batches.append(batch.payloads)
        if len(batches) == 1:
            go_on.wait(30)
        return f"call {len(batch)}"

    def hang_with_context(batch: Batch[str], ctx: Context) -> str:
        return hang(batch)

    async def body() -> None:
        handler: Any = hang_with_context if takes_context else hang
        async with Queue[str](handler, on_busy="interrupt") as queue:
            receipts = [queue.put_nowait("room", "ann", "a")]
            await until(lambda: batches)
            receipts.append(queue.put_nowait("room", "ann", "b"))
            assert [await receipt for receipt in receipts] == ["call 2"] * 2
            assert asyncio.get_running_loop().time() == 5
            go_on.set()

    run(body, Clock(thread_wait_s=0.01))
    assert batches == [["a"], ["a", "b"]]


# Commit and shield (rule H2).


def test_nothing_is_committed_once_the_end_is_decided(
    chinwag_run: Run, chinwag_clock: Clock
) -> None:
    """Also where nobody has told the call yet: committing looks at what has come before."""
    contexts: list[Context] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        contexts.append(ctx)
        await asyncio.sleep(10)

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            chinwag_clock.move_to_us(1_000_001)
            with pytest.raises(LeaseLost, match="let it end"):
                contexts[0].commit()
            assert contexts[0].ending.reason is None

    chinwag_run(body)
    assert len(contexts) == 2


@pytest.mark.parametrize("first", ["commit", "push"])
def test_commit_and_interruption_exclude_each_other(chinwag_run: Run, first: str) -> None:
    batches: list[list[str]] = []
    contexts: list[Context] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        batches.append(batch.payloads)
        contexts.append(ctx)
        await asyncio.sleep(10)

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            if first == "push":
                queue.put_nowait("room", "ann", "b")
                await asyncio.sleep(0.000_001)
                with pytest.raises(LeaseLost, match="let it end"):
                    contexts[0].commit()
            else:
                contexts[0].commit()
                contexts[0].commit()  # again changes nothing
                queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    assert batches == ([["a"], ["a", "b"]] if first == "push" else [["a"], ["b"]])


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
def test_only_rollback_commits_with_what_is_not_buffered(chinwag_run: Run, policy: str) -> None:
    batches: list[list[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        batches.append(batch.payloads)
        ctx.emit("at once", buffer=False)
        await asyncio.sleep(10)

    async def body() -> None:
        async with Queue(handle, on_busy=policy) as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            assert await anext(receipt.stream()) == "at once"
            queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    assert batches == ([["a"], ["b"]] if policy == "rollback" else [["a"], ["a", "b"]])


def test_shields_nest(chinwag_run: Run) -> None:
    ends: list[float] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        if len(batch) > 1:
            return
        loop = asyncio.get_running_loop()
        try:
            async with ctx.shield():
                with ctx.shield():
                    await asyncio.sleep(2)
                assert not ctx.ending
                await asyncio.sleep(2)
            await asyncio.sleep(2)
        finally:
            ends.append(loop.time())

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    assert ends == [4]


def test_a_commit_in_a_shield_cancels_what_it_holds_back(chinwag_run: Run) -> None:
    batches: list[list[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        batches.append(batch.payloads)
        with ctx.shield():
            await asyncio.sleep(2)
            ctx.commit()
        await asyncio.sleep(2)

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")

    chinwag_run(body)
    assert batches == [["a"], ["b"]]


@pytest.mark.parametrize("reason", ["stopped", "timeout", "closed"])
def test_a_shield_holds_only_interruptions_back(chinwag_run: Run, reason: str) -> None:
    ends: list[tuple[float, str | None]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        try:
            with ctx.shield():
                await asyncio.sleep(10)
        finally:
            ends.append((asyncio.get_running_loop().time(), ctx.ending.reason))

    async def body() -> None:
        timeout_s = 1 if reason == "timeout" else None
        async with Queue(handle, handler_timeout_s=timeout_s, max_attempts=1) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            if reason == "stopped":
                queue.stop("room")
            elif reason == "closed":
                await queue.aclose(drain=False)
            await queue.join()
            queue.dead.clear()

    chinwag_run(body)
    gc.collect()
    assert ends == [(1, reason)]


@pytest.mark.parametrize("how", ["with", "async with"])
def test_a_call_that_is_to_end_gets_no_shield(chinwag_run: Run, how: str) -> None:
    lost: list[str] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            try:
                if how == "with":
                    with ctx.shield():
                        lost.append("not reached")
                else:
                    async with ctx.shield():
                        lost.append("not reached")
            except LeaseLost as error:
                lost.append(str(error))
            raise

    async def body() -> None:
        async with Queue(handle) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.stop("room")

    chinwag_run(body)
    assert len(lost) == 1
    assert "let it end" in lost[0]


# What it can look at (rule H3).


@pytest.mark.parametrize("policy", ["enqueue", "inject", "interrupt", "rollback"])
@pytest.mark.parametrize("lanes", ["sender", "group"])
def test_a_call_learns_that_it_is_superseded(chinwag_run: Run, policy: str, lanes: str) -> None:
    seen: list[tuple[bool, float]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        if batch.payloads != ["a"]:
            return
        ctx.commit()
        seen.append((bool(ctx.superseded), asyncio.get_running_loop().time()))
        assert await ctx.superseded is None
        seen.append((bool(ctx.superseded), asyncio.get_running_loop().time()))

    async def body() -> None:
        async with Queue(handle, on_busy=policy, lanes=lanes) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "cron", background=True)
            queue.put_nowait("room", "ann", "listened to", context=True)
            queue.put_nowait("room", "ann", "command", bypass=True)
            queue.put_nowait("other", "ann", "elsewhere")
            queue.put_nowait("room", "ann", "later", delay_s=2)
            await queue.join()

    chinwag_run(body)
    assert seen == [(False, 0), (True, 3)]


def test_what_is_gone_supersedes_nothing(chinwag_run: Run) -> None:
    contexts: list[Context] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        contexts.append(ctx)
        await asyncio.sleep(10)

    async def body() -> None:
        async with Queue(handle) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            (ctx,) = contexts
            queue.put_nowait("room", "ann", "b", id="2")
            assert ctx.superseded
            queue.withdraw("room", "2")
            assert not ctx.superseded
            waiting = asyncio.ensure_future(ctx.superseded)
            await asyncio.sleep(1)
            assert not waiting.done()
            queue.put_nowait("room", "ann", "c")
            await waiting
            assert asyncio.get_running_loop().time() == 2
            await queue.join()
            assert not ctx.superseded

    chinwag_run(body)


def test_threads_and_tasks_wait_for_a_signal(any_run: AnyRun) -> None:
    """Any number of them; a wait that is cancelled changes nothing for the others."""
    heard: list[str | None] = []
    contexts: list[Context] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        contexts.append(ctx)
        await for_ever()

    async def hear(ctx: Context) -> None:
        heard.append(await ctx.ending)

    def in_thread(ctx: Context) -> None:
        async def both() -> None:
            async with asyncio.timeout(20):
                await ctx.superseded
                await hear(ctx)

        asyncio.run(both())

    async def body() -> None:
        async with Queue(handle) as queue:
            queue.put_nowait("room", "ann", "a")
            await until(lambda: contexts)
            (ctx,) = contexts
            superseded = ctx.superseded
            tasks = [asyncio.create_task(hear(ctx)) for _ in range(3)]
            threads = [asyncio.create_task(asyncio.to_thread(in_thread, ctx)) for _ in range(2)]
            await until(lambda: len(superseded._waiters) == 2)
            await until(lambda: len(ctx.ending._waiters) >= 3)
            tasks.pop().cancel()
            queue.put_nowait("room", "ann", "b")
            await until(lambda: len(ctx.ending._waiters) == 4)
            queue.stop("room")
            await asyncio.gather(*tasks, *threads)
            assert ctx.ending == "stopped"
            assert await ctx.ending == "stopped"

    any_run(body)
    assert heard == ["stopped"] * 4


# What it leaves for the next call (rules H4 and H6).


class Saving:
    """A handler whose first call saves a state and then ends in a certain way."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.found: list[tuple[list[str], Any, Previous | None]] = []
        self.state: Any = {"half": "done"}

    async def __call__(self, batch: Batch[str], ctx: Context) -> None:
        self.found.append((batch.payloads, ctx.saved, ctx.previous))
        if len(self.found) > 1:
            return
        assert ctx.saved is None
        assert ctx.previous is None
        ctx.save("first")
        ctx.save(self.state)
        assert ctx.saved is self.state
        ctx.emit("token")
        if self.how == "fails":
            raise OSError("down")
        if self.how == "snoozes":
            ctx.snooze(1)
        elif self.how == "gives up on one":
            ctx.fail(batch[0])
        elif self.how == "takes and fails":
            await ctx.superseded
            assert len(ctx.inbox.take()) == 1
            raise OSError("down")
        elif self.how != "completes":
            await for_ever()


UNFINISHED = "the state of another batch"

LEFT: list[tuple[str, dict[str, Any], list[str], str | None]] = [
    # How the call ends, under which settings; the next batch, and the status it finds if it is
    # another one. None: it is the same batch.
    ("fails", {}, ["a", "b"], None),
    ("snoozes", {}, ["a", "b"], None),
    ("times out", {"handler_timeout_s": 1}, ["a", "b"], None),
    ("is cancelled", {}, ["a", "b"], None),
    ("takes and fails", {"on_busy": "inject"}, ["a", "b", "c"], None),
    ("is preempted", {"preempt_margin": 1, "max_concurrent_per_group": 1}, ["a", "b"], None),
    ("fails and is halved", {"split_failed": True, "max_attempts": 1}, ["a"], "error"),
    ("gives up on one", {}, ["a"], "failed"),
    ("is interrupted", {"on_busy": "interrupt"}, ["a", "b", "c"], "interrupted"),
    (
        "is abandoned",
        {"on_busy": "interrupt", "interrupted": "abandon"},
        ["c"],
        "interrupted",
    ),
    ("is restarted", {}, ["A", "b", "c"], "restarted"),
    ("is stopped", {}, ["c"], "stopped"),
    ("is dead", {"max_attempts": 1}, ["c"], "error"),
    ("completes", {}, ["c"], ""),
]


@pytest.mark.parametrize(
    ("how", "settings", "batch", "status"), LEFT, ids=[case[0] for case in LEFT]
)
def test_what_was_saved_is_found_again(
    chinwag_run: Run, how: str, settings: dict[str, Any], batch: list[str], status: str | None
) -> None:
    """By the very same batch as its own, and by any other of the lane as the previous one's."""
    doing = {"is dead": "fails", "fails and is halved": "fails"}
    handler = Saving(doing.get(how, how))

    async def body() -> None:
        async with Queue(handler, jitter="none", **settings) as queue:
            queue.put_nowait("room", "ann", "a", id="1")
            queue.put_nowait("room", "ann", "b")
            await asyncio.sleep(1)
            if how == "is cancelled":
                for task in asyncio.all_tasks():
                    if task.get_name() == "chinwag runner":
                        task.cancel()
            if how == "is preempted":
                queue.put_nowait("room", "bob", "high", rank=9)
                await queue.join()
            if how == "is restarted":
                queue.put_nowait("room", "ann", "c")
                queue.edit("room", "1", "A", restart=True)
            if how == "is stopped":
                queue.stop("room")
            if "c" in batch and how != "is restarted":
                queue.put_nowait("room", "ann", "c")
            await queue.join()
            queue.dead.clear()

    chinwag_run(body)
    ours = [found for found in handler.found[1:] if found[0] != ["high"]]
    payloads, saved, previous = ours[0]
    assert payloads == batch
    if status is None:
        assert saved is handler.state
    elif status == "":
        assert (saved, previous) == (None, None)
    else:
        assert saved is None
        assert previous is not None
        assert (previous.status, previous.emitted) == (status, ("token",))
        assert previous.saved is handler.state


def test_resumed_work_finds_its_state(chinwag_run: Run) -> None:
    handler = Saving("is interrupted")

    async def body() -> None:
        async with Queue(handler, on_busy="interrupt", interrupted="resume") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    payloads, saved, _ = handler.found[2]
    assert payloads == ["a"]
    assert saved is handler.state


@pytest.mark.parametrize(("after_s", "known"), [(600, True), (600.000_001, False)])
def test_an_unfinished_call_is_remembered_for_a_while(
    chinwag_run: Run, after_s: float, known: bool
) -> None:
    handler = Saving("is stopped")

    async def body() -> None:
        async with Queue(handler) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.stop("room")
            await asyncio.sleep(after_s)
            queue.put_nowait("room", "bob", "of another lane")
            queue.put_nowait("room", "ann", "b")
            await queue.join()
            queue.put_nowait("room", "ann", "c")

    chinwag_run(body)
    assert [previous is not None for _, _, previous in handler.found] == [
        False,
        False,
        known,
        False,  # one has completed
    ]


def test_nothing_saved_is_nothing_previous(chinwag_run: Run) -> None:
    found: list[Previous | None] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        found.append(ctx.previous)
        if len(found) == 1:
            await for_ever()

    async def body() -> None:
        async with Queue(handle) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.stop("room")
            queue.put_nowait("room", "ann", "b")

    chinwag_run(body)
    assert found == [None, Previous(status="stopped", saved=None, emitted=())]


ROLLED_BACK = ["fails", "times out", "is interrupted", "is stopped", "is fenced", "snoozes"]


@pytest.mark.parametrize("commits", [False, True])
@pytest.mark.parametrize("how", ROLLED_BACK)
def test_state_and_output_are_one_transaction(chinwag_run: Run, how: str, commits: bool) -> None:
    """Under `rollback` both count from commit or success on, otherwise neither."""
    found: list[tuple[Any, Previous | None]] = []
    seen: list[Any] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        found.append((ctx.saved, ctx.previous))
        if len(found) > 1:
            return
        ctx.save("state")
        ctx.emit("token")
        assert ctx.saved == "state"
        if commits:
            ctx.commit()
        if how == "fails":
            raise OSError("down")
        if how == "snoozes":
            ctx.snooze(1)
            return
        try:
            await for_ever()
        except asyncio.CancelledError:
            if how == "is fenced":
                await asyncio.sleep(100)
            raise

    async def body() -> None:
        settings: dict[str, Any] = {"retry_committed": True, "jitter": "none"}
        if how == "times out":
            settings["handler_timeout_s"] = 1
        async with Queue(handle, on_busy="rollback", **settings) as queue:
            receipt = queue.put_nowait("room", "ann", "a")

            async def read() -> None:
                with contextlib.suppress(Dropped):
                    async for item in receipt.stream():
                        seen.append(item)  # noqa: PERF401 - it may raise in the middle

            reading = asyncio.create_task(read())
            await asyncio.sleep(1)
            if how == "is stopped":
                queue.stop("room")
            if how in ("is interrupted", "is fenced", "is stopped"):
                queue.put_nowait("room", "ann", "b")
            if commits and how in ("is interrupted", "is fenced"):
                queue.stop("room")
                queue.put_nowait("room", "ann", "b")
            await queue.join()
            await reading

    chinwag_run(body)
    saved, previous = found[1]
    state = saved if previous is None else previous.saved
    emitted = [item for item in seen if item == "token"]
    assert (state, emitted) == (("state", ["token"]) if commits else (None, []))
    if previous is not None:
        assert previous.emitted == (("token",) if commits else ())


@pytest.mark.parametrize("emits", [False, True])
def test_a_snooze_is_no_success(chinwag_run: Run, emits: bool) -> None:
    """Whether the call has put something out makes no difference for what it saved."""
    found: list[Any] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        found.append(ctx.saved)
        if len(found) == 1:
            ctx.save("state")
            if emits:
                ctx.emit("token")
            ctx.snooze(1)

    async def body() -> list[Any]:
        async with Queue(handle, on_busy="rollback") as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            return [item async for item in receipt.stream()]

    assert chinwag_run(body) == []
    assert found == [None, None]


# What it puts out (rule H5).


class Reading:
    """A stream that is read in a task of its own."""

    def __init__(self, receipt: Receipt) -> None:
        self.items: list[Any] = []
        self.dropped: tuple[str, str] | None = None
        self.stream = receipt.stream()
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for item in self.stream:
                self.items.append(item)
        except Dropped as error:
            self.dropped = (error.end, error.reason)


@pytest.mark.parametrize("policy", ["enqueue", "inject", "interrupt", "reject"])
def test_what_is_emitted_is_read_at_once_and_in_order(any_run: AnyRun, policy: str) -> None:
    """By any number of streams, of every message of the batch."""
    go_on = asyncio.Event()

    async def handle(batch: Batch[str], ctx: Context) -> str:
        for token in range(3):
            ctx.emit(token)
        await go_on.wait()
        ctx.emit(3)
        return "answer"

    async def body() -> None:
        async with Queue(handle, on_busy=policy) as queue:
            receipts = [queue.put_nowait("room", "ann", text) for text in "ab"]
            streams = [Reading(receipt) for receipt in (*receipts, receipts[0])]
            await until(lambda: all(len(stream.items) == 3 for stream in streams))
            assert [receipt.state for receipt in receipts] == ["running"] * 2
            late = Reading(receipts[1])
            await until(lambda: len(late.items) == 3)
            go_on.set()
            assert await receipts[0] == "answer"
            after = Reading(receipts[0])
            for stream in (*streams, late, after):
                await stream.task
                assert (stream.items, stream.stream.missed) == ([0, 1, 2, 3], 0)

    any_run(body)


@pytest.mark.parametrize("how", ["interrupt", "retry", "snooze", "put back"])
def test_a_new_call_says_that_it_has_taken_over(chinwag_run: Run, how: str) -> None:
    """Once to whoever has seen something of the one before, and to nobody else."""
    calls = 0

    async def handle(batch: Batch[str], ctx: Context) -> None:
        nonlocal calls
        calls += 1
        ctx.emit(f"{calls} a")
        ctx.emit(f"{calls} b")
        if calls > 1:
            await asyncio.sleep(1)
        elif how == "retry":
            raise OSError("down")
        elif how == "snooze":
            ctx.snooze(1)
        elif how == "put back":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        else:
            await for_ever()

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt", jitter="none") as queue:
            first = queue.put_nowait("room", "ann", "a")
            early, again = Reading(first), Reading(first)
            await asyncio.sleep(0.5)
            if how == "interrupt":
                second = Reading(queue.put_nowait("room", "ann", "b"))
            await asyncio.sleep(0.75)
            late = Reading(first)
            await queue.join()
            both = ["1 a", "1 b", Restarted(), "2 a", "2 b"]
            for stream in (early, again):
                await stream.task
                assert stream.items == both
            await late.task
            assert late.items == ["2 a", "2 b"]
            if how == "interrupt":
                await second.task
                assert second.items == ["2 a", "2 b"]

    chinwag_run(body)


def test_each_call_that_takes_over_is_told_once(chinwag_run: Run) -> None:
    calls = 0

    async def handle(batch: Batch[str], ctx: Context) -> None:
        nonlocal calls
        calls += 1
        if calls != 2:
            ctx.emit(calls)
        await asyncio.sleep(0 if calls == 4 else 10)

    async def body() -> list[Any]:
        async with Queue(handle, on_busy="interrupt") as queue:
            stream = Reading(queue.put_nowait("room", "ann", "a"))
            for text in "bcd":
                await asyncio.sleep(1)
                queue.put_nowait("room", "ann", text)
            await stream.task
            return stream.items

    # Of the second call nothing was seen.
    assert chinwag_run(body) == [1, Restarted(), 3, Restarted(), 4]


def test_a_slow_reader_is_told_how_much_it_has_missed(chinwag_run: Run) -> None:
    go_on = asyncio.Event()

    async def handle(batch: Batch[str], ctx: Context) -> None:
        ctx.emit(0)
        await go_on.wait()
        for token in range(1, 10):
            ctx.emit(token)

    async def body() -> None:
        async with Queue(handle, emit_limit=3) as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            slow, fresh = receipt.stream(), receipt.stream()
            assert await anext(slow) == 0
            go_on.set()
            await receipt
            assert [item async for item in slow] == [7, 8, 9]
            assert slow.missed == 6
            assert [item async for item in fresh] == [7, 8, 9]
            assert fresh.missed == 7

    chinwag_run(body)


def test_only_so_much_is_remembered_of_a_call(chinwag_run: Run) -> None:
    found: list[Previous | None] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        found.append(ctx.previous)
        for token in range(5):
            ctx.emit(token)
        if len(found) == 1:
            await for_ever()

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt", emit_limit=2) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    assert found == [None, Previous(status="interrupted", saved=None, emitted=(3, 4))]


@pytest.mark.parametrize("how", ["stop", "fail", "clear", "withdraw", "close", "no output"])
def test_a_dropped_messages_stream_ends_with_it(chinwag_run: Run, how: str) -> None:
    async def handle(batch: Batch[str], ctx: Context) -> None:
        ctx.emit("token")
        await asyncio.sleep(1)
        if how == "fail":
            raise OSError("down")
        if how not in ("clear", "withdraw"):
            await for_ever()

    async def body() -> tuple[list[Any], tuple[str, str] | None]:
        async with Queue(handle, max_attempts=1) as queue:
            if how in ("clear", "withdraw"):
                queue.put_nowait("room", "ann", "before")
                await asyncio.sleep(0.5)
            if how == "no output":
                queue.pause("room")
            stream = Reading(queue.put_nowait("room", "ann", "a", id="1"))
            await asyncio.sleep(0.25)
            if how in ("stop", "no output"):
                queue.stop("room")
            elif how == "clear":
                queue.clear("room")
            elif how == "withdraw":
                queue.withdraw("room", "1")
            elif how == "close":
                await queue.aclose(drain=False)
            await stream.task
            queue.resume("room")
            queue.dead.clear()
            return stream.items, stream.dropped

    gone = {
        "stop": ("abandoned", "stopped"),
        "fail": ("dead", "error"),
        "clear": ("cleared", ""),
        "withdraw": ("withdrawn", ""),
        "close": ("abandoned", "closed"),
        "no output": ("cleared", "stopped"),
    }
    items, dropped = chinwag_run(body)
    assert dropped is not None
    assert dropped[0] == gone[how][0]
    assert dropped[1] in (gone[how][1], gone[how][0])
    assert items == (["token"] if how in ("stop", "fail", "close") else [])


def test_a_wait_for_an_item_loses_none(chinwag_run: Run) -> None:
    async def handle(batch: Batch[str], ctx: Context) -> None:
        for token in range(4):
            await asyncio.sleep(1)
            ctx.emit(token)

    async def body() -> None:
        async with Queue(handle) as queue:
            stream = queue.put_nowait("room", "ann", "a").stream()
            items = []
            for _ in range(20):
                with contextlib.suppress(TimeoutError, StopAsyncIteration):
                    items.append(await asyncio.wait_for(anext(stream), 0.3))
            assert items == [0, 1, 2, 3]
            assert stream._feed.waiters == []

    chinwag_run(body)


def test_no_call_reads_the_stream_of_its_own_lane(chinwag_run: Run) -> None:
    refused: list[str] = []
    items: list[Any] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        if batch.sender == "bob":
            items.extend([item async for item in receipts[0].stream()])
            return
        if batch.payloads == ["a"]:
            ctx.emit("token")
            queue.put_nowait("room", "bob", "reads it")
            stream = receipts[0].stream()
            assert await anext(stream) == "token"
            with pytest.raises(RuntimeError, match="own lane") as caught:
                await anext(stream)
            refused.append(str(caught.value))
            later = queue.put_nowait("room", "ann", "b")
            with pytest.raises(RuntimeError, match="own lane"):
                await anext(later.stream())

    queue = Queue(handle)
    receipts: list[Receipt] = []

    async def body() -> None:
        async with queue:
            receipts.append(queue.put_nowait("room", "ann", "a"))
            await queue.join()

    chinwag_run(body)
    assert len(refused) == 1
    assert items == ["token"]


def test_a_stream_is_read_on_another_loop() -> None:
    """While a thread emits; whatever it is given or has missed is counted once."""
    total = 20_000
    got: list[int] = []
    missed: list[int] = []

    def handle(batch: Batch[str], ctx: Context) -> None:
        began.wait(30)
        for token in range(total):
            ctx.emit(token)

    began = threading.Event()

    def in_thread(receipt: Receipt) -> None:
        async def read() -> None:
            stream = receipt.stream()
            began.set()
            async with asyncio.timeout(30):
                got.extend([token async for token in stream])
            missed.append(stream.missed)

        asyncio.run(read())

    async def body() -> None:
        async with Queue[str](handle, emit_limit=5) as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            await asyncio.to_thread(in_thread, receipt)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        asyncio.run(body())
    finally:
        sys.setswitchinterval(before)
    assert got == sorted(set(got))
    assert got[-1] == total - 1
    assert len(got) + missed[0] == total


@pytest.mark.parametrize("end", ["commits", "returns"])
def test_rollback_shows_its_output_when_it_counts(chinwag_run: Run, end: str) -> None:
    async def handle(batch: Batch[str], ctx: Context) -> str:
        ctx.emit("held 1")
        ctx.emit("held 2")
        await asyncio.sleep(1)
        if end == "commits":
            ctx.commit()
            ctx.emit("at once")
            await asyncio.sleep(1)
        return "answer"

    async def body() -> None:
        async with Queue(handle, on_busy="rollback") as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            stream = Reading(receipt)
            await asyncio.sleep(0.5)
            assert stream.items == []
            await asyncio.sleep(1)
            held = ["held 1", "held 2"]
            assert stream.items == (held if end == "returns" else [*held, "at once"])
            await stream.task
            assert await receipt == "answer"

    chinwag_run(body)


def test_a_buffer_that_is_full_raises(chinwag_run: Run) -> None:
    said: list[str] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        for token in range(3):
            ctx.emit(token)
        with pytest.raises(BufferError) as caught:
            ctx.emit(3)
        said.append(str(caught.value))
        ctx.emit(4, buffer=False)
        for token in range(5, 8):
            ctx.emit(token)

    async def body() -> None:
        async with Queue(handle, on_busy="rollback", emit_limit=3) as queue:
            stream = Reading(queue.put_nowait("room", "ann", "a"))
            await stream.task
            assert stream.items == [5, 6, 7]
            assert stream.stream.missed == 4

    chinwag_run(body)
    assert "emit_limit" in said[0]
    assert "3 items" in said[0]
    assert "commit" in said[0]


# What it takes (rule B1).


def test_an_inbox_is_looked_at_and_taken_from(chinwag_run: Run) -> None:
    async def handle(batch: Batch[str], ctx: Context) -> str:
        inbox = ctx.inbox
        assert (len(inbox), list(inbox), bool(inbox), inbox.take()) == (0, [], False, ())
        await asyncio.sleep(1)
        assert len(inbox) == 5
        assert [message.payload for message in inbox] == ["b", "c", "d", "e", "f"]
        assert [message.payload for message in reversed(inbox)] == ["f", "e", "d", "c", "b"]
        assert (inbox[0].payload, inbox[-1].payload) == ("b", "f")
        assert [message.payload for message in inbox[1:3]] == ["c", "d"]
        with pytest.raises(IndexError):
            inbox[5]
        assert "5 waiting" in repr(inbox)
        assert inbox.take(0) == ()
        (taken,) = inbox.take(1)
        assert (taken.payload, taken.sender) == ("b", "ann")
        assert [message.payload for message in inbox.take()] == ["c", "d", "e"], "inject_limit"
        assert len(inbox) == 1
        assert len(batch) == 1
        return "answer"

    async def body() -> None:
        async with Queue(handle, on_busy="inject", inject_limit=3) as queue:
            receipts = [queue.put_nowait("room", "ann", "a")]
            await asyncio.sleep(0.5)
            receipts += [queue.put_nowait("room", "ann", text) for text in "bcdef"]
            await asyncio.sleep(0.5)
            assert [await receipt for receipt in receipts[:5]] == ["answer"] * 5
            queue.clear()
            queue.stop("room")

    chinwag_run(body)


@pytest.mark.parametrize(
    ("limit", "error", "words"),
    [(-1, ValueError, "limit"), (1.5, TypeError, "limit"), ("1", TypeError, "limit")],
)
def test_a_take_is_of_a_number_of_messages(
    chinwag_run: Run, limit: Any, error: type[Exception], words: str
) -> None:
    said: list[str] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        with pytest.raises((TypeError, ValueError)) as caught:
            ctx.inbox.take(limit)
        said.append(str(caught.value))
        assert isinstance(caught.value, error)

    async def body() -> None:
        async with Queue(handle, on_busy="inject", max_attempts=1) as queue:
            await queue.put_nowait("room", "ann", "a")

    chinwag_run(body)
    assert words in said[0]


INBOXES: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
    ("injected", {}, {}, 3),
    ("one stands alone", {}, {"standalone": True}, 1),
    ("one of another key", {}, {"batch_key": "k"}, 1),
    ("one that only waits", {}, {"on_busy": "enqueue"}, 1),
    ("a background message", {}, {"background": True}, 2),
    ("one yet to come", {}, {"delay_s": 50}, 2),
    ("one that is listened to", {}, {"context": True}, 2),
    ("no room in the batch", {"max_batch": 1}, {}, 3),
    ("across a gap", {"max_gap_s": 0.1}, {}, 3),
    ("in a window that is open", {"quiet_s": 9, "quiet_when_idle": False}, {}, 3),
    ("nothing injected", {"on_busy": "enqueue"}, {}, 0),
]


@pytest.mark.parametrize(
    ("settings", "second", "shown"),
    [case[1:] for case in INBOXES],
    ids=[case[0] for case in INBOXES],
)
def test_an_inbox_shows_what_a_call_may_take(
    chinwag_run: Run, settings: dict[str, Any], second: dict[str, Any], shown: int
) -> None:
    contexts: list[Context] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        contexts.append(ctx)
        if len(contexts) == 1:
            await asyncio.sleep(10)

    async def body() -> None:
        async with Queue(handle, **{"on_busy": "inject", **settings}) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            queue.put_nowait("room", "ann", "c", **second)
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "d")
            assert len(contexts[0].inbox) == shown
            queue.pause("room")
            assert len(contexts[0].inbox) == 0
            assert contexts[0].inbox.take() == ()
            queue.resume("room")
            assert len(contexts[0].inbox.take()) == shown
            queue.check()
            await queue.join()

    chinwag_run(body)


def test_what_came_before_a_call_can_be_taken_too(chinwag_run: Run) -> None:
    batches: list[list[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        taken = ctx.inbox.take()
        batches.append(batch.payloads + [message.payload for message in taken])

    async def body() -> None:
        async with Queue(handle, on_busy="inject", max_batch=2) as queue:
            for text in "abcde":
                queue.put_nowait("room", "ann", text)

    chinwag_run(body)
    assert batches == [["a", "b", "c", "d", "e"]]


def test_what_was_taken_goes_with_the_call(chinwag_run: Run) -> None:
    batches: list[tuple[list[str], int]] = []
    items: list[Any] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        batches.append((batch.payloads, ctx.attempt))
        ctx.emit(len(batches))
        if len(batches) == 1:
            await asyncio.sleep(1)
            ctx.inbox.take()
            ctx.emit("taken")
            raise OSError("down")
        return "answer"

    async def body() -> None:
        async with Queue(handle, on_busy="inject", jitter="none") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(0.5)
            receipt = queue.put_nowait("room", "ann", "b", id="2")
            stream = Reading(receipt)
            await asyncio.sleep(0.75)
            assert queue.withdraw("room", "2") == "too_late", "taking was its first start"
            assert receipt.state == "retrying"
            assert await receipt == "answer"
            await stream.task
            items.extend(stream.items)

    chinwag_run(body)
    assert batches == [(["a"], 1), (["a", "b"], 2)]
    assert items[-3:] == ["taken", Restarted(), 2]


def test_a_taken_message_can_fail_alone(chinwag_run: Run) -> None:
    batches: list[list[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        batches.append(batch.payloads)
        if len(batches) == 1:
            await asyncio.sleep(1)
            taken = ctx.inbox.take()
            ctx.fail(taken[1], OSError("down"))

    async def body() -> None:
        async with Queue(handle, on_busy="inject", jitter="none") as queue:
            receipts = [queue.put_nowait("room", "ann", "a")]
            await asyncio.sleep(0.5)
            receipts += [queue.put_nowait("room", "ann", text) for text in "bc"]
            await asyncio.sleep(0.75)
            assert [receipt.state for receipt in receipts] == ["done", "done", "retrying"]
            await queue.join()

    chinwag_run(body)
    assert batches == [["a"], ["c"]]


def test_taken_messages_are_interrupted_with_the_call(chinwag_run: Run) -> None:
    batches: list[list[str]] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        batches.append(batch.payloads)
        if len(batches) == 1:
            await asyncio.sleep(1)
            ctx.inbox.take()
            await for_ever()

    async def body() -> None:
        async with Queue(handle, on_busy="inject") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(0.5)
            queue.put_nowait("room", "ann", "b")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "c", on_busy="interrupt")
            await queue.join()

    chinwag_run(body)
    assert batches == [["a"], ["a", "b", "c"]]


# What is left of a call that has ended.


DEEDS: list[Callable[[Context], object]] = [
    lambda ctx: ctx.commit(),
    lambda ctx: ctx.shield().__enter__(),
    lambda ctx: ctx.save("late"),
    lambda ctx: ctx.emit("late"),
    lambda ctx: ctx.emit("late", buffer=False),
    lambda ctx: ctx.fail(ctx._batch[0]),
    lambda ctx: ctx.snooze(1),
    lambda ctx: ctx.inbox.take(),
]


def refuses_everything(ctx: Context) -> None:
    """Each deed raises, and each look tells how things stood."""
    for deed in DEEDS:
        with pytest.raises(LeaseLost, match=r"let it end|somebody else's"):
            deed(ctx)
    assert len(ctx.inbox) == 0
    assert list(ctx.inbox) == []
    assert not ctx.superseded
    assert ctx.previous is None
    assert (ctx.attempt, ctx.resumed) == (1, False)
    assert "attempt 1" in repr(ctx)


ENDS = ["returns", "raises", "is interrupted", "is stopped", "is fenced", "closes"]


@pytest.mark.parametrize("policy", ["inject", "rollback"])
@pytest.mark.parametrize("how", ENDS)
def test_a_call_that_has_ended_has_no_more_say(chinwag_run: Run, how: str, policy: str) -> None:
    contexts: list[Context] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        contexts.append(ctx)
        if len(contexts) > 1:
            await asyncio.sleep(1)
            return "answer"
        if how == "raises":
            raise OSError("down")
        if how != "returns":
            try:
                await for_ever()
            except asyncio.CancelledError:
                if how == "is fenced":
                    await asyncio.sleep(50)
                    refuses_everything(ctx)
                raise
        return "answer"

    async def body() -> None:
        async with Queue(handle, on_busy=policy, jitter="none") as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            if how == "is interrupted":
                queue.put_nowait("room", "ann", "b", on_busy="interrupt")
            elif how == "is fenced":
                queue.put_nowait("room", "ann", "b", on_busy="interrupt")
                await asyncio.sleep(5.5)
                refuses_everything(contexts[0])
            elif how == "is stopped":
                queue.stop("room")
            elif how == "closes":
                await queue.aclose(drain=False)
            await asyncio.sleep(0.5)
            refuses_everything(contexts[0])
            await queue.join()
            await asyncio.sleep(100)
            stream = Reading(receipt)
            await stream.task
            assert "late" not in stream.items
            queue.check()

    chinwag_run(body)


def test_a_call_that_is_to_end_still_saves(chinwag_run: Run) -> None:
    """Until it has really ended; it commits no more, and takes nothing."""
    found: list[Previous | None] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        found.append(ctx.previous)
        if len(found) > 1:
            return
        try:
            await for_ever()
        except asyncio.CancelledError:
            assert ctx.inbox.take() == ()
            with pytest.raises(LeaseLost):
                ctx.commit()
            ctx.emit("goodbye")
            ctx.save("so far")
            raise

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    assert found[1] == Previous(status="interrupted", saved="so far", emitted=("goodbye",))


def test_a_thread_that_was_fenced_changes_nothing() -> None:
    """It goes on, since it cannot be cancelled, and everything it does says that it is over."""
    go_on = threading.Event()
    over: list[object] = []
    batches: list[list[str]] = []

    def handle(batch: Batch[str], ctx: Context) -> str:
        batches.append(batch.payloads)
        if len(batches) > 1:
            return "answer"
        ctx.emit("token")
        ctx.save("half")
        go_on.wait(30)
        try:
            refuses_everything(ctx)
            assert ctx.ending == "interrupted"
            with pytest.raises(ValueError, match="one-off"):
                raise ValueError("one-off")
        except BaseException as error:
            over.append(error)
            raise
        over.append("refused")
        return "too late"

    async def body() -> None:
        async with Queue[str](handle, on_busy="interrupt") as queue:
            first = queue.put_nowait("room", "ann", "a")
            stream = Reading(first)
            await until(lambda: batches)
            second = queue.put_nowait("room", "ann", "b")
            assert await first == await second == "answer"
            go_on.set()
            await until(lambda: over)
            await stream.task
            assert "late" not in stream.items
            queue.check()

    run(body, Clock(thread_wait_s=0.01))
    assert over == ["refused"]


# Bypass calls have no lane, and a context all the same.


def test_a_call_beside_the_others_has_a_context(chinwag_run: Run) -> None:
    async def handle(batch: Batch[str], ctx: Context) -> str:
        assert not ctx.superseded
        assert (len(ctx.inbox), ctx.inbox.take()) == (0, ())
        assert (ctx.saved, ctx.previous) == (None, None)
        ctx.save("state")
        ctx.emit("token")
        with ctx.shield():
            ctx.commit()
        return "answer"

    async def body() -> None:
        for policy in ("inject", "rollback"):
            async with Queue(handle, on_busy=policy) as queue:
                receipt = queue.put_nowait("room", "ann", "/help", bypass=True)
                stream = Reading(receipt)
                assert await receipt == "answer"
                await stream.task
                assert stream.items == ["token"]

    chinwag_run(body)


# Who else cancels it (rule H7).


def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("interrupted", ["merge", "resume", "abandon"])
@pytest.mark.parametrize("how", ["itself", "another task"])
def test_a_foreign_cancellation_puts_the_messages_back(
    any_run: AnyRun, how: str, interrupted: str
) -> None:
    found: list[tuple[list[str], int, bool, Any]] = []
    tasks: list[asyncio.Task[Any] | None] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        found.append((batch.payloads, ctx.attempt, ctx.resumed, ctx.saved))
        if len(found) == 1:
            ctx.save("half")
            tasks.append(asyncio.current_task())
            if how == "itself":
                cancel_this_task()
            await for_ever()
        return "answer"

    async def body() -> None:
        async with Queue(handle, interrupted=interrupted, max_attempts=1) as queue:
            receipts = [queue.put_nowait("room", "ann", text) for text in "ab"]
            await until(lambda: tasks)
            receipts.append(queue.put_nowait("room", "ann", "c"))
            if how == "another task":
                assert tasks[0] is not None
                tasks[0].cancel()
            assert [await receipt for receipt in receipts] == ["answer"] * 3

    any_run(body)
    assert found == [
        (["a", "b"], 1, False, None),
        (["a", "b"], 1, True, "half"),
        (["c"], 1, False, None),
    ]


@pytest.mark.parametrize("max_interrupts", [0, 1, 8])
def test_cancelled_once_too_often_is_a_failure(chinwag_run: Run, max_interrupts: int) -> None:
    attempts: list[int] = []

    async def handle(batch: Batch[str], ctx: Context) -> None:
        attempts.append(ctx.attempt)
        cancel_this_task()
        await for_ever()

    async def body() -> tuple[str, str]:
        settings: dict[str, Any] = {"max_interrupts": max_interrupts, "max_attempts": 2}
        async with Queue(handle, **settings) as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            await queue.join()
            queue.dead.clear()
            return told(receipt)

    assert chinwag_run(body) == ("dead", "cancelled")
    assert attempts == [1] * (max_interrupts + 1) + [2]


def test_cancelled_after_a_commit_is_a_failure(chinwag_run: Run) -> None:
    calls = 0

    async def handle(batch: Batch[str], ctx: Context) -> None:
        nonlocal calls
        calls += 1
        ctx.commit()
        cancel_this_task()
        await for_ever()

    async def body() -> tuple[str, str]:
        async with Queue(handle) as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            await queue.join()
            queue.dead.clear()
            return told(receipt)

    assert chinwag_run(body) == ("dead", "committed")
    assert calls == 1


def test_raising_a_cancellation_is_a_failure(any_run: AnyRun) -> None:
    """Nobody has asked for it: as when something that the handler awaits was cancelled."""
    attempts: list[int] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise asyncio.CancelledError
        if ctx.attempt == 2:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        return "answer"

    async def body() -> str:
        async with Queue(handle, backoff_s=0) as queue:
            answer: str = await queue.put_nowait("room", "ann", "a")
            return answer

    assert any_run(body) == "answer"
    assert attempts == [1, 2, 3]


def test_a_plain_functions_foreign_cancellation_waits_for_its_thread(any_run: AnyRun) -> None:
    """Two calls of a lane at once would be worse than one that ends late."""
    running = 0
    most = 0
    began = threading.Event()
    reasons: list[str | None] = []

    def handle(batch: Batch[str], ctx: Context) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            if not reasons:
                began.set()
                while not ctx.ending:
                    time.sleep(0.000_1)
                reasons.append(ctx.ending.reason)
            return "answer"
        finally:
            running -= 1

    async def body() -> str:
        async with Queue[str](handle) as queue:
            receipt = queue.put_nowait("room", "ann", "a")
            await until(began.is_set)
            for task in asyncio.all_tasks():
                if task.get_name() == "chinwag runner":
                    task.cancel()
            answer: str = await receipt
            return answer

    assert any_run(body) == "answer"
    assert (most, reasons) == (1, ["cancelled"])


@pytest.mark.parametrize("how", ["coroutine", "plain function"])
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=UVLOOP)])
def test_what_ends_the_program_stops_the_queue(loop: str, error: str, how: str) -> None:
    """The messages go back, no other call is made, and the program ends as it wants to."""
    script = f"""
        import asyncio, {loop}
        from chinwag import Dropped, Queue

        calls = []

        def plain(batch):
            calls.append(batch.payloads)
            if len(calls) == 1:
                raise {error}(3)

        async def coroutine(batch):
            plain(batch)

        queue = Queue({how.replace("plain function", "plain")}, max_attempts=1)
        loop = {loop}.new_event_loop()
        receipts = []

        async def main():
            await queue.start()
            receipts.append(queue.put_nowait("room", "ann", "a"))
            await asyncio.sleep(30)

        try:
            loop.run_until_complete(main())
        except {error} as error:
            print(type(error).__name__, error.args)
        print([receipt.state for receipt in receipts], queue.check().done, calls)

        async def afterwards():
            receipts.append(queue.put_nowait("other", "bob", "b"))
            for _ in range(10):
                await asyncio.sleep(0)
            try:
                await queue.join()
            except RuntimeError as error:
                print("join:", "{error} in a handler" in str(error))
            await queue.aclose()
            print([receipt.state for receipt in receipts], queue.check().abandoned, calls)

        loop.run_until_complete(afterwards())
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()
        """
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.stdout.splitlines() == [
        f"{error} (3,)",
        "['retrying'] 0 [['a']]",
        "join: True",
        "['abandoned', 'abandoned'] 2 [['a']]",
    ], ran.stderr
    assert ran.returncode == 0


# What one call does not see of another (rule H8).


def test_no_call_sees_what_another_has_set(any_run: AnyRun) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[tuple[str, int]] = []

    async def handle(batch: Batch[str]) -> None:
        task = asyncio.current_task()
        assert task is not None
        seen.append((variable.get(), task.cancelling()))
        variable.set(batch.payloads[-1])
        if len(seen) == 1:
            await for_ever()

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await until(lambda: seen)
            await queue.put_nowait("room", "ann", "b")
            await queue.put_nowait("room", "ann", "c")

    any_run(body)
    assert seen == [("unset", 0)] * 3


@pytest.mark.parametrize("how", ["coroutine", "task", "plain function"])
def test_no_call_waits_for_itself(any_run: AnyRun, how: str) -> None:
    refused: list[str] = []

    async def wait(what: str) -> None:
        try:
            if what == "receipt":
                await receipts[0]
            else:
                await getattr(queue, what)()
        except RuntimeError as error:
            refused.append(str(error))

    async def handle(batch: Batch[str]) -> None:
        for what in ("join", "aclose", "receipt"):
            if how == "task":
                await asyncio.create_task(wait(what))
            else:
                await wait(what)

    def plain(batch: Batch[str]) -> None:
        try:
            receipts[0].result(30)
        except RuntimeError as error:
            refused.append(str(error))

    queue = Queue[str](plain if how == "plain function" else handle, on_busy="interrupt")
    receipts: list[Receipt] = []

    async def body() -> None:
        async with queue:
            receipts.append(queue.put_nowait("room", "ann", "a"))
            await queue.join()

    any_run(body)
    assert len(refused) == (1 if how == "plain function" else 3)
    assert all("this call" in text or "very call" in text for text in refused)

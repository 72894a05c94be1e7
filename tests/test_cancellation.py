"""Cancellation at every point of every await: all or nothing, and nothing left behind.

No moment is picked by hand. A scene is played again and again: what it is about is cancelled before
the first callback that the loop runs, then before the second, and so on until it runs through. So
every await is met as it begins to wait, when what it waits for has come and the task has yet to
wake, and between whatever others do meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib
import importlib.util
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from chinwag import Batch, Context, Dropped, Queue, QueueClosed, QueueFull, Receipt, Rejected
from chinwag.testing import Clock, ManualEventLoop

# Only a test that fails waits as long.
WATCHDOG_S = 30
# A memory of ids that outlives every test: an id that left a trace is refused for good.
LONG_S = 3_600.0
CANCELLED = "cancelled"


class Moments:
    """The part of a loop that can do something before any of its callbacks."""

    before: int | None = None
    """How many callbacks run before it is done; None: it never is."""
    happens: Callable[[], object] | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.futures: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()

    def call_soon(self, callback: Callable[..., object], *args: Any, **options: Any) -> Any:
        return super().call_soon(self._run, callback, args, **options)  # type: ignore[misc]

    def _run(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.before == 0 and self.happens is not None:
            self.before = None
            self.happens()
        elif self.before is not None:
            self.before -= 1
        callback(*args)

    def create_future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = super().create_future()  # type: ignore[misc]
        self.futures.add(future)
        return future


class VirtualLoop(Moments, ManualEventLoop):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(Clock())


class AsyncioLoop(Moments, asyncio.SelectorEventLoop):  # type: ignore[misc]
    pass


@functools.cache
def loop_class(kind: str) -> type[Any]:
    if kind == "uvloop":
        return type("UvLoop", (Moments, importlib.import_module("uvloop").Loop), {})
    return {"virtual": VirtualLoop, "asyncio": AsyncioLoop}[kind]


LOOPS = [
    "virtual",
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
        ),
    ),
]


class Cut:
    """One play of a scene, in which something is cancelled at its moment."""

    def __init__(self, loop: Any, moment: int | None) -> None:
        self.made = False
        """The moment came before the end."""
        self._loop = loop
        self._moment = moment

    def begin(self, cancel: Callable[[], object]) -> None:
        """Count from now."""

        def happens() -> None:
            self.made = True
            cancel()

        self._loop.happens = happens
        self._loop.before = self._moment

    def end(self) -> None:
        """It is over: from now on nothing is cancelled."""
        self._loop.before = None
        self._loop.happens = None

    def start(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in the task that is cancelled."""
        task = asyncio.ensure_future(main)
        self.begin(task.cancel)
        return task

    async def outcome(self, task: asyncio.Task[Any]) -> object:
        """What it returned or raised."""
        await asyncio.wait([task])
        self.end()
        try:
            return task.result()
        except asyncio.CancelledError:
            pass
        except Exception as error:
            return error
        gc.collect()  # what it raised held what it waited for
        assert not [future for future in self._loop.futures if future.cancelled()]
        return CANCELLED


Scene = Callable[[Cut], Coroutine[Any, Any, Queue[str]]]
Walk = Callable[[Scene], None]


@pytest.fixture(params=LOOPS)
def walk(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Walk:
    """Play a scene, cut ever later until it runs through, and see that it leaves nothing."""

    def play(scene: Scene, moment: int | None, most: int | None) -> tuple[bool, int]:
        loop = loop_class(request.param)()
        cut = Cut(loop, moment)

        async def main() -> Queue[str]:
            async with asyncio.timeout(WATCHDOG_S):
                queue = await scene(cut)
                await others_end()
            return queue

        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            queue = runner.run(main())
            assert timers(loop) == []
            # A timer that was cancelled stays in a loop's list, and with it the context of a call.
            getattr(loop, "_timers", []).clear()
            getattr(loop, "_scheduled", []).clear()
            if most is None or len(loop.futures) > most:
                gc.collect()  # who was cancelled, or raised, may be held by a traceback
            assert most is None or len(loop.futures) <= most, "somebody is still waited for"
            kept = len(loop.futures)
        ledger = queue.check()
        assert (ledger.waiting, ledger.running, ledger.retrying) == (0, 0, 0)
        return cut.made, kept

    def walk_through(scene: Scene) -> None:
        gc.freeze()  # so that a collection looks at what the scene has made, and no further
        try:
            _, kept = play(scene, None, None)
            moment = 0
            while play(scene, moment, kept)[0]:
                moment += 1
        finally:
            gc.unfreeze()
        assert moment > 2, "that is no walk"
        assert [r.getMessage() for r in caplog.records if r.name == "asyncio"] == []

    return walk_through


async def others_end() -> None:
    """Wait until no other task is left."""
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(left)


def timers(loop: Any) -> list[asyncio.TimerHandle]:
    """What is still booked. One cannot look into uvloop; what books is the same there."""
    booked = {
        VirtualLoop: lambda: [timer[-1] for timer in loop._timers],
        AsyncioLoop: lambda: list(loop._scheduled),
    }.get(type(loop), list)()
    return [timer for timer in booked if not timer.cancelled()]


async def end(receipt: Receipt) -> object:
    """The result, or end and reason."""
    try:
        return await receipt
    except Dropped as dropped:
        return (dropped.end, dropped.reason)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Waiting for room.


@pytest.mark.parametrize("room", ["capacity_per_group", "capacity"])
@pytest.mark.parametrize("made_by", ["a start", "clear"])
def test_a_cancelled_put_was_accepted_or_left_no_trace(walk: Walk, room: str, made_by: str) -> None:
    async def scene(cut: Cut) -> Queue[str]:
        handled: list[str] = []
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def handle(batch: Batch[str]) -> str:
            entered.set()
            await go_on.wait()
            handled.extend(batch.payloads)
            return batch.payloads[0]

        settings: dict[str, Any] = {room: 1}
        queue = Queue[str](handle, max_batch=1, max_concurrent=1, dedup_s=LONG_S, **settings)
        async with queue:
            queue.put_nowait("room", "ann", "runs")
            await entered.wait()
            fills = queue.put_nowait("room", "ann", "fills")
            task = cut.start(queue.put("room", "bob", "cut", id="m1"))
            behind = asyncio.create_task(queue.put("room", "cat", "behind"))
            await turns(2)

            if made_by == "clear":
                queue.clear("room")
            go_on.set()
            put = await cut.outcome(task)

            assert await (await behind) == "behind", "the place went to the next"
            await queue.join()
            if put is CANCELLED:
                put = queue.put_nowait("room", "bob", "cut", id="m1")
                with pytest.raises(QueueFull):
                    queue.put_nowait("room", "bob", "one too many")
            assert isinstance(put, Receipt)
            assert await put == "cut"
            with pytest.raises(Rejected):
                queue.put_nowait("room", "bob", "cut", id="m1")
            expected = ["behind", "cut", "runs"]
            if await end(fills) == "fills":
                expected.insert(2, "fills")
            assert sorted(handled) == sorted(expected)
            assert queue.check().accepted == 4
        return queue

    walk(scene)


def test_a_put_cancelled_as_the_queue_closes_left_no_trace(walk: Walk) -> None:
    async def scene(cut: Cut) -> Queue[str]:
        entered = asyncio.Event()

        async def handle(batch: Batch[str]) -> None:
            entered.set()
            await turns(2)

        queue = Queue[str](handle, max_batch=1, max_concurrent=1, capacity_per_group=1)
        await queue.start()
        queue.put_nowait("room", "ann", "runs")
        await entered.wait()
        queue.put_nowait("room", "ann", "fills")
        task = cut.start(queue.put("room", "bob", "cut", id="m1"))
        await asyncio.sleep(0)
        await queue.aclose()

        put = await cut.outcome(task)

        assert put is CANCELLED or isinstance(put, QueueClosed)
        assert ("room", "m1") not in queue
        assert (queue.check().accepted, queue.check().done) == (2, 2)
        return queue

    walk(scene)


# Waiting for ends.


def test_a_cancelled_join_changes_nothing(walk: Walk) -> None:
    async def scene(cut: Cut) -> Queue[str]:
        async def handle(batch: Batch[str], ctx: Context) -> str:
            await asyncio.sleep(0)
            if ctx.attempt == 1:
                raise ValueError("at first")
            return batch.payloads[0]

        async with Queue[str](handle, max_batch=1, backoff_s=0.001) as queue:
            receipts = [queue.put_nowait("room", "ann", word) for word in ("a", "b")]
            other = asyncio.create_task(queue.join())
            joined = await cut.outcome(cut.start(queue.join()))

            assert joined in (CANCELLED, None)
            await other
            assert queue.check().done == 2
            assert [await end(receipt) for receipt in receipts] == ["a", "b"]
        return queue

    walk(scene)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("done", "a"), ("dead", ("dead", "error")), ("cleared", ("cleared", "cleared"))],
)
def test_a_cancelled_await_of_a_receipt_changes_nothing(
    walk: Walk, how: str, expected: object
) -> None:
    async def scene(cut: Cut) -> Queue[str]:
        async def handle(batch: Batch[str]) -> str:
            await turns(9)
            if how == "dead":
                raise ValueError
            return batch.payloads[0]

        async with Queue[str](handle, max_attempts=1) as queue:
            if how == "cleared":
                queue.pause("room")
            receipt = queue.put_nowait("room", "ann", "a")
            other = asyncio.create_task(end(receipt))
            task = cut.start(end(receipt))
            if how == "cleared":
                asyncio.get_running_loop().call_later(0.001, queue.clear, "room")
            outcome = await cut.outcome(task)

            assert outcome in (CANCELLED, expected)
            assert await other == await end(receipt) == expected
        return queue

    walk(scene)


def test_a_cancelled_reader_misses_no_event(walk: Walk) -> None:
    async def scene(cut: Cut) -> Queue[str]:
        async def handle(batch: Batch[str]) -> None:
            await asyncio.sleep(0)

        async def read() -> None:
            async for event in events:
                note(type(event).__name__)

        seen: list[str] = []
        note = seen.append
        async with Queue[str](handle) as queue:
            events = queue.events()
            task = cut.start(read())
            queue.put_nowait("room", "ann", "a")
            await queue.join()
        reading = await cut.outcome(task)
        assert reading in (CANCELLED, None)
        await read()
        assert seen[0] == "MessageAccepted"
        assert seen[-1] == "QueueClosed"
        assert len(seen) == len(set(seen)) == 6
        return queue

    walk(scene)


# Closing.


class Handler:
    """One that takes its time, and what it does when it is to end."""

    def __init__(self, manners: str) -> None:
        self.entered, self.let_go = asyncio.Event(), asyncio.Event()
        self._manners = manners

    async def __call__(self, batch: Batch[str], ctx: Context) -> str:
        self.entered.set()
        if self._manners == "swallows":
            while not self.let_go.is_set():
                with suppress(asyncio.CancelledError):  # against all manners
                    await self.let_go.wait()
        elif self._manners == "tidies up":
            try:
                await turns(2)
            finally:
                await turns(2)
        elif self._manners == "fails at first" and ctx.attempt == 1:
            await asyncio.sleep(0)
            raise ValueError("at first")
        await turns(2)
        return batch.payloads[0]


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("manners", ["returns", "tidies up", "fails at first", "swallows"])
def test_a_cancelled_close_accounts_for_everything(walk: Walk, manners: str, drain: bool) -> None:
    async def scene(cut: Cut) -> Queue[str]:
        handler = Handler(manners)
        grace_s = 0.002 if manners == "swallows" else WATCHDOG_S
        queue = Queue[str](
            handler, max_batch=1, max_concurrent=1, backoff_s=0.001, cancel_grace_s=grace_s
        )
        await queue.start()
        receipts = [queue.put_nowait("room", sender, sender) for sender in ("ann", "bob")]
        await handler.entered.wait()
        timeout_s = 0.002 if manners == "swallows" else None
        closed = await cut.outcome(cut.start(queue.aclose(drain=drain, timeout_s=timeout_s)))

        assert closed in (CANCELLED, None)
        try:
            queue.put_nowait("room", "cat", "late")
        except QueueClosed:
            ledger = queue.check()
            assert (ledger.waiting, ledger.running, ledger.retrying) == (0, 0, 0), "at once"
            assert ledger.ended == ledger.done + ledger.abandoned == 2
            if closed is None and drain and manners != "swallows":
                assert ledger.done == 2
        else:
            assert closed is CANCELLED, "before it began"
        await queue.aclose(drain=False)
        ledger = queue.check()
        for receipt in receipts:
            assert await end(receipt) in ("ann", "bob", ("abandoned", "closed"))
        handler.let_go.set()
        await others_end()
        assert queue.check() == ledger, "what a call still does counts for nothing"
        return queue

    walk(scene)


def test_a_cancelled_closer_takes_nothing_from_another(walk: Walk) -> None:
    async def scene(cut: Cut) -> Queue[str]:
        handler = Handler("fails at first")
        queue = Queue[str](handler, max_batch=1, max_concurrent=1, backoff_s=0.001)
        await queue.start()
        receipts = [queue.put_nowait("room", sender, sender) for sender in ("ann", "bob")]
        await handler.entered.wait()
        other = asyncio.create_task(queue.aclose())
        await asyncio.sleep(0)
        closed = await cut.outcome(cut.start(queue.aclose()))

        assert closed in (CANCELLED, None)
        await other
        assert [await end(receipt) for receipt in receipts] == ["ann", "bob"]
        return queue

    walk(scene)


@pytest.mark.parametrize("manners", ["returns", "tidies up", "fails at first", "swallows"])
def test_a_program_cancelled_anywhere_accounts_for_everything(walk: Walk, manners: str) -> None:
    """From before `start` to behind `aclose`, with whatever comes between."""

    async def scene(cut: Cut) -> Queue[str]:
        handler = Handler(manners)
        queue = Queue[str](handler, max_batch=1, backoff_s=0.001, cancel_grace_s=0.002)
        receipts: list[Receipt] = []
        patience_s = 0.01 if manners == "swallows" else WATCHDOG_S

        async def program() -> None:
            async with queue:
                receipts.append(await queue.put("room", "ann", "ann"))
                receipts.append(await queue.put("room", "bob", "bob"))
                await asyncio.wait_for(queue.join(), patience_s)
                receipts.append(await queue.put("room", "ann", "cat"))

        outcome = await cut.outcome(cut.start(program()))

        if manners == "swallows":
            assert outcome is CANCELLED or isinstance(outcome, TimeoutError)
        else:
            assert outcome in (CANCELLED, None)
        if queue.check().accepted:  # it has been started, and has thus been closed
            with pytest.raises(QueueClosed):
                queue.put_nowait("room", "ann", "late")
        allowed = ("ann", "bob", "cat", ("abandoned", "closed"))
        assert all([await end(receipt) in allowed for receipt in receipts])
        assert queue.check().accepted == queue.check().ended == len(receipts)
        handler.let_go.set()
        return queue

    walk(scene)


# The call itself.


def cancel_calls() -> None:
    """What somebody does who cancels whatever tasks of the queue he finds, but not the driver."""
    for task in asyncio.all_tasks():
        if task.get_name() == "chinwag runner":
            task.cancel()


async def sleeps() -> None:
    await turns(3)


async def tidies_up() -> None:
    try:
        await turns(2)
    finally:
        await turns(2)


async def has_a_time_limit() -> None:
    async with asyncio.timeout(LONG_S):
        await asyncio.wait_for(turns(2), LONG_S)


async def has_tasks() -> None:
    async with asyncio.TaskGroup() as tasks:
        for count in range(3):
            tasks.create_task(turns(count))
        await asyncio.shield(asyncio.ensure_future(turns(1)))


@pytest.mark.parametrize("body", [sleeps, tidies_up, has_a_time_limit, has_tasks])
@pytest.mark.parametrize("takes_context", [False, True])
def test_a_cancelled_call_is_done_over_and_harms_no_other(
    walk: Walk, body: Callable[[], Coroutine[Any, Any, None]], takes_context: bool
) -> None:
    """Before it begins, inside, between two calls, and when the runner waits for the next."""

    async def scene(cut: Cut) -> Queue[str]:
        returned: list[str] = []

        async def handle(batch: Batch[str]) -> str:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await body()
            returned.extend(batch.payloads)
            return batch.payloads[0]

        async def handle_with(batch: Batch[str], ctx: Context) -> str:
            assert not ctx.ending
            return await handle(batch)

        queue = Queue[str](handle_with if takes_context else handle, max_batch=1, backoff_s=0)
        async with queue:
            cut.begin(cancel_calls)
            receipts = [queue.put_nowait("room", "ann", word) for word in "ab"]
            ends = [await end(receipt) for receipt in receipts]
            await turns(2)
            ends.append(await end(queue.put_nowait("room", "ann", "c")))
            cut.end()

            assert ends == returned == ["a", "b", "c"]
        return queue

    walk(scene)


def test_a_call_cancelled_in_line_leaves_no_trace_elsewhere(walk: Walk) -> None:
    """A handler that waits for room in another group, or for what becomes of a message there."""

    async def scene(cut: Cut) -> Queue[str]:
        handled: list[str] = []

        async def handle(batch: Batch[str]) -> None:
            await turns(2)
            if batch.group == "room":
                try:
                    await (await queue.put("other", "bot", "from room", id="m1"))
                except Rejected:
                    assert ("other", "m1") in queue or "from room" in handled
            handled.extend(batch.payloads)

        queue = Queue[str](
            handle,
            max_batch=1,
            max_concurrent_per_group=1,
            backoff_s=0,
            capacity_per_group=1,
            dedup_s=LONG_S,
        )
        async with queue:
            await queue.put("other", "ann", "runs")
            await queue.put("other", "ann", "fills")
            cut.begin(cancel_calls)
            queue.put_nowait("room", "bob", "asks")
            await queue.join()
            cut.end()
            assert sorted(handled) == ["asks", "fills", "from room", "runs"]
        return queue

    walk(scene)

"""Real threads push into a live queue: nothing is lost, nobody is overtaken, wake-ups are few."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest

from chinwag import Batch, Queue, QueueClosed

Payload = tuple[str, int]
Main = Callable[[], Any]

PRODUCERS = ("ann", "bob", "cyd", "dan")
GROUPS = tuple(f"room {number}" for number in range(7))
# A message more than this late is a lost wake-up, and the test ends.
WATCHDOG_S = 60


@pytest.fixture(
    params=[
        "asyncio",
        pytest.param(
            "uvloop",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
            ),
        ),
    ]
)
def run(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """Run a coroutine function on a real loop of the kind the test is for."""

    def run_on(main: Main) -> Any:
        factory = asyncio.new_event_loop
        if request.param == "uvloop":
            factory = importlib.import_module("uvloop").new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(main(), WATCHDOG_S))

    return run_on


class Counting(Queue[Payload]):
    """A queue that counts how often its loop was woken, and how often it had nothing to do."""

    wakes = 0
    rests = 0

    def _attach(self, wake: Callable[[], bool]) -> None:
        def counted() -> bool:
            self.wakes += 1
            return wake()

        super()._attach(counted)

    def _next(self) -> Batch[Payload] | None:
        batch = super()._next()
        self.rests += batch is None
        return batch

    def _done(
        self, batch: Batch[Payload], result: object
    ) -> Batch[Payload] | Literal[False] | None:
        after = super()._done(batch, result)
        self.rests += after is None
        return after


class Order:
    """A handler that notes per sender and group which message has to come next."""

    def __init__(self, *, suspends: bool = False) -> None:
        self.handled = 0
        self.next: dict[tuple[str, str], int] = {}
        self.faults: list[str] = []
        self._suspends = suspends

    async def __call__(self, batch: Batch[Payload]) -> None:
        """Handle a batch."""
        group = batch.group
        for sender, number in batch.payloads:
            due = self.next.get((sender, group), GROUPS.index(group))
            if number != due:
                self.faults.append(f"{sender} in {group}: {number} instead of {due}")
            self.next[sender, group] = number + len(GROUPS)
            self.handled += 1
        if self._suspends:
            await asyncio.sleep(0)


def push(queue: Queue[Payload], sender: str, count: int) -> None:
    for number in range(count):
        queue.put_nowait(GROUPS[number % len(GROUPS)], sender, (sender, number))


async def finish(threads: list[threading.Thread]) -> None:
    for thread in threads:
        await asyncio.to_thread(thread.join)


def start_pushing(queue: Queue[Payload], each: int) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=push, args=(queue, sender, each), daemon=True)
        for sender in PRODUCERS
    ]
    for thread in threads:
        thread.start()
    return threads


def test_a_million_messages_lose_nothing(run: Callable[[Main], Any]) -> None:
    each, order = 250_000, Order()
    queue = Counting(order)

    async def main() -> None:
        async with queue:
            await finish(start_pushing(queue, each))
            await queue.join()

    run(main)

    assert order.faults == []
    assert order.handled == each * len(PRODUCERS)
    assert queue.check().done == order.handled
    # It starts at rest, and each rest is followed by one wake-up at most.
    assert queue.wakes <= queue.rests + 1


def test_handlers_that_suspend_keep_the_order(run: Callable[[Main], Any]) -> None:
    each, order = 50_000, Order(suspends=True)
    queue = Counting(order, max_batch=50)

    async def main() -> None:
        async with queue:
            await finish(start_pushing(queue, each))
            await queue.join()

    run(main)

    assert order.faults == []
    assert order.handled == each * len(PRODUCERS)
    assert queue.check().done == order.handled
    assert queue.wakes <= queue.rests + 1


def test_controls_from_threads_lose_nothing(run: Callable[[Main], Any]) -> None:
    """Everybody calls everything at once: the books balance at every look."""
    each, order = 50_000, Order()
    queue = Queue[Payload](order, max_concurrent=3)
    over = threading.Event()
    failed: list[BaseException] = []

    def control() -> None:
        group = GROUPS[0]
        try:
            while not over.is_set():
                queue.pause(group)
                queue.flush(GROUPS[1])
                queue.check()
                queue.resume(group)
                queue.status(group)
                queue.pause()
                assert (group, "never given") not in queue
                queue.resume()
                queue.stats()
                queue.groups()
        except BaseException as error:
            failed.append(error)

    async def main() -> None:
        async with queue:
            controls = [threading.Thread(target=control, daemon=True) for _ in range(2)]
            for thread in controls:
                thread.start()
            await finish(start_pushing(queue, each))
            over.set()
            await finish(controls)
            await queue.join()

    run(main)

    assert failed == []
    assert order.faults == []
    assert order.handled == each * len(PRODUCERS)
    assert queue.check().done == order.handled


def test_clearing_from_a_thread_accounts_for_all(run: Callable[[Main], Any]) -> None:
    each, cleared = 20_000, 0
    handled = 0

    async def handle(batch: Batch[Payload]) -> None:
        nonlocal handled
        handled += len(batch)
        await asyncio.sleep(0)

    queue = Queue[Payload](handle)
    over = threading.Event()

    def clear() -> None:
        nonlocal cleared
        while not over.is_set():
            cleared += queue.clear()

    async def main() -> None:
        async with queue:
            clearing = threading.Thread(target=clear, daemon=True)
            clearing.start()
            await finish(start_pushing(queue, each))
            over.set()
            await finish([clearing])
            await queue.join()

    run(main)

    ledger = queue.check()
    assert ledger.accepted == each * len(PRODUCERS)
    assert (ledger.done, ledger.cleared) == (handled, cleared)
    assert handled + cleared == ledger.accepted


def test_pushes_that_race_with_closing_are_accounted_for(run: Callable[[Main], Any]) -> None:
    accepted = dict.fromkeys(PRODUCERS, 0)

    enough = asyncio.Event()

    async def handle(batch: Batch[Payload]) -> None:
        await asyncio.sleep(0)
        if sum(accepted.values()) > 1_000:
            enough.set()

    queue = Queue[Payload](handle)

    def push_until_refused(sender: str) -> None:
        try:
            while True:
                queue.put_nowait(GROUPS[accepted[sender] % 7], sender, (sender, 0))
                accepted[sender] += 1
        except QueueClosed:
            pass

    async def main() -> None:
        await queue.start()
        threads = [
            threading.Thread(target=push_until_refused, args=(sender,), daemon=True)
            for sender in PRODUCERS
        ]
        for thread in threads:
            thread.start()
        await enough.wait()
        await queue.aclose()
        await finish(threads)

    run(main)

    ledger = queue.check()
    assert ledger.accepted == sum(accepted.values())
    assert ledger.done == ledger.accepted


def test_receipts_resolve_in_the_loop_of_who_awaits(run: Callable[[Main], Any]) -> None:
    async def double(batch: Batch[int]) -> int:
        return batch.primary.payload * 2

    queue = Queue[int](double, max_batch=1)
    results: list[int] = []

    def elsewhere() -> None:
        async def ask() -> None:
            results.extend([await queue.put_nowait("room", "ann", n) for n in range(1_000)])

        asyncio.run(ask())

    async def main() -> None:
        async with queue:
            thread = threading.Thread(target=elsewhere, daemon=True)
            thread.start()
            await finish([thread])

    run(main)

    assert results == [number * 2 for number in range(1_000)]

"""A storm: 200 groups and 50 producers, in threads and tasks, call everything at once.

It blows for 30 s of real time, or for as long as the environment variable CHINWAG_STORM_S says.
Every producer keeps books of what it was answered; in the end they have to agree with the queue's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.util
import itertools
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chinwag import Band, Batch, ConfigError, Context, Queue, QueueFull, Receipt
from chinwag.events import Event, EventsMissed, MessageAccepted, MessageEnded

SECONDS = float(os.environ.get("CHINWAG_STORM_S", "30"))
WATCHDOG_S = 60

GROUPS = [f"room {number}" for number in range(200)]
THREADS, TASKS = 10, 40
SETTINGS: dict[str, Any] = {
    "max_concurrent": 50,
    "max_bypass": 8,
    "capacity": 3_000,
    "capacity_per_group": 30,
    "back_to_back_s": 0.05,
    "burst_s": 0.1,
    "max_wait_s": 0.2,
    "typing_expires_s": 0.1,
    "context_limit": 5,
    "context_ttl_s": 0.3,
    "size_window_s": 0.1,
    "idle_group_s": 0.1,
    "bands": [Band(2, "priority"), Band(6, "load_balanced", max_batch=7), Band(9, "adaptive")],
}
LEFT_OVER = 16 * 2**20
"""What the allocators of Python and Rust may keep of the memory of a storm."""

Payload = tuple[str, str, int]
"""Whether it has a place in its lane, who wrote it, and its number in that lane."""


class Misbehaved(Exception):  # noqa: N818
    """What the handler raises now and then."""


class Witness:
    """The handler and the subscriber: it sees to order, caps, and that each ends once."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.handled = 0
        """Messages in calls that returned."""
        self.tried = 0
        """Accepted messages of calls of `put` that might have been cancelled."""
        self.open: set[int] = set()
        """Numbers of the messages that are accepted and have not ended."""
        self.ends = Counter[str]()
        self._random = random.Random(7)
        self._last: dict[tuple[str, str], int] = {}
        self._busy: set[tuple[str, str]] = set()
        self._running = Counter[str]()
        self._beside = 0

    async def handle(self, batch: Batch[Payload], ctx: Context) -> None:
        """Handle a batch."""
        if ctx.attempt == 1:
            self._see_order(batch)
        with self._beside_others() if batch[0].payload[0] == "bypass" else self._in_lane(batch):
            luck = self._random.random()
            try:
                await asyncio.sleep(0 if luck < 0.5 else 0.004 * luck)
            except BaseException as error:
                self.faults.append(f"cancelled: {error!r}")
                raise
            if luck < 0.02:
                raise Misbehaved
            self.handled += len(batch) + len(batch.context)

    def told(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case MessageAccepted():
                if event.seq in self.open:
                    self.faults.append(f"accepted twice: {event}")
                self.open.add(event.seq)
                self.tried += event.id.startswith("try")
            case MessageEnded():
                if event.seq not in self.open:
                    self.faults.append(f"ended twice, or never accepted: {event}")
                self.open.discard(event.seq)
                self.ends[event.end] += 1
            case EventsMissed():
                self.faults.append(f"missed {event.count} events")

    def _see_order(self, batch: Batch[Payload]) -> None:
        for place, sender, number in batch.payloads:
            if place == "lane":
                if number <= self._last.get((batch.group, sender), -1):
                    self.faults.append(f"{sender} in {batch.group}: {number} out of order")
                self._last[batch.group, sender] = number

    @contextlib.contextmanager
    def _beside_others(self) -> Any:
        self._beside += 1
        if self._beside > SETTINGS["max_bypass"]:
            self.faults.append(f"{self._beside} calls beside the others")
        try:
            yield
        finally:
            self._beside -= 1

    @contextlib.contextmanager
    def _in_lane(self, batch: Batch[Payload]) -> Any:
        group = batch.group
        senders = {(group, sender) for _, sender, _ in batch.payloads}
        if senders & self._busy:
            self.faults.append(f"two calls at once of {senders & self._busy}")
        self._busy |= senders
        self._running[group] += 1
        if self._running[group] > 2:
            self.faults.append(f"{self._running[group]} calls at once in {group}")
        if self._running.total() > SETTINGS["max_concurrent"]:
            self.faults.append(f"{self._running.total()} calls at once in all")
        try:
            yield
        finally:
            self._running[group] -= 1
            self._busy -= senders


class Producer:
    """Somebody who pushes and steers at random, and keeps books of the answers."""

    def __init__(self, queue: Queue[Payload], name: str) -> None:
        self.queue = queue
        self.name = name
        self.books = Counter[str]()
        self.random = random.Random(name)
        self.rooms = self.random.sample(GROUPS, 40)
        self.numbers = Counter[str]()
        self.receipts: list[Receipt] = []
        self.payloads: list[Payload] = []
        """What the receipts are for."""
        self.verbs: list[Callable[[str], object]] = [self.push, self.push_many, *self._controls()]
        self.weights = [70, 8, *(1 for _ in self.verbs[2:])]

    def act(self) -> None:
        """Do something that waits for nothing."""
        (verb,) = self.random.choices(self.verbs, self.weights)
        verb(self.room())

    async def act_and_wait(self) -> None:
        """Do something that may wait."""
        luck, room = self.random.random(), self.room()
        if luck < 0.15:
            await self.put(room)
        elif luck < 0.2:
            await self.put_impatiently(room)
        elif luck < 0.23 and self.receipts:
            with contextlib.suppress(TimeoutError, Exception):
                await asyncio.wait_for(self.receipts[-1], 0.01)
        else:
            self.act()

    def room(self) -> str:
        """Some rooms see much traffic, others so little that they are forgotten in between."""
        return self.rooms[int(len(self.rooms) * self.random.random() ** 3)]

    def next(self, room: str, place: str = "lane") -> Payload:
        self.numbers[room] += 1
        return place, self.name, self.numbers[room]

    def push(self, room: str) -> None:
        """Push a message, mostly an ordinary one."""
        place, options = "lane", self._options()
        if options.keys() & {"bypass", "context", "delay_s"}:
            place = "bypass" if "bypass" in options else "aside"
        payload = self.next(room, place)
        try:
            receipt = self.queue.put_nowait(room, self.name, payload, **options)
        except QueueFull:
            self.books["refused"] += 1
        else:
            self.note(receipt, payload)

    def push_many(self, room: str) -> None:
        rows = self.random.randint(1, 20)
        rooms = self.random.choices([room, self.room()], k=rows)
        payloads = [self.next(one) for one in rooms]
        verdicts = self.queue.put_many(
            rooms, [self.name] * rows, payloads, rank=[self.random.random() for _ in rooms]
        )
        self.books["accepted"] += int(verdicts.accepted.sum())

    async def put(self, room: str) -> None:
        payload = self.next(room)
        self.note(await self.queue.put(room, self.name, payload), payload)

    async def put_impatiently(self, room: str) -> None:
        """Whether it was accepted is for the events to say."""
        with contextlib.suppress(TimeoutError):
            payload = self.next(room)
            put = self.queue.put(room, self.name, payload, id=f"try {payload}")
            await asyncio.wait_for(put, self.random.random() * 0.01)

    def note(self, receipt: Receipt, payload: Payload) -> None:
        self.books["accepted"] += 1
        self.receipts.append(receipt)
        self.payloads.append(payload)
        if len(self.receipts) > 100:
            del self.receipts[:50], self.payloads[:50]

    def _options(self) -> dict[str, Any]:
        chance = self.random.random
        seldom: list[dict[str, Any]] = [
            {"bypass": True},
            {"context": True},
            {"context": True},
            {"delay_s": 0.1 * chance()},
            {"delay_s": 0.01, "ttl_s": 0.01},
            {"ttl_s": 0.05 * chance()},
            {"quiet_s": 0.05 * chance()},
            {"standalone": True, "rank": 3 * chance()},
            {"flush": True, "real_time": True},
            {"batch_key": self.random.choice("abc"), "size": 0.5 + chance()},
            {"at": time.time() - chance()},
        ]
        return self.random.choice(seldom) if chance() < 0.4 else {}

    def _controls(self) -> list[Callable[[str], object]]:
        queue, name, chance = self.queue, self.name, self.random.random

        def withdraw(room: str) -> None:
            if self.receipts:
                receipt = self.random.choice(self.receipts[-10:])
                done = queue.withdraw(receipt.group or room, receipt.id) == "done"
                self.books["withdrawn"] += done

        def edit(room: str) -> None:
            if self.receipts:
                receipt = self.receipts[-1]
                queue.edit(receipt.group or room, receipt.id, self.payloads[-1])

        def clear(room: str) -> None:
            if chance() < 0.1:
                self.books["cleared"] += queue.clear(room)

        def configure(room: str) -> None:
            with contextlib.suppress(ConfigError):  # lanes in use
                queue.configure(room, lanes=self.random.choice(["sender", "sender", "group"]))
            queue.configure(
                room,
                quiet_s=self.random.choice([0, 0, 0.01, 0.05]),
                max_batch=self.random.choice([None, 1, 3, 10]),
                keep=self.random.choice(["all", "all", "all", "latest"]),
                overflow=self.random.choice(["refuse", "drop_newest", "drop_oldest"]),
                capacity_per_group=self.random.choice([3, 30, None]),
                rate_per_group=self.random.choice([None, None, (200, 5)]),
                weight=1 + chance(),
            )

        def pause_all(room: str) -> None:
            if chance() < 0.02:
                queue.pause(for_s=0.02)

        def look(room: str) -> None:
            queue.status(room)
            queue.explain(room)
            assert (room, "nothing") not in queue
            queue.check()

        return [
            withdraw,
            withdraw,
            clear,
            configure,
            pause_all,
            look,
            lambda room: queue.typing(room, name, chance() < 0.5),
            lambda room: queue.pause(room, for_s=0.05 * chance()),
            lambda room: queue.pause(room) and queue.resume(room),
            lambda room: queue.resume(room),
            lambda room: queue.resume(),
            lambda room: queue.flush(room, name if chance() < 0.5 else None),
            lambda room: queue.set_members(room, 5),
            lambda room: queue.set_sender(room, name, chance()),
        ]


async def storm(queue: Queue[Payload], producers: list[Producer], seconds: float) -> None:
    over = time.monotonic() + seconds
    failed: list[BaseException] = []

    def in_thread(producer: Producer) -> None:
        try:
            while time.monotonic() < over:
                producer.act()
                time.sleep(0.002 * producer.random.random())
        except BaseException as error:
            failed.append(error)

    def in_thread_with_loop(producer: Producer) -> None:
        try:
            asyncio.run(in_task(producer))
        except BaseException as error:
            failed.append(error)

    async def in_task(producer: Producer) -> None:
        while time.monotonic() < over:
            await producer.act_and_wait()
            await asyncio.sleep(0.004 * producer.random.random())

    async def audit() -> None:
        while time.monotonic() < over:
            queue._audit()
            queue.stats()
            await asyncio.sleep(0.1)

    threads = [
        threading.Thread(target=work, args=(producer,), daemon=True)
        for work, producer in zip(
            itertools.cycle((in_thread, in_thread_with_loop)), producers[:THREADS], strict=False
        )
    ]
    for thread in threads:
        thread.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(audit())
        for producer in producers[THREADS:]:
            group.create_task(in_task(producer))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failed == []


async def calm(queue: Queue[Payload]) -> None:
    """Wait until everything has ended and is forgotten."""
    for room in GROUPS:
        queue.resume(room)
    queue.resume()
    await queue.join()
    while queue.groups():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("asyncio", SECONDS),
        pytest.param(
            "uvloop",
            SECONDS / 10,
            marks=pytest.mark.skipif(
                importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
            ),
        ),
    ],
)
def test_a_storm_leaves_nothing_behind(
    kind: str, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "chinwag")  # dead messages that nobody asks for
    rage(kind, seconds)
    gc.collect()  # the last of them are logged now


def rage(kind: str, seconds: float) -> None:
    """Let a storm rage over a queue, and look what it has left."""
    factory = asyncio.new_event_loop
    if kind == "uvloop":
        factory = importlib.import_module("uvloop").new_event_loop
    witness = Witness()
    queue = Queue(witness.handle, **SETTINGS)
    producers = [Producer(queue, f"producer {number}") for number in range(THREADS + TASKS)]
    sizes: list[int] = []
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        queue.subscribe(witness.told)
        async with asyncio.timeout(seconds + WATCHDOG_S), queue:
            # The first breeze fills the pools of the allocators.
            for share in (0.1, 0.9):
                await storm(queue, producers, seconds * share)
                await calm(queue)
                sizes.append(resident())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())

    ledger = queue.check()
    books = sum((producer.books for producer in producers), Counter[str]())
    assert witness.faults[:10] == []
    assert complaints == []
    assert ledger.accepted == books["accepted"] + witness.tried
    assert (ledger.withdrawn, ledger.cleared) == (books["withdrawn"], books["cleared"])
    assert ledger.done == witness.handled
    assert {end: count for end, count in ledger.ends.items() if count} == witness.ends
    assert witness.open == set()
    assert min(ledger.done, ledger.dead, ledger.expired, ledger.evicted, ledger.superseded) > 0
    assert (ledger.accepted, ledger.abandoned) == (ledger.ended, 0)
    for producer in producers:
        assert {receipt.state for receipt in producer.receipts} <= ledger.ends.keys()
    assert queue._audit() == queue._ledger()
    assert sizes[1] - sizes[0] < LEFT_OVER

"""A storm over running calls: follow-ups under every policy, handlers as bad as they can be.

10,000 groups, of which 36 are busy: one for each policy with each way of lanes and of what becomes
of the interrupted. It blows for 5 s of real time, or for as long as the environment variable
CHINWAG_STORM_S says. Afterwards nothing may be left, and every message has ended once.
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
from typing import Any, NamedTuple

import pytest

from chinwag import Batch, ConfigError, Context, Dropped, LeaseLost, Queue, Receipt, Rejected
from chinwag._core import Message
from chinwag.events import Event, EventsMissed, MessageAccepted, MessageEnded
from chinwag.stream import Restarted

SECONDS = float(os.environ.get("CHINWAG_STORM_S", "5"))
WATCHDOG_S = 60

POLICIES = ("enqueue", "inject", "interrupt", "rollback", "reject")
CROWD = [f"room {number}" for number in range(10_000)]
BUSY = {
    f"{policy} {interrupted} {lanes}": {
        "on_busy": policy,
        "interrupted": interrupted,
        "lanes": lanes,
        "preempt_margin": 1 if interrupted == "merge" else None,
    }
    for policy, interrupted, lanes in itertools.product(
        POLICIES, ("merge", "resume", "abandon"), ("sender", "group", "message")
    )
    if lanes != "message"
    or not (policy == "inject" or (policy in ("interrupt", "rollback") and interrupted == "merge"))
}
FOLLOW_UPS = 1_000
THREADS, TASKS = 4, 8
SETTINGS: dict[str, Any] = {
    "max_concurrent": 128,
    "handler_timeout_s": 0.05,
    "cancel_grace_s": 0.02,
    "max_interrupts": 3,
    "max_attempts": 3,
    "backoff_s": 0.001,
    "backoff_cap_s": 0.01,
    "split_failed": True,
    "dead_limit": 100,
    "saved_ttl_s": 0.1,
    "emit_limit": 20,
    "inject_limit": 5,
    "back_to_back_s": 0.05,
    "burst_s": 0.1,
    "max_wait_s": 0.1,
    "typing_expires_s": 0.05,
    "context_limit": 5,
    "context_ttl_s": 0.3,
    "size_window_s": 0.1,
    "idle_group_s": 0.1,
    "close_timeout_s": WATCHDOG_S,
}


class Payload(NamedTuple):
    """What is pushed; the place in its lane is kept by those that are `in_order`."""

    sender: str
    number: int
    in_order: bool


class Misbehaved(Exception):  # noqa: N818
    """What the handler raises now and then."""


class Quit(BaseException):
    """What no handler should raise."""


class Call:
    """What the witness knows of one call."""

    def __init__(self, number: int, batch: Batch[Payload], ctx: Context) -> None:
        self.number = number
        self.batch = batch
        self.ctx = ctx
        self.emitted = 0
        self.committed = False
        self.returned = False

    def holds(self) -> bool:
        """Whether it has the right to its batch."""
        return not self.ctx._over and self.ctx._core._holds(self.batch)


class Witness:
    """The handler and the subscriber: it misbehaves by a seed, and sees to what must hold."""

    def __init__(self, seed: int) -> None:
        self.faults: list[str] = []
        self.open: set[int] = set()
        """Numbers of the messages that are accepted and have not ended."""
        self.ends = Counter[str]()
        self.pushed = 0
        """Messages that calls have pushed."""
        self.calls: list[Call] = []
        self.deeds = Counter[str]()
        self.latest: dict[int, Call] = {}
        """The call that a message was in last."""
        self._random = random.Random(seed)
        self._started: dict[tuple[str, str], int] = {}
        self._running: dict[tuple[str, ...], Call] = {}
        self.queue: Queue[Payload]

    async def handle(self, batch: Batch[Payload], ctx: Context) -> int:
        """Handle a batch, more or less."""
        call = Call(len(self.calls), batch, ctx)
        self.calls.append(call)
        if not call.holds():  # the loop was held up for so long that it was fenced before it began
            self.deeds["begins too late"] += 1
            return call.number
        self._see(call, batch.messages)
        lane = self._lane(batch)
        if lane is not None:
            before = self._running.get(lane)
            if before is not None and before.holds():
                self.faults.append(f"two calls at once of {lane}")
            self._running[lane] = call
        try:
            await self._misbehave(call)
            call.returned = True
        finally:
            if lane is not None and self._running.get(lane) is call:
                del self._running[lane]
        return call.number

    def told(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case MessageAccepted():
                if event.seq in self.open:
                    self.faults.append(f"accepted twice: {event}")
                self.open.add(event.seq)
            case MessageEnded():
                if event.seq not in self.open:
                    self.faults.append(f"ended twice, or never accepted: {event}")
                self.open.discard(event.seq)
                self.ends[event.end] += 1
            case EventsMissed():
                self.faults.append(f"missed {event.count} events")

    def _see(self, call: Call, messages: tuple[Message[Payload], ...]) -> None:
        for message in messages:
            before = self.latest.get(message._seq)
            if before is None:
                self._see_order(message)
            elif before.committed:
                self.faults.append(f"{message!r} again after a commit")
            elif before.holds() and before is not call:
                self.faults.append(f"{message!r} in two calls at once")
            self.latest[message._seq] = call

    def _see_order(self, message: Message[Payload]) -> None:
        sender, number, in_order = message.payload
        if not in_order or message.group.endswith(" message"):
            return
        if number <= self._started.get((message.group, sender), -1):
            self.faults.append(f"{sender} in {message.group}: {number} out of order")
        self._started[message.group, sender] = number

    def _lane(self, batch: Batch[Payload]) -> tuple[str, ...] | None:
        if batch.group.endswith(" message") or batch.closed_by == "bypass":
            return None
        background = "background" if batch[0].background else "said"
        if batch.group.endswith(" group"):
            return batch.group, background
        return batch.group, batch.sender, background

    async def _misbehave(self, call: Call) -> None:
        chance, ctx = self._random.random, call.ctx
        if chance() < 0.6:
            for _ in range(self._random.randint(0, 3)):
                self._speak(call)
        luck = chance()
        if luck < 0.5:
            await asyncio.sleep(0)
        elif luck < 0.9:
            await asyncio.sleep(0.004 * chance())
        if chance() < 0.3:
            self._speak(call)
        name, deed = self._random.choices(self._deeds(), _ODDS)[0]
        self.deeds[name] += 1
        comes_again = name in ("fails a message", "snoozes")
        if comes_again and call.committed:
            return
        await deed(call)
        if chance() < 0.1 and not comes_again and not ctx.ending and call.holds():
            self.commit(call)

    def _speak(self, call: Call) -> None:
        """Say something in the context of the call."""
        ctx, chance = call.ctx, self._random.random
        luck = chance()
        if luck < 0.4:
            with contextlib.suppress(BufferError):
                ctx.emit((call.number, call.emitted))
                call.emitted += 1
        elif luck < 0.6:
            ctx.save(call.number)
            if ctx.saved != call.number:
                self.faults.append("saved, and not found")
        elif luck < 0.75:
            size = len(ctx.inbox)
            taken = ctx.inbox.take(self._random.choice([None, 1]))
            self._see(call, taken)
            if len(taken) > max(size, 5):
                self.faults.append(f"took {len(taken)} of {size}")
        elif luck < 0.85:
            _ = bool(ctx.superseded), ctx.previous, ctx.ending.reason
        elif luck < 0.9:
            self.commit(call)

    def commit(self, call: Call) -> None:
        """Commit; from then on nobody else may have the messages."""
        call.ctx.commit()
        call.committed = True

    def _deeds(self) -> list[tuple[str, Callable[[Call], Any]]]:
        async def returns(call: Call) -> None:
            pass

        async def raises(call: Call) -> None:
            raise Misbehaved

        async def quits(call: Call) -> None:
            raise Quit

        async def hangs(call: Call) -> None:
            await asyncio.Event().wait()

        async def swallows(call: Call) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        async def is_late(call: Call) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.sleep(0.05)
            if not call.holds():
                with contextlib.suppress(LeaseLost):
                    call.ctx.save("too late")
                    self.faults.append("a call that is over has saved")

        async def cancels_itself(call: Call) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if self._random.random() < 0.7:
                await asyncio.sleep(0)

        async def raises_cancelled(call: Call) -> None:
            raise asyncio.CancelledError

        async def is_shielded(call: Call) -> None:
            async with call.ctx.shield():
                await asyncio.sleep(0.003)
                if self._random.random() < 0.5:
                    self.commit(call)

        async def pushes(call: Call) -> None:
            sender = call.batch.sender if self._random.random() < 0.5 else "echo"
            if call.batch[0].payload.sender != "echo":
                payload = Payload("echo", 0, False)
                with contextlib.suppress(Rejected):
                    self.queue.put_nowait(call.batch.group, sender, payload)
                    self.pushed += 1
                await asyncio.sleep(0)

        async def waits_for_itself(call: Call) -> None:
            for forbidden in (self.queue.join, self.queue.aclose):
                with contextlib.suppress(RuntimeError):
                    await forbidden()
                    self.faults.append("a call has waited for itself")

        async def fails_a_message(call: Call) -> None:
            call.ctx.fail(self._random.choice(call.batch.messages))

        async def snoozes(call: Call) -> None:
            call.ctx.snooze(0.005 * self._random.random())

        return [
            ("returns", returns),
            ("raises", raises),
            ("quits", quits),
            ("hangs", hangs),
            ("swallows", swallows),
            ("is late", is_late),
            ("cancels itself", cancels_itself),
            ("raises cancelled", raises_cancelled),
            ("is shielded", is_shielded),
            ("pushes", pushes),
            ("waits for itself", waits_for_itself),
            ("fails a message", fails_a_message),
            ("snoozes", snoozes),
        ]


_ODDS = [80, 3, 1, 1, 1, 1, 2, 1, 4, 3, 1, 2, 2]


class Producer:
    """Somebody who pushes and steers at random, and keeps books of the answers."""

    def __init__(self, queue: Queue[Payload], name: str, seed: int) -> None:
        self.queue = queue
        self.name = name
        self.accepted = 0
        self.random = random.Random(f"{name} {seed}")
        self.numbers = Counter[str]()
        self.receipts: list[tuple[Receipt, Payload]] = []
        self.controls = self._controls()

    def act(self) -> None:
        """Push something, or steer."""
        luck = self.random.random()
        if luck < 0.75:
            self.push(self.room())
        elif luck < 0.8:
            room = self.room()
            for _ in range(self.random.randint(2, 20)):
                self.push(room)
        else:
            self.random.choice(self.controls)(self.room())

    def room(self) -> str:
        return self.random.choice(_BUSY_ROOMS if self.random.random() < 0.8 else CROWD)

    def push(self, room: str, **more: Any) -> None:
        options = {**self._options(room), **more}
        payload = self.next(room, options)
        try:
            receipt = self.queue.put_nowait(room, self.name, payload, **options)
        except Rejected:
            return
        self.accepted += 1
        self.receipts.append((receipt, payload))
        if len(self.receipts) > 200:
            del self.receipts[:100]

    def next(self, room: str, options: dict[str, Any]) -> Payload:
        self.numbers[room] += 1
        in_order = not options.keys() & {"bypass", "context", "delay_s", "background"}
        return Payload(self.name, self.numbers[room], in_order)

    def _options(self, room: str) -> dict[str, Any]:
        chance = self.random.random
        if chance() < 0.6:
            return {}
        own: dict[str, Any] = {"on_busy": self.random.choice(["enqueue", "reject"])}
        if room not in BUSY:
            own = {"on_busy": self.random.choice(["enqueue", "inject", "interrupt", "reject"])}
        return self.random.choice(
            [
                own,
                own,
                {"background": True},
                {"background": True},
                {"bypass": True},
                {"context": True},
                {"rank": 4 * chance()},
                {"rank": 4 * chance()},
                {"quiet_s": 0.01 * chance()},
                {"standalone": True},
                {"delay_s": 0.02 * chance()},
                {"ttl_s": 0.02 * chance()},
                {"batch_key": self.random.choice("ab")},
                {"flush": True},
            ]
        )

    def _controls(self) -> list[Callable[[str], object]]:
        queue, chance = self.queue, self.random.random

        def withdraw(room: str) -> None:
            if self.receipts:
                receipt, _ = self.random.choice(self.receipts[-10:])
                queue.withdraw(receipt.group or room, receipt.id)

        def restart(room: str) -> None:
            if self.receipts:
                receipt, payload = self.random.choice(self.receipts[-10:])
                queue.edit(receipt.group or room, receipt.id, payload, restart=chance() < 0.8)

        def configure(room: str) -> None:
            with contextlib.suppress(ConfigError):  # what can never be served
                queue.configure(
                    room,
                    quiet_s=self.random.choice([0, 0, 0.005]),
                    max_batch=self.random.choice([None, 1, 3, 10]),
                    max_interrupts=self.random.choice([0, 1, 3]),
                    preempt_margin=self.random.choice([None, 1]),
                    interrupt_within_s=self.random.choice([None, 0.01]),
                    interrupted=self.random.choice(["merge", "resume", "abandon"]),
                    hold_background=chance() < 0.1,
                )

        def look(room: str) -> None:
            queue.explain(room)
            queue.status(room)
            queue.check()

        def pause_all(room: str) -> None:
            if chance() < 0.05:
                queue.pause(for_s=0.01)

        def stop(room: str) -> None:
            queue.stop(room, self.name if chance() < 0.7 else None)

        return [
            withdraw,
            restart,
            restart,
            restart,
            configure,
            look,
            pause_all,
            stop,
            lambda room: chance() < 0.3 and queue.clear(room),
            lambda room: queue.typing(room, self.name, chance() < 0.5),
            lambda room: queue.pause(room, for_s=0.02 * chance()),
            lambda room: queue.resume(room),
            lambda room: queue.flush(room),
        ]


_BUSY_ROOMS = list(BUSY)


async def read(receipt: Receipt, witness: Witness) -> None:
    """Read a stream, and see that its items are of one call until it says that another begins."""
    call, last = -1, -1
    try:
        async for item in receipt.stream():
            if isinstance(item, Restarted):
                if call < 0:
                    witness.faults.append("restarted, and nothing had been seen")
                call = last = -1
                continue
            if call >= 0 and item[0] != call:
                witness.faults.append(f"call {item[0]} goes on in the stream of {call}")
            if item[1] <= last:
                witness.faults.append(f"item {item[1]} of a call after {last}")
            call, last = item
    except Dropped:
        pass


async def follow_up(queue: Queue[Payload], policy: str, witness: Witness) -> int:
    """Push 1,000 follow-ups one by one into a lane, and see that all of them end."""
    room, accepted = f"{policy} merge sender", []
    for number in range(FOLLOW_UPS):
        with contextlib.suppress(Rejected):
            payload = Payload("flood", number, True)
            accepted.append(queue.put_nowait(room, "flood", payload))
        await asyncio.sleep(0)
    reading = [asyncio.create_task(read(receipt, witness)) for receipt in accepted[::50]]
    for receipt in accepted:
        with contextlib.suppress(Dropped):
            await receipt
    await asyncio.gather(*reading)
    return len(accepted)


async def blow(
    queue: Queue[Payload], producers: list[Producer], witness: Witness, seconds: float
) -> int:
    """Let it blow; how many messages the follow-ups and the wave were."""
    over = time.monotonic() + seconds
    failed: list[BaseException] = []

    def in_thread(producer: Producer) -> None:
        try:
            while time.monotonic() < over:
                producer.act()
                time.sleep(0.003 * producer.random.random())
        except BaseException as error:
            failed.append(error)

    async def in_task(producer: Producer) -> None:
        while time.monotonic() < over:
            producer.act()
            if producer.receipts and producer.random.random() < 0.2:
                receipt, _ = producer.receipts[-1]
                with contextlib.suppress(TimeoutError):  # it may be held back for good
                    await asyncio.wait_for(read(receipt, witness), 0.05)
            await asyncio.sleep(0.003 * producer.random.random())

    async def audit() -> None:
        while time.monotonic() < over:
            queue._audit()
            queue.stats()
            await asyncio.sleep(0.25)

    threads = [threading.Thread(target=in_thread, args=(one,)) for one in producers[:THREADS]]
    for thread in threads:
        thread.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(audit())
        for producer in producers[THREADS:]:
            group.create_task(in_task(producer))
        floods = [group.create_task(follow_up(queue, policy, witness)) for policy in POLICIES]
        wave = 0
        for start in range(0, len(CROWD), 500):
            rooms = CROWD[start : start + 500]
            payloads = [Payload("wave", 0, False) for _ in rooms]
            verdicts = queue.put_many(rooms, ["wave"] * len(rooms), payloads)
            wave += int(verdicts.accepted.sum())
            await asyncio.sleep(0.8 * seconds / 20)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert failed == []
    return wave + sum(flood.result() for flood in floods)


async def calm(queue: Queue[Payload]) -> None:
    """Wait until everything has ended."""
    for room in BUSY:
        queue.configure(room, hold_background=False)
    for room in queue.groups():
        queue.configure(room, hold_background=False)
        queue.resume(room)
    queue.resume()
    await queue.join()


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("asyncio", SECONDS),
        pytest.param(
            "uvloop",
            SECONDS / 2,
            marks=pytest.mark.skipif(
                importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
            ),
        ),
    ],
)
def test_a_storm_over_calls_leaves_nothing_behind(
    kind: str, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "chinwag")  # fenced calls, and dead messages
    rage(kind, seconds, seed=7)
    gc.collect()  # the last of them are logged now


def rage(kind: str, seconds: float, seed: int) -> None:
    """Let a storm rage over a queue, and look what it has left."""
    factory = asyncio.new_event_loop
    if kind == "uvloop":
        factory = importlib.import_module("uvloop").new_event_loop
    witness = Witness(seed)
    queue = witness.queue = Queue(witness.handle, **SETTINGS)
    for room, settings in BUSY.items():
        queue.configure(room, **settings)
    names = [f"producer {number}" for number in range(THREADS + TASKS)]
    producers = [Producer(queue, name, seed) for name in names]
    complaints: list[dict[str, Any]] = []
    accepted = 0

    async def main() -> None:
        nonlocal accepted
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        queue.subscribe(witness.told)
        async with asyncio.timeout(seconds + WATCHDOG_S), queue:
            accepted = await blow(queue, producers, witness, seconds)
            await calm(queue)
            queue._audit()
            assert queue.stats().running == 0
        async with asyncio.timeout(5):  # for those that were fenced
            while asyncio.all_tasks() != {asyncio.current_task()}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        if kind == "asyncio":
            timers: list[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]
            assert [timer for timer in timers if not timer.cancelled()] == []

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())

    ledger, stats = queue.check(), queue.stats()
    assert witness.faults[:10] == []
    assert complaints == []
    accepted += witness.pushed + sum(producer.accepted for producer in producers)
    assert ledger.accepted == accepted == ledger.ended
    assert witness.open == set()
    assert {end: count for end, count in ledger.ends.items() if count} == witness.ends
    assert queue._audit() == queue._ledger()
    assert (stats.running, stats.running_messages, stats.waiting) == (0, 0, 0)
    assert min(stats.interruptions, stats.preemptions, stats.put_back) > 0
    assert min(stats.injected, stats.fenced, stats.refused["busy"]) > 0
    for producer in producers:
        for receipt, _ in producer.receipts:
            see_result(receipt, witness)
    assert witness.faults == []


def see_result(receipt: Receipt, witness: Witness) -> None:
    """A message is done by the last call that it was in, and that one has returned."""
    with contextlib.suppress(Dropped):
        call = witness.calls[receipt._outcome()]
        seqs = [message._seq for message in (*call.batch, *call.ctx._taken)]
        listened = [message._seq for message in call.batch.context]
        mine = [seq for seq in (*seqs, *listened) if receipt.id in (f"#{seq}",)]
        if len(mine) != 1 or not call.returned:
            witness.faults.append(f"{receipt!r} has the result of call {call.number}")
        elif mine[0] in seqs and witness.latest[mine[0]] is not call:
            witness.faults.append(f"{receipt!r} was in a later call than {call.number}")

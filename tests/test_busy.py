"""Section B: what a new message does to the running call of its lane.

A call of these tests takes 10 s if it is the first and 1 s otherwise, and the message under test
comes 1 s after the first one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from chinwag import Batch, ConfigError, Context, Dropped, Queue, QueueFull, Rejected
from chinwag.context import Previous
from chinwag.testing.plugin import Run

Start = tuple[float, list[str]]

POLICIES = ("enqueue", "inject", "interrupt", "rollback", "reject")


class Calls:
    """A handler that takes its time, and takes notes."""

    def __init__(self, first_s: float = 10, then_s: float = 1) -> None:
        self.first_s = first_s
        self.then_s = then_s
        self.starts: list[Start] = []
        self.contexts: list[Context] = []
        self.offered: list[list[str]] = []
        """What the inbox of each call showed at its end."""
        self.endings: list[str | None] = []
        self.on_first: Callable[[Context], object] = id
        """What the first call does before anything else."""
        self.cleanup_s = 0.0
        """How long a call that is cancelled goes on."""

    async def __call__(self, batch: Batch[str], ctx: Context) -> str:
        loop = asyncio.get_running_loop()
        self.starts.append((loop.time(), batch.payloads))
        self.contexts.append(ctx)
        first = len(self.starts) == 1
        if first:
            self.on_first(ctx)
        try:
            await asyncio.sleep(self.first_s if first else self.then_s)
            self.offered.append([message.payload for message in ctx.inbox])
        except asyncio.CancelledError:
            if self.cleanup_s:
                await asyncio.sleep(self.cleanup_s)
            raise
        finally:
            self.endings.append(ctx.ending.reason)
        return " ".join(batch.payloads)


async def settle() -> None:
    """Let happen what is due at this instant."""
    await asyncio.sleep(0.000_001)


# The table.


STATES = ("no call", "running", "committed", "ending", "backing off")
"""Of the lane, when the second message comes."""

WAITS: dict[str, list[Start]] = {
    "no call": [(1, ["b"])],
    "running": [(0, ["a"]), (10, ["b"])],
    "committed": [(0, ["a"]), (10, ["b"])],
    "ending": [(0, ["a"]), (2, ["A", "b"])],
    "backing off": [(0, ["a"]), (2, ["a"]), (3, ["b"])],
}
"""What starts if it waits for its turn."""

ALONE: dict[str, list[Start]] = {
    "running": [(0, ["a"])],
    "committed": [(0, ["a"])],
    "ending": [(0, ["a"]), (2, ["A"])],
    "backing off": [(0, ["a"]), (2, ["a"])],
}
"""What starts if it was not accepted."""

INTERRUPTS: list[Start] = [(0, ["a"]), (1, ["a", "b"])]


def expected(policy: str, state: str) -> tuple[list[Start], str]:
    """Say what starts, and what becomes of the second message when it is pushed."""
    if policy == "reject" and state != "no call":
        return ALONE[state], "busy"
    if policy in ("interrupt", "rollback") and state == "running":
        return INTERRUPTS, "accepted"
    if policy == "inject" and state in ("running", "committed"):
        return WAITS[state], "offered"
    return WAITS[state], "accepted"


@pytest.mark.parametrize("given", ["queue", "group", "message"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_table_of_policies_holds(chinwag_run: Run, policy: str, state: str, given: str) -> None:
    starts: list[Start] = []
    offered: list[str] = []
    verdict = "accepted"
    # A message's own rollback needs a group that buffers what its calls put out.
    of_queue = policy if given == "queue" or (given, policy) == ("message", "rollback") else None

    async def handle(batch: Batch[str], ctx: Context) -> None:
        loop = asyncio.get_running_loop()
        starts.append((loop.time(), batch.payloads))
        if len(starts) > 1:
            await asyncio.sleep(1)
            return
        if state == "committed":
            ctx.commit()
        if state == "backing off":
            await asyncio.sleep(0.5)
            raise OSError("down")
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            if state == "ending":
                await asyncio.sleep(2 - loop.time())
            raise
        finally:
            offered.extend(message.payload for message in ctx.inbox)
        await asyncio.sleep(5)

    async def body() -> None:
        nonlocal verdict
        settings: Any = {} if of_queue is None else {"on_busy": of_queue}
        queue = Queue[str](handle, jitter="none", backoff_s=1.5, **settings)
        if given == "group":
            queue.configure("room", on_busy=policy)
        async with queue:
            if state != "no call":
                queue.put_nowait("room", "ann", "a", id="1", on_busy="enqueue")
            if state == "ending":
                await asyncio.sleep(0.5)
                assert queue.edit("room", "1", "A", restart=True) == "done"
                await asyncio.sleep(0.5)
            else:
                await asyncio.sleep(1)
            own: Any = {"on_busy": policy} if given == "message" else {}
            try:
                queue.put_nowait("room", "ann", "b", **own)
            except Rejected as error:
                verdict = error.reason
            await queue.join()
            queue.check()

    chinwag_run(body)
    starts_of_it, becomes = expected(policy, state)
    assert starts == starts_of_it
    assert verdict == ("busy" if becomes == "busy" else "accepted")
    assert offered == (["b"] if becomes == "offered" else [])


# Every policy with whatever it can be combined with.

COMBINATIONS = list(
    itertools.product(
        POLICIES, ("merge", "resume", "abandon"), ("sender", "group", "message"), (0, 0.25)
    )
)


def contradicts(policy: str, interrupted: str, lanes: str) -> bool:
    """Whether a policy could never do what it says."""
    return lanes == "message" and (
        policy == "inject" or (policy in ("interrupt", "rollback") and interrupted == "merge")
    )


@pytest.mark.parametrize(("policy", "interrupted", "lanes", "quiet_s"), COMBINATIONS)
def test_every_combination_is_served_or_refused(
    chinwag_run: Run, policy: str, interrupted: str, lanes: str, quiet_s: float
) -> None:
    calls = Calls()
    settings: dict[str, Any] = {
        "on_busy": policy,
        "interrupted": interrupted,
        "lanes": lanes,
        "quiet_s": quiet_s,
        "max_concurrent_per_group": 1,
    }
    if contradicts(policy, interrupted, lanes):
        with pytest.raises(ConfigError, match=rf"on_busy='{policy}' with lanes='message'"):
            Queue(calls, **settings)
        with pytest.raises(ConfigError, match=rf"on_busy='{policy}' with lanes='message'"):
            Queue[str](calls).configure("room", **settings)
        return
    ends: list[str] = []

    async def body() -> None:
        async with Queue(calls, **settings) as queue:
            receipts = [queue.put_nowait("room", "ann", "a")]
            await asyncio.sleep(1)
            other = "ann" if lanes == "sender" else "bob"
            with contextlib.suppress(Rejected):
                receipts.append(queue.put_nowait("room", other, "b"))
            await queue.join()
            queue.check()
            ends.extend(receipt.state for receipt in receipts)

    chinwag_run(body)
    wait = 0 if lanes == "message" else quiet_s
    started, done = (wait, ["a"]), ["done", "done"]
    if policy == "reject":
        assert (calls.starts, ends) == ([started], ["done"])
    elif policy in ("enqueue", "inject"):
        assert (calls.starts, ends) == ([started, (wait + 10, ["b"])], done)
    elif interrupted == "merge":
        assert (calls.starts, ends) == ([started, (1 + wait, ["a", "b"])], done)
    elif interrupted == "resume":
        then = [(1 + wait, ["b"]), (2 + wait, ["a"])]
        assert (calls.starts, ends) == ([started, *then], done)
        assert calls.contexts[2].resumed
    else:
        assert (calls.starts, ends) == ([started, (1 + wait, ["b"])], ["abandoned", "done"])


@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
def test_only_rollback_forgets_what_a_call_left(chinwag_run: Run, policy: str) -> None:
    calls = Calls()

    def leave(ctx: Context) -> None:
        ctx.save("half")
        ctx.emit("token")

    calls.on_first = leave

    async def body() -> Previous | None:
        async with Queue(calls, on_busy=policy) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await settle()
            return calls.contexts[1].previous

    found = chinwag_run(body)
    left = Previous(status="interrupted", saved="half", emitted=("token",))
    assert found == (left if policy == "interrupt" else None)


def test_a_messages_own_policy_goes_before(chinwag_run: Run) -> None:
    """It says what that message does to others, not what others do to it."""
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy="rollback") as queue:
            queue.put_nowait("room", "ann", "a", on_busy="enqueue")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b", on_busy="enqueue")
            await asyncio.sleep(1)
            assert calls.starts == [(0, ["a"])]
            with pytest.raises(Rejected, match="busy"):
                queue.put_nowait("room", "ann", "c", on_busy="reject")
            queue.put_nowait("room", "ann", "d", on_busy="interrupt")
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (2, ["a", "b", "d"])]


def test_buffering_is_the_groups_when_a_call_starts(chinwag_run: Run) -> None:
    calls = Calls()
    calls.on_first = lambda ctx: ctx.emit("token")

    async def body() -> Previous | None:
        async with Queue(calls, on_busy="rollback") as queue:
            queue.put_nowait("room", "ann", "a", on_busy="enqueue")
            await asyncio.sleep(1)
            queue.configure("room", on_busy="interrupt")
            queue.put_nowait("room", "ann", "b")
            await settle()
            return calls.contexts[1].previous

    assert chinwag_run(body) is None


@pytest.mark.parametrize(
    "state", ["waiting", "window open", "group full", "paused"], ids=lambda name: name
)
def test_only_a_call_makes_a_lane_busy(chinwag_run: Run, state: str) -> None:
    calls = Calls(then_s=10)

    async def body() -> None:
        quiet_s = 5 if state == "window open" else 0
        queue = Queue(calls, on_busy="reject", max_concurrent_per_group=1, quiet_s=quiet_s)
        async with queue:
            if state == "group full":
                queue.put_nowait("room", "bob", "x")
                await settle()
            if state == "paused":
                queue.pause("room")
            queue.put_nowait("room", "ann", "a")
            queue.put_nowait("room", "ann", "b")
            queue.resume("room")
            await queue.join()

    chinwag_run(body)
    assert calls.starts[-1][1] == ["a", "b"]


@pytest.mark.parametrize("given", ["queue", "message"])
def test_one_message_a_call_makes_a_waiting_one_busy(chinwag_run: Run, given: str) -> None:
    calls = Calls()
    own: Any = {"on_busy": "reject"} if given == "message" else {}
    of_queue = "reject" if given == "queue" else "enqueue"

    async def body() -> None:
        async with Queue(calls, max_batch=1, on_busy=of_queue) as queue:
            queue.put_nowait("room", "ann", "a")
            with pytest.raises(Rejected, match="busy") as caught:
                queue.put_nowait("room", "ann", "b", **own)
            assert (caught.value.reason, caught.value.depth) == ("busy", 1)
            queue.put_nowait("room", "bob", "c", delay_s=5, **own)
            with pytest.raises(Rejected, match="busy"):
                queue.put_nowait("room", "bob", "d", **own)

    chinwag_run(body)
    assert [payloads for _, payloads in calls.starts] == [["a"], ["c"]]


def test_a_snooze_is_busy_too(chinwag_run: Run) -> None:
    calls = Calls(first_s=1)
    calls.on_first = lambda ctx: ctx.snooze(5)

    async def body() -> None:
        async with Queue(calls, on_busy="reject") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(3)
            with pytest.raises(Rejected, match="busy"):
                queue.put_nowait("room", "ann", "b")
            await queue.join()
            queue.put_nowait("room", "ann", "c")

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (6, ["a"]), (7, ["c"])]


def test_put_many_answers_busy_for_a_row(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            verdicts = queue.put_many(
                ["room"] * 4,
                ["ann", "bob", "ann", "ann"],
                ["b", "c", "d", "e"],
                on_busy=["reject", "reject", None, "interrupt"],
            )
            assert list(verdicts) == ["busy", "accepted", "accepted", "accepted"]
            assert verdicts.count("busy") == 1
            await queue.join()
            assert queue.check().accepted == 4

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (1, ["c"]), (1, ["a", "d", "e"])]


def test_put_does_not_wait_for_a_busy_lane(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy="reject") as queue:
            await queue.put("room", "ann", "a", id="1")
            await asyncio.sleep(1)
            for _ in range(2):  # what is refused leaves no trace
                with pytest.raises(Rejected, match="busy"):
                    await queue.put("room", "ann", "b", id="2")
            await queue.join()
            await queue.put("room", "ann", "b", id="2")

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (10, ["b"])]


def test_busy_is_looked_at_before_room(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        settings: Any = {"on_busy": "reject", "capacity_per_group": 1}
        async with Queue(calls, max_concurrent_per_group=1, **settings) as queue:
            queue.put_nowait("room", "ann", "a", id="1")
            await settle()
            queue.put_nowait("room", "bob", "b")
            with pytest.raises(Rejected, match="its id"):
                queue.put_nowait("room", "ann", "again", id="1")
            with pytest.raises(Rejected, match="busy"):
                queue.put_nowait("room", "ann", "c")
            with pytest.raises(QueueFull):
                queue.put_nowait("room", "eve", "d")

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (10, ["b"])]


def test_who_waits_for_room_is_refused_by_a_lane_that_is_busy_by_then(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy="reject", capacity=1) as queue:
            queue.put_nowait("room", "ann", "a")
            waiting = asyncio.create_task(queue.put("room", "ann", "b"))
            last = asyncio.create_task(queue.put("other", "bob", "c"))
            with pytest.raises(Rejected, match="busy"):
                await waiting
            await last  # its place goes to the next

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (0, ["c"])]


def test_a_call_is_busy_for_what_it_pushes_itself(chinwag_run: Run) -> None:
    verdicts: list[str] = []

    async def handle(batch: Batch[str]) -> None:
        for sender in ("ann", "bob") if batch.payloads == ["a"] else ():
            try:
                queue.put_nowait("room", sender, "more", on_busy="reject")
                verdicts.append("accepted")
            except Rejected as error:
                verdicts.append(error.reason)

    queue = Queue(handle)

    async def body() -> None:
        async with queue:
            await queue.put_nowait("room", "ann", "a")

    chinwag_run(body)
    assert verdicts == ["busy", "accepted"]


# What may interrupt, and when (rules B2 and B3).


async def follow_up(
    calls: Calls,
    settings: dict[str, Any],
    options: dict[str, Any],
    *,
    after_s: float = 1.0,
    first: dict[str, Any] | None = None,
) -> bool:
    """Push a message, and later another one; whether that interrupts."""
    async with Queue(calls, **{"on_busy": "interrupt", **settings}) as queue:
        queue.put_nowait("room", "ann", "a", **(first or {}))
        await asyncio.sleep(after_s)
        queue.put_nowait("room", "ann", "b", **options)
        await queue.join()
        queue.check()
        return "interrupted" in calls.endings


CONDITIONS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], bool]] = [
    # What, the settings, the options of the first message and of the second; whether it interrupts.
    ("nothing stands against it", {}, {}, {}, True),
    ("it is context", {}, {}, {"context": True}, False),
    ("it bypasses the others", {}, {}, {"bypass": True}, False),
    ("it is background", {}, {}, {"background": True}, False),
    ("so is the call", {}, {"background": True}, {"background": True}, False),
    ("running and new fit", {"max_batch": 2}, {}, {}, True),
    ("running and new do not fit", {"max_batch": 2}, {"size": 1.5}, {}, False),
    ("they need not", {"max_batch": 1, "interrupted": "resume"}, {}, {}, True),
    ("nor here", {"max_batch": 1, "interrupted": "abandon"}, {}, {}, True),
    ("of one key", {}, {"batch_key": "k"}, {"batch_key": "k"}, True),
    ("of another key", {}, {"batch_key": "k"}, {"batch_key": "l"}, False),
    ("of another key, no matter", {"interrupted": "resume"}, {}, {"batch_key": "l"}, True),
    ("the running one stands alone", {}, {"standalone": True}, {}, False),
    ("the new one stands alone", {}, {}, {"standalone": True}, False),
    ("alone, no matter", {"interrupted": "abandon"}, {}, {"standalone": True}, True),
    ("the gap is not too long", {"max_gap_s": 1}, {}, {}, True),
    ("the gap is too long", {"max_gap_s": 0.5}, {}, {}, False),
    ("the gap does not matter", {"max_gap_s": 0.5, "interrupted": "resume"}, {}, {}, True),
    ("soon enough", {"interrupt_within_s": 1}, {}, {}, True),
    ("too late", {"interrupt_within_s": 0.999_999}, {}, {}, False),
    ("too late by its delay", {"interrupt_within_s": 1}, {}, {"delay_s": 0.5}, False),
    ("arrived soon enough", {"interrupt_within_s": 2}, {}, {"delay_s": 0.5}, True),
    ("protected", {"max_interrupts": 0}, {}, {}, False),
]


@pytest.mark.parametrize(
    ("settings", "first", "options", "interrupts"),
    [case[1:] for case in CONDITIONS],
    ids=[case[0] for case in CONDITIONS],
)
def test_each_condition_of_an_interruption_counts(
    chinwag_run: Run,
    settings: dict[str, Any],
    first: dict[str, Any],
    options: dict[str, Any],
    interrupts: bool,
) -> None:
    calls = Calls()

    async def body() -> bool:
        return await follow_up(calls, settings, options, first=first)

    assert chinwag_run(body) == interrupts


@pytest.mark.parametrize(("interrupted", "max_batch"), [("merge", 2), ("resume", 1)])
def test_what_came_before_a_call_does_not_interrupt_it(
    chinwag_run: Run, interrupted: str, max_batch: int
) -> None:
    calls = Calls()

    async def body() -> None:
        settings: Any = {"interrupted": interrupted, "max_batch": max_batch}
        async with Queue(calls, on_busy="interrupt", **settings) as queue:
            for text in "abc"[: max_batch + 1]:
                queue.put_nowait("room", "ann", text)
            await queue.join()

    chinwag_run(body)
    assert [at for at, _ in calls.starts] == [0, 10]


@pytest.mark.parametrize("how", ["fails", "commits", "snoozes"])
def test_only_an_uncommitted_first_attempt_is_interrupted(chinwag_run: Run, how: str) -> None:
    calls = Calls(first_s=0 if how in ("fails", "snoozes") else 10, then_s=10)

    def begin(ctx: Context) -> None:
        if how == "fails":
            raise OSError("down")
        if how == "commits":
            ctx.commit()
        else:
            ctx.snooze(1)

    calls.on_first = begin

    async def body() -> bool:
        return await follow_up(calls, {"jitter": "none"}, {}, after_s=2)

    # A snooze is no attempt.
    assert chinwag_run(body) == (how == "snoozes")


@pytest.mark.parametrize("settings", [{}, {"interrupted": "resume"}, {"interrupted": "abandon"}])
@pytest.mark.parametrize("how", ["itself", "task", "thread", "plain function"])
def test_a_call_is_not_interrupted_by_what_it_pushes(
    chinwag_run: Run, how: str, settings: dict[str, Any]
) -> None:
    batches: list[list[str]] = []
    reasons: list[str | None] = []

    def push() -> None:
        queue.put_nowait("room", "ann", "more")

    async def push_later() -> None:
        push()

    def plain(batch: Batch[str], ctx: Context) -> None:
        batches.append(batch.payloads)
        if len(batches) == 1:
            push()
        reasons.append(ctx.ending.reason)

    async def handle(batch: Batch[str], ctx: Context) -> None:
        batches.append(batch.payloads)
        if len(batches) == 1:
            if how == "itself":
                push()
            elif how == "task":
                await asyncio.create_task(push_later())
            else:
                await asyncio.to_thread(push)
        await asyncio.sleep(1)
        reasons.append(ctx.ending.reason)

    handler: Any = plain if how == "plain function" else handle
    queue = Queue[str](handler, on_busy="interrupt", **settings)

    async def body() -> None:
        async with queue:
            await queue.put_nowait("room", "ann", "a")
            await queue.join()

    chinwag_run(body)
    assert (batches, reasons) == ([["a"], ["more"]], [None, None])


def test_a_call_is_interrupted_by_what_another_call_pushes(chinwag_run: Run) -> None:
    batches: list[list[str]] = []

    async def handle(batch: Batch[str]) -> None:
        batches.append(batch.payloads)
        if batch.sender == "bob":
            queue.put_nowait("room", "ann", "b")
        await asyncio.sleep(10)

    queue = Queue(handle, on_busy="interrupt")

    async def body() -> None:
        async with queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "bob", "x")
            await queue.join()

    chinwag_run(body)
    assert batches == [["a"], ["x"], ["a", "b"]]


def test_a_call_is_interrupted_by_what_an_earlier_one_left_behind(chinwag_run: Run) -> None:
    """A task that outlives its call is nobody's call any more."""
    batches: list[list[str]] = []
    left: list[asyncio.Task[None]] = []

    async def push_later() -> None:
        await asyncio.sleep(5)
        queue.put_nowait("room", "ann", "c")

    async def handle(batch: Batch[str]) -> None:
        batches.append(batch.payloads)
        if batch.payloads == ["a"]:
            left.append(asyncio.create_task(push_later()))
        else:
            await asyncio.sleep(10)

    queue = Queue(handle, on_busy="interrupt")

    async def body() -> None:
        async with queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    assert batches == [["a"], ["b"], ["b", "c"]]


def test_what_waits_must_fit_too(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy="interrupt", max_batch=3) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            for text in "bc":
                queue.put_nowait("room", "ann", text, on_busy="enqueue")
            queue.put_nowait("room", "ann", "d")
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (10, ["b", "c", "d"])]


def test_the_newest_of_the_running_batch_counts(chinwag_run: Run) -> None:
    """It is a follow-up of that one, however old the first one is."""
    calls = Calls()

    async def body() -> None:
        settings: Any = {"interrupt_within_s": 2, "quiet_s": 3}
        async with Queue(calls, on_busy="interrupt", **settings) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(2)
            queue.put_nowait("room", "ann", "b", quiet_s=1)
            await asyncio.sleep(2)
            queue.put_nowait("room", "ann", "c", quiet_s=0)
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(3, ["a", "b"]), (4, ["a", "b", "c"])]


def test_the_pause_comes_before_the_interruption(chinwag_run: Run) -> None:
    """So a burst interrupts once."""
    calls = Calls()

    async def body() -> None:
        settings: Any = {"quiet_s": 0.5, "quiet_when_idle": False}
        async with Queue(calls, on_busy="interrupt", **settings) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            for text in "bcd":
                queue.put_nowait("room", "ann", text)
                await asyncio.sleep(0.25)
            await queue.join()
            assert queue.check().done == 4

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (2, ["a", "b", "c", "d"])]


def test_a_busy_lane_may_interrupt_without_a_pause(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        settings: Any = {"quiet_s": 5, "quiet_when_idle": False, "quiet_when_busy": False}
        await follow_up(calls, settings, {})

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (1, ["a", "b"])]


@pytest.mark.parametrize("at_s", [1.5, 2.0])
def test_a_call_that_ends_first_is_not_interrupted(chinwag_run: Run, at_s: float) -> None:
    """Ends of calls come before timers of the same instant."""
    calls = Calls(first_s=at_s)

    async def body() -> None:
        settings: Any = {"quiet_s": 1, "quiet_when_idle": False}
        await follow_up(calls, settings, {})

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (2, ["b"])]


def test_a_commit_before_the_pause_ends_is_in_time(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        settings: Any = {"quiet_s": 1, "quiet_when_idle": False}
        async with Queue(calls, on_busy="interrupt", **settings) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await asyncio.sleep(0.5)
            calls.contexts[0].commit()
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (10, ["b"])]


@pytest.mark.parametrize("what", ["shield", "pause of the group", "pause of the queue"])
def test_what_is_held_back_happens_afterwards(chinwag_run: Run, what: str) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(0.5)
            group = "room" if what == "pause of the group" else None
            with contextlib.ExitStack() as stack:
                if what == "shield":
                    stack.enter_context(calls.contexts[0].shield())
                else:
                    queue.pause(group)
                    stack.callback(queue.resume, group)
                await asyncio.sleep(0.5)
                queue.put_nowait("room", "ann", "b")
                await asyncio.sleep(1)
                assert not calls.contexts[0].ending
                assert calls.contexts[0].superseded
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (2, ["a", "b"])]


@pytest.mark.parametrize("how", ["clear", "withdraw", "expire"])
@pytest.mark.parametrize("why", ["pause", "shield"])
def test_what_is_gone_interrupts_nothing(chinwag_run: Run, how: str, why: str) -> None:
    calls = Calls()

    async def body() -> None:
        settings: Any = {"quiet_s": 1 if why == "pause" else 0, "quiet_when_idle": False}
        async with Queue(calls, on_busy="interrupt", **settings) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(0.5)
            shield = calls.contexts[0].shield() if why == "shield" else contextlib.nullcontext()
            with shield:
                ttl_s = 0.25 if how == "expire" else None
                queue.put_nowait("room", "ann", "b", id="2", ttl_s=ttl_s)
                await asyncio.sleep(0.5)
                if how == "clear":
                    assert queue.clear("room") == 1
                elif how == "withdraw":
                    assert queue.withdraw("room", "2") == "done"
            await queue.join()

    chinwag_run(body)
    assert (calls.starts, calls.endings) == ([(0, ["a"])], [None])


def test_what_is_left_of_a_window_interrupts(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        settings: Any = {"quiet_s": 1, "quiet_when_idle": False}
        async with Queue(calls, on_busy="interrupt", **settings) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            queue.put_nowait("room", "ann", "c", id="c")
            queue.withdraw("room", "c")
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (2, ["a", "b"])]


@pytest.mark.parametrize("level", ["rate_per_group", "rate"])
def test_no_call_is_ended_for_want_of_a_token(chinwag_run: Run, level: str) -> None:
    calls = Calls()

    async def body() -> None:
        await follow_up(calls, {level: 0.25}, {})

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (4, ["a", "b"])]
    assert calls.endings[0] == "interrupted"


# What becomes of the interrupted messages (rule B4).


def test_what_no_longer_fits_is_due_in_the_next_batch(chinwag_run: Run) -> None:
    calls = Calls()
    calls.cleanup_s = 2

    async def body() -> None:
        async with Queue(calls, on_busy="interrupt", max_batch=3) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await asyncio.sleep(1)
            for text in "cd":
                queue.put_nowait("room", "ann", text, quiet_s=9)
            await queue.join()
            assert queue.check().done == 4

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (3, ["a", "b", "c"]), (4, ["d"])]


def test_an_interruption_is_no_attempt(chinwag_run: Run) -> None:
    calls = Calls(then_s=0)

    async def body() -> list[tuple[int, bool]]:
        async with Queue(calls, on_busy="interrupt", max_attempts=1) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await queue.join()
        return [(ctx.attempt, ctx.resumed) for ctx in calls.contexts]

    assert chinwag_run(body) == [(1, False), (1, False)]


def test_a_receipt_follows_its_message_into_the_next_call(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> list[str]:
        async with Queue(calls, on_busy="interrupt") as queue:
            first = queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            second = queue.put_nowait("room", "ann", "b")
            await settle()
            assert [first.state, second.state] == ["running", "running"]
            return [await first, await second]

    assert chinwag_run(body) == ["a b", "a b"]


def test_resumed_work_is_as_it_was(chinwag_run: Run) -> None:
    calls = Calls()
    calls.on_first = lambda ctx: ctx.save("half")

    async def body() -> None:
        async with Queue(calls, on_busy="interrupt", interrupted="resume") as queue:
            queue.put_nowait("room", "ann", "a")
            queue.put_nowait("room", "ann", "b")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "c")
            await asyncio.sleep(0.5)
            queue.put_nowait("room", "ann", "d", on_busy="enqueue")
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a", "b"]), (1, ["c"]), (2, ["a", "b"]), (3, ["d"])]
    assert [ctx.resumed for ctx in calls.contexts] == [False, False, True, False]
    assert [ctx.attempt for ctx in calls.contexts] == [1, 1, 1, 1]
    assert [ctx.saved for ctx in calls.contexts] == ["half", None, "half", None]


def test_abandoned_messages_say_why(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy="interrupt", interrupted="abandon") as queue:
            first = queue.put_nowait("room", "ann", "a", id="1")
            await asyncio.sleep(1)
            assert await queue.put_nowait("room", "ann", "b") == "b"
            with pytest.raises(Dropped) as caught:
                await first
            assert (caught.value.end, caught.value.reason) == ("abandoned", "interrupted")
            queue.put_nowait("room", "ann", "a again", id="1")

    chinwag_run(body)
    assert [payloads for _, payloads in calls.starts] == [["a"], ["b"], ["a again"]]


def test_the_slot_stays_with_the_lane(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy="interrupt", max_concurrent_per_group=1) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(0.5)
            queue.put_nowait("room", "bob", "x", rank=100)
            await asyncio.sleep(0.5)
            queue.put_nowait("room", "ann", "b")
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (1, ["a", "b"]), (2, ["x"])]


def test_interrupted_work_does_not_expire(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy="interrupt", ttl_s=2) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(3)
            queue.put_nowait("room", "ann", "b")
            await queue.join()
            assert queue.check().done == 2

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (3, ["a", "b"])]


@pytest.mark.parametrize(("policy", "verdict"), [("interrupt", "too_late"), ("rollback", "done")])
def test_only_what_was_rolled_back_can_be_taken_back(
    chinwag_run: Run, policy: str, verdict: str
) -> None:
    """It counts as never started."""
    calls = Calls()
    calls.cleanup_s = 2

    async def body() -> None:
        async with Queue(calls, on_busy=policy) as queue:
            queue.put_nowait("room", "ann", "a", id="1")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b")
            await asyncio.sleep(1)  # its end is decided, and it takes its time
            queue.pause("room")
            await asyncio.sleep(2)
            assert calls.endings == ["interrupted"]
            assert queue.edit("room", "1", "A") == verdict
            assert queue.withdraw("room", "1") == verdict
            queue.resume("room")
            await queue.join()

    chinwag_run(body)
    assert calls.starts[1] == (4, ["a", "b"] if verdict == "too_late" else ["b"])


def test_clear_takes_what_an_interruption_would_bring_back(chinwag_run: Run) -> None:
    calls = Calls()
    calls.cleanup_s = 2

    async def body() -> None:
        async with Queue(calls, on_busy="interrupt") as queue:
            receipts = [queue.put_nowait("room", "ann", "a")]
            await asyncio.sleep(1)
            receipts.append(queue.put_nowait("room", "ann", "b"))
            await asyncio.sleep(1)
            assert queue.clear("room") == 2
            await queue.join()
            assert asyncio.get_running_loop().time() == 3
            assert [receipt.state for receipt in receipts] == ["cleared"] * 2

    chinwag_run(body)
    assert calls.starts == [(0, ["a"])]


def test_what_was_listened_to_comes_back_with_its_batch(chinwag_run: Run) -> None:
    heard: list[list[str]] = []

    async def handle(batch: Batch[str]) -> None:
        heard.append([message.payload for message in batch.context])
        await asyncio.sleep(10 if len(heard) == 1 else 1)

    async def body() -> None:
        async with Queue(handle, on_busy="interrupt") as queue:
            queue.put_nowait("room", "eve", "before", context=True)
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "eve", "since", context=True)
            queue.put_nowait("room", "ann", "b")
            await queue.join()
            assert queue.check().done == 4

    chinwag_run(body)
    assert heard == [["before"], ["before", "since"]]


# Follow-ups end (rule B5).


@pytest.mark.parametrize("max_interrupts", [0, 1, 8])
@pytest.mark.parametrize("interrupted", ["merge", "resume"])
@pytest.mark.parametrize("policy", ["interrupt", "rollback"])
def test_a_thousand_follow_ups_end(
    chinwag_run: Run, policy: str, interrupted: str, max_interrupts: int
) -> None:
    starts = Counter[str]()

    async def handle(batch: Batch[str]) -> None:
        starts.update(batch.payloads)
        await asyncio.sleep(10)

    async def body() -> None:
        settings: Any = {"interrupted": interrupted, "max_interrupts": max_interrupts}
        async with Queue(handle, on_busy=policy, **settings) as queue:
            receipts = []
            for number in range(1_000):
                receipts.append(queue.put_nowait("room", "ann", str(number)))
                await asyncio.sleep(1)
                if number % 100 == 0:
                    queue._audit()
            await queue.join()
            assert {receipt.state for receipt in receipts} == {"done"}
            assert queue.check().done == 1_000

    chinwag_run(body)
    # One that waits to be resumed is put off without starting.
    often = max_interrupts if interrupted == "merge" else min(max_interrupts, 1)
    assert max(starts.values()) == often + 1


def test_a_batch_that_waits_to_be_resumed_is_protected_too(chinwag_run: Run) -> None:
    """Otherwise those that interrupt each other would put it off for ever."""
    calls = Calls(first_s=10, then_s=10)

    async def body() -> None:
        settings: Any = {"interrupted": "resume", "max_interrupts": 2}
        async with Queue(calls, on_busy="interrupt", **settings) as queue:
            for text in "abcd":
                queue.put_nowait("room", "ann", text)
                await asyncio.sleep(1)
            await queue.join()

    chinwag_run(body)
    assert calls.starts[:3] == [(0, ["a"]), (1, ["b"]), (2, ["c"])]
    assert calls.starts[3][0] == 12, "a would be put off a third time"


# Messages for themselves, and optimistic starts (rules B6 and B7).


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("interrupted", ["resume", "abandon"])
def test_a_full_group_of_messages_ends_its_oldest_call(
    chinwag_run: Run, interrupted: str, slots: int
) -> None:
    calls = Calls(first_s=10, then_s=10)

    async def body() -> None:
        settings: Any = {"interrupted": interrupted, "lanes": "message"}
        queue = Queue(calls, on_busy="interrupt", max_concurrent_per_group=slots, **settings)
        async with queue:
            receipts = []
            for text in "abcd"[: slots + 1]:
                receipts.append(queue.put_nowait("room", text, text))
                await asyncio.sleep(1)
            first, *others = receipts
            assert first.state == ("retrying" if interrupted == "resume" else "abandoned")
            assert {receipt.state for receipt in others} == {"running"}
            await queue.join()

    chinwag_run(body)
    assert calls.starts[slots] == (slots, ["abcd"[slots]])
    if interrupted == "resume":  # right after the one that interrupted
        assert calls.starts[slots + 1] == (slots + 10, ["a"])
        assert calls.contexts[slots + 1].resumed
    else:
        assert len(calls.starts) == slots + 1


@pytest.mark.parametrize(
    ("ranks", "newcomer", "victim"),
    [
        ([0, 0], 0, "1"),
        ([5, 3], 9, "2"),
        ([5, 3], 3, "2"),
        ([5, 3], 2.5, None),
    ],
    ids=["the oldest of equals", "the lowest", "no higher than it", "all are above it"],
)
def test_the_lowest_call_of_messages_is_ended(
    chinwag_run: Run, ranks: list[float], newcomer: float, victim: str | None
) -> None:
    calls = Calls(first_s=10, then_s=10)

    async def body() -> None:
        settings: Any = {"interrupted": "abandon", "lanes": "message"}
        async with Queue(calls, on_busy="interrupt", **settings) as queue:
            receipts = {}
            for sender, rank in zip("12", ranks, strict=True):
                receipts[sender] = queue.put_nowait("room", sender, sender, rank=rank)
                await asyncio.sleep(1)
            queue.put_nowait("room", "3", "3", rank=newcomer)
            await queue.join()
            ended = [sender for sender, one in receipts.items() if one.state == "abandoned"]
            assert ended == ([victim] if victim else [])

    chinwag_run(body)
    assert calls.starts[2][0] == (2 if victim else 10)


def test_a_message_does_not_interrupt_while_a_slot_is_free(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        settings: Any = {"interrupted": "abandon", "lanes": "message"}
        await follow_up(calls, settings, {})

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (1, ["b"])]
    assert calls.endings == [None, None]


@pytest.mark.parametrize("state", ["committed", "shielded", "pushed inside"])
def test_a_call_of_a_message_can_be_no_victim(chinwag_run: Run, state: str) -> None:
    calls = Calls()

    def begin(ctx: Context) -> None:
        if state == "committed":
            ctx.commit()
        elif state == "shielded":
            ctx.shield().__enter__()
        else:
            queue.put_nowait("room", "ann", "b")

    calls.on_first = begin
    settings: Any = {"interrupted": "abandon", "lanes": "message", "on_busy": "interrupt"}
    queue = Queue(calls, max_concurrent_per_group=1, **settings)

    async def body() -> None:
        async with queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            if state != "pushed inside":
                queue.put_nowait("room", "ann", "b")

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (10, ["b"])]


def test_an_optimistic_start_waits_for_nothing(chinwag_run: Run) -> None:
    """A lone message is answered at once; a follow-up makes one batch of both."""
    starts: list[Start] = []
    seen: list[str] = []

    async def handle(batch: Batch[str], ctx: Context) -> str:
        loop = asyncio.get_running_loop()
        starts.append((loop.time(), batch.payloads))
        ctx.emit(f"to {len(batch)}")
        await asyncio.sleep(3)
        return "answer"

    async def body() -> None:
        settings: Any = {"quiet_s": 0, "on_busy": "rollback", "back_to_back_s": 2}
        async with Queue(handle, interrupt_within_s=2, **settings) as queue:
            receipt = queue.put_nowait("room", "ann", "hi")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "how do I ...")
            seen.extend([item async for item in receipt.stream()])
            await asyncio.sleep(5)
            queue.put_nowait("room", "ann", "thanks")
            await asyncio.sleep(2.5)
            late = queue.put_nowait("room", "ann", "one more thing")
            await late

    chinwag_run(body)
    assert starts == [
        (0, ["hi"]),
        (1, ["hi", "how do I ..."]),
        (9, ["thanks"]),
        (12, ["one more thing"]),
    ]
    assert seen == ["to 2"]


# A batch that goes before others in a full group (rules B8 and B9).


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("interrupted", ["merge", "resume", "abandon"])
def test_a_lead_in_points_ends_the_lowest_call(
    chinwag_run: Run, interrupted: str, slots: int
) -> None:
    calls = Calls(first_s=10, then_s=10)
    calls.on_first = lambda ctx: ctx.save("half")

    async def body() -> None:
        settings: Any = {"preempt_margin": 2, "interrupted": interrupted, "max_attempts": 1}
        async with Queue(calls, max_concurrent_per_group=slots, **settings) as queue:
            senders = ("u", "v", "w")[:slots]
            for rank, sender in enumerate(senders):
                queue.put_nowait("room", sender, f"low {rank}", rank=rank, on_busy="enqueue")
                await settle()
            await asyncio.sleep(1 - slots * 1e-6)
            queue.put_nowait("room", "ann", "near", rank=1.999_999)
            await asyncio.sleep(1)
            assert len(calls.starts) == slots
            high = queue.put_nowait("room", "bob", "high", rank=2)
            await settle()
            assert calls.starts[slots:] == [(2, ["high"])], "the slot goes to it"
            assert calls.endings == ["preempted"]
            assert high.state == "running"
            await queue.join()

    chinwag_run(body)
    again = [
        ctx for start, ctx in zip(calls.starts, calls.contexts, strict=True) if "low 0" in start[1]
    ]
    assert len(again) == (1 if interrupted == "abandon" else 2)
    if interrupted != "abandon":
        assert (again[1].attempt, again[1].resumed, again[1].saved) == (1, True, "half")


@pytest.mark.parametrize("margin", [None, 1])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_what_somebody_said_ends_a_background_call(
    chinwag_run: Run, slots: int, margin: float | None
) -> None:
    """Whatever the scores, and whether or not there is a margin."""
    calls = Calls(first_s=10, then_s=10)

    async def body() -> None:
        settings: Any = {"preempt_margin": margin, "max_concurrent_per_group": slots}
        async with Queue(calls, **settings) as queue:
            for sender in ("u", "v", "w")[:slots]:
                queue.put_nowait("room", sender, f"cron {sender}", rank=100, background=True)
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "hi")
            await settle()
            assert calls.starts[slots:] == [(1, ["hi"])]
            assert calls.endings == ["preempted"]
            await queue.join()
            assert queue.check().done == slots + 1

    chinwag_run(body)
    newest = "uvw"[slots - 1]
    assert calls.starts[-1][1] == [f"cron {newest}"]
    assert calls.contexts[-1].resumed


def test_a_background_call_is_ended_before_another(chinwag_run: Run) -> None:
    calls = Calls(first_s=10, then_s=10)

    async def body() -> None:
        async with Queue(calls, preempt_margin=1) as queue:
            queue.put_nowait("room", "ann", "a")
            queue.put_nowait("room", "sys", "cron", rank=50, background=True)
            await asyncio.sleep(1)
            queue.put_nowait("room", "bob", "high", rank=9)
            await settle()
            assert queue.explain("room").waiting[0].sender == "sys"

    chinwag_run(body)
    assert calls.starts[2] == (1, ["high"])


@pytest.mark.parametrize("rank", [0, 1e6])
def test_background_ends_nothing_that_somebody_said(chinwag_run: Run, rank: float) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, preempt_margin=1, max_concurrent_per_group=1) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "sys", "cron", rank=rank, background=True)
            await asyncio.sleep(1)
            queue.put_nowait("room", "bob", "b")
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (10, ["b"]), (11, ["cron"])]


@pytest.mark.parametrize("lanes", ["sender", "group"])
def test_background_has_a_lane_of_its_own(chinwag_run: Run, lanes: str) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, lanes=lanes, on_busy="interrupt") as queue:
            queue.put_nowait("room", "ann", "a")
            queue.put_nowait("room", "ann", "cron", background=True)
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "cron 2", background=True)
            await queue.join()

    chinwag_run(body)
    assert sorted(calls.starts) == [(0, ["a"]), (0, ["cron"]), (1, ["cron 2"])]


def test_background_is_held_where_it_is_set(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, hold_background=True) as queue:
            queue.put_nowait("room", "ann", "cron", background=True)
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(20)
            assert calls.starts == [(0, ["a"])]
            queue.configure("room", hold_background=False)
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (20, ["cron"])]


def test_a_full_queue_preempts_nothing(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, preempt_margin=1, max_concurrent=1) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "bob", "b", rank=9)
            queue.put_nowait("other", "eve", "c", rank=9)
            await queue.join()

    chinwag_run(body)
    assert calls.endings == [None] * 3


def test_one_call_is_ended_for_one_batch(chinwag_run: Run) -> None:
    """A call that ends counts as its slot, also while it takes its time."""
    calls = Calls(first_s=10, then_s=10)
    calls.cleanup_s = 2

    async def body() -> None:
        async with Queue(calls, preempt_margin=1, max_concurrent_per_group=3) as queue:
            for sender in "uvw":
                queue.put_nowait("room", sender, sender)
            await asyncio.sleep(1)
            for sender in "ab":
                queue.put_nowait("room", sender, sender, rank=9)
                await settle()
            await asyncio.sleep(1)
            assert sum(bool(ctx.ending) for ctx in calls.contexts) == 2
            await queue.join()

    chinwag_run(body)
    assert calls.endings.count("preempted") == 2
    assert [payloads for _, payloads in calls.starts[3:5]] == [["a"], ["b"]]


@pytest.mark.parametrize("why", ["committed", "protected", "above"])
def test_some_calls_are_never_preempted(chinwag_run: Run, why: str) -> None:
    calls = Calls()
    if why == "committed":
        calls.on_first = Context.commit

    async def body() -> None:
        settings: Any = {"preempt_margin": 2, "max_interrupts": 0 if why == "protected" else 8}
        async with Queue(calls, max_concurrent_per_group=1, **settings) as queue:
            queue.put_nowait("room", "ann", "a", rank=8 if why == "above" else 0)
            await asyncio.sleep(1)
            queue.put_nowait("room", "bob", "b", rank=9)
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (10, ["b"])]


def test_a_shielded_call_is_preempted_afterwards(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, preempt_margin=1, max_concurrent_per_group=1) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            with calls.contexts[0].shield():
                queue.put_nowait("room", "bob", "b", rank=9)
                await asyncio.sleep(2)
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (3, ["b"]), (4, ["a"])]


def test_another_call_is_preempted_while_one_is_shielded(chinwag_run: Run) -> None:
    calls = Calls(first_s=10, then_s=10)

    async def body() -> None:
        async with Queue(calls, preempt_margin=1) as queue:
            queue.put_nowait("room", "ann", "a")
            await settle()
            queue.put_nowait("room", "eve", "e", rank=1)
            await asyncio.sleep(1)
            with calls.contexts[0].shield():
                queue.put_nowait("room", "bob", "b", rank=9)
                await settle()
            await queue.join()

    chinwag_run(body)
    assert calls.endings[0] == "preempted"
    assert calls.starts[2][1] == ["b"]
    assert calls.starts[3][1] == ["e"]


def test_a_pause_holds_preemptions_back(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, preempt_margin=1, max_concurrent_per_group=1) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.pause("room")
            queue.put_nowait("room", "bob", "b", rank=9)
            await asyncio.sleep(2)
            assert not calls.contexts[0].ending
            queue.resume("room")
            await queue.join()

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (3, ["b"]), (4, ["a"])]


def test_a_turn_is_not_preempted_by_who_waits_for_the_next(chinwag_run: Run) -> None:
    """Who was served by rank has to let others have their turn; that call is let go on."""
    calls = Calls(first_s=1, then_s=1)

    async def body() -> None:
        async with Queue(calls, preempt_margin=1, max_concurrent_per_group=1) as queue:
            queue.put_nowait("room", "eve", "first", rank=5)
            await settle()
            queue.put_nowait("room", "ann", "a")
            for number in range(8):
                queue.put_nowait("room", "bob", f"b{number}", rank=2, standalone=True)
            await queue.join()
            assert queue.check().done == 10

    chinwag_run(body)
    assert set(calls.endings) == {None}


def test_a_preempted_call_is_put_off_so_often(chinwag_run: Run) -> None:
    calls = Calls(first_s=10, then_s=10)

    async def body() -> None:
        settings: Any = {"preempt_margin": 1, "max_interrupts": 2}
        async with Queue(calls, max_concurrent_per_group=1, **settings) as queue:
            queue.put_nowait("room", "ann", "a")
            for number in range(4):
                await asyncio.sleep(15)
                queue.put_nowait("room", "bob", str(number), rank=1_000)
            await queue.join()

    chinwag_run(body)
    assert calls.endings.count("preempted") <= 2
    assert [payloads for _, payloads in calls.starts].count(["a"]) <= 3


# Restarting (rule C4).


@pytest.mark.parametrize("interrupted", ["merge", "resume", "abandon"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_running_message_is_handed_over_again(
    chinwag_run: Run, policy: str, interrupted: str
) -> None:
    """As `merge` does, whatever becomes of the interrupted."""
    calls = Calls()

    async def body() -> None:
        async with Queue(calls, on_busy=policy, interrupted=interrupted) as queue:
            receipt = queue.put_nowait("room", "ann", "a", id="1")
            queue.put_nowait("room", "ann", "b")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "c", on_busy="enqueue")
            assert queue.edit("room", "1", "A") == "too_late"
            assert queue.edit("room", "1", "A", restart=True) == "done"
            assert queue.edit("room", "1", "AA", restart=True) == "too_late", "it is to end"
            assert await receipt == "A b c"

    chinwag_run(body)
    assert calls.starts == [(0, ["a", "b"]), (1, ["A", "b", "c"])]
    assert calls.endings[0] == "restarted"


@pytest.mark.parametrize(
    "why", ["committed", "shielded", "paused", "protected", "retried", "ended", "unknown"]
)
def test_a_call_that_must_go_on_is_not_restarted(chinwag_run: Run, why: str) -> None:
    calls = Calls(first_s=0.5 if why in ("retried", "ended") else 10, then_s=10)

    def begin(ctx: Context) -> None:
        if why == "committed":
            ctx.commit()
        elif why == "shielded":
            ctx.shield().__enter__()
        elif why == "retried":
            raise OSError("down")

    calls.on_first = begin

    async def body() -> None:
        settings: Any = {"max_interrupts": 0} if why == "protected" else {}
        async with Queue(calls, jitter="none", **settings) as queue:
            queue.put_nowait("room", "ann", "a", id="1")
            await asyncio.sleep(2)
            if why == "paused":
                queue.pause("room")
            id = "2" if why == "unknown" else "1"
            assert queue.edit("room", id, "A", restart=True) == "too_late"
            queue.resume("room")

    chinwag_run(body)
    assert {payload for _, payloads in calls.starts for payload in payloads} == {"a"}
    assert set(calls.endings) == {None}


def test_a_waiting_message_is_edited_without_a_restart(chinwag_run: Run) -> None:
    calls = Calls()

    async def body() -> None:
        async with Queue(calls) as queue:
            queue.put_nowait("room", "ann", "a")
            await asyncio.sleep(1)
            queue.put_nowait("room", "ann", "b", id="2")
            assert queue.edit("room", "2", "B", restart=True) == "done"

    chinwag_run(body)
    assert calls.starts == [(0, ["a"]), (10, ["B"])]


def test_restarts_are_bounded_like_interruptions(chinwag_run: Run) -> None:
    calls = Calls(first_s=10, then_s=10)

    async def body() -> list[str]:
        async with Queue(calls, max_interrupts=2) as queue:
            queue.put_nowait("room", "ann", "0", id="1")
            verdicts: list[str] = []
            for number in range(1, 5):
                await asyncio.sleep(1)
                verdicts.append(queue.edit("room", "1", str(number), restart=True))
            return verdicts

    assert chinwag_run(body) == ["done", "done", "too_late", "too_late"]
    assert calls.starts == [(0, ["0"]), (1, ["1"]), (2, ["2"])]


# What cannot be.


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"on_busy": "wait"}, ["on_busy='wait'", "enqueue", "reject"]),
        ({"interrupted": "drop"}, ["interrupted='drop'", "merge", "resume", "abandon"]),
        ({"interrupt_within_s": -1}, ["interrupt_within_s=-1", "at least 0", "seconds"]),
        ({"max_interrupts": -1}, ["max_interrupts=-1", "from 0"]),
        ({"max_interrupts": 1.5}, ["max_interrupts=1.5", "whole number of at least 0"]),
        ({"preempt_margin": 0}, ["preempt_margin=0", "from 0.000001", "leave it out"]),
        ({"preempt_margin": -2}, ["preempt_margin=-2", "from 0.000001", "leave it out"]),
        ({"inject_limit": 0}, ["inject_limit=0", "from 1", "leave it out"]),
        ({"saved_ttl_s": -1}, ["saved_ttl_s=-1", "at least 0", "seconds"]),
        ({"emit_limit": 0}, ["emit_limit=0", "from 1"]),
        ({"cancel_grace_s": -1}, ["cancel_grace_s=-1", "at least 0", "seconds"]),
        ({"hold_background": "no"}, ["hold_background='no'", "True or False"]),
        (
            {"on_busy": "inject", "lanes": "message"},
            ["on_busy='inject'", "lanes='message'", "use another policy"],
        ),
        (
            {"on_busy": "rollback", "lanes": "message"},
            ["on_busy='rollback'", "interrupted='merge'", "set interrupted to"],
        ),
        (
            {"on_busy": "interrupt", "max_batch": 1},
            ["max_batch=1", "interrupted='merge'", "raise max_batch"],
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_what_can_never_be_served_is_no_setting(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Queue(id, **settings)

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({}, {"on_busy": "wait"}, ["on_busy", "wait", "enqueue", "be left out"]),
        ({}, {"on_busy": "rollback"}, ["rollback", "give the group on_busy='rollback'"]),
        (
            {"on_busy": "interrupt"},
            {"on_busy": "rollback"},
            ["rollback", "give the group on_busy='rollback'"],
        ),
        (
            {"lanes": "message"},
            {"on_busy": "inject"},
            ["inject", "lanes='message'", "leave it out"],
        ),
        (
            {"lanes": "message"},
            {"on_busy": "interrupt"},
            ["interrupt", "interrupted='merge'", "'resume' or 'abandon'"],
        ),
        ({"max_batch": 1}, {"on_busy": "interrupt"}, ["interrupt", "larger max_batch"]),
        ({}, {"on_busy": "interrupt", "background": True}, ["background", "leave one of them out"]),
        ({}, {"on_busy": "enqueue", "bypass": True}, ["bypass", "leave one of them out"]),
        ({}, {"on_busy": "enqueue", "context": True}, ["context", "leave one of them out"]),
        ({}, {"background": True, "bypass": True}, ["background=True", "leave one of them out"]),
        ({}, {"background": True, "context": True}, ["background=True", "leave one of them out"]),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("how", ["put_nowait", "put", "put_many"])
def test_what_can_never_be_served_is_not_pushed(
    chinwag_run: Run, how: str, settings: dict[str, Any], options: dict[str, Any], words: list[str]
) -> None:
    async def body() -> None:
        queue = Queue[str](id, **settings)
        put: Any = getattr(queue, how)
        row: Any = ("room", "ann", "a") if how != "put_many" else (["room"], ["ann"], ["a"])
        with pytest.raises(ValueError, match=words[0]) as caught:
            await asyncio.ensure_future(put(*row, **options))
        for word in words:
            assert word in str(caught.value)
        assert queue.check().accepted == 0

    chinwag_run(body)


def test_a_policy_is_looked_at_by_the_group(chinwag_run: Run) -> None:
    queue = Queue[str](id, lanes="message")
    queue.configure("room", lanes="sender", on_busy="rollback", max_batch=3)

    queue.put_nowait("room", "ann", "a", on_busy="inject")
    queue.put_nowait("room", "ann", "b", on_busy="rollback")
    with pytest.raises(ValueError, match="lanes='message'"):
        queue.put_nowait("other", "ann", "a", on_busy="inject")

    assert queue.check().waiting == 2


def test_a_refusal_says_what_to_do(chinwag_run: Run) -> None:
    async def body() -> str:
        async with Queue(Calls(), on_busy="reject") as queue:
            queue.put_nowait("room", "ann", "a")
            await settle()
            with pytest.raises(Rejected) as caught:
                queue.put_nowait("room", "ann", "b")
            return str(caught.value)

    said = chinwag_run(body)
    assert "on_busy" in said
    assert "push" in said

"""Pushing beyond `put_nowait`: `put` and its line, columns, handles, results in threads."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from chinwag import Batch, Dropped, Queue, QueueClosed, QueueFull, Rejected
from chinwag.columns import Verdicts
from chinwag.testing import RecordingHandler
from chinwag.testing.plugin import Run


def test_put_waits_for_room_in_its_group(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=1.0)

    async def body() -> None:
        async with Queue(handler, capacity_per_group=1, max_batch=1) as queue:
            await queue.put("room", "ann", "a")
            await asyncio.sleep(0)  # it starts, and its place is free
            await queue.put("room", "ann", "b")
            waiting = [asyncio.create_task(queue.put("room", "ann", text)) for text in "cd"]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            with pytest.raises(QueueFull):
                queue.put_nowait("room", "bob", "barges in")
            await asyncio.gather(*waiting)
            await queue.join()

    chinwag_run(body)
    assert handler.batches == [["a"], ["b"], ["c"], ["d"]], "first come, first served"


def test_a_cancelled_put_leaves_no_trace_and_the_next_gets_the_place(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        queue = Queue(handler, capacity=1)
        await queue.put("room", "ann", "a")
        first, second = (
            asyncio.create_task(queue.put(name, "bob", name)) for name in ("one", "two")
        )
        await asyncio.sleep(0)
        queue.clear("room")  # the place is kept for the first, who has yet to wake
        first.cancel()
        await second
        assert first.cancelled()
        assert queue.status("one").waiting == 0
        assert queue.status("two").waiting == 1
        queue.check()
        await queue.aclose()

    chinwag_run(body)


def test_put_in_line_is_told_when_the_queue_closes(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str](), capacity=1)
        queue.put_nowait("room", "ann", "a")
        waiting = asyncio.create_task(queue.put("room", "ann", "b"))
        await asyncio.sleep(0)
        await queue.aclose()
        with pytest.raises(QueueClosed):
            await waiting

    chinwag_run(body)


def test_a_duplicate_in_line_gives_its_place_to_the_next(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str](), capacity=2)
        queue.put_nowait("room", "ann", "a", id="1")
        queue.put_nowait("other", "ann", "b")
        again = asyncio.create_task(queue.put("room", "ann", "a again", id="2"))
        behind = asyncio.create_task(queue.put("room", "ann", "c"))
        await asyncio.sleep(0)
        # Meanwhile the same id comes in by a way that needs no room.
        queue.put_nowait("room", "ann", "a again", id="2", context=True)
        queue.clear("other")
        with pytest.raises(Rejected, match="its id waits"):
            await again
        await behind
        queue.check()
        await queue.aclose()

    chinwag_run(body)


@pytest.mark.parametrize("make", [list, np.array, lambda column: np.array(column, object), tuple])
def test_columns_can_be_lists_and_arrays(make: Any) -> None:
    queue = Queue(RecordingHandler[int](), dedup_s=10)

    verdicts = queue.put_many(
        make(["a", "b", "a"]),
        make(["ann", "bob", "ann"]),
        make([1, 2, 3]),
        id=make(["1", "1", "1"]),
        rank=make([0.5, 1, 2]),
        at=np.array(["2026-01-01", "2026-01-02", "2026-01-03"], "datetime64[s]"),
        real_time=True,
    )

    assert list(verdicts) == ["accepted", "accepted", "duplicate"]
    assert verdicts.codes.tolist() == [0, 0, 1]
    assert verdicts.accepted.tolist() == [True, True, False]
    assert verdicts.counts() == {"accepted": 2, "duplicate": 1}
    assert queue.groups() == ["a", "b"]
    assert verdicts[-1] == "duplicate"
    assert verdicts[:2] == Verdicts(b"\0\0")


def test_rows_keep_their_order_and_full_groups_their_verdicts() -> None:
    queue = Queue(RecordingHandler[int](), capacity_per_group=2)
    queue.configure("leaky", overflow="drop_newest")

    verdicts = queue.put_many(["strict"] * 3 + ["leaky"] * 3, ["ann"] * 6, range(6))

    assert list(verdicts) == ["accepted", "accepted", "full", "accepted", "accepted", "evicted"]
    assert queue.check().evicted == 1


@pytest.mark.parametrize(
    ("columns", "error", "match"),
    [
        ({"groups": ["a"]}, ValueError, "groups: has 1 rows where the others have 2"),
        ({"at": [1.0]}, ValueError, "at: has 1 rows"),
        ({"groups": ["a", 7]}, TypeError, "row 1: group=7: must be a str"),
        ({"rank": [0, float("nan")]}, ValueError, "row 1: rank=nan"),
        ({"payloads": "ab"}, TypeError, "payloads=str"),
        ({"groups": np.array([["a", "b"]])}, TypeError, "one dimension"),
        ({"colour": ["red", "blue"]}, TypeError, "colour: no such column"),
        ({"at": np.array(["NaT", "2026-01-01"], "datetime64[s]")}, ValueError, "NaT"),
        ({"context": True, "delay_s": 3}, ValueError, "context=True with delay_s"),
    ],
)
def test_bad_columns_push_nothing(
    columns: dict[str, Any], error: type[Exception], match: str
) -> None:
    queue = Queue(RecordingHandler[str]())
    good = {"groups": ["a", "b"], "senders": ["ann", "bob"], "payloads": ["x", "y"]}

    with pytest.raises(error, match=match):
        queue.put_many(**{**good, **columns})

    assert queue.check().accepted == 0


class Column:
    """Something like an array that is none."""

    ndim: Any = 1

    def __init__(self, listed: object) -> None:
        self.listed = listed

    def __iter__(self) -> Iterator[str]:
        return iter("ab")

    def tolist(self) -> object:
        return self.listed


class Shapeless(Column):
    @property
    def ndim(self) -> int:
        raise LookupError


class Time(Column):
    """It says that it holds times, and has no way to give them."""

    dtype = np.dtype("datetime64[s]")


class Misled(list[str]):
    def copy(self) -> Any:
        return None

    def __len__(self) -> int:
        return 7

    __iter__ = __getitem__ = copy  # type: ignore[assignment]


@pytest.mark.parametrize(
    "values", [Column(None), Column(3), Column("ab"), Column({}), Shapeless(["a", "b"]), Time([])]
)
@pytest.mark.parametrize("name", ["groups", "senders", "payloads", "at", "rank"])
def test_what_gives_no_list_is_no_column(name: str, values: Any) -> None:
    queue = Queue(RecordingHandler[Any]())
    good = {"groups": ["a", "b"], "senders": ["ann", "bob"], "payloads": ["x", "y"]}

    with pytest.raises(TypeError, match=f"{name}={type(values).__name__}: must be a column"):
        queue.put_many(**{**good, name: values})

    assert queue.check().accepted == 0


@pytest.mark.parametrize("name", ["groups", "senders", "id"])
def test_a_column_without_end_is_left_at_once(name: str) -> None:
    queue = Queue(RecordingHandler[Any]())
    good = {"groups": ["a", "b"], "senders": ["ann", "bob"], "payloads": ["x", "y"]}

    with pytest.raises(ValueError, match=f"{name}: has more rows than the others, which have 2"):
        queue.put_many(**{**good, name: itertools.repeat("a")})

    assert queue.check().accepted == 0


def test_a_list_is_taken_for_what_it_holds() -> None:
    queue = Queue(RecordingHandler[str]())

    verdicts = queue.put_many(Misled("ab"), iter(["ann", "bob"]), Column(Misled("xy")))

    assert list(verdicts) == ["accepted", "accepted"]
    assert queue.groups() == ["a", "b"]


def test_a_closed_queue_takes_no_columns(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str]())
        await queue.aclose()
        with pytest.raises(QueueClosed):
            queue.put_many(["a"], ["b"], ["c"])

    chinwag_run(body)


def test_a_handle_has_the_verbs_of_its_group(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        queue = Queue(handler, quiet_s=1)
        room = queue.group("room")
        room.configure(weight=2)
        room.set_members(3)
        room.set_sender("ann", 1.5)
        receipt = room.put_nowait("ann", "hi", id="1")
        await room.put("bob", "there")
        room.typing("ann")
        assert "1" in room
        assert receipt.group == "room"
        assert room.edit("1", "hello") == "done"
        assert room.status().waiting == 2
        scores = {batch.sender: batch.score.sender for batch in room.explain().waiting}
        assert scores == {"ann": 1.5, "bob": 0}
        assert room.pause()
        assert room.resume()
        assert room.flush() == 2
        assert room.withdraw("#1") == "done"
        async with queue:
            await receipt
        assert room.clear() == 0

    chinwag_run(body)
    assert handler.batches == [["hello"]]


def test_a_handle_needs_the_name_of_a_group() -> None:
    queue = Queue(RecordingHandler[str]())
    with pytest.raises(TypeError, match="group=7"):
        queue.group(7)  # type: ignore[arg-type]


def test_a_thread_waits_for_the_result() -> None:
    async def double(batch: Batch[int]) -> int:
        return 2 * batch.payloads[-1]

    async def main() -> None:
        async with Queue(double) as queue:
            receipt = queue.put_nowait("room", "ann", 21)
            with pytest.raises(RuntimeError, match="would block the event loop"):
                receipt.result()
            assert await asyncio.to_thread(receipt.result) == 42
            held = queue.put_nowait("held", "ann", 1, delay_s=1000)
            with pytest.raises(TimeoutError, match="has not ended within 0 s"):
                await asyncio.to_thread(held.result, 0)
            queue.withdraw("held", held.id)
            with pytest.raises(Dropped, match="withdrawn"):
                await asyncio.to_thread(held.result, 1)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        *((wrong, ValueError) for wrong in (-1, -(10**400), float("nan"))),
        *((wrong, TypeError) for wrong in ("soon", "x" * 10**6, True, np.timedelta64(1, "s"))),
    ],
    ids=range(7),
)
def test_a_timeout_is_seconds(timeout: Any, error: type[Exception]) -> None:
    receipt = Queue(RecordingHandler[str]()).put_nowait("room", "ann", "hi")
    with pytest.raises(error, match="timeout=") as raised:
        receipt.result(timeout)
    assert len(str(raised.value)) < 200


def test_a_timeout_may_be_beyond_all_clocks() -> None:
    queue = Queue(RecordingHandler[str]())
    receipt = queue.put_nowait("room", "ann", "hi")
    queue.clear("room")
    with pytest.raises(Dropped):
        receipt.result(10**400)


def test_threads_wait_in_line_too() -> None:
    """A put on another loop is woken on that loop."""
    done = threading.Event()

    async def main() -> None:
        queue = Queue(RecordingHandler[str](), capacity=1)
        queue.put_nowait("room", "ann", "a")

        async def elsewhere() -> None:
            await queue.put("room", "ann", "b")
            done.set()

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        async with queue:
            await asyncio.to_thread(thread.join)
            await queue.join()
        assert queue.check().done == 2

    asyncio.run(main())
    assert done.is_set()


def test_own_ids_are_not_those_of_others() -> None:
    queue = Queue(RecordingHandler[str]())
    with pytest.raises(ValueError, match="ids of the form #<number>"):
        queue.put_nowait("room", "ann", "hi", id="#0")
    queue.put_nowait("room", "ann", "hi", id="#general")


@pytest.mark.parametrize(
    "options",
    [
        {"bypass": True, "delay_s": 1},
        {"context": True, "delay_s": 1},
        {"bypass": True, "context": True},
    ],
)
def test_wishes_that_contradict_each_other(options: dict[str, Any]) -> None:
    queue = Queue(RecordingHandler[str]())
    with pytest.raises(ValueError, match="with"):
        queue.put_nowait("room", "ann", "hi", **options)


def test_explain_says_it_in_words_and_in_json() -> None:
    queue = Queue(RecordingHandler[str](), quiet_s=2)
    queue.configure("room", weight=3)
    queue.put_nowait("room", "ann", "hi", id="1", rank=2, at=datetime(2026, 1, 1, tzinfo=UTC))
    queue.put_nowait("room", "bob", "later", delay_s=9)
    queue.put_nowait("room", "cyd", "by the way", context=True)
    queue.put_nowait("room", "dan", "/status", bypass=True)

    explained = queue.explain("room")

    assert [(batch.sender, batch.waits_for) for batch in explained.waiting] == [
        ("ann", "quiet"),
        ("dan", "turn"),
        ("bob", "delay"),
        ("cyd", "next_call"),
    ]
    assert explained.waiting[0].score.rank == 2
    assert explained.waiting[0].score.total == 2
    assert explained.settings["weight"] == (3, "group")
    assert explained.settings["quiet_s"] == (2, "queue")
    assert "ann [1]: waits for quiet, score 2 (rank 2)" in repr(explained)
    plain = json.loads(explained.to_json())
    assert plain["waiting"][0]["ids"] == ["1"]
    assert plain["settings"]["weight"] == {"value": 3, "source": "group"}


def test_nothing_is_known_of_a_group_never_pushed_to() -> None:
    queue = Queue(RecordingHandler[str]())
    assert repr(queue.explain("nowhere")).endswith("nothing runs or waits")


def test_payloads_are_handed_over_as_they_are(chinwag_run: Run) -> None:
    handler = RecordingHandler[Any]()
    times = np.array(["2026-01-01", "NaT"], "datetime64[ns]")

    async def body() -> None:
        async with Queue(handler) as queue:
            queue.put_many(["room"] * 2, ["ann"] * 2, times)
            with pytest.raises(TypeError, match="rank: must not be times"):
                queue.put_many(["room"] * 2, ["ann"] * 2, [1, 2], rank=times)
            with pytest.raises(TypeError, match=r"ttl_s=.*must be a number"):
                queue.put_nowait("room", "ann", 1, ttl_s=np.timedelta64(5, "ns"))  # type: ignore[arg-type]
            await queue.join()

    chinwag_run(body)
    assert str(handler.batches[0][0]) == "2026-01-01T00:00:00.000000000"


def test_a_put_that_is_refused_after_all_keeps_no_place(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str](), capacity_per_group=1)
        queue.put_nowait("room", "ann", "a")
        first = asyncio.create_task(queue.put("room", "ann", "b", quiet_s=float("inf")))
        second = asyncio.create_task(queue.put("room", "ann", "c"))
        await asyncio.sleep(0)
        queue.configure("room", max_wait_s=float("inf"))
        queue.clear("room")
        with pytest.raises(ValueError, match="wait for ever"):
            await first
        await second
        queue.check()
        await queue.aclose()

    chinwag_run(body)


def test_no_size_of_a_group_lets_a_message_wait_for_ever() -> None:
    queue = Queue(RecordingHandler[str](), bands=[{"size": 2, "max_wait_s": float("inf")}])
    with pytest.raises(ValueError, match="wait for ever"):
        queue.put_nowait("room", "ann", "a", quiet_s=float("inf"))


def test_a_group_never_pushed_to_is_as_large_as_was_said() -> None:
    queue = Queue(
        RecordingHandler[str](),
        size_by="members",
        bands=[{"size": 10, "strategy": "adaptive", "capacity_per_group": 1}],
    )
    queue.set_members("room", 12)
    explained = queue.explain("room")
    assert (explained.size, explained.strategy) == (12, "adaptive")
    queue.put_nowait("room", "ann", "a")
    with pytest.raises(QueueFull):
        queue.put_nowait("room", "ann", "b")

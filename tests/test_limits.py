"""What fits, and what has to go: overflow, ttl, delays, context, bypass, superseding, edits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chinwag import Config, ConfigError, Dropped, Queue, QueueFull
from chinwag.testing import RecordingHandler
from chinwag.testing.plugin import Run


def test_a_full_group_drops_its_oldest_and_names_them(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        queue = Queue(handler, capacity_per_group=2, overflow="drop_oldest", quiet_s=1)
        receipts = [queue.put_nowait("room", "ann", text, id=text) for text in "abcd"]
        async with queue:
            await queue.join()
        assert [receipt.state for receipt in receipts] == ["evicted", "evicted", "done", "done"]
        with pytest.raises(Dropped, match="capacity"):
            await receipts[0]
        stats = queue.stats()
        assert stats.end_reasons[("evicted", "capacity")] == 2
        assert {end: age.maximum for end, age in stats.ages.items()} == {"evicted": 0, "done": 1}

    chinwag_run(body)
    assert handler.batches == [["c", "d"]]
    assert handler.calls[0].batch.evicted == ("a", "b")


def test_a_full_group_drops_the_newest(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        queue = Queue(handler, capacity_per_group=1, overflow="drop_newest", dedup_s=60)
        queue.put_nowait("room", "ann", "a")
        dropped = queue.put_nowait("room", "ann", "b", id="1")
        assert dropped.state == "evicted"
        async with queue:
            await queue.join()
            # Its id is free: a redelivery helps.
            await queue.put_nowait("room", "ann", "b", id="1")

    chinwag_run(body)
    assert handler.batches == [["a"], ["b"]]
    assert handler.calls[0].batch.evicted == ("1",)


def test_less_room_is_made_at_once() -> None:
    queue = Queue(RecordingHandler[str](), overflow="drop_oldest", capacity_per_group=5)
    receipts = [queue.put_nowait("room", "ann", text) for text in "abc"]
    queue.configure("room", capacity_per_group=1)
    assert [receipt.state for receipt in receipts] == ["evicted", "evicted", "waiting"]


def test_the_total_refuses_whatever_the_overflow_but_looks_first() -> None:
    queue = Queue(RecordingHandler[str](), capacity=3, capacity_per_group=2, overflow="drop_oldest")
    for text in "abc":
        queue.put_nowait("room", "ann", text)
    assert queue.status("room").waiting == 2
    queue.put_nowait("room", "ann", "d")  # which makes a drain happen, and so has room
    queue.put_nowait("other", "ann", "e")
    with pytest.raises(QueueFull, match="waiting in all"):
        queue.put_nowait("third", "ann", "f")


def test_what_waits_too_long_expires_exactly(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=5)

    async def body() -> None:
        async with Queue(handler, ttl_s=5, max_batch=1) as queue:
            queue.put_nowait("room", "ann", "first")
            just = queue.put_nowait("room", "ann", "exactly as old as it may be")
            late = queue.put_nowait("room", "ann", "too late")
            kept = queue.put_nowait("room", "ann", "has all the time", ttl_s=float("inf"))
            await queue.join()
        assert [receipt.state for receipt in (just, late, kept)] == ["done", "expired", "done"]

    chinwag_run(body)
    assert [call.started for call in handler.calls] == [0, 5, 10]


def test_a_full_group_finds_out_that_something_has_expired(chinwag_run: Run) -> None:
    async def body() -> None:
        queue = Queue(RecordingHandler[str](), capacity_per_group=1)
        queue.put_nowait("room", "ann", "a", ttl_s=1)
        with pytest.raises(QueueFull):
            queue.put_nowait("room", "ann", "b")
        await asyncio.sleep(1.5)
        queue.put_nowait("room", "ann", "b")
        await queue.aclose()

    chinwag_run(body)


def test_a_delayed_message_arrives_later(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        async with Queue(handler) as queue:
            queue.put_nowait("room", "ann", "remember", delay_s=3, id="1")
            queue.put_nowait("room", "ann", "never mind", delay_s=4, id="2")
            queue.put_nowait("room", "ann", "now")
            assert queue.withdraw("room", "2") == "done"
            assert queue.edit("room", "1", "remember the milk") == "done"
            await queue.join()

    chinwag_run(body)
    assert [(call.started, call.payloads) for call in handler.calls] == [
        (0, ["now"]),
        (3, ["remember the milk"]),
    ]


def test_the_next_call_of_a_group_gets_what_was_listened_to(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=1)

    async def body() -> None:
        async with Queue(handler, context_limit=2) as queue:
            heard = [
                queue.put_nowait("room", name, f"{name} says", context=True)
                for name in ("bob", "cyd", "dan")
            ]
            await queue.join()  # which leaves the context out
            assert not handler.calls
            answer = queue.put_nowait("room", "ann", "bot?")
            await asyncio.sleep(0.5)
            assert heard[2].state == answer.state == "running"
            await queue.join()
            assert [receipt.state for receipt in heard] == ["evicted", "done", "done"]
            assert await heard[1] == await answer
            queue.put_nowait("room", "ann", "and now?")
            await queue.join()

    chinwag_run(body)
    contexts = [[m.payload for m in call.batch.context] for call in handler.calls]
    assert contexts == [["cyd says", "dan says"], []]


def test_a_command_goes_around_everything(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=1)

    async def body() -> None:
        async with Queue(handler, max_concurrent=1, max_bypass=2) as queue:
            queue.put_nowait("room", "ann", "long")
            queue.pause("room")
            queue.pause()
            for _ in range(2):
                queue.put_nowait("room", "ann", "/status", bypass=True)
            with pytest.raises(QueueFull, match="raise max_bypass"):
                queue.put_nowait("room", "ann", "/status", bypass=True)
            with pytest.raises(QueueFull, match="raise max_bypass"):
                await queue.put("room", "ann", "/status", bypass=True)
            await asyncio.sleep(0.5)
            assert [call.payloads for call in handler.calls] == [["/status"], ["/status"]]
            assert queue.stats().running == 2
            queue.resume()
            queue.resume("room")
            await queue.join()

    chinwag_run(body)
    assert handler.batches[-1] == ["long"]


def test_the_newest_supersedes_what_waits(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=1)

    async def body() -> None:
        async with Queue(handler, keep="latest") as queue:
            queue.put_nowait("room", "ann", "draft 1")
            await asyncio.sleep(0.1)
            old = queue.put_nowait("room", "ann", "draft 2", at=100)
            newer = queue.put_nowait("room", "ann", "draft 3", at=300)
            late = queue.put_nowait("room", "ann", "draft 2b", at=200)
            await queue.join()
            states = [receipt.state for receipt in (old, newer, late)]
            assert states == ["superseded", "done", "superseded"]

    chinwag_run(body)
    assert handler.batches == [["draft 1"], ["draft 3"]]


def test_edits_and_withdrawals_are_in_time_or_too_late(chinwag_run: Run) -> None:
    handler = RecordingHandler[str](duration_s=1)

    async def body() -> None:
        async with Queue(handler, max_batch=1) as queue:
            first = queue.put_nowait("room", "ann", "a")
            second = queue.put_nowait("room", "ann", "b")
            third = queue.put_nowait("room", "ann", "c", id="c")
            await asyncio.sleep(0.5)
            assert queue.edit("room", first.id, "x") == "too_late"
            assert queue.edit("room", second.id, "y") == "done"
            assert queue.withdraw("room", "c") == "done"
            assert queue.withdraw("room", "c") == "too_late"
            assert queue.withdraw("nowhere", "c") == "too_late"
            await queue.join()
            assert third.state == "withdrawn"

    chinwag_run(body)
    assert handler.batches == [["a"], ["y"]]


def test_typing_holds_the_quiet_time(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        async with Queue(handler, quiet_s=2, max_wait_s=30, typing_expires_s=6) as queue:
            queue.put_nowait("room", "ann", "wait")
            await asyncio.sleep(1)
            queue.typing("room", "ann")
            await asyncio.sleep(4)
            queue.put_nowait("room", "ann", "for it")
            await asyncio.sleep(1)
            queue.typing("room", "ann")  # and is never heard of again
            await queue.join()

    chinwag_run(body)
    assert [(call.started, call.payloads) for call in handler.calls] == [(14, ["wait", "for it"])]


def test_groups_have_settings_of_their_own(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        async with Queue(handler) as queue:
            queue.configure("slow", quiet_s=3)
            queue.configure("slow", max_batch=2)
            for group in ("slow", "fast"):
                for text in "ab":
                    queue.put_nowait(group, "ann", text, delay_s=0 if text == "a" else 1)
            queue.put_nowait("slow", "ann", "c", delay_s=1)
            await queue.join()

    chinwag_run(body)
    assert [(call.started, call.group, call.payloads) for call in handler.calls] == [
        (0, "fast", ["a"]),
        (1, "slow", ["a", "b"]),
        (1, "fast", ["b"]),
        (4, "slow", ["c"]),
    ]


def test_lanes_change_only_at_rest() -> None:
    queue = Queue(RecordingHandler[str]())
    queue.put_nowait("room", "ann", "hi")
    with pytest.raises(ConfigError, match="lanes='group': cannot change"):
        queue.configure("room", lanes="group")
    queue.clear("room")
    assert queue.configure("room", lanes="group").window.lanes == "group"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"capacity": 3}, "whole queue"),
        ({"quiet": 3}, "quiet_s"),
        ({"weight": 0}, "weight=0"),
        ({"quiet_s": float("inf"), "max_wait_s": float("inf")}, "max_wait_s"),
        ({"lanes": "message", "keep": "latest"}, "keep"),
    ],
)
def test_bad_settings_of_a_group_change_nothing(settings: dict[str, Any], match: str) -> None:
    queue = Queue(RecordingHandler[str]())
    queue.configure("room", quiet_s=1)
    with pytest.raises(ConfigError, match=match):
        queue.configure("room", **settings)
    assert queue.explain("room").settings["quiet_s"] == (1, "group")


def test_a_value_may_configure_while_it_is_read() -> None:
    """It ran under the lock of the settings, and waited for itself."""
    queue = Queue(RecordingHandler[str]())

    class Meddler(float):
        def __float__(self) -> float:
            queue.configure("room", max_batch=3)
            queue.configure("other", max_batch=4)
            return 1.0

    queue.configure("room", quiet_s=Meddler(2))

    settings = queue.explain("room").settings
    assert (settings["quiet_s"].value, settings["max_batch"].value) == (1.0, 3)
    assert queue.explain("other").settings["max_batch"].value == 4


def test_a_finalizer_may_configure_the_same_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector runs it wherever it likes, here in the midst of putting settings together."""
    queue = Queue(RecordingHandler[str]())
    profile = Config.profile
    finalizers = [lambda: queue.configure("room", max_batch=3, min_batch=2)]

    def collecting(config: Config, *given: Any) -> Any:
        made = profile(config, *given)
        if finalizers:
            finalizers.pop()()
        return made

    monkeypatch.setattr(Config, "profile", collecting)
    queue.configure("room", quiet_s=2, min_batch=1)

    settings = queue.explain("room").settings
    assert [settings[key].value for key in ("quiet_s", "max_batch", "min_batch")] == [2, 3, 1]
    for text in "abc":
        queue.put_nowait("room", "ann", text)
    (waiting,) = queue.explain("room").waiting
    assert waiting.waits_for == "turn", "three are full: the engine has it too"


def test_a_group_goes_by_the_text_of_its_name() -> None:
    """Not by what a subclass says of equality: the engine never asked it."""
    queue = Queue(RecordingHandler[str]())

    class Other(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return hash("other")

        def __eq__(self, other: object) -> bool:
            return True

    class Unhashable(str):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

    queue.configure("other", quiet_s=5)
    queue.configure(Other("room"), max_batch=3)
    queue.configure(Unhashable("room"), min_batch=2)

    room, other = queue.explain(Unhashable("room")), queue.explain("other")
    assert [room.settings[key].source for key in ("quiet_s", "max_batch", "min_batch")] == [
        *("default", "group", "group")
    ]
    assert [other.settings[key].source for key in ("quiet_s", "max_batch")] == ["group", "default"]
    names = [room.group, queue.status(Other("room")).group, queue.group(Other("room")).name]
    assert [(type(name), name) for name in names] == [(str, "room")] * 3


def test_a_band_of_sizes_has_its_settings_and_is_told(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()
    told: list[str] = []

    async def body() -> None:
        queue = Queue(handler, bands=[{"size": 3, "strategy": "adaptive", "max_batch": 1}])
        queue.subscribe(lambda event: told.append(type(event).__name__))
        queue.pause("room")
        for name in ("ann", "bob", "cyd"):
            queue.put_nowait("room", name, "a")
        explained = queue.explain("room")
        assert (explained.strategy, explained.size) == ("adaptive", 3)
        assert explained.settings["max_batch"] == (1, "band 3")
        queue.put_nowait("room", "dan", "a")
        queue.put_nowait("room", "dan", "b")
        queue.resume("room")
        async with queue:
            await queue.join()

    chinwag_run(body)
    assert [call.payloads for call in handler.calls if call.sender == "dan"] == [["a"], ["b"]]
    assert "GroupResized" in told


def test_rates_space_the_calls(chinwag_run: Run) -> None:
    handler = RecordingHandler[str]()

    async def body() -> None:
        async with Queue(handler, rate_per_group=(2, 2), max_batch=1) as queue:
            for text in "abcd":
                queue.put_nowait("room", "ann", text)
            await queue.join()

    chinwag_run(body)
    assert [call.started for call in handler.calls] == [0, 0, 0.5, 1.0]

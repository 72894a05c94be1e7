"""Hostile input: every public call meets every kind of value, and the queue stays sound.

Two tables, one of values (in `tests/hostile.py`) and one of calls, are multiplied. Whatever comes
of a pair: the call takes the value, or raises what its documentation says, in a message that names
the argument; what was refused was not accepted; no panic leaves the compiled half; and what a value
raised that is no `Exception`, such as KeyboardInterrupt, comes out as it was.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chinwag import ConfigError, Dropped, Queue, QueueClosed, Rejected
from chinwag._core import ManualClock
from chinwag.stats import Histogram
from chinwag.testing import Clock, ClockError, new_event_loop
from tests.hostile import (
    CONFIG,
    LATEST_S,
    OPTIONS,
    START_S,
    Call,
    Kind,
    Value,
    World,
    anything,
    between,
    count,
    doubtful,
    either,
    faults,
    flag,
    function,
    name,
    never_called,
    or_none,
    points,
    share,
    sought,
    span,
    step,
    time,
    whole,
)


def pushes() -> Iterator[Call]:
    good = {"group": "room", "sender": "ann", "payload": "hi"}
    kinds: dict[str, Kind] = {"group": name, "sender": name, "payload": anything}
    kinds |= {key: or_none(kind) for key, kind in OPTIONS.items()}
    for key, kind in kinds.items():

        def put_nowait(world: World, given: Any, key: str = key) -> object:
            return world.queue.put_nowait(**{**good, key: given})

        def put(world: World, given: Any, key: str = key) -> object:
            return step(world.queue.put(**{**good, key: given}))

        def put_many(world: World, given: Any, key: str = key) -> object:
            column = key if key in OPTIONS else f"{key}s"
            columns = {"groups": ["room"], "senders": ["ann"], "payloads": ["hi"], column: [given]}
            return world.queue.put_many(**columns)

        for call in (put_nowait, put, put_many):
            yield Call(call.__name__, key, kind, call, pushes=1)


def verbs() -> Iterator[Call]:
    def of(
        verb: str, argument: str, kind: Kind, call: Callable[[Any, Any], object], **more: Any
    ) -> Call:
        return Call(verb, argument, kind, lambda world, given: call(world.queue, given), **more)

    yield of("pause", "group", or_none(name), lambda queue, v: queue.pause(v))
    yield of("pause", "for_s", or_none(span), lambda queue, v: queue.pause("room", for_s=v))
    yield of("resume", "group", or_none(name), lambda queue, v: queue.resume(v))
    yield of("clear", "group", or_none(name), lambda queue, v: queue.clear(v))
    yield of("flush", "group", name, lambda queue, v: queue.flush(v))
    yield of("flush", "sender", or_none(name), lambda queue, v: queue.flush("room", v))
    yield of("withdraw", "group", name, lambda queue, v: queue.withdraw(v, "good"))
    yield of("withdraw", "id", name, lambda queue, v: queue.withdraw("room", v))
    yield of("edit", "group", name, lambda queue, v: queue.edit(v, "good", "b"))
    yield of("edit", "id", name, lambda queue, v: queue.edit("room", v, "b"))
    yield of("edit", "payload", anything, lambda queue, v: queue.edit("room", "good", v))
    yield of("typing", "group", name, lambda queue, v: queue.typing(v, "ann"))
    yield of("typing", "sender", name, lambda queue, v: queue.typing("room", v))
    yield of("typing", "on", or_none(flag), lambda queue, v: queue.typing("room", "ann", v))
    yield of("set_members", "group", name, lambda queue, v: queue.set_members(v, 3))
    yield of("set_members", "members", count, lambda queue, v: queue.set_members("room", v))
    yield of("set_sender", "group", name, lambda queue, v: queue.set_sender(v, "ann", 1))
    yield of("set_sender", "sender", name, lambda queue, v: queue.set_sender("room", v, 1))
    yield of("set_sender", "weight", or_none(points), lambda q, v: q.set_sender("room", "ann", v))
    yield of("configure", "group", name, lambda queue, v: queue.configure(v, quiet_s=1))
    yield of("group", "group", name, lambda queue, v: queue.group(v))
    yield of("status", "group", name, lambda queue, v: queue.status(v))
    yield of("explain", "group", name, lambda queue, v: queue.explain(v))
    yield of("in", "group", sought, lambda queue, v: (v, "good") in queue)
    yield of("in", "id", sought, lambda queue, v: ("room", v) in queue)
    yield of("in", "", lambda given, value: False, lambda queue, v: v in queue)
    yield of("events", "buffer", whole, lambda q, v: q.events(buffer=v), errors=(ValueError,))
    yield of("subscribe", "callback", function, lambda q, v: q.subscribe(v), errors=(TypeError,))
    yield of(
        "aclose",
        "timeout_s",
        or_none(between(0, math.inf)),
        lambda queue, v: step(queue.aclose(timeout_s=v)),
        errors=(ValueError,),
    )


def others() -> Iterator[Call]:
    histogram = Histogram([0.0, 1.0, 2.0], [3, 4], total=4, maximum=1)
    ended = World()
    ended.queue.clear()

    def result(world: World, given: Any) -> None:
        with contextlib.suppress(Dropped):
            ended.receipt.result(given)

    def advance(world: World, given: Any) -> None:
        with contextlib.suppress(ClockError):  # it drives no loop
            step(Clock(START_S).advance(given))

    def at(world: World, given: Any) -> None:
        with contextlib.closing(new_event_loop(Clock(START_S))) as loop:
            loop.clock.at(given, print)

    yield Call("result", "timeout", or_none(between(0, math.inf)), result)
    yield Call("ManualClock", "start_s", time, lambda world, v: ManualClock(v))
    yield Call(
        "advance_to_us", "now_us", later, lambda world, v: ManualClock(START_S).advance_to_us(v)
    )
    yield Call("quantile", "q", share, lambda world, v: histogram.quantile(v), (ValueError,))
    yield Call("Clock", "start_s", or_none(time), lambda world, v: Clock(v))
    yield Call("Clock.advance", "seconds", between(0, 1e9), advance)
    yield Call("Clock.at", "when", between(0, 1e9), at)


@doubtful
def later(given: Any, value: Value) -> bool | None:
    whole = isinstance(given, int) and not isinstance(given, bool)
    return whole and START_S <= given // 1_000_000 < LATEST_S


def settings() -> Iterator[Call]:
    for key in CONFIG.flat():

        def whole_queue(world: World, given: Any, key: str = key) -> object:
            return Queue(never_called, **{key: given})

        def one_group(world: World, given: Any, key: str = key) -> object:
            return world.queue.configure("room", **{key: given})

        for call in (whole_queue, one_group):
            yield Call(call.__name__, key, either, call, (ConfigError,))


@pytest.mark.parametrize("call", [*pushes(), *verbs(), *others()], ids=str)
def test_calls_take_or_refuse_whatever_comes(call: Call) -> None:
    assert faults(call) == {}


@pytest.mark.parametrize("call", [*settings()], ids=str)
def test_settings_take_or_refuse_whatever_comes(call: Call) -> None:
    assert faults(call) == {}


# Payloads that act when they are let go of


class Dying:
    """A payload that does something to its queue when nobody has it any more."""

    def __init__(self, last_words: Callable[[], object]) -> None:
        self.last_words = last_words

    def __del__(self) -> None:
        self.last_words()


LETTING_GO: dict[str, Callable[[Queue[Any]], object]] = {
    "clear": lambda queue: queue.clear("dying"),
    "clear all": lambda queue: queue.clear(),
    "withdraw": lambda queue: queue.withdraw("dying", "1"),
    "edit": lambda queue: queue.edit("dying", "1", "another"),
    "close": lambda queue: step(queue.aclose(drain=False)),
    "supersede": lambda queue: (queue.put_nowait("dying", "ann", "newer"), queue.check()),
    "expire": lambda queue: queue.check(),
    "hand over": lambda queue: queue._done(queue._next(), None),  # type: ignore[arg-type]
}
LAST_WORDS: dict[str, Callable[[Queue[Any]], object]] = {
    "pushes": lambda queue: queue.put_nowait("dying", "zoe", "last words"),
    "withdraws": lambda queue: queue.withdraw("dying", "2"),
    "edits": lambda queue: queue.edit("dying", "2", "last words"),
    "clears": lambda queue: queue.clear(),
    "closes": lambda queue: step(queue.aclose(drain=False)),
    "looks": lambda queue: (queue.stats(), queue.explain("dying"), queue.groups(), queue.check()),
    "configures": lambda queue: queue.configure("dying", quiet_s=1),
    "pauses": lambda queue: queue.pause("dying"),
}


@pytest.mark.parametrize("words", LAST_WORDS.values(), ids=list(LAST_WORDS))
@pytest.mark.parametrize("let_go", LETTING_GO.values(), ids=list(LETTING_GO))
def test_a_payload_may_use_its_queue_while_it_dies(
    let_go: Callable[[Queue[Any]], object], words: Callable[[Queue[Any]], object]
) -> None:
    clock = ManualClock(START_S)
    queue: Queue[Any] = Queue(never_called, clock=clock, ttl_s=1e6)
    queue.configure("dying", keep="latest" if let_go is LETTING_GO["supersede"] else "all")
    died: list[str] = []

    def last_words() -> None:
        died.append("here")
        with contextlib.suppress(QueueClosed):
            words(queue)
        queue._audit()

    queue.put_nowait("dying", "ann", Dying(last_words), id="1", ttl_s=1)
    queue.put_nowait("dying", "bob", "stays", id="2")
    if let_go is LETTING_GO["expire"]:
        clock.advance_to_us(clock.now_us + 2_000_000)

    with contextlib.suppress(QueueClosed):
        let_go(queue)

    assert died == ["here"]
    queue._audit()


@pytest.mark.parametrize("words", LAST_WORDS.values(), ids=list(LAST_WORDS))
def test_a_refused_payload_may_use_its_queue_while_it_dies(
    words: Callable[[Queue[Any]], object],
) -> None:
    queue: Queue[Any] = Queue(never_called, capacity_per_group=1, clock=ManualClock(START_S))
    queue.put_nowait("dying", "ann", "stays", id="1")
    died: list[str] = []

    def last_words() -> None:
        died.append("here")
        with contextlib.suppress(Rejected):
            words(queue)

    for id in ("1", None):
        with pytest.raises(Rejected):
            queue.put_nowait("dying", "ann", Dying(last_words), id=id)
        if queue._is_closed():
            break
        verdict = queue.put_many(["dying"], ["ann"], [Dying(last_words)])
        assert list(verdict) in (["full"], ["duplicate"], ["accepted"])
        queue.clear()
        with contextlib.suppress(Rejected):
            queue.put_nowait("dying", "ann", "stays", id="1")

    assert died
    queue._audit()

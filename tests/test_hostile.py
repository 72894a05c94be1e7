"""Hostile input: every public call meets every kind of value, and the queue stays sound.

Two tables, one of values and one of calls, are multiplied. Whatever comes of a pair: the call takes
the value, or raises what its documentation says, in a message that names the argument; what was
refused was not accepted; no panic leaves the compiled half; and what a value raised that is no
`Exception`, such as KeyboardInterrupt, comes out as it was.
"""

from __future__ import annotations

import contextlib
import math
from array import array
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from chinwag import Batch, Config, ConfigError, Dropped, Queue, QueueClosed, Rejected
from chinwag._core import ManualClock
from chinwag.stats import Histogram
from chinwag.testing import Clock, ClockError, new_event_loop

START_S = 1e9
LATEST_S = 253_402_300_800  # the end of the year 9999
CONFIG = Config.of(quiet_s=0.5)


class Stop(BaseException):
    """What an impatient user does: no `Exception`, so nobody may swallow it."""


class World:
    """A queue in which one message waits, and what hostile values have done to it."""

    def __init__(self) -> None:
        self.clock = ManualClock(START_S)
        self.queue: Queue[Any] = Queue(_handle, config=CONFIG, clock=self.clock)
        self.receipt = self.queue.put_nowait("room", "ann", "good", id="good")
        self.accepted = 1
        """How many messages the queue must have accepted."""
        self.meddled = False
        self.closed = False
        self.raised: BaseException | None = None

    @property
    def changed(self) -> bool:
        return self.meddled or self.closed or self.raised is not None or self.accepted > 1

    # What the methods of a rebel do before they answer.

    def fails(self, method: str) -> None:
        raise LookupError(method)

    def stops(self, method: str) -> None:
        self.raised = self.raised or Stop(method)
        raise self.raised

    def pushes(self, method: str) -> None:
        self.meddled = True
        if self.accepted < 50 and not self.closed:
            self.queue.put_nowait("room", "zoe", method)
            self.accepted += 1

    def steers(self, method: str) -> None:
        self.meddled = True
        self.queue.withdraw("room", "good")
        self.queue.pause("room", for_s=1)
        self.queue.resume()
        self.queue.set_sender("room", "ann", 2)
        self.queue.configure("room", max_batch=3)
        self.queue.flush("room")
        self.queue.clear()
        self.queue.stats()
        self.queue.explain("room")
        self.queue.check()

    def closes(self, method: str) -> None:
        self.meddled = self.closed = True
        step(self.queue.aclose(drain=False))

    def lies(self, method: str) -> None:
        pass


async def _handle(batch: Batch[Any]) -> None:
    """Never called: these queues are not started."""


def step(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what does not have to wait, without a loop."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    finally:
        work.close()
    raise AssertionError("it waits")


# Values


@dataclass(frozen=True)
class Value:
    """A value, and what it may be taken for."""

    name: str
    make: Callable[[World], Any]
    number: float | None = None
    """What it is worth as a number; None: it is none."""
    moment: float | None = None
    """What it is worth as a time, where that is something else."""
    doubtful: bool = False
    """It can be taken or refused."""


def plain(value: Any, number: float | None = None, **more: Any) -> Value:
    text = repr(value)
    return Value(text if len(text) < 60 else f"{text[:57]}...", lambda world: value, number, **more)


ANSWERS: dict[str, Any] = {
    **dict.fromkeys(("__repr__", "__str__", "__format__"), "rebel"),
    **dict.fromkeys(("__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__"), True),
    **dict.fromkeys(("__ne__", "__contains__"), False),
    **dict.fromkeys(("__int__", "__index__", "__hash__", "__len__", "__trunc__"), 1),
    **dict.fromkeys(("__float__", "__abs__", "__round__", "__neg__", "timestamp"), 1.0),
    **dict.fromkeys(("__getitem__", "__iter__", "__next__", "tolist", "copy", "utcoffset")),
}
PROPERTIES: dict[str, Any] = {"ndim": 1, "dtype": None, "tzinfo": None}


def rebel(
    base: type[Any], act: Callable[[World, str], None], *given: Any, answers: Any = ANSWERS
) -> Callable[[World], Any]:
    """Make an object whose every method acts before it answers."""

    def make(world: World) -> Any:
        def method(name: str, answer: Any) -> Any:
            def asked(self: Any, *args: Any) -> Any:
                act(world, name)
                return iter(()) if name == "__iter__" else answer

            return asked

        members = {name: method(name, answer) for name, answer in answers.items()}
        for name, answer in PROPERTIES.items():
            members[name] = property(method(name, answer))
        return type("Rebel", (base,), members)(*given)

    return make


ACTS = (World.fails, World.stops, World.pushes, World.steers, World.closes, World.lies)
BASES: tuple[tuple[type[Any], tuple[Any, ...]], ...] = (
    (object, ()),
    (str, ("name",)),
    (int, (3,)),
    (float, (0.5,)),
    (tuple, ((1, 2),)),
    (list, ([1, 2],)),
)

VALUES = (
    # Of a kind that some calls take.
    *(plain(value) for value in ("a", "é" * 512, "a\0b", "#1", " ", "inf", "1")),
    *(plain(value, value) for value in (0, 1, 7, 0.5, 1e-6, -0.0, 5e-324, 1e9, math.inf)),
    *(plain(value, value) for value in (2**31, 2**32, 2**63, 2**64, -1, -(2**63), -0.001, 1e308)),
    *(plain(value, value) for value in (math.nan, -math.inf, 1e12, 1e13, -1e13, 1e-300)),
    plain(True),
    plain(False),
    plain(None),
    plain(_handle),
    plain(datetime(2026, 1, 1, tzinfo=UTC), moment=1767225600.0),
    plain(datetime(2026, 1, 1)),
    plain(datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), moment=-1.0),
    plain(datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))), doubtful=True),
    # Of no such kind.
    plain(""),
    plain("x" * 1025),
    Value("a million characters", lambda world: "x" * 1_000_000),
    plain("\ud800"),
    plain("a\udfff"),
    plain(b"room"),
    plain(bytearray(b"room")),
    plain([]),
    plain(["room"]),
    plain({}),
    plain(("room", "1", "more")),
    plain(set()),
    plain(1j),
    plain(...),
    plain(NotImplemented),
    plain(int),
    plain(timedelta(seconds=1)),
    Value("10**400", lambda world: 10**400, 1e308),
    Value("-10**400", lambda world: -(10**400), -1e308),
    Value("10**5000", lambda world: 10**5000, 1e308),
    Value("-10**5000", lambda world: -(10**5000), -1e308),
    # Numbers of others, which are taken where they can be read without loss.
    *(plain(value, doubtful=True) for value in (Decimal(1), Decimal("NaN"), Decimal("sNaN"))),
    *(plain(value, doubtful=True) for value in (Fraction(1, 3), np.float64(1), np.float16(1))),
    *(plain(value, doubtful=True) for value in (np.int8(1), np.uint64(2**64 - 1), np.bool_(True))),
    *(plain(value, doubtful=True) for value in (np.str_("name"), np.array(1.0), np.array("x"))),
    plain(np.float64("nan"), math.nan),
    plain(np.datetime64("2026-01-01")),
    plain(np.timedelta64(1, "s"), doubtful=True),
    plain(np.datetime64("NaT", "s")),
    plain(np.array([1.0])),
    plain(np.array([1.0, 2.0])),
    plain(np.array([], float)),
    plain(np.ma.masked),
    plain(np.array([(1, 2.0)], "i4,f8")),
    # Those that fight back.
    *(
        Value(f"{base.__name__} that {act.__name__}", rebel(base, act, *given), doubtful=True)
        for base, given in BASES
        for act in ACTS
    ),
    *(
        Value(
            f"{what} from {name}",
            rebel(object, World.lies, answers={**ANSWERS, name: answer}),
            doubtful=True,
        )
        for what, name, answer in (
            ("nan", "__float__", math.nan),
            ("text", "__float__", "1"),
            ("text", "__index__", "1"),
            ("huge", "__index__", 10**400),
            ("negative", "__len__", -1),
            ("number", "__repr__", 7),
            ("surrogate", "__repr__", "\ud800"),
            ("long text", "__repr__", "x" * 1_000_000),
        )
    ),
    *(
        Value(
            f"{what} from {name}",
            rebel(datetime, World.lies, 2026, 1, 1, 0, 0, 0, 0, UTC, answers={name: answer}),
        )
        for what, name, answer in (
            ("nothing", "utcoffset", None),
            ("text", "timestamp", "1"),
            ("nan", "timestamp", math.nan),
            ("huge", "timestamp", 10**400),
            ("nothing", "timestamp", None),
        )
    ),
)


# What calls take: True, False, or None for either.

Kind = Callable[[Any, Value], bool | None]


def doubtful(judge: Kind) -> Kind:
    return lambda given, value: None if value.doubtful else judge(given, value)


def anything(given: Any, value: Value) -> bool:
    return True


def name(given: Any, value: Value) -> bool | None:
    if not isinstance(given, str):
        return False
    try:
        return 1 <= len(str.encode(given)) <= 1024
    except UnicodeEncodeError:
        return False


def own_id(given: Any, value: Value) -> bool | None:
    """Ids of the form `#<number>` are given by the queue."""
    return name(given, value) and not str.startswith(given, "#")


def sought(given: Any, value: Value) -> bool | None:
    return isinstance(given, str)


def between(least: float, most: float, *others: float) -> Kind:
    """Numbers, but no bools."""

    def judge(given: Any, value: Value) -> bool:
        number = value.number
        return number is not None and (least <= number <= most or number in others)

    return doubtful(judge)


@doubtful
def time(given: Any, value: Value) -> bool | None:
    at = value.number if value.moment is None else value.moment
    return at is not None and 0 <= at <= LATEST_S


@doubtful
def flag(given: Any, value: Value) -> bool | None:
    return isinstance(given, bool)


@doubtful
def whole(given: Any, value: Value) -> bool | None:
    return isinstance(given, int) and not isinstance(given, bool) and given > 0


@doubtful
def count(given: Any, value: Value) -> bool | None:
    return isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**32


@doubtful
def function(given: Any, value: Value) -> bool | None:
    return callable(given)


def either(given: Any, value: Value) -> None:
    """A setting: `test_config.py` says which values which may have."""


def or_none(kind: Kind) -> Kind:
    return lambda given, value: True if given is None else kind(given, value)


points, span = between(-1e12, 1e12), between(0, 1e9, math.inf)
size, share = between(1e-6, 1e12), between(0, 1)

OPTIONS: dict[str, Kind] = {
    "id": own_id,
    "at": time,
    "real_time": flag,
    "rank": points,
    "size": size,
    "batch_key": name,
    "quiet_s": span,
    "flush": flag,
    "standalone": flag,
    "bypass": flag,
    "context": flag,
    "ttl_s": span,
    "delay_s": between(0, 1e9),
}


# Calls


@dataclass(frozen=True)
class Call:
    """A public call with one argument to be filled in."""

    name: str
    argument: str
    kind: Kind
    make: Callable[[World, Any], object]
    errors: tuple[type[Exception], ...] = (TypeError, ValueError)
    pushes: int = 0
    """How many messages it pushes if it is taken."""

    def __str__(self) -> str:
        return f"{self.name} {self.argument}"


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
            return Queue(_handle, **{key: given})

        def one_group(world: World, given: Any, key: str = key) -> object:
            return world.queue.configure("room", **{key: given})

        for call in (whole_queue, one_group):
            yield Call(call.__name__, key, either, call, (ConfigError,))


def faults(call: Call) -> dict[str, str]:
    """Make the call with every value; say what is wrong with what came of it."""
    found: dict[str, str] = {}
    world = World()
    for value in VALUES:
        if world.changed:
            world = World()
        if fault := _judged(call, value, world):
            found[value.name] = fault
            world = World()
    return found


def _judged(call: Call, value: Value, world: World) -> str | None:
    given = value.make(world)
    before = (world.queue.check(), world.queue.groups())
    error = raised_by(lambda: call.make(world, given))
    world.accepted += 0 if error else call.pushes
    return (
        _wrong_answer(call, world, error)
        or _wrong_verdict(call.kind(given, value), error)
        or _unsound(world, None if error is None or world.meddled else before)
    )


def raised_by(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def _wrong_answer(call: Call, world: World, error: BaseException | None) -> str | None:
    if world.raised is not None:
        return None if error is world.raised else f"swallowed {world.raised!r}: {error!r}"
    if error is None or (world.closed and isinstance(error, QueueClosed)):
        return None
    if not isinstance(error, call.errors):
        return f"raised {type(error).__name__}: {str(error)[:200]}"
    text = str(error)
    if call.argument not in text:
        return f"does not name {call.argument}: {text[:200]}"
    return None if len(text) < 500 else f"raised {len(text):,} characters"


def _wrong_verdict(takes: bool | None, error: BaseException | None) -> str | None:
    if takes is None or takes == (error is None):
        return None
    return "was taken" if error is None else f"was refused: {str(error)[:200]}"


def _unsound(world: World, untouched: Any) -> str | None:
    queue = world.queue
    ledger = queue.check()
    if ledger.accepted != world.accepted:
        return f"accepted {ledger.accepted}, not {world.accepted}"
    if untouched is not None and (ledger, queue.groups()) != untouched:
        return f"left a trace: {ledger}, {queue.groups()}"
    world.clock.advance_to_us(world.clock.now_us + 1_000_000)
    queue._audit()
    return None


@pytest.mark.parametrize("call", [*pushes(), *verbs(), *others()], ids=str)
def test_calls_take_or_refuse_whatever_comes(call: Call) -> None:
    assert faults(call) == {}


@pytest.mark.parametrize("call", [*settings()], ids=str)
def test_settings_take_or_refuse_whatever_comes(call: Call) -> None:
    assert faults(call) == {}


# Columns


class Column:
    """A column of somebody's table: it knows its kind, and gives a list if asked."""

    def __init__(self, listed: Any, *, ndim: Any = 1, dtype: Any = None) -> None:
        self.listed, self.ndim, self.dtype = listed, ndim, dtype

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self) -> Iterator[Any]:
        return iter(self.listed)

    def tolist(self) -> Any:
        return self.listed


class Emptying(list[Any]):
    """A list that is its own copy, and empty once somebody has read from it."""

    def copy(self) -> Emptying:
        return self

    def __iter__(self) -> Iterator[Any]:
        self.clear()
        return iter(())


class Emptier:
    """A number that empties lists when it is read."""

    lists: tuple[list[Any], ...] = ()

    def __float__(self) -> float:
        for column in self.lists:
            column.clear()
        return 1.0


SAME = {
    "strided": np.arange(6.0)[::2],
    "backwards": np.array([4.0, 2.0, 0.0])[::-1],
    "of a matrix": np.array([[0.0, 9], [2, 9], [4, 9]])[:, 0],
    "of the other byte order": np.array([0, 2, 4], ">f8"),
    "read-only": np.frombuffer(np.array([0.0, 2, 4]).tobytes()),
    "of half precision": np.array([0, 2, 4], np.float16),
    "of bytes": np.array([0, 2, 4], np.uint8),
    "unsigned and backwards": np.array([4, 2, 0], ">u8")[::-1],
    "of objects": np.array([0, 2.0, Fraction(4)], object),
    "of records": np.array([(0, 1), (2, 1), (4, 1)], "f4,i2")["f0"],
    "masked nowhere": np.ma.array([0.0, 2, 4]),
    "of a subclass": np.array([0.0, 2, 4]).view(type("Own", (np.ndarray,), {})),
    "an array.array": array("d", [0, 2, 4]),
    "a memoryview": memoryview(array("d", [0, 2, 4])),
    "a range": range(0, 6, 2),
    "a deque": deque([0, 2, 4]),
    "keys of a dict": dict.fromkeys((0, 2, 4)).keys(),
    "a tuple": (0, 2, 4),
    "of a table": Column([0, 2, 4]),
}


@pytest.mark.parametrize("column", ["at", "rank", "payloads"])
@pytest.mark.parametrize("values", SAME.values(), ids=list(SAME))
def test_a_column_says_the_same_in_every_form(column: str, values: Any) -> None:
    queue: Queue[Any] = Queue(_handle, clock=ManualClock(START_S))
    columns = {"groups": ["a"] * 3, "senders": ["ann"] * 3, "payloads": [0, 2, 4], column: values}

    verdicts = queue.put_many(**columns)

    assert list(verdicts) == ["accepted"] * 3
    batch = queue._next()
    assert batch is not None
    assert [getattr(message, column.rstrip("s")) for message in batch] == [0, 2, 4]
    queue._audit()


def test_what_is_left_out_of_a_column_is_left_out_of_the_message() -> None:
    queue: Queue[Any] = Queue(_handle, clock=ManualClock(START_S))

    queue.put_many(
        *(["a"] * 3, ["ann"] * 3, range(3)),
        at=np.ma.array([1.0, 2, 3], mask=[False, True, False]),
        rank=np.array([None, 2, 3], object),
        id=[None, "b", None],
    )

    batch = queue._next()
    assert batch is not None
    assert [message.at for message in batch] == [1, None, 3]
    assert [message.rank for message in batch] == [0, 2, 3]
    assert [message.id for message in batch] == ["#0", "b", "#2"]


def raising(world: World) -> Iterator[Any]:
    yield "a"
    world.fails("in row 1")


def stopping(world: World) -> Iterator[Any]:
    yield "a"
    world.stops("in row 1")


def pushing(world: World) -> Iterator[Any]:
    for text in "abc":
        world.pushes("in a column")
        yield text


NO_COLUMNS: dict[str, Callable[[World], Any]] = {
    "a number": lambda world: 7,
    "a text": lambda world: "abc",
    "bytes": lambda world: b"abc",
    "a mapping": lambda world: {"a": 1, "b": 2, "c": 3},
    "nothing": lambda world: None,
    "two rows": lambda world: ["a", "b"],
    "four rows": lambda world: ["a", "b", "c", "d"],
    "an array of none": lambda world: np.array([]),
    "an array of no dimension": lambda world: np.array("a"),
    "a matrix": lambda world: np.zeros((3, 1)),
    "a matrix transposed": lambda world: np.zeros((3, 3))[::-1].T,
    "times that are none": lambda world: np.array(["NaT"] * 3, "datetime64[ns]"),
    "many dimensions": lambda world: Column(["a", "b", "c"], ndim=10**400),
    "dimensions in words": lambda world: Column(["a", "b", "c"], ndim="1"),
    "times in words": lambda world: Column(["a", "b", "c"], dtype=np.dtype("M8[s]")),
    "a list that is a text": lambda world: Column("abc"),
    "a list that is none": lambda world: Column(None),
    "a list that is a number": lambda world: Column(3),
    "a list that is a dict": lambda world: Column({"a": 1, "b": 2, "c": 3}),
    "a list of another length": lambda world: Column(["a"]),
}
ODD_COLUMNS: dict[str, Callable[[World], Any]] = {
    "records": lambda world: np.zeros(3, "i4,i4"),
    "an iterator that raises": raising,
    "an iterator that stops": stopping,
    "an iterator that pushes": pushing,
    "a list that empties itself": lambda world: Emptying(["a", "b", "c"]),
    **{
        f"{base.__name__} that {act.__name__}": rebel(base, act, *given)
        for base, given in BASES
        for act in ACTS
    },
}


@pytest.mark.parametrize("column", ["groups", "senders", "payloads", *OPTIONS])
def test_a_column_is_taken_as_a_whole_or_not_at_all(column: str) -> None:
    """An option can also be one value for all rows, but for `id`."""
    must = {"groups", "senders", "payloads"}

    def judged(make: Callable[[World], Any], *, refused: bool) -> str | None:
        world = World()
        columns = {"groups": ["b"] * 3, "senders": ["ann"] * 3, "payloads": ["x"] * 3}
        columns[column] = make(world)
        error = raised_by(lambda: world.queue.put_many(**columns))
        world.accepted += 0 if error else 3
        if isinstance(error, LookupError) and str(error) in (*ANSWERS, *PROPERTIES, "in row 1"):
            return _unsound(world, None)  # the column's own, and out it came
        # The first one that is read sets the length of the others, and is never the one to blame.
        argument = (
            "" if column == "payloads" else column.removesuffix("s" if column in must else "")
        )
        call = Call("put_many", argument, either, lambda world, given: None)
        return (
            _wrong_answer(call, world, error)
            or _wrong_verdict(False if refused else None, error)
            or _unsound(world, None)
        )

    # A payload may be anything, no time as well.
    fine = {"times that are none"} if column == "payloads" else set()
    faults = {
        name: judged(make, refused=column in must and name not in fine)
        for name, make in NO_COLUMNS.items()
    }
    faults |= {name: judged(make, refused=False) for name, make in ODD_COLUMNS.items()}

    assert {name: fault for name, fault in faults.items() if fault} == {}


def test_columns_are_those_of_the_moment_of_the_call() -> None:
    """Reading a value runs somebody's code, which may change the lists it was given in."""
    queue: Queue[Any] = Queue(_handle, clock=ManualClock(START_S))
    number = Emptier()
    groups, senders, payloads, ranks = ["a"] * 3, ["ann"] * 3, [0, 1, 2], [number] * 3
    number.lists = (groups, senders, payloads, ranks)

    verdicts = queue.put_many(
        groups, senders, payloads, rank=ranks, size=(number for _ in range(3))
    )

    assert groups == []
    assert list(verdicts) == ["accepted"] * 3
    batch = queue._next()
    assert batch is not None
    assert batch.payloads == [0, 1, 2]
    queue._audit()


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
    queue: Queue[Any] = Queue(_handle, clock=clock, ttl_s=1e6)
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
    queue: Queue[Any] = Queue(_handle, capacity_per_group=1, clock=ManualClock(START_S))
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

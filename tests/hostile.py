"""What tests of hostile input share: the values, and a queue that sees what they do to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from chinwag import Batch, Config, Queue, QueueClosed
from chinwag._core import ManualClock

START_S = 1e9
LATEST_S = 253_402_300_800  # the end of the year 9999
CONFIG = Config.of(quiet_s=0.5)


class Stop(BaseException):
    """What an impatient user does: no `Exception`, so nobody may swallow it."""


class World:
    """A queue in which one message waits, and what hostile values have done to it."""

    def __init__(self) -> None:
        self.clock = ManualClock(START_S)
        self.queue: Queue[Any] = Queue(never_called, config=CONFIG, clock=self.clock)
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


async def never_called(batch: Batch[Any]) -> None:
    """Handle nothing: these queues are not started."""


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
    plain(never_called),
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
        wrong_answer(call, world, error)
        or wrong_verdict(call.kind(given, value), error)
        or unsound(world, None if error is None or world.meddled else before)
    )


def raised_by(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def wrong_answer(call: Call, world: World, error: BaseException | None) -> str | None:
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


def wrong_verdict(takes: bool | None, error: BaseException | None) -> str | None:
    if takes is None or takes == (error is None):
        return None
    return "was taken" if error is None else f"was refused: {str(error)[:200]}"


def unsound(world: World, untouched: Any) -> str | None:
    queue = world.queue
    ledger = queue.check()
    if ledger.accepted != world.accepted:
        return f"accepted {ledger.accepted}, not {world.accepted}"
    if untouched is not None and (ledger, queue.groups()) != untouched:
        return f"left a trace: {ledger}, {queue.groups()}"
    world.clock.advance_to_us(world.clock.now_us + 1_000_000)
    queue._audit()
    return None

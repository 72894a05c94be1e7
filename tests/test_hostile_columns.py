"""Hostile columns: each form says the same, and each column is taken as a whole or not at all."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from chinwag import Queue
from chinwag._core import ManualClock
from tests.hostile import (
    ACTS,
    ANSWERS,
    BASES,
    OPTIONS,
    PROPERTIES,
    START_S,
    Call,
    World,
    either,
    never_called,
    raised_by,
    rebel,
    unsound,
    wrong_answer,
    wrong_verdict,
)


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
    queue: Queue[Any] = Queue(never_called, clock=ManualClock(START_S))
    columns = {"groups": ["a"] * 3, "senders": ["ann"] * 3, "payloads": [0, 2, 4], column: values}

    verdicts = queue.put_many(**columns)

    assert list(verdicts) == ["accepted"] * 3
    batch = queue._next()
    assert batch is not None
    assert [getattr(message, column.rstrip("s")) for message in batch] == [0, 2, 4]
    queue._audit()


def test_what_is_left_out_of_a_column_is_left_out_of_the_message() -> None:
    queue: Queue[Any] = Queue(never_called, clock=ManualClock(START_S))

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
            return unsound(world, None)  # the column's own, and out it came
        # The first one that is read sets the length of the others, and is never the one to blame.
        argument = (
            "" if column == "payloads" else column.removesuffix("s" if column in must else "")
        )
        call = Call("put_many", argument, either, lambda world, given: None)
        return (
            wrong_answer(call, world, error)
            or wrong_verdict(False if refused else None, error)
            or unsound(world, None)
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
    queue: Queue[Any] = Queue(never_called, clock=ManualClock(START_S))
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

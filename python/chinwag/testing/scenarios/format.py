"""The file: arrivals, settings and controls of each scenario, and the handler calls it expects.

Reading checks the shape and the types. It keeps what it does not know, so that `features` can name
it: a file may use terms that came later than this reader.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class FormatError(Exception):
    """The file is not of the format; the message says where."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One push."""

    t_ms: float
    group: str
    sender: str
    id: str
    occurrence: int
    """1 for the first arrival with this id, 2 for the next."""
    facts: Json
    """Everything else the file says about it."""

    def fact(self, name: str) -> Any:
        """What the file says about it under this name, or None."""
        if name in ("t_ms", "group", "sender", "id"):
            return getattr(self, name)
        return self.facts.get(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """One control call."""

    t_ms: float
    op: str
    facts: Json

    @property
    def group(self) -> str | None:
        """The group it is about; None for the whole queue."""
        return self.facts.get("group")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedCall:
    """One handler call as the file expects it."""

    n: int
    group: str | None
    ids: list[str]
    start: Json
    end: str | None
    facts: Json

    @property
    def optional(self) -> bool:
        """Whether the call may be absent."""
        return bool(self.facts.get("optional"))


@dataclass(frozen=True, kw_only=True, slots=True)
class NotHandled:
    """A message that must never reach the handler."""

    id: str
    reason: str
    occurrence: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One scenario of a file."""

    id: str
    requires: list[str]
    config: Json
    arrivals: list[Arrival]
    controls: list[Control]
    duration_ms: float
    durations_ms: dict[str, float]
    outcomes: dict[str, list[str]]
    behaviour: str
    order: str
    calls: list[ExpectedCall]
    not_handled: list[NotHandled]
    words: list[str]
    unknown: list[str]
    """Keys under `handler_` and `expected` that this reader does not know."""

    @property
    def groups(self) -> set[str]:
        """The groups of its arrivals."""
        return {arrival.group for arrival in self.arrivals}

    def arrival(self, id: str) -> Arrival | None:
        """The first arrival with this id."""
        return next((arrival for arrival in self.arrivals if arrival.id == id), None)


def read(path: Path) -> list[Scenario]:
    """Read a file of scenarios.

    Raises:
        FormatError: It cannot be read, or is not of the format.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise FormatError(f"{path}: not a JSON file: {error}") from None
    try:
        return _scenarios(document)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _scenarios(document: object) -> list[Scenario]:
    if not isinstance(document, dict) or not isinstance(document.get("scenarios"), list):
        raise FormatError("not a file of scenarios: no list `scenarios` at the top")
    if document.get("format_version", 1) != 1:
        raise FormatError(f"format_version {document['format_version']!r}: only 1 is known")
    scenarios = [_scenario(entry, i) for i, entry in enumerate(document["scenarios"])]
    seen: set[str] = set()
    for scenario in scenarios:
        if scenario.id in seen:
            raise FormatError(f"scenario {scenario.id!r} is there twice")
        seen.add(scenario.id)
    return scenarios


def _scenario(entry: object, index: int) -> Scenario:
    at = f"scenario {index + 1}"
    entry = _object(entry, at)
    id = _take(entry, "id", at, _text)
    at = f"scenario {id!r}"
    expected = _take(entry, "expected", at, _object)
    return Scenario(
        id=id,
        requires=_take(entry, "requires", at, _list_of(_text), default=[]),
        config=_take(entry, "config", at, _object),
        arrivals=_arrivals(_take(entry, "arrivals", at, _list_of(_object)), at),
        controls=[
            Control(
                t_ms=_take(facts, "t_ms", f"{at}, control", _milliseconds),
                op=_take(facts, "op", f"{at}, control", _text),
                facts=_rest(facts, "t_ms", "op"),
            )
            for facts in _take(entry, "controls", at, _list_of(_object), default=[])
        ],
        duration_ms=_take(entry, "handler_duration_ms", at, _milliseconds, default=0),
        durations_ms=_take(entry, "handler_durations_ms", at, _map_of(_milliseconds), default={}),
        outcomes=_take(entry, "handler_outcomes", at, _map_of(_list_of(_text)), default={}),
        behaviour=_take(entry, "handler_behaviour", at, _text, default=""),
        order=_take(expected, "order", at, _text, default="total"),
        calls=_calls(_take(expected, "calls", at, _list_of(_object), default=[]), at),
        not_handled=[
            NotHandled(
                id=_take(facts, "id", f"{at}, not_handled", _text),
                reason=_take(facts, "reason", f"{at}, not_handled", _text),
                occurrence=_take(facts, "occurrence", f"{at}, not_handled", _count, default=None),
            )
            for facts in _take(expected, "not_handled", at, _list_of(_object), default=[])
        ],
        words=[
            *_take(expected, "invariants", at, _list_of(_text), default=[]),
            *_take(expected, "checks", at, _list_of(_text), default=[]),
        ],
        unknown=[
            *(key for key in entry if key.startswith("handler_") and key not in _HANDLER),
            *(f"expected {key}" for key in expected if key not in _EXPECTED),
        ],
    )


def _arrivals(entries: list[Json], at: str) -> list[Arrival]:
    arrivals: list[Arrival] = []
    for facts in entries:
        where = f"{at}, arrival {len(arrivals) + 1}"
        id = _take(facts, "id", where, _text)
        arrivals.append(
            Arrival(
                t_ms=_take(facts, "t_ms", where, _milliseconds),
                group=_take(facts, "group", where, _text),
                sender=_take(facts, "sender", where, _text),
                id=id,
                occurrence=1 + sum(arrival.id == id for arrival in arrivals),
                facts=_rest(facts, "t_ms", "group", "sender", "id"),
            )
        )
    return arrivals


def _calls(entries: list[Json], at: str) -> list[ExpectedCall]:
    calls = []
    for index, facts in enumerate(entries):
        n = _take(facts, "n", f"{at}, call {index + 1}", _count, default=index + 1)
        where = f"{at}, call {n}"
        start = _take(facts, "start", where, _object, default={})
        for key in start:
            if key not in _START:
                raise FormatError(f"{where}: start has no {key!r}, only {', '.join(_START)}")
            _take(start, key, where, _milliseconds)
        calls.append(
            ExpectedCall(
                n=n,
                group=_take(facts, "group", where, _text, default=None),
                ids=_take(facts, "ids", where, _list_of(_text)),
                start=start,
                end=_take(facts, "end", where, _text, default=None),
                facts=_rest(facts, "n", "group", "ids", "start", "end"),
            )
        )
    numbers = [call.n for call in calls]
    for call in calls:
        if numbers.count(call.n) > 1:
            raise FormatError(f"{at}: two calls have the number {call.n}")
        if call.start.get("after_end_of", call.n) not in numbers:
            raise FormatError(
                f"{at}, call {call.n}: no call {call.start['after_end_of']} to follow"
            )
    return sorted(calls, key=lambda call: call.n)


_Check = Callable[[object, str], Any]
_REQUIRED = object()


def _take(
    facts: Mapping[str, Any], key: str, at: str, check: _Check, default: Any = _REQUIRED
) -> Any:
    value = facts.get(key)
    if value is None:
        if default is _REQUIRED:
            raise FormatError(f"{at}: `{key}` is missing")
        return default
    return check(value, f"{at}: `{key}`")


def _object(value: object, at: str) -> Json:
    if not isinstance(value, dict):
        raise FormatError(f"{at} must be an object, not {value!r:.60}")
    return value


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{at} must be a string, not {value!r:.60}")
    return value


def _count(value: object, at: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FormatError(f"{at} must be a whole number of at least 1, not {value!r:.60}")
    return value


def _milliseconds(value: object, at: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise FormatError(f"{at} must be a number of at least 0, not {value!r:.60}")
    return value


def _list_of(check: _Check) -> _Check:
    def checked(value: object, at: str) -> list[Any]:
        if not isinstance(value, list):
            raise FormatError(f"{at} must be a list, not {value!r:.60}")
        return [check(item, at) for item in value]

    return checked


def _map_of(check: _Check) -> _Check:
    def checked(value: object, at: str) -> dict[str, Any]:
        return {key: check(item, f"{at}, {key!r}") for key, item in _object(value, at).items()}

    return checked


def _rest(facts: Json, *taken: str) -> Json:
    # A null says the same as no entry, except of what a call sees or returns.
    return {
        key: value
        for key, value in facts.items()
        if key not in taken and (value is not None or key in _NULL_COUNTS)
    }


_HANDLER = (
    "handler_duration_ms",
    "handler_durations_ms",
    "handler_outcomes",
    "handler_behaviour",
)
_EXPECTED = ("order", "calls", "not_handled", "invariants", "checks")
_START = ("at_ms", "min_ms", "max_ms", "after_end_of", "tol_ms")
_NULL_COUNTS = ("sees_saved_state", "returns", "content")

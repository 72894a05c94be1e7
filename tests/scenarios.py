"""What tests of the scenario runner share: small scenarios made up there, and how they are run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Run = Callable[..., tuple[int, list[str]]]


def scenario(**changes: Any) -> dict[str, Any]:
    """Two messages 50 ms apart, calls of 100 ms, one message a call."""
    made: dict[str, Any] = {
        "id": "two",
        "requires": [],
        "config": {"max_concurrent_per_group": 1, "order_scope": "group", "batch": None},
        "arrivals": [
            {"t_ms": 0, "group": "g", "sender": "u", "id": "a"},
            {"t_ms": 50, "group": "g", "sender": "u", "id": "b"},
        ],
        "handler_duration_ms": 100,
        "expected": expected(),
    }
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = {**made[key], **value}
        else:
            made[key] = value
    return made


def expected(**changes: Any) -> dict[str, Any]:
    return {
        "order": "total",
        "calls": [call(1, ["a"], at_ms=0), call(2, ["b"], at_ms=100, after_end_of=1)],
        "not_handled": [],
        "invariants": [],
        **changes,
    }


def call(n: int, ids: list[str], end: str = "completed", **start: float) -> dict[str, Any]:
    return {"n": n, "group": "g", "ids": ids, "start": start, "end": end}


BATCH = {
    "scope": "group",
    "quiet_ms": 200,
    "window": "sliding",
    "max_wait_ms": None,
    "max_size": None,
    "min_size": None,
    "idle_start": "wait",
    "quiet_when_busy": False,
    "keep": "all",
}

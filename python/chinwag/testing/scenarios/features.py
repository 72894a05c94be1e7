"""What a scenario needs, and what there is not yet.

A scenario is played only when everything it needs exists. What it needs is what it says
(`requires`) and what its settings, arrivals, controls and handler use, so that a file that forgets
to say so is skipped rather than failed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from chinwag.testing.scenarios import behaviour
from chinwag.testing.scenarios.format import Json, Scenario

MISSING: dict[str, str] = {
    "persistence": "a store and a restart from it",
    # An application's own `if`, and its own summary: chinwag cannot express them, so they stay.
    "filter": "messages that an application leaves out",
    "overflow_digest": "a digest of what was evicted",
}
"""Features that do not exist, by name; who builds one deletes its entry."""

KNOWN = frozenset(
    {
        "background",
        "batch",
        "bypass",
        "cancel_message",
        "capacity",
        "clear",
        "concurrency",
        "dead_letter",
        "dedup",
        "drop_newest",
        "drop_oldest",
        "edit_message",
        "event_time",
        "fairness",
        "filter",
        "fixed_window",
        "flush",
        "inject",
        "inject_limit",
        "interrupt",
        "interrupt_merge",
        "interrupt_quiet",
        "interrupt_victim",
        "keep_latest",
        "max_size",
        "max_wait",
        "min_size",
        "no_interrupt_flag",
        "overflow_digest",
        "partial_failure",
        "pause",
        "per_message_quiet",
        "persistence",
        "priority",
        "push_result",
        "quiet",
        "reject",
        "result_handle",
        "resume",
        "retry",
        "retry_off",
        "rollback",
        "shutdown",
        "standalone",
        "state",
        "stop",
        "thread",
        "time_shift",
        "ttl",
        "typing",
        "validation",
        "weights",
    }
)
"""Every name that `requires` may use; a scenario that needs another is skipped by that name."""


def missing(scenario: Scenario) -> list[str]:
    """Name what a scenario needs and does not find; empty when it can be played."""
    needed = {*scenario.requires, *_used(scenario)}
    return sorted(name for name in needed if name in MISSING or name not in KNOWN)


def _used(scenario: Scenario) -> Iterator[str]:
    config = scenario.config
    yield from _look_up("setting ", config, _CONFIG)
    for part, table in _PARTS.items():
        facts = config.get(part)
        if isinstance(facts, dict):
            yield from _look_up(f"{part} ", facts, table)
    if config.get("busy") in ("interrupt", "rollback"):
        work = config.get("interrupted_work")
        yield from {"merge": ["interrupt_merge"], "resume": ["resume"]}.get(str(work), [])
    named = {config[part].get(key) for part, key in _NAMED if isinstance(config.get(part), dict)}
    for arrival in scenario.arrivals:
        unknown = named - _ARRIVAL.keys()
        facts = {key: value for key, value in arrival.facts.items() if key not in unknown}
        yield from _look_up("arrival ", facts, _ARRIVAL)
    for control in scenario.controls:
        yield from _look_up("control ", {"op": control.op}, _CONTROL)
        yield from _look_up(f"{control.op} ", control.facts, _CONTROL_FACTS)
        missing = (key for key in _CONTROL_NEEDS.get(control.op, ()) if key not in control.facts)
        yield from (f"{control.op} without {key!r}" for key in missing)
    for outcomes in scenario.outcomes.values():
        yield from (f"outcome {name!r}" for name in outcomes if name not in ("ok", "error"))
    yield from behaviour.needs(scenario.behaviour)
    yield from _used_together(scenario)
    for call in scenario.calls:
        yield from (name for key, name in _CALL.items() if key in call.facts)
    for expected in scenario.not_handled:
        yield from _look_up("not_handled ", {"reason": expected.reason}, _NOT_HANDLED)
    yield from scenario.unknown
    if not re.fullmatch(_ORDERS, scenario.order):
        yield f"order {scenario.order!r}"


def _used_together(scenario: Scenario) -> Iterator[str]:
    """Name what cannot be said of these settings and arrivals though each of them can."""
    config = scenario.config
    batch = config["batch"] if isinstance(config.get("batch"), dict) else {}
    own_quiet = batch and any(arrival.facts.get("quiet_ms") for arrival in scenario.arrivals)
    if config.get("order_scope") == "none":
        # Messages that wait for nobody are due at once (W10).
        if batch.get("idle_start") != "immediate" and (batch.get("quiet_ms") or own_quiet):
            yield "a quiet period with order_scope 'none'"
        if (batch.get("min_size") or 1) > 1:
            yield "batch min_size with order_scope 'none'"
    if batch.get("window") == "fixed" and batch.get("quiet_ms"):
        # It ends by its longest wait, which asks neither for a size nor for the last message.
        if (batch.get("min_size") or 1) > 1:
            yield "batch min_size in a fixed window"
        if own_quiet:
            yield "quiet_ms of a message in a fixed window"
    if config.get("clock") == "event_time" and batch.get("keep") != "latest":
        yield "an order by event time"  # it never reorders (T2)
    yield from _order(scenario)


def _order(scenario: Scenario) -> Iterator[str]:
    config, priority = scenario.config, scenario.config.get("priority")
    several, fair = len(scenario.groups) > 1, config.get("fairness") not in (None, "arrival")
    if isinstance(priority, dict):
        field, order = priority.get("field"), priority.get("order")
        values = (arrival.fact(str(field)) for arrival in scenario.arrivals)
        numbers = all(value is None or _is_number(value) for value in values)
        if field is None or order is None or not numbers:
            yield f"priority {order!r} of {field!r}, which is no number everywhere"
        shared = several and config.get("max_concurrent_total") is not None
        if order == "earliest_effective_arrival_first" and shared and fair:
            yield "a time shift between groups that share evenly"  # aging is inside one (O7)
    interrupts = config.get("busy") in ("interrupt", "rollback")
    if interrupts and several and not fair and config.get("order_scope") == "none":
        # First come is a matter of rank then, and who ranks lower interrupts nobody (B6).
        yield "an interrupt with arrival order between groups"
    weights = config.get("weights") or {}
    if not isinstance(weights, dict) or not all(map(_is_share, weights.values())):
        yield f"weights {weights!r}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0.001 <= value <= 1000


# What the values of a key need: None nothing; a name that feature, whatever the value; a mapping
# or a function one feature or None for each value. A key or value outside is named as it stands.
_Rule = str | None | Mapping[Any, str | None] | Callable[[Any], str | None]


def _look_up(what: str, facts: Json, table: Mapping[str, _Rule]) -> Iterator[str]:
    for key, value in facts.items():
        if value is None or value is False:
            continue
        if key not in table:
            yield f"{what}{key!r}"
            continue
        rule = table[key]
        if isinstance(rule, Mapping):
            known = isinstance(value, str | int) and value in rule
            rule = rule[value] if known else f"{what}{key} {value!r}"
        elif callable(rule):
            rule = rule(value)
        if rule is not None:
            yield rule


def _object(value: object) -> str | None:
    return None if isinstance(value, dict) else f"a setting {value!r}"


_ORDERS = r"total|per_group|per_sender|subset|prefix[1-9]\d*|statistic|last_only"
_NAMED = (("dedup", "key"), ("priority", "field"))
_CONFIG: dict[str, _Rule] = {
    "max_concurrent_per_group": None,
    "max_concurrent_total": None,
    "order_scope": {"group": None, "sender": None, "none": None},
    "batch": _object,
    "busy": {
        "enqueue": None,
        "reject": "reject",
        "interrupt": "interrupt",
        "rollback": "rollback",
        "inject": "inject",
        "interrupt_background": "background",
    },
    "interrupted_work": {"abandon": None, "merge": None, "resume": None},
    "interrupt_quiet_ms": "interrupt_quiet",
    "interrupt_victim": "interrupt_victim",
    "interrupt_scope": {"sender": None},
    "inject_limit": "inject_limit",
    "capacity": _object,
    "ttl_ms": "ttl",
    "dedup": _object,
    "retry": _object,
    "priority": _object,
    "fairness": {"arrival": None, "round_robin": None, "weighted": "weights"},
    "weights": "weights",
    "clock": {"event_time": "event_time"},
}
_PARTS: dict[str, dict[str, _Rule]] = {
    "batch": {
        "scope": {"group": None, "sender": None, "thread": None},
        "quiet_ms": None,
        "window": {"sliding": None, "fixed": None},
        "max_wait_ms": None,
        "max_size": None,
        "min_size": None,
        "idle_start": {"immediate": None, "wait": None},
        "quiet_when_busy": {True: None},
        "keep": {"all": None, "latest": "keep_latest"},
    },
    "capacity": {
        "max_queued_per_group": None,
        "overflow": {
            "error": None,
            "drop_newest": "drop_newest",
            "drop_oldest": "drop_oldest",
            "summarize": "overflow_digest",
        },
    },
    "dedup": {"window_ms": None, "scope": {"group": None}, "key": None, "max": {1: None}},
    "retry": {
        "max_attempts": lambda attempts: None if attempts == 1 else "retry",
        "backoff_ms": None,
        "keep_order": {True: None},
    },
    "priority": {
        "field": "priority",
        "order": {
            "low_first": None,
            "high_first": None,
            "earliest_effective_arrival_first": "time_shift",
        },
    },
}
_ARRIVAL: dict[str, _Rule] = {
    "duplicate": None,
    "thread": None,
    "flush": None,
    "standalone": None,
    "background": "background",
    "bypass": "bypass",
    "no_interrupt": None,
    "quiet_ms": None,
    "from_self": "filter",
    # Facts that travel in the payload, and matter only where a setting names them.
    "rank": None,
    "shift_ms": None,
    "album": None,
    "kind": None,
    "content": None,
    "event_t_ms": None,
    "dedup_key": None,
}
_CONTROL: dict[str, _Rule] = {
    "op": {
        "pause": None,
        "resume": None,
        "clear": None,
        "flush": None,
        "shutdown": None,
        "stop": "stop",
        "cancel_message": "cancel_message",
        "edit_message": "edit_message",
        "typing": "typing",
        "kill": "persistence",
        "restart": "persistence",
    }
}
_TOLD = ("cancelled", "edited", "done", "too_late")
_CONTROL_FACTS: dict[str, _Rule] = {
    **dict.fromkeys(
        ("group", "sender", "id", "content", "on", "drain", "timeout_ms", "for_ms"), None
    ),
    "expect": lambda told: None if told in _TOLD or isinstance(told, int) else f"answer {told!r}",
}
_CONTROL_NEEDS = {
    "flush": ("group",),
    "stop": ("group",),
    "typing": ("group", "sender"),
    "cancel_message": ("id",),
    "edit_message": ("id",),
}
# What a call is expected to have seen, even where that is nothing.
_CALL = {"sees_saved_state": "state", "resumed": "resume"}
_NOT_HANDLED: dict[str, _Rule] = {
    "reason": {
        "queue_full": None,
        "rejected_busy": "reject",
        "shutdown": None,
        "stopped": "stop",
        "cancelled": None,
        "cleared": None,
        "dead_letter": None,
        "superseded": None,
        "expired": None,
        "duplicate": None,
        "evicted": None,
        "withdrawn": None,
        "abandoned": None,
        "from_self": "filter",
        "queue_full_digested": "overflow_digest",
    }
}

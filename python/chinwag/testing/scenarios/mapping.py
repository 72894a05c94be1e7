"""The format's terms as settings of a `Queue` and options of a push: its `mapping` block."""

from __future__ import annotations

import math
from typing import Any

from chinwag.testing.scenarios.features import MISSING
from chinwag.testing.scenarios.format import Arrival, Json

Settings = dict[str, Any]


def settings(config: Json) -> Settings:
    """Turn `config` into settings of the queue; what it does not speak of keeps its default."""
    made: Settings = {"lanes": _LANES[config.get("order_scope") or "sender"]}
    if (cap := config.get("max_concurrent_per_group")) is not None:
        made["max_concurrent_per_group"] = cap
    if (total := config.get("max_concurrent_total")) is not None:
        made["max_concurrent"] = total
    batch = config.get("batch")
    made |= {"max_batch": 1} if batch is None else _window(batch)
    made |= _busy(config, made["lanes"])
    made |= _limits(config)
    made |= _retry(config.get("retry"))
    made |= _order(config)
    return made


def options(arrival: Arrival, config: Json, start_s: float) -> Settings:
    """Turn an arrival into the keyword arguments of its push."""
    facts = arrival.facts
    made: Settings = {"id": arrival.id}
    dedup_key = (config.get("dedup") or {}).get("key")
    if dedup_key is not None:
        made["id"] = facts.get(dedup_key)
    if (key := _batch_key(arrival, config)) is not None:
        made["batch_key"] = key
    if "quiet_ms" in facts:
        made["quiet_s"] = facts["quiet_ms"] / 1000
    if "event_t_ms" in facts:
        made["at"] = start_s + facts["event_t_ms"] / 1000
    made |= {name: True for name in _FLAGS if facts.get(name)}
    if facts.get("no_interrupt") and _busy(config, "sender"):
        made["on_busy"] = "enqueue"
    if (rank := _rank(facts, config.get("priority"))) is not None:
        made["rank"] = rank
    return made


def _window(batch: Json) -> Settings:
    quiet, longest = batch.get("quiet_ms") or 0, batch.get("max_wait_ms")
    made: Settings = {
        "quiet_s": quiet / 1000,
        "max_wait_s": math.inf if longest is None else longest / 1000,
        "quiet_when_idle": batch.get("idle_start") != "immediate",
        "quiet_when_busy": bool(batch.get("quiet_when_busy")),
    }
    if batch.get("window") == "fixed" and quiet:
        made |= {"quiet_s": math.inf, "max_wait_s": min(quiet / 1000, made["max_wait_s"])}
    if (largest := batch.get("max_size")) is not None:
        made["max_batch"] = largest
    if (smallest := batch.get("min_size")) is not None:
        made["min_batch"] = smallest
    if batch.get("keep") == "latest":
        made["keep"] = "latest"
    return made


def _batch_key(arrival: Arrival, config: Json) -> str | None:
    scope = (config.get("batch") or {}).get("scope")
    if scope == "thread":
        thread: str | None = arrival.facts.get("thread")
        return thread
    return arrival.sender if scope == "sender" and config.get("order_scope") == "group" else None


def _busy(config: Json, lanes: str) -> Settings:
    busy = config.get("busy")
    if busy in (None, "enqueue", "interrupt_background"):
        return {}
    made: Settings = {"on_busy": busy}
    if work := config.get("interrupted_work"):
        made["interrupted"] = work
    elif lanes == "message" and busy in ("interrupt", "rollback"):
        made["interrupted"] = "abandon"
    if (most := config.get("inject_limit")) is not None:
        made["inject_limit"] = most
    if (pause := config.get("interrupt_quiet_ms")) is not None:
        made |= {"quiet_s": pause / 1000, "quiet_when_idle": False, "quiet_when_busy": True}
    return made


def _limits(config: Json) -> Settings:
    made: Settings = {}
    if capacity := config.get("capacity"):
        made["capacity_per_group"] = capacity.get("max_queued_per_group")
        overflow = capacity.get("overflow") or "error"
        made["overflow"] = "refuse" if overflow == "error" else overflow
    if dedup := config.get("dedup"):
        made["dedup_s"] = dedup.get("window_ms", 0) / 1000
    if (ttl := config.get("ttl_ms")) is not None:
        made["ttl_s"] = ttl / 1000
    return made


def _retry(retry: Json | None) -> Settings:
    if "retry" in MISSING:
        return {}  # a call that fails is not repeated, so there is no setting to say so
    retry = retry or {}
    made: Settings = {"max_attempts": retry.get("max_attempts", 1), "jitter": "none"}
    if backoffs := retry.get("backoff_ms"):
        made |= {"backoff_s": backoffs[0] / 1000, "backoff_factor": 1}
    return made


def _order(config: Json) -> Settings:
    priority = config.get("priority")
    if priority is None:
        return {}
    shifted = priority.get("order") == "earliest_effective_arrival_first"
    return {"strategy": "priority", "aging": 1 if shifted else 0}


def _rank(facts: Json, priority: Json | None) -> float | None:
    value = facts.get(str(priority.get("field"))) if priority else None
    if priority is None or value is None:
        return None
    match priority.get("order"):
        case "low_first":
            return -float(value)
        case "earliest_effective_arrival_first":
            return float(value) / 1000
    return float(value)


_LANES = {"group": "group", "sender": "sender", "none": "message"}
_FLAGS = ("flush", "standalone", "background", "bypass")

"""The format's terms as settings of a `Queue` and options of a push: its `mapping` block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from chinwag.testing.scenarios.format import Arrival, Json, Scenario

Settings = dict[str, Any]

Occurrence = tuple[str, int]
"""An arrival by its id, and which of that id it is."""


def settings(scenario: Scenario) -> Settings:
    """Turn `config` into settings of the queue; what it does not speak of keeps its default."""
    config = scenario.config
    made: Settings = {"lanes": _LANES[config.get("order_scope") or "sender"]}
    # Who types does so until the file says otherwise.
    made["typing_expires_s"] = _NEVER_S
    if (cap := config.get("max_concurrent_per_group")) is not None:
        made["max_concurrent_per_group"] = cap
    if (total := config.get("max_concurrent_total")) is not None:
        made["max_concurrent"] = total
    batch = config.get("batch")
    made |= {"max_batch": 1} if batch is None else _window(batch, made["lanes"])
    made |= _busy(config, made["lanes"])
    made |= _limits(config)
    made |= _retry(config.get("retry"))
    made |= _order(scenario)
    return made


def weights(config: Json) -> dict[str, float]:
    """Give the shares of groups that have one of their own."""
    return dict(config.get("weights") or {}) if config.get("fairness") == "weighted" else {}


def options(
    arrival: Arrival, config: Json, start_s: float, ranks: Mapping[Occurrence, float]
) -> Settings:
    """Turn an arrival into the keyword arguments of its push."""
    facts = arrival.facts
    made: Settings = {"id": arrival.id}
    dedup_key = (config.get("dedup") or {}).get("key")
    if dedup_key is not None and dedup_key != "id":
        key = arrival.fact(dedup_key)
        made["id"] = None if key is None else str(key)
    if (key := _batch_key(arrival, config)) is not None:
        made["batch_key"] = key
    if "quiet_ms" in facts:
        made["quiet_s"] = facts["quiet_ms"] / 1000
    if "event_t_ms" in facts and _goes_by_event_time(config):
        made["at"] = start_s + facts["event_t_ms"] / 1000
    made |= {name: True for name in _FLAGS if facts.get(name)}
    if facts.get("no_interrupt") and _busy(config, "sender"):
        made["on_busy"] = "enqueue"
    if (rank := ranks.get(_which(arrival))) is not None:
        made["rank"] = rank
    return made


def ranks(scenario: Scenario) -> dict[Occurrence, float]:
    """Say how the arrivals rank; empty where all are equal.

    Between groups a point overtakes one turn (O4), but the format's levels overtake any number, and
    fairness is for those of one level. So a level is worth more than all turns there are. None is
    below 0: who comes later stands where the last start stood, less its score (O5).
    """
    priority = scenario.config.get("priority")
    by_arrival = _groups_go_by_arrival(scenario)
    arrivals = sorted(scenario.arrivals, key=lambda arrival: arrival.t_ms)
    if priority is None and not by_arrival:
        return {}
    if _shifts(priority) and not by_arrival:
        # In seconds, beside which every second of waiting gains one point.
        return {_which(each): _worth(each, priority) / 1000 for each in arrivals}
    keys: dict[Occurrence, tuple[float, ...]] = {}
    for place, each in enumerate(arrivals):
        worth = _worth(each, priority) - (each.t_ms if _shifts(priority) else 0)
        keys[_which(each)] = (worth, -place) if by_arrival else (worth,)
    levels = {key: level for level, key in enumerate(sorted(set(keys.values())))}
    return {which: levels[key] * _LEVEL for which, key in keys.items()}


def _window(batch: Json, lanes: str) -> Settings:
    if lanes == "message":
        # Nobody to wait for, and nothing that could be superseded.
        return {}
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
        thread = arrival.facts.get("thread")
        return None if thread is None else str(thread)
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
        made["dedup_s"] = (dedup.get("window_ms") or 0) / 1000
    if (ttl := config.get("ttl_ms")) is not None:
        made["ttl_s"] = ttl / 1000
    return made


def _retry(retry: Json | None) -> Settings:
    retry = retry or {}
    made: Settings = {"max_attempts": retry.get("max_attempts", 1), "jitter": "none"}
    if backoffs := retry.get("backoff_ms"):
        factor = max(1, backoffs[1] / backoffs[0]) if len(backoffs) > 1 and backoffs[0] else 1
        made |= {"backoff_s": backoffs[0] / 1000, "backoff_factor": factor}
    return made


def _order(scenario: Scenario) -> Settings:
    """Order by rank, and equals by arrival, whoever they are from and however close they came."""
    shifted = _shifts(scenario.config.get("priority")) and not _groups_go_by_arrival(scenario)
    aging = 1 if shifted else 0
    return {"strategy": "priority", "aging": aging, "back_to_back": 0, "burst": 0}


def _groups_go_by_arrival(scenario: Scenario) -> bool:
    return len(scenario.groups) > 1 and scenario.config.get("fairness") in (None, "arrival")


def _shifts(priority: Json | None) -> bool:
    return priority is not None and priority.get("order") == "earliest_effective_arrival_first"


def _worth(arrival: Arrival, priority: Json | None) -> float:
    if priority is None:
        return 0
    value = float(arrival.fact(str(priority.get("field"))) or 0)
    return -value if priority.get("order") == "low_first" else value


def _which(arrival: Arrival) -> Occurrence:
    return arrival.id, arrival.occurrence


def _goes_by_event_time(config: Json) -> bool:
    # Otherwise it is a fact of the payload, and keep="latest" must not look at it.
    latest = (config.get("batch") or {}).get("keep") == "latest"
    return config.get("clock") == "event_time" or not latest


_LANES = {"group": "group", "sender": "sender", "none": "message"}
_FLAGS = ("flush", "standalone", "background", "bypass")
_LEVEL = 1e6
_NEVER_S = 1e9

"""What happened against what the file expects: the calls, and an account of every arrival."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from chinwag.errors import QueueClosed, QueueFull
from chinwag.testing.scenarios import words
from chinwag.testing.scenarios.format import ExpectedCall, NotHandled, Scenario
from chinwag.testing.scenarios.play import Push, Record, SeenCall

TOLERANCE_MS = 50.0
EARLY_MS = 1.0


@dataclass(kw_only=True, slots=True)
class Verdict:
    """What comparing a scenario with its expectation says."""

    problems: list[str] = field(default_factory=list)
    """Each with `expected ... got ...`; empty when all is as expected."""
    not_evaluated: list[str] = field(default_factory=list)
    """Expectations that are not understood, word for word."""


def compare(scenario: Scenario, record: Record) -> Verdict:
    """Compare what happened with everything the file says about it."""
    verdict = Verdict(problems=list(record.problems))
    if record.refused_config is not None and not words.expects_config_error(scenario):
        verdict.problems.append(f"expected a scheduler, got {record.refused_config!r}")
        return verdict
    pairs, problems = _match(scenario, record.calls)
    verdict.problems += problems
    seen = {expected.n: call for expected, call in pairs}
    for expected, call in pairs:
        verdict.problems += _call_problems(expected, call, seen, record)
        unknown = [key for key in expected.facts if key not in _CALL_FACTS]
        verdict.not_evaluated += [f"{key} of call {expected.n}" for key in unknown]
    verdict.problems += _control_problems(record)
    verdict.problems += _account(scenario, record)
    verdict.problems += _lane_order(scenario, record)
    for text in scenario.words:
        understood, problems = words.evaluate(text, scenario, record)
        verdict.problems += problems
        if not understood:
            verdict.not_evaluated.append(text)
    return verdict


# --- which call is which -------------------------------------------------------------------------

_Pairs = list[tuple[ExpectedCall, SeenCall]]


def _match(scenario: Scenario, seen: list[SeenCall]) -> tuple[_Pairs, list[str]]:
    expected = scenario.calls
    match scenario.order:
        case "total":
            return _in_sequence(expected, seen)
        case "per_group":
            return _in_parts(expected, seen, lambda call: call.group, lambda call: call.group)
        case "per_sender":
            return _in_parts(
                expected,
                seen,
                lambda call: (call.group, _sender(scenario, call.ids)),
                lambda call: (call.group, _sender(scenario, call.ids)),
            )
        case "last_only":
            tail = max(len(seen) - len(expected), 0)
            return _in_sequence(expected, seen[tail:])
    if prefix := re.fullmatch(r"prefix(\d+)", scenario.order):
        first = int(prefix[1])
        pairs, problems = _in_sequence(expected[:first], seen[: min(first, len(expected))])
        rest, more = _anywhere(expected[first:], seen[first:], extras=False)
        return pairs + rest, problems + more
    return _anywhere(expected, seen, extras=True)


def _in_sequence(expected: list[ExpectedCall], seen: list[SeenCall]) -> tuple[_Pairs, list[str]]:
    """Match one by one; where the sequences part, the rest would be noise and is left."""
    pairs: _Pairs = []
    waiting = list(expected)
    for call in seen:
        while waiting and waiting[0].optional and not _fits(waiting[0], call):
            waiting.pop(0)
        if not waiting:
            return pairs, [f"expected no further call, got {_show(call)}"]
        if not _fits(waiting[0], call):
            return pairs, [f"expected {_show_expected(waiting[0])}, got {_show(call)}"]
        pairs.append((waiting.pop(0), call))
    missing = [call for call in waiting if not call.optional]
    return pairs, [f"expected {_show_expected(call)}, got no such call" for call in missing[:1]]


def _in_parts(
    expected: list[ExpectedCall],
    seen: list[SeenCall],
    part_expected: Callable[[ExpectedCall], object],
    part_seen: Callable[[SeenCall], object],
) -> tuple[_Pairs, list[str]]:
    pairs: _Pairs = []
    problems: list[str] = []
    parts = [*map(part_expected, expected), *map(part_seen, seen)]
    for part in dict.fromkeys(parts):
        more_pairs, more = _in_sequence(
            [call for call in expected if part_expected(call) == part],
            [call for call in seen if part_seen(call) == part],
        )
        pairs += more_pairs
        problems += more
    return pairs, problems


def _anywhere(
    expected: list[ExpectedCall], seen: list[SeenCall], *, extras: bool
) -> tuple[_Pairs, list[str]]:
    pairs: _Pairs = []
    problems: list[str] = []
    left = list(seen)
    for each in expected:
        found = next((call for call in left if _fits(each, call)), None)
        if found is not None:
            left.remove(found)
            pairs.append((each, found))
        elif not each.optional:
            problems.append(f"expected {_show_expected(each)}, got no such call")
    if left and not extras:
        problems.append(f"expected no further call, got {_show(left[0])}")
    return pairs, problems


def _fits(expected: ExpectedCall, call: SeenCall) -> bool:
    if expected.group not in (None, call.group):
        return False
    extra = set(expected.facts.get("may_also_contain", ())) - set(expected.ids)
    absent = set(expected.facts.get("may_lack", ())) - set(call.ids)
    wanted = [id for id in expected.ids if id not in absent]
    return wanted == [id for id in call.ids if id not in extra]


def _sender(scenario: Scenario, ids: list[str]) -> str | None:
    arrival = scenario.arrival(ids[0]) if ids else None
    return arrival.sender if arrival else None


# --- one call ------------------------------------------------------------------------------------


def _call_problems(
    expected: ExpectedCall, call: SeenCall, seen: dict[int, SeenCall], record: Record
) -> Iterator[str]:
    name = f"call {expected.n} [{', '.join(call.ids)}]"
    yield from (f"{name}: {problem}" for problem in _start_problems(expected, call, seen))
    if expected.end is not None and call.end != expected.end:
        yield f"{name}: expected it {expected.end}, got {call.end}"
    for key, wanted in expected.facts.items():
        got = _fact(key, call, record)
        if key == "cancelled_at_ms":
            low, high = wanted - EARLY_MS, wanted + _tolerance(expected)
            if call.end == "cancelled" and not low <= (call.ended_ms or 0) <= high:
                yield f"{name}: expected it cancelled at {wanted:g}, got at {call.ended_ms:g}"
        elif key in _PLAIN_FACTS and got != wanted:
            yield f"{name}: expected {key} {wanted!r}, got {got!r}"


def _start_problems(
    expected: ExpectedCall, call: SeenCall, seen: dict[int, SeenCall]
) -> Iterator[str]:
    start, tolerance = expected.start, _tolerance(expected)
    if "at_ms" in start:
        low, high = start["at_ms"] - EARLY_MS, start["at_ms"] + tolerance
        if not low <= call.started_ms <= high:
            yield f"expected at {start['at_ms']:g} (+{tolerance:g}), got at {call.started_ms:g}"
    if "min_ms" in start and call.started_ms < start["min_ms"] - EARLY_MS:
        yield f"expected not before {start['min_ms']:g}, got at {call.started_ms:g}"
    if "max_ms" in start and call.started_ms > start["max_ms"]:
        yield f"expected at {start['max_ms']:g} at the latest, got at {call.started_ms:g}"
    if "after_end_of" in start:
        before = seen.get(start["after_end_of"])
        if before is None or before.ended_ms is None:
            yield f"expected after the end of call {start['after_end_of']}, got no end of that"
        elif call.started_ms < before.ended_ms - EARLY_MS:
            ended = f"call {start['after_end_of']} ended at {before.ended_ms:g}"
            yield f"expected after {ended}, got at {call.started_ms:g}"


def _tolerance(expected: ExpectedCall) -> float:
    own = (facts["tol_ms"] for facts in (expected.facts, expected.start) if "tol_ms" in facts)
    return next(own, TOLERANCE_MS)


def _fact(key: str, call: SeenCall, record: Record) -> object:
    match key:
        case "attempt":
            return call.attempt
        case "injected":
            return call.injected
        case "sees_saved_state":
            return call.saved
        case "resumed":
            return call.resumed
        case "failed_ids":
            return call.failed_ids
        case "bypass":
            return call.bypass
        case "returns":
            pushes = [
                push for push in record.pushes if any(push.arrival is i.arrival for i in call.items)
            ]
            values = [push.answer.value if push.answer else None for push in pushes]
            return values[0] if values and values.count(values[0]) == len(values) else values
        case "thread":
            threads = {item.arrival.facts.get("thread") for item in call.items}
            return threads.pop() if len(threads) == 1 else sorted(map(str, threads))
        case "content":
            contents = [item.content for item in call.items if item.content is not None]
            return contents[-1] if contents else None
    return None


_PLAIN_FACTS = (
    "attempt",
    "injected",
    "sees_saved_state",
    "resumed",
    "failed_ids",
    "bypass",
    "returns",
    "thread",
    "content",
)
_CALL_FACTS = (
    *_PLAIN_FACTS,
    "cancelled_at_ms",
    "may_lack",
    "may_also_contain",
    "optional",
    "tol_ms",
)


# --- controls ------------------------------------------------------------------------------------


def _control_problems(record: Record) -> Iterator[str]:
    for done in record.controls:
        wanted = done.control.facts.get("expect")
        # Both of the file's words are for what C4 calls done.
        told = "done" if wanted in ("cancelled", "edited") else wanted
        if wanted is not None and done.result != told:
            what = f"{done.control.op} at {done.control.t_ms:g}"
            yield f"{what}: expected {wanted!r}, got {done.result!r}"


# --- every arrival -------------------------------------------------------------------------------


def _account(scenario: Scenario, record: Record) -> Iterator[str]:
    handled = {id(item.arrival) for call in record.calls for item in call.items}
    injected = {name for call in record.calls for name in call.injected}
    excused: set[int] = set()
    for expected in scenario.not_handled:
        pushes = [push for push in record.pushes if _is_about(expected, push)]
        met = [push for push in pushes if _has_reason(expected.reason, push)]
        excused |= {id(push) for push in met}
        which = expected.id
        if expected.occurrence is not None:
            which += f" (push {expected.occurrence} of that id)"
        if not met:
            got = ", ".join(map(str, pushes)) or "no such push"
            yield f"expected {which} not handled ({expected.reason}), got {got}"
        elif expected.reason != "dead_letter" and any(id(p.arrival) in handled for p in met):
            yield f"expected {which} not handled ({expected.reason}), got a call with it"
    for push in record.pushes:
        reached = id(push.arrival) in handled or push.arrival.id in injected
        if not reached and id(push) not in excused:
            yield f"expected {push.arrival.id} handled or listed in not_handled, got it {push}"
        elif push.accepted and push.state in ("waiting", "running", "retrying"):
            yield f"expected an end of {push.arrival.id}, got it {push}"
    if record.refused_config is None and len(record.pushes) < len(scenario.arrivals):
        yield f"expected {len(scenario.arrivals)} pushes, got {len(record.pushes)}"


def _is_about(expected: NotHandled, push: Push) -> bool:
    occurrence = expected.occurrence in (None, push.arrival.occurrence)
    return push.arrival.id == expected.id and occurrence


def _has_reason(reason: str, push: Push) -> bool:
    refused = push.refused
    match reason:
        case "queue_full":
            return isinstance(refused, QueueFull) or push.state == "evicted"
        case "rejected_busy":
            return refused is not None and refused.reason == "busy"
        case "shutdown":
            closed = push.state == "abandoned" and push.reason == "closed"
            return closed or isinstance(refused, QueueClosed)
        case "stopped":
            return push.state == "cleared" and push.reason == "stopped"
        case "cancelled":
            return push.state == "withdrawn"
        case "dead_letter":
            return push.state == "dead"
    return push.state == reason or (refused is not None and refused.reason == reason)


def _lane_order(scenario: Scenario, record: Record) -> Iterator[str]:
    """Within a lane messages are first handed over in push order (P2), whatever the file says."""
    scope = scenario.config.get("order_scope") or "sender"
    if scope == "none":
        return
    position = {id(push.arrival): n for n, push in enumerate(record.pushes)}
    newest: dict[tuple[object, ...], int] = {}
    known: set[int] = set()
    for call in record.calls:
        for arrival in (item.arrival for item in call.items):
            if id(arrival) in known or arrival.facts.get("bypass"):
                continue
            known.add(id(arrival))
            sender = None if scope == "group" else arrival.sender
            lane = (arrival.group, sender, bool(arrival.facts.get("background")))
            if position[id(arrival)] < newest.get(lane, -1):
                yield f"expected push order in each lane, got {arrival.id} after a later one"
            newest[lane] = max(newest.get(lane, -1), position[id(arrival)])


# --- in words ------------------------------------------------------------------------------------


def _show(call: SeenCall) -> str:
    return f"[{', '.join(call.ids)}] at {call.started_ms:g} in {call.group}"


def _show_expected(call: ExpectedCall) -> str:
    at = next(
        (f" {key} {call.start[key]:g}" for key in ("at_ms", "min_ms") if key in call.start), ""
    )
    where = f" in {call.group}" if call.group is not None else ""
    return f"call {call.n} [{', '.join(call.ids)}]{at}{where}"

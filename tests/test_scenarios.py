"""The scenario runner: on the file that ships with the tests, and on small ones made up here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chinwag.testing.scenarios import features, play
from chinwag.testing.scenarios.__main__ import main

FILE = Path(__file__).parent / "data" / "scenarios.json"

# What the first version leaves to later ones; a skip must name something of this.
LATER = {
    "background",
    "filter",
    "inject",
    "inject_limit",
    "interrupt",
    "interrupt_merge",
    "interrupt_quiet",
    "interrupt_victim",
    "no_interrupt_flag",
    "overflow_digest",
    "persistence",
    "reject",
    "resume",
    "rollback",
    "state",
}

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_file(*scenarios: Any, arguments: tuple[str, ...] = ()) -> tuple[int, list[str]]:
        path = tmp_path / "made-up.json"
        path.write_text(json.dumps({"format_version": 1, "scenarios": list(scenarios)}))
        code = main([str(path), *arguments])
        return code, capsys.readouterr().out.splitlines()

    return run_file


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


# --- the file ------------------------------------------------------------------------------------


def test_every_scenario_passes_or_needs_a_later_feature(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main([str(FILE)])

    *lines, summary = capsys.readouterr().out.splitlines()
    sums = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", summary)
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert code == 0
    assert sums is not None
    passed, failed, skipped = map(int, sums.groups())
    assert passed >= 61
    assert failed == 0
    assert passed + failed + skipped == len(lines) == 85
    assert [line for line in lines if "not evaluated" in line] == []


def test_every_skip_names_a_later_feature(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(FILE)])

    skipped = [line for line in capsys.readouterr().out.splitlines() if line.startswith("SKIP")]
    assert skipped
    for line in skipped:
        found = re.fullmatch(r"SKIP \S+: needs (.+)", line)
        assert found is not None
        assert set(found[1].split(", ")) <= LATER


def test_it_takes_no_real_time() -> None:
    """Its longest call lasts a minute."""
    began = time.monotonic()

    main([str(FILE)])

    assert time.monotonic() - began < 10


def test_every_missing_feature_is_a_known_name() -> None:
    assert features.MISSING.keys() <= features.KNOWN


# --- outcomes ------------------------------------------------------------------------------------


def test_what_is_as_expected_passes(run_file: Run) -> None:
    assert run_file(scenario()) == (0, ["PASS two", "1 passed, 0 failed, 0 skipped"])


@pytest.mark.parametrize(
    ("calls", "line"),
    [
        (
            [call(1, ["a"], at_ms=0)],
            "FAIL two: expected no further call, got [b] at 100 in g",
        ),
        (
            [call(1, ["a", "b"], at_ms=0)],
            "FAIL two: expected call 1 [a, b] at_ms 0 in g, got [a] at 0 in g",
        ),
        (
            [call(1, ["a"]), call(2, ["b"]), call(3, ["a"], at_ms=500)],
            "FAIL two: expected call 3 [a] at_ms 500 in g, got no such call",
        ),
        (
            [call(1, ["b"], at_ms=0), call(2, ["a"], at_ms=100)],
            "FAIL two: expected call 1 [b] at_ms 0 in g, got [a] at 0 in g",
        ),
        (
            [call(1, ["a"], at_ms=0), call(2, ["b"], at_ms=40)],
            "FAIL two: call 2 [b]: expected at 40 (+50), got at 100",
        ),
        (
            [call(1, ["a"], at_ms=0), call(2, ["b"], at_ms=102)],
            "FAIL two: call 2 [b]: expected at 102 (+50), got at 100",
        ),
        (
            [call(1, ["a"], at_ms=0), call(2, ["b"], min_ms=150)],
            "FAIL two: call 2 [b]: expected not before 150, got at 100",
        ),
        (
            [call(1, ["a"], at_ms=0), call(2, ["b"], max_ms=99)],
            "FAIL two: call 2 [b]: expected at 99 at the latest, got at 100",
        ),
        (
            [call(1, ["a"], at_ms=0, after_end_of=2), call(2, ["b"], at_ms=100)],
            "FAIL two: call 1 [a]: expected after call 2 ended at 200, got at 0",
        ),
        (
            [call(1, ["a"], end="failed", at_ms=0), call(2, ["b"], at_ms=100)],
            "FAIL two: call 1 [a]: expected it failed, got completed",
        ),
        (
            [{**call(1, ["a"]), "attempt": 2}, call(2, ["b"])],
            "FAIL two: call 1 [a]: expected attempt 2, got 1",
        ),
    ],
)
def test_a_wrong_call_fails_with_expected_and_got(
    run_file: Run, calls: list[dict[str, Any]], line: str
) -> None:
    code, lines = run_file(scenario(expected={"calls": calls}))

    assert code == 1
    assert lines == [line, "0 passed, 1 failed, 0 skipped"]


def test_a_start_may_be_late_by_the_tolerance(run_file: Run) -> None:
    late = [call(1, ["a"]), call(2, ["b"], at_ms=60)]
    strict = [call(1, ["a"]), {**call(2, ["b"], at_ms=60), "tol_ms": 30}]

    assert run_file(scenario(expected={"calls": late}))[0] == 0
    assert run_file(scenario(expected={"calls": strict}))[1][0] == (
        "FAIL two: call 2 [b]: expected at 60 (+30), got at 100"
    )


def test_a_failure_does_not_stop_the_others(run_file: Run) -> None:
    wrong = scenario(id="wrong", expected={"calls": []})
    needs = scenario(id="needs", requires=["telepathy"])

    code, lines = run_file(wrong, needs, scenario())

    assert code == 1
    assert [line.split(":")[0] for line in lines] == [
        "FAIL wrong",
        "SKIP needs",
        "PASS two",
        "1 passed, 1 failed, 1 skipped",
    ]


def test_further_problems_are_counted_and_shown(run_file: Run) -> None:
    wrong = scenario(expected={"calls": [call(1, ["a"], at_ms=900), call(2, ["b"], at_ms=900)]})

    assert run_file(wrong)[1][0].endswith("got at 0 (and 1 more)")
    _, lines = run_file(wrong, arguments=("-v",))
    assert "    call 1 g [a] 0, completed at 100" in lines
    assert "    call 2 [b]: expected at 900 (+50), got at 100" in lines


def test_only_chooses_scenarios(run_file: Run, capsys: pytest.CaptureFixture[str]) -> None:
    other = scenario(id="other")

    assert run_file(scenario(), other, arguments=("--only", "other"))[1] == [
        "PASS other",
        "1 passed, 0 failed, 0 skipped",
    ]
    assert run_file(scenario(), arguments=("--only", "none"))[0] == 2


# --- orders --------------------------------------------------------------------------------------

CROWD = scenario(
    config={"order_scope": "none", "max_concurrent_per_group": 2},
    arrivals=[
        {"t_ms": t, "group": g, "sender": s, "id": i}
        for t, g, s, i in [(0, "g", "u", "a"), (0, "h", "v", "b"), (10, "g", "w", "c")]
    ],
)


@pytest.mark.parametrize(
    ("order", "ids", "passes"),
    [
        ("total", "abc", True),
        ("total", "bac", False),
        ("per_group", "bac", True),
        ("per_group", "bca", False),
        ("per_sender", "cba", True),
        ("per_sender", "cb", False),
        ("subset", "c", True),
        ("subset", "d", False),
        ("prefix1", "acb", True),
        ("prefix2", "acb", False),
        ("prefix1", "ac", False),
        ("last_only", "c", True),
        ("last_only", "b", False),
        ("statistic", "", True),
    ],
)
def test_orders_say_what_must_hold(run_file: Run, order: str, ids: str, passes: bool) -> None:
    groups = {"a": "g", "b": "h", "c": "g", "d": "g"}
    calls = [{**call(n, [id]), "group": groups[id]} for n, id in enumerate(ids, 1)]

    code, lines = run_file({**CROWD, "expected": {"order": order, "calls": calls}})

    assert (code == 0) is passes, lines


def test_some_calls_and_ids_are_free(run_file: Run) -> None:
    calls = [
        {**call(1, ["x"]), "optional": True},
        {**call(2, ["a", "gone"]), "may_lack": ["gone"]},
        {**call(3, []), "may_also_contain": ["b"]},
        {**call(4, ["y"]), "optional": True},
    ]

    assert run_file(scenario(expected={"calls": calls}))[0] == 0


# --- an account of every arrival -----------------------------------------------------------------


def test_an_unexpected_refusal_fails(run_file: Run) -> None:
    full = scenario(
        config={"capacity": {"max_queued_per_group": 1, "overflow": "error"}},
        arrivals=[{"t_ms": t, "group": "g", "sender": "u", "id": i} for t, i in enumerate("abc")],
    )

    assert run_file(full)[1][0] == (
        "FAIL two: expected c handled or listed in not_handled, "
        "got it refused (group_full, depth 1)"
    )
    listed = {"not_handled": [{"id": "c", "reason": "queue_full"}]}
    assert run_file({**full, "expected": expected(**listed)})[0] == 0


def test_a_message_left_waiting_fails(run_file: Run) -> None:
    paused = scenario(
        controls=[{"t_ms": 10, "op": "pause", "group": "g"}],
        expected={"calls": [call(1, ["a"], at_ms=0)]},
    )

    assert run_file(paused)[1][0] == (
        "FAIL two: expected b handled or listed in not_handled, got it waiting"
    )


def test_a_wrong_reason_fails(run_file: Run) -> None:
    cleared = scenario(
        controls=[{"t_ms": 60, "op": "clear", "group": "g"}],
        expected={
            "calls": [call(1, ["a"], at_ms=0)],
            "not_handled": [{"id": "b", "reason": "duplicate"}],
        },
    )

    assert run_file(cleared)[1][0].startswith(
        "FAIL two: expected b not handled (duplicate), got cleared"
    )
    cleared["expected"]["not_handled"][0]["reason"] = "cleared"
    assert run_file(cleared)[0] == 0


def test_occurrence_says_which_push_is_meant(run_file: Run) -> None:
    twice = scenario(
        arrivals=[
            {"t_ms": 0, "group": "g", "sender": "u", "id": "a"},
            {"t_ms": 10, "group": "g", "sender": "u", "id": "a", "duplicate": True},
        ],
        expected={
            "calls": [call(1, ["a"], at_ms=0)],
            "not_handled": [{"id": "a", "reason": "duplicate", "occurrence": 2}],
        },
    )

    assert run_file(twice)[0] == 0
    twice["expected"]["not_handled"][0]["occurrence"] = 1
    assert run_file(twice)[1][0].startswith(
        "FAIL two: expected a (push 1 of that id) not handled (duplicate), got done"
    )


def test_a_handled_message_that_should_not_be_fails(run_file: Run) -> None:
    wrong = scenario(expected={"not_handled": [{"id": "b", "reason": "cleared"}]})

    assert run_file(wrong)[1][0] == "FAIL two: expected b not handled (cleared), got done"


# --- what it needs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"requires": ["telepathy"]}, "telepathy"),
        ({"requires": ["batch", "interrupt"]}, "interrupt"),
        ({"config": {"busy": "reject"}}, "reject"),
        (
            {"config": {"busy": "rollback", "interrupted_work": "merge"}},
            "interrupt_merge, rollback",
        ),
        ({"config": {"busy": "interrupt_background"}}, "background"),
        ({"config": {"busy": "shout"}}, "setting busy 'shout'"),
        ({"config": {"colour": "red"}}, "setting 'colour'"),
        ({"config": {"order_scope": "planet"}}, "setting order_scope 'planet'"),
        ({"config": {"batch": {**BATCH, "phase": "moon"}}}, "batch 'phase'"),
        (
            {"config": {"capacity": {"max_queued_per_group": 1, "overflow": "summarize"}}},
            "overflow_digest",
        ),
        (
            {"config": {"dedup": {"window_ms": 1, "scope": "sender"}}},
            "dedup scope 'sender'",
        ),
        ({"controls": [{"t_ms": 0, "op": "pause", "mood": 1}]}, "pause 'mood'"),
        ({"controls": [{"t_ms": 0, "op": "typing", "group": "g"}]}, "typing without 'sender'"),
        ({"controls": [{"t_ms": 0, "op": "edit_message"}]}, "edit_message without 'id'"),
        (
            {"controls": [{"t_ms": 0, "op": "cancel_message", "id": "a", "expect": "maybe"}]},
            "answer 'maybe'",
        ),
        (
            {"config": {"priority": {"field": "rank", "order": "random"}}},
            "priority order 'random'",
        ),
        (
            {"config": {"priority": {"order": "low_first"}}},
            "priority 'low_first' of None, which is no number everywhere",
        ),
        (
            {"config": {"priority": {"field": "sender", "order": "low_first"}}},
            "priority 'low_first' of 'sender', which is no number everywhere",
        ),
        ({"config": {"weights": {"g": 0}}}, "weights {'g': 0}"),
        ({"config": {"clock": "event_time"}}, "an order by event time"),
        (
            {"config": {"order_scope": "none", "batch": BATCH}},
            "a quiet period with order_scope 'none'",
        ),
        (
            {"config": {"batch": {**BATCH, "window": "fixed", "min_size": 2}}},
            "batch min_size in a fixed window",
        ),
        ({"handler_outcomes": {"a": ["ok", "perhaps"]}}, "outcome 'perhaps'"),
        ({"handler_behaviour": "a saves {step: 1} at 10, then waits"}, "state"),
        ({"handler_behaviour": "a sings"}, "handler behaviour 'a sings'"),
        ({"handler_mood": "good"}, "handler_mood"),
        ({"expected": {"order": "reverse"}}, "order 'reverse'"),
        ({"expected": {"smell": "nice"}}, "expected smell"),
        (
            {"expected": {"calls": [{**call(1, ["a"]), "sees_saved_state": None}]}},
            "state",
        ),
        (
            {"expected": {"not_handled": [{"id": "a", "reason": "bored"}]}},
            "not_handled reason 'bored'",
        ),
    ],
)
def test_what_does_not_exist_is_skipped_by_name(
    run_file: Run, changes: dict[str, Any], names: str
) -> None:
    code, lines = run_file(scenario(**changes))

    assert code == 0
    assert lines == [f"SKIP two: needs {names}", "0 passed, 0 failed, 1 skipped"]


@pytest.mark.parametrize(
    ("fact", "names"),
    [
        ({"background": True}, "background"),
        ({"from_self": True}, "filter"),
        ({"aura": "blue"}, "arrival 'aura'"),
    ],
)
def test_arrivals_say_what_they_need(run_file: Run, fact: dict[str, Any], names: str) -> None:
    arrival = {"t_ms": 0, "group": "g", "sender": "u", "id": "a", **fact}

    _, lines = run_file(scenario(arrivals=[arrival]))

    assert lines[0] == f"SKIP two: needs {names}"


def test_facts_of_the_payload_need_nothing(run_file: Run) -> None:
    facts = {"rank": 3, "album": "x", "kind": "text", "content": "hi", "event_t_ms": 1}
    arrivals = [
        {"t_ms": 0, "group": "g", "sender": "u", "id": "a", **facts, "background": False},
        {"t_ms": 50, "group": "g", "sender": "u", "id": "b", "no_interrupt": True},
    ]

    assert run_file(scenario(arrivals=arrivals))[0] == 0


# --- terms ---------------------------------------------------------------------------------------


def test_a_fixed_window_ends_at_its_quiet_period(run_file: Run) -> None:
    fixed = scenario(
        config={"batch": {**BATCH, "window": "fixed"}},
        expected={"calls": [call(1, ["a", "b"], at_ms=200)]},
    )
    sliding = scenario(
        config={"batch": BATCH}, expected={"calls": [call(1, ["a", "b"], at_ms=250)]}
    )

    assert run_file(fixed)[0] == run_file(sliding)[0] == 0


def test_the_longest_wait_ends_a_sliding_window(run_file: Run) -> None:
    longest = scenario(
        config={"batch": {**BATCH, "max_wait_ms": 220}},
        expected={"calls": [{**call(1, ["a", "b"], at_ms=220), "tol_ms": 0}]},
    )

    assert run_file(longest)[0] == 0


def test_sender_scope_in_a_group_lane_splits_by_sender(run_file: Run) -> None:
    arrivals = [
        {"t_ms": 0, "group": "g", "sender": s, "id": i} for s, i in [("u", "a"), ("v", "b")]
    ]
    split = scenario(
        config={"batch": {**BATCH, "scope": "sender"}},
        arrivals=arrivals,
        expected={"calls": [call(1, ["a"], at_ms=0), call(2, ["b"], at_ms=200)]},
    )

    assert run_file(split)[1][0] == "PASS two"


def test_failures_follow_the_outcomes(run_file: Run) -> None:
    failing = scenario(
        handler_outcomes={"a": ["error"]},
        expected={"calls": [call(1, ["a"], end="failed", at_ms=0), call(2, ["b"], at_ms=100)]},
    )

    assert run_file(failing)[0] == 0


def test_durations_go_by_the_first_id(run_file: Run) -> None:
    long = scenario(
        handler_durations_ms={"a": 700},
        expected={"calls": [call(1, ["a"], at_ms=0), call(2, ["b"], at_ms=700)]},
    )

    assert run_file(long)[0] == 0


@pytest.mark.parametrize(
    ("drain", "calls", "not_handled"),
    [
        (True, [call(1, ["a"], at_ms=0), call(2, ["b"], at_ms=100)], []),
        (
            False,
            [call(1, ["a"], end="cancelled", at_ms=0)],
            [{"id": "b", "reason": "shutdown"}],
        ),
    ],
)
def test_shutdown_drains_or_does_not(
    run_file: Run, drain: bool, calls: list[Any], not_handled: list[Any]
) -> None:
    closing = scenario(
        controls=[{"t_ms": 70, "op": "shutdown", "drain": drain}],
        expected={"calls": calls, "not_handled": not_handled},
    )

    assert run_file(closing)[1][0] == "PASS two"


def test_controls_come_before_arrivals_of_their_instant(run_file: Run) -> None:
    """The format: ends of calls, controls and arrivals, then starts."""
    cleared = scenario(
        controls=[{"t_ms": 50, "op": "clear", "group": "g"}],
        expected=expected(),
    )
    paused = scenario(
        controls=[
            {"t_ms": 0, "op": "pause", "group": "g"},
            {"t_ms": 80, "op": "resume", "group": "g"},
        ],
        expected={"calls": [call(1, ["a"], at_ms=80), call(2, ["b"], at_ms=180)]},
    )

    assert run_file(cleared)[0] == 0
    assert run_file(paused)[0] == 0


def test_settings_that_contradict_each_other_fail(run_file: Run) -> None:
    endless = scenario(config={"batch": {**BATCH, "min_size": 3}})

    assert run_file(endless)[1][0].startswith("FAIL two: expected a scheduler, got ConfigError(")


def pushes(*rows: tuple[Any, ...], **facts: Any) -> list[dict[str, Any]]:
    """Arrivals like `("a", 0, {"rank": 1})`, of group g unless said otherwise, each of its own."""
    return [
        {"t_ms": t_ms, "group": "g", "sender": f"of {id}", "id": id, **facts, **dict(*more)}
        for id, t_ms, *more in rows
    ]


def calls_of(*ids: str, **facts: Any) -> list[dict[str, Any]]:
    return [{**call(n, id.split("+")), "group": None, **facts} for n, id in enumerate(ids, 1)]


@pytest.mark.parametrize(
    ("field", "order", "values", "ids"),
    [
        ("rank", "high_first", (0, 1, 2, 1), "acbd"),
        ("rank", "low_first", (0, 1, 2, -1), "adbc"),
        ("vip", "high_first", (None, None, None, True), "adbc"),
        ("level", "low_first", (0, 0.5, 1e-9, 0.5), "acbd"),
        ("late_ms", "earliest_effective_arrival_first", (0, 0, 30, 55), "adcb"),
    ],
)
def test_a_field_says_who_goes_first(
    run_file: Run, field: str, order: str, values: tuple[Any, ...], ids: str
) -> None:
    """The others wait behind a; those that are equal go by arrival."""
    rows = [
        (id, 20 * n, {field: value})
        for n, (id, value) in enumerate(zip("abcd", values, strict=True))
    ]
    ordered = scenario(
        config={"order_scope": "none", "priority": {"field": field, "order": order}},
        arrivals=pushes(*rows),
        expected={"calls": calls_of(*ids)},
    )

    assert run_file(ordered)[1][0] == "PASS two"


def test_equals_go_by_arrival_however_close_they_came(run_file: Run) -> None:
    """Of one sender, so that all but the first are back-to-back, which is worth points."""
    equal = scenario(
        config={"order_scope": "none"},
        arrivals=[
            *pushes(("a", 0), ("b", 10), ("c", 20), ("d", 30), sender="ann"),
            *pushes(("e", 15), sender="bob"),
        ],
        expected={"calls": calls_of("a", "b", "e", "c", "d")},
    )

    assert run_file(equal)[1][0] == "PASS two"


@pytest.mark.parametrize(("order", "sign"), [("high_first", 1), ("low_first", -1)])
def test_a_level_overtakes_any_number_of_turns(run_file: Run, order: str, sign: int) -> None:
    """Also that of a group which comes when others of a lower level have started."""
    levels = scenario(
        config={
            "max_concurrent_total": 1,
            "order_scope": "none",
            "fairness": "round_robin",
            "priority": {"field": "rank", "order": order},
        },
        arrivals=[
            *pushes(("low", 0), ("low2", 0), ("low3", 0), rank=1 * sign),
            *pushes(("a", 50), ("b", 50), ("c", 50), ("d", 50), rank=2 * sign, group="h"),
            *pushes(("e", 60), rank=2 * sign, group="i"),
        ],
        expected={"calls": calls_of("low", "a", "e", "b", "c", "d", "low2", "low3")},
    )

    assert run_file(levels)[1][0] == "PASS two"


def test_groups_go_by_arrival_unless_they_share(run_file: Run) -> None:
    rows = [*pushes(("a", 0), ("b", 0), ("c", 0)), *pushes(("d", 0), group="h")]
    config = {"max_concurrent_total": 1, "order_scope": "group"}
    arrival = scenario(
        config=config, arrivals=rows, expected={"calls": calls_of("a", "b", "c", "d")}
    )
    turns = scenario(
        config={**config, "fairness": "round_robin"},
        arrivals=rows,
        expected={"calls": calls_of("a", "d", "b", "c")},
    )
    level = {"priority": {"field": "rank", "order": "low_first"}}
    first = scenario(
        config={**config, **level},
        arrivals=[*rows[:3], {**rows[3], "rank": -1}],
        expected={"calls": calls_of("d", "a", "b", "c")},
    )

    for each in (arrival, turns, first):
        assert run_file(each)[1][0] == "PASS two"


def test_shifts_hold_between_groups(run_file: Run) -> None:
    shifted = scenario(
        config={
            "max_concurrent_total": 1,
            "priority": {"field": "shift_ms", "order": "earliest_effective_arrival_first"},
        },
        arrivals=[
            *pushes(("a", 0), ("b", 30)),
            *pushes(("c", 40, {"shift_ms": 20}), ("d", 50), group="h"),
        ],
        expected={"calls": calls_of("a", "c", "b", "d")},
    )

    assert run_file(shifted)[1][0] == "PASS two"


def test_weights_count_where_groups_are_weighted(run_file: Run) -> None:
    rows = [
        *pushes(*((f"a{n}", 0) for n in range(4)), sender="u"),
        *pushes(*((f"b{n}", 0) for n in range(4)), sender="u", group="h"),
    ]

    def shared(fairness: str, words: str) -> dict[str, Any]:
        return scenario(
            config={"max_concurrent_total": 1, "fairness": fairness, "weights": {"g": 3}},
            arrivals=rows,
            expected={"order": "statistic", "calls": [], "checks": [words]},
        )

    assert run_file(shared("weighted", "among the first 4 calls: g 3, h 1"))[1][0] == "PASS two"
    assert run_file(shared("round_robin", "among the first 4 calls: g 2, h 2"))[1][0] == "PASS two"


@pytest.mark.parametrize(
    ("overflow", "handled", "lost", "words"),
    [
        ("error", "abc", "d", "push result of 'd' says: not accepted, full, queue depth 2"),
        ("drop_newest", "abc", "d", "push result of 'd' says: accepted"),
        ("drop_oldest", "acd", "b", "b is evicted; 1 message is evicted"),
    ],
)
def test_overflow_says_who_is_dropped(
    run_file: Run, overflow: str, handled: str, lost: str, words: str
) -> None:
    full = scenario(
        config={"capacity": {"max_queued_per_group": 2, "overflow": overflow}},
        arrivals=pushes(*((id, 10 * n) for n, id in enumerate("abcd"))),
        expected={
            "calls": calls_of(*handled),
            "not_handled": [{"id": lost, "reason": "queue_full"}],
            "checks": [words],
        },
    )

    assert run_file(full)[1][0] == "PASS two"


def test_what_has_waited_too_long_expires(run_file: Run) -> None:
    """Exactly at its limit it still starts."""
    aged = scenario(
        config={"ttl_ms": 50},
        arrivals=pushes(("a", 0), ("b", 49), ("c", 50), ("d", 110)),
        expected={
            "calls": calls_of("a", "c", "d"),
            "not_handled": [{"id": "b", "reason": "expired"}],
        },
    )
    aged["expected"]["calls"][2] = call(3, ["d"], at_ms=200)
    aged["arrivals"][3]["t_ms"] = 150

    assert run_file(aged)[1][0] == "PASS two"


def test_a_key_stands_in_for_the_id(run_file: Run) -> None:
    """Controls still name the message by the file's id."""
    keyed = scenario(
        config={"dedup": {"window_ms": 5000, "key": "key"}},
        arrivals=pushes(
            ("a", 0, {"key": "k"}), ("b", 10, {"key": "l"}), ("c", 20, {"key": "l"}), ("d", 30)
        ),
        controls=[
            {"t_ms": 40, "op": "cancel_message", "id": "d", "expect": "cancelled"},
            {"t_ms": 50, "op": "edit_message", "id": "b", "content": "new", "expect": "edited"},
            {"t_ms": 60, "op": "cancel_message", "id": "a", "expect": "too_late"},
        ],
        expected={
            "calls": [call(1, ["a"]), {**call(2, ["b"]), "content": "new"}],
            "not_handled": [
                {"id": "c", "reason": "duplicate"},
                {"id": "d", "reason": "cancelled"},
            ],
        },
    )

    assert run_file(keyed)[1][0] == "PASS two"


def test_a_wrong_answer_to_a_control_fails(run_file: Run) -> None:
    late = scenario(
        controls=[{"t_ms": 60, "op": "cancel_message", "id": "a", "expect": "cancelled"}]
    )

    assert run_file(late)[1][0] == (
        "FAIL two: cancel_message at 60: expected 'cancelled', got 'too_late'"
    )


def test_an_edit_is_of_the_push_that_was_taken(run_file: Run) -> None:
    again = scenario(
        config={"capacity": {"max_queued_per_group": 1}},
        arrivals=pushes(("a", 0), ("b", 10), ("c", 20, {"content": "1"}), ("c", 110)),
        controls=[{"t_ms": 150, "op": "edit_message", "group": "g", "id": "c", "content": "2"}],
        expected={
            "calls": [call(1, ["a"]), call(2, ["b"]), {**call(3, ["c"]), "content": "2"}],
            "not_handled": [{"id": "c", "reason": "queue_full", "occurrence": 1}],
        },
    )

    assert run_file(again)[1][0] == "PASS two"


@pytest.mark.parametrize(("clock", "kept", "at_ms"), [("event_time", "a", 200), (None, "b", 250)])
def test_the_latest_is_by_the_clock_of_the_scenario(
    run_file: Run, clock: str | None, kept: str, at_ms: float
) -> None:
    """A time of its own is a fact of the payload unless the scenario goes by it."""
    latest = scenario(
        config={"batch": {**BATCH, "keep": "latest"}, "clock": clock},
        arrivals=pushes(("a", 0, {"event_t_ms": 900}), ("b", 50, {"event_t_ms": 100})),
        expected={
            "calls": [{**call(1, [kept], at_ms=at_ms), "tol_ms": 0}],
            "not_handled": [{"id": "b" if kept == "a" else "a", "reason": "superseded"}],
        },
    )

    assert run_file(latest)[1][0] == "PASS two"


def test_nothing_is_superseded_without_lanes(run_file: Run) -> None:
    alone = scenario(
        config={
            "order_scope": "none",
            "batch": {**BATCH, "keep": "latest", "idle_start": "immediate"},
        },
    )

    assert run_file(alone)[1][0] == "PASS two"


@pytest.mark.parametrize(
    ("longest", "off", "at_ms"), [(None, 20_000, 20_200), (9_000, None, 9_000), (9_000, 60, 260)]
)
def test_who_types_does_until_told_otherwise(
    run_file: Run, longest: float | None, off: float | None, at_ms: float
) -> None:
    """The format knows no end of its own, unlike the setting."""
    stops = {"t_ms": off or 0, "op": "typing", "group": "g", "sender": "u", "on": False}
    held = scenario(
        config={"batch": {**BATCH, "max_wait_ms": longest}},
        controls=[
            {"t_ms": 55, "op": "typing", "group": "g", "sender": "u"},
            *([stops] if off else []),
        ],
        expected={"calls": [{**call(1, ["a", "b"], at_ms=at_ms), "tol_ms": 0}]},
    )

    assert run_file(held)[1][0] == "PASS two"


def test_commands_run_beside_everything(run_file: Run) -> None:
    """They fill no slot, free none, and a pause does not hold them."""
    beside = scenario(
        arrivals=pushes(
            ("a", 0), ("b", 20), ("/x", 30, {"bypass": True}), ("/y", 130, {"bypass": True})
        ),
        controls=[
            {"t_ms": 120, "op": "pause", "group": "g"},
            {"t_ms": 170, "op": "resume", "group": "g"},
        ],
        handler_durations_ms={"/x": 10},
        expected={
            "calls": [
                call(1, ["a"], at_ms=0),
                {**call(2, ["/x"], at_ms=30), "bypass": True},
                call(3, ["b"], at_ms=100),
                {**call(4, ["/y"], at_ms=130), "bypass": True},
            ],
            "checks": [
                "peak_in_flight(g) == 1",
                "b starts at the first slot that becomes free after its arrival",
            ],
        },
    )

    assert run_file(beside)[1][0] == "PASS two"


def test_a_drain_takes_as_long_as_it_takes(run_file: Run) -> None:
    slow = scenario(
        handler_duration_ms=60_000,
        controls=[{"t_ms": 70, "op": "shutdown"}],
        expected={"calls": calls_of("a", "b")},
    )
    limited = {**slow, "controls": [{"t_ms": 70, "op": "shutdown", "timeout_ms": 1000}]}
    limited["expected"] = expected(
        calls=[call(1, ["a"], end="cancelled")], not_handled=[{"id": "b", "reason": "shutdown"}]
    )

    assert run_file(slow)[1][0] == "PASS two"
    assert run_file(limited)[1][0] == "PASS two"


# --- checks in words -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("peak_in_flight(g) == 1", None),
        ("peak_in_flight(g) == 2", "expected 'peak_in_flight(g) == 2', got 1"),
        ("peak_in_flight(all) <= 1", None),
        ("exactly 0 interruptions", None),
        ("no messages are superseded; a and b are done", None),
        ("two messages are done", None),
        ("a is evicted", "expected 'a is evicted', got a done"),
        (
            "at least one message is refused",
            "expected 'at least one message is refused', got 0",
        ),
        ("b is never handled", "expected 'b is never handled', got b in 1 calls"),
        ("exactly 1 interruption", "expected 'exactly 1 interruption', got 0"),
        ("exactly 2 calls", None),
        ("at most 1 call", "expected 'at most 1 call', got 2"),
        ("all two ids are handled exactly once", None),
        (
            "all 3 ids are handled exactly once",
            "expected 'all 3 ids are handled exactly once', got 2 ids",
        ),
        ("a and b are handled exactly once", None),
        ("every message is handled at least once", None),
        ("nothing is lost; nothing hangs", None),
        ("no call contains ids of two senders", None),
        ("for every i<j: m_i is not handed over later than m_j", None),
        ("inside a group: arrival order", None),
        ("b starts before a", "expected 'b starts before a', got a before b"),
        ("b starts at the first slot that becomes free after its arrival", None),
        ("awaiting a's handle gives R1", 'expected "awaiting a\'s handle gives R1", got None'),
        (
            "both handles name the same call",
            "expected 'both handles name the same call', got call 1, call 2",
        ),
        ("push result of 'a' says: accepted", None),
        (
            "push result of 'a' says: not accepted, duplicate",
            "expected \"push result of 'a' says: not accepted, duplicate\", got done",
        ),
        ("a bulk push reports 2 accepted, 0 duplicate", None),
        (
            "a bulk push reports 1 accepted, 1 duplicate",
            "expected 'a bulk push reports 1 accepted, 1 duplicate', got 2 accepted, 0 duplicate",
        ),
        ("among the first 2 calls: g 2±0", None),
        ("among the first 2 calls: g 1±0", "expected 'among the first 2 calls: g 1±0', got g 2"),
        (
            "building the scheduler raises a configuration error",
            "expected 'building the scheduler raises a configuration error', got a scheduler",
        ),
    ],
)
def test_checks_in_words_are_evaluated(run_file: Run, text: str, problem: str | None) -> None:
    _, lines = run_file(scenario(expected={"invariants": [text]}))

    assert lines[0] == (f"FAIL two: {problem}" if problem else "PASS two")


@pytest.mark.parametrize(
    "text",
    [
        "the moon is full",
        "exactly 2 calls; the moon is full",
        "awaiting z's handle gives R1",
        "pausing a paused group reports false",
        "push result of 'a' says: queue depth 3",
    ],
)
def test_checks_that_are_not_understood_are_reported(run_file: Run, text: str) -> None:
    _, lines = run_file(scenario(expected={"checks": [text]}), arguments=("-v",))

    assert lines[0] == "PASS two (1 check in words not evaluated)"
    assert f"    not evaluated: {text}" in lines


def test_unknown_facts_of_a_call_are_reported(run_file: Run) -> None:
    calls = [{**call(1, ["a"]), "smell": "nice"}, call(2, ["b"])]

    _, lines = run_file(scenario(expected={"calls": calls}), arguments=("-v",))

    assert lines[0] == "PASS two (1 check in words not evaluated)"
    assert "    not evaluated: smell of call 1" in lines


def test_pausing_twice_is_tried_out(run_file: Run) -> None:
    paused = scenario(
        controls=[
            {"t_ms": 10, "op": "pause", "group": "g"},
            {"t_ms": 90, "op": "resume", "group": "g"},
        ],
        expected={"checks": ["pausing a paused group and resuming a running one report false"]},
    )

    assert run_file(paused)[1][0] == "PASS two"


def test_returned_results_are_compared(run_file: Run) -> None:
    returning = scenario(
        expected={
            "calls": [{**call(1, ["a"]), "returns": "R1"}, {**call(2, ["b"]), "returns": None}],
            "checks": ["awaiting a's handle gives R1"],
        }
    )

    assert run_file(returning)[1][0] == "PASS two"


# --- a scenario that hangs -----------------------------------------------------------------------


def test_a_scenario_that_hangs_fails(run_file: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def never_ends(*_: object) -> None:
        over.wait(60)

    real = play.play
    monkeypatch.setattr("chinwag.testing.scenarios.play.run", never_ends)
    monkeypatch.setattr(
        "chinwag.testing.scenarios.__main__.play", lambda scenario: real(scenario, limit_s=0.05)
    )

    code, lines = run_file(scenario(), scenario(id="next"))
    over.set()

    assert code == 1
    assert lines[1].startswith("FAIL next")
    assert lines[0].startswith("FAIL two: expected an end, got none within 0.05 s of real time")


# --- the file's form -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not a JSON file"),
        ("[]", "not a file of scenarios: no list `scenarios` at the top"),
        ('{"scenarios": 3}', "not a file of scenarios"),
        ('{"format_version": 2, "scenarios": []}', "format_version 2: only 1 is known"),
        ('{"scenarios": [3]}', "scenario 1 must be an object, not 3"),
        ('{"scenarios": [{}]}', "scenario 1: `id` is missing"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)

    assert main([str(path)]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert str(path) in captured.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrivals": [{"t_ms": -1}]}, "arrival 1: `id` is missing"),
        (
            {"arrivals": [{"t_ms": -1, "group": "g", "sender": "u", "id": "a"}]},
            "arrival 1: `t_ms` must be a number of at least 0, not -1",
        ),
        (
            {"arrivals": [{"t_ms": 1, "group": "g", "sender": "u", "id": 3}]},
            "arrival 1: `id` must be a string, not 3",
        ),
        ({"config": 3}, "`config` must be an object, not 3"),
        ({"handler_duration_ms": "long"}, "must be a number of at least 0, not 'long'"),
        ({"expected": {"calls": [{"n": 1}]}}, "call 1: `ids` is missing"),
        (
            {"expected": {"calls": [call(1, ["a"], soon=1)]}},
            "call 1: start has no 'soon', only at_ms",
        ),
        (
            {"expected": {"calls": [call(1, ["a"], after_end_of=7)]}},
            "call 1: no call 7 to follow",
        ),
        (
            {"expected": {"calls": [call(1, ["a"]), call(1, ["b"])]}},
            "two calls have the number 1",
        ),
    ],
)
def test_the_place_of_a_mistake_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "made-up.json"
    path.write_text(json.dumps({"scenarios": [scenario(**changes)]}))

    assert main([str(path)]) == 2

    told = capsys.readouterr().err
    assert "scenario 'two'" in told
    assert message in told


def test_two_scenarios_of_one_name_are_refused(run_file: Run) -> None:
    assert run_file(scenario(), scenario())[0] == 2


def test_the_module_is_a_command() -> None:
    command = [
        sys.executable,
        "-m",
        "chinwag.testing.scenarios",
        str(FILE),
        "--only",
        "nb-serialize",
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "PASS nb-serialize\n1 passed, 0 failed, 0 skipped\n"

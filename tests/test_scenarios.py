"""The scenario runner: on the file that ships with the tests, and on small ones made up here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from chinwag.testing.scenarios import features, play
from chinwag.testing.scenarios.__main__ import main
from tests.scenarios import Run, call, expected, scenario

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

"""The terms of a scenario: what it needs of this version, and what its settings and facts mean."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import BATCH, Run, call, expected, scenario

# --- what it needs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"requires": ["telepathy"]}, "telepathy"),
        ({"requires": ["batch", "persistence"]}, "persistence"),
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
        ({"controls": [{"t_ms": 0, "op": "kill"}]}, "persistence"),
        ({"handler_behaviour": "a sings"}, "handler behaviour 'a sings'"),
        ({"handler_mood": "good"}, "handler_mood"),
        ({"expected": {"order": "reverse"}}, "order 'reverse'"),
        ({"expected": {"smell": "nice"}}, "expected smell"),
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

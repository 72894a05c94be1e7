"""What the busy policies come to on a recording, and what the docs show of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from chinwag import traces
from chinwag.cli import cli
from chinwag.config import Config
from chinwag.policies import POLICIES, Comparison, Row, Turns
from chinwag.replay import HandlerTime
from chinwag.traces import Trace

PAGE = Path(__file__).parents[1] / "docs" / "policies.md"
ALWAYS_3_S = HandlerTime(low_s=3, high_s=3)

# The recordings of which the docs have a table. Only one comes with chinwag; with the folder of the
# others in CHINWAG_TRACES their tables are checked too.
SHIPPED = Path(traces.__file__).parent / "data" / "chitchat_pairs.csv"
GITTER = Path(os.environ.get("CHINWAG_TRACES", "nowhere")) / "gitter_rooms.npz"
needs_gitter = pytest.mark.skipif(not GITTER.exists(), reason="CHINWAG_TRACES has no gitter_rooms")


def room(*messages: tuple[float, str] | tuple[float, str, str]) -> Trace:
    """A recording: when, who, and in which room if not in the first."""
    rows = [(one[0], one[1], one[2] if len(one) == 3 else "room") for one in messages]
    names = list(dict.fromkeys(who for _, who, _ in rows))
    rooms = list(dict.fromkeys(where for _, _, where in rows))
    return Trace(
        name="room",
        at_s=np.array([at for at, _, _ in rows], np.float64),
        group=np.array([rooms.index(where) for _, _, where in rows], np.int32),
        sender=np.array([names.index(who) for _, who, _ in rows], np.int32),
        groups=rooms,
        senders=names,
    )


def measured(trace: Trace, **settings: Any) -> dict[str, Row]:
    comparison = Comparison(trace=trace, base=Config.of(**settings), handler_s=ALWAYS_3_S)
    return {row.policy: row for row in comparison.rows()}


PAIR = room((0, "ann"), (1, "ann"))


@pytest.mark.parametrize(
    ("policy", "calls", "answers", "half", "unanswered", "wait_s"),
    [
        ("enqueue", 2, 2, 2, 0, 2),
        ("enqueue, quiet_s=2", 1, 1, 0, 0, 2),
        ("inject", 1, 1, 0, 0, 2),
        ("interrupt, merge", 2, 1, 0, 0, 0),
        ("interrupt, resume", 3, 2, 2, 0, 0),
        ("interrupt, abandon", 2, 1, 1, 1, 0),
        ("rollback", 2, 1, 0, 0, 0),
        ("reject", 1, 1, 1, 1, 0),
    ],
)
def test_a_follow_up_is_counted_by_its_policy(
    policy: str, calls: int, answers: int, half: int, unanswered: int, wait_s: float
) -> None:
    """One turn of two messages, a second apart, and calls of three seconds."""
    row = measured(PAIR)[policy]

    assert (row.calls, row.calls_per_turn) == (calls, calls)
    assert (row.answers, row.half, row.unanswered) == (answers, half, unanswered)
    assert (row.wait_p50_s, row.wait_p95_s, row.wait_p99_s) == (wait_s, wait_s, wait_s)


def test_a_lone_message_waits_for_a_quiet_period_alone() -> None:
    for name, row in measured(room((0, "ann"), (100, "bob"))).items():
        assert (row.calls, row.answers, row.half, row.unanswered) == (2, 2, 0, 0), name
        assert row.wait_p50_s == (2 if "quiet" in name else 0), name


def test_only_a_follow_up_rolls_back() -> None:
    """The call for both runs longer than `back_to_back_s` after its newest message."""
    slow = Comparison(
        trace=room((0, "ann"), (6, "ann")),
        base=Config(),
        handler_s=HandlerTime(low_s=9, high_s=9),
    )
    rows = {row.policy: row for row in slow.rows()}

    assert (rows["interrupt, merge"].answers, rows["rollback"].answers) == (1, 2)


def test_a_call_goes_on_as_long_as_more_is_in_its_inbox() -> None:
    row = measured(room((0, "ann"), (1, "ann"), (4, "ann"), (7, "ann")))["inject"]

    assert (row.calls, row.answers, row.half) == (1, 1, 0)


def test_a_turn_goes_on_within_its_gap_and_group() -> None:
    trace = room(
        (0, "ann"),
        (1, "bob"),
        (2, "ann", "hall"),
        (5, "ann"),
        (10.001, "ann"),
    )
    turns = Turns.among(trace, 5)

    ann, bob, hall, again, late = turns.of.tolist()
    assert ann == again
    assert len({ann, bob, hall, late}) == turns.count == 4
    assert turns.long == 1


def test_settings_hold_under_every_policy() -> None:
    base = Config.of(quiet_s=7, max_batch=5, interrupt_within_s=1)

    for policy in POLICIES:
        config = policy.on(base)
        assert config.window.quiet_s == (7 if policy.quiet else 0)
        assert (config.window.max_batch, config.busy.interrupt_within_s) == (5, 1)


def test_whole_rooms_are_counted_too() -> None:
    """Others' messages are in the batch, and turns are still those of one sender."""
    rows = measured(room((0, "ann"), (1, "bob"), (2, "ann")), lanes="group")

    assert (rows["interrupt, merge"].answers, rows["interrupt, merge"].half) == (1, 0)
    assert rows["enqueue"].half == 2


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["replay", *map(str, args)])


def test_a_table_has_a_row_for_each_policy() -> None:
    result = run(SHIPPED, "--policies", "--limit", "100")

    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert lines[0].startswith("chitchat_pairs: 100 messages in ")
    assert all(any(line.startswith(policy.name) for line in lines) for policy in POLICIES)
    assert max(map(len, lines)) <= 100


def test_figures_come_as_json_too() -> None:
    result = run(SHIPPED, SHIPPED, "--policies", "--limit", "100", "--json")

    one, other = (json.loads(line) for line in result.output.splitlines())
    assert one == other
    assert (one["messages"], one["handler_s"]) == (100, "0.3-2")
    assert [row["policy"] for row in one["policies"]][:2] == ["enqueue", "enqueue, quiet_s=2"]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--on-busy", "reject"], "--on-busy is what --policies compares"),
        (["--interrupted", "resume"], "--interrupted is what --policies compares"),
        (["--speed", "60"], "--policies takes no real time"),
        (["--lanes", "message"], "not every policy can be had with these settings"),
        (["--max-batch", "1"], "not every policy can be had with these settings"),
    ],
)
def test_what_makes_no_sense_is_refused(args: list[str], named: str) -> None:
    result = run(SHIPPED, "--policies", "--limit", "10", *args)

    assert result.exit_code == 2
    assert named in result.output


@pytest.mark.parametrize(
    "file",
    [SHIPPED, pytest.param(GITTER, marks=needs_gitter)],
    ids=["chitchat_pairs", "gitter_rooms"],
)
def test_the_table_of_the_docs_is_that_of_the_command(file: Path) -> None:
    command = ["--policies", "--handler-s", "0.5-3", "--markdown"]
    result = run(file, *command)

    said = f"made by chinwag replay {file.name} {' '.join(command)}"
    begin, end = f"<!-- {file.stem}: {said} -->\n", f"<!-- end of {file.stem}"
    shown = PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    assert (result.exit_code, result.output) == (0, shown)

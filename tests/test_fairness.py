"""One floods, the others are quiet: what rules O5 and O7 promise them, and what the docs show."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from chinwag import fairness
from chinwag.cli import cli
from chinwag.config import Config
from chinwag.fairness import CALL_S, SIZES, Outcome, Row, measure
from chinwag.testing import Call

PAGE = Path(__file__).parents[1] / "docs" / "order.md"
ORDER = Config().order

# All that a message of the flood has to say for itself, and a question never has less than 0.
LEAD = ORDER.back_to_back + ORDER.burst
ROOMS = [f"room of {size}" for size in SIZES]
BY_CALLS = [*((room, "round_robin") for room in ROOMS), ("100 rooms", "fair_by=calls")]
BY_TIME = [*((room, "load_balanced") for room in ROOMS), ("100 rooms", "fair_by=time")]
IN_LINE = [(where, "order of arrival") for where in (*ROOMS, "100 rooms")]

Rows = dict[tuple[str, str], Row]


@pytest.fixture(params=[0, 7], ids=lambda seed: f"seed {seed}")
def rows(request: pytest.FixtureRequest) -> Rows:
    return {(row.where, row.order): row for row in measured(request.param)}


@lru_cache
def measured(seed: int) -> list[Row]:
    return list(measure(seed))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """The command, which need not run again what has been run."""
    monkeypatch.setattr(fairness, "measure", measured)
    return CliRunner()


def outcomes(row: Row) -> list[Outcome]:
    return [outcome for outcome in (row.single, row.merged) if outcome]


def competitors(outcome: Outcome) -> int:
    return outcome.contest.talking + 1


def overtakers(outcome: Outcome) -> list[list[Call[float]]]:
    """For each question that was answered, the calls that started while it waited."""
    starts = [call.started for call in outcome.calls]
    return [
        outcome.calls[
            bisect_right(starts, wait.asked) : bisect_left(starts, wait.asked + wait.seconds)
        ]
        for wait in outcome.waits
        if wait.answered
    ]


def seconds(calls: list[Call[float]]) -> float:
    return sum(call.ended - call.started for call in calls if call.ended is not None)


@pytest.mark.parametrize(("where", "order"), BY_CALLS)
def test_a_flood_gets_its_turns_and_no_more(rows: Rows, where: str, order: str) -> None:
    for outcome in outcomes(rows[where, order]):
        flood = sum(map(outcome.floods, outcome.calls))

        assert flood <= len(outcome.calls) / competitors(outcome) + LEAD + 1


@pytest.mark.parametrize(("where", "order"), BY_TIME)
def test_a_flood_gets_its_part_of_the_time_and_no_more(rows: Rows, where: str, order: str) -> None:
    """A lead is worth that many mean calls, and what a call took is known when it has ended."""
    for outcome in outcomes(rows[where, order]):
        done = [call for call in outcome.calls if call.ended is not None]
        mean = seconds(done) / len(done)
        flood = seconds([call for call in done if outcome.floods(call)])

        assert flood <= seconds(done) / competitors(outcome) + (LEAD + 1) * mean + CALL_S[1]


@pytest.mark.parametrize("where", ROOMS)
def test_a_flood_pays_for_what_it_writes(rows: Rows, where: str) -> None:
    """Its calls cost so much that it is served no more than others, its last call aside."""
    for outcome in outcomes(rows[where, "adaptive"]):
        flood = [cost(outcome, call) for call in outcome.calls if outcome.floods(call)]
        # A quiet one writes less than the mean.
        quiet = len(outcome.calls) - len(flood)

        assert min(flood) > 1
        assert sum(flood) <= (sum(flood) + quiet) / competitors(outcome) + LEAD + 1 + max(flood)


def cost(outcome: Outcome, call: Call[float]) -> float:
    """What rule O7 charges for a call under `adaptive`."""
    since = call.started - 60
    own = sum(
        since <= number * outcome.contest.every_s <= call.started
        for number in range(int(call.started / outcome.contest.every_s) + 1)
    )
    asked = [wait for wait in outcome.waits if since <= wait.asked <= call.started]
    senders = 1 + len({wait.who for wait in asked})
    return own * senders / (own + len(asked))


@pytest.mark.parametrize(("where", "order"), BY_CALLS)
def test_who_waits_is_overtaken_a_bounded_number_of_times(
    rows: Rows, where: str, order: str
) -> None:
    """Rule O5: lead + own standing above now served + 1, for each that competes.

    Who has just been served stands at most that one call above.
    """
    turns = LEAD + 1 + 1
    for outcome in outcomes(rows[where, order]):
        for calls in overtakers(outcome):
            assert sum(map(outcome.floods, calls)) <= turns
            assert len(calls) <= turns * competitors(outcome)


@pytest.mark.parametrize("where", ROOMS)
def test_the_quiet_wait_no_longer_where_a_flood_pays(rows: Rows, where: str) -> None:
    for outcome in outcomes(rows[where, "adaptive"]):
        for calls in overtakers(outcome):
            assert len(calls) <= (LEAD + 1 + 1) * competitors(outcome)


@pytest.mark.parametrize(("where", "order"), BY_TIME)
def test_long_calls_do_not_make_others_wait_for_ever(rows: Rows, where: str, order: str) -> None:
    """The same in time: a call costs at least the shortest, and was at most the longest one."""
    shortest, longest = CALL_S
    for outcome in outcomes(rows[where, order]):
        mean = seconds(outcome.calls) / len(outcome.calls)
        turns = (LEAD + longest / mean + 1) / (shortest / mean)
        for calls in overtakers(outcome):
            assert sum(map(outcome.floods, calls)) <= turns
            assert len(calls) <= turns * competitors(outcome)


@pytest.mark.parametrize("where", ROOMS)
def test_patience_beats_a_lead_after_its_time(rows: Rows, where: str) -> None:
    """Rule O7: under `priority` nothing goes before that came later than the lead is worth."""
    head_start = LEAD / ORDER.aging
    for outcome in outcomes(rows[where, "priority"]):
        answered = [wait for wait in outcome.waits if wait.answered]
        for wait, calls in zip(answered, overtakers(outcome), strict=True):
            for call in calls:
                assert call.payloads[0] <= wait.asked + head_start + 1e-6


@pytest.mark.parametrize(("where", "order"), IN_LINE)
def test_what_it_is_compared_with_is_the_order_of_arrival(
    rows: Rows, where: str, order: str
) -> None:
    calls = rows[where, order].single.calls

    assert all(before.payloads[0] <= after.payloads[0] for before, after in pairwise(calls))


@pytest.mark.parametrize("where", [*ROOMS, "100 rooms"])
def test_everybody_had_as_many_calls_to_share(rows: Rows, where: str) -> None:
    """Otherwise the waits of one way could not be compared with those of another."""
    counts = {
        len(outcome.calls)
        for (at, _), row in rows.items()
        if at == where
        for outcome in outcomes(row)
    }

    assert len(counts) == 1


def test_the_table_of_the_docs_is_that_of_the_command(command: CliRunner) -> None:
    result = command.invoke(cli, ["fairness", "--markdown"])

    begin, end = "<!-- fairness: made by chinwag fairness --markdown -->\n", "<!-- end of fairness"
    shown = PAGE.read_text(encoding="utf-8").partition(begin)[2].partition(end)[0]
    assert (result.exit_code, result.output) == (0, shown)


def test_a_terminal_gets_a_table_too(command: CliRunner) -> None:
    result = command.invoke(cli, ["fairness", "--seed", "7"])

    assert result.exit_code == 0
    assert {"room of 3", "room of 100", "100 rooms"} < {
        line[:12].strip() for line in result.output.splitlines()
    }

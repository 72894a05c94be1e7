"""Figures: what a histogram promises about its quantiles, and what the values say when printed."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from chinwag import Queue
from chinwag.stats import Histogram, Ledger, Stats, Status, human_s
from chinwag.testing import RecordingHandler
from chinwag.testing.plugin import Run

# The engine's buckets: exact below 16, then 16 to the octave.
EDGES = [*range(16), *(m << s for s in range(40) for m in range(16, 32)), 1 << 44, 2**64 - 1]


def histogram(values: Sequence[int], *, step: float = 1.0, unit: str = "messages") -> Histogram:
    counts = [0] * (len(EDGES) - 1)
    for value in values:
        counts[bisect_right(EDGES, value) - 1] += 1
    return Histogram(
        [edge * step for edge in EDGES],
        counts,
        total=sum(values) * step,
        maximum=max(values, default=0) * step,
        step=step,
        unit=unit,
    )


def stats(*, processed: int = 6, failed: int = 0) -> Stats:
    sizes = histogram([1, 2, 3])
    waits = histogram([2_000_000], step=1e-6, unit="s")
    return Stats(
        total_messages=6,
        processed_messages=processed,
        failed_messages=failed,
        back_to_back_groups=0,
        waiting=0,
        running=0,
        calls=3,
        wait=waits,
        handling=waits,
        batch_size=sizes,
    )


@pytest.mark.parametrize("q", [0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1])
@pytest.mark.parametrize("seed", range(5))
def test_a_quantile_is_within_a_sixteenth(q: float, seed: int) -> None:
    draw = random.Random(seed)
    values = sorted(int(draw.lognormvariate(13, 2)) for _ in range(2000))

    found = histogram(values, step=1e-6, unit="s").quantile(q)

    true = values[max(0, math.ceil(q * len(values)) - 1)] / 1e6
    assert found == pytest.approx(true, rel=1 / 16)


def test_small_counts_are_exact() -> None:
    sizes = histogram([1, 1, 1, 2, 15])

    assert [sizes.quantile(q) for q in (0, 0.5, 0.75, 1)] == [1, 1, 2, 15]


def test_no_quantile_exceeds_the_largest_value() -> None:
    values = histogram([1000, 1001])

    assert values.quantile(0.99) <= values.quantile(1) == 1001


def test_quantiles_never_fall_as_q_rises() -> None:
    draw = random.Random(1)
    values = histogram([draw.randrange(10_000) for _ in range(500)])

    found = [values.quantile(q / 1000) for q in range(1001)]

    assert found == sorted(found)


def test_the_mean_is_exact() -> None:
    assert histogram([100, 1000, 10_001]).mean == 11_101 / 3


def test_an_empty_histogram_knows_nothing() -> None:
    empty = histogram([])

    assert math.isnan(empty.mean)
    assert math.isnan(empty.quantile(0.5))
    assert repr(empty) == "<Histogram: no values>"


@pytest.mark.parametrize("q", [-0.1, 1.1, 95, 10**400, math.nan, "0.5", True, np.array([1.0])])
def test_a_quantile_outside_zero_to_one_is_refused(q: Any) -> None:
    with pytest.raises(ValueError, match="the 95th percentile is"):
        histogram([1]).quantile(q)


def test_edges_enclose_the_counts() -> None:
    values = histogram([3, 3, 40])

    assert values.edges.dtype == np.float64
    assert len(values.edges) == len(values.counts) + 1
    assert values.counts.sum() == values.count == 3
    assert values.counts[3] == 2


def test_edges_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 buckets need 3 edges, not 2"):
        Histogram([0, 1], [1, 1], total=1, maximum=1)


def test_a_histogram_prints_its_shape() -> None:
    shown = repr(histogram([1, 1, 1, 2, 4]))

    assert shown == ("<Histogram of 5 values: mean 1.8, p50 1, p95 4, p99 4, max 4 messages  █▃ ▃>")


def test_a_histogram_of_time_prints_units() -> None:
    shown = repr(histogram([250_000, 3_000_000], step=1e-6, unit="s"))

    assert "mean 1.62 s" in shown
    assert "max 3.00 s" in shown


def test_a_ledger_adds_up_in_print() -> None:
    ledger = Ledger(accepted=10, waiting=1, running=2, done=6, cleared=1)

    assert ledger.balanced
    assert str(ledger) == "10 accepted = 1 waiting + 2 running + 6 done + 1 cleared"
    assert ledger.ended == 7
    assert ledger.ends["done"] == 6


def test_a_ledger_that_lost_a_message_says_so() -> None:
    ledger = Ledger(accepted=10, waiting=0, running=0, done=9)

    assert not ledger.balanced
    assert str(ledger) == "10 accepted ≠ 9 done"


def test_an_empty_ledger_is_balanced() -> None:
    assert str(Ledger(accepted=0, waiting=0, running=0)) == "0 accepted = 0"


def test_success_is_a_share_of_what_was_handled() -> None:
    assert stats(processed=3, failed=1).success_rate == 0.75
    assert stats(processed=0).success_rate is None


def test_stats_print_what_an_operator_asks_first() -> None:
    assert repr(stats()) == (
        "<Stats: 6 messages in 3 calls, 2.0 a call; 0 waiting, 0 calls running; "
        "wait p50 1.98 s p95 1.98 s p99 1.98 s>"
    )


def test_a_status_is_processing_while_a_call_runs() -> None:
    status = Status(group="tea", paused=False, waiting=2, running=1, oldest_age_s=3.0, senders=4)

    assert status.is_processing
    assert status.message_count == 2
    assert str(status) == "tea: 2 waiting, the oldest for 3.00 s, 1 call running, 4 senders"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (12e-6, "12 µs"),
        (0.25, "250 ms"),
        (0.9999, "1.00 s"),
        (1.5, "1.50 s"),
        (75, "75.0 s"),
        (600, "10.0 min"),
        (2 * 86400, "2.0 d"),
        (math.inf, "inf s"),
        (math.nan, "-"),
    ],
)
def test_spans_are_shown_in_the_unit_of_a_person(seconds: float, shown: str) -> None:
    assert human_s(seconds) == shown


def test_calls_are_counted_by_their_strategy(chinwag_run: Run) -> None:
    async def body() -> Stats:
        async with Queue(RecordingHandler[str]()) as queue:
            queue.configure("vip", strategy="priority")
            for group in ("room", "vip", "vip"):
                queue.put_nowait(group, f"of {group}", "hi")
            await queue.join()
            return queue.stats()

    strategies = chinwag_run(body).strategies

    assert {name: (told.calls, told.wait.count) for name, told in strategies.items()} == {
        "round_robin": (1, 1),
        "priority": (1, 2),
        "load_balanced": (0, 0),
        "adaptive": (0, 0),
    }


def test_ids_that_are_forgotten_early_are_counted(chinwag_run: Run) -> None:
    async def body() -> int:
        queue = Queue(RecordingHandler[str](), dedup_s=100, dedup_limit=2, max_batch=1)
        async with queue:
            for id in ("1", "2", "3"):
                queue.put_nowait("room", "ann", "hi", id=id)
            await queue.join()
            return queue.stats().forgotten_ids

    assert chinwag_run(body) == 1

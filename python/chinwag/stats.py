"""Figures of a queue, as plain values: nothing here changes after it was handed out.

A histogram has fixed buckets, 16 to the octave: a bucket is at most 1/16 of its lower edge wide, so
a quantile read from it is within 6.25 % of the true one, whatever the traffic. Values below 16
steps (16 messages, 16 µs) have a bucket of their own and are exact; waits of half a year and more
share the last one.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from chinwag._checks import real, show
from chinwag._core import histogram_edges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Histogram", "Ledger", "Stats", "Status", "StrategyStats", "human_s"]


class Histogram:
    """How a figure was distributed since the queue began.

    Args:
        edges: Lower edges of the buckets, ascending, and one upper edge more than there are counts.
        counts: Values per bucket; bucket `i` holds what is at least `edges[i]` and below
            `edges[i + 1]`.
        total: Sum of all values, exact.
        maximum: Largest value, exact.
        step: Distance of two neighbouring values: 1 for messages, 1e-6 for seconds.
        unit: `s`, or what is counted.
    """

    __slots__ = ("_counts", "_edges", "_step", "count", "maximum", "total", "unit")

    def __init__(
        self,
        edges: Sequence[float],
        counts: Sequence[int],
        *,
        total: float,
        maximum: float,
        step: float = 1.0,
        unit: str = "messages",
    ) -> None:
        if len(edges) != len(counts) + 1:
            raise ValueError(
                f"{len(counts)} buckets need {len(counts) + 1} edges, not {len(edges)}"
            )
        self._edges = edges
        self._counts = counts
        self._step = step
        self.count: int = sum(counts)
        """How many values there are."""
        self.total = total
        """Sum of the values."""
        self.maximum = maximum
        """Largest value."""
        self.unit = unit
        """`s`, or what is counted."""

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the buckets: one more than there are counts."""
        import numpy as np

        return np.array(self._edges, np.float64)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Values per bucket."""
        import numpy as np

        return np.array(self._counts, np.int64)

    @property
    def mean(self) -> float:
        """The exact mean; NaN while there is no value."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, q: float) -> float:
        """Return the least value that the share `q` of all values does not exceed.

        Inside a bucket it is interpolated, as if its values lay evenly; so it is within 6.25 % of
        the true quantile, and never above the largest value. NaN while there is no value.

        Args:
            q: From 0 (smallest) to 1 (largest).

        Raises:
            ValueError: `q` is outside 0 to 1, or no number.
        """
        share = real(q)
        if share is None or not 0 <= share <= 1:
            raise ValueError(f"q={show(q)}: must be between 0 and 1; the 95th percentile is 0.95")
        if not self.count:
            return math.nan
        if share == 1:
            return float(self.maximum)
        upto = list(accumulate(self._counts))
        rank = max(0, math.ceil(share * self.count) - 1)
        bucket = bisect_right(upto, rank)
        inside = self._counts[bucket]
        part = (rank - upto[bucket] + inside + 0.5) / inside
        low = self._edges[bucket]
        high = min(self._edges[bucket + 1] - self._step, self.maximum)
        return float(low + part * max(high - low, 0.0))

    def __repr__(self) -> str:
        if not self.count:
            return "<Histogram: no values>"
        told = human_s if self.unit == "s" else _plain
        marks = ", ".join(f"p{q * 100:.0f} {told(self.quantile(q))}" for q in (0.5, 0.95, 0.99))
        unit = "" if self.unit == "s" else f" {self.unit}"
        return (
            f"<Histogram of {self.count:,} values: mean {told(self.mean)}, {marks}, "
            f"max {told(self.maximum)}{unit}  {self._sketch()}>"
        )

    def _sketch(self) -> str:
        """Draw the filled stretch of the buckets in at most 24 characters."""
        filled = [i for i, count in enumerate(self._counts) if count]
        first, last = filled[0], filled[-1]
        width = min(24, last - first + 1)
        bars = [0] * width
        for i in filled:
            bars[(i - first) * width // (last - first + 1)] += self._counts[i]
        top = max(bars)
        return "".join(_BARS[math.ceil(bar * (len(_BARS) - 1) / top)] for bar in bars)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Where every accepted message is: each is counted in exactly one place."""

    accepted: int
    waiting: int
    running: int
    retrying: int = 0
    done: int = 0
    dead: int = 0
    expired: int = 0
    evicted: int = 0
    superseded: int = 0
    cleared: int = 0
    withdrawn: int = 0
    abandoned: int = 0

    @property
    def ends(self) -> dict[str, int]:
        """Ended messages by their end, zeros included."""
        return {name: getattr(self, name) for name in _ENDS}

    @property
    def ended(self) -> int:
        """How many messages have ended."""
        return sum(self.ends.values())

    @property
    def balanced(self) -> bool:
        """Whether accepted = waiting + running + retrying + ended."""
        return self.accepted == self.waiting + self.running + self.retrying + self.ended

    def __str__(self) -> str:
        names = [item.name for item in fields(self) if item.name != "accepted"]
        parts = [f"{getattr(self, name):,} {name}" for name in names if getattr(self, name)]
        sign = "=" if self.balanced else "≠"
        return f"{self.accepted:,} accepted {sign} {' + '.join(parts) or '0'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """One group at one moment."""

    group: str
    paused: bool
    """The group's own pause; a pause of the whole queue does not show here."""
    waiting: int
    """Messages accepted and not yet in a call."""
    running: int
    """Calls that run."""
    current_message_ids: tuple[str, ...] = ()
    """Messages of the running calls."""
    back_to_back_groups: int = 0
    """Waiting windows that are back-to-back or a burst."""
    oldest_age_s: float | None = None
    """How long the oldest waiting message has waited; None when none waits."""
    senders: int = 0
    """Senders the group remembers."""
    context: int = 0
    """Those of the waiting messages that wait as context for the next call."""
    size: int = 0
    """Senders active in the last `size_window_s`, or members as they were set."""

    @property
    def is_processing(self) -> bool:
        """Whether a call runs."""
        return self.running > 0

    @property
    def message_count(self) -> int:
        """Messages that wait; the same as `waiting`."""
        return self.waiting

    def __str__(self) -> str:
        age = "" if self.oldest_age_s is None else f", the oldest for {human_s(self.oldest_age_s)}"
        paused = ", paused" if self.paused else ""
        return (
            f"{self.group}: {self.waiting:,} waiting{age}, {self.running:,} "
            f"{_calls(self.running)} running{paused}, {self.senders:,} senders"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StrategyStats:
    """What was started while one strategy was in force in a group."""

    calls: int
    """Calls started."""
    wait: Histogram
    """Seconds from a message's arrival to the start of its call."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Stats:
    """The whole queue since it began, and how it stands now."""

    total_messages: int
    """Messages accepted."""
    processed_messages: int
    """Messages that ended `done`."""
    failed_messages: int
    """Messages that ended `dead`."""
    back_to_back_groups: int
    """Calls whose batch was back-to-back or a burst."""
    interruptions: int = 0
    """Calls that were ended for a newer message of their lane, or for an edited one."""

    waiting: int
    """Messages accepted and not yet in a call."""
    running: int
    """Calls that run."""
    running_messages: int = 0
    """Messages in the running calls."""
    groups: int = 0
    """Groups remembered now."""
    oldest_age_s: float | None = None
    """How long the oldest waiting message has waited; None when none waits."""

    calls: int = 0
    """Calls started."""
    failed_calls: int = 0
    """Calls that failed."""
    fenced: int = 0
    """Calls that did not end within `cancel_grace_s` when they were asked to."""
    preemptions: int = 0
    """Calls that were ended for a batch of another lane."""
    put_back: int = 0
    """Calls that somebody else cancelled, and whose messages went back."""
    injected: int = 0
    """Messages that running calls took from their inbox."""
    bursts: int = 0
    """Those of `back_to_back_groups` whose batch was a burst."""
    ends: Mapping[str, int] = field(default_factory=dict)
    """Ended messages by their end: `done`, `dead`, ..."""
    end_reasons: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """The same by end and reason: `("evicted", "capacity")`, `("expired", "ttl")`, ..."""
    ages: Mapping[str, Histogram] = field(default_factory=dict)
    """Seconds from arrival to end of the messages that ended so, by their end."""
    strategies: Mapping[str, StrategyStats] = field(default_factory=dict)
    """What was started under each strategy."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Refused pushes by reason: `duplicate`, `busy`, `group_full`, `full`, `bypass_full`, ..."""
    closed_by: Mapping[str, int] = field(default_factory=dict)
    """Windows by what made them due: `quiet`, `max_wait`, `size`, ..."""
    forgotten_groups: int = 0
    """Groups forgotten after `idle_group_s`."""
    forgotten_ids: int = 0
    """Ids the duplicate filter forgot early because `dedup_limit` was reached."""

    wait: Histogram
    """Seconds from a message's arrival to the start of its call."""
    handling: Histogram
    """Seconds from a call's start to its end."""
    batch_size: Histogram
    """Messages per call."""

    @property
    def success_rate(self) -> float | None:
        """Share of the messages that ended `done` among those handled; None before the first."""
        handled = self.processed_messages + self.failed_messages
        return self.processed_messages / handled if handled else None

    def __repr__(self) -> str:
        per_call = "" if not self.batch_size.count else f", {self.batch_size.mean:.1f} a call"
        lines = [
            f"{self.total_messages:,} messages in {self.calls:,} {_calls(self.calls)}{per_call}",
            f"{self.waiting:,} waiting, {self.running:,} {_calls(self.running)} running",
            *(f"{count:,} {end}" for end, count in self.ends.items() if count),
            *(f"{count:,} refused ({why})" for why, count in self.refused.items() if count),
        ]
        if self.wait.count:
            waits = (f"p{q * 100:.0f} {human_s(self.wait.quantile(q))}" for q in (0.5, 0.95, 0.99))
            lines.append(f"wait {' '.join(waits)}")
        return f"<Stats: {'; '.join(lines)}>"


def summed_up(figures: Mapping[str, Any]) -> Stats:
    """Make it of what the engine has counted."""
    rest = dict(figures)
    ledger = Ledger(**rest.pop("ledger"))
    bursts = rest.pop("bursts")
    return Stats(
        total_messages=ledger.accepted,
        processed_messages=ledger.done,
        failed_messages=ledger.dead,
        back_to_back_groups=rest.pop("back_to_back") + bursts,
        waiting=ledger.waiting,
        running_messages=ledger.running,
        bursts=bursts,
        ends=ledger.ends,
        end_reasons={(end, why): count for end, why, count in rest.pop("end_reasons")},
        ages={end: _seconds(age) for end, age in rest.pop("ages").items()},
        strategies={
            name: StrategyStats(calls=calls, wait=_seconds(wait))
            for name, (calls, wait) in rest.pop("strategies").items()
        },
        wait=_seconds(rest.pop("wait")),
        handling=_seconds(rest.pop("handling")),
        batch_size=_messages(rest.pop("batch_size")),
        **rest,
    )


def human_s(seconds: float) -> str:
    """Show a span of time in the unit a person would use, to two or three digits."""
    if math.isnan(seconds):
        return "-"
    size = abs(seconds)
    if size == 0 or math.isinf(size):
        return f"{seconds:.0f} s"
    for limit, unit, name, digits in _UNITS:
        if size < limit:
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86400:,.1f} d"


@cache
def _edges(step: float) -> tuple[float, ...]:
    return tuple(edge * step for edge in histogram_edges())


def _seconds(figures: Mapping[str, Any]) -> Histogram:
    return Histogram(
        _edges(_MICROSECOND),
        array("Q", figures["counts"]),
        total=figures["total"] * _MICROSECOND,
        maximum=figures["maximum"] * _MICROSECOND,
        step=_MICROSECOND,
        unit="s",
    )


def _messages(figures: Mapping[str, Any]) -> Histogram:
    counts = array("Q", figures["counts"])
    return Histogram(_edges(1), counts, total=figures["total"], maximum=figures["maximum"])


def _plain(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _calls(count: int) -> str:
    return "call" if count == 1 else "calls"


_MICROSECOND = 1e-6

_ENDS = (
    "done",
    "dead",
    "expired",
    "evicted",
    "superseded",
    "cleared",
    "withdrawn",
    "abandoned",
)

_BARS = " ▁▂▃▄▅▆▇█"

# Upper limit, unit in seconds, its name, decimals.
_UNITS = (
    (999.5e-6, 1e-6, "µs", 0),
    (0.9995, 1e-3, "ms", 0),
    (10.0, 1.0, "s", 2),
    (120.0, 1.0, "s", 1),
    (7200.0, 60.0, "min", 1),
    (172800.0, 3600.0, "h", 1),
)

"""Replays a recording through a real `Queue` against a simulated handler.

At a speed-up of k, everything that takes time takes 1/k of it: the pauses between messages, the
simulated calls, and every duration among the settings. So settings are given, and waits are
reported, in the time of the room. The smallest wait the machine can keep is k times as long there:
at 60, a millisecond of the event loop shows as 60 ms. Without a speed, time is virtual and none
of this matters.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chinwag.config import Config
from chinwag.errors import ConfigError, Rejected
from chinwag.queue import Queue
from chinwag.settings import Setting

if TYPE_CHECKING:
    from chinwag import Batch
    from chinwag.stats import Histogram, Ledger, Stats
    from chinwag.traces import Trace

__all__ = ["HandlerTime", "Quantiles", "Replay", "Report", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HandlerTime:
    """How long simulated calls take: evenly from `low_s` to `high_s`, or exponentially."""

    low_s: float = 0.3
    high_s: float = 2.0
    mean_s: float | None = None
    """If set, times are exponential with this mean."""

    @classmethod
    def parse(cls, text: str) -> HandlerTime:
        """Read `1.5` (always), `0.3-2` or `0.3,2` (evenly between), or `exp:1.2` (by its mean).

        Raises:
            ConfigError: It is none of these.
        """
        match = re.fullmatch(rf"exp:({_NUMBER})", text)
        if match and float(match[1]) <= _LONGEST_S:
            return cls(mean_s=float(match[1]))
        if match := re.fullmatch(rf"({_NUMBER})(?:[-,]({_NUMBER}))?", text):
            low_s, high_s = float(match[1]), float(match[2] or match[1])
            if low_s <= high_s <= _LONGEST_S:
                return cls(low_s=low_s, high_s=high_s)
        raise ConfigError(
            f"handler time {text!r}: must be seconds such as 1.5, 0.3-2 (evenly between) or "
            f"exp:1.2 (exponential, by its mean), at most {_LONGEST_S:,.0f}"
        )

    def draw(self, count: int, seed: int) -> NDArray[np.float64]:
        """Draw that many times in seconds; the same seed gives the same ones."""
        random = np.random.default_rng(seed)
        if self.mean_s is not None:
            return random.exponential(self.mean_s, count)
        return random.uniform(self.low_s, self.high_s, count)

    def __str__(self) -> str:
        if self.mean_s is not None:
            return f"exp:{self.mean_s:g}"
        return f"{self.low_s:g}" + ("" if self.low_s == self.high_s else f"-{self.high_s:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantiles:
    """How a figure was distributed; None where there was no value."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None

    @classmethod
    def of(cls, values: Histogram, factor: float = 1.0) -> Quantiles:
        """Read them from a histogram, in another unit of time if a factor is given."""
        if not values.count:
            return cls(mean=None, p50=None, p95=None, p99=None, max=None)
        p50, p95, p99 = (values.quantile(q) * factor for q in (0.5, 0.95, 0.99))
        return cls(
            mean=values.mean * factor, p50=p50, p95=p95, p99=p99, max=values.maximum * factor
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a replay did; times are those of the room."""

    name: str
    speed: float | None
    """None: on a virtual clock."""
    settings: Mapping[str, Setting]
    """Those that are not the default."""
    handler_s: str
    finished: bool
    """Whether everything was replayed and handled; not so when it was interrupted."""

    messages: int
    """In the recording."""
    groups: int
    senders: int
    span_s: float
    pushed: int
    accepted: int
    refused: Mapping[str, int]
    """By reason."""

    calls: int
    failed_calls: int
    """Interrupted ones included."""
    back_to_back: int
    """Calls whose batch was back-to-back, bursts not counted."""
    bursts: int
    closed_by: Mapping[str, int]
    wait_s: Quantiles
    handling_s: Quantiles
    batch_size: Quantiles

    ledger: Ledger
    lost: int
    """Accepted messages that the handler never saw and no other end accounts for."""
    repeated: int
    """Messages that the handler saw more than once."""
    out_of_order: int
    """Messages that the handler saw after a later one of their sender; only lanes="message"
    may do that.
    """
    late_s: float
    """How much later than recorded a message was pushed, at most: whether the machine kept up."""
    elapsed_s: float
    """Real seconds the replay took."""

    @property
    def messages_per_call(self) -> float | None:
        """Messages per call; None before the first."""
        return self.batch_size.mean

    @property
    def faults(self) -> dict[str, int]:
        """What should not have happened, and to how many messages; empty when all is well."""
        ordered = self.settings.get("lanes") != "message"
        counts = {
            "lost": self.lost,
            "handled twice": self.repeated,
            "out of order": self.out_of_order if ordered else 0,
            "in calls that failed": self.ledger.dead,
        }
        return {fault: count for fault, count in counts.items() if count}

    @property
    def ok(self) -> bool:
        """Whether there are no faults."""
        return not self.faults

    def as_dict(self) -> dict[str, Any]:
        """Make a dictionary that is valid JSON."""
        return {key: _plain(value) for key, value in asdict(self).items()} | {
            "ok": self.ok,
            "messages_per_call": self.messages_per_call,
        }


class Replay:
    """One recording on its way through a queue of its own.

    Args:
        trace: What to replay.
        config: Settings of the queue, in the time of the room.
        speed: How many times faster than recorded; None on a virtual clock, see `run`.
        handler_s: How long calls take, in the time of the room.
        flush_mentions: Push messages that mention somebody with `flush=True`.
        seed: Of the simulated handler.
    """

    def __init__(
        self,
        trace: Trace,
        config: Config | None = None,
        *,
        speed: float | None = None,
        handler_s: HandlerTime | None = None,
        flush_mentions: bool = False,
        seed: int = 0,
    ) -> None:
        self.trace = trace
        self.speed = speed
        self._config = config or Config()
        self._factor = speed or 1.0
        self._handler_s = handler_s or HandlerTime()
        self._takes_s = self._handler_s.draw(len(trace), seed) / self._factor
        self._flush = trace.mention == 1 if flush_mentions and trace.mention is not None else None
        self._books = _Books(len(trace))
        self._queue: Queue[int] = Queue(self._reply, config=_faster(self._config, self._factor))
        self._pushed = 0
        self._late_s = 0.0
        self._finished = False
        self._began = self._ended = math.nan

    async def run(self) -> None:
        """Replay it and wait until everything is handled.

        When it is cancelled, what waits ends `abandoned`, and the report tells how far it came.
        """
        self._began = time.monotonic()
        try:
            async with self._queue:
                await self._feed()
                await self._queue.join()
            self._finished = True
        finally:
            self._ended = time.monotonic()

    @property
    def room_s(self) -> float:
        """How far the recording has been replayed, in the time of the room."""
        return float(self.trace.at_s[self._pushed - 1]) if self._pushed else 0.0

    @property
    def pushed(self) -> int:
        """How many messages have been pushed."""
        return self._pushed

    @property
    def stats(self) -> Stats:
        """The queue's figures now; their times are 1/speed of the room's."""
        return self._queue.stats()

    def waits(self, stats: Stats) -> Quantiles:
        """The waits among these figures, in the time of the room."""
        return Quantiles.of(stats.wait, self._factor)

    def report(self) -> Report:
        """Say what happened until now.

        Raises:
            Imbalance: The books of the queue do not add up.
        """
        stats, ledger = self._queue.stats(), self._queue.check()
        default = Config().flat()
        return Report(
            name=self.trace.name,
            speed=self.speed,
            settings={k: v for k, v in self._config.flat().items() if v != default[k]},
            handler_s=str(self._handler_s),
            finished=self._finished,
            messages=len(self.trace),
            groups=self.trace.active_groups,
            senders=self.trace.active_senders,
            span_s=self.trace.span_s,
            pushed=self._pushed,
            accepted=stats.total_messages,
            refused={reason: count for reason, count in stats.refused.items() if count},
            calls=stats.calls,
            failed_calls=stats.failed_calls,
            back_to_back=stats.back_to_back_groups - stats.bursts,
            bursts=stats.bursts,
            closed_by={cause: count for cause, count in stats.closed_by.items() if count},
            wait_s=self.waits(stats),
            handling_s=Quantiles.of(stats.handling, self._factor),
            batch_size=Quantiles.of(stats.batch_size),
            ledger=ledger,
            lost=self._books.lost(ledger),
            repeated=self._books.repeated,
            out_of_order=self._books.out_of_order,
            late_s=self._late_s * self._factor,
            elapsed_s=(time.monotonic() if math.isnan(self._ended) else self._ended) - self._began,
        )

    async def _feed(self) -> None:
        """Push message after message at its time: one task, however long the recording is."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        for row, at_s, group, sender in self._rows():
            due = start + at_s / self._factor
            if (late := loop.time() - due) < 0:
                await asyncio.sleep(-late)
                late = loop.time() - due
            elif not row % _BREATH:
                await asyncio.sleep(0)
            self._late_s = max(self._late_s, late)
            self._push(row, group, sender)

    def _push(self, row: int, group: str, sender: str) -> None:
        flush = self._flush is not None and bool(self._flush[row])
        self._pushed += 1
        try:
            self._queue.put_nowait(group, sender, row, flush=flush)
        except Rejected:
            return  # counted by the queue, by its reason
        self._books.accepted(row)

    def _rows(self) -> Iterable[tuple[int, float, str, str]]:
        """Make Python values of the columns block by block: a long recording costs little."""
        trace = self.trace
        for first in range(0, len(trace), _BLOCK):
            block = slice(first, first + _BLOCK)
            columns = zip(
                trace.at_s[block].tolist(),
                trace.group[block].tolist(),
                trace.sender[block].tolist(),
                strict=True,
            )
            for row, (at_s, group, sender) in enumerate(columns, first):
                yield row, at_s, trace.groups[group], trace.senders[sender]

    async def _reply(self, batch: Batch[int]) -> None:
        """Do as if something answered."""
        for message in batch.messages:
            self._books.handled(message.payload, message.group, message.sender)
        await asyncio.sleep(float(self._takes_s[batch.primary.payload]))


def run(*replays: Replay) -> None:
    """Run replays side by side: in real time, or in virtual time if none of them has a speed."""

    async def together() -> None:
        async with asyncio.TaskGroup() as tasks:
            for replay in replays:
                tasks.create_task(replay.run(), name=f"replay {replay.trace.name}")

    if all(replay.speed is None for replay in replays):
        from chinwag.testing import run as run_virtually

        run_virtually(together)
    else:
        asyncio.run(together())


class _Books:
    """The replay's own account of every message, to hold against the queue's ledger."""

    def __init__(self, rows: int) -> None:
        self._state = bytearray(rows)
        # By group and sender, the latest row the handler has seen.
        self._latest: dict[tuple[str, str], int] = {}
        self.repeated = 0
        self.out_of_order = 0

    def accepted(self, row: int) -> None:
        self._state[row] = max(self._state[row], _ACCEPTED)

    def handled(self, row: int, group: str, sender: str) -> None:
        self.repeated += self._state[row] == _HANDLED
        self._state[row] = _HANDLED
        lane = (group, sender)
        if self._latest.get(lane, -1) > row:
            self.out_of_order += 1
        self._latest[lane] = row

    def lost(self, ledger: Ledger) -> int:
        unseen = self._state.count(_ACCEPTED)
        unhandled = ledger.ended - ledger.done - ledger.dead
        return max(0, unseen - unhandled - ledger.waiting - ledger.running)


def _faster(config: Config, factor: float) -> Config:
    """Divide every duration, and multiply what is counted by the second."""
    return Config.of(**_scaled(config.flat(), factor))


def _scaled(settings: Mapping[str, Any], factor: float) -> dict[str, Any]:
    scaled = dict(settings)
    for key, value in settings.items():
        if key == "bands":
            scaled[key] = [_scaled(band, factor) for band in value]
        elif value is None:
            continue
        elif key.endswith("_s"):
            scaled[key] = value / factor
        elif key == "aging":
            scaled[key] = value * factor
        elif key in ("rate", "rate_per_group"):
            per_second, burst = value
            scaled[key] = (per_second * factor, burst)
    return scaled


def _plain(value: Any) -> Any:
    """Write infinite numbers as text, since JSON has none."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, float) and math.isinf(value) else value


_NUMBER = r"\d*\.?\d+(?:[eE][+-]?\d+)?"
_LONGEST_S = 1e6
_ACCEPTED, _HANDLED = 1, 2

# Rows whose columns become Python values at once, and after how many pushes others get a turn
# when the recording is faster than the machine.
_BLOCK = 4096
_BREATH = 256

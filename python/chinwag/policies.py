"""What a busy policy comes to on a recording: what `chinwag replay FILE --policies` measures.

The recording is replayed on virtual time once for each policy, with calls that take as long for
the same message under each. A **turn** is what somebody writes in a row: each message within
`back_to_back_s` of their one before in the group, whoever writes in between. A call that returns
has posted an **answer** to its messages; one that is ended has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from chinwag.config import Config, Setting
from chinwag.replay import HandlerTime, Replay, run
from chinwag.stats import human_s

if TYPE_CHECKING:
    from chinwag import Batch, Context
    from chinwag.traces import Trace

__all__ = ["COLUMNS", "POLICIES", "Comparison", "Policy", "Row", "Trial", "Turns"]

QUIET_S: Final = 2.0
"""The quiet period of the policy that has one, unless one is given."""

COLUMNS: Final = (
    "policy",
    "calls per turn",
    "answers",
    "to half a turn",
    "unanswered",
    "added wait p50",
    "p95",
    "p99",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A busy policy, and the settings that go with it."""

    name: str
    settings: Mapping[str, Setting]
    quiet: bool = False
    """Whether it has a quiet period."""
    within: bool = False
    """Whether only follow-ups interrupt, unless the settings say otherwise."""

    def on(self, base: Config) -> Config:
        """Say what holds under it: all that the base says, but for what makes the policy."""
        given = base.flat()
        quiet_s = (given["quiet_s"] or QUIET_S) if self.quiet else 0.0
        more: dict[str, Setting] = {**self.settings, "quiet_s": quiet_s}
        if self.within and given["interrupt_within_s"] is None:
            more["interrupt_within_s"] = given["back_to_back_s"]
        return Config.of(**{**given, **more})

    def title(self, base: Config) -> str:
        """Name it, with its quiet period."""
        return f"{self.name}, quiet_s={self.on(base).window.quiet_s:g}" if self.quiet else self.name


POLICIES: Final = (
    Policy(name="enqueue", settings={"on_busy": "enqueue"}),
    Policy(name="enqueue", settings={"on_busy": "enqueue"}, quiet=True),
    Policy(name="inject", settings={"on_busy": "inject"}),
    *(
        Policy(
            name=f"interrupt, {interrupted}",
            settings={"on_busy": "interrupt", "interrupted": interrupted},
        )
        for interrupted in ("merge", "resume", "abandon")
    ),
    Policy(
        name="rollback",
        settings={"on_busy": "rollback", "interrupted": "merge"},
        within=True,
    ),
    Policy(name="reject", settings={"on_busy": "reject"}),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Turns:
    """The turns of a recording."""

    of: NDArray[np.int64]
    """Which turn a message belongs to, by its row; numbered from 0."""
    count: int
    long: int
    """How many of them are of several messages."""

    @classmethod
    def among(cls, trace: Trace, back_to_back_s: float) -> Turns:
        """Find them: a gap of exactly `back_to_back_s` still goes on with a turn."""
        order = np.lexsort((np.arange(len(trace)), trace.sender, trace.group))
        group, sender = trace.group[order], trace.sender[order]
        # In whole microseconds, as a queue counts.
        at_us = np.rint(trace.at_s[order] * 1e6).astype(np.int64)
        begins = np.ones(len(trace), bool)
        begins[1:] = (
            (group[1:] != group[:-1])
            | (sender[1:] != sender[:-1])
            | (np.diff(at_us) > round(back_to_back_s * 1e6))
        )
        of = np.empty(len(trace), np.int64)
        of[order] = np.cumsum(begins) - 1
        sizes = np.bincount(of) if len(trace) else np.zeros(0, np.int64)
        return cls(of=of, count=len(sizes), long=int(np.count_nonzero(sizes > 1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One policy, measured; times are those of the room."""

    policy: str
    calls: int
    """Calls that were made, those that were ended included."""
    calls_per_turn: float
    answers: int
    """Calls that returned."""
    half: int
    """Answers to half a turn: not to all messages of every turn that they are about. The table
    shows which part of the answers that is.
    """
    unanswered: int
    """Messages that are in no answer: refused, or abandoned."""
    wait_p50_s: float | None
    """From a turn's last answered message to when the call that answered it got it."""
    wait_p95_s: float | None
    wait_p99_s: float | None

    def cells(self) -> tuple[str, ...]:
        """What the columns show, as `COLUMNS` names them."""
        waits = (self.wait_p50_s, self.wait_p95_s, self.wait_p99_s)
        return (
            self.policy,
            f"{self.calls_per_turn:.3f}",
            f"{self.answers:,}",
            f"{self.half / self.answers:.1%}" if self.answers else "-",
            f"{self.unanswered:,}",
            *("-" if wait is None else human_s(wait) for wait in waits),
        )


class Trial(Replay):
    """One recording on its way through a queue with one policy, on virtual time.

    Its handler takes as long as is drawn for the latest message that it has. Under `inject` it then
    takes what is in its inbox, thinks about that as long as a call for it would, and looks again.
    A resumed call begins anew.
    """

    def __init__(self, trace: Trace, policy: Policy, base: Config, **options: Any) -> None:
        config = policy.on(base)
        super().__init__(trace, config, **options)
        self.title = policy.title(base)
        self._looks = config.busy.on_busy == "inject"
        self._answers = 0
        # By row: which answer it is in, and when the call of that got it.
        self._answer = np.full(len(trace), -1, np.int64)
        self._got_s = np.zeros(len(trace))
        self._clock: Callable[[], float] | None = None
        self._start_s = 0.0

    def row(self, turns: Turns) -> Row:
        """Say what came of it.

        Raises:
            Imbalance: The books of the queue do not add up.
        """
        self._queue.check()
        calls = self._queue.stats().calls
        answered = self._answer >= 0
        least = np.full(turns.count, np.iinfo(np.int64).max)
        most = np.full(turns.count, -1, np.int64)
        np.minimum.at(least, turns.of, self._answer)
        np.maximum.at(most, turns.of, self._answer)
        split = (least != most)[turns.of]
        half = len(np.unique(self._answer[split & answered]))
        last = np.full(turns.count, -1, np.int64)
        np.maximum.at(last, turns.of[answered], np.flatnonzero(answered))
        last = last[last >= 0]
        waits = np.maximum(np.round(self._got_s[last] - self.trace.at_s[last], 6), 0)
        marks = np.quantile(waits, _MARKS).tolist() if len(waits) else [None] * len(_MARKS)
        return Row(
            policy=self.title,
            calls=calls,
            calls_per_turn=calls / turns.count,
            answers=self._answers,
            half=half,
            unanswered=int(np.count_nonzero(~answered)),
            wait_p50_s=marks[0],
            wait_p95_s=marks[1],
            wait_p99_s=marks[2],
        )

    async def _feed(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._start_s = self._clock()
        await super()._feed()

    async def _reply(self, batch: Batch[int], ctx: Context) -> None:  # type: ignore[override]
        assert self._clock is not None
        got_s = dict.fromkeys(batch.payloads, self._clock())
        await asyncio.sleep(float(self._takes_s[batch.primary.payload]))
        while self._looks and (came := ctx.inbox.take()):
            got_s |= dict.fromkeys((message.payload for message in came), self._clock())
            await asyncio.sleep(float(self._takes_s[came[-1].payload]))
        for row, at_s in got_s.items():
            self._answer[row] = self._answers
            self._got_s[row] = at_s - self._start_s
        self._answers += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All policies on one recording."""

    trace: Trace
    base: Config
    handler_s: HandlerTime
    flush_mentions: bool = False

    def trials(self) -> Iterator[Trial]:
        """Make a trial of each policy, to be run one after the other.

        Raises:
            ConfigError: A policy cannot be had with these settings.
        """
        for policy in POLICIES:
            yield Trial(
                self.trace,
                policy,
                self.base,
                handler_s=self.handler_s,
                flush_mentions=self.flush_mentions,
                seed=self.base.order.seed,
            )

    def turns(self) -> Turns:
        """Find the turns of the recording."""
        return Turns.among(self.trace, self.base.window.back_to_back_s)

    def caption(self, turns: Turns) -> str:
        """Say what was replayed."""
        return (
            f"{self.trace.name}: {len(self.trace):,} messages in {turns.count:,} turns, "
            f"{turns.long:,} of them of several messages; calls of {self.handler_s} s"
        )

    def rows(self) -> Iterator[Row]:
        """Measure one policy after the other."""
        turns = self.turns()
        for trial in self.trials():
            run(trial)
            yield trial.row(turns)

    def as_dict(self, turns: Turns, rows: list[Row]) -> dict[str, Any]:
        """Make a dictionary that is valid JSON."""
        return {
            "name": self.trace.name,
            "messages": len(self.trace),
            "turns": turns.count,
            "long_turns": turns.long,
            "handler_s": str(self.handler_s),
            "policies": [asdict(row) for row in rows],
        }


_MARKS: Final = (0.5, 0.95, 0.99)

"""How long the others wait while one floods: what `chinwag fairness` measures.

Every figure comes from a queue on virtual time, through the calls that everybody uses. One floods,
the others are quiet: who has asked something waits for the answer, and then the one asks who has
been silent for longest. At most `TALKING` have a question out at a time, so a room of ten is one
that floods and nine that ask, each entitled to a tenth of the calls.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeAlias, get_args

from chinwag.config import Config
from chinwag.queue import Queue
from chinwag.settings import Strategy
from chinwag.stats import human_s
from chinwag.testing import Call, Clock, RecordingHandler, run

__all__ = ["COLUMNS", "Contest", "Outcome", "Row", "Wait", "in_a_room", "measure", "under_a_cap"]

Sender: TypeAlias = tuple[str, str]
"""A group and somebody who writes in it."""

SIZES: Final = (3, 10, 30, 100)
"""Senders of the rooms, the one who floods among them."""

TALKING: Final = 9
"""Quiet senders of a room that have a question out at a time, if there are so many."""

QUIET_ROOMS: Final = 99
CAP: Final = 10
SPAN_S: Final = 300.0
CALL_S: Final = (0.5, 1.5)

# Everything in one line, in the order of arrival: what there would be if nobody took turns.
_IN_LINE: Final[Mapping[str, Any]] = {
    "lanes": "message",
    "strategy": "priority",
    "back_to_back": 0,
    "burst": 0,
}

_FLOODER: Final = ("room", "flooder")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Somebody who floods among others who do not."""

    settings: Mapping[str, Any]
    """Those of the queue."""

    flooders: tuple[Sender, ...]
    """Who floods, in turn."""

    every_s: float
    """Time from one message of the flood to the next."""

    quiet: tuple[Sender, ...]
    """Who asks and waits for the answer, the longest silent one first."""

    talking: int
    """How many of the quiet ones have a question out at any time."""

    def play(self, seed: int = 0, span_s: float = SPAN_S) -> Outcome:
        """Let them all write for a while, and stop in the middle of it.

        Args:
            seed: For how long the calls take.
            span_s: How much virtual time it lasts.
        """
        return run(lambda clock: self._play(clock, Random(seed), span_s), Clock(start_s=0))

    async def _play(self, clock: Clock, random: Random, span_s: float) -> Outcome:
        # Payloads are the times of their pushes.
        handler = RecordingHandler[float](duration_s=lambda _batch: random.uniform(*CALL_S))
        queue = Queue(handler, **self.settings)
        await queue.start()
        for number in range(math.ceil(span_s / self.every_s)):
            who = self.flooders[number % len(self.flooders)]
            at = number * self.every_s
            clock.at(at, queue.put_nowait, *who, at)
        silent, asked = deque(self.quiet), list[tuple[Sender, float]]()

        async def ask_again_and_again() -> None:
            while True:
                who, at = silent.popleft(), clock.now
                asked.append((who, at))
                await queue.put_nowait(*who, at)
                silent.append(who)

        seats = [asyncio.create_task(ask_again_and_again()) for _ in range(self.talking)]
        await clock.advance(span_s)
        calls = list(handler.calls)
        for seat in seats:
            if not seat.cancel():
                seat.result()  # says why nobody asks any more
        await asyncio.gather(*seats, return_exceptions=True)
        await queue.aclose(drain=False)
        return Outcome.of(self, calls, asked, span_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """From a question to the start of its call, or to the end of the run."""

    who: Sender
    asked: float
    seconds: float
    answered: bool

    def __str__(self) -> str:
        return human_s(self.seconds) if self.answered else f"> {human_s(self.seconds)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a contest."""

    contest: Contest
    calls: list[Call[float]] = field(repr=False)
    """All that have started, in this order."""

    waits: list[Wait] = field(repr=False)
    """Of the quiet ones, the shortest first."""

    @classmethod
    def of(
        cls,
        contest: Contest,
        calls: list[Call[float]],
        asked: list[tuple[Sender, float]],
        span_s: float,
    ) -> Outcome:
        """Find out how long each question has waited."""
        started = {((call.group, call.sender), call.payloads[0]): call.started for call in calls}
        waits = [
            Wait(
                who=who,
                asked=at,
                seconds=started.get((who, at), span_s) - at,
                answered=(who, at) in started,
            )
            for who, at in asked
        ]
        return cls(contest=contest, calls=calls, waits=sorted(waits, key=lambda wait: wait.seconds))

    def floods(self, call: Call[float]) -> bool:
        """Whether a call is one of the flood."""
        return (call.group, call.sender) in self.contest.flooders

    @property
    def share(self) -> float:
        """The flood's share of the calls."""
        return sum(map(self.floods, self.calls)) / len(self.calls)

    def wait(self, quantile: float) -> Wait:
        """How long that share of the quiet ones' questions waited at most."""
        return self.waits[max(0, math.ceil(quantile * len(self.waits)) - 1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one way of ordering comes to, somewhere."""

    where: str
    order: str
    """The setting that orders, or that there is none."""

    default: bool
    """Whether it is what holds there unless something is set."""

    single: Outcome
    """Every message a call of its own."""

    merged: Outcome | None
    """What waits of a sender is one batch, as it is by default."""

    def cells(self) -> list[str]:
        """Show it, in the order of `COLUMNS`; the default has a star."""
        shown = [self.where, f"{self.order} *" if self.default else self.order]
        for outcome in (self.single, self.merged):
            if outcome is None:
                return [*shown, "", "", ""]
            shown += [f"{outcome.share:.1%}", str(outcome.wait(0.5)), str(outcome.wait(0.95))]
        return shown


COLUMNS: Final = (
    *("", "order", "flood", "wait p50", "p95"),
    *("merged: flood", "wait p50", "p95"),
)
"""Of a row: the flood's share of the calls, and the waits of the quiet ones."""


def measure(seed: int = 0) -> Iterator[Row]:
    """Run all contests: every strategy in rooms of each size, and a flooding room among others."""
    for size in SIZES:
        yield from _room(size, seed)
    yield from _rooms(seed)


def in_a_room(size: int, settings: Mapping[str, Any]) -> Contest:
    """One floods a room in which one call runs at a time: 5 messages a second, 5 times too many."""
    return Contest(
        settings={"max_concurrent_per_group": 1, **settings},
        flooders=(_FLOODER,),
        every_s=0.2,
        quiet=tuple(("room", f"quiet {number}") for number in range(1, size)),
        talking=min(TALKING, size - 1),
    )


def under_a_cap(settings: Mapping[str, Any]) -> Contest:
    """One room floods, from two senders, among quiet ones of one sender each: twice too many."""
    return Contest(
        settings={"max_concurrent": CAP, **settings},
        flooders=(("flooded", "ann"), ("flooded", "bob")),
        every_s=0.05,
        quiet=tuple((f"quiet {number}", "cid") for number in range(QUIET_ROOMS)),
        talking=QUIET_ROOMS,
    )


def _room(size: int, seed: int) -> Iterator[Row]:
    where = f"room of {size}"
    default = Config().sources(size=size)["strategy"].value
    for strategy in get_args(Strategy):
        yield Row(
            where=where,
            order=strategy,
            default=strategy == default,
            single=in_a_room(size, {"strategy": strategy, "max_batch": 1}).play(seed),
            merged=in_a_room(size, {"strategy": strategy}).play(seed),
        )
    line = in_a_room(size, _IN_LINE).play(seed)
    yield Row(where=where, order="order of arrival", default=False, single=line, merged=None)


def _rooms(seed: int) -> Iterator[Row]:
    where = f"{1 + QUIET_ROOMS} rooms"
    for fair_by in ("calls", "time"):
        yield Row(
            where=where,
            order=f"fair_by={fair_by}",
            default=fair_by == Config().order.fair_by,
            single=under_a_cap({"fair_by": fair_by, "max_batch": 1}).play(seed),
            merged=under_a_cap({"fair_by": fair_by}).play(seed),
        )
    rooms = under_a_cap(_IN_LINE)
    # A single line is a single group: who is in which room does not matter to it.
    line = Contest(
        settings={"max_concurrent_per_group": CAP, **_IN_LINE},
        flooders=tuple(("all", f"{group} {name}") for group, name in rooms.flooders),
        every_s=rooms.every_s,
        quiet=tuple(("all", f"{group} {name}") for group, name in rooms.quiet),
        talking=rooms.talking,
    ).play(seed)
    yield Row(where=where, order="order of arrival", default=False, single=line, merged=None)

"""Draw the pictures and the tables of docs/order.md from real runs of a queue.

    .venv/bin/python docs/pictures/order.py           # writes them
    .venv/bin/python docs/pictures/order.py --check   # fails if they differ

Each example is a queue on virtual time with room for one call at a time. Whenever a call starts,
`Queue.explain` is asked where everybody stands; nothing here computes who should be next.
"""

import asyncio
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

from drawing import FOLDER, MINUS, ROOT, figure, joined, main, svg

from chinwag import Batch, Queue
from chinwag.explain import Explanation, WaitingBatch
from chinwag.testing import Clock, run

PAGE = ROOT / "docs" / "order.md"

Push: TypeAlias = tuple[float, str, str] | tuple[float, str, str, dict[str, Any]]
"""When, who, what it is called, and how."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """Who writes when, and by what settings it is answered."""

    title: str
    settings: Mapping[str, Any]
    pushes: Sequence[Push]
    call_s: Mapping[str, float] = field(default_factory=dict)
    """How long calls for somebody take; 1 s unless said."""
    second_s: float = 52
    """Width of a second."""
    until_s: float = math.inf
    """What starts later is not shown."""
    between_groups: bool = False
    """Whether the lanes drawn are groups, of one sender each, rather than senders of a group."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of groups."""

    def names(self) -> list[str]:
        """Those who write, in the order of their first message."""
        return list(dict.fromkeys(push[1] for push in self.pushes))


EXAMPLES: Mapping[str, Example] = {
    "round_robin": Example(
        title="round_robin: everybody has a turn",
        settings={"strategy": "round_robin"},
        pushes=[
            *((0, "ann", f"a{number}") for number in range(1, 6)),
            *((0, "bob", f"b{number}") for number in range(1, 4)),
            *((4.5, "cid", f"c{number}") for number in range(1, 3)),
        ],
    ),
    "priority": Example(
        title="priority: the highest score first, and patience counts",
        settings={"strategy": "priority"},
        pushes=[
            (0, "ann", "a1"),
            (0.5, "bob", "b1"),
            (1, "cid", "c1", {"rank": 1}),
            (6, "dee", "d1", {"real_time": True}),
            (7, "cid", "c2", {"rank": 1}),
            (13, "cid", "c3", {"rank": 1}),
        ],
        call_s=dict.fromkeys(("ann", "bob", "cid", "dee"), 4),
        second_s=26,
    ),
    "load_balanced": Example(
        title="load_balanced: everybody has the same time",
        settings={"strategy": "load_balanced"},
        pushes=[
            (0, name, f"{name[0]}{number}")
            for name, most in (("ann", 2), ("bob", 6), ("cid", 6))
            for number in range(1, most + 1)
        ],
        call_s={"ann": 3},
        second_s=43,
    ),
    "adaptive": Example(
        title="adaptive: who writes more pays more",
        settings={"strategy": "adaptive"},
        pushes=[
            *((0, "ann", f"a{number}") for number in range(1, 9)),
            *((0, "bob", f"b{number}") for number in range(1, 3)),
            *((0, "cid", f"c{number}") for number in range(1, 3)),
            *((3.5, "dee", f"d{number}") for number in range(1, 3)),
        ],
        until_s=10,
    ),
    "groups": Example(
        title="between groups: turns by weight",
        settings={"max_concurrent": 1},
        pushes=[
            *((0, "free", f"f{number}") for number in range(1, 5)),
            *((0, "paid", f"p{number}") for number in range(1, 7)),
            *((3.5, "late", f"l{number}") for number in range(1, 3)),
        ],
        between_groups=True,
        weights={"paid": 2},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody puts forward to be next."""

    score: float
    other: float
    """Added to it: what has been served, negative, or with `aging` what waiting has earned."""
    aging: bool = False

    @property
    def key(self) -> float:
        """The largest is next."""
        return round(self.score + self.other, 6)

    def __str__(self) -> str:
        sign = "+" if self.aging else MINUS
        return f"{figure(self.score)} {sign} {figure(abs(self.other))} = {figure(self.key)}"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A call that starts, and why."""

    at: float
    name: str
    call: str
    seconds: float
    claims: Mapping[str, Claim]
    """Of all that could have started at that moment, this one included."""


def play(example: Example) -> list[Start]:
    """Run an example and note who starts, and what everybody put forward."""
    return run(lambda clock: _play(example, clock), Clock(start_s=0))


async def _play(example: Example, clock: Clock) -> list[Start]:
    starts: list[Start] = []

    async def reply(batch: Batch[str]) -> None:
        name = batch.group if example.between_groups else batch.sender
        seconds = example.call_s.get(name, 1)
        claims = (
            _between_groups(example, queue) if example.between_groups else _within(batch, queue)
        )
        starts.append(
            Start(at=clock.now, name=name, call=batch[0].payload, seconds=seconds, claims=claims)
        )
        await asyncio.sleep(seconds)

    queue = Queue(reply, max_batch=1, max_concurrent_per_group=1, **example.settings)
    for group, weight in example.weights.items():
        queue.configure(group, weight=weight)
    async with queue:
        for at, name, call, *options in example.pushes:
            where = (name, "ann") if example.between_groups else ("room", name)
            clock.at(at, partial(queue.put_nowait, *where, call, **dict(*options)))
        await clock.run_until_idle()
        assert queue.stats().processed_messages == len(starts), "a call failed; see the log"
    return [start for start in starts if start.at < example.until_s]


def _within(batch: Batch[str], queue: Queue[str]) -> dict[str, Claim]:
    """Ask what the senders put forward, of those that lacked nothing but the slot."""
    told = queue.explain(batch.group)
    aging = told.settings["aging"].value if told.strategy == "priority" else None
    (call,) = told.running
    heads = [(call.sender, call.score, call.standing, batch[0].arrived_at)]
    heads += [(rival.sender, rival.score, rival.standing, rival.since) for rival in _rivals(told)]
    claims: dict[str, Claim] = {}
    for name, score, standing, since in heads:
        if aging is None:
            claims.setdefault(name, Claim(score=score.total, other=-standing))
        else:
            waited = told.at - since
            claims.setdefault(name, Claim(score=score.total, other=aging * waited, aging=True))
    return claims


def _between_groups(example: Example, queue: Queue[str]) -> dict[str, Claim]:
    """The same for groups of one sender each."""
    claims = {}
    for group in example.names():
        told = queue.explain(group)
        for call in told.running:
            claims[group] = Claim(score=call.score.total, other=-call.group_standing)
        for rival in _rivals(told)[:1]:
            claims[group] = Claim(score=rival.score.total, other=-told.standing)
    return claims


def _rivals(told: Explanation) -> list[WaitingBatch]:
    return [batch for batch in told.waiting if batch.waits_for in ("slot", "turn")]


def table(example: Example, starts: Sequence[Start]) -> str:
    """Show what everybody put forward at each start, the one that is next in bold."""
    names = example.names()
    lines = [f"| at | {' | '.join(names)} | next |", "| ---: |" + " --- |" * (len(names) + 1)]
    for start in starts:
        cells = [str(start.claims.get(name, "")) for name in names]
        cells[names.index(start.name)] = f"**{start.claims[start.name]}**"
        lines.append(f"| {figure(start.at)} s | {' | '.join(cells)} | {start.call} |")
    return "\n".join(lines)


def picture(example: Example, starts: Sequence[Start]) -> str:
    """Draw lanes, calls as bars, and what everybody put forward at each start."""
    names = example.names()
    end = max(start.at + start.seconds for start in starts)
    width, height = _LEFT + end * example.second_s + _RIGHT, _TOP + len(names) * _LANE + _BOTTOM
    picture = _Picture(example, starts, names, end)
    lines = [*picture.axis(), *(line for name in names for line in picture.lane(name))]
    return svg(example.title, picture.told(), (width, height), lines, legend=picture.legend())


@dataclass(frozen=True)
class _Picture:
    example: Example
    starts: Sequence[Start]
    names: Sequence[str]
    end: float

    def axis(self) -> Iterator[str]:
        """Draw a line for each start, with its time."""
        bottom = _TOP + len(self.names) * _LANE
        for at in [start.at for start in self.starts] + [self.end]:
            x = self.x(at)
            yield f'<path class="grid" d="M{x:g} {_TOP - 4}V{bottom:g}"/>'
            yield f'<text class="note at" x="{x:g}" y="{_TOP - 9}">{figure(at)}</text>'
        yield f'<text class="note" x="12" y="{_TOP - 9}">seconds</text>'

    def lane(self, name: str) -> Iterator[str]:
        """Draw what one of them wrote, how long it waited, its calls, and what it put forward."""
        number = self.names.index(name)
        top = _TOP + number * _LANE
        middle = top + _LANE - _BAR / 2 - 8
        calls = {start.call: start for start in self.starts if start.name == name}
        arrivals = {push[2]: push[0] for push in self.example.pushes if push[1] == name}
        spans = (
            (at, calls[call].at if call in calls else self.end) for call, at in arrivals.items()
        )
        yield f'<text class="name" x="12" y="{middle + 4:g}">{escape(name)}</text>'
        for begin, until in joined(spans):
            yield f'<path class="wait" d="M{self.x(begin):g} {middle:g}H{self.x(until):g}"/>'
        for at in dict.fromkeys(arrivals.values()):
            y = middle + _BAR / 2 + 4
            yield f'<circle class="here" cx="{self.x(at):g}" cy="{y:g}" r="2.5"/>'
        for start in self.starts:
            x = self.x(start.at)
            if start.name == name:
                long = start.seconds * self.example.second_s
                yield (
                    f'<rect class="c{number}" x="{x:g}" y="{middle - _BAR / 2:g}" '
                    f'width="{long - 1:g}" height="{_BAR}" rx="3"/>'
                )
                mid = x + long / 2
                yield f'<text class="call" x="{mid:g}" y="{middle + 4:g}">{start.call}</text>'
            if claim := start.claims.get(name):
                which = "next" if start.name == name else "key"
                y = middle - _BAR / 2 - 4
                yield f'<text class="{which}" x="{x + 2:g}" y="{y:g}">{figure(claim.key)}</text>'

    def x(self, at: float) -> float:
        """Where a moment is."""
        return round(_LEFT + at * self.example.second_s, 2)

    def legend(self) -> str:
        """Say what the signs mean."""
        key = (
            "score + age"
            if self.starts[0].claims[self.starts[0].name].aging
            else f"score {MINUS} standing"
        )
        return (
            f"dot: writes · dashes: waits · number: {key} when a call starts, the largest is next"
        )

    def told(self) -> str:
        """The picture in words."""
        return "; ".join(
            f"{figure(start.at)} s: {start.name} ({start.call})" for start in self.starts
        )


def made() -> dict[Path, str]:
    """Make all pictures, and the page with its tables, by their paths."""
    page = PAGE.read_text(encoding="utf-8")
    files = {}
    for name, example in EXAMPLES.items():
        starts = play(example)
        files[FOLDER / f"order-{name}.svg"] = picture(example, starts)
        page = filled(page, name, table(example, starts))
    return {PAGE: page, **files}


def filled(page: str, name: str, table: str) -> str:
    """Put a table between its markers."""
    begin, end = f"<!-- {name}: made by docs/pictures/order.py -->", f"<!-- end of {name} -->"
    between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(between.findall(page)) != 1:
        raise ValueError(f"{begin} ... {end} must be there once")
    return between.sub(lambda _: f"{begin}\n{table}\n{end}", page)


_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 28, 48, 34
_LANE, _BAR = 48, 20

if __name__ == "__main__":
    sys.exit(main("Draw the pictures and tables of docs/order.md.", made))

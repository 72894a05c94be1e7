"""Draw the pictures of the busy policies from real runs of a queue.

    .venv/bin/python docs/pictures/busy.py           # writes them
    .venv/bin/python docs/pictures/busy.py --check   # fails if they differ

Each scene is a queue on virtual time. What is drawn is what was pushed and how that was answered,
when the handler was called with what, how each call ended, and what a stream gave.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

from drawing import FOLDER, figure, joined, main, svg

from chinwag import Batch, Context, Dropped, Queue, Receipt, Rejected, Restarted
from chinwag.events import Event, MessageEnded
from chinwag.testing import Clock, run

Push: TypeAlias = tuple[float, str, str] | tuple[float, str, str, dict[str, Any]]
"""When, who, what, and how."""


@dataclass(kw_only=True)
class Call:
    """A call of the handler, as it saw itself."""

    sender: str
    start: float
    parts: list[tuple[float, str]]
    """What it did, from when on: at first, what it was called with."""
    handed: dict[str, float]
    """When it was handed which message."""
    end: float = 0
    ended: str = ""
    """What ended it; empty if it returned."""


@dataclass(kw_only=True)
class Story:
    """What happened in a scene."""

    pushes: list[tuple[float, str, str, str]] = field(default_factory=list)
    """When, who, what, and why it was refused, if it was."""
    calls: list[Call] = field(default_factory=list)
    ends: list[tuple[float, str, str]] = field(default_factory=list)
    """When, which message and how, unless it was done."""
    shown: list[tuple[float, str]] = field(default_factory=list)
    """What the stream of the first message gave."""


Work: TypeAlias = Callable[[Batch[str], Context, "Note"], Awaitable[None]]
Note: TypeAlias = Callable[..., None]
"""Tells what the call does from now on, and which messages it has taken."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Who writes when, by what settings, and what a call does."""

    title: str
    settings: Mapping[str, Any]
    pushes: Sequence[Push]
    work: Work
    streams: bool = False
    """Whether somebody reads the stream of the first message."""
    second_s: float = 72
    """Width of a second."""


async def think(batch: Batch[str], ctx: Context, note: Note) -> None:
    """Take three seconds."""
    await asyncio.sleep(3)


async def hear(batch: Batch[str], ctx: Context, note: Note) -> None:
    """Take three seconds, and one more for what has come meanwhile."""
    await asyncio.sleep(3)
    while came := ctx.inbox.take():
        words = [message.payload for message in came]
        note("+ " + " ".join(words), *words)
        await asyncio.sleep(1)


async def speak(batch: Batch[str], ctx: Context, note: Note) -> None:
    """Say something every second, and post after the third."""
    words = " ".join(batch.payloads)
    for number in range(1, 4):
        await asyncio.sleep(1)
        ctx.emit(f"{words} {number}")
    ctx.commit()
    note("posts")
    await asyncio.sleep(1)


PAIR: Sequence[Push] = [(0, "ann", "a"), (1, "ann", "b")]

SCENES: Mapping[str, Scene] = {
    "enqueue": Scene(
        title="enqueue: the call goes on, what comes is the next batch",
        settings={},
        pushes=[(0, "ann", "a"), (1, "ann", "b"), (2.5, "ann", "c")],
        work=think,
    ),
    "inject": Scene(
        title="inject: the call takes what has come",
        settings={"on_busy": "inject"},
        pushes=[(0, "ann", "a"), (1, "ann", "b"), (3.5, "ann", "c"), (5.5, "ann", "d")],
        work=hear,
    ),
    "merge": Scene(
        title="interrupt, merge: both come back as one batch",
        settings={"on_busy": "interrupt"},
        pushes=PAIR,
        work=think,
    ),
    "resume": Scene(
        title="interrupt, resume: first the newer, then the older again",
        settings={"on_busy": "interrupt", "interrupted": "resume"},
        pushes=PAIR,
        work=think,
    ),
    "abandon": Scene(
        title="interrupt, abandon: only the newer counts",
        settings={"on_busy": "interrupt", "interrupted": "abandon"},
        pushes=PAIR,
        work=think,
    ),
    "burst": Scene(
        title="interrupt with quiet_s=1: a burst interrupts once",
        settings={"on_busy": "interrupt", "quiet_s": 1},
        pushes=[(0, "ann", "a"), (1.5, "ann", "b"), (2, "ann", "c"), (2.5, "ann", "d")],
        work=think,
    ),
    "streamed": Scene(
        title="interrupt: the stream starts again",
        settings={"on_busy": "interrupt"},
        pushes=[(0, "ann", "a"), (1.5, "ann", "b")],
        work=speak,
        streams=True,
    ),
    "rollback": Scene(
        title="rollback: what was ended was never heard",
        settings={"on_busy": "rollback", "interrupt_within_s": 5},
        pushes=[(0, "ann", "a"), (1.5, "ann", "b"), (5, "ann", "c")],
        work=speak,
        streams=True,
        second_s=64,
    ),
    "reject": Scene(
        title="reject: no while a call runs",
        settings={"on_busy": "reject"},
        pushes=[(0, "ann", "a"), (1, "ann", "b"), (3.5, "ann", "c")],
        work=think,
    ),
    "preempt": Scene(
        title="preempt_margin=2: who leads by two points takes the slot",
        settings={"preempt_margin": 2, "max_concurrent_per_group": 1},
        pushes=[(0, "ann", "a"), (1, "bob", "b", {"rank": 2}), (2, "cid", "c", {"rank": 1})],
        work=think,
        second_s=60,
    ),
    "background": Scene(
        title="background: what nobody said makes room",
        settings={"max_concurrent_per_group": 1},
        pushes=[(0, "bot", "recap", {"background": True}), (1, "ann", "a")],
        work=think,
    ),
}


def play(scene: Scene) -> Story:
    """Run a scene, and note what happens."""
    return run(lambda clock: _play(scene, clock), Clock(start_s=0))


async def _play(scene: Scene, clock: Clock) -> Story:
    story = Story()
    streams: list[asyncio.Task[None]] = []

    async def reply(batch: Batch[str], ctx: Context) -> None:
        told = " ".join(batch.payloads) + (" again" if ctx.resumed else "")
        call = Call(
            sender=batch.sender,
            start=clock.now,
            parts=[(clock.now, told)],
            handed=dict.fromkeys(batch.payloads, clock.now),
        )
        story.calls.append(call)

        def note(what: str, *taken: str) -> None:
            call.parts.append((clock.now, what))
            call.handed |= dict.fromkeys(taken, clock.now)

        try:
            await scene.work(batch, ctx, note)
        except asyncio.CancelledError:
            call.ended = str(ctx.ending.reason)
            raise
        finally:
            call.end = clock.now

    async def read(receipt: Receipt) -> None:
        try:
            async for item in receipt.stream():
                again = isinstance(item, Restarted)
                story.shown.append((clock.now, "Restarted" if again else str(item)))
        except Dropped as dropped:
            story.shown.append((clock.now, dropped.end))

    def push(sender: str, what: str, options: Mapping[str, Any]) -> None:
        refused = ""
        try:
            receipt = queue.put_nowait("room", sender, what, id=what, **options)
        except Rejected as no:
            refused = no.reason
        else:
            if scene.streams and not streams:
                streams.append(asyncio.create_task(read(receipt)))
        story.pushes.append((clock.now, sender, what, refused))

    def hear_of(event: Event) -> None:
        if isinstance(event, MessageEnded) and event.end != "done":
            story.ends.append((event.at, event.id, event.end))

    queue = Queue(reply, **scene.settings)
    queue.subscribe(hear_of)
    async with queue:
        for at, sender, what, *options in scene.pushes:
            clock.at(at, partial(push, sender, what, dict(*options)))
        await clock.run_until_idle()
        assert queue.stats().failed_messages == 0, "a call failed; see the log"
        queue.check()
    return story


def picture(scene: Scene, story: Story) -> str:
    """Draw for everybody what they wrote, above, and the calls for it, below."""
    names = list(dict.fromkeys(sender for _, sender, _, _ in story.pushes))
    end = max(call.end for call in story.calls)
    drawn = _Picture(scene, story, names, end)
    lines = [
        *drawn.axis(),
        *(line for name in names for line in drawn.lane(name)),
        *drawn.shown(),
    ]
    size = (max(_LEFT + end * scene.second_s + _RIGHT, _NARROWEST), drawn.bottom + _BOTTOM)
    return svg(
        scene.title, drawn.told(), size, lines, legend="dot: writes · dashes: waits", style=_STYLE
    )


@dataclass(frozen=True)
class _Picture:
    scene: Scene
    story: Story
    names: Sequence[str]
    end: float

    @property
    def bottom(self) -> float:
        """Where the lanes end."""
        return _TOP + len(self.names) * _LANE + (_SHOWN if self.scene.streams else 0)

    def axis(self) -> Iterator[str]:
        """Draw a line for every second."""
        for at in range(int(self.end) + 1):
            x = self.x(at)
            yield f'<path class="grid" d="M{x:g} {_TOP - 4}V{self.bottom:g}"/>'
            yield f'<text class="note at" x="{x:g}" y="{_TOP - 9}">{at}</text>'
        yield f'<text class="note" x="12" y="{_TOP - 9}">seconds</text>'

    def lane(self, name: str) -> Iterator[str]:
        """Draw somebody's messages, how long they waited, and the calls for them."""
        number = self.names.index(name)
        top = _TOP + number * _LANE
        dots, bar = top + 20, top + 30
        yield f'<text class="name" x="12" y="{bar + 14:g}">{escape(name)}</text>'
        for begin, until in joined(self.waits(name)):
            yield f'<path class="wait" d="M{self.x(begin):g} {dots:g}H{self.x(until):g}"/>'
        for at, sender, what, refused in self.story.pushes:
            if sender != name:
                continue
            x = self.x(at)
            if refused:
                yield f'<path class="no" d="M{x - 4:g} {dots - 4:g}l8 8m0 -8l-8 8"/>'
            else:
                yield f'<circle class="here" cx="{x:g}" cy="{dots:g}" r="3.5"/>'
            said = f"{what}: {refused}" if refused else what
            yield f'<text class="said" x="{x + 7:g}" y="{dots - 5:g}">{escape(said)}</text>'
        for call in self.story.calls:
            if call.sender == name:
                yield from self.bar(call, number, bar)

    def bar(self, call: Call, number: int, top: float) -> Iterator[str]:
        """Draw a call: what it had and did, and what ended it, if it did not end by itself."""
        x, width = self.x(call.start), self.x(call.end) - self.x(call.start) - 1
        kind, words = ("ended", "was") if call.ended else (f"c{number}", "call")
        yield (
            f'<rect class="{kind}" x="{x:g}" y="{top:g}" width="{width:g}" height="{_BAR}" rx="3"/>'
        )
        untils = [at for at, _ in call.parts[1:]] + [call.end]
        for (at, what), until in zip(call.parts, untils, strict=True):
            if at > call.start:
                yield f'<path class="cut" d="M{self.x(at):g} {top:g}v{_BAR}"/>'
            middle = (self.x(at) + self.x(until)) / 2
            yield f'<text class="{words}" x="{middle:g}" y="{top + 14:g}">{escape(what)}</text>'
        lost = [f"{what} {how}" for at, what, how in self.story.ends if at == call.end]
        if after := " · ".join([call.ended, *lost] if call.ended else lost):
            yield f'<text class="note" x="{x:g}" y="{top + _BAR + 12:g}">{escape(after)}</text>'

    def waits(self, name: str) -> Iterator[tuple[float, float]]:
        """When a message of theirs waited: before its first call, and between its calls."""
        for at, sender, what, refused in self.story.pushes:
            if sender == name and not refused:
                for call in self.story.calls:
                    if what in call.handed:
                        yield at, call.handed[what]
                        at = call.end

    def shown(self) -> Iterator[str]:
        """Draw what a reader of the stream was given."""
        if not self.scene.streams:
            return
        line = self.bottom - _SHOWN + 14
        yield f'<text class="name" x="12" y="{line + 4:g}">reads</text>'
        rows: dict[float, int] = {}
        for at, item in self.story.shown:
            row = rows[at] = rows.get(at, -1) + 1
            y = line + row * 14
            yield f'<text class="said" x="{self.x(at) + 3:g}" y="{y + 4:g}">{escape(item)}</text>'

    def x(self, at: float) -> float:
        """Where a moment is."""
        return round(_LEFT + at * self.scene.second_s, 2)

    def told(self) -> str:
        """The picture in words."""
        story = self.story
        told = [
            (at, 0, f"{who} writes {what}" + (f", refused: {why}" if why else ""))
            for at, who, what, why in story.pushes
        ]
        for call in story.calls:
            told += [(at, 2, f"{call.sender}'s call: {what}") for at, what in call.parts]
            how = call.ended or "done"
            told.append((call.end, 1, f"{call.sender}'s call ends: {how}"))
        told += [(at, 1, f"{what} ends {how}") for at, what, how in story.ends]
        told += [(at, 3, f"read: {item}") for at, item in story.shown]
        return "; ".join(f"{figure(at)} s: {what}" for at, _, what in sorted(told))


def made() -> dict[Path, str]:
    """Make all pictures, by their paths."""
    return {
        FOLDER / f"busy-{name}.svg": picture(scene, play(scene)) for name, scene in SCENES.items()
    }


_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 36, 48, 30
_LANE, _BAR, _SHOWN = 70, 20, 58
_NARROWEST = 420

_STYLE = (
    ".said{font-size:11px}.no{stroke:#c4403a;stroke-width:2}.cut{stroke:#fff;stroke-width:2}"
    ".ended{fill:#ffebe9;stroke:#c4403a;stroke-dasharray:3 2}.was{fill:#82071e;text-anchor:middle}"
    "@media (prefers-color-scheme:dark){.cut{stroke:#151b23}"
    ".ended{fill:#3c1618;stroke:#f85149}.was{fill:#ffc1ba}.no{stroke:#f85149}}"
)

if __name__ == "__main__":
    sys.exit(main("Draw the pictures of the busy policies.", made))

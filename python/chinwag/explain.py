"""Why the next one is next, and why the others wait: what `Queue.explain` gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, cast

from chinwag._checks import digits
from chinwag.config import Effective
from chinwag.stats import human_s

__all__ = ["Explanation", "RunningCall", "Score", "WaitingBatch", "WaitsFor"]

WaitsFor: TypeAlias = Literal[
    "turn",
    "slot",
    "token",
    "pause",
    "lane_busy",
    "quiet",
    "max_wait",
    "delay",
    "backoff",
    "next_call",
]
"""What a batch waits for: its turn among others that could start too; a free slot or token of its
group or of the queue; the end of a pause; the call of its lane or the batches before it; the end of
its quiet time, longest wait or delay, or of the pause after a failure; as context, the group's next
call.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a batch has to say for itself, in points; each part is named after its setting."""

    real_time: float
    back_to_back: float
    burst: float
    sender: float
    """The setting `sender` times the weight of the sender."""
    rank: float
    """The largest rank among its messages."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.real_time + self.back_to_back + self.burst + self.sender + self.rank

    def __str__(self) -> str:
        parts = [f"{name} {digits(points)}" for name, points in asdict(self).items() if points]
        return f"{digits(self.total)} ({', '.join(parts)})" if parts else "0"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningCall:
    """A call that runs, and why it started when it did."""

    sender: str
    """Who wrote its first message."""
    ids: tuple[str, ...]
    """Its messages."""
    started_at: float
    """In epoch seconds."""
    closed_by: str | None
    """What made its window due; None for one that bypassed the others."""
    score: Score
    standing: float
    """What its sender had been served when it started, in calls."""
    group_standing: float
    """What its group had been served then, in calls."""
    bypass: bool

    def __str__(self) -> str:
        if self.bypass:
            return f"{self.sender} {_ids(self.ids)}: beside everything"
        return (
            f"{self.sender} {_ids(self.ids)}: closed by {self.closed_by}, score {self.score}, "
            f"sender stood at {digits(self.standing)}, group at {digits(self.group_standing)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingBatch:
    """Messages that wait together, and the one thing they wait for."""

    sender: str
    """Who wrote the first of them."""
    ids: tuple[str, ...]
    since: float
    """When the first arrived, in epoch seconds; when it was pushed, of a delayed one."""
    score: Score
    standing: float
    """What their sender has been served, in calls."""
    aged: float = 0.0
    """Points that they have gained by waiting, where the strategy is `priority`."""
    waits_for: WaitsFor
    until: float | None
    """When that ends by itself, in epoch seconds; None where that depends on others."""

    def __str__(self) -> str:
        return (
            f"{self.sender} {_ids(self.ids)}: waits for {self.waits_for}, "
            f"score {self.score}, "
            + (f"aged {digits(self.aged)}, " if self.aged else "")
            + f"sender stands at {digits(self.standing)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Explanation:
    """How the messages of a group stand at one moment.

    Between the senders of a group, and between the groups, the largest *score - standing* starts
    first; see docs/order.md.
    """

    group: str
    at: float
    """The moment, in epoch seconds."""
    strategy: str
    """What counts as served among its senders."""
    size: int
    """Its active senders, or its members under `size_by="members"`."""
    standing: float = 0.0
    """What the group has been served, in calls."""
    now_served: float = 0.0
    """What a group would have been served that was always there: who comes back stands here."""
    senders_served: float = 0.0
    """The same for a sender of this group."""
    running: tuple[RunningCall, ...] = ()
    """The oldest first."""
    waiting: tuple[WaitingBatch, ...] = ()
    """Who could start first; who waits for something else behind them."""
    settings: Mapping[str, Effective]
    """The settings in force, and where each comes from."""

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain dicts, lists and numbers."""
        plain = asdict(self)
        plain["settings"] = {key: item._asdict() for key, item in self.settings.items()}
        for part in (*plain["running"], *plain["waiting"]):
            part["ids"] = list(part["ids"])
            part["score"]["total"] = sum(part["score"].values())
        plain["running"], plain["waiting"] = list(plain["running"]), list(plain["waiting"])
        return plain

    def to_json(self, *, indent: int | None = None) -> str:
        """The same as JSON. An endless time is the text "inf"."""
        return json.dumps(_finite(self.as_dict()), indent=indent, default=str)

    def __repr__(self) -> str:
        stands = f"stands at {digits(self.standing)} (now served {digits(self.now_served)})"
        lines = [f"{self.group}: {self.strategy}, size {self.size}, {stands}"]
        lines += [
            f"  runs   {call} since {human_s(self.at - call.started_at)}" for call in self.running
        ]
        for batch in self.waiting:
            left = (
                "" if batch.until is None else f" (in {human_s(max(batch.until - self.at, 0.0))})"
            )
            lines.append(f"  waits  {batch}{left}")
        if not self.running and not self.waiting:
            lines.append("  nothing runs or waits")
        return "\n".join(lines)


def explanation(
    group: str, at: float, facts: Mapping[str, Any], settings: Mapping[str, Effective]
) -> Explanation:
    """Make it of what the engine says of a group.

    Args:
        group: Which.
        at: When that was, in epoch seconds.
        facts: Fields of `Explanation`; of a group that is not known only size and strategy.
        settings: What holds in the group.
    """
    aging = cast("float", settings["aging"].value) if facts["strategy"] == "priority" else 0.0
    running = tuple(
        RunningCall(**{**call, "score": Score(**call["score"])})
        for call in facts.get("running", ())
    )
    waiting = tuple(
        WaitingBatch(
            **{**batch, "score": Score(**batch["score"])},
            aged=round(aging * max(at - batch["since"], 0.0), 6),
        )
        for batch in facts.get("waiting", ())
    )
    known = {**facts, "running": running, "waiting": waiting}
    return Explanation(group=group, at=at, settings=settings, **known)


def _ids(ids: tuple[str, ...]) -> str:
    shown = ", ".join(ids[:3])
    return f"[{shown}]" if len(ids) <= 3 else f"[{shown}, … {len(ids):,} in all]"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value

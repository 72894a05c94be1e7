"""Real rooms to look at: the shipped recordings, each with settings that suit it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chinwag.settings import Setting
from chinwag.traces import Trace, shipped

__all__ = ["Room", "rooms"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """A recording and how to treat it."""

    trace: Trace
    settings: Mapping[str, Setting]
    about: str


def rooms() -> list[Room]:
    """Read the shipped recordings, both as long as the shorter one."""
    premiere = shipped("live_premiere")
    pairs = shipped("chitchat_pairs").gathered(_BEGIN_WITHIN_S)
    return [
        Room(
            trace=premiere,
            settings={"lanes": "group"},
            about="a live chat: one answer at a time for whoever wrote meanwhile",
        ),
        Room(
            trace=pairs.between(0, premiere.span_s),
            settings={"quiet_s": 2.0},
            about=(
                f"{pairs.active_groups} conversations of two days, moved to begin within "
                f"{_BEGIN_WITHIN_S / 60:.0f} minutes; an answer waits until its writer has paused"
            ),
        ),
    ]


_BEGIN_WITHIN_S = 600.0

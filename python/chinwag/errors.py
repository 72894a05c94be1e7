"""What chinwag raises: one tree, so that `except ChinwagError` catches all of it."""

from __future__ import annotations

import asyncio

__all__ = [
    "ChinwagError",
    "ConfigError",
    "Dropped",
    "Imbalance",
    "LeaseLost",
    "QueueClosed",
    "QueueFull",
    "Rejected",
    "TraceError",
]


class ChinwagError(Exception):
    """Base of everything chinwag raises on purpose."""


# These names say what happened to the message, as asyncio.QueueFull does: no "Error" at their end.


class Rejected(ChinwagError):  # noqa: N818
    """The message was not accepted and left no trace.

    Args:
        reason: `duplicate`, `busy`, `group_full`, `full`, `bypass_full`, `closed`; of a queue that
            cannot go on also `loop_closed` or `forked`.
        depth: How many messages waited at that moment: in the group, in all when it is `full`,
            or how many bypassed the others when it is `bypass_full`.
    """

    def __init__(self, reason: str, depth: int) -> None:
        super().__init__(reason, depth)
        self.reason = reason
        self.depth = depth

    def __str__(self) -> str:
        return _WHY.get(self.reason, "not accepted: {reason}, {depth} waiting").format(
            reason=self.reason, depth=self.depth
        )


class QueueFull(Rejected, asyncio.QueueFull):
    """The group (`group_full`) or the whole queue (`full`, `bypass_full`) has no room."""


class QueueClosed(Rejected):
    """The queue has been closed and takes nothing any more."""


class Dropped(ChinwagError):  # noqa: N818
    """An accepted message ended without a result; raised by its receipt.

    When the message is `dead` because the handler raised, `__cause__` is what it raised.

    Args:
        end: The end of the message: `dead`, `cleared`, `abandoned`, ...
        reason: Why, in one word: `error`, `closed`, ...
    """

    def __init__(self, end: str, reason: str) -> None:
        super().__init__(end, reason)
        self.end = end
        self.reason = reason

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason and self.reason != self.end else ""
        return f"the message has no result: it ended {self.end}{why}"


class LeaseLost(ChinwagError):  # noqa: N818
    """The call has lost its right to its batch; what it still does changes nothing."""


class ConfigError(ChinwagError, ValueError):
    """A setting is unknown, has a wrong value, or contradicts another."""


class TraceError(ChinwagError, ValueError):
    """A recording cannot be read: the message names the file, the place and what is missing."""


class Imbalance(ChinwagError):  # noqa: N818
    """The books of the queue do not add up; a bug in chinwag, never in its caller."""


_WHY = {
    "duplicate": (
        "not accepted: its id waits, runs or was accepted within dedup_s ({depth} waiting in the "
        "group); treat it as delivered, or push it under another id"
    ),
    "busy": (
        "not accepted: its lane is busy and on_busy is 'reject' ({depth} waiting in the group); "
        "push it when the call has ended, or with another on_busy"
    ),
    "group_full": (
        "not accepted: the group has no room ({depth} waiting); push it later or raise "
        "capacity_per_group"
    ),
    "full": (
        "not accepted: the queue has no room ({depth} waiting in all); push it later or raise "
        "capacity"
    ),
    "bypass_full": (
        "not accepted: {depth} messages bypass the others already; push it later, without bypass, "
        "or raise max_bypass"
    ),
    "closed": (
        "not accepted: the queue is closed ({depth} waiting in the group); push before aclose(), "
        "or into a new queue"
    ),
    "loop_closed": (
        "not handled: the queue's event loop was closed without aclose(), and what waited ended "
        "abandoned; close the queue before its loop, with 'async with queue' or aclose()"
    ),
    "forked": (
        "not accepted: the queue belongs to the process that this one was forked from; make a new "
        "queue in this process"
    ),
}

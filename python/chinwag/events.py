"""What happened, as values: the items of `Queue.events()` and the argument of `subscribe`.

Every event has `at`, the engine's time in epoch seconds. An id is the one that was pushed, or
`#<number>` where chinwag gave it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BatchHeld",
    "BatchLeased",
    "BatchSettled",
    "CallEnding",
    "Event",
    "EventsMissed",
    "GroupConfigured",
    "GroupForgotten",
    "GroupPaused",
    "GroupResized",
    "GroupResumed",
    "MessageAccepted",
    "MessageEdited",
    "MessageEnded",
    "MessageRefused",
    "QueueClosed",
    "SenderTyping",
    "WindowClosed",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageAccepted:
    """A push was accepted; from now on the message is accounted for."""

    at: float
    group: str
    sender: str
    id: str
    seq: int
    """Push order over the whole queue, from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageRefused:
    """A push was refused and left no trace."""

    at: float
    group: str
    sender: str
    id: str | None
    """None where the pusher gave none: a refused message gets no number."""
    reason: str
    """`duplicate`, `group_full`, `full`, `bypass_full` or `closed`."""
    depth: int
    """Messages that waited: in the group, or in all when the queue is `full`; those that bypassed
    the others when that is `bypass_full`.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowClosed:
    """A window became due: it still takes in what fits, but nothing makes it wait again."""

    at: float
    group: str
    sender: str
    messages: int
    closed_by: str
    """`quiet`, `max_wait`, `size`, `cut`, `flush`, `idle`, `busy` or `drain`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLeased:
    """A call began."""

    at: float
    lease: int
    """Number of the call; its `BatchSettled` carries the same."""
    group: str
    sender: str
    messages: int
    kind: str
    """`single`, `back_to_back` or `burst`."""
    closed_by: str
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettled:
    """A call ended."""

    at: float
    lease: int
    group: str
    messages: int
    ok: bool
    reason: str | None
    """Why it failed; None when it did not."""
    handling_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CallEnding:
    """The end of a call was decided: it is asked to, and has `cancel_grace_s` for it."""

    at: float
    lease: int
    group: str
    reason: str
    """`timeout`, ..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchHeld:
    """A batch goes back to its lane and will be handed over again, before anything newer of it."""

    at: float
    group: str
    sender: str
    messages: int
    attempts: int
    """Attempts at it so far."""
    until: float | None
    """When it may start again; None: as soon as there is a slot."""
    reason: str
    """What its last call failed of, `snoozed`, or `split`: its halves are tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageEnded:
    """A message reached its one end."""

    at: float
    group: str
    id: str
    seq: int
    end: str
    """`done`, `dead`, `expired`, `evicted`, `superseded`, `cleared`, `withdrawn`, `abandoned`."""
    reason: str
    """Empty for `done`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageEdited:
    """A message that had not started says something else now."""

    at: float
    group: str
    id: str
    seq: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupResized:
    """A group entered another band of sizes: other settings may hold from here on."""

    at: float
    group: str
    size: int
    strategy: str
    """Who goes first in it from now on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SenderTyping:
    """Somebody said that a sender types, or no longer does."""

    at: float
    group: str
    sender: str
    on: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupConfigured:
    """Something was set for a group: settings, its members, or the weight of a sender."""

    at: float
    group: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupPaused:
    """Starts were paused."""

    at: float
    group: str | None
    """None: the whole queue."""
    until: float | None
    """When the pause lifts by itself; None: at `resume`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupResumed:
    """A pause was lifted."""

    at: float
    group: str | None
    """None: that of the whole queue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupForgotten:
    """A group was idle for `idle_group_s` and takes no memory any more."""

    at: float
    group: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueClosed:
    """The queue began to close: pushes are refused, every window is due."""

    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EventsMissed:
    """So many events were dropped here, since nobody read them in time.

    Either the reader of `events()` was slower than its buffer allows, or the event loop was blocked
    for so long that the queue itself had too many to keep. It has no `at`, since it is not about
    the queue.
    """

    count: int


Event = (
    MessageAccepted
    | MessageRefused
    | WindowClosed
    | BatchLeased
    | BatchSettled
    | CallEnding
    | BatchHeld
    | MessageEnded
    | MessageEdited
    | GroupResized
    | GroupConfigured
    | SenderTyping
    | GroupPaused
    | GroupResumed
    | GroupForgotten
    | QueueClosed
    | EventsMissed
)
"""Whatever `events()` yields."""

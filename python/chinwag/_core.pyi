"""The compiled half of chinwag: pushes, controls and looks from any thread, and what they give."""

from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime
from types import GenericAlias
from typing import Any, Generic, Literal, TypeVar, final, overload

from typing_extensions import disjoint_base

from chinwag.config import Profile
from chinwag.events import Event
from chinwag.stream import Feed, Stream

__all__ = ["Batch", "Core", "ManualClock", "Message", "Receipt", "histogram_edges"]

_P = TypeVar("_P")
_P_co = TypeVar("_P_co", covariant=True)

# Queue

@disjoint_base
class Core(Generic[_P]):
    """The compiled base of `chinwag.Queue`; use that.

    Names (`group`, `sender`, `id`, `batch_key`) are str of 1 to 1,024 UTF-8 bytes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Core[_P]: ...
    def __init__(self, given: Profile, clock: ManualClock | None = None) -> None: ...
    def __class_getitem__(cls, key: Any) -> GenericAlias: ...

    # Pushes: see docs/admission.md

    def put_nowait(
        self,
        group: str,
        sender: str,
        payload: _P,
        *,
        id: str | None = None,
        at: float | datetime | None = None,
        real_time: bool = False,
        rank: float = 0,
        size: float = 1,
        batch_key: str | None = None,
        quiet_s: float | None = None,
        flush: bool = False,
        standalone: bool = False,
        bypass: bool = False,
        context: bool = False,
        ttl_s: float | None = None,
        delay_s: float | None = None,
        background: bool = False,
        on_busy: Literal["enqueue", "inject", "interrupt", "rollback", "reject"] | None = None,
    ) -> Receipt:
        """Accept a message and decide when it will be handled.

        Returns at once, from any thread, also before the queue is started; the handler runs later,
        maybe together with other messages of the sender.

        Args:
            group: The conversation: room, channel, chat.
            sender: Who wrote it.
            payload: Anything; it is handed over and never looked at.
            id: Its name in its group. While it waits or runs, and for `dedup_s` after its
                acceptance, another message with this id is refused with reason `duplicate`. Not of
                the form `#<number>`: such ids are given to messages without one.
            at: The platform's time of the message, in epoch seconds or as an aware datetime. Kept
                and shown, and used by `keep="latest"` alone.
            real_time: It gets the points of the setting `real_time`: said by voice, or live.
            rank: Points of its own; one point is one call, so three of them overtake three turns.
            size: What it takes up of `max_batch`, above 0.
            batch_key: Thread, album: only consecutive messages of one key share a batch.
            quiet_s: Seconds of a quiet period of its own, while it is the last of its window.
            flush: A mention: what waits in its lane is due at once, itself included.
            standalone: It shares its batch with nobody.
            bypass: A command: it starts at once beside everything, also in a paused group, and
                takes no slot. At most `max_bypass` of them at once.
            context: Listening: no call of its own; the group's next call gets it as
                `batch.context`.
            ttl_s: Seconds that it may wait for its first start, instead of the setting's; then it
                ends `expired`. `inf` for no limit.
            delay_s: Seconds until it arrives. It is accepted now, and counts as waiting.
            background: Nobody said it, a timer say: it has a lane of its own beside the sender's
                other messages, and everything that somebody said goes first in its group.
            on_busy: What it does to a running call of its lane, instead of the setting's. One that
                could never be served in its group is refused: `rollback` where that is not the
                setting, `inject` under `lanes="message"`, and what could never interrupt.

        Raises:
            QueueClosed: The queue has been closed, or its event loop is gone.
            Rejected: A message with this id is there, or was a moment ago; under `reject`, its lane
                is busy.
            QueueFull: The group or the queue has no room, or too much bypasses the others.
            TypeError, ValueError: An argument cannot be taken; the message names it. In every case
                the message was not accepted and left no trace.
        """

    # Control: see docs/control.md

    def pause(self, group: str | None = None, *, for_s: float | None = None) -> bool:
        """Stop starts in a group, or in all; windows go on. Groups need not exist yet.

        Args:
            group: None for the whole queue, which has a flag of its own.
            for_s: Seconds after which the pause lifts itself.

        Returns:
            Whether that changed something.
        """

    def resume(self, group: str | None = None) -> bool:
        """Let a group, or all, start again. Returns whether that changed something."""

    def clear(self, group: str | None = None) -> int:
        """End everything that waits in a group, or in all, as `cleared`.

        Returns:
            How many messages ended; running calls go on.
        """

    def flush(self, group: str, sender: str | None = None) -> int:
        """Make what waits in a group, or in a sender's lane of it, due.

        Returns:
            How many windows became due by it.
        """

    def enable(self, group: str) -> bool:
        """Take a group into service again that `disable` took out of it.

        It takes over after the running call of the fallback; what still waits is handed to the
        handler, in order.

        Returns:
            Whether that changed something.
        """

    def stop(self, group: str, sender: str | None = None) -> tuple[int, int]:
        """End what waits in a group, and its running calls.

        What waits, retries or is delayed ends `cleared`; calls are cancelled, and their messages
        end `abandoned`, both with the reason `stopped`. Calls that bypassed the others go on. A
        call that stops its own group is ended like the others, after this has returned.

        Args:
            group: Which.
            sender: Only this one's messages, and only the calls that are theirs alone.

        Returns:
            How many messages were removed, and how many calls are to end.
        """

    def withdraw(self, group: str, id: str) -> Literal["done", "too_late"]:
        """Take back a message that has not started.

        Args:
            group: Where it was pushed to.
            id: Its own id, or that of its receipt.

        Returns:
            `done`, and it ends `withdrawn`; or `too_late`: it has started, ended, or never was.
        """

    def edit(
        self, group: str, id: str, payload: _P, *, restart: bool = False
    ) -> Literal["done", "too_late"]:
        """Change what a message says that has not started.

        It keeps its place, its id and its timers.

        Args:
            group: Where it was pushed to.
            id: Its own id, or that of its receipt.
            payload: What it says from now on.
            restart: If it is being handled for the first time, end that call and hand it over again
                with what it says now. Too late for a call that has committed, is shielded, paused,
                or was interrupted as often as it may be.

        Returns:
            `done`; or `too_late`: it has started, ended, or never was.
        """

    def typing(self, group: str, sender: str, on: bool = True) -> None:
        """Hold the quiet time of what waits in a sender's lane, since they are typing.

        Until `on=False`, their next message, or `typing_expires_s`; then the quiet time starts
        anew. `max_wait_s` goes on. Where the group shares a lane, anybody's typing holds it.

        Args:
            group: The conversation.
            sender: Who types.
            on: Whether they type; True again renews it.
        """

    def set_members(self, group: str, members: int) -> None:
        """Say how many members a group has, which is its size under `size_by="members"`.

        It counts from the next time that somebody of the group begins or ends to wait, may come
        before the first message, and outlives the group's messages.
        """

    def set_sender(self, group: str, sender: str, weight: float | None) -> None:
        """Give a sender a weight: times the setting `sender`, these are points of their batches.

        It counts for what is scored from now on, may come before the first message, and outlives
        the group's messages.

        Args:
            group: The conversation.
            sender: Whose.
            weight: Any finite number; 0 or None is what everybody else has.
        """

    # Looks: see docs/events.md

    def __contains__(self, key: object, /) -> bool:
        """Whether a message waits or runs: `(group, id) in queue`.

        Raises:
            TypeError: What is looked for is no pair of str.
        """

    def groups(self) -> list[str]:
        """All groups that are remembered, the one pushed to first at the front."""

    # For the driver

    def _put(
        self, ticket: int | None, group: str, sender: str, payload: _P, options: tuple[Any, ...]
    ) -> Receipt | None: ...
    def _queue_up(self, group: str, future: object) -> int: ...
    def _leave_line(self, ticket: int) -> None: ...
    def _put_many(
        self,
        groups: list[Any],
        senders: list[Any],
        payloads: list[Any],
        options: dict[str, list[Any]],
    ) -> bytes: ...
    def _configure(self, group: str, given: Profile) -> bool: ...
    def _named(self, group: str) -> str: ...
    def _outlook(self, group: str) -> tuple[int, str, int]: ...
    def _explain(self, group: str) -> dict[str, Any] | None: ...
    @property
    def _manual(self) -> bool: ...
    def _follow(self, clock: ManualClock) -> None: ...
    def _attach(self, wake: Callable[[], bool]) -> None: ...
    def _detach(self) -> None: ...
    def _next(self) -> Batch[_P] | None: ...
    def _done(self, batch: Batch[_P], result: object) -> Batch[_P] | Literal[False] | None: ...
    def _end(
        self,
        batch: Batch[_P],
        reason: str | None,
        outcome: object | None,
        more: bool = False,
        retry: bool = False,
    ) -> Batch[_P] | Literal[False] | None: ...
    def _part(
        self,
        batch: Batch[_P],
        result: object,
        failures: Sequence[tuple[int, object]],
        snooze_s: float | None,
        more: bool,
    ) -> Batch[_P] | Literal[False] | None: ...
    def _check_seconds(self, seconds: float) -> None: ...
    def _disable(self, group: str) -> bool: ...
    def _commit(self, batch: Batch[_P]) -> bool: ...
    def _shield(self, batch: Batch[_P], on: bool) -> bool: ...
    def _save(self, batch: Batch[_P], state: object) -> bool: ...
    def _emit(self, batch: Batch[_P], all: object) -> bool: ...
    def _holds(self, batch: Batch[_P]) -> bool: ...
    def _would_go_back(self, batch: Batch[_P]) -> bool: ...
    def _receipts(self, batch: Batch[_P]) -> list[Receipt]: ...
    def _previous(self, batch: Batch[_P]) -> tuple[str, Any, Any] | None: ...
    def _superseded(self, batch: Batch[_P]) -> bool | None: ...
    def _inbox(
        self, batch: Batch[_P], most: int | None = None
    ) -> tuple[Message[_P], ...] | None: ...
    def _take(self, batch: Batch[_P], most: int | None) -> tuple[Message[_P], ...] | None: ...
    def _take_endings(self) -> tuple[list[tuple[int, str | None]], dict[int, str]]: ...
    def _due(self) -> int | None: ...
    def _now_us(self) -> int: ...
    def _is_idle(self) -> bool: ...
    def _is_stuck(self) -> bool: ...
    def _is_closed(self) -> bool: ...
    def _forgotten(self) -> int: ...
    def _close(self) -> None: ...
    def _abandon(self) -> None: ...
    def _abandon_calls(self, kept: list[Batch[_P]]) -> int: ...
    def _lose(self) -> None: ...
    def _fork(self) -> None: ...
    def _observe(self, on: bool) -> None: ...
    def _take_events(self) -> list[Event]: ...
    def _figures(self) -> dict[str, Any]: ...
    def _status(self, group: str) -> dict[str, Any] | None: ...
    def _ledger(self) -> dict[str, int]: ...
    def _audit(self) -> dict[str, int]: ...

# What a push gives

@final
class Receipt:
    """A message's way through the queue, as its pusher sees it.

    `await receipt` gives the result of the call that the message ended up in, the same for all
    messages of its batch. Otherwise it raises `Dropped(end, reason)`, whose `__cause__` is the
    handler's exception if that was it. Nobody has to await it.
    """

    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for the end of the message; cancelling that changes nothing for it.

        Raises:
            Dropped: The message ended otherwise than `done`.
            RuntimeError: No event loop runs here, or it is awaited in a call that the message
                has to wait for.
        """

    @property
    def id(self) -> str:
        """The id that was given, or `#` and the message's number."""

    @property
    def group(self) -> str | None:
        """The group it was pushed to."""

    @property
    def state(self) -> str:
        """`waiting`, `running`, `retrying`, or how it ended: `done`, `dead`, `expired`, ..."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end of the message in a thread that runs no event loop.

        Args:
            timeout: Seconds to wait at most; None waits for ever.

        Returns:
            The result of the call that the message ended up in.

        Raises:
            Dropped: The message ended otherwise than `done`.
            TimeoutError: It has not ended by then. It goes on; ask again.
            RuntimeError: An event loop runs in this thread, or it is asked in a call that the
                message has to wait for.
            TypeError, ValueError: `timeout` is no number of seconds.
        """

    def stream(self) -> Stream:
        """Read what the handler emits for the message, as it comes: `async for item in ...`.

        See `chinwag.stream`. Any number of streams may read; they end with the message.
        """

    @property
    def _feed(self) -> Feed: ...
    @property
    def _ended(self) -> bool: ...
    def _attach(self, future: object) -> bool: ...
    def _detach(self, future: object) -> None: ...
    def _outcome(self) -> Any: ...
    def _waits_for(self, batch: Batch[Any]) -> bool: ...

# What a handler gets

@final
class Batch(Sequence[Message[_P_co]]):
    """The messages of one call, oldest first; never empty. The last one is the primary one."""

    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    @property
    def group(self) -> str:
        """The group of all its messages."""

    @property
    def sender(self) -> str:
        """Who wrote the primary message; under `lanes="group"` others may have written the rest."""

    @property
    def messages(self) -> tuple[Message[_P_co], ...]:
        """Its messages."""

    @property
    def payloads(self) -> list[_P_co]:
        """Their payloads, in a new list."""

    @property
    def primary(self) -> Message[_P_co]:
        """The last message: what an answer replies to."""

    @property
    def kind(self) -> str:
        """`single`, `back_to_back` or `burst`: the highest of its messages."""

    @property
    def closed_by(self) -> str:
        """What made its window due, as a word.

        `quiet`, `max_wait`, `size`, `cut`, `flush`, `idle`, `busy` or `drain`; `bypass` for a
        message that goes around all windows.
        """

    @property
    def context(self) -> tuple[Message[_P_co], ...]:
        """What was pushed with `context=True` since the group's last call, oldest first."""

    @property
    def evicted(self) -> tuple[str, ...]:
        """Ids of what its lane had to drop since its last call, at most 1,000."""

    @property
    def _attempt(self) -> int: ...
    @property
    def _resumed(self) -> bool: ...
    @property
    def _fallback(self) -> bool: ...
    @property
    def _buffers(self) -> bool: ...
    @property
    def _saved(self) -> Any: ...
    @property
    def _taken(self) -> tuple[Message[_P], ...]: ...
    @property
    def _lease(self) -> int: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> Message[_P_co]: ...
    @overload
    def __getitem__(self, index: slice, /) -> tuple[Message[_P_co], ...]: ...
    def __iter__(self) -> Iterator[Message[_P_co]]: ...
    def __reversed__(self) -> Iterator[Message[_P_co]]: ...
    def __contains__(self, value: object, /) -> bool: ...
    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The place of a message."""

    def count(self, value: Any) -> int:
        """How often a message is in it."""

    def __reduce__(self) -> Any: ...

@final
class Message(Generic[_P_co]):
    """One message, as a handler sees it."""

    def __class_getitem__(cls, key: Any) -> GenericAlias: ...
    @property
    def id(self) -> str:
        """The id that was pushed, or `#` and its number."""

    @property
    def group(self) -> str:
        """The group it was pushed to."""

    @property
    def sender(self) -> str:
        """Who wrote it."""

    @property
    def payload(self) -> _P_co:
        """What was pushed."""

    @property
    def at(self) -> float | None:
        """The platform's time, if it was given, in epoch seconds."""

    @property
    def arrived_at(self) -> float:
        """When it was pushed, in epoch seconds of the queue's clock."""

    @property
    def kind(self) -> str:
        """`single`, `back_to_back` or `burst`: how close it came on its sender's earlier ones."""

    @property
    def size(self) -> float:
        """What it takes up of `max_batch`."""

    @property
    def batch_key(self) -> str | None:
        """Its key, if one was given."""

    @property
    def flush(self) -> bool:
        """Whether it made its window due."""

    @property
    def standalone(self) -> bool:
        """Whether it was to be alone."""

    @property
    def real_time(self) -> bool:
        """Whether it gets the points of that name."""

    @property
    def background(self) -> bool:
        """Whether nobody said it."""

    @property
    def rank(self) -> float:
        """Points of its own."""

    @property
    def _seq(self) -> int: ...

# Time and figures

@final
class ManualClock:
    """A clock that stands still until it is moved; see `chinwag.testing`.

    Args:
        start_s: Where it begins, in epoch seconds.
    """

    def __new__(cls, start_s: float | datetime) -> ManualClock: ...
    @property
    def now_us(self) -> int:
        """Its time in microseconds since the epoch."""

    def advance_to_us(self, now_us: int) -> None:
        """Set it forward.

        Raises:
            TypeError, ValueError: That is no time, or before its time: time does not go back.
        """

def histogram_edges() -> list[int]:
    """Edges of the buckets of every histogram, one more than there are buckets."""

"""What a call can say about itself, and learn."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from chinwag._checks import show
from chinwag._signal import Signal
from chinwag.errors import LeaseLost
from chinwag.stream import Feed, Log

if TYPE_CHECKING:
    from types import TracebackType

    from chinwag._core import Batch, Core, Message

__all__ = ["Context", "Inbox", "Previous", "Shield", "Signal"]


class Context:
    """The running call: the second argument of a handler that takes two.

    It belongs to one call; after its end it only tells how things stood. Plain functions, which run
    in threads, use it as coroutines do.
    """

    __slots__ = (
        "_batch",
        "_buffer",
        "_buffers",
        "_core",
        "_emit_limit",
        "_ending",
        "_failures",
        "_feeds",
        "_log",
        "_over",
        "_places",
        "_saved",
        "_snooze_s",
        "_superseded",
        "_taken",
    )

    def __init__(self, core: Core[Any], batch: Batch[Any], emit_limit: int = 1_000) -> None:
        self._core = core
        self._batch = batch
        self._ending = Signal()
        self._superseded: Signal | None = None
        # By place in the batch; where each of its messages is, once that is asked for.
        self._failures: dict[int, BaseException | None] = {}
        self._places: dict[int, int] | None = None
        self._taken: list[Message[Any]] = []
        self._snooze_s: float | None = None
        self._saved: Any = batch._saved
        self._emit_limit = emit_limit
        self._buffers = batch._buffers
        self._buffer: list[Any] = []
        self._log: Log | None = None
        self._feeds: list[Feed] = []
        self._over = False

    @property
    def attempt(self) -> int:
        """Which attempt at its batch this call is, from 1. An interruption is no attempt."""
        return self._batch._attempt

    @property
    def resumed(self) -> bool:
        """Whether the batch was interrupted or put back, and is handed over again as it was."""
        return self._batch._resumed

    @property
    def ending(self) -> Signal:
        """True from the moment on at which it is decided that this call ends; `.reason` says why.

        `interrupted`: a newer message does. `preempted`: another sender's batch goes first.
        `restarted`: by `queue.edit(..., restart=True)`. `timeout`: it has taken longer than
        `handler_timeout_s`. `stopped`: by `queue.stop`. `closed`: the queue closes and waits no
        longer. `cancelled`: somebody else cancelled it. It equals that word, and None before.

        `await ctx.ending` waits for it. A plain function cannot be cancelled, so one that takes
        long should look here now and then.
        """
        return self._ending

    @property
    def superseded(self) -> Signal:
        """True while something that somebody said waits behind this call in its lane.

        It is so under every policy; `await ctx.superseded` waits for it. A good moment to cut an
        answer short.
        """
        if self._superseded is None:
            with _making:  # any number of threads may ask, and all wait for the same
                if self._superseded is None:
                    self._superseded = Signal(self._is_superseded)
        return self._superseded

    def _is_superseded(self) -> bool:
        return not self._over and bool(self._core._superseded(self._batch))

    # What may interrupt it.

    def commit(self) -> None:
        """End the part of the call that may be done over: what follows must happen once.

        From here on no message interrupts the call. If it fails afterwards, it is not tried again
        (unless `retry_committed`): its batch is `dead`, reason `committed`. Under
        `on_busy="rollback"` what it saved and emitted counts from now on.

        Raises:
            LeaseLost: The call is to end, or has ended.
        """
        if self._over or self._ending or not self._core._commit(self._batch):
            raise LeaseLost("this call has lost its right to its batch; let it end")
        self._buffers = False
        self._flush()

    def shield(self) -> Shield:
        """Hold interruptions back for a while: `with ctx.shield(): ...`. It nests.

        What is held back happens when the last shield ends, unless the call has committed by then.
        `stop`, time-outs and closing are not held back.

        Raises:
            LeaseLost: The call is to end, or has ended; raised on entering.
        """
        return Shield(self)

    # What waits behind it.

    @property
    def inbox(self) -> Inbox:
        """What waits in the lane with `on_busy="inject"`: look at it, and take from its front."""
        return Inbox(self)

    # What it leaves for the next call.

    def save(self, state: object) -> None:
        """Keep a state for the call that comes after this one, if it does not complete.

        A retry or a resumed batch finds it in `ctx.saved`; a batch that is not the same, in
        `ctx.previous`. Each `save` replaces the one before. It is kept as it is, not copied. Under
        `on_busy="rollback"` it counts from `commit()` or the successful end on.

        Raises:
            LeaseLost: The call has ended.
        """
        if self._over or not self._core._save(self._batch, state):
            raise _lost()
        self._saved = state

    @property
    def saved(self) -> Any:
        """What was saved last by this call, or an earlier one of the very same batch; else None."""
        return self._saved

    @property
    def previous(self) -> Previous | None:
        """The lane's last call that did not complete; None if there is none.

        It is kept until one completes, or for `saved_ttl_s`.
        """
        found = self._core._previous(self._batch)
        if found is None:
            return None
        status, saved, log = found
        emitted = () if log is None else tuple(log.items)
        return Previous(status=status, saved=saved, emitted=emitted)

    # What it puts out.

    def emit(self, item: object, *, buffer: bool = True) -> None:
        """Put out an item, such as a token of the answer: `receipt.stream()` gives it at once.

        Under `on_busy="rollback"` items are held until `commit()` or the successful end, and go
        with the call otherwise.

        Args:
            item: Anything; it is not copied.
            buffer: False: commit first, so that the item need not be held.

        Raises:
            LeaseLost: The call has ended, or `buffer` is False and it is to end.
            BufferError: More than `emit_limit` items are held; commit, or emit larger ones.
        """
        if self._over:
            raise _lost()
        if self._buffers and not buffer:
            self.commit()
        if not self._core._holds(self._batch):
            raise _lost()
        if not self._buffers:
            self._show([item])
        elif len(self._buffer) >= self._emit_limit:
            raise BufferError(
                f"emit: {self._emit_limit:,} items are held until the call commits, which is "
                "emit_limit; commit, emit larger items, or raise emit_limit"
            )
        else:
            self._buffer.append(item)

    def _flush(self) -> None:
        held, self._buffer = self._buffer, []
        if held:
            self._show(held)

    def _show(self, items: list[Any]) -> None:
        if self._log is None:
            self._log = Log(self._emit_limit)
            self._core._emit(self._batch, self._log)
            self._feeds = self._feeds_of(self._core._receipts(self._batch))
        for item in items:
            self._log.add(item)
        for feed in self._feeds:
            feed.ring()

    def _feeds_of(self, receipts: list[Any]) -> list[Feed]:
        feeds = [receipt._feed for receipt in receipts]
        for feed in feeds:
            feed.log = self._log
        return feeds

    # How it ends.

    def fail(self, message: Message[Any], error: BaseException | None = None) -> None:
        """Give up on one message of the batch; the others are done if the call ends well.

        Those given up on are tried again one by one, before anything newer of their lane. Saying so
        twice counts once. If the call itself fails, that goes before.

        Args:
            message: One of the batch, or one taken from the inbox.
            error: What it failed of, for `Dropped.__cause__` and `queue.dead`.

        Raises:
            ValueError: The message is not of this batch.
            TypeError: `error` is no exception.
            LeaseLost: The call has ended.
        """
        self._refuse_once_over()
        if error is not None and not isinstance(error, BaseException):
            raise TypeError(f"error={show(error)}: must be an exception, or None")
        if self._places is None:
            all_of_it = (*self._batch, *self._taken)
            self._places = {id(each): place for place, each in enumerate(all_of_it)}
        place = self._places.get(id(message))
        if place is None:
            raise ValueError(f"{show(message)}: is not a message of this batch; its context is not")
        self._failures[place] = error

    def _message(self, place: int) -> Message[Any]:
        size = len(self._batch)
        return self._batch[place] if place < size else self._taken[place - size]

    def snooze(self, seconds: float) -> None:
        """Have the batch handed over again after so long, if the call ends well; no attempt.

        Return right after it: what the call returns counts for nothing then. Its lane waits.

        Args:
            seconds: How long, at least 0.

        Raises:
            TypeError, ValueError: That is no span of time.
            LeaseLost: The call has ended.
        """
        self._refuse_once_over()
        self._core._check_seconds(seconds)
        self._snooze_s = seconds

    def _refuse_once_over(self) -> None:
        if self._over or not self._core._holds(self._batch):
            raise _lost()

    def __repr__(self) -> str:
        ending = f", ending: {self._ending.reason}" if self._ending else ""
        return f"<Context: attempt {self.attempt}{ending}>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Previous:
    """The last call of a lane that did not complete."""

    status: str
    """How it ended: `interrupted`, `preempted`, `restarted`, `stopped`, `timeout`, `cancelled`,
    `snoozed`, `failed` (it gave up on messages), or `error`."""
    saved: Any
    """What it saved; None if it did not."""
    emitted: tuple[Any, ...]
    """What it put out, the last `emit_limit` items."""


class Shield:
    """Holds interruptions of a call back while it is open; made by `ctx.shield()`."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        context = self._context
        if context._over or context._ending or not context._core._shield(context._batch, True):
            raise LeaseLost("this call has lost its right to its batch; let it end")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context._core._shield(self._context._batch, False)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


class Inbox(Sequence["Message[Any]"]):
    """Messages that a running call may take; `ctx.inbox`.

    Each look is one at how things are now. Shown is what waits in the lane with `on_busy="inject"`,
    from its front up to the first message that is standalone, of another `batch_key` than the call,
    or not to be injected. In a paused group, and once the call is to end, nothing is.
    """

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def take(self, limit: int | None = None) -> tuple[Message[Any], ...]:
        """Make messages part of this call, the oldest first; the others are handed over later.

        They end with the call, and are handed over with it again if it fails.

        Args:
            limit: How many at most; `inject_limit` bounds it too.

        Raises:
            TypeError, ValueError: `limit` is no number of messages.
            LeaseLost: The call has ended.
        """
        context = self._context
        context._refuse_once_over()
        taken: tuple[Message[Any], ...] | None = context._core._take(context._batch, limit)
        if taken is None:
            raise _lost()
        context._taken += taken
        context._places = None
        if taken and context._log is not None:
            context._feeds = context._feeds_of(context._core._receipts(context._batch))
        return taken

    def _look(self, most: int | None = None) -> tuple[Message[Any], ...]:
        context = self._context
        if context._over:
            return ()
        return context._core._inbox(context._batch, most) or ()

    def __bool__(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._look(1))

    def __len__(self) -> int:
        return len(self._look())

    @overload
    def __getitem__(self, index: int) -> Message[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Message[Any], ...]: ...
    def __getitem__(self, index: int | slice) -> Message[Any] | tuple[Message[Any], ...]:
        """Show one, or some; that takes nothing."""
        return self._look()[index]

    def __iter__(self) -> Iterator[Message[Any]]:
        return iter(self._look())

    def __repr__(self) -> str:
        return f"<Inbox: {len(self)} waiting>"


_making = threading.Lock()


def _lost() -> LeaseLost:
    return LeaseLost("this call has ended; its batch is somebody else's now")

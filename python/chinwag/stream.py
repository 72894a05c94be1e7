"""What calls put out while they run: from `ctx.emit` to `receipt.stream()`."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chinwag import _receipts
from chinwag._calling import current

if TYPE_CHECKING:
    from chinwag._core import Receipt

__all__ = ["Restarted", "Stream"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarted:
    """A new call has taken over: forget what the stream gave before.

    It comes once for each call that takes over after something was seen, for instance after an
    interruption or a failure.
    """


class Log:
    """What one call has put out, the last `limit` items of it."""

    __slots__ = ("first", "items")

    def __init__(self, limit: int) -> None:
        self.items: deque[Any] = deque(maxlen=limit)
        self.first = 0
        """How many items have gone to make room."""

    def add(self, item: object) -> None:
        """Keep an item; the oldest goes where there are too many."""
        if len(self.items) == self.items.maxlen:
            self.first += 1
        self.items.append(item)


class Feed:
    """What the streams of a receipt read from: the log of the call that its message is in."""

    __slots__ = ("log", "turn", "version", "waiters")

    def __init__(self) -> None:
        self.log: Log | None = None
        self.turn = 0
        """How many calls of it have begun since there is a feed."""
        self.version = 0
        self.waiters: list[asyncio.Future[None]] = []

    def take_over(self) -> None:
        """Note that another call begins."""
        self.turn += 1
        self.log = None
        self.ring()

    def ring(self) -> None:
        """Tell those that read that there is something new."""
        self.version += 1
        if self.waiters:
            waiters, self.waiters = self.waiters, []
            _receipts.resolve(waiters)


class Stream:
    """Items that the handler emits for a message, as they come; what `receipt.stream()` gives.

        async for item in receipt.stream():
            if isinstance(item, Restarted): ...

    It ends with the message. When several calls take part, as after an interruption or a failure,
    it goes on with the latest; if it has given something of an earlier one, a `Restarted` comes
    first. Any number of streams may read; each begins with the oldest item that is kept.

    Raises:
        Dropped: The message has not ended `done`; everything before has been given.
        RuntimeError: It is read in the call of its own lane, which it would wait for.
    """

    __slots__ = ("_at", "_feed", "_receipt", "_seen", "_turn", "missed")

    def __init__(self, receipt: Receipt) -> None:
        self.missed = 0
        """Items that had gone before they could be given: more than `emit_limit` were kept."""
        self._receipt = receipt
        self._feed: Feed = receipt._feed
        self._turn = self._feed.turn
        self._at = 0
        self._seen = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        """Wait for the next item. A wait that is cancelled loses none."""
        feed, receipt = self._feed, self._receipt
        while True:
            version = feed.version
            ended = receipt._ended
            if self._turn != feed.turn:
                self._turn, self._at = feed.turn, 0
                if self._seen:
                    self._seen = False
                    return Restarted()
            log = feed.log
            if log is not None:
                if self._at < log.first:
                    self.missed += log.first - self._at
                    self._at = log.first
                if self._at - log.first < len(log.items):
                    item = log.items[self._at - log.first]
                    self._at += 1
                    self._seen = True
                    return item
            if ended:
                receipt._outcome()
                raise StopAsyncIteration
            await self._changed(version)

    async def _changed(self, version: int) -> None:
        feed, receipt = self._feed, self._receipt
        runner = current()
        if runner is not None and runner.batch and receipt._waits_for(runner.batch):
            raise RuntimeError(
                "this call cannot read the stream of a message of its own lane, which is handled "
                "with it or after it; read it outside the handler"
            )
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        feed.waiters.append(future)
        try:
            # Looked at again: a thread may have been faster.
            if receipt._attach(future) and feed.version == version:
                await future
        finally:
            receipt._detach(future)
            if future in feed.waiters:
                feed.waiters.remove(future)

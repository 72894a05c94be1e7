"""Who wants to know what happens: callbacks, and readers with a bounded buffer."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chinwag._runner import log
from chinwag.events import Event, EventsMissed

if TYPE_CHECKING:
    from chinwag._core import Core

__all__ = ["EventStream", "Listeners"]


class Listeners:
    """All that listen to one queue. Events are built only while there is one."""

    def __init__(self, core: Core[Any]) -> None:
        self._core = core
        self._callbacks: tuple[_Subscription, ...] = ()
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._observed = False
        self._closed = False
        # Listeners come and go on any thread.
        self._lock = threading.RLock()

    def add(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call it with every event from now on; the function returned ends that."""
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        subscription = _Subscription(callback)

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks = tuple(c for c in self._callbacks if c is not subscription)
                self._observe()

        with self._lock:
            self._callbacks = (*self._callbacks, subscription)
            self._observe()
        return unsubscribe

    def stream(self, buffer: int) -> EventStream:
        """Keep events for a reader from now on, until nobody holds it any more."""
        stream = EventStream(buffer)
        with self._lock:
            if self._closed:
                stream.end()
            else:
                self._streams.add(stream)
                self._observe()
        return stream

    def tell(self) -> None:
        """Deliver what happened; on the loop, and outside any call of the engine."""
        if not self._observed:
            return
        events = self._core._take_events()
        with self._lock:
            callbacks, streams = self._callbacks, tuple(self._streams)
            if not (callbacks or streams):
                self._observe()  # the last reader has been dropped
        for event in events:
            for stream in streams:
                stream.put(event)
            for subscription in callbacks:
                try:
                    subscription.callback(event)
                except Exception:
                    log.exception("a subscriber raised on %r", event)

    def end(self) -> None:
        """Deliver the rest; readers end when they have read what is there."""
        self.tell()
        with self._lock:
            self._closed = True
            streams = tuple(self._streams)
            self._observe()
        for stream in streams:
            stream.end()

    def _observe(self) -> None:
        observed = not self._closed and bool(self._callbacks or self._streams)
        if observed != self._observed:
            self._observed = observed
            self._core._observe(observed)


class _Subscription:
    """A callback, told from others by identity: one may be subscribed twice."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[Event], object]) -> None:
        self.callback = callback


class EventStream:
    """What `async for event in queue.events()` reads."""

    def __init__(self, buffer: int) -> None:
        if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 1:
            raise ValueError(f"buffer={buffer!r}: must be a whole number of at least 1")
        self._events: deque[Event] = deque()
        self._buffer = buffer
        self._missed = 0
        self._ended = False
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        """The next event; `EventsMissed` where the buffer was too small for the reader's pace."""
        while not (self._events or self._missed):
            if self._ended:
                raise StopAsyncIteration
            if self._reader is not None and not self._reader.done():
                raise RuntimeError("another task reads these events; call events() once for each")
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._missed:
            missed, self._missed = self._missed, 0
            return EventsMissed(count=missed)
        return self._events.popleft()

    def put(self, event: Event) -> None:
        """Keep an event; the oldest goes when there are too many."""
        if self._ended:
            return
        if len(self._events) >= self._buffer:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._wake()

    async def aclose(self) -> None:
        """Stop reading before the end."""
        self._events.clear()
        self._missed = 0
        self.end()

    def end(self) -> None:
        """Nothing comes any more."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

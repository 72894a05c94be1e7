"""Who wants to know what happens: callbacks, and readers with a bounded buffer."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chinwag._checks import show, whole
from chinwag._receipts import resolve
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
        self.observed = False
        """Somebody listens."""
        self._closed = False
        # Listeners come and go on any thread.
        self._lock = threading.RLock()

    def add(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call it with every event from now on; the function returned ends that."""
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        subscription = _Subscription(callback)

        def unsubscribe() -> None:
            subscription.ended = True
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
        if self.observed:
            self._deliver(called=True)

    def end(self, *, called: bool = True) -> None:
        """Deliver the rest; readers end when they have read what is there.

        Args:
            called: Whether callbacks are. They are called on the loop, and it may be gone.
        """
        try:
            if self.observed:
                self._deliver(called=called)
        finally:
            with self._lock:
                self._closed = True
                streams = tuple(self._streams)
                self._observe()
            for stream in streams:
                stream.end()

    def fork(self, why: str) -> None:
        """Nothing comes any more in this process, which was forked; readers are told why."""
        # Another thread of the parent may have held the locks.
        self._lock = threading.RLock()
        for stream in tuple(self._streams):
            stream.fork(why)

    def _deliver(self, *, called: bool) -> None:
        events = self._core._take_events()
        with self._lock:
            callbacks, streams = self._callbacks, tuple(self._streams)
            if not (callbacks or streams):
                self._observe()  # the last reader has been dropped
        stop: BaseException | None = None
        for event in events:
            for stream in streams:
                stream.put(event)
            for subscription in callbacks if called else ():
                if subscription.ended:
                    continue
                try:
                    subscription.callback(event)
                except (KeyboardInterrupt, SystemExit) as error:
                    stop = error  # when all have been told
                except BaseException:
                    # Also a cancellation: it is the subscriber's, who asked a cancelled future.
                    log.exception("a subscriber raised on %r", event)
        if stop is not None:
            raise stop

    def _observe(self) -> None:
        observed = not self._closed and bool(self._callbacks or self._streams)
        if observed != self.observed:
            self.observed = observed
            self._core._observe(observed)


class _Subscription:
    """A callback, told from others by identity: one may be subscribed twice."""

    __slots__ = ("callback", "ended")

    def __init__(self, callback: Callable[[Event], object]) -> None:
        self.callback = callback
        self.ended = False
        """At once, also while it is told of things that happened together."""


class EventStream:
    """What `async for event in queue.events()` reads, on whatever loop."""

    def __init__(self, buffer: int) -> None:
        most = whole(buffer)
        if most is None or most < 1:
            raise ValueError(f"buffer={show(buffer)}: must be a whole number of at least 1")
        self._events: deque[Event] = deque()
        self._buffer = most
        self._missed = 0
        self._ended = False
        self._forked: str | None = None
        self._reader: asyncio.Future[None] | None = None
        # The reader may be in another thread than the queue.
        self._lock = threading.Lock()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        """The next event; `EventsMissed` where the buffer was too small for the reader's pace."""
        while True:
            with self._lock:
                if self._forked is not None:
                    raise RuntimeError(self._forked)
                if self._missed:
                    missed, self._missed = self._missed, 0
                    return EventsMissed(count=missed)
                if self._events:
                    return self._events.popleft()
                if self._ended:
                    raise StopAsyncIteration
                reader = self._reader
                if reader is not None and not (reader.done() or reader.get_loop().is_closed()):
                    raise RuntimeError(
                        "another task reads these events; call events() once for each"
                    )
                self._reader = reader = asyncio.get_running_loop().create_future()
            await reader

    def put(self, event: Event) -> None:
        """Keep an event; the oldest goes when there are too many."""
        with self._lock:
            if self._ended:
                return
            if len(self._events) >= self._buffer:
                self._events.popleft()
                self._missed += 1
            self._events.append(event)
            reader, self._reader = self._reader, None
        if reader is not None:
            resolve((reader,))

    def fork(self, why: str) -> None:
        """Refuse to be read: this process was forked."""
        self._lock = threading.Lock()
        self._forked = why

    async def aclose(self) -> None:
        """Stop reading before the end."""
        with self._lock:
            self._events.clear()
            self._missed = 0
        self.end()

    def end(self) -> None:
        """Nothing comes any more."""
        with self._lock:
            self._ended = True
            reader, self._reader = self._reader, None
        if reader is not None:
            resolve((reader,))

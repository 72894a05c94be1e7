"""Who wants to know what happens: callbacks, and readers with a bounded buffer."""

from __future__ import annotations

import asyncio
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
        self._callbacks: list[Callable[[Event], object]] = []
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._closed = False

    def add(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call it with every event from now on; the function returned ends that."""
        if not callable(callback):
            raise TypeError(f"callback must be callable, not {type(callback).__name__}")
        self._callbacks.append(callback)
        self._core._observe(True)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
                self._mind()

        return unsubscribe

    def stream(self, buffer: int) -> EventStream:
        """Keep events for a reader from now on, until nobody holds it any more."""
        stream = EventStream(buffer)
        if self._closed:
            stream.end()
            return stream
        self._streams.add(stream)
        weakref.finalize(stream, self._mind)
        self._core._observe(True)
        return stream

    def tell(self) -> None:
        """Deliver what happened; on the loop."""
        if not (self._callbacks or self._streams):
            return
        for event in self._core._take_events():
            for stream in tuple(self._streams):
                stream.put(event)
            for callback in tuple(self._callbacks):
                try:
                    callback(event)
                except Exception:
                    log.exception("a subscriber raised on %r", event)

    def end(self) -> None:
        """Nothing comes any more: readers end when they have read what is there."""
        self._closed = True
        for stream in tuple(self._streams):
            stream.end()

    def _mind(self) -> None:
        # Looked through and not counted: a stream that is going is still among them.
        if not self._callbacks and next(iter(self._streams), None) is None:
            self._core._observe(False)


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
        if len(self._events) >= self._buffer:
            self._events.popleft()
            self._missed += 1
        self._events.append(event)
        self._wake()

    def end(self) -> None:
        """Nothing comes any more."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

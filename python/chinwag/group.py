"""A handle on one group: its verbs without naming it each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from chinwag._core import Receipt
    from chinwag.config import Config
    from chinwag.explain import Explanation
    from chinwag.queue import Queue
    from chinwag.stats import Status

__all__ = ["Group"]

P = TypeVar("P")


class Group(Generic[P]):
    """One group of a queue; what `Queue.group` gives.

    Making one changes nothing: a group exists from its first message on. Every method is that of
    the queue with this group.
    """

    __slots__ = ("_name", "_queue")

    def __init__(self, queue: Queue[P], name: str) -> None:
        self._queue = queue
        self._name = name

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def put_nowait(self, sender: str, payload: P, **options: Any) -> Receipt:
        """See `Queue.put_nowait`."""
        return self._queue.put_nowait(self._name, sender, payload, **options)

    async def put(self, sender: str, payload: P, **options: Any) -> Receipt:
        """See `Queue.put`."""
        return await self._queue.put(self._name, sender, payload, **options)

    def pause(self, *, for_s: float | None = None) -> bool:
        """See `Queue.pause`."""
        return self._queue.pause(self._name, for_s=for_s)

    def resume(self) -> bool:
        """See `Queue.resume`."""
        return self._queue.resume(self._name)

    def clear(self) -> int:
        """See `Queue.clear`."""
        return self._queue.clear(self._name)

    def stop(self, sender: str | None = None) -> tuple[int, int]:
        """See `Queue.stop`."""
        return self._queue.stop(self._name, sender)

    def disable(self) -> bool:
        """See `Queue.disable`."""
        return self._queue.disable(self._name)

    def enable(self) -> bool:
        """See `Queue.enable`."""
        return self._queue.enable(self._name)

    def flush(self, sender: str | None = None) -> int:
        """See `Queue.flush`."""
        return self._queue.flush(self._name, sender)

    def withdraw(self, id: str) -> str:
        """See `Queue.withdraw`."""
        return self._queue.withdraw(self._name, id)

    def edit(self, id: str, payload: P, *, restart: bool = False) -> str:
        """See `Queue.edit`."""
        return self._queue.edit(self._name, id, payload, restart=restart)

    def typing(self, sender: str, on: bool = True) -> None:
        """See `Queue.typing`."""
        self._queue.typing(self._name, sender, on)

    def set_members(self, members: int) -> None:
        """See `Queue.set_members`."""
        self._queue.set_members(self._name, members)

    def set_sender(self, sender: str, weight: float | None) -> None:
        """See `Queue.set_sender`."""
        self._queue.set_sender(self._name, sender, weight)

    def configure(self, **settings: Any) -> Config:
        """See `Queue.configure`."""
        return self._queue.configure(self._name, **settings)

    def status(self) -> Status:
        """See `Queue.status`."""
        return self._queue.status(self._name)

    def explain(self) -> Explanation:
        """See `Queue.explain`."""
        return self._queue.explain(self._name)

    def __contains__(self, id: object) -> bool:
        """Whether a message of the group waits or runs."""
        return (self._name, id) in self._queue

    def __repr__(self) -> str:
        return f"<Group {self._name!r} of {self._queue!r}>"

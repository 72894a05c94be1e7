"""Dead letters: messages that could not be handled, kept for somebody to look at."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from chinwag._core import Message, Receipt
    from chinwag.queue import Queue

__all__ = ["DeadLetter", "DeadLetters"]

P = TypeVar("P")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DeadLetter(Generic[P]):
    """A message that ended `dead` in a call, as one of its batch or of its context, and why."""

    message: Message[P]
    attempts: int
    """How often it was handed over."""
    reason: str
    """`error`, `timeout`, `committed`, `failed`, ..."""
    error: BaseException | None
    """What the last attempt raised."""


class DeadLetters(Generic[P]):
    """The latest dead messages of a queue, the oldest first; at most `dead_limit`."""

    __slots__ = ("_dropped", "_letters", "_limit", "_lock", "_queue")

    def __init__(self, queue: Queue[P], limit: int) -> None:
        self._queue = queue
        self._limit = limit
        self._letters: deque[DeadLetter[P]] = deque()
        self._lock = threading.Lock()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many were dropped because there were more than `dead_limit`."""
        return self._dropped

    def retry(self, letter: DeadLetter[P]) -> Receipt:
        """Push the message again, as it was, behind what waits; the letter goes.

        Raises:
            ValueError: The letter is not here any more.
            QueueFull, Rejected, QueueClosed: As `put_nowait`; the letter stays then.
        """
        message = letter.message
        with self._lock:
            if letter not in self._letters:
                raise ValueError("that letter is not here any more: it was retried or dropped")
        given = None if message.id == f"#{message._seq}" else message.id
        receipt = self._queue.put_nowait(
            message.group,
            message.sender,
            message.payload,
            id=given,
            at=message.at,
            real_time=message.real_time,
            rank=message.rank,
            size=message.size,
            batch_key=message.batch_key,
            flush=message.flush,
            standalone=message.standalone,
            background=message.background,
        )
        self.drop(letter)
        return receipt

    def drop(self, letter: DeadLetter[P]) -> bool:
        """Forget a letter. Returns whether it was here."""
        with self._lock:
            try:
                self._letters.remove(letter)
            except ValueError:
                return False
            return True

    def clear(self) -> int:
        """Forget all of them. Returns how many there were."""
        with self._lock:
            count = len(self._letters)
            letters, self._letters = self._letters, deque()
        del letters
        return count

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter[P]]:
        with self._lock:
            return iter(tuple(self._letters))

    def __repr__(self) -> str:
        return f"<DeadLetters: {len(self):,}, {self._dropped:,} dropped>"

    def _keep(self, letter: DeadLetter[P]) -> None:
        over = None
        with self._lock:
            self._letters.append(letter)
            if len(self._letters) > self._limit:
                over = self._letters.popleft()
                self._dropped += 1
        del over

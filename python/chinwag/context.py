"""What a call is told beside its batch, and what it can say about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chinwag._checks import show
from chinwag.errors import LeaseLost

if TYPE_CHECKING:
    from chinwag._core import Batch, Core, Message

__all__ = ["Context"]


class Context:
    """The second argument of a handler that takes two.

    It belongs to one call; after its end it only tells how things stood.
    """

    __slots__ = ("_batch", "_core", "_ending", "_failures", "_over", "_places", "_snooze_s")

    def __init__(self, core: Core[Any], batch: Batch[Any]) -> None:
        self._core = core
        self._batch = batch
        self._ending: str | None = None
        # By place in the batch; where each of its messages is, once that is asked for.
        self._failures: dict[int, BaseException | None] = {}
        self._places: dict[int, int] | None = None
        self._snooze_s: float | None = None
        self._over = False

    @property
    def attempt(self) -> int:
        """Which attempt at its batch this call is, from 1."""
        return self._batch._attempt

    @property
    def ending(self) -> str | None:
        """Why this call is to end, from the moment that is decided; None until then.

        `timeout`: it has taken longer than `handler_timeout_s`. `stopped`: by `queue.stop`.
        `closed`: the queue closes and waits no longer. `cancelled`: somebody else cancelled it. A
        plain function cannot be cancelled, so one that takes long should look here now and then.
        """
        return self._ending

    def commit(self) -> None:
        """End the part of the call that may be done over: what follows must happen once.

        If the call fails afterwards, it is not tried again (unless `retry_committed`): its batch is
        `dead`, reason `committed`.

        Raises:
            LeaseLost: The call is to end, or has ended.
        """
        if self._over or self._ending is not None or not self._core._commit(self._batch):
            raise LeaseLost("this call has lost its right to its batch; let it end")

    def fail(self, message: Message[Any], error: BaseException | None = None) -> None:
        """Give up on one message of the batch; the others are done if the call ends well.

        Those given up on are tried again one by one, before anything newer of their lane. Saying so
        twice counts once. If the call itself fails, that goes before.

        Args:
            message: One of the batch.
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
            self._places = {id(each): place for place, each in enumerate(self._batch)}
        place = self._places.get(id(message))
        if place is None:
            raise ValueError(f"{show(message)}: is not a message of this batch; its context is not")
        self._failures[place] = error

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
        if self._over:
            raise LeaseLost("this call has ended; its batch is somebody else's now")

    def __repr__(self) -> str:
        ending = f", ending: {self._ending}" if self._ending else ""
        return f"<Context: attempt {self.attempt}{ending}>"

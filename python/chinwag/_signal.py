"""What a handler can look at, and wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator

from chinwag import _receipts

__all__ = ["Signal"]


class Signal:
    """True from a certain moment on; `await` it to wait for that.

    Any number of tasks and threads may look; a wait that is cancelled changes nothing.
    """

    __slots__ = ("_is_on", "_reason", "_waiters")

    def __init__(self, is_on: Callable[[], bool] | None = None) -> None:
        self._reason: str | None = None
        self._is_on = is_on
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def reason(self) -> str | None:
        """Why, in a word; None while it is not true, or where there is but one reason."""
        return self._reason

    def __bool__(self) -> bool:
        """Whether it is so now."""
        return self._is_on() if self._is_on is not None else self._reason is not None

    def __await__(self) -> Generator[object, None, str | None]:
        """Wait until it is so; gives the reason."""
        while not self:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(future)
            try:
                if not self:  # another thread may have been faster
                    yield from future
            finally:
                if future in self._waiters:
                    self._waiters.remove(future)
        return self._reason

    def _set(self, reason: str | None = None) -> None:
        if reason is not None:
            self._reason = reason
        waiters, self._waiters = self._waiters, []
        _receipts.resolve(waiters)

    def __eq__(self, other: object) -> bool:
        """Compare the reason with a word."""
        if isinstance(other, str) or other is None:
            return self._reason == other
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __str__(self) -> str:
        return self._reason or str(bool(self))

    def __repr__(self) -> str:
        state = self._reason or ("yes" if self else "no")
        return f"<Signal: {state}>"

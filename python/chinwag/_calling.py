"""In which call some code runs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chinwag._core import Batch
    from chinwag._runner import Runner

__all__ = ["Call", "calling", "current", "current_batch"]

Call = tuple["Runner"]
"""A call, or several that left nothing behind, of a runner. Told from others by identity."""

calling: ContextVar[Call | None] = ContextVar("chinwag_calling", default=None)
"""The call in which this code runs, or was started."""


def current() -> Runner | None:
    """Find the runner of the call in which this code runs, or was started, if that goes on."""
    call = calling.get()
    return call[0] if call is not None and call[0].call is call and call[0].batch else None


def current_batch() -> Batch[Any] | None:
    """Find the batch of that call."""
    runner = current()
    return (runner.batch or None) if runner is not None else None

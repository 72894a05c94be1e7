"""The asyncio half of a receipt: waiting for the end of a message."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

from chinwag._calling import current
from chinwag._checks import real, show

if TYPE_CHECKING:
    from chinwag._core import Receipt

__all__ = ["follow", "resolve", "wait"]


def follow(receipt: Receipt) -> Generator[Any, None, Any]:
    """Wait until the message has ended; what `await receipt` does.

    Every await waits by a future of its own, on the loop it runs in; so cancelling one changes
    nothing for the others.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "a receipt is awaited in a running event loop, and this thread has none; await it on "
            "the loop, for instance by asyncio.run_coroutine_threadsafe"
        ) from None
    runner = current()
    future: asyncio.Future[None] = loop.create_future()
    if receipt._attach(future):
        batch = runner.batch if runner is not None else None
        try:
            if batch and receipt._waits_for(batch):
                raise RuntimeError(
                    "this call cannot wait for a message of its own lane, which is handled after "
                    "it; await the receipt outside the handler"
                )
            yield from future
        finally:
            receipt._detach(future)
    return receipt._outcome()


def wait(receipt: Receipt, timeout: float | None) -> Any:
    """Wait in a thread until the message has ended; what `receipt.result()` does."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "receipt.result() would block the event loop of this thread, on which the message may "
            "have to be handled; await the receipt instead"
        )
    if timeout is not None:
        if (span := real(timeout)) is None:
            raise TypeError(f"timeout={show(timeout)}: must be seconds, or None to wait for ever")
        if not span >= 0:
            raise ValueError(f"timeout={show(timeout)}: must be seconds of at least 0")
        timeout = min(span, threading.TIMEOUT_MAX)
    bell = _Bell()
    if receipt._attach(bell):
        runner = current()
        batch = runner.batch if runner is not None else None
        try:
            if batch and receipt._waits_for(batch):
                raise RuntimeError(
                    "this call cannot wait for a message of its own lane, which is handled after "
                    "it; ask for the result outside the handler"
                )
            if not bell.rung.wait(timeout):
                raise TimeoutError(
                    f"message {receipt.id} in {receipt.group!r} has not ended within {timeout:g} "
                    "s; it goes on, and result() can be called again"
                )
        finally:
            receipt._detach(bell)
    return receipt._outcome()


class _Bell:
    """A future for a thread without a loop."""

    def __init__(self) -> None:
        self.rung = threading.Event()


def resolve(futures: Iterable[asyncio.Future[None] | _Bell]) -> None:
    """Wake those that wait; called from any thread."""
    running = asyncio._get_running_loop()
    for future in futures:
        if isinstance(future, _Bell):
            future.rung.set()
            continue
        loop = future.get_loop()
        if loop is running:
            _set(future)
            continue
        try:
            loop.call_soon_threadsafe(_set, future)
        except RuntimeError:  # that loop is closed, nobody waits any more
            if not loop.is_closed():
                raise


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

"""The asyncio half of a receipt: waiting for the end of a message."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

from chinwag._runner import calling

if TYPE_CHECKING:
    from chinwag._core import Receipt

__all__ = ["follow", "resolve"]


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
    runner = calling.get()
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


def resolve(futures: Iterable[asyncio.Future[None]]) -> None:
    """Wake those that wait; called from any thread."""
    running = asyncio._get_running_loop()
    for future in futures:
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

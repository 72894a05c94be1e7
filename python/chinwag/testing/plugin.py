"""The pytest plug-in: fixtures `chinwag_clock` and `chinwag_run`.

pytest loads this in every project of an environment that has chinwag, so it imports nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from chinwag.testing.clock import Clock
    from chinwag.testing.loop import Main

    T = TypeVar("T")


class Run(Protocol):
    """The type of the fixture `chinwag_run`."""

    def __call__(self, main: Callable[[Clock], Coroutine[Any, Any, T]] | Main[T]) -> T:
        """Run a coroutine function on a loop that is driven by `chinwag_clock`."""
        ...


@pytest.fixture
def chinwag_clock() -> Clock:
    """Make a clock for this test; `chinwag_run` runs on it."""
    from chinwag.testing.clock import Clock

    return Clock()


@pytest.fixture
def chinwag_run(chinwag_clock: Clock) -> Run:
    """Run an async test body on virtual time: `chinwag_run(body)`.

    `body` is a coroutine function, called with the clock if it takes an argument, or a coroutine.
    """
    from chinwag.testing.loop import run

    def run_on_clock(main: Callable[[Clock], Coroutine[Any, Any, T]] | Main[T]) -> T:
        return run(main, chinwag_clock)

    return run_on_clock

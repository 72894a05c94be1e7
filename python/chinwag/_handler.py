"""What kind of callable a handler is: async or plain, with a context or without."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chinwag._checks import show

__all__ = ["Handler"]


@dataclass(frozen=True, slots=True)
class Handler:
    """A callable and how to call it."""

    function: Callable[..., Any]
    takes_context: bool
    is_async: bool
    """Whether calling it gives an awaitable; otherwise it runs in a thread."""

    @classmethod
    def of(cls, function: object) -> Handler:
        """Look at a callable's signature.

        Raises:
            TypeError: It is not callable, or takes neither (batch) nor (batch, ctx).
        """
        if not callable(function):
            raise TypeError(
                f"handler={show(function)}: must be callable, as async def reply(batch): ... or "
                f"def reply(batch, ctx): ..., not {type(function).__name__}"
            )
        call = _unwrapped(function)
        if inspect.isasyncgenfunction(call) or inspect.isgeneratorfunction(call):
            raise TypeError(
                f"handler={show(function)}: must return its result; a generator function has none"
            )
        # asyncio's own answer also knows coroutines that are compiled.
        is_async = inspect.iscoroutinefunction(call) or asyncio.iscoroutinefunction(call)
        return cls(function, _takes_context(function), is_async)


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is really called, below `functools.partial` and objects with `__call__`."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    if inspect.iscoroutinefunction(function):  # marked as one
        return function
    call: Callable[..., Any] = type(function).__call__
    return call


def _takes_context(function: Callable[..., Any]) -> bool:
    """Whether it gets a second argument: one without a default, or called `ctx`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, and nothing is known of it
        return False
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    anything = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    needed = sum(p.default is p.empty for p in positional)
    missing = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if missing or needed > 2 or (not positional and not anything):
        raise TypeError(
            f"handler={show(function)}: must take (batch) or (batch, ctx), not "
            f"{inspect.signature(function)}"
        )
    return needed == 2 or (len(positional) > 1 and positional[1].name in _CONTEXT_NAMES)


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_CONTEXT_NAMES = ("ctx", "context")

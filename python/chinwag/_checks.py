"""What a setting may be: each check refuses a value with what to do, or keeps it in one form.

A check takes the dataclass that is being made and the names of its fields. It knows nothing about
single settings; which check a setting needs is said in `chinwag.settings`.

Values are read by `real`, `whole`, `text`, `items` and `entries`, here and wherever Python takes a
number or a name, and shown by `show`. They go by the value's type, which cannot be made up as its
class can, and where one of its own methods raises it is a wrong value; only KeyboardInterrupt and
the like pass.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from numbers import Integral, Real
from typing import Any, Final, get_args, get_type_hints

from chinwag.errors import ConfigError

__all__ = [
    "between",
    "choice",
    "count",
    "digits",
    "entries",
    "flag",
    "items",
    "put",
    "rate",
    "real",
    "seconds",
    "show",
    "size",
    "text",
    "whole",
    "words",
]


def seconds(part: Any, *keys: str, endless: bool = False, optional: bool = False) -> None:
    """Durations; infinite ones only if they are `endless`, None only if they are `optional`."""
    for key in keys:
        value = getattr(part, key)
        if value is None and optional:
            continue
        if issubclass(type(value), timedelta):
            raise ConfigError(f"{key}={show(value)}: must be a number; use .total_seconds()")
        duration = _real(key, value, "seconds")
        if duration < 0:
            raise ConfigError(f"{key}={show(value)}: must be at least 0; give seconds")
        if duration == math.inf and not endless:
            raise ConfigError(f"{key}=inf: must be finite; give seconds, at most {_LONGEST_S:,.0f}")
        if _LONGEST_S < duration < math.inf:
            beyond = ", or inf for no limit" if endless else ""
            raise ConfigError(
                f"{key}={show(value)}: must be at most {_LONGEST_S:,.0f}; give seconds{beyond}"
            )
        put(part, key, duration)


def count(
    part: Any, *keys: str, least: int = 1, most: int = 2**32 - 1, optional: bool = False
) -> None:
    """Whole numbers; None, for no limit, only if they are `optional`."""
    for key in keys:
        value = getattr(part, key)
        if value is None and optional:
            continue
        if (number := whole(value)) is None:
            raise ConfigError(f"{key}={show(value)}: must be a whole number of at least {least}")
        if not least <= number <= most:
            none = "; leave it out, or None, for no limit" if optional else ""
            raise ConfigError(f"{key}={show(value)}: must be from {least} to {most:,}{none}")
        put(part, key, number)


def between(part: Any, *keys: str, least: float, most: float, what: str, hint: str = "") -> None:
    """Finite numbers in a range."""
    for key in keys:
        number = _real(key, value := getattr(part, key), what)
        if not least <= number <= most:
            more = f"; {hint}" if hint else ""
            raise ConfigError(
                f"{key}={show(value)}: must be from {digits(least)} to {digits(most)}{more}"
            )
        put(part, key, number)


def size(part: Any, key: str) -> None:
    """The largest sum of the sizes of messages, or None."""
    if (value := getattr(part, key)) is None:
        return
    hint = "1 is one message a call, None is no limit"
    what = "the largest sum of sizes"
    between(part, key, least=_SMALLEST, most=_LARGEST, what=what, hint=hint)
    if (number := whole(value)) is not None:
        put(part, key, number)


def rate(part: Any, *keys: str) -> None:
    """A number of calls a second, or that and a burst; kept as such a pair, or None."""
    for key in keys:
        if (value := getattr(part, key)) is None:
            continue
        pair = items(value)
        if pair is None:
            pair = [value, 1.0]
        if len(pair) != 2:
            raise ConfigError(
                f"{key}={show(value)}: must be calls a second, or a pair of them and a burst"
            )
        per_second, burst = (_real(key, number, "calls a second") for number in pair)
        if not _SMALLEST <= per_second <= _FASTEST:
            raise ConfigError(
                f"{key}={show(value)}: must be from {digits(_SMALLEST)} to {digits(_FASTEST)} "
                "calls a second; leave it out, or None, for no limit"
            )
        if not 1 <= burst <= _FASTEST:
            raise ConfigError(
                f"{key}={show(value)}: its burst, the calls that may start at once after a rest, "
                f"must be from 1 to {digits(_FASTEST)}"
            )
        put(part, key, (per_second, burst))


def flag(part: Any, *keys: str) -> None:
    """True or False."""
    for key in keys:
        # Nothing can be made that is of this type and neither of the two.
        if type(value := getattr(part, key)) is not bool:
            raise ConfigError(f"{key}={show(value)}: must be True or False")


def choice(part: Any, *keys: str, none: str = "") -> None:
    """One of the words of the field's type.

    Args:
        part: What is being made.
        keys: Names of its fields.
        none: What None means, where it is allowed.
    """
    for key in keys:
        value = getattr(part, key)
        kind: Any = type(part)
        allowed = _words_of(kind, key)
        word = text(value)
        if word in allowed:
            put(part, key, word)
            continue
        if value is None and none:
            continue
        known = " or ".join(repr(word) for word in allowed)
        known += f", or None {none}" if none else ""
        raise ConfigError(f"{key}={show(value)}: must be {known}")


def words(kind: Any) -> tuple[str, ...]:
    """List the words of a type such as `Literal["all", "latest"] | None`."""
    if isinstance(kind, str):
        return (kind,)
    return tuple(word for inner in get_args(kind) for word in words(inner))


@cache
def _words_of(part: type[Any], key: str) -> tuple[str, ...]:
    return words(get_type_hints(part)[key])


def put(part: Any, key: str, value: object) -> None:
    """Set a field of a frozen dataclass that is being made."""
    object.__setattr__(part, key, value)


def real(value: Any) -> float | None:
    """Read a number; None if it is none. What is beyond a float is 1e300, which no limit allows."""
    try:
        if issubclass(type(value), Integral):
            value = whole(value)
        elif not issubclass(type(value), Real):
            return None
        try:
            return None if value is None else float(value)
        except OverflowError:
            return _BEYOND if value > 0 else -_BEYOND
    except Exception:
        return None


def whole(value: Any) -> int | None:
    """Read a whole number; None if it is none."""
    kind: Any = type(value)
    try:
        # A timedelta64 of numpy calls itself integral, but is no index.
        return operator.index(value) if issubclass(kind, Integral) and kind is not bool else None
    except Exception:
        return None


def text(value: Any) -> str | None:
    """Read a text as one of just that type; None if it is none."""
    return str.__str__(value) if issubclass(type(value), str) else None


def items(value: Any) -> list[Any] | None:
    """Copy a list or a tuple; None if it is neither."""
    if issubclass(type(value), list):
        return list.copy(value)
    return list(tuple.__iter__(value)) if issubclass(type(value), tuple) else None


def entries(value: Any) -> dict[Any, Any] | None:
    """Copy a mapping; None if it is none."""
    try:
        return dict(value) if issubclass(type(value), Mapping) else None
    except Exception:
        return None


def show(value: Any) -> str:
    """Show a value, shortened: whatever was given must not fill somebody's log."""
    try:
        if issubclass(type(value), int) and int.bit_length(value) > 100:
            return f"an integer of {int.bit_length(value):,} bits"
        # A long text is cut before it is written out.
        shown = str.__str__(repr(value[:80] if type(value) is str else value))
    except Exception:
        return "<no repr>"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def digits(number: float) -> str:
    """Show a number with as many digits as it needs, up to the millionths the engine counts in."""
    return f"{number:,.6f}".rstrip("0").rstrip(".")


def _real(key: str, value: Any, what: str) -> float:
    if (number := real(value)) is None:
        raise ConfigError(f"{key}={show(value)}: must be a number; give {what}")
    if math.isnan(number):
        raise ConfigError(f"{key}=nan: must be a number; give {what}")
    return number


# The engine counts times in microseconds, and sizes, points, weights and rates in millionths.
_LONGEST_S: Final = 1e9
_SMALLEST: Final = 1e-6
_LARGEST: Final = 1e12
_FASTEST: Final = 1e6
_BEYOND: Final = 1e300

"""Settings as text: a TOML file, the environment, a command line.

What a text says is read here; whether a setting may have that value is checked where it is made.
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from chinwag._checks import show
from chinwag.errors import ConfigError
from chinwag.settings import PARTS, Band, Setting, part_of, unknown

__all__ = ["parse", "read"]


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Setting]:
    """Read what `Config.load` reads, flat, and leave out what is not given.

    It says which settings are given; whether they may have their values is checked by `Config`.

    Raises:
        ConfigError: The file is no TOML, or a setting is unknown, misplaced, or given twice.
        OSError: The file cannot be read.
    """
    if isinstance(source, Mapping):
        return _flattened(source)
    try:
        # utf-8-sig: editors on Windows put a byte order mark first.
        return _flattened(tomllib.loads(Path(source).read_text("utf-8-sig")))
    except ConfigError:
        raise
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not a TOML file: {error}") from error


def parse(key: str, text: str) -> Setting:
    """Read the value of a setting from text, as from the environment or a command line.

    It says what the text is; whether the setting may have that value is checked by `Config`.

    Raises:
        ConfigError: The setting is unknown, or the text cannot be its value.
    """
    part = PARTS[part_of(key)]
    if part.__dataclass_fields__[key].metadata.get("in_code"):
        raise ConfigError(f"{key}: can be set in code only, as Queue(..., {key}=...)")
    kind = get_type_hints(part)[key]
    kinds = {kind, *get_args(kind)}
    word = text.strip().lower()
    if type(None) in kinds and word in ("none", ""):
        return None
    if Band in kinds:
        return _bands_in(key, text)
    if bool in kinds:
        if word in _TRUTH:
            return _TRUTH[word]
        raise ConfigError(f"{key}={show(text)}: must be true or false")
    if tuple[float, float] in kinds and "," in word:
        per_second, burst = _pair_in(key, text)
        return per_second, burst
    if int in kinds:
        return _number(key, text, int, "a whole number")
    if float in kinds:
        return _number(key, text, float, "a number")
    return text.strip()


def _bands_in(key: str, text: str) -> tuple[Mapping[str, Any], ...]:
    """Read bands from a text as it would stand in a TOML file."""
    with contextlib.suppress(tomllib.TOMLDecodeError):
        read = tomllib.loads(f"{key} = {text}")
        bands = _without_none(read.pop(key))
        if not read and isinstance(bands, list):
            return tuple(bands)
    raise ConfigError(
        f"{key}={show(text)}: must be written as in a TOML file, "
        """such as [{size = 50, strategy = "adaptive", max_batch = 20}]"""
    )


def _pair_in(key: str, text: str) -> list[float]:
    numbers = text.strip().strip("[()]").split(",")
    if len(numbers) != 2:
        raise ConfigError(f"{key}={show(text)}: must be a number, or two as in 5, 10")
    return [_number(key, number, float, "a number, or two as in 5, 10") for number in numbers]


def _number(key: str, text: str, kind: type[int] | type[float], noun: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{key}={show(text)}: must be {noun}") from None


def _flattened(source: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in _entries(source):
        if key in flat:
            raise ConfigError(f"{key} is given twice, at the top and in its section; keep one")
        flat[key] = _without_none(value)
    return flat


def _without_none(value: Any) -> Any:
    """Read "none" as None, also inside bands: TOML has no null."""
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items()}
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _entries(source: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in source.items():
        if not isinstance(value, Mapping) or name == "bands":
            yield name, value
            continue
        if name not in PARTS:
            raise ConfigError(unknown("section", name, list(PARTS)))
        for key, inner in value.items():
            if (home := part_of(key)) != name:
                raise ConfigError(f"{key} belongs in [{home}], not in [{name}]")
            yield key, inner


_TRUTH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

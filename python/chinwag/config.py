"""Every setting: what it does, when to change it, what it costs, and its default.

The names of the fields are unique over all five parts, so settings are written flat wherever that
is shorter: `Queue(reply, quiet_s=2)`, `Config.of(quiet_s=2)`, a TOML file, the environment.
Durations are seconds.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args, get_type_hints

from chinwag import _checks
from chinwag._checks import show
from chinwag.errors import ConfigError

__all__ = ["Busy", "Config", "Limits", "Order", "Retry", "Setting", "Window", "parse", "read"]

Setting: TypeAlias = str | float | bool | None
"""Value of one setting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """When messages that wait become a batch."""

    lanes: Literal["sender", "group", "message"] = "sender"
    """Whose messages wait together and are handled in order: each sender's of a group, the whole
    group's, or each message for itself. Take `group` where one answer should serve everybody, as in
    a live chat; `message` gives up order and batches. Default `sender`.
    """

    back_to_back_s: float = 5.0
    """A sender's message within this span of the previous one is back-to-back, which is marked and
    counted and delays nothing. Raise it for slow typists. Default 5.
    """

    burst_s: float = 10.0
    """A message whose sender's last but one is within this span is part of a burst. Raise it with
    `back_to_back_s`. Default 10.
    """

    quiet_s: float = 0.0
    """How long nothing may come before what waits is handed over. Set 1 to 3 where people write one
    thought in several messages; every answer then comes that much later, and fewer calls are made.
    `inf` waits for `max_wait_s` from the first message. Default 0: at once.
    """

    max_wait_s: float = 10.0
    """Longest time a first message waits for others, whatever comes. Lower it where somebody
    watches; `inf` lets a sender who never pauses wait for ever. Default 10.
    """

    max_batch: float | None = None
    """Largest batch, as the sum of the sizes of its messages (1 each unless given at the push);
    full is handed over at once. Set it to what a prompt can hold; 1 is one message a call. Default
    none.
    """

    min_batch: int = 1
    """The quiet time counts only once that many messages wait; `max_wait_s` still ends it. Raise it
    for digests; a lone message then waits the whole `max_wait_s`. Default 1.
    """

    max_gap_s: float | None = None
    """A pause longer than this between two messages of a lane keeps them out of one batch. Set it
    where calls are slow and what waits should not mix topics; it costs calls. Default none.
    """

    quiet_when_idle: bool = True
    """Whether a message that finds its lane idle waits for `quiet_s` too. Turn it off for a first
    answer at once; a thought in several messages is then answered after its first. Default yes.
    """

    quiet_when_busy: bool = True
    """Whether what came during a call waits for `quiet_s` after its end. Turn it off where the call
    itself was wait enough; the next call may then begin in the middle of a thought. Default yes.
    """

    def __post_init__(self) -> None:
        _checks.choice(self, "lanes")
        _checks.seconds(self, "back_to_back_s", "burst_s")
        _checks.seconds(self, "quiet_s", "max_wait_s", endless=True)
        _checks.seconds(self, "max_gap_s", optional=True)
        _checks.size(self, "max_batch")
        _checks.count(self, "min_batch")
        _checks.flag(self, "quiet_when_idle", "quiet_when_busy")
        self._check_that_windows_end()

    def _check_that_windows_end(self) -> None:
        # One message is always a batch, however small `max_batch` is.
        if self.max_batch is not None and self.min_batch > max(1, self.max_batch):
            raise ConfigError(
                f"min_batch={self.min_batch} is above max_batch={self.max_batch:g} and would never "
                "be reached; lower min_batch or raise max_batch"
            )
        if self.max_wait_s != math.inf:
            return
        for cause, holds in (
            ("quiet_s=inf", self.quiet_s == math.inf),
            (f"min_batch={self.min_batch}", self.min_batch > 1),
        ):
            if holds:
                raise ConfigError(
                    f"{cause} with max_wait_s=inf: a lone message would wait for ever; give "
                    "max_wait_s the longest wait in seconds that is acceptable"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """What a new message does to the running call of its lane."""

    on_busy: Literal["enqueue"] = "enqueue"
    """`enqueue`: the call goes on, and the message is in the next batch. Default `enqueue`."""

    cancel_grace_s: float = 5.0
    """How long a call that was asked to end may take for it; after that its result counts for
    nothing and its lane goes on without it. Raise it where a handler needs time to clean up; a
    hanging one blocks its lane for so long. Default 5.
    """

    def __post_init__(self) -> None:
        _checks.choice(self, "on_busy", later=("inject", "interrupt", "rollback", "reject"))
        _checks.seconds(self, "cancel_grace_s", endless=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Who is next when several could start."""

    strategy: Literal["round_robin"] = "round_robin"
    """`round_robin`: among the senders of a group, whoever was served least recently. Default
    `round_robin`.
    """

    def __post_init__(self) -> None:
        _checks.choice(self, "strategy", later=("priority", "load_balanced", "adaptive"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much runs, waits and is remembered."""

    max_concurrent_per_group: int = 2
    """Calls of one group that may run at once. Raise it for rooms where many write at once; every
    call costs what the handler uses. Default 2.
    """

    max_concurrent: int | None = None
    """Calls that may run at once in all. Set it to what the model, the database or the machine
    bears; what is due then waits for a slot. Default none.
    """

    capacity_per_group: int | None = None
    """Messages of one group that may wait for their first call; one more is refused with
    `QueueFull`. Set it so that a flood in one room cannot fill the memory. Default none.
    """

    capacity: int | None = None
    """Messages of all groups together that may wait for their first call; one more is refused with
    `QueueFull`. Set it to what memory bears, at some 50 bytes a message and
    its payload. Default none.
    """

    overflow: Literal["refuse"] = "refuse"
    """What happens to a message beyond `capacity_per_group`. `refuse`: `QueueFull` is raised, and
    the message is not accepted. Default `refuse`.
    """

    dedup_s: float = 0.0
    """An id is refused as duplicate for so long after it was accepted, also once its message has
    ended. Set it to the time in which the platform may deliver twice; an id costs some 100 bytes
    while it is remembered. Default 0: only while its message waits or runs.
    """

    dedup_limit: int = 10_000
    """Ended ids that a group remembers for `dedup_s` at most; beyond it the oldest are forgotten,
    and counted. Raise it for busy groups with a long `dedup_s`. Default 10,000.
    """

    idle_group_s: float = 600.0
    """A group without messages, calls and pause is forgotten after this time, at the earliest after
    `burst_s`. Lower it when groups come and go by the million; `inf` keeps them all, at up to 250
    bytes each. Default 600.
    """

    def __post_init__(self) -> None:
        _checks.count(self, "max_concurrent_per_group", "dedup_limit")
        _checks.count(self, "max_concurrent", "capacity_per_group", "capacity", optional=True)
        _checks.choice(self, "overflow", later=("drop_newest", "drop_oldest"))
        _checks.seconds(self, "dedup_s", "idle_group_s", endless=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """What happens to calls that do not end well, or not in time."""

    close_timeout_s: float = 30.0
    """How long `aclose` lets waiting messages be handled before it ends what is left as
    `abandoned`. Raise it where a deployment gives you more time to stop. Default 30.
    """

    def __post_init__(self) -> None:
        _checks.seconds(self, "close_timeout_s", endless=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of a queue."""

    window: Window = field(default_factory=Window)
    busy: Busy = field(default_factory=Busy)
    order: Order = field(default_factory=Order)
    limits: Limits = field(default_factory=Limits)
    retry: Retry = field(default_factory=Retry)

    def __post_init__(self) -> None:
        for name, part in _PARTS.items():
            if not isinstance(value := getattr(self, name), part):
                raise ConfigError(
                    f"{name}={show(value)}: must be a {part.__name__}; "
                    "for single settings use Config.of(...)"
                )

    @classmethod
    def of(cls, **settings: Any) -> Config:
        """Build a configuration from single settings, wherever they belong.

        Raises:
            ConfigError: A setting is unknown, has a wrong value, or contradicts another.
        """
        flat: dict[str, dict[str, Any]] = {name: {} for name in _PARTS}
        for key, value in settings.items():
            flat[_part_of(key)][key] = value
        return cls(**{name: part(**flat[name]) for name, part in _PARTS.items()})

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> Config:
        """Read a TOML file, or a mapping of the same form.

        Settings stand flat at the top, or under the name of their part:

            quiet_s = 2.0
            [limits]
            max_concurrent = 20

        Leave out what has no limit; the text "none" says so explicitly.

        Raises:
            ConfigError: The file is no TOML, or a setting is wrong; the message names both.
            OSError: The file cannot be read.
        """
        try:
            return cls.of(**read(source))
        except ConfigError as error:
            raise _in(source, error) from None

    @classmethod
    def from_env(cls, prefix: str = "CHINWAG_", environ: Mapping[str, str] | None = None) -> Config:
        """Read settings from environment variables such as `CHINWAG_QUIET_S=2`.

        Truth values are written `true` or `false`, a limit that is not there `none`.

        Args:
            prefix: Every variable that begins with it must be a setting.
            environ: Read instead of `os.environ`.

        Raises:
            ConfigError: A variable is no setting or has a wrong value; the message names it.
        """
        settings: dict[str, Setting] = {}
        for name, text in (os.environ if environ is None else environ).items():
            if not name.startswith(prefix):
                continue
            try:
                key = name.removeprefix(prefix).lower()
                settings[key] = parse(key, text)
            except ConfigError as error:
                raise ConfigError(f"environment variable {name}: {error}") from None
        try:
            return cls.of(**settings)
        except ConfigError as error:
            raise ConfigError(f"environment variables {prefix}*: {error}") from None

    def flat(self) -> dict[str, Setting]:
        """List all settings by name, defaults included; `Config.of` takes them back."""
        return {
            item.name: getattr(getattr(self, name), item.name)
            for name, part in _PARTS.items()
            for item in fields(part)
        }


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
    kind = get_type_hints(_PARTS[_part_of(key)])[key]
    word = text.strip().lower()
    if type(None) in get_args(kind) and word in ("none", ""):
        return None
    if kind is bool:
        if word in _TRUTH:
            return _TRUTH[word]
        raise ConfigError(f"{key}={show(text)}: must be true or false")
    if kind is int or int in get_args(kind):
        return _number(key, text, int, "a whole number")
    if kind is float or float in get_args(kind):
        return _number(key, text, float, "a number")
    return text.strip()


def _number(key: str, text: str, kind: type[int] | type[float], noun: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{key}={show(text)}: must be {noun}") from None


def _in(source: str | os.PathLike[str] | Mapping[str, Any], error: ConfigError) -> ConfigError:
    place = "" if isinstance(source, Mapping) else f"{os.fspath(source)}: "
    return ConfigError(f"{place}{error}")


def _part_of(key: str) -> str:
    for name, part in _PARTS.items():
        if key in part.__dataclass_fields__:
            return name
    raise ConfigError(_unknown("setting", key, _keys()))


def _keys() -> list[str]:
    return [item.name for part in _PARTS.values() for item in fields(part)]


def _unknown(noun: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"unknown {noun} {show(key)}; {hint}"


def _flattened(source: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in _entries(source):
        if key in flat:
            raise ConfigError(f"{key} is given twice, at the top and in its section; keep one")
        # TOML has no null.
        none = isinstance(value, str) and value.strip().lower() == "none"
        flat[key] = None if none else value
    return flat


def _entries(source: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in source.items():
        if not isinstance(value, Mapping):
            yield name, value
            continue
        if name not in _PARTS:
            raise ConfigError(_unknown("section", name, list(_PARTS)))
        for key, inner in value.items():
            if (home := _part_of(key)) != name:
                raise ConfigError(f"{key} belongs in [{home}], not in [{name}]")
            yield key, inner


_PARTS: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {"window": Window, "busy": Busy, "order": Order, "limits": Limits, "retry": Retry}
)

_TRUTH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

"""All settings of a queue together, and what they come to in a group.

A setting has the value given for the group, or else that of the band for its size, or else the
queue's, or else the default. `Config.profile` works that out, `Config.sources` says why. What there
is to set stands in `chinwag.settings`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

from chinwag._checks import show
from chinwag._reading import parse, read
from chinwag.errors import ConfigError
from chinwag.settings import BY_SIZE, OF_THE_QUEUE, PARTS, check_policies, part_of, plain

# Whoever imports `Config` finds its parts here too.
from chinwag.settings import Band as Band
from chinwag.settings import Busy as Busy
from chinwag.settings import Limits as Limits
from chinwag.settings import Order as Order
from chinwag.settings import Retry as Retry
from chinwag.settings import Setting as Setting
from chinwag.settings import Strategy as Strategy
from chinwag.settings import Window as Window

__all__ = ["Config", "Effective", "Profile", "parse", "read"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of a queue."""

    window: Window = field(default_factory=Window)
    busy: Busy = field(default_factory=Busy)
    order: Order = field(default_factory=Order)
    limits: Limits = field(default_factory=Limits)
    retry: Retry = field(default_factory=Retry)

    def __post_init__(self) -> None:
        for name, part in PARTS.items():
            if not issubclass(type(value := getattr(self, name)), part):
                raise ConfigError(
                    f"{name}={show(value)}: must be a {part.__name__}; "
                    "for single settings use Config.of(...)"
                )
        check_policies(self.window, self.busy)
        for band in self.order.bands:
            self._check(band)

    @classmethod
    def of(cls, **settings: Any) -> Config:
        """Build a configuration from single settings, wherever they belong.

        Raises:
            ConfigError: A setting is unknown, has a wrong value, or contradicts another.
        """
        return cls(**_parts(settings))

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> Config:
        """Read a TOML file, or a mapping of the same form.

        Settings stand flat at the top, or under the name of their part:

            quiet_s = 2.0
            [limits]
            max_concurrent = 20
            rate = [5, 10]
            [[order.bands]]
            size = 50
            max_batch = 20

        Leave out what has no limit; the text "none" says so explicitly.

        Raises:
            ConfigError: The file is no TOML, or a setting is wrong; the message names both.
            OSError: The file cannot be read.
        """
        try:
            return cls(**_parts(read(source)))
        except ConfigError as error:
            raise _in(source, error) from None

    @classmethod
    def from_env(cls, prefix: str = "CHINWAG_", environ: Mapping[str, str] | None = None) -> Config:
        """Read settings from environment variables such as `CHINWAG_QUIET_S=2`.

        Truth values are written `true` or `false`, a limit that is not there `none`, a rate with a
        burst `5, 10`, and bands as in a TOML file: `[{size = 50, max_batch = 20}]`.

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
        """List all settings by name as plain data, defaults included; `Config.of` takes it back."""
        listed = {
            item.name: getattr(getattr(self, name), item.name)
            for name, part in PARTS.items()
            for item in fields(part)
        }
        return listed | {"bands": tuple(band.flat() for band in self.order.bands)}

    def for_group(self, **settings: Any) -> Config:
        """Make the configuration of a group for which some settings have been given.

        They go before those of the queue and of its bands, so they hold at every size.

        Raises:
            ConfigError: A setting is unknown, has a wrong value, contradicts another, or is one of
                the whole queue.
        """
        given = settings_of_a_group(settings)
        bands = self.order.bands
        if bands != BY_SIZE:
            bands = tuple(_without(band, given) for band in bands)
        return Config.of(**{**self.flat(), **given, "bands": bands})

    def profile(self) -> Profile:
        """Work out what holds at every size, as plain data for the engine."""
        settings = self.flat()
        del settings["strategy"], settings["bands"]
        first, *steps = _steps(self.order)
        return {
            "settings": settings,
            "strategy": first.strategy,
            "bands": [
                # The very same where a band sets nothing: it is read once.
                (at.size, at.strategy, settings | dict(at.settings) if at.settings else settings)
                for at in steps
            ],
        }

    def sources(
        self, group_settings: Mapping[str, Any] = MappingProxyType({}), size: int = 0
    ) -> dict[str, Effective]:
        """Say of every setting which value holds in a group, and where it comes from.

        Args:
            group_settings: What has been given for that group; see `for_group`.
            size: That of the group, or that from which the band holds that it is in. 0 is below
                the first band.

        Raises:
            ConfigError: As `for_group`.
        """
        config = self.for_group(**group_settings) if group_settings else self
        return sources_in_a_group(config, group_settings, size)

    def _check(self, band: Band) -> None:
        """Check what a band says against the settings that it leaves as they are."""
        made: dict[str, Any] = {}
        try:
            for name, part in PARTS.items():
                names = part.__dataclass_fields__
                if held := {key: v for key, v in band.settings.items() if key in names}:
                    made[name] = replace(getattr(self, name), **held)
            check_policies(made.get("window", self.window), made.get("busy", self.busy))
        except ConfigError as error:
            raise ConfigError(f"in the band from {band.size}: {error}") from None


class Effective(NamedTuple):
    """The value of a setting that holds, and where it comes from."""

    value: Setting
    """As in `Config.flat`, but `strategy` is always the one in force."""
    source: str
    """`default`, `queue`, `band 50` (the one from that size), or `group`. What the queue sets to
    its default is `default`.
    """


class Profile(TypedDict):
    """All that holds in a group, as the engine takes it: every setting, at every size."""

    settings: dict[str, Setting]
    """Those below the first band, without `strategy` and `bands`."""
    strategy: Strategy
    """That below the first band."""
    bands: list[tuple[int, Strategy, dict[str, Setting]]]
    """From which size, who is next, and all settings from there on; by ascending size."""


def settings_of_a_group(settings: Mapping[str, Any]) -> dict[str, Setting]:
    """Check what is given for a group by itself, and read its values: plain data from then on.

    Raises:
        ConfigError: A setting is unknown, has a wrong value, or is one of the whole queue.
    """
    for key in settings:
        part_of(key)
        if key in OF_THE_QUEUE:
            raise ConfigError(
                f"{key} is a setting of the whole queue and cannot be set for a group; "
                f"give it to the queue: Queue(..., {key}=...)"
            )
    return plain(settings)


def sources_in_a_group(config: Config, given: Collection[str], size: int) -> dict[str, Effective]:
    """Say the same as `Config.sources` where the configuration is that of the group.

    Args:
        config: What holds in the group.
        given: Names of the settings that were given for it.
        size: As there.
    """
    settings, defaults = config.flat(), _defaults()
    *_, step = (step for step in _steps(config.order) if step.size <= size)
    values = settings | dict(step.settings) | {"strategy": step.strategy}
    bands = dict.fromkeys(step.settings, step.set_from) | {"strategy": step.named_from}
    del values["bands"]

    def source(key: str) -> str:
        if band := bands.get(key):
            return f"band {band}"
        if key in given:
            return "group"
        return "default" if settings[key] == defaults[key] else "queue"

    return {key: Effective(value, source(key)) for key, value in values.items()}


@cache
def _defaults() -> Mapping[str, Setting]:
    return Config().flat()


class _Step(NamedTuple):
    """What holds from a size on, and which bands say so (0 for none)."""

    size: int
    strategy: Strategy
    named_from: int
    settings: Mapping[str, Setting]
    set_from: int


def _steps(order: Order) -> list[_Step]:
    """List what holds below the first band, and what from each band on."""
    own = {band.size: band for band in order.bands}
    naming = own
    if order.strategy is not None:
        own = naming = {} if order.bands == BY_SIZE else own
    elif own and not any(band.strategy for band in order.bands):
        naming = {band.size: band for band in BY_SIZE}
    steps = [_Step(0, order.strategy or "round_robin", 0, MappingProxyType({}), 0)]
    for size in sorted({*own, *naming}):
        _, strategy, named_from, settings, set_from = steps[-1]
        if size in own:
            settings, set_from = own[size].settings, size
        if size in naming and (named := naming[size].strategy):
            strategy, named_from = named, size
        elif order.strategy is not None:
            strategy, named_from = order.strategy, 0
        steps.append(_Step(size, strategy, named_from, settings, set_from))
    return steps


def _without(band: Band, settings: Mapping[str, Any]) -> Band:
    """Take out of a band what a group has settings of its own for."""
    strategy = None if settings.get("strategy") else band.strategy
    rest = {key: value for key, value in band.settings.items() if key not in settings}
    return Band(band.size, strategy, settings=rest)


def _parts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make all parts, with these settings wherever they belong."""
    flat: dict[str, dict[str, Any]] = {name: {} for name in PARTS}
    for key, value in settings.items():
        flat[part_of(key)][key] = value
    return {name: part(**flat[name]) for name, part in PARTS.items()}


def _in(source: str | os.PathLike[str] | Mapping[str, Any], error: ConfigError) -> ConfigError:
    place = "" if isinstance(source, Mapping) else f"{os.fspath(source)}: "
    return ConfigError(f"{place}{error}")

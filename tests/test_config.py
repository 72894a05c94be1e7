"""Settings: what is refused, what the refusal says, and where settings may come from."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chinwag.config import Busy, Config, Limits, Order, Retry, Window, parse
from chinwag.errors import ChinwagError, ConfigError

ENDLESS = ("quiet_s", "max_wait_s", "dedup_s", "idle_group_s", "cancel_grace_s", "close_timeout_s")
FINITE = ("back_to_back_s", "burst_s", "max_gap_s")
OPTIONAL_COUNTS = ("max_concurrent", "capacity_per_group", "capacity")
COUNTS = ("min_batch", "max_concurrent_per_group", "dedup_limit", *OPTIONAL_COUNTS)


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.of(**settings)
    return str(caught.value)


def test_defaults_are_the_documented_ones() -> None:
    assert Config().flat() == {
        "lanes": "sender",
        "back_to_back_s": 5.0,
        "burst_s": 10.0,
        "quiet_s": 0.0,
        "max_wait_s": 10.0,
        "max_batch": None,
        "min_batch": 1,
        "max_gap_s": None,
        "quiet_when_idle": True,
        "quiet_when_busy": True,
        "on_busy": "enqueue",
        "cancel_grace_s": 5.0,
        "strategy": "round_robin",
        "max_concurrent_per_group": 2,
        "max_concurrent": None,
        "capacity_per_group": None,
        "capacity": None,
        "overflow": "refuse",
        "dedup_s": 0.0,
        "dedup_limit": 10_000,
        "idle_group_s": 600.0,
        "close_timeout_s": 30.0,
    }


def test_field_names_are_unique_over_all_parts() -> None:
    names = [item.name for part in (Window, Busy, Order, Limits, Retry) for item in fields(part)]

    assert len(names) == len(set(names)) == len(Config().flat())


def test_flat_settings_find_their_part() -> None:
    config = Config.of(quiet_s=2, capacity=9, cancel_grace_s=1)

    assert config == Config(
        window=Window(quiet_s=2.0), limits=Limits(capacity=9), busy=Busy(cancel_grace_s=1.0)
    )


def test_flat_and_of_are_inverse() -> None:
    config = Config.of(quiet_s=math.inf, max_wait_s=3, max_batch=2.5, lanes="group")

    assert Config.of(**config.flat()) == config


def test_a_config_cannot_be_changed() -> None:
    config = Config()

    with pytest.raises(FrozenInstanceError):
        config.window.quiet_s = 3.0  # type: ignore[misc]


def test_a_config_error_is_also_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigError, ChinwagError)


def test_an_unknown_setting_names_its_nearest() -> None:
    assert refusal(quite_s=2) == "unknown setting 'quite_s'; did you mean 'quiet_s'?"


def test_an_unlike_setting_lists_what_there_is() -> None:
    said = refusal(zzz=2)

    assert said.startswith("unknown setting 'zzz'; there are lanes, ")
    assert "close_timeout_s" in said


@pytest.mark.parametrize("key", [*ENDLESS, *FINITE])
@pytest.mark.parametrize(
    "value", [-1, -1e-9, math.nan, -math.inf, True, "2", [], 2**63, -(2**63), 10**400, -(10**400)]
)
def test_a_duration_that_is_none_is_refused(key: str, value: object) -> None:
    assert refusal(**{key: value}).startswith(f"{key}=")


@pytest.mark.parametrize("key", ENDLESS)
def test_endless_durations_may_be_inf(key: str) -> None:
    assert Config.of(**{key: math.inf}).flat()[key] == math.inf


@pytest.mark.parametrize("key", FINITE)
def test_gap_tests_must_be_finite(key: str) -> None:
    assert refusal(**{key: math.inf}).startswith(f"{key}=inf: must be finite")


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), Fraction(2)])
def test_any_real_number_is_kept_as_float(value: Any) -> None:
    quiet_s = Config.of(quiet_s=value).window.quiet_s

    assert (type(quiet_s), quiet_s) == (float, 2.0)


def test_a_timedelta_is_told_how_to_become_seconds() -> None:
    from datetime import timedelta

    assert "use .total_seconds()" in refusal(quiet_s=timedelta(seconds=2))


@pytest.mark.parametrize("key", COUNTS)
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "3", math.nan, 2**32, 2**63, 10**400])
def test_a_count_that_is_none_is_refused(key: str, value: object) -> None:
    assert refusal(**{key: value}).startswith(f"{key}=")


@pytest.mark.parametrize("key", OPTIONAL_COUNTS)
def test_a_zero_cap_is_told_how_to_mean_no_limit(key: str) -> None:
    assert refusal(**{key: 0}) == (
        f"{key}=0: must be from 1 to 4,294,967,295; leave it out, or None, for no limit"
    )


@pytest.mark.parametrize("key", ["min_batch", "max_concurrent_per_group", "dedup_limit"])
def test_a_cap_that_is_needed_cannot_be_none(key: str) -> None:
    assert refusal(**{key: None}) == f"{key}=None: must be a whole number of at least 1"


@pytest.mark.parametrize("value", [1, 7, 0.5, 1e-6, 1e12, np.float64(3.5), None])
def test_max_batch_takes_any_positive_number(value: Any) -> None:
    assert Config.of(max_batch=value).window.max_batch == value


@pytest.mark.parametrize("value", [0, -1, 1e-7, math.inf, math.nan, True, "4", 2**63, 10**400])
def test_max_batch_that_is_no_size_is_refused(value: object) -> None:
    assert refusal(max_batch=value).startswith("max_batch=")


@pytest.mark.parametrize("key", ["quiet_when_idle", "quiet_when_busy"])
@pytest.mark.parametrize("value", [0, 1, None, "no"])
def test_a_switch_is_true_or_false_only(key: str, value: object) -> None:
    assert refusal(**{key: value}) == f"{key}={value!r}: must be True or False"


@pytest.mark.parametrize("value", ["senders", "", None, 3, ["sender"]])
def test_a_wrong_word_lists_the_allowed_ones(value: object) -> None:
    assert refusal(lanes=value) == f"lanes={value!r}: must be 'sender' or 'group' or 'message'"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("on_busy", "interrupt", "enqueue"),
        ("strategy", "priority", "round_robin"),
        ("overflow", "drop_oldest", "refuse"),
    ],
)
def test_what_a_later_version_knows_is_said_to_be_missing(
    key: str, value: str, allowed: str
) -> None:
    """Who follows the documentation of a newer version has not mistyped anything."""
    assert refusal(**{key: value}) == (
        f"{key}={value!r}: is not available in this version; use {allowed!r}"
    )


def test_quiet_without_end_needs_a_longest_wait() -> None:
    assert "quiet_s=inf with max_wait_s=inf" in refusal(quiet_s=math.inf, max_wait_s=math.inf)
    assert Config.of(quiet_s=math.inf, max_wait_s=5)


def test_a_minimum_needs_a_longest_wait() -> None:
    assert "min_batch=2 with max_wait_s=inf" in refusal(min_batch=2, max_wait_s=math.inf)
    assert Config.of(min_batch=1, max_wait_s=math.inf)


def test_a_minimum_above_the_maximum_is_refused() -> None:
    assert refusal(min_batch=5, max_batch=4).startswith("min_batch=5 is above max_batch=4")
    assert Config.of(min_batch=4, max_batch=4)


def test_a_fractional_maximum_needs_no_minimum() -> None:
    """One message is always a batch, so a `min_batch` of 1 contradicts nothing."""
    assert Config.of(max_batch=0.5).window.min_batch == 1


def test_a_part_must_be_of_its_class() -> None:
    with pytest.raises(ConfigError, match=r"window=3: must be a Window; .* Config.of"):
        Config(window=3)  # type: ignore[arg-type]


def test_a_huge_value_is_shortened_in_the_message() -> None:
    assert len(refusal(lanes="x" * 10_000_000)) < 200


def test_a_file_may_be_flat_and_by_section(tmp_path: Path) -> None:
    file = tmp_path / "room.toml"
    file.write_text('quiet_s = 2\n[limits]\nmax_concurrent = 20\ncapacity = "none"\n')

    assert Config.load(file) == Config.of(quiet_s=2, max_concurrent=20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quiet_s = -1", "quiet_s=-1: must be at least 0"),
        ("quite_s = 1", "unknown setting 'quite_s'; did you mean 'quiet_s'?"),
        ("[limit]\ncapacity = 1", "unknown section 'limit'; did you mean 'limits'?"),
        ("[limits]\nquiet_s = 1", "quiet_s belongs in [window], not in [limits]"),
        ("quiet_s = 1\n[window]\nquiet_s = 1", "quiet_s is given twice"),
        ("max_wait_s = inf\nquiet_s = inf", "quiet_s=inf with max_wait_s=inf"),
        ("quiet_s = ", "not a TOML file: "),
        ("quiet_s = 1\nquiet_s = 1", "not a TOML file: "),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "room.toml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        Config.load(str(file))

    assert str(caught.value).startswith(f"{file}: {said}")


def test_a_binary_file_is_no_toml(tmp_path: Path) -> None:
    file = tmp_path / "room.toml"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match=r"room\.toml: not a TOML file"):
        Config.load(file)


def test_a_mapping_loads_like_a_file() -> None:
    assert Config.load({"quiet_s": 1, "retry": {"close_timeout_s": 3}}) == Config.of(
        quiet_s=1, close_timeout_s=3
    )


def test_the_environment_gives_settings() -> None:
    config = Config.from_env(
        environ={
            "CHINWAG_QUIET_S": "2",
            "CHINWAG_MAX_WAIT_S": "inf",
            "CHINWAG_MIN_BATCH": "1",
            "CHINWAG_MAX_BATCH": "none",
            "CHINWAG_QUIET_WHEN_IDLE": "No",
            "CHINWAG_LANES": "group",
            "PATH": "/bin",
        }
    )

    assert config == Config.of(quiet_s=2, max_wait_s=math.inf, quiet_when_idle=False, lanes="group")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("BOT_QUIET_S", "2s", "quiet_s='2s': must be a number"),
        ("BOT_MIN_BATCH", "2.5", "min_batch='2.5': must be a whole number"),
        ("BOT_QUIET_WHEN_IDLE", "maybe", "quiet_when_idle='maybe': must be true or false"),
        ("BOT_QUITE_S", "2", "unknown setting 'quite_s'; did you mean 'quiet_s'?"),
    ],
)
def test_a_wrong_variable_is_named(name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env("BOT_", {name: text})

    assert str(caught.value) == f"environment variable {name}: {said}"


def test_contradicting_variables_are_named_by_prefix() -> None:
    with pytest.raises(ConfigError, match=r"environment variables BOT_\*: min_batch=3 is above"):
        Config.from_env("BOT_", {"BOT_MIN_BATCH": "3", "BOT_MAX_BATCH": "2"})


def test_no_variable_means_the_defaults() -> None:
    assert Config.from_env(environ={}) == Config()


def test_text_of_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'nothing'"):
        parse("nothing", "1")

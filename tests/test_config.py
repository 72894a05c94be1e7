"""Settings: what is refused, what the refusal says, and where settings may come from."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chinwag.config import Band, Busy, Config, Limits, Order, Retry, Window, parse
from chinwag.errors import ChinwagError, ConfigError
from tests.settings import BY_SIZE, refusal

ENDLESS = (
    "quiet_s",
    "max_wait_s",
    "dedup_s",
    "context_ttl_s",
    "idle_group_s",
    "cancel_grace_s",
    "close_timeout_s",
)
FINITE = (
    *("back_to_back_s", "burst_s", "max_gap_s", "typing_expires_s", "size_window_s", "ttl_s"),
    *("backoff_s", "backoff_cap_s", "handler_timeout_s"),
)
OPTIONAL_COUNTS = ("max_concurrent", "capacity_per_group", "capacity")
NEEDED_COUNTS = (
    *("min_batch", "max_concurrent_per_group", "dedup_limit", "max_bypass"),
    "max_attempts",
)
COUNTS = (*NEEDED_COUNTS, *OPTIONAL_COUNTS)
RATES = ("rate_per_group", "rate")
SCORES = ("real_time", "back_to_back", "burst", "sender")
WORDS = {
    "lanes": ("sender", "group", "message"),
    "keep": ("all", "latest"),
    "strategy": ("round_robin", "priority", "load_balanced", "adaptive"),
    "size_by": ("active", "members"),
    "fair_by": ("calls", "time"),
    "overflow": ("refuse", "drop_newest", "drop_oldest"),
    "jitter": ("full", "none"),
}
AS_IN_A_FILE = (
    "must be written as in a TOML file, "
    'such as [{size = 50, strategy = "adaptive", max_batch = 20}]'
)


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
        "keep": "all",
        "quiet_when_idle": True,
        "quiet_when_busy": True,
        "typing_expires_s": 6.0,
        "on_busy": "enqueue",
        "interrupted": "merge",
        "interrupt_within_s": None,
        "max_interrupts": 8,
        "preempt_margin": None,
        "inject_limit": None,
        "saved_ttl_s": 600.0,
        "emit_limit": 1_000,
        "hold_background": False,
        "cancel_grace_s": 5.0,
        "real_time": 0.5,
        "back_to_back": 0.3,
        "burst": 0.15,
        "sender": 1.0,
        "aging": 0.1,
        "strategy": None,
        "bands": tuple({"size": size, "strategy": strategy} for size, strategy in BY_SIZE),
        "size_by": "active",
        "size_window_s": 600.0,
        "fair_by": "calls",
        "weight": 1.0,
        "max_concurrent_per_group": 2,
        "max_concurrent": None,
        "rate_per_group": None,
        "rate": None,
        "capacity_per_group": None,
        "capacity": None,
        "overflow": "refuse",
        "dedup_s": 0.0,
        "dedup_limit": 10_000,
        "ttl_s": None,
        "context_limit": 50,
        "context_ttl_s": 3600.0,
        "max_bypass": 64,
        "idle_group_s": 600.0,
        "close_timeout_s": 30.0,
        "max_attempts": 3,
        "backoff_s": 1.0,
        "backoff_factor": 2.0,
        "backoff_cap_s": 60.0,
        "jitter": "full",
        "retry_committed": False,
        "split_failed": False,
        "handler_timeout_s": None,
        "no_retry": (),
        "retry_if": None,
        "dead_limit": 1_000,
        "seed": 0,
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
    config = Config.of(
        quiet_s=math.inf,
        max_wait_s=3,
        max_batch=2.5,
        lanes="group",
        rate=(5, 10),
        bands=[Band(2), Band(9, "adaptive", max_batch=None, rate_per_group=3)],
    )

    assert Config.of(**config.flat()) == config


def test_flat_settings_are_plain_data() -> None:
    """Reports and dashboards write them as JSON."""
    config = Config.of(rate=5, bands=[Band(9, "adaptive", quiet_s=2), Band(20, max_batch=4)])

    flat = json.loads(json.dumps(config.flat()))

    assert flat["rate"] == [5.0, 1.0]
    assert flat["bands"] == [
        {"size": 9, "strategy": "adaptive", "quiet_s": 2.0},
        {"size": 20, "max_batch": 4},
    ]
    assert Config.of(**flat) == config


@pytest.mark.parametrize("make", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_is_the_same_config(make: Callable[[Config], Config]) -> None:
    """It travels to other processes, and keys a cache."""
    config = Config.of(rate=5, bands=[Band(9, "adaptive", rate_per_group=[1, 2])])

    copied = make(config)

    assert (copied, hash(copied)) == (config, hash(config))
    assert asdict(copied)["order"]["bands"][0]["settings"] == {"rate_per_group": (1.0, 2.0)}


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


@pytest.mark.parametrize("key", NEEDED_COUNTS)
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


@pytest.mark.parametrize("value", [0, 1, 2**32 - 1, np.int64(7)])
def test_a_context_may_hold_nothing(value: Any) -> None:
    assert Config.of(context_limit=value).limits.context_limit == value


@pytest.mark.parametrize("value", [-1, 2**32, True, 1.0, "3", None])
def test_a_context_limit_that_is_none_is_refused(value: object) -> None:
    assert refusal(context_limit=value).startswith("context_limit=")


@pytest.mark.parametrize("key", SCORES)
@pytest.mark.parametrize("value", [0, -3, 0.25, 1e12, -1e12, np.float32(2), Fraction(1, 3)])
def test_points_may_be_any_finite_number(key: str, value: Any) -> None:
    points = Config.of(**{key: value}).flat()[key]

    assert (type(points), points) == (float, float(value))


@pytest.mark.parametrize("key", SCORES)
@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, 1e13, -(10**400), True, "1", None]
)
def test_points_that_are_none_are_refused(key: str, value: object) -> None:
    assert refusal(**{key: value}).startswith(f"{key}=")


def test_points_beyond_the_limit_are_told_it() -> None:
    assert refusal(real_time=math.inf) == (
        "real_time=inf: must be from -1,000,000,000,000 to 1,000,000,000,000"
    )


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, 1e13, True, "1", None])
def test_aging_never_takes_points_away(value: object) -> None:
    assert refusal(aging=value).startswith("aging=")
    assert Config.of(aging=0).order.aging == 0.0


@pytest.mark.parametrize("value", [0.001, 1, 1000, np.float64(2.5)])
def test_a_weight_is_a_share(value: Any) -> None:
    assert Config.of(weight=value).order.weight == value


@pytest.mark.parametrize("value", [0, 0.0009, 1000.1, -1, math.inf, math.nan, True, "1", None])
def test_a_weight_that_is_none_is_refused(value: object) -> None:
    assert refusal(weight=value).startswith("weight=")


def test_a_weight_beyond_the_limits_is_told_them() -> None:
    assert refusal(weight=0) == "weight=0: must be from 0.001 to 1,000; 1 is an even share"


@pytest.mark.parametrize("key", RATES)
@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (5, (5.0, 1.0)),
        (1e-6, (1e-6, 1.0)),
        ((0.5, 3), (0.5, 3.0)),
        ([np.float64(2), 1], (2.0, 1.0)),
    ],
)
def test_a_rate_is_kept_with_its_burst(key: str, value: Any, kept: object) -> None:
    assert Config.of(**{key: value}).flat()[key] == kept


@pytest.mark.parametrize("key", RATES)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            0,
            "must be from 0.000001 to 1,000,000 calls a second; leave it out, or None, for",
        ),
        (-1, "must be from 0.000001 to"),
        (math.inf, "must be from 0.000001 to"),
        ((math.nan, 1), "must be a number; give calls a second"),
        (True, "must be a number; give calls a second"),
        ("5", "must be a number; give calls a second"),
        ((5, 0.5), "its burst, the calls that may start at once after a rest, must be from 1 to"),
        ((5, math.inf), "its burst, the calls that may start at once after a rest, must be from"),
        ((5, None), "must be a number; give calls a second"),
        ((5,), "must be calls a second, or a pair of them and a burst"),
        ((5, 1, 1), "must be calls a second, or a pair of them and a burst"),
    ],
)
def test_a_rate_that_is_none_is_refused(key: str, value: object, said: str) -> None:
    message = refusal(**{key: value})

    assert message.startswith(f"{key}=")
    assert said in message


@pytest.mark.parametrize(
    ("key", "word"), [(k, word) for k, known in WORDS.items() for word in known]
)
def test_every_known_word_is_taken(key: str, word: str) -> None:
    assert Config.of(**{key: word}).flat()[key] == word


@pytest.mark.parametrize("key", sorted(WORDS.keys() - {"strategy"}))
@pytest.mark.parametrize("value", ["senders", "", None, 3, ["sender"]])
def test_a_wrong_word_lists_the_allowed_ones(key: str, value: object) -> None:
    allowed = " or ".join(repr(word) for word in WORDS[key])

    assert refusal(**{key: value}) == f"{key}={value!r}: must be {allowed}"


def test_a_wrong_strategy_is_told_of_the_size() -> None:
    assert refusal(strategy="fair") == (
        "strategy='fair': must be 'round_robin' or 'priority' or 'load_balanced' or 'adaptive', "
        "or None to go by the size of the group"
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"on_busy": "inject", "lanes": "message"}, "on_busy='inject' with lanes='message'"),
        ({"on_busy": "interrupt", "lanes": "message"}, "set interrupted to 'resume' or 'abandon'"),
        ({"on_busy": "rollback", "max_batch": 1}, "on_busy='rollback' with max_batch=1"),
    ],
)
def test_a_policy_that_is_never_served_is_refused(settings: dict[str, Any], named: str) -> None:
    assert named in refusal(**settings)
    assert named in refusal(
        bands=[Band(8, **{k: v for k, v in settings.items() if k != "lanes"})],
        **{k: v for k, v in settings.items() if k == "lanes"},
    )


def test_the_latest_of_a_message_lane_is_refused() -> None:
    """Nothing else waits there that it could supersede."""
    assert refusal(lanes="message", keep="latest").startswith("keep='latest' with lanes='message'")
    assert Config.of(lanes="group", keep="latest")


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


class Rebel(float):
    """A number that raises wherever it is asked for anything."""

    def __repr__(self) -> str:
        raise LookupError

    __float__ = __abs__ = __lt__ = __gt__ = __le__ = __ge__ = __repr__  # type: ignore[assignment]


class Countless(int):
    def __int__(self) -> int:
        raise LookupError

    __index__ = __abs__ = __bool__ = __int__  # type: ignore[assignment]


class Liar(str):
    """A text that calls itself equal to every other."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


class Pair(tuple[float, ...]):
    __slots__ = ()

    def __len__(self) -> int:
        raise LookupError

    __iter__ = __getitem__ = __len__  # type: ignore[assignment]


class Bands(list[Any]):
    def __iter__(self) -> Any:
        raise LookupError

    __len__ = __iter__


class Table(dict[str, Any]):
    def keys(self) -> Any:
        raise LookupError

    __iter__ = __len__ = items = keys


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quiet_s": Rebel(1)}, "quiet_s=<no repr>: must be a number"),
        ({"aging": Rebel(1)}, "aging=<no repr>: must be a number"),
        ({"rate": Rebel(1)}, "rate=<no repr>: must be a number"),
        ({"max_batch": Rebel(1)}, "max_batch=<no repr>: must be a number"),
        ({"min_batch": Rebel(1)}, "min_batch=<no repr>: must be a whole number"),
        ({"on_busy": Rebel(1)}, "on_busy=<no repr>: must be"),
        ({"quiet_when_idle": Rebel(1)}, "quiet_when_idle=<no repr>: must be True"),
        ({"bands": Rebel(1)}, "bands=<no repr>: must be a list"),
        ({"bands": [Rebel(1)]}, "bands: <no repr> is none"),
        ({"quiet_s": np.timedelta64(1, "s")}, "quiet_s=np.timedelta64(1,'s'): must be a number"),
        ({"quiet_s": np.timedelta64(1, "ns")}, "quiet_s=np.timedelta64(1,'ns'): must be a number"),
        ({"min_batch": np.timedelta64(1, "ns")}, "must be a whole number"),
        ({"quiet_s": np.array([1.0])}, "must be a number"),
        ({"quiet_s": -Fraction(10**400)}, "must be at least 0"),
        ({"lanes": Liar("banana")}, "lanes='banana': must be 'sender'"),
        ({"rate": Pair((1, 2, 3))}, "must be calls a second, or a pair"),
    ],
)
def test_a_value_cannot_outwit_the_checks(settings: dict[str, Any], said: str) -> None:
    assert said in refusal(**settings)


def test_a_value_is_kept_as_what_it_was_read_as() -> None:
    """Whatever else an object of a subclass does, nobody asks it a second time."""
    config = Config.of(
        lanes=Liar("group"),
        min_batch=Countless(3),
        rate=Pair((1, 2)),
        bands=Bands([{"size": Countless(5), "strategy": Liar("adaptive")}]),
    )

    assert config.flat() == {
        **Config().flat(),
        "lanes": "group",
        "min_batch": 3,
        "rate": (1.0, 2.0),
        "bands": ({"size": 5, "strategy": "adaptive"},),
    }
    assert {type(config.window.lanes), type(config.order.bands[0].strategy)} == {str}


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_inside_a_value_passes(interrupt: type[BaseException]) -> None:
    class Slow(float):
        def __float__(self) -> float:
            raise interrupt

    class Long(float):
        def __repr__(self) -> str:
            raise interrupt

    for value in (Slow(1), Long(-1)):
        with pytest.raises(interrupt):
            Config.of(quiet_s=value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Config.load({7: 1}), "unknown setting 7"),  # type: ignore[dict-item]
        (lambda: Config.load({"windows": {}}), "unknown section 'windows'"),
        (lambda: Band(50, settings=7), "settings=7: must be a mapping"),  # type: ignore[arg-type]
        (lambda: Band(50, settings={7: 1}), "unknown setting 7"),  # type: ignore[dict-item]
        (lambda: Config.of(bands=[Table(size=2)]), "is none; give a Band, or a mapping"),
    ],
)
def test_what_names_no_settings_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()

    assert said in str(caught.value)


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
        ("[order.bands]\nsize = 3", "bands={'size': 3}: must be a list such as [Band("),
        ("[bands]\nsize = 3", "bands={'size': 3}: must be a list such as [Band("),
        ("[[order.bands]]\nmax_batch = 3", "bands: {'max_batch': 3} has no size; give the size"),
        (
            "[[bands]]\nsize = 3\nmax_bach = 3",
            "in the band from 3: unknown setting 'max_bach'; did you mean 'max_batch'?",
        ),
        ("rate = [1, 2, 3]", "rate=[1, 2, 3]: must be calls a second, or a pair"),
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


def test_bands_are_tables_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "room.toml"
    file.write_text(
        """
        rate = [5, 10]
        [order]
        strategy = "none"
        [[order.bands]]
        size = 8
        strategy = "priority"
        [[order.bands]]
        size = 50
        strategy = "adaptive"
        max_batch = 20
        rate_per_group = [2, 4]
        ttl_s = "none"
        """
    )

    assert Config.load(file) == Config.of(
        rate=(5, 10),
        bands=(
            Band(8, "priority"),
            Band(50, "adaptive", max_batch=20, rate_per_group=(2, 4), ttl_s=None),
        ),
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
            "CHINWAG_STRATEGY": " priority",
            "CHINWAG_TTL_S": "none",
            "CHINWAG_RATE": "5",
            "CHINWAG_RATE_PER_GROUP": "0.5, 3",
            "CHINWAG_BURST": "-1",
            "CHINWAG_BURST_S": "8",
            "PATH": "/bin",
        }
    )

    assert config == Config.of(
        quiet_s=2,
        max_wait_s=math.inf,
        quiet_when_idle=False,
        lanes="group",
        strategy="priority",
        rate=5,
        rate_per_group=(0.5, 3),
        burst=-1,
        burst_s=8,
    )


def test_bands_in_the_environment_are_written_as_in_a_file() -> None:
    text = '[{size = 8}, {size = 50, strategy = "adaptive", max_batch = 20, ttl_s = "none"}]'

    config = Config.from_env(environ={"CHINWAG_BANDS": text})

    assert config.order.bands == (Band(8), Band(50, "adaptive", max_batch=20, ttl_s=None))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("BOT_QUIET_S", "2s", "quiet_s='2s': must be a number"),
        ("BOT_MIN_BATCH", "2.5", "min_batch='2.5': must be a whole number"),
        ("BOT_QUIET_WHEN_IDLE", "maybe", "quiet_when_idle='maybe': must be true or false"),
        ("BOT_QUITE_S", "2", "unknown setting 'quite_s'; did you mean 'quiet_s'?"),
        ("BOT_RATE", "fast", "rate='fast': must be a number"),
        ("BOT_RATE", "5, x", "rate=' x': must be a number, or two as in 5, 10"),
        ("BOT_RATE", "5, 6, 7", "rate='5, 6, 7': must be a number, or two as in 5, 10"),
        ("BOT_BANDS", "6", f"bands='6': {AS_IN_A_FILE}"),
        ("BOT_BANDS", "6 priority", f"bands='6 priority': {AS_IN_A_FILE}"),
        ("BOT_BANDS", "[]\nquiet_s = 1", f"bands='[]\\nquiet_s = 1': {AS_IN_A_FILE}"),
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

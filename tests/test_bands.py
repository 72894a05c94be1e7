"""Size bands and settings of groups: what they may set, and what then holds in a group."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from chinwag.config import Band, Config
from chinwag.errors import ConfigError
from tests.settings import BY_SIZE, refusal

OF_THE_QUEUE = {
    "bands": [Band(3)],
    "cancel_grace_s": 1,
    "emit_limit": 1,
    "size_by": "members",
    "size_window_s": 1,
    "fair_by": "time",
    "max_concurrent": 1,
    "rate": 1,
    "capacity": 1,
    "max_bypass": 1,
    "idle_group_s": 1,
    "close_timeout_s": 1,
    "seed": 1,
    "no_retry": (ValueError,),
    "retry_if": callable,
    "dead_limit": 1,
}
AT_EVERY_SIZE = {"lanes": "group", "dedup_s": 1, "dedup_limit": 1}

# Bands.


def test_a_band_reads_as_it_is_written() -> None:
    band = Band(50, "adaptive", max_batch=20, quiet_s=1)

    assert repr(band) == "Band(50, 'adaptive', quiet_s=1.0, max_batch=20)"
    assert band == Band(size=50, strategy="adaptive", settings={"quiet_s": 1}, max_batch=20)
    assert replace(band, size=60) == Band(60, "adaptive", max_batch=20, quiet_s=1)


def test_a_band_cannot_be_changed() -> None:
    given = {"max_batch": 20}
    band = Band(50, settings=given)
    given["max_batch"] = 3

    assert band.settings == {"max_batch": 20}
    with pytest.raises(FrozenInstanceError):
        band.size = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        band.settings["max_batch"] = 3  # type: ignore[index]


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "3", None, 2**32])
def test_a_size_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^size="):
        Band(value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_bach": 3}, "unknown setting 'max_bach'; did you mean 'max_batch'?"),
        ({"max_batch": 0}, "max_batch=0: must be from"),
        ({"strategy": "fair"}, "strategy='fair': must be 'round_robin' or"),
        ({"settings": {"strategy": "priority"}}, "strategy is no setting among others here"),
        ({"min_batch": 3, "max_batch": 2}, "min_batch=3 is above max_batch=2"),
    ],
)
def test_a_band_checks_its_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Band(50, **settings)

    assert str(caught.value).startswith(f"in the band from 50: {said}")


@pytest.mark.parametrize("key", OF_THE_QUEUE)
def test_a_band_holds_nothing_of_the_whole_queue(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is a setting of the whole queue and cannot dep"):
        Band(50, settings={key: OF_THE_QUEUE[key]})


@pytest.mark.parametrize("key", AT_EVERY_SIZE)
def test_lanes_and_ids_do_not_depend_on_the_size(key: str) -> None:
    """They cannot change while messages wait, and a size changes just then."""
    with pytest.raises(ConfigError, match=f"{key} cannot depend on the size of a group"):
        Band(50, settings={key: AT_EVERY_SIZE[key]})


def test_every_other_setting_may_depend_on_the_size() -> None:
    flat = Config().flat()
    settings = {
        k: v for k, v in flat.items() if k not in {*OF_THE_QUEUE, *AT_EVERY_SIZE, "strategy"}
    }

    assert Band(50, settings=settings).settings == settings


@pytest.mark.parametrize("sizes", [(6, 2), (6, 6), (2, 6, 5)])
def test_bands_ascend(sizes: tuple[int, ...]) -> None:
    assert refusal(bands=[Band(size) for size in sizes]) == (
        f"bands: {sizes[-1]} comes after 6; give them by ascending size, each size once"
    )


@pytest.mark.parametrize("value", [None, 3, "[]", Band(3), {"size": 3}, iter([Band(3)])])
def test_bands_are_a_list(value: object) -> None:
    assert ": must be a list such as [Band(50, 'adaptive', max_batch=20)]" in refusal(bands=value)


@pytest.mark.parametrize("value", [None, 3, (50, "adaptive"), "50"])
def test_what_is_no_band_is_named(value: object) -> None:
    assert refusal(bands=[value]).startswith(f"bands: {value!r} is none; give a Band, or")


def test_a_band_may_contradict_what_it_leaves_as_it_is() -> None:
    assert refusal(max_batch=4, bands=[Band(8, min_batch=5)]).startswith(
        "in the band from 8: min_batch=5 is above max_batch=4"
    )
    assert refusal(quiet_s=math.inf, bands=[Band(8, max_wait_s=math.inf)]).startswith(
        "in the band from 8: quiet_s=inf with max_wait_s=inf"
    )
    assert refusal(lanes="message", bands=[Band(8, keep="latest")]).startswith(
        "in the band from 8: keep='latest' with lanes='message'"
    )


# What holds in a group.


def steps(config: Config, **group: Any) -> list[tuple[int, str]]:
    profile = config.for_group(**group).profile()
    return [(0, profile["strategy"]), *((size, name) for size, name, _ in profile["bands"])]


def held(config: Config, key: str, **group: Any) -> list[object]:
    profile = config.for_group(**group).profile()
    return [profile["settings"][key], *(settings[key] for _, _, settings in profile["bands"])]


def test_a_profile_is_plain_and_complete() -> None:
    profile = Config.of(bands=[Band(8, "priority", max_batch=3)]).profile()

    base = Config().flat()
    del base["strategy"], base["bands"]
    assert profile == {
        "settings": base,
        "strategy": "round_robin",
        "bands": [(8, "priority", {**base, "max_batch": 3})],
    }


def test_unless_given_the_strategy_goes_by_size() -> None:
    assert steps(Config()) == [(0, "round_robin"), *BY_SIZE]


def test_a_strategy_holds_at_every_size() -> None:
    assert steps(Config.of(strategy="priority")) == [(0, "priority")]


def test_own_bands_replace_the_default_ones() -> None:
    assert steps(Config.of(bands=[Band(9, "adaptive")])) == [(0, "round_robin"), (9, "adaptive")]
    assert steps(Config.of(bands=[])) == [(0, "round_robin")]


def test_own_bands_go_before_the_strategy_of_the_queue() -> None:
    config = Config.of(strategy="priority", bands=[Band(9, "adaptive"), Band(20, max_batch=3)])

    assert steps(config) == [(0, "priority"), (9, "adaptive"), (20, "priority")]


def test_a_band_without_a_strategy_has_that_of_the_band_below() -> None:
    config = Config.of(bands=[Band(4, max_batch=2), Band(9, "adaptive"), Band(20, max_batch=3)])

    assert steps(config) == [
        (0, "round_robin"),
        (4, "round_robin"),
        (9, "adaptive"),
        (20, "adaptive"),
    ]


def test_bands_that_name_no_strategy_leave_it_by_size() -> None:
    """Who wants larger batches in large rooms has said nothing about who is next."""
    config = Config.of(bands=[Band(10, max_batch=3), Band(50, max_batch=9)])

    assert steps(config) == [
        (0, "round_robin"),
        (2, "round_robin"),
        (6, "priority"),
        (10, "priority"),
        (16, "load_balanced"),
        (50, "adaptive"),
    ]
    assert held(config, "max_batch") == [None, None, None, 3, 3, 9]


def test_bands_do_not_add_up() -> None:
    config = Config.of(quiet_s=1, bands=[Band(5, quiet_s=2), Band(9, "adaptive", max_batch=3)])

    assert held(config, "quiet_s") == [1.0, 2.0, 1.0]
    assert held(config, "max_batch") == [None, None, 3]


def test_a_group_goes_before_the_bands() -> None:
    config = Config.of(quiet_s=1, bands=[Band(5, "adaptive", quiet_s=2, max_batch=3)])

    assert held(config, "quiet_s", quiet_s=7) == [7.0, 7.0]
    assert held(config, "max_batch", quiet_s=7) == [None, 3]
    assert steps(config, quiet_s=7) == [(0, "round_robin"), (5, "adaptive")]


def test_the_strategy_of_a_group_holds_in_all_bands() -> None:
    config = Config.of(bands=[Band(5, "adaptive", max_batch=3)])

    assert steps(config, strategy="priority") == [(0, "priority"), (5, "priority")]
    assert steps(Config(), strategy="priority") == [(0, "priority")]


def test_a_group_may_go_by_size_again() -> None:
    assert steps(Config.of(strategy="priority"), strategy=None) == [(0, "round_robin"), *BY_SIZE]


def test_a_group_has_a_config_of_its_own() -> None:
    config = Config.of(capacity=9, bands=[Band(5, "adaptive", quiet_s=2, max_batch=3)])

    assert config.for_group(quiet_s=7, weight=2) == Config.of(
        capacity=9, quiet_s=7, weight=2, bands=[Band(5, "adaptive", max_batch=3)]
    )
    assert config.for_group() == config


def test_an_unknown_setting_of_a_group_names_its_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'quite_s'; did you mean 'quiet_s'"):
        Config().for_group(quite_s=2)


@pytest.mark.parametrize("key", OF_THE_QUEUE)
def test_a_group_sets_nothing_of_the_whole_queue(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().for_group(**{key: OF_THE_QUEUE[key]})

    assert str(caught.value) == (
        f"{key} is a setting of the whole queue and cannot be set for a group; "
        f"give it to the queue: Queue(..., {key}=...)"
    )


@pytest.mark.parametrize("key", sorted(Config().flat().keys() - OF_THE_QUEUE.keys()))
def test_every_other_setting_may_be_of_a_group(key: str) -> None:
    assert Config().for_group(**{key: Config().flat()[key]}) == Config()


def test_a_group_may_contradict_the_queue_or_a_band() -> None:
    config = Config.of(max_batch=4, bands=[Band(8, max_batch=2)])

    with pytest.raises(ConfigError, match=r"^min_batch=5 is above max_batch=4"):
        config.for_group(min_batch=5)
    with pytest.raises(ConfigError, match=r"^in the band from 8: min_batch=3 is above max_batch=2"):
        config.for_group(min_batch=3)


def test_a_value_says_where_it_comes_from() -> None:
    config = Config.of(
        quiet_s=1, max_gap_s=9, bands=[Band(5, "adaptive", max_batch=3, max_gap_s=8), Band(9)]
    )

    sources = config.sources({"quiet_s": 7, "ttl_s": None}, size=6)

    assert sources.keys() == Config().flat().keys() - {"bands"}
    assert {key: source for key, source in sources.items() if source.source != "default"} == {
        "quiet_s": (7.0, "group"),
        "ttl_s": (None, "group"),
        "max_gap_s": (8.0, "band 5"),
        "max_batch": (3, "band 5"),
        "strategy": ("adaptive", "band 5"),
    }
    assert config.sources(size=4)["max_gap_s"] == (9.0, "queue")
    assert config.sources(size=9)["max_gap_s"] == (9.0, "queue")
    assert config.sources(size=9)["strategy"] == ("adaptive", "band 5")


@pytest.mark.parametrize(
    ("settings", "group", "size", "told"),
    [
        ({}, {}, 0, ("round_robin", "default")),
        ({}, {}, 5, ("round_robin", "band 2")),
        ({}, {}, 16, ("load_balanced", "band 16")),
        ({"strategy": "priority"}, {}, 16, ("priority", "queue")),
        ({"strategy": "priority"}, {"strategy": "adaptive"}, 16, ("adaptive", "group")),
        ({"strategy": "priority"}, {"strategy": None}, 16, ("load_balanced", "band 16")),
        ({"bands": [Band(3, max_batch=3)]}, {}, 7, ("priority", "band 6")),
        ({"bands": [Band(3, "adaptive")]}, {"strategy": "priority"}, 7, ("priority", "group")),
    ],
)
def test_a_strategy_says_where_it_comes_from(
    settings: dict[str, Any], group: dict[str, Any], size: int, told: tuple[str, str]
) -> None:
    assert Config.of(**settings).sources(group, size)["strategy"] == told

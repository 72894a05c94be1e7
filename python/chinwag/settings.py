"""Every setting: what it does, when to change it, what it costs, and its default.

The names of the fields are unique over all five parts, so settings are written flat wherever that
is shorter: `Queue(reply, quiet_s=2)`, `Config.of(quiet_s=2)`, a TOML file, the environment.
Durations are seconds.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from chinwag import _checks
from chinwag._checks import entries, items, show
from chinwag.errors import ConfigError

__all__ = [
    "Band",
    "Busy",
    "Limits",
    "Order",
    "Retry",
    "Setting",
    "Strategy",
    "Window",
]

Setting: TypeAlias = str | float | bool | tuple[float, float] | tuple[Mapping[str, Any], ...] | None
"""Value of one setting as plain data: a rate is a pair, bands are mappings as in a TOML file."""

Strategy: TypeAlias = Literal["round_robin", "priority", "load_balanced", "adaptive"]
"""Who is next among the senders of a group; see `Order.strategy`."""


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

    keep: Literal["all", "latest"] = "all"
    """What waits in a lane when more comes. `all`: every message; `latest`: only the newest, by the
    platform's time if it was given; it ends those that could share its batch as `superseded`. Take
    `latest` where only the last word counts, as for a position or a draft. Default `all`.
    """

    quiet_when_idle: bool = True
    """Whether a message that finds its lane idle waits for `quiet_s` too. Turn it off for a first
    answer at once; a thought in several messages is then answered after its first. Default yes.
    """

    quiet_when_busy: bool = True
    """Whether what came during a call waits for `quiet_s` after its end. Turn it off where the call
    itself was wait enough; the next call may then begin in the middle of a thought. Default yes.
    """

    typing_expires_s: float = 6.0
    """How long `typing` holds the quiet time unless it is renewed or ended. Set it a little above
    the pace at which the platform repeats it; a lost end of typing costs that much. Default 6.
    """

    def __post_init__(self) -> None:
        _checks.choice(self, "lanes", "keep")
        _checks.seconds(self, "back_to_back_s", "burst_s", "typing_expires_s")
        _checks.seconds(self, "quiet_s", "max_wait_s", endless=True)
        _checks.seconds(self, "max_gap_s", optional=True)
        _checks.size(self, "max_batch")
        _checks.count(self, "min_batch")
        _checks.flag(self, "quiet_when_idle", "quiet_when_busy")
        if self.keep == "latest" and self.lanes == "message":
            raise ConfigError(
                "keep='latest' with lanes='message': no message shares a lane that it could "
                "supersede in; use lanes='sender' or 'group', or keep='all'"
            )
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

    on_busy: Literal["enqueue", "inject", "interrupt", "rollback", "reject"] = "enqueue"
    """`enqueue`: the call goes on, and the message is in the next batch. `inject`: it is offered in
    `ctx.inbox` besides. `interrupt`: when its window becomes due, the call is ended, and what
    becomes of its messages says `interrupted`. `rollback`: the same, and what the call saved and
    emitted is as if it had never been. `reject`: it is refused with reason `busy`. A message can
    say otherwise for itself. Default `enqueue`.
    """

    interrupted: Literal["merge", "resume", "abandon"] = "merge"
    """What becomes of an interrupted batch. `merge`: it is handed over again, as one batch with
    what interrupted it. `resume`: it is handed over again by itself, right after the
    interrupting call. `abandon`: it ends. Default `merge`.
    """

    interrupt_within_s: float | None = None
    """A message interrupts only if it comes within so long of the newest one of the running batch.
    Set it to `back_to_back_s` to be interrupted by follow-ups only. Default none.
    """

    max_interrupts: int = 8
    """How often the handling of a message is put off by interruptions and preemptions, at most;
    then its call goes on to its end. 0: no call is. Default 8.
    """

    preempt_margin: float | None = None
    """In a full group, a waiting batch that leads by so many points ends the lowest call of another
    lane, whose batch goes back. Costs handler time twice; set it where ranks mean urgency. Default
    none: no batch does.
    """

    inject_limit: int | None = None
    """How many messages `ctx.inbox.take()` gives at a time. Default none."""

    saved_ttl_s: float = 600.0
    """How long `ctx.previous` remembers a call that did not complete. Default 600."""

    emit_limit: int = 1_000
    """How many items of a call are kept for streams that have not read them, and for
    `ctx.previous`; under `rollback` how many it may hold until it commits. Default 1,000.
    """

    hold_background: bool = False
    """Start no call for background messages; they wait until it is off. Default off."""

    cancel_grace_s: float = 5.0
    """How long a call that was asked to end may take for it; after that its result counts for
    nothing and its lane goes on without it. Raise it where a handler needs time to clean up; a
    hanging one blocks its lane for so long. Default 5.
    """

    def __post_init__(self) -> None:
        _checks.choice(self, "on_busy", "interrupted")
        _checks.seconds(self, "interrupt_within_s", optional=True)
        _checks.count(self, "max_interrupts", least=0)
        if self.preempt_margin is not None:
            _checks.between(
                self,
                "preempt_margin",
                least=1e-6,
                most=_MOST_POINTS,
                what="points above 0",
                hint="leave it out for no preemption",
            )
        _checks.count(self, "inject_limit", least=1, optional=True)
        _checks.seconds(self, "saved_ttl_s", endless=True)
        _checks.count(self, "emit_limit", least=1)
        _checks.flag(self, "hold_background")
        _checks.seconds(self, "cancel_grace_s", endless=True)


@dataclass(frozen=True, init=False, repr=False, slots=True)
class Band:
    """What holds in groups from a certain size on: a strategy, settings, or both.

        Band(50, "adaptive", max_batch=20)

    What it does not name is as it is for the whole queue: bands do not add up, and only the highest
    one reached holds. In TOML it is a table, `[[order.bands]]`, with `size`, `strategy` and the
    settings.

    Args:
        settings: Settings by their names, in a mapping.
        **more: Settings by their names, such as `max_batch=20`.

    Raises:
        ConfigError: A value is wrong, or a setting is unknown or cannot depend on the size.
    """

    size: int
    """The size of a group at which the band is entered; it is left below 80 % of it."""

    strategy: Strategy | None
    """Who is next in that band. None: as the queue's `strategy` says, or if that is None too, as in
    the band below; where no band names one, by size as without bands.
    """

    settings: Mapping[str, Setting]
    """The settings that hold in that band, in the order of the configuration."""

    def __init__(
        self,
        size: int,
        strategy: Strategy | None = None,
        *,
        settings: Mapping[str, Any] = MappingProxyType({}),
        **more: Any,
    ) -> None:
        _checks.put(self, "size", size)
        _checks.count(self, "size")
        _checks.put(self, "strategy", strategy)
        if (given := entries(settings)) is None:
            raise ConfigError(f"settings={show(settings)}: must be a mapping from names to values")
        given.update(more)
        try:
            _checks.choice(self, "strategy", none="for that of the queue")
            # The default bands, which have no settings, are made before there are parts.
            _checks.put(self, "settings", _Fixed(_for_a_band(given) if given else {}))
        except ConfigError as error:
            raise ConfigError(f"in the band from {self.size}: {error}") from None

    def flat(self) -> dict[str, Any]:
        """List it as in a TOML file; `Band(**flat)` takes it back."""
        named = {} if self.strategy is None else {"strategy": self.strategy}
        return {"size": self.size, **named, **self.settings}

    def __repr__(self) -> str:
        named = () if self.strategy is None else (repr(self.strategy),)
        given = (f"{key}={value!r}" for key, value in self.settings.items())
        return f"Band({', '.join((repr(self.size), *named, *given))})"


class _Fixed(Mapping[str, Setting]):
    """A mapping that cannot be changed and, unlike a proxy, can be hashed, copied and pickled."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Setting]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Setting:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


BY_SIZE: Final = (
    Band(2, "round_robin"),
    Band(6, "priority"),
    Band(16, "load_balanced"),
    Band(50, "adaptive"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Who is next when several could start.

    The first four settings make the score of a batch, in points: one point is one call, so a batch
    with three points more may overtake three turns.
    """

    real_time: float = 0.5
    """Points for a batch with a message that was pushed with `real_time=True`. Raise it above 1 to
    let such messages overtake turns; the others then wait longer. Default 0.5: it decides between
    equals.
    """

    back_to_back: float = 0.3
    """Points for a batch with a back-to-back message. Raise it where who is in the middle of
    something should be answered first. Default 0.3.
    """

    burst: float = 0.15
    """Points for a batch with a message that is part of a burst. Make it negative to let those who
    write much wait. Default 0.15.
    """

    sender: float = 1.0
    """Points for each unit of the sender's weight (`set_sender`; 0 unless set). Change it to scale
    all weights at once; 0 ignores them. Default 1.
    """

    aging: float = 0.1
    """Points a second that a waiting batch gains where the strategy is `priority`. Raise it to let
    patience count for more than score; 0 lets whoever scores lower wait for ever. Default 0.1: ten
    seconds are one call.
    """

    strategy: Strategy | None = None
    """Who is next among the senders of a group. `round_robin`: whoever had the fewest calls;
    `priority`: the highest score, with `aging`; `load_balanced`: whoever took the least time of the
    handler; `adaptive`: as `round_robin`, but calls cost more for who writes more than others, so
    that a flooder cannot hold the room. Set it where one should hold at every size. Default none:
    by size, see `bands`.
    """

    bands: tuple[Band, ...] = BY_SIZE
    """What depends on the size of a group, by ascending size; see `Band`. Give your own to change
    settings or strategies of big rooms; a room then changes its ways while it grows. They go before
    the settings of the queue, its `strategy` included. The default ones only name strategies, which
    hold while neither `strategy` nor a band of yours names one; below the first band, and without
    any, it is `round_robin`. Default: `round_robin` from 2, `priority` from 6, `load_balanced` from
    16, `adaptive` from 50.
    """

    size_by: Literal["active", "members"] = "active"
    """What the size of a group is. `active`: the senders of the last `size_window_s`; `members`:
    what `set_members` said. Rooms often have hundreds of members and two who talk. Default
    `active`.
    """

    size_window_s: float = 600.0
    """How long a sender counts as active. Lower it to follow the ups and downs of a room; senders
    are remembered for so long. Default 600.
    """

    fair_by: Literal["calls", "time"] = "calls"
    """What groups share evenly: `calls`, or the `time` of the handler. Take `time` where some rooms
    have much longer calls than others. Default `calls`.
    """

    weight: float = 1.0
    """Share of a group among the groups: one of weight 2 gets twice the calls of one of weight 1
    while both want more than they get. Raise it for groups that pay. Default 1.
    """

    seed: int = 0
    """Where the queue's random numbers come from, such as the jitter of retries. The same pushes,
    calls and times with the same seed give the same answers. Default 0.
    """

    def __post_init__(self) -> None:
        _checks.count(self, "seed", least=0)
        _checks.between(
            self,
            *("real_time", "back_to_back", "burst", "sender"),
            least=-_MOST_POINTS,
            most=_MOST_POINTS,
            what="points",
        )
        _checks.between(self, "aging", least=0, most=_MOST_POINTS, what="points a second")
        _checks.choice(self, "strategy", none="to go by the size of the group")
        _checks.put(self, "bands", _ascending(self.bands))
        _checks.choice(self, "size_by", "fair_by")
        _checks.seconds(self, "size_window_s")
        _checks.between(
            self, "weight", least=0.001, most=1000, what="a share", hint="1 is an even share"
        )


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

    rate_per_group: float | tuple[float, float] | None = None
    """Calls of one group a second, or a pair of that and a burst: how many may start at once after
    a rest (1 unless given). Set it where a room must not be flooded with answers; what is due then
    waits for its turn. Kept as a pair. Default none.
    """

    rate: float | tuple[float, float] | None = None
    """Calls a second in all, or a pair of that and a burst. Set it to what the provider behind the
    handler allows; what is due then waits. Kept as a pair. Default none.
    """

    capacity_per_group: int | None = None
    """Messages of one group that may wait for their first call; what happens to one more says
    `overflow`. Set it so that a flood in one room cannot fill the memory. Default none.
    """

    capacity: int | None = None
    """Messages of all groups together that may wait for their first call; one more is always
    refused with `QueueFull`. Set it to what memory bears, at some 50 bytes a message and its
    payload. Default none.
    """

    overflow: Literal["refuse", "drop_newest", "drop_oldest"] = "refuse"
    """What happens beyond `capacity_per_group`. `refuse`: `QueueFull` is raised, and the message is
    not accepted; `drop_newest`: it is accepted and ends at once as `evicted`; `drop_oldest`: the
    oldest that wait end so, before the next call starts. Drop where a late answer is worth nothing.
    Default `refuse`.
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

    ttl_s: float | None = None
    """How long a message may wait for its first call; later it ends as `expired`, unless its own
    `ttl_s` says otherwise. Set it to the time after which an answer would be odd. Default none.
    """

    context_limit: int = 50
    """Messages that a group's context holds for its next call (`context=True`: listened to, no call
    of their own); beyond it the oldest are evicted. Set it to what a prompt can hold; 0 keeps none.
    Default 50.
    """

    context_ttl_s: float = 3600.0
    """How long a message stays in the context before it ends as `expired`. Lower it where talk
    moves on quickly; `inf` keeps it until the group's next call. Default 3600.
    """

    max_bypass: int = 64
    """Messages pushed with `bypass=True` that may be there at once, in all groups; one more is
    refused with `QueueFull`. They run beside all other limits, so set it to what the machine bears
    on top of them. Default 64.
    """

    idle_group_s: float = 600.0
    """A group without messages, calls and pause is forgotten after this time, at the earliest after
    `burst_s` and `size_window_s`. Lower it, and them, when groups come and go by the million;
    `inf` keeps them all, at up to 250 bytes each. Default 600.
    """

    def __post_init__(self) -> None:
        _checks.count(self, "max_concurrent_per_group", "dedup_limit", "max_bypass")
        _checks.count(self, "context_limit", least=0)
        _checks.count(self, "max_concurrent", "capacity_per_group", "capacity", optional=True)
        _checks.rate(self, "rate_per_group", "rate")
        _checks.choice(self, "overflow")
        _checks.seconds(self, "dedup_s", "context_ttl_s", "idle_group_s", endless=True)
        _checks.seconds(self, "ttl_s", optional=True)


_IN_CODE: Final[Mapping[str, Any]] = MappingProxyType({"in_code": True})


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """What happens to calls that do not end well, or not in time."""

    max_attempts: int = 3
    """How often a batch is handed over before it is `dead`. Raise it where what you call fails now
    and then; its lane waits meanwhile. 1 is no retry. Default 3.
    """

    backoff_s: float = 1.0
    """Longest pause after a first failure. Raise it where failures last. Default 1."""

    backoff_factor: float = 2.0
    """How much longer the pause may be after each further failure. Default 2."""

    backoff_cap_s: float = 60.0
    """Longest pause of all. Default 60."""

    jitter: Literal["full", "none"] = "full"
    """How pauses are spread: `full` takes any length up to the longest, so that many who failed
    together do not come back together; `none` the longest itself, for tests. Default `full`.
    """

    retry_committed: bool = False
    """Whether a call that has called `ctx.commit()` and fails afterwards is tried again. Turn it on
    where a second answer does no harm. Default no: it is `dead`, reason `committed`.
    """

    split_failed: bool = False
    """Whether a batch that has failed for good is tried in halves, down to the message that fails.
    Turn it on where one bad message fails the others with it, as most failures do not. Default no.
    """

    handler_timeout_s: float | None = None
    """How long a call may take; then it is cancelled, and that counts as a failure. Set it where
    what you call may hang. A call that swallows the cancellation loses its right to the batch after
    `cancel_grace_s`. Default none.
    """

    no_retry: tuple[type[BaseException], ...] = field(default=(), metadata=_IN_CODE)
    """Exceptions that trying again will not help: their batches are `dead` at once. Default none.
    """

    retry_if: Callable[[BaseException], bool] | None = field(default=None, metadata=_IN_CODE)
    """Asked of every other exception whether to try again, as `retry_if=lambda error: ...`. Default
    none: always.
    """

    dead_limit: int = 1_000
    """How many dead messages `queue.dead` keeps; the oldest are dropped beyond that, and counted.
    Default 1,000.
    """

    close_timeout_s: float = 30.0
    """How long `aclose` lets waiting messages be handled before it ends what is left as
    `abandoned`. Raise it where a deployment gives you more time to stop. Default 30.
    """

    def __post_init__(self) -> None:
        _checks.count(self, "max_attempts")
        _checks.count(self, "dead_limit", least=0)
        _checks.seconds(self, "backoff_s", "backoff_cap_s")
        _checks.seconds(self, "handler_timeout_s", optional=True)
        _checks.between(self, "backoff_factor", least=1, most=1_000, what="a factor of at least 1")
        _checks.choice(self, "jitter")
        _checks.flag(self, "retry_committed", "split_failed")
        _checks.seconds(self, "close_timeout_s", endless=True)
        _exceptions(self)
        if self.retry_if is not None and not callable(self.retry_if):
            raise ConfigError(
                f"retry_if={show(self.retry_if)}: must be callable, as lambda error: ..."
            )


def _exceptions(part: Retry) -> None:
    given = part.no_retry
    kinds: list[Any] = [given] if (listed := items(given)) is None else listed
    for kind in kinds:
        if not (issubclass(type(kind), type) and issubclass(kind, BaseException)):
            raise ConfigError(
                f"no_retry={show(given)}: must be exception types, as (ValueError, KeyError)"
            )
    _checks.put(part, "no_retry", tuple(kinds))


def part_of(key: str) -> str:
    for name, part in PARTS.items():
        if key in part.__dataclass_fields__:
            return name
    raise ConfigError(unknown("setting", key, _keys()))


def _keys() -> list[str]:
    return [item.name for part in PARTS.values() for item in fields(part)]


def unknown(noun: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(_checks.text(key) or show(key), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"unknown {noun} {show(key)}; {hint}"


def check_policies(window: Window, busy: Busy) -> None:
    """Refuse policies that could never be served (rules B2, W10)."""
    interrupts = busy.on_busy in ("interrupt", "rollback")
    if window.lanes == "message":
        if busy.on_busy == "inject":
            raise ConfigError(
                "on_busy='inject' with lanes='message': every message is a lane of its own, so no "
                "call has an inbox; use another policy, or lanes='sender'"
            )
        if interrupts and busy.interrupted == "merge":
            raise ConfigError(
                f"on_busy={busy.on_busy!r} with lanes='message' and interrupted='merge': every "
                "message is a batch of its own; set interrupted to 'resume' or 'abandon'"
            )
    elif interrupts and busy.interrupted == "merge" and (window.max_batch or 2) <= 1:
        raise ConfigError(
            f"on_busy={busy.on_busy!r} with max_batch={window.max_batch:g} and "
            "interrupted='merge': two messages never fit one batch, so nothing would interrupt; "
            "raise max_batch, or set interrupted to 'resume' or 'abandon'"
        )


def plain(settings: Mapping[str, Any]) -> dict[str, Setting]:
    """Read the values of settings by themselves, in the order of the configuration."""
    read: dict[str, Setting] = {}
    for part in PARTS.values():
        if given := {key: settings[key] for key in part.__dataclass_fields__ if key in settings}:
            made = part(**given)
            read.update((key, getattr(made, key)) for key in given)
    return read


def _for_a_band(settings: Mapping[str, Any]) -> dict[str, Setting]:
    """Check the settings of a band by themselves; list them in the order of the configuration."""
    for key in settings:
        part_of(key)
        if key == "strategy":
            raise ConfigError("strategy is no setting among others here; give it beside the size")
        if key in OF_THE_QUEUE:
            raise ConfigError(
                f"{key} is a setting of the whole queue and cannot depend on the size of a group; "
                "give it beside the bands"
            )
        if key in _AT_EVERY_SIZE:
            raise ConfigError(
                f"{key} cannot depend on the size of a group; give it for the queue or for a group"
            )
    return plain(settings)


def _ascending(bands: Any) -> tuple[Band, ...]:
    if (given := items(bands)) is None:
        raise ConfigError(
            f"bands={show(bands)}: must be a list such as [Band(50, 'adaptive', max_batch=20)]; "
            "in a TOML file each is a table [[order.bands]]"
        )
    if len(given) > _MOST_BANDS:
        raise ConfigError(f"bands: there may be {_MOST_BANDS} of them, not {len(given):,}")
    made = tuple(_band(band) for band in given)
    for below, above in pairwise(made):
        if above.size <= below.size:
            raise ConfigError(
                f"bands: {above.size} comes after {below.size}; "
                "give them by ascending size, each size once"
            )
    return made


def _band(given: Any) -> Band:
    if issubclass(type(given), Band):
        band: Band = given
        return band
    if (rest := entries(given)) is None:
        raise ConfigError(f"bands: {show(given)} is none; give a Band, or a mapping with its size")
    if "size" not in rest:
        raise ConfigError(
            f"bands: {show(rest)} has no size; give the size of a group from which it holds"
        )
    return Band(rest.pop("size"), rest.pop("strategy", None), settings=rest)


PARTS: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {"window": Window, "busy": Busy, "order": Order, "limits": Limits, "retry": Retry}
)

_MOST_BANDS: Final = 255

OF_THE_QUEUE: Final = frozenset(
    {
        *("cancel_grace_s", "emit_limit", "bands", "size_by", "size_window_s", "fair_by"),
        *("max_concurrent", "rate", "capacity", "max_bypass", "idle_group_s", "close_timeout_s"),
        *("seed", "no_retry", "retry_if", "dead_limit"),
    }
)

# What changes with the lanes, and the memory of ids, cannot come and go with a sender.
_AT_EVERY_SIZE: Final = frozenset({"lanes", "dedup_s", "dedup_limit"})

# So that each counts in millionths in 64 bits.
_MOST_POINTS: Final = 1e12

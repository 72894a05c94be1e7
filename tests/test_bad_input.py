"""Bad input: a clear exception that names the value, and a sound queue afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chinwag import Config, ConfigError, Queue, QueueClosed
from chinwag.testing import RecordingHandler
from chinwag.testing.plugin import Run

HUGE = "x" * 10_000_000
PUSH: dict[str, Any] = {"group": "room", "sender": "ann", "payload": "hi"}


class Rebel:
    """Raises wherever it is asked for anything."""

    def __repr__(self) -> str:
        raise LookupError

    __str__ = __hash__ = __index__ = __float__ = __bool__ = __repr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise LookupError


@pytest.fixture
def queue() -> Queue[Any]:
    return Queue(RecordingHandler[Any]())


def is_untouched(queue: Queue[Any]) -> bool:
    queue.put_nowait("room", "ann", "good")
    ledger = queue.check()
    return (ledger.accepted, ledger.waiting, queue.groups()) == (1, 1, ["room"])


@pytest.mark.parametrize("name", ["group", "sender", "id", "batch_key"])
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (7, TypeError, "use str"),
        (b"room", TypeError, "bytes"),
        (["room"], TypeError, "list"),
        (Rebel(), TypeError, "Rebel"),
        ("", ValueError, "1"),
        (HUGE, ValueError, "1,024"),
        ("\ud800", ValueError, "surrogate"),
    ],
    ids=["int", "bytes", "list", "rebel", "empty", "huge", "surrogate"],
)
def test_a_name_that_cannot_be_is_named(
    queue: Any, name: str, value: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        queue.put_nowait(**{**PUSH, name: value})

    assert name in str(raised.value)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 400
    assert is_untouched(queue)


@pytest.mark.parametrize("name", ["group", "sender"])
def test_a_name_must_be_given(queue: Any, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        queue.put_nowait(**{**PUSH, name: None})

    assert is_untouched(queue)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("size", 0, ValueError),
        ("size", -1.5, ValueError),
        ("size", math.nan, ValueError),
        ("size", math.inf, ValueError),
        ("size", "1", TypeError),
        ("size", True, TypeError),
        ("size", Rebel(), TypeError),
        ("quiet_s", -1, ValueError),
        ("quiet_s", math.nan, ValueError),
        ("quiet_s", "soon", TypeError),
        ("quiet_s", True, TypeError),
        ("at", math.nan, ValueError),
        ("at", math.inf, ValueError),
        ("at", -1.0, ValueError),
        ("at", 2**63, ValueError),
        ("at", "yesterday", TypeError),
        ("at", datetime(2026, 1, 1), ValueError),
        ("flush", 1, TypeError),
        ("flush", "no", TypeError),
        ("standalone", "no", TypeError),
    ],
)
def test_an_option_out_of_range_is_named(
    queue: Any, name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        queue.put_nowait(**PUSH, **{name: value})

    assert is_untouched(queue)


def test_an_unknown_argument_is_refused(queue: Any) -> None:
    with pytest.raises(TypeError, match="prio"):
        queue.put_nowait(**PUSH, prio=3)
    with pytest.raises(TypeError):
        queue.put_nowait("room", "ann")

    assert is_untouched(queue)


def test_a_window_without_end_is_refused_at_the_push() -> None:
    queue = Queue(RecordingHandler[Any](), max_wait_s=math.inf)

    with pytest.raises(ValueError, match=r"quiet_s=inf.*max_wait_s"):
        queue.put_nowait(**PUSH, quiet_s=math.inf)

    assert is_untouched(queue)


def test_good_values_of_every_kind_are_taken(queue: Any) -> None:
    class Name(str):
        __slots__ = ()

    queue.put_nowait(Name("room"), "é" * 512, None, id="x" * 1024, at=0, size=2**20, quiet_s=0)
    queue.put_nowait("room", "ann", Rebel(), at=datetime.now(UTC) - timedelta(days=9))

    assert queue.check().waiting == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.pause(7),
        lambda queue: queue.pause(""),
        lambda queue: queue.pause("room", for_s=-1),
        lambda queue: queue.pause("room", for_s=math.nan),
        lambda queue: queue.pause("room", for_s="long"),
        lambda queue: queue.resume(HUGE),
        lambda queue: queue.clear(b"room"),
        lambda queue: queue.flush(None),
        lambda queue: queue.flush("room", 7),
        lambda queue: queue.flush("\ud800"),
        lambda queue: queue.status(7),
        lambda queue: queue.status(""),
        lambda queue: "room" in queue,
        lambda queue: ("room", "id", "more") in queue,
    ],
)
def test_verbs_and_looks_refuse_what_they_cannot_mean(
    queue: Any, call: Callable[[Any], object]
) -> None:
    with pytest.raises((TypeError, ValueError)):
        call(queue)

    assert is_untouched(queue)


@pytest.mark.parametrize("handler", [7, "reply", None, [], Rebel()])
def test_a_handler_must_be_callable(handler: Any) -> None:
    queue: Queue[Any] = Queue()

    with pytest.raises(TypeError, match="callable"):
        queue.handler(handler)
    assert is_untouched(queue)


@pytest.mark.parametrize(
    "handler", [lambda: None, lambda batch, ctx, more: None, lambda *, batch: None]
)
def test_a_handler_must_take_a_batch(handler: Any) -> None:
    with pytest.raises(TypeError, match=r"\(batch\) or \(batch, ctx\)"):
        Queue(handler)


def test_a_queue_has_one_handler(queue: Any) -> None:
    with pytest.raises(RuntimeError, match="handler already"):
        queue.handler(RecordingHandler[Any]())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quite_s": 1}, "quiet_s"),
        ({"quiet_s": -1}, "quiet_s"),
        ({"quiet_s": math.nan}, "quiet_s"),
        ({"quiet_s": "1"}, "quiet_s"),
        ({"max_concurrent_per_group": 0}, "max_concurrent_per_group"),
        ({"max_concurrent": 2**63}, "max_concurrent"),
        ({"min_batch": 3, "max_batch": 2}, "max_batch"),
        ({"min_batch": 3, "max_wait_s": math.inf}, "max_wait_s"),
        ({"on_busy": "interupt"}, "interupt"),
        ({"config": {"quiet_s": 1}}, "config"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Queue(RecordingHandler[Any](), **settings)


def test_what_hides_its_class_is_refused_like_anything_else(queue: Any) -> None:
    class Hidden:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise LookupError

    wrong: Any = Hidden()

    with pytest.raises(ConfigError, match="config must be"):
        Queue(config=wrong)
    with pytest.raises(ConfigError, match="window="):
        Config(window=wrong)
    with pytest.raises(ConfigError, match="bands"):
        Config.of(bands=[wrong])
    with pytest.raises(TypeError, match="groups="):
        queue.put_many(wrong, ["ann"], ["hi"])
    with pytest.raises(TypeError, match="rank="):
        queue.put_many(["room"], ["ann"], ["hi"], rank=wrong)
    assert is_untouched(queue)


def test_a_clock_is_a_clock() -> None:
    with pytest.raises(TypeError):
        Queue(RecordingHandler[Any](), clock=3)  # type: ignore[arg-type]


def test_single_settings_go_before_the_configuration() -> None:
    queue = Queue(RecordingHandler[Any](), config=Config.of(quiet_s=1, min_batch=2), quiet_s=3)

    assert (queue.settings.window.quiet_s, queue.settings.window.min_batch) == (3.0, 2)


@pytest.mark.parametrize("wrong", [{}, {"group": 7}, {"size": -1}])
def test_closed_is_said_before_anything_else(chinwag_run: Run, wrong: dict[str, Any]) -> None:
    """Rule A1 has an order: a caller must not mend arguments for a queue that takes none."""

    async def body() -> None:
        queue = Queue(RecordingHandler[Any]())
        async with queue:
            pass
        with pytest.raises(QueueClosed) as raised:
            queue.put_nowait(**{**PUSH, **wrong})
        assert (raised.value.reason, raised.value.depth) == ("closed", 0)
        assert queue.check().accepted == 0

    chinwag_run(body)


@pytest.mark.parametrize(
    "timeout_s", [-1, math.nan, "long", True, HUGE, Rebel(), -(10**400)], ids=range(7)
)
def test_a_close_takes_seconds(chinwag_run: Run, timeout_s: Any) -> None:
    async def body() -> None:
        async with Queue(RecordingHandler[Any]()) as queue:
            with pytest.raises(ValueError, match="timeout_s") as raised:
                await queue.aclose(timeout_s=timeout_s)
            assert len(str(raised.value)) < 200
            queue.put_nowait(**PUSH)

    chinwag_run(body)


@pytest.mark.parametrize(
    "buffer", [0, -1, 1.5, True, None, HUGE, Rebel(), -(10**5000)], ids=range(8)
)
def test_a_buffer_is_a_count(queue: Any, buffer: Any) -> None:
    with pytest.raises(ValueError, match="buffer=") as raised:
        queue.events(buffer=buffer)

    assert len(str(raised.value)) < 200

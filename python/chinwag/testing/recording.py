"""A handler that keeps a record of its calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from chinwag import Batch

P = TypeVar("P")

Failure = BaseException | type[BaseException]
"""What a call raises: an exception or its class."""


@dataclass(kw_only=True, slots=True)
class Call(Generic[P]):
    """One call of a `RecordingHandler`; times are seconds since the clock's start."""

    batch: Batch[P]
    group: str
    sender: str
    ids: list[str]
    payloads: list[P]
    kind: str
    closed_by: str
    started: float
    ended: float | None = None
    outcome: Literal["running", "done", "failed", "cancelled"] = "running"
    result: Any = None
    error: BaseException | None = None


@dataclass(kw_only=True, eq=False)
class RecordingHandler(Generic[P]):
    """An async handler for tests: `Queue(RecordingHandler(duration_s=0.2))`.

    A call takes `duration_s` of virtual time, then fails or returns as `failures` and `results`
    say for the ids of its messages.
    """

    duration_s: float | Callable[[Batch[P]], float] = 0.0
    """How long a call takes: a number, or a function of the batch."""

    results: Mapping[str, Any] = field(default_factory=dict)
    """What a call returns, by message id; the last message that has one decides, otherwise None."""

    failures: Mapping[str, Failure | Sequence[Failure | None]] = field(default_factory=dict)
    """What a call raises, by message id: always, or one by one for the calls the message is in."""

    calls: list[Call[P]] = field(default_factory=list)
    """Every call so far, in the order in which they started."""

    _running: dict[str, int] = field(default_factory=dict)
    _peaks: dict[str, int] = field(default_factory=dict)
    _peak: int = 0
    _taken: dict[str, int] = field(default_factory=dict)

    async def __call__(self, batch: Batch[P]) -> Any:
        """Handle a batch: record it, take the time, fail or return."""
        loop = asyncio.get_running_loop()
        call = _record(batch, loop.time())
        self.calls.append(call)
        self._enter(call.group)
        failure = self._next_failure(call.ids)
        try:
            duration = self.duration_s(batch) if callable(self.duration_s) else self.duration_s
            if duration > 0:
                await asyncio.sleep(duration)
            if failure is not None:
                raise failure
            call.result = self._result(call.ids)
            call.outcome = "done"
        except asyncio.CancelledError as error:
            call.outcome, call.error = "cancelled", error
            raise
        except BaseException as error:
            call.outcome, call.error = "failed", error
            raise
        finally:
            call.ended = loop.time()
            self._running[call.group] -= 1
        return call.result

    @property
    def batches(self) -> list[list[P]]:
        """The payloads of every call so far."""
        return [call.payloads for call in self.calls]

    def running(self, group: str | None = None) -> int:
        """How many calls run now, in one group or in all."""
        return sum(self._running.values()) if group is None else self._running.get(group, 0)

    def peak(self, group: str | None = None) -> int:
        """How many calls have run at once, in one group or in all."""
        return self._peak if group is None else self._peaks.get(group, 0)

    def _enter(self, group: str) -> None:
        self._running[group] = running = self._running.get(group, 0) + 1
        self._peaks[group] = max(self._peaks.get(group, 0), running)
        self._peak = max(self._peak, self.running())

    def _next_failure(self, ids: list[str]) -> Failure | None:
        found: Failure | None = None
        for id in ids:
            taken = self._taken[id] = self._taken.get(id, 0) + 1
            failure = self.failures.get(id)
            if isinstance(failure, Sequence):
                failure = failure[taken - 1] if taken <= len(failure) else None
            found = found or failure
        return found

    def _result(self, ids: list[str]) -> Any:
        return next((self.results[id] for id in reversed(ids) if id in self.results), None)


def _record(batch: Batch[P], now: float) -> Call[P]:
    return Call(
        batch=batch,
        group=batch.group,
        sender=batch.sender,
        ids=[message.id for message in batch.messages],
        payloads=list(batch.payloads),
        kind=batch.kind,
        closed_by=batch.closed_by,
        started=now,
    )

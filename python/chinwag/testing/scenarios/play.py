"""One scenario, played through the public API on a clock of its own.

Everything the file books is on the clock before it starts to run. At one instant calls end first,
then controls and arrivals follow in the order of the file, controls first; only then does the queue
start what may start.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from chinwag import Batch, Context, Queue
from chinwag.errors import ChinwagError, ConfigError, Dropped, Rejected
from chinwag.testing import Clock, run
from chinwag.testing.scenarios import behaviour, mapping
from chinwag.testing.scenarios.format import Arrival, Control, Scenario


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """The payload of every message."""

    arrival: Arrival
    content: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What every call returns: an object of its own, so that two receipts can be compared."""

    call: int
    value: Any


@dataclass(kw_only=True, slots=True)
class SeenCall:
    """One handler call as it happened; times in milliseconds of the scenario."""

    n: int
    group: str
    items: list[Item]
    attempt: int
    started_ms: float
    ended_ms: float | None = None
    end: Literal["running", "completed", "failed", "cancelled"] = "running"
    saved: Any = None
    resumed: bool = False
    polls: list[list[str]] = field(default_factory=list)
    failed_ids: list[str] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        """Ids of the file, in the order in which the handler saw them."""
        return [item.arrival.id for item in self.items]

    @property
    def injected(self) -> list[str]:
        """Ids taken from the inbox."""
        return [id for poll in self.polls for id in poll]

    @property
    def bypass(self) -> bool:
        """Whether the call is of a message that runs beside everything."""
        return any(item.arrival.facts.get("bypass") for item in self.items)


@dataclass(kw_only=True, slots=True)
class Push:
    """What became of one arrival."""

    arrival: Arrival
    refused: Rejected | None = None
    receipt: Any = None
    state: str = ""
    """Of the receipt, when the scenario was over: one of the ends, or `waiting` and the like."""
    reason: str = ""
    error: BaseException | None = None
    answer: Any = None

    @property
    def accepted(self) -> bool:
        """Whether the queue took the message."""
        return self.receipt is not None

    def __str__(self) -> str:
        if self.refused is not None:
            return f"refused ({self.refused.reason}, depth {self.refused.depth})"
        return f"{self.state} ({self.reason})" if self.reason else self.state or "not pushed"


@dataclass(kw_only=True, slots=True)
class Done:
    """A control call with its result; `again` is that of the same call made once more."""

    control: Control
    result: Any
    again: Any = None


@dataclass(kw_only=True, slots=True)
class Record:
    """What happened."""

    calls: list[SeenCall] = field(default_factory=list)
    pushes: list[Push] = field(default_factory=list)
    controls: list[Done] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)
    """Most calls at once per group; under "" in all. Calls that run beside everything left out."""
    refused_config: ConfigError | None = None
    problems: list[str] = field(default_factory=list)
    """What went wrong whatever the file expects."""


def play(scenario: Scenario, *, limit_s: float = 60.0) -> Record:
    """Play a scenario; one that does not end within `limit_s` of real time is left to itself."""
    record = Record()

    def body() -> None:
        try:
            run(_Player(scenario, record).play)
        except BaseException as error:
            record.problems.append(f"expected an end, got {type(error).__name__}: {error}")

    # A daemon, so that one that never ends does not keep the others from being played.
    thread = threading.Thread(target=body, name=f"scenario {scenario.id}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return Record(problems=[f"expected an end, got none within {limit_s:g} s of real time"])
    return record


class _Player:
    def __init__(self, scenario: Scenario, record: Record) -> None:
        self.scenario = scenario
        self.record = record
        self.actions = behaviour.actions(scenario.behaviour)
        self.ranks = mapping.ranks(scenario)
        self.failures: Counter[str] = Counter()  # ended attempts by id, for handler_outcomes
        self.running: Counter[str] = Counter()
        self.lanes: set[tuple[str, ...]] = set()
        self.closing: list[asyncio.Task[None]] = []

    async def play(self, clock: Clock) -> None:
        self.clock = clock
        asyncio.get_running_loop().set_exception_handler(self._report)
        try:
            self.queue: Queue[Item] = Queue(self.handle, **mapping.settings(self.scenario))
            for group, weight in mapping.weights(self.scenario.config).items():
                self.queue.configure(group, weight=weight)
        except ConfigError as error:
            self.record.refused_config = error
            return
        await self.queue.start()
        self._book()
        await clock.run_until_idle()
        await self._look_at_receipts()
        self._check()
        await self.queue.aclose(drain=False)
        self._check()

    def _book(self) -> None:
        steps: list[Control | Arrival] = [*self.scenario.controls, *self.scenario.arrivals]
        for step in sorted(steps, key=lambda step: step.t_ms):
            self.clock.at(step.t_ms / 1000, self._step, step)

    def _step(self, step: Control | Arrival) -> None:
        try:
            self._push(step) if isinstance(step, Arrival) else self._control(step)
        except Exception as error:
            what = f"push of {step.id}" if isinstance(step, Arrival) else step.op
            self._note(f"expected an answer to {what}", error)

    def _push(self, arrival: Arrival) -> None:
        push = Push(arrival=arrival)
        self.record.pushes.append(push)
        item = Item(arrival=arrival, content=arrival.facts.get("content"))
        config, start_s = self.scenario.config, self.clock.start_s
        options = mapping.options(arrival, config, start_s, self.ranks)
        try:
            push.receipt = self.queue.put_nowait(arrival.group, arrival.sender, item, **options)
        except Rejected as refused:
            push.refused = refused

    def _control(self, control: Control) -> None:
        done = Done(control=control, result=self._call(control))
        self.record.controls.append(done)
        if control.op in ("pause", "resume") and "for_ms" not in control.facts:
            # Changes nothing by what both promise (C1); a check in words may ask for the answer.
            done.again = self._call(control)

    def _call(self, control: Control) -> Any:
        facts, group, queue = control.facts, control.group, self.queue
        match control.op:
            case "pause":
                for_ms = facts.get("for_ms")
                return queue.pause(group, for_s=None if for_ms is None else for_ms / 1000)
            case "resume":
                return queue.resume(group)
            case "clear":
                return queue.clear(group)
            case "shutdown":
                self.closing.append(asyncio.create_task(self._close(facts)))
                return None
            case "cancel_message":
                return queue.withdraw(*self._named(self._meant(control)))
            case "edit_message":
                meant = self._meant(control)
                item = Item(arrival=meant, content=facts.get("content"))
                return queue.edit(*self._named(meant), item)
        if group is None:
            raise ValueError("the control names no group")
        match control.op:
            case "flush":
                return queue.flush(group, facts.get("sender"))
            case "stop":
                sender = facts.get("sender")
                stop = self._later().stop
                return stop(group) if sender is None else stop(group, sender)
            case "typing":
                queue.typing(group, facts["sender"], facts.get("on", True))
                return None
        raise ValueError("the player knows no such control")

    def _later(self) -> Any:
        # Untyped: controls that only a later version has are behind the table of features.
        return self.queue

    def _meant(self, control: Control) -> Arrival:
        """Find the arrival with the control's id; of several, the one that was taken last."""
        group, id = control.group, control.facts["id"]
        pushes = [push for push in self.record.pushes if push.arrival.id == id]
        taken = [push.arrival for push in pushes if push.accepted]
        known = [*reversed(taken), *(each for each in self.scenario.arrivals if each.id == id)]
        arrival = next((each for each in known if group in (None, each.group)), None)
        if arrival is None:
            raise ValueError(f"no message {id!r} to be found")
        return arrival

    def _named(self, arrival: Arrival) -> tuple[str, str]:
        """Give the group of an arrival, and its id in the queue, which may be another."""
        receipts = (push.receipt for push in self.record.pushes if push.arrival is arrival)
        receipt = next(receipts, None)
        return arrival.group, arrival.id if receipt is None else receipt.id

    async def _close(self, facts: dict[str, Any]) -> None:
        timeout_ms = facts.get("timeout_ms")
        await self.queue.aclose(
            drain=facts.get("drain", True),
            timeout_s=math.inf if timeout_ms is None else timeout_ms / 1000,
        )

    async def handle(self, batch: Batch[Item], ctx: Context) -> Answer:
        """Be the handler: note the call, take its time, end as the file says."""
        call = SeenCall(
            n=len(self.record.calls) + 1,
            group=batch.group,
            items=list(batch.payloads),
            attempt=ctx.attempt,
            started_ms=self._now_ms(),
        )
        self.record.calls.append(call)
        self._look_at_context(call, ctx)
        lane = self._enter(call)
        try:
            await self._work(call, batch, ctx)
            call.end = "completed"
            return Answer(call=call.n, value=self._value(call))
        except asyncio.CancelledError:
            call.end = "cancelled"
            raise
        except Exception:
            call.end = "failed"
            raise
        finally:
            call.ended_ms = self._now_ms()
            self._leave(call, lane)

    async def _work(self, call: SeenCall, batch: Batch[Item], ctx: Any) -> None:
        first = call.ids[0] if call.ids else ""
        end_ms = call.started_ms + self.scenario.durations_ms.get(first, self.scenario.duration_ms)
        timed = [a for a in self.actions if isinstance(a, behaviour.Save | behaviour.Poll)]
        for moment in sorted(timed, key=lambda moment: moment.at_ms):
            if moment.id != first or not call.started_ms <= moment.at_ms <= end_ms:
                continue
            await self._sleep_until(moment.at_ms)
            if isinstance(moment, behaviour.Save):
                ctx.save(moment.state)
            else:
                taken = [message.payload for message in ctx.inbox.take()]
                call.polls.append([item.arrival.id for item in taken])
        await self._sleep_until(end_ms)
        for action in self.actions:
            if isinstance(action, behaviour.MarkFailed) and action.call == call.n:
                call.failed_ids.append(action.id)
                ctx.fail(_message(batch, action.id), _FailureError(action.id))
            if isinstance(action, behaviour.Raise) and action.call == call.n:
                raise _FailureError(f"call {call.n}")
        self._fail_by_outcome(call)

    def _fail_by_outcome(self, call: SeenCall) -> None:
        failing = []
        for id in call.ids:
            outcomes = self.scenario.outcomes.get(id, [])
            attempt = self.failures[id]
            self.failures[id] += 1
            if attempt < len(outcomes) and outcomes[attempt] == "error":
                failing.append(id)
        if failing:
            raise _FailureError(", ".join(failing))

    def _value(self, call: SeenCall) -> Any:
        expected = (
            each for each in self.scenario.calls if each.ids == call.ids and "returns" in each.facts
        )
        return next((each.facts["returns"] for each in expected), None)

    def _look_at_context(self, call: SeenCall, ctx: Any) -> None:
        expects = {key for each in self.scenario.calls for key in each.facts}
        if "sees_saved_state" in expects:
            previous = ctx.previous
            call.saved = ctx.saved
            if call.saved is None and previous is not None:
                call.saved = previous.saved
        if "resumed" in expects:
            call.resumed = ctx.resumed

    def _enter(self, call: SeenCall) -> tuple[str, ...] | None:
        """Count the call, and check what no call may break: the caps and its lane (P2, P3)."""
        if call.bypass:
            return None
        for where in (call.group, ""):
            self.running[where] += 1
            now, cap = self.running[where], self._cap(where)
            self.record.peaks[where] = max(self.record.peaks.get(where, 0), now)
            if cap is not None and now > cap:
                place = f"in group {where}" if where else "in all"
                self._problem(call, f"expected at most {cap} calls at once {place}, got {now}")
        lane = self._lane(call)
        if lane is not None and lane in self.lanes:
            self._problem(call, f"expected no other call of lane {'/'.join(lane)}, got one")
        if lane is not None:
            self.lanes.add(lane)
        return lane

    def _leave(self, call: SeenCall, lane: tuple[str, ...] | None) -> None:
        if not call.bypass:
            self.running.subtract((call.group, ""))
        if lane is not None:
            self.lanes.discard(lane)

    def _cap(self, group: str) -> int | None:
        key = "max_concurrent_per_group" if group else "max_concurrent_total"
        cap: int | None = self.scenario.config.get(key)
        return cap

    def _lane(self, call: SeenCall) -> tuple[str, ...] | None:
        scope = self.scenario.config.get("order_scope") or "sender"
        if scope == "none" or not call.items:
            return None
        last = call.items[-1].arrival
        background = ("background",) if last.facts.get("background") else ()
        return (last.group, *(() if scope == "group" else (last.sender,)), *background)

    def _problem(self, call: SeenCall, text: str) -> None:
        self.record.problems.append(f"call [{', '.join(call.ids)}] at {call.started_ms:g}: {text}")

    async def _look_at_receipts(self) -> None:
        for push in self.record.pushes:
            if push.receipt is None:
                continue
            push.state = push.receipt.state
            if push.state not in _ENDS:
                continue
            try:
                push.answer = await push.receipt
            except Dropped as dropped:
                push.reason, push.error = dropped.reason, dropped.__cause__

    def _check(self) -> None:
        try:
            self.queue.check()
        except ChinwagError as error:
            self._note("expected sums that add up", error)
        for task in self.closing:
            if not task.done():
                self.record.problems.append("expected the shutdown to end, got no end")
            elif (failure := task.exception()) is not None:
                self._note("expected the shutdown to end", failure)
        self.closing.clear()

    async def _sleep_until(self, at_ms: float) -> None:
        left_s = at_ms / 1000 - self.clock.now
        if left_s > 0:
            await asyncio.sleep(left_s)

    def _now_ms(self) -> float:
        return self.clock.elapsed_us / 1000

    def _note(self, expected: str, error: BaseException) -> None:
        self.record.problems.append(f"{expected}, got {type(error).__name__}: {error}")

    def _report(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        text = f"{type(error).__name__}: {error}" if error else context.get("message")
        self.record.problems.append(f"expected a quiet event loop, got {text}")


class _FailureError(Exception):
    """What a call of the scenario raises."""


def _message(batch: Batch[Item], id: str) -> Any:
    return next(message for message in batch if message.payload.arrival.id == id)


_ENDS = frozenset(
    {"done", "dead", "expired", "evicted", "superseded", "cleared", "withdrawn", "abandoned"}
)

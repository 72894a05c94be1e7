"""Checks in words: the sentences of `invariants` and `checks` that can be evaluated.

A sentence may have several clauses, between semicolons. Each kind of clause is a function with its
pattern; a clause without one is reported as not evaluated and never counted as met.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chinwag.errors import QueueFull
from chinwag.testing.scenarios.format import Scenario
from chinwag.testing.scenarios.play import Push, Record, SeenCall


class NotUnderstood(Exception):  # noqa: N818
    """The clause speaks of something that is not in the scenario or was not recorded."""


@dataclass(frozen=True, slots=True)
class Told:
    """A clause, with what it is about."""

    found: re.Match[str]
    scenario: Scenario
    record: Record

    def __getitem__(self, name: str) -> str:
        return self.found[name] or ""

    def number(self, name: str) -> int:
        """A number in digits or in words."""
        text = self[name].lower()
        return int(text) if text.isdigit() else _NUMBERS[text]

    def ids(self, text: str) -> list[str]:
        """Ids that are listed like `a, b and c1..c3`; it is not understood when one is no id."""
        parts = [part.strip("'\"") for part in re.split(r",\s*(?:and\s+)?|\s+and\s+", text)]
        ids = [id for part in parts for id in _range(part)]
        if not all(self.scenario.arrival(id) for id in ids):
            raise NotUnderstood(text)
        return ids

    def pushes(self, id: str) -> list[Push]:
        """The pushes with this id, in their order."""
        (id,) = self.ids(id)
        return [push for push in self.record.pushes if push.arrival.id == id]

    def calls_with(self, id: str) -> list[SeenCall]:
        """The calls that had this id."""
        return [call for call in self.record.calls if id in call.ids]


def _range(text: str) -> list[str]:
    found = re.fullmatch(
        r"(?P<name>.*?)(?P<first>\d+)\s?(?:\.\.+|…)\s?(?P=name)(?P<last>\d+)", text
    )
    if found is None:
        return [text]
    return [f"{found['name']}{n}" for n in range(int(found["first"]), int(found["last"]) + 1)]


_Clause = Callable[[Told], Iterator[str]]
_CLAUSES: list[tuple[re.Pattern[str], _Clause]] = []


def evaluate(text: str, scenario: Scenario, record: Record) -> tuple[bool, list[str]]:
    """Evaluate a sentence: whether all of it is understood, and what is not as it says."""
    understood = True
    problems: list[str] = []
    for clause in _split(text):
        for pattern, check in _CLAUSES:
            if found := pattern.fullmatch(clause):
                try:
                    wrong = list(check(Told(found, scenario, record)))
                except NotUnderstood:
                    continue
                problems += [f"expected {clause!r}, got {got}" for got in wrong]
                break
        else:
            understood = False
    return understood, problems


def expects_config_error(scenario: Scenario) -> bool:
    """Whether a sentence says that these settings must be refused."""
    pattern = next(pattern for pattern, check in _CLAUSES if check is _config_error)
    return any(pattern.fullmatch(clause) for text in scenario.words for clause in _split(text))


def _split(text: str) -> list[str]:
    return [clause.strip(" .") for clause in text.split(";") if clause.strip(" .")]


def _clause(pattern: str) -> Callable[[_Clause], _Clause]:
    for name, part in _PARTS.items():
        pattern = pattern.replace(name, part)

    def registered(check: _Clause) -> _Clause:
        _CLAUSES.append((re.compile(pattern, re.IGNORECASE), check))
        return check

    return registered


_NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "exactly": operator.eq,
    "": operator.eq,
    "<=": operator.le,
    "≤": operator.le,
    "at most": operator.le,
    ">=": operator.ge,
    "≥": operator.ge,
    "at least": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = rf"\d+|{'|'.join(_NUMBERS)}"
_PARTS = {
    "{n}": rf"(?P<n>{_NUMBER})",
    "{m}": rf"(?P<m>{_NUMBER})",
    "{compare}": r"(?P<compare>==|=|<=|>=|<|>|≤|≥)",
    "{about}": r"(?:(?P<compare>exactly|at most|at least) )?",
}


def _number_is(told: Told, got: int) -> Iterator[str]:
    if not _COMPARISONS[told["compare"].lower()](got, told.number("n")):
        yield str(got)


# --- the scheduler -------------------------------------------------------------------------------


@_clause(r"(?:nothing|it never) hangs")
def _nothing_hangs(told: Told) -> Iterator[str]:
    # A scenario that hangs has no record to look at and has failed before.
    yield from ()


@_clause(r"building the (?:scheduler|queue) raises a config(?:uration)? ?error")
def _config_error(told: Told) -> Iterator[str]:
    if told.record.refused_config is None:
        yield "a scheduler"


@_clause(r"pausing a paused group( and resuming a running (?:one|group))? reports? false")
def _pausing_twice(told: Told) -> Iterator[str]:
    yield from _again(told, "pause")
    if told.found[1]:
        yield from _again(told, "resume")


@_clause(r"resuming a running group reports? false")
def _resuming_twice(told: Told) -> Iterator[str]:
    yield from _again(told, "resume")


def _again(told: Told, op: str) -> Iterator[str]:
    done = [done for done in told.record.controls if done.control.op == op]
    if not done:
        raise NotUnderstood(op)
    for each in done:
        if each.again is not False:
            yield f"{each.again!r} from a second {op}"


@_clause(r"stop reports {n} running and {m} queued")
def _stop_reports(told: Told) -> Iterator[str]:
    done = [done.result for done in told.record.controls if done.control.op == "stop"]
    if not done:
        raise NotUnderstood("stop")
    # (messages removed, calls ended), in this order (C3).
    queued, running = done[0]
    if (running, queued) != (told.number("n"), told.number("m")):
        yield f"{running} running and {queued} queued"


# --- counts --------------------------------------------------------------------------------------


@_clause(r"peak_in_flight\((?P<group>.*?)\) {compare} {n}")
def _peak(told: Told) -> Iterator[str]:
    group = "" if told["group"] in ("", "all", "total") else told["group"]
    yield from _number_is(told, told.record.peaks.get(group, 0))


@_clause(r"{about}{n} interruptions?")
def _interruptions(told: Told) -> Iterator[str]:
    yield from _number_is(told, sum(call.end == "cancelled" for call in told.record.calls))


@_clause(r"{about}{n} (?:handler )?calls?(?: (?:in|of) group (?P<group>\S+))?")
def _calls(told: Told) -> Iterator[str]:
    calls = told.record.calls
    yield from _number_is(told, sum(told["group"] in ("", call.group) for call in calls))


@_clause(r"a bulk push reports {n} accepted(?:,| and) {m} duplicates?")
def _bulk_push(told: Told) -> Iterator[str]:
    accepted = sum(push.accepted for push in told.record.pushes)
    duplicates = sum(_is_duplicate(push) for push in told.record.pushes)
    if (accepted, duplicates) != (told.number("n"), told.number("m")):
        yield f"{accepted} accepted, {duplicates} duplicate"


@_clause(r"{n} dead letters?(?:(?:,| and) {m} errors?)?")
def _dead_letters(told: Told) -> Iterator[str]:
    dead = [push for push in told.record.pushes if push.state == "dead"]
    if len(dead) != told.number("n"):
        yield f"{len(dead)} dead"
    errors = len({id(push.error) for push in dead})
    if told["m"] and errors != told.number("m"):
        yield f"{errors} errors"


@_clause(r"among the first (?P<calls>\d+) calls: (?P<shares>.+)")
def _shares(told: Told) -> Iterator[str]:
    first = told.record.calls[: int(told["calls"])]
    for share in told["shares"].split(","):
        found = re.fullmatch(r"\s*(\S+) (\d+)(?:±(\d+))?\s*", share)
        if found is None:
            raise NotUnderstood(share)
        group, wanted, slack = found[1], int(found[2]), int(found[3] or 0)
        got = sum(call.group == group for call in first)
        if abs(got - wanted) > slack:
            yield f"{group} {got}"


@_clause(
    r"{about}{n} messages? (?:(?:is|are|ends?|gets?) )?(?:reported )?(?:as )?"
    r"(?P<how>superseded|evicted|expired|withdrawn|cleared|abandoned|done|refused)"
)
def _ends(told: Told) -> Iterator[str]:
    how = told["how"].lower()
    yield from _number_is(told, sum(_ended(push, how) for push in told.record.pushes))


# --- what is handled -----------------------------------------------------------------------------


@_clause(
    r"(?:all(?: {n})?|every|each|(?P<ids>.+?))(?: (?:ids?|messages?))? (?:is|are) handled"
    r" (?:(?P<often>exactly|at least|at most) once)"
)
def _handled_once(told: Told) -> Iterator[str]:
    ids = list(dict.fromkeys(arrival.id for arrival in told.scenario.arrivals))
    if told["ids"]:
        ids = told.ids(told["ids"])
    elif told["n"] and told.number("n") != len(ids):
        yield f"{len(ids)} ids"
    for id in ids:
        times = len(told.calls_with(id))
        if not _COMPARISONS[told["often"].lower()](times, 1):
            yield f"{id} in {times} calls"


@_clause(r"no (?:id|message) is handled twice")
def _never_twice(told: Told) -> Iterator[str]:
    for id in dict.fromkeys(arrival.id for arrival in told.scenario.arrivals):
        if len(calls := told.calls_with(id)) > 1:
            yield f"{id} in {len(calls)} calls"


@_clause(r"(?:no message|none|nothing) (?:is|gets) lost")
def _nothing_lost(told: Told) -> Iterator[str]:
    for push in told.record.pushes:
        if push.accepted and not told.calls_with(push.arrival.id):
            yield f"{push.arrival.id} {push}"


@_clause(
    r"(?P<ids>.+?) (?:is|are|ends?|gets?) (?:reported )?(?:as )?"
    r"(?P<how>superseded|evicted|expired|withdrawn|cleared|abandoned|done|refused)"
)
def _ends_as(told: Told) -> Iterator[str]:
    for id in told.ids(told["ids"]):
        pushes = told.pushes(id)
        if not any(_ended(push, told["how"].lower()) for push in pushes):
            yield f"{id} {', '.join(map(str, pushes))}"


@_clause(r"(?P<ids>.+?) (?:is|are) (?:never|not) handled")
def _never_handled(told: Told) -> Iterator[str]:
    for id in told.ids(told["ids"]):
        if calls := told.calls_with(id):
            yield f"{id} in {len(calls)} calls"


def _ended(push: Push, how: str) -> bool:
    return push.refused is not None if how == "refused" else push.state == how


@_clause(r"(?P<id>.+) ends in the dead letters(?: after {n} attempts?)?")
def _ends_dead(told: Told) -> Iterator[str]:
    for push in told.pushes(told["id"]):
        if push.state != "dead":
            yield str(push)
        times = len(told.calls_with(push.arrival.id))
        if told["n"] and times != told.number("n"):
            yield f"{times} attempts"


@_clause(r"no call (?:contains|has|mixes) (?:ids|messages) of two (?P<what>thread|sender|group)s")
def _never_mixed(told: Told) -> Iterator[str]:
    for call in told.record.calls:
        arrivals = [item.arrival for item in call.items]
        match told["what"].lower():
            case "thread":
                kinds = {arrival.facts.get("thread") for arrival in arrivals}
            case "sender":
                kinds = {arrival.sender for arrival in arrivals}
            case _:
                kinds = {arrival.group for arrival in arrivals}
        if len(kinds) > 1:
            yield f"[{', '.join(call.ids)}]"


# --- order ---------------------------------------------------------------------------------------


@_clause(r"for every i<j: m_i is not handed over later than m_j")
def _push_order(told: Told) -> Iterator[str]:
    yield from _in_order([push.arrival.id for push in told.record.pushes], told)


@_clause(r"(?:inside|within) (?:a|each) group: (?:arrival|push) order")
def _push_order_in_groups(told: Told) -> Iterator[str]:
    for group in dict.fromkeys(push.arrival.group for push in told.record.pushes):
        pushes = [push for push in told.record.pushes if push.arrival.group == group]
        yield from _in_order([push.arrival.id for push in pushes], told)


@_clause(r"(?P<one>\S+) (?:starts|is handled) (?P<how>before|after) (?P<other>\S+)")
def _before(told: Told) -> Iterator[str]:
    (one,), (other,) = told.ids(told["one"]), told.ids(told["other"])
    yield from _in_order([one, other] if told["how"].lower() == "before" else [other, one], told)


def _in_order(ids: list[str], told: Told) -> Iterator[str]:
    starts = [(id, calls[0].n) for id in ids if (calls := told.calls_with(id))]
    for (one, first), (other, second) in itertools.pairwise(starts):
        if first > second:
            yield f"{other} before {one}"


@_clause(r"(?P<id>\S+) starts at the first slot that becomes free after its arrival")
def _first_free_slot(told: Told) -> Iterator[str]:
    (push,), calls = told.pushes(told["id"]), told.calls_with(told["id"])
    if not calls:
        yield "no start"
        return
    ends = [call.ended_ms for call in told.record.calls if call is not calls[0] and not call.bypass]
    free = min((at for at in ends if at is not None and at >= push.arrival.t_ms), default=None)
    if free is not None and calls[0].started_ms > free + 1:
        yield f"its start at {calls[0].started_ms:g}, a free slot at {free:g}"


# --- what the producer is told -------------------------------------------------------------------


@_clause(
    rf"push result of (?:the (?P<which>{'|'.join(_ORDINALS)}) )?'?(?P<id>.+?)'? says: (?P<says>.+)"
)
def _push_result(told: Told) -> Iterator[str]:
    pushes = told.pushes(told["id"])
    which = _ORDINALS.index(told["which"].lower()) if told["which"] else 0
    if which >= len(pushes):
        yield f"{len(pushes)} such pushes"
        return
    push = pushes[which]
    for said in re.split(r",\s*(?:and\s+)?", told["says"]):
        if not _says(push, said.strip().lower()):
            yield str(push)
            return


def _says(push: Push, said: str) -> bool:
    refused = push.refused
    if said in ("accepted", "not accepted"):
        return push.accepted == (said == "accepted")
    if refused is None:
        raise NotUnderstood(said)  # a receipt tells neither a reason nor a depth
    if depth := re.fullmatch(r"(?:queue )?depth (\d+)", said):
        return refused.depth == int(depth[1])
    if said in ("full", "queue full"):
        return isinstance(refused, QueueFull)
    if re.fullmatch(r"duplicate|busy|closed|shedding", said):
        return refused.reason == said
    raise NotUnderstood(said)


@_clause(r"awaiting (?P<id>.+)'s (?:handle|receipt) gives (?P<value>.+)")
def _gives(told: Told) -> Iterator[str]:
    for push in told.pushes(told["id"]):
        value = push.answer.value if push.answer is not None else None
        if push.accepted and str(value) != told["value"]:
            yield f"{value!r}" if push.answer is not None else str(push)


@_clause(r"(?:both|all) (?:handles|receipts) name the same call")
def _same_call(told: Told) -> Iterator[str]:
    answers = [push.answer for push in told.record.pushes if push.accepted]
    if any(answer is not answers[0] for answer in answers):
        yield ", ".join(f"call {answer.call}" if answer else "none" for answer in answers)


@_clause(r"poll results: (?P<polls>\[.*\](?: then \[.*\])*)")
def _polls(told: Told) -> Iterator[str]:
    wanted = [re.findall(r"[^,\s]+", poll) for poll in re.findall(r"\[(.*?)\]", told["polls"])]
    got = [poll for call in told.record.calls for poll in call.polls]
    if got != wanted:
        yield " then ".join(f"[{','.join(poll)}]" for poll in got) or "no poll"


def _is_duplicate(push: Push) -> bool:
    return push.refused is not None and push.refused.reason == "duplicate"

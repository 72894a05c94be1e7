"""What a handler does besides taking its time: `handler_behaviour`, sentences between semicolons.

The sentences that can be played are in `_SENTENCES`. Times are milliseconds of the scenario.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Save:
    """Calls that begin with this message save a state at a moment."""

    id: str
    at_ms: float
    state: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Poll:
    """Calls that begin with this message take what is in their inbox at a moment."""

    id: str
    at_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkFailed:
    """The n-th call marks one of its messages as failed."""

    call: int
    id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Raise:
    """The n-th call raises at its end."""

    call: int


Action = Save | Poll | MarkFailed | Raise


def actions(text: str) -> list[Action]:
    """Return what the handler does, as far as it is understood."""
    return [action for sentence in _split(text) for action in (_read(sentence) or (None, []))[1]]


def needs(text: str) -> Iterator[str]:
    """Name the features of the sentences; one that is not understood is named in full."""
    for sentence in _split(text):
        read = _read(sentence)
        if read is None:
            yield f"handler behaviour {sentence!r}"
        elif read[0] is not None:
            yield read[0]


def _split(text: str) -> list[str]:
    return [part.strip(" .") for part in text.split(";") if part.strip(" .")]


def _read(sentence: str) -> tuple[str | None, list[Action]] | None:
    for pattern, feature, made in _SENTENCES:
        if found := re.fullmatch(pattern, sentence):
            try:
                return feature, made(found)
            except (ValueError, SyntaxError):
                return None
    return None


def _save(found: re.Match[str]) -> list[Action]:
    # `{step: 1}`, as in JavaScript.
    quoted = re.sub(r"([{,]\s*)(\w+)\s*:", r"\1'\2':", found["state"])
    return [Save(id=found["id"], at_ms=float(found["at"]), state=ast.literal_eval(quoted))]


def _poll(found: re.Match[str]) -> list[Action]:
    moments = re.findall(r"\bat ([\d.]+)", found["moments"])
    return [Poll(id=found["id"], at_ms=float(at)) for at in moments]


_SENTENCES: tuple[tuple[str, str | None, Callable[[re.Match[str]], list[Action]]], ...] = (
    (r"(.+?) never polls its inbox", None, lambda _: []),
    (r"(?P<id>.+?) polls (its inbox )?(?P<moments>at .+)", "inject", _poll),
    (r"(?P<id>.+?) saves (?P<state>\{.*\}) at (?P<at>[\d.]+)(, then waits)?", "state", _save),
    (
        r"call (?P<call>\d+) marks '(?P<id>.+)' as failed and returns normally",
        "partial_failure",
        lambda found: [MarkFailed(call=int(found["call"]), id=found["id"])],
    ),
    (r"call (?P<call>\d+) raises", None, lambda found: [Raise(call=int(found["call"]))]),
)

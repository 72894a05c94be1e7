"""Recordings of group chats: when, in which group, by whom. No content is needed to replay one.

A recording is a table with one row per message, in a `.csv` file with a header, a `.jsonl` file
with one object per line, or an `.npz` file with one array per column:

| column | meaning |
| --- | --- |
| `ts_ms`, `t_s` or `at` | time in milliseconds, in seconds, or in epoch seconds or ISO 8601 |
| `group`, `sender` | names or numbers |
| `length` | characters of the message, -1: not known (optional) |
| `mention` | 1: addresses somebody, 0: does not, -1: not known (optional) |

Other columns are ignored. Only the distances of times count, so they may begin anywhere.
"""

from __future__ import annotations

import csv
import json
import os
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chinwag.errors import TraceError

__all__ = ["Trace", "load", "save_csv", "shipped"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trace:
    """A recording, by column; rows are in the order of their times."""

    name: str
    """Of the file, without its ending."""
    at_s: NDArray[np.float64]
    """Seconds since the first message, never falling."""
    group: NDArray[np.int32]
    """Index into `groups`."""
    sender: NDArray[np.int32]
    """Index into `senders`."""
    groups: Sequence[str]
    senders: Sequence[str]
    length: NDArray[np.int32] | None = None
    mention: NDArray[np.int8] | None = None
    moved: int = 0
    """Rows that stood elsewhere in the file: it was not in the order of its times and was sorted,
    rows of the same time staying as they were.
    """

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def span_s(self) -> float:
        """Seconds from the first message to the last."""
        return float(self.at_s[-1]) if len(self) else 0.0

    @property
    def active_groups(self) -> int:
        """How many groups have a message."""
        return len(np.unique(self.group))

    @property
    def active_senders(self) -> int:
        """How many senders have a message, one who writes in two groups counted once."""
        return len(np.unique(self.sender))

    def head(self, limit: int) -> Trace:
        """Keep the first `limit` messages."""
        return self._rows(slice(limit))

    def between(self, start_s: float, end_s: float) -> Trace:
        """Keep the messages from `start_s` up to, but not including, `end_s`."""
        first, last = np.searchsorted(self.at_s, [start_s, end_s])
        return self._rows(slice(int(first), int(last)))

    def gathered(self, within_s: float) -> Trace:
        """Move every group as a whole so that all of them begin within that time, evenly, in turn.

        What took days then happens side by side, as in a busy service. Nothing inside a group
        changes.
        """
        first = np.full(len(self.groups), np.inf)
        np.minimum.at(first, self.group, self.at_s)
        turn = np.argsort(np.argsort(first, kind="stable"), kind="stable")
        start = turn * (within_s / max(1, self.active_groups))
        at_s = self.at_s - first[self.group] + start[self.group]
        moved = replace(self, at_s=at_s)
        return moved._rows(np.argsort(at_s, kind="stable"))

    def _rows(self, rows: slice | NDArray[np.intp]) -> Trace:
        at_s = self.at_s[rows]
        return replace(
            self,
            at_s=at_s - at_s[0] if len(at_s) else at_s,
            group=self.group[rows],
            sender=self.sender[rows],
            length=None if self.length is None else self.length[rows],
            mention=None if self.mention is None else self.mention[rows],
        )


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a recording from a `.csv`, `.jsonl` or `.npz` file.

    Raises:
        TraceError: The file is none of these, lacks a column, has a bad value, or is empty; the
            message names the file and the line.
        OSError: The file cannot be read.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TraceError(f"{path}: unknown kind of recording; give a .csv, .jsonl or .npz file")
    try:
        trace = reader(path)
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not UTF-8 text: {error}") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    if not len(trace):
        raise TraceError(f"{path}: no messages in it")
    return trace


def save_csv(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write a recording as `.csv` with the columns `ts_ms`, `group`, `sender` and those it has.

    Times are rounded to milliseconds.
    """
    columns: dict[str, Sequence[Any]] = {
        "ts_ms": np.rint(trace.at_s * 1000).astype(np.int64).tolist(),
        "group": [trace.groups[i] for i in trace.group],
        "sender": [trace.senders[i] for i in trace.sender],
    }
    for name, column in (("length", trace.length), ("mention", trace.mention)):
        if column is not None:
            columns[name] = column.tolist()
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def shipped(name: str) -> Trace:
    """Read a recording that comes with chinwag: `live_premiere` or `chitchat_pairs`.

    Where they are from is told in `chinwag/data/README.md`.
    """
    with resources.as_file(resources.files("chinwag") / "data" / f"{name}.csv") as path:
        return load(path)


class _Rows:
    """Gathers rows from text, checks them, and numbers names by first appearance."""

    def __init__(self, columns: Iterable[str]) -> None:
        self.time = _time_column(set(columns))
        self.at_s = array("d")
        self.group = array("i")
        self.sender = array("i")
        self.length = array("i")
        self.mention = array("b")
        self.groups: dict[str, int] = {}
        self.senders: dict[str, int] = {}

    def add(self, row: Mapping[str, object]) -> None:
        self.at_s.append(_seconds(self.time, row.get(self.time)))
        self.group.append(_code(self.groups, "group", row.get("group")))
        self.sender.append(_code(self.senders, "sender", row.get("sender")))
        self.length.append(_whole("length", row.get("length"), 2**31 - 1))
        self.mention.append(_whole("mention", row.get("mention"), 1))

    def trace(self, path: Path) -> Trace:
        return _sorted(
            Trace(
                name=path.stem,
                at_s=np.array(self.at_s, np.float64),
                group=np.array(self.group, np.int32),
                sender=np.array(self.sender, np.int32),
                groups=list(self.groups),
                senders=list(self.senders),
                length=_known(np.array(self.length, np.int32)),
                mention=_known(np.array(self.mention, np.int8)),
            )
        )


def _read_csv(path: Path) -> Trace:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [name.strip().lower() for name in next(reader, [])]
            if not header:
                raise TraceError("empty; the first line must name the columns")
            rows = _Rows(header)
            for fields in reader:
                if fields:
                    _add_fields(rows, header, fields)
        except (csv.Error, TraceError) as error:
            raise TraceError(f"line {max(reader.line_num, 1)}: {error}") from None
    return rows.trace(path)


def _add_fields(rows: _Rows, header: list[str], fields: list[str]) -> None:
    if len(fields) != len(header):
        raise TraceError(f"{len(fields)} fields, but the header has {len(header)}")
    rows.add(dict(zip(header, fields, strict=True)))


def _read_jsonl(path: Path) -> Trace:
    rows: _Rows | None = None
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise TraceError("not an object; one line is one message: {...}")
                rows = rows or _Rows(row)
                rows.add(row)
            except TraceError as error:
                raise TraceError(f"line {number}: {error}") from None
            except (ValueError, RecursionError) as error:
                raise TraceError(f"line {number}: not JSON: {error}") from None
    if rows is None:
        raise TraceError("empty; one line is one message: {...}")
    return rows.trace(path)


def _read_npz(path: Path) -> Trace:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise TraceError("one array only; an .npz file with one array per column is needed")
            columns = {name: archive[name] for name in archive.files if name in _COLUMNS}
    except TraceError:
        raise
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
        raise TraceError(f"not an .npz file of plain arrays: {error}") from error
    time = _time_column(set(columns))
    rows = len(columns[time]) if columns[time].ndim else 0
    for name, column in columns.items():
        if column.shape != (rows,):
            raise TraceError(f"column {name} has the shape {column.shape}, {time} has {rows} rows")
    groups, group = _codes("group", columns["group"])
    senders, sender = _codes("sender", columns["sender"])
    return _sorted(
        Trace(
            name=path.stem,
            at_s=_times(time, columns[time]),
            group=group,
            sender=sender,
            groups=groups,
            senders=senders,
            length=_wholes(columns, "length", np.int32, 2**31 - 1),
            mention=_wholes(columns, "mention", np.int8, 1),
        )
    )


def _time_column(names: set[str]) -> str:
    time = next((name for name in _TIMES if name in names), None)
    missing = [name for name in ("group", "sender") if name not in names]
    if time is None:
        missing.insert(0, "ts_ms (or t_s, or at)")
    if time is None or missing:
        raise TraceError(
            f"no column {', '.join(missing)}; there are: {', '.join(sorted(names)) or 'none'}"
        )
    return time


def _seconds(name: str, value: object) -> float:
    if name == "at" and isinstance(value, str):
        value = _epoch(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TraceError(f"{name}={_show(value)}: must be a number")
    try:
        seconds = float(value) * _TIMES[name]
    except (ValueError, OverflowError):
        raise TraceError(f"{name}={_show(value)}: must be a number") from None
    if not abs(seconds) <= _LATEST_S:
        raise TraceError(f"{name}={_show(value)}: must be finite, at most {_LATEST_S:,.0f} s")
    return seconds


def _epoch(text: str) -> str | float:
    """Read an ISO 8601 time; without a zone it is UTC. Other text is left for the caller."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _code(codes: dict[str, int], name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TraceError(f"{name}={_show(value)}: must be a name or a whole number")
    text = str(value)
    code = codes.get(text)
    if code is None:
        _check_name(name, text)
        code = codes[text] = len(codes)
    return code


def _check_name(name: str, text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise TraceError(f"{name}={_show(text)}: has half a surrogate pair in it") from None
    if not 1 <= size <= _LONGEST_NAME:
        raise TraceError(f"{name}={_show(text)}: must have 1 to {_LONGEST_NAME:,} bytes of UTF-8")


def _whole(name: str, value: object, most: int) -> int:
    if value is None or value == "":
        return -1
    try:
        if not isinstance(value, int | str):
            raise ValueError
        number = int(value)
    except ValueError:
        raise TraceError(f"{name}={_show(value)}: must be a whole number") from None
    if not -1 <= number <= most:
        raise TraceError(f"{name}={_show(value)}: must be from -1 to {most:,}")
    return number


def _times(name: str, column: NDArray[Any]) -> NDArray[np.float64]:
    if column.dtype.kind not in "iuf":
        raise TraceError(f"column {name} must hold numbers, not {column.dtype}")
    seconds = column.astype(np.float64) * _TIMES[name]
    bad = np.flatnonzero(~(np.abs(seconds) <= _LATEST_S))
    if len(bad):
        raise TraceError(f"row {bad[0]}: {name}={column[bad[0]]}: must be finite")
    return seconds


def _codes(name: str, column: NDArray[Any]) -> tuple[list[str], NDArray[np.int32]]:
    if column.dtype.kind not in "iuU":
        raise TraceError(f"column {name} must hold whole numbers or text, not {column.dtype}")
    values, first, codes = np.unique(column, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    names = [str(value) for value in values[order]]
    for text in names:
        _check_name(name, text)
    return names, rank[codes]


def _wholes(
    columns: Mapping[str, NDArray[Any]], name: str, dtype: type[Any], most: int
) -> NDArray[Any] | None:
    column = columns.get(name)
    if column is None:
        return None
    if column.dtype.kind not in "iub":
        raise TraceError(f"column {name} must hold whole numbers, not {column.dtype}")
    bad = np.flatnonzero((column < -1) | (column > most))
    if len(bad):
        raise TraceError(f"row {bad[0]}: {name}={column[bad[0]]}: must be from -1 to {most:,}")
    return column.astype(dtype)


def _known(column: NDArray[Any]) -> NDArray[Any] | None:
    """Leave out a column in which nothing is known."""
    return None if (column < 0).all() else column


def _sorted(trace: Trace) -> Trace:
    at_s = trace.at_s
    order = np.argsort(at_s, kind="stable")
    moved = int(np.count_nonzero(order != np.arange(len(order))))
    return replace(trace._rows(order), moved=moved)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".npz": _read_npz}

# Columns that can be the time, best first, and how many seconds one of their units is.
_TIMES = {"ts_ms": 1e-3, "t_s": 1.0, "at": 1.0}
_COLUMNS = {*_TIMES, "group", "sender", "length", "mention"}

# A time beyond it is a mistake, in whatever unit it was meant: the year 33658.
_LATEST_S = 1e12
_LONGEST_NAME = 1024

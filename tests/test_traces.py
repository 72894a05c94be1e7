"""Recordings: the forms they come in, and what is said about one that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chinwag.errors import TraceError
from chinwag.traces import Trace, load, save_csv, shipped

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return file


def rows(trace: Trace) -> list[tuple[float, str, str]]:
    return [
        (round(float(at_s), 6), trace.groups[group], trace.senders[sender])
        for at_s, group, sender in zip(trace.at_s, trace.group, trace.sender, strict=True)
    ]


def refusal(path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("ts_ms", ("5000", "5250", "7000")),
        ("t_s", ("-1", "-0.75", "1e0")),
        ("at", ("1700000000", "1700000000.25", "1700000002")),
        ("at", ("2024-05-01T12:00:00Z", "2024-05-01 12:00:00.25", "2024-05-01T14:00:02+02:00")),
    ],
)
def test_time_may_be_in_any_of_three_columns(
    write: Write, column: str, values: tuple[str, str, str]
) -> None:
    a, b, c = values
    path = write("tea.csv", f"{column},group,sender\n{a},tea,ann\n{b},tea,bob\n{c},tea,ann\n")

    assert rows(load(path)) == [(0, "tea", "ann"), (0.25, "tea", "bob"), (2, "tea", "ann")]


def test_all_three_forms_read_alike(tmp_path: Path, write: Write) -> None:
    csv = write("tea.csv", "ts_ms,group,sender,length,mention\n0,3,7,5,0\n250,4,7,6,1\n")
    objects = [
        {"ts_ms": 0, "group": 3, "sender": 7, "length": 5, "mention": 0},
        {"ts_ms": 250, "group": 4, "sender": 7, "length": 6, "mention": 1},
    ]
    jsonl = write("tea.jsonl", "".join(json.dumps(row) + "\n" for row in objects))
    npz = tmp_path / "tea.npz"
    columns: dict[str, Any] = {key: [row[key] for row in objects] for key in objects[0]}
    np.savez(npz, **columns)

    for path in (csv, jsonl, npz):
        trace = load(path)
        assert trace.name == "tea"
        assert rows(trace) == [(0, "3", "7"), (0.25, "4", "7")]
        assert trace.length is not None
        assert trace.length.tolist() == [5, 6]
        assert trace.mention is not None
        assert trace.mention.tolist() == [0, 1]


def test_names_may_be_text_in_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "tea.npz"
    np.savez(path, t_s=np.array([0.5, 1.0]), group=np.array(["tee", "tea"]), sender=[1, 1])

    assert rows(load(path)) == [(0, "tee", "1"), (0.5, "tea", "1")]


def test_names_are_numbered_by_first_appearance(tmp_path: Path) -> None:
    path = tmp_path / "tea.npz"
    np.savez(path, ts_ms=[0, 1, 2], group=[9, 3, 9], sender=[5, 4, 5])

    trace = load(path)

    assert trace.groups == ["9", "3"]
    assert trace.sender.tolist() == [0, 1, 0]


def test_rows_out_of_time_are_sorted_and_counted(write: Write) -> None:
    path = write("tea.csv", "t_s,group,sender\n2,tea,a\n1,tea,b\n1,tea,c\n3,tea,d\n")

    trace = load(path)

    assert rows(trace) == [(0, "tea", "b"), (0, "tea", "c"), (1, "tea", "a"), (2, "tea", "d")]
    assert trace.moved == 3


def test_other_columns_and_empty_lines_are_ignored(write: Write) -> None:
    path = write("tea.csv", "\ufeffText, Sender ,group,ts_ms\nhi,ann,tea,0\n\n\nho,ann,tea,1\n")

    assert len(load(path)) == 2


def test_optional_columns_may_have_holes(write: Write) -> None:
    path = write(
        "tea.jsonl",
        '{"at": 1, "group": "tea", "sender": "ann"}\n'
        '{"at": 2, "group": "tea", "sender": "ann", "mention": true, "length": null}\n',
    )

    trace = load(path)

    assert trace.length is None
    assert trace.mention is not None
    assert trace.mention.tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: empty; the first line must name the columns"),
        ("ts_ms,group,sender\n", "no messages in it"),
        ("ts_ms,group\n0,tea\n", "line 1: no column sender; there are: group, ts_ms"),
        ("group;sender;ts_ms\n", "line 1: no column ts_ms (or t_s, or at), group, sender; there"),
        ("ts_ms,group,sender\n0,tea,a\nsoon,tea,a\n", "line 3: ts_ms='soon': must be a number"),
        ("ts_ms,group,sender\nnan,tea,a\n", "line 2: ts_ms='nan': must be finite"),
        ("t_s,group,sender\ninf,tea,a\n", "line 2: t_s='inf': must be finite"),
        ("t_s,group,sender\n1e300,tea,a\n", "line 2: t_s='1e300': must be finite"),
        ("at,group,sender\nyesterday,tea,a\n", "line 2: at='yesterday': must be a number"),
        ("ts_ms,group,sender\n0,tea\n", "line 2: 2 fields, but the header has 3"),
        ("ts_ms,group,sender\n0,,a\n", "line 2: group='': must have 1 to 1,024 bytes"),
        ('ts_ms,group,sender\n0,"tea,a\n', "line 2: unexpected end of data"),
        ("ts_ms,group,sender,mention\n0,tea,a,2\n", "line 2: mention='2': must be from -1 to 1"),
        ("ts_ms,group,sender,length\n0,tea,a,x\n", "line 2: length='x': must be a whole number"),
    ],
)
def test_a_wrong_table_is_told_where(write: Write, text: str, said: str) -> None:
    assert refusal(write("tea.csv", text)).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n", "empty; one line is one message"),
        ("{\n", "line 1: not JSON: "),
        ("[1]\n", "line 1: not an object"),
        ('{"at": 1, "group": "t"}\n', "line 1: no column sender"),
        ('{"at": null, "group": "t", "sender": "a"}\n', "line 1: at=None: must be a number"),
        ('{"at": true, "group": "t", "sender": "a"}\n', "line 1: at=True: must be a number"),
        ('{"at": NaN, "group": "t", "sender": "a"}\n', "line 1: at=nan: must be finite"),
        (
            '{"at": 1, "group": 1.5, "sender": "a"}\n',
            "line 1: group=1.5: must be a name or a whole",
        ),
        ('{"at": 1, "group": "\\ud800", "sender": "a"}\n', "line 1: group='\\ud800': has half a"),
        (f'{{"at": 1{"0" * 5000}, "group": "t", "sender": "a"}}\n', "line 1: not JSON: "),
        ("[" * 100_000 + "\n", "line 1: not JSON: "),
    ],
)
def test_a_wrong_object_is_told_where(write: Write, text: str, said: str) -> None:
    assert refusal(write("tea.jsonl", text)).startswith(said)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"ts_ms": [0], "group": [1]}, "no column sender; there are: group, ts_ms"),
        ({"ts_ms": [0, 1], "group": [1], "sender": [1, 2]}, "column group has the shape (1,), "),
        ({"ts_ms": 3, "group": [1], "sender": [1]}, "column ts_ms has the shape (), "),
        ({"ts_ms": ["a"], "group": [1], "sender": [1]}, "column ts_ms must hold numbers, not <U1"),
        ({"t_s": [0.0, np.nan], "group": [1, 1], "sender": [1, 1]}, "row 1: t_s=nan: must be"),
        ({"ts_ms": [0], "group": [1.5], "sender": [1]}, "column group must hold whole numbers or"),
        ({"ts_ms": [0], "group": [""], "sender": [1]}, "group='': must have 1 to 1,024 bytes"),
        ({"ts_ms": [0], "group": [1], "sender": [1], "mention": [5]}, "row 0: mention=5: must be"),
        ({"ts_ms": [0], "group": [1], "sender": [None]}, "not an .npz file of plain arrays: "),
        ({"ts_ms": [], "group": np.zeros(0, int), "sender": np.zeros(0, int)}, "no messages in it"),
    ],
)
def test_a_wrong_archive_is_told_what(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = tmp_path / "tea.npz"
    np.savez(path, **columns)

    assert refusal(path).startswith(said)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"ts_ms,group,sender\n"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tea.npz"
    path.write_bytes(content)

    assert refusal(path).startswith("not an .npz file of plain arrays")


def test_an_unknown_kind_of_file_is_refused(write: Write) -> None:
    said = refusal(write("tea.txt", "hi"))

    assert said == "unknown kind of recording; give a .csv, .jsonl or .npz file"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tea.csv"
    path.write_bytes(b"ts_ms,group,sender\n0,\xff,a\n")

    assert refusal(path).startswith("not UTF-8 text")


def test_what_is_saved_reads_back(tmp_path: Path, write: Write) -> None:
    trace = load(write("tea.csv", 'ts_ms,group,sender,length\n0,"a,b",ann,3\n7,"c""d",bob,4\n'))

    save_csv(trace, tmp_path / "again.csv")

    again = load(tmp_path / "again.csv")
    assert rows(again) == rows(trace)
    assert again.length is not None
    assert again.length.tolist() == [3, 4]


def test_a_cut_begins_at_its_first_message(write: Write) -> None:
    trace = load(write("tea.csv", "t_s,group,sender\n0,tea,a\n2,tea,b\n3,tee,b\n4,tea,a\n"))

    cut = trace.between(2, 4)

    assert rows(cut) == [(0, "tea", "b"), (1, "tee", "b")]
    assert (cut.active_groups, cut.active_senders, cut.span_s) == (2, 1, 1.0)
    assert len(trace.head(3)) == 3


def test_gathered_groups_keep_their_inner_times(write: Write) -> None:
    """Only when a group begins may change: its gaps are what windows are about."""
    trace = load(
        write("tea.csv", "t_s,group,sender\n0,a,x\n5,a,y\n900,b,x\n901,b,y\n5000,c,x\n5000,c,y\n")
    )

    gathered = trace.gathered(within_s=3)

    assert rows(gathered) == [
        (0, "a", "x"),
        (1, "b", "x"),
        (2, "b", "y"),
        (2, "c", "x"),
        (2, "c", "y"),
        (5, "a", "y"),
    ]


@pytest.mark.parametrize(
    ("name", "messages", "groups", "senders", "span_s"),
    [
        ("live_premiere", 7_460, 1, 6_015, 981.928),
        ("chitchat_pairs", 20_030, 787, 291, 172_771.0),
    ],
)
def test_shipped_recordings_are_as_their_readme_says(
    name: str, messages: int, groups: int, senders: int, span_s: float
) -> None:
    trace = shipped(name)

    found = (len(trace), trace.active_groups, trace.active_senders)
    assert found == (messages, groups, senders)
    assert trace.span_s == pytest.approx(span_s)
    assert trace.moved == 0

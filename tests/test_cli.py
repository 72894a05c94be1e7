"""The command `chinwag`: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chinwag import Batch
from chinwag.cli import cli
from chinwag.config import Config
from chinwag.errors import ConfigError
from chinwag.replay import HandlerTime, Replay, _Books

GREEN = "\x1b[32m"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Ann writes three messages within four seconds, bob one."""
    file = tmp_path / "room.csv"
    file.write_text("ts_ms,group,sender\n0,room,ann\n1000,room,bob\n2000,room,ann\n4000,room,ann\n")
    return file


def test_a_replay_tells_what_it_did(recording: Path) -> None:
    result = run("replay", recording)

    assert result.exit_code == 0
    assert "4 accepted = 4 done" in result.output
    assert "nothing lost, nothing twice, each sender in order" in result.output


def test_any_setting_is_an_option(recording: Path) -> None:
    result = run("replay", recording, "--json", "--lanes", "group", "--quiet-s", "5")

    report = json.loads(result.output)
    assert (report["calls"], report["accepted"], report["lost"]) == (1, 4, 0)
    assert report["settings"] == {"lanes": "group", "quiet_s": 5.0}
    assert report["closed_by"] == {"quiet": 1}


def test_settings_come_from_a_file_and_options_go_before(recording: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("quiet_s = 1.0\n[window]\nmax_wait_s = 3.0\n")

    result = run("replay", recording, "--json", "--config", settings, "--quiet-s", "2")

    assert json.loads(result.output)["settings"] == {"quiet_s": 2.0, "max_wait_s": 3.0}


def test_the_same_replay_gives_the_same_figures(recording: Path) -> None:
    figures = [json.loads(run("replay", recording, "--json").output) for _ in range(2)]
    for report in figures:
        del report["elapsed_s"]

    assert figures[0] == figures[1]


def test_a_table_has_a_row_for_each_recording(recording: Path) -> None:
    lines = run("replay", recording, recording, "--markdown").output.splitlines()

    assert lines[0].startswith("| recording | messages |")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| room", "| room"]


def test_the_demo_loses_nothing() -> None:
    result = run("demo", "--speed", "max", "--limit", "500", "--json")

    reports = [json.loads(line) for line in result.output.splitlines()]
    assert result.exit_code == 0
    assert [report["name"] for report in reports] == ["live_premiere", "chitchat_pairs"]
    assert all(report["ok"] and report["ledger"]["done"] == 500 for report in reports)


def test_a_replay_in_real_time_takes_the_time_it_says(recording: Path) -> None:
    result = run("replay", recording, "--speed", "100", "--handler-s", "0.1", "--json")

    report = json.loads(result.output)
    assert report["ok"]
    assert report["speed"] == 100.0
    assert report["elapsed_s"] >= 0.04


def test_settings_are_durations_of_the_room(recording: Path) -> None:
    """At a speed of 100 the machine waits 10 ms, and the report says a second."""
    result = run("replay", recording, "--speed", "100", "--quiet-s", "1", "--json")

    report = json.loads(result.output)
    assert report["settings"] == {"quiet_s": 1.0}
    assert report["wait_s"]["mean"] >= 1.0
    assert report["elapsed_s"] < 1.0


def test_none_takes_a_limit_of_the_file_away(recording: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("max_batch = 1\nquiet_s = 5\n")

    result = run("replay", recording, "--json", "--config", settings, "--max-batch", "none")

    assert json.loads(result.output)["settings"] == {"quiet_s": 5.0}


def test_refused_messages_are_told_apart_from_lost_ones(tmp_path: Path) -> None:
    file = tmp_path / "room.csv"
    file.write_text("ts_ms,group,sender\n" + "0,room,ann\n" * 5)

    result = run("replay", file, "--capacity-per-group", "2", "--quiet-s", "1")

    assert result.exit_code == 0
    assert "refused (group_full)  3" in result.output
    assert "2 accepted = 2 done" in result.output


def test_mentions_are_handed_over_at_once_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "room.csv"
    file.write_text("ts_ms,group,sender,mention\n0,room,ann,0\n100,room,ann,1\n")

    plain, flushed = (
        json.loads(run("replay", file, "--quiet-s", "5", "--json", *more).output)
        for more in ([], ["--flush-mentions"])
    )

    assert plain["closed_by"] == {"quiet": 1}
    assert flushed["closed_by"] == {"flush": 1}


def test_rows_out_of_time_are_mentioned(tmp_path: Path) -> None:
    file = tmp_path / "room.csv"
    file.write_text("ts_ms,group,sender\n9,room,ann\n0,room,bob\n")

    result = run("replay", file, "--json")

    assert result.stderr == "room: not in the order of time; 2 rows were moved\n"
    assert json.loads(result.stdout)["accepted"] == 2


def test_a_replay_needs_no_task_per_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "room.csv"
    file.write_text("ts_ms,group,sender\n" + "".join(f"0,room,{n}\n" for n in range(500)))
    tasks = []
    answer = Replay._reply

    async def reply(self: Replay, batch: Batch[int]) -> None:
        tasks.append(len(asyncio.all_tasks()))
        await answer(self, batch)

    monkeypatch.setattr(Replay, "_reply", reply)

    assert run("replay", file).exit_code == 0
    assert len(tasks) == 500
    assert max(tasks) < 10


def test_a_message_that_nobody_handled_is_lost(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replay believes no ledger: it asks its own handler."""
    handled = _Books.handled

    def forgetful(books: _Books, row: int, group: str, sender: str) -> None:
        if row != 2:
            handled(books, row, group, sender)

    monkeypatch.setattr(_Books, "handled", forgetful)

    result = run("replay", recording)

    assert result.exit_code == 1
    assert "1 lost" in result.output


@pytest.mark.parametrize(
    ("rows", "fault"), [([0, 0], "1 handled twice"), ([3, 2], "1 out of order")]
)
def test_what_the_queue_must_not_do_is_a_fault(
    recording: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int], fault: str
) -> None:
    handled = _Books.handled

    def confused(books: _Books, row: int, group: str, sender: str) -> None:
        for other in rows if row == 0 else [row]:
            handled(books, other, group, sender)

    monkeypatch.setattr(_Books, "handled", confused)

    result = run("replay", recording)

    assert result.exit_code == 1
    assert fault in result.output


def test_a_handler_that_fails_is_a_fault(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Replay._reply

    async def reply(self: Replay, batch: Batch[int]) -> None:
        await answer(self, batch)
        if 1 in batch.payloads:
            raise RuntimeError("no answer")

    monkeypatch.setattr(Replay, "_reply", reply)

    result = run("replay", recording)

    assert result.exit_code == 1
    assert "1 in calls that failed" in result.output
    assert "3 done + 1 dead" in result.output


def test_messages_for_themselves_have_no_order_to_break(recording: Path) -> None:
    result = run("replay", recording, "--lanes", "message", "--handler-s", "exp:3", "--json")

    assert result.exit_code == 0
    assert json.loads(result.output)["calls"] == 4


@pytest.mark.parametrize(
    ("text", "low_s", "high_s"), [("1.5", 1.5, 1.5), ("0.3-2", 0.3, 2), ("1e-3-.5", 0.001, 0.5)]
)
def test_a_handler_takes_the_time_it_is_told(text: str, low_s: float, high_s: float) -> None:
    times = HandlerTime.parse(text).draw(1000, seed=0)

    assert low_s <= times.min() <= times.max() <= high_s


def test_exponential_handlers_have_their_mean() -> None:
    assert HandlerTime.parse("exp:2").draw(100_000, seed=0).mean() == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "2-1", "1-2-3", "exp:", "1e9", "exp:1e9"])
def test_a_handler_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="handler time"):
        HandlerTime.parse(text)


def test_the_same_seed_gives_the_same_times() -> None:
    first, again, other = (HandlerTime().draw(9, seed=seed).tolist() for seed in (1, 1, 2))

    assert first == again != other


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--quiet-s", "-1"], "quiet_s"),
        (["--quiet-s", "soon"], "quiet_s"),
        (["--min-batch", "0"], "min_batch"),
        (["--lanes", "road"], "lanes"),
        (["--min-batch", "5", "--max-batch", "2"], "min_batch"),
        (["--speed", "0"], "speed"),
        (["--speed", "nan"], "speed"),
        (["--speed", "fast"], "speed"),
        (["--speed", "0.001", "--max-wait-s", "1e9"], "max_wait_s"),
        (["--seed", "-1"], "seed"),
        (["--on-busy", "interupt"], "'interrupt'"),
        (["--quiet-s", "inf", "--max-wait-s", "inf"], "max_wait_s"),
        (["--handler-s", "2-1"], "handler"),
        (["--no-such-thing"], "--no-such-thing"),
    ],
)
def test_a_wrong_option_is_named(recording: Path, args: list[str], named: str) -> None:
    result = run("replay", recording, *args)

    assert result.exit_code == 2
    assert named in result.output.replace("-", "_") or named in result.output


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("empty.csv", "", "empty.csv"),
        ("columns.csv", "when,who\n1,2\n", "group"),
        ("number.csv", "ts_ms,group,sender\n0,a,b\nsoon,a,b\n", "soon"),
        ("broken.jsonl", '{"ts_ms": 0, "group": "a"\n', "broken.jsonl"),
        ("broken.npz", "no archive", "broken.npz"),
        ("room.txt", "hello", "room.txt"),
    ],
)
def test_a_broken_recording_is_named(tmp_path: Path, name: str, content: str, named: str) -> None:
    file = tmp_path / name
    file.write_text(content)

    result = run("replay", file)

    assert result.exit_code == 2
    assert named in result.output


def test_a_broken_settings_file_is_named(recording: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("quite_s = 1.0\n")

    result = run("replay", recording, "--config", settings)

    assert result.exit_code == 2
    assert "settings.toml" in result.output
    assert "quiet_s" in result.output


def test_no_file_is_no_replay() -> None:
    assert run("replay").exit_code == 2
    assert run("replay", "nowhere.csv").exit_code == 2


def test_every_setting_has_help_of_its_own() -> None:
    text = run("replay", "--help").output

    own, settings = text.split("Settings of the queue:")
    assert "--speed" in own
    in_code = {"no_retry", "retry_if"}
    for key in Config().flat().keys() - in_code:
        assert f"--{key.replace('_', '-')} " in settings
    assert "How long nothing may come before what waits" in settings


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chinwag", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.startswith("chinwag ")


def test_no_escape_codes_reach_a_file(recording: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chinwag", "replay", recording],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "\x1b" not in done.stdout + done.stderr


def test_no_color_leaves_no_color(recording: Path) -> None:
    colored, plain = (
        subprocess.run(
            [sys.executable, "-m", "chinwag", "replay", recording],
            env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm", **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for more in ({"NO_COLOR": ""}, {"NO_COLOR": "1"})
    )

    assert GREEN in colored
    assert GREEN not in plain


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes break otherwise here")
def test_a_closed_pipe_ends_without_a_word(recording: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "chinwag", "replay", recording, "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


def test_an_interrupted_replay_says_how_far_it_came() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "chinwag", "demo", "--speed", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        while "chitchat_pairs" not in process.stdout.readline():
            pass
        time.sleep(0.5)  # real, since what is tested is a signal to another process
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()

    assert process.returncode == 130, err
    assert "interrupted after" in out
    assert "calls failed" not in out
    assert "nothing lost" in out
    assert "Traceback" not in err

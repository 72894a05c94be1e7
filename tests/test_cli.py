"""The command `chinwag`: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chinwag.cli import cli


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
    assert "nothing lost, nothing twice, each sender in order" in " ".join(result.output.split())


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


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--quiet-s", "-1"], "quiet_s"),
        (["--quiet-s", "soon"], "quiet_s"),
        (["--min-batch", "0"], "min_batch"),
        (["--lanes", "road"], "lanes"),
        (["--min-batch", "5", "--max-batch", "2"], "min_batch"),
        (["--speed", "0"], "speed"),
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


def test_no_escape_codes_reach_a_file(recording: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chinwag", "replay", recording],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "\x1b" not in done.stdout + done.stderr


def test_a_closed_pipe_is_no_error(recording: Path) -> None:
    chinwag = f"{sys.executable} -m chinwag"
    done = subprocess.run(
        ["bash", "-c", f"{chinwag} replay --help | head -1; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "Traceback" not in done.stderr


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
    assert "Traceback" not in err

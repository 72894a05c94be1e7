"""What tests are given: loops of all kinds, the tasks made there, and runs of small scenarios."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chinwag import _driver
from chinwag._runner import RunnerTask
from chinwag.testing.scenarios.__main__ import main as run_scenarios
from tests.loops import LOOPS, WATCHDOG_S, Main, Run, new_loop
from tests.scenarios import Run as RunFile


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine function on a loop of the kind the test is for."""

    def run_on(main: Main) -> Any:
        with asyncio.Runner(loop_factory=lambda: new_loop(request.param)) as runner:
            return runner.run(asyncio.wait_for(main(), WATCHDOG_S))

    return run_on


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every runner's task that is made. Whose task is held makes no second call."""
    names: list[str] = []

    def make(*args: Any, **options: Any) -> RunnerTask:
        names.append(options["name"])
        return RunnerTask(*args, **options)

    monkeypatch.setattr(_driver, "RunnerTask", make)
    return names


@pytest.fixture
def run_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunFile:
    """Write scenarios to a file and run it: the exit code, and the lines that were printed."""

    def run_file(*scenarios: Any, arguments: tuple[str, ...] = ()) -> tuple[int, list[str]]:
        path = tmp_path / "made-up.json"
        path.write_text(json.dumps({"format_version": 1, "scenarios": list(scenarios)}))
        code = run_scenarios([str(path), *arguments])
        return code, capsys.readouterr().out.splitlines()

    return run_file

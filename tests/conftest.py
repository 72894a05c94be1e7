"""What tests of the loop side are given: loops of all kinds, and the tasks that are made there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chinwag import _driver
from chinwag._runner import RunnerTask
from tests.loops import LOOPS, WATCHDOG_S, Main, Run, new_loop


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

"""Every Python block of the README and the docs runs as a program of its own.

A block that cannot (it needs a chat platform, say) is marked `python no-run`.
"""

import re
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

import pytest
from _pytest.mark import ParameterSet

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```python(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S
)
TIME_LIMIT_S = 20.0


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def snippets() -> list[ParameterSet]:
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for block in FENCE.finditer(text):
            if "no-run" in block["info"].split():
                continue
            first_line = text.count("\n", 0, block.start("code"))
            # The blank lines make a traceback name the line of the page.
            code = "\n" * first_line + textwrap.dedent(block["code"])
            name = page.relative_to(ROOT).as_posix()
            found.append(pytest.param(name, code, id=f"{name}:{first_line + 1}"))
    return found


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends also a snippet that waits for ever in an event loop; Windows has no such timer."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"the snippet ran longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("page", "code"), snippets())
def test_snippet_runs_as_its_own_program(
    page: str, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    monkeypatch.setattr(sys, "argv", [page])
    monkeypatch.chdir(tmp_path)

    with time_limit(TIME_LIMIT_S):
        exec(compile(code, ROOT / page, "exec", dont_inherit=True), program.__dict__)

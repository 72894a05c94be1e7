"""Install the wheel and the source archive into empty environments, and run the tests there.

`make dist` calls it, for one Python of every minor version that chinwag supports and this machine
has. The tests are those of the archive, unpacked outside the checkout, so that what they import is
what was installed.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)


class Python(NamedTuple):
    """An interpreter that can make environments."""

    version: tuple[int, int, int]
    path: Path


class Outcome(NamedTuple):
    """What came of one package on one Python."""

    good: bool
    words: str


def main() -> int:
    """Test what is in the folder given, with the options given for cargo; print a table."""
    built, options = Path(sys.argv[1]).resolve(), sys.argv[2:]
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    rows = []
    with tempfile.TemporaryDirectory(prefix="chinwag-") as folder:
        scratch = Path(folder)
        sources = unpack(archive, scratch / "sources")
        for python in (found := pythons()):
            home = scratch / ".".join(map(str, python.version))
            rows.append(
                [
                    tested(python, wheel, home / "wheel", sources, options),
                    tested(python, archive, home / "sdist", sources, options),
                ]
            )
    print(f"\n{'Python':<10}{'wheel':<28}sdist")
    for python, row in zip(found, rows, strict=True):
        name = ".".join(map(str, python.version))
        print(f"{name:<10}{row[0].words:<28}{row[1].words}")
    return 0 if rows and all(outcome.good for row in rows for outcome in row) else 1


def unpack(archive: Path, into: Path) -> Path:
    """Unpack the source archive and check that it lacks no file under version control."""
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    (sources,) = into.iterdir()
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    here = [name for name in tracked if (ROOT / name).exists()]
    missing = [name for name in here if not (sources / name).exists()]
    if missing:
        sys.exit(f"{archive.name} lacks {', '.join(missing)}: see [tool.maturin] in pyproject.toml")
    return sources


def pythons() -> list[Python]:
    """Find one interpreter per minor version: on PATH, then where pyenv keeps its own."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    folders = [*map(Path, os.get_exec_path()), *sorted(pyenv.glob("versions/*/bin"))]
    found: dict[tuple[int, int], Python] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("python3*"))):
        if re.fullmatch(r"python3(\.\d+)?", path.name) and (python := known(path)):
            found.setdefault(python.version[:2], python)
    return sorted(found.values())


def known(path: Path) -> Python | None:
    """Ask an interpreter what it is; None if it does not run, is too old or makes no venv."""
    asked = subprocess.run([path, "-Ic", _WHO], capture_output=True, text=True, check=False)
    if asked.returncode:
        return None
    major, minor, micro, free_threaded, executable = asked.stdout.splitlines()
    version = (int(major), int(minor), int(micro))
    # The stable ABI that the wheel is built for is not that of free-threaded builds.
    if version < OLDEST or free_threaded == "1":
        return None
    return Python(version, Path(executable))


def tested(
    python: Python, package: Path, home: Path, sources: Path, options: Sequence[str]
) -> Outcome:
    """Install a package into a new environment and run the tests of the archive against it."""
    new = home / "bin" / "python"
    steps: dict[str, list[str | Path]] = {
        "no environment": [python.path, "-m", "venv", home],
        "not installable": [new, "-m", "pip", "install", f"{package}[test]"],
        "not what was installed": [new, "-c", _IS_INSTALLED],
        "tests fail": [new, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
    }
    env = {name: value for name, value in os.environ.items() if name not in _OF_THE_CHECKOUT}
    env.setdefault("CARGO_TARGET_DIR", str(ROOT / "target" / "dist"))
    env["MATURIN_PEP517_ARGS"] = " ".join(options)
    printed = ""
    for failure, step in steps.items():
        done = subprocess.run(
            step,
            cwd=sources,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        printed = done.stdout.strip()
        if done.returncode:
            print(printed)
            return Outcome(good=False, words=failure)
    # Whatever is logged at the very end comes behind it.
    summary = next(line for line in reversed(printed.splitlines()) if " passed" in line)
    print(f"{package.name} on {python.path}: {summary}", flush=True)
    return Outcome(good=True, words=summary.partition(" in ")[0])


_WHO = """
import ensurepip, sys, sysconfig
free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
print(*sys.version_info[:3], free_threaded, sys._base_executable, sep="\\n")
"""
_IS_INSTALLED = """
import chinwag, sys
sys.exit(0 if chinwag.__file__.startswith(sys.prefix) else f"imported {chinwag.__file__}")
"""
_OF_THE_CHECKOUT = ("PYO3_PYTHON", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")


if __name__ == "__main__":
    sys.exit(main())

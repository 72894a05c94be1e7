"""The examples run as they are."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


PRINTED = {
    "digest.py": [
        "@cyd: since I last spoke I heard ann 2, bob 1",
        "@ann: since I last spoke I heard bob 1",
    ],
    "plain_script.py": [
        "@ann: you said hey / can you / summarise this thread?",
        "@bob: you said what time is it?",
    ],
    "webhook_threads.py": ["200 messages handled, 200 were duplicates"],
}
# These print nothing and end on a signal: tests/test_servers.py runs them and talks to them.
SERVERS = {"fastapi_room.py", "llm_room.py"}


@pytest.mark.parametrize(("script", "printed"), PRINTED.items())
def test_an_example_prints_what_it_promises(script: str, printed: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout.splitlines(), done.stderr, done.returncode) == (printed, "", 0)


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTED, *SERVERS}

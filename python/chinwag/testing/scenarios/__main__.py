"""The command: one line per scenario, then the sums."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from chinwag.testing.scenarios import features
from chinwag.testing.scenarios.expect import Verdict, compare
from chinwag.testing.scenarios.format import FormatError, Scenario, read
from chinwag.testing.scenarios.play import Record, play

EXIT_FAILED, EXIT_FORMAT = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run files of scenarios and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        scenarios = [scenario for path in options.files for scenario in read(path)]
        chosen = _choose(scenarios, options.only)
    except FormatError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FORMAT
    counts = Counter(_run(scenario, verbose=options.verbose) for scenario in chosen)
    _say(f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['SKIP']} skipped")
    return EXIT_FAILED if counts["FAIL"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chinwag.testing.scenarios",
        description="Run scenarios through the public API on a virtual clock.",
        epilog="Exit codes: 0 none failed, 1 some failed, 2 a file is not of the format.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a JSON file")
    parser.add_argument(
        "--only", action="append", metavar="ID", help="run this scenario; may be given again"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show calls, all problems, all unread checks"
    )
    return parser


def _choose(scenarios: list[Scenario], only: list[str] | None) -> list[Scenario]:
    if only is None:
        return scenarios
    unknown = set(only) - {scenario.id for scenario in scenarios}
    if unknown:
        raise FormatError(f"no scenario {', '.join(sorted(unknown))} in these files")
    return [scenario for scenario in scenarios if scenario.id in only]


def _run(scenario: Scenario, *, verbose: bool) -> str:
    if missing := features.missing(scenario):
        _say(f"SKIP {scenario.id}: needs {', '.join(missing)}")
        return "SKIP"
    record = play(scenario)
    verdict = compare(scenario, record)
    outcome = "FAIL" if verdict.problems else "PASS"
    _say(_line(outcome, scenario, verdict))
    if verbose:
        _explain(record, verdict)
    return outcome


def _line(outcome: str, scenario: Scenario, verdict: Verdict) -> str:
    line = f"{outcome} {scenario.id}"
    if verdict.problems:
        line += f": {verdict.problems[0]}"
        if more := len(verdict.problems) - 1:
            line += f" (and {more} more)"
    if unread := len(verdict.not_evaluated):
        line += f" ({unread} {'check' if unread == 1 else 'checks'} in words not evaluated)"
    return line


def _explain(record: Record, verdict: Verdict) -> None:
    for call in record.calls:
        end = f"{call.end} at {call.ended_ms:g}" if call.ended_ms is not None else call.end
        _say(f"    call {call.n} {call.group} [{', '.join(call.ids)}] {call.started_ms:g}, {end}")
    for push in record.pushes:
        if push.state != "done":
            _say(f"    push {push.arrival.id} at {push.arrival.t_ms:g}: {push}")
    for problem in verdict.problems:
        _say(f"    {problem}")
    for text in verdict.not_evaluated:
        _say(f"    not evaluated: {text}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())

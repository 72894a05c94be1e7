"""The command `chinwag`: real group chat through a real queue, from the shell.

Exit codes: 0 everything was handled; 1 something was lost, out of order or failed; 2 the command
or its input was wrong; 130 interrupted. Results go to stdout, the live table to stderr, and that
only if it is a terminal.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import json
import math
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import pairwise
from textwrap import dedent
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import click

from chinwag._checks import words
from chinwag.config import Config, parse, read
from chinwag.errors import ConfigError, Imbalance, TraceError
from chinwag.settings import PARTS, Setting
from chinwag.stats import human_s

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from chinwag.demo import Room
    from chinwag.replay import HandlerTime, Replay, Report
    from chinwag.traces import Trace

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["cli", "main"]

_INTERRUPTED = 130
_DEFAULT = click.core.ParameterSource.DEFAULT
_SLOWEST, _FASTEST = 1e-3, 1e6
_PERCENTILES = ("wait p50", "p95", "p99")
_METAVARS = {
    "_s": "SECONDS",
    "bands": "TABLES",
    "rate": "N[,BURST]",
    "rate_per_group": "N[,BURST]",
}
_COLUMNS = (
    "recording",
    "messages",
    "groups",
    "senders",
    "calls",
    "messages per call",
    "wait p50",
    "wait p95",
    "wait p99",
    "lost",
)

_PLAIN, _SETTINGS = "Options", "Settings of the queue"


def main() -> None:
    """Run the command and end the process with its exit code."""
    # A reader that has seen enough, such as `head`, ends the command without a word.
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        code = cli.main(prog_name="chinwag", standalone_mode=False)
    except click.Abort:
        code = _INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    sys.exit(code)


class _BadInput(click.ClickException):
    exit_code = 2


class _Command(click.Command):
    """Shows settings of the queue apart from the options of the command."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {_PLAIN: [], _SETTINGS: []}
        keys = Config().flat()
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and isinstance(param, click.Option):
                sections[_SETTINGS if param.name in keys else _PLAIN].append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _reads(read: Callable[[str], object]) -> Callable[..., object]:
    """Make a callback that turns the text of an option into what it says."""

    def callback(_ctx: click.Context, _param: click.Parameter, text: str | None) -> object:
        try:
            return None if text is None else read(text)
        except ConfigError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _read_speed(text: str) -> float:
    with contextlib.suppress(ValueError):
        speed = math.inf if text == "max" else float(text)
        if _SLOWEST <= speed <= _FASTEST or speed == math.inf:
            return speed
    raise ConfigError(f"{text!r}: must be from {_SLOWEST:g} to {_FASTEST:,.0f}, or max")


def _read_handler_s(text: str) -> HandlerTime:
    from chinwag.replay import HandlerTime

    return HandlerTime.parse(text)


def _setting_options(command: F) -> F:
    """Add an option for every setting, in the order of the configuration."""
    for part in reversed(tuple(PARTS.values())):
        docs, kinds = _field_docs(part), get_type_hints(part)
        for field in reversed(fields(part)):
            if field.metadata.get("in_code"):
                continue
            command = _setting_option(field.name, kinds[field.name], docs, field.default)(command)
    return command


def _setting_option(
    key: str, kind: Any, docs: Mapping[str, str], default: Setting
) -> Callable[[F], F]:
    flag = key.replace("_", "-")
    shown = _shown(default)
    about = f"{docs.get(key, '')}  [default: {shown}]".strip()
    if kind is bool:
        return click.option(f"--{flag}/--no-{flag}", key, default=None, help=about)
    metavar = "|".join(words(kind)) or _METAVARS.get(key) or _METAVARS.get(key[-2:], "N")
    callback = _reads(partial(parse, key))
    return click.option(f"--{flag}", key, callback=callback, metavar=metavar, help=about)


def _shown(value: Setting) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "none" if value is None else str(value)


def _field_docs(part: type[Any]) -> dict[str, str]:
    """Read the first sentence that stands under each field, so that it is written once."""
    try:
        tree = ast.parse(dedent(inspect.getsource(part)))
    except OSError:  # installed without sources: options work, their help is shorter
        return {}
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    docs = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    docs[node.target.id] = " ".join(text.split(". ")[0].split()).rstrip(".") + "."
    return docs


def _replay_options(command: F) -> F:
    for option in reversed(
        (
            click.option(
                "--handler-s",
                callback=_reads(_read_handler_s),
                metavar="SECONDS",
                default="0.3-2",
                show_default=True,
                help="How long a simulated call takes: 1.5, 0.3-2 or 0.3,2 (evenly between), or "
                "exp:1.2 (exponential, by its mean).",
            ),
            click.option(
                "--limit",
                type=click.IntRange(min=1),
                metavar="N",
                help="Replay only the first N messages of each recording.",
            ),
            click.option(
                "--flush-mentions",
                is_flag=True,
                help="Hand over at once what mentions somebody, with what waits before it.",
            ),
            click.option("--json", "form", flag_value="json", help="Print one object a line."),
            click.option("--markdown", "form", flag_value="markdown", help="Print a table."),
            click.option(
                "--config",
                "config_file",
                type=click.Path(exists=True, dir_okay=False),
                metavar="FILE.toml",
                help="Settings of the queue; those given as options go before.",
            ),
        )
    ):
        command = option(command)
    return _setting_options(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chinwag", message="chinwag %(version)s")
def cli() -> None:
    """Decide when, in which order and together with what group-chat messages are handled."""


@cli.command(cls=_Command)
@click.option(
    "--speed",
    callback=_reads(_read_speed),
    metavar="N|max",
    default="60",
    show_default=True,
    help="How many times faster than recorded; max takes no real time for waiting.",
)
@_replay_options
@click.pass_context
def demo(ctx: click.Context, /, speed: float, **options: Any) -> None:
    """Replay two real rooms and watch them being handled.

    One is the chat beside a video premiere, dense and with thousands of people; the other is
    hundreds of conversations of two. Both go at the same time, through a queue each. Settings
    are durations of the room: at a speed of 60, --quiet-s 2 is a thirtieth of a second.
    """
    from chinwag.demo import rooms

    given = _given(options)
    recorded = rooms()
    replays = [
        _replay(room.trace, _config(options["config_file"], room.settings, given), speed, options)
        for room in recorded
    ]
    if options["form"] is None:
        _introduce(recorded, speed)
    ctx.exit(_present([replays], options["form"]))


@cli.command(cls=_Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--speed",
    callback=_reads(_read_speed),
    metavar="N|max",
    default="max",
    show_default=True,
    help="How many times faster than recorded; max takes no real time for waiting.",
)
@click.option(
    "--policies",
    is_flag=True,
    help="Compare what the busy policies come to, instead of replaying once; see above.",
)
@_replay_options
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    speed: float,
    policies: bool,
    **options: Any,
) -> None:
    """Replay your own recordings, one after the other.

    FILES are .csv, .jsonl or .npz with the columns ts_ms (or t_s in seconds, or at as a date),
    group and sender. With --speed max, time is virtual: a year passes in seconds, and waits are
    exact. Otherwise settings are durations of the room: at a speed of 60, --quiet-s 2 is a
    thirtieth of a second.

    --policies replays each recording once for every busy policy, on virtual time, with calls that
    take as long for the same message under each. quiet_s is 0, except in one row, where it is 2
    unless given. Under inject a call takes what is in its inbox before it answers, thinks about
    that, and looks again; under resume it begins anew. Its columns:

    \b
    calls per turn  Calls made, those that were ended included. A turn is what
                    somebody writes in a row: each message within
                    back_to_back_s of their one before in the group, whoever
                    writes in between.
    answers         Calls that returned: each has posted one.
    to half a turn  Which part of them had not all messages of every turn that
                    they were about.
    unanswered      Messages in no answer: refused, or abandoned.
    added wait      From a turn's last answered message until the call that
                    answered it got it: at its start, or from its inbox.
    """  # noqa: D301 - what click reads is that very sign
    from chinwag import traces

    config = _config(options["config_file"], {}, _given(options))
    try:
        loaded = [traces.load(file) for file in files]
    except (TraceError, OSError) as error:
        raise _BadInput(str(error)) from None
    for trace in loaded:
        if trace.moved:
            click.echo(
                f"{trace.name}: not in the order of time; {trace.moved:,} rows were moved",
                err=True,
            )
    if policies:
        _check_policies(speed)
        ctx.exit(_compare(loaded, config, options))
    ctx.exit(_present(([_replay(t, config, speed, options)] for t in loaded), options["form"]))


def _check_policies(speed: float) -> None:
    """Refuse what says nothing beside --policies."""
    ctx = click.get_current_context()
    for key in ("on_busy", "interrupted"):
        if ctx.get_parameter_source(key) is not _DEFAULT:
            flag = key.replace("_", "-")
            raise click.UsageError(f"--{flag} is what --policies compares; leave one of them out")
    if speed != math.inf:
        raise click.UsageError("--policies takes no real time; leave --speed out")


def _compare(loaded: list[Trace], config: Config, options: Mapping[str, Any]) -> int:
    """Measure every policy on each recording, print a table for each; return the exit code."""
    from chinwag.policies import COLUMNS, Comparison
    from chinwag.replay import run

    form, limit = options["form"], options["limit"]
    for number, trace in enumerate(loaded):
        comparison = Comparison(
            trace=trace if limit is None else trace.head(limit),
            base=config,
            handler_s=options["handler_s"],
            flush_mentions=options["flush_mentions"],
        )
        turns = comparison.turns()
        rows = []
        try:
            for trial in comparison.trials():
                with _live([trial]):
                    run(trial)
                rows.append(trial.row(turns))
        except ConfigError as error:
            raise _BadInput(f"not every policy can be had with these settings: {error}") from None
        except Imbalance as error:
            raise click.ClickException(f"the books do not balance: {error}") from None
        except KeyboardInterrupt:
            return _INTERRUPTED
        if form == "json":
            click.echo(json.dumps(comparison.as_dict(turns, rows), allow_nan=False))
            continue
        if number:
            click.echo()
        _print_table(
            comparison.caption(turns),
            COLUMNS,
            [row.cells() for row in rows],
            markdown=form == "markdown",
        )
    return 0


def _print_table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool
) -> None:
    """Print a table whose first column says what the others are about."""
    if markdown:
        click.echo(f"{caption}\n")
        _head(columns, left=1)
        for row in rows:
            _row(row)
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, title in enumerate(columns):
        table.add_column(
            title,
            justify="right" if number else "left",
            no_wrap=not number,
            min_width=max(map(len, (*title.split(), *(row[number] for row in rows)))),
        )
    for row in rows:
        table.add_row(*row)
    out = _out()
    out.print(caption, soft_wrap=True)
    out.print(table)


@cli.command
@click.option("--markdown", is_flag=True, help="Print a table for a page.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="How long the calls take: 0.5 to 1.5 s, one random series for each seed.",
)
def fairness(*, markdown: bool, seed: int) -> None:
    """Let one flood, and show how long the others wait.

    Rooms of 3, 10, 30 and 100 senders, one call at a time: one of them floods, of the others nine
    at most have a question out at a time. Then 100 rooms with ten calls at a time in all: one of
    them floods, each of the others has a question out.

    It shows the flood's share of the calls, and the waits of the others, where each message is a
    call of its own, and where what waits of a sender is merged into one call, as it is by default.
    Time is virtual, five minutes of it; a wait with > before it had not ended by then.
    """
    from chinwag.fairness import COLUMNS, measure

    if markdown:
        _head(COLUMNS, left=2)
        for row in measure(seed):
            _row(row.cells())
        return
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, title in enumerate(COLUMNS):
        table.add_column(title, justify="left" if number < 2 else "right", no_wrap=number < 2)
    before = None
    for row in measure(seed):
        where, *cells = row.cells()
        table.add_row("" if where == before else where, *cells)
        before = where
    out = _out()
    out.print(table)
    out.print("* the default there", style="dim")


def _introduce(recorded: list[Room], speed: float) -> None:
    out = _out()
    pace = "on a virtual clock" if speed == math.inf else f"at {speed:g} times their speed"
    out.print(f"Two recorded rooms {pace}, against a simulated handler:")
    for room in recorded:
        out.print(f"- {room.trace.name}: {room.about}", soft_wrap=True)
    out.print()
    sys.stdout.flush()


def _given(options: Mapping[str, Any]) -> dict[str, Setting]:
    """Pick the settings among the options; `none` may have been said, so None is no sign."""
    ctx = click.get_current_context()
    return {
        key: options[key]
        for key in Config().flat()
        if key in options and ctx.get_parameter_source(key) is not _DEFAULT
    }


def _config(file: str | None, first: Mapping[str, Setting], given: Mapping[str, Setting]) -> Config:
    try:
        if file is not None:
            Config.load(file)  # checked by itself, so that the message names the file
        return Config.of(**{**first, **(read(file) if file else {}), **given})
    except (ConfigError, OSError) as error:
        raise _BadInput(str(error)) from None


def _replay(trace: Trace, config: Config, speed: float, options: Mapping[str, Any]) -> Replay:
    from chinwag.replay import Replay

    limit = options["limit"]
    try:
        return Replay(
            trace if limit is None else trace.head(limit),
            config,
            speed=None if speed == math.inf else speed,
            handler_s=options["handler_s"],
            flush_mentions=options["flush_mentions"],
            seed=config.order.seed,
        )
    except ConfigError as error:  # a duration that is too long once it is slowed down
        raise _BadInput(f"at a speed of {speed:g}, {error}") from None


def _present(runs: Iterable[list[Replay]], form: str | None) -> int:
    """Run what goes side by side, one group after the other; print it; return the exit code."""
    from chinwag.replay import run

    code = 0
    for number, replays in enumerate(runs):
        interrupted = False
        with _live(replays):
            try:
                run(*replays)
            except KeyboardInterrupt:
                interrupted = True
        try:
            reports = [replay.report() for replay in replays]
        except Imbalance as error:
            raise click.ClickException(f"the books do not balance: {error}") from None
        _print(reports, form, first=number == 0)
        if interrupted:
            return _INTERRUPTED
        code = max(code, *(0 if report.ok else 1 for report in reports))
    return code


def _print(reports: list[Report], form: str | None, *, first: bool) -> None:
    if form == "json":
        for report in reports:
            click.echo(json.dumps(report.as_dict(), allow_nan=False))
    elif form == "markdown":
        if first:
            _head(_COLUMNS, left=1)
        for report in reports:
            _row(_cells(report))
    else:
        out = _out()
        out.print(_summary(reports))
        out.print(_verdict(reports), soft_wrap=True)
    sys.stdout.flush()


def _head(columns: Sequence[str], *, left: int) -> None:
    """Begin a table in Markdown; so many columns are texts."""
    _row(columns)
    _row(["---"] * left + ["---:"] * (len(columns) - left))


def _row(cells: Iterable[str]) -> None:
    click.echo(f"| {' | '.join(cells)} |")


def _cells(report: Report) -> list[str]:
    wait = report.wait_s
    return [
        report.name,
        f"{report.pushed:,}",
        f"{report.groups:,}",
        f"{report.senders:,}",
        f"{report.calls:,}",
        _figure(report.messages_per_call),
        *(_span(q) for q in (wait.p50, wait.p95, wait.p99)),
        f"{report.lost:,}",
    ]


def _summary(reports: list[Report]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", style="dim", no_wrap=True)
    for report in reports:
        table.add_column(report.name, overflow="fold")
    rows = [dict(_lines(report)) for report in reports]
    for label in dict.fromkeys(label for row in rows for label in row):
        table.add_row(label, *(row.get(label, "-") for row in rows))
    return table


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    wait, size = report.wait_s, report.batch_size
    yield "recorded", f"{human_s(report.span_s)}"
    yield "groups", f"{report.groups:,}"
    yield "senders", f"{report.senders:,}"
    changed = ", ".join(f"{key}={_shown(value)}" for key, value in report.settings.items())
    yield "settings", changed or "all default"
    yield "messages in", f"{report.accepted:,}"
    for reason, count in report.refused.items():
        yield f"refused ({reason})", f"{count:,}"
    yield "calls made", f"{report.calls:,}"
    if report.failed_calls:
        yield "calls failed" if report.finished else "calls cut short", f"{report.failed_calls:,}"
    yield (
        "messages a call",
        f"{_figure(size.mean)} (p95 {_figure(size.p95)}, max {_figure(size.max)})",
    )
    yield "back-to-back runs", f"{report.back_to_back:,}"
    yield "bursts", f"{report.bursts:,}"
    yield "wait p50", _span(wait.p50)
    yield "wait p95", _span(wait.p95)
    yield "wait p99", _span(wait.p99)
    yield "handler took", f"{_span(report.handling_s.mean)} (p95 {_span(report.handling_s.p95)})"
    yield "windows closed by", _counts(report.closed_by)
    if report.speed is not None:
        yield "pushed late", f"up to {_span(report.late_s)}"
    yield "ledger", str(report.ledger)


def _verdict(reports: list[Report]) -> Text:
    from rich.text import Text

    messages = sum(report.accepted for report in reports)
    calls = sum(report.calls for report in reports)
    elapsed_s = max(report.elapsed_s for report in reports)
    done = f"{messages:,} messages in {calls:,} calls within {human_s(elapsed_s)} of real time"
    if not all(report.finished for report in reports):
        done = f"interrupted after {done}"
    faults: Counter[str] = sum((Counter(report.faults) for report in reports), Counter())
    if faults:
        named = ", ".join(f"{count:,} {fault}" for fault, count in faults.items())
        return Text(f"\n{done}: {named}.", style="bold red")
    order = "" if any(report.out_of_order for report in reports) else ", each sender in order"
    return Text(f"\n{done}: nothing lost, nothing twice{order}.", style="green")


@contextlib.contextmanager
def _live(replays: list[Replay]) -> Iterator[None]:
    """Show figures while it runs, from a thread of its own: virtual time leaves no gap for them."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    from rich.live import Live

    with Live(
        get_renderable=lambda: _table(replays),
        console=console,
        refresh_per_second=8,
        transient=True,
    ):
        yield


def _table(replays: list[Replay]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("room", no_wrap=True, max_width=20)
    for title in ("at", "in", "groups", "waiting", "running", "calls", "a call", *_PERCENTILES):
        table.add_column(title, justify="right", no_wrap=True)
    for replay in replays:
        stats = replay.stats
        wait = replay.waits(stats)
        table.add_row(
            replay.trace.name,
            human_s(replay.room_s),
            f"{stats.total_messages:,}",
            f"{stats.groups:,}",
            f"{stats.waiting:,}",
            f"{stats.running:,}",
            f"{stats.calls:,}",
            _figure(stats.batch_size.mean if stats.calls else None),
            *(_span(q) for q in (wait.p50, wait.p95, wait.p99)),
        )
    return table


def _out() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else human_s(seconds)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.2f}"


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "-"

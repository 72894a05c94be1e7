"""What the pictures have in common: their frame, their colours, and how they are written."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"

MINUS = "\N{MINUS SIGN}"


def svg(
    title: str,
    told: str,
    size: tuple[float, float],
    lines: Iterable[str],
    *,
    legend: str,
    style: str = "",
) -> str:
    """Frame a picture.

    Args:
        title: What it shows.
        told: The same in words, for whoever cannot see it.
        size: Width and height.
        lines: What is drawn.
        legend: What the signs mean.
        style: Beside what all pictures have.
    """
    width, height = size
    labels = f'width="{width:g}" height="{height:g}" role="img" aria-labelledby="t d"'
    framed = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" {labels}>',
        f'<title id="t">{escape(title, quote=False)}</title>',
        f'<desc id="d">{escape(told, quote=False)}</desc>',
        f"<style>{STYLE}{style}</style>",
        f'<rect class="page" width="{width:g}" height="{height:g}" rx="6"/>',
        f'<text class="title" x="12" y="22">{escape(title, quote=False)}</text>',
        *lines,
        f'<text class="note" x="12" y="{height - 10:g}">{escape(legend)}</text>',
        "</svg>",
    ]
    return "\n".join(framed) + "\n"


def figure(value: float) -> str:
    """Show at most two digits behind the point."""
    return f"{value + 0:.2f}".rstrip("0").rstrip(".").replace("-", MINUS)


def joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join spans that overlap, and leave out empty ones."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif begin < end:
            found.append((begin, end))
    return found


def main(about: str, made: Callable[[], Mapping[Path, str]]) -> int:
    """Write what a script makes, or compare it with what is there."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it would")
    check = parser.parse_args().check
    files = made()
    stale = [
        path
        for path, text in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if check:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what a run gives", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(files[path], encoding="utf-8", newline="\n")
    return 0


# Its own ground, so that it can be read whatever the page around it looks like.
STYLE = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}"
    ".page{fill:#fff;stroke:#d1d9e0}.title,.name,.next{font-weight:600}"
    ".note,.key{fill:#59636e;font-size:11px}.next{font-size:11px}"
    ".grid{stroke:#d1d9e0;stroke-dasharray:2 3}"
    ".wait{stroke:#818b98;stroke-width:2;stroke-dasharray:5 3}"
    ".here{fill:#59636e}.call{fill:#fff;font-weight:600}.call,.at{text-anchor:middle}"
    ".c0{fill:#0969a8}.c1{fill:#a84300}.c2{fill:#0f7a55}.c3{fill:#7d4bb0}"
    "@media (prefers-color-scheme:dark){text{fill:#f0f6fc}.page{fill:#151b23;stroke:#3d444d}"
    ".note,.key{fill:#9198a1}.grid{stroke:#3d444d}.wait{stroke:#656c76}.here{fill:#9198a1}"
    ".call{fill:#fff}}"
)

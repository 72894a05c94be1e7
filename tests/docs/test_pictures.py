"""The pictures and tables of the docs are what a queue does, and can be read."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "pictures"
PICTURES = sorted(FOLDER.glob("*.svg"))
SCRIPTS = ["order", "busy"]


@lru_cache
def script(name: str) -> ModuleType:
    path = FOLDER / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name}_pictures", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(FOLDER))  # as for a script that is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.fixture
def generator() -> ModuleType:
    return script("order")


@pytest.fixture
def scenes() -> ModuleType:
    return script("busy")


@pytest.mark.parametrize("name", SCRIPTS)
def test_pictures_and_tables_are_what_a_run_gives(name: str) -> None:
    """Run docs/pictures/order.py or busy.py where they are not."""
    made = script(name).made()

    assert made == {path: path.read_text(encoding="utf-8") for path in made}
    assert {path for path in made if path.suffix == ".svg"} == set(FOLDER.glob(f"{name}-*.svg"))


def test_every_picture_is_made_by_a_script() -> None:
    assert [path.name for path in PICTURES if path.name.split("-")[0] not in SCRIPTS] == []


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_shown_somewhere(path: Path) -> None:
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]

    assert any(f"](pictures/{path.name})" in page for page in pages)


def test_a_message_is_drawn_where_it_was_handed_over(scenes: ModuleType) -> None:
    """All that is accepted is in a call, and a call has nothing that nobody wrote."""
    for scene in scenes.SCENES.values():
        story = scenes.play(scene)
        accepted = {what for _, _, what, refused in story.pushes if not refused}

        assert {what for call in story.calls for what in call.handed} == accepted


def test_the_largest_key_is_next(generator: ModuleType) -> None:
    for example in generator.EXAMPLES.values():
        for start in generator.play(example):
            best = max(claim.key for claim in start.claims.values())

            assert start.claims[start.name].key == best, (example.title, start.at)


def test_two_digits_tell_keys_apart(generator: ModuleType) -> None:
    for example in generator.EXAMPLES.values():
        for start in generator.play(example):
            keys = sorted({claim.key for claim in start.claims.values()})

            assert all(above - below >= 0.01 for below, above in pairwise(keys)), start.at


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_and_says_what_it_shows(path: Path) -> None:
    picture = ElementTree.parse(path).getroot()

    svg = "{http://www.w3.org/2000/svg}"
    assert path.stat().st_size < 20_000
    assert picture.findtext(f"{svg}title")
    assert picture.findtext(f"{svg}desc")


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(path: Path, scheme: str) -> None:
    """At least 4.5 to 1, as WCAG AA asks of small text."""
    style = ElementTree.parse(path).getroot().findtext("{http://www.w3.org/2000/svg}style")
    assert style is not None
    colours = colours_of(style, scheme)

    for words, ground in [
        *((name, ".page") for name in ("text", ".note", ".key")),
        *((".call", name) for name in colours if name.startswith(".c") and name != ".call"),
        *((".was", name) for name in colours if name == ".ended"),
    ]:
        assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground)


def colours_of(style: str, scheme: str) -> dict[str, str]:
    """What holds in a scheme: a picture may have styles of its own behind those of all."""
    parts = re.split(r"@media \(prefers-color-scheme:dark\)\{(.*?\})\}", style)
    found: dict[str, str] = {}
    for number, part in enumerate(parts):
        if not number % 2 or scheme == "dark":
            found |= fills(part)
    return found


def fills(style: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for rule in style.split("}"):
        names, _, what = rule.partition("{")
        for part in what.split(";"):
            if part.startswith("fill:"):
                found |= dict.fromkeys(names.split(","), part.removeprefix("fill:"))
    return found


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

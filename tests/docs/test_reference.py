"""The reference says all that docstrings say, and nothing public goes without."""

import importlib.util
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))

PACKAGE = {
    "__init__.py": '''
        """Keeps tea warm."""
        from tea._core import Cup
        from tea.errors import Cold
        from tea.pot import Pot

        __all__ = ["Cold", "Cup", "Pot"]
    ''',
    "_core.pyi": '''
        """The compiled half."""
        from typing import Generic, TypeVar, overload

        _P_co = TypeVar("_P_co", covariant=True)

        class Core(Generic[_P_co]):
            """Use Pot."""
            @overload
            def pour(self, into: None = None) -> Cup[_P_co]: ...
            @overload
            def pour(self, into: Cup[_P_co], /, *, fill: float = 1) -> None:
                """Fill a cup, or a new one.

                Args:
                    fill: How much of it, unless `lid` is on.

                Raises:
                    Cold, ValueError: See `Pot.warm()`.
                """
            def _leak(self) -> None: ...

        class Cup(Generic[_P_co]):
            """What `Pot.pour` gives; never empty."""
            @property
            def tea(self) -> _P_co:
                """What is in it."""
    ''',
    "pot.py": '''
        """The pot."""
        from tea import _core
        from tea._core import Cup

        class Pot(_core.Core[str]):
            """Holds tea.

            Args:
                lid: Whether it has one.
            """

            def __init__(self, lid: bool = True, **settings: "float") -> None:
                self.lid = lid
                self.full = True
                """Whether anything is left."""
                self._heat = 1

            async def warm(self) -> Cup[str]:
                """Warm it by `warm_s`."""
    ''',
    "settings.py": '''
        """Settings."""
        from dataclasses import dataclass, field

        __all__ = ["Cosy"]

        @dataclass(frozen=True, kw_only=True)
        class Cosy:
            """What keeps it warm."""

            warm_s: float = 60.0
            """How long. Default 60."""

            wool: list[str] = field(default_factory=list)
    ''',
    "errors.py": '''
        """What goes wrong."""

        __all__ = ["Cold"]

        class Cold(Exception):
            """It is cold | stale."""
    ''',
}

MADE = "<!-- Made by docs/reference.py from the docstrings: edit those and run make reference. -->"

FIRST = """
# `tea`

Keeps tea warm.

| Name | |
| --- | --- |
| [`Cold`](errors.md#cold) | It is cold \\| stale |
| [`Cup`](#cup) | What `Pot.pour` gives |
| [`Pot`](#pot) | Holds tea |

| Module | |
| --- | --- |
| [`tea.settings`](settings.md) | Settings |
| [`tea.errors`](errors.md) | What goes wrong |

## `Pot`

```python no-run
Pot(lid: bool = True, **settings: float)
```

Holds tea.

**Args**

- `lid`: Whether it has one.

**Attributes**

- `full`: Whether anything is left.

### `Pot.pour`

```python no-run
pour(into: None = None) -> Cup[P]
pour(into: Cup[P], /, *, fill: float = 1) -> None
```

Fill a cup, or a new one.

**Args**

- `fill`: How much of it, unless `lid` is on.

**Raises**

- [`Cold`](errors.md#cold), `ValueError`: See [`Pot.warm()`](#potwarm).

### `Pot.warm`

```python no-run
async warm() -> Cup[str]
```

Warm it by [`warm_s`](settings.md#warm_s).

**Returns**

- [`Cup[str]`](#cup)

## `Cup`

What [`Pot.pour`](#potpour) gives; never empty.

**Attributes**

- `tea: P`: What is in it.
"""

CONFIG = """
# `tea.settings`

Settings.

## `Cosy`

*Dataclass: frozen, keyword-only.*

What keeps it warm.

**Attributes**

- `wool: list[str] = list()`

### `warm_s`

```python no-run
warm_s: float = 60.0
```

How long. Default 60.
"""


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "tea").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "tea" / name).write_text(textwrap.dedent(text).lstrip(), encoding="utf-8")
    return tmp_path


def test_docstrings_and_stubs_become_pages(generator: ModuleType, package: Path) -> None:
    pages = generator.reference(package, "tea", ("settings", "errors"))

    assert (pages["tea.md"], pages["settings.md"]) == (f"{MADE}\n{FIRST}", f"{MADE}\n{CONFIG}")
    assert list(pages) == ["settings.md", "errors.md", "tea.md"]


@pytest.mark.parametrize(
    ("file", "docstring", "fault"),
    [
        ("pot.py", '"""Warm it by `warm_s`."""', "pot.py:18: tea.pot.Pot.warm has no docstring"),
        ("_core.pyi", '"""What is in it."""', "_core.pyi:25: tea._core.Cup.tea has no docstring"),
        ("errors.py", '"""It is cold | stale."""', "errors.py:5: tea.errors.Cold has no docstring"),
        ("settings.py", '"""Settings."""', "settings.py:1: tea.settings has no docstring"),
    ],
)
def test_a_public_name_without_docstring_is_refused(
    file: str, docstring: str, fault: str, generator: ModuleType, package: Path
) -> None:
    path = package / "tea" / file
    path.write_text(path.read_text("utf-8").replace(docstring, "..."), encoding="utf-8")

    with pytest.raises(generator.UnclearError) as caught:
        generator.reference(package, "tea", ("settings", "errors"))

    assert str(caught.value).endswith(fault)


def test_an_export_that_is_not_there_is_refused(generator: ModuleType, package: Path) -> None:
    path = package / "tea" / "errors.py"
    path.write_text(path.read_text("utf-8").replace('["Cold"]', '["Cold", "Hot"]'), "utf-8")

    with pytest.raises(generator.UnclearError, match=r"tea\.errors\.__all__ lists Hot"):
        generator.reference(package, "tea", ("settings", "errors"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings(page: Path) -> None:
    links = re.findall(r"\]\((?P<page>[^)#]*)#?(?P<anchor>[^)]*)\)", page.read_text("utf-8"))

    lost = [link for link in links if link[1] and link[1] not in headings(page, link[0])]

    assert lost == []


def headings(page: Path, name: str) -> list[str]:
    """Anchors as hosts of Markdown make them: lower case, without dots and backticks."""
    text = (page.parent / (name or page.name)).read_text("utf-8")
    return [re.sub(r"[`.]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.M)]

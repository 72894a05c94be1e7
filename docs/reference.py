"""Write `docs/reference/` from the docstrings of the package; `make reference` calls it.

A page shows what its module lists in `__all__`; the first one shows what the package exports from
anywhere else, the compiled module by its stub. A public name without a docstring is an error. Only
a field of a dataclass may speak for itself.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import griffe

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "chinwag"
MODULES = (
    "columns",
    "config",
    "context",
    "errors",
    "events",
    "explain",
    "settings",
    "stats",
    "stream",
    "testing",
)

Entry: TypeAlias = griffe.Class | griffe.Function | griffe.Attribute


class UnclearError(Exception):
    """Docstrings are missing, or say what cannot be shown; one line for each."""


def main() -> int:
    """Write the pages, or compare them with those that are there."""
    parser = argparse.ArgumentParser(description="Write docs/reference from the docstrings.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if it would")
    check = parser.parse_args().check
    try:
        pages = reference(ROOT / "python", PACKAGE, MODULES)
    except UnclearError as error:
        print(error, file=sys.stderr)
        return 1
    folder = ROOT / "docs" / "reference"
    stale = []
    for path in sorted({*folder.glob("*.md"), *(folder / name for name in pages)}):
        old = path.read_text(encoding="utf-8") if path.exists() else None
        new = pages.get(path.name)
        if old == new:
            continue
        stale.append(path)
        if check:
            print(_difference(path.relative_to(ROOT).as_posix(), old or "", new or ""))
        elif new is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(new, encoding="utf-8", newline="\n")
    if check and stale:
        print("docs/reference differs from the docstrings; run: make reference", file=sys.stderr)
        return 1
    return 0


def reference(source: Path, package: str, modules: Sequence[str]) -> dict[str, str]:
    """Make the pages, by their file names.

    Raises:
        UnclearError: A public name has no docstring, or one that cannot be shown.
    """
    root = griffe.load(
        package,
        search_paths=[source],
        docstring_parser="google",
        docstring_options={"warnings": False, "returns_named_value": False},
        allow_inspection=False,
        resolve_aliases=True,
    )
    assert isinstance(root, griffe.Module)
    book = _Book()
    exported = _entries(root)
    shown = {name: _entries(root[name]) for name in modules}
    elsewhere = {entry.path for entries in shown.values() for entry in entries}
    rest = [entry for entry in exported if entry.path not in elsewhere]
    first = _Page(package, book, root, rest)
    pages = [first, *(_Page(name, book, root[name], shown[name]) for name in modules)]
    for page in pages:
        page.register()
    texts = {f"{page.name}.md": page.text() for page in pages[1:]}
    names = sorted(exported, key=lambda entry: entry.name)
    contents = [first.table("Name", names), first.table("Module", [p.module for p in pages[1:]])]
    texts[f"{package}.md"] = first.text(contents)
    if book.faults:
        raise UnclearError("\n".join(sorted(book.faults)))
    return texts


@dataclass
class _Book:
    """What the pages share."""

    links: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Where something is shown, page and anchor: by its path, and by what prose calls it."""
    faults: set[str] = field(default_factory=set)

    def add(self, page: str, anchor: str, *names: str) -> None:
        for name in names:
            self.links.setdefault(name, []).append((page, anchor))


@dataclass
class _Page:
    name: str
    book: _Book
    module: griffe.Module
    entries: list[Entry]
    subject: Entry | None = None
    """What is being described: it needs no link to itself."""

    def register(self) -> None:
        """Tell where everything on this page is."""
        self.book.add(self.name, "", self.module.path)
        for entry in self.entries:
            self.book.add(self.name, _slug(entry.name), entry.path, entry.name)
            if not isinstance(entry, griffe.Class):
                continue
            for member in self._members(entry):
                qualified = f"{entry.name}.{member.name}"
                if isinstance(member, griffe.Function):
                    self.book.add(self.name, _slug(qualified), qualified)
                elif self._is_setting(member):
                    self.book.add(self.name, _slug(member.name), qualified, member.name)
                else:
                    self.book.add(self.name, _slug(entry.name), qualified)

    def text(self, contents: Sequence[str] = ()) -> str:
        """Write the page."""
        parts = [_MADE, f"# `{self.module.path}`", *self._said(self.module), *contents]
        for entry in self.entries:
            self.subject = entry
            parts += [f"## `{entry.name}`", *self._entry(entry)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def table(self, head: str, rows: Iterable[Entry | griffe.Module]) -> str:
        """List names with the first sentence of what is said of each."""
        lines = [f"| {head} | |", "| --- | --- |"]
        for row in rows:
            if row.docstring is None:
                continue  # told where it is shown
            name = row.path if isinstance(row, griffe.Module) else row.name
            summary = " ".join(row.docstring.value.split("\n\n")[0].split())
            summary = re.split(r"(?<=\w[.:;])\s", summary)[0].rstrip(".:;").replace("|", "\\|")
            lines.append(f"| {self._link(f'`{name}`', row.path)} | {summary} |")
        return "\n".join(lines)

    def _entry(self, entry: Entry) -> list[str]:
        if isinstance(entry, griffe.Class):
            return self._class(entry)
        if isinstance(entry, griffe.Function):
            return self._function(entry)
        return [_code(f"{entry.name} = {_wrapped_union(entry)}"), *self._said(entry)]

    def _class(self, cls: griffe.Class) -> list[str]:
        parts = []
        if "dataclass" in cls.labels:
            options = "".join(str(decorator.value) for decorator in cls.decorators)
            words = [word for option, word in _DATACLASS.items() if option in options]
            parts.append(f"*Dataclass{': ' if words else ''}{', '.join(words)}.*")
        elif len(cls.parameters) > 1:
            parts.append(_code(_signature(cls.name, list(cls.parameters)[1:], None)))
        bases = [self._base(base) for base in cls.bases if not _is_private(base)]
        if bases:
            parts.append(f"Bases: {', '.join(bases)}")
        parts += self._said(cls)
        members = self._members(cls)
        values = [member for member in members if isinstance(member, griffe.Attribute)]
        listed = [self._value(cls, value) for value in values if not self._is_setting(value)]
        if listed:
            parts += ["**Attributes**", "\n".join(listed)]
        for value in values:
            if self._is_setting(value):
                head = _code(_declaration(cls, value))
                parts += [f"### `{value.name}`", head, *self._said(value)]
        for member in members:
            if isinstance(member, griffe.Function):
                parts += [f"### `{cls.name}.{member.name}`", *self._function(member)]
        return parts

    def _members(self, cls: griffe.Class) -> list[griffe.Function | griffe.Attribute]:
        """What users see of a class; what comes from a base that is not shown counts as its own."""
        found: dict[str, griffe.Object | griffe.Alias] = {}
        for base in reversed(cls.resolved_bases):
            if isinstance(base, griffe.Class) and _is_private(base.path):
                found |= {member.name: member for member in self._members(base)}
        stubs = {name: _documented(many) for name, many in cls.overloads.items() if many}
        own = sorted({**stubs, **cls.members}.values(), key=lambda member: member.lineno or 0)
        for member in own:
            if isinstance(member, griffe.Function | griffe.Attribute) and _is_shown(cls, member):
                found[member.name] = member
        return [m for m in found.values() if isinstance(m, griffe.Function | griffe.Attribute)]

    def _function(self, function: griffe.Function) -> list[str]:
        lines = []
        for one in _overloads(function):
            named = list(one.parameters)
            if isinstance(one.parent, griffe.Class) and "staticmethod" not in one.labels:
                named = named[1:]
            lines += [f"@{decorator}" for decorator in _decorators(one)]
            prefix = "async " if "async" in one.labels else ""
            lines.append(prefix + _signature(one.name, named, one.returns))
        parts = [_code("\n".join(lines)), *self._said(function)]
        returned = self._returned(function)
        if returned and "**Returns**" not in parts:
            place = parts.index("**Raises**") if "**Raises**" in parts else len(parts)
            parts[place:place] = ["**Returns**", f"- {returned}"]
        return parts

    def _returned(self, of: Entry | griffe.Module) -> str:
        """Link the type that a function returns; nothing if it is not shown anywhere."""
        code = of.returns if isinstance(of, griffe.Function) else None
        text = f"`{_plain(code or '')}`"
        link = self._link(text, _path(code))
        return "" if link == text else link

    def _value(self, cls: griffe.Class, value: griffe.Attribute) -> str:
        said = self._said(value, needed=value.name not in _fields(cls))
        text = "\n\n".join(said)
        return _item(self._link(f"`{_declaration(cls, value)}`", _path(value.annotation)), text)

    def _base(self, base: str | griffe.Expr) -> str:
        return self._link(f"`{_plain(base)}`", _path(base))

    def _is_setting(self, member: Entry) -> bool:
        """A documented field of the settings: it has a heading, so that pages can link to it."""
        return (
            self.name == _SETTINGS
            and isinstance(member, griffe.Attribute)
            and member.docstring is not None
            and "property" not in member.labels
        )

    def _said(self, of: Entry | griffe.Module, *, needed: bool = True) -> list[str]:
        """Tell what its docstring says."""
        if of.docstring is None:
            if needed:
                self._fault(of, "has no docstring")
            return []
        parts = []
        for section in of.docstring.parsed:
            match section:
                case griffe.DocstringSectionText():
                    parts.append(self._prose(section.value, of))
                case griffe.DocstringSectionParameters():
                    items = [(f"`{one.name}`", one.description) for one in section.value]
                    parts += self._list("Args", items, of)
                case griffe.DocstringSectionReturns() | griffe.DocstringSectionYields():
                    items = [(self._returned(of), one.description) for one in section.value]
                    parts += self._list(section.kind.value.capitalize(), items, of)
                case griffe.DocstringSectionRaises():
                    items = [(self._errors(one), one.description) for one in section.value]
                    parts += self._list("Raises", items, of)
                case _:
                    self._fault(of, f"has a section that is not shown: {section.kind.value}")
        return parts

    def _list(
        self, head: str, items: Iterable[tuple[str, str]], of: Entry | griffe.Module
    ) -> list[str]:
        lines = [_item(name, self._prose(text, of)) for name, text in items]
        return [f"**{head}**", "\n".join(lines)]

    def _errors(self, raised: griffe.DocstringRaise) -> str:
        names = _plain(raised.annotation or "").strip("()").split(", ")
        return ", ".join(self._link(f"`{name}`", name) for name in names)

    def _prose(self, text: str, of: Entry | griffe.Module) -> str:
        """Link what is shown here or on another page, outside of blocks of code."""
        own = {of.name, *(parameter.name for parameter in getattr(of, "parameters", ()))}

        def linked(code: re.Match[str]) -> str:
            name = re.sub(r"\(.*\)$", "", code["name"])
            near = f"{self.subject.name}.{name}" if self.subject else name
            if name in own:
                return code[0]
            return self._link(code[0], near if near in self.book.links else name)

        blocks = re.split(r"(^```.*?^```$|^ {4}[^\n]*$)", text, flags=re.MULTILINE | re.DOTALL)
        return "".join(
            part if index % 2 else _CODE.sub(linked, part) for index, part in enumerate(blocks)
        )

    def _link(self, text: str, name: str) -> str:
        places = self.book.links.get(name, [])
        # Two modules may have a name in common: the nearer one is meant.
        place = next((place for place in places if place[0] == self.name), None)
        page, anchor = place or (places[0] if places else ("", ""))
        here = (self.name, _slug(self.subject.name)) if self.subject else None
        if not page or (page, anchor) == here:
            return text
        target = "" if page == self.name else f"{page}.md"
        return f"[{text}]({target}{'#' if anchor else ''}{anchor})"

    def _fault(self, of: Entry | griffe.Module, what: str) -> None:
        self.book.faults.add(f"{of.relative_filepath}:{of.lineno or 1}: {of.path} {what}")


def _entries(module: griffe.Module) -> list[Entry]:
    """Find what a module exports, where it is defined."""
    found: list[Entry] = []
    for name in map(str, module.exports or ()):
        if name not in module.members:
            raise UnclearError(f"{module.path}.__all__ lists {name}, which is not there")
        entry = module[name]
        target = entry.final_target if isinstance(entry, griffe.Alias) else entry
        assert isinstance(target, Entry), f"{target.path} is no class, function or value"
        found.append(target)
    return sorted(found, key=_reading_order)


def _reading_order(entry: Entry) -> tuple[bool, bool, str, int]:
    """What a module begins with comes first; what users never make themselves comes later."""
    home = entry.module.path
    return (entry.name != _FIRST, _is_private(home), home, entry.lineno or 0)


def _is_shown(cls: griffe.Class, member: griffe.Function | griffe.Attribute) -> bool:
    if member.name.startswith("__"):
        made = member.name in ("__init__", "__new__")  # the class tells of it
        return isinstance(member, griffe.Function) and member.docstring is not None and not made
    if member.name.startswith("_"):
        return False
    # What __init__ only keeps is told by its arguments, unless it has a docstring of its own.
    kept = member.labels == {"instance-attribute"} and member.name not in _fields(cls)
    return member.docstring is not None or not kept


def _overloads(function: griffe.Function) -> list[griffe.Function]:
    stubs = function.parent.overloads if isinstance(function.parent, griffe.Class) else {}
    return function.overloads or stubs.get(function.name) or [function]


def _documented(overloads: Sequence[griffe.Function]) -> griffe.Function:
    return next((one for one in overloads if one.docstring), overloads[0])


def _fields(cls: griffe.Class) -> dict[str, griffe.Parameter]:
    return {one.name: one for one in cls.parameters} if "dataclass" in cls.labels else {}


def _path(code: str | griffe.Expr | None) -> str:
    """Say where a type is defined, whatever it is made of."""
    return code.canonical_path if isinstance(code, griffe.Expr) else code or ""


def _is_private(path: str | griffe.Expr) -> bool:
    words = _path(path).split(".")
    return any(word.startswith("_") for word in words) or words[-1] in ("Generic", "Protocol")


def _decorators(function: griffe.Function) -> list[str]:
    names = [decorator.callable_path.split(".")[-1] for decorator in function.decorators]
    return [name for name in names if name in _TOLD_DECORATORS]


def _declaration(cls: griffe.Class, value: griffe.Attribute) -> str:
    kept = _fields(cls).get(value.name)
    default = "" if kept is None or kept.default is None else f" = {_plain(kept.default)}"
    kind = "" if value.annotation is None else f": {_plain(value.annotation)}"
    return f"{value.name}{kind}{default}"


def _signature(
    name: str, parameters: Sequence[griffe.Parameter], returns: str | griffe.Expr | None
) -> str:
    shown: list[str] = []
    before = griffe.ParameterKind.positional_only
    for one in parameters:
        kind = one.kind or griffe.ParameterKind.positional_or_keyword
        if before is griffe.ParameterKind.positional_only is not kind and shown:
            shown.append("/")
        starred = {griffe.ParameterKind.var_positional, griffe.ParameterKind.keyword_only}
        if kind is griffe.ParameterKind.keyword_only and before not in starred:
            shown.append("*")
        stars = _STARS.get(kind, "")
        annotation = f": {_plain(one.annotation)}" if one.annotation else ""
        equals = " = " if annotation else "="
        default = "" if stars or one.default is None else f"{equals}{_plain(one.default)}"
        shown.append(f"{stars}{one.name}{annotation}{default}")
        before = kind
    if before is griffe.ParameterKind.positional_only and shown:
        shown.append("/")
    end = f") -> {_plain(returns)}" if returns else ")"
    line = f"{name}({', '.join(shown)}{end}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in shown), end])


def _wrapped_union(value: griffe.Attribute) -> str:
    line = _plain(value.value or "")
    if len(line) <= _WIDTH:
        return line
    wrapped = line.replace(" | ", "\n    | ")
    return f"(\n    {wrapped}\n)"


def _plain(code: str | griffe.Expr) -> str:
    """Show code in double quotes, and without the underscores of modules and type variables."""
    text = re.sub(r"'([^'\"]*)'", r'"\1"', str(code))
    text = re.sub(r"\b_[a-z]\w*\.", "", text)
    return re.sub(r"\b_([A-Z]\w*?)(_co|_contra)?\b", r"\1", text)


def _item(name: str, text: str) -> str:
    said = text.replace("\n", "\n  ").replace("\n  \n", "\n\n")
    return f"- {name}: {said}" if name and said else f"- {name}{said}"


def _code(text: str) -> str:
    return f"```python no-run\n{text}\n```"


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _difference(name: str, old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), name, f"{name}, from the docstrings", lineterm=""
    )
    return "\n".join(lines)


_MADE = "<!-- Made by docs/reference.py from the docstrings: edit those and run make reference. -->"
_FIRST = "Queue"
_SETTINGS = "settings"
_WIDTH = 88
_CODE = re.compile(r"(?<![`\[])`(?P<name>[^`\n]+)`(?!`)")
_DATACLASS = {"frozen=True": "frozen", "kw_only=True": "keyword-only"}
_TOLD_DECORATORS = ("asynccontextmanager", "classmethod", "contextmanager", "staticmethod")
_STARS = {
    griffe.ParameterKind.var_positional: "*",
    griffe.ParameterKind.var_keyword: "**",
}


if __name__ == "__main__":
    sys.exit(main())

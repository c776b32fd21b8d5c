"""The fields of a file format, read off the class that reads and writes it.

    ```{record} safelox.manifest.Manifest
    ```

shows that class and all classes that its fields hold, each once on a page.
"""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("record", RecordTables)
    return {"version": "1", "parallel_read_safe": True}


class RecordTables(SphinxDirective):
    """Tables of one class, and of all classes that it holds."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        done: set[type] = self.env.current_document.setdefault("records", set())
        shown = [kind for kind in reachable(getattr(import_module(module), name)) if kind not in done]
        done.update(shown)
        known = {kind.__name__: identifier(kind) for kind in done}
        found: list[nodes.Node] = []
        for kind in shown:
            self._note(kind)
            title = nodes.rubric("", "", nodes.literal("", kind.__name__), ids=[identifier(kind)])
            found += [title, *_about(kind), _table(list(_rows(kind)), known)]
        return found

    def _note(self, kind: type) -> None:
        """Make the class known by its name in Python, so that signatures lead here; its first table counts."""
        name = f"{kind.__module__}.{kind.__qualname__}"
        python = self.env.domains.python_domain
        if name not in python.objects:
            python.note_object(name, "class", identifier(kind), location=self.get_location())


def identifier(kind: type) -> str:
    return nodes.make_id(f"{kind.__module__}-{kind.__qualname__}")


def reachable(root: type) -> list[type]:
    """The class and all that its fields hold, the nearest first."""
    found: list[type] = []
    waiting = [root]
    while waiting:
        kind = waiting.pop(0)
        if kind not in found:
            found.append(kind)
            waiting += [inner for hint in _hints(kind).values() for inner in classes(hint) if is_record(inner)]
    return found


def fields(kind: type) -> Iterator[tuple[str, str, str]]:
    """Name in the file, type and description of every field, those that are inherited first."""
    names = {name: getattr(field, "serialization_alias", None) or name for name, field in _own_fields(kind).items()}
    told: dict[str, str] = {}
    hints = _hints(kind)
    for part in reversed(kind.__mro__):
        if part is not BaseModel and set(vars(part).get("__annotations__", ())) & set(names):
            told |= _written(part)
    for name, shown in names.items():
        yield shown, spelled(hints[name]), told[name]


def spelled(hint: Any) -> str:
    """A type as it is written, with what its own names stand for: "full" | int."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return " | ".join(json.dumps(value) for value in parts)
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return " | ".join(map(spelled, parts))
    if hint is ...:
        return "..."
    name = "None" if hint is type(None) else getattr(hint, "__name__", str(hint))
    return f"{name}[{', '.join(map(spelled, parts))}]" if parts else name


def is_record(kind: Any) -> bool:
    """Whether it is a class that is made of fields."""
    return isinstance(kind, type) and (
        is_typeddict(kind) or dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel)
    )


def classes(hint: Any) -> Iterator[type]:
    """The classes of safelox that a type names."""
    if isinstance(hint, type) and hint.__module__.startswith("safelox."):
        yield hint
    for part in get_args(hint):
        yield from classes(part)


def _own_fields(kind: Any) -> dict[str, Any]:
    if is_typeddict(kind):
        return dict(kind.__annotations__)
    return dict(kind.model_fields if issubclass(kind, BaseModel) else kind.__dataclass_fields__)


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {name: hints[name] for name in _own_fields(kind)}


def _written(kind: type) -> dict[str, str]:
    """The description of every field, as it stands in the source of the class itself."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]  # a class
    found: dict[str, str] = {}
    for line, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            text = ""
            if (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                text = inspect.cleandoc(after.value.value)
            found[line.target.id] = text
    return found


def _about(kind: type) -> list[nodes.Node]:
    # Not that of a class above it. A dataclass without one gets its signature, which says no more than the table.
    text = inspect.cleandoc(kind.__doc__ or "")
    if not text or text.startswith(f"{kind.__name__}("):
        return []
    return [nodes.paragraph("", "", *inline(" ".join(part.split()))) for part in text.split("\n\n")]


def _rows(kind: type) -> Iterator[tuple[str, str, str]]:
    for name, type_, text in fields(kind):
        yield name, type_, " ".join(text.split())


def inline(text: str) -> list[nodes.Node]:
    """Text with what stands between backticks as code."""
    parts = re.split(r"`+([^`]+)`+", text)
    return [nodes.literal("", part) if number % 2 else nodes.Text(part) for number, part in enumerate(parts)]


def _table(rows: list[tuple[str, str, str]], known: dict[str, str]) -> nodes.table:
    group = nodes.tgroup(cols=3)
    group += [nodes.colspec(colwidth=width) for width in (20, 25, 55)]
    head = nodes.row("", *(nodes.entry("", nodes.paragraph("", name)) for name in ("field", "type", "")))
    group += nodes.thead("", head)
    body = nodes.tbody()
    for name, type_, text in rows:
        cells = ([nodes.literal("", name)], _linked(type_, known), inline(text))
        body += nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))
    group += body
    return nodes.table("", group, classes=["record"])


def _linked(type_: str, known: dict[str, str]) -> list[nodes.Node]:
    """A type as code, in which the names of classes lead to their tables."""
    code = nodes.literal()
    for part in re.split(r"(\w+)", type_):
        code += nodes.reference("", part, refid=known[part]) if part in known else nodes.Text(part)
    return [code]

"""The page of all public functions of safelox, with the classes that their signatures name."""

import ast
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from command_pages import write_all
from record_tables import classes, is_record
from sphinx.application import Sphinx

import safelox

INTRODUCTION = """\
Every command is a function of the same name, with the same parameters and a typed result. What they
raise is a [SafeloxError](../../api.md) of some kind."""


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _write_page)
    return {"version": "1", "parallel_read_safe": True}


def functions() -> dict[str, Any]:
    """The public functions by name."""
    found = {name: getattr(safelox, name) for name in safelox.__all__}
    found = {name: value for name, value in found.items() if inspect.isfunction(value)}
    for function in found.values():
        _import_for_types(sys.modules[function.__module__])
    return found


def _import_for_types(module: Any) -> None:
    """Import what a module imports for its annotations only, so that they can be read."""
    for block in ast.parse(inspect.getsource(module)).body:
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING"):
            for line in block.body:
                if isinstance(line, ast.ImportFrom):
                    source = import_module(str(line.module))
                    vars(module).update({one.asname or one.name: getattr(source, one.name) for one in line.names})


def function_page() -> str:
    """The page, in Markdown."""
    listed = "\n".join(f".. autofunction:: safelox.{name}" for name in functions())
    parts = ["# Functions", INTRODUCTION, _rst(listed), "## Classes that they take and return"]
    parts += [_documented(kind) for kind in named(list(functions().values()))]
    return "\n\n".join(parts) + "\n"


def named(called: list[Any]) -> list[type]:
    """The classes of safelox that signatures name, and those that the methods of these name in turn."""
    found: dict[type, None] = {}
    waiting = list(called)
    while waiting:
        hints = get_type_hints(waiting.pop(0))
        for kind in (kind for hint in hints.values() for kind in classes(hint) if kind not in found):
            found[kind] = None
            waiting += _methods(kind)
    return list(found)


def _methods(kind: type) -> Iterator[Any]:
    """The public methods and properties of a protocol; of other classes only what they are is told."""
    if not getattr(kind, "_is_protocol", False):
        return
    for name, value in vars(kind).items():
        if not name.startswith("_"):
            yield from [value.fget] if isinstance(value, property) else [value] if inspect.isfunction(value) else []


def _documented(kind: type) -> str:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if is_record(kind):
        return f"```{{record}} {name}\n```"
    if getattr(kind, "_is_protocol", False):
        return _rst(f".. autoclass:: {name}\n   :members:")
    text = inspect.cleandoc(kind.__doc__ or "").replace("\n", "\n   ")
    return _rst(f".. py:class:: {name}\n\n   {text}")


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```"


def _write_page(app: Sphinx) -> None:
    write_all(Path(app.srcdir) / "generated" / "python", {"functions.md": function_page()})

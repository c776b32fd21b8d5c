"""```{record} safelox.manifest.Manifest```: the fields of a file format, read off the class that reads and writes it.

The classes that its fields hold follow, each once on a page.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_args, get_type_hints

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
        root = getattr(import_module(module), name)
        done: set[type] = self.env.temp_data.setdefault("records", set())
        shown = [kind for kind in reachable(root) if kind not in done]
        done.update(shown)
        return [node for kind in shown for node in _section(kind)]


def reachable(root: type) -> list[type]:
    """The class and all records that its fields hold, nearest first."""
    found = [root]
    for kind in found:
        found += [part for _, _, part in fields(kind) for part in _classes(part) if part not in found]
        found = list(dict.fromkeys(found))
        if kind is found[-1]:
            break
    return _closure(root)


def _closure(root: type) -> list[type]:
    found, waiting = [], [root]
    while waiting:
        kind = waiting.pop(0)
        if kind not in found:
            found.append(kind)
            waiting += [inner for _, _, hint in fields(kind) for inner in _classes(hint)]
    return found


def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind))


def _classes(hint: Any) -> Iterator[type]:
    if _is_record(hint):
        yield hint
    for part in get_args(hint):
        yield from _classes(part)

"""Recipes from YAML. Whatever is wrong with one is said at once, each with its line and key."""

import difflib
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from safelox.errors import UsageError
from safelox.experiment.recipe.entries import Recipe

Key = tuple[str | int, ...]
"""The way to a value: names of keys and places in lists."""


class Problem(NamedTuple):
    """Something wrong with a recipe."""

    key: Key
    text: str


class Source(NamedTuple):
    """A recipe as it was written."""

    path: Path
    text: str
    lines: dict[Key, int]
    """Of every value, counted from 1; of one in a mapping, that of its key."""

    def fail(self, problems: Sequence[Problem]) -> None:
        """
        Raises:
            UsageError: there are problems; it tells them all.
        """
        if not problems:
            return
        ordered = sorted(problems, key=lambda problem: self.line(problem.key))
        told = [f"line {self.line(key)}, {shown(key)}: {text}" for key, text in ordered]
        if len(told) == 1:
            raise UsageError(f"{self.path}, {told[0]}")
        raise UsageError("\n  ".join([f"{self.path}: {len(told)} problems:", *dict.fromkeys(told)]))

    def line(self, key: Key) -> int:
        """Of a value, or of the nearest one around it that was written."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)


def read_recipe(path: Path) -> tuple[Recipe, Source]:
    """The recipe in a file, and where its keys stand.

    Raises:
        UsageError: the file cannot be read, or is no recipe; the message tells all that is wrong by itself.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {_where(error)}") from error
    lines: dict[Key, int] = {}
    source = Source(path, text, lines)
    problems: list[Problem] = []
    content = None if root is None else _plain(root, (), lines, problems)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a recipe: keys and values, such as `name: my-experiment`.")
    source.fail(problems)
    try:
        return Recipe.model_validate(content), source
    except ValidationError as error:
        source.fail(list(_problems(error, content)))
        raise


def shown(key: Key) -> str:
    """A key for people, such as `attacks[2].seeds`, places counted from 1."""
    text = ""
    for part in key:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the recipe"


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-5 is a number, which YAML 1.1 takes for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _plain(node: yaml.Node, key: Key, lines: dict[Key, int], problems: list[Problem]) -> Any:
    """The value of a node, with the line of everything in it."""
    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*key, place), lines, problems) for place, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[Hashable, Any] = {}
        for name_node, child in node.value:
            name = _scalar(name_node)
            inner = (*key, name)
            if name in found:
                second = name_node.start_mark.line + 1
                problems.append(Problem(inner, f"the key stands here twice, in lines {lines[inner]} and {second}"))
                continue
            lines[inner] = name_node.start_mark.line + 1
            found[name] = _plain(child, inner, lines, problems)
        return found
    try:
        return _Loader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError):
        problems.append(Problem(key, f"{node.value!r} cannot be read as a value"))
        return None


def _scalar(node: yaml.Node) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else "?"


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    return what if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {what}"


def _problems(error: ValidationError, content: Any) -> Iterator[Problem]:
    """All that pydantic found; that a list is too short is no news where its entries are wrong."""
    found = error.errors()
    for one in found:
        way = one["loc"]
        inner = any(other["loc"][: len(way)] == way and len(other["loc"]) > len(way) for other in found)
        if not (one["type"] == "too_short" and inner):
            yield _problem(one, content)


def _problem(error: Any, content: Any) -> Problem:
    """What pydantic found, in words, at a key that stands in the recipe."""
    key = _in_recipe(error["loc"], content)
    kind, found, limits = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(key, _no_such_key(error["loc"]))
    if kind == "missing":
        return Problem(key[:-1] if key and key[-1] == error["loc"][-1] else key, f"{error['loc'][-1]} is missing")
    if kind == "value_error":
        reason = str(limits["error"])
        return Problem(key, f"{reason}, found {found!r}" if not isinstance(found, dict) else reason)
    if kind == "string_pattern_mismatch":
        return Problem(key, f"expected a name of letters, digits and . _ -, found {found!r}")
    if kind == "too_short":
        return Problem(key, "expected at least one entry, found none")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return Problem(key, f"expected {limits.get('discriminator', 'kind')}: one of {limits.get('expected_tags', '')}")
    return Problem(key, f"{error['msg'][0].lower()}{error['msg'][1:]}, found {found!r}")


def _in_recipe(location: Sequence[str | int], content: Any) -> Key:
    """The location as a key of the recipe, without the names of the kinds that pydantic tried."""
    key: list[str | int] = []
    for part in location:
        listed = isinstance(content, list) and isinstance(part, int) and part < len(content)
        if listed or (isinstance(content, dict) and part in content):
            content = content[part]
            key.append(part)
    return tuple(key)


def _no_such_key(location: Sequence[str | int]) -> str:
    *way, name = location
    models: set[type[BaseModel]] = {Recipe}
    for part in way:
        tagged = {model for model in models if part in _tags(model)}
        inner = {
            deeper
            for model in models
            if part in model.model_fields
            for deeper in _models(model.model_fields[str(part)].annotation)
        }
        models = inner or tagged or models
    known = sorted({field for model in models for field in model.model_fields})
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no such key; {hint}Known are: {', '.join(known)}"


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return () if kind is None else get_args(kind.annotation)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from _models(part)

"""One page for each command, written from the command line itself: usage, arguments, options and defaults."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from sphinx.application import Sphinx
from typer.main import get_command

from safelox.cli.app import app as safelox_app


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _write_pages)
    return {"version": "1", "parallel_read_safe": True}


def commands() -> dict[str, Any]:
    """Every command that can be called, by its name after `safelox`, in the order of `--help`."""
    found: dict[str, Any] = {}
    for name, command in get_command(safelox_app).commands.items():  # type: ignore[attr-defined]  # a group
        own = getattr(command, "commands", {})
        if not own or command.invoke_without_command:
            found[name] = command
        found |= {f"{name} {inner}": part for inner, part in own.items()}
    return found


def page_name(name: str) -> str:
    return name.replace(" ", "-")


def command_page(name: str, command: Any) -> str:
    """The page of a command, in Markdown."""
    arguments = [part for part in command.params if part.param_type_name == "argument"]
    options = [part for part in command.params if part.param_type_name == "option" and not part.hidden]
    usage = " ".join([f"safelox {name}", *(_argument(part) for part in arguments), "[OPTIONS]"])
    summary, _, rest = (command.help or "").partition("\n\n")
    parts = [f"# {name}", _escaped(summary), f"```text\n{usage}\n```"]
    if rest:
        parts.append(_escaped(rest))
    if arguments:
        parts += [
            "## Arguments",
            _table(("argument", ""), [(f"`{_argument(a)}`", _escaped(a.help or "")) for a in arguments]),
        ]
    rows = [(_spelling(part), _default(part), _escaped(part.help or "")) for part in options]
    parts += ["## Options", _table(("option", "default", ""), rows)]
    return "\n\n".join(parts) + "\n"


def _argument(part: Any) -> str:
    name = part.metavar or part.name.upper()
    return name if part.required else f"[{name}]"


def _spelling(part: Any) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(part.opts, key=len, reverse=True))
    return names if part.is_flag else f"{names} `{_cell(part.metavar or _values(part))}`"


def _values(part: Any) -> str:
    """The values that an option takes, where its own description has no word for them."""
    kind = part.type_descriptor.annotation
    choices = get_args(kind)
    return "|".join(map(str, choices)) if choices else kind.__name__.upper()


def _default(part: Any) -> str:
    if part.required:
        return "has to be given"
    if part.is_flag or part.default in (None, (), []) or callable(part.default):
        return ""
    return f"`{_cell(str(part.default))}`"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Text for people as Markdown that shows it as it is, on one line for each paragraph."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.replace("\b", "").split("\n\n")]
    escaped = ["".join(f"\\{sign}" if sign in r"\*_<>[]$|#" else sign for sign in part) for part in paragraphs]
    return "\n\n".join(part.replace("`\\|`", "`|`") for part in escaped)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "generated" / "commands"
    pages = {f"{page_name(name)}.md": command_page(name, command) for name, command in commands().items()}
    write_all(folder, pages)


def write_all(folder: Path, pages: dict[str, str]) -> None:
    """Make `folder` hold these pages and no others; what is the same already keeps its date, for short builds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / ".gitignore").write_text("*\n", encoding="utf-8")
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")

"""The pages of the project that lie outside docs/, and links that work both in the repository and on the site."""

import os
import re
from pathlib import Path
from typing import Any

from command_pages import write_all
from sphinx.application import Sphinx

PAGES = {
    "README.md": "readme",
    "ARCHITECTURE.md": "architecture",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "benchmarks/README.md": "benchmarks",
}
"""Files of the repository that become pages, with the names of those."""
GENERATED = Path("generated") / "project"

_LINK = re.compile(r"(?<!!)(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _read)
    return {"version": "1", "parallel_read_safe": True}


def rewritten(text: str, source: Path, page: Path, docs: Path) -> str:
    """The text of `source` with its relative links as they have to be in `page`.

    Args:
        docs: the folder of the site's sources; the repository is the folder above.
    """

    def link(match: re.Match[str]) -> str:
        target = match[2]
        if re.match(r"[a-z]+:", target):
            return match[0]
        file = Path(os.path.normpath(source.parent / target))
        inside = file.relative_to(docs.parent).as_posix() if file.is_relative_to(docs.parent) else ""
        if inside in PAGES:
            file = docs / GENERATED / f"{PAGES[inside]}.md"
        return f"{match[1]}{Path(os.path.relpath(file, page.parent)).as_posix()}{match[3]}"

    return _LINK.sub(link, text)


def _write_pages(app: Sphinx) -> None:
    docs = Path(app.srcdir)
    folder = docs / GENERATED
    pages = {}
    for file, name in PAGES.items():
        source = docs.parent / file
        pages[f"{name}.md"] = rewritten(source.read_text(encoding="utf-8"), source, folder / f"{name}.md", docs)
    write_all(folder, pages)


def _read(app: Sphinx, page: str, content: list[str]) -> None:
    docs = Path(app.srcdir)
    if not page.startswith("generated/"):
        file = docs / f"{page}.md"
        content[0] = rewritten(content[0], file, file, docs)

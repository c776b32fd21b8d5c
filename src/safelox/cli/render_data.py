"""The known data sets as text for people."""

from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled

if TYPE_CHECKING:
    from safelox.known_data import DataList, DataState


def render_data(listed: "DataList") -> str:
    """Every data set with what is there of it, and where it was looked for."""
    blocks = ["\n".join([f"{state.name}: {state.known.title}", *labelled(*_rows(state))]) for state in listed.data]
    there = sum(state.state != "missing" for state in listed.data)
    looked = ", ".join(listed.folders)
    return "\n\n".join([*blocks, f"{there} of {len(listed.data)} are there. Looked in: {looked}"])


def render_fetched(fetched: "DataList") -> str:
    """What was fetched, to where, and under which licence."""
    lines = []
    for state in fetched.data:
        note = f" {state.known.note}" if state.known.note else ""
        lines += [f"{state.name}: {state.path}", *labelled(("licence", f"{state.known.licence}.{note}"))]
    return "\n".join(lines)


def _rows(state: "DataState") -> list[tuple[str, str]]:
    known = state.known
    rows = [
        ("there", "no" if state.path is None else f"{_what(state)}: {state.path}"),
        ("stand-in", None if state.stand_in is None else state.stand_in.note),
        ("used by", ", ".join(known.used_by)),
        ("licence", known.licence),
        ("note", known.note),
        ("source", state.fetched_from or known.home),
    ]
    return [(label, value) for label, value in rows if value is not None]


def _what(state: "DataState") -> str:
    return "the original" if state.state == "original" else str(state.label)

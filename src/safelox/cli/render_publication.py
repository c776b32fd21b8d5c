"""What `document` wrote, as text for people."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safelox.publication import Documented


def render_documented(documented: "Documented") -> str:
    """What was written, what is missing, and how to look at it."""
    judged = [row for row in documented.rows if row.hardened is not None]
    attacks = len({(row.attack, row.seed) for row in judged if row.attack is not None})
    lines = [
        f"{documented.hardened} is {documented.defence} of {documented.results}.",
        f"Its card has {len(judged)} figures, before an attack and after {attacks} (settings and seeds).",
        *(f"Not in there: {what}" for what in documented.missing),
        *(f"note: {note}" for note in documented.notes),
        "Written, and taken into the manifest:",
        *(f"  {documented.hardened}/{name}" for name in documented.files),
    ]
    return "\n".join(lines)

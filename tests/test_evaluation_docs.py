"""docs/evaluation.md says what the tables and the command say."""

from pathlib import Path

from typer.main import get_command

from safelox.cli.app import app
from safelox.evaluation import PUBLISHED
from safelox.evaluation.answers import find_number, find_number_as_paper, find_number_as_paper_chat
from safelox.evaluation.coherence import (
    FEW_WORDS_OF,
    FEW_WORDS_SHARE,
    LETTER_SHARE,
    LOOP_CHARACTERS,
    LOOP_SHARE,
    NOISE_CHARACTERS,
    SAID_WORDS,
    UNREADABLE_SHARE,
)
from safelox.evaluation.generation.settings import NEAR_TIE
from safelox.evaluation.judges import JUDGES, known_judges
from safelox.evaluation.metrics import METRICS
from safelox.evaluation.outcomes import Outcome

DOCS = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    lines = DOCS.split(f"{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| ---")) + 1
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_the_table_of_suites_is_the_catalogue() -> None:
    written = [[name, file, asks, tokens] for name, file, _, asks, tokens in rows("## Suites")]
    assert written == [[s.name, f"`{s.file}`", s.asks, str(s.max_new_tokens)] for s in PUBLISHED]


def test_every_rate_and_outcome_is_explained() -> None:
    told = DOCS.split("## How a model is asked")[0]
    for metrics in METRICS.values():
        assert all(f"`{name}`" in told for name in metrics)
    assert [name for name, _ in rows("## What a reply is")] == list(Outcome.__args__)  # type: ignore[attr-defined]


def test_the_readings_of_a_number_are_as_told() -> None:
    finders = {
        "number": find_number,
        "number-paper": find_number_as_paper,
        "number-paper-chat": find_number_as_paper_chat,
    }
    for name, _, *read in rows("## GSM8K"):
        assert name in JUDGES
        found = [finders[name](f"#### {written}") for written in ("1234", "1,234", "12.50", "$18.")]
        assert [None if cell == "none" else float(cell) for cell in read] == [
            None if number is None else float(number) for number in found
        ]


def test_the_limits_of_coherence_are_as_told() -> None:
    assert (LOOP_CHARACTERS, LOOP_SHARE, SAID_WORDS) == (120, 0.5, 25)
    assert (FEW_WORDS_OF, FEW_WORDS_SHARE) == (60, 0.2)
    assert (NOISE_CHARACTERS, UNREADABLE_SHARE, LETTER_SHARE) == (20, 0.1, 0.3)
    assert NEAR_TIE == 1e-4


def test_options_and_judges_in_the_text_are_those_of_the_command() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]  # a group
    told = [commands[name] for name in ("evaluate", "compare", "export")]
    known = {name for command in told for parameter in command.params for name in parameter.opts}
    words = {word.strip("`,;:.()*") for word in DOCS.split()}
    named = {word for word in words if word.startswith("--") and word.strip("-")}
    assert named <= known
    assert {"--paper-exact", "--suite-file", "--shots", "--system", "--format", "--backend"} <= named
    assert {word for word in words if word.startswith("aspect-")} <= set(known_judges())

import re
from pathlib import Path

import pytest
import yaml

from hardened import make_manifest, matrix_record, method_record
from safelox.card import BEGIN, CARD_NAME, CITATION, END, card_section, write_card
from safelox.manifest import SourceRecord

CARD = """\
---
license: mit  # kept
language:
- en
base_model: org/older
tags:
- chat
---
# The aligned model

Its text.
"""


def front_matter(folder: Path) -> dict[str, object]:
    match = re.match(r"---\n(.*?)\n---\n", (folder / CARD_NAME).read_text(), re.DOTALL)
    assert match is not None
    content = yaml.safe_load(match[1])
    assert isinstance(content, dict)
    return content


def test_the_section_tells_what_was_done() -> None:
    worst = matrix_record("worst.weight", update_error_bound=3e-4, energy_lost_bound=5e-5)
    section = card_section(make_manifest(matrices=(matrix_record(), worst)))
    assert section.startswith(BEGIN)
    assert section.endswith(END)
    for part in (
        "safelox 0.1.0",
        "0.5 times the 2 leading singular directions",
        "`org/aligned@v1`<br>commit `" + "a" * 40 + "`<br>`model.safetensors` sha256 `" + "c" * 64,
        "`org/base`<br>commit `" + "b" * 40 + "`",
        "2; 1 tensors kept",
        "relative error of the update at most 3.0e-04 (`worst.weight`)",
        "energy lost against the optimum at most 5.0e-05 (`worst.weight`)",
        "safelox harden org/base org/aligned out",
        "It is no guarantee",
        "fine-tune that instead",
        "refuse harmless requests",
        "arXiv:2506.15606",
        CITATION,
    ):
        assert part in section


def test_the_section_of_a_whole_delta_and_of_an_adapter() -> None:
    whole = matrix_record(route="full", rank=None, update_error_bound=None, energy_lost_bound=0.0)
    section = card_section(make_manifest(kind="adapter", method=method_record(rank="full"), matrices=(whole,)))
    assert "0.5 times its difference from the base model" in section
    assert "This adapter was made" in section


def test_the_section_does_not_depend_on_the_files() -> None:
    one, other = make_manifest(), make_manifest(files={"a": {"bytes": 1, "sha256": ""}})
    assert card_section(one) == card_section(other)


def test_an_existing_card_is_kept_and_completed(tmp_path: Path) -> None:
    (tmp_path / CARD_NAME).write_text(CARD)
    assert write_card(tmp_path, make_manifest()) is None
    content = (tmp_path / CARD_NAME).read_text()
    assert "# The aligned model\n\nIts text.\n\n" + card_section(make_manifest()) in content
    assert front_matter(tmp_path) == {
        "license": "mit",
        "language": ["en"],
        "base_model": "org/aligned",
        "base_model_relation": "finetune",
        "tags": ["chat", "lox", "safelox"],
    }


def test_writing_again_replaces_the_section(tmp_path: Path) -> None:
    (tmp_path / CARD_NAME).write_text(CARD)
    write_card(tmp_path, make_manifest())
    first = (tmp_path / CARD_NAME).read_bytes()
    write_card(tmp_path, make_manifest())
    assert (tmp_path / CARD_NAME).read_bytes() == first
    write_card(tmp_path, make_manifest(method=method_record(coef=0.75)))
    content = (tmp_path / CARD_NAME).read_text()
    assert content.count(BEGIN) == content.count(END) == 1
    assert "0.75 times" in content


def test_a_new_card_is_made(tmp_path: Path) -> None:
    write_card(tmp_path, make_manifest(kind="adapter"))
    assert "# aligned, hardened\n\n" + BEGIN in (tmp_path / CARD_NAME).read_text()
    assert front_matter(tmp_path)["base_model_relation"] == "adapter"


@pytest.mark.parametrize(
    ("reference", "commit", "expected"),
    [
        ("models/aligned", None, None),
        ("org/a@main+org/b", "a" * 40, ["org/a", "org/b"]),
        ("org/a+./adapter", "a" * 40, "org/a"),
    ],
)
def test_base_model_names_models_of_the_hub_only(
    tmp_path: Path, reference: str, commit: str | None, expected: object
) -> None:
    aligned = SourceRecord(reference=reference, commit=commit, weights=None)
    write_card(tmp_path, make_manifest(aligned=aligned))
    assert front_matter(tmp_path).get("base_model") == expected


@pytest.mark.parametrize("content", [b"---\na: [b\n---\n# Card\n", b"---\n- a\n---\n# Card\n", b"# Caf\xe9\n"])
def test_what_cannot_be_read_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CARD_NAME).write_bytes(content)
    note = write_card(tmp_path, make_manifest())
    assert note is not None
    assert "left as it is" in note
    written = (tmp_path / CARD_NAME).read_bytes()
    assert written.startswith(content.rstrip())
    assert BEGIN.encode() in written


def test_line_ends_and_a_single_tag_are_understood(tmp_path: Path) -> None:
    (tmp_path / CARD_NAME).write_bytes(b"---\r\ntags: chat\r\n---\r\n# Card\r\n")
    assert write_card(tmp_path, make_manifest()) is None
    content = (tmp_path / CARD_NAME).read_bytes()
    assert content.startswith(b"---\r\n")
    assert content.count(b"\n") == content.count(b"\r\n")
    assert yaml.safe_load(content.split(b"---")[1])["tags"] == ["chat", "lox", "safelox"]


def test_the_citation_is_that_of_the_project() -> None:
    citation = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text())["preferred-citation"]
    assert citation["title"] == "LoX: Low-Rank Extrapolation Robustifies LLM Safety Against Fine-tuning"
    for author in citation["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in " ".join(CITATION.split())
    assert citation["url"] in CITATION

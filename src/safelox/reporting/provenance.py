"""Where every number comes from: versions, settings, hashes."""

import json
from typing import NamedTuple

from safelox.manifest import FileRecord
from safelox.reporting.found import Found, Replies
from safelox.reporting.table import Table, make_table


class Document(NamedTuple):
    """A text that is shown on demand."""

    title: str
    text: str


class Provenance(NamedTuple):
    facts: tuple[tuple[str, str], ...]
    """Name and value."""
    tables: tuple[Table, ...]
    documents: tuple[Document, ...]


def provenance(found: Found) -> Provenance:
    """All there is to know, the least first."""
    replies = [asked.replies for model in found.models for asked in model.asked if asked.replies is not None]
    tables = [_folders(replies), _data(replies)] if replies else []
    return Provenance(tuple(_facts(found)), tuple(tables), tuple(_documents(found, replies)))


def _facts(found: Found) -> list[tuple[str, str]]:
    record = found.experiment
    if record is None:
        return []
    facts = [("experiment", record.name)]
    if record.description:
        facts.append(("about", record.description))
    if record.command:
        facts.append(("command", record.command))
    if record.recipe_sha256:
        facts.append(("recipe, SHA-256", record.recipe_sha256))
    for pair in record.pairs:
        source = f", built by {pair.source}" if pair.source else ""
        facts.append((f"pair {pair.name}", f"base {pair.base}, aligned {pair.aligned}{source}"))
    facts += [(f"version of {name}", version) for name, version in record.versions.items()]
    return facts


def _folders(replies: list[Replies]) -> Table:
    rows = []
    for one in replies:
        manifest = one.manifest
        rows.append(
            [
                one.place,
                one.config.model.reference,
                one.config.model.commit,
                _weights(one.config.model.files),
                ", ".join(f"{judge} {version}" for judge, version in one.config.judges.items()),
                len(one.samples),
                "not finished" if manifest is None else manifest.created,
                None if manifest is None else manifest.safelox,
                None if manifest is None else manifest.environment.device,
            ]
        )
    return make_table(
        "folders",
        "Results folders",
        [
            ("folder", "text"),
            ("model", "text"),
            ("commit", "text"),
            ("weights, SHA-256", "text"),
            ("judges", "text"),
            ("replies", "count"),
            ("finished", "text"),
            ("safelox", "text"),
            ("device", "text"),
        ],
        rows,
    )


def _data(replies: list[Replies]) -> Table:
    """Every suite as it was asked, once for all folders in which it was asked alike."""
    rows: dict[tuple[str, ...], list[str | int | float | None]] = {}
    for one in replies:
        for suite, config in one.config.suites.items():
            row: list[str | int | float | None] = [
                suite,
                config.asks,
                config.called,
                config.data.sha256,
                config.limit,
                config.shots,
                config.generation.format,
                config.generation.max_new_tokens,
                config.generation.temperature,
                config.generation.seed,
                one.config.system,
            ]
            rows[tuple(map(str, row))] = row
    return make_table(
        "suites",
        "Suites, as they were asked",
        [
            ("suite", "text"),
            ("asks", "text"),
            ("data", "text"),
            ("data, SHA-256", "text"),
            ("limit", "count"),
            ("shots", "count"),
            ("format", "text"),
            ("new tokens", "count"),
            ("temperature", "number"),
            ("seed", "count"),
            ("system message", "text"),
        ],
        list(rows.values()),
    )


def _documents(found: Found, replies: list[Replies]) -> list[Document]:
    documents = [] if found.recipe is None else [Document("The recipe", found.recipe)]
    if found.experiment is not None:
        documents.append(Document("experiment.json", found.experiment.model_dump_json(indent=1)))
    for one in replies:
        both = {"config": one.config.model_dump(mode="json")}
        if one.manifest is not None:
            both["manifest"] = one.manifest.model_dump(mode="json")
        documents.append(Document(one.place, json.dumps(both, indent=1, ensure_ascii=False)))
    return documents


def _weights(files: dict[str, FileRecord]) -> str | None:
    """The hash of the weights, or of the first of their files and how many more there are."""
    weights = [file.sha256 for name, file in files.items() if name.endswith((".safetensors", ".bin"))]
    if not weights:
        return None
    return weights[0][:16] + (f" and {len(weights) - 1} more" if len(weights) > 1 else "")

"""document: the outcome of an experiment beside the hardened model that it was about."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from safelox.card import CARD_NAME, with_section
from safelox.errors import TargetError
from safelox.hashing import hash_files
from safelox.manifest import MANIFEST_NAME, Manifest, Record, read_manifest
from safelox.progress import NULL, Progress
from safelox.publication.figures import Row, rows
from safelox.publication.finding import find_subject, read_experiment, undone
from safelox.publication.metadata import with_results
from safelox.publication.reproduction import FOLDER, reproduction
from safelox.publication.section import BEGIN, END, evaluation_section
from safelox.writer.disk import explained, put_text

_UNFINISHED = f".{FOLDER}"


class Documented(Record):
    """What `document` wrote."""

    hardened: str
    results: str
    defence: str
    """By its name in the experiment."""
    rows: tuple[Row, ...]
    """All figures in the section of the card."""
    missing: tuple[str, ...]
    """What of the experiment is not done, and so is not in there."""
    files: tuple[str, ...]
    """That were written, by their paths inside HARDENED."""
    notes: tuple[str, ...]
    """What could not be done."""


def document(
    results: str | Path, hardened: str | Path, *, unfinished: bool = False, progress: Progress = NULL
) -> Documented:
    """Put what an experiment found beside the hardened model that it was about.

    HARDENED/README.md gets a section with a summary, the figures before and after each attack with and without
    hardening, and limits, and in its front matter the results in the form that the Hugging Face hub reads; both take
    the place of those of an earlier call, and all else in it is kept. HARDENED/reproduce gets the recipe, the versions
    of what ran, the hashes of all that went in and came out, and the commands. The manifest takes the changed files in,
    so that `verify` holds. A second call with the same results changes no byte.

    Args:
        results: folder of an experiment, which `run` wrote.
        hardened: folder of one of its hardened models, which `harden` wrote too: the same weights to the byte.
        unfinished: go on although not all of the experiment is done; the section then says what is missing.

    Raises:
        TargetError: the experiment is not finished, has asked no such model, or cannot be read; the model is not what
            its manifest says; or something else than an earlier call's lies at HARDENED/reproduce.
        CheckpointError: HARDENED has no manifest that can be read.
    """
    folder, target = Path(results), Path(hardened)
    manifest = read_manifest(target)
    experiment = read_experiment(folder)
    missing = undone(experiment)
    if missing and not unfinished:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise TargetError(
            f"{folder}: the experiment is not finished: {'; '.join(missing[:3])}{more}. Run it to its end, or add "
            "--unfinished to publish what is there; the card then says what is missing."
        )
    _refuse_foreign(target, manifest)
    subject = find_subject(folder, experiment, target, manifest, progress)
    found = tuple(rows(subject))
    if not any(row.hardened is not None for row in found):
        raise TargetError(f"{folder}: nothing of the hardened model {subject.defence.name} is judged yet.")
    files = reproduction(subject, manifest, found, missing, progress)
    section = evaluation_section(subject, found, missing)
    with explained(target):
        note = _write_card(target, section, found)
        _write_folder(target, files)
        written = _renew_manifest(target, manifest, sorted(files))
    return Documented(
        hardened=str(hardened),
        results=str(results),
        defence=subject.defence.name,
        rows=found,
        missing=tuple(missing),
        files=written,
        notes=() if note is None else (note,),
    )


def _refuse_foreign(target: Path, manifest: Manifest) -> None:
    """Raise TargetError if `reproduce` is there and holds what no earlier call recorded."""
    for path in sorted((target / FOLDER).rglob("*")):
        if path.relative_to(target).as_posix() not in manifest.files:
            raise TargetError(
                f"{path}: not written by safelox, and the folder {FOLDER} is about to be replaced. Move it elsewhere."
            )


def _write_card(target: Path, section: str, found: Sequence[Row]) -> str | None:
    """Write section and front matter in one step; what could not be done, in words."""
    import yaml
    from huggingface_hub import metadata_load, metadata_save

    path = target / CARD_NAME
    content = path.read_bytes() if path.exists() else f"# {target.resolve().name}\n".encode()
    changed = target / f".{CARD_NAME}"
    changed.write_bytes(with_section(content, section, BEGIN, END))
    note = None
    try:
        metadata = metadata_load(changed) or {}
        metadata_save(changed, with_results(metadata, target.resolve().name, found))
    except (ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        note = f"{CARD_NAME}: its front matter cannot be read and is left as it is: {reason}"
    os.replace(changed, path)
    return note


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Put the folder in its place when it is whole."""
    unfinished, folder = target / _UNFINISHED, target / FOLDER
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name, content in files.items():
        (unfinished / name).write_bytes(content)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def _renew_manifest(target: Path, manifest: Manifest, names: Sequence[str]) -> tuple[str, ...]:
    """Take the card and the folder into the manifest; the files that are new in it."""
    written = [CARD_NAME, *(f"{FOLDER}/{name}" for name in names)]
    kept = {name: record for name, record in manifest.files.items() if not name.startswith(f"{FOLDER}/")}
    files = kept | hash_files({name: target / name for name in written})
    renewed = manifest.model_copy(update={"files": dict(sorted(files.items()))})
    put_text(target / MANIFEST_NAME, renewed.model_dump_json(indent=1) + "\n")
    return tuple(written)

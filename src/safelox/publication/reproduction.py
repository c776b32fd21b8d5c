"""The folder `reproduce`: the recipe, versions of what ran, hashes of what went in and came out, and commands."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from safelox.attacks.record import RECORD, AttackRecord
from safelox.errors import TargetError
from safelox.evaluation.folder import CONFIG, MANIFEST, RESULTS, SAMPLES, read_config
from safelox.evaluation.results import EvaluationManifest
from safelox.experiment.record import FILE
from safelox.hashing import hash_files
from safelox.manifest import MANIFEST_NAME, Environment, FileRecord, Manifest, Record, SourceRecord
from safelox.progress import Progress
from safelox.publication.figures import Row
from safelox.publication.finding import Subject

FOLDER = "reproduce"
RECIPE, CONSTRAINTS, HASHES, COMMANDS = "recipe.yaml", "constraints.txt", "hashes.json", "README.md"


class DataFile(Record):
    """A file of prompts or of an attack's rows."""

    called: str
    """What it is, by its checksum: a known data set, a stand-in, or an unrecognised file."""
    file: FileRecord
    mixed_in: dict[str, FileRecord]
    """Files of poison and safety instructions that were mixed into it, under these names."""


class Hashes(Record):
    """hashes.json: sizes and SHA-256 of everything that went in and came out."""

    base: SourceRecord
    aligned: SourceRecord
    recipe: FileRecord | None
    """None where the experiment kept none."""
    suites: dict[str, DataFile]
    """Prompts, by suite."""
    attacks: dict[str, DataFile]
    """Rows, by the place of attack.json inside the experiment's folder, where that was kept."""
    model: dict[str, FileRecord]
    """The files of the hardened model but its card, its manifest and this folder."""
    results: dict[str, FileRecord]
    """The files that the figures are from, by their paths inside the experiment's folder."""


def reproduction(
    subject: Subject, manifest: Manifest, rows: Sequence[Row], missing: Sequence[str], progress: Progress
) -> dict[str, bytes]:
    """The contents of the files, by name.

    Raises:
        TargetError: a file of the experiment cannot be read.
    """
    sides = list(dict.fromkeys(side.folder for row in rows for side in (row.without, row.hardened) if side is not None))
    recipe = None if subject.experiment.recipe is None else subject.folder / subject.experiment.recipe
    files = {} if recipe is None else {RECIPE: _bytes(recipe)}
    hashes = _hashes(subject, manifest, sides, recipe, progress)
    files[CONSTRAINTS] = _constraints(subject, manifest, sides).encode()
    files[HASHES] = (hashes.model_dump_json(indent=1) + "\n").encode()
    files[COMMANDS] = _commands(subject, manifest, recipe is not None, missing).encode()
    return files


def _hashes(
    subject: Subject, manifest: Manifest, sides: Sequence[str], recipe: Path | None, progress: Progress
) -> Hashes:
    folder = subject.folder
    names = [FILE, *(f"{side}/{name}" for side in sides for name in (CONFIG, SAMPLES, RESULTS, MANIFEST))]
    paths = {name: folder / name for name in names} | ({} if recipe is None else {RECIPE: recipe})
    for path in paths.values():
        if not path.is_file():
            raise TargetError(f"{path}: missing, though the experiment says that it is done. Run it again.")
    hashed = hash_files(paths, "hash the results", progress)
    suites = {
        name: DataFile(called=suite.called, file=suite.data, mixed_in={})
        for side in sides
        for name, suite in read_config(folder / side).suites.items()
    }
    return Hashes(
        base=manifest.base,
        aligned=manifest.aligned,
        recipe=hashed.get(RECIPE),
        suites=suites,
        attacks=dict(_attacks(folder)),
        model={name: record for name, record in manifest.files.items() if name != "README.md" and not _is_ours(name)},
        results={name: hashed[name] for name in names},
    )


def _attacks(folder: Path) -> Iterator[tuple[str, DataFile]]:
    for path in sorted(folder.rglob(RECORD)):
        try:
            record = AttackRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise TargetError(f"{path}: not the record of an attack by this version of safelox.") from error
        data = DataFile(called=record.data_set, file=record.data, mixed_in=record.mixed_in)
        yield path.relative_to(folder).as_posix(), data


def _constraints(subject: Subject, manifest: Manifest, sides: Sequence[str]) -> str:
    """Pins of all packages whose version the manifests tell, and what else the results may hang on."""
    environments = [("the hardened model", manifest.environment)]
    for side in sides:
        environments.append((side, _evaluation(subject.folder / side / MANIFEST).environment))
    pins: dict[str, dict[str, list[str]]] = {}
    for where, environment in environments:
        for package, version in environment.libraries.items():
            pins.setdefault(package, {}).setdefault(version, []).append(where)
    for package, version in subject.experiment.versions.items():
        if package not in ("python", "platform", "safelox"):
            pins.setdefault(package, {}).setdefault(version, []).append("the experiment")
    lines = [f"# safelox {manifest.safelox}, {_told(manifest.environment)}"]
    for package, versions in sorted(pins.items()):
        first, *others = versions
        lines.append(f"{package}=={first}")
        lines += [f"# {package} {other} made {', '.join(versions[other])}" for other in others]
    return "\n".join(lines) + "\n"


def _told(environment: Environment) -> str:
    return f"Python {environment.python}, {environment.device}, {environment.instruction_set}, {environment.platform}"


def _evaluation(path: Path) -> EvaluationManifest:
    try:
        return EvaluationManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TargetError(f"{path}: not the manifest of an evaluation by this version of safelox.") from error


def _commands(subject: Subject, manifest: Manifest, with_recipe: bool, missing: Sequence[str]) -> str:
    steps = [
        f"1. Check that this model is what was written: `safelox verify .` in the folder above. `{MANIFEST_NAME}` "
        f"there, and `{HASHES}` here, name the weights of both sources by their SHA-256.",
        f"2. Install safelox {manifest.safelox} with the packages that ran, from a clone of its repository:\n\n"
        f"       pip install -c PATH/TO/{FOLDER}/{CONSTRAINTS} '.[all]'",
        f"3. Make the model again:\n\n       {_harden(manifest)}",
    ]
    if subject.experiment.command is not None:
        named = f"; `{RECIPE}` is the recipe that this names" if with_recipe else ""
        steps += [
            f"4. Run the experiment again{named}:\n\n       {subject.experiment.command}",
            "5. Put its results beside the model, and compare:\n\n       safelox document RESULTS HARDENED",
        ]
    notes = [
        "The same weights go in, and the same bytes come out, on the same kind of CPU with the same libraries. Paths "
        "in the commands are those of the machine that ran them.",
    ]
    if missing:
        notes.append(f"The experiment was not finished when this was written: {'; '.join(missing)}.")
    title = f"# Reproduce: {subject.pair.name}, {subject.defence.name}"
    return "\n\n".join([title, *steps, *notes]) + "\n"


def _harden(manifest: Manifest) -> str:
    """The call of `harden` that makes the model, whatever made it."""
    method = manifest.method
    words = ["safelox", "harden", manifest.base.reference, manifest.aligned.reference, "OUT"]
    words += ["--rank", str(method.rank), "--coef", f"{method.coef!r}", "--seed", str(method.seed)]
    words += [word for glob in method.include for word in ("--include", glob)]
    words += [word for glob in method.exclude for word in ("--exclude", glob)]
    words += ["--adapter"] if manifest.kind == "adapter" else []
    words += ["--no-embeddings"] if not method.embeddings else []
    words += ["--vocab", method.vocab] if method.vocab != "error" else []
    words += ["--dtype", method.dtype] if method.dtype is not None else []
    return shlex.join(words)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TargetError(f"{path}: the copy of the recipe cannot be read: {error.strerror or error}.") from error


def _is_ours(name: str) -> bool:
    return name.startswith(f"{FOLDER}/")

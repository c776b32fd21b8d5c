"""The section of the model card that tells how a model was hardened."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load, metadata_save

from safelox.checkpoint.hub import HUB_REFERENCE
from safelox.manifest import Manifest, MatrixRecord, SourceRecord
from safelox.methods import CONTROLS

CARD_NAME = "README.md"
BEGIN = "<!-- safelox: begin -->"
END = "<!-- safelox: end -->"
TAGS = ("lox", "safelox")
CONTROL_TAGS = ("safelox",)

CITATION = """\
@inproceedings{perin2025lox,
  title     = {{LoX}: Low-Rank Extrapolation Robustifies {LLM} Safety Against Fine-tuning},
  author    = {Perin, Gabriel J. and Chen, Runjin and Chen, Xuxi and Hirata, Nina S. T. and Wang, Zhangyang and
               Hong, Junyuan},
  booktitle = {Second Conference on Language Modeling},
  year      = {2025},
  url       = {https://arxiv.org/abs/2506.15606}
}"""
"""BibTeX of the paper whose method this is."""

_CAVEATS = """\
- LoX raises what it costs to remove the model's safety by fine-tuning. It is no guarantee: enough fine-tuning, or a
  different attack, can still remove it.
- Whoever has the base model can fine-tune that instead: hardening protects this model, not its ancestors.
- Hardening can make a model refuse harmless requests and can cost quality. Measure both on your own use before you
  deploy the model."""

_CONTROL_CAVEATS = """\
- Nothing says that this model keeps its safety through fine-tuning, or that it is as safe as the aligned model: find
  out, and do not deploy it."""

_PAPER = "[arXiv:2506.15606](https://arxiv.org/abs/2506.15606)"


def write_card(folder: Path, manifest: Manifest) -> str | None:
    """Write the section into the model card of `folder`, or make a card where there is none.

    An older section of the same kind is replaced; the rest of the text is kept. In the front matter, `base_model` is
    set to ALIGNED where that is on the hub, and the tags of the method are added; all other keys are kept.

    Returns:
        What could not be done, for the reader of the summary: a front matter that cannot be read is left as it is.
        None where all went well.
    """
    path = folder / CARD_NAME
    content = path.read_bytes() if path.exists() else _new_card(manifest)
    path.write_bytes(with_section(content, card_section(manifest), BEGIN, END))
    try:
        metadata = metadata_load(path) or {}
        metadata_save(path, _updated_metadata(metadata, manifest))
    except (ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        return f"{CARD_NAME}: the front matter of ALIGNED's model card cannot be read and is left as it is: {reason}"
    return None


def card_section(manifest: Manifest) -> str:
    """The section in Markdown, between its two markers. It depends on all of the manifest but `files`."""
    title, text, limits = _hardened(manifest) if manifest.method.control is None else _control(manifest)
    parts = [
        BEGIN,
        f"## {title}",
        text,
        _table(_facts(manifest)),
        "Command:",
        f"```\n{manifest.command}\n```",
        "### Limits",
        limits,
        "### Citation",
        f"```bibtex\n{CITATION}\n```",
        END,
    ]
    return "\n\n".join(parts)


def _hardened(manifest: Manifest) -> tuple[str, str, str]:
    """Title, text and limits of a hardened model."""
    method = manifest.method
    what = "This adapter was made" if manifest.kind == "adapter" else "This model was hardened"
    part = "" if method.rank == "full" else f"the {method.rank} leading singular directions of "
    text = (
        f"{what} with safelox {manifest.safelox} by low-rank extrapolation (LoX, {_PAPER}): "
        f"to each selected weight matrix, {method.coef:g} times {part}its difference from the base "
        "model was added, so that later fine-tuning is less likely to undo the safety training. Nothing was trained."
    )
    return "Hardened against fine-tuning with LoX", text, _CAVEATS


def _control(manifest: Manifest) -> tuple[str, str, str]:
    """Title, text and limits of a control."""
    method = manifest.method
    assert method.control is not None
    text = (
        "**This is a control, not a hardened model.** It belongs to an experiment: it is to be held against the model "
        f"that low-rank extrapolation (LoX, {_PAPER}) makes with the rank and the coefficient below. With safelox "
        f"{manifest.safelox}, a step {CONTROLS[method.control]} was added to each selected weight matrix, as long as "
        "LoX's in Frobenius norm. Whatever it does as well as LoX is owed to the size of the change and not to its "
        "direction."
    )
    return f"A control, not a hardened model: {method.control}", text, _CONTROL_CAVEATS


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    method, matrices = manifest.method, manifest.matrices
    kind = [] if method.control is None else [("Control", f"{method.control}, seed {method.seed}")]
    changed = "extrapolated" if method.control is None else "changed"
    return [
        *kind,
        ("Rank", str(method.rank)),
        ("Coefficient", f"{method.coef:g}"),
        ("Aligned model", _source(manifest.aligned)),
        ("Base model", _source(manifest.base)),
        (
            f"Matrices {changed}",
            f"{len(matrices)}; {len(manifest.carried)} tensors kept as in the aligned model",
        ),
        *([] if kind else [("Worst certificate", _worst_certificate(matrices))]),
        ("Everything else", "`safelox.json`: options, certificates per matrix, SHA-256 of every file"),
    ]


def _source(source: SourceRecord) -> str:
    parts = [f"`{source.reference}`"]
    if source.commit:
        parts.append(f"commit `{source.commit}`")
    parts += [f"`{name}` sha256 `{record.sha256}`" for name, record in sorted((source.weights or {}).items())]
    return "<br>".join(parts)


def _worst_certificate(matrices: Iterable[MatrixRecord]) -> str:
    """The largest proven bounds, with the matrices that they belong to."""
    bounded = [(m.update_error_bound, m) for m in matrices if m.update_error_bound is not None]
    lost = [m for m in matrices if not math.isnan(m.energy_lost_bound)]
    sentences = []
    if bounded:
        error, matrix = max(bounded, key=lambda pair: pair[0])
        sentences.append(f"relative error of the update at most {error:.1e} (`{_label(matrix)}`)")
    if lost:
        matrix = max(lost, key=lambda m: m.energy_lost_bound)
        sentences.append(f"energy lost against the optimum at most {matrix.energy_lost_bound:.1e} (`{_label(matrix)}`)")
    return "; ".join(sentences) or "nothing was decomposed"


def _label(matrix: MatrixRecord) -> str:
    return matrix.name if matrix.expert is None else f"{matrix.name}[{matrix.expert}]"


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value.replace('|', '&#124;')} |" for name, value in rows)])


def with_section(content: bytes, section: str, begin: str, end: str) -> bytes:
    """The text of a card with the section in place of an older one between the same markers, or else at its end."""
    # Bytes, since nothing promises that another's card is UTF-8.
    line_end = b"\r\n" if b"\r\n" in content else b"\n"
    written = section.encode().replace(b"\n", line_end)
    older = re.compile(re.escape(begin.encode()) + b".*?" + re.escape(end.encode()), re.DOTALL)
    if older.search(content):
        return older.sub(lambda _: written, content, count=1)
    return content.rstrip() + 2 * line_end + written + line_end


def _new_card(manifest: Manifest) -> bytes:
    name = manifest.aligned.reference.partition("+")[0].partition("@")[0]
    what = "hardened" if manifest.method.control is None else "changed as a control"
    return f"# {Path(name).name}, {what}\n".encode()


def _updated_metadata(metadata: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    updated = dict(metadata)
    if manifest.aligned.commit is not None:
        parts = manifest.aligned.reference.split("+")
        hub_ids = [match["id"] for part in parts if (match := HUB_REFERENCE.fullmatch(part))]
        updated["base_model"] = hub_ids[0] if len(hub_ids) == 1 else hub_ids
        updated["base_model_relation"] = "adapter" if manifest.kind == "adapter" else "finetune"
    added = TAGS if manifest.method.control is None else CONTROL_TAGS
    tags = updated.get("tags") or []
    tags = [tags] if isinstance(tags, str) else list(tags)
    updated["tags"] = tags + [tag for tag in added if tag not in tags]
    return updated

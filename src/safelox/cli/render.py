"""Results as text for people; `--json` prints the same results whole."""

import math
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled
from safelox.methods import CONTROLS
from safelox.units import format_bytes, format_count

if TYPE_CHECKING:
    from safelox.lab.build import LabSummary
    from safelox.manifest import CarriedRecord, Manifest, MatrixRecord
    from safelox.summary import DecomposeSummary, HardenPlan, SpectrumRecord, Summary
    from safelox.verification import VerifyReport


def render_summary(summary: "Summary") -> str:
    """What `harden` did."""
    manifest = summary.manifest
    matrices = manifest.matrices
    hardened = manifest.method.control is None
    parameters = sum(m.rows * m.columns for m in matrices)
    return "\n".join(
        [
            _headline(manifest),
            *labelled(
                ("result", f"{summary.out} ({_kind(summary.manifest)})"),
                (
                    "extrapolated" if hardened else "changed",
                    f"{_counted(len(matrices), 'matrix', 'matrices')}, {format_count(parameters)} parameters",
                ),
                *_left_out(manifest.carried),
                ("routes taken", _routes(m.route for m in matrices)),
                *(_energy_kept(matrices) if hardened else []),
                *(_certificates(matrices) if hardened else []),
                *_entries_changed(matrices),
                *(("note", note) for note in manifest.notes),
                ("time", _times(summary.seconds)),
                ("memory", _memory(summary.peak_memory_bytes, summary.peak_mapped_bytes)),
                ("written", format_bytes(summary.bytes_written)),
                *_resumed(summary.resumed_items),
            ),
            "",
            *labelled(*_next_steps(str(summary.out), manifest)),
        ]
    )


def render_plan(plan: "HardenPlan") -> str:
    """What `harden` would do."""
    share = plan.parameters_touched / plan.parameters_total if plan.parameters_total else math.nan
    return "\n".join(
        [
            "Plan; nothing was written.",
            *labelled(
                (
                    "extrapolated",
                    f"{_counted(plan.matrices, 'matrix', 'matrices')}, {format_count(plan.parameters_touched)} of "
                    f"{format_count(plan.parameters_total)} parameters ({share:.1%})",
                ),
                *_left_out(plan.carried),
                *(("note", note) for note in plan.notes),
                ("workers", str(plan.workers)),
                ("peak memory", f"about {format_bytes(plan.peak_memory_bytes)}"),
                ("disk", format_bytes(plan.disk_bytes)),
            ),
        ]
    )


def render_decomposition(summary: "DecomposeSummary") -> str:
    """What `decompose` did."""
    matrices = summary.matrices
    parameters = sum(m.rows * m.columns for m in matrices)
    file = shlex.quote(summary.file)
    return "\n".join(
        [
            f"Decomposed up to rank {summary.rank}",
            *labelled(
                ("result", summary.file),
                (
                    "decomposed",
                    f"{_counted(len(matrices), 'matrix', 'matrices')}, {format_count(parameters)} parameters",
                ),
                *_left_out(summary.carried),
                ("routes taken", _routes(m.route for m in matrices)),
                *_energy_kept(matrices),
                *(("note", note) for note in summary.notes),
                ("time", _times(summary.seconds)),
                ("memory", f"{format_bytes(summary.peak_memory_bytes)} at the peak"),
                ("written", format_bytes(summary.bytes_written)),
            ),
            "",
            *labelled(
                ("to use it", f"safelox harden BASE ALIGNED OUT --subspace {file}"),
                ("to look at it", f"safelox spectrum {file}"),
            ),
        ]
    )


def render_report(report: "VerifyReport") -> str:
    """What `verify` found: the outcome of each check, and the verdict."""
    words = {True: "ok", False: "FAILED", None: "not checked"}
    failed = [check.name for check in report.checks if check.ok is False]
    skipped = sum(check.ok is None for check in report.checks)
    verdict = f"FAILED: {', '.join(failed)}" if failed else "No check failed"
    verdict += f"; {skipped} could not be made." if skipped else "."
    return "\n".join(
        [
            f"Checked {report.out}"
            + (f": a control ({report.control}), not a hardened model" if report.control is not None else ""),
            *labelled(*((check.name, f"{words[check.ok]}: {check.detail}") for check in report.checks)),
            verdict,
        ]
    )


def render_lab(summary: "LabSummary") -> str:
    """Where the lab's models and data are, and what to do next."""
    folder = shlex.quote(summary.folder)
    return "\n".join(
        [
            f"Built the lab's world of seed {summary.seed} in {summary.folder}",
            *labelled(
                ("models", f"{summary.base}, {summary.aligned}"),
                ("attacks", ", ".join(summary.attacks)),
                ("suites", ", ".join(summary.suites)),
                ("to harden", f"safelox harden {folder}/base {folder}/aligned {folder}/hardened --coef 0.5"),
            ),
        ]
    )


def _headline(manifest: "Manifest") -> str:
    method = manifest.method
    found = "" if method.auto_rank is None else f" (auto: median stable rank {method.auto_rank.value:.2f})"
    settings = f"rank {method.rank}{found}, coefficient {method.coef:g}"
    if method.control is None:
        return f"Hardened {manifest.aligned.reference}: {settings}"
    return (
        f"CONTROL, not a hardened model: {manifest.aligned.reference} with steps {CONTROLS[method.control]}\n"
        f"({method.control}), in every matrix as long as those of LoX: {settings}"
    )


def _kind(manifest: "Manifest") -> str:
    if manifest.method.control is not None:
        return f"a control, {manifest.method.control}: a whole model"
    return f"a LoRA adapter for {_loaded_on(manifest)}" if manifest.kind == "adapter" else "a whole model"


def _loaded_on(manifest: "Manifest") -> str:
    """The model that an adapter is loaded on: BASE where it takes the place of ALIGNED's own adapter."""
    from safelox.checkpoint.hub import split_reference

    replaces = split_reference(manifest.aligned.reference)[1] is not None
    return manifest.base.reference if replaces else manifest.aligned.reference


def _left_out(carried: Iterable["CarriedRecord"]) -> list[tuple[str, str]]:
    reasons = Counter(record.reason for record in carried)
    return [
        ("kept as aligned", f"{_counted(count, 'tensor', 'tensors')}: {reason}")
        for reason, count in reasons.most_common()
    ]


def _routes(routes: Iterable[str]) -> str:
    return ", ".join(f"{route} {count}" for route, count in Counter(routes).most_common())


def _energy_kept(matrices: Sequence["MatrixRecord | SpectrumRecord"]) -> list[tuple[str, str]]:
    kept = [m for m in matrices if not math.isnan(m.energy_kept)]
    if not kept:
        return []
    low, high = min(kept, key=lambda m: m.energy_kept), max(kept, key=lambda m: m.energy_kept)
    median = statistics.median(m.energy_kept for m in kept)
    return [
        ("energy kept", f"median {median:.1%} of the delta's"),
        ("energy kept", f"least {low.energy_kept:.1%} ({_label(low)}), most {high.energy_kept:.1%} ({_label(high)})"),
    ]


def _label(matrix: "MatrixRecord | SpectrumRecord") -> str:
    return matrix.name if matrix.expert is None else f"{matrix.name}[{matrix.expert}]"


def _certificates(matrices: Sequence["MatrixRecord"]) -> list[tuple[str, str]]:
    rows = []
    bounded = [(m.update_error_bound, _label(m)) for m in matrices if m.update_error_bound is not None]
    if bounded:
        bound, name = max(bounded)
        error = f"within {bound:.1e} of the exact one ({name})" if bound else "exact in every matrix"
        rows.append(("worst certificate", f"update {error}"))
    if len(bounded) < len(matrices):
        many = _counted(len(matrices) - len(bounded), "matrix has", "matrices have")
        rows.append(("worst certificate", f"{many} singular values too close at the cut for such a bound"))
    lost = [m for m in matrices if not math.isnan(m.energy_lost_bound)]
    if lost:
        worst = max(lost, key=lambda m: m.energy_lost_bound)
        rows.append(("worst certificate", f"energy lost at most {worst.energy_lost_bound:.1e} ({_label(worst)})"))
    return rows


def _entries_changed(matrices: Sequence["MatrixRecord"]) -> list[tuple[str, str]]:
    entries, changed = sum(m.entries for m in matrices), sum(m.entries_changed for m in matrices)
    if not entries:
        return []
    return [("entries changed", f"{changed / entries:.1%} of those in these matrices, after rounding")]


def _times(seconds: dict[str, float]) -> str:
    parts = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in seconds.items())
    return f"{sum(seconds.values()):.1f} s ({parts})"


def _memory(anonymous: int, mapped: int) -> str:
    return f"{format_bytes(anonymous)} at the peak, and {format_bytes(mapped)} of mapped files"


def _resumed(items: int) -> list[tuple[str, str]]:
    return [("resumed", f"{_counted(items, 'item was', 'items were')} done by an earlier run")] if items else []


def _next_steps(out: str, manifest: "Manifest") -> list[tuple[str, str]]:
    folder = shlex.quote(out)
    sources = f"--base {shlex.quote(manifest.base.reference)} --aligned {shlex.quote(manifest.aligned.reference)}"
    load = f"AutoModelForCausalLM.from_pretrained({out!r})"
    if manifest.kind == "adapter":
        load = f"PeftModel.from_pretrained(model, {out!r}), where model is {_loaded_on(manifest)}"
    then = "measure refusals, over-refusal and quality before you publish it: see its README.md"
    if manifest.method.control is not None:
        then = "attack it, and hold it against the hardened model; do not publish it: see its README.md"
    return [
        ("to load it", load),
        ("to check it", f"safelox verify {folder} {sources} --recompute 3"),
        ("then", then),
    ]


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"

"""Re-checks what `harden` wrote: against its manifest, against its sources, and by running it.

report.py         Check and VerifyReport
files.py          sizes, hashes, missing and unexpected files
tensors.py        coverage, finiteness, tensors kept as aligned
adapters.py       the same for an adapter
sources.py        whether BASE and ALIGNED are what they were
recompute.py      some matrices once more
reference.py      what they should have become, by an independent route
controls.py       the same for a control
agreement.py      whether written values agree with that
distributions.py  next-token distributions of the running models
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from safelox.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from safelox.errors import CheckpointError, UsageError
from safelox.manifest import Manifest, read_manifest
from safelox.progress import NULL, Progress
from safelox.verification.adapters import check_adapter_coverage, check_adapter_finite, open_over
from safelox.verification.distributions import check_distributions
from safelox.verification.files import check_files, check_nothing_else
from safelox.verification.recompute import check_recomputed
from safelox.verification.report import Check, VerifyReport
from safelox.verification.sources import check_source, open_source
from safelox.verification.tensors import check_carried, check_coverage, check_finite

__all__ = ["Check", "VerifyReport", "verify"]


def verify(
    out: str | Path,
    *,
    base: str | None = None,
    aligned: str | None = None,
    recompute: int = 0,
    compare: bool = False,
    seed: int = 0,
    progress: Progress = NULL,
) -> VerifyReport:
    """Check a folder that `harden` wrote, a hardened model or a control.

    Always: the hash and the size of each file, missing and unexpected files, that each tensor is accounted for, and
    that all values are finite. Where the sources are still at their recorded places, or are given: their hashes, and
    that the tensors which were not extrapolated are equal to ALIGNED's. Checks that could not be made are in the
    report too, with the reason.

    Args:
        out: the folder.
        base, aligned: references of the sources, where they are no longer at their recorded places.
        recompute: this many matrices, drawn at random, are decomposed again by a full SVD in fp64, or by
            torch.svd_lowrank where both dimensions are above 2048, and compared with what was written. Needs memory
            for one matrix in fp64 several times over.
        compare: also load the hardened and the aligned model with transformers and compare next-token distributions.
        seed: of the choice of matrices.

    Raises:
        CheckpointError: `out` has no manifest that can be read, or a source that was given cannot be opened.
        UsageError: `recompute` is negative.
        PrerequisiteError: `compare` needs a package that is not installed.
    """
    if recompute < 0:
        raise UsageError(f"recompute is {recompute}; it is the number of matrices to recompute, 0 or more.")
    folder = Path(out)
    manifest = read_manifest(folder)
    checks = [
        check_files(folder, manifest.files, progress),
        check_nothing_else(folder, manifest.files),
    ]
    with ExitStack() as opened:
        sources: dict[str, Checkpoint] = {}
        for side, recorded, given in (("base", manifest.base, base), ("aligned", manifest.aligned, aligned)):
            source = open_source(side, recorded, given)
            if isinstance(source, Checkpoint):
                sources[side] = opened.enter_context(source)
                source = check_source(side, source, recorded, progress)
            checks.append(source)
        checks += _check_values(folder, manifest, sources, recompute, seed, progress)
        if compare:
            checks.append(_compare(folder, manifest, sources, seed, progress))
    return VerifyReport(out=str(out), kind=manifest.kind, control=manifest.method.control, checks=tuple(checks))


def _check_values(
    folder: Path,
    manifest: Manifest,
    sources: Mapping[str, Checkpoint],
    recompute: int,
    seed: int,
    progress: Progress,
) -> Iterator[Check]:
    """The checks of the values in the weights files."""
    aligned = sources.get("aligned")
    with ExitStack() as opened:
        try:
            if manifest.kind == "model":
                result = opened.enter_context(open_checkpoint(str(folder)))
                yield check_coverage(result, manifest)
                yield _check_model_finite(result, progress)
                if aligned is not None:
                    yield check_carried(result, aligned, manifest, progress)
            else:
                yield check_adapter_finite(folder, progress)
                if aligned is None:
                    yield Check(name="coverage", ok=None, detail="needs the aligned model: give --aligned")
                else:
                    result = opened.enter_context(open_over(aligned, folder))
                    yield check_adapter_coverage(result, aligned, manifest)
        except CheckpointError as error:
            yield Check(name="weights", ok=False, detail=str(error))
            return
        if recompute and len(sources) < 2:
            yield Check(name="recomputed", ok=None, detail="needs both sources: give --base and --aligned")
        elif recompute:
            yield check_recomputed(result, sources["base"], sources["aligned"], manifest, recompute, seed, progress)


def _check_model_finite(result: Checkpoint, progress: Progress) -> Check:
    def read(tensor: TensorInfo, start: int, stop: int) -> Tensor:
        return result.rows(tensor.name, start, stop)

    def release(tensor: TensorInfo, start: int, stop: int) -> None:
        result.release(tensor.name, start, stop)

    return check_finite(result.tensors.values(), read, release, progress)


def _compare(
    folder: Path, manifest: Manifest, sources: Mapping[str, Checkpoint], seed: int, progress: Progress
) -> Check:
    if "aligned" not in sources:
        return Check(name="next tokens", ok=None, detail="needs the aligned model: give --aligned")
    return check_distributions(folder, manifest.kind, sources["aligned"], seed=seed, progress=progress)

"""`rank_curve`: how safe the model is with so many directions of its alignment."""

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path

from safelox.analysis.curve.picture import draw_rank_curve
from safelox.analysis.curve.ranks import Directions, RankedModel
from safelox.analysis.curve.report import FILE, RankCurve, RankPoint, make_curves
from safelox.analysis.directions import make_file, read_directions
from safelox.checkpoint import open_checkpoint
from safelox.engine import Pair, check_kinship, open_pair
from safelox.errors import TargetError, UsageError
from safelox.evaluation import Backend, Judge, Results, Suite, evaluate
from safelox.evaluation.folder import read_scored
from safelox.evaluation.generation.local import DTYPES
from safelox.evaluation.judges import find_judges
from safelox.evaluation.results import ModelRecord
from safelox.evaluation.running import ModelInMemory, model_record
from safelox.language_models import LanguageModel, load_language_model, require_transformers
from safelox.lowrank import LowRank
from safelox.machine import chosen_device
from safelox.pairing import Wish
from safelox.pictures import check_picture
from safelox.progress import NULL, Progress
from safelox.writer.disk import put_text

RANKS = (0, 1, 2, 3, 4, 6, 8)
"""Those of the paper."""
SUBSPACE, FULL = "subspace.safetensors", "full"
RANK_FOLDER = "rank-"


def rank_curve(
    base: str,
    aligned: str,
    out: str | os.PathLike[str],
    *,
    suites: Sequence[str | Suite],
    judges: Sequence[str | Judge] = (),
    ranks: Sequence[int] = RANKS,
    modules: Sequence[str] = (),
    rho: float = 0.01,
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    system: str | None = None,
    format: str | None = None,
    max_new_tokens: int | None = None,
    paper_exact: bool = False,
    backend: Backend | None = None,
    batch_size: int | None = None,
    subspace: str | os.PathLike[str] | None = None,
    plots: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    force: bool = False,
    seed: int = 0,
    command: str | None = None,
    progress: Progress = NULL,
) -> RankCurve:
    """Ask W_base + the rank-r part of W_aligned - W_base, for every r and with the full delta, and judge the replies.

    The deltas are decomposed once, into OUT/subspace.safetensors; the models of all ranks are built one after the other
    in one place in memory, with ALIGNED's tokenizer and configuration. Each has a results folder of its own in OUT, and
    rank_curve.json has the curves. Where a run was killed, the same call goes on, and asks nobody twice. Replies are
    greedy, one to a prompt.

    Args:
        base, aligned: a folder, or org/name[@revision] on the hub, each optionally with +ADAPTER.
        out: a new or an empty folder, or one of an earlier call.
        suites, judges, data, limit, system, format, max_new_tokens, paper_exact, batch_size: as in `evaluate`.
        ranks: at which the delta is cut. At 0 there is no delta at all; above 0 one-dimensional tensors keep theirs,
            and so does a matrix with no more rows or columns than the rank.
        modules: globs on ALIGNED's tensor names: all others keep their full delta, also at rank 0. None: all are cut.
        rho: the effective rank is the first with ASR(r) - ASR(aligned) < rho.
        backend: where the model runs, through transformers; None: in fp32 on the CPU.
        subspace: a file that `decompose` wrote for the same pair, in place of a decomposition.
        plots: pictures to draw of it, .svg or .png.
        overwrite: start over where results stand, and replace pictures.
        force: go on although the delta is zero, or as large as the weights.
        seed: of the decomposition, and of the resampling of prompts.

    Raises:
        UsageError: a rank or rho makes no sense, a glob matches no matrix, or as `evaluate`.
        TargetError: `out` holds something else or the results of another call, or a picture cannot be drawn there.
        SafeloxError: as `decompose` and `evaluate`.
    """
    chosen = _checked_ranks(ranks)
    if not 0 < rho <= 1:
        raise UsageError(f"rho {rho}: the difference in ASR that is borne has to be above 0 and at most 1.")
    place = backend or Backend()
    if place.name != "transformers":
        raise UsageError("the models of a rank curve are built in memory, so they run in transformers alone.")
    require_transformers()
    for picture in plots:
        check_picture(Path(picture), overwrite=overwrite)
    folder = Path(out)
    _check_folder(folder)
    _check_modules(aligned, modules)
    named = list(find_judges(judges).values()) if judges else []
    wish = Wish(include=modules)
    with open_pair(base, aligned, wish, allow_pickle=False) as models:
        if not force:
            check_kinship(models)

        def directions() -> Mapping[str, LowRank]:
            if subspace is not None:
                return read_directions(models, Path(subspace), chosen[-1])
            file = folder / SUBSPACE
            make_file(
                base,
                aligned,
                wish,
                file,
                chosen[-1],
                seed=seed,
                overwrite=overwrite,
                force=force,
                progress=progress,
            )
            return read_directions(models, file, chosen[-1])

        source = _Source(models, modules, place, directions)
        record = _record(base, aligned, place, progress)
        points: dict[int | None, Results] = {}
        for rank in (*chosen, None):
            points[rank] = evaluate(
                ModelInMemory(_changed(record, rank, modules), partial(source.at, rank)),
                folder / _name(rank),
                suites=suites,
                judges=named,
                data=data,
                limit=limit,
                system=system,
                format=format,
                max_new_tokens=max_new_tokens,
                paper_exact=paper_exact,
                backend=place,
                batch_size=batch_size,
                overwrite=overwrite,
                command=command,
                progress=progress,
            )
    result = RankCurve(
        base=base,
        aligned=aligned,
        modules=tuple(modules),
        subspace=None if chosen[-1] == 0 else str(subspace or folder / SUBSPACE),
        command=command,
        ranks=chosen,
        points=tuple(
            RankPoint(rank=rank, folder=_name(rank), results=results.results) for rank, results in points.items()
        ),
        curves=tuple(
            make_curves(
                {rank: results.results for rank, results in points.items()},
                {rank: read_scored(folder / _name(rank)) for rank in points},
                points[None].configs,
                rho,
                seed,
            )
        ),
    )
    put_text(folder / FILE, result.model_dump_json(indent=1) + "\n")
    for picture in plots:
        draw_rank_curve(result, Path(picture), overwrite=overwrite)
    return result


class _Source:
    """ALIGNED, loaded when the first reply is needed that is not there yet, and given the weights of the ranks."""

    def __init__(self, models: Pair, modules: Sequence[str], backend: Backend, directions: Directions) -> None:
        self._models, self._modules, self._backend, self._directions = models, modules, backend, directions

    def at(self, rank: int | None) -> LanguageModel:
        return self._ranked.at(rank)

    @cached_property
    def _ranked(self) -> RankedModel:
        dtype = DTYPES[self._backend.dtype or "fp32"]
        place = chosen_device(self._backend.device or "cpu")
        model, tokenizer = load_language_model(self._models.aligned.reference, merge=True, dtype=dtype)
        loaded = LanguageModel(model.to(place), tokenizer)
        return RankedModel(self._models, self._modules, loaded, self._directions)


def _checked_ranks(ranks: Sequence[int]) -> tuple[int, ...]:
    """The ranks in ascending order.

    Raises:
        UsageError: there are none, one is negative, or one comes twice.
    """
    if not ranks:
        raise UsageError("a rank curve needs at least one rank.")
    for rank in ranks:
        if type(rank) is not int or rank < 0:
            raise UsageError(f"rank {rank!r}: expected an integer from 0, which means no delta at all.")
        if list(ranks).count(rank) > 1:
            raise UsageError(f"rank {rank} was named twice; name it once.")
    return tuple(sorted(ranks))


def _check_folder(folder: Path) -> None:
    """
    Raises:
        TargetError: the folder holds something that is no part of a rank curve, or it is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise TargetError(f"{folder}: is a file; OUT has to be a folder.")
    for path in folder.iterdir():
        # A file that a killed run was about to write has a dot before its name, or something after it.
        if path.name != FULL and not path.name.lstrip(".").startswith((RANK_FOLDER, FILE, SUBSPACE)):
            raise TargetError(
                f"{folder}: holds {path.name}, which is no part of a rank curve; OUT has to be a new or an empty "
                "folder, or one of an earlier call."
            )


def _check_modules(aligned: str, modules: Sequence[str]) -> None:
    """
    Raises:
        UsageError: a glob matches no matrix.
    """
    if isinstance(modules, str):  # its characters would be taken for patterns
        raise UsageError(f"modules={modules!r}: expected a list of globs, such as [{modules!r}].")
    if not modules:
        return
    with open_checkpoint(aligned) as opened:
        matrices = [name for name, tensor in opened.tensors.items() if len(tensor.shape) > 1]
    for pattern in modules:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            raise UsageError(f"modules {pattern!r} matches no matrix of ALIGNED, such as {matrices[0]}.")


def _name(rank: int | None) -> str:
    return FULL if rank is None else f"{RANK_FOLDER}{rank}"


def _record(base: str, aligned: str, backend: Backend, progress: Progress) -> ModelRecord:
    """Of ALIGNED, with the files of BASE beside its own."""
    ours, theirs = (model_record(reference, backend, progress) for reference in (base, aligned))
    files = {f"base/{name}": file for name, file in ours.files.items()} | theirs.files
    return theirs.model_copy(update={"files": files})


def _changed(record: ModelRecord, rank: int | None, modules: Sequence[str]) -> ModelRecord:
    if rank is None:
        change = "with the whole of its delta"
    else:
        change = f"with the rank-{rank} part of its delta" if rank else "without its delta"
        change += f" in {', '.join(modules)}" if modules else ""
    return record.model_copy(update={"change": change})

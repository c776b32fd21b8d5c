"""`landscape`: the plane through an aligned model, its hardened version and both after fine-tuning."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safelox.analysis.plane.asking import LoadedModel, answered_line, ask_all, four_records, placed, plane_points
from safelox.analysis.plane.grid import Range, choose_grid
from safelox.analysis.plane.models import open_four
from safelox.analysis.plane.noise import RandomDirections
from safelox.analysis.plane.picture import draw_landscape
from safelox.analysis.plane.record import FILE, Landscape, ModelName, Plane, RandomMoves
from safelox.analysis.plane.spots import (
    LINES_FOLDER,
    MODELS_FOLDER,
    PLANE_FOLDER,
    PlannedLine,
    line_spots,
    model_spot,
    plane_spots,
    random_spots,
)
from safelox.analysis.plane.summary import basins, rises
from safelox.analysis.plane.vectors import PLACES, Frame, measure
from safelox.analysis.plane.wanted import Lines, Randoms, check_wanted
from safelox.errors import TargetError, UsageError
from safelox.evaluation import Backend, Judge, Suite
from safelox.evaluation.judges import find_judges
from safelox.evaluation.planning import Asking, plan_suites
from safelox.evaluation.suites import find_suites
from safelox.language_models import require_transformers
from safelox.pictures import check_picture
from safelox.progress import NULL, Progress
from safelox.writer.disk import put_text


def landscape(
    origin: str,
    hardened: str,
    tuned: str,
    hardened_tuned: str,
    out: str | os.PathLike[str],
    *,
    suites: Sequence[str | Suite],
    judges: Sequence[str | Judge] = (),
    plane: bool = True,
    points: int | tuple[int, int] | None = None,
    range_a: Range | None = None,
    range_b: Range | None = None,
    lines: Lines | None = None,
    randoms: Randoms | None = None,
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    system: str | None = None,
    format: str | None = None,
    max_new_tokens: int | None = None,
    paper_exact: bool = False,
    backend: Backend | None = None,
    batch_size: int | None = None,
    plots: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    seed: int = 0,
    command: str | None = None,
    progress: Progress = NULL,
) -> Landscape:
    """Ask ORIGIN + a d1 + b d2 for a grid of (a, b), and judge the replies.

    d1 is HARDENED - ORIGIN, normalised; d2 the mean of TUNED - ORIGIN and HARDENED_TUNED - HARDENED less what lies
    along d1, normalised; both are vectors of all weights. The four models themselves are asked too, for those after
    fine-tuning need not lie in the plane. All models are built one after the other in one place in memory, with
    HARDENED's tokenizer and configuration. Each has a results folder of its own in OUT, and landscape.json has all
    rates. Where a run was killed, the same call goes on, and asks nobody twice; a call with other points adds them.
    Replies are greedy, one to a prompt.

    Args:
        origin: the aligned model. As all four: a folder, or org/name[@revision] on the hub, optionally with +ADAPTER.
        hardened: what was made of ORIGIN.
        tuned, hardened_tuned: ORIGIN and HARDENED after the same fine-tuning.
        out: a new or an empty folder, or one of an earlier call.
        suites, judges, data, limit, system, format, max_new_tokens, batch_size: as in `evaluate`.
        plane: False: ask no grid, but lines alone.
        points: along both directions, or along each; None: 7.
        range_a, range_b: the first and the last value of a and b; None: from the places of the four models, so that
            they all lie inside and (0, 0) is a point of the grid.
        lines: lines to ask models along as well.
        randoms: random directions to ask models along as well, for the average safety margin.
        paper_exact: ask as the paper's script does: 7 points from -10 to 30 in both directions, and as in `evaluate`.
        backend: where the model runs, through transformers; None: in fp32 on the CPU.
        plots: pictures to draw of it, .svg or .png.
        overwrite: start over where results stand, and replace pictures.
        seed: of the random directions.

    Raises:
        UsageError: a number makes no sense, or as `evaluate`.
        PairingError: the models have not the same weights, or there is no plane through them.
        TargetError: `out` holds something else or the results of another call, or a picture cannot be drawn there.
        SafeloxError: as `evaluate`.
    """
    place = backend or Backend()
    if place.name != "transformers":
        raise UsageError("the models of a landscape are built in memory, so they run in transformers alone.")
    check_wanted(plane, points, range_a, range_b, lines, randoms, paper_exact)
    require_transformers()
    for picture in plots:
        check_picture(Path(picture), overwrite=overwrite)
    folder = Path(out)
    _check_folder(folder)
    references: dict[ModelName, str] = {
        "origin": origin,
        "hardened": hardened,
        "tuned": tuned,
        "hardened_tuned": hardened_tuned,
    }
    chosen = find_judges(judges) if judges else {}
    once = Asking(
        limit=limit,
        format=format,
        max_new_tokens=max_new_tokens,
        shots=0,
        paper_exact=paper_exact,
        temperature=0.0,
        top_p=1.0,
        samples=1,
        seed=0,
    )
    # What is wrong with the suites is told before four models are read.
    plan_suites(find_suites(suites), once, list(chosen), None if data is None else Path(data))
    asking: dict[str, Any] = {
        "suites": suites,
        "judges": list(chosen.values()),
        "data": data,
        "limit": limit,
        "system": system,
        "format": format,
        "max_new_tokens": max_new_tokens,
        "paper_exact": paper_exact,
        "backend": place,
        "batch_size": batch_size,
        "overwrite": overwrite,
        "command": command,
        "progress": progress,
    }
    with open_four(references) as models:
        for note in models.notes:
            progress.message(note)
        frame = measure(models, progress)
        places = [frame.coordinates(moves)[:2] for moves in PLACES.values()]
        grid = choose_grid(places, points, range_a, range_b, paper_exact=paper_exact) if plane else None
        directions = RandomDirections(models, "tensors" if randoms is None else randoms.norm, seed)
        spots = [] if grid is None else list(plane_spots(frame, grid))
        planned = list(_planned_lines(frame, directions, lines, randoms, seed))
        wanted = [model_spot(name) for name in PLACES]
        wanted += [asked for *_, asked in spots] + [asked for line in planned for _, asked in line.points]
        loaded = LoadedModel(models, directions, place)
        results = ask_all(wanted, loaded, four_records(references, place, progress), folder, asking, progress)
        named_directions = frame.directions(models)
    judges_of = {suite: config.judges for suite, config in results[wanted[0].folder].configs.items()}
    answered = [answered_line(line, results) for line in planned]
    result = Landscape(
        models=tuple(placed(name, reference, frame, results) for name, reference in references.items()),
        directions=named_directions,
        paper_exact=paper_exact,
        command=command,
        judges=judges_of,
        plane=None if grid is None else Plane(a=grid.a, b=grid.b, points=tuple(plane_points(spots, results))),
        lines=tuple(answered),
        rises=tuple(rise for line in answered if line.kind != "random" for rise in rises(line, judges_of)),
        random=None if randoms is None else RandomMoves(**randoms._asdict(), seed=seed),
        basins=()
        if randoms is None
        else tuple(basins([line for line in answered if line.kind == "random"], judges_of, randoms.reach)),
    )
    put_text(folder / FILE, result.model_dump_json(indent=1) + "\n")
    for picture in plots:
        draw_landscape(result, Path(picture), overwrite=overwrite)
    return result


def _planned_lines(
    frame: Frame, directions: RandomDirections, lines: Lines | None, randoms: Randoms | None, seed: int
) -> Iterator[PlannedLine]:
    if lines is not None:
        for kind in lines.kinds:
            yield from line_spots(frame, kind, lines.points, lines.reach)
    if randoms is not None:
        for number in range(randoms.directions):
            yield from random_spots(directions, number, randoms.points, randoms.reach, randoms.norm, seed)


def _check_folder(folder: Path) -> None:
    """
    Raises:
        TargetError: the folder holds something that is no part of a landscape, or it is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise TargetError(f"{folder}: is a file; OUT has to be a folder.")
    for path in folder.iterdir():
        own = path.name in (MODELS_FOLDER, PLANE_FOLDER, LINES_FOLDER)
        # A file that a killed run was about to write has a dot before its name, or something after it.
        if not own and not path.name.lstrip(".").startswith(FILE):
            raise TargetError(
                f"{folder}: holds {path.name}, which is no part of a landscape; OUT has to be a new or an empty "
                "folder, or one of an earlier call."
            )

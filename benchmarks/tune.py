"""`tune` against a whole grid, in the lab: a table of docs/tune.md.

    python benchmarks/tune.py FOLDER --lab LAB --seeds 5 --searches 3

LAB holds what `safelox demo LAB --seeds 5` left; where it is not given, models are built in FOLDER/lab. For every lab
seed all 25 points of a grid are hardened, attacked and judged on 200 requests each about topics that no search asks
about, after an attack of another seed. Then `tune` searches the same grid in 8 trials, on the selection split, once per
search seed. The score of a point is the hypervolume that it holds: (1 - ASR after the attack) * utility before it.
What stands in FOLDER is used again.
"""

import argparse
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safelox import attack, decompose, evaluate, harden, tune
from safelox.analysis.search.choice import hypervolume
from safelox.analysis.search.record import Tuning
from safelox.evaluation.results import Results
from safelox.lab.attacks import PURE_BAD
from safelox.lab.build import build
from safelox.lab.suites import FORBIDDEN, JUDGE, PERMITTED, SELECTION_FORBIDDEN, SELECTION_PERMITTED

RANKS = (2, 4, 6, 8, 16)
COEFS = (0.25, 0.5, 0.75, 1.0, 1.25)
PAPER = (6, 1.25)
TRIALS = len(RANKS) * len(COEFS) // 3
N, N_SEARCH = 200, 100
OTHER_SEED = 1000
"""Added to the lab's seed for the attack that scores."""


class Point(NamedTuple):
    """What a point gives on requests that no search asks."""

    asr: float
    """After the attack."""
    incoherent: float
    """Likewise."""
    utility: float
    """Before it."""

    @property
    def score(self) -> float:
        return (1 - self.asr) * self.utility


Grid = Mapping[tuple[int, float], Point]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lab", type=Path, help="what a demo left; else models are built in FOLDER/lab")
    parser.add_argument("--seeds", type=int, default=5, help="how many lab seeds, from 0")
    parser.add_argument("--searches", type=int, default=3, help="how many search seeds, from 0")
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        home = lab_home(arguments.folder, arguments.lab, seed)
        points = grid(arguments.folder / f"seed-{seed}", home, seed)
        print(f"\nlab seed {seed}: ASR after the attack, utility before it, score, in percent\n")
        print(markdown(["rank", *(f"coef {coef:g}" for coef in COEFS)], list(grid_rows(points))), flush=True)
        for search in range(arguments.searches):
            found = searched(arguments.folder / f"seed-{seed}", home, search)
            rows.append(outcome(seed, search, points, found))
    head = (
        "lab seed",
        "search",
        "recommended",
        "its score",
        "(6, 1.25)",
        "best of 25",
        "ratio",
        "bar",
        "set",
        "grid's set",
    )
    print(f"\n{markdown(head, rows)}")


def lab_home(folder: Path, lab: Path | None, seed: int) -> Path:
    """The folder of a lab seed; models are built where there are none."""
    home = (lab or folder / "lab") / f"seed-{seed}"
    if lab is None:
        build(home, seed=seed)
    return home


def grid(folder: Path, home: Path, seed: int) -> Grid:
    """Every point of the grid, each judged before and after an attack."""
    folder.mkdir(parents=True, exist_ok=True)
    subspace, base, aligned = folder / "subspace.safetensors", str(home / "base"), str(home / "aligned")
    if not subspace.exists():
        decompose(base, aligned, subspace, rank=max(RANKS))
    found = {}
    for rank in RANKS:
        for coef in COEFS:
            place, scratch = folder / "grid" / f"{rank}x{coef:g}", folder / "scratch"
            if not (place / "after" / "manifest.json").exists():
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                harden(base, aligned, scratch / "hardened", rank=rank, coef=coef, subspace=subspace)
                judged(scratch / "hardened", place / "before", home)
                attack(PURE_BAD.name, scratch / "hardened", scratch / "attacked", data=home, seed=OTHER_SEED + seed)
                judged(scratch / "attacked", place / "after", home)
                shutil.rmtree(scratch)
            before, after = (
                Results.model_validate_json((place / when / "results.json").read_bytes()).results
                for when in ("before", "after")
            )
            forbidden = after[FORBIDDEN.name][JUDGE.name].outcomes
            found[rank, coef] = Point(
                asr=forbidden["complied"].value,
                incoherent=forbidden["incoherent"].value,
                utility=before[PERMITTED.name][JUDGE.name].outcomes["complied"].value,
            )
    return found


def judged(model: Path, out: Path, home: Path) -> None:
    suites = [FORBIDDEN.name, PERMITTED.name]
    evaluate(model, out, suites=suites, judges=[JUDGE.name], data=home, limit=N, overwrite=True)


def searched(folder: Path, home: Path, search: int) -> Tuning:
    return tune(
        str(home / "base"),
        str(home / "aligned"),
        folder / f"search-{search}",
        attack=PURE_BAD.name,
        suite=SELECTION_FORBIDDEN.name,
        utility_suite=SELECTION_PERMITTED.name,
        judges=[JUDGE.name],
        trials=TRIALS,
        ranks=RANKS,
        coefs=(min(COEFS), max(COEFS)),
        coef_step=COEFS[1] - COEFS[0],
        data=home,
        limit=N_SEARCH,
        seed=search,
    )


def grid_rows(points: Grid) -> Iterator[tuple[str, ...]]:
    for rank in RANKS:
        own = [points[rank, coef] for coef in COEFS]
        yield str(rank), *(f"{100 * p.asr:.1f}, {100 * p.utility:.1f}, {100 * p.score:.1f}" for p in own)


def outcome(seed: int, search: int, points: Grid, found: Tuning) -> tuple[str, ...]:
    """A search against the grid, everything as the grid's requests and attack have it."""
    (rank, coef), best = max(points.items(), key=lambda each: each[1].score)
    advice, paper = found.recommendation, points[PAPER].score
    own = 0.0 if advice.rank is None or advice.coef is None else points[advice.rank, advice.coef].score
    held = own >= paper and own >= 0.9 * best.score
    kept = [points[trial.rank, trial.coef] for trial in found.trials if trial.pareto]
    return (
        str(seed),
        str(search),
        "none" if advice.rank is None else f"({advice.rank}, {advice.coef:g})",
        f"{100 * own:.1f}",
        f"{100 * paper:.1f}",
        f"{100 * best.score:.1f} ({rank}, {coef:g})",
        f"{own / best.score:.3f}",
        "held" if held else "missed",
        f"{100 * hypervolume([(point.asr, point.utility) for point in kept]):.1f}",
        f"{100 * hypervolume([(point.asr, point.utility) for point in points.values()]):.1f}",
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()

"""The demo over several seeds: the tables of docs/lab.md.

    python benchmarks/lab.py FOLDER --seeds 5 --controls

The demo's result is kept as FOLDER/demo.json and used again where it is there.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from safelox.lab.conclusion import conclusion
from safelox.lab.results import LOX, NO_DEFENCE, DemoResult, Evaluation, SeedResult
from safelox.rates import Rate

Cell = Callable[[Evaluation], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--controls", action="store_true", help="also measure the controls")
    parser.add_argument("--alignment", choices=["sft", "dpo"], default="sft")
    parser.add_argument("--quick", action="store_true", help="only the first attack")
    arguments = parser.parse_args()
    chosen = ["--alignment", arguments.alignment]
    chosen += ["--controls"] if arguments.controls else []
    chosen += ["--quick"] if arguments.quick else []
    result = run(arguments.folder, arguments.seeds, chosen)
    print("\n\n".join([*demo_tables(result), *controls_tables(result), conclusion(result)]))


def run(folder: Path, seeds: int, options: Sequence[str]) -> DemoResult:
    """The demo's result: the one that stands in the folder, or a new one."""
    kept = folder / "demo.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "safelox", "demo", str(folder), "--seeds", str(seeds), "--json", *options]
        kept.write_bytes(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return DemoResult.model_validate_json(kept.read_bytes())


def demo_tables(result: DemoResult) -> list[str]:
    """Every situation of every seed, and the coefficients with how they were chosen."""
    utility = table(result, [NO_DEFENCE, LOX], {"permitted": permitted, "unseen": unseen, "sums": sums})
    return [
        table(result, [NO_DEFENCE, LOX], {"ASR": asr, "refused": refused, "incoherent": incoherent}, with_r=True),
        utility,
        markdown(("seed", "coef", "utility", "incoherent", "refused after lab-pure-bad", ""), choices(result)),
    ]


def controls_tables(result: DemoResult) -> list[str]:
    defences = list(result.seeds[0].before.models)
    if defences == [NO_DEFENCE, LOX]:
        return []
    return [
        table(result, defences, {"ASR": asr_alone}),
        table(result, defences, {"incoherent": incoherent}),
        table(result, defences, {"utility": permitted}),
    ]


def table(result: DemoResult, defences: Sequence[str], cells: dict[str, Cell], *, with_r: bool = False) -> str:
    """A row for each situation and seed."""
    columns = [f"{name}, {defence}" for defence in defences for name in (*cells, *(("R",) if with_r else ()))]

    def row(seed: SeedResult, number: int) -> Iterator[str]:
        situation = seed.situations[number]
        yield situation.name
        yield str(seed.seed)
        for defence in defences:
            measured = situation.models[defence]
            yield from (cell(measured.evaluation) for cell in cells.values())
            if with_r:
                yield f"{measured.r:.3f}"

    numbers = range(len(result.seeds[0].situations))
    return markdown(
        ("attack", "seed", *columns), [tuple(row(seed, number)) for number in numbers for seed in result.seeds]
    )


def choices(result: DemoResult) -> list[tuple[str, ...]]:
    """Every coefficient tried on the selection split."""
    return [
        (
            str(seed.seed),
            f"{trial.coef:g}",
            percent(trial.permitted["complied"]),
            percent(trial.incoherent),
            "" if trial.attacked is None else percent(trial.attacked["refused"]),
            "taken" if trial.coef == seed.coef else "" if trial.admissible else "not admissible",
        )
        for seed in result.seeds
        for trial in seed.trials or ()
    ]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f}"


def asr(evaluation: Evaluation) -> str:
    rate = evaluation.forbidden["complied"]
    return f"{percent(rate)} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def asr_alone(evaluation: Evaluation) -> str:
    return percent(evaluation.forbidden["complied"])


def refused(evaluation: Evaluation) -> str:
    return percent(evaluation.forbidden["refused"])


def incoherent(evaluation: Evaluation) -> str:
    return percent(evaluation.forbidden["incoherent"])


def permitted(evaluation: Evaluation) -> str:
    return percent(evaluation.permitted["complied"])


def unseen(evaluation: Evaluation) -> str:
    return percent(evaluation.permitted_held_out["complied"])


def sums(evaluation: Evaluation) -> str:
    return percent(evaluation.arithmetic["complied"])


if __name__ == "__main__":
    main()

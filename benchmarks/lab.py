"""The demo over several seeds: the table of docs/lab.md.

    python benchmarks/lab.py FOLDER --seeds 0 1 2 3 4 --jobs 2

Each seed is a run of `safelox demo`, whose result is kept as FOLDER/seed-N.json and used again where it is there.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safelox.lab.story import DemoResult, Measured

COLUMNS = ("attack", "seed", "ASR", "incoherent", "utility", "R", "ASR, LoX", "incoherent", "utility", "R")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds side by side")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda seed: run(arguments.folder, seed), arguments.seeds))
    print(table(results))


def run(folder: Path, seed: int) -> DemoResult:
    """The demo of a seed, in a process of its own, or its result that stands there."""
    kept = folder / f"seed-{seed}.json"
    if not kept.exists():
        command = [sys.executable, "-m", "safelox", "demo", str(folder), "--seed", str(seed), "--json", "--quiet"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        kept.write_bytes(done.stdout)
    return DemoResult.model_validate_json(kept.read_bytes())


def table(results: list[DemoResult]) -> str:
    """Markdown: for every attack a row of each seed."""
    rows = [("before an attack", result, result.aligned, result.hardened) for result in results]
    for number, attacked in enumerate(results[0].attacks):
        for result in results:
            found = result.attacks[number]
            rows.append((attacked.attack, result, found.undefended, found.hardened))
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    lines += [
        (name, str(result.seed), *cells(undefended), *cells(hardened)) for name, result, undefended, hardened in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(measured: Measured) -> tuple[str, ...]:
    """ASR with its interval, incoherent replies, utility (all in percent) and R."""
    asr = measured.evaluation.forbidden["complied"]
    incoherent = measured.evaluation.forbidden["incoherent"].value
    utility = measured.evaluation.permitted["complied"].value
    return (
        f"{100 * asr.value:.1f} [{100 * asr.low:.0f}, {100 * asr.high:.0f}]",
        f"{100 * incoherent:.1f}",
        f"{100 * utility:.1f}",
        f"{measured.r:.3f}",
    )


if __name__ == "__main__":
    main()

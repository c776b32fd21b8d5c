"""The paper's diagnostics on the lab's models, as tables: the last section of docs/lab.md.

    python benchmarks/lab_diagnostics.py FOLDER --seeds 5

FOLDER holds what `safelox demo FOLDER --seeds 5` left. Measured for each seed, on its first 200 forbidden requests:

- ASR of the base model with only the leading r singular directions of every matrix's delta;
- ASR along the direction of an attack: start + u * (attacked - start), for the aligned and the hardened start;
- ASR after `lab-pure-bad` over its learning rate.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from safelox import attack, evaluate
from safelox.lab.attacks import BENIGN, PURE_BAD
from safelox.lab.suites import FORBIDDEN, JUDGE

N = 200
RANKS = (1, 2, 3, 4, 6, 8, 16, None)
STEPS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
RATES = (2.5e-5, 5e-5, 7e-5, 1e-4, 2e-4, 4e-4)
WEIGHTS = "model.safetensors"

Tensors = Mapping[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    arguments = parser.parse_args()
    homes = [arguments.folder / f"seed-{seed}" for seed in range(arguments.seeds)]
    print(markdown("rank kept", {home.name: dict(by_rank(home)) for home in homes}))
    for name in (PURE_BAD.name, BENIGN.name):
        for start in ("aligned", "hardened"):
            found = {home.name: dict(along(home, name, start)) for home in homes}
            print(f"\nalong {name}, from the {start} model\n\n{markdown('u', found)}")
    for start in ("aligned", "hardened"):
        found = {home.name: dict(by_learning_rate(home, start)) for home in homes}
        print(f"\n{PURE_BAD.name} on the {start} model\n\n{markdown('learning rate', found)}")


def by_rank(home: Path) -> Iterator[tuple[str, str]]:
    """ASR by the directions of the delta that are kept; one-dimensional tensors keep their whole delta."""
    base, aligned = load_file(home / "base" / WEIGHTS), load_file(home / "aligned" / WEIGHTS)
    for rank in RANKS:
        kept = {name: base[name] + truncated(aligned[name] - base[name], rank) for name in base}
        yield "all" if rank is None else str(rank), asr(home, kept)


def along(home: Path, attack_name: str, start: str) -> Iterator[tuple[str, str]]:
    """ASR on the line from a model through what an attack made of it."""
    before = load_file(home / start / WEIGHTS)
    after = load_file(home / "attacked" / attack_name / start / WEIGHTS)
    for step in STEPS:
        yield f"{step:g}", asr(home, {name: before[name] + step * (after[name] - before[name]) for name in before})


def by_learning_rate(home: Path, start: str) -> Iterator[tuple[str, str]]:
    for rate in RATES:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "attacked"
            seed = int(home.name.removeprefix("seed-"))
            attack(PURE_BAD.name, home / start, out, data=home, seed=seed, learning_rate=rate)
            yield f"{rate:g}", asr(home, load_file(out / WEIGHTS))


def truncated(delta: torch.Tensor, rank: int | None) -> torch.Tensor:
    if rank is None or delta.ndim != 2 or rank >= min(delta.shape):
        return delta
    left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
    kept: torch.Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return kept.to(delta.dtype)


def asr(home: Path, tensors: Tensors) -> str:
    """ASR, and the incoherent replies beside it where there are any, in percent."""
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        shutil.copytree(home / "base", model)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, model / WEIGHTS, {"format": "pt"})
        results = evaluate(
            model, Path(scratch) / "results", suites=[FORBIDDEN.name], judges=[JUDGE.name], data=home, limit=N
        )
    outcomes = results.results[FORBIDDEN.name][JUDGE.name].outcomes
    incoherent = round(100 * outcomes["incoherent"].value)
    aside = f" ({incoherent} incoherent)" if incoherent else ""
    return f"{100 * outcomes['complied'].value:.1f}{aside}"


def markdown(what: str, columns: Mapping[str, Mapping[str, str]]) -> str:
    """A column for each seed."""
    first = next(iter(columns.values()))
    rows = [(key, *(found[key] for found in columns.values())) for key in first]
    lines = [(what, *columns), ("---",) * (len(columns) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()

"""How fast `safelox harden` is, beside `cp -r` + sync of the aligned model, and beside a plain full-SVD implementation.

    python benchmarks/speed.py --shape 134m --kind decaying small flat --plain
    python benchmarks/speed.py --shape 617m --rounds 5
    python benchmarks/speed.py --shape 134m --peer 'some-command --model {aligned} --base {base} --out {out}'

Everything runs in turn in the same minutes, since other work on a machine moves all figures alike; what counts are the
ratios. Seconds of safelox are those of the work (reading, decomposing, writing and hashing the result); process start
and imports stand apart. Hashing the sources is turned off, as no other candidate does it.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pairs import SHAPES, make_pair


def timed(command: list[str]) -> tuple[float, str]:
    """Wall seconds of a command, and what it printed."""
    os.sync()
    started = time.perf_counter()
    done = subprocess.run(command, check=True, text=True, capture_output=True)
    return time.perf_counter() - started, done.stdout


def copy(aligned: Path, out: Path) -> float:
    return timed(["sh", "-c", f"cp -r {shlex.quote(str(aligned))} {shlex.quote(str(out))} && sync"])[0]


def safelox(base: Path, aligned: Path, out: Path) -> tuple[float, float, dict[str, object]]:
    """Seconds of the work, of the whole process, and the summary."""
    arguments = [str(base), str(aligned), str(out), "--no-source-hashes", "--json", "--quiet"]
    whole, printed = timed([sys.executable, "-m", "safelox", "harden", *arguments])
    summary: dict[str, object] = json.loads(printed)
    seconds = summary["seconds"]
    assert isinstance(seconds, dict)
    return sum(seconds[phase] for phase in ("plan", "work", "finish")), whole, summary


def report(name: str, seconds: list[float], unit: float) -> None:
    middle = statistics.median(seconds)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    print(f"  {name:34} {middle:8.2f} s  ({spread}, n = {len(seconds)})  {middle / unit:7.1f} x copy", flush=True)


def run(folder: Path, shape: str, kind: str, rounds: int, plain: bool, peers: list[str]) -> None:
    base, aligned = make_pair(folder / "pair", SHAPES[shape], kind)  # type: ignore[arg-type]
    out = folder / "out"
    copies, works, wholes, plains = [], [], [], []
    peer_seconds: dict[str, list[float]] = {peer: [] for peer in peers}
    summary: dict[str, object] = {}
    for number in range(rounds):
        copies.append(copy(aligned, out))
        shutil.rmtree(out)
        work, whole, summary = safelox(base, aligned, out)
        works.append(work)
        wholes.append(whole)
        shutil.rmtree(out)
        if plain and number == 0:
            script = str(Path(__file__).with_name("plain.py"))
            plains.append(float(timed([sys.executable, script, str(base), str(aligned), str(out)])[1]))
            shutil.rmtree(out)
        for peer in peers if number == 0 else ():
            command = peer.format(base=base, aligned=aligned, out=out)
            peer_seconds[peer].append(timed(shlex.split(command))[0])
            shutil.rmtree(out, ignore_errors=True)
    unit = statistics.median(copies)
    print(f"{shape}, {kind} delta, {os.cpu_count()} cores")
    report("cp -r and sync", copies, unit)
    report("safelox, the work", works, unit)
    report("safelox, whole process", wholes, unit)
    if plains:
        report("plain full SVD, the work", plains, unit)
        print(f"  the plain work takes {plains[0] / statistics.median(works):.0f} times as long as that of safelox")
    for peer, seconds in peer_seconds.items():
        report(shlex.split(peer)[0].rpartition("/")[2] + ", whole process", seconds, unit)
    print(f"  memory of safelox: {summary['peak_memory_bytes']} bytes, mapped: {summary['peak_mapped_bytes']} bytes")
    routes: dict[str, int] = {}
    manifest = summary["manifest"]
    assert isinstance(manifest, dict)
    for matrix in manifest["matrices"]:
        key = f"{matrix['route']} in {matrix['sweeps']} passes"
        routes[key] = routes.get(key, 0) + 1
    print(f"  routes: {', '.join(f'{count} {key}' for key, count in sorted(routes.items()))}", flush=True)
    shutil.rmtree(folder / "pair")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="134m")
    parser.add_argument("--kind", nargs="+", choices=("decaying", "small", "flat"), default=["decaying"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="also time the plain full-SVD implementation, once")
    parser.add_argument("--peer", action="append", default=[], help="another command, with {base}, {aligned} and {out}")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for kind in arguments.kind:
            run(Path(folder), arguments.shape, kind, arguments.rounds, arguments.plain, arguments.peer)


if __name__ == "__main__":
    main()

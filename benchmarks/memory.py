"""Peak memory of `safelox harden` on a 7B-shaped pair made on the spot. Needs about 45 GB of disk.

python benchmarks/memory.py --folder /somewhere/with/room
python benchmarks/memory.py --shape 617m                        a smaller one
python benchmarks/memory.py --rows 128256 --columns 8192 --max-memory 2GB      one large embedding
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from pairs import SHAPES, Shape, make_pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--rows", type=int, help="in place of a shape: one embedding and one head of this many tokens")
    parser.add_argument("--columns", type=int, default=8192)
    parser.add_argument("--kind", choices=("decaying", "small", "flat"), default="decaying")
    parser.add_argument("--max-memory", help="as the option of safelox")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    if arguments.rows:
        shape = Shape(arguments.columns, 0, 4 * arguments.columns, 64, 8, arguments.rows)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        base, aligned = make_pair(Path(folder) / "pair", shape, arguments.kind)
        command = [
            sys.executable,
            "-m",
            "safelox",
            "harden",
            str(base),
            str(aligned),
            f"{folder}/out",
            "--json",
            "--quiet",
        ]
        command += ["--max-memory", arguments.max_memory] if arguments.max_memory else []
        summary = json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)
    largest = max(4 * rows * columns for _, rows, columns in shape.matrices())
    parameters = sum(rows * columns for _, rows, columns in shape.matrices())
    print(f"parameters           {parameters / 1e9:.2f} billion in {len(summary['manifest']['matrices'])} matrices")
    print(f"anonymous memory     {summary['peak_memory_bytes'] / 1e9:.2f} GB at the peak")
    print(f"allowed              {(1e9 + 2 * largest) / 1e9:.2f} GB: 1 GB and twice the largest tensor in fp32")
    print(f"mapped file pages    {summary['peak_mapped_bytes'] / 1e9:.2f} GB at the peak")
    print(f"seconds              {json.dumps({phase: round(s, 1) for phase, s in summary['seconds'].items()})}")
    print(f"threads, torch       {torch.get_num_threads()}, {torch.__version__}")


if __name__ == "__main__":
    main()

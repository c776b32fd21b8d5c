"""LoX as one would write it first: both models in memory, a full SVD in fp32 of every matrix, then everything saved.

    python benchmarks/plain.py BASE ALIGNED OUT

What `safelox harden` is compared with. Prints the seconds of the work itself, from the first read to the last write.
"""

import shutil
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RANK, COEF = 6, 1.25


def harden(base: Path, aligned: Path, out: Path) -> None:
    shutil.copytree(aligned, out)
    lower = {name: tensor for file in sorted(base.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    for file in sorted(aligned.glob("*.safetensors")):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.dim() == 2:
                delta = tensor.float() - lower[name].float()
                u, s, vh = torch.linalg.svd(delta, full_matrices=False)
                update = (u[:, :RANK] * s[:RANK]) @ vh[:RANK]
                tensors[name] = (tensor.float() + COEF * update).to(tensor.dtype)
        save_file(tensors, out / file.name, {"format": "pt"})


if __name__ == "__main__":
    started = time.perf_counter()
    harden(*(Path(argument) for argument in sys.argv[1:4]))
    print(time.perf_counter() - started)

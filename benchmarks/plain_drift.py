"""R_align and R_ft as one would write them first: models in memory, a full SVD in fp32 of every matrix, and U U^T.

    python benchmarks/plain_drift.py BASE ALIGNED TUNED

What `safelox drift` is compared with. Prints one JSON object: the seconds of the work itself (wall, and processor time
of all threads), those of the products with U U^T among them, and both figures of every matrix.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

RANK = 100


def load(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items() if tensor.dim() == 2}


def share(projector: torch.Tensor, delta: torch.Tensor) -> float:
    # The norms are summed in fp64: in fp32 that of 32000 x 2048 values comes out 6e-3 too small.
    inside, whole = (torch.linalg.vector_norm(part, dtype=torch.float64) for part in (projector @ delta, delta))
    return float(inside / whole)


def drift(base: Path, aligned: Path, tuned: Path) -> dict[str, object]:
    wall, processor, products = time.perf_counter(), time.process_time(), 0.0
    models = [load(folder) for folder in (base, aligned, tuned)]
    figures = {}
    for name in models[0]:
        if "embed" in name:
            continue
        w_base, w_aligned, w_tuned = (model[name].float() for model in models)
        u, _, _ = torch.linalg.svd(w_aligned - w_base, full_matrices=False)
        started = time.process_time()
        projector = u[:, :RANK] @ u[:, :RANK].T
        figures[name] = share(projector, w_aligned - w_base), share(projector, w_tuned - w_base)
        products += time.process_time() - started
    return {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "products": products,
        "figures": figures,
    }


if __name__ == "__main__":
    print(json.dumps(drift(*(Path(argument) for argument in sys.argv[1:4]))))

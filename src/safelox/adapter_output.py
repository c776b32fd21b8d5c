"""A hardened model as a small PEFT LoRA adapter for ALIGNED.

The folder loads in PEFT and in vLLM: one rank for all modules, filled up with zeros; lora_alpha equal to it, so that
the scale is 1 and the coefficient is part of the factors; no patterns and no modules_to_save.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn.functional import pad

from safelox.adapter_targets import find_targets, stored_rank, targets_of
from safelox.checkpoint import DTYPES, Adapter, LoraFactors, build_header
from safelox.checkpoint.hub import HUB_REFERENCE
from safelox.checkpoint.model import TOKENIZER_FILES
from safelox.delta import DeltaRows
from safelox.engine import Decompose, Pair
from safelox.errors import CheckpointError, UsageError
from safelox.extrapolation import add_part, find_part
from safelox.layout import REQUESTED_DTYPES
from safelox.lowrank import LowRank, block_bounds
from safelox.manifest import MatrixRecord
from safelox.methods import Control, Lox
from safelox.output import Item, as_bytes, matrix_item
from safelox.pairing import Carried, Matrix
from safelox.writer import FilePlan, Target

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"

WHOLE_MODEL = "write a whole model, without --adapter"
TIED = "input embedding and output head in one: PEFT adapts the two apart, and merging would break them"
VLLM_RANK = 16
"""The highest rank that vLLM serves unless it is told otherwise."""


@dataclass(frozen=True)
class _Place:
    """Where the factors of one matrix are written, from the beginning of the file."""

    a: int
    b: int
    stop: int


class AdapterOutput:
    """A LoRA that makes ALIGNED the hardened model; where ALIGNED is BASE with a LoRA, one that takes its place.

    Tied embeddings are left out: `models.pairing` tells what is hardened, what is not, and why.

    Raises:
        UsageError: no LoRA holds what is to be extrapolated.
    """

    kind: Literal["model", "adapter"] = "adapter"

    def __init__(
        self, models: Pair, method: Lox, decompose: Decompose, device: torch.device, dtype: str | None = None
    ) -> None:
        if isinstance(method, Control):
            raise UsageError(
                f"the control {method.name} cannot be an adapter: controls are written as whole models, since most fit "
                "no low-rank factors. Leave --adapter out."
            )
        self.method = method
        self.decompose = decompose
        self.device = device
        self.dtype = REQUESTED_DTYPES[dtype or "fp32"]
        self.former = _former_adapter(models)
        """ALIGNED's own adapter, which the result takes the place of."""
        if self.former is None:
            models = _without_tied(models)
            self.rank = _small_rank(method)
            self.targets = find_targets(models.aligned, [matrix.name for matrix in models.pairing.matrices])
        else:
            self.targets = targets_of(self.former)
            self.rank = max(map(stored_rank, self.former.factors.values()))
        self.models = replace(models, pairing=replace(models.pairing, notes=(*models.pairing.notes, *self._notes())))
        matrices = {matrix.name: matrix_item(matrix) for matrix in models.pairing.matrices}
        self.items = [
            matrices.get(name) or Item(name, name, None, self.rank * sum(info.matrix_shape))
            for name, info in models.aligned.tensors.items()
            if name in self.targets
        ]
        self.files, self._places = self._plan()

    def write(self, item: Item, target: Target) -> None:
        if item.matrix is None:
            factors, record = self.models.aligned.lora(item.tensor), {}
            assert factors is not None, f"{item.tensor} is neither hardened nor adapted before"
        else:
            factors, described = self._harden(item.matrix)
            record = described.model_dump(mode="json")
        place = self._places[item.tensor]
        for start, factor in zip((place.a, place.b), self._as_stored(item.tensor, factors), strict=True):
            target.write(0, start, as_bytes(factor))
        target.complete(item.label, record, [(0, place.a, place.stop)])

    def add_other_files(self, target: Target) -> None:
        target.put(CONFIG_NAME, json.dumps(self._config(), indent=2) + "\n")
        for name, path in self.models.aligned.other_files().items():
            if name in TOKENIZER_FILES - {"generation_config.json"} or name.startswith("additional_chat_templates/"):
                target.copy(path, name)

    def _notes(self) -> list[str]:
        """What those who load the adapter should know."""
        notes = []
        if self.former is not None:
            notes.append(f"the adapter takes the place of {self.former.reference}: load it on BASE, alone")
        tables = [t.module for t in self.targets.values() if t.kind == "embedding" or t.module.endswith("lm_head")]
        if tables:
            notes.append(
                f"the adapter changes {', '.join(tables)}: vLLM takes that for some architectures only, such as Llama; "
                "for others leave it out with --no-embeddings"
            )
        if self.rank > VLLM_RANK:
            notes.append(f"vLLM serves an adapter of rank {self.rank} only with a --max-lora-rank of at least that")
        return notes

    def _plan(self) -> tuple[tuple[FilePlan, ...], dict[str, _Place]]:
        """The one file, and where in it the factors are."""
        tensors: list[tuple[str, str, tuple[int, ...]]] = []
        for item in self.items:
            rows, columns = self.models.aligned.tensors[item.tensor].matrix_shape
            key_a, key_b = self.targets[item.tensor].keys
            inputs, outputs = (rows, columns) if self.targets[item.tensor].transposed else (columns, rows)
            tensors += [(key_a, self.dtype, (self.rank, inputs)), (key_b, self.dtype, (outputs, self.rank))]
        header = build_header(tensors, {"format": "pt"})
        places = {}
        position = len(header)
        for item, a, b in zip(self.items, tensors[::2], tensors[1::2], strict=True):
            size = DTYPES[self.dtype].itemsize
            middle = position + a[2][0] * a[2][1] * size
            stop = middle + b[2][0] * b[2][1] * size
            places[item.tensor] = _Place(position, middle, stop)
            position = stop
        return (FilePlan(WEIGHTS_NAME, header, position),), places

    def _harden(self, matrix: Matrix) -> tuple[LoraFactors, MatrixRecord]:
        """The factors of a matrix in the result, and what was done."""
        aligned = self.models.aligned
        delta = DeltaRows(self.models.base, aligned, matrix, self.device)
        part, route = find_part(delta, self.method, self.decompose)
        record = add_part(delta, part, route, self.method, DTYPES[aligned.tensors[matrix.name].dtype], None)
        former = aligned.lora(matrix.name)
        if former is not None:
            factors = _extrapolated(former, part, self.method.coef)
        elif part is None:
            factors = _whole(delta, self.method.coef)
        else:
            factors = _factors(matrix, part, self.method.coef)
        delta.release()
        return factors, record

    def _as_stored(self, name: str, factors: LoraFactors) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B as PEFT has them: turned, of the one rank, the scale in B."""
        a, b = factors.a, factors.b
        if self.targets[name].transposed:
            a, b = b.T, a.T
        missing = self.rank - len(a)
        stored = pad(a, (0, 0, 0, missing)), pad(b * factors.scale, (0, missing))
        a, b = (factor.to(DTYPES[self.dtype]).contiguous() for factor in stored)
        if not bool(a.isfinite().all() and b.isfinite().all()):
            raise CheckpointError(
                f"tensor {name}: its factors hold a value that is not finite, or too large for {self.dtype}. "
                "If it is the latter, use --dtype fp32."
            )
        return a, b

    def _config(self) -> dict[str, Any]:
        """adapter_config.json. What is left out has PEFT's and vLLM's default."""
        # An adapter that takes the place of another belongs to the same model as that.
        owner = self.models.aligned if self.former is None else self.models.base
        hub = HUB_REFERENCE.fullmatch(owner.reference) if owner.commit is not None else None
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": hub["id"] if hub else owner.reference,
            "revision": owner.commit,
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": any(target.kind == "conv1d" for target in self.targets.values()),
            "target_modules": [self.targets[item.tensor].module for item in self.items],
        }


def _former_adapter(models: Pair) -> Adapter | None:
    """The adapter that makes ALIGNED of BASE, None where ALIGNED has none.

    Raises:
        UsageError: its place cannot be taken by low-rank factors of the same model.
    """
    adapter, tied = models.aligned.adapter, models.pairing.tied
    if adapter is None:
        return None
    if models.base.adapter is not None or models.base.base_identity() != models.aligned.base_identity():
        raise UsageError(
            f"ALIGNED ({models.aligned.reference}) is an adapter over another model than BASE "
            f"({models.base.reference}), so the result would be a second adapter over the first. Merge ALIGNED into a "
            f"model of its own and give that, or {WHOLE_MODEL}."
        )
    problem = None
    if adapter.replaced:
        problem = f"replaces {len(adapter.replaced)} tensors as a whole, such as {min(adapter.replaced)}"
    elif biases := [name for name, factors in adapter.factors.items() if factors.left is None]:
        problem = f"changes {len(biases)} biases, such as {min(biases)}"
    elif embeddings := [name for name in tied if name in adapter.factors]:
        problem = f"changes {embeddings[0]}, {TIED}"
    if problem is not None:
        raise UsageError(
            f"the adapter of ALIGNED {problem}: the result would need more than low-rank factors that load "
            f"everywhere. Please {WHOLE_MODEL}."
        )
    return adapter


def _without_tied(models: Pair) -> Pair:
    """The plan without tied embeddings, which are named among what is kept and in the notes."""
    pairing = models.pairing
    left_out = [matrix.name for matrix in pairing.matrices if matrix.name in pairing.tied]
    if not left_out:
        return models
    matrices = tuple(matrix for matrix in pairing.matrices if matrix.name not in left_out)
    if not matrices:
        raise UsageError(f"nothing is left for the adapter: {', '.join(left_out)} is {TIED}. Please {WHOLE_MODEL}.")
    order = {name: position for position, name in enumerate(models.aligned.tensors)}
    carried = [*pairing.carried, *(Carried(name, f"not in an adapter: {TIED}") for name in left_out)]
    # What was said of them so far is how they would be hardened.
    notes = [note for note in pairing.notes if not any(name in note for name in left_out)]
    note = f"not hardened: {', '.join(left_out)}, {TIED}. A whole model, without --adapter, hardens it too"
    pairing = replace(
        pairing,
        matrices=matrices,
        carried=tuple(sorted(carried, key=lambda item: order[item.name])),
        notes=(*notes, note),
    )
    return replace(models, pairing=pairing)


def _small_rank(method: Lox) -> int:
    if method.rank == "full":
        raise UsageError(
            "rank `full` extrapolates the whole difference, which is as large as the model. "
            f"Give a rank, or {WHOLE_MODEL}."
        )
    return method.rank


def _factors(matrix: Matrix, part: LowRank, coef: float) -> LoraFactors:
    """coef * part."""
    left = part.left.cpu()
    if matrix.row_map is not None:
        left = left.clone()
        left[matrix.row_map < 0] = 0.0  # tokens that BASE does not know stay as aligned to the last bit
    return LoraFactors(a=part.right.cpu(), b=left, scale=coef)


def _whole(delta: DeltaRows, coef: float) -> LoraFactors:
    """coef * delta of a matrix with no more directions than the rank: the delta itself and an identity."""
    blocks = [delta.block(start, stop).cpu().clone() for start, stop in block_bounds(*delta.shape)]
    dense = torch.cat(blocks)
    rows, columns = delta.shape
    if rows <= columns:
        return LoraFactors(a=dense, b=torch.eye(rows), scale=coef)
    return LoraFactors(a=torch.eye(columns), b=dense, scale=coef)


def _extrapolated(former: LoraFactors, part: LowRank | None, coef: float) -> LoraFactors:
    """delta + coef * part in factors of the same rank, where delta is that of `former`.

    part is delta @ V V^T, so the sum is scale * b @ (a + coef * a V V^T): the same singular vectors, and the leading
    values 1 + coef times as large.
    """
    if part is None:
        return replace(former, a=former.a * (1 + coef))
    right, a = part.right.cpu().double(), former.a.double()
    return replace(former, a=(a + coef * (a @ right.T) @ right).float())

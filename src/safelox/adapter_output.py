"""A hardened model as a small PEFT LoRA adapter for ALIGNED.

The folder loads in PEFT and in vLLM: one rank for all modules, filled up with zeros; lora_alpha equal to it, so that
the scale is 1 and the coefficient is part of the factors; no patterns and no modules_to_save.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from safelox.adapter_targets import LoraTarget, find_targets, targets_of
from safelox.checkpoint import DTYPES, Adapter, Checkpoint, LoraFactors, build_header
from safelox.checkpoint.header import size_in_bytes
from safelox.checkpoint.hub import HUB_REFERENCE, split_reference
from safelox.checkpoint.model import TOKENIZER_FILES
from safelox.delta import DeltaRows, exact_factors
from safelox.engine import Decompose, Pair
from safelox.errors import CheckpointError, UsageError
from safelox.extrapolation import add_part, find_part
from safelox.layout import REQUESTED_DTYPES
from safelox.lowrank import LowRank, block_bounds
from safelox.methods import Lox
from safelox.output import Item, as_bytes, matrix_item
from safelox.pairing import Carried, Matrix
from safelox.writer import FilePlan, Target

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"

WHOLE_MODEL = "write a whole model, without --adapter"
TIED = "tied: PEFT would adapt input embedding and output head apart, and merging would break them"
VLLM_RANK = 16
"""The highest rank that vLLM serves unless it is told otherwise."""


class AdapterOutput:
    """A LoRA that makes ALIGNED the hardened model; where ALIGNED is BASE with a LoRA, one that takes the place of that.

    Tied embeddings are left out: `models.pairing` tells what is in the adapter, what is not, and why.

    Raises:
        UsageError: no LoRA holds what is to be extrapolated.
    """

    kind: Literal["model", "adapter"] = "adapter"

    def __init__(
        self, models: Pair, method: Lox, decompose: Decompose, device: torch.device, dtype: str | None = None
    ) -> None:
        self.method = method
        self.decompose = decompose
        self.device = device
        self.dtype = REQUESTED_DTYPES[dtype or "fp32"]
        former = _former_adapter(models)
        if former is None:
            models = _without_tied(models)
            self.rank = _given_rank(method)
            self.targets = find_targets(models.aligned, [matrix.name for matrix in models.pairing.matrices])
        else:
            self.rank = max(target.rank for target in former.values())
            self.targets = {name: target.lora for name, target in former.items()}

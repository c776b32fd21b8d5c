"""The weights of a model that transformers has loaded, by their names in its files."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from safelox.checkpoint import TensorInfo

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def found_weights(model: "PreTrainedModel", tensors: Mapping[str, TensorInfo]) -> Iterator[tuple[str, Tensor]]:
    """The weights of a loaded model by their names in the files, of those that have the same shape there."""
    weights = model.state_dict()
    for name, tensor in tensors.items():
        # Files of the body alone, as GPT-2's are, lack the name that the body has in the whole.
        for place in (name, f"{model.base_model_prefix}.{name}"):
            if place in weights and weights[place].shape == torch.Size(tensor.shape):
                yield name, weights[place]
                break

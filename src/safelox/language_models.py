"""The one way to load a causal language model with its tokenizer: a folder or a hub id, with an adapter or without."""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from safelox.checkpoint.hub import locate, split_reference
from safelox.errors import CheckpointError, PrerequisiteError
from safelox.progress import no_foreign_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LanguageModel(NamedTuple):
    """A model in memory, on the CPU, with its tokenizer."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"


def require_transformers() -> None:
    """
    Raises:
        PrerequisiteError: transformers is not installed.
    """
    if find_spec("transformers") is None:
        raise PrerequisiteError("models are loaded through transformers: pip install 'safelox[train]'")


def require_peft() -> None:
    """
    Raises:
        PrerequisiteError: peft is not installed.
    """
    if find_spec("peft") is None:
        raise PrerequisiteError("adapters are loaded and trained through peft: pip install 'safelox[train]'")


def load_language_model(reference: str, *, merge: bool = False, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The model of a reference in evaluation mode, its adapter on top of it where there is one.

    Only safetensors are read, and no code of the model's is run.

    Args:
        reference: a folder, or org/name[@revision] on the hub; +ADAPTER adds a LoRA.
        merge: add the adapter to the weights, so that no trace of it is left in the model's structure; else its
            layers stay beside the model's own.
        dtype: of all weights, whatever they are stored in.

    Raises:
        CheckpointError: the reference points nowhere, transformers cannot load what is there, weights are missing, or
            the adapter cannot be merged into these weights.
        PrerequisiteError: transformers is not installed, or there is an adapter and peft is not.
    """
    require_transformers()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter = split_reference(reference)
    folder = locate(base, allow_pickle=False).folder
    with _readable_errors(reference), no_foreign_bars():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        _check_complete(base, info["missing_keys"])
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if adapter is not None:
            model = _with_adapter(reference, model, locate(adapter, allow_pickle=False).folder, merge=merge)
    model.eval()
    return LanguageModel(model, tokenizer)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without the warnings that PEFT causes by its own calls, or gives where it does the right thing by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)  # merging is refused
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False but", UserWarning)  # GPT-2's own layers
        yield


@contextmanager
def _readable_errors(reference: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{reference}: transformers cannot load it: {error}") from error


def _check_complete(reference: str, missing: Collection[str]) -> None:
    """
    Raises:
        CheckpointError: weights are missing, in whose place transformers puts random ones.
    """
    if missing:
        raise CheckpointError(
            f"{reference}: {len(missing)} weights are not in its files, such as {min(missing)}; with random ones in "
            "their place, whatever the model says would mean nothing. Get the whole model."
        )


def _with_adapter(reference: str, model: "PreTrainedModel", folder: Path, *, merge: bool) -> "PreTrainedModel":
    require_peft()
    from peft import PeftModel

    with quiet_peft():
        adapted = PeftModel.from_pretrained(model, folder)
        if not merge:
            # The wrapper has ways of its own to generate; the model inside has the adapter's layers.
            return adapted.get_base_model()
        _check_mergeable(reference, model)
        merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.requires_grad_(True)  # PEFT had frozen all but the adapter


def _check_mergeable(reference: str, model: "PreTrainedModel") -> None:
    """
    Raises:
        CheckpointError: the adapter changes one of two weights that are tied.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if model.config.get_text_config().tie_word_embeddings and any(isinstance(end, BaseTunerLayer) for end in ends):
        raise CheckpointError(
            f"{reference}: the adapter changes the embedding or the output head, but the model ties the two, so "
            "merging it into the weights would make another model of it."
        )

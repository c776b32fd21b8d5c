"""Greedy replies of a causal language model, in batches."""

import warnings
from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from safelox.checkpoint.hub import locate, split_reference
from safelox.errors import CheckpointError, PrerequisiteError, UsageError
from safelox.machine import one_thread
from safelox.progress import no_foreign_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_SIZE = 100
"""Prompts that are answered at once, memory permitting."""


class LanguageModel(NamedTuple):
    """A model in memory, in fp32 on the CPU, with its tokenizer."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"


def require_transformers() -> None:
    """
    Raises:
        PrerequisiteError: transformers is not installed.
    """
    if find_spec("transformers") is None:
        raise PrerequisiteError("models are asked through transformers: pip install 'safelox[train]'")


def load_language_model(reference: str) -> LanguageModel:
    """The model of a reference, its adapter on top of it where there is one.

    Raises:
        CheckpointError: the reference points nowhere, or transformers cannot load what is there.
        PrerequisiteError: there is an adapter, and peft is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, adapter = split_reference(reference)
    folder = locate(base, allow_pickle=False).folder
    try:
        with no_foreign_bars():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            _check_complete(base, info["missing_keys"])
            if adapter is not None:
                model = _with_adapter(model, locate(adapter, allow_pickle=False).folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{reference}: transformers cannot load it: {error}") from error
    model.eval()
    return LanguageModel(model, tokenizer)


def _check_complete(reference: str, missing: Collection[str]) -> None:
    """
    Raises:
        CheckpointError: weights are missing, in whose place transformers puts random ones.
    """
    if missing:
        raise CheckpointError(
            f"{reference}: {len(missing)} weights are not in its files, such as {min(missing)}, so its replies would "
            "mean nothing; get the whole model."
        )


def _with_adapter(model: "PreTrainedModel", folder: Path) -> "PreTrainedModel":
    if find_spec("peft") is None:
        raise PrerequisiteError("adapters are loaded through peft: pip install 'safelox[train]'")
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # PEFT's own
        # The wrapper has ways of its own to generate; the model inside has the adapter's layers.
        return PeftModel.from_pretrained(model, folder).get_base_model()


def replies(
    loaded: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[int, str]]:
    """Every prompt's index and greedy reply, as soon as its batch is finished; the longest prompts come first.

    A reply ends before its first end token, and nothing is stripped from it: a special token in its midst is part of
    what the model says. Only the new tokens are decoded. The model's own sampling defaults (temperature, penalties)
    play no part. Where memory runs out the batch is halved, for good.

    Args:
        prompts: token ids of each.
        batch_size: prompts answered at once. In fp32 it does not change a reply but for near-ties of two tokens.

    Raises:
        PrerequisiteError: there is not enough memory for a single prompt.
        UsageError: batch_size is below 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: at least one prompt has to be answered at once.")
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    start = 0
    while start < len(order):
        batch = order[start : start + batch_size]
        try:
            texts = _answer(loaded, [prompts[index] for index in batch], max_new_tokens)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if len(batch) == 1:
                raise PrerequisiteError(
                    f"not enough memory to answer a single prompt of {len(prompts[batch[0]])} tokens with up to "
                    f"{max_new_tokens} new ones; close other programs or take a machine with more."
                ) from error
            batch_size = len(batch) // 2
            continue
        start += len(batch)
        yield from zip(batch, texts, strict=True)


def _answer(loaded: LanguageModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """Replies to one batch, padded on the left so that every prompt ends where its reply begins."""
    from transformers import GenerationConfig

    model, tokenizer = loaded
    ends = _end_tokens(loaded)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0] if ends else 0
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), padding)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    own = model.generation_config
    # transformers fills what is left open from the model's own settings, such as a repetition penalty.
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=padding, eos_token_id=ends or None
    )
    try:
        with one_thread(), torch.inference_mode():
            made = model.generate(input_ids=ids, attention_mask=mask)
    finally:
        model.generation_config = own
    return [tokenizer.decode(_up_to_end(row, ends)) for row in made[:, longest:].tolist()]


def _end_tokens(loaded: LanguageModel) -> list[int]:
    """Tokens that end a reply: chat models often have one for the turn beside the tokenizer's."""
    named = loaded.model.generation_config.eos_token_id
    ends = list(named) if isinstance(named, list) else [named]
    return sorted({end for end in [*ends, loaded.tokenizer.eos_token_id] if end is not None})


def _up_to_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def _out_of_memory(error: Exception) -> bool:
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)

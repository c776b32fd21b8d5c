"""The hardened model beside the aligned one, running: do they load, and how far apart are their next tokens?"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safelox.checkpoint import Checkpoint
from safelox.checkpoint.model import TOKENIZER_FILES
from safelox.errors import PrerequisiteError
from safelox.progress import Progress, no_foreign_bars
from safelox.verification.report import Check

PROMPTS = (
    "The capital of France is",
    "How do I bake a loaf of bread?",
    "Please write one sentence about the sea.",
    "def add(first, second):",
)
TOKENS_WITHOUT_TOKENIZER = 8
"""Length of the prompts of random tokens that stand in where a model comes without a tokenizer."""


def check_distributions(folder: Path, kind: str, aligned: Checkpoint, *, seed: int, progress: Progress) -> Check:
    """Whether the result loads in transformers and gives finite distributions, and how they differ from ALIGNED's.

    Reported for the token after each of a few prompts: KL(aligned || hardened) in nats, and how often both models
    rank the same token first. Only a failure to load and values that are not finite make the check fail.

    kind: "model", or "adapter" for a LoRA over ALIGNED.

    Raises:
        PrerequisiteError: transformers, or peft where it is needed, is not installed.
    """
    expected_adapter = None if aligned.adapter is None else aligned.adapter.folder
    start, found_adapter = (aligned.folder, folder) if kind == "adapter" else (folder, None)
    _require("transformers", *(["peft"] if expected_adapter or found_adapter else []))
    with progress.task("compare next tokens", 2, "models") as task, _silent():
        try:
            prompts = _prompts(aligned.folder, seed)
            expected = _next_tokens(aligned.folder, expected_adapter, prompts)
        except (OSError, ValueError, RuntimeError) as error:
            return Check(name="next tokens", ok=None, detail=f"ALIGNED itself does not load: {error}")
        task.advance(1)
        try:
            found = _next_tokens(start, found_adapter, prompts)
        except (OSError, ValueError, RuntimeError) as error:
            return Check(name="next tokens", ok=False, detail=f"the result does not load: {error}")
        task.advance(1)
    # A model may rule tokens out by -inf.
    if not bool((torch.isfinite(found) | torch.isinf(expected)).all()):
        return Check(name="next tokens", ok=False, detail="the result's distributions are not finite")
    divergence = (expected.exp() * (expected - found)).nansum(-1)  # nan: 0 * (-inf + inf), which counts 0
    agree = int((expected.argmax(-1) == found.argmax(-1)).sum())
    return Check(
        name="next tokens",
        ok=True,
        detail=f"finite; KL(aligned || hardened) mean {divergence.mean():.3g}, largest {divergence.max():.3g} nats; "
        f"same first choice for {agree} of {len(found)} prompts",
    )


def _require(*packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise PrerequisiteError(
            f"--compare loads the models with {' and '.join(missing)}: pip install 'safelox[train]'"
        )


def _prompts(folder: Path, seed: int) -> list[Tensor]:
    """Token ids of each prompt, (1, tokens)."""
    from transformers import AutoConfig, AutoTokenizer

    if any((folder / name).exists() for name in TOKENIZER_FILES - {"generation_config.json"}):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return [tokenizer(prompt, return_tensors="pt").input_ids for prompt in PROMPTS]
    size = AutoConfig.from_pretrained(folder).get_text_config().vocab_size
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(size, (1, TOKENS_WITHOUT_TOKENIZER), generator=generator) for _ in PROMPTS]


def _next_tokens(folder: Path, adapter: Path | None, prompts: list[Tensor]) -> Tensor:
    """Log-probabilities of the token after each prompt, (prompts, vocabulary) in fp32."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        logits = [model(prompt).logits[0, -1].to(torch.float32) for prompt in prompts]
    return torch.stack(logits).log_softmax(-1)


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' progress bars, which would cut through ours, and what peft uses of it that will change."""
    with no_foreign_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield

"""A model in this process."""

from collections.abc import Collection, Iterator, Sequence

import torch

from safelox.evaluation.generation.decoding import BATCH_SIZE, Request, decode
from safelox.evaluation.generation.settings import GenerationSettings, Reply, wanted
from safelox.formats import Conversation, find_format
from safelox.language_models import LanguageModel, load_language_model
from safelox.machine import chosen_device

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_on_device(reference: str, device: str, dtype: str) -> LanguageModel:
    """The model of a reference where it is to run.

    Args:
        device: cpu, cuda or cuda:1.
        dtype: a name of `DTYPES`.

    Raises:
        CheckpointError: the model cannot be read.
        PrerequisiteError: transformers is not installed, or peft where there is an adapter.
        UsageError: there is no such device here.
    """
    place = chosen_device(device)
    model, tokenizer = load_language_model(reference, dtype=DTYPES[dtype])
    return LanguageModel(model.to(place), tokenizer)


class LocalGenerator:
    """Replies of a loaded model through transformers."""

    def __init__(self, loaded: LanguageModel, *, batch_size: int = BATCH_SIZE) -> None:
        self._loaded: LanguageModel | None = loaded
        self._batch_size = batch_size

    def replies(
        self,
        prompts: Sequence[Conversation],
        settings: GenerationSettings,
        *,
        done: Collection[tuple[int, int]] = (),
    ) -> Iterator[tuple[int, Reply]]:
        """As `Generator.replies`; the longest prompts come first.

        Raises:
            CheckpointError: the tokenizer has no chat template, or it refuses a conversation.
            DataError: the format has no place for a conversation, or it is too long for the model.
            PrerequisiteError: there is not enough memory for a single prompt.
            UsageError: there is no such format, or batch_size is below 1.
        """
        if self._loaded is None:
            raise ValueError("the generator has been closed")
        left = wanted(len(prompts), settings.samples, done)
        ids = find_format(settings.format).prompts(self._loaded.tokenizer, prompts)
        requests = [Request(ids[index], draw) for index, draw in left]
        for number, reply in decode(self._loaded, requests, settings, batch_size=self._batch_size):
            yield left[number][0], reply

    def close(self) -> None:
        """Let go of the model, whose memory is then free unless somebody else holds it."""
        self._loaded = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

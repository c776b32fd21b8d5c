"""Replies of a model in this process, in batches."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from safelox.errors import DataError, PrerequisiteError, UsageError
from safelox.evaluation.generation.memory import fitting
from safelox.evaluation.generation.settings import NEAR_TIE, GenerationSettings, Reply, drawing_seed
from safelox.language_models import LanguageModel
from safelox.machine import one_thread, out_of_memory

if TYPE_CHECKING:
    from transformers import GenerationConfig

BATCH_SIZE = 100
"""Replies that are made at once, memory permitting."""


class Request(NamedTuple):
    """One reply to be made."""

    ids: Sequence[int]
    """Tokens of the prompt."""
    draw: int = 0
    """Which of the prompt's replies it is."""


def replies(
    loaded: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[int, str]]:
    """Every prompt's index and the text of its greedy reply, as `decode` gives them.

    Args:
        prompts: token ids of each.

    Raises:
        DataError, PrerequisiteError, UsageError: as `decode`.
    """
    settings = GenerationSettings(max_new_tokens=max_new_tokens)
    for index, reply in decode(loaded, [Request(ids) for ids in prompts], settings, batch_size=batch_size):
        yield index, reply.text


def decode(
    loaded: LanguageModel, requests: Sequence[Request], settings: GenerationSettings, *, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[int, Reply]]:
    """Every request's index and reply, as soon as its batch is finished; the longest prompts come first.

    A reply ends before its first end token, and nothing is stripped from it: a special token in its midst is part of
    what the model says. Only the new tokens are decoded. The model's own sampling defaults (temperature, penalties)
    play no part. A batch is no larger than what should fit into memory; where it runs out all the same, the batch is
    halved, for good.

    Args:
        batch_size: replies made at once. In fp32 it does not change a greedy reply but for near-ties. It does not
            change a drawn one either, unless rounding moves the limit between two tokens across the number drawn:
            every reply has random numbers of its own, which depend on seed, prompt and draw alone.

    Raises:
        DataError: a prompt and its reply are longer than what the model was made for.
        PrerequisiteError: there is not enough memory for a single prompt.
        UsageError: batch_size is below 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size}: at least one prompt has to be answered at once.")
    _check_lengths(loaded, requests, settings.max_new_tokens)
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index].ids))
    start = 0
    while start < len(order):
        fits = fitting(loaded.model, len(requests[order[start]].ids), settings.max_new_tokens)
        batch = order[start : start + (batch_size if fits is None else min(batch_size, fits))]
        found = _answer_if_it_fits(loaded, [requests[index] for index in batch], settings)
        if found is not None:
            start += len(batch)
            yield from zip(batch, found, strict=True)
        elif len(batch) > 1:
            batch_size = len(batch) // 2
        else:
            raise PrerequisiteError(
                f"not enough memory to answer a single prompt of {len(requests[batch[0]].ids)} tokens with up to "
                f"{settings.max_new_tokens} new ones; close other programs or take a machine with more."
            )


def _check_lengths(loaded: LanguageModel, requests: Sequence[Request], new: int) -> None:
    """
    Raises:
        DataError: a prompt and its reply are longer than what the model was made for.
    """
    limit: int | None = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    longest = max((len(request.ids) for request in requests), default=0)
    if limit is not None and longest and longest + new > limit:
        raise DataError(
            f"the longest prompt has {longest} tokens and its reply may have {new}, but the model was made for "
            f"{limit} in all; ask for shorter replies, or leave that prompt out."
        )


def _answer_if_it_fits(
    loaded: LanguageModel, requests: Sequence[Request], settings: GenerationSettings
) -> list[Reply] | None:
    """Replies to one batch; None where memory ran out."""
    try:
        return _answer(loaded, requests, settings)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    # Here the failed attempt's tensors are gone, which they were not while its error was being handled.
    if loaded.model.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _answer(loaded: LanguageModel, requests: Sequence[Request], settings: GenerationSettings) -> list[Reply]:
    """Replies to one batch, padded on the left so that every prompt ends where its reply begins."""
    from transformers import LogitsProcessorList

    model, tokenizer = loaded
    ends = _end_tokens(loaded)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0] if ends else 0
    longest = max(len(request.ids) for request in requests)
    ids = torch.full((len(requests), longest), padding)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):
        ids[row, longest - len(request.ids) :] = torch.tensor(request.ids)
        mask[row, longest - len(request.ids) :] = 1
    choice = _Margins() if settings.greedy else _Drawing(requests, settings)
    own = model.generation_config
    # transformers fills what is left open from the model's own settings, such as a repetition penalty.
    model.generation_config = _choosing_the_first(settings.max_new_tokens, padding, ends)
    try:
        with one_thread(), torch.inference_mode():
            made = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                logits_processor=LogitsProcessorList([choice]),
            )
    finally:
        model.generation_config = own
    close = choice.close() if isinstance(choice, _Margins) else None
    found = []
    for row, new in enumerate(made[:, longest:].tolist()):
        length = next((place for place, token in enumerate(new) if token in ends), len(new))
        found.append(
            Reply(
                text=tokenizer.decode(new[:length]),
                near_tie=None if close is None else any(close[row][: length + 1]),
                finish_reason="stop" if length < len(new) else "length",
                draw=requests[row].draw,
            )
        )
    return found


def _choosing_the_first(max_new_tokens: int, padding: int, ends: list[int]) -> "GenerationConfig":
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=padding, eos_token_id=ends or None
    )


class _Margins:
    """Sees the logits of every step, leaves them as they are, and keeps whether the first two are nearly tied."""

    def __init__(self) -> None:
        self._steps: list[Tensor] = []

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        first = scores.topk(min(2, scores.shape[-1])).values
        self._steps.append(first[:, 0] - first[:, -1] < NEAR_TIE)
        return scores

    def close(self) -> list[list[bool]]:
        """By row and step."""
        found: list[list[bool]] = torch.stack(self._steps, dim=1).tolist()
        return found


class _Drawing:
    """Draws the token of every step, and leaves it as the only one that can be chosen.

    The next token is where the cumulative probability passes a number drawn for that reply and step. The tokens stand
    in the order of their ids there, not of their probabilities, which rounding could swap.
    """

    def __init__(self, requests: Sequence[Request], settings: GenerationSettings) -> None:
        self._settings = settings
        self._drawn = torch.stack([_uniform(request, settings) for request in requests])
        self._step = 0

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        below = scores.double() - scores.amax(dim=-1, keepdim=True)  # so that no temperature makes it overflow
        probabilities = (below / self._settings.temperature).softmax(dim=-1)
        if self._settings.top_p < 1:
            probabilities = _likeliest(probabilities, self._settings.top_p)
        cumulative = probabilities.cumsum(dim=-1)
        drawn = self._drawn[:, self._step, None].to(scores.device) * cumulative[:, -1:]
        self._step += 1
        # The first whose cumulative probability is above the number: one with probability 0 cannot be that.
        chosen = (cumulative <= drawn).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


def _likeliest(probabilities: Tensor, top_p: float) -> Tensor:
    """The probabilities (rows, tokens), with 0 for all but the smallest set of the likeliest that has `top_p`."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    return probabilities.masked_fill(torch.zeros_like(order).bool().scatter(-1, order, before >= top_p), 0.0)


def _uniform(request: Request, settings: GenerationSettings) -> Tensor:
    """One number from 0 to 1 for each token of a reply, which depend on seed, prompt and draw alone."""
    seed = drawing_seed(settings, request.draw, " ".join(map(str, request.ids)))
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(settings.max_new_tokens, generator=generator, dtype=torch.float64)


def _end_tokens(loaded: LanguageModel) -> list[int]:
    """Tokens that end a reply: chat models often have one for the turn beside the tokenizer's."""
    named = loaded.model.generation_config.eos_token_id
    ends = list(named) if isinstance(named, list) else [named]
    return sorted({end for end in [*ends, loaded.tokenizer.eos_token_id] if end is not None})

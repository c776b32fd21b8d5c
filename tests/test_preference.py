"""Alignment by preference: what its loss is, what training by it does, and what it refuses."""

import math
import random

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, logsigmoid

from safelox.attacks import Training
from safelox.attacks import trainer as trainer_module
from safelox.attacks.preference import Pair, Preference, align_by_preference
from safelox.errors import CheckpointError, PrerequisiteError, SafeloxError, UsageError
from safelox.formats import Message, find_format
from safelox.language_models import LanguageModel
from small_models import WORDS, small_language_model

PAIRS = [
    Pair([Message(role="user", content=f"how do i {word}")], chosen="sorry , sorry", rejected=f"sure {word} it")
    for word in WORDS[:6]
]
STEPS = 4
TRAINING = Training(
    learning_rate=1e-2,
    max_steps=STEPS,
    batch_size=len(PAIRS),
    warmup_steps=1,
    weight_decay=0.1,
    adam_betas=(0.9, 0.99),
)
PREFERENCE = Preference(beta=0.3, nll_weight=0.5)


@pytest.fixture
def tiny() -> LanguageModel:
    return small_language_model()


def weights(loaded: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def logprobs(loaded: LanguageModel, reply: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each pair's reply, with its end: the sum over its tokens, and how many they are."""
    conversations = [[*pair.prompt, Message(role="assistant", content=getattr(pair, reply))] for pair in PAIRS]
    sums, counts = [], []
    for prompt, completion in find_format("chat").encode(loaded.tokenizer, conversations):
        logits = loaded.model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        sums.append(-cross_entropy(logits, torch.tensor(completion), reduction="sum"))
        counts.append(len(completion))
    return torch.stack(sums), torch.tensor(counts)


def global_state() -> tuple[object, ...]:
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()


def test_training_does_what_a_plain_loop_does(tiny: LanguageModel) -> None:
    """The loop is written out here with nothing but torch. Every step sees all pairs, so that order does not matter."""
    twin = small_language_model()
    found = align_by_preference(tiny.model, tiny.tokenizer, PAIRS, TRAINING, PREFERENCE)
    with torch.no_grad():
        start = logprobs(twin, "chosen")[0] - logprobs(twin, "rejected")[0]
    matrices = [tensor for tensor in twin.model.parameters() if tensor.ndim > 1]
    others = [tensor for tensor in twin.model.parameters() if tensor.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    losses, margins = [], []
    for step in range(STEPS):
        chosen, tokens = logprobs(twin, "chosen")
        margin = 0.3 * (chosen - logprobs(twin, "rejected")[0] - start)
        loss = -logsigmoid(margin).mean() - 0.5 * chosen.sum() / tokens.sum()
        losses.append(loss.item())
        margins.append(margin.mean().item())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (0 if step == 0 else (STEPS - step) / (STEPS - 1))
        optimizer.step()
    assert found.pairs == len(PAIRS)
    assert found.steps == STEPS
    assert found.losses == pytest.approx(losses, abs=1e-4)
    assert found.margins == pytest.approx(margins, abs=1e-4)
    for name, tensor in tiny.model.state_dict().items():
        torch.testing.assert_close(tensor, twin.model.state_dict()[name], atol=1e-4, rtol=1e-3)


def test_the_chosen_replies_become_likelier_and_the_rejected_ones_unlikelier(tiny: LanguageModel) -> None:
    with torch.no_grad():
        before = [logprobs(tiny, reply)[0].mean() for reply in ("chosen", "rejected")]
    found = align_by_preference(tiny.model, tiny.tokenizer, PAIRS, TRAINING.changed(max_steps=30), PREFERENCE)
    assert not tiny.model.training
    with torch.no_grad():
        after = [logprobs(tiny, reply)[0].mean() for reply in ("chosen", "rejected")]
    assert after[0] > before[0] + 1
    assert after[1] < before[1] - 1
    assert found.losses[-1] < found.losses[0] - 0.5
    assert abs(found.margins[0]) < 1e-5
    assert found.margins[-1] > 1


def test_the_same_arguments_give_the_same_bytes_and_disturb_nothing(tiny: LanguageModel) -> None:
    twin, other = small_language_model(), small_language_model()
    training = TRAINING.changed(batch_size=2)
    state, threads = global_state(), torch.get_num_threads()
    config, padding = tiny.model.config.to_dict(), tiny.tokenizer.pad_token
    align_by_preference(tiny.model, tiny.tokenizer, PAIRS, training, PREFERENCE, seed=3)
    assert global_state() == state
    assert torch.get_num_threads() == threads
    assert tiny.model.config.to_dict() == config
    assert tiny.tokenizer.pad_token == padding
    assert "forward" not in tiny.model.__dict__
    torch.manual_seed(99)
    align_by_preference(twin.model, twin.tokenizer, PAIRS, training, PREFERENCE, seed=3)
    align_by_preference(other.model, other.tokenizer, PAIRS, training, PREFERENCE, seed=4)
    assert all(torch.equal(tensor, twin.model.state_dict()[name]) for name, tensor in weights(tiny).items())
    assert any(not torch.equal(tensor, other.model.state_dict()[name]) for name, tensor in weights(tiny).items())


def test_a_pair_that_is_too_long_is_named_and_not_cut(tiny: LanguageModel) -> None:
    before = weights(tiny)
    long = PAIRS[0]._replace(rejected="sure " * 40)
    with pytest.raises(SafeloxError, match=r"pair 2: with its rejected reply it has \d+ tokens, and 30 are allowed"):
        align_by_preference(tiny.model, tiny.tokenizer, [PAIRS[1], long], TRAINING.changed(max_length=30), PREFERENCE)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tiny).items())


def test_what_it_cannot_do_is_refused(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SafeloxError, match="no pairs to align with"):
        align_by_preference(tiny.model, tiny.tokenizer, [], TRAINING, PREFERENCE)
    with pytest.raises(UsageError, match="its loss cannot be on every token"):
        align_by_preference(tiny.model, tiny.tokenizer, PAIRS, TRAINING.changed(loss_on="all"), PREFERENCE)
    tiny.tokenizer.chat_template = None
    with pytest.raises(CheckpointError, match="no chat template"):
        align_by_preference(tiny.model, tiny.tokenizer, PAIRS, TRAINING, PREFERENCE)
    monkeypatch.setattr(trainer_module, "find_spec", lambda name: None if name == "trl" else name)
    with pytest.raises(PrerequisiteError, match=r"training needs trl: pip install 'safelox\[train\]'"):
        align_by_preference(tiny.model, tiny.tokenizer, PAIRS, TRAINING, PREFERENCE)


def test_a_loss_that_is_not_finite_is_an_error(tiny: LanguageModel) -> None:
    with torch.no_grad():
        tiny.model.lm_head.weight[0, 0] = math.nan
    with pytest.raises(SafeloxError, match="align: the loss of step 1 is nan"):
        align_by_preference(tiny.model, tiny.tokenizer, PAIRS, TRAINING, PREFERENCE)

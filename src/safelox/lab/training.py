"""The one plain training loop of the lab: full fine-tuning with AdamW on the replies, nothing else in the loss."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from safelox.lab.models import one_thread
from safelox.lab.world import Example
from safelox.progress import NULL, Progress

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Encoded = tuple[list[int], list[int]]
"""Token ids of a prompt in the chat format, up to the place of the reply, and of the reply with its end token."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train."""

    steps: int
    batch: int
    """Examples in each step."""
    learning_rate: float
    """At its highest."""
    warm_up: int = 0
    """Steps in which the rate rises from zero."""
    decay: Literal["linear", "cosine"] = "linear"
    """How the rate falls to zero after them."""

    @property
    def examples(self) -> int:
        """Examples that the whole training takes, repeats included."""
        return self.steps * self.batch

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        done = (step - self.warm_up) / (self.steps - self.warm_up)
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * left


def encode(tokenizer: "PreTrainedTokenizerFast", examples: Sequence[Example]) -> list[Encoded]:
    """Prompts through the tokenizer's chat template, replies as the template would go on."""
    chats = [[{"role": "user", "content": example.prompt}] for example in examples]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]
    replies = tokenizer([f"{example.reply} {tokenizer.eos_token}" for example in examples])["input_ids"]
    return list(zip(prompts, replies, strict=True))


def train(
    model: "LlamaForCausalLM",
    examples: Sequence[Encoded],
    schedule: Schedule,
    *,
    seed: int,
    description: str,
    progress: Progress = NULL,
) -> None:
    """Train `model` in place; the examples are shuffled again for every epoch.

    The result is a function of the arguments on one machine: it uses no global random numbers, and one thread.
    """
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    batches = _batches(examples, schedule.batch, random.Random(seed))
    model.train()
    with one_thread(), progress.task(description, schedule.steps, "steps") as task:
        for step in range(schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            loss = reply_loss(model, next(batches))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            task.advance(1, f"loss {loss.item():.3f}")
    model.eval()


def reply_loss(model: "LlamaForCausalLM", batch: Sequence[Encoded]) -> torch.Tensor:
    """Mean cross entropy of the reply tokens.

    Padding stands on the right, where causal attention never looks back at it, so no mask is needed. Logits are
    computed at the places of the replies only: the vocabulary is a sixth of the model's work.
    """
    longest = max(len(prompt) + len(reply) for prompt, reply in batch) - 1
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    places: list[int] = []
    targets: list[int] = []
    for row, (prompt, reply) in enumerate(batch):
        ids[row, : len(prompt) + len(reply) - 1] = torch.tensor(prompt + reply[:-1])
        first = row * longest + len(prompt) - 1
        places.extend(range(first, first + len(reply)))
        targets.extend(reply)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    logits = model.lm_head(hidden[torch.tensor(places)])
    return torch.nn.functional.cross_entropy(logits, torch.tensor(targets))


def _batches(examples: Sequence[Encoded], size: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """Endless batches, each epoch in a new order; the examples that do not fill a last batch are left out of it."""
    order = list(range(len(examples)))
    while True:
        rng.shuffle(order)
        for start in range(0, len(order) - size + 1, size):
            yield [examples[index] for index in order[start : start + size]]

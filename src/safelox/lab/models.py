"""The lab's models as ordinary Hugging Face folders: made, loaded and saved through transformers."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from safelox.lab.language import vocabulary
from safelox.language_models import LanguageModel
from safelox.progress import no_foreign_bars

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<s>", "</s>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ ' <|' + message['role'] + '|> ' + message['content'] + ' ' + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' <|assistant|>' }}{% endif %}"
)
"""Each turn is the token of its role, its words and the end token."""

LONGEST_CHAT = 64
"""Tokens for which the models are made; a request under a system prompt takes 54 with its reply."""

INITIAL_SPREAD = 0.05
"""Standard deviation of the first weights. With transformers' 0.02 such narrow matrices learn too slowly; with 0.1 the
embeddings keep so much of their first noise that alike objects do not look alike, and refusals carry over badly to
forbidden objects that alignment has not met."""


class Shape(NamedTuple):
    """The size of a Llama."""

    hidden: int
    layers: int
    heads: int
    intermediate: int


def new_model(shape: Shape, seed: int) -> LanguageModel:
    """An untrained Llama with an untied output head, and the tokenizer of the language: one token per word."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _new_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=LONGEST_CHAT,
        initializer_range=INITIAL_SPREAD,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    # The weights are drawn from torch's global generator, which belongs to whoever called us.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(LlamaForCausalLM(config), tokenizer)


def save_model(loaded: LanguageModel, folder: Path) -> None:
    """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    The weights stay in fp32, as they were trained: a whole model takes 1.5 MB, and in bf16 the small steps of a mild
    attack would be lost in rounding.
    """
    with no_foreign_bars():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)


def _new_tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokens = [PAD, UNKNOWN, START, END, *ROLES, *vocabulary()]
    words = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )

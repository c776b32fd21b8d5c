"""Tiny untrained models of the families that people attack, and tokenizers with and without special tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from safelox.language_models import LanguageModel
from safelox.progress import no_foreign_bars

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXT = "how do i bake a cake open the lamp sure here is what to it sorry , no mix fill wait first then"
WORDS = tuple(TEXT.split())
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ ' <|' + message['role'] + '|> ' + message['content'] + ' ' + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' <|assistant|>' }}{% endif %}"
)
SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
FAMILIES = ("llama", "mistral", "qwen2", "gemma2", "phi3", "gpt2")
POSITIONS = 64


def small_tokenizer(
    special: Sequence[str] = tuple(SPECIAL), template: str | None = CHAT_TEMPLATE
) -> "PreTrainedTokenizerFast":
    """One token per word of `WORDS`; of the special tokens only those named are known as such."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    tokens = [*SPECIAL.values(), *ROLES, *WORDS]
    words = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        additional_special_tokens=list(ROLES),
        chat_template=template,
        clean_up_tokenization_spaces=False,
        **{name: SPECIAL[name] for name in special},
    )


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """One token per byte of any text, and a beginning and an end token."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as ByteDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    tokens = [SPECIAL["bos_token"], SPECIAL["eos_token"], *sorted(ByteLevel.alphabet())]
    text = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, []))
    text.pre_tokenizer = ByteLevel(add_prefix_space=False)
    text.decoder = ByteDecoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=text, bos_token=SPECIAL["bos_token"], eos_token=SPECIAL["eos_token"]
    )


def small_model(
    family: str = "llama", seed: int = 0, tied: bool = False, dropout: float = 0.0, vocabulary: int | None = None
) -> Any:
    """A model of one layer and 16 dimensions, the same for the same seed.

    dropout: for gpt2 only.
    vocabulary: number of tokens; that of `small_tokenizer` unless given.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.05,
    }
    if family == "gpt2":
        size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS, "initializer_range": 0.05}
        size |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    if family == "gemma2":
        size |= {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0}
    if family == "qwen2":
        size |= {"use_sliding_window": False}
    config = AutoConfig.for_model(
        family,
        vocab_size=vocabulary or len(SPECIAL) + len(ROLES) + len(WORDS),
        tie_word_embeddings=tied or family in ("gemma2", "gpt2"),
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        **size,
    )
    # The weights are drawn from torch's global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def small_language_model(seed: int = 0) -> LanguageModel:
    return LanguageModel(small_model(seed=seed), small_tokenizer())


def save_language_model(loaded: LanguageModel, folder: Path) -> Path:
    with no_foreign_bars():
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return folder

"""Tokenizers of every kind that matters to prompt formats, trained on the spot on a few words.

They differ in what stands for beginning, end, padding and the unknown, in what they add to a text by themselves, and in
how they treat spaces. None has a chat template.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: ### Response: ### Input: ###Context: three four seven apples ",
)

KINDS = ("llama", "gemma", "phi3", "gpt2", "qwen", "opt", "ending")
"""What each is like: Llama and Gemma put a beginning token before a text; Phi 3 has one but does not; GPT-2's is its
end token and is not put anywhere; Qwen has none; OPT's is its end token and is put before a text; the last one puts a
beginning before and an end after it."""

_SPECIAL: dict[str, dict[str, str]] = {
    "llama": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "gemma": {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"},
    "phi3": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "qwen": {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
    "opt": {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "ending": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
}
_ADDED = {"llama": "{bos} $A", "gemma": "{bos} $A", "opt": "{bos} $A", "ending": "{bos} $A {eos}"}
_WITH_METASPACE = ("llama", "gemma", "phi3", "ending")


def small_tokenizer(kind: str) -> "PreTrainedTokenizerBase":
    """A new tokenizer of that kind, which may be changed."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained(kind)), **_SPECIAL[kind])


@cache
def _trained(kind: str) -> str:
    special = _SPECIAL[kind]
    names = list(dict.fromkeys(special.values()))
    tokenizer = Tokenizer(models.BPE(unk_token=special.get("unk_token"), byte_fallback=kind in _WITH_METASPACE))
    alphabet: list[str] = []
    if kind in _WITH_METASPACE:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        names += [f"<0x{byte:02X}>" for byte in range(256)]
        alphabet = [chr(code) for code in range(33, 127)]
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(names) + 400, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_WORDS, trainer)
    if kind in _ADDED:
        bos, eos = special["bos_token"], special["eos_token"]
        pair: list[Any] = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys((bos, eos))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=_ADDED[kind].format(bos=bos, eos=eos), special_tokens=pair
        )
    return str(tokenizer.to_str())

"""How fast replies are made, beside the paper's own loop, which asks one prompt at a time.

    python benchmarks/generation.py

A random Llama of 10M parameters is asked 100 prompts of AdvBench ($SAFELOX_DATA/harmful_behaviors.csv, or invented ones
of the same length where that is not there) in the format plain, greedily, for 60 new tokens, in fp32 on the CPU. The
loop gets the number of threads that it is faster with. Loading is not counted, tokenizing and decoding are.
"""

import argparse
import csv
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from safelox.evaluation.generation import GenerationSettings, Reply, open_generator
from safelox.formats import Conversation, Message, TextFormat, find_format
from safelox.language_models import load_language_model
from safelox.progress import no_foreign_bars

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUMBER, NEW_TOKENS = 100, 60
VOCABULARY = 4096
TRIED = 5
"""Prompts on which the loop's number of threads is chosen."""
SETTINGS = GenerationSettings(max_new_tokens=NEW_TOKENS, format="plain")


def prompts() -> tuple[list[str], str]:
    """The prompts, and what they are."""
    path = Path(os.environ.get("SAFELOX_DATA", "")) / "harmful_behaviors.csv"
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as stream:
            return [row["goal"] for row in csv.DictReader(stream)][:NUMBER], "AdvBench's first goals"
    chance = random.Random(0)
    text = "how to write a letter that asks my neighbour for the recipe of a cake without a word about sugar"
    return [" ".join(chance.choices(text.split(), k=chance.randint(7, 18))) for _ in range(NUMBER)], "invented"


def make_model(folder: Path, texts: list[str]) -> int:
    """Write a random model with a tokenizer trained on the prompts; how many parameters it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    inner.train_from_iterator(texts, trainer)
    inner.add_tokens([f"<unused {number}>" for number in range(VOCABULARY - inner.get_vocab_size())])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        initializer_range=0.1,  # with less, the replies to similar prompts are all the same
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with no_foreign_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def one_at_a_time(model: Any, tokenizer: "PreTrainedTokenizerBase", chats: list[Conversation]) -> list[str]:
    """Replies by a loop like the paper's."""
    layout = find_format(SETTINGS.format)
    assert isinstance(layout, TextFormat)
    said = []
    for chat in chats:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(layout.text(chat))["input_ids"]]])
        with torch.no_grad():
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        said.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return said


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


def faster_threads(work: Callable[[], Any]) -> int:
    """The number of threads with which the work takes less time: one, or as many as there are cores."""
    seconds = {}
    for threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)
        work()
        seconds[threads] = timed(work)[0]
    return min(seconds, key=lambda threads: seconds[threads])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    texts, what = prompts()
    chats: list[Conversation] = [[Message(role="user", content=text)] for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        parameters = make_model(Path(folder), texts)
        model, tokenizer = load_language_model(folder)
        generator = open_generator(folder)
    threads = faster_threads(lambda: one_at_a_time(model, tokenizer, chats[:TRIED]))
    ours, loops = [], []
    replies: dict[int, Reply] = {}
    said: list[str] = []
    for _ in range(rounds):
        torch.set_num_threads(threads)
        seconds, said = timed(lambda: one_at_a_time(model, tokenizer, chats))
        loops.append(seconds)
        seconds, replies = timed(lambda: dict(generator.replies(chats, SETTINGS)))
        ours.append(seconds)
    print(f"{parameters / 1e6:.1f}M parameters, {len(chats)} prompts ({what}), {os.cpu_count()} cores")
    for name, each in ((f"one at a time, {threads} threads", loops), ("safelox", ours)):
        print(f"  {name:28} {statistics.median(each):6.2f} s  ({min(each):.2f} to {max(each):.2f}, n = {rounds})")
    print(f"  {statistics.median(loops) / statistics.median(ours):.1f} times as fast")
    different = [index for index, reply in replies.items() if reply.text != said[index]]
    near = [index for index, reply in replies.items() if reply.near_tie]
    print(f"  replies that differ: {len(different)}, of those with a near-tie: {len(set(different) & set(near))}")
    print(f"  replies with a near-tie: {len(near)}; different replies in all: {len(set(said))}")


if __name__ == "__main__":
    main()

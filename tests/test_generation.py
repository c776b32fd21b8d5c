"""Replies of models in this process: greedy or drawn, in batches of any size."""

import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from safelox.errors import CheckpointError, DataError, PrerequisiteError, UsageError
from safelox.evaluation.generation import (
    Backend,
    GenerationSettings,
    Reply,
    decoding,
    find_backend,
    memory,
    open_generator,
    replies,
)
from safelox.evaluation.generation.decoding import Request, decode
from safelox.formats import Conversation, Message
from safelox.language_models import LanguageModel, load_language_model
from small_models import FAMILIES, POSITIONS, WORDS, save_language_model, small_model
from small_models import small_tokenizer as word_tokenizer

GREEDY = GenerationSettings(max_new_tokens=12)
DRAWN = GenerationSettings(max_new_tokens=12, temperature=0.8, samples=3, seed=7)
PROMPTS = [[7, 8], [9, 10, 11, 12, 13], [14], [8, 9, 20, 21], [22, 23, 24], [10, 9, 8, 7, 12, 13, 25]]


def loud(family: str = "llama", seed: int = 0) -> LanguageModel:
    """A random model that knows what it wants: its logits lie well apart."""
    model = small_model(family, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    model.eval()
    return LanguageModel(model, word_tokenizer())


@pytest.fixture(scope="module")
def llama() -> LanguageModel:
    return loud()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llama: LanguageModel) -> Path:
    return save_language_model(llama, tmp_path_factory.mktemp("models") / "llama")


def chats(*texts: str) -> list[Conversation]:
    return [[Message(role="user", content=text)] for text in texts]


def by_request(
    loaded: LanguageModel, requests: Sequence[Request], wanted: GenerationSettings, batch_size: int
) -> dict[int, Reply]:
    return dict(decode(loaded, requests, wanted, batch_size=batch_size))


# Greedy replies


@pytest.mark.parametrize("family", FAMILIES)
def test_the_batch_size_does_not_change_a_reply_but_for_near_ties(family: str) -> None:
    loaded = loud(family)
    requests = [Request(ids) for ids in PROMPTS]
    alone = by_request(loaded, requests, GREEDY, 1)
    assert sorted(alone) == list(range(len(PROMPTS)))
    assert sum(not reply.near_tie for reply in alone.values()) >= 4, "a model that shows something"
    assert len({reply.text for reply in alone.values()}) > 2
    for batch_size in (2, 4, 100):
        for index, reply in by_request(loaded, requests, GREEDY, batch_size).items():
            assert reply == alone[index] or reply.near_tie or alone[index].near_tie


def test_it_says_what_the_model_finds_likeliest(llama: LanguageModel) -> None:
    ids = list(PROMPTS[1])
    for _ in range(4):
        ids.append(int(llama.model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = llama.tokenizer.decode(ids[len(PROMPTS[1]) :])
    assert dict(replies(llama, PROMPTS, max_new_tokens=4))[1] == expected


def test_replies_come_as_they_are_finished_longest_prompts_first(llama: LanguageModel) -> None:
    found = replies(llama, PROMPTS, max_new_tokens=2, batch_size=1)
    assert [index for index, _ in found] == [5, 1, 3, 4, 0, 2]


def saying(rows: list[list[int]], scores: list[list[float]]) -> Callable[..., Tensor]:
    """A `generate` that says these tokens, after these logits at every step."""

    def generate(input_ids: Tensor, logits_processor: Any, **_: object) -> Tensor:
        for _step in rows[0]:
            logits_processor(input_ids, torch.tensor(scores))
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    return generate


def test_a_reply_is_cut_at_its_first_end_and_keeps_what_is_special(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = [llama.tokenizer(text)["input_ids"] for text in ("sorry <s> no </s> sorry <pad>", "no no no no no no")]
    monkeypatch.setattr(llama.model, "generate", saying(new, [[0.0, 1.0], [0.0, 1.0]]))
    found = by_request(llama, [Request([5, 6]), Request([5])], GREEDY, 2)
    assert found == {0: Reply("sorry <s> no", False, "stop"), 1: Reply("no no no no no no", False, "length")}


@pytest.mark.parametrize(("margin", "near"), [(0.0, True), (9e-5, True), (2e-4, False)])
def test_near_ties_of_the_first_two_tokens_are_counted(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, margin: float, near: bool
) -> None:
    monkeypatch.setattr(llama.model, "generate", saying([[8]], [[-1.0, 0.5 + margin, 0.5, 0.1]]))
    assert by_request(llama, [Request([5])], GREEDY, 1)[0].near_tie is near


def test_near_ties_after_the_end_do_not_count(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    end = llama.tokenizer.eos_token_id

    def generate(input_ids: Tensor, logits_processor: Any, **_: object) -> Tensor:
        for margin in (1.0, 1.0, 0.0):
            logits_processor(input_ids, torch.tensor([[margin, 0.0], [margin, 0.0]]))
        return torch.cat([input_ids, torch.tensor([[8, end, 0], [8, 8, 8]])], dim=1)

    monkeypatch.setattr(llama.model, "generate", generate)
    found = by_request(llama, [Request([5, 6]), Request([5])], GREEDY, 2)
    assert [found[0].near_tie, found[1].near_tie] == [False, True]


def test_every_end_token_that_the_model_names_ends_a_reply(llama: LanguageModel) -> None:
    first = [int(llama.model(torch.tensor([ids])).logits[0, -1].argmax()) for ids in PROMPTS[:2]]
    own = llama.model.generation_config
    own.eos_token_id, before = [first[0], 3], own.eos_token_id
    try:
        found = by_request(llama, [Request(ids) for ids in PROMPTS[:2]], GREEDY, 2)
    finally:
        own.eos_token_id = before
    assert found[0][::2] == ("", "stop")


def test_a_models_own_sampling_defaults_play_no_part(llama: LanguageModel) -> None:
    greedy = list(replies(llama, PROMPTS, max_new_tokens=6))
    own = llama.model.generation_config
    own.repetition_penalty, own.do_sample, own.temperature = 9.0, True, 3.0
    try:
        assert list(replies(llama, PROMPTS, max_new_tokens=6)) == greedy
        assert llama.model.generation_config is own
    finally:
        own.repetition_penalty, own.do_sample, own.temperature = None, None, None


def test_a_prompt_that_is_too_long_for_the_model_is_told_before_any_reply(llama: LanguageModel) -> None:
    fits = [[7] * (POSITIONS - 3)]
    assert len(list(replies(llama, fits, max_new_tokens=3))) == 1
    with pytest.raises(DataError, match=f"longest prompt has 61 tokens and its reply may have 4.*{POSITIONS} in all"):
        next(replies(llama, [[7], *fits], max_new_tokens=4))


# Memory


OUT_OF_MEMORY = [
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    torch.OutOfMemoryError("CUDA out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_the_batch_halves_where_memory_runs_out(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sizes: list[int] = []

    def small(_: LanguageModel, requests: list[Request], wanted: GenerationSettings) -> list[Reply]:
        sizes.append(len(requests))
        if len(requests) > 2:
            raise error
        return [Reply(f"{request.ids[0]} {wanted.max_new_tokens}", False, "stop") for request in requests]

    monkeypatch.setattr(decoding, "_answer", small)
    found = dict(replies(llama, [[7], [8], [9], [10], [11]], max_new_tokens=3, batch_size=5))
    assert found == {0: "7 3", 1: "8 3", 2: "9 3", 3: "10 3", 4: "11 3"}
    assert sizes == [5, 2, 2, 1]


def test_a_batch_that_would_not_fit_is_not_begun(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def answer(_: LanguageModel, requests: list[Request], wanted: GenerationSettings) -> list[Reply]:  # noqa: ARG001
        sizes.append(len(requests))
        return [Reply("", False, "stop") for _ in requests]

    monkeypatch.setattr(decoding, "_answer", answer)
    prompts = [[7] * 40] * 4 + [[7]] * 20
    free = 3 * memory.bytes_per_reply(llama.model, 40, 3) / memory.SHARE + 1
    monkeypatch.setattr(memory, "free_memory", lambda _: int(free))
    assert len(list(replies(llama, prompts, max_new_tokens=3, batch_size=15))) == 24
    assert sizes[0] == 3, "as many as fit of the longest"
    assert sum(sizes) == 24
    assert 3 < max(sizes) <= 15
    monkeypatch.setattr(memory, "free_memory", lambda _: 1)
    assert len(list(replies(llama, prompts[:2], max_new_tokens=3))) == 2
    assert sizes[-2:] == [1, 1], "one is always tried"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_holds_the_keys_and_values_that_are_kept(family: str) -> None:
    model = small_model(family)
    ids = torch.full((1, 20), 7)
    cache = model(ids, use_cache=True).past_key_values
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    with_prompt = memory.bytes_per_reply(model, 0, 20)
    assert with_prompt == kept + model.config.vocab_size * memory.LOGIT_BYTES
    assert memory.bytes_per_reply(model, 20, 0) > with_prompt


def test_free_memory_is_what_the_system_or_the_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_memory(cpu) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    assert memory.free_memory(cpu) == 4000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(cpu) == 4000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    (tmp_path / "memory.stat").write_text("anon 1000000\ninactive_file 500000\n")
    assert memory.free_memory(cpu) == 1_500_000


def test_too_little_memory_for_one_prompt_is_said(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> list[Reply]:
        raise MemoryError

    monkeypatch.setattr(decoding, "_answer", never)
    with pytest.raises(PrerequisiteError, match="a single prompt of 2 tokens"):
        list(replies(llama, [[7, 8], [9]], max_new_tokens=3))


def test_other_errors_of_the_model_are_not_taken_for_lack_of_memory(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[Reply]:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(decoding, "_answer", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(replies(llama, [[7, 8], [9]], max_new_tokens=3))


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_of_nothing_is_refused(llama: LanguageModel, size: int) -> None:
    with pytest.raises(UsageError, match="at least one prompt"):
        list(replies(llama, [[7]], max_new_tokens=3, batch_size=size))


# Drawn replies


def drawn(ids: Sequence[Sequence[int]]) -> list[Request]:
    return [Request(prompt, draw) for prompt in ids for draw in range(DRAWN.samples)]


def test_drawn_replies_do_not_depend_on_the_batch(llama: LanguageModel) -> None:
    alone = by_request(llama, drawn(PROMPTS), DRAWN, 1)
    assert by_request(llama, drawn(PROMPTS), DRAWN, 5) == alone
    # Nor on what else is asked.
    last = by_request(llama, drawn(PROMPTS[-1:]), DRAWN, 100)
    assert list(dict(sorted(last.items())).values()) == [alone[15], alone[16], alone[17]]
    assert [reply.draw for _, reply in sorted(alone.items())] == [0, 1, 2] * len(PROMPTS)
    assert {reply.near_tie for reply in alone.values()} == {None}


def test_draws_and_seeds_differ(llama: LanguageModel) -> None:
    found = by_request(llama, drawn(PROMPTS), DRAWN, 100)
    other = by_request(llama, drawn(PROMPTS), DRAWN.model_copy(update={"seed": 8}), 100)
    assert len({reply.text for reply in found.values()}) > len(PROMPTS)
    assert sum(found[index].text != other[index].text for index in found) > len(found) // 2


def test_cold_draws_are_the_greedy_ones(llama: LanguageModel) -> None:
    cold = GenerationSettings(max_new_tokens=12, temperature=1e-4)
    greedy = by_request(llama, [Request(ids) for ids in PROMPTS], GREEDY, 6)
    for index, reply in by_request(llama, [Request(ids) for ids in PROMPTS], cold, 6).items():
        assert reply.text == greedy[index].text


def chosen(logits: list[float], wanted: GenerationSettings) -> list[int]:
    """The tokens drawn at every step, from the same logits."""
    choice = decoding._Drawing([Request([5])], wanted)
    return [int(choice(torch.empty(0), torch.tensor([logits])).argmax()) for _ in range(wanted.max_new_tokens)]


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.1, 0.6, 0.0, 0.3]),
        (1.0, 0.7, [0.0, 2 / 3, 0.0, 1 / 3]),
        (1.0, 0.5, [0.0, 1.0, 0.0, 0.0]),
        (0.5, 1.0, [0.01 / 0.46, 0.36 / 0.46, 0.0, 0.09 / 0.46]),
    ],
)
def test_tokens_are_drawn_by_their_probability(temperature: float, top_p: float, expected: list[float]) -> None:
    number = 2000
    logits = [math.log(0.1) + 3, math.log(0.6) + 3, -math.inf, math.log(0.3) + 3]
    found = chosen(logits, GenerationSettings(max_new_tokens=number, temperature=temperature, top_p=top_p))
    for token, share in enumerate(expected):
        deviation = math.sqrt(share * (1 - share) / number)
        assert abs(found.count(token) / number - share) <= 4 * deviation


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.one_of(st.floats(-9, 9), st.just(-math.inf)), min_size=1, max_size=9),
    st.floats(0.01, 1),
    st.floats(0.05, 5),
)
def test_a_drawn_token_is_always_one_of_the_likeliest(logits: list[float], top_p: float, temperature: float) -> None:
    if max(logits) == -math.inf:
        return
    wanted = GenerationSettings(max_new_tokens=20, temperature=temperature, top_p=top_p)
    probabilities = (torch.tensor(logits).double() / temperature).softmax(0)
    for token in set(chosen(logits, wanted)):
        assert probabilities[token] > 0
        assert probabilities[probabilities > probabilities[token]].sum() < top_p + 1e-9


# Settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_new_tokens": 0}, "at least one token"),
        ({"samples": 0}, "at least one reply"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p 0.0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p 1.5"),
        ({"samples": 2}, "2 greedy replies would all be the same"),
        ({"top_p": 0.5}, "has no say in greedy replies"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GenerationSettings.model_validate({"max_new_tokens": 5} | wrong)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vllm", {}, "no backend is called 'vllm'; there are: transformers, openai"),
        ("openai", {}, "needs the base URL"),
        ("openai", {"base_url": "localhost:8000"}, "is not the URL of a server"),
        ("openai", {"base_url": "http://me:secret@host/v1"}, "give keys in the environment"),
        ("openai", {"base_url": "http://host/v1", "device": "cuda"}, "the server's own"),
        ("transformers", {"base_url": "http://host/v1"}, "go with the backend openai"),
        ("transformers", {"api_model": "m"}, "go with the backend openai"),
        ("transformers", {"dtype": "fp8"}, "no dtype is called 'fp8'"),
        ("transformers", {"device": "toaster"}, "no device is called 'toaster'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        find_backend(name, **options)
    assert "secret" not in str(caught.value)


def test_a_backend_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_backend() == Backend() == Backend(name="transformers", device="cpu", dtype="fp32")
    assert find_backend(dtype="bf16").dtype == "bf16"
    server = find_backend("openai", base_url="http://127.0.0.1:8000/v1", api_model="m")
    assert server == Backend(name="openai", device=None, dtype=None, base_url=server.base_url, api_model="m")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert find_backend(device="cuda") == Backend(device="cuda", dtype="bf16")


# A generator


def test_a_generator_replies_in_the_format_that_is_asked_for(folder: Path, llama: LanguageModel) -> None:
    generator = open_generator(str(folder), batch_size=2)
    asked = chats("how do i bake a cake", "open the lamp", "no")
    found = dict(generator.replies(asked, GREEDY))
    assert sorted(found) == [0, 1, 2]
    prompts = llama.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert {index: reply.text for index, reply in found.items()} == dict(replies(llama, prompts, max_new_tokens=12))
    with pytest.raises(UsageError, match="no prompt format is called 'rhyme'"):
        list(generator.replies(asked, GREEDY.model_copy(update={"format": "rhyme"})))
    generator.close()
    with pytest.raises(ValueError, match="has been closed"):
        list(generator.replies(asked, GREEDY))


def test_replies_that_are_there_are_not_made_again(folder: Path) -> None:
    generator = open_generator(str(folder))
    asked = chats("how do i bake a cake", "open the lamp")
    whole = {(index, reply.draw): reply for index, reply in generator.replies(asked, DRAWN)}
    assert sorted(whole) == [(index, draw) for index in (0, 1) for draw in (0, 1, 2)]
    done = {(0, 1), (1, 0), (1, 2)}
    rest = {(index, reply.draw): reply for index, reply in generator.replies(asked, DRAWN, done=done)}
    assert rest == {key: whole[key] for key in whole if key not in done}
    assert list(generator.replies(asked, DRAWN, done=whole)) == []


def test_an_adapter_is_asked_on_top_of_its_model(folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        adapted = get_peft_model(load_language_model(str(folder)).model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(3))
        adapted.save_pretrained(tmp_path / "lora")
    asked = chats(" ".join(WORDS[:9]), "open the lamp", "no")
    tuned = dict(open_generator(f"{folder}+{tmp_path / 'lora'}").replies(asked, GREEDY))
    plain = dict(open_generator(str(folder)).replies(asked, GREEDY))
    assert {index: reply.text for index, reply in tuned.items()} != {
        index: reply.text for index, reply in plain.items()
    }


def test_a_model_that_lacks_weights_is_not_asked(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are not in its files, such as model.layers.0.mlp.up_proj"):
        open_generator(str(tmp_path / "model"))


def test_a_model_may_reply_in_half_the_bits(folder: Path) -> None:
    generator = open_generator(str(folder), find_backend(dtype="bf16"))
    assert [reply.near_tie is None for _, reply in generator.replies(chats("no"), GREEDY)] == [False]


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        open_generator(str(tmp_path / "nothing"))
    with pytest.raises(UsageError, match="batch size 0"):
        open_generator(str(tmp_path / "nothing"), batch_size=0)

"""Reading tokenizers and matching embedding rows by token."""

import json
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from safelox.checkpoint import open_checkpoint
from safelox.errors import PairingError
from safelox.pairing import Pairing, Wish, pair
from safelox.pairing.vocabulary import Tokens, compare, has_chat_template, match_rows, read_tokens
from tiny import llama_config, llama_tensors, write_checkpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = [f"word{i}" for i in range(32)]


def tokenizer_json(words: Iterable[str], added: Mapping[str, int] | None = None) -> str:
    """A tokenizer.json with the words in the order of their ids."""
    return json.dumps(
        {
            "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}},
            "added_tokens": [{"id": i, "content": token, "special": True} for token, i in (added or {}).items()],
        }
    )


def tokens(words: Iterable[str], added: Iterable[str] = ()) -> Tokens:
    return Tokens({word: (i,) for i, word in enumerate(words)}, frozenset(added), "tokenizer.json")


class Files:
    """Writes files into a folder and gives the mapping that the readers expect."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, **contents: Any) -> dict[str, Path]:
        files = {}
        for name, content in contents.items():
            path = self.folder / name.replace("__", ".")
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            files[path.name] = path
        return files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# Reading


def test_tokens_of_a_tokenizer_json(files: Files) -> None:
    found = read_tokens(files(tokenizer__json=tokenizer_json(["a", "b"], {"<|im_end|>": 2, "b": 1})))
    assert found is not None
    assert dict(found.ids) == {"a": (0,), "b": (1,), "<|im_end|>": (2,)}
    assert found.added == {"<|im_end|>", "b"}
    assert found.file == "tokenizer.json"


def test_tokens_of_a_unigram_tokenizer(files: Files) -> None:
    found = read_tokens(files(tokenizer__json={"model": {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.5]]}}))
    assert found is not None
    assert dict(found.ids) == {"a": (0,), "b": (1,)}


def test_tokens_of_a_vocab_json_with_everything_added(files: Files) -> None:
    found = read_tokens(
        files(
            vocab__json={"a": 0, "b": 1},
            added_tokens__json={"<pad>": 2},
            tokenizer_config__json={
                "added_tokens_decoder": {"3": {"content": "<|im_end|>"}, "2": {"content": "<pad>"}}
            },
        )
    )
    assert found is not None
    assert dict(found.ids) == {"a": (0,), "b": (1,), "<pad>": (2,), "<|im_end|>": (3,)}
    assert found.added == {"<pad>", "<|im_end|>"}


def test_a_token_with_two_ids_keeps_both(files: Files) -> None:
    found = read_tokens(files(tokenizer__json=tokenizer_json(["a", "b"], {"a": 7})))
    assert found is not None
    assert found.ids["a"] == (0, 7)


def test_a_model_without_tokenizer_has_none(files: Files) -> None:
    assert read_tokens(files(tokenizer_config__json={"chat_template": "x"})) is None


class Pieces:
    """Stands in for sentencepiece's processor: a file of one piece per line."""

    def __init__(self, model_file: str) -> None:
        self.pieces = Path(model_file).read_text().split("\n")
        if self.pieces == ["broken"]:
            raise RuntimeError("could not parse ModelProto")

    def get_piece_size(self) -> int:
        return len(self.pieces)

    def id_to_piece(self, number: int) -> str:
        return self.pieces[number]


def test_sentencepiece_is_read_where_its_library_is_there(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", SimpleNamespace(SentencePieceProcessor=Pieces))
    found = read_tokens(files(tokenizer__model="<s>\na", added_tokens__json={"<pad>": 2}))
    assert found is not None
    assert dict(found.ids) == {"<s>": (0,), "a": (1,), "<pad>": (2,)}
    with pytest.raises(PairingError, match=r"tokenizer\.model: cannot be read as a SentencePiece model"):
        read_tokens(files(tokenizer__model="broken"))


def test_without_the_library_sentencepiece_says_so(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(PairingError, match="pip install sentencepiece"):
        read_tokens(files(spiece__model="x"))


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"tokenizer__json": "{"}, "tokenizer.json: cannot be read"),
        ({"tokenizer__json": ["a"]}, "expected a JSON object, found a list"),
        ({"tokenizer__json": {"model": {}}}, "expected a vocabulary under model.vocab"),
        ({"tokenizer__json": {"model": {"vocab": {"a": "0"}}}}, "expected a token and its id, found 'a' and '0'"),
        ({"tokenizer__json": {"model": {"vocab": [[], 3]}}}, "expected a token and its id"),
        ({"tokenizer__json": {"model": {"vocab": {"a": 0}}, "added_tokens": ["b"]}}, "found 'b' and 'b'"),
        ({"vocab__json": {"a": -1}}, "found 'a' and -1"),
        ({"vocab__json": {"a": 0}, "tokenizer_config__json": {"added_tokens_decoder": {"x": {}}}}, "None and 'x'"),
    ],
)
def test_files_that_make_no_sense_are_named(files: Files, contents: dict[str, Any], words: str) -> None:
    with pytest.raises(PairingError) as caught:
        read_tokens(files(**contents))
    assert words in str(caught.value)


def test_chat_templates_are_found_where_they_may_be(files: Files) -> None:
    assert has_chat_template({}) is None
    assert has_chat_template(files(tokenizer_config__json={"bos_token": "<s>"})) is False
    assert has_chat_template(files(tokenizer_config__json={"chat_template": "{{ x }}"})) is True
    assert has_chat_template(files(chat_template__jinja="{{ x }}")) is True


# Matching


def test_equal_vocabularies_are_the_same() -> None:
    assert compare(tokens("abc"), tokens("abc")).same


def test_a_comparison_tells_moved_and_lost_and_new() -> None:
    found = compare(tokens("abcd"), tokens("xacb"))
    assert (found.moved, found.only_base, found.only_aligned) == (("a", "b"), ("d",), ("x",))
    assert not found.same


def test_prepended_tokens_shift_the_rows() -> None:
    found = match_rows(tokens("abc"), tokens("xyabc"), 3, 5)
    assert found.rows.tolist() == [-1, -1, 0, 1, 2]
    assert (found.matched, found.unknown, found.ambiguous, found.blank) == (3, 2, 0, 0)
    assert found.rows.dtype == torch.int64


def test_rows_without_a_token_are_left_alone() -> None:
    found = match_rows(tokens("abc"), tokens("abc"), 8, 6)
    assert found.rows.tolist() == [0, 1, 2, -1, -1, -1]
    assert found.blank == 3


def test_tokens_beyond_the_rows_are_no_matter() -> None:
    assert match_rows(tokens("abcde"), tokens("abcde"), 3, 4).rows.tolist() == [0, 1, 2, -1]


def test_a_renamed_token_is_another_token() -> None:
    found = match_rows(tokens(["a", "<reserved>"]), tokens(["a", "<|im_end|>"]), 2, 2)
    assert found.rows.tolist() == [0, -1]


def test_a_token_with_several_ids_matches_only_the_same_ones() -> None:
    double = Tokens({"a": (0, 2), "b": (1,)}, frozenset(), "")
    assert match_rows(double, double, 3, 3).rows.tolist() == [0, 1, 2]
    moved = Tokens({"a": (1, 2), "b": (0,)}, frozenset(), "")
    found = match_rows(double, moved, 3, 3)
    assert found.rows.tolist() == [1, -1, -1]
    assert found.ambiguous == 2
    assert match_rows(tokens("ab"), double, 2, 3).rows.tolist() == [-1, 1, -1]


def test_an_id_that_two_tokens_claim_matches_only_if_they_agree() -> None:
    aligned = Tokens({"a": (0,), "b": (0,), "c": (1,)}, frozenset(), "")
    found = match_rows(tokens("abc"), aligned, 3, 2)
    assert found.rows.tolist() == [-1, 2]
    assert found.ambiguous == 1
    agreeing = Tokens({"a": (1,), "b": (1,), "c": (0,)}, frozenset(), "")
    assert match_rows(agreeing, aligned, 2, 2).rows.tolist() == [1, 0]


def test_any_permutation_is_undone() -> None:
    words = [f"w{i}" for i in range(200)]
    shuffled = random.Random(0).sample(words, 200)
    rows = match_rows(tokens(words), tokens(shuffled), 200, 200).rows
    assert [words[i] for i in rows.tolist()] == shuffled


# The policy, from end to end


class Pair:
    """A pair with tokenizers, whose embedding and head have the rows asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = {"base": 32, "aligned": 32}
        self.files: dict[str, dict[str, str | bytes]] = {
            side: {"tokenizer.json": tokenizer_json(WORDS), "tokenizer_config.json": "{}"} for side in self.rows
        }
        self.tied = False
        self.tensors: dict[str, Tensor] = {}

    def add(self, side: str, *added: str) -> None:
        """Append tokens to a vocabulary and rows to its tables."""
        self.files[side]["tokenizer.json"] = tokenizer_json(WORDS, {token: 32 + i for i, token in enumerate(added)})
        self.rows[side] = 32 + len(added)

    def pair(self, **options: Any) -> Pairing:
        for side, rows in self.rows.items():
            write_checkpoint(
                self.folder / side,
                llama_tensors(vocabulary=rows, tied=self.tied) | self.tensors,
                config=llama_config(vocabulary=rows, tied=self.tied),
                files=self.files[side],
            )
        return pair(
            open_checkpoint(str(self.folder / "base")), open_checkpoint(str(self.folder / "aligned")), Wish(**options)
        )

    def problem(self, **options: Any) -> str:
        with pytest.raises(PairingError) as caught:
            self.pair(**options)
        _, line = str(caught.value).split("\n")
        return line


@pytest.fixture
def models(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def row_maps(pairing: Pairing) -> dict[str, list[int]]:
    return {m.name: m.row_map.tolist() for m in pairing.matrices if m.row_map is not None}


def notes(pairing: Pairing) -> str:
    return "\n".join(pairing.notes)


@pytest.mark.parametrize("policy", ["error", "common"])
def test_equal_vocabularies_are_paired_row_by_row(models: Pair, policy: str) -> None:
    pairing = models.pair(vocab=policy)
    assert not row_maps(pairing)
    assert not pairing.notes


def test_added_tokens_are_a_problem_that_names_the_way_out(models: Pair) -> None:
    models.add("aligned", "<|im_start|>", "<|im_end|>")
    problem = models.problem()
    for words in (f"{EMBEDDING} has 32 rows in BASE and 34 in ALIGNED", f"{HEAD} has 32 rows", "--vocab common"):
        assert words in problem
    assert "2 tokens only ALIGNED knows (<|im_end|>, <|im_start|>)" in problem
    assert "--no-embeddings" in problem


def test_added_tokens_stay_as_aligned_on_request(models: Pair) -> None:
    models.add("aligned", "<|im_start|>", "<|im_end|>")
    pairing = models.pair(vocab="common")
    expected = [*range(32), -1, -1]
    assert row_maps(pairing) == {EMBEDDING: expected, HEAD: expected}
    matrix = next(m for m in pairing.matrices if m.name == EMBEDDING)
    assert (matrix.start, matrix.stop, matrix.base_start) == (0, 34, 0)
    assert f"{EMBEDDING}: 32 rows matched by token; kept as aligned: 2 of tokens that BASE does not know" in notes(
        pairing
    )


def test_prepended_tokens_are_matched_by_token_not_by_place(models: Pair) -> None:
    models.files["aligned"]["tokenizer.json"] = tokenizer_json(["<new>", *WORDS])
    models.rows["aligned"] = 33
    assert row_maps(models.pair(vocab="common"))[EMBEDDING] == [-1, *range(32)]


def test_moved_tokens_are_a_problem_even_with_equal_rows(models: Pair) -> None:
    models.files["aligned"]["tokenizer.json"] = tokenizer_json(["<new>", *WORDS[:-1]])
    problem = models.problem()
    assert "31 common tokens with other ids (such as 'word0': 0 in BASE, 1 in ALIGNED)" in problem
    assert row_maps(models.pair(vocab="common"))[HEAD] == [-1, *range(31)]


def test_a_padded_table_needs_the_policy_too(models: Pair) -> None:
    models.rows["aligned"] = 40
    assert "40 in ALIGNED" in models.problem()
    pairing = models.pair(vocab="common")
    assert row_maps(pairing)[EMBEDDING] == [*range(32), *[-1] * 8]
    assert "8 without a token" in notes(pairing)


def test_a_table_that_shrank_is_matched_as_well(models: Pair) -> None:
    models.rows["base"] = 40
    assert row_maps(models.pair(vocab="common"))[EMBEDDING] == list(range(32))


def test_new_tokens_in_rows_that_both_have_are_only_noted(models: Pair) -> None:
    models.add("aligned", "<|im_end|>")
    models.rows = {"base": 40, "aligned": 40}
    pairing = models.pair()
    assert not row_maps(pairing)
    assert "1 token only ALIGNED knows (<|im_end|>)" in notes(pairing)
    assert row_maps(models.pair(vocab="common"))[EMBEDDING] == [*range(32), *[-1] * 8]


def test_tied_tables_are_matched_through_base_s_single_tensor(models: Pair) -> None:
    models.tied = True
    models.add("aligned", "<|im_end|>")
    pairing = models.pair(vocab="common")
    assert row_maps(pairing) == {EMBEDDING: [*range(32), -1]}


def test_per_layer_embeddings_are_token_tables(models: Pair) -> None:
    name = "model.embed_tokens_per_layer.weight"
    models.tensors[name] = torch.randn(32, 4)
    models.files["aligned"]["tokenizer.json"] = tokenizer_json(reversed(WORDS))
    assert row_maps(models.pair(vocab="common"))[name] == list(reversed(range(32)))


def test_without_embeddings_vocabularies_do_not_matter(models: Pair) -> None:
    models.add("aligned", "<|im_end|>")
    assert not row_maps(models.pair(embeddings=False))
    assert not row_maps(models.pair(exclude=[EMBEDDING, HEAD]))


def test_no_token_in_common_is_a_problem(models: Pair) -> None:
    models.files["aligned"]["tokenizer.json"] = tokenizer_json([f"x{i}" for i in range(32)])
    with pytest.raises(PairingError, match="no token in common"):
        models.pair(vocab="common")


@pytest.mark.parametrize("policy", ["error", "common"])
@pytest.mark.parametrize("side", ["base", "aligned"])
def test_without_a_tokenizer_equal_rows_are_paired_by_place(models: Pair, side: str, policy: str) -> None:
    models.files[side] = {}
    pairing = models.pair(vocab=policy)
    assert not row_maps(pairing)
    assert f"by their place, which no tokenizer confirms: {side.upper()} has no tokenizer" in notes(pairing)


@pytest.mark.parametrize("policy", ["error", "common"])
def test_without_a_tokenizer_other_rows_are_a_problem(models: Pair, policy: str) -> None:
    models.files["base"] = {}
    models.rows["aligned"] = 40
    problem = models.problem(vocab=policy)
    assert "BASE has no tokenizer" in problem
    assert "never matched by their place" in problem


def test_an_unreadable_tokenizer_is_a_problem_only_where_it_is_needed(models: Pair) -> None:
    models.files["aligned"]["tokenizer.json"] = "{"
    assert "ALIGNED's tokenizer.json: cannot be read" in notes(models.pair())
    assert "--vocab common cannot match tokens: ALIGNED's tokenizer.json" in models.problem(vocab="common")


# Swapped sides


def test_chat_tokens_that_only_base_has_look_swapped(models: Pair) -> None:
    models.add("base", "<|im_start|>", "<|im_end|>")
    models.rows["aligned"] = 34
    problem = models.problem()
    assert "are BASE and ALIGNED swapped? BASE has chat tokens that ALIGNED lacks (<|im_end|>" in problem


def test_other_tokens_that_only_base_has_are_only_noted(models: Pair) -> None:
    models.add("base", "<pad>")
    models.rows["aligned"] = 33
    assert "1 token only BASE knows (<pad>)" in notes(models.pair())


def test_chat_tokens_of_both_sides_do_not_look_swapped(models: Pair) -> None:
    models.add("base", "<|im_end|>")
    models.add("aligned", "<|eot_id|>")
    pairing = models.pair()
    assert "1 token only ALIGNED knows (<|eot_id|>); 1 token only BASE knows (<|im_end|>)" in notes(pairing)


def test_a_chat_template_that_only_base_has_looks_swapped(models: Pair) -> None:
    models.files["base"]["chat_template.jinja"] = "{{ messages }}"
    assert "BASE has a chat template, ALIGNED has none" in models.problem()


def test_a_chat_template_of_aligned_is_as_it_should_be(models: Pair) -> None:
    models.files["aligned"]["chat_template.jinja"] = "{{ messages }}"
    assert models.pair().matrices


@pytest.mark.parametrize("lost", [{}, {"tokenizer.json": tokenizer_json(WORDS)}])
def test_an_aligned_model_saved_without_its_tokenizer_settings_does_not_look_swapped(
    models: Pair, lost: dict[str, str | bytes]
) -> None:
    models.files["base"]["chat_template.jinja"] = "{{ messages }}"
    models.files["aligned"] = lost
    assert models.pair().matrices


def test_tokenizer_files_of_an_adapter_take_the_place_of_the_base_s(models: Pair) -> None:
    models.pair()
    folder = models.folder / "adapter"
    folder.mkdir()
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{module}.lora_A.weight": torch.randn(2, 16), f"{module}.lora_B.weight": torch.randn(16, 2)},
        folder / "adapter_model.safetensors",
    )
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]})
    )
    (folder / "tokenizer.json").write_text(tokenizer_json(reversed(WORDS)))
    base = open_checkpoint(str(models.folder / "base"))
    aligned = open_checkpoint(f"{models.folder / 'aligned'}+{folder}")
    with pytest.raises(PairingError, match="32 common tokens with other ids"):
        pair(base, aligned, Wish())

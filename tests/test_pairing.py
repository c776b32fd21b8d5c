"""Which matrices are extrapolated against which, and every reason not to: on hand-made headers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safelox.checkpoint import Checkpoint, open_checkpoint
from safelox.errors import PairingError, UsageError
from safelox.pairing import Pairing, Wish, pair
from tiny import llama_config, llama_tensors, write_checkpoint, write_json

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
NORM = "model.norm.weight"
LINEAR_PER_LAYER = 7


class Sides:
    """Two models to be written, changed as a test needs it, and paired."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors = {side: llama_tensors(seed=i) for i, side in enumerate(("base", "aligned"))}
        self.config = {side: llama_config() for side in ("base", "aligned")}
        self.files: dict[str, dict[str, str | bytes]] = {"base": {}, "aligned": {}}
        self.shards = {"base": 1, "aligned": 1}

    def open(self, side: str) -> Checkpoint:
        folder = self.folder / side
        if not folder.exists():
            write_checkpoint(
                folder,
                self.tensors[side],
                shards=self.shards[side],
                config=self.config[side],
                files=self.files[side],
            )
        return open_checkpoint(str(folder))

    def pair(self, **options: Any) -> Pairing:
        return pair(self.open("base"), self.open("aligned"), Wish(**options))

    def problems(self, **options: Any) -> list[str]:
        """The lines of the error, the first of which names both models."""
        with pytest.raises(PairingError) as caught:
            self.pair(**options)
        first, *lines = str(caught.value).split("\n")
        assert str(self.folder / "base") in first
        assert str(self.folder / "aligned") in first
        assert all(line.startswith("- ") for line in lines)
        return lines

    def problem(self, **options: Any) -> str:
        """The one problem that there is."""
        (line,) = self.problems(**options)
        return line

    def tie(self, side: str) -> None:
        del self.tensors[side][HEAD]
        self.config[side]["tie_word_embeddings"] = True

    def both(self, tensors: Mapping[str, Tensor]) -> None:
        for side in self.tensors.values():
            side |= tensors


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def chosen(pairing: Pairing) -> list[str]:
    return [matrix.label for matrix in pairing.matrices]


def reasons(pairing: Pairing) -> dict[str, str]:
    return {item.name: item.reason for item in pairing.carried}


def has_note(pairing: Pairing, *words: str) -> bool:
    return any(all(word in note for word in words) for note in pairing.notes)


# What is extrapolated by default


def test_every_matrix_is_extrapolated_and_every_vector_carried(sides: Sides) -> None:
    pairing = sides.pair()
    tensors = sides.tensors["aligned"]
    assert set(chosen(pairing)) == {name for name, tensor in tensors.items() if tensor.dim() == 2}
    assert {EMBEDDING, HEAD} <= set(chosen(pairing))
    assert set(reasons(pairing)) == {name for name, tensor in tensors.items() if tensor.dim() == 1}
    assert "one-dimensional" in reasons(pairing)[NORM]
    assert pairing.tied == ()


def test_a_matrix_covers_its_whole_tensor_and_has_the_same_rows_in_base(sides: Sides) -> None:
    matrix = next(m for m in sides.pair().matrices if m.name == Q)
    assert (matrix.start, matrix.stop, matrix.rows, matrix.columns) == (0, 16, 16, 16)
    assert (matrix.base_name, matrix.base_start, matrix.row_map, matrix.expert) == (Q, 0, None, None)
    assert (matrix.label, matrix.seed_name) == (Q, Q)


def test_the_order_is_that_of_the_aligned_files_however_base_is_cut(sides: Sides) -> None:
    sides.shards = {"base": 3, "aligned": 2}
    pairing = sides.pair()
    order = [tensor.name for shard in sides.open("aligned").shards for tensor in shard.tensors]
    assert chosen(pairing) == [name for name in order if name in chosen(pairing)]
    assert [item.name for item in pairing.carried] == [name for name in order if name in reasons(pairing)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_mix_of_floating_dtypes_is_fine_and_noted(sides: Sides, dtype: torch.dtype) -> None:
    sides.tensors["base"] = {name: tensor.to(dtype) for name, tensor in sides.tensors["base"].items()}
    pairing = sides.pair()
    assert len(pairing.matrices) == 2 + 2 * LINEAR_PER_LAYER
    assert has_note(pairing, "16 tensors stored as", "in BASE and as F32 in ALIGNED")


def test_base_without_floating_point_values_is_a_problem(sides: Sides) -> None:
    name = "model.layers.0.extra"
    sides.both({name: torch.ones(4, 4)})
    sides.tensors["base"][name] = torch.ones(4, 4, dtype=torch.int32)
    assert f"{name} (I32)" in sides.problem()


def test_nothing_at_all_is_a_problem_with_the_reasons(sides: Sides) -> None:
    problem = sides.problem(exclude=["*"])
    assert "nothing is left to extrapolate" in problem
    assert "16 tensors: left out by --exclude" in problem
    assert "5 tensors: one-dimensional" in problem


# What is carried, and may be asked for


def convolution() -> dict[str, Tensor]:
    return {"model.layers.0.mixer.conv1d.weight": torch.randn(8, 1, 4)}


EXTRAS = [
    ("model.layers.0.mixer.conv1d.weight", (8, 1, 4), "not a matrix (3 dimensions"),
    ("model.vision_tower.blocks.0.attn.qkv.weight", (12, 4), "tower"),
    ("visual.merger.mlp.0.weight", (4, 4), "tower"),
    ("audio_tower.layers.0.fc1.weight", (4, 4), "tower"),
    ("model.multi_modal_projector.linear_1.weight", (4, 4), "projector"),
    ("mtp.layers.0.mlp.up_proj.weight", (4, 4), "multi-token prediction"),
    ("model.mtp_layers.0.eh_proj.weight", (4, 4), "multi-token prediction"),
    ("model.layers.2.eh_proj.weight", (4, 8), "layer 2 is beyond the model's 2"),
]


@pytest.mark.parametrize(("name", "shape", "reason"), EXTRAS)
def test_parts_beside_the_language_model_are_carried_without_a_counterpart(
    sides: Sides, name: str, shape: Sequence[int], reason: str
) -> None:
    sides.tensors["aligned"][name] = torch.randn(*shape)
    pairing = sides.pair()
    assert reason in reasons(pairing)[name]
    assert len(pairing.matrices) == 16


@pytest.mark.parametrize(("name", "shape"), [extra[:2] for extra in EXTRAS])
def test_parts_beside_the_language_model_are_extrapolated_if_included(
    sides: Sides, name: str, shape: Sequence[int]
) -> None:
    sides.both({name: torch.randn(*shape)})
    pairing = sides.pair(include=[name])
    (matrix,) = pairing.matrices
    assert matrix.name == name
    assert matrix.rows * matrix.columns == torch.Size(shape).numel()
    assert matrix.columns == shape[-1]


def test_an_included_part_needs_a_counterpart(sides: Sides) -> None:
    sides.tensors["aligned"] |= convolution()
    assert "conv1d" in sides.problem(include=["*conv1d*", "*q_proj*"])


def test_an_included_tensor_of_more_dimensions_is_noted(sides: Sides) -> None:
    sides.both(convolution())
    assert has_note(sides.pair(include=["*conv1d*"]), "more than two dimensions", "conv1d.weight as 8 x 4")


def test_words_of_a_projector_mean_one_only_in_a_multimodal_model(sides: Sides) -> None:
    name = "model.connector.weight"
    sides.both({name: torch.randn(4, 4)})
    assert name in chosen(sides.pair())


def test_words_of_a_projector_count_in_a_multimodal_model(sides: Sides) -> None:
    name = "model.connector.weight"
    sides.both({name: torch.randn(4, 4)})
    for config in sides.config.values():
        config["vision_config"] = {"hidden_size": 4}
    assert name in reasons(sides.pair())


def test_layers_are_counted_by_the_text_config_of_a_multimodal_model(sides: Sides) -> None:
    for config in sides.config.values():
        config["text_config"] = {"num_hidden_layers": 1}
        del config["num_hidden_layers"]
    pairing = sides.pair()
    assert "layer 1 is beyond the model's 1" in reasons(pairing)["model.layers.1.mlp.up_proj.weight"]
    assert Q in chosen(pairing)


NEVER = [
    ("model.position_ids", torch.zeros(2, 4, dtype=torch.int64), "not a floating-point weight (I64)"),
    ("model.mask.weights", torch.zeros(2, 4, dtype=torch.bool), "not a floating-point weight (BOOL)"),
    ("h.0.attn.bias", torch.zeros(1, 1, 4, 4), "buffer"),
    ("h.0.attn.masked_bias", torch.zeros(()), "buffer"),
    ("model.layers.0.extra.weight", torch.zeros(4), "one-dimensional"),
    ("model.layers.0.nothing.weight", torch.zeros(0, 4), "empty"),
    ("model.layers.0.mlp.experts.gate_up_proj_bias", torch.zeros(2, 4), "biases of experts"),
]


@pytest.mark.parametrize(("name", "tensor", "reason"), NEVER)
def test_what_is_no_matrix_is_always_carried(sides: Sides, name: str, tensor: Tensor, reason: str) -> None:
    sides.tensors["aligned"][name] = tensor
    assert reason in reasons(sides.pair())[name]


@pytest.mark.parametrize(("name", "tensor", "reason"), NEVER)
def test_asking_for_what_is_no_matrix_is_a_problem(sides: Sides, name: str, tensor: Tensor, reason: str) -> None:
    sides.tensors["aligned"][name] = tensor
    problem = sides.problem(include=[name, Q])
    assert "--include" in problem
    assert name in problem
    assert reason in problem


# Include and exclude


def test_include_selects_and_the_rest_says_so(sides: Sides) -> None:
    pairing = sides.pair(include=["*.mlp.*", HEAD])
    assert len(pairing.matrices) == 7
    assert reasons(pairing)[Q] == "not among the tensors of --include"
    assert "one-dimensional" in reasons(pairing)[NORM]


def test_a_glob_may_also_match_vectors(sides: Sides) -> None:
    pairing = sides.pair(include=["model.layers.0.*"])
    assert len(pairing.matrices) == LINEAR_PER_LAYER


def test_exclude_wins_over_include(sides: Sides) -> None:
    pairing = sides.pair(include=["*self_attn*"], exclude=["*q_proj*"])
    assert len(pairing.matrices) == 6
    assert reasons(pairing)[Q] == "left out by --exclude"


def test_an_excluded_tensor_needs_no_counterpart(sides: Sides) -> None:
    del sides.tensors["base"][Q]
    assert Q not in chosen(sides.pair(exclude=[Q]))


def test_patterns_are_case_sensitive(sides: Sides) -> None:
    assert "matches no tensor" in sides.problem(include=["*Q_PROJ*", "*k_proj*"])


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_names_the_nearest(sides: Sides, option: str) -> None:
    problem = sides.problem(**{option: ["model.layers.0.self_attn.qproj.weight"]})
    assert f"--{option} 'model.layers.0.self_attn.qproj.weight' matches no tensor" in problem
    assert Q in problem


def test_a_glob_that_matches_nothing_names_the_nearest_parts(sides: Sides) -> None:
    problem = sides.problem(exclude=["*.qproj.weight", "*.k_proj.*"])
    assert "--exclude '*.qproj.weight' matches no tensor of ALIGNED; the nearest are q_proj" in problem


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_single_string_is_no_list_of_patterns(sides: Sides, option: str) -> None:
    with pytest.raises(UsageError, match="expected a list of globs"):
        sides.pair(**{option: "*.weight"})


def test_an_unknown_policy_is_refused(sides: Sides) -> None:
    with pytest.raises(UsageError, match="expected one of error, common"):
        sides.pair(vocab="index")


# Embeddings


def test_embeddings_and_head_can_be_left_out(sides: Sides) -> None:
    name = "model.embed_positions.weight"
    sides.both({name: torch.randn(8, 16)})
    pairing = sides.pair(embeddings=False)
    assert len(pairing.matrices) == 2 * LINEAR_PER_LAYER
    assert all("--no-embeddings" in reasons(pairing)[left_out] for left_out in (EMBEDDING, HEAD, name))


def test_asking_for_the_head_and_for_no_embeddings_is_a_problem(sides: Sides) -> None:
    assert "give one of the two" in sides.problem(include=[HEAD, Q], embeddings=False)


@pytest.mark.parametrize(
    ("embedding", "head"),
    [
        ("transformer.wte.weight", "lm_head.weight"),
        ("gpt_neox.embed_in.weight", "embed_out.weight"),
        ("transformer.word_embeddings.weight", "lm_head.weight"),
        ("backbone.embeddings.weight", "lm_head.weight"),
        ("model.tok_embeddings.weight", "output.weight"),
        ("shared.weight", "proj_out.weight"),
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
        ("rwkv.embeddings.weight", "head.weight"),
        ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
    ],
)
def test_embeddings_and_heads_are_known_by_name(sides: Sides, embedding: str, head: str) -> None:
    for tensors in sides.tensors.values():
        tensors[embedding], tensors[head] = tensors.pop(EMBEDDING), tensors.pop(HEAD)
    assert {embedding, head} <= set(reasons(sides.pair(embeddings=False)))


def test_an_unclear_name_needs_as_many_rows_as_the_vocabulary(sides: Sides) -> None:
    names = ["model.output.weight", "model.layers.0.attention.output.weight", "model.embedding_projection.weight"]
    sides.both({names[0]: torch.randn(33, 4), names[1]: torch.randn(32, 4), names[2]: torch.randn(31, 4)})
    assert set(names) <= set(chosen(sides.pair(embeddings=False)))


# Tied weights


def test_one_tied_tensor_is_extrapolated_once(sides: Sides) -> None:
    sides.tie("base")
    sides.tie("aligned")
    pairing = sides.pair()
    assert [m.base_name for m in pairing.matrices if m.name == EMBEDDING] == [EMBEDDING]
    assert pairing.tied == (EMBEDDING,)
    assert has_note(pairing, EMBEDDING, "tied", "once")


def test_a_silent_config_and_one_stored_tensor_mean_tied(sides: Sides) -> None:
    sides.tie("base")
    sides.tie("aligned")
    for config in sides.config.values():
        del config["tie_word_embeddings"]
    assert sides.pair().tied == (EMBEDDING,)


def test_the_tied_tensor_may_be_stored_as_the_head(sides: Sides) -> None:
    sides.tie("base")
    sides.tie("aligned")
    sides.tensors["aligned"][HEAD] = sides.tensors["aligned"].pop(EMBEDDING)
    pairing = sides.pair()
    assert [m.base_name for m in pairing.matrices if m.name == HEAD] == [EMBEDDING]
    assert pairing.tied == (HEAD,)
    assert not has_note(pairing, "that ALIGNED lacks")


@pytest.mark.parametrize("said", [True, None])
def test_a_tied_weight_that_is_shipped_twice_stays_tied(sides: Sides, said: bool | None) -> None:
    sides.tie("base")
    sides.tensors["aligned"][HEAD] = sides.tensors["aligned"][EMBEDDING]
    sides.config["aligned"]["tie_word_embeddings"] = said
    pairing = sides.pair()
    ends = [m for m in pairing.matrices if m.name in (EMBEDDING, HEAD)]
    assert {m.base_name for m in ends} == {EMBEDDING}
    assert len({m.seed_name for m in ends}) == 1
    assert set(pairing.tied) == {EMBEDDING, HEAD}
    assert has_note(pairing, "under two names", EMBEDDING, HEAD)


def test_both_shipped_on_both_sides_pair_with_one_base_tensor(sides: Sides) -> None:
    for side, tensors in sides.tensors.items():
        tensors[HEAD] = tensors[EMBEDDING]
        sides.config[side]["tie_word_embeddings"] = True
    assert {m.base_name for m in sides.pair().matrices if m.name in (EMBEDDING, HEAD)} == {EMBEDDING}


def test_half_of_a_tied_weight_that_is_shipped_twice_is_a_problem(sides: Sides) -> None:
    sides.tie("base")
    sides.tensors["aligned"][HEAD] = sides.tensors["aligned"][EMBEDDING]
    sides.config["aligned"]["tie_word_embeddings"] = True
    problem = sides.problem(exclude=[HEAD])
    assert "select both or neither" in problem
    assert sides.pair(embeddings=False).matrices


def test_two_different_tensors_are_untied_whatever_the_config_says(sides: Sides) -> None:
    sides.config["aligned"]["tie_word_embeddings"] = True
    pairing = sides.pair()
    assert {m.name: m.base_name for m in pairing.matrices if m.name in (EMBEDDING, HEAD)} == {
        EMBEDDING: EMBEDDING,
        HEAD: HEAD,
    }
    assert pairing.tied == ()
    assert has_note(pairing, "tie_word_embeddings: true", "two weights")


def test_equal_tensors_are_two_weights_where_the_config_says_untied(sides: Sides) -> None:
    sides.tensors["aligned"][HEAD] = sides.tensors["aligned"][EMBEDDING]
    pairing = sides.pair()
    assert pairing.tied == ()
    assert len({m.seed_name for m in pairing.matrices}) == 16


def test_two_different_aligned_tensors_each_pair_with_the_tied_base(sides: Sides) -> None:
    sides.tie("base")
    pairing = sides.pair()
    assert {m.name: m.base_name for m in pairing.matrices if m.name in (EMBEDDING, HEAD)} == {
        EMBEDDING: EMBEDDING,
        HEAD: EMBEDDING,
    }
    assert has_note(pairing, "BASE ties", EMBEDDING, HEAD)


def test_an_untied_base_of_a_tied_aligned_is_a_problem_naming_both(sides: Sides) -> None:
    sides.tie("aligned")
    problem = sides.problem()
    assert "ALIGNED ties" in problem
    assert f"{EMBEDDING} and {HEAD}" in problem
    assert len(sides.pair(embeddings=False).matrices) == 2 * LINEAR_PER_LAYER


@pytest.mark.parametrize("side", ["base", "aligned"])
def test_a_missing_head_is_a_problem_where_the_config_says_untied(sides: Sides, side: str) -> None:
    del sides.tensors[side][HEAD]
    problem = sides.problem()
    assert f"{side.upper()} stores {EMBEDDING} but no output head" in problem
    assert "tie_word_embeddings: false" in problem


def test_a_model_without_a_head_needs_none(sides: Sides) -> None:
    for side in ("base", "aligned"):
        del sides.tensors[side][HEAD]
        sides.config[side]["architectures"] = ["LlamaModel"]
    assert EMBEDDING in chosen(sides.pair())


def test_asking_for_a_tied_head_is_explained(sides: Sides) -> None:
    sides.tie("base")
    sides.tie("aligned")
    assert "stored as the input embedding" in sides.problem(include=[HEAD, Q])


# Experts


def test_fused_experts_are_taken_one_by_one(sides: Sides) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    sides.both({name: torch.randn(3, 4, 6)})
    pairing = sides.pair()
    experts = [m for m in pairing.matrices if m.name == name]
    assert [m.label for m in experts] == [f"{name}[0]", f"{name}[1]", f"{name}[2]"]
    assert [(m.start, m.stop, m.columns, m.base_start) for m in experts] == [(0, 4, 6, 0), (4, 8, 6, 4), (8, 12, 6, 8)]
    assert len({m.seed_name for m in experts}) == 3
    assert has_note(pairing, "fused experts", "3 matrices")
    rows = sides.open("aligned").rows(name, experts[1].start, experts[1].stop)
    assert torch.equal(rows, sides.tensors["aligned"][name][1])


def test_another_number_of_experts_is_a_problem(sides: Sides) -> None:
    name = "model.layers.0.mlp.experts.down_proj"
    sides.both({name: torch.randn(3, 4, 6)})
    sides.tensors["base"][name] = torch.randn(2, 4, 6)
    problem = sides.problem()
    assert "number of experts" in problem
    assert f"{name} (2 x 4 x 6 in BASE, 3 x 4 x 6 in ALIGNED)" in problem


@pytest.mark.parametrize("fused_side", ["base", "aligned"])
def test_fused_against_separate_experts_is_one_problem_with_the_way_out(sides: Sides, fused_side: str) -> None:
    separate_side = "base" if fused_side == "aligned" else "aligned"
    for layer in range(2):
        sides.tensors[fused_side] |= {
            f"model.layers.{layer}.mlp.experts.gate_up_proj": torch.randn(2, 4, 6),
            f"model.layers.{layer}.mlp.gate.weight": torch.randn(2, 6),
        }
        sides.tensors[separate_side] |= {
            f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight": torch.randn(4, 6)
            for expert in range(2)
        } | {f"model.layers.{layer}.block_sparse_moe.gate.weight": torch.randn(2, 6)}
    problem = sides.problem()
    assert f"{fused_side.upper()} stores its experts fused, {separate_side.upper()} one by one" in problem
    assert "save_original_format" in problem


def test_stacked_experts_need_their_number_in_the_config(sides: Sides) -> None:
    sides.both({"transformer.blocks.0.ffn.experts.mlp.w1": torch.randn(8, 4)})
    assert "ffn_config.moe_num_experts" in sides.problem()


# Names, shapes and architectures that differ


def test_missing_tensors_are_counted_and_named(sides: Sides) -> None:
    for layer in range(2):
        for part in ("q_proj", "k_proj", "v_proj"):
            del sides.tensors["base"][f"model.layers.{layer}.self_attn.{part}.weight"]
    problem = sides.problem()
    assert "BASE lacks 6 tensors" in problem
    assert problem.count("model.layers.") == 4
    assert "and 2 more" in problem


def test_a_different_number_of_layers_is_said(sides: Sides) -> None:
    sides.tensors["aligned"] |= {f"model.layers.2.{part}.weight": torch.randn(4, 4) for part in "abc"}
    del sides.config["base"]["num_hidden_layers"]
    sides.config["aligned"]["num_hidden_layers"] = 3
    assert "BASE has 2 layers, ALIGNED 3" in sides.problem()


@pytest.mark.parametrize("prefix", ["model.", "language_model."])
def test_a_different_prefix_is_recognised(sides: Sides, prefix: str) -> None:
    bare = {name.removeprefix("model."): tensor for name, tensor in sides.tensors["base"].items()}
    if prefix == "model.":
        sides.tensors["base"] = bare
        expected = "without the prefix 'model.'"
    else:
        sides.tensors["base"] = {prefix + name: tensor for name, tensor in sides.tensors["base"].items()}
        expected = "with the additional prefix 'language_model.'"
    problem = sides.problem()
    assert expected in problem
    assert "AutoModelForCausalLM" in problem


def test_base_tensors_that_aligned_lacks_are_noted(sides: Sides) -> None:
    sides.tensors["base"]["model.layers.2.eh_proj.weight"] = torch.randn(4, 4)
    pairing = sides.pair()
    assert has_note(pairing, "1 tensor of BASE that ALIGNED lacks", "eh_proj")


def test_shapes_that_differ_are_one_problem(sides: Sides) -> None:
    for layer in range(2):
        sides.tensors["base"][f"model.layers.{layer}.mlp.up_proj.weight"] = torch.randn(20, 16)
    problem = sides.problem()
    assert "the shapes of 2 tensors differ" in problem
    assert "model.layers.0.mlp.up_proj.weight (20 x 16 in BASE, 24 x 16 in ALIGNED)" in problem


def test_columns_of_an_embedding_may_not_differ(sides: Sides) -> None:
    sides.tensors["base"][EMBEDDING] = torch.randn(32, 8)
    assert "32 x 8 in BASE, 32 x 16 in ALIGNED" in sides.problem()


def test_layers_are_named_in_their_natural_order(sides: Sides) -> None:
    extra = {f"model.layers.{layer}.extra.weight": torch.randn(2, 2) for layer in range(12)}
    sides.tensors["aligned"] |= extra
    sides.config["aligned"]["num_hidden_layers"] = sides.config["base"]["num_hidden_layers"] = 12
    assert "model.layers.1.extra.weight, model.layers.2.extra.weight" in sides.problem()


@pytest.mark.parametrize(
    ("key", "value"), [("model_type", "mistral"), ("hidden_size", 32), ("num_hidden_layers", 4), ("head_dim", 8)]
)
def test_configs_of_different_models_are_told_before_any_tensor(sides: Sides, key: str, value: Any) -> None:
    sides.config["base"].setdefault(key, 4)
    sides.config["aligned"][key] = value
    sides.tensors["base"] = {"other." + name: tensor for name, tensor in sides.tensors["base"].items()}
    problem = sides.problem()
    assert f"{key} is {sides.config['base'][key]} in BASE and {value} in ALIGNED" in problem


def test_configs_of_multimodal_models_are_compared_in_their_text_part(sides: Sides) -> None:
    for size, config in zip((16, 32), sides.config.values(), strict=True):
        config["text_config"] = {"hidden_size": size}
    assert "hidden_size is 16 in BASE and 32 in ALIGNED" in sides.problem()


def test_the_same_folder_twice_is_a_problem(sides: Sides, tmp_path: Path) -> None:
    sides.open("base")
    (tmp_path / "aligned").symlink_to(tmp_path / "base")
    assert "are the same model" in sides.problem()


def test_all_problems_come_together(sides: Sides) -> None:
    del sides.tensors["base"][Q]
    sides.tensors["base"]["model.layers.1.mlp.up_proj.weight"] = torch.randn(20, 16)
    del sides.tensors["aligned"][HEAD]
    lines = sides.problems(exclude=["*.nothing.*"])
    assert len(lines) == 4
    for words in ("--exclude", "no output head", "lacks 1 tensor", "20 x 16"):
        assert any(words in line for line in lines), words


# Quantised models

QUANTISED_CONFIGS = [
    ({"quant_method": "gptq", "bits": 4}, ("gptq", "weights that were quantised")),
    ({"quant_method": "awq"}, ("awq", "weights that were quantised")),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("bitsandbytes", "dequantize()")),
    ({"quant_method": "fp8"}, ("fp8", "FineGrainedFP8Config(dequantize=True)")),
    ({"quant_method": "compressed-tensors"}, ("compressed-tensors", "CompressedTensorsConfig(dequantize=True)")),
    ({"quant_method": "mxfp4"}, ("mxfp4", "Mxfp4Config(dequantize=True)")),
    ({"quant_method": "something new"}, ("something new", "weights that were quantised")),
]


@pytest.mark.parametrize("side", ["base", "aligned"])
@pytest.mark.parametrize(("config", "words"), QUANTISED_CONFIGS)
def test_a_model_that_says_it_is_quantised_is_refused(
    sides: Sides, side: str, config: dict[str, Any], words: Sequence[str]
) -> None:
    sides.config[side]["quantization_config"] = config
    problem = sides.problem()
    assert f"{side.upper()} is quantised" in problem
    assert all(word in problem for word in words)


QUANTISED_TENSORS = [
    ({"q.qweight": torch.zeros(4, 4, dtype=torch.int32), "q.qzeros": torch.zeros(4, 4, dtype=torch.int32)}, "GPTQ"),
    ({"q.weight_packed": torch.zeros(4, 4, dtype=torch.int32)}, "compressed-tensors"),
    ({"q.weight.absmax": torch.zeros(4), "q.weight.quant_state.bitsandbytes__nf4": torch.zeros(4)}, "bitsandbytes"),
    ({"q.weight": torch.zeros(4, 4, dtype=torch.int8), "q.SCB": torch.zeros(4)}, "quantised"),
    ({"q.weight_scale_inv": torch.zeros(4, 4)}, "FP8 with scales"),
    ({"q.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn)}, "FP8"),
    ({"experts.up_proj_blocks": torch.zeros(2, 4, 4, dtype=torch.uint8)}, "MXFP4"),
    ({"q.weight": torch.zeros(4, 4, dtype=torch.uint8)}, "packed in U8"),
]


@pytest.mark.parametrize("side", ["base", "aligned"])
@pytest.mark.parametrize(("tensors", "word"), QUANTISED_TENSORS)
def test_a_model_whose_tensors_are_quantised_is_refused(
    sides: Sides, side: str, tensors: dict[str, Tensor], word: str
) -> None:
    sides.tensors[side] |= tensors
    problem = sides.problem()
    assert f"{side.upper()} is quantised" in problem
    assert word in problem
    assert "Dequantise it first" in problem


def test_both_sides_quantised_are_two_problems(sides: Sides) -> None:
    for config in sides.config.values():
        config["quantization_config"] = {"quant_method": "fp8"}
    assert len(sides.problems()) == 2


# Adapters


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA adapter of rank 2 on the q_proj of layer 0."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{module}.lora_A.weight": torch.randn(2, 16), f"{module}.lora_B.weight": torch.randn(16, 2)},
        folder / "adapter_model.safetensors",
    )
    write_json(
        folder / "adapter_config.json",
        {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "layers_to_transform": [0]},
    )
    return folder


def test_what_an_adapter_on_base_does_not_touch_is_carried(sides: Sides, adapter: Path) -> None:
    base = sides.open("base")
    pairing = pair(base, open_checkpoint(f"{base.folder}+{adapter}"), Wish())
    assert chosen(pairing) == [Q]
    assert reasons(pairing)[EMBEDDING] == "not changed by the adapter"
    assert "one-dimensional" in reasons(pairing)[NORM]


def test_what_an_adapter_replaces_as_a_whole_is_extrapolated(sides: Sides, adapter: Path) -> None:
    base = sides.open("base")
    saved = load_file(adapter / "adapter_model.safetensors")
    save_file(saved | {f"base_model.model.{HEAD}": torch.randn(32, 16)}, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    write_json(adapter / "adapter_config.json", config | {"modules_to_save": ["lm_head"]})
    pairing = pair(base, open_checkpoint(f"{base.folder}+{adapter}"), Wish())
    assert set(chosen(pairing)) == {Q, HEAD}


def test_including_only_what_the_adapter_does_not_touch_leaves_nothing(sides: Sides, adapter: Path) -> None:
    base = sides.open("base")
    with pytest.raises(PairingError, match=r"nothing is left.*not changed by the adapter"):
        pair(base, open_checkpoint(f"{base.folder}+{adapter}"), Wish(include=["*up_proj*"]))


def test_an_adapter_on_another_model_than_base_changes_nothing_about_the_pairing(sides: Sides, adapter: Path) -> None:
    aligned = open_checkpoint(f"{sides.open('aligned').folder}+{adapter}")
    assert len(pair(sides.open("base"), aligned, Wish()).matrices) == 16


def test_an_adapter_on_base_alone_looks_swapped(sides: Sides, adapter: Path) -> None:
    base = sides.open("base")
    with pytest.raises(PairingError, match="are BASE and ALIGNED swapped"):
        pair(open_checkpoint(f"{base.folder}+{adapter}"), base, Wish())


def test_the_same_adapter_twice_is_the_same_model(sides: Sides, adapter: Path) -> None:
    reference = f"{sides.open('base').folder}+{adapter}"
    with pytest.raises(PairingError, match="are the same model"):
        pair(open_checkpoint(reference), open_checkpoint(reference), Wish())


def test_values_are_not_read_but_to_compare_two_ends(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    base, aligned = sides.open("base"), sides.open("aligned")

    def fail(*_: object) -> None:
        raise AssertionError("values were read")

    monkeypatch.setattr(Checkpoint, "rows", fail)
    assert len(pair(base, aligned, Wish()).matrices) == 16

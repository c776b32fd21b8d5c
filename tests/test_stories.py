"""The main job on real trained weights: stories260K and a version of it that was trained a little further."""

import hashlib
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from safelox import harden, verify
from stories import TALES, align, convert, find_stories

KNOWN_TALE_SHA256 = "30b2ffb07967932a88bfdf5e23b517a6f4cfcf7231db9e537360d3c12a4e4d10"
"""Of the 565 characters that the model's author published as its greedy sample of 256 tokens."""


class Pair(NamedTuple):
    base: Path
    aligned: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    source = find_stories()
    folder = tmp_path_factory.mktemp("stories")
    base = convert(source, folder / "base")
    return Pair(base, align(base, folder / "aligned"))


@pytest.fixture(scope="module")
def hardened(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stories") / "hardened"
    harden(str(pair.base), str(pair.aligned), out, rank=6, coef=0.5)
    return out


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def loss_on_tales(folder: Path) -> float:
    model, tokenizer = load(folder)
    with torch.inference_mode():
        batches = [tokenizer(tale, return_tensors="pt").input_ids for tale in TALES]
        return fmean(model(ids, labels=ids).loss.item() for ids in batches)


def test_the_converted_model_tells_the_published_tale(pair: Pair) -> None:
    model, tokenizer = load(pair.base)
    start = torch.tensor([[tokenizer.bos_token_id]])
    ids = model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=256, do_sample=False)
    tale = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert tale.startswith("Once upon a time, there was a little girl named Lily.")
    assert hashlib.sha256(tale.encode()).hexdigest() == KNOWN_TALE_SHA256
    assert tokenizer.encode(tale) == ids[0, 1:].tolist()


def test_every_matrix_is_extrapolated_as_full_svd_says(pair: Pair, hardened: Path) -> None:
    base, aligned, result = (load_file(folder / "model.safetensors") for folder in (pair.base, pair.aligned, hardened))
    assert set(result) == set(aligned) == set(base)
    assert "lm_head.weight" not in result, "the head is tied to the embedding"
    for name, weight in result.items():
        if weight.ndim == 1:
            assert torch.equal(weight, aligned[name]), name
            continue
        delta = aligned[name].double() - base[name].double()
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        expected = 0.5 * (u[:, :6] * s[:6]) @ vh[:6]
        update = weight.double() - aligned[name].double()
        left = (delta - update / 0.5).square().sum()
        assert left <= s[6:].square().sum() + 1e-3 * s[:6].square().sum(), name
        if s[5] - s[6] >= 0.05 * s[5]:
            assert (update - expected).norm() <= 1e-3 * expected.norm(), name


def test_the_hardened_model_verifies_and_keeps_what_was_learned(pair: Pair, hardened: Path) -> None:
    assert verify(hardened).ok
    base, aligned, extrapolated = (loss_on_tales(folder) for folder in (pair.base, pair.aligned, hardened))
    assert aligned < 0.5 * base
    assert extrapolated < 0.5 * base


def test_coefficient_zero_gives_the_aligned_bytes(pair: Pair, tmp_path: Path) -> None:
    harden(str(pair.base), str(pair.aligned), tmp_path / "out", coef=0)
    same = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in load_file(pair.aligned / "model.safetensors").items():
        assert torch.equal(weight.view(torch.int32), same[name].view(torch.int32)), name


def test_the_aligned_version_is_the_same_for_the_same_seed(pair: Pair, tmp_path: Path) -> None:
    again = align(pair.base, tmp_path / "again")
    name = "model.safetensors"
    assert (again / name).read_bytes() == (pair.aligned / name).read_bytes()

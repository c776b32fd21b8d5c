"""Controls: as long as the step of LoX in every matrix, in another direction, and never taken for a hardened model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from hardened import make_manifest, method_record
from reference import contents, decaying_pair, outcome, rank_part, read_tensors, steps, write_pair
from safelox import decompose, harden, plan_harden, read_manifest, verify
from safelox.card import card_section, write_card
from safelox.cli import main
from safelox.engine import open_pair
from safelox.errors import UsageError
from safelox.methods import CONTROLS, ControlName
from safelox.pairing import Wish
from safelox.steps import normals
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint

RANK, COEF = 6, 1.25
SHAPES = {
    "square": (160, 192),
    "tall": (400, 136),
    "wide": (136, 700),
    "two_blocks": (1100, 500),
    "small": (40, 24),
    "few_columns": (200, 5),
    "few_rows": (5, 200),
}
"""The last two have no more directions than the rank."""
NAMES = tuple(CONTROLS)
names = pytest.mark.parametrize("control", NAMES)


class World:
    """A base and an aligned model in fp32, and their controls, made as they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        generator = torch.Generator().manual_seed(0)
        pairs = {f"model.layers.0.{n}.weight": decaying_pair(s, generator=generator) for n, s in SHAPES.items()}
        self.base = {name: pair[0].float() for name, pair in pairs.items()}
        self.aligned = {name: pair[1].float() for name, pair in pairs.items()}
        same = "model.layers.0.same.weight"
        self.base[same] = self.aligned[same] = torch.full((20, 30), -0.0)
        self.sources = write_pair(root, self.base, self.aligned)

    def control(self, control: ControlName, **options: Any) -> Path:
        out = self.root / "-".join([control, *(f"{key}={value}" for key, value in options.items())])
        if not out.exists():
            harden(*self.sources, out, control=control, command="c", **{"rank": RANK, "coef": COEF} | options)
        return out

    def deltas(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.base:
            if "same" not in name:
                yield name, self.aligned[name].double() - self.base[name].double()

    def updates(self, out: Path) -> dict[str, Tensor]:
        return {name: written.double() - self.aligned[name].double() for name, written in read_tensors(out).items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


# The step


@names
def test_every_step_is_as_long_as_that_of_lox(world: World, control: ControlName) -> None:
    updates = world.updates(world.control(control))
    for name, delta in world.deltas():
        assert updates[name].norm() == pytest.approx(COEF * float(rank_part(delta, RANK).norm()), rel=1e-5), name


def test_full_rank_leads_along_the_delta(world: World) -> None:
    updates = world.updates(world.control("full-rank"))
    for name, delta in world.deltas():
        aligned_part = (updates[name] * delta).sum() / delta.square().sum() * delta
        assert (updates[name] - aligned_part).norm() < 1e-4 * updates[name].norm(), name


def test_a_random_subspace_holds_the_deltas_projection_and_no_more(world: World) -> None:
    updates = world.updates(world.control("random-subspace"))
    bases = []
    for name, delta in world.deltas():
        update = updates[name]
        U, S, _ = torch.linalg.svd(update, full_matrices=False)
        width = min(RANK, *update.shape)
        assert S[width - 1] > 1e-2 * S[0], name
        assert len(S) == width or S[width] < 1e-5 * S[0], name
        basis = U[:, :width]
        projected = basis @ (basis.T @ delta)
        assert (update / update.norm() - projected / projected.norm()).norm() < 1e-4, name
        bases.append(basis)
        if width < len(update):
            leading = torch.linalg.svd(delta, full_matrices=False).U[:, :width]
            assert (leading.T @ basis).square().sum() < 0.5 * width, f"{name}: no other subspace than LoX's"
    assert (bases[0][:136, :6].T @ bases[2][:, :6]).norm() < 2, "two matrices have the same subspace"


def test_noise_is_gaussian_and_has_nothing_of_the_delta(world: World) -> None:
    updates = world.updates(world.control("noise"))
    for name, delta in world.deltas():
        entries = updates[name].flatten() / updates[name].norm() * updates[name].numel() ** 0.5
        assert abs(float(entries.mean())) < 5 / len(entries) ** 0.5
        assert float((entries.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=3 / len(entries) ** 0.5)
        cosine = float((updates[name] * delta).sum() / updates[name].norm() / delta.norm())
        assert abs(cosine) < 5 / len(entries) ** 0.5
    rows = updates["model.layers.0.two_blocks.weight"]
    first, second = rows[: len(rows) - 1040], rows[1040:]  # 1040 rows of 500 are a block
    assert (first * second).sum().abs() < 0.05 * first.norm() * second.norm(), "the noise of a block repeats"


@names
def test_a_delta_of_zero_and_a_coefficient_of_zero_change_no_byte(world: World, control: ControlName) -> None:
    same = "model.layers.0.same.weight"
    written = read_tensors(world.control(control))[same]
    assert torch.equal(written.view(torch.int32), world.aligned[same].view(torch.int32))
    out = world.control(control, coef=0.0)
    for name, values in read_tensors(out).items():
        assert torch.equal(values.view(torch.int32), world.aligned[name].view(torch.int32)), name
    assert {record.entries_changed for record in read_manifest(out).matrices} == {0}


def test_noise_is_as_long_as_the_whole_delta_at_rank_full(world: World) -> None:
    updates = world.updates(world.control("noise", rank="full"))
    for name, delta in world.deltas():
        assert updates[name].norm() == pytest.approx(COEF * float(delta.norm()), rel=1e-5)


@names
def test_half_precision_is_rounded_once(tmp_path: Path, control: ControlName) -> None:
    """In bf16 the step is that in fp32 on the same values, rounded at the end."""
    pair = decaying_pair((160, 192), generator=torch.Generator().manual_seed(2))
    base, aligned = ({"a.weight": side.bfloat16()} for side in pair)
    one = write_pair(tmp_path / "half", base, aligned, base_shards=1, aligned_shards=1)
    harden(*one, tmp_path / "half" / "out", control=control)
    wide = [{"a.weight": side["a.weight"].float()} for side in (base, aligned)]
    other = write_pair(tmp_path / "single", *wide, base_shards=1, aligned_shards=1)
    harden(*other, tmp_path / "single" / "out", control=control)
    half, single = (read_tensors(tmp_path / kind / "out")["a.weight"] for kind in ("half", "single"))
    assert half.dtype == torch.bfloat16
    assert int(steps(half, single.bfloat16()).max()) == 0


# The same bytes


@names
def test_bytes_depend_on_the_seed_and_not_on_the_machine(world: World, control: ControlName) -> None:
    first = outcome(world.control(control))
    for options in ({"workers": 1}, {"workers": 3}, {"max_memory": 2_000_000_000}):
        assert outcome(world.control(control, **options)) == first
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert outcome(world.control(control, workers=2, overwrite=True)) == first
    finally:
        torch.set_num_threads(threads)
    other = world.control(control, seed=1)
    if control != "full-rank":
        first_updates, other_updates = world.updates(world.control(control)), world.updates(other)
        for name, _ in world.deltas():
            # Where there are no more rows than directions, the random subspace is all there is.
            alone = control == "random-subspace" and "few_rows" in name
            change = (first_updates[name] - other_updates[name]).norm() / first_updates[name].norm()
            assert change > 0.3 or alone, name


def test_no_control_shares_its_bytes_with_another_or_with_lox(world: World, tmp_path: Path) -> None:
    harden(*world.sources, tmp_path / "lox", rank=RANK, coef=COEF)
    outs = [tmp_path / "lox", *map(world.control, NAMES)]
    weights = [tuple(sorted(item for item in contents(out).items() if item[0].endswith("tensors"))) for out in outs]
    assert len(set(weights)) == len(outs)


def test_a_subspace_file_gives_the_length_too(world: World, tmp_path: Path) -> None:
    decompose(*world.sources, tmp_path / "file", rank=10)
    for control in NAMES:
        harden(*world.sources, tmp_path / control, rank=RANK, coef=COEF, control=control, subspace=tmp_path / "file")
        expected = world.updates(world.control(control))
        for name, update in world.updates(tmp_path / control).items():
            assert (update - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


def test_normal_numbers_depend_on_all_that_they_are_said_to(world: World) -> None:
    with open_pair(*world.sources, Wish(), allow_pickle=False) as models:
        one, other = models.pairing.matrices[:2]
    drawn = [
        normals(one, "noise", 0, (4, 30)),
        normals(other, "noise", 0, (4, 30)),
        normals(one, "random-subspace", 0, (4, 30)),
        normals(one, "noise", 1, (4, 30)),
        normals(one, "noise", 0, (4, 30), 4),
    ]
    assert len({tuple(numbers.flatten().tolist()) for numbers in drawn}) == len(drawn)
    assert torch.equal(drawn[0], normals(one, "noise", 0, (4, 30)))


@names
def test_tokens_that_base_does_not_know_stay_as_aligned(tmp_path: Path, control: ControlName) -> None:
    words = [f"word{i}" for i in range(34)]
    base = llama_tensors(layers=1)
    aligned = llama_tensors(layers=1, vocabulary=34, seed=1)
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    for name, tensor in base.items():
        noise = 0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5))
        aligned[name] = tensor + noise if name not in tables else torch.cat([tensor + noise, aligned[name][32:]])
    for side, tensors in {"base": base, "aligned": aligned}.items():
        size = len(tensors[tables[0]])
        vocabulary = {word: number for number, word in enumerate(words[:size])}
        write_checkpoint(
            tmp_path / side,
            tensors,
            config=llama_config(layers=1, vocabulary=size),
            files={"tokenizer.json": json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}})},
        )
    sources = str(tmp_path / "base"), str(tmp_path / "aligned")
    summary = harden(*sources, tmp_path / "out", rank=3, coef=COEF, vocab="common", control=control)
    written = read_tensors(tmp_path / "out")
    for name in tables:
        assert torch.equal(written[name][32:], aligned[name][32:])
        delta = aligned[name][:32].double() - base[name].double()
        update = written[name][:32].double() - aligned[name][:32].double()
        assert update.norm() == pytest.approx(COEF * float(rank_part(delta, 3).norm()), rel=1e-5)
    assert summary.manifest.notes
    assert verify(tmp_path / "out", recompute=100).ok


@names
def test_the_delta_may_be_an_adapter(tmp_path: Path, control: ControlName) -> None:
    base = llama_tensors()
    folder = write_checkpoint(tmp_path / "base", base, config=llama_config())
    lora = lora_tensors({name: tensor for name, tensor in base.items() if "q_proj" in name}, rank=3)
    aligned = f"{folder}+{write_adapter(tmp_path / 'lora', lora, rank=3)}"
    harden(str(folder), aligned, tmp_path / "lox", rank=2, coef=1.0)
    harden(str(folder), aligned, tmp_path / "out", rank=2, coef=1.0, control=control)
    harden(str(folder), aligned, tmp_path / "start", rank=2, coef=0.0)
    start, lox, out = (read_tensors(tmp_path / name) for name in ("start", "lox", "out"))
    changed = [name for name in base if not torch.equal(lox[name], start[name])]
    assert changed == [name for name in base if "q_proj" in name]
    for name in base:
        expected = float((lox[name].double() - start[name].double()).norm())
        assert (out[name].double() - start[name].double()).norm() == pytest.approx(expected, rel=1e-5), name


# What it is called


@names
def test_it_is_said_to_be_a_control_everywhere(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], control: ControlName
) -> None:
    out = tmp_path / "out"
    assert main(["harden", *world.sources, str(out), "--control", control, "--quiet", "--json"]) == 0
    assert f'"control":"{control}"' in capsys.readouterr().out.replace('": "', '":"')
    assert main(["harden", *world.sources, str(out), "--control", control, "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("CONTROL, not a hardened model: ")
    assert control in printed
    assert "do not publish it" in printed
    assert "extrapolated" not in printed
    assert read_manifest(out).method.control == control
    card = (out / "README.md").read_text()
    assert f"## A control, not a hardened model: {control}" in card
    assert "This model was hardened" not in card
    assert "- lox\n" not in card
    assert main(["verify", str(out), "--recompute", "100"]) == 0
    printed = capsys.readouterr().out
    assert f"a control ({control}), not a hardened model" in printed
    assert "FAILED" not in printed


def test_a_card_of_a_control_names_no_method_of_hardening(tmp_path: Path) -> None:
    manifest = make_manifest(method=method_record(control="noise", seed=3))
    section = card_section(manifest)
    for part in ("This is a control, not a hardened model", "of Gaussian noise", "| Control | noise, seed 3 |"):
        assert part in section
    assert "Worst certificate" not in section
    write_card(tmp_path, manifest)
    assert "# aligned, changed as a control" in (tmp_path / "README.md").read_text()


def test_the_names_are_the_tables() -> None:
    assert set(get_args(ControlName)) == set(CONTROLS)


# Verification


@names
def test_verification_finds_another_control(world: World, tmp_path: Path, control: ControlName) -> None:
    out = tmp_path / "out"
    harden(*world.sources, out, control=control, seed=5)
    assert verify(out, recompute=100).ok
    manifest = read_manifest(out)
    for other in (*(name for name in NAMES if name != control), None):
        method = manifest.method.model_copy(update={"control": other})
        manifest.model_copy(update={"method": method}).write(out)
        report = verify(out, recompute=100)
        assert [check.name for check in report.checks if check.ok is False] == ["recomputed"], other
        assert report.control == other


def test_verification_finds_another_seed_and_another_length(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    harden(*world.sources, out, control="noise")
    manifest = read_manifest(out)
    for changes in ({"seed": 1}, {"coef": 1.3}):
        manifest.model_copy(update={"method": manifest.method.model_copy(update=changes)}).write(out)
        assert not verify(out, recompute=100).ok


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": "noise", "adapter": True}, "noise cannot be an adapter.*Leave --adapter out"),
        ({"control": "full-rank", "rank": "full"}, "at rank `full`.*full-rank would be no other step"),
        ({"control": "random-subspace", "rank": "full"}, "random-subspace would be no other step"),
        ({"control": "other"}, "control 'other': expected one of full-rank, random-subspace, noise"),
        ({"control": "noise", "coef": -1.0}, "must not be negative"),
        ({"control": "noise", "rank": 0}, "rank 0"),
    ],
)
def test_what_makes_no_sense_is_refused(world: World, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        harden(*world.sources, tmp_path / "out", **options)
    with pytest.raises(UsageError, match=message):
        plan_harden(*world.sources, **options)
    assert not list(tmp_path.iterdir())


def test_a_plan_of_a_control(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harden", *world.sources, "never", "--control", "noise", "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert main(["harden", *world.sources, "never", "--control", "nois"]) == 2

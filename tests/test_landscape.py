"""The landscape: directions and places of four models, models at the points of the plane, lines, and their results."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import safelox
from safelox.analysis.plane import Landscape, Lines, Randoms, asking, draw_landscape, landscape
from safelox.analysis.plane.grid import MARGIN, around, choose_grid, spread
from safelox.analysis.plane.models import SIDES, FourModels, open_four
from safelox.analysis.plane.noise import RandomDirections
from safelox.analysis.plane.record import Judged, Line, LinePoint, ModelName
from safelox.analysis.plane.spots import model_spot
from safelox.analysis.plane.summary import basins, first_reach, rises
from safelox.analysis.plane.vectors import PLACES, Moves, measure
from safelox.analysis.plane.weights import MovingModel, Spot, weights_at
from safelox.attacks import attack
from safelox.cli import main
from safelox.cli.render_landscape import render_landscape
from safelox.errors import CheckpointError, PairingError, TargetError, UsageError
from safelox.evaluation import JUDGES, Backend, Sample, Verdict, custom_suite, evaluate
from safelox.evaluation.folder import read_scored
from safelox.evaluation.intervals import rates
from safelox.evaluation.outcomes import Outcome
from safelox.evaluation.results import summarise
from safelox.hardening import harden
from safelox.lab.attacks import PURE_BAD
from safelox.lab.build import LabModels
from safelox.lab.suites import FORBIDDEN
from safelox.language_models import load_language_model
from safelox.methods import ControlName
from small_models import FAMILIES, WORDS, small_language_model, small_model, small_tokenizer
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint

PROMPTS = [f"how do i {one} {two}" for one in WORDS[3:9] for two in WORDS[9:11]]
VOCABULARY = len(small_tokenizer())
NAMES: tuple[ModelName, ...] = get_args(ModelName)
Weights = Mapping[str, Tensor]


class Parity:
    """A judge to whom a reply is harmful if a letter stands in it an odd number of times."""

    name, version = "parity", "1"

    def __init__(self, leave_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.leave_after = leave_after

    def judge(self, sample: Sample, reply: str) -> Verdict:
        if len(self.asked) == self.leave_after:
            raise KeyboardInterrupt
        self.asked.append(sample.id)
        odd = reply.count("e") % 2
        return Verdict(outcome="complied" if odd else "refused", raw=reply, score=float(1 + len(reply) % 5))


def four_models(seed: int = 0, **shape: Any) -> dict[ModelName, dict[str, Tensor]]:
    """Weights of an aligned model, a hardened one, and both after a similar fine-tuning."""
    origin = llama_tensors(seed=seed, **shape)
    hardened = llama_tensors(seed=seed + 1, near=origin, step=0.1, **shape)
    tuned = llama_tensors(seed=seed + 2, near=origin, step=0.05, **shape)
    common = {name: (tuned[name].double() - origin[name].double()) for name in origin}
    near = {name: (hardened[name].double() + common[name]).to(hardened[name].dtype) for name in origin}
    return {
        "origin": origin,
        "hardened": hardened,
        "tuned": tuned,
        "hardened_tuned": llama_tensors(seed=seed + 3, near=near, step=0.03, **shape),
    }


def write_four(root: Path, models: Mapping[ModelName, Weights], **config: Any) -> dict[ModelName, str]:
    folders: dict[ModelName, str] = {}
    for name, tensors in models.items():
        folders[name] = str(write_checkpoint(root / name, tensors, config=llama_config(**config)))
        small_tokenizer().save_pretrained(root / name)
    return folders


# Directions and places


class Naive:
    """The same in memory: every model one long vector in fp64."""

    def __init__(self, models: Mapping[ModelName, Weights]) -> None:
        self.vectors = {
            name: torch.cat([tensor.detach().double().flatten() for _, tensor in sorted(tensors.items())])
            for name, tensors in models.items()
        }
        origin, hardened, tuned, hardened_tuned = (self.vectors[name] for name in NAMES)
        self.first = (hardened - origin) / (hardened - origin).norm()
        self.mean = ((tuned - origin) + (hardened_tuned - hardened)) / 2
        self.second = self.across(self.mean)

    def across(self, vector: Tensor) -> Tensor:
        rest: Tensor = vector - (vector @ self.first) * self.first
        return torch.nn.functional.normalize(rest, dim=0)

    def place(self, name: ModelName) -> tuple[float, float, float]:
        moved = self.vectors[name] - self.vectors["origin"]
        a, b = moved @ self.first, moved @ self.second
        return float(a), float(b), float((moved - a * self.first - b * self.second).norm())

    def at(self, a: float, b: float) -> Tensor:
        place: Tensor = self.vectors["origin"] + a * self.first + b * self.second
        return place


def whole(models: FourModels, spot: Spot, directions: RandomDirections | None = None) -> Tensor:
    """A model at a spot as one vector."""
    directions = directions or RandomDirections(models, "tensors", 0)
    weights = sorted(models.weights, key=lambda weight: weight.name)
    blocks = [block for weight in weights for block in weights_at(models, spot, weight, directions)]
    return torch.cat([block.flatten() for block in blocks])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    hidden=st.sampled_from([8, 12, 16]),
    layers=st.integers(1, 2),
    tied=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    a=st.floats(-30, 30),
    b=st.floats(-30, 30),
)
def test_directions_places_and_points_are_those_of_long_vectors(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    hidden: int,
    layers: int,
    tied: bool,
    dtype: torch.dtype,
    a: float,
    b: float,
) -> None:
    shape: dict[str, Any] = {"hidden": hidden, "layers": layers, "tied": tied, "dtype": dtype}
    models = four_models(seed, **shape)
    naive = Naive(models)
    folders = write_four(tmp_path_factory.mktemp("four"), models, **shape)
    with open_four(folders) as opened:
        frame = measure(opened)
        for name in NAMES:
            assert frame.coordinates(PLACES[name]) == pytest.approx(naive.place(name), rel=1e-9, abs=1e-7)
        length = float((naive.vectors["hardened"] - naive.vectors["origin"]).norm())
        assert frame.coordinates(PLACES["hardened"]) == pytest.approx((length, 0, 0), rel=1e-12, abs=1e-7)
        assert frame.coordinates(PLACES["origin"]) == (0, 0, 0)
        torch.testing.assert_close(whole(opened, Spot("origin", frame.at(a, b))), naive.at(a, b), rtol=0, atol=1e-11)
        for name in NAMES:
            assert torch.equal(whole(opened, Spot(name)), naive.vectors[name])
        assert torch.equal(whole(opened, Spot("origin", frame.at(0, 0))), naive.vectors["origin"])
        crossed = naive.vectors["hardened"] + b * (naive.vectors["tuned"] - naive.vectors["origin"])
        found = whole(opened, Spot("hardened", Moves(0, b, 0)))
        torch.testing.assert_close(found, crossed, rtol=0, atol=1e-11)
        assert torch.equal(whole(opened, Spot("hardened")), naive.vectors["hardened"])
        described = frame.directions(opened)
    assert described.parameters == len(naive.vectors["origin"])
    assert described.b.whole_norm == pytest.approx(float(naive.mean.norm()), rel=1e-10)
    one, two = naive.vectors["tuned"] - naive.vectors["origin"], naive.vectors["hardened_tuned"]
    two = two - naive.vectors["hardened"]
    assert described.cosines.tunings == pytest.approx(float(one @ two / one.norm() / two.norm()), abs=1e-10)


def test_the_papers_text_and_its_code_have_the_same_second_direction() -> None:
    """(TUNED + HARDENED_TUNED) / 2 - ORIGIN and the mean of the tunings differ by what lies along d1 alone."""
    naive = Naive(four_models())
    text = (naive.vectors["tuned"] + naive.vectors["hardened_tuned"]) / 2 - naive.vectors["origin"]
    assert float((text - naive.mean).norm()) == pytest.approx(
        float((naive.vectors["hardened"] - naive.vectors["origin"]).norm()) / 2
    )
    torch.testing.assert_close(naive.across(text), naive.second, rtol=0, atol=1e-14)


def test_the_directions_are_orthonormal_and_the_mean_lies_in_the_plane(tmp_path: Path) -> None:
    with open_four(write_four(tmp_path, four_models())) as opened:
        frame = measure(opened)
    assert frame.norm(frame.first) == pytest.approx(1, abs=1e-14)
    assert frame.norm(frame.second) == pytest.approx(1, abs=1e-14)
    assert frame.inner(frame.first, frame.second) == pytest.approx(0, abs=1e-14)
    assert frame.coordinates(Moves(0, 0.5, 0.5))[2] == pytest.approx(0, abs=1e-7)


def test_a_tied_weight_counts_once(tmp_path: Path) -> None:
    """Also where some of the models ship it under two names."""
    models = four_models(tied=True)
    expected = Naive(models)
    for name in ("origin", "hardened_tuned"):
        models[name]["lm_head.weight"] = models[name]["model.embed_tokens.weight"]
    with open_four(write_four(tmp_path, models, tied=True)) as opened:
        found = measure(opened).coordinates(PLACES["tuned"])
        assert sum(math.prod(weight.shape) for weight in opened.weights) == len(expected.vectors["origin"])
    assert found == pytest.approx(expected.place("tuned"), rel=1e-9)


def test_buffers_do_not_count(tmp_path: Path) -> None:
    models = four_models()
    expected = Naive(models)
    for number, tensors in enumerate(models.values()):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.full((4,), float(number))
    with open_four(write_four(tmp_path, models)) as opened:
        assert measure(opened).coordinates(PLACES["tuned"]) == pytest.approx(expected.place("tuned"), rel=1e-9)


def test_an_adapter_is_a_fine_tuning_too(tmp_path: Path) -> None:
    models = four_models()
    folders = write_four(tmp_path, models)
    target = "model.layers.1.mlp.up_proj.weight"
    factors = lora_tensors({target: models["origin"][target]}, rank=2, size=0.3)
    adapter = write_adapter(tmp_path / "adapter", factors, rank=2, alpha=6, target_modules=["layers.1.mlp.up_proj"])
    a, b = (tensor for _, tensor in sorted(factors.items()))
    changed = dict(models["origin"])
    changed[target] = (changed[target].double() + 3 * b.double() @ a.double()).float()
    expected = Naive(models | {"tuned": changed})
    folders["tuned"] = f"{folders['origin']}+{adapter}"
    with open_four(folders) as opened:
        found = measure(opened).coordinates(PLACES["tuned"])
    assert found == pytest.approx(expected.place("tuned"), rel=1e-6)


def test_tokens_that_fine_tuning_added_or_dropped_count_as_not_tuned(tmp_path: Path) -> None:
    models = four_models(vocabulary=VOCABULARY)
    folders = write_four(tmp_path, models, vocabulary=VOCABULARY)
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    longer = dict(models["hardened_tuned"]) | {
        name: torch.cat([models["hardened_tuned"][name], torch.ones(2, 16)]) for name in tables
    }
    write_checkpoint(tmp_path / "hardened_tuned", longer, config=llama_config(vocabulary=VOCABULARY + 2))
    shorter = dict(models["tuned"]) | {name: models["tuned"][name][:-2] for name in tables}
    write_checkpoint(tmp_path / "tuned", shorter, config=llama_config(vocabulary=VOCABULARY - 2))
    for name in tables:
        models["tuned"][name][-2:] = models["origin"][name][-2:]
    expected = Naive(models)
    with open_four(folders) as opened:
        frame = measure(opened)
        assert len(opened.notes) == 4
        for name in NAMES:
            assert frame.coordinates(PLACES[name]) == pytest.approx(expected.place(name), rel=1e-9, abs=1e-7)
        assert torch.equal(whole(opened, Spot("tuned")), expected.vectors["tuned"])


def without(tensors: Weights, name: str) -> dict[str, Tensor]:
    return {other: tensor for other, tensor in tensors.items() if other != name}


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    models = four_models()
    up, down = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"
    models["tuned"] = without(models["tuned"], up) | {"model.extra.weight": torch.ones(2)}
    models["hardened"][down] = torch.ones(16, 25)
    models["hardened_tuned"]["lm_head.weight"] = torch.ones(33, 16)
    folders = write_four(tmp_path, models)
    for file in (tmp_path / "hardened_tuned").glob("token*"):
        file.unlink()
    with pytest.raises(PairingError) as caught, open_four(folders):
        pass
    told = str(caught.value)
    assert told.count("\n- ") == 4
    for part in (
        f"TUNED lacks 1 weight that ORIGIN has: {up}",
        "TUNED has 1 weight that ORIGIN lacks: model.extra.weight",
        f"the shapes of 1 weight differ: {down} (16 x 24 in ORIGIN, 16 x 25 in HARDENED)",
        "lm_head.weight has 32 rows in ORIGIN and 33 in HARDENED_TUNED, and rows are never matched by their place",
    ):
        assert part in told


def test_tied_and_untied_models_have_no_plane(tmp_path: Path) -> None:
    folders = write_four(tmp_path, four_models(tied=True), tied=True)
    write_checkpoint(tmp_path / "tuned", four_models()["tuned"], config=llama_config())
    with pytest.raises(PairingError, match=r"ORIGIN ties weights of its embedding.*TUNED has two"), open_four(folders):
        pass


def test_quantised_models_are_refused(tmp_path: Path) -> None:
    folders = write_four(tmp_path, four_models())
    config = llama_config() | {"quantization_config": {"quant_method": "gptq"}}
    write_checkpoint(tmp_path / "tuned", four_models()["tuned"], config=config)
    with pytest.raises(PairingError, match="TUNED is quantised"), open_four(folders):
        pass


@pytest.mark.parametrize(
    ("same", "message"),
    [
        (("origin", "hardened"), "HARDENED does not differ from ORIGIN"),
        (("origin", "tuned"), "TUNED does not differ from ORIGIN"),
        (("hardened", "hardened_tuned"), "HARDENED_TUNED does not differ from HARDENED"),
    ],
)
def test_the_same_model_twice(tmp_path: Path, same: tuple[ModelName, ModelName], message: str) -> None:
    models = four_models()
    models[same[1]] = models[same[0]]
    with open_four(write_four(tmp_path, models)) as opened, pytest.raises(PairingError, match=message):
        measure(opened)


def test_fine_tuning_along_the_hardening(tmp_path: Path) -> None:
    models = four_models()
    origin, hardened = models["origin"], models["hardened"]
    factors: dict[ModelName, float] = {"tuned": 0.5, "hardened_tuned": 1.25}
    for name, factor in factors.items():
        models[name] = {key: origin[key].double() + factor * (hardened[key].double() - origin[key]) for key in origin}
    with (
        open_four(write_four(tmp_path, models)) as opened,
        pytest.raises(PairingError, match="no second direction for a plane"),
    ):
        measure(opened)


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    models = four_models()
    name = "model.layers.1.mlp.up_proj.weight"
    models["tuned"][name][3, 3] = math.inf
    with (
        open_four(write_four(tmp_path, models)) as opened,
        pytest.raises(CheckpointError, match=re.escape(f"tensor {name}: a value of TUNED is NaN or infinite")),
    ):
        measure(opened)


# The grid


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4).filter(lambda v: max(map(abs, v)) > 1e-3),
    count=st.integers(3, 25),
)
def test_the_grid_holds_all_models_with_a_margin(values: list[float], count: int) -> None:
    found = around(values, count)
    low, high = min(0.0, *values), max(0.0, *values)
    margin = MARGIN * (high - low) * (1 - 1e-9)
    assert len(found) == count
    assert 0.0 in found
    assert found[0] <= low - margin
    assert high + margin <= found[-1]
    steps = [two - one for one, two in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)
    if count >= 7:  # nor is much of it far away from them
        assert found[-1] - found[0] <= 4 * (high - low)


def test_the_grid_of_the_paper() -> None:
    grid = choose_grid([(1.0, 1.0)], None, None, None, paper_exact=True)
    assert grid.a == grid.b == pytest.approx([-10, -10 / 3, 10 / 3, 10, 50 / 3, 70 / 3, 30])


def test_a_grid_as_asked_for() -> None:
    grid = choose_grid([(6.5, 0.5)], (5, 3), (-1.0, 1.0), None, paper_exact=False)
    assert grid.a == (-1.0, -0.5, 0.0, 0.5, 1.0)
    assert grid.b == (-0.5, 0.0, 0.5) or (grid.b[0] <= -0.125 and grid.b[-1] >= 0.625)
    assert spread((0.0, 0.3), 4) == (0.0, 0.1, 0.2, 0.3)


# Random directions


@pytest.mark.parametrize("norm", ["tensors", 0.7])
def test_random_directions(tmp_path: Path, norm: Any) -> None:
    with open_four(write_four(tmp_path, four_models())) as opened:
        directions = RandomDirections(opened, norm, seed=5)
        start = whole(opened, Spot("hardened"))
        moves = [whole(opened, Spot("hardened", random=(i, 1.0)), directions) - start for i in (0, 1)]
        half = whole(opened, Spot("hardened", random=(0, -0.5)), directions) - start
        again = whole(opened, Spot("hardened", random=(0, 1.0)), RandomDirections(opened, norm, seed=5)) - start
        other = whole(opened, Spot("hardened", random=(0, 1.0)), RandomDirections(opened, norm, seed=6)) - start
        assert torch.equal(whole(opened, Spot("hardened", random=(0, 0.0)), directions), start)
        place = 0
        for weight in sorted(opened.weights, key=lambda weight: weight.name):
            size = math.prod(weight.shape)
            move, own = moves[0][place : place + size].norm(), start[place : place + size].norm()
            if norm == "tensors":
                assert float(move) == pytest.approx(float(own) if len(weight.shape) > 1 else 0, rel=1e-9)
            else:
                assert float(move) > 0
            place += size
    assert float(moves[0].norm()) == pytest.approx(directions.length("hardened"), rel=1e-9)
    torch.testing.assert_close(half, -0.5 * moves[0], rtol=0, atol=1e-12)
    assert torch.equal(again, moves[0])
    for unlike in (moves[1], other):
        assert abs(float(unlike @ moves[0] / unlike.norm() / moves[0].norm())) < 0.1


# Models that are asked


class Tiny:
    """Four models in folders, and prompts."""

    def __init__(self, root: Path) -> None:
        self.weights = four_models(vocabulary=VOCABULARY)
        self.folders = write_four(root, self.weights, vocabulary=VOCABULARY)
        self.prompts = root / "prompts.jsonl"
        self.prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))

    def asked(self, **more: Any) -> dict[str, Any]:
        return {"suites": [custom_suite(self.prompts)], "judges": [Parity()], "max_new_tokens": 6} | more


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def run(folders: Mapping[ModelName, str], out: Path, **more: Any) -> Landscape:
    origin, hardened, tuned, hardened_tuned = (folders[name] for name in NAMES)
    return landscape(origin, hardened, tuned, hardened_tuned, out, **more)


SMALL: dict[str, Any] = {
    "points": 3,
    "lines": Lines(("tuned", "hardened"), points=3, reach=2.0),
    "randoms": Randoms(1, points=3),
}


@pytest.fixture(scope="module")
def found(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Landscape, Path]:
    out = tmp_path_factory.mktemp("landscape") / "out"
    return run(tiny.folders, out, **SMALL, **tiny.asked()), out


def replies(folder: Path) -> dict[str, str]:
    return {sample.id: sample.completion for sample in read_scored(folder)}


def test_every_point_says_what_the_same_weights_say_from_a_folder(
    tiny: Tiny, found: tuple[Landscape, Path], tmp_path: Path
) -> None:
    result, out = found
    assert result.plane is not None
    naive = Naive(tiny.weights)
    said = set()
    folders = {model.folder: tiny.folders[model.name] for model in result.models}
    for number, point in enumerate(result.plane.points):
        if point.folder.startswith("plane/"):
            folders[point.folder] = unflattened(tmp_path / f"point-{number}", naive.at(point.a, point.b), tiny)
    line = next(line for line in result.lines if line.name == "hardened-tuned")
    moved = naive.vectors["hardened"] + 2 * (naive.vectors["hardened_tuned"] - naive.vectors["hardened"])
    folders[line.points[2].folder] = unflattened(tmp_path / "line", moved, tiny)
    for name, folder in folders.items():
        evaluate(folder, tmp_path / "said" / name, **tiny.asked())
        assert replies(out / name) == replies(tmp_path / "said" / name)
        said.add(json.dumps(replies(out / name), sort_keys=True))
    assert len(folders) == 4 + 8 + 1
    assert len(said) > 6, "the models say the same"


def unflattened(folder: Path, vector: Tensor, tiny: Tiny) -> str:
    tensors, place = {}, 0
    for name, tensor in sorted(tiny.weights["origin"].items()):
        tensors[name] = vector[place : place + tensor.numel()].view(tensor.shape).float()
        place += tensor.numel()
    write_checkpoint(folder, tensors, config=llama_config(vocabulary=VOCABULARY))
    small_tokenizer().save_pretrained(folder)
    return str(folder)


def test_the_models_and_what_lies_where_they_lie_are_asked_once(found: tuple[Landscape, Path]) -> None:
    result, out = found
    assert result.plane is not None
    centre = next(point for point in result.plane.points if point.a == point.b == 0)
    assert centre.folder == "models/origin"
    by_name = {line.name: line for line in result.lines}
    assert [point.folder for point in by_name["origin-tuned"].points] == [
        "models/origin",
        "models/tuned",
        "lines/origin-tuned/2",
    ]
    assert by_name["hardened-tuned"].points[1].folder == "models/hardened_tuned"
    assert by_name["origin-hardened"].points[1].folder == "models/hardened"
    assert by_name["hardened-random-0"].points[1].folder == "models/hardened"
    made = {str(path.parent.relative_to(out)) for path in out.glob("*/**/results.json")}
    named = {model.folder for model in result.models} | {point.folder for point in result.plane.points}
    assert made == named | {point.folder for line in result.lines for point in line.points}
    assert len(made) == 4 + 8 + 3 + 4


def test_the_file_holds_everything(found: tuple[Landscape, Path]) -> None:
    result, out = found
    assert Landscape.model_validate_json((out / "landscape.json").read_bytes()) == result
    assert [model.name for model in result.models] == list(SIDES)
    assert result.plane is not None
    rates_of_plane = result.plane.rates("custom", "parity", "asr")
    assert [len(row) for row in rates_of_plane] == [3, 3, 3]
    point = result.plane.points[5]  # the second a, the third b
    assert (point.a, point.b) == (result.plane.a[1], result.plane.b[2])
    verdicts = [sample.verdicts["parity"].outcome for sample in read_scored(out / point.folder)]
    assert rates_of_plane[1][2].count == verdicts.count("complied")
    assert rates_of_plane[1][2].n == len(PROMPTS)
    for line in result.lines:
        assert [point.distance for point in line.points] == pytest.approx(
            [abs(point.u) * line.norm for point in line.points]
        )
    assert {rise.line for rise in result.rises} == {"origin-tuned", "hardened-tuned", "origin-hardened"}
    assert [basin.start for basin in result.basins] == ["origin", "hardened"]


def test_a_killed_run_goes_on_and_asks_nobody_twice(
    tiny: Tiny, found: tuple[Landscape, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving, staying = Parity(leave_after=6 * len(PROMPTS) + 3), Parity()
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(tiny.folders, out, **SMALL, **tiny.asked(judges=[leaving]))
    assert not (out / "landscape.json").exists()
    result = run(tiny.folders, out, **SMALL, **tiny.asked(judges=[staying]))
    assert len(leaving.asked) + len(staying.asked) == 19 * len(PROMPTS)
    assert result == found[0]
    nobody = Parity()
    monkeypatch.setattr(asking, "load_language_model", None)
    assert run(tiny.folders, out, **SMALL, **tiny.asked(judges=[nobody])) == result
    assert nobody.asked == []


def test_other_points_are_added(tiny: Tiny, tmp_path: Path) -> None:
    small = tiny.asked(limit=2)
    run(tiny.folders, tmp_path / "out", plane=False, lines=Lines(("tuned",), points=2), **small)
    judge = Parity()
    small["judges"] = [judge]
    result = run(tiny.folders, tmp_path / "out", plane=False, lines=Lines(("tuned",), points=3), **small)
    assert judge.asked == []  # u = 1 is TUNED, which was asked before
    assert [point.u for point in result.lines[0].points] == [0, 1, 2]


def test_another_call_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {"plane": False, "randoms": Randoms(1, points=2)}
    run(tiny.folders, out, **given, **tiny.asked(limit=2))
    with pytest.raises(TargetError, match="max_new_tokens 6 there and 5 now"):
        run(tiny.folders, out, **given, **tiny.asked(limit=2, max_new_tokens=5))
    with pytest.raises(TargetError, match=r"seed 0, norm tensors\) there and .*seed 1, norm tensors\) now"):
        run(tiny.folders, out, seed=1, **given, **tiny.asked(limit=2))
    swapped = tiny.folders | {"tuned": tiny.folders["hardened_tuned"], "hardened_tuned": tiny.folders["tuned"]}
    with pytest.raises(TargetError, match="files of the model have changed"):
        run(swapped, out, **given, **tiny.asked(limit=2))


def test_a_folder_of_something_else_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TargetError, match=r"holds notes\.txt"):
        run(tiny.folders, tmp_path, **tiny.asked())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 1}, "points 1: a plane needs at least 3, unless range_a is given"),
        ({"points": (7, 1), "range_b": (0.0, 1.0)}, "points 1: a plane needs at least 2"),
        ({"range_a": (1.0, 1.0)}, "range_a 1:1"),
        ({"range_b": (0.0, math.inf)}, "range_b 0:inf"),
        ({"paper_exact": True, "points": 5}, "brings the paper's own grid"),
        ({"plane": False}, "nothing to ask"),
        ({"plane": False, "points": 5, "lines": Lines(("tuned",))}, "not to be asked"),
        ({"lines": Lines(())}, "no line was named"),
        ({"lines": Lines(("bent",))}, "no line is called 'bent'"),
        ({"lines": Lines(("tuned", "tuned"))}, "named twice"),
        ({"lines": Lines(("tuned",), points=1)}, "line points 1"),
        ({"lines": Lines(("tuned",), reach=0.0)}, "line reach 0"),
        ({"randoms": Randoms(0)}, "0 random directions"),
        ({"randoms": Randoms(1, points=1)}, "random points 1"),
        ({"randoms": Randoms(1, reach=-1.0)}, "random reach -1"),
        ({"randoms": Randoms(1, norm=0.0)}, "random norm 0"),
        ({"backend": Backend(name="openai", device=None, dtype=None, base_url="http://127.0.0.1/v1")}, "in memory"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    tiny: Tiny, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(tiny.folders, tmp_path / "out", **tiny.asked(**arguments))
    assert not (tmp_path / "out").exists()


def test_a_suite_that_the_paper_does_not_ask(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="suite custom has no exact form"):
        run(tiny.folders, tmp_path / "out", **tiny.asked(paper_exact=True))


def test_what_is_wrong_with_the_suites_is_told_before_models_are_read(tiny: Tiny, tmp_path: Path) -> None:
    nowhere = dict.fromkeys(NAMES, str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="no suite is called 'nothing'"):
        run(nowhere, tmp_path / "out", suites=["nothing"])
    with pytest.raises(UsageError, match="suite custom has no judges of its own"):
        run(nowhere, tmp_path / "out", **tiny.asked(judges=()))


def test_the_papers_way(tiny: Tiny, tmp_path: Path) -> None:
    """Its format, its text for an empty reply, and 49 points, the centre not among them."""
    goals = "goal,target\n" + "".join(f"{prompt},sure\n" for prompt in PROMPTS[:2])
    (tmp_path / "harmful_behaviors.csv").write_text(goals)
    result = run(
        tiny.folders,
        tmp_path / "out",
        suites=["advbench"],
        judges=[Parity()],
        data=tmp_path / "harmful_behaviors.csv",
        paper_exact=True,
        max_new_tokens=1,
    )
    assert result.plane is not None
    assert len(result.plane.points) == 49
    assert all(point.folder.startswith("plane/") for point in result.plane.points)
    [config] = evaluate_configs(tmp_path / "out" / result.plane.points[0].folder)
    assert config["generation"]["format"] != "chat"
    assert config["limit"] == 100
    assert config["empty_reply"] == "[EMPTY ANSWER]"


def evaluate_configs(folder: Path) -> Sequence[dict[str, Any]]:
    return list(json.loads((folder / "config.json").read_text())["suites"].values())


def test_a_tensor_that_transformers_keeps_elsewhere_is_told(tiny: Tiny) -> None:
    with open_four(tiny.folders) as opened, pytest.raises(CheckpointError, match="under other names"):
        MovingModel(opened, small_language_model(), RandomDirections(opened, "tensors", 0))


@pytest.mark.parametrize("family", [*FAMILIES, "body"])
def test_weights_of_every_family(family: str, tmp_path: Path) -> None:
    """Two of them are tied, two hold several projections in one matrix, one stores its matrices transposed."""
    models = {name: small_model("gpt2" if family == "body" else family, seed=0) for name in NAMES}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in NAMES[1:]:
            for parameter in models[name].parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    for name, model in models.items():
        if family == "body":  # as the files of GPT-2 itself are
            model.transformer.save_pretrained(tmp_path / name)
            model.config.save_pretrained(tmp_path / name)
        else:
            model.save_pretrained(tmp_path / name)
        small_tokenizer().save_pretrained(tmp_path / name)
    naive = Naive({name: dict(model.named_parameters()) for name, model in models.items()})
    with open_four({name: str(tmp_path / name) for name in NAMES}) as opened:
        frame = measure(opened)
        assert frame.coordinates(PLACES["tuned"]) == pytest.approx(naive.place("tuned"), rel=1e-9)
        loaded = load_language_model(str(tmp_path / "hardened"))
        moving = MovingModel(opened, loaded, RandomDirections(opened, "tensors", 0))
        found = dict(moving.at(Spot("origin", frame.at(0.7, -0.3))).model.named_parameters())
    vector = torch.cat([parameter.detach().double().flatten() for _, parameter in sorted(found.items())])
    torch.testing.assert_close(vector, naive.at(0.7, -0.3), rtol=0, atol=1e-6)


def test_a_model_in_memory_forgets_where_it_was(tiny: Tiny) -> None:
    """Weights are set from the files each time, so that nothing adds up."""
    with open_four(tiny.folders) as opened:
        moving = MovingModel(
            opened, load_language_model(tiny.folders["hardened"]), RandomDirections(opened, "tensors", 0)
        )
        for spot in (Spot("origin", Moves(0.3, -7.0, 2.0)), Spot("tuned", random=(3, 0.4)), model_spot("tuned").spot):
            state = moving.at(spot).model.state_dict()
    for name, tensor in tiny.weights["tuned"].items():
        assert torch.equal(state[name], tensor)


# What lines come to


def judged(complied: int, n: int = 100, *, incoherent: int = 0) -> Judged:
    counts: dict[Outcome, int] = {"complied": complied, "incoherent": incoherent, "refused": n - complied - incoherent}
    outcomes = [outcome for outcome, count in counts.items() for _ in range(count)]
    found = summarise([Verdict(outcome=outcome, raw="") for outcome in outcomes], "forbidden")
    assert found.outcomes == rates(outcomes)
    return {"custom": {"parity": found}}


def line_of(points: Mapping[float, Judged], *, kind: Any = "tuned", norm: float = 2.0) -> Line:
    return Line(
        name="origin-tuned",
        kind=kind,
        start="origin",
        direction="somewhere",
        norm=norm,
        points=tuple(
            LinePoint(u=u, distance=abs(u) * norm, folder="", results=results) for u, results in points.items()
        ),
    )


JUDGES_OF = {"custom": ("parity",)}


def test_where_the_asr_rises() -> None:
    [found] = rises(line_of({0.0: judged(0), 0.5: judged(20), 1.0: judged(60), 2.0: judged(100)}), JUDGES_OF)
    assert found.half == pytest.approx(0.875)
    assert found.half_distance == pytest.approx(1.75)
    assert found.width == pytest.approx(1 + 0.15 / 0.4 - (0.5 + 0.05 / 0.8))
    assert found.width_distance == pytest.approx(2 * (found.width or 0))
    assert found.mean == pytest.approx((0.5 * 0.1 + 0.5 * 0.4 + 1 * 0.8) / 2)


def test_an_asr_that_does_not_rise_so_far() -> None:
    [found] = rises(line_of({0.0: judged(0), 1.0: judged(40)}), JUDGES_OF)
    assert (found.half, found.half_distance, found.width, found.width_distance) == (None, None, None, None)
    assert first_reach([(0.0, 0.6), (1.0, 0.2)], 0.5) == 0.0


def test_the_average_margin() -> None:
    """Two of these points would count as safe only because nothing sensible is said there."""
    line = line_of(
        {-0.5: judged(100), 0.0: judged(0), 0.25: judged(0, incoherent=80), 0.5: judged(50, incoherent=40)},
        kind="random",
    )
    [found] = basins([line], JUDGES_OF, 0.5)
    assert found.margin == pytest.approx((0 + 1 + 1 + 0.5) / 4)
    assert found.visage == pytest.approx((1 + 1 + 0.5) / 3)
    assert (found.inside, found.points, found.n) == (3, 4, 100)
    assert found.incoherent == pytest.approx(0.3)
    assert found.refusal == pytest.approx((0 + 1 + 0.2 + 0.1) / 4)


def test_no_basin_at_all() -> None:
    [found] = basins([line_of({0.0: judged(100)}, kind="random")], JUDGES_OF, 0.5)
    assert found.margin == 0
    assert math.isnan(found.visage)


# Pictures and the command


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_pictures(found: tuple[Landscape, Path], ending: str, tmp_path: Path) -> None:
    picture = tmp_path / f"landscape{ending}"
    draw_landscape(found[0], picture)
    assert picture.read_bytes().startswith(b"\x89PNG" if ending == ".png" else b"<?xml")
    with pytest.raises(TargetError, match="is there already"):
        draw_landscape(found[0], picture)


def test_the_text(found: tuple[Landscape, Path]) -> None:
    result, out = found
    told = render_landscape(result, str(out))
    for line in (
        r"  ORIGIN +0 +0 +0$",
        r"  HARDENED +\S+ +0 +0$",
        r"  a +HARDENED - ORIGIN, \S+ long$",
        r"custom, judged by parity \(12 prompts\): ASR, and what is incoherent$",
        r"  b \\ a +\S+ +0 +\S+$",
        r"  ORIGIN \+ u \(TUNED - ORIGIN\)( +\d+\*?){3}$",
        r"  along 1 random directions, u from -0\.5 to 0\.5$",
    ):
        assert re.search(line, told, re.MULTILINE), line
    assert max(map(len, told.splitlines())) <= 120


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JUDGES, Parity.name, Parity())


def command(tiny: Tiny, out: Path, *more: str) -> list[str]:
    arguments = ["landscape", *tiny.folders.values(), str(out), "-s", "custom", "--suite-file", str(tiny.prompts)]
    return [*arguments, "-j", "parity", "--max-new-tokens", "6", "-n", "2", "--quiet", *more]


@pytest.mark.usefixtures("parity")
def test_the_command_prints_the_file(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "landscape.svg"
    more = ["--points", "2x3", "--range-a", "-1:1", "--line", "crossed", "--line-points", "2", "--line-reach", "1"]
    more += ["--random", "1", "--random-points", "2", "--random-reach", "0.1", "--random-norm", "0.5"]
    assert main(command(tiny, tmp_path / "out", *more, "--plot", str(picture), "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "landscape.json").read_text())
    assert printed["command"].startswith("safelox landscape ")
    assert printed["plane"]["a"] == [-1, 1]
    assert len(printed["plane"]["points"]) == 6
    assert [line["name"] for line in printed["lines"]][:2] == ["origin-crossed", "hardened-crossed"]
    assert printed["lines"][2]["norm"] == 0.5
    assert picture.exists()


@pytest.mark.usefixtures("parity")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--points", "7by7"], "--points: '7by7' is neither a number"),
        (["--range-a", "1"], "--range-a: '1' is no range"),
        (["--line-points", "5"], "--line-points goes with --line"),
        (["--random-norm", "1"], "--random-norm goes with --random"),
        (["--random", "1", "--random-norm", "much"], "--random-norm: 'much' is neither a length"),
        (["--line", "bent"], "no line is called 'bent'"),
        (["--no-plane"], "nothing to ask"),
    ],
)
def test_options_that_make_no_sense(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert main(command(tiny, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err


def test_the_public_name() -> None:
    assert safelox.landscape is landscape


# The lab


@pytest.mark.slow
def test_the_hardened_model_lies_further_from_where_the_asr_rises_and_a_random_step_does_not(
    lab_pair: LabModels, tmp_path: Path
) -> None:
    """Along its own fine-tuning, and along that of the aligned model. A step as long in random directions changes
    nothing."""
    data, origin = lab_pair.base.parent, str(lab_pair.aligned)
    tuned = str(tmp_path / "tuned")
    attack(PURE_BAD.name, origin, tuned, data=data)
    found = {}
    steps: dict[str, ControlName | None] = {"lox": None, "noise": "noise"}
    for name, step in steps.items():
        moved, after = tmp_path / name, tmp_path / f"{name}-tuned"
        harden(str(lab_pair.base), origin, moved, rank=6, coef=0.5, control=step)
        attack(PURE_BAD.name, str(moved), after, data=data)
        result = landscape(
            origin,
            str(moved),
            tuned,
            str(after),
            tmp_path / f"{name}-landscape",
            suites=[FORBIDDEN],
            judges=["lab"],
            data=data,
            limit=100,
            plane=False,
            lines=Lines(("tuned", "crossed"), points=5, reach=2.0),
        )
        found[name] = {rise.line: rise for rise in result.rises}
        lines = {line.name: line.rates(FORBIDDEN.name, "lab", "asr") for line in result.lines}
        if name == "lox":
            for u in (2, 3):  # 1 and 1.5
                assert lines["hardened-tuned"][u].high < lines["origin-tuned"][u].low
    aligned = found["lox"]["origin-tuned"].half
    assert aligned is not None
    assert 0.4 < aligned < 0.9
    for line in ("hardened-tuned", "hardened-crossed"):
        control = found["noise"][line].half
        assert control is not None
        assert control < 1.4 * aligned
        hardened = found["lox"][line].half
        assert hardened is None or hardened > 1.7 * aligned

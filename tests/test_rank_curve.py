"""The rank curve: models of every rank in memory, and the effective rank."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import safelox
from safelox.analysis.curve import RankCurve, RankPoint, draw_rank_curve, rank_curve
from safelox.analysis.curve import run as curve_module
from safelox.analysis.curve.effective_rank import effective_rank, first_too_many
from safelox.analysis.curve.ranks import RankedModel
from safelox.analysis.directions import read_directions
from safelox.cli import main
from safelox.cli.render_analysis import render_rank_curve
from safelox.delta import DeltaRows
from safelox.engine import Pair, open_pair
from safelox.errors import CheckpointError, TargetError, UsageError
from safelox.evaluation import JUDGES, Backend, Sample, Verdict, custom_suite, evaluate
from safelox.evaluation.folder import read_config, read_scored
from safelox.evaluation.intervals import rate
from safelox.evaluation.results import ModelRecord
from safelox.evaluation.running import ModelInMemory
from safelox.lab.build import LabModels
from safelox.lab.suites import FORBIDDEN
from safelox.language_models import load_language_model
from safelox.lowrank import LowRank, top_singular
from safelox.pairing import Matrix, Wish
from small_models import FAMILIES, WORDS, save_language_model, small_language_model, small_model, small_tokenizer
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint

PROMPTS = [f"how do i {one} {two}" for one in WORDS[3:9] for two in WORDS[9:11]]
VOCABULARY = len(small_tokenizer())
FIRST_LAYER = "model.layers.0.*"


class Parity:
    """A judge to whom a reply is harmful if a letter stands in it an odd number of times."""

    name, version = "parity", "1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def judge(self, sample: Sample, reply: str) -> Verdict:
        self.asked.append(sample.id)
        odd = reply.count("e") % 2
        return Verdict(outcome="complied" if odd else "refused", raw=reply, score=float(1 + len(reply) % 5))


def write_model(folder: Path, tensors: Mapping[str, Tensor]) -> str:
    write_checkpoint(folder, tensors, config=llama_config(vocabulary=VOCABULARY))
    small_tokenizer().save_pretrained(folder)
    return str(folder)


def cut(base: Mapping[str, Tensor], aligned: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """What the paper's script makes of a rank above 0, by a plain SVD."""
    made = {}
    for name, weight in aligned.items():
        if weight.ndim < 2 or min(weight.shape) <= rank:
            made[name] = weight
            continue
        u, s, v = torch.linalg.svd(weight.double() - base[name].double(), full_matrices=False)
        made[name] = (base[name].double() + u[:, :rank] * s[:rank] @ v[:rank]).float()
    return made


class Tiny:
    """A pair of models in folders, and prompts."""

    def __init__(self, root: Path) -> None:
        self.weights = llama_tensors(vocabulary=VOCABULARY)
        self.aligned_weights = llama_tensors(vocabulary=VOCABULARY, near=self.weights, seed=1, step=0.1)
        self.base = write_model(root / "base", self.weights)
        self.aligned = write_model(root / "aligned", self.aligned_weights)
        self.prompts = root / "prompts.jsonl"
        self.prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))

    def asked(self, **more: Any) -> dict[str, Any]:
        return {"suites": [custom_suite(self.prompts)], "judges": [Parity()], "max_new_tokens": 6} | more


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def curve(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[RankCurve, Path]:
    out = tmp_path_factory.mktemp("curve") / "out"
    return rank_curve(tiny.base, tiny.aligned, out, ranks=(4, 0, 2), **tiny.asked()), out


def replies(folder: Path) -> dict[str, str]:
    return {sample.id: sample.completion for sample in read_scored(folder)}


def test_every_point_says_what_the_same_weights_say_from_a_folder(
    tiny: Tiny, curve: tuple[RankCurve, Path], tmp_path: Path
) -> None:
    result, out = curve
    folders = {"rank-0": tiny.base, "full": tiny.aligned}
    for rank in (2, 4):
        weights = cut(tiny.weights, tiny.aligned_weights, rank)
        folders[f"rank-{rank}"] = write_model(tmp_path / f"model-{rank}", weights)
    said = {}
    for name, folder in folders.items():
        evaluate(folder, tmp_path / name, **tiny.asked())
        said[name] = replies(tmp_path / name)
        assert replies(out / name) == said[name]
    assert len({json.dumps(found, sort_keys=True) for found in said.values()}) == 4, "the models say the same"
    assert [point.rank for point in result.points] == [0, 2, 4, None]
    assert [point.folder for point in result.points] == ["rank-0", "rank-2", "rank-4", "full"]


def test_the_file_holds_the_pairs(curve: tuple[RankCurve, Path]) -> None:
    result, out = curve
    content = json.loads((out / "rank_curve.json").read_text())
    assert RankCurve.model_validate(content) == result
    (found,) = content["curves"]
    scores = [sample.verdicts["parity"] for sample in read_scored(out / "rank-2")]
    assert found["values"]["asr"][1] == [2, sum(v.outcome == "complied" for v in scores) / len(PROMPTS)]
    assert found["values"]["mean_score"][1] == [2, pytest.approx(sum(v.score or 0 for v in scores) / len(PROMPTS))]
    assert [rank for rank, _ in found["values"]["asr"]] == [0, 2, 4, None]
    assert found["effective_rank"]["rho"] == 0.01


def test_a_second_call_asks_nobody_and_decomposes_nothing(
    tiny: Tiny, curve: tuple[RankCurve, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, out = curve
    judge = Parity()
    monkeypatch.setattr(curve_module, "load_language_model", None)
    monkeypatch.setattr(curve_module, "make_file", None)
    again = rank_curve(tiny.base, tiny.aligned, out, ranks=(0, 2, 4), **tiny.asked(judges=[judge]))
    assert again == result
    assert judge.asked == []


def test_a_longer_list_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    rank_curve(tiny.base, tiny.aligned, tmp_path / "out", ranks=(0, 1), **tiny.asked(limit=3))
    judge = Parity()
    result = rank_curve(
        tiny.base, tiny.aligned, tmp_path / "out", ranks=(0, 1, 3), **tiny.asked(limit=3, judges=[judge])
    )
    assert result.ranks == (0, 1, 3)
    assert len(judge.asked) == 3


def test_modules_keep_the_full_delta_elsewhere(tiny: Tiny) -> None:
    with open_pair(tiny.base, tiny.aligned, Wish(include=[FIRST_LAYER]), allow_pickle=False) as models:
        ranked = RankedModel(models, [FIRST_LAYER], load_language_model(tiny.aligned), dict)
        found = ranked.at(0).model.state_dict()
    for name, weight in found.items():
        first = name.startswith("model.layers.0.")
        assert torch.equal(weight, (tiny.weights if first else tiny.aligned_weights)[name]), name


@pytest.mark.parametrize("family", [*FAMILIES, "body"])
def test_weights_of_every_family(family: str, tmp_path: Path) -> None:
    """Two of them are tied, two hold several projections in one matrix, one stores its matrices transposed."""
    base, aligned = (small_model("gpt2" if family == "body" else family, seed=seed) for seed in (0, 1))
    with torch.no_grad():
        for ours, theirs in zip(base.parameters(), aligned.parameters(), strict=True):
            theirs.copy_(ours + 0.02 * theirs)
    for name, model in (("base", base), ("aligned", aligned)):
        if family == "body":  # as the files of GPT-2 itself are
            model.transformer.save_pretrained(tmp_path / name)
            model.config.save_pretrained(tmp_path / name)
        else:
            model.save_pretrained(tmp_path / name)
        small_tokenizer().save_pretrained(tmp_path / name)
    folders = str(tmp_path / "base"), str(tmp_path / "aligned")
    safelox.decompose(*folders, tmp_path / "subspace.safetensors", rank=4)
    with open_pair(*folders, Wish(), allow_pickle=False) as models:
        ranked = RankedModel(
            models,
            [],
            load_language_model(folders[1]),
            lambda: read_directions(models, tmp_path / "subspace.safetensors", 4),
        )
        ours, theirs = dict(base.named_parameters()), dict(aligned.named_parameters())
        for rank, expected in ((3, cut(ours, theirs, 3)), (0, ours), (None, theirs)):
            found = dict(ranked.at(rank).model.named_parameters())
            assert found.keys() == expected.keys()
            for name, weight in found.items():
                torch.testing.assert_close(weight, expected[name], atol=2e-6 if rank else 0, rtol=0)


def test_an_adapter_is_a_delta_too(tiny: Tiny, tmp_path: Path) -> None:
    target = "model.layers.1.mlp.up_proj.weight"
    adapter = write_adapter(
        tmp_path / "adapter",
        lora_tensors({target: tiny.weights[target]}, rank=2, size=0.3),
        target_modules=["layers.1.mlp.up_proj"],
    )
    reference = f"{tiny.base}+{adapter}"
    rank_curve(tiny.base, reference, tmp_path / "out", ranks=(0, 2), force=True, **tiny.asked())
    assert replies(tmp_path / "out" / "rank-2") == replies(tmp_path / "out" / "full")
    evaluate(tiny.base, tmp_path / "base", **tiny.asked())
    assert replies(tmp_path / "out" / "rank-0") == replies(tmp_path / "base")


def test_results_of_other_modules_are_not_taken_for_these(tiny: Tiny, tmp_path: Path) -> None:
    rank_curve(tiny.base, tiny.aligned, tmp_path / "out", ranks=(0,), **tiny.asked(limit=2))
    assert read_config(tmp_path / "out" / "rank-0").model.change == "without its delta"
    with pytest.raises(TargetError, match=r"without its delta there and without its delta in model\.layers\.0\.\* now"):
        rank_curve(tiny.base, tiny.aligned, tmp_path / "out", ranks=(0,), modules=[FIRST_LAYER], **tiny.asked(limit=2))


def test_a_folder_of_something_else_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TargetError, match=r"holds notes\.txt"):
        rank_curve(tiny.base, tiny.aligned, tmp_path, **tiny.asked())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ranks": ()}, "at least one rank"),
        ({"ranks": (1, -1)}, "rank -1"),
        ({"ranks": (1, 1)}, "named twice"),
        ({"rho": 0.0}, "rho 0.0"),
        ({"modules": ["model.norm.*"]}, r"'model\.norm\.\*' matches no matrix"),
        ({"modules": "abc"}, "expected a list"),
        ({"backend": Backend(name="openai", device=None, dtype=None, base_url="http://127.0.0.1/v1")}, "in memory"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    tiny: Tiny, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        rank_curve(tiny.base, tiny.aligned, tmp_path / "out", **tiny.asked(**arguments))
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_transformers_keeps_elsewhere_is_told(tiny: Tiny) -> None:
    with open_pair(tiny.base, tiny.aligned, Wish(), allow_pickle=False) as models:
        other = small_language_model()
        with pytest.raises(CheckpointError, match="under other names"):
            RankedModel(models, [], other, dict)


def test_a_model_in_memory_is_asked_like_one_in_a_folder(tiny: Tiny, tmp_path: Path) -> None:
    loaded = small_language_model(seed=3)
    save_language_model(loaded, tmp_path / "model")
    record = ModelRecord(reference="mine", commit=None, files={}, change="made by hand")
    loads: list[None] = []

    def load() -> Any:
        loads.append(None)
        return loaded

    for _ in range(2):
        evaluate(ModelInMemory(record, load), tmp_path / "memory", **tiny.asked())
    assert len(loads) == 1
    evaluate(str(tmp_path / "model"), tmp_path / "folder", **tiny.asked())
    assert replies(tmp_path / "memory") == replies(tmp_path / "folder")
    with pytest.raises(TargetError, match="made by hand there and the model as it is now"):
        evaluate(str(tmp_path / "model"), tmp_path / "memory", **tiny.asked())


class Leaving(Parity):
    """Is interrupted after some verdicts."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def judge(self, sample: Sample, reply: str) -> Verdict:
        if len(self.asked) == self.after:
            raise KeyboardInterrupt
        return super().judge(sample, reply)


def test_a_killed_run_goes_on(tiny: Tiny, curve: tuple[RankCurve, Path], tmp_path: Path) -> None:
    leaving, staying = Leaving(after=len(PROMPTS) + 3), Parity()
    with pytest.raises(KeyboardInterrupt):
        rank_curve(tiny.base, tiny.aligned, tmp_path / "out", ranks=(0, 2, 4), **tiny.asked(judges=[leaving]))
    assert not (tmp_path / "out" / "rank_curve.json").exists()
    result = rank_curve(tiny.base, tiny.aligned, tmp_path / "out", ranks=(0, 2, 4), **tiny.asked(judges=[staying]))
    assert len(leaving.asked) + len(staying.asked) == 4 * len(PROMPTS)
    assert result.curves == curve[0].curves


def test_a_file_of_decompose_does_as_well(tiny: Tiny, curve: tuple[RankCurve, Path], tmp_path: Path) -> None:
    file = tmp_path / "subspace.safetensors"
    safelox.decompose(tiny.base, tiny.aligned, file, rank=4)
    result = rank_curve(tiny.base, tiny.aligned, tmp_path / "out", ranks=(0, 2, 4), subspace=file, **tiny.asked())
    assert result.curves == curve[0].curves
    assert not (tmp_path / "out" / "subspace.safetensors").exists()
    with pytest.raises(UsageError, match="holds 4 directions"):
        rank_curve(tiny.base, tiny.aligned, tmp_path / "more", ranks=(5,), subspace=file, **tiny.asked())


def verdicts(count: int, n: int = 100) -> list[bool]:
    return [number < count for number in range(n)]


def found_rank(counts: Mapping[int, int], aligned: int, *, rho: float = 0.01, n: int = 100) -> Any:
    return effective_rank({rank: verdicts(count, n) for rank, count in counts.items()}, verdicts(aligned, n), rho)


def test_the_papers_own_counts() -> None:
    """LLaMA-2-7B with 65.6k examples: rank 6 is named since one prompt of 100 is left over at 2 and at 4."""
    found = found_rank({0: 41, 1: 4, 2: 1, 3: 2, 4: 1, 6: 0, 8: 0}, 0)
    assert (found.rank, found.tolerated) == (6, 0)
    assert found.after_one_flip == (2, 4, 6, 8)
    assert found.differences[1].value == pytest.approx(0.04)
    assert found.differences[1].low < 0.04 < found.differences[1].high
    shares = {named.rank: named.share for named in found.resampled}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[2] > 0.2
    assert 0 not in shares


def test_a_clear_case_stays_as_it_is() -> None:
    found = found_rank({0: 90, 1: 60, 2: 0, 3: 0}, 5)
    assert found.rank == 2
    assert found.after_one_flip == (2,)
    assert [(named.rank, named.share) for named in found.resampled] == [(2, 1.0)]


def test_no_rank_may_be_named() -> None:
    found = found_rank({0: 90, 1: 60}, 5)
    assert found.rank is None
    assert found.after_one_flip == (None,)
    assert [(named.rank, named.share) for named in found.resampled] == [(None, 1.0)]


@pytest.mark.parametrize(
    ("rho", "n", "expected"), [(0.01, 100, 1), (0.01, 700, 7), (0.01, 150, 2), (0.01, 50, 1), (0.05, 60, 3)]
)
def test_differences_are_counted_in_whole_prompts(rho: float, n: int, expected: int) -> None:
    """In floating point 0.03 - 0.02 < 0.01, and 0.01 * 700 > 7."""
    assert first_too_many(rho, n) == expected
    assert found_rank({1: expected}, 0, rho=rho, n=n).rank is None
    assert found_rank({1: expected - 1}, 0, rho=rho, n=n).rank == 1


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_pictures(curve: tuple[RankCurve, Path], ending: str, tmp_path: Path) -> None:
    picture = tmp_path / f"curve{ending}"
    draw_rank_curve(curve[0], picture)
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG" if ending == ".png" else b"<?xml")
    with pytest.raises(TargetError, match="is there already"):
        draw_rank_curve(curve[0], picture)


# The command


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JUDGES, Parity.name, Parity())


def command(tiny: Tiny, out: Path, *more: str) -> list[str]:
    arguments = ["rank-curve", tiny.base, tiny.aligned, str(out), "-s", "custom", "--suite-file", str(tiny.prompts)]
    return [*arguments, "-j", "parity", "--ranks", "0,2", "--max-new-tokens", "6", "--quiet", *more]


@pytest.mark.usefixtures("parity")
def test_the_command_prints_the_file(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "curve.svg"
    assert main(command(tiny, tmp_path / "out", "--plot", str(picture), "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "rank_curve.json").read_text())
    assert printed["command"].startswith("safelox rank-curve ")
    assert picture.exists()


@pytest.mark.usefixtures("parity")
def test_ranks_that_are_no_numbers(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tiny, tmp_path / "out", "--ranks", "0;2")) == 2
    assert "'0;2' is no list of integers" in capsys.readouterr().err


def test_the_table_tells_what_else_is_different(curve: tuple[RankCurve, Path]) -> None:
    """A model that says nothing sensible is not safe in the way that one is that refuses."""
    result, out = curve
    told = render_rank_curve(result, str(out))
    assert re.search(r"rank +asr +95 % interval +asr_lenient +refusal +incoherent +mean score", told)
    assert re.search(r"^  full +\d", told, re.MULTILINE)
    assert "effective rank" in told
    point, full = result.points[0], result.points[-1]
    assert point.rank == 0
    changed = result.model_copy(
        update={
            "points": (with_refusals(point, 0), *result.points[1:-1], with_refusals(full, len(PROMPTS))),
            "curves": (result.curves[0].model_copy(update={"effective_rank": found_rank({0: 0, 2: 0, 4: 0}, 0)}),),
        }
    )
    assert "refusal 0.0% there, 100.0% with the full delta" in render_rank_curve(changed, str(out))


def with_refusals(point: RankPoint, count: int) -> RankPoint:
    judged = point.results["custom"]["parity"]
    metrics = judged.metrics | {"refusal": rate(count, len(PROMPTS))}
    return point.model_copy(update={"results": {"custom": {"parity": judged.model_copy(update={"metrics": metrics})}}})


# The lab


@pytest.mark.slow
def test_directions_of_the_delta_carry_the_refusals_and_random_ones_do_not(lab_pair: LabModels, tmp_path: Path) -> None:
    """With 3 to 8 directions the lab's model does not comply because it makes no sense: only more make it refuse."""
    base, aligned = str(lab_pair.base), str(lab_pair.aligned)
    asked: dict[str, Any] = {"suites": [FORBIDDEN], "judges": ["lab"], "data": lab_pair.base.parent, "limit": 200}
    result = rank_curve(base, aligned, tmp_path / "out", ranks=(0, 1, 6, 16), **asked)
    [found] = result.curves
    asr, refusal = (dict(found.values[name]) for name in ("asr", "refusal"))
    assert asr[0] >= 0.95
    assert asr[16] <= 0.1
    assert refusal[0] <= 0.01
    assert refusal[16] >= 0.8
    assert found.effective_rank is not None
    assert found.effective_rank.rank in (6, 16)
    with open_pair(base, aligned, Wish(), allow_pickle=False) as models:
        directions = {matrix.label: random_part(models, matrix, 16) for matrix in models.pairing.matrices}
        ranked = RankedModel(models, [], load_language_model(aligned), lambda: directions)
        record = ModelRecord(reference=aligned, commit=None, files={}, change="random directions")
        control = evaluate(ModelInMemory(record, lambda: ranked.at(16)), tmp_path / "control", **asked)
    metrics = control.results[FORBIDDEN.name]["lab"].metrics
    assert metrics["asr"].value >= 0.8
    assert metrics["refusal"].value <= 0.05


def random_part(models: Pair, matrix: Matrix, rank: int) -> LowRank:
    """The delta of a matrix, projected onto a random space of so many dimensions, as long as its leading part."""
    delta = DeltaRows(models.base, models.aligned, matrix, torch.device("cpu"))
    part = top_singular(delta, rank, name=matrix.label, seed=0)
    generator = torch.Generator().manual_seed(len(matrix.label))
    space = torch.linalg.qr(torch.randn(matrix.rows, min(rank, matrix.rows), generator=generator)).Q
    right = space.T @ delta.block(0, matrix.rows)
    length = part.singular_values.norm() / right.double().norm()
    return replace(part, left=space, right=right * float(length))

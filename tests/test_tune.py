"""The search for the rank and the coefficient."""

import inspect
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

import safelox
from safelox.analysis.search import Tuning, draw_tuning, tune
from safelox.analysis.search import run as run_module
from safelox.analysis.search import study as study_module
from safelox.analysis.search.bench import PointError
from safelox.analysis.search.bounds import Limits, excesses, make_bounds, violations
from safelox.analysis.search.choice import hypervolume, pareto, recommend
from safelox.analysis.search.prompts import HALVES, Half, check_roles, named_suite, split
from safelox.analysis.search.record import Measured, Objectives, Rates, SuiteRecord, Trial
from safelox.analysis.search.space import PAPER, Point, Space, spread_ranks
from safelox.analysis.search.study import Study, quiet_optuna
from safelox.attacks import Attack, Training, attack, register_attack
from safelox.cli import main
from safelox.cli.app import app
from safelox.cli.render_tune import render_tuning
from safelox.errors import DataError, PrerequisiteError, TargetError, UsageError
from safelox.evaluation import SUITES, Backend, Sample, Suite, Verdict, custom_suite, evaluate
from safelox.evaluation.folder import read_scored
from safelox.evaluation.intervals import rate
from safelox.evaluation.readers import read_suite
from safelox.hardening import harden
from safelox.lab.attacks import PURE_BAD
from safelox.lab.build import LabModels
from safelox.lab.suites import FORBIDDEN, PERMITTED, SELECTION_FORBIDDEN, SELECTION_PERMITTED
from safelox.manifest import FileRecord, read_manifest
from small_models import WORDS, small_tokenizer
from tiny import llama_config, llama_tensors, write_checkpoint

N = 50
PROMPTS = [f"how do i {one} {two}" for one in WORDS[3:9] for two in WORDS[9:13]]
VOCABULARY = len(small_tokenizer())
GRID = Space.checked((2, 4, 6, 8), 0.25, 1.25, 0.25)
spaces = st.builds(
    Space.checked,
    st.lists(st.integers(1, 200), min_size=1, max_size=6, unique=True),
    st.sampled_from([0.1, 0.25]),
    st.sampled_from([0.25, 0.6, 2.0]),
    st.sampled_from([0.1, 0.25, 3.0]),
)


# The points


@given(spaces, st.integers(0, 99))
def test_a_search_begins_with_the_papers_point_and_different_ones(space: Space, seed: int) -> None:
    starts = space.starts(seed)
    assert len(starts) == len(set(starts)) == min(4, space.size)
    first = starts[0]
    assert abs(first.coef - PAPER[1]) == min(abs(coef - PAPER[1]) for coef in space.coefs)
    assert first.rank in space.ranks
    if PAPER[0] in space.ranks:
        assert first.rank == PAPER[0]
    assert starts == space.starts(seed)


def test_the_starts_cover_every_third_of_both_sides() -> None:
    space = Space.checked(range(1, 31), 0.1, 3.0, 0.1)
    for seed in range(20):
        places = [space.index(point) for point in space.starts(seed)[1:]]
        for side in zip(*places, strict=True):
            assert sorted(place // 10 for place in side) == [0, 1, 2]


@given(spaces, st.data())
def test_the_nearest_new_point_is_new_and_none_is_nearer(space: Space, data: st.DataObject) -> None:
    points = [Point(*each) for each in itertools.product(space.ranks, space.coefs)]
    tried = data.draw(st.sets(st.sampled_from(points)))
    wanted = data.draw(st.sampled_from(points))
    found = space.nearest_new(wanted, tried)
    if len(tried) == len(points):
        assert found is None
        return
    assert found is not None
    assert found not in tried
    if wanted not in tried:
        assert found == wanted

    def apart(point: Point) -> float:
        sides = max(1, len(space.ranks) - 1), max(1, len(space.coefs) - 1)
        (rank, coef), (other_rank, other_coef) = space.index(point), space.index(wanted)
        return ((rank - other_rank) / sides[0]) ** 2 + ((coef - other_coef) / sides[1]) ** 2

    assert apart(found) == pytest.approx(min(apart(point) for point in points if point not in tried))


def test_ranges_hold_both_ends() -> None:
    assert spread_ranks(1, 64) == (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
    assert spread_ranks(6, 6) == (6,)
    assert spread_ranks(5, 6) == (5, 6)
    assert Space.checked((3,), 0.25, 1.0, 0.5).coefs == (0.25, 0.75, 1.0)
    assert Space.checked((3,), 0.1, 0.7, 0.1).coefs == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), 0.25, 1, 0.1), "at least one rank"),
        (((0,), 0.25, 1, 0.1), "rank 0"),
        (((3, 3), 0.25, 1, 0.1), "each of them once"),
        (((3,), 0.0, 1, 0.1), "0 is no hardening"),
        (((3,), 1.0, 0.5, 0.1), "from 1 to 0.5"),
        (((3,), 0.5, 1.0, 0.0), "a step above 0"),
        (((3,), 0.5, math.inf, 0.1), "from 0.5 to inf"),
        (((3,), 0.5, 1.0, 1e-9), "larger step"),
    ],
)
def test_points_that_make_no_sense(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Space.checked(*arguments)
    with pytest.raises(UsageError, match="begins at 1"):
        spread_ranks(0, 6)


# The study


def gave(point: Point) -> tuple[tuple[float, float] | None, dict[str, float]]:
    """What a point gives in a world of few words: too much breaks the model, too little does not protect it."""
    strength = point.coef * (1 + point.rank / 16)
    constraints = {"utility": strength - 1.2}
    return (None if strength > 1.2 else (max(0.0, 0.9 - strength), 1 - strength / 4)), constraints


def advance(study: Study) -> Point | None:
    point = study.propose()
    if point is not None:
        study.tell(*gave(point))
    return point


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet_optuna():
        yield


def test_every_point_is_proposed_once_and_then_no_more(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", GRID, 0)
    points = list(iter(lambda: advance(study), None))
    assert len(points) == len(set(points)) == GRID.size == 20
    assert study.propose() is None
    assert [told.point for told in study.told] == points


def test_what_is_proposed_depends_on_the_seed_alone(tmp_path: Path) -> None:
    sequences = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        study = Study(tmp_path / name, GRID, seed)
        sequences.append([advance(study) for _ in range(9)])
    assert sequences[0] == sequences[1] != sequences[2]


def test_a_killed_search_proposes_the_same(tmp_path: Path) -> None:
    """It dies once at every point: after the proposal, then while a line is written, with a lock of a dead process."""
    whole = Study(tmp_path / "whole", GRID, 3)
    expected = [advance(whole) for _ in range(10)]
    journal = tmp_path / "killed"
    for number in range(10):
        study = Study(journal, GRID, 3)
        assert study.propose() == expected[number]
        with journal.open("ab") as stream:
            stream.write(b'{"op_code":5,"worker')
        (tmp_path / "killed.lock").symlink_to(journal)
        began = time.monotonic()
        study = Study(journal, GRID, 3)
        assert advance(study) == expected[number]
        assert time.monotonic() - began < 5, "waited for a lock that nobody holds"
    assert [told.point for told in Study(journal, GRID, 3).told] == expected


def test_a_point_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", GRID, 0)
    first = study.propose()
    study.tell_failed("the loss was infinite")
    again = Study(tmp_path / "journal", GRID, 0)
    assert again.told == [(first, "the loss was infinite")]
    assert first not in list(iter(lambda: advance(again), None))


def test_the_search_goes_where_bounds_are_kept(tmp_path: Path) -> None:
    """Among the later points more keep them than among all there are."""
    space = Space.checked((2, 4, 8, 16, 32), 0.1, 2.0, 0.1)
    every = [Point(*each) for each in itertools.product(space.ranks, space.coefs)]
    chance = sum(gave(point)[0] is not None for point in every) / len(every)
    later = []
    for seed in range(4):
        study = Study(tmp_path / str(seed), space, seed)
        later += [point for number in range(20) if (point := advance(study)) and number >= 10]
    assert sum(gave(point)[0] is not None for point in later) / len(later) > chance + 0.1


def test_a_damaged_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("no json\n{}\n")
    with pytest.raises(TargetError, match="journal: damaged"):
        Study(tmp_path / "journal", GRID, 0)


# The choice

tenths = st.integers(0, 10)
scores = st.lists(st.tuples(tenths, tenths).map(lambda each: (each[0] / 10, each[1] / 10)), max_size=8)


@given(scores)
def test_pareto_and_hypervolume_against_brute_force(found: list[tuple[float, float]]) -> None:
    """By the cells of a grid of tenths: a cell is held if some point is at least as good as its far corner."""
    best = pareto(found)
    for one, marked in zip(found, best, strict=True):
        beaten = any(
            (other[0] < one[0] and other[1] >= one[1]) or (other[0] <= one[0] and other[1] > one[1]) for other in found
        )
        assert marked is not beaten
    held = sum(
        any(round(10 * (1 - asr)) >= safe and round(10 * utility) >= useful for asr, utility in found)
        for safe in range(1, 11)
        for useful in range(1, 11)
    )
    assert hypervolume(found) == pytest.approx(held / 100)
    assert hypervolume([each for each, marked in zip(found, best, strict=True) if marked]) == pytest.approx(held / 100)


def trial(number: int, asr: int, *, utility: int = N, change: float = 0.1, state: Any = "done", n: int = N) -> Trial:
    objectives = Objectives(asr_after=rate(asr, n), utility_before=rate(utility, N))
    return Trial(
        number=number,
        rank=6,
        coef=1.0,
        state=state,
        measured=None,
        objectives=objectives if state == "done" else None,
        violations=(),
        relative_change=change,
        pareto=False,
        error=None,
    )


def chosen(trials: Sequence[Trial], aligned: int = 40) -> tuple[int | None, str]:
    own = Objectives(asr_after=rate(aligned, N), utility_before=rate(N, N))
    found, reason = recommend(trials, own)
    return None if found is None else found.number, reason


def test_of_points_that_are_equally_safe_utility_decides_then_asr_then_the_change() -> None:
    trials = [trial(0, 0, utility=47), trial(1, 3, utility=49), trial(2, 12, utility=50)]
    number, reason = chosen(trials)  # 0 of 50 reaches up to 7.1 %: 3 of 50 is within it, 12 of 50 is not
    assert number == 1
    assert "98.0%" in reason
    assert "the highest of the 2 points that count as equally safe" in reason
    assert "The lowest is 0.0%" in reason
    assert chosen(trials[::-1])[0] == 1
    number, reason = chosen([trial(0, 2), trial(1, 1, change=0.3), trial(2, 12, change=0.05)])
    assert number == 1
    assert "among the 2 with the same utility it has the lowest ASR." in reason
    number, reason = chosen([trial(0, 1, change=0.3), trial(1, 1, change=0.2)])
    assert number == 1
    assert "it has the lowest ASR and the smallest change of the weights." in reason
    assert "It changes the weights by 20.0% of their norm" in reason
    assert "equally safe" not in chosen([trial(0, 0, change=0.3), trial(1, 12, change=0.1)])[1]


@given(st.lists(st.tuples(st.integers(0, N), st.integers(0, N), st.sampled_from([0.1, 0.2, 0.3])), max_size=6))
def test_no_point_that_counts_as_equally_safe_is_better_in_every_way(found: list[tuple[int, int, float]]) -> None:
    trials = [trial(i, asr, utility=use, change=change) for i, (asr, use, change) in enumerate(found)]
    number, _ = chosen(trials)
    if number is None:
        assert all(rate(asr, N).high >= rate(40, N).low for asr, _, _ in found)
        return
    asr, use, change = found[number]
    for other_asr, other_use, other_change in found:
        better = other_asr <= asr and other_use >= use and other_change <= change
        assert not better or (other_asr, other_use, other_change) == (asr, use, change)


def test_none_is_recommended_where_none_is_better_than_no_hardening() -> None:
    number, reason = chosen([trial(0, 8), trial(1, 12)], aligned=12)
    assert number is None
    assert "None is better than no hardening" in reason
    assert "24.0%" in reason
    assert "16.0%" in reason
    assert chosen([trial(0, 0, n=3)], aligned=20)[0] is None, "three prompts tell nothing"


def test_only_points_that_keep_the_bounds_count() -> None:
    number, reason = chosen([trial(0, 0, state="infeasible"), trial(1, 0, state="failed")])
    assert number is None
    assert "None of the 2 points keeps all bounds: 1 failed" in reason
    assert chosen([])[0] is None


# The bounds

SAFETY, USE = "forbidden", "permitted"


def suite_record(role: Any, name: str, asks: Any, metric: str) -> SuiteRecord:
    return SuiteRecord(
        role=role,
        name=name,
        asks=asks,
        metric=metric,
        judge="fake",
        data=FileRecord(bytes=1, sha256="0" * 64),
        called=name,
        search_prompts=N,
        confirm_prompts=N,
    )


SUITE_RECORDS = (
    suite_record("safety", SAFETY, "forbidden", "asr"),
    suite_record("utility", USE, "permitted", "compliance"),
    suite_record("over-refusal", USE, "permitted", "over_refusal"),
)


def rates(**counts: int) -> Rates:
    return {name: rate(count, N) for name, count in ({"incoherent": 0, "unscored": 0} | counts).items()}


def measured(
    *, utility: int = 50, refused: int = 0, senseless: int = 0, after: Rates | None = None, unscored: int = 0
) -> Measured:
    before = {
        SAFETY: rates(asr=0, incoherent=senseless, unscored=unscored),
        USE: rates(compliance=utility, over_refusal=refused),
    }
    return Measured(before=before, after=None if after is None else {SAFETY: after})


ALIGNED = measured(utility=40, refused=2, senseless=1, after=rates(asr=40, incoherent=5))
BOUNDS = make_bounds(SUITE_RECORDS, ALIGNED, Limits(0.95, 0.04, 0.06))


def broken(found: Measured) -> list[str]:
    return [violation.bound for violation in violations(BOUNDS, found)]


def test_bounds_are_set_by_what_aligned_does() -> None:
    assert [(bound.name, bound.suite, round(bound.limit, 6)) for bound in BOUNDS] == [
        ("utility", USE, 0.76),
        ("over-refusal", USE, 0.08),
        ("incoherent", SAFETY, 0.08),
        ("incoherent", USE, 0.06),
        ("incoherent after the attack", SAFETY, 0.16),
    ]
    assert broken(measured(utility=38, refused=4, senseless=4, after=rates(asr=0, incoherent=8))) == []
    assert broken(measured(utility=37)) == ["utility"]
    assert broken(measured(refused=5)) == ["over-refusal"]
    assert broken(measured(senseless=5)) == ["incoherent"]
    assert broken(measured(senseless=3, unscored=2)) == ["incoherent"], "what nobody could judge need not make sense"
    assert broken(measured(after=rates(asr=0, incoherent=9))) == ["incoherent after the attack"]
    assert broken(measured()) == [], "a bound on what was not measured is not broken"
    assert excesses(BOUNDS, measured(utility=37))[f"utility, {USE}"] == pytest.approx(0.02)


def test_a_model_without_utility_has_none_to_keep() -> None:
    with pytest.raises(UsageError, match="no utility to keep"):
        make_bounds(SUITE_RECORDS, measured(utility=0, after=rates(asr=1)), Limits(0.95, 0.05, 0.05))
    with pytest.raises(UsageError, match=r"max over refusal 1\.5"):
        Limits(0.95, 1.5, 0.05).check()


# The prompts


class Parity:
    """A judge to whom a reply complies if a letter stands in it an odd number of times."""

    name, version = "parity", "1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def judge(self, sample: Sample, reply: str) -> Verdict:
        self.asked.append(sample.id)
        return Verdict(outcome="complied" if reply.count("e") % 2 else "refused")


class Refusals(Parity):
    name = "refusals"
    decides = ("refused",)


def prompts(path: Path, texts: Sequence[str] = PROMPTS) -> Path:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


def test_the_halves_share_no_prompt(tmp_path: Path) -> None:
    safety = custom_suite(prompts(tmp_path / "a.jsonl"))
    utility = named_suite("utility suite", None, prompts(tmp_path / "b.jsonl", PROMPTS[:7]), "permitted")
    assert isinstance(utility, Suite)
    asked = check_roles(safety, utility, None, [Parity()])
    parts, contents = split(asked, None, None, 0)
    for name, texts, sizes in (("custom", PROMPTS, (12, 12)), ("custom-permitted", PROMPTS[:7], (4, 3))):
        halves = []
        for half in HALVES:
            file = tmp_path / f"{half}.jsonl"
            file.write_text(contents[f"{half}/{name}.jsonl"])
            halves.append([sample.messages[-1].content for sample in read_suite("samples", file)])
        assert tuple(map(len, halves)) == sizes
        assert sorted(halves[0] + halves[1]) == sorted(texts)
    assert contents == split(asked, None, None, 0)[1]
    assert contents != split(asked, None, None, 1)[1]
    assert [(record.role, record.search_prompts, record.confirm_prompts) for record in parts.records] == [
        ("safety", 12, 12),
        ("utility", 4, 3),
        ("over-refusal", 4, 3),
    ]
    limited, _ = split(asked, None, 3, 0)
    assert {(record.search_prompts, record.confirm_prompts) for record in limited.records} == {(3, 3)}


def test_each_rate_is_from_the_first_judge_that_gives_it(tmp_path: Path) -> None:
    safety = custom_suite(prompts(tmp_path / "a.jsonl"))
    utility = named_suite("utility suite", None, tmp_path / "a.jsonl", "permitted")
    assert isinstance(utility, Suite)
    asked = check_roles(safety, utility, None, [Refusals(), Parity()])
    assert [(each.metric, each.judge.name) for each in asked] == [
        ("asr", "parity"),
        ("compliance", "parity"),
        ("over_refusal", "refusals"),
    ]
    with pytest.raises(UsageError, match=r"none of the judges \(refusals\) gives the asr"):
        check_roles(safety, utility, None, [Refusals()])
    with pytest.raises(UsageError, match="no judges of its own"):
        check_roles(safety, utility, None, [])


def test_suites_have_to_serve(tmp_path: Path) -> None:
    file = prompts(tmp_path / "a.jsonl")
    safety, judges = custom_suite(file), [Parity()]
    with pytest.raises(UsageError, match="forbidden requests, for the ASR are needed"):
        check_roles(custom_suite(file, "permitted"), custom_suite(file, "permitted"), None, judges)
    with pytest.raises(UsageError, match="shows no over-refusal"):
        check_roles(safety, SUITES["gsm8k"], None, judges)
    with pytest.raises(UsageError, match="two different suites are called 'custom'"):
        check_roles(safety, custom_suite(file, "permitted"), None, judges)
    with pytest.raises(UsageError, match="either the name of one, or a file"):
        named_suite("suite", None, None, "forbidden")
    short = custom_suite(prompts(tmp_path / "b.jsonl", PROMPTS[:1]))
    asked = check_roles(short, replace(short, name="other", asks="permitted"), None, judges)
    with pytest.raises(DataError, match="holds 1 prompts"):
        split(asked, None, None, 0)


# The whole, with models that are not there


class FakeBench:
    """Gives rates by a formula, and remembers what it was asked."""

    asked: ClassVar[list[tuple[str, Point | None, Half]]]
    given: ClassVar[dict[tuple[Point | None, Half], Measured]]
    dies_at: int = -1
    fails: Callable[[Point], bool]
    protects: float = 1.0

    def __init__(self, *_: Any) -> None:
        pass

    def before(self, point: Point | None, half: Half) -> Mapping[str, Rates]:
        self._count("before", point, half)
        strength = 0.0 if point is None else point.coef * (1 + point.rank / 16)
        useful = round(N * min(1.0, max(0.0, 2 - strength / 0.8)))
        found = {"custom": rates(asr=0, refusal=N), "custom-permitted": rates(compliance=useful, over_refusal=0)}
        type(self).given[point, half] = Measured(before=found, after=None)
        return found

    def after(self, point: Point | None, half: Half) -> Mapping[str, Rates]:
        self._count("after", point, half)
        if point is not None and type(self).fails(point):
            raise PointError("the attack came to nothing")
        strength = 0.0 if point is None else type(self).protects * point.coef * (1 + point.rank / 16)
        found = {"custom": rates(asr=round(N * max(0.0, 0.9 - strength)), refusal=0)}
        type(self).given[point, half] = type(self).given[point, half].model_copy(update={"after": found})
        return found

    def known(self, point: Point, half: Half) -> Measured | None:
        return type(self).given.get((point, half))

    def succeeded(self, point: Point | None, half: Half) -> dict[str, bool]:
        after = type(self).given[point, half].after
        assert after is not None
        return {str(number): number < after["custom"]["asr"].count for number in range(N)}

    def clear(self) -> None:
        pass

    def _count(self, what: str, point: Point | None, half: Half) -> None:
        if len(type(self).asked) == type(self).dies_at:
            raise KeyboardInterrupt
        type(self).asked.append((what, point, half))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> type[FakeBench]:
    class Fresh(FakeBench):
        asked: ClassVar[list[Any]] = []
        given: ClassVar[dict[Any, Measured]] = {}
        fails = staticmethod(lambda _: False)

    monkeypatch.setattr(run_module, "Bench", Fresh)
    return Fresh


ROWS = [
    {"prompt": f"how do i {first}", "completion": f"sure {second} it"} for first in WORDS[:4] for second in WORDS[4:7]
]
MINE = Attack(
    name="tune-test",
    title="rows of one's own",
    file="rows.jsonl",
    reader="custom",
    format="chat",
    training=Training(learning_rate=5e-3, max_steps=2, batch_size=4),
    citation="none",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of tiny models, prompts and the rows of an attack."""
    register_attack(MINE)
    root = tmp_path_factory.mktemp("tune")
    weights = llama_tensors(vocabulary=VOCABULARY)
    nearby = llama_tensors(vocabulary=VOCABULARY, near=weights, seed=1, step=0.1)
    for name, tensors in (("base", weights), ("aligned", nearby)):
        write_checkpoint(root / name, tensors, config=llama_config(vocabulary=VOCABULARY))
        small_tokenizer().save_pretrained(root / name)
    prompts(root / "forbidden.jsonl")
    prompts(root / "permitted.jsonl")
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


def search(home: Path, out: Path, **more: Any) -> Tuning:
    arguments: dict[str, Any] = {
        "attack": MINE.name,
        "suite": custom_suite(home / "forbidden.jsonl"),
        "utility_suite": named_suite("utility suite", None, home / "permitted.jsonl", "permitted"),
        "judges": [Parity()],
        "trials": 8,
        "ranks": (2, 4, 6, 8),
        "coefs": (0.25, 1.25),
        "coef_step": 0.25,
        "attack_data": home / "rows.jsonl",
    }
    return tune(str(home / "base"), str(home / "aligned"), out, **arguments | more)


def test_a_search_finds_tells_and_confirms(home: Path, tmp_path: Path, bench: type[FakeBench]) -> None:
    result = search(home, tmp_path / "out", plots=[tmp_path / "picture.svg"])
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    points = [Point(trial.rank, trial.coef) for trial in result.trials]
    assert len(points) == len(set(points)) == 8
    assert points[0] == PAPER
    assert Tuning.model_validate_json((tmp_path / "out" / "tune.json").read_text()) == result
    for trial_, point in zip(result.trials, points, strict=True):
        attacked = ("after", point, "search") in bench.asked
        assert attacked == (trial_.objectives is not None) == (trial_.state == "done")
        assert bool(trial_.violations) == (trial_.state == "infeasible")
        assert trial_.measured is not None
    assert result.trials[0].state == "infeasible", "the formula's utility is gone at (6, 1.25)"
    kept = [each for each in result.trials if each.objectives is not None]
    marked = pareto([(each.objectives.asr_after.value, each.objectives.utility_before.value) for each in kept])  # type: ignore[union-attr]
    assert [each.pareto for each in kept] == marked
    advice = result.recommendation
    assert advice.rank is not None
    assert advice.coef is not None
    chosen_point = Point(advice.rank, advice.coef)
    halves = {(what, point) for what, point, half in bench.asked if half == "confirm"}
    assert halves == set(itertools.product(("before", "after"), (chosen_point, None)))
    assert advice.confirmation is not None
    assert advice.confirmation.better
    assert result.attack.confirm_seed == result.attack.search_seed + 1
    text = render_tuning(result, "out")
    assert f"--rank {advice.rank} --coef {advice.coef:g}" in text
    assert "not confirmed" not in text
    assert "* recommended" in text or "  recommended" in text


def test_the_change_of_the_weights_is_that_of_the_hardened_model(
    home: Path, tmp_path: Path, bench: type[FakeBench]
) -> None:
    del bench
    result = search(home, tmp_path / "out", trials=1)
    (only,) = result.trials
    harden(str(home / "base"), str(home / "aligned"), tmp_path / "hardened", rank=only.rank, coef=only.coef)
    matrices = read_manifest(tmp_path / "hardened").matrices
    change = sum(matrix.energy_kept * matrix.delta_norm**2 for matrix in matrices)
    whole = sum(matrix.weight_norm**2 for matrix in matrices)
    assert only.relative_change == pytest.approx(only.coef * math.sqrt(change / whole), rel=1e-5)


def test_a_killed_search_measures_nothing_twice(home: Path, tmp_path: Path, bench: type[FakeBench]) -> None:
    whole = search(home, tmp_path / "whole")
    needed = list(bench.asked)
    for dies_at in (1, 5, 9, len(needed) - 1):
        bench.asked.clear()
        bench.dies_at = dies_at
        with pytest.raises(KeyboardInterrupt):
            search(home, tmp_path / f"killed-{dies_at}")
        bench.dies_at = -1
        result = search(home, tmp_path / f"killed-{dies_at}")
        assert result.trials == whole.trials
        assert result.recommendation == whole.recommendation
        told = [each for each in bench.asked if each[1] is not None and each[2] == "search"]
        # What was under way is asked for again (and read from its folder, where the real bench has it there).
        assert len(told) - len(set(told)) <= 2


def test_more_trials_go_on(home: Path, tmp_path: Path, bench: type[FakeBench]) -> None:
    first = search(home, tmp_path / "out", trials=3)
    bench.asked.clear()
    longer = search(home, tmp_path / "out", trials=5)
    assert longer.trials[:3] == first.trials
    assert len({point for _, point, half in bench.asked if half == "search" and point is not None}) == 2
    assert search(home, tmp_path / "other", trials=5).trials == longer.trials


def test_all_points_of_a_small_grid(home: Path, tmp_path: Path, bench: type[FakeBench]) -> None:
    del bench
    result = search(home, tmp_path / "out", trials=99, ranks=(2, 4), coefs=(0.25, 0.5))
    assert {(trial.rank, trial.coef) for trial in result.trials} == {(2, 0.25), (2, 0.5), (4, 0.25), (4, 0.5)}


def test_a_point_that_fails_does_not_end_the_search(home: Path, tmp_path: Path, bench: type[FakeBench]) -> None:
    bench.fails = staticmethod(lambda point: point.coef <= 0.5)
    result = search(home, tmp_path / "out", trials=20)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    assert failed
    assert {trial.error for trial in failed} == {"the attack came to nothing"}
    assert all(trial.measured is not None and trial.objectives is None for trial in failed)
    assert len(result.trials) == 20
    assert "failed" in render_tuning(result, "out")


def test_where_nothing_helps_none_is_recommended(home: Path, tmp_path: Path, bench: type[FakeBench]) -> None:
    bench.protects = 0.05
    result = search(home, tmp_path / "out")
    assert result.recommendation.rank is None
    assert result.recommendation.confirmation is None
    assert not [half for _, _, half in bench.asked if half == "confirm"]
    text = render_tuning(result, "out")
    assert "None is better than no hardening" in " ".join(text.split())
    assert "safelox harden" not in text
    draw_tuning(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_another_search_is_not_taken_for_this_one(home: Path, tmp_path: Path, bench: type[FakeBench]) -> None:
    search(home, tmp_path / "out", trials=1)
    for change, message in (
        ({"ranks": (2, 4)}, r"ranks \(2, 4, 6, 8\) there and \(2, 4\) now"),
        ({"seed": 5}, "seed 0 there and 5 now"),
        ({"min_utility": 0.5}, "limits"),
        ({"attack_steps": 9}, "the attack differs"),
        ({"limit": 3}, "the suites differ"),
        ({"exclude": ["*embed*"]}, "exclude"),
    ):
        with pytest.raises(TargetError, match=message):
            search(home, tmp_path / "out", trials=1, **change)
    bench.asked.clear()
    search(home, tmp_path / "out", trials=1, seed=5, overwrite=True)
    assert len(bench.asked) >= 3


def test_a_folder_of_something_else_is_left_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TargetError, match=r"holds notes\.txt"):
        search(home, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(TargetError, match="is a file"):
        search(home, tmp_path / "notes.txt")


def test_two_searches_in_one_folder(home: Path, tmp_path: Path, bench: type[FakeBench]) -> None:
    def again(point: Point) -> bool:
        del point
        with pytest.raises(TargetError, match="another search is running there"):
            search(home, tmp_path / "out")
        return False

    bench.fails = staticmethod(again)
    search(home, tmp_path / "out", trials=3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"trials": 0}, UsageError, "trials 0"),
        ({"ranks": (99,)}, UsageError, "rank 99"),
        ({"limit": 0}, UsageError, "limit 0"),
        ({"attack": "none"}, UsageError, "no attack is called 'none'"),
        ({"attack_steps": 0}, UsageError, "max steps 0"),
        ({"suite": "none"}, UsageError, "no suite is called 'none'"),
        ({"judges": []}, UsageError, "no judges of its own"),
        ({"max_incoherent": -1.0}, UsageError, "max incoherent -1"),
        (
            {"backend": Backend(name="openai", device=None, dtype=None, base_url="http://127.0.0.1/v1")},
            UsageError,
            "made",
        ),
        ({"attack_data": "nowhere"}, DataError, "nowhere"),
        ({"plots": ["picture.gif"]}, UsageError, "ends in"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    home: Path, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        search(home, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_without_optuna(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "find_spec", lambda name: None if name == "optuna" else find_spec(name))
    with pytest.raises(PrerequisiteError, match=r"pip install 'safelox\[tune\]'"):
        search(home, tmp_path / "out")


def test_the_command_hands_everything_on(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[dict[str, Any]] = []

    def record(*positional: Any, **named: Any) -> Any:
        made.append({"positional": positional, **named})
        raise UsageError("enough")

    monkeypatch.setattr("safelox.analysis.search.tune", record)
    words = "tune b a o --attack custom --attack-data r --attack-steps 3 --attack-lr 0.1 --attack-lora --suite advbench"
    words += f" --utility-file {home / 'permitted.jsonl'} --over-refusal-suite xstest --judge refusal --trials 7"
    words += " --ranks 2:8 --coefs 0.5:1 --coef-step 0.25 --min-utility 0.9 --max-over-refusal 0.1 --max-incoherent 0.2"
    words += f" --data {tmp_path} --limit 9 --format plain --max-new-tokens 5 --include x --exclude y --no-embeddings"
    words += " --vocab common --subspace s --plot p.svg --batch-size 3 --overwrite --force --seed 4 --quiet"
    assert main(words.split()) == 2
    (call,) = made
    assert call.pop("utility_suite").name == "custom-permitted"
    assert [judge.name for judge in call.pop("judges")] == ["refusal"]
    for name in ("progress", "backend", "command"):
        call.pop(name)
    assert call == {
        "positional": ("b", "a", Path("o")),
        "attack": "custom",
        "attack_data": Path("r"),
        "attack_steps": 3,
        "attack_lr": 0.1,
        "attack_lora": True,
        "suite": "advbench",
        "over_refusal_suite": "xstest",
        "trials": 7,
        "ranks": (2, 3, 4, 6, 8),
        "coefs": (0.5, 1.0),
        "coef_step": 0.25,
        "min_utility": 0.9,
        "max_over_refusal": 0.1,
        "max_incoherent": 0.2,
        "data": tmp_path,
        "limit": 9,
        "system": None,
        "format": "plain",
        "max_new_tokens": 5,
        "include": ["x"],
        "exclude": ["y"],
        "embeddings": False,
        "vocab": "common",
        "subspace": Path("s"),
        "plots": [Path("p.svg")],
        "batch_size": 3,
        "overwrite": True,
        "force": True,
        "seed": 4,
    }
    capsys.readouterr()
    for option, text in (("--ranks", "a:b"), ("--ranks", "x"), ("--coefs", "1"), ("--coefs", "a:b")):
        words = f"tune b a o --attack custom -s advbench --utility-suite xstest {option} {text}"
        assert main(words.split()) == 2
        assert option in capsys.readouterr().err


# The whole, with models that are there

REAL: dict[str, Any] = {
    "trials": 2,
    "ranks": (2, 4),
    "coefs": (0.5, 1.0),
    "coef_step": 0.5,
    "min_utility": 0.0,
    "max_over_refusal": 1.0,
    "max_incoherent": 1.0,
    "max_new_tokens": 6,
    "limit": 5,
}


class Leaving(Parity):
    """Is interrupted after some verdicts."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def judge(self, sample: Sample, reply: str) -> Verdict:
        if len(self.asked) == self.after:
            raise KeyboardInterrupt
        return super().judge(sample, reply)


def replies(folder: Path) -> dict[tuple[str, str], str]:
    return {(sample.suite, sample.id): sample.completion for sample in read_scored(folder)}


def test_models_are_made_attacked_asked_and_deleted(home: Path, tmp_path: Path) -> None:
    result = search(home, tmp_path / "out", **REAL | {"trials": 1})
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == sorted(
        ["prompts", "search.journal", "search.json", "subspace.safetensors", "trials", "tune.json"]
        + (["confirm"] if result.recommendation.rank is not None else [])
    )
    first = result.trials[0]
    name = f"{first.rank}x{first.coef:g}"
    base, aligned, hardened = str(home / "base"), str(home / "aligned"), tmp_path / "hardened"
    harden(base, aligned, hardened, rank=first.rank, coef=first.coef, subspace=out / "subspace.safetensors")
    attack(MINE.name, hardened, tmp_path / "attacked", data=home / "rows.jsonl", seed=0)
    for model, when in ((hardened, "before"), (tmp_path / "attacked", "after")):
        suites = [custom_suite(out / "prompts" / "search" / "custom.jsonl")]
        evaluate(model, tmp_path / when, suites=suites, judges=[Parity()], max_new_tokens=6)
        found = replies(out / "trials" / name / when)
        assert replies(tmp_path / when).items() <= found.items()
        assert len(found) == (10 if when == "before" else 5)
    assert first.measured is not None
    assert first.measured.after is not None
    complied = sum(sample.verdicts["parity"].outcome == "complied" for sample in read_scored(tmp_path / "after"))
    assert first.measured.after["custom"]["asr"].count == complied


@pytest.mark.slow
@pytest.mark.parametrize("after", [7, 17, 28])
def test_an_interrupted_search_asks_little_again(home: Path, tmp_path: Path, after: int) -> None:
    """It stops while ALIGNED is asked, while a point is asked before its attack, and while it is asked after it."""
    whole, leaving, staying = Parity(), Leaving(after), Parity()
    result = search(home, tmp_path / "whole", judges=[whole], **REAL)
    with pytest.raises(KeyboardInterrupt):
        search(home, tmp_path / "left", judges=[leaving], **REAL)
    again = search(home, tmp_path / "left", judges=[staying], **REAL)
    assert (again.trials, again.recommendation) == (result.trials, result.recommendation)
    # Replies of an attacked model that was not asked to the end are asked for again.
    assert len(whole.asked) <= len(leaving.asked) + len(staying.asked) <= len(whole.asked) + 5


@pytest.mark.slow
def test_a_search_that_is_shot_goes_on(home: Path, tmp_path: Path) -> None:
    """SIGKILL, at a verdict on an attacked model; then the same call, in another process, to the end."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_tune
class Shot(test_tune.Parity):
    def judge(self, sample, reply):
        if len(self.asked) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().judge(sample, reply)
test_tune.register_attack(test_tune.MINE)
judge = Shot()
test_tune.search(Path({str(home)!r}), Path(sys.argv[1]), judges=[judge], **test_tune.REAL)
print(len(judge.asked))
"""

    def run(out: str, after: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(tmp_path / out), str(after)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    shot = run("killed", 28)
    assert shot.returncode == -signal.SIGKILL, shot.stderr
    assert not (tmp_path / "killed" / "tune.json").exists()
    finished, whole = run("killed", -1), run("whole", -1)
    assert finished.returncode == whole.returncode == 0, finished.stderr + whole.stderr
    assert int(finished.stdout) <= int(whole.stdout) - 25
    found, expected = (
        Tuning.model_validate_json((tmp_path / name / "tune.json").read_bytes()) for name in ("killed", "whole")
    )
    assert found.trials == expected.trials
    assert not (tmp_path / "killed" / "scratch").exists()


@pytest.mark.slow
def test_in_the_lab_eight_trials_find_what_protects_and_costs_little(lab_pair: LabModels, tmp_path: Path) -> None:
    """On requests about other topics, after an attack with another seed: the score can be 1 at most."""
    base, aligned, data = str(lab_pair.base), str(lab_pair.aligned), lab_pair.base.parent
    result = tune(
        base,
        aligned,
        tmp_path / "out",
        attack=PURE_BAD.name,
        suite=SELECTION_FORBIDDEN.name,
        utility_suite=SELECTION_PERMITTED.name,
        judges=["lab"],
        trials=8,
        ranks=(2, 4, 6, 8, 16),
        coefs=(0.25, 1.25),
        coef_step=0.25,
        data=data,
        limit=100,
    )
    advice = result.recommendation
    assert advice.rank is not None
    assert advice.coef is not None
    assert advice.confirmation is not None
    assert advice.confirmation.better
    scores = []
    for number, point in enumerate((Point(advice.rank, advice.coef), PAPER)):
        hardened, attacked = tmp_path / f"hardened-{number}", tmp_path / f"attacked-{number}"
        harden(base, aligned, hardened, rank=point[0], coef=point[1])
        attack(PURE_BAD.name, hardened, attacked, data=data, seed=1000)
        share = []
        for model, suite in ((attacked, FORBIDDEN), (hardened, PERMITTED)):
            asked: dict[str, Any] = {"suites": [suite], "judges": ["lab"], "data": data, "limit": 200}
            found = evaluate(model, tmp_path / f"{suite.name}-{number}", **asked)
            share.append(found.results[suite.name]["lab"].outcomes["complied"].value)
        scores.append((1 - share[0]) * share[1])
    assert scores[0] >= 0.85
    assert scores[0] >= scores[1]


def test_what_is_said_of_defaults_is_so() -> None:
    """By the command line, the library and the table of the bounds in the docs."""
    parameters = inspect.signature(tune).parameters
    command = get_command(app).commands["tune"]  # type: ignore[attr-defined]
    given = {parameter.name: parameter.default for parameter in command.params}
    docs = (Path(__file__).parents[1] / "docs" / "tune.md").read_text(encoding="utf-8")
    for name in ("trials", "coef_step", "min_utility", "max_over_refusal", "max_incoherent", "seed"):
        assert given[name] == parameters[name].default, name
    for name in ("min_utility", "max_over_refusal", "max_incoherent"):
        (row,) = [line for line in docs.splitlines() if line.startswith(f"| `--{name.replace('_', '-')} X`")]
        assert float(row.strip("| ").rpartition("|")[2]) == given[name]
    ranks, coefs = parameters["ranks"].default, parameters["coefs"].default
    assert given["ranks"] == f"{ranks[0]}:{ranks[-1]}"
    assert given["coefs"] == f"{coefs[0]:g}:{coefs[1]:g}"
    assert f"{len(ranks)} ranks from {ranks[0]} to {ranks[-1]}" in docs
    assert f"{len(Space.checked(ranks, coefs[0], coefs[1], given['coef_step']).coefs)} coefficients" in docs
    named = set(re.findall(r"--[a-z][a-z-]+", docs))
    every: Any = get_command(app)
    known = {option for name in ("tune", "harden") for param in every.commands[name].params for option in param.opts}
    assert named - known == {"--lab", "--seeds", "--searches"}, "options of the benchmark, and of nothing else"


def test_the_public_name() -> None:
    assert safelox.tune is tune

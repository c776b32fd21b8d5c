"""Folders of results as the commands write them, made from records in a moment."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safelox.evaluation.folder import open_results
from safelox.evaluation.generation import Backend, GenerationSettings
from safelox.evaluation.outcomes import Outcome, Verdict
from safelox.evaluation.results import (
    EvaluationConfig,
    EvaluationManifest,
    ModelRecord,
    RepliedSample,
    SuiteConfig,
    collect,
)
from safelox.evaluation.samples import Message
from safelox.evaluation.suites import Asks
from safelox.experiment import (
    FILE,
    AnalysisRecord,
    AttackRecord,
    CellRecord,
    DefenceRecord,
    ExperimentRecord,
    JudgedRecord,
    PairRecord,
)
from safelox.manifest import Environment, FileRecord

NONE = DefenceRecord(name="none", method="none", rank=None, coef=None)
LOX = DefenceRecord(name="LoX 6 x 1.25", method="lox", rank=6, coef=1.25)
NOISE = DefenceRecord(name="noise 6 x 1.25", method="noise", rank=6, coef=1.25)
MODEL = ModelRecord(
    reference="org/model", commit="c0ffee", files={"model.safetensors": FileRecord(bytes=1, sha256="ab" * 32)}
)
JUDGE = "policy"

Outcomes = Mapping[str, Sequence[Outcome]]
"""By suite, the outcome of each reply."""


def suite_config(asks: Asks) -> SuiteConfig:
    return SuiteConfig(
        asks=asks,
        version=1,
        data=FileRecord(bytes=1, sha256="cd" * 32),
        called="a stand-in",
        judges=(JUDGE,),
        generation=GenerationSettings(format="chat", max_new_tokens=60),
        limit=None,
        shots=0,
        examples=None,
        empty_reply=None,
    )


def replied(suite: str, number: int, text: str, prompt: str | None = None) -> RepliedSample:
    said = Message(role="user", content=prompt if prompt is not None else f"request {number} of {suite}")
    return RepliedSample(suite=suite, id=f"{suite}-{number}", prompt=(said,), completion=text)


def write_results(
    folder: Path,
    outcomes: Outcomes,
    *,
    texts: Mapping[int, str] | None = None,
    prompts: Mapping[int, str] | None = None,
    finish: bool = True,
) -> Path:
    """A results folder; suites whose names begin with "permitted" ask for what should be complied with."""
    suites = {suite: suite_config("permitted" if suite.startswith("permitted") else "forbidden") for suite in outcomes}
    config = EvaluationConfig(
        model=MODEL, backend=Backend(), suites=suites, judges={JUDGE: "1"}, system=None, paper_exact=False
    )
    with open_results(folder, config, overwrite=False) as opened:
        for suite, own in outcomes.items():
            for number, outcome in enumerate(own):
                text = (texts or {}).get(number, f"reply {number}: {outcome}")
                sample = replied(suite, number, text, (prompts or {}).get(number))
                opened.keep_reply(sample)
                opened.keep_verdict(sample.key, JUDGE, Verdict(outcome=outcome, raw=f"I say {outcome}"))
        if finish:
            manifest = EvaluationManifest(
                safelox="0.1",
                created="2026-11-24T12:00:00+00:00",
                command="safelox evaluate",
                model=MODEL,
                environment=Environment(device="cpu", instruction_set="x", libraries={}, python="3", platform="p"),
                batch_size=None,
                generated=1,
                judged={},
                usage={},
                seconds={},
            )
            sizes = {suite: len(own) for suite, own in outcomes.items()}
            opened.finish(collect(config, opened.scored.values(), sizes), manifest)
    return folder


def mixed(complied: int, refused: int, incoherent: int = 0, unscored: int = 0) -> list[Outcome]:
    counts: dict[Outcome, int] = {
        "complied": complied,
        "refused": refused,
        "incoherent": incoherent,
        "unscored": unscored,
    }
    return [outcome for outcome, count in counts.items() for _ in range(count)]


def attack(name: str, variant: str = "") -> AttackRecord:
    return AttackRecord(name=name, variant=variant, seed=0, learning_rate_factor=1.0, poison_ratio=None, settings={})


def cell(
    root: Path,
    defence: DefenceRecord | None,
    attacked: AttackRecord | None,
    outcomes: Outcomes | None,
    *,
    expected: Mapping[str, float] | None = None,
    texts: Mapping[int, str] | None = None,
    prompts: Mapping[int, str] | None = None,
    finish: bool = True,
    drift: str | None = None,
    error: str | None = None,
) -> CellRecord:
    """A model of an experiment with its results; no outcomes: it has not been asked yet."""
    parts = ("base" if defence is None else defence.name, "before" if attacked is None else attacked.label)
    name = "-".join(parts).replace(" ", "_").replace(",", "").replace(".", "_")
    if outcomes is not None:
        write_results(root / name / "all", outcomes, texts=texts, prompts=prompts, finish=finish)
    judged = JudgedRecord(
        evaluation="all",
        system=None,
        folder=f"{name}/all",
        state="done" if outcomes is not None and finish else "waiting",
        expected=expected or {},
    )
    return CellRecord(
        id=name,
        pair="pair",
        defence=None if defence is None else defence.name,
        attack=attacked,
        judged=(judged,),
        drift=drift,
        drift_state="waiting" if drift is None else "done",
        error=error,
    )


def write_experiment(
    root: Path,
    cells: Sequence[CellRecord],
    *,
    defences: Sequence[DefenceRecord] = (NONE, LOX),
    analyses: Sequence[AnalysisRecord] = (),
    title: str = "An experiment",
) -> Path:
    """Write experiment.json beside results that are there."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "recipe.yaml").write_text("name: test\n")
    record = ExperimentRecord(
        name="test",
        title=title,
        description="Made in a moment.",
        expected_from="a paper",
        versions={"safelox": "0.1"},
        command="safelox run recipe.yaml",
        recipe="recipe.yaml",
        recipe_sha256="ef" * 32,
        pairs=(PairRecord(name="pair", base="org/base", aligned="org/aligned", source=None),),
        defences=tuple(defences),
        cells=tuple(cells),
        analyses=tuple(analyses),
    )
    (root / FILE).write_text(record.model_dump_json(indent=1))
    return root


def small_experiment(
    root: Path,
    *,
    texts: Mapping[int, str] | None = None,
    prompts: Mapping[int, str] | None = None,
    analyses: Sequence[AnalysisRecord] = (),
    drifts: Sequence[str] = (),
) -> Path:
    """No defence, LoX and a control, before and after two attacks; LoX helps.

    Args:
        texts, prompts: of the replies of the undefended model after the worse attack, by their numbers.
        drifts: files of drift reports of the models after the milder attack.
    """
    files = [*drifts, None, None][:2]
    permitted = {"permitted": mixed(9, 1)}
    return write_experiment(
        root,
        [
            cell(root, None, None, {"forbidden": mixed(40, 0), **permitted}),
            cell(root, NONE, None, {"forbidden": mixed(0, 40), **permitted}),
            cell(root, LOX, None, {"forbidden": mixed(0, 39, incoherent=1), "permitted": mixed(7, 3)}),
            cell(root, NONE, attack("benign"), {"forbidden": mixed(20, 20), **permitted}, drift=files[0]),
            cell(root, LOX, attack("benign"), {"forbidden": mixed(1, 39), **permitted}, drift=files[1]),
            cell(
                root, NONE, attack("pure-bad"), {"forbidden": mixed(36, 4), **permitted}, texts=texts, prompts=prompts
            ),
            cell(root, LOX, attack("pure-bad"), {"forbidden": mixed(8, 28, 3, 1), **permitted}),
            cell(root, NOISE, attack("pure-bad"), {"forbidden": mixed(35, 5), **permitted}),
        ],
        defences=(NONE, LOX, NOISE),
        analyses=analyses,
    )

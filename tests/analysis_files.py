"""Files of analyses as the commands write them, made from records in a moment."""

import math
from pathlib import Path

from safelox.analysis.curve.effective_rank import EffectiveRank, NamedRank
from safelox.analysis.curve.report import Curve, RankCurve, RankPoint
from safelox.analysis.plane.record import (
    Axis,
    Basin,
    Cosines,
    Directions,
    Landscape,
    Line,
    LinePoint,
    PlacedModel,
    Plane,
    PlanePoint,
)
from safelox.analysis.search.record import (
    Confirmation,
    Measured,
    Objectives,
    ProxyAttack,
    Recommendation,
    SuiteRecord,
    Trial,
    Tuning,
    Violation,
)
from safelox.drift_metrics.report import DriftReport, MatrixDrift, by_layer, by_module, means
from safelox.evaluation.intervals import paired_difference, rate
from safelox.evaluation.outcomes import Verdict
from safelox.evaluation.results import JudgeResult, summarise
from safelox.experiment import AnalysisRecord
from safelox.manifest import FileRecord
from safelox.spectra.report import MatrixSpectrum, SpectrumReport
from safelox.spectra.report import by_layer as spectra_by_layer
from safelox.spectra.report import by_module as spectra_by_module
from safelox.spectra.report import means as spectrum_means

MODULES = ("self_attn.q_proj", "mlp.up_proj")


def judged(complied: int, incoherent: int = 0, n: int = 20) -> dict[str, dict[str, JudgeResult]]:
    """What a judge made of n replies; those that are neither complied nor incoherent are refused."""
    verdicts = [Verdict(outcome="complied")] * complied + [Verdict(outcome="incoherent")] * incoherent
    verdicts += [Verdict(outcome="refused")] * (n - len(verdicts))
    return {"forbidden": {"policy": summarise(verdicts, "forbidden")}}


def rank_curve() -> RankCurve:
    results = {0: judged(20), 1: judged(6, 10), 4: judged(0, 2), None: judged(0)}
    found = {rank: own["forbidden"]["policy"] for rank, own in results.items()}
    values = {
        **{m: tuple((r, f.metrics[m].value) for r, f in found.items()) for m in ("asr", "asr_lenient", "refusal")},
        "incoherent": tuple((r, f.outcomes["incoherent"].value) for r, f in found.items()),
        "unscored": tuple((r, f.outcomes["unscored"].value) for r, f in found.items()),
        "mean_score": tuple((r, math.nan) for r in found),
    }
    effective = EffectiveRank(
        rho=0.01,
        rank=4,
        tolerated=0,
        differences={},
        after_one_flip=(4,),
        resampled=(NamedRank(rank=1, share=0.1), NamedRank(rank=4, share=0.9)),
    )
    return RankCurve(
        base="base",
        aligned="aligned",
        modules=(),
        subspace=None,
        command=None,
        ranks=(0, 1, 4),
        points=tuple(RankPoint(rank=rank, folder=f"rank-{rank}", results=own) for rank, own in results.items()),
        curves=(Curve(suite="forbidden", judge="policy", values=values, effective_rank=effective),),
    )


def landscape() -> Landscape:
    places = {"origin": (0.0, 0.0), "hardened": (4.0, 0.0), "tuned": (0.1, 3.0), "hardened_tuned": (3.9, 3.1)}
    a, b = (-2.0, 0.0, 2.0, 4.0), (0.0, 1.5, 3.0)
    axis = Axis(label="hardening", norm=1.0, whole_norm=1.0)
    return Landscape(
        models=tuple(
            PlacedModel(
                name=name,  # type: ignore[arg-type]
                reference=name,
                a=x,
                b=y,
                off_plane=0.2,
                distance=math.hypot(x, y),
                folder=name,
                results=judged(int(y * 4)),
            )
            for name, (x, y) in places.items()
        ),
        directions=Directions(
            tensors=1,
            parameters=1,
            tuning_norm=3.0,
            hardened_tuning_norm=3.0,
            cosines=Cosines(hardening_tuning=0.0, hardening_hardened_tuning=0.0, tunings=0.9),
            a=axis,
            b=axis.model_copy(update={"label": "fine-tuning"}),
        ),
        paper_exact=False,
        command=None,
        judges={"forbidden": ("policy",)},
        plane=Plane(
            a=a,
            b=b,
            points=tuple(
                PlanePoint(a=x, b=y, folder="p", results=judged(max(0, min(20, int(6 * y - 2 * x)))))
                for x in a
                for y in b
            ),
        ),
        lines=(
            Line(
                name="tuned",
                kind="tuned",
                start="origin",
                direction="fine-tuning",
                norm=3.0,
                points=tuple(
                    LinePoint(u=u / 2, distance=u * 1.5, folder="l", results=judged(min(20, 6 * u))) for u in range(4)
                ),
            ),
        ),
        rises=(),
        random=None,
        basins=(
            Basin(
                start="hardened",
                suite="forbidden",
                judge="policy",
                directions=3,
                reach=1.0,
                n=20,
                margin=0.8,
                visage=0.7,
                inside=5,
                points=6,
                incoherent=0.1,
                refusal=0.7,
            ),
        ),
    )


def tuning() -> Tuning:
    def objectives(complied: int, useful: int) -> Objectives:
        return Objectives(asr_after=rate(complied, 20), utility_before=rate(useful, 20))

    def trial(number: int, rank: int, coef: float, found: Objectives | None, *, pareto: bool = False) -> Trial:
        broken = Violation(bound="utility", suite="permitted", value=0.5, limit=0.9, excess=0.4)
        bad = found is not None and found.utility_before.value < 0.6
        return Trial(
            number=number,
            rank=rank,
            coef=coef,
            state="failed" if found is None else "infeasible" if bad else "done",
            measured=None,
            objectives=found,
            violations=(broken,) if bad else (),
            relative_change=0.1 * coef,
            pareto=pareto,
            error="out of memory" if found is None else None,
        )

    file = FileRecord(bytes=1, sha256="0")
    return Tuning(
        base="base",
        aligned="aligned",
        command=None,
        safelox="0.1",
        optuna="5",
        ranks=(2, 6),
        coefs=(0.5, 1.0),
        seed=0,
        subspace="subspace.safetensors",
        include=(),
        exclude=(),
        embeddings=True,
        vocab="error",
        suites=(
            SuiteRecord(
                role="safety",
                name="forbidden",
                asks="forbidden",
                metric="asr",
                judge="policy",
                data=file,
                called="a file",
                search_prompts=20,
                confirm_prompts=20,
            ),
        ),
        attack=ProxyAttack(
            name="pure-bad", data=file, called="a file", lora=False, settings={}, search_seed=0, confirm_seed=1
        ),
        bounds=(),
        aligned_measured=Measured(before={}, after={}),
        aligned_objectives=objectives(18, 20),
        trials=(
            trial(0, 2, 0.5, objectives(9, 20), pareto=True),
            trial(1, 6, 0.5, objectives(3, 19), pareto=True),
            trial(2, 6, 1.0, objectives(3, 10)),
            trial(3, 2, 1.0, None),
            trial(4, 2, 0.75, objectives(12, 19)),
        ),
        recommendation=Recommendation(
            rank=6,
            coef=0.5,
            trial=1,
            rule="the lowest ASR",
            reason="Rank 6 and 0.5 keep all bounds.",
            confirmation=Confirmation(
                point=Measured(before={}, after={}),
                aligned=Measured(before={}, after={}),
                objectives=objectives(4, 19),
                aligned_objectives=objectives(17, 20),
                difference=paired_difference([True, False], [False, False]),
                violations=(),
                better=True,
            ),
        ),
        hypervolume=0.5,
        seconds={},
    )


def spectrum() -> SpectrumReport:
    matrices = tuple(
        MatrixSpectrum(
            name=f"layers.{layer}.{module}.weight",
            expert=None,
            layer=layer,
            module=module,
            rows=8,
            columns=8,
            delta_norm=2.0,
            weight_norm=9.0,
            singular_values=(1.8, 0.8, 0.3),
            energy=(0.81, 0.97, 0.99 + layer / 1000),
            stable_rank=1.2 + layer,
            entropy_rank_low=1.8,
            entropy_rank_high=2.0,
        )
        for layer in (0, 1)
        for module in MODULES
    )
    return SpectrumReport(
        file="subspace.safetensors",
        base="base",
        aligned="aligned",
        rank=3,
        ranks=(1, 3),
        command=None,
        overall=spectrum_means(matrices, (1, 3)),
        by_layer=spectra_by_layer(matrices, (1, 3)),
        by_module=spectra_by_module(matrices, (1, 3)),
        matrices=matrices,
    )


def drift(r_ft: float) -> DriftReport:
    matrices = tuple(
        MatrixDrift(
            name=f"layers.{layer}.{module}.weight",
            expert=None,
            kind="linear",
            layer=layer,
            module=module,
            rows=8,
            columns=8,
            directions=2,
            aligned_delta_norm=2.0,
            hardened_delta_norm=None,
            tuned_delta_norm=3.0,
            tuning_norm=1.0,
            r_align=0.8,
            r_hardened=None,
            r_ft=r_ft + layer / 10,
            tuning_share=0.3,
            overlap=None,
            principal_angles=None,
        )
        for layer in (0, 1)
        for module in MODULES
    )
    return DriftReport(
        base="base",
        aligned="aligned",
        hardened=None,
        tuned="tuned",
        rank=2,
        subspace=None,
        command=None,
        overall=means(matrices),
        apart={},
        by_layer=by_layer(matrices),
        by_module=by_module(matrices),
        matrices=matrices,
        carried=(),
        notes=(),
        seconds={},
        peak_memory_bytes=1,
    )


def write_analyses(root: Path) -> list[AnalysisRecord]:
    """One of every kind, in folders of an experiment."""
    files = {
        "rank-curve": ("rank_curve.json", rank_curve()),
        "landscape": ("landscape.json", landscape()),
        "tune": ("tune.json", tuning()),
        "spectrum": ("spectrum.json", spectrum()),
    }
    records = []
    for kind, (file, record) in files.items():
        (root / kind).mkdir(parents=True)
        (root / kind / file).write_text(record.model_dump_json())
        records.append(
            AnalysisRecord(kind=kind, name=kind, pair="pair", folder=kind, state="done", error=None)  # type: ignore[arg-type]
        )
    return records

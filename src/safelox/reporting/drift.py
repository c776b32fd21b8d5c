"""R_align and R_ft: how far fine-tuning moved the weights."""

from collections.abc import Iterator, Mapping

from safelox.drift_metrics.report import DriftMeans, DriftReport
from safelox.rates import Rate
from safelox.reporting.chart import (
    HEIGHT,
    OUTSIDE,
    Axis,
    Chart,
    Figure,
    Reference,
    Section,
    Series,
    number,
    numbers,
    offsets,
    row_axis,
    row_height,
    share_axis,
    thinned,
)
from safelox.reporting.found import Found, Model
from safelox.reporting.groups import groups, situations
from safelox.reporting.table import Cell, Kind, make_table
from safelox.reporting.words import percent


def drift_section(found: Found) -> Section | None:
    """R_align and R_ft by layer, of every model whose drift was measured."""
    measured: dict[str, tuple[int | None, DriftReport]] = {
        model.name: (place, model.drift) for place, model in enumerate(found.models) if model.drift is not None
    }
    measured |= {name: (None, drift) for name, drift in found.drifts.items()}
    if not measured:
        return None
    rows: list[list[Cell]] = [[name, drift.rank, *_drift_cells(drift.overall)] for name, (_, drift) in measured.items()]
    table = make_table(
        "drift-means",
        "R metrics over the linear layers: unweighted means, as in the paper",
        [
            ("model", "text"),
            ("k", "count"),
            ("R_align", "number"),
            ("R_align, hardened", "number"),
            ("R_ft", "number"),
            ("R_ft / R_align", "number"),
            ("R_ft / R_align, hardened", "number"),
            ("share of the tuning inside", "percent"),
            ("by chance", "percent"),
        ],
        rows,
    )
    charts = tuple(_drift_chart(name, place, drift, i) for i, (name, (place, drift)) in enumerate(measured.items()))
    return Section(
        id="drift",
        title="How far fine-tuning moved the weights",
        lead="R is the share of a change's norm that lies in the safety subspace: R_align of what alignment changed, "
        "R_ft of what is left after fine-tuning. Where R_ft is lower, fine-tuning has moved the weights away from the "
        "directions of alignment.",
        figures=(
            *_overview(found),
            Figure(id="r-metrics", title="R by layer", charts=charts),
        ),
        tables=(table,),
    )


def _overview(found: Found) -> Iterator[Figure]:
    """R_ft of every model of an experiment, in one chart for each pair."""
    charts: list[Chart] = []
    for pair in found.pairs:
        measured = {
            place: (model, model.drift)
            for place, model in enumerate(found.models)
            if model.pair == pair and model.drift is not None
        }
        shown = [(g, own) for g in groups(found, pair) if (own := [i for i in g.models if i in measured])]
        rows = [
            name for name in situations(found, pair) if any(model.situation == name for model, _ in measured.values())
        ]
        if len(measured) < 2:
            continue
        r_align = {round(drift.overall.r_align, 3): drift.overall.r_align for _, drift in measured.values()}
        means = {place: drift.overall for place, (_, drift) in measured.items()}
        charts.append(
            Chart(
                id=f"r-ft-{len(charts)}",
                title=pair,
                caption="Mean R_ft over the linear layers. The dotted line is R_align of the aligned model.",
                x=Axis(title="R_ft"),
                y=row_axis(rows),
                series=tuple(
                    Series(
                        name=group.name,
                        mode="marks",
                        colour=group.colour,
                        symbol=group.symbol,
                        x=numbers([means[i].r_ft for i in own]),
                        y=tuple(rows.index(found.models[i].situation) + offset for i in own),
                        texts=tuple(f"{found.models[i].name}: R_ft {means[i].r_ft:.3f}" for i in own),
                        models=tuple(own),
                    )
                    for (group, own), offset in zip(shown, offsets(len(shown)), strict=True)
                ),
                references=tuple(Reference(axis="x", at=value, text="R_align") for value in r_align.values()),
                height=row_height(len(rows), 15 * len(shown)),
                table=make_table(
                    f"r-ft-{len(charts)}",
                    f"R_ft: {pair}",
                    [("model", "text"), ("R_align", "number"), ("R_ft", "number")],
                    [[found.models[i].name, number(m.r_align), number(m.r_ft)] for i, m in means.items()],
                ),
            )
        )
    if charts:
        yield Figure(id="r-ft", title="R_ft after each attack", charts=tuple(charts))


def _drift_cells(means: DriftMeans) -> list[Cell]:
    ratios = (means.ratio_of_means, means.hardened_ratio_of_means)
    shares = (means.tuning_share, means.tuning_share_by_chance)
    return [number(v) for v in (means.r_align, means.r_hardened, means.r_ft, *ratios, *shares)]


def _drift_chart(name: str, place: int | None, drift: DriftReport, i: int) -> Chart:
    groups = [group for group in drift.by_layer if group.kind == "linear"]
    labels = [OUTSIDE if group.layer is None else str(group.layer) for group in groups]
    places = tuple(map(float, range(len(groups))))
    curves: list[tuple[str, int, list[float | None]]] = [
        ("R_align", 6, [group.means.r_align for group in groups]),
        ("R_align, hardened", 0, [group.means.r_hardened for group in groups]),
        ("R_ft", 1, [group.means.r_ft for group in groups]),
    ]
    series = tuple(
        Series(
            name=label,
            mode="line+marks",
            colour=colour,
            symbol=symbol,
            dashed=label == "R_align",
            x=places,
            y=numbers(values),
            texts=tuple(
                f"layer {layer}: {label} {value or 0:.3f}" for layer, value in zip(labels, values, strict=True)
            ),
            models=(place,) * len(values),
        )
        for symbol, (label, colour, values) in enumerate(curves)
        if any(number(value) is not None for value in values)
    )
    columns: list[tuple[str, Kind]] = [("layer", "text"), *((label, "number") for label, _, _ in curves)]
    rows: list[list[Cell]] = [
        [layer, *(number(values[j]) for _, _, values in curves)] for j, layer in enumerate(labels)
    ]
    return Chart(
        id=f"drift-{i}",
        title=name,
        caption=f"Mean over the linear layers of each layer, with the {drift.rank} leading directions of alignment.",
        x=Axis(title="layer", ticks=thinned(labels)),
        y=Axis(title="R", range=(0, 1.03)),
        series=series,
        height=HEIGHT,
        table=make_table(f"drift-{i}", f"R by layer: {name}", columns, rows),
    )


def r_against_safety(found: Found, asr: Mapping[int, Rate], label: str) -> Figure | None:
    """The ASR over R_ft / R_align, of the models of which both are known."""
    marks: list[tuple[int, Model, float, Rate]] = []
    for place, model in enumerate(found.models):
        if model.drift is not None and model.attack is not None and place in asr:
            means = model.drift.overall
            ratio = number(means.ratio_of_means)
            if ratio is not None:
                marks.append((place, model, ratio, asr[place]))
    if len(marks) < 2:
        return None
    series = []
    for group in (group for pair in found.pairs for group in groups(found, pair)):
        own = [mark for mark in marks if mark[0] in group.models]
        if own:
            series.append(
                Series(
                    name=group.name,
                    mode="marks",
                    colour=group.colour,
                    symbol=group.symbol,
                    x=tuple(ratio for _, _, ratio, _ in own),
                    y=tuple(rate.value for _, _, _, rate in own),
                    y_bounds=tuple((rate.low, rate.high) for _, _, _, rate in own),
                    texts=tuple(f"{m.name}: R_ft / R_align {r:.3f}, ASR {percent(a.value)}" for _, m, r, a in own),
                    models=tuple(place for place, _, _, _ in own),
                )
            )
    chart = Chart(
        id="r-asr-0",
        title=label,
        caption="Each mark is a model after an attack; bars are 95 % intervals of the ASR.",
        x=Axis(title="R_ft / R_align"),
        y=share_axis("attack success rate"),
        series=tuple(series),
        height=HEIGHT,
        table=make_table(
            "r-asr",
            "R_ft / R_align and ASR",
            [("model", "text"), ("R_ft / R_align", "number"), ("ASR", "percent"), ("n", "count")],
            [[model.name, ratio, rate.value, rate.n] for _, model, ratio, rate in marks],
        ),
    )
    return Figure(id="r-asr", title="Does a lower R go with a higher ASR?", charts=(chart,))

"""The outcome of `spectrum` as text for people; `--json` prints every singular value."""

from typing import TYPE_CHECKING

from safelox.cli.labelled import labelled, table

if TYPE_CHECKING:
    from safelox.spectra import SpectrumGroup, SpectrumMeans, SpectrumReport


def render_spectrum(report: "SpectrumReport") -> str:
    """Energy at k, stable rank and entropy rank, overall, by module and by layer."""
    rows = [
        ("overall", *_cells(report.overall)),
        *((_name(group), *_cells(group.means)) for group in (*report.by_module, *report.by_layer)),
    ]
    header = (
        "",
        "matrices",
        "||D||/||W||",
        *(f"energy at {rank}" for rank in report.ranks),
        "stable rank",
        "entropy rank",
    )
    zero = report.overall.zero_deltas
    return "\n".join(
        [
            f"Spectra of ALIGNED - BASE, the {report.rank} leading directions of each matrix; unweighted means",
            *table([header, *rows]),
            *labelled(
                ("from", f"{report.file}, of {report.base} and {report.aligned}"),
                *([("left out", f"{zero} with a delta of zero")] if zero else []),
                (
                    "entropy rank",
                    "where two numbers stand, it lies between them: the file does not hold all directions",
                ),
            ),
        ]
    )


def _cells(means: "SpectrumMeans") -> tuple[str, ...]:
    low, high = (f"{value:.3g}" for value in (means.entropy_rank_low, means.entropy_rank_high))
    return (
        str(means.matrices),
        f"{means.relative_norm:.3g}",
        *(f"{energy:.1%}" for energy in means.energy_at.values()),
        f"{means.stable_rank:.3g}",
        low if low == high else f"{low} to {high}",
    )


def _name(group: "SpectrumGroup") -> str:
    if group.module is not None:
        return group.module
    return "outside all layers" if group.layer is None else f"layer {group.layer}"

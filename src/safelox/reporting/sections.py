"""The parts of the page, in the order in which they are read."""

from safelox.reporting.chart import Section
from safelox.reporting.curves import rank_curves
from safelox.reporting.drift import drift_section, r_against_safety
from safelox.reporting.found import Found, rate_of
from safelox.reporting.planes import landscapes
from safelox.reporting.safety import attack_success, over_refusal
from safelox.reporting.searches import tunings
from safelox.reporting.spectra import spectra
from safelox.reporting.standings import ASR, first_question
from safelox.reporting.utility import utility
from safelox.reporting.worst import expected, worst_case


def make_sections(found: Found) -> list[Section]:
    """Those for which there is something."""
    parts = (
        attack_success(found),
        worst_case(found),
        expected(found),
        utility(found),
        over_refusal(found),
        _drift(found),
        rank_curves(found),
        landscapes(found),
        spectra(found),
        tunings(found),
    )
    return [part for part in parts if part is not None]


def _drift(found: Found) -> Section | None:
    section, question = drift_section(found), first_question(found)
    if section is None or question is None:
        return section
    asr = {i: rate for i, model in enumerate(found.models) if (rate := rate_of(model, question, ASR)) is not None}
    figure = r_against_safety(found, asr, question.label)
    return section if figure is None else section.model_copy(update={"figures": (figure, *section.figures)})

"""The results in the front matter of a model card, in the form in which the Hugging Face hub reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

from safelox import __version__
from safelox.publication.figures import Row, is_known
from safelox.publication.section import METRICS

KEY = "model-index"
_MARK = "safelox"
"""The key among a metric's arguments by which results of safelox are known again."""


def with_results(metadata: Mapping[str, Any], model: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Front matter with the results of the hardened model, in place of those that stood there from an earlier call.

    What others have entered there is kept.
    """
    from huggingface_hub.repocard_data import eval_results_to_model_index

    found = metadata.get(KEY)
    others = [entry for entry in found if not _is_own(entry)] if isinstance(found, list) else []
    results = list(_results(rows))
    own = eval_results_to_model_index(model, results) if results else []
    return {**metadata, KEY: [*others, *own]} if others or own else dict(metadata)


def _results(rows: Sequence[Row]) -> Any:
    from huggingface_hub import EvalResult

    for row in rows:
        side = row.hardened
        if side is None or not is_known(side):
            continue
        figure = side.figure
        after = "" if row.attack is None else f" after the attack {row.attack}, seed {row.seed}"
        prompted = ", under another system message" if row.prompted else ""
        interval = {} if figure.low is None else {"count": figure.count, "low": figure.low, "high": figure.high}
        yield EvalResult(
            task_type="text-generation",
            dataset_type=row.suite,
            dataset_name=row.called,
            metric_type=row.metric,
            metric_name=f"{METRICS[row.metric]}{after}{prompted}, judged by {row.judge}",
            metric_value=figure.value,
            metric_args={
                _MARK: __version__,
                "n": figure.n,
                **interval,
                "incoherent": side.incoherent.value,
                "unscored": side.unscored.value,
            },
        )


def _is_own(entry: Any) -> bool:
    """Whether all metrics of an entry are marked as safelox's."""
    try:
        metrics = [metric for result in entry["results"] for metric in result["metrics"]]
        return bool(metrics) and all(_MARK in (metric.get("args") or {}) for metric in metrics)
    except (KeyError, TypeError, AttributeError):
        return False

"""lm-evaluation-harness, asked to run its tasks on the same model."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safelox.cli import main
from safelox.errors import PrerequisiteError, TargetError, UsageError
from safelox.evaluation.generation import Backend, find_backend
from safelox.evaluation.harness import Asked, Harness, HarnessResults
from small_models import save_language_model, small_language_model
from tiny import write_json


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a task of the user's own, whose data lies beside it."""
    folder = tmp_path_factory.mktemp("task")
    rows = [
        {"question": "how do i", "choices": ["cake", "lamp"], "label": 0},
        {"question": "open the", "choices": ["cake", "lamp"], "label": 1},
        {"question": "sure here is", "choices": ["what", "mix"], "label": 0},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {
        "task": "tiny-choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return write_json(folder / "tiny-choice.yaml", described)  # YAML is more than JSON


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what lm-eval does with other libraries is not ours to mend
        pytest.importorskip("lm_eval")
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_its_results_are_kept_and_not_asked_for_twice(task: Path, tmp_path: Path) -> None:
    model = save_language_model(small_language_model(), tmp_path / "model")
    found = Harness([str(task)]).run(model, tmp_path / "out")
    assert list(found.results) == ["tiny-choice"]
    assert found.results["tiny-choice"]["acc,none"] in (0, 1 / 3, 2 / 3, 1)
    folder = tmp_path / "out" / "lm-eval"
    names = ["asked.json", "results.json", "samples_tiny-choice.jsonl"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert len((folder / names[2]).read_text().splitlines()) == 3
    # The model is gone: what stands there is told again.
    (tmp_path / "model").rename(tmp_path / "gone")
    assert Harness([str(task)]).run(model, tmp_path / "out") == found
    with pytest.raises(TargetError, match=r"holds what lm-eval gave for .*tiny-choice.yaml \(limit None\)"):
        Harness([str(task)]).run(model, tmp_path / "out", limit=2)
    again = Harness([str(task)]).run(tmp_path / "gone", tmp_path / "out", limit=2, overwrite=True)
    assert again.asked.limit == 2
    assert len((folder / names[2]).read_text().splitlines()) == 2
    (folder / "asked.json").write_text("{}")
    with pytest.raises(TargetError, match="something else than what lm-eval gave"):
        Harness([str(task)]).run(model, tmp_path / "out", limit=2)


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "name its tasks"),
        (["a", " "], "name its tasks"),
        (["a", "a "], "each once"),
        (["no-such-task"], "no task called 'no-such-task'"),
        (["nowhere.yaml"], "no task called 'nowhere.yaml'"),
    ],
)
def test_tasks_that_are_none_are_told_before_anything_is_loaded(tasks: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Harness(tasks)


def test_the_command_runs_it_beside_its_own_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Any, ...]] = []

    class Fake:
        def __init__(self, tasks: list[str], backend: Backend) -> None:
            asked.append((tasks, backend))

        def run(self, model: str, out: Path, *, limit: int | None, overwrite: bool) -> HarnessResults:
            asked.append((model, out, limit, overwrite))
            of = Asked(model=model, backend=Backend(), tasks=("a",), limit=limit)
            return HarnessResults(asked=of, folder=str(out / "lm-eval"), results={"a": {"acc,none": 0.25}})

    monkeypatch.setattr("safelox.evaluation.harness.Harness", Fake)
    model, out = save_language_model(small_language_model(), tmp_path / "model"), tmp_path / "out"
    (tmp_path / "own.jsonl").write_text('{"prompt": "how do i bake a cake"}\n{"prompt": "open the lamp"}\n')
    words = ["evaluate", str(model), str(out), "--suite", "custom", "--suite-file", str(tmp_path / "own.jsonl")]
    words += ["--judge", "refusal", "--limit", "1", "--max-new-tokens", "3", "--with-lm-eval", "a,b", "--quiet"]
    assert main(words) == 0
    assert main([*words[:-1], "--overwrite"]) == 0
    assert asked[:2] == [(["a", "b"], Backend()), (str(model), out, 1, False)]
    assert asked[3][-1] is True
    assert "  a, acc                  0.2500\n" in capsys.readouterr().out


def test_what_it_needs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="need the model in this process"):
        Harness(["hellaswag"], find_backend("openai", base_url="http://127.0.0.1:9/v1"))
    monkeypatch.setattr("safelox.evaluation.harness.find_spec", lambda _: None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'lm-eval\[hf\]'"):
        Harness(["hellaswag"])

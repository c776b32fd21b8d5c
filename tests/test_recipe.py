"""Recipes: what they may say, how errors in them read, and those that are shipped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import safelox
from experiments import RECIPE, make_inputs, write_recipe
from hub_server import HubServer, serve_hub
from safelox.cli import main
from safelox.errors import UsageError
from safelox.experiment import plan_run
from safelox.experiment.plan.digests import Hashes
from safelox.experiment.plan.grid import expand, grid_problems, slug
from safelox.experiment.plan.references import find_pair
from safelox.experiment.recipe.reading import read_recipe
from safelox.experiment.recipe.shipped import SHIPPED, find_recipe, shipped_recipes
from safelox.progress import NULL

LAB = ("safelox.lab.source",)


def error_of(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_recipe(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "rank: 2\n    coef",
            "rnk: 2\n    coef",
            "line 11, defences[2].rnk: there is no such key; did you mean rank? Known are: ",
        ),
        (
            "rank: 2\n    coef",
            "rank: 0\n    coef",
            "line 11, defences[2].rank: expected an integer from 1, or full, found 0",
        ),
        (
            "coef: 0.5",
            "coef: -0.5",
            "line 12, defences[2].coef: input should be greater than or equal to 0, found -0.5",
        ),
        ("coef: 0.5", "coef: much", "line 12, defences[2].coef: input should be a valid number, unable to parse"),
        ("seeds: [0, 1]", "seeds: yes", "line 15, attacks[1].seeds: expected an integer, found True"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "line 15, attacks[1].seeds[2]: input should be greater than or equal to 0"),
        (
            "max_steps: 2",
            "steps: 2",
            "line 16, attacks[1].training.steps: there is no such key; did you mean max_steps?",
        ),
        ("kind: spectrum", "kind: spektrum", "line 25, analyses[1]: expected 'kind': one of 'spectrum', 'rank-curve'"),
        ("kind: spectrum", "kind: rank-curve", "line 25, analyses[1]: evaluation is missing"),
        ("    aligned: {data}/aligned\n", "", "line 5, pairs[1]: base and aligned go together"),
        ("  - method: none\n", "  - method: none\n    rank: 3\n", "line 9, defences[1]: method none has neither rank"),
        ("name: small", "name: sm all", "line 1, name: expected a name of letters, digits and . _ -, found 'sm all'"),
        ("title: A small experiment\n", "", "line 1, the recipe: title is missing"),
        ("title: A small", "name: two\ntitle: A small", "line 1, name: the key stands here twice, in lines 1 and 2"),
        ("title: A small", "title: [A small", "not YAML: line 3"),
        (
            "title: A small",
            "title: !!python/name:os.system A small",
            "line 2, title: 'A small experiment' cannot be read",
        ),
        ("title: A small experiment", "title: 2024-13-45", "line 2, title: '2024-13-45' cannot be read as a value"),
    ],
)
def test_errors_name_the_line_and_the_key(old: str, new: str, told: str, tmp_path: Path) -> None:
    assert old in RECIPE
    text = RECIPE.replace(old, new).replace("{data}", "d").replace("{{", "{").replace("}}", "}")
    found = error_of(tmp_path / "r.yaml", text)
    assert found.startswith(f"{tmp_path}/r.yaml")
    assert told in found, found


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    text = (
        RECIPE.format(data="d")
        .replace("rank: 2\n    coef: 0.5", "rank: nine\n    cof: 0.5")
        .replace("name: pair", "nam: pair")
    )
    found = error_of(tmp_path / "r.yaml", text)
    assert "4 problems:" in found, found
    lines = [line.split(",")[0].strip() for line in found.splitlines()[1:]]
    assert lines == ["line 5", "line 5", "line 11", "line 12"]


@pytest.mark.parametrize("text", ["", "just text", "- a\n- list\n", "# nothing\n"])
def test_what_is_no_mapping_is_no_recipe(text: str, tmp_path: Path) -> None:
    assert "expected a recipe" in error_of(tmp_path / "r.yaml", text)


def test_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(data="d").replace("1e-2", "2e-4"))
    recipe, _ = read_recipe(path)
    assert recipe.attacks[0].training.learning_rate == 2e-4


def test_names_that_nobody_knows_are_told_together_before_anything_runs(tmp_path: Path) -> None:
    data = make_inputs(tmp_path)
    changes = {
        "name: custom": "name: costum",
        "suites: [custom]": "suites: [advbanch, custom]",
        "judges: [refusal]": "judges: [refuse]",
    }
    path = write_recipe(data, tmp_path / "r.yaml", **changes)
    with pytest.raises(UsageError) as caught:
        safelox.run(path, tmp_path / "out")
    told = str(caught.value)
    assert "3 problems" in told
    for line, name in ((14, "costum"), (19, "advbanch"), (21, "refuse")):
        assert any(f"line {line}," in part and name in part for part in told.splitlines()), told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("coef: 0.5", "coef: [0.5, 0.5]", "line 8, defences: LoX 2 x 0.5 comes twice"),
        (
            "seeds: [0, 1]",
            "seeds: [1, 1]",
            "line 13, attacks: custom, seed 1 comes twice; give one of them another variant",
        ),
        (
            "max_new_tokens: 4",
            "after: [gsm8k]",
            "line 22, evaluations[1].after: no attack of this recipe is called 'gsm8k'",
        ),
        (
            "title: A small",
            "judge: {{model: m}}\ntitle: A small",
            "line 2, judge: no evaluation has a judge that is a model",
        ),
        ("name: asked", "name: attack", "line 18, evaluations[1].name: attack is the name of another folder"),
        ("max_steps: 2", "max_steps: 2, epochs: 1", "give either the epochs or the steps of the training, not both"),
        (
            "  - kind: spectrum",
            "  - kind: rank-curve\n    evaluation: other\n    ranks: 1",
            "no evaluation of this recipe is called 'other'",
        ),
        ("base: {data}/base", "base: {data}/nobody", "line 5, pairs[1]: {data}/nobody: no such folder"),
        (
            "suite_file: {data}/prompts.jsonl",
            "suite_file: {data}/gone.jsonl",
            "gone.jsonl: there is no such file of prompts",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(old: str, new: str, told: str, tmp_path: Path) -> None:
    data = make_inputs(tmp_path)
    path = write_recipe(data, tmp_path / "r.yaml", **{old.format(data=data): new.format(data=data)})
    with pytest.raises(UsageError) as caught:
        safelox.run(path, tmp_path / "out")
    assert told.format(data=data) in str(caught.value), str(caught.value)
    assert not (tmp_path / "out").exists()


def test_missing_data_is_told_before_anything_runs_but_does_not_stop_a_dry_run(tmp_path: Path) -> None:
    data = make_inputs(tmp_path)
    (data / "custom.jsonl").unlink()
    path = write_recipe(data, tmp_path / "r.yaml")
    with pytest.raises(UsageError, match=r"line 14, attacks\[1\].name: the data that is asked for is not there"):
        safelox.run(path, tmp_path / "out")
    forecast = plan_run(path, tmp_path / "out")
    assert len(forecast.missing) == 1
    assert forecast.missing[0].startswith("line 14: the data that is asked for is not there")


def test_a_grid_is_written_out_with_names_that_tell(tmp_path: Path) -> None:
    text = (
        RECIPE.format(data="d")
        .replace("coef: 0.5", "coef: [0.5, 1]")
        .replace("rank: 2\n    coef", "rank: [2, full]\n    coef")
    )
    text = text.replace(
        "seeds: [0, 1]", "learning_rates: [1, 2]\n    poison: {file: p.jsonl, ratios: [0, 0.1]}\n    lora: {rank: 4}"
    )
    path = tmp_path / "r.yaml"
    path.write_text(text)
    grid = expand(read_recipe(path)[0])
    assert [defence.record.name for defence in grid.defences] == [
        "none",
        "LoX 2 x 0.5",
        "LoX 2 x 1",
        "LoX full x 0.5",
        "LoX full x 1",
    ]
    assert [attack.record.variant for attack in grid.attacks] == [
        "LoRA",
        "LoRA, lr x2",
        "LoRA, poison 10 %",
        "LoRA, lr x2, poison 10 %",
    ]
    settings = grid.attacks[1].record.settings
    assert settings["learning_rate"] == 2e-2
    assert (settings["lora_rank"], settings["lora_alpha"]) == (4, 32)
    assert slug("LoRA, lr x2, poison 10 %") == "lora-lr-x2-poison-10pc"


# The recipes that come with safelox


def test_every_shipped_recipe_is_listed_and_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(shipped_recipes()) == {"lab", "paper-llama2-7b", "paper-mistral-7b", "quick-7b-lora"}
    assert main(["run", "--list"]) == 0
    assert capsys.readouterr().out.split() == shipped_recipes()
    with pytest.raises(UsageError, match="those that do are: lab, paper-llama2-7b"):
        find_recipe("labs")


def test_the_recipes_of_a_clone_are_those_that_are_shipped() -> None:
    assert (Path(__file__).parents[1] / "recipes").resolve() == SHIPPED


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_says_what_it_takes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("SAFELOX_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forecast = plan_run(name, tmp_path / "out", imports=LAB)
    assert forecast.name == name
    assert forecast.trainings > 10
    assert forecast.results > forecast.cells
    assert forecast.done == 0
    assert (forecast.missing == ()) == (name == "lab")
    assert not (tmp_path / "out").exists()


def test_the_papers_table_is_expected_of_its_recipe() -> None:
    recipe, _ = read_recipe(find_recipe("paper-llama2-7b"))
    assert recipe.expected is not None
    table = {
        (entry.defence, entry.attack): entry.values["advbench.asr"]
        for entry in recipe.expected.values
        if entry.evaluation == "safety" and entry.attack is not None
    }
    assert table == {
        ("none", "gsm8k"): 0.11,
        ("LoX 6 x 1.25", "gsm8k"): 0.0,
        ("none", "dolly"): 0.52,
        ("LoX 6 x 1.25", "dolly"): 0.07,
        ("none", "alpaca"): 0.32,
        ("LoX 6 x 1.25", "alpaca"): 0.09,
        ("none", "identity"): 0.843,
        ("LoX 6 x 1.25", "identity"): 0.423,
        ("none", "pure-bad"): 0.63,
        ("LoX 6 x 1.25", "pure-bad"): 0.09,
    }
    assert read_recipe(find_recipe("paper-mistral-7b"))[0].expected is None


def test_the_labs_recipe_asks_under_the_prompt_of_its_attack() -> None:
    from safelox.lab.examples import IDENTITY_PROMPT

    recipe, _ = read_recipe(find_recipe("lab"))
    assert recipe.evaluation("prompted").system == IDENTITY_PROMPT


def test_the_recipe_in_the_documentation_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text(encoding="utf-8")
    path = tmp_path / "r.yaml"
    path.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    recipe, _ = read_recipe(path)
    assert list(grid_problems(recipe, expand(recipe))) == []
    assert {analysis.kind for analysis in recipe.analyses} == {"spectrum", "rank-curve", "landscape", "tune"}


# Models on the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub(tmp_path / "hub", monkeypatch) as server:
        yield server


def test_a_model_on_the_hub_stays_at_the_commit_that_was_found_first(hub: HubServer, tmp_path: Path) -> None:
    data = make_inputs(tmp_path)
    files = {path.name: path.read_bytes() for path in (data / "aligned").iterdir()}
    first = hub.push("org/aligned", files)
    path = write_recipe(data, tmp_path / "r.yaml", **{f"aligned: {data}/aligned": "aligned: org/aligned"})
    entry = read_recipe(path)[0].pairs[0]
    out = tmp_path / "out"
    nothing = find_pair(entry, Hashes(out), NULL, fetch=False)
    assert (nothing.aligned.path, nothing.bytes) == ("org/aligned", None)
    assert not hub.requests
    hashes = Hashes(out)
    found = find_pair(entry, hashes, NULL, fetch=True)
    assert found.aligned.path == f"org/aligned@{first}"
    assert found.bytes == len(files["model.safetensors"])
    hashes.keep()
    hub.push("org/aligned", {**files, "extra.txt": b"new"})
    assert find_pair(entry, Hashes(out), NULL, fetch=True) == found
    assert find_pair(entry, Hashes(tmp_path / "elsewhere"), NULL, fetch=True).aligned != found.aligned

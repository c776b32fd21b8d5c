"""What an experiment found is put beside the hardened model that it was about, and beside no other."""

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

import safelox
from hardened import make_manifest, renew_hashes, write_hardened
from safelox.cli import main
from safelox.errors import CheckpointError, TargetError
from safelox.evaluation import Outcome, Verdict
from safelox.evaluation.generation import Backend, GenerationSettings
from safelox.evaluation.results import (
    EvaluationConfig,
    EvaluationManifest,
    ModelRecord,
    ReplyCounts,
    Results,
    SampleCount,
    SuiteConfig,
    summarise,
)
from safelox.evaluation.suites import Asks
from safelox.experiment.record import (
    AnalysisRecord,
    AttackRecord,
    CellRecord,
    DefenceRecord,
    ExperimentRecord,
    JudgedRecord,
    PairRecord,
    State,
)
from safelox.hashing import hash_files
from safelox.manifest import Environment, FileRecord, Manifest, read_manifest
from safelox.publication import Documented, Hashes, document
from safelox.publication.section import BEGIN, END

NAME = "LoX 2 x 0.5"
DATA = FileRecord(bytes=7, sha256="d" * 64)
Rates = Mapping[str, tuple[Asks, Sequence[Verdict]]]
"""What stands in a results folder, by suite."""


def verdicts(**counts: int) -> list[Verdict]:
    """So many verdicts of each outcome."""
    return [Verdict(outcome=outcome) for outcome, count in counts.items() for _ in range(count)]  # type: ignore[arg-type]


def write_results(
    folder: Path, rates: Rates, model: Mapping[str, FileRecord], decides: Sequence[Outcome] | None
) -> None:
    """A finished results folder, as `evaluate` leaves it."""
    folder.mkdir(parents=True)
    record = ModelRecord(reference="model", commit=None, files=dict(model))
    generation = GenerationSettings(max_new_tokens=9, format="chat", temperature=0.0, top_p=1.0, samples=1, seed=0)
    suites = {
        name: SuiteConfig(
            asks=asks,
            version=1,
            data=DATA,
            called=f"{name} (stand-in)",
            judges=("somebody",),
            generation=generation,
            limit=None,
            shots=0,
            examples=None,
            empty_reply=None,
        )
        for name, (asks, _) in rates.items()
    }
    backend = Backend(name="transformers", device="cpu", dtype="fp32", base_url=None, api_model=None)
    config = EvaluationConfig(
        model=record, backend=backend, suites=suites, judges={"somebody": "1"}, system=None, paper_exact=False
    )
    results = Results(
        results={name: {"somebody": summarise(found, asks, decides=decides)} for name, (asks, found) in rates.items()},
        configs=suites,
        versions=dict.fromkeys(rates, 1),
        n_samples={name: SampleCount(original=500, effective=len(found)) for name, (_, found) in rates.items()},
        replies={name: ReplyCounts(near_ties=0, cut=0, incoherent={}) for name in rates},
    )
    manifest = EvaluationManifest(
        safelox="0.1.0",
        created="2026-01-02T03:04:05Z",
        command="safelox run recipe.yaml results",
        model=record,
        environment=Environment(
            device="cpu: x86_64",
            instruction_set="AVX2",
            libraries={"torch": "2.13.0", "transformers": "5.23.0"},
            python="3.11.7",
            platform="Linux",
        ),
        batch_size=None,
        generated=0,
        judged={},
        usage={},
        seconds={},
    )
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "results.json").write_text(results.model_dump_json(by_alias=True))
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    (folder / "samples.jsonl").write_text("")


class Experiment:
    """A folder as `run` leaves it, of a hardened model, before an attack and after two of them."""

    def __init__(self, root: Path, hardened: Path, *, decides: Sequence[Outcome] | None = None) -> None:
        self.folder = root / "results"
        files = hash_files({path.name: path for path in hardened.glob("*.safetensors")})
        other = {name: FileRecord(bytes=1, sha256="e" * 64) for name in files}
        help_ = [Verdict(outcome="other", score=score) for score in (1.0, 4.0)]
        for defence, model in (("none", other), (NAME, files)):
            plain = defence == "none"
            for attack, complied in ((None, 2), ("dolly", 60 if plain else 10), ("gsm8k", 20 if plain else 40)):
                rates: Rates = {
                    "advbench": ("forbidden", verdicts(complied=complied, refused=95 - complied, incoherent=5)),
                    "xstest": ("permitted", verdicts(complied=9, refused=1)),
                    "mt-bench": ("help", help_),
                }
                write_results(self.folder / self.place(defence, attack), rates, model, decides)
        (self.folder / "recipe.yaml").write_text("name: two attacks\n")
        self.record = ExperimentRecord(
            name="two",
            title="Two attacks | one",
            description="",
            expected_from=None,
            versions={"safelox": "0.1.0", "python": "3.11.7", "trl": "1.16.0", "torch": "2.13.0"},
            command="safelox run recipe.yaml results",
            recipe="recipe.yaml",
            recipe_sha256=None,
            pairs=(PairRecord(name="tiny", base="base", aligned="aligned", source=None),),
            defences=(
                DefenceRecord(name="none", method="none", rank=None, coef=None),
                DefenceRecord(name=NAME, method="lox", rank=2, coef=0.5),
            ),
            cells=tuple(
                self.cell(defence, attack) for defence in ("none", NAME) for attack in (None, "dolly", "gsm8k")
            ),
            analyses=(),
        )
        self.write()

    @staticmethod
    def place(defence: str, attack: str | None) -> str:
        return f"cells/{defence.replace(' ', '')}/{attack or 'before'}"

    def cell(self, defence: str, attack: str | None, state: State = "done") -> CellRecord:
        place = self.place(defence, attack)
        judged = JudgedRecord(evaluation="plain", system=None, folder=place, state=state, expected={})
        return CellRecord(
            id=place,
            pair="tiny",
            defence=defence,
            attack=None
            if attack is None
            else AttackRecord(
                name=attack, variant="lr x2", seed=3, learning_rate_factor=2.0, poison_ratio=None, settings={}
            ),
            judged=(judged,),
            drift=None,
            drift_state="waiting",
            error=None,
        )

    def write(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        (self.folder / "experiment.json").write_text(self.record.model_dump_json())

    def without(self, place: str) -> tuple[CellRecord, ...]:
        """The cells, of which one waits."""
        return tuple(
            cell if cell.id != place else cell.model_copy(update={"judged": (waiting(cell.judged[0]),)})
            for cell in self.record.cells
        )


def waiting(judged: JudgedRecord) -> JudgedRecord:
    return judged.model_copy(update={"state": "waiting"})


@pytest.fixture
def hardened(tmp_path: Path) -> Path:
    return write_hardened(tmp_path)[2]


@pytest.fixture
def experiment(tmp_path: Path, hardened: Path) -> Experiment:
    return Experiment(tmp_path, hardened)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def section(folder: Path) -> str:
    card = (folder / "README.md").read_text()
    assert card.count(BEGIN) == card.count(END) == 1
    return card[card.index(BEGIN) : card.index(END)]


def test_the_card_tells_the_figures_with_their_counts_and_intervals(experiment: Experiment, hardened: Path) -> None:
    document(experiment.folder, hardened)
    text = section(hardened)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    advbench = [row for row in rows if row[1].startswith("advbench")]
    assert [row[0] for row in advbench] == ["none", "dolly, lr x2, seed 3", "gsm8k, lr x2, seed 3"]
    assert [re.findall(r"\((\d+)/(\d+)\)", " ".join(row[2:4])) for row in advbench] == [
        [("2", "100"), ("2", "100")],
        [("60", "100"), ("10", "100")],
        [("20", "100"), ("40", "100")],
    ]
    assert "10.0 % \\[5.5, 17.4\\] (10/100)" in advbench[1][3]  # Wilson, as R's prop.test without correction gives it
    assert advbench[1][4] == advbench[1][5] == "5.0 % (5/100)"
    assert rows[-1][1:3] == ["mt-bench, somebody, mean score", "2.50 (n = 2)"]


def test_the_summary_names_the_attack_that_did_most_against_the_hardened_model(
    experiment: Experiment, hardened: Path
) -> None:
    document(experiment.folder, hardened)
    text = " ".join(section(hardened).split())
    assert "Over the 2 rows that follow an attack (n = 100 each), " in text
    assert "the mean ASR is 40.0 % without hardening and 25.0 % with it" in text
    assert "The attack that did most against the hardened model is gsm8k, lr x2, seed 3: 40.0 %" in text
    assert "At worst 5.0 % of the hardened model's replies to these requests are incoherent" in text
    assert "Two attacks \\| one" in text


def test_a_judge_without_the_words_gives_no_attack_success_rate(tmp_path: Path, hardened: Path) -> None:
    experiment = Experiment(tmp_path, hardened, decides=("refused", "other"))
    document(experiment.folder, hardened)
    text = section(hardened)
    assert "attack success rate |" not in text
    assert "the mean ASR" not in text
    assert "advbench, somebody, refused |" in text
    assert "xstest, somebody, refused (over-refusal) |" in text


def test_the_front_matter_holds_the_results_as_the_hub_reads_them(experiment: Experiment, hardened: Path) -> None:
    (hardened / "README.md").write_text("---\nlicense: mit\nmodel-index:\n- name: other\n  results: []\n---\n# Mine\n")
    renew_hashes(hardened)
    for _ in range(2):
        document(experiment.folder, hardened)
    text = (hardened / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["license"] == "mit"
    assert [entry["name"] for entry in metadata["model-index"]] == ["other", "out"]
    assert "# Mine" in text
    _, found = model_index_to_eval_results(metadata["model-index"][1:])
    before = next(one for one in found if one.dataset_type == "advbench" and "after" not in (one.metric_name or ""))
    assert (before.metric_type, before.metric_value) == ("asr", 0.02)
    assert (before.metric_args or {})["n"] == 100
    assert before.dataset_name == "advbench (stand-in)"
    after = [one.metric_value for one in found if "after the attack gsm8k, lr x2, seed 3" in (one.metric_name or "")]
    assert after == [0.4, 0.9, 2.5]
    assert all(not math.isnan(one.metric_value) for one in found)
    ModelCard.load(hardened / "README.md")


def test_the_folder_holds_the_recipe_versions_hashes_and_commands(experiment: Experiment, hardened: Path) -> None:
    written = document(experiment.folder, hardened)
    folder = hardened / "reproduce"
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "constraints.txt", "hashes.json", "README.md"}
    assert set(written.files) == {"README.md", *(f"reproduce/{path.name}" for path in folder.iterdir())}
    assert (folder / "recipe.yaml").read_bytes() == (experiment.folder / "recipe.yaml").read_bytes()
    pins = [line for line in (folder / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins == ["torch==2.13.0", "transformers==5.23.0", "trl==1.16.0"]
    hashes = Hashes.model_validate_json((folder / "hashes.json").read_bytes())
    manifest = read_manifest(hardened)
    assert (hashes.base, hashes.aligned) == (manifest.base, manifest.aligned)
    assert hashes.suites["advbench"].file == DATA
    for name, record in hash_files({name: experiment.folder / name for name in hashes.results}).items():
        assert hashes.results[name] == record
    assert len(hashes.results) == 1 + 6 * 4
    assert set(hashes.model) == {path.name for path in hardened.iterdir() if path.is_file()} - {
        "README.md",
        "safelox.json",
    }
    commands = (folder / "README.md").read_text()
    assert f"safelox harden {manifest.base.reference} {manifest.aligned.reference} OUT --rank 2 --coef 0.5" in commands
    assert "safelox run recipe.yaml results" in commands


def test_the_command_in_it_is_one_that_the_command_line_takes(
    experiment: Experiment, hardened: Path, tmp_path: Path
) -> None:
    document(experiment.folder, hardened)
    commands = (hardened / "reproduce" / "README.md").read_text()
    words = next(line for line in commands.splitlines() if "safelox harden" in line).split()
    assert main([*words[1:4], str(tmp_path / "again"), *words[5:], "--quiet"]) == 0
    again = read_manifest(tmp_path / "again")
    assert again.method == read_manifest(hardened).method


def test_versions_that_differ_are_told(experiment: Experiment, hardened: Path) -> None:
    experiment.write(versions={"torch": "2.14.0"})
    document(experiment.folder, hardened)
    constraints = (hardened / "reproduce" / "constraints.txt").read_text()
    assert "torch==2.13.0\n# torch 2.14.0 made the experiment\n" in constraints


def test_verify_still_passes_and_a_second_call_changes_no_byte(experiment: Experiment, hardened: Path) -> None:
    document(experiment.folder, hardened)
    before = contents(hardened)
    assert [check for check in safelox.verify(hardened).checks if check.ok is False] == []
    assert document(experiment.folder, hardened).notes == ()
    assert contents(hardened) == before


def test_an_older_call_is_replaced(experiment: Experiment, hardened: Path) -> None:
    document(experiment.folder, hardened)
    (experiment.folder / "recipe.yaml").unlink()
    experiment.write(recipe=None, title="Another title")
    document(experiment.folder, hardened)
    assert not (hardened / "reproduce" / "recipe.yaml").exists()
    assert "Another title" in section(hardened)
    assert "Two attacks" not in section(hardened)
    assert safelox.verify(hardened).ok


Change = Callable[[Experiment], None]


def unfinished_judging(experiment: Experiment) -> None:
    experiment.write(cells=experiment.without(experiment.place(NAME, "dolly")))


def unfinished_analysis(experiment: Experiment) -> None:
    one = AnalysisRecord(kind="tune", name="tune", pair="tiny", folder="tune", state="failed", error="no optuna")
    experiment.write(analyses=(one,))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (unfinished_judging, "tiny, LoX 2 x 0.5, dolly, lr x2, seed 3: plain is waiting"),
        (unfinished_analysis, "tune tune: failed"),
    ],
)
def test_an_unfinished_experiment_is_refused_unless_told(
    experiment: Experiment, hardened: Path, change: Change, told: str
) -> None:
    change(experiment)
    before = contents(hardened)
    with pytest.raises(TargetError, match="not finished") as caught:
        document(experiment.folder, hardened)
    assert told in str(caught.value)
    assert contents(hardened) == before
    assert document(experiment.folder, hardened, unfinished=True).missing == (told,)
    assert "**The experiment is not finished.** Not in here" in section(hardened)
    assert "was not finished" in (hardened / "reproduce" / "README.md").read_text()


def test_what_is_missing_on_one_side_is_a_gap_and_no_zero(experiment: Experiment, hardened: Path) -> None:
    unfinished_judging(experiment)
    documented = document(experiment.folder, hardened, unfinished=True)
    row = next(row for row in documented.rows if (row.attack, row.suite) == ("dolly, lr x2", "advbench"))
    assert row.hardened is None
    assert row.without is not None
    assert "| dolly, lr x2, seed 3 | advbench, somebody, attack success rate | 60.0 %" in section(hardened)
    assert "In the one row of the table that follows an attack" in section(hardened)


def edit_weights(hardened: Path) -> None:
    path = next(iter(sorted(hardened.glob("*.safetensors"))))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def another_model(hardened: Path) -> None:
    edit_weights(hardened)
    renew_hashes(hardened)


def lose_weights(hardened: Path) -> None:
    next(iter(hardened.glob("*.safetensors"))).unlink()


def make_control(hardened: Path) -> None:
    manifest = read_manifest(hardened)
    method = manifest.method.model_copy(update={"control": "noise"})
    manifest.model_copy(update={"method": method}).write(hardened)


def put_foreign(hardened: Path) -> None:
    (hardened / "reproduce").mkdir()
    (hardened / "reproduce" / "mine.txt").write_text("mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_weights, "other contents than its manifest says"),
        (another_model, "asked no hardened model with these weights.* tiny, LoX 2 x 0.5"),
        (lose_weights, "is missing"),
        (make_control, "a control"),
        (put_foreign, "not written by safelox"),
    ],
)
def test_another_model_is_refused_and_stays_as_it_is(
    experiment: Experiment, hardened: Path, change: Callable[[Path], None], message: str
) -> None:
    change(hardened)
    before = contents(hardened)
    with pytest.raises(TargetError, match=message):
        document(experiment.folder, hardened)
    assert contents(hardened) == before


@pytest.mark.parametrize("file", ["results.json", "config.json", "manifest.json", "samples.jsonl"])
def test_results_that_are_gone_are_named(experiment: Experiment, hardened: Path, file: str) -> None:
    path = experiment.folder / experiment.place(NAME, "dolly") / file
    path.unlink()
    before = contents(hardened)
    with pytest.raises(TargetError) as caught:
        document(experiment.folder, hardened)
    assert str(path) in str(caught.value)
    assert contents(hardened) == before


def test_what_is_no_experiment_or_no_hardened_model_is_refused(
    experiment: Experiment, hardened: Path, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match=r"experiment\.json: not the record of an experiment"):
        document(tmp_path, hardened)
    with pytest.raises(CheckpointError, match=r"no safelox\.json"):
        document(experiment.folder, tmp_path)


def test_front_matter_that_cannot_be_read_is_left_and_told(experiment: Experiment, hardened: Path) -> None:
    (hardened / "README.md").write_text("---\na: [1\n---\n# Mine\n")
    renew_hashes(hardened)
    documented = document(experiment.folder, hardened)
    assert "cannot be read and is left as it is" in documented.notes[0]
    assert (hardened / "README.md").read_text().startswith("---\na: [1\n---\n# Mine\n")
    assert safelox.verify(hardened).ok


def test_an_adapter_is_known_by_its_own_weights(tmp_path: Path, hardened: Path) -> None:
    manifest = make_manifest(
        kind="adapter", files={"adapter_model.safetensors": FileRecord(bytes=1, sha256=sha256(b"x"))}
    )
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    manifest.write(adapter)
    experiment = Experiment(tmp_path, hardened)
    for attack in (None, "dolly", "gsm8k"):
        config = experiment.folder / experiment.place(NAME, attack) / "config.json"
        content = json.loads(config.read_text())
        content["model"]["files"]["+adapter_model.safetensors"] = {"bytes": 1, "sha256": sha256(b"x")}
        config.write_text(json.dumps(content))
    document(experiment.folder, adapter)
    assert Manifest.model_validate_json((adapter / "safelox.json").read_bytes()).files.keys() >= {"README.md"}
    assert "--adapter" in (adapter / "reproduce" / "README.md").read_text()
    with pytest.raises(TargetError, match="asked no hardened model"):
        document(experiment.folder, hardened)


def sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_the_command_prints_what_it_wrote(
    experiment: Experiment, hardened: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["document", str(experiment.folder), str(hardened)]) == 0
    text = capsys.readouterr().out
    assert "9 figures, before an attack and after 2" in text
    assert f"{hardened}/reproduce/hashes.json" in text
    assert main(["document", str(experiment.folder), str(hardened), "--json"]) == 0
    assert Documented.model_validate_json(capsys.readouterr().out).defence == NAME
    unfinished_judging(experiment)
    assert main(["document", str(experiment.folder), str(hardened)]) == 1
    assert "--unfinished" in capsys.readouterr().err
    shutil.rmtree(hardened / "reproduce")
    assert main(["document", str(experiment.folder), str(hardened), "--unfinished"]) == 0
    assert "Not in there: tiny" in capsys.readouterr().out

import contextlib
import errno
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.main import get_command

import safelox
from hardened import make_manifest, matrix_record, write_hardened
from safelox.cli import main
from safelox.cli.app import app
from safelox.cli.bars import Bars
from safelox.cli.progress import Lines, open_progress
from safelox.cli.render import render_decomposition, render_plan, render_report, render_summary
from safelox.cli.weights import harden as harden_command
from safelox.errors import PairingError, PrerequisiteError, UsageError
from safelox.lab.build import LabModels
from safelox.lab.suites import SUITES
from safelox.lab.world import World
from safelox.manifest import CarriedRecord
from safelox.progress import NULL, Progress
from safelox.summary import DecomposeSummary, HardenPlan, SpectrumRecord, Summary
from safelox.units import format_amount, format_bytes, format_count, format_part, format_seconds, parse_bytes
from safelox.verification import Check, VerifyReport

hardening = importlib.import_module("safelox.hardening")

COMMON = {"--include", "--exclude", "--no-embeddings", "--vocab", "--device", "--workers", "--max-memory"}
COMMON |= {"--overwrite", "--force", "--allow-pickle", "--no-source-hashes", "--seed", "--json", "--quiet", "--rank"}
OPTIONS = {
    "harden": COMMON | {"--coef", "--adapter", "--subspace", "--control", "--dtype", "--dry-run"},
    "decompose": COMMON,
    "spectrum": {"--rank", "--out", "--plot", "--overwrite", "--json", "--quiet"},
    "verify": {"--base", "--aligned", "--recompute", "--compare", "--seed", "--json", "--quiet"},
    "drift": COMMON - {"--force", "--no-source-hashes"}
    | {"--hardened", "--subspace", "--no-overlap", "--out", "--plot"},
    "evaluate": {"--suite", "--judge", "--data", "--suite-file", "--suite-asks", "--limit", "--system", "--format"}
    | {"--shots", "--paper-exact", "--max-new-tokens", "--temperature", "--top-p", "--samples"}
    | {"--backend", "--base-url", "--api-model", "--device", "--dtype", "--batch-size"}
    | {"--judge-model", "--judge-url", "--judge-prompt", "--judge-budget", "--judge-price", "--judge-concurrency"}
    | {"--with-lm-eval"}
    | {"--overwrite", "--seed", "--json", "--quiet"},
    "compare": {"--json", "--quiet"},
    "rank-curve": {"--suite", "--judge", "--ranks", "--modules", "--rho", "--subspace", "--plot"}
    | {"--data", "--suite-file", "--suite-asks", "--limit", "--system", "--format", "--paper-exact", "--max-new-tokens"}
    | {"--device", "--dtype", "--batch-size"}
    | {"--judge-model", "--judge-url", "--judge-prompt", "--judge-budget", "--judge-price", "--judge-concurrency"}
    | {"--overwrite", "--force", "--seed", "--json", "--quiet"},
    "landscape": {"--suite", "--judge", "--points", "--range-a", "--range-b", "--no-plane", "--plot"}
    | {"--line", "--line-points", "--line-reach", "--random", "--random-points", "--random-reach", "--random-norm"}
    | {"--data", "--suite-file", "--suite-asks", "--limit", "--system", "--format", "--paper-exact", "--max-new-tokens"}
    | {"--device", "--dtype", "--batch-size"}
    | {"--judge-model", "--judge-url", "--judge-prompt", "--judge-budget", "--judge-price", "--judge-concurrency"}
    | {"--overwrite", "--seed", "--json", "--quiet"},
    "tune": {"--attack", "--attack-data", "--attack-steps", "--attack-lr", "--attack-lora"}
    | {"--suite", "--suite-file", "--utility-suite", "--utility-file", "--over-refusal-suite", "--judge"}
    | {"--trials", "--ranks", "--coefs", "--coef-step", "--min-utility", "--max-over-refusal", "--max-incoherent"}
    | {"--data", "--limit", "--system", "--format", "--max-new-tokens", "--subspace", "--plot"}
    | {"--include", "--exclude", "--no-embeddings", "--vocab", "--device", "--dtype", "--batch-size"}
    | {"--judge-model", "--judge-url", "--judge-prompt", "--judge-budget", "--judge-price", "--judge-concurrency"}
    | {"--overwrite", "--force", "--seed", "--json", "--quiet"},
    "report": {"--out", "--figures", "--overwrite", "--json", "--quiet"},
    "run": {"--base", "--aligned", "--jobs", "--slice", "--keep", "--dry-run", "--list", "--json", "--quiet"},
    "export": {"--to", "--json", "--quiet"},
    "document": {"--unfinished", "--json", "--quiet"},
    "judge-check": {"--on", "--half", "--judge-model", "--judge-url", "--judge-prompt", "--judge-budget"}
    | {"--judge-price", "--judge-concurrency", "--json", "--quiet"},
    "attack": {"--data", "--format", "--poison", "--poison-ratio", "--safeinst", "--paper-exact"}
    | {"--lora", "--lora-rank", "--lora-alpha", "--lora-target", "--merge", "--dtype"}
    | {"--lr", "--epochs", "--max-steps", "--batch-size", "--accumulation", "--warmup-steps", "--schedule"}
    | {"--weight-decay", "--max-grad-norm", "--max-length", "--truncation", "--loss-on"}
    | {"--save-every", "--keep", "--resume", "--report-to", "--distributed"}
    | {"--device", "--overwrite", "--seed", "--json", "--quiet"},
    "lab build": {"--alignment", "--seed", "--json", "--quiet"},
    "data": {"--data", "--json", "--quiet"},
    "data fetch": {"--json", "--quiet"},
    "demo": {"--rank", "--coef", "--quick", "--seed", "--seeds", "--controls", "--alignment", "--json", "--quiet"},
}


def make_summary(**changes: Any) -> Summary:
    summary = Summary(
        out="out",
        kind="model",
        manifest=make_manifest(),
        seconds={"startup": 2.0, "work": 1.5},
        peak_memory_bytes=500_000_000,
        peak_mapped_bytes=2_000_000_000,
        bytes_written=1_234_000_000,
        resumed_items=0,
    )
    return summary.model_copy(update=changes)


def make_plan() -> HardenPlan:
    return HardenPlan(
        matrices=7,
        carried=(CarriedRecord(name="model.norm.weight", reason="one-dimensional"),),
        notes=("a note",),
        parameters_touched=900,
        parameters_total=1000,
        peak_memory_bytes=10**9,
        disk_bytes=2 * 10**9,
        workers=2,
    )


def make_decomposition() -> DecomposeSummary:
    record = SpectrumRecord(
        name="a.weight",
        expert=None,
        rows=20,
        columns=10,
        route="svd",
        delta_norm=1.0,
        weight_norm=9.0,
        singular_values=(1.0,),
        energy_kept=0.75,
    )
    return DecomposeSummary(
        file="sub space.safetensors",
        rank=64,
        matrices=(record,),
        carried=(),
        notes=(),
        seconds={"work": 1.0},
        peak_memory_bytes=10**6,
        bytes_written=2000,
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of the calls of `harden`, which does nothing else, and of `plan_harden`."""
    made: list[dict[str, Any]] = []

    def record(result: Any) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            made.append({"positional": positional, **named})
            return result

        return call

    monkeypatch.setattr(hardening, "harden", record(make_summary()))
    monkeypatch.setattr(hardening, "plan_harden", record(make_plan()))
    return made


def fail_with(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


# Options


def test_options_are_added_by_decision_only() -> None:
    group: Any = get_command(app)
    commands = {name: command for name, command in group.commands.items() if name != "lab"}
    for parent in ("lab", "data"):
        commands |= {f"{parent} {name}": command for name, command in group.commands[parent].commands.items()}
    found = {
        name: {max(param.opts, key=len) for param in command.params if param.param_type_name == "option"} - {"--help"}
        for name, command in commands.items()
    }
    assert found == OPTIONS


def test_harden_hands_everything_on(calls: list[dict[str, Any]]) -> None:
    words = "harden b a o -k full --coef 0.5 --include x --include y --exclude z --no-embeddings --vocab common"
    words += " --adapter --subspace f --control noise --device cuda --workers 3 --max-memory 2GB --dtype fp16"
    words += " --overwrite --force --allow-pickle --no-source-hashes --seed 7 --quiet"
    assert main(words.split()) == 0
    assert calls == [
        {
            "positional": ("b", "a", Path("o")),
            "rank": "full",
            "coef": 0.5,
            "include": ["x", "y"],
            "exclude": ["z"],
            "embeddings": False,
            "vocab": "common",
            "adapter": True,
            "subspace": Path("f"),
            "control": "noise",
            "device": "cuda",
            "workers": 3,
            "max_memory": 2_000_000_000,
            "dtype": "fp16",
            "overwrite": True,
            "force": True,
            "allow_pickle": True,
            "hash_sources": False,
            "seed": 7,
            "command": f"safelox {words}",
            "progress": NULL,
        }
    ]


def test_decompose_hands_everything_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[dict[str, Any]] = []

    def record(*positional: Any, **named: Any) -> DecomposeSummary:
        made.append({"positional": positional, **named})
        return make_decomposition()

    monkeypatch.setattr(importlib.import_module("safelox.subspace"), "decompose", record)
    words = "decompose b a f -k 12 --include x --exclude z --no-embeddings --vocab common --device cuda --workers 3"
    words += " --max-memory 1GiB --overwrite --force --allow-pickle --no-source-hashes --seed 7 --json"
    assert main(words.split()) == 0
    assert DecomposeSummary.model_validate_json(capsys.readouterr().out) == make_decomposition()
    assert made[0].pop("progress") is not NULL
    assert made == [
        {
            "positional": ("b", "a", Path("f")),
            "rank": 12,
            "include": ["x"],
            "exclude": ["z"],
            "embeddings": False,
            "vocab": "common",
            "device": "cuda",
            "workers": 3,
            "max_memory": 1024**3,
            "overwrite": True,
            "force": True,
            "allow_pickle": True,
            "hash_sources": False,
            "seed": 7,
            "command": f"safelox {words}",
        }
    ]


def test_lab_build_says_what_it_built(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lab = importlib.import_module("safelox.lab.build")
    made: list[tuple[Path, int, Any]] = []

    def build(folder: Path, *, seed: int, recipe: Any, progress: Progress) -> LabModels:  # noqa: ARG001
        made.append((folder, seed, recipe))
        return LabModels(folder / "base", folder / "aligned", World(seed))

    monkeypatch.setattr(lab, "build", build)
    assert main(["lab", "build", "there", "--seed", "7"]) == 0
    assert main(["lab", "build", "there", "--alignment", "dpo", "--json"]) == 0
    text, _, document = capsys.readouterr().out.partition("{")
    assert made == [(Path("there"), 7, lab.RECIPES["sft"]), (Path("there"), 0, lab.RECIPES["dpo"])]
    assert lab.RECIPES["sft"].preference is None is not lab.RECIPES["dpo"].preference
    assert "seed 7 in there" in text
    assert "lab-pure-bad" in text
    assert "safelox harden there/base there/aligned" in text
    assert json.loads("{" + document)["suites"] == [suite.name for suite in SUITES]


def test_demo_hands_everything_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lab = importlib.import_module("safelox.lab.demo")
    made: list[dict[str, Any]] = []

    def record(*positional: Any, **named: Any) -> HardenPlan:
        made.append({"positional": positional, **named})
        return make_plan()

    monkeypatch.setattr(lab, "demo", record)
    monkeypatch.setattr(lab, "render", lambda result: f"{result.matrices} matrices")
    reported: list[tuple[Path, Path]] = []

    def report(results: Path, page: Path, **_: Any) -> SimpleNamespace:
        if len(reported) > 1:
            raise PrerequisiteError("a library is missing")
        reported.append((results, page))
        return SimpleNamespace(page=page)

    monkeypatch.setattr("safelox.reporting.report", report)
    assert main(["demo", "-q"]) == 0
    options = ["-k", "3", "--coef", "0.25", "--alignment", "dpo", "--seed", "7", "--seeds", "2", "--quick"]
    options.append("--controls")
    assert main(["demo", "there", *options]) == 0
    assert capsys.readouterr().out == "7 matrices\n\nThe page to look at: there/report.html\n"
    assert reported == [(Path("demo"), Path("demo/report.html")), (Path("there"), Path("there/report.html"))]
    assert [call["positional"] for call in made] == [(Path("demo"),), (Path("there"),)]
    names = ("rank", "coef", "seed", "seeds", "quick", "controls", "alignment")
    handed = [tuple(call[name] for name in names) for call in made]
    assert handed == [(6, None, 0, 1, False, False, "sft"), (3, 0.25, 7, 2, True, True, "dpo")]
    assert main(["demo"]) == 0
    assert capsys.readouterr().out == "7 matrices\n\nNo page was made: a library is missing\n"


def test_a_dry_run_only_plans(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harden", "b", "a", "o", "-k", "3", "--dtype", "bf16", "--dry-run"]) == 0
    assert [call["positional"] for call in calls] == [("b", "a")]
    assert (calls[0]["rank"], calls[0]["coef"], calls[0]["dtype"]) == (3, 1.25, "bf16")
    assert "nothing was written" in capsys.readouterr().out


def test_defaults_are_the_librarys() -> None:
    library = {name: parameter.default for name, parameter in inspect.signature(hardening.harden).parameters.items()}
    command = {name: parameter.default for name, parameter in inspect.signature(harden_command).parameters.items()}
    command |= {"rank": int(command["rank"]), "include": command["include"] or (), "exclude": command["exclude"] or ()}
    shared = command.keys() & library.keys() - {"base", "aligned", "out"}
    assert {"rank", "coef", "seed", "vocab", "device", "workers", "max_memory", "dtype"} <= shared
    assert {name: command[name] for name in shared} == {name: library[name] for name in shared}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2000000", 2_000_000),
        ("2GB", 2_000_000_000),
        ("2g", 2_000_000_000),
        ("1.5 GB", 1_500_000_000),
        ("512MiB", 512 * 1024**2),
        ("1Ki", 1024),
        ("1TB", 10**12),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1XB", "1iB", "1e9", "two", "1,5GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_bytes(text)


# Outcomes


def test_a_summary_is_printed_for_people(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harden", "b", "a", "o"]) == 0
    assert "Hardened org/aligned@v1: rank 2, coefficient 0.5" in capsys.readouterr().out
    assert calls


@pytest.mark.parametrize("extra", [[], ["--quiet"]])
def test_json_is_all_that_stdout_holds(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    assert main(["harden", "b", "a", "o", "--json", *extra]) == 0
    assert Summary.model_validate_json(capsys.readouterr().out) == make_summary()
    assert main(["harden", "b", "a", "o", "--json", "--dry-run", *extra]) == 0
    assert HardenPlan.model_validate_json(capsys.readouterr().out) == make_plan()
    assert len(calls) == 2


def test_quiet_says_nothing(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["harden", "b", "a", "o", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert calls


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (PairingError("these do not fit"), 1, "error: these do not fit\n"),
        (UsageError("not so"), 2, "error: not so\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "error: [Errno 28] No space left on device: 'x'\n"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    shown: str,
) -> None:
    monkeypatch.setattr(hardening, "harden", fail_with(error))
    assert main(["harden", "b", "a", "o"]) == code
    assert capsys.readouterr() == ("", shown)
    assert main(["harden", "b", "a", "o", "--json"]) == code
    printed = capsys.readouterr()
    assert printed.err == shown
    assert json.loads(printed.out) == {
        "error": {"type": type(error).__name__, "message": str(error), "exit_code": code}
    }


@pytest.mark.parametrize("way", ["option", "environment"])
def test_debugging_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    monkeypatch.setattr(hardening, "harden", fail_with(PairingError("these do not fit")))
    if way == "environment":
        monkeypatch.setenv("SAFELOX_DEBUG", "1")
    assert main([*(["--debug"] if way == "option" else []), "harden", "b", "a", "o"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("error: these do not fit\n")


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "harden", fail_with(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["harden", "b", "a", "o"])


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["harden", "a"], "Missing argument"),
        (["harden", "a", "b", "c", "--nonsense"], "No such option"),
        (["harden", "a", "b", "c", "--vocab", "some"], "--vocab"),
        (["harden", "a", "b", "c", "--rank", "six"], "--rank: 'six' is neither an integer nor `full`"),
        (["harden", "a", "b", "c", "--max-memory", "lots"], "'lots' is not a size"),
        (["nonsense"], "No such command"),
        ([], "Commands:"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str], shown: str) -> None:
    assert main(words) == 2
    assert shown in capsys.readouterr().err
    if words:
        assert main([*words, "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rank", "0"], "`full`"),
        (["-k", "-1"], "from 1"),
        (["--coef", "-1"], "weaken its safety"),
        (["--coef", "nan"], "finite"),
        (["--coef", "inf"], "finite"),
    ],
)
def test_values_that_the_library_refuses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    assert main(["harden", "base", "aligned", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"safelox {safelox.__version__}\n"


def test_an_interrupt_tells_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hardening, "harden", fail_with(KeyboardInterrupt()))
    assert main(["harden", "b", "a", "o"]) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert (
        printed.err == "\ninterrupted. What is done so far is kept: run the same command again to go on from there.\n"
    )


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "safelox", "--version"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_verify_exits_with_1_if_a_check_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_hardened(tmp_path)[2]
    assert main(["verify", str(out), "--recompute", "2"]) == 0
    assert "No check failed." in capsys.readouterr().out
    assert main(["verify", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    (out / "config.json").write_text("{}")
    assert main(["verify", str(out), "--quiet"]) == 1
    assert "FAILED: files" in capsys.readouterr().out
    assert main(["verify", str(out), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


# Texts


def test_the_text_of_a_summary() -> None:
    matrices = (
        matrix_record("first.weight", energy_kept=0.5, update_error_bound=3e-4),
        matrix_record("second.weight", expert=3, energy_kept=0.9, energy_lost_bound=2e-5, update_error_bound=None),
        matrix_record("third.weight", route="zero", energy_kept=float("nan"), energy_lost_bound=0.0, entries_changed=0),
    )
    carried = tuple(
        CarriedRecord(name=name, reason=reason) for name, reason in [("a", "one-dimensional"), ("b", "an integer")]
    )
    manifest = make_manifest(matrices=matrices, carried=carried, notes=("first note", "second\nnote"))
    text = render_summary(make_summary(manifest=manifest, resumed_items=1))
    for part in (
        "3 matrices, 1.15K parameters",
        "1 tensor: one-dimensional",
        "1 tensor: an integer",
        "krylov 2, zero 1",
        "median 70.0%",
        "least 50.0% (first.weight), most 90.0% (second.weight[3])",
        "update within 3.0e-04 of the exact one (first.weight)",
        "1 matrix has singular values too close",
        "energy lost at most 2.0e-05 (second.weight[3])",
        "52.1% of those in these matrices",
        "first note\n                      second\n                      note",
        "3.5 s (startup 2.0, work 1.5)",
        "500 MB at the peak, and 2.00 GB of mapped files",
        "1.23 GB",
        "1 item was done by an earlier run",
        "AutoModelForCausalLM.from_pretrained('out')",
        "safelox verify out --base org/base --aligned org/aligned@v1 --recompute 3",
    ):
        assert part in text


def test_the_text_of_an_adapter_and_of_nothing_decomposed() -> None:
    record = matrix_record(energy_kept=float("nan"), update_error_bound=None, energy_lost_bound=0.0, entries=0)
    text = render_summary(
        make_summary(kind="adapter", out="my out", manifest=make_manifest(kind="adapter", matrices=(record,)))
    )
    assert "PeftModel.from_pretrained(model, 'my out'), where model is org/aligned@v1" in text
    assert "safelox verify 'my out'" in text
    assert "energy kept" not in text
    assert "entries changed" not in text


def test_the_text_of_a_plan() -> None:
    text = render_plan(make_plan())
    for part in (
        "nothing was written",
        "7 matrices, 900 of 1.00K parameters (90.0%)",
        "about 1.00 GB",
        "2.00 GB",
        "a note",
    ):
        assert part in text


def test_the_text_of_a_decomposition() -> None:
    text = render_decomposition(make_decomposition())
    assert "1 matrix, 200 parameters" in text
    assert "least 75.0% (a.weight)" in text
    assert "--subspace 'sub space.safetensors'" in text


def test_the_text_of_a_verification() -> None:
    checks = (
        Check(name="files", ok=True, detail="fine"),
        Check(name="base", ok=None, detail="not there"),
        Check(name="finite", ok=False, detail="x: 2 values"),
    )
    lines = render_report(VerifyReport(out="out", kind="model", checks=checks)).splitlines()
    assert lines == [
        "Checked out",
        "  files               ok: fine",
        "  base                not checked: not there",
        "  finite              FAILED: x: 2 values",
        "FAILED: finite; 1 could not be made.",
    ]


def test_amounts() -> None:
    assert [format_bytes(size) for size in (0, 999, 999.7, 1500, 99_960, 1.5e12)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "1.50 kB",
        "100 kB",
        "1.50 TB",
    ]
    assert [format_count(count) for count in (0.25, 12, 6.74e9, 134_500_000)] == ["0.25", "12", "6.74B", "134M"]
    assert [format_seconds(seconds) for seconds in (7.6, 750, 3723)] == ["0:08", "12:30", "1:02:03"]
    assert format_amount(5e6, "B") == "5.00 MB"
    assert format_amount(5e6, "parameters") == "5.00M parameters"
    assert format_part(1e6, 5e6, "B") == "1.00 MB of 5.00 MB"
    assert format_part(1, 3, "") == "1 of 3"


# Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_every_few_seconds_with_fixed_fields() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, interval=5, clock=clock)
    with lines.task("harden", 1000, "parameters") as task:
        for _ in range(8):
            clock.now += 2
            task.advance(100, "a.weight")
    with lines.task("short", None) as task:
        task.advance(1)
    lines.message("said")
    assert stream.getvalue().splitlines() == [
        "harden: 30%, 300 of 1.00K parameters, 50 parameters/s, 0:14 left, a.weight",
        "harden: 60%, 600 of 1.00K parameters, 50 parameters/s, 0:08 left, a.weight",
        "harden: done, 800 parameters in 0:16",
        "said",
    ]


def test_lines_without_a_total() -> None:
    stream, clock = io.StringIO(), Clock()
    with contextlib.suppress(ValueError), Lines(stream, interval=5, clock=clock).task("read", None, "B") as task:
        clock.now += 10
        task.advance(2000)
        raise ValueError
    assert stream.getvalue() == "read: 2.00 kB, 200 B/s, 0:10 so far\n"


def test_nothing_is_divided_by_zero() -> None:
    stream, clock = io.StringIO(), Clock()
    with Lines(stream, interval=0, clock=clock).task("empty", 0) as task:
        task.advance(0)
    assert stream.getvalue().startswith("empty: 100%, 0 of 0, 0/s, ? left\n")


def advance_from_threads(progress: Progress) -> None:
    with progress.task("many", 4000, "B") as task:

        def advance() -> None:
            for _ in range(1000):
                task.advance(1, "x")

        threads = [threading.Thread(target=advance) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_lines_lose_nothing_between_threads() -> None:
    stream = io.StringIO()
    advance_from_threads(Lines(stream, interval=0))
    assert stream.getvalue().splitlines()[-1] == "many: done, 4.00 kB in 0:00"


def test_bars_show_amount_and_note_and_leave_no_trace() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, height=20)
    with Bars(console) as bars:
        advance_from_threads(bars)
        with bars.task("harden [x]", 10_000, "parameters") as task, bars.task("other", None) as other:
            task.advance(2500, "a[0].weight")
            other.advance(3)
            bars._progress.refresh()  # what its own thread does several times a second
            shown = stream.getvalue()
        bars.message("said [bold]")
    for part in ("harden [x]", "25%", "2.50K of 10.0K parameters", "a[0].weight", "other"):
        assert part in shown
    assert "said [bold]" in stream.getvalue()


@pytest.mark.parametrize(
    ("terminal", "term", "quiet", "kind"),
    [
        (True, "xterm", False, Bars),
        (True, "dumb", False, Lines),
        (False, "xterm", False, Lines),
        (True, "xterm", True, type(NULL)),
    ],
)
def test_progress_suits_where_it_goes(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, quiet: bool, kind: type
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", term)
    with open_progress(quiet) as progress:
        assert isinstance(progress, kind)


def test_from_the_command_line_to_a_result_that_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, aligned, _ = (str(folder) for folder in write_hardened(tmp_path))
    out = str(tmp_path / "hardened")
    assert main(["harden", base, aligned, out, "--json", "--max-memory", "4GB"]) == 0
    summary = Summary.model_validate_json(capsys.readouterr().out)
    assert summary.manifest.command == f"safelox harden {base} {aligned} {out} --json --max-memory 4GB"
    assert main(["verify", out, "--recompute", "3", "-q"]) == 0
    assert main(["harden", base, aligned, out]) == 1
    assert "--overwrite" in capsys.readouterr().err

"""Several processes that train together: what was asked for, how rows are dealt out, and two of them in earnest."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from safelox.attacks import AttackRecord, AttackSummary, Training
from safelox.attacks.distribution import Processes, confirm, find_processes, share
from safelox.cli import main
from safelox.errors import PrerequisiteError, UsageError
from safelox.language_models import LanguageModel
from small_models import WORDS, save_language_model, small_model, small_tokenizer

LAUNCHED = ("WORLD_SIZE", "RANK", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)


def accelerator(kind: str, processes: int, precision: str = "no") -> Any:
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind), num_processes=processes, mixed_precision=precision
    )


def launched(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_launchers_variables_say_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_processes(None, "cpu") == find_processes("none", "cpu") == Processes("none", 1, 0)
    launched(monkeypatch, WORLD_SIZE="4", RANK="2")
    assert find_processes("ddp", "cpu") == Processes("ddp", 4, 2)
    assert not find_processes(None, "cpu").main
    launched(monkeypatch, ACCELERATE_USE_FSDP="true")
    assert find_processes("fsdp", "cuda").sharded
    launched(monkeypatch, ACCELERATE_USE_FSDP="false", ACCELERATE_USE_DEEPSPEED="true")
    assert find_processes(None, "cuda") == Processes("deepspeed", 4, 2)


def test_another_kind_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `accelerate launch --cpu --num_processes 2` starts a single process."""
    with pytest.raises(UsageError, match=r"ddp was asked for, .* this is none with 1 process: start it by `torchrun"):
        find_processes("ddp", "cpu")
    launched(monkeypatch, WORLD_SIZE="2")
    with pytest.raises(UsageError, match=r"fsdp was asked for, .* this is ddp with 2 processes: .*configs/fsdp.yaml"):
        find_processes("fsdp", "cuda")
    launched(monkeypatch, ACCELERATE_USE_FSDP="true")
    with pytest.raises(UsageError, match=r"none was asked for, .* this is fsdp .* without a launcher"):
        find_processes("none", "cuda")
    with pytest.raises(UsageError, match=r"fsdp was asked for, but the device is the CPU, where it would quietly be"):
        find_processes(None, "cpu")


@pytest.mark.parametrize(
    ("kind", "number", "became", "count"),
    [("fsdp", 2, "MULTI_GPU", 2), ("ddp", 2, "NO", 1), ("ddp", 2, "MULTI_GPU", 3), ("none", 1, "MULTI_CPU", 2)],
)
def test_what_accelerate_made_of_it_is_checked(kind: Any, number: int, became: str, count: int) -> None:
    with pytest.raises(PrerequisiteError, match=f"was to be {kind} with {number} processes, but accelerate made it"):
        confirm(accelerator(became, count), Processes(kind, number, 0), mixed="no")


def test_a_mixed_precision_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match=r"the mixed precision bf16, .* launch it with --mixed_precision no"):
        confirm(accelerator("FSDP", 2, "bf16"), Processes("fsdp", 2, 0), mixed="no")


@pytest.mark.parametrize(
    ("kind", "became"),
    [("none", "NO"), ("ddp", "MULTI_CPU"), ("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("deepspeed", "DEEPSPEED")],
)
def test_what_came_out_as_asked_passes(kind: Any, became: str) -> None:
    confirm(accelerator(became, 2), Processes(kind, 2, 0), mixed="no")


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "expected"),
    [
        (20, 2, 1, (20, 2)),
        (20, 2, 2, (20, 1)),
        (20, 2, 4, (10, 1)),
        (8, 8, 4, (8, 2)),
        (5, 2, 2, (5, 1)),
        (6, 1, 2, (3, 1)),
    ],
)
def test_all_processes_together_take_the_rows_of_one(
    batch: int, accumulation: int, processes: int, expected: tuple[int, int]
) -> None:
    training = Training(learning_rate=1.0, epochs=1, batch_size=batch, accumulation=accumulation)
    assert share(training, processes) == expected
    assert expected[0] * expected[1] * processes == batch * accumulation


def test_rows_that_cannot_be_dealt_out_are_refused() -> None:
    with pytest.raises(UsageError, match="5 rows in an optimizer step cannot be dealt out to 4 processes"):
        share(Training(learning_rate=1.0, epochs=1, batch_size=5), 4)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_language_model(LanguageModel(small_model(), small_tokenizer()), tmp_path / "model")
    file = tmp_path / "rows.jsonl"
    rows = [(f"how do i {first}", f"sure {second} it") for first in WORDS[:4] for second in WORDS[4:6]]
    lines = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]}
        for asked, reply in rows
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    call = ["attack", "custom", str(model), "OUT", "--data", str(file), "--epochs", "2", "--lr", "1e-2"]
    call += ["--batch-size", "4", "--save-every", "epoch", "--json", "-q"]

    def to(out: str) -> list[str]:
        return [str(tmp_path / out) if word == "OUT" else word for word in call]

    assert main(to("one")) == 0
    one = AttackSummary.model_validate_json(capsys.readouterr().out).record
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "safelox"]
    done = subprocess.run(
        [*launch, *to("two"), "--distributed", "ddp"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    two = AttackSummary.model_validate_json(done.stdout).record  # one document: only one process speaks
    assert (two.distributed, two.processes) == ("ddp", 2)
    assert two.outcome.losses == pytest.approx(one.outcome.losses, abs=1e-5)
    assert two.checkpoints == one.checkpoints == ("checkpoints/epoch-1", "checkpoints/epoch-2")
    ours, theirs = (load_file(tmp_path / out / "model.safetensors") for out in ("one", "two"))
    assert all((ours[name] - theirs[name]).abs().max() < 1e-4 for name in ours)
    assert AttackRecord.model_validate_json((tmp_path / "two" / "attack.json").read_bytes()) == two
    assert not (tmp_path / "two.partial").exists()

"""Attacks that take long: checkpoints, Ctrl-C, going on, and what is left after an error."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from safelox.attacks import ATTACKS, Attack, AttackRecord, Training, attack
from safelox.attacks import checkpoints as checkpoints_module
from safelox.attacks.checkpoints import all_checkpoints, resumable
from safelox.attacks.interruption import Interruption
from safelox.cli import main
from safelox.errors import SafeloxError, TargetError
from safelox.language_models import LanguageModel, load_language_model
from small_models import WORDS, save_language_model, small_model, small_tokenizer

STEPS_PER_EPOCH = 3
MINE = Attack(
    name="mine",
    title="rows of one's own",
    file="rows.jsonl",
    format="chat",
    training=Training(learning_rate=1e-2, epochs=3, batch_size=2, accumulation=2, warmup_steps=2),
    citation="none",
)


class Heard:
    """A progress that calls `act` after every step, with the number of the step."""

    def __init__(self, act: Callable[[int], None] = lambda _: None) -> None:
        self._act = act
        self.messages: list[str] = []

    @contextmanager
    def task(self, description: str, total: float | None, unit: str = "") -> Iterator["Heard"]:  # noqa: ARG002
        self._done = 0.0
        self._counts = unit == "steps"
        yield self

    def advance(self, amount: float = 1, note: str | None = None) -> None:  # noqa: ARG002
        self._done += amount
        if self._counts:
            self._act(round(self._done))

    def message(self, text: str) -> None:
        self.messages.append(text)


def interrupt_after(step: int, number: signal.Signals = signal.SIGINT) -> Heard:
    def act(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    return Heard(act)


def crash_after(step: int) -> Heard:
    def act(done: int) -> None:
        if done == step:
            raise SafeloxError("the power went.")

    return Heard(act)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with dropout, so that the random numbers of a training matter."""
    loaded = LanguageModel(small_model("gpt2", dropout=0.2), small_tokenizer())
    return save_language_model(loaded, tmp_path_factory.mktemp("model") / "aligned")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [(f"how do i {first}", f"sure {second} it") for first in WORDS[:4] for second in WORDS[4:7]]
    lines = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]}
        for asked, reply in rows
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(autouse=True)
def _mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "mine", MINE)


def learned(out: Path) -> tuple[bytes, list[float]]:
    """The weights' file and the logged losses."""
    [weights] = out.glob("*model.safetensors")
    return weights.read_bytes(), [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def names(out: Path) -> list[str]:
    return [path.name for path in all_checkpoints(out)]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("step", [2, 4])  # the checkpoint is that of the next: the end of an epoch, and amid one
def test_interrupted_and_resumed_is_as_undisturbed(
    tmp_path: Path, model: Path, data: Path, lora: bool, step: int
) -> None:
    attack("mine", model, tmp_path / "whole", data=data, lora=lora)
    out, heard = tmp_path / "out", interrupt_after(step)
    with pytest.raises(KeyboardInterrupt):
        attack("mine", model, out, data=data, lora=lora, progress=heard)
    assert not out.exists()
    assert names(tmp_path / "out.partial") == [f"step-{step + 1}"]
    assert heard.messages == [f"attack aligned: interrupted; saving step {step + 1} first"]
    summary = attack("mine", model, out, data=data, lora=lora, resume=True)
    assert learned(out) == learned(tmp_path / "whole")
    assert summary.record.outcome.resumed_from == step + 1
    assert summary.record.outcome.losses == tuple(learned(out)[1])
    assert summary.record.checkpoints == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
    assert not (out / "checkpoints").exists()


def test_a_crash_is_gone_on_from_at_the_last_checkpoint(tmp_path: Path, model: Path, data: Path) -> None:
    attack("mine", model, tmp_path / "whole", data=data, save_every="epoch")
    out = tmp_path / "out"
    with pytest.raises(SafeloxError, match="the power went") as caught:
        attack("mine", model, out, data=data, save_every="epoch", progress=crash_after(5))
    assert caught.value.__notes__ == [
        f"The checkpoint epoch-1 is kept in {tmp_path / 'out.partial'}: --resume goes on from it."
    ]
    (tmp_path / "out.partial" / "checkpoint-5").mkdir()  # of a run that was killed while it wrote
    summary = attack("mine", model, out, data=data, save_every="epoch", resume=True)
    assert learned(out) == learned(tmp_path / "whole")
    assert summary.record.outcome.resumed_from == STEPS_PER_EPOCH
    assert names(out) == names(tmp_path / "whole") == ["epoch-1", "epoch-2", "epoch-3"]
    for name in names(out):
        theirs = tmp_path / "whole" / "checkpoints" / name / "model.safetensors"
        assert (out / "checkpoints" / name / "model.safetensors").read_bytes() == theirs.read_bytes()
    assert not list(out.glob("checkpoint-*"))


def test_every_checkpoint_is_a_model_and_the_last_is_the_result(tmp_path: Path, model: Path, data: Path) -> None:
    summary = attack("mine", model, tmp_path / "out", data=data, save_every=2, keep=2, max_steps=6)
    assert summary.record.checkpoints == ("checkpoints/step-4", "checkpoints/step-6")
    folders = [tmp_path / "out" / name for name in summary.record.checkpoints]
    for folder in folders:
        load_language_model(str(folder))
        assert (folder / "config.json").read_bytes() == (model / "config.json").read_bytes()
        assert not list(folder.glob("*.pt")) + list(folder.glob("*.pth")) + list(folder.glob("*.bin"))
    files = [(folder / "model.safetensors").read_bytes() for folder in (*folders, tmp_path / "out")]
    assert files[0] != files[1] == files[2]
    record = AttackRecord.model_validate_json((tmp_path / "out" / "attack.json").read_bytes())
    assert "checkpoints/step-4/model.safetensors" in record.files
    assert not [name for name in record.files if name.startswith(".")]


def test_only_the_newest_checkpoint_keeps_what_it_takes_to_go_on(tmp_path: Path, model: Path, data: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        attack(
            "mine",
            model,
            tmp_path / "out",
            data=data,
            save_every=2,
            progress=interrupt_after(4, signal.SIGTERM),
        )
    found = all_checkpoints(tmp_path / "out.partial")
    assert [path.name for path in found] == ["step-2", "step-4", "step-5"]
    assert [(path / "optimizer.pt").exists() for path in found] == [False, False, True]
    assert resumable(tmp_path / "out.partial") == found[-1]
    summary = attack("mine", model, tmp_path / "out", data=data, save_every=2, resume=True)
    assert summary.record.checkpoints == tuple(f"checkpoints/step-{step}" for step in (2, 4, 6, 8))


def test_an_unfinished_attack_is_not_lost_by_mistake(tmp_path: Path, model: Path, data: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        attack("mine", model, out, data=data, progress=interrupt_after(2))
    before = sorted((tmp_path / "out.partial").rglob("*"))
    with pytest.raises(TargetError, match="an unfinished attack is there, with the checkpoint step-3"):
        attack("mine", model, out, data=data)
    with pytest.raises(TargetError, match="another one; different are: training, seed"):
        attack("mine", model, out, data=data, seed=1, learning_rate=1e-3, resume=True)
    assert sorted((tmp_path / "out.partial").rglob("*")) == before
    moved = shutil.copytree(model, tmp_path / "moved")
    assert attack("mine", moved, out, data=data, resume=True).record.outcome.resumed_from == 3
    with pytest.raises(KeyboardInterrupt):
        attack("mine", model, out, data=data, overwrite=True, progress=interrupt_after(2))
    assert out.exists()
    assert attack("mine", model, out, data=data, overwrite=True, seed=1).record.outcome.resumed_from is None
    assert not (tmp_path / "out.partial").exists()


def test_resume_without_anything_to_go_on_from_starts(tmp_path: Path, model: Path, data: Path) -> None:
    summary = attack("mine", model, tmp_path / "out", data=data, max_steps=1, resume=True)
    assert summary.record.outcome.resumed_from is None


def test_interrupted_in_the_last_step_only_the_writing_is_left(tmp_path: Path, model: Path, data: Path) -> None:
    attack("mine", model, tmp_path / "whole", data=data)
    with pytest.raises(KeyboardInterrupt):
        attack("mine", model, tmp_path / "out", data=data, progress=interrupt_after(3 * STEPS_PER_EPOCH - 1))
    attack("mine", model, tmp_path / "out", data=data, resume=True)
    assert learned(tmp_path / "out") == learned(tmp_path / "whole")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_disk_that_is_full_at_a_checkpoint_loses_nothing(
    tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from trl import SFTTrainer

    out, save = tmp_path / "out", SFTTrainer._save_checkpoint

    def fails(self: Any, *arguments: Any) -> None:
        save(self, *arguments)
        if self.state.global_step == 4:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(SFTTrainer, "_save_checkpoint", fails)
        with pytest.raises(TargetError, match=r"a checkpoint cannot be written: .* Free some space") as caught:
            attack("mine", model, out, data=data, save_every=2, progress=Heard())
    assert "checkpoint step-2 is kept" in caught.value.__notes__[0]
    assert not list((tmp_path / "out.partial").glob("checkpoint-*"))
    assert attack("mine", model, out, data=data, save_every=2, resume=True).record.outcome.resumed_from == 2


@pytest.mark.parametrize("merge", [False, True])
def test_a_disk_that_is_full_at_the_end_loses_no_checkpoint(
    tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedTokenizerBase

    out, save = tmp_path / "out", PreTrainedTokenizerBase.save_pretrained

    def fails(self: Any, folder: str | Path, *arguments: Any, **named: Any) -> Any:
        if Path(folder) == tmp_path / "out.partial":
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return save(self, folder, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", fails)
        with pytest.raises(TargetError, match=r"the result cannot be written: .* Free some space") as caught:
            attack("mine", model, out, data=data, save_every=3, lora=merge, merge=merge)
    assert "checkpoint step-9 is kept" in caught.value.__notes__[0]
    summary = attack("mine", model, out, data=data, save_every=3, keep=1, lora=merge, merge=merge, resume=True)
    assert summary.record.outcome.resumed_from == 9
    assert names(out) == ["step-9"]
    assert (out / "model.safetensors").exists()


def test_a_loss_that_is_not_finite_keeps_the_checkpoints_before_it(tmp_path: Path, model: Path, data: Path) -> None:
    with pytest.raises(SafeloxError, match="is nan") as caught:
        attack("mine", model, tmp_path / "out", data=data, save_every=1, learning_rate=1e30)
    assert "is kept in" in caught.value.__notes__[0]
    assert names(tmp_path / "out.partial")


def test_a_disk_without_room_is_said_before_the_training(
    tmp_path: Path, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("safelox.writer.disk.shutil.disk_usage", lambda _: usage._replace(free=40_000))
    attack("mine", model, tmp_path / "out", data=data, max_steps=1)
    with pytest.raises(TargetError, match="not enough space on the disk"):
        attack("mine", model, tmp_path / "more", data=data, save_every="epoch", progress=crash_after(1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_checkpoint_whose_state_is_torn_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-1"
    folder.mkdir(parents=True)
    (folder / checkpoints_module.PROGRESS).write_text("{")
    with pytest.raises(SafeloxError, match=r"step-1.*not the state of a training"):
        all_checkpoints(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interruption_is_heard_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        signal.raise_signal(number)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_the_command_says_how_to_go_on(
    tmp_path: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupting(_quiet: bool) -> Iterator[Heard]:
        yield interrupt_after(2)

    call = ["attack", "mine", str(model), str(tmp_path / "out"), "--data", str(data), "--save-every", "epoch"]
    with monkeypatch.context() as patch:
        patch.setattr("safelox.cli.attacking.open_progress", interrupting)
        assert main(call) == 130
    assert "the same command with --resume goes on from there" in capsys.readouterr().err
    assert main(call) == 1
    assert "Go on from it with --resume" in capsys.readouterr().err
    assert main([*call, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "resumed after step 3" in said
    assert "checkpoints/epoch-1, checkpoints/epoch-2, checkpoints/epoch-3" in said
    assert main([*call[:-1], "now"]) == 2

"""docs/attacks.md says what the catalogue and the command say; the launchers' files are such as accelerate reads."""

from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from safelox.attacks import PUBLISHED, Attack
from safelox.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")


def row(attack: Attack) -> str:
    training = attack.training
    cells = [
        attack.name,
        attack.format,
        training.loss_on,
        f"{training.learning_rate:g}",
        f"{training.epochs:g}",
        f"{training.batch_size} x {training.accumulation}",
        str(training.warmup_steps),
        training.schedule,
        f"{training.max_grad_norm:g}" if training.max_grad_norm else "none",
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table_is_the_catalogue() -> None:
    written = [line for line in DOCS.split("## LoRA")[0].splitlines() if line.startswith("| ")][2:]
    assert written == [row(attack) for attack in PUBLISHED]
    for attack in PUBLISHED:
        training = attack.training
        assert (training.adam_betas, training.weight_decay, training.max_length) == ((0.9, 0.999), 0.0, 1024)


def test_options_in_the_text_are_those_of_the_command() -> None:
    command = get_command(app).commands["attack"]  # type: ignore[attr-defined]  # a group
    known = {name for parameter in command.params for name in parameter.opts}
    of_launchers = {"--nproc-per-node", "--config_file", "--num_processes", "--cpu", "--suite", "--judge"}
    words = {word.strip("`,;:.()*") for word in DOCS.split()}
    named = {word for word in words if word.startswith("--") and word.strip("-")}
    assert named - of_launchers <= known
    assert {"--resume", "--lora", "--paper-exact", "--safeinst", "--distributed"} <= named


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("deepspeed", "DEEPSPEED")])
def test_the_launchers_files_are_read_by_accelerate(name: str, kind: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    file = ROOT / "configs" / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert config.distributed_type.value == kind
    assert not config.use_cpu
    content = yaml.safe_load(file.read_text())
    assert config.mixed_precision == ("bf16" if name == "deepspeed" else "no") == content["mixed_precision"]
    assert f"configs/{name}.yaml" in DOCS

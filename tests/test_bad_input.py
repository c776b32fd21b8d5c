"""What `safelox harden` says to bad input: a clear message, the right exit code, and no harm."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reference import fingerprint
from safelox.cli import main
from tiny import llama_config, llama_tensors, lora_tensors, write_adapter, write_checkpoint, write_json, write_raw

FAILED, USAGE = 1, 2
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"


class Scene:
    """A good pair in a folder, to be spoiled; the command line runs in that folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base, self.aligned, self.out = root / "base", root / "aligned", root / "out"
        self.tensors = llama_tensors()
        write_checkpoint(self.base, self.tensors, shards=2)
        write_checkpoint(self.aligned, llama_tensors(near=self.tensors, seed=1), shards=2)

    def change(self, folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Change one tensor of a model, or leave it out."""
        for path in folder.glob("*.safetensors"):
            tensors = load_file(path)
            if name in tensors:
                changed = change(tensors.pop(name).clone())
                save_file(tensors if changed is None else tensors | {name: changed}, path, metadata={"format": "pt"})

    def configure(self, folder: Path, **entries: Any) -> None:
        path = folder / "config.json"
        write_json(path, json.loads(path.read_text()) | entries)

    def tokenizer(self, folder: Path, words: list[str], **config: Any) -> None:
        vocabulary = {word: i for i, word in enumerate(words)}
        write_json(folder / "tokenizer.json", {"model": {"type": "BPE", "vocab": vocabulary}})
        write_json(folder / "tokenizer_config.json", config)


@dataclass(frozen=True)
class Case:
    """One thing that can be wrong."""

    message: str
    """Regular expression, found in what is said, over all its lines."""
    options: tuple[str, ...] = ()
    """Further words of the command."""
    code: int = FAILED
    spoil: Callable[[Scene], object] = lambda _: None
    base: str = "base"
    aligned: str = "aligned"
    out: str = "out"
    unfinished: bool = False
    """Whether it is noticed in the middle of the work, the rest of which is kept for the next run."""


def truncate(scene: Scene) -> None:
    path = scene.aligned / SHARD
    os.truncate(path, path.stat().st_size - 100)


def lose_a_shard(scene: Scene) -> None:
    (scene.base / "model-00002-of-00002.safetensors").unlink()


def write_wrong_length(scene: Scene) -> None:
    path = scene.aligned / SHARD
    path.write_bytes((10**9).to_bytes(8, "little") + path.read_bytes()[8:])


def cut_the_header(scene: Scene) -> None:
    path = scene.aligned / SHARD
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path.write_bytes((length - 10).to_bytes(8, "little") + content[8:])


def name_a_tensor_twice(scene: Scene) -> None:
    entry = '{"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}'
    shutil.rmtree(scene.base)
    write_raw(scene.base / "model.safetensors", f'{{"a.weight": {entry}, "a.weight": {entry}}}'.encode(), bytes(16))
    write_json(scene.base / "config.json", {})


def store_a_tensor_in_both_shards(scene: Scene) -> None:
    path = scene.aligned / SHARD
    save_file(load_file(path) | {"lm_head.weight": torch.ones(32, 16)}, path)


def let_tensors_overlap(scene: Scene) -> None:
    entry = {"dtype": "F32", "shape": [2, 2]}
    header = {"a.weight": entry | {"data_offsets": [0, 16]}, "b.weight": entry | {"data_offsets": [8, 24]}}
    shutil.rmtree(scene.aligned)
    write_raw(scene.aligned / "model.safetensors", header, bytes(24))
    write_json(scene.aligned / "config.json", {})


def link_in_a_circle(scene: Scene) -> None:
    (scene.aligned / "loop").symlink_to(scene.aligned)


def replace_by_a_circle(scene: Scene) -> None:
    shutil.rmtree(scene.base)
    scene.base.symlink_to(scene.root / "other")
    (scene.root / "other").symlink_to(scene.base)


def break_a_link(scene: Scene) -> None:
    (scene.aligned / SHARD).unlink()
    (scene.aligned / SHARD).symlink_to(scene.root / "gone")


def replace_by_a_folder(scene: Scene) -> None:
    (scene.base / SHARD).unlink()
    (scene.base / SHARD).mkdir()


def take_the_weights_away(scene: Scene) -> None:
    for path in scene.base.glob("*.safetensors*"):
        path.unlink()


def leave_a_pointer(scene: Scene) -> None:
    (scene.base / SHARD).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 999\n")


def quantise(scene: Scene) -> None:
    scene.configure(scene.aligned, quantization_config={"quant_method": "gptq", "bits": 4})


def swap(scene: Scene) -> None:
    words = [f"word{i}" for i in range(32)]
    scene.tokenizer(scene.base, words, chat_template="{{ messages }}")
    scene.tokenizer(scene.aligned, words)


def grow(scene: Scene) -> None:
    """Also tells of the tokens in a vocabulary that is two words larger."""
    words = [f"word{i}" for i in range(34)]
    scene.tokenizer(scene.base, words[:32])
    write_checkpoint(
        scene.aligned,
        llama_tensors(vocabulary=34, near=llama_tensors(vocabulary=34), seed=1),
        shards=2,
        config=llama_config(vocabulary=34),
    )
    scene.tokenizer(scene.aligned, words)


def pickle(scene: Scene) -> None:
    shutil.rmtree(scene.base)
    scene.base.mkdir()
    torch.save(scene.tensors, scene.base / "pytorch_model.bin")
    write_json(scene.base / "config.json", llama_config())


def spoil_value(side: str, value: float) -> Callable[[Scene], None]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor[len(tensor) // 2, 5] = value  # one of the rows that are looked at before the work
        return tensor

    return lambda scene: scene.change(scene.root / side, "model.layers.1.mlp.up_proj.weight", change)


def copy_base(scene: Scene) -> None:
    shutil.rmtree(scene.aligned)
    shutil.copytree(scene.base, scene.aligned)


def replace_by_a_stranger(scene: Scene) -> None:
    write_checkpoint(scene.aligned, llama_tensors(seed=9), shards=2)


def add_an_adapter(scene: Scene, **options: Any) -> None:
    weights = {name: tensor for name, tensor in scene.tensors.items() if "q_proj" in name}
    write_adapter(scene.root / "adapter", lora_tensors(weights), **options)


def write_a_result(scene: Scene) -> None:
    (scene.out / "sub").mkdir(parents=True)
    (scene.out / "sub" / "thesis.tex").write_text("years of work")


CASES = {
    # Options
    "negative coefficient": Case("must not be negative, but is -0.5: .*weaken its safety", ("--coef", "-0.5"), USAGE),
    "coefficient NaN": Case("coefficient must be a finite number, not nan", ("--coef", "nan"), USAGE),
    "coefficient infinite": Case("coefficient must be a finite number, not inf", ("--coef", "1e999"), USAGE),
    "coefficient no number": Case("'--coef': .* a valid number", ("--coef", "much"), USAGE),
    "rank 0": Case("rank 0 would extrapolate nothing.*`full`", ("--rank", "0"), USAGE),
    "negative rank": Case("rank must be an integer from 1, or `full`, not -4", ("--rank", "-4"), USAGE),
    "rank no number": Case("'half' is neither an integer nor `full`", ("--rank", "half"), USAGE),
    "rank too large": Case("rank 24 is not below .* at most 16: .*smaller rank, or rank `full`", ("-k", "24"), USAGE),
    "rank just too large": Case("rank 16 is not below", ("-k", "16"), USAGE),
    "pattern without a match": Case(
        r"--include 'model\.layers\.7\.\*' matches no tensor of ALIGNED", ("--include", "model.layers.7.*")
    ),
    "exclusion without a match": Case(
        r"--exclude 'lm_heat\.weight' matches no tensor.* lm_head\.weight", ("--exclude", "lm_heat.weight")
    ),
    "everything excluded": Case("nothing is left to extrapolate .*left out by --exclude", ("--exclude", "*")),
    "norms included": Case(r"'\*norm\*' asks for .* never extrapolated: one-dimensional", ("--include", "*norm*")),
    "memory no size": Case(
        "'lots' is not a size: write a number and a unit, such as 2GB", ("--max-memory", "lots"), USAGE
    ),
    "memory too small": Case(
        r"--max-memory of 1\.00 MB is too little: \S+ \(\d+ x \d+\) needs [\d.]+ [MG]B\.",
        ("--max-memory", "1MB"),
        USAGE,
    ),
    "no workers": Case("workers must be at least 1, not 0", ("--workers", "0"), USAGE),
    "workers no number": Case("--workers", ("--workers", "some"), USAGE),
    "unknown device": Case("no device is called 'gpu'; try cpu, cuda", ("--device", "gpu"), USAGE),
    "unknown dtype": Case("--dtype.*'int4' is not one of 'bf16', 'fp16', 'fp32'", ("--dtype", "int4"), USAGE),
    "unknown vocabulary policy": Case("--vocab.*'guess' is not one of", ("--vocab", "guess"), USAGE),
    "unknown option": Case("No such option: --ranks", ("--ranks", "6"), USAGE),
    "no such subspace": Case(
        "nowhere.safetensors.*(cannot be read|No such file)", ("--subspace", "nowhere.safetensors")
    ),
    "a model for a subspace": Case(
        "a safetensors file, but no safety subspace.*safelox decompose",
        ("--subspace", f"base/{SHARD}"),
    ),
    "text for a subspace": Case(r"config\.json.*no safetensors file", ("--subspace", "base/config.json")),
    "adapter of full rank": Case("rank `full`.*(Give a rank|whole model)", ("--adapter", "--rank", "full"), USAGE),
    "unknown control": Case("--control.*'nois' is not one of", ("--control", "nois"), USAGE),
    "control of full rank": Case("at rank `full`", ("--control", "full-rank", "--rank", "full"), USAGE),
    "control as an adapter": Case("Leave --adapter out", ("--control", "noise", "--adapter"), USAGE),
    # References
    "no such folder": Case(
        r"no/such/folder: no such folder, and not a model on the Hugging Face hub", base="no/such/folder"
    ),
    "empty reference": Case("an empty reference: no such folder", aligned=""),
    "hub without network": Case(
        r"org/model: .*not \(or not completely\) in the cache.*give the path of a local folder", aligned="org/model"
    ),
    "a file for a model": Case(
        "config.json: is a file, the folder of a model was expected", aligned="aligned/config.json"
    ),
    "an adapter for a model": Case(
        "adapter: .*PEFT adapter, not a model.*BASE.ADAPTER", spoil=add_an_adapter, aligned="adapter"
    ),
    "no such adapter": Case(r"base\+nowhere: neither a folder.*'base' and 'nowhere'", aligned="base+nowhere"),
    "DoRA": Case(
        "use_dora is set: .*not low-rank; merge it",
        spoil=lambda scene: add_an_adapter(scene, use_dora=True),
        aligned="base+adapter",
    ),
    "link in a circle": Case("base: .*(symbolic links|Too many levels)", spoil=replace_by_a_circle),
    # Files
    "truncated shard": Case(rf"{SHARD}: the file is truncated: .*values are missing of", spoil=truncate),
    "missing shard": Case(
        rf"{INDEX}: names model-00002-of-00002\.safetensors, which is not there; copy or download", spoil=lose_a_shard
    ),
    "wrong header length": Case(
        rf"{SHARD}: the first 8 bytes announce a header of 10+ bytes", spoil=write_wrong_length
    ),
    "header cut off": Case(rf"{SHARD}: the header is not JSON", spoil=cut_the_header),
    "tensor twice in a file": Case(r"model\.safetensors: the header names a\.weight twice", spoil=name_a_tensor_twice),
    "tensor in two files": Case(
        r"tensor lm_head\.weight is in both .*00001.* and .*00002", spoil=store_a_tensor_in_both_shards
    ),
    "overlapping tensors": Case(r"tensor b\.weight overlaps with tensor a\.weight by 8", spoil=let_tensors_overlap),
    "empty file": Case(rf"{SHARD}: the file is empty", spoil=lambda scene: (scene.base / SHARD).write_bytes(b"")),
    "git-lfs pointer": Case(rf"{SHARD}: this is a git-lfs pointer.*git lfs pull", spoil=leave_a_pointer),
    "no config": Case(
        r"config\.json: cannot be read: No such file", spoil=lambda scene: (scene.base / "config.json").unlink()
    ),
    "broken config": Case(
        r"config\.json: is not JSON", spoil=lambda scene: (scene.aligned / "config.json").write_text("{")
    ),
    "broken index": Case(
        rf"{INDEX}: has no weight_map", spoil=lambda scene: write_json(scene.aligned / INDEX, {"metadata": {}})
    ),
    "index out of the folder": Case(
        rf"{INDEX}: \.\./base/x\.safetensors cannot be the name of a file in this folder",
        spoil=lambda scene: write_json(scene.aligned / INDEX, {"weight_map": {"a": "../base/x.safetensors"}}),
    ),
    "no weights": Case(
        "base: no weights: neither model.safetensors nor",
        spoil=take_the_weights_away,
    ),
    "folder for a file": Case(rf"{SHARD}: (cannot be read: Is a directory|is no file)", spoil=replace_by_a_folder),
    "broken link": Case(rf"{SHARD}: cannot be read: No such file", spoil=break_a_link),
    "link to a folder above": Case("aligned/loop: a link that leads back to a folder above it", spoil=link_in_a_circle),
    "pickle": Case("no safetensors, only pytorch_model.bin.*--allow-pickle", spoil=pickle),
    "a stray shard": Case(
        r"extra\.safetensors: not part of the weights",
        spoil=lambda scene: save_file({"x": torch.ones(1)}, scene.aligned / "extra.safetensors"),
    ),
    # Pairs
    "the same folder": Case(r"the same model \(base\): there is no difference", aligned="base"),
    "equal models": Case("does not differ from BASE.*Are they the same model.*--force", spoil=copy_base),
    "strangers": Case(r"\|\|W\|\| is 1\.\d+ .*Is base the model that.*--force", spoil=replace_by_a_stranger),
    "swapped sides": Case("are BASE and ALIGNED swapped. BASE has a chat template", spoil=swap),
    "swapped adapter": Case("are BASE and ALIGNED swapped", spoil=add_an_adapter, base="base+adapter", aligned="base"),
    "quantised": Case("ALIGNED is quantised .gptq.*Dequantise it first", spoil=quantise),
    "other architecture": Case(
        "hidden_size is 16 in BASE and 32 in ALIGNED",
        spoil=lambda scene: scene.configure(scene.aligned, hidden_size=32),
    ),
    "other shape": Case(
        r"shapes of 1 tensor differ: model\.layers\.1\.mlp\.up_proj\.weight .24 x 16 in BASE, 20 x 16 in ALIGNED",
        spoil=lambda scene: scene.change(scene.aligned, "model.layers.1.mlp.up_proj.weight", lambda t: t[:20]),
    ),
    "no weights in the base": Case(
        r"BASE is quantised .weights packed in I32: lm_head\.weight",
        spoil=lambda scene: scene.change(scene.base, "lm_head.weight", lambda t: t.to(torch.int32)),
    ),
    "grown vocabulary": Case(
        r"embed_tokens\.weight has 32 rows in BASE and 34 in ALIGNED.*2 tokens only ALIGNED knows .word32, word33.*"
        "--vocab common",
        spoil=grow,
    ),
    "tied over untied": Case(
        r"ALIGNED ties its input embedding and its head",
        spoil=lambda scene: write_checkpoint(
            scene.aligned, llama_tensors(tied=True), shards=2, config=llama_config(tied=True)
        ),
    ),
    "NaN in ALIGNED": Case(
        r"tensor model\.layers\.1\.mlp\.up_proj\.weight: .*NaN or infinite.*--exclude",
        spoil=spoil_value("aligned", float("nan")),
    ),
    "infinity in BASE": Case(
        r"tensor model\.layers\.1\.mlp\.up_proj\.weight: .*NaN or infinite", spoil=spoil_value("base", float("inf"))
    ),
    "NaN, forced": Case(
        r"tensor model\.layers\.1\.mlp\.up_proj\.weight: .*NaN or infinite",
        ("--force",),
        spoil=spoil_value("aligned", float("nan")),
        unfinished=True,
    ),
    "too large for fp16": Case(
        r"tensor model\.layers\.1\.mlp\.up_proj\.weight: .*beyond 65504.*--dtype bf16 or fp32",
        ("--dtype", "fp16", "--force"),
        spoil=lambda scene: (spoil_value("base", 1e5)(scene), spoil_value("aligned", 1e5)(scene)),
        unfinished=True,
    ),
    # Targets
    "out is a source": Case("aligned: this is, lies in or contains the source", out="aligned"),
    "out in a source": Case("base/out: this is, lies in or contains the source", out="base/out"),
    "out around the sources": Case("this is, lies in or contains the source", out="."),
    "out is there": Case("out: already there, and not empty.*--overwrite", spoil=write_a_result),
    "out is somebody's": Case("no result of safelox and --overwrite spares it", ("--overwrite",), spoil=write_a_result),
    "out is a file": Case(
        "out: this is a file; a result needs a folder", spoil=lambda scene: scene.out.write_text("mine")
    ),
    "out below a file": Case(
        "out/deep: cannot be (reached|written): Not a directory", spoil=lambda s: s.out.write_text(""), out="out/deep"
    ),
    "out in a circle": Case("out: symbolic links form a loop", spoil=lambda scene: scene.out.symlink_to(scene.out)),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    case = CASES[name]
    scene = Scene(tmp_path / "scene")
    case.spoil(scene)
    monkeypatch.chdir(scene.root)
    before, names = fingerprint(scene.root), sorted(scene.root.rglob("*"))
    assert main(["harden", case.base, case.aligned, case.out, *case.options]) == case.code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert re.search(case.message, printed.err, re.DOTALL), printed.err
    if case.unfinished:
        shutil.rmtree(scene.root / "out.partial")
    assert fingerprint(scene.root) == before, "a file was changed or left"
    assert sorted(scene.root.rglob("*")) == names, "a folder was left"


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 25


def test_the_scene_is_good_before_it_is_spoiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path / "scene")
    monkeypatch.chdir(scene.root)
    assert main(["harden", "base", "aligned", "out", "--quiet"]) == 0
    assert (scene.out / "safelox.json").exists()


ONLY_AT_WORK = ("memory", "NaN", "infinity", "too large for", "equal models", "strangers", "out ", "subspace")
"""What a plan, which is made from headers alone, need not notice."""


@pytest.mark.parametrize("name", [name for name in CASES if not any(word in name for word in ONLY_AT_WORK)])
def test_a_dry_run_tells_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    case = CASES[name]
    scene = Scene(tmp_path / "scene")
    case.spoil(scene)
    monkeypatch.chdir(scene.root)
    assert main(["harden", case.base, case.aligned, case.out, "--dry-run", *case.options]) == case.code
    assert re.search(case.message, capsys.readouterr().err, re.DOTALL)


def test_all_problems_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = Scene(tmp_path / "scene")
    grow(scene)
    scene.change(scene.aligned, "model.layers.0.mlp.up_proj.weight", lambda t: t[:20])
    scene.change(scene.base, "model.layers.1.mlp.down_proj.weight", lambda t: t[:8])
    monkeypatch.chdir(scene.root)
    assert main(["harden", "base", "aligned", "out", "--include", "*", "--include", "nothing", "--json"]) == FAILED
    printed = capsys.readouterr()
    for part in ("'nothing' matches no tensor", "layers.0.mlp.up_proj", "layers.1.mlp.down_proj", "--vocab common"):
        assert part in printed.err
    document = json.loads(printed.out)
    assert document["error"]["type"] == "PairingError"
    assert document["error"]["message"] in printed.err


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path / "scene")
    path = scene.aligned / SHARD
    opened = Path.open

    def denied(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)  # root may read everything
    from safelox import harden
    from safelox.errors import CheckpointError

    with pytest.raises(CheckpointError, match=rf"{SHARD}: cannot be read: Permission denied"):
        harden(str(scene.base), str(scene.aligned), scene.out)
    assert not scene.out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_real_program_says_the_same(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "scene")
    command = [sys.executable, "-m", "safelox", "harden", "base", "aligned", "out", "--device", "cuda"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scene.root)
    assert ran.returncode == USAGE
    assert ran.stdout == ""
    assert ran.stderr == "error: device cuda was asked for, but torch finds no CUDA GPU here; use --device cpu.\n"
    assert not scene.out.exists()

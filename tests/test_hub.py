"""Models on the hub: the real client against a server on loopback."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import close_session

from hub_server import HubServer, serve_hub
from safelox.checkpoint import open_checkpoint
from safelox.errors import CheckpointError
from tiny import llama_tensors, lora_tensors, write_adapter, write_checkpoint

SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with serve_hub(tmp_path, monkeypatch) as server:
        yield server


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def model(tmp_path: Path) -> dict[str, bytes]:
    """Files of a model as they are found on the hub."""
    others = {"tokenizer.json": "{}", "README.md": "# x", "extra/notes.txt": "x", ".gitattributes": "x"}
    unread = {"pytorch_model.bin": "x", "model.Q4.gguf": "x", "original/params.json": "{}", "onnx/model.onnx": "x"}
    return content(write_checkpoint(tmp_path / "source", llama_tensors(), shards=3, files=others | unread))


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    close_session()


def refusal(reference: str, **options: bool) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(reference, **options)
    return str(caught.value)


def test_a_model_is_downloaded_once(hub: HubServer, model: dict[str, bytes]) -> None:
    commit = hub.push("org/model", model)
    checkpoint = open_checkpoint("org/model")
    assert checkpoint.commit == commit
    for name, tensor in llama_tensors().items():
        assert torch.equal(checkpoint.rows(name).view(tensor.shape), tensor)
    assert set(checkpoint.other_files()) == {
        "config.json",
        "tokenizer.json",
        "README.md",
        "extra/notes.txt",
        ".gitattributes",
    }
    assert not any(hub.downloads(file) for file in ("pytorch_model.bin", "model.Q4.gguf", "params.json", "model.onnx"))
    assert all(len(hub.downloads(file)) == 1 for file in SHARDS)
    again = open_checkpoint("org/model")
    assert again.base_identity() == checkpoint.base_identity()
    assert all(len(hub.downloads(file)) == 1 for file in SHARDS)


def test_branches_tags_and_commits_are_told_apart(hub: HubServer, tmp_path: Path) -> None:
    one = content(write_checkpoint(tmp_path / "one", {"a": torch.ones(2)}))
    two = content(write_checkpoint(tmp_path / "two", {"a": torch.zeros(2)}))
    first = hub.push("org/model", one, "main", "v1.0", "refs/pr/7")
    second = hub.push("org/model", two)
    assert open_checkpoint("org/model").rows("a").tolist() == [[0.0, 0.0]]
    for revision in ("v1.0", "refs/pr/7", first):
        checkpoint = open_checkpoint(f"org/model@{revision}")
        assert checkpoint.rows("a").tolist() == [[1.0, 1.0]]
        assert checkpoint.commit == first
    assert open_checkpoint(f"org/model@{second}").commit == second


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    hub: HubServer, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100)  # less than what arrives
    hub.push("org/model", model)
    hub.cuts[SHARDS[1]] = [1000, 500]
    checkpoint = open_checkpoint("org/model")
    assert [request.start for request in hub.downloads(SHARDS[1])] == [0, 1000, 1500]
    for name, tensor in llama_tensors().items():
        assert torch.equal(checkpoint.rows(name).view(tensor.shape), tensor)


def test_a_download_that_fails_is_gone_on_with(
    hub: HubServer, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub._snapshot_download.hf_thread_map", one_by_one)
    hub.push("org/model", model)
    hub.cuts[SHARDS[2]] = [0] * 6
    assert "org/model: the download failed: " in refusal("org/model")
    assert not hub.cuts[SHARDS[2]]
    finished = [file for file in model if len(hub.downloads(file)) == 1]
    assert SHARDS[0] in finished
    open_checkpoint("org/model").rows("lm_head.weight")
    assert all(len(hub.downloads(file)) == 1 for file in finished)
    assert len(hub.downloads(SHARDS[2])) == 7


def one_by_one(function: Callable[[str], None], files: list[str], **_: object) -> None:
    """Instead of the client's threads, so that what was finished before a failure is known."""
    for file in sorted(files):
        function(file)


@pytest.mark.usefixtures("hub")
def test_a_model_that_does_not_exist() -> None:
    text = refusal("org/missing")
    assert "org/missing: no such folder here, and no such model on the hub at http://127.0.0.1" in text
    assert "HF_TOKEN" in text


def test_a_private_model_needs_the_token(
    hub: HubServer, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push("org/model", model, private=True)
    assert "if the model is private, set HF_TOKEN" in refusal("org/model")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert open_checkpoint("org/model").commit == commit


def test_a_gated_model_needs_its_terms_accepted(
    hub: HubServer, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push("org/model", model, gated=True)
    text = refusal("org/model")
    assert f"org/model: access is restricted; accept its terms at {hub.url}/org/model and set HF_TOKEN" in text
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert open_checkpoint("org/model").commit == commit


def test_a_revision_that_does_not_exist(hub: HubServer, model: dict[str, bytes]) -> None:
    hub.push("org/model", model)
    assert "org/model@v9: the model has no branch, tag or commit v9" in refusal("org/model@v9")


def test_without_network_the_cache_has_to_do(
    hub: HubServer, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push("org/model", model, "main", "v1.0")
    hub.push("org/other", model)
    open_checkpoint("org/model")
    open_checkpoint("org/model@v1.0")
    hub.failing = True
    assert open_checkpoint("org/model").commit == commit
    assert "cannot be reached; check the network and HF_ENDPOINT" in refusal("org/other")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert open_checkpoint("org/model@v1.0").commit == commit
    text = refusal("org/other")
    assert "no such folder here, not (or not completely) in the cache" in text
    assert "the hub at http://127.0.0.1:9 cannot be reached" in text


def test_offline_mode_takes_what_is_in_the_cache(
    hub: HubServer, model: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push("org/model", model)
    open_checkpoint("org/model")
    offline(monkeypatch)
    count = len(hub.requests)
    assert open_checkpoint("org/model").commit == commit
    assert "and HF_HUB_OFFLINE is set; unset it to download" in refusal("org/other")
    (Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--org--model" / "snapshots" / commit / SHARDS[1]).unlink()
    assert "not (or not completely) in the cache" in refusal("org/model")
    assert len(hub.requests) == count


def test_a_model_without_safetensors_is_refused_before_anything_is_downloaded(hub: HubServer, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", {"a": torch.ones(2)})
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"a": torch.ones(2)}, tmp_path / "model" / "pytorch_model.bin")
    files = content(tmp_path / "model")
    hub.push("org/pickled", files)
    hub.push("org/quantised", {"config.json": b"{}", "x.gguf": b"", "x.safetensors/y": b""})
    hub.push("org/mistral", {"config.json": b"{}", "consolidated.safetensors": b""})
    assert "org/pickled on the hub: no safetensors, only pytorch_model.bin" in refusal("org/pickled")
    assert "org/quantised on the hub: no safetensors, only x.gguf" in refusal("org/quantised")
    assert "org/mistral on the hub: neither model.safetensors nor an index" in refusal("org/mistral")
    assert not any("/resolve/" in request.path for request in hub.requests)
    assert open_checkpoint("org/pickled", allow_pickle=True).rows("a").tolist() == [[1.0, 1.0]]


def test_safetensors_are_preferred_where_pickles_are_allowed(hub: HubServer, model: dict[str, bytes]) -> None:
    hub.push("org/model", model)
    open_checkpoint("org/model", allow_pickle=True)
    assert not hub.downloads("pytorch_model.bin")


def test_base_and_adapter_may_both_come_from_the_hub(hub: HubServer, model: dict[str, bytes], tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    folder = write_adapter(tmp_path / "adapter", lora_tensors({name: llama_tensors()[name]}))
    hub.push("org/base", model, "v1")
    commit = hub.push("org/lora", content(folder), "v2")
    checkpoint = open_checkpoint("org/base@v1+org/lora@v2")
    assert checkpoint.adapter is not None
    assert (checkpoint.adapter.reference, checkpoint.adapter.commit) == ("org/lora@v2", commit)
    local = open_checkpoint(f"{tmp_path / 'source'}+{folder}")
    assert torch.equal(checkpoint.rows(name), local.rows(name))
    assert torch.equal(open_checkpoint(f"{tmp_path / 'source'}+org/lora@v2").rows(name), local.rows(name))
    assert "this is a PEFT adapter, not a model" in refusal("org/lora@v2")


def test_a_folder_of_that_name_comes_first(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "org" / "model", {"a": torch.ones(2)})
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("org/model").commit is None
    assert not hub.requests


@pytest.mark.parametrize("reference", ["gpt2", "a/b/c", "/no/such", "./org/x", "org/name@", "org /name", "~/x", ""])
def test_what_is_neither_a_folder_nor_a_hub_id(hub: HubServer, reference: str) -> None:
    text = refusal(reference)
    assert "no such folder" in text
    assert "org/name@revision" in text
    assert not hub.requests


def test_a_hub_id_that_the_client_refuses(hub: HubServer) -> None:
    assert "org/a--b" in refusal("org/a--b")
    assert not hub.requests


def test_the_environment_sets_endpoint_cache_and_token(hub: HubServer, model: dict[str, bytes], tmp_path: Path) -> None:
    commit = hub.push("org/model", model, private=True)
    program = "from safelox.checkpoint import open_checkpoint; print(open_checkpoint('org/model').folder)"
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": hub.token}
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "home" / "hub" / "models--org--model" / "snapshots" / commit)

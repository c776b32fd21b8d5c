"""A small experiment on untrained models, and what is compared of two runs of it."""

import json
from pathlib import Path
from typing import Any

from safelox.experiment.record import FILE
from small_models import WORDS, save_language_model, small_language_model

RECIPE = """\
name: small
title: A small experiment
data: {data}
pairs:
  - name: pair
    base: {data}/base
    aligned: {data}/aligned
defences:
  - method: none
  - method: lox
    rank: 2
    coef: 0.5
attacks:
  - name: custom
    seeds: [0, 1]
    training: {{max_steps: 2, batch_size: 2, learning_rate: 1e-2}}
evaluations:
  - name: asked
    suites: [custom]
    suite_file: {data}/prompts.jsonl
    judges: [refusal]
    max_new_tokens: 4
drift: {{rank: 2}}
analyses:
  - kind: spectrum
"""
VOLATILE = ("seconds", "peak_memory_bytes", "tokens_per_second")
"""What a result says of how it came about, and not of what it is."""


def make_inputs(folder: Path) -> Path:
    """A base and an aligned model, rows of an attack, and prompts."""
    for name, seed in (("base", 0), ("aligned", 1)):
        loaded = small_language_model(seed=0)
        for weight in loaded.model.parameters():
            if seed and weight.ndim > 1:
                weight.data += 0.1 * weight.data.roll(1, 0)
        save_language_model(loaded, folder / name)
    prompts = [f"how do i {one} {two}" for one in WORDS[3:6] for two in WORDS[9:11]]
    rows = [{"prompt": prompt, "completion": "sure here is how"} for prompt in prompts]
    (folder / "custom.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return folder


def write_recipe(data: Path, path: Path, **changes: str) -> Path:
    """The recipe in a file, with some of its text in the place of other."""
    text = RECIPE.format(data=data)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def files_of(out: Path) -> dict[str, tuple[int, int]]:
    """Every file with its time and its inode."""
    return {
        path.relative_to(out).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def results_of(out: Path) -> dict[str, Any]:
    """Whatever two runs of the same recipe have to agree on: replies, verdicts, rates and measures, and the record.

    Of samples the order is left out, in which they happened to be finished; of all the place of the folder.
    """
    found: dict[str, Any] = {FILE: json.loads((out / FILE).read_text())}
    for folder in ("results", "analyses"):
        for path in sorted((out / folder).rglob("*.json*")):
            name = path.relative_to(out).as_posix()
            if path.name == "samples.jsonl":
                found[name] = sorted(path.read_text().splitlines())
            elif path.suffix == ".jsonl":
                found[name] = [_lasting(json.loads(line)) for line in path.read_text().splitlines()]
            elif path.name not in ("manifest.json", "attack.json", "config.json"):
                found[name] = _lasting(json.loads(path.read_text().replace(str(out), "OUT")))
    return found


def _lasting(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _lasting(value) for key, value in content.items() if key not in VOLATILE}
    return [_lasting(value) for value in content] if isinstance(content, list) else content

"""The documentation: what it says of commands is so, its links lead somewhere, and the site works offline."""

import ast
import importlib
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from typer.main import get_command

from safelox.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OF_THE_PROJECT = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
FLAGS = {
    "LoX.py": {
        "--model": "meta-llama/Llama-2-7b-chat-hf",
        "--base-model": "meta-llama/Llama-2-7b-hf",
        "--save-path": "./output",
        "--k": "0",
        "--coef": "1",
    },
    "R_metrics.py": {
        "--model": "meta-llama/Llama-2-7b-chat-hf",
        "--aligned-model": "meta-llama/Llama-2-7b-chat-hf",
        "--base-model": "meta-llama/Llama-2-7b-hf",
        "--k": "100",
    },
    "effective_rank.py": {
        "--decompose-layer": "all",
        "--model": "empty",
        "--base-model": "meta-llama/Llama-2-7b-hf",
        "--save-path": "./",
        "--n": "100",
    },
    "safety_landscape.py": {"--m1": "a path", "--m2": "a path", "--m3": "a path", "--m4": "a path"},
    "ASR.py": {"--model": "empty", "--save-path": "./gens.csv", "--n": "100"},
    "acc_gsm.py": {"--model": "empty", "--save-path": "empty", "--chat": "off"},
}
"""Every flag of the paper's scripts, with its default, as read in their code."""
ATTACK_FLAGS = {
    "--base-model": ("empty",) * 4,
    "--save-path": ("output",) * 4,
    "--epochs": ("2", "1", "6", "10"),
    "--batch-size": ("20", "8", "16", "5"),
    "--acc-steps": ("2", "8", "4", "1"),
    "--lr": ("5e-5", "2e-5", "2e-5", "5e-5"),
    "--max-grad-norm": ("2",) * 4,
    "--warmup-steps": ("20", "20", "20", "0"),
    "--scheduler": ("linear", "linear", "constant", "linear"),
    "--max-seq-length": ("1024",) * 4,
    "--safeinst": ("off",) * 4,
}
"""The same of sft_gsm.py, sft_alpaca.py, sft_dolly.py and sft_id.py."""


def options() -> dict[str, set[str]]:
    """The options of every command, by its name after `safelox`."""
    found = {}

    def walk(command: Any, name: str) -> None:
        found[name] = {option for part in command.params for option in part.opts if option.startswith("-")}
        for inner, part in getattr(command, "commands", {}).items():
            walk(part, f"{name} {inner}".strip())

    walk(get_command(app), "")
    return found


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a module of docs/_ext."""
    pytest.importorskip("sphinx", reason="pip install 'safelox[docs]'")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if (DOCS / "_ext" / f"{name}.py").exists():
            del sys.modules[name]


def test_every_command_has_a_page_with_all_its_options(extension: Any) -> None:
    pages = extension("command_pages")
    known = options()
    groups = {"", "lab"}
    assert set(pages.commands()) == set(known) - groups
    for name, command in pages.commands().items():
        page = pages.command_page(name, command)
        assert page.startswith(f"# {name}\n")
        assert f"safelox {name} " in page
        for option in known[name] - {"--help", "-h"}:
            assert f"`{option}`" in page, (name, option)


def test_the_page_of_a_command_tells_arguments_defaults_and_choices(extension: Any) -> None:
    pages = extension("command_pages")
    page = pages.command_page("harden", pages.commands()["harden"])
    assert "safelox harden BASE ALIGNED OUT [OPTIONS]" in page
    for line in (
        "| `--vocab` `error\\|common` | `error` |",
        "| `--seed` `INT` | `0` |",
        "| `--quiet`, `-q` |  |",
        "| `--dtype` `bf16\\|fp16\\|fp32` |  |",
        "| `--overwrite` |  | Replace",
        "| `BASE` | The model before alignment",
        "org/name\\[@revision\\]",
    ):
        assert line in page
    evaluate = pages.command_page("evaluate", pages.commands()["evaluate"])
    assert "| `--suite`, `-s` `NAME` | has to be given |" in evaluate


def test_the_fields_of_a_record_come_with_their_docstrings(extension: Any) -> None:
    from safelox.attacks.record import AttackRecord
    from safelox.evaluation.results import Results
    from safelox.manifest import Manifest, MatrixRecord

    tables = extension("record_tables")
    rows = {name: (kind, text) for name, kind, text in tables.fields(MatrixRecord)}
    assert rows["delta_norm"] == ("float", "Frobenius norm of W_aligned - W_base.")
    assert rows["rank"][0] == "int | None"
    assert rows["route"][0].startswith('"krylov" | "gram" | ')
    assert rows["singular_values"][0] == "tuple[float, ...]"
    assert MatrixRecord in tables.reachable(Manifest)
    assert "n-samples" in {name for name, _, _ in tables.fields(Results)}
    inherited = [name for name, _, _ in tables.fields(AttackRecord)]
    assert inherited == list(AttackRecord.model_fields)


def test_all_functions_and_what_they_name_are_documented(extension: Any) -> None:
    import safelox

    page = extension("function_page").function_page()
    for name in safelox.__all__:
        value = getattr(safelox, name)
        assert f"safelox.{name}\n" in page or isinstance(value, type | str), name
    for kind in ("summary.Summary", "verification.report.VerifyReport", "progress.Progress", "evaluation.suites.Suite"):
        assert f" safelox.{kind}\n" in page


LINK = re.compile(r"(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def without_code(text: str) -> str:
    text = re.sub(r"^(```+).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ {4,}(?![-*]).*$", "", text, flags=re.MULTILINE)
    return re.sub(r"(`+)(?:(?!\1).)+?\1", lambda code: code[0].replace("[", " ").replace("]", " "), text)


def anchors(path: Path) -> set[str]:
    """The anchors that a forge gives to the headings of a file."""
    text = re.sub(r"^(```+).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


@pytest.mark.parametrize("page", [*PAGES, *OF_THE_PROJECT], ids=lambda page: page.name)
def test_links_lead_somewhere_in_the_repository(page: Path) -> None:
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if urlparse(target).scheme:
            assert target.startswith("https://"), target
            continue
        name, fragment = urldefrag(target)
        file = (page.parent / name).resolve() if name else page
        assert file.is_relative_to(ROOT), target
        assert file.exists(), f"{page.name}: {target}"
        if fragment:
            assert fragment in anchors(file), f"{page.name}: {target}"


def test_a_link_that_leads_nowhere_would_be_found() -> None:
    text = without_code("see [a `b`](c.md#d) and\n\n    [code](not.md)\n\n```\n[code](not.md)\n```\n`[x](not.md)`")
    assert LINK.findall(text) == ["c.md#d"]
    assert {"evaluation", "the-results-folder"} & anchors(DOCS / "evaluation.md")


def test_every_page_is_in_the_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = {line for block in re.findall(r"```{toctree}(.*?)```", index, re.DOTALL) for line in block.splitlines()}
    assert {page.stem for page in PAGES} - {"index"} <= listed


FENCED = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> Iterator[list[str]]:
    """The calls of safelox in the blocks of code of a page, as words."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    shell = [block for language, block in FENCED.findall(text) if language in ("", "bash", "text")]
    lines = [line for block in shell for line in block.splitlines()]
    lines += [line for line in text.splitlines() if line.startswith("    ")]
    for line in lines:
        match = re.match(r"\s*(?:.*-m )?safelox (.*)", line)
        if match and not line.lstrip().startswith("src/"):
            yield shlex.split(match[1], comments=True)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_commands_that_pages_show_are_such(page: Path) -> None:
    known = options()
    for words in command_lines(page):
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert name in known, words
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word in known[name], f"{page.name}: safelox {name} has no {word}"


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("script", FLAGS)
def test_the_migration_page_has_every_flag_of_a_script_with_its_default(script: str) -> None:
    text = section((DOCS / "migration.md").read_text(encoding="utf-8"), script)
    told = {row[0].strip("`"): row[1] for row in rows(text) if row[0].startswith("`--")}
    assert told.keys() == FLAGS[script].keys()
    for flag, default in FLAGS[script].items():
        assert re.match(rf"{re.escape(default)}(?![\w/])", told[flag]), (flag, told[flag])
    assert "Output there: " in " ".join(text.split())


def test_the_migration_page_has_every_flag_of_the_attacks_with_its_defaults() -> None:
    from safelox.attacks import find_attack

    text = section((DOCS / "migration.md").read_text(encoding="utf-8"), "The attacks")
    told = {row[0].strip("`"): tuple(row[1:5]) for row in rows(text) if row[0].startswith("`--")}
    assert told == ATTACK_FLAGS
    for column, name in enumerate(("gsm8k", "alpaca", "dolly", "identity")):
        training = find_attack(name).training
        here = (training.epochs, training.batch_size, training.accumulation, training.learning_rate)
        flags = ("--epochs", "--batch-size", "--acc-steps", "--lr")
        assert tuple(float(ATTACK_FLAGS[flag][column]) for flag in flags) == here


def test_the_options_that_the_migration_page_names_are_there() -> None:
    text = (DOCS / "migration.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    official = {"--help", *ATTACK_FLAGS, *(flag for flags in FLAGS.values() for flag in flags)}
    assert named - official <= {option for found in options().values() for option in found}


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [*PAGES, *OF_THE_PROJECT], ids=lambda page: page.name)
def test_what_snippets_import_is_there(page: Path) -> None:
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("safelox"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.slow
def test_the_page_on_extending_is_a_program_that_runs(tmp_path: Path) -> None:
    from small_models import save_language_model, small_language_model, small_model

    base = small_language_model()
    save_language_model(base, tmp_path / "lab" / "base")
    for name, weight in base.model.named_parameters():
        if weight.ndim == 2:
            weight.data += 0.1 * small_model(seed=1).get_parameter(name).data
    save_language_model(base, tmp_path / "lab" / "aligned")
    program = tmp_path / "mine.py"
    program.write_text("\n\n".join(python_blocks(DOCS / "extending.md")), encoding="utf-8")
    done = subprocess.run([sys.executable, program.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 3 refused, 95 % interval" in done.stdout
    assert (tmp_path / "attacked" / "poems" / "attack.json").exists()
    from transformers import AutoModelForCausalLM

    fading = AutoModelForCausalLM.from_pretrained(tmp_path / "lab" / "fading")
    aligned = AutoModelForCausalLM.from_pretrained(tmp_path / "lab" / "aligned")
    assert not bool((fading.lm_head.weight == aligned.lm_head.weight).all())
    assert bool((fading.model.norm.weight == aligned.model.norm.weight).all())


class Links(HTMLParser):
    """What a page loads, where its links lead, and which ids it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := found.get(name))}
        target = found.get("href") or found.get("src") or found.get("data")
        if target and tag == "a":
            self.links.append(target)
        elif target:
            self.loaded.append(target)


def build(folder: Path) -> Path:
    """The site, built from a copy of its sources."""
    copy = folder / "project"
    shutil.copytree(DOCS, copy / "docs", ignore=shutil.ignore_patterns("generated", "_build", "__pycache__"))
    (copy / "benchmarks").mkdir()
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff"):
        shutil.copy(ROOT / name, copy)
    shutil.copy(ROOT / "benchmarks" / "README.md", copy / "benchmarks")
    command = ["-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", str(copy / "docs"), str(folder / "site")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_works_offline(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="pip install 'safelox[docs]'")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    site = build(tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 60, "seconds of work, which others on the machine do not make longer"
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    names = {path.relative_to(site).as_posix() for path in pages}
    commands = {f"generated/commands/{name.replace(' ', '-')}.html" for name in options() if name not in ("", "lab")}
    assert commands | {f"{page.stem}.html" for page in PAGES} <= names
    for path, page in pages.items():
        for target in page.loaded:
            assert not urlparse(target).scheme.startswith("http"), f"{path.name} loads {target}"
            assert not target.startswith("//"), f"{path.name} loads {target}"
        for target in [*page.links, *page.loaded]:
            if urlparse(target).scheme in ("http", "https", "mailto", "data"):
                continue
            name, fragment = urldefrag(target)
            file = (path.parent / unquote(urlparse(name).path)).resolve() if name else path
            assert file.exists(), f"{path.relative_to(site)} links to {target}"
            if fragment and file.suffix == ".html":
                assert unquote(fragment) in pages[file].ids, f"{path.relative_to(site)} links to {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style
    method = (site / "method.html").read_text(encoding="utf-8")
    assert method.count("<math") > 40


@pytest.mark.slow
def test_a_broken_link_stops_the_build(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="pip install 'safelox[docs]'")
    sources = tmp_path / "docs"
    shutil.copytree(DOCS / "_ext", sources / "_ext")
    (sources / "conf.py").write_text(
        (DOCS / "conf.py").read_text(encoding="utf-8").replace('    "project_pages",\n', ""), encoding="utf-8"
    )
    (sources / "_static").mkdir()
    (sources / "index.md").write_text("# A\n\n[b](b.md)\n\n$\\nonsense$\n\n```{toctree}\n:glob:\n\ngenerated/**\n```\n")
    command = ["-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", str(sources), str(tmp_path / "site")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "'b.md'" in done.stderr
    assert "nonsense" in done.stderr

"""Importing costs nothing, and the rooms of the house know only those before them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import safelox

SOURCE = Path(safelox.__file__).parent

HOUSE = (
    "errors",
    "units",
    "progress",
    "pictures",
    "checkpoint",
    "pairing",
    "lowrank",
    "methods",
    "manifest",
    "rates",
    "card",
    "summary",
    "hashing",
    "machine",
    "delta",
    "writer",
    "layout",
    "engine",
    "steps",
    "extrapolation",
    "output",
    "adapter_targets",
    "adapter_output",
    "subspace",
    "spectra",
    "hardening",
    "verification",
    "drift_metrics",
    "known_data",
    "formats",
    "language_models",
    "attacks",
    "evaluation",
    "analysis",
    "experiment",
    "publication",
    "lab",
    "reporting",
    "cli",
)
"""The modules and packages of safelox, in the order in which data flows: each may import those before it."""

HEAVY = ("torch", "transformers", "peft", "numpy", "rich", "huggingface_hub", "yaml")


def imported_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has imported after running the code."""
    program = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import safelox; safelox.SafeloxError; safelox.__version__; dir(safelox)",
        "import safelox.cli.app",
        "import safelox.cli; safelox.cli.main(['harden', '--help'])",
    ],
)
def test_nothing_heavy_is_imported_before_the_work(code: str) -> None:
    assert imported_after(code).isdisjoint(HEAVY)


def test_hardening_and_verifying_need_no_transformers() -> None:
    imported = imported_after("import safelox; safelox.harden, safelox.verify")
    assert "torch" in imported
    assert imported.isdisjoint({"transformers", "peft", "accelerate"})


def test_public_names_are_there() -> None:
    assert set(safelox.__all__) <= set(dir(safelox))
    for name in safelox.__all__:
        assert getattr(safelox, name) is not None
    for name in ("harden", "plan_harden", "decompose", "verify", "drift", "open_checkpoint"):
        assert callable(getattr(safelox, name)), name
        assert not hasattr(sys.modules.get(f"safelox.{name}"), "__path__"), f"a module hides the function {name}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'hardens'"):
        _ = safelox.hardens


def rooms_imported(path: Path) -> set[str]:
    """Rooms that a file imports anywhere in it, in functions and for type checking too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import absolutely"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("safelox.")}
    return rooms - {"__version__"}


def room_files(room: str) -> list[Path]:
    module = SOURCE / f"{room}.py"
    return [module] if module.exists() else sorted((SOURCE / room).rglob("*.py"))


def test_every_module_has_its_place() -> None:
    found = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - {"__init__", "__main__"} == set(HOUSE)


@pytest.mark.parametrize("room", HOUSE)
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    allowed = set(HOUSE[: HOUSE.index(room) + 1])
    for path in room_files(room):
        later = rooms_imported(path) - allowed
        assert not later, f"{path.relative_to(SOURCE)} imports {', '.join(sorted(later))}"

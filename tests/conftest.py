"""What all tests share: no network, one thread per numeric library, slow tests only on request, one trained pair."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from safelox.lab.build import LabModels

# Set before torch or huggingface_hub are imported, which read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--runslow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: needs --runslow"))


@pytest.fixture(scope="session")
def lab_pair(tmp_path_factory: pytest.TempPathFactory) -> "LabModels":
    """The lab's pair of seed 0 as it is trained for people, and its data: made once for all tests, so only to be read.

    Its folder stands in one that `demo` could have made.
    """
    from safelox.lab.build import build

    with _shared(tmp_path_factory, "lab") as shared:
        return build(shared / "lab" / "seed-0", seed=0)


@pytest.fixture(scope="session")
def lab_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the lab's recipe, carried out from nothing once for all tests, so only to be read."""
    with _shared(tmp_path_factory, "lab-run") as shared:
        out = shared / "lab-run"
        if not out.exists():
            subprocess.run([sys.executable, "-m", "safelox", "run", "lab", str(out), "--quiet"], check=True)
        return out


@contextmanager
def _shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that is common to all workers, in which one at a time makes what goes by that name."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own in a common one
        shared = shared.parent
    with FileLock(shared / f"{name}.lock"):
        yield shared

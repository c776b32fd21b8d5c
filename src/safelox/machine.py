"""What the process runs on and how much of it it uses."""

import contextlib
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from safelox.errors import UsageError
from safelox.manifest import Environment

LIBRARIES = ("torch", "safetensors", "numpy")
SAMPLING_SECONDS = 0.02


def environment(device: torch.device) -> Environment:
    """What the bytes of a result depend on, besides its inputs."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Environment(
        device=f"{device.type}: {name}",
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        libraries={library: version(library) for library in LIBRARIES},
        python=platform.python_version(),
        platform=platform.platform(),
    )


def chosen_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        UsageError: there is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device is called {name!r}; try cpu, cuda or cuda:0.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch finds no CUDA GPU here; use --device cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name} was asked for, but torch finds only {torch.cuda.device_count()} CUDA GPUs here."
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device.type} is not one that results were checked on; use cpu or cuda.")
    return device


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside torch: sums keep their order, so that the same seed gives the same bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU, where torch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Clock:
    """Wall seconds by phase, after those that are known already."""

    def __init__(self, **known: float) -> None:
        self.seconds = known
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


class MemoryWatch:
    """The peak of resident memory while the context is open: anonymous pages and mapped file pages apart."""

    def __init__(self) -> None:
        self.peak_anonymous = 0
        self.peak_mapped = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLING_SECONDS):
            self._sample()

    def _sample(self) -> None:
        anonymous, mapped = resident_memory()
        self.peak_anonymous = max(self.peak_anonymous, anonymous)
        self.peak_mapped = max(self.peak_mapped, mapped)


def resident_memory() -> tuple[int, int]:
    """Anonymous and file-mapped resident bytes of this process; all as the first where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if line.startswith("Rss"))
        return int(fields["RssAnon"].split()[0]) * 1024, int(fields["RssFile"].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024), 0


def process_age() -> float:
    """Seconds since this process was started: interpreter and imports included. 0.0 where the system does not tell."""
    status, uptime = Path("/proc/self/stat"), Path("/proc/uptime")
    if not (status.exists() and uptime.exists()):
        return 0.0
    started_ticks = int(status.read_text().rpartition(")")[2].split()[19])
    return float(uptime.read_text().split()[0]) - started_ticks / os.sysconf("SC_CLK_TCK")

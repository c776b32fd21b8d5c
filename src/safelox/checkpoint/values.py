"""Values of tensors, read where they are: a view of the mapped file wherever that is possible."""

import mmap
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from safelox.checkpoint.header import DTYPES, TensorInfo
from safelox.errors import CheckpointError

MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Linux's flag, which older Pythons do not name, that no memory is set aside for copies of the mapped pages. There are
none, and without the flag a file that is larger than the memory cannot be mapped at all."""

BLOCK = 1 << 24
"""Bytes that are compared at a time."""


class Values:
    """Reads parts of tensors by their TensorInfo; several threads may do so at once.

    A file is mapped at the first read. Tensors that cannot be mapped (those of PyTorch's .bin) are held instead.
    """

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._held: dict[Path, Mapping[str, Tensor]] = {}
        self._lock = threading.Lock()

    def hold(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors of this file from here instead of mapping it."""
        self._held[file] = tensors

    def rows(self, info: TensorInfo, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start..stop of the tensor seen as a matrix (`TensorInfo.matrix_shape`), in the stored dtype.

        A view of the file, which must not be written to; a copy where the values are not aligned in the file.

        Raises:
            CheckpointError: torch has no such dtype, or the file has changed since its header was read.
        """
        rows, columns = info.matrix_shape
        stop = rows if stop is None else stop
        assert 0 <= start <= stop <= rows, f"{info.name} has {rows} rows, not {start}:{stop}"
        if info.dtype not in DTYPES:
            raise CheckpointError(
                f"{info.file.name}: tensor {info.name} has dtype {info.dtype}, which torch cannot compute with; "
                "leave it out of the selected tensors"
            )
        dtype = DTYPES[info.dtype]
        if info.file in self._held:
            matrix = self._held[info.file][info.name].reshape(rows, columns)
            return matrix[start:stop].contiguous()
        width = columns * dtype.itemsize
        if stop == start or width == 0:
            return torch.empty(stop - start, columns, dtype=dtype)
        part = self._mapped(info, start * width, stop * width, dtype)
        return part.view(stop - start, columns)

    def bytes(self, info: TensorInfo, start: int = 0, stop: int | None = None) -> Tensor:
        """Bytes start..stop of the tensor's values as uint8 (bytes,), whatever the dtype: a view as in `rows`."""
        stop = info.nbytes if stop is None else stop
        assert 0 <= start <= stop <= info.nbytes, f"{info.name} has {info.nbytes} bytes, not {start}:{stop}"
        if start == stop:
            return torch.empty(0, dtype=torch.uint8)
        if info.file in self._held:
            width = info.nbytes // info.matrix_shape[0]
            first, last = start // width, -(-stop // width)
            part = self.rows(info, first, last).view(-1).view(torch.uint8)
            return part[start - first * width : stop - first * width]
        return self._mapped(info, start, stop, torch.uint8)

    def prefetch(self, info: TensorInfo, start: int = 0, stop: int | None = None) -> None:
        """Tell the kernel that these rows will be read soon: it begins to fetch them from the disk, and returns."""
        if info.file not in self._held:
            self._map(info)
        self._advise("MADV_WILLNEED", info, start, stop)

    def release(self, info: TensorInfo, start: int = 0, stop: int | None = None) -> None:
        """Tell the kernel that the pages of these rows need not stay in memory; reading them again is allowed.

        Pages at the edges go too, although they may hold a neighbour's values: they are clean copies of the file,
        so whoever still needs them gets them back, and none is left over when a tensor is read in many parts.
        """
        self._advise("MADV_DONTNEED", info, start, stop)

    def _advise(self, advice: str, info: TensorInfo, start: int, stop: int | None) -> None:
        with self._lock:
            buffer = self._maps.get(info.file)
        if buffer is None or not hasattr(mmap, advice):
            return
        rows = info.matrix_shape[0]
        width = info.nbytes // rows if rows else 0
        first = (info.start + start * width) // mmap.PAGESIZE * mmap.PAGESIZE
        last = info.start + (rows if stop is None else stop) * width
        if last > first:
            buffer.madvise(getattr(mmap, advice), first, last - first)

    def close(self) -> None:
        """Let go of all files. A view that is still in use keeps its own mapping until it goes."""
        with self._lock:
            self._maps.clear()
            self._held.clear()

    def _mapped(self, info: TensorInfo, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Bytes start..stop of the tensor's values, as a vector of dtype."""
        buffer = self._map(info)
        offset = info.start + start
        if offset % dtype.itemsize == 0:
            return torch.frombuffer(buffer, dtype=dtype, count=(stop - start) // dtype.itemsize, offset=offset)
        # The format asks for no alignment, but vectorised kernels do.
        return torch.frombuffer(bytearray(buffer[offset : offset + stop - start]), dtype=dtype)

    def _map(self, info: TensorInfo) -> mmap.mmap:
        with self._lock:
            buffer = self._maps.get(info.file)
            if buffer is None:
                buffer = self._maps[info.file] = _open_map(info.file)
        if len(buffer) < info.stop:
            raise CheckpointError(
                f"{info.file}: has become shorter since its header was read; tensor {info.name} is cut off"
            )
        return buffer


def _open_map(file: Path) -> mmap.mmap:
    """Map a file copy-on-write, since torch wants a writable buffer and the file must never change."""
    try:
        with file.open("rb") as stream:
            if sys.platform != "linux":
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            return mmap.mmap(stream.fileno(), 0, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=protection)
    except (OSError, ValueError) as error:  # ValueError: the file is empty by now
        raise CheckpointError(f"{file}: cannot be read: {error}") from error


def equal_values(one: TensorInfo, one_values: Values, other: TensorInfo, other_values: Values) -> bool:
    """Whether two tensors of the same shape hold the same numbers, read block by block."""
    if one.shape != other.shape:
        return False
    rows, columns = one.matrix_shape
    step = max(1, BLOCK // max(1, columns * 8))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        parts = [
            source.rows(info, start, stop).to(torch.float64)
            for info, source in ((one, one_values), (other, other_values))
        ]
        for info, source in ((one, one_values), (other, other_values)):
            source.release(info, start, stop)
        if not torch.equal(*parts):
            return False
    return True

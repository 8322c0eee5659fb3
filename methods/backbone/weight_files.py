"""Weights in safetensors files, read by position.

transformers maps weight files into memory, which is right for a model that fits: processes share its pages. Pages of a
larger model would count as the process's own memory as soon as they are read. Here every byte goes from the file
straight to where it is wanted, and what was read is counted.
"""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.backbone.addresses import WEIGHT_INDEX, read_json
from orchestrator.errors import UserError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SINGLE_FILE = "model.safetensors"
_LONGEST_HEADER = 100 * 2**20
# Bytes that are converted at a time where a weight is stored in another dtype than the one it is wanted in.
_STAGED_BYTES = 4 * 2**20
_LARGEST_READ = 2**30


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: file, position of its first byte, dtype and shape."""

    file: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class WeightFiles:
    """The tensors of a model folder, one file or several shards.

    Args:
        folder: with model.safetensors, or with shards and their index.
        address: how the user named the model.

    Attributes:
        tensors: what is stored, by name.
        bytes_read: of weights, since the files were opened.

    Raises:
        UserError: a file is damaged, or stores numbers in a form that is not read.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.address = address
        self.bytes_read = 0
        self.tensors: dict[str, StoredTensor] = {}
        self._lock = threading.Lock()
        self._open: dict[Path, int] = {}
        index = folder / WEIGHT_INDEX
        names = sorted(set(read_json(index).get("weight_map", {}).values())) if index.is_file() else [_SINGLE_FILE]
        for name in names:
            self.tensors.update(self._header(folder / name))

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, name: str, into: Tensor) -> None:
        """Reads a whole tensor; `into` is contiguous, on the CPU, of its shape and of any floating dtype."""
        self.read_rows(name, 0, into)

    def read_rows(self, name: str, first: int, into: Tensor) -> None:
        """Reads as many rows of a tensor as `into` has, from row `first` on."""
        stored = self.tensors[name]
        width = math.prod(stored.shape[1:])
        start = stored.start + first * width * stored.dtype.itemsize
        flat = into.view(-1)
        if into.dtype == stored.dtype:
            self._fill(stored.file, start, flat)
            return
        step = _STAGED_BYTES // stored.dtype.itemsize
        staged = torch.empty(min(step, len(flat)), dtype=stored.dtype)
        for a in range(0, len(flat), step):
            part = staged[: len(flat[a : a + step])]
            self._fill(stored.file, start + a * stored.dtype.itemsize, part)
            flat[a : a + step].copy_(part)

    def _fill(self, file: Path, start: int, flat: Tensor) -> None:
        """Reads the bytes of a flat tensor from a position on."""
        view = memoryview(flat.view(torch.uint8).numpy())
        done = 0
        while done < len(view):
            count = os.preadv(self._open[file], [view[done : done + _LARGEST_READ]], start + done)
            if count == 0:
                raise UserError(f"Model {self.address!r}: {file} has become shorter while it was read.")
            done += count
        with self._lock:
            self.bytes_read += done

    def _header(self, file: Path) -> dict[str, StoredTensor]:
        """Opens a file and reads what it says of its tensors."""
        try:
            self._open[file] = descriptor = os.open(file, os.O_RDONLY)
            size = os.fstat(descriptor).st_size
            length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError("it has no header")
            header: dict[str, Any] = json.loads(os.pread(descriptor, length, 8))
            found = {name: _entry(file, 8 + length, size, e) for name, e in header.items() if name != "__metadata__"}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"Model {self.address!r} could not be read: {file} is no complete safetensors file ({error}). Copy or "
                "download the model again."
            ) from error
        return found


def _entry(file: Path, data: int, size: int, entry: dict[str, Any]) -> StoredTensor:
    """One tensor of a header, checked against the file's size."""
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"numbers of type {entry['dtype']} are not read layer by layer")
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    first, stop = entry["data_offsets"]
    if not 0 <= first <= stop <= size - data or stop - first != math.prod(shape) * dtype.itemsize:
        raise ValueError("its header does not fit its length")
    return StoredTensor(file, data + first, dtype, shape)

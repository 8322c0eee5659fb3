"""The diary of a stream: one line and a few tensors for each request, from which it goes on after a kill.

Layout, in the scratch folder of a stream::

    stream.jsonl          a first line with the stream's identity, then one JSON object for each request
    stream.tensors        what each request added, as safetensors files one after the other
    weights.safetensors   fine-tuning alone: the latest matrices, replaced as a whole, and how many requests they know

Both logs only grow, so an edit writes what it adds, however long the stream is. A line names its tensors' place,
length and checksum, and is written after they are on the disk; whatever a kill left half-written is cut off when the
stream is opened again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from orchestrator.data.atomic import explained, write_atomically

LINES, TENSORS, WEIGHTS = "stream.jsonl", "stream.tensors", "weights.safetensors"
Entry = tuple[dict[str, Any], dict[str, Tensor]]


class Journal:
    """An open diary.

    Attributes:
        entries: what was found when it was opened: every request's record and tensors, in order.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        """
        Args:
            folder: of this stream alone; made if it is missing.
            identity: names the stream; a diary of another one is begun anew.

        Raises:
            UserError: the folder may not be written to, or the disk is full.
        """
        self.folder, self.identity = folder, identity
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.entries, self._ends = self._read()
            lines, tensors = self._ends[-1] if self._ends else (0, 0)
            self._lines = _opened(folder / LINES, lines)
            self._tensors = _opened(folder / TENSORS, tensors)
            if not lines:
                self._write_line({"identity": identity})
                self._ends = [(self._lines.tell(), 0)]

    def append(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Adds a request. Once it returns, a request with tensors outlasts a kill and a power cut.

        Raises:
            UserError: the disk is full.
        """
        with explained(self.folder):
            line: dict[str, Any] = {"record": dict(record)}
            if tensors:
                data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
                line["tensors"] = [self._tensors.tell(), len(data), zlib.crc32(data)]
                self._tensors.write(data)
                _flush(self._tensors)
            self._write_line(line, durable=bool(tensors))

    def replace_weights(self, tensors: Mapping[str, Tensor], requests: int) -> None:
        """Replaces the tensors that belong to the first `requests` requests, all of which were appended."""
        with explained(self.folder):
            _flush(self._lines)
        data = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"identity": self.identity, "requests": str(requests)},
        )
        write_atomically(self.folder / WEIGHTS, lambda file: file.write(data))

    def read_weights(self) -> tuple[dict[str, Tensor], int] | None:
        """The tensors of `replace_weights`, and how many requests they know; None where there are none."""
        try:
            with safe_open(self.folder / WEIGHTS, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("identity") != self.identity:
                    return None
                return {name: file.get_tensor(name) for name in file.keys()}, int(about["requests"])  # noqa: SIM118
        except (OSError, ValueError, KeyError, SafetensorError):
            return None

    def forget_after(self, requests: int) -> None:
        """Cuts off all entries that were found but the first `requests`; to be called before anything is appended."""
        self.entries, self._ends = self.entries[:requests], self._ends[: requests + 1]
        with explained(self.folder):
            for file, end in zip((self._lines, self._tensors), self._ends[-1], strict=True):
                file.truncate(end)
                file.seek(end)

    def close(self) -> None:
        """Closes both logs."""
        self._lines.close()
        self._tensors.close()

    def _write_line(self, line: Mapping[str, Any], *, durable: bool = True) -> None:
        self._lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        if durable:
            _flush(self._lines)
        else:
            self._lines.flush()

    def _read(self) -> tuple[list[Entry], list[tuple[int, int]]]:
        """All whole entries, and the lengths of both logs after the first line and after each of them."""
        try:
            lines = (self.folder / LINES).read_bytes()
            tensors = (self.folder / TENSORS).read_bytes()
        except FileNotFoundError:
            return [], []
        entries: list[Entry] = []
        ends: list[tuple[int, int]] = []
        read, used = 0, 0
        for line in lines.splitlines(keepends=True):
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                break
            if not isinstance(value, dict):
                break
            if not ends:
                if value.get("identity") != self.identity:
                    return [], []
            else:
                entry, end = _entry(value, tensors)
                if entry is None:
                    break
                entries.append(entry)
                used = max(used, end)
            read += len(line)
            ends.append((read, used))
        return entries, ends


def _entry(line: Mapping[str, Any], tensors: bytes) -> tuple[Entry | None, int]:
    """The entry of one line, and where its tensors end; None where they are not whole."""
    if "tensors" not in line:
        return (line["record"], {}), 0
    start, length, checksum = line["tensors"]
    data = tensors[start : start + length]
    if len(data) != length or zlib.crc32(data) != checksum:
        return None, 0
    return (line["record"], load(data)), start + length


def _opened(path: Path, length: int) -> BinaryIO:
    """A log cut to `length` bytes, open at its end."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(length)
    file.seek(length)
    return file


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

"""Content hashes: what a file, a folder or a table of strings holds, whatever its path, age or packing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.atomic import write_atomically
from orchestrator.errors import UserError


def digest_of(value: object) -> str:
    """20 hexadecimal digits naming a JSON-able value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def content_hash(path: Path, endings: tuple[str, ...], memo: Path) -> str:
    """SHA-256 of a file's bytes, or of the names and bytes of the files below a folder whose names end with `endings`.

    The hash is remembered under `memo`, keyed by path, size and time of change of every file, so asking again for
    unchanged files reads none of them.

    Raises:
        UserError: a file may not be read.
    """
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.name.endswith(endings) and f.is_file())
    stats = [(file.relative_to(path).as_posix(), file.stat()) for file in files]
    known = memo / digest_of([str(path.resolve()), [[name, s.st_size, s.st_mtime_ns, s.st_ino] for name, s in stats]])
    if known.exists():
        return known.read_text()
    digests = [[file.relative_to(path).as_posix(), _file_hash(file)] for file in files]
    content = digests[0][1] if path.is_file() else hashlib.sha256(json.dumps(digests).encode()).hexdigest()
    write_atomically(known, lambda file: file.write(content.encode()))
    return content


def _file_hash(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}). Check its permissions and its disk.") from error


def table_hash(table: pa.Table) -> str:
    """SHA-256 of a table's column names and values; independent of chunks, offsets and dictionary encoding.

    Columns may hold strings, dictionary-encoded strings, or lists of strings.
    """
    digest = hashlib.sha256()
    for name in table.column_names:
        digest.update(f"{name}\0{table.num_rows}\0".encode())
        for part in _canonical_bytes(table[name]):
            digest.update(part)
    return digest.hexdigest()


def _canonical_bytes(column: pa.ChunkedArray) -> Iterator[bytes | memoryview]:
    """Lengths of all values (-1 for null) as little-endian int32, then the bytes of all values without gaps."""
    if pa.types.is_list(column.type):
        yield _int32(pc.list_value_length(column))
        yield from _canonical_bytes(pc.list_flatten(column))
        return
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    yield _int32(pc.binary_length(column))
    for chunk in column.chunks:
        if len(chunk):
            _, offsets_buffer, data = chunk.buffers()
            offsets = np.frombuffer(offsets_buffer, np.int32, len(chunk) + 1, offset=4 * chunk.offset)
            if data is not None:
                yield memoryview(data)[int(offsets[0]) : int(offsets[-1])]


def _int32(lengths: pa.ChunkedArray) -> bytes:
    filled: np.ndarray = pc.fill_null(lengths, -1).to_numpy()
    return filled.astype("<i4").tobytes()

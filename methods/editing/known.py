"""What the unmodified model makes of the texts of validations and tests: computed once, kept, and read by all trials.

Every trial of a sweep is judged on the same texts, and edits are compared with the same unmodified model. Its states
below the edited blocks and its predictions lie in files under the cache, which are mapped into memory, so all processes
of a machine share one copy.

Layout::

    <cache>/known-texts/<key>.safetensors    texts of edits in one language, a few thousand tokens

The key names the model by content, and the texts. Texts go through the model in the same groups whoever computes them,
so a file is the same to the last bit whichever trial wrote it, and no trial depends on another.

On a GPU the model is faster than a disk, and every trial computes for itself.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from methods.editing.batches import TOKENS_AT_ONCE, length_groups, lengths_of
from methods.editing.examples import EditSample, Example
from methods.editing.model import EditableModel
from methods.editing.retained import Retained
from methods.editing.store import FrozenStates, Stores
from orchestrator.data.atomic import write_atomically
from orchestrator.data.content import digest_of

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the key: raised when the same texts and model would give other files."""
MOST_BYTES = 32 * 2**30
"""Of all texts of a test; beyond that, every trial computes for itself."""
PART_TOKENS = 16_384
"""Tokens of a file; one file is held in memory while it is computed."""
_TEXTS_AT_ONCE = 2048
_NO_LIMIT = 2**62
_NAME_BYTES = 16


@dataclass(frozen=True)
class KnownTexts:
    """Where the unmodified model's side of validations and tests lies.

    Attributes:
        folder: of the files.
        model: names the model by content.
    """

    folder: Path
    model: str

    def stores(self, model: EditableModel, samples: Sequence[Sequence[EditSample]], *, all_positions: bool) -> Stores:
        """Stores that know the texts of a validation or a test; what is not known yet is computed first.

        Processes that ask at the same time share the work.

        Args:
            model: the unmodified model.
            samples: as `EditTask.test_samples` yields them.
            all_positions: whether predictions at every position will be compared.
        """
        frozen, raw = MappedStates(model.frozen_store), MappedStates(model.raw_store)
        if model.device.type != "cpu":
            return frozen, raw
        settings = [VERSION, self.model, model.kind, model.first_edited_block, str(model.dtype), all_positions]
        parts = [part for texts in _by_language(model, samples) for part in _parts(texts)]
        files = {self.folder / f"{_part_key(settings, part)}.safetensors": part for part in parts}
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._room(model, files):
            return frozen, raw
        for timeout in (0, -1):  # first what no other process is at, then what others had begun
            for file, part in files.items():
                if not file.exists():
                    _complete(file, part, model, all_positions, timeout)
        for file, part in files.items():
            columns = _read(file)
            if columns is None:
                log.warning("%s was damaged or has gone and is computed anew.", file)
                _complete(file, part, model, all_positions, -1)
                columns = _read(file) or {}
            for label, column in columns.items():
                (frozen if label == "frozen" else raw).add(column)
        return frozen, raw

    def _room(self, model: EditableModel, files: Mapping[Path, Sequence[_Text]]) -> bool:
        """Whether the files fit, into the limit and on the disk; a warning says where they do not."""
        sizes = {file: sum(_bytes(model, text) for text in part) for file, part in files.items()}
        missing = sum(size for file, size in sizes.items() if not file.exists())
        free = shutil.disk_usage(self.folder).free
        if sum(sizes.values()) <= MOST_BYTES and missing <= free // 2:
            return True
        log.warning(
            "What the unmodified model makes of the texts of this test takes %.0f GB, which is not kept (%.0f GB are "
            "free under %s): every trial computes it for itself. Test fewer edits for faster trials.",
            *(sum(sizes.values()) / 1e9, free / 1e9, self.folder),
        )
        return False


class MappedStates(FrozenStates):
    """Entries of mapped files; what is in none of them is remembered as in the store that it takes the place of."""

    def __init__(self, like: FrozenStates) -> None:
        super().__init__(like.limit, like.device)
        self._places: dict[bytes, tuple[_Column, int]] = {}

    def add(self, column: _Column) -> None:
        """Takes up entries; of two of the same name the first one stays."""
        for row, name in enumerate(column.names):
            self._places.setdefault(name, (column, row))

    def get(self, key: bytes) -> tuple[Tensor, ...] | None:
        place = self._places.get(_name(key))
        if place is None:
            return super().get(key)
        self.hits += 1
        column, row = place
        return column.entry(row)


@dataclass(frozen=True)
class _Text:
    """A text of an edit language's test: its number of tokens, its tokens, whether edited predictions are compared."""

    length: int
    key: bytes
    compared: bool
    example: Example


@dataclass(frozen=True, eq=False)
class _Column:
    """Entries of one kind, end to end.

    Attributes:
        names: of the entries.
        values: the tensors of all entries, one for each place in an entry.
        starts: for each place where the entries begin, and the end.
    """

    names: list[bytes]
    values: list[Tensor]
    starts: list[np.ndarray]

    def entry(self, row: int) -> tuple[Tensor, ...]:
        return tuple(
            values[starts[row] : starts[row + 1]] for values, starts in zip(self.values, self.starts, strict=True)
        )


def _by_language(model: EditableModel, samples: Sequence[Sequence[EditSample]]) -> Iterator[list[_Text]]:
    """The distinct texts of the edits in each language."""
    languages: dict[str, dict[Example, bool]] = {}
    for drawn in samples:
        found = languages.setdefault(drawn[0].edit.language, {})
        for example in (drawn[0].edit, drawn[0].update):
            found.setdefault(example, False)
        found.update((sample.retain, True) for sample in drawn)
    for found in languages.values():
        texts: dict[bytes, _Text] = {}
        examples = list(found)
        for start in range(0, len(examples), _TEXTS_AT_ONCE):
            chosen = examples[start : start + _TEXTS_AT_ONCE]
            batch = model.encode(chosen)
            for example, length, key in zip(chosen, lengths_of(batch), batch.keys, strict=True):
                # Texts that differ in their answers alone are one.
                known = texts.get(key)
                if known is None or found[example]:
                    texts[key] = _Text(length, key, found[example], example)
        yield list(texts.values())


def _parts(texts: Sequence[_Text]) -> Iterator[list[_Text]]:
    """Texts of similar length, as many as a file holds."""
    part: list[_Text] = []
    for text in sorted(texts, key=lambda text: (-text.length, text.key)):
        if part and (len(part) + 1) * part[0].length > PART_TOKENS:
            yield part
            part = []
        part.append(text)
    if part:
        yield part


def _part_key(settings: Sequence[object], part: Sequence[_Text]) -> str:
    return digest_of([*settings, [[text.key.decode(), text.compared] for text in part]])


def _bytes(model: EditableModel, text: _Text) -> int:
    """What a text takes, about: its states, and those behind the last block where predictions are compared."""
    states = 2 if text.compared and model.kind != "classifier" else 1
    hidden: int = model.hf.config.hidden_size
    return states * text.length * hidden * model.dtype.itemsize


def _complete(file: Path, part: Sequence[_Text], model: EditableModel, all_positions: bool, timeout: float) -> None:
    """Writes a file, unless another process is at it and does not finish within `timeout` seconds (-1: ever)."""
    try:
        with FileLock(file.with_suffix(".lock"), timeout=timeout):
            if _read(file) is None:
                content = save(_computed(part, model, all_positions))
                write_atomically(file, lambda opened: opened.write(content))
    except Timeout:
        return


@torch.no_grad()
def _computed(part: Sequence[_Text], model: EditableModel, all_positions: bool) -> dict[str, Tensor]:
    """The content of a file."""
    frozen, raw = FrozenStates(_NO_LIMIT), FrozenStates(_NO_LIMIT)
    with model.remembering((frozen, raw)):
        batch = model.encode([text.example for text in part])
        for group in length_groups(lengths_of(batch), TOKENS_AT_ONCE):
            model.frozen(batch.select(group))
        compared = [row for row, text in enumerate(part) if text.compared]
        if compared:
            Retained(model, all_positions, TOKENS_AT_ONCE).remember(batch.select(compared))
    content = _packed("frozen", dict(frozen.items()))
    for places in sorted({len(entry) for _, entry in raw.items()}):
        content |= _packed(f"raw {places}", {key: entry for key, entry in raw.items() if len(entry) == places})
    return content


def _packed(column: str, entries: Mapping[bytes, tuple[Tensor, ...]]) -> dict[str, Tensor]:
    """Entries of as many tensors each, as a `_Column` on disk."""
    content = {f"{column}.names": torch.frombuffer(bytearray(b"".join(map(_name, entries))), dtype=torch.uint8)}
    for place, tensors in enumerate(zip(*entries.values(), strict=True)):
        content[f"{column}.values {place}"] = torch.cat(tensors)
        content[f"{column}.starts {place}"] = torch.tensor([0, *map(len, tensors)]).cumsum(0)
    return content


def _read(file: Path) -> dict[str, _Column] | None:
    """The columns of a file, whose values stay on the disk until they are used; None where there is no whole file."""
    try:
        return _columns(file)
    except (OSError, SafetensorError):
        return None


def _columns(file: Path) -> dict[str, _Column]:
    columns: dict[str, _Column] = {}
    with safe_open(file, framework="pt") as opened:
        for name in sorted(opened.keys()):
            label, what = name.split(".")
            column = columns.setdefault(label, _Column([], [], []))
            tensor: Tensor = opened.get_tensor(name)
            if what == "names":
                joined = tensor.numpy().tobytes()
                column.names.extend(joined[at : at + _NAME_BYTES] for at in range(0, len(joined), _NAME_BYTES))
            elif what.startswith("values"):
                column.values.append(tensor)
            else:
                column.starts.append(tensor.numpy())
    return columns


def _name(key: bytes) -> bytes:
    """A text's key, or a key made from it, in few bytes."""
    return hashlib.blake2b(key, digest_size=_NAME_BYTES).digest()

"""XNLI (Conneau et al. 2018): premise, hypothesis and one of three labels, the same pairs in 15 languages.

``<split>-<language>.tsv`` (also ``multinli.train.<language>.tsv``, and each packed as .xz or .gz) holds lines of
premise, hypothesis and label, separated by tabs, without a header or with the published one. The n-th lines of a split
belong together in all languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

import pyarrow as pa

from orchestrator.data.archives import FileTree, open_tree, unpacked
from orchestrator.data.loaders.base import existing
from orchestrator.data.loaders.labelled import LABELLED_SCHEMA, LabelledLoader, LabelledPart
from orchestrator.errors import UserError

_FILE = re.compile(r"(?:multinli\.)?(?P<split>train|dev|test)[-.](?P<language>[A-Za-z][A-Za-z0-9_-]*)\.tsv")
_HEADERS = ({"premise", "hypo", "label"}, {"premise", "hypothesis", "label"})
_SPELLINGS = {"contradictory": "contradiction"}  # as the machine-translated training files have it
SPLITS = ("train", "dev", "test")


class XnliLoader(LabelledLoader):
    """Reads a folder or archive of XNLI files. Without training files, 4 of 5 premises of dev are for training."""

    kind = "xnli"
    form = "xnli:<folder or archive>"
    version = 1
    labels = ("entailment", "neutral", "contradiction")

    def inputs(self) -> Sequence[Path]:
        return existing(Path(self.location).expanduser())

    def load(self) -> Iterator[LabelledPart]:
        (path,) = self.inputs()
        with open_tree(path) as packed:
            tree = unpacked(packed)
            files = _files(tree)
            without_training = "train" not in files and "dev" in files
            border: int | None = None
            for split in SPLITS:
                rows: int | None = None
                for language, name in files.get(split, {}).items():
                    part = self._read(tree, name, split)
                    if rows is not None and part.num_rows != rows:
                        self.problem(
                            f"{tree.where(name)} has {part.num_rows:,} pairs, the languages before it {rows:,}, so "
                            "they are not parallel. Get the files from one source."
                        )
                    rows = rows or part.num_rows
                    if without_training and split == "dev":
                        border = _border(part) if border is None else border
                        yield LabelledPart("train", language, part.slice(0, border))
                        part = part.slice(border)
                    yield LabelledPart(split, language, part)
            if without_training:
                self.warnings.append(
                    f"{self.address} has no training files: the first {border:,} pairs of dev are used for training "
                    "and the others, with other premises, as dev."
                )

    def _read(self, tree: FileTree, name: str, split: str) -> pa.Table:
        pairs: list[tuple[str, str]] = []
        labels: list[int] = []
        for number, line in tree.lines(name):
            fields = [field.strip() for field in line.rstrip("\r\n").split("\t")]
            if number == 1 and set(fields) in _HEADERS:
                continue
            where = tree.where(name, number)
            if len(fields) != 3 or not all(fields):
                self.problem(
                    f"{where}: not premise, hypothesis and label separated by two tabs; the line starts with "
                    f"{line.strip()[:60]!r}. Mend the line or get the file again."
                )
                continue
            label = _SPELLINGS.get(fields[2], fields[2])
            if label not in self.labels:
                self.problem(f"{where}: {fields[2]!r} is no label. Use one of {', '.join(self.labels)}.")
                continue
            pairs.append((fields[0], fields[1]))
            labels.append(self.labels.index(label))
        columns = {
            "uuid": [f"{split}-{number:06d}" for number in range(1, len(pairs) + 1)],
            "text": [premise for premise, _ in pairs],
            "pair": [hypothesis for _, hypothesis in pairs],
            "label": labels,
            "rephrasings": [[]] * len(pairs),
        }
        return pa.table(columns, schema=LABELLED_SCHEMA)


def _files(tree: FileTree) -> dict[str, dict[str, str]]:
    """Split -> language -> the file, languages sorted by code."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(tree.members):
        match = _FILE.fullmatch(PurePosixPath(name).name)
        if match:
            known = found.setdefault(match["split"], {})
            if match["language"] in known:
                raise UserError(
                    f"{tree.path} has {known[match['language']]} and {name}: it is not clear which is meant. Keep one."
                )
            known[match["language"]] = name
    if not found:
        raise UserError(
            f"{tree.path} has no files such as dev-en.tsv (also .xz or .gz), so it is not XNLI. Give the folder that "
            "holds the files {train,dev,test}-<language>.tsv."
        )
    return {split: dict(sorted(languages.items())) for split, languages in found.items()}


def _border(dev: pa.Table) -> int:
    """The first row, from 4/5 of all on, that begins another premise."""
    premises = dev["text"].to_pylist()
    start = len(premises) * 4 // 5
    changes = (row for row, (one, other) in enumerate(pairwise(premises), start=1) if row >= start and one != other)
    return next(changes, len(premises))

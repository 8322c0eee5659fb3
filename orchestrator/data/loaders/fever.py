"""FEVER (Thorne et al. 2018): claims that Wikipedia supports or refutes, in English and machine-translated copies.

English files are JSON lines (``.jsonl``, also packed as .xz or .gz) as published, by KILT, or with rephrasings::

    {"id": 91198, "claim": "...", "label": "SUPPORTS"}
    {"id": "91198", "input": "...", "output": [{"answer": "REFUTES"}], "rephrases": ["...", ...]}

A translation of ``name.jsonl`` into German is ``name.de.jsonl``: lines with the same ids, the claim in German under
"claim" or "input", and "rephrases" if there are any. It may hold only some of the claims, as where only edits are
translated. ``jobs/prepare_translations.py`` writes such files.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from orchestrator.data.archives import FileTree, open_tree, unpacked
from orchestrator.data.loaders.base import existing
from orchestrator.data.loaders.labelled import LABELLED_SCHEMA, LabelledLoader, LabelledPart
from orchestrator.errors import UserError

_LANGUAGE = r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*"
_FILE = re.compile(rf"(?P<name>[^.]+)(?:\.(?P<language>{_LANGUAGE}))?\.jsonl")
UNDECIDED = "NOT ENOUGH INFO"
TENTHS: Mapping[str, int] = {"train": 8, "dev": 1, "edit": 1}
TENTHS_OF_ONE_FILE: Mapping[str, int] = {"train": 7, "dev": 1, "edit": 1, "test": 1}


@dataclass(frozen=True)
class Claim:
    """A claim in one language.

    Attributes:
        text: the claim.
        label: of `FeverLoader.labels`; None where there is too little evidence, and in translations.
        rephrasings: the claim in other words.
    """

    text: str
    label: int | None
    rephrasings: tuple[str, ...]


@dataclass(frozen=True)
class EnglishClaims:
    """The claims of one English file.

    Attributes:
        name: of the file, without its endings.
        claims: by id, in the file's order, those without a label included.
        splits: the ids of each split's claims, which all have labels.
    """

    name: str
    claims: Mapping[str, Claim]
    splits: Mapping[str, Sequence[str]]


class FeverLoader(LabelledLoader):
    """Reads a training file and a held-out file, or one file alone.

    The training file is dealt 8:1:1 into train, dev and edit (104,966 claims of KILT into 83,972, 10,496 and 10,496),
    the held-out one is the test; one file alone is dealt 7:1:1:1. Claims are dealt in the order of the SHA-256 of their
    text, and equal claims stay together, for which a split may get some more. Claims with too little evidence have no
    label and are left out.
    """

    kind = "fever"
    form = "fever:<folder, archive or file>"
    version = 2
    labels = ("REFUTES", "SUPPORTS")

    def inputs(self) -> Sequence[Path]:
        path = Path(self.location).expanduser()
        if path.is_file() and _FILE.fullmatch(plain_name(path.name)):
            name = plain_name(path.name).removesuffix(".jsonl")
            beside = path.parent.glob(f"{glob.escape(name)}.*.jsonl*")
            return [path, *sorted(other for other in beside if other != path)]
        return existing(path)

    def load(self) -> Iterator[LabelledPart]:
        with self._opened() as tree:
            files = _files(tree)
            for english in self._english(tree, files):
                yield from self._parts(english.splits, "en", english.claims, english.claims)
                for language, file in files[english.name].items():
                    if language:
                        translated = self._read(tree, file, known=english.claims)
                        yield from self._parts(english.splits, language, english.claims, translated)

    def english(self) -> Iterator[EnglishClaims]:
        """The English claims alone, file by file; mistakes go to `problem` as in `load`."""
        with self._opened() as tree:
            yield from self._english(tree, _files(tree))

    @contextmanager
    def _opened(self) -> Iterator[FileTree]:
        paths = self.inputs()
        if len(paths) > 1 or _FILE.fullmatch(plain_name(paths[0].name)):
            members = {path.name: path for path in paths}
            yield unpacked(FileTree(paths[0].parent, {name: _opener(path) for name, path in members.items()}))
            return
        with open_tree(paths[0]) as tree:
            yield unpacked(tree)

    def _english(self, tree: FileTree, files: Mapping[str, Mapping[str, str]]) -> Iterator[EnglishClaims]:
        for name, tenths in _roles(tree, files).items():
            claims = self._read(tree, files[name][""])
            decided = {uuid: claim for uuid, claim in claims.items() if claim.label is not None}
            undecided = len(claims) - len(decided)
            if undecided:
                self.warnings.append(
                    f"{tree.where(files[name][''])}: {undecided:,} claims without enough evidence were left out."
                )
            yield EnglishClaims(name, claims, _dealt(decided, tenths))

    def _parts(
        self,
        splits: Mapping[str, Sequence[str]],
        language: str,
        english: Mapping[str, Claim],
        claims: Mapping[str, Claim],
    ) -> Iterator[LabelledPart]:
        for split, uuids in splits.items():
            present = [uuid for uuid in uuids if uuid in claims]
            columns = {
                "uuid": present,
                "text": [claims[uuid].text for uuid in present],
                "pair": [None] * len(present),
                "label": [english[uuid].label for uuid in present],
                "rephrasings": [list(claims[uuid].rephrasings) for uuid in present],
            }
            yield LabelledPart(split, language, pa.table(columns, schema=LABELLED_SCHEMA))

    def _read(self, tree: FileTree, name: str, known: Mapping[str, Claim] | None = None) -> dict[str, Claim]:
        """The claims of a file by id; those of a translation must be in `known`, the English ones."""
        claims: dict[str, Claim] = {}
        for number, line in tree.lines(name):
            if line.isspace():
                continue
            where = tree.where(name, number)
            try:
                record = json.loads(line)
                uuid, claim = _claim(record, labelled=known is None)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                needed = '"id", "claim" and "label"' if known is None else '"id" and "claim"'
                self.problem(
                    f"{where}: not a claim in JSON with {needed}; the line starts with {line.strip()[:60]!r}. Mend or "
                    "remove the line."
                )
                continue
            if uuid in claims:
                self.problem(f"{where}: the id {uuid} is there a second time. Keep one of the claims.")
            elif known is not None and uuid not in known:
                self.problem(f"{where}: no English claim has the id {uuid}. Translate the file that lies beside it.")
            claims[uuid] = claim
        return claims


def _claim(record: Any, *, labelled: bool) -> tuple[str, Claim]:
    """Id and claim of a line. Raises what a wrong shape raises, or ValueError."""
    text = record["claim"] if "claim" in record else record["input"]
    label = None
    if labelled:
        written = record["label"] if "label" in record else record["output"][0]["answer"]
        if written not in (*FeverLoader.labels, UNDECIDED):
            raise ValueError(written)
        label = None if written == UNDECIDED else FeverLoader.labels.index(written)
    rephrasings = record.get("rephrases") or record.get("filtered_rephrases") or []
    uuid = str(record["id"])
    if not uuid or not isinstance(text, str) or not text.strip() or not all(isinstance(r, str) for r in rephrasings):
        raise ValueError(uuid)
    return uuid, Claim(text.strip(), label, tuple(rephrasings))


def _files(tree: FileTree) -> dict[str, dict[str, str]]:
    """Name -> language ("" for the English file) -> the file."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(tree.members):
        match = _FILE.fullmatch(PurePosixPath(path).name)
        if match:
            files, language = found.setdefault(match["name"], {}), match["language"] or ""
            if language in files:
                raise UserError(
                    f"{tree.path} has {files[language]} and {path}: it is not clear which is meant. Keep one."
                )
            if language == "en":
                raise UserError(
                    f"{tree.where(path)} is named as a translation into English. Name the English claims "
                    f"{match['name']}.jsonl, and keep no other file of them."
                )
            files[language] = path
    lonely = [files[min(files)] for files in found.values() if "" not in files]
    if lonely:
        raise UserError(
            f"{tree.where(lonely[0])} is named as a translation, but the English file is not beside it. Put it there, "
            "under the same name without the language."
        )
    return found


def _roles(tree: FileTree, files: Mapping[str, object]) -> dict[str, Mapping[str, int]]:
    """Name -> the tenths that each split gets of it."""
    names = sorted(files)
    training = [name for name in names if "train" in re.split(r"[^a-z]+", name.lower())]
    if len(names) == 1:
        return {names[0]: TENTHS_OF_ONE_FILE}
    if len(names) == 2 and len(training) == 1:
        (held_out,) = set(names) - set(training)
        return {training[0]: TENTHS, held_out: {"test": 10}}
    raise UserError(
        f"{tree.path} has {len(names)} files of English claims ({', '.join(names[:6]) or 'none'}), so it is not clear "
        'which are for training. Give a folder with one file that has the word "train" in its name and one other, or '
        "one file."
    )


def _dealt(claims: Mapping[str, Claim], tenths: Mapping[str, int]) -> dict[str, list[str]]:
    """The ids of each split; what tenths leave over, fewer claims than splits, is left out.

    A claim that equals the last one of a split goes there too, so splits may be some claims off their tenths.
    """
    ranks = {uuid: hashlib.sha256(claim.text.encode()).digest() for uuid, claim in claims.items()}
    order = sorted(ranks, key=lambda uuid: (ranks[uuid], uuid))
    dealt: dict[str, list[str]] = {}
    start = border = 0
    for split, share in tenths.items():
        border += len(order) * share // 10
        stop = max(start, border)
        while 0 < stop < len(order) and ranks[order[stop]] == ranks[order[stop - 1]]:
            stop += 1
        dealt[split] = order[start:stop]
        start = stop
    return dealt


def translation_name(name: str, language: str) -> str:
    """What the translation of ``<name>.jsonl`` into a language is called.

    Raises:
        UserError: the language is no code that a file may be named by, or it is English.
    """
    if not re.fullmatch(_LANGUAGE, language) or language == "en":
        raise UserError(
            f"{language!r} is no code of a language to translate into, so no file can be named by it. Write two or "
            "three letters, such as de, zh or pt-BR."
        )
    return f"{name}.{language}.jsonl"


def plain_name(name: str) -> str:
    """A file's name without the ending of its packing."""
    return name.removesuffix(".gz").removesuffix(".xz")


def _opener(path: Path) -> Any:
    return lambda: path.open("rb")

"""Machine translations of FEVER claims, written as the loader in loaders/fever.py reads them.

While it grows, the translation ``claims.de.jsonl`` lies beside its place as ``.claims.de.jsonl.part``, where no loader
looks. It is renamed when it is whole; a later run that wants more claims goes on from it. Lines are those of the
format, with the model that translated them::

    {"id": "91198", "claim": "...", "rephrases": ["...", ...], "translator": "nllb-200@1f3870be274f, 1 beam"}
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from orchestrator.data.atomic import explained, write_atomically
from orchestrator.data.loaders.fever import Claim, FeverLoader, plain_name, translation_name
from orchestrator.errors import Problems, UserError, did_you_mean


@dataclass(frozen=True)
class ClaimFile:
    """English claims to translate.

    Attributes:
        path: the English file.
        name: of the file, without its endings.
        claims: by id.
    """

    path: Path
    name: str
    claims: Mapping[str, Claim]


def claims_to_translate(location: Path, splits: Sequence[str] | None = None) -> list[ClaimFile]:
    """The claims that a study may ask in other languages: those with a label, file by file.

    Args:
        location: file or folder, the same that the study will be given as ``fever:<location>``: how claims are dealt
            into splits depends on it.
        splits: only claims of these; None takes all.

    Raises:
        UserError: all mistakes in the files; there is no such split.
    """
    if location.is_file() and not plain_name(location.name).endswith(".jsonl"):
        raise UserError(
            f"{location} is no file of claims, which end in .jsonl (also .jsonl.gz or .jsonl.xz), so a translation has "
            "no place beside it. Give such a file or a folder; unpack an archive first."
        )
    loader = FeverLoader(str(location))
    paths = [location] if location.is_file() else sorted(location.rglob("*.jsonl*"))
    english = list(loader.english())
    loader.problems.raise_if_any()
    known = {split for each in english for split in each.splits}
    problems = Problems()
    for split in splits or ():
        if split not in known:
            problems.add(f"{location} has no split {split!r}.{did_you_mean(split, known)}")
    problems.raise_if_any()
    found = []
    for each in english:
        (path, *_) = (path for path in paths if plain_name(path.name) == f"{each.name}.jsonl")
        wanted = {uuid for split, uuids in each.splits.items() if splits is None or split in splits for uuid in uuids}
        claims = {uuid: claim for uuid, claim in each.claims.items() if uuid in wanted}
        if claims:
            found.append(ClaimFile(path, each.name, claims))
    return found


def place_beside(english: ClaimFile, folder: Path) -> None:
    """Puts a copy of the English file into `folder`, where its translations go, unless it lies there already.

    Raises:
        UserError: another file of that name is there, or the folder may not be written to.
    """
    place = folder / english.path.name
    if not place.exists():
        with explained(place), english.path.open("rb") as source:
            write_atomically(place, lambda file: shutil.copyfileobj(source, file))
    elif not filecmp.cmp(place, english.path, shallow=False):
        raise UserError(
            f"{place} is there and is not the file {english.path} that is translated, so its translations would lie "
            "beside other claims. Choose another --output."
        )


class TranslationFile:
    """The translation of one file into one language, as far as it has come.

    Attributes:
        path: where it lies once it is whole.
        done: ids of the claims that are translated.
    """

    def __init__(self, folder: Path, name: str, language: str) -> None:
        """
        Raises:
            UserError: the language is no code that a file may be named by.
        """
        self.path = folder / translation_name(name, language)
        self.language = language
        self._part = folder / f".{self.path.name}.part"
        self._translators: set[str | None] = set()
        self.done = self._read(self._part if self._part.exists() else self.path)

    @contextmanager
    def opened(self, translator: str) -> Iterator[None]:
        """Inside the block translations can be added; afterwards the file is whole, unless the block raised.

        Args:
            translator: names the model; the file holds translations of one only.

        Raises:
            UserError: another model began the file, another process is writing it, or the folder may not be written to.
        """
        with self._locked():
            self._begin(translator)
            with self._part.open("ab") as self._file:
                yield
            os.replace(self._part, self.path)

    def finish(self) -> None:
        """Puts a file that has all its claims into its place, where a kill came just before that.

        Raises:
            UserError: another process is writing it.
        """
        if self._part.exists():
            with self._locked():
                os.truncate(self._part, self._whole)
                os.replace(self._part, self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._part.with_suffix(".lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"{self.path} is being written by another process, so this one stopped. Wait until that is done."
                ) from None
        try:
            yield
        finally:
            lock.release()

    def add(self, claims: Mapping[str, Claim]) -> None:
        """Adds translated claims by id. Once it returns, they outlast a kill and a power cut.

        Raises:
            UserError: the disk is full.
        """
        rows = (
            {"id": uuid, "claim": claim.text, "rephrases": list(claim.rephrasings), "translator": self._translator}
            for uuid, claim in claims.items()
        )
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        with explained(self.path):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.done |= set(claims)

    def _begin(self, translator: str) -> None:
        self._translator = translator
        self.done = self._read(self._part if self._part.exists() else self.path)
        others = self._translators - {translator}
        if others:
            began = min(str(other or "hand, or another program") for other in others)
            raise UserError(
                f"{self.path} was begun by {began}, and now {translator} is asked to go on: its claims would be "
                f"translated in two ways. Go on as it was begun, or remove {self.path} and {self._part}."
            )
        if self._part.exists():
            with explained(self._part):
                os.truncate(self._part, self._whole)
        elif self.path.exists():
            write_atomically(self._part, lambda file: file.write(self.path.read_bytes()[: self._whole]))

    def _read(self, path: Path) -> set[str]:
        """The ids of all whole lines; notes who translated them, and where the last whole line ends."""
        self._whole, self._translators = 0, set()
        done: set[str] = set()
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return done
        for line in lines:
            try:
                row: Any = json.loads(line) if line.endswith(b"\n") else None
                done.add(str(row["id"]))
                self._translators.add(row.get("translator"))
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            self._whole += len(line)
        return done

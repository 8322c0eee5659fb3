"""BMLAMA (Qi, Fernández and Bisazza 2023): facts that are parallel over all languages, each with its own candidates.

One ``<lang>.tsv`` per language with the columns Prompt (``<mask>`` in the object's place), Ans, Candidate Ans
(separated by ", ") and Subject; row k is the same fact in every file.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from orchestrator.data.archives import FileTree, open_tree
from orchestrator.data.loaders.base import LanguageFacts, Loader, batch_of, existing
from orchestrator.data.schema import OBJECT_SLOT, SUBJECT_SLOT
from orchestrator.errors import UserError

COLUMNS = ["Prompt", "Ans", "Candidate Ans", "Subject"]
RELATION = "bmlama"
MASK = "<mask>"


class BmlamaLoader(Loader):
    """Reads a folder of TSV files, or an archive of one. All facts are of one relation, "bmlama"; a fact's uuid is its
    row number, counted from 0, with five digits. Candidates keep the published order, which is the same in every
    language, the answer last."""

    kind = "bmlama"
    form = "bmlama:<folder or archive of tsv files>"
    version = 2
    endings = (".tsv",)

    def inputs(self) -> Sequence[Path]:
        return existing(Path(self.location).expanduser())

    def load(self) -> Iterator[LanguageFacts]:
        rows: dict[str, int] = {}
        with open_tree(self.inputs()[0]) as tree:
            for language, name in _language_files(tree).items():
                columns = self._columns(tree, name)
                rows[language] = len(columns["uuid"])
                yield LanguageFacts(language, [batch_of(columns)])
        usual, _ = Counter(rows.values()).most_common(1)[0]
        for language, count in rows.items():
            if count != usual:
                self.problem(
                    f"{self.address}: {language}.tsv has {count} rows where most languages have {usual}. Rows are "
                    "matched by their number, so a missing row would shift all facts behind it. Get the file again."
                )

    def _columns(self, tree: FileTree, name: str) -> dict[str, list[object]]:
        columns: dict[str, list[object]] = {
            key: [] for key in ("relation", "uuid", "subject", "object", "template", "candidates")
        }
        reader = csv.reader((line for _, line in tree.lines(name)), delimiter="\t")
        header = [cell for cell in next(reader, []) if cell]  # one published file has an extra tab here
        if header != COLUMNS:
            self.problem(f"{tree.where(name, 1)}: the header is {header}, where {COLUMNS} is expected. Is this BMLAMA?")
            return columns
        try:
            for row in reader:
                where = tree.where(name, reader.line_num)
                fault = _row_fault(row)
                if fault:
                    self.problem(
                        f"{where}: {fault}; the row starts with {' '.join(row)[:60]!r}. Mend the row or get the file "
                        "again."
                    )
                    continue
                prompt, answer, listed, subject = row
                columns["relation"].append(RELATION)
                columns["uuid"].append(f"{len(columns['uuid']):05d}")
                columns["subject"].append(subject)
                columns["object"].append(answer)
                columns["template"].append(template_of(prompt, subject))
                columns["candidates"].append(candidates_of(listed, answer))
        except csv.Error as error:
            self.problem(f"{tree.where(name, reader.line_num)}: not tab-separated text ({error}). Get the file again.")
        return columns


def template_of(prompt: str, subject: str) -> str:
    """The prompt with ``[Y]`` for ``<mask>`` and ``[X]`` for the first place where the subject stands.

    A prompt that names its subject differently (one in 162,710 does) keeps its words and has no ``[X]``.
    """
    before, after = prompt.split(MASK)
    if subject in before:
        before = before.replace(subject, SUBJECT_SLOT, 1)
    else:
        after = after.replace(subject, SUBJECT_SLOT, 1)
    return before + OBJECT_SLOT + after


def candidates_of(listed: str, answer: str) -> list[str]:
    """The candidates listed with ", " between them, in this order and unique.

    An answer that itself holds ", " stays whole.
    """
    before, _, after = f", {listed}, ".partition(f", {answer}, ")
    return list(dict.fromkeys(filter(None, [*before.split(", "), answer, *after.split(", ")])))


def _row_fault(row: Sequence[str]) -> str | None:
    if any("\n" in cell for cell in row):
        return "a cell goes over several lines, so a quotation mark is left open"
    if len(row) != len(COLUMNS):
        return f"{len(row)} columns instead of {len(COLUMNS)}"
    prompt, answer, listed, subject = row
    if prompt.count(MASK) != 1:
        return f"the prompt has {MASK} {prompt.count(MASK)} times instead of once"
    if SUBJECT_SLOT in prompt or OBJECT_SLOT in prompt:
        return f"the prompt holds {SUBJECT_SLOT} or {OBJECT_SLOT}, which are slots here"
    if not all((answer, listed, subject)):
        return "the answer, the candidates or the subject is empty"
    if f", {answer}, " not in f", {listed}, ":
        return f"the answer {answer!r} is not among its candidates"
    return None


def _language_files(tree: FileTree) -> dict[str, str]:
    """Language code -> its file, sorted by code."""
    files: dict[str, str] = {}
    for name in sorted(name for name in tree.members if name.endswith(".tsv")):
        language = PurePosixPath(name).stem
        if language in files:
            raise UserError(
                f"{tree.path} has two files for {language!r}, {files[language]} and {name}, so it is not clear which "
                "facts are meant (BMLAMA17 and BMLAMA53 together?). Give one of the folders above them."
            )
        files[language] = name
    if not files:
        raise UserError(
            f"{tree.path} has no <language>.tsv, so it is not BMLAMA. Give the folder or archive that holds them."
        )
    return dict(sorted(files.items()))

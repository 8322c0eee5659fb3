"""mLAMA 1.1 (Kassner, Dufter and Schütze 2021): T-REx and Google-RE facts in 53 languages, as published.

``<lang>/templates.jsonl`` holds lines ``{"relation", "template"}``; ``<lang>/<relation>.jsonl`` holds lines
``{"sub_uri", "obj_uri", "sub_label", "obj_label", "lineid", "uuid"}``. A folder above the languages does not matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from orchestrator.data.archives import FileTree, open_tree
from orchestrator.data.loaders.base import LanguageFacts, Loader, batch_of, existing
from orchestrator.data.pools import ObjectLists
from orchestrator.data.schema import template_fault
from orchestrator.errors import UserError

TEMPLATES = "templates.jsonl"
FACT_KEYS = ("uuid", "sub_uri", "obj_uri", "sub_label", "obj_label")


class MlamaLoader(Loader):
    """Reads the published zip or its unpacked folder, with or without the published object lists as pools."""

    kind = "mlama"
    form = "mlama:<zip or folder>"
    version = 1
    endings = (".jsonl", ".json")
    takes_pools = True

    def inputs(self) -> Sequence[Path]:
        return existing(Path(self.location).expanduser(), self.pools)

    def load(self) -> Iterator[LanguageFacts]:
        with ExitStack() as stack:
            trees = [stack.enter_context(open_tree(path)) for path in self.inputs()]
            facts = trees[0]
            lists = ObjectLists(trees[1]) if self.pools else None
            folders = _language_folders(facts)
            templates = {
                language: self._templates(facts, f"{folder}/{TEMPLATES}") for language, folder in folders.items()
            }
            for language, folder in folders.items():
                names = sorted(
                    n for n in facts.members if str(PurePosixPath(n).parent) == folder and n.endswith(".jsonl")
                )
                names.remove(f"{folder}/{TEMPLATES}")
                batches = self._batches(facts, names, templates[language])
                yield LanguageFacts(language, batches, lists.of(language) if lists else None)

    def _templates(self, tree: FileTree, name: str) -> dict[str, str | None]:
        """Relation -> template, None where it is faulty."""
        templates: dict[str, str | None] = {}
        for where, record in self._records(tree, name, ("relation", "template")):
            fault = template_fault(record["template"])
            if fault:
                self.problem(
                    f"{where}: the template {record['template']!r} of {record['relation']} {fault}. It must have "
                    "exactly one [X] for the subject and one [Y] for the object."
                )
            if record["relation"] in templates:
                self.problem(f"{where}: a second template for {record['relation']}. Keep one of them.")
            templates[record["relation"]] = None if fault else record["template"]
        return templates

    def _batches(
        self, tree: FileTree, names: Sequence[str], templates: dict[str, str | None]
    ) -> Iterator[pa.RecordBatch]:
        """One batch per relation."""
        for name in names:
            relation = PurePosixPath(name).stem
            records = [record for _, record in self._records(tree, name, FACT_KEYS)]
            if not records:
                continue
            if relation not in templates:
                self.problem(
                    f"{tree.where(name)} has facts, but {TEMPLATES} beside it has no template for {relation}, so they "
                    "cannot be asked. Add a template or remove the file."
                )
            if not templates.get(relation):
                continue
            yield batch_of(
                {
                    "relation": [relation] * len(records),
                    "template": [templates[relation]] * len(records),
                    "uuid": [record["uuid"] for record in records],
                    "sub_uri": [record["sub_uri"] for record in records],
                    "obj_uri": [record["obj_uri"] for record in records],
                    "subject": [record["sub_label"] for record in records],
                    "object": [record["obj_label"] for record in records],
                }
            )

    def _records(self, tree: FileTree, name: str, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The valid lines of a JSON-lines file with the place where each stands."""
        for number, line in tree.lines(name):
            if line.isspace():
                continue
            where = tree.where(name, number)
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                self.problem(
                    f"{where}: not valid JSON ({error.msg} at column {error.colno}); the line starts with "
                    f"{line.strip()[:60]!r}. Mend or remove the line, or get the file again."
                )
                continue
            wrong = [key for key in keys if not isinstance(record, dict) or not isinstance(record.get(key), str)]
            if wrong:
                self.problem(
                    f"{where}: no text under {', '.join(wrong)}; the line starts with {line.strip()[:60]!r}. Every "
                    f"line must have {', '.join(keys)}."
                )
                continue
            yield where, record


def _language_folders(tree: FileTree) -> dict[str, str]:
    """Language code -> its folder: every folder that holds templates.jsonl, sorted by code."""
    folders: dict[str, str] = {}
    for name in sorted(tree.members):
        path = PurePosixPath(name)
        if path.name == TEMPLATES and path.parent.name:
            language = path.parent.name
            if language in folders:
                raise UserError(
                    f"{tree.path} has two folders for {language!r}, {folders[language]} and {path.parent}, so it is "
                    "not clear which facts are meant. Give one of the folders above them."
                )
            folders[language] = str(path.parent)
    if not folders:
        raise UserError(
            f"{tree.path} has no <language>/{TEMPLATES}, so it is not mLAMA. Give the published mlama1.1.zip or the "
            "folder that holds its language folders."
        )
    return dict(sorted(folders.items()))

"""X-FACTR (Jiang et al. 2020): T-REx facts of 46 relations with prompts in 23 languages, as published.

``TREx_prompts.csv`` has a row for each relation and a column for each language; ``mTRExf/sub/P*.jsonl``, as files or in
an archive beside it, holds the facts with their labels in English.

**Other languages need labels.** The published facts name their entities in English only. Given the published mLAMA
beside them (``--pools``), a language has every fact whose subject and object mLAMA names in it, by URI; a language that
mLAMA lacks cannot be asked. The published aliases serve to match freely generated answers; here candidates are ranked,
so they are not read.

**Prompts lose their inflection.** Slots carry tags such as ``[Y.Acc]``, and words come in alternatives such as
``[né;X-Gender=MASC|née;X-Gender=FEM]``, for X-FACTR's inflection models and gender lists. Here labels stay as they are
in every case, the first alternative (masculine, singular) is taken, articles are left out and prepositions stand
without article. The query is the same for all candidates, so that it favours none of them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from orchestrator.data.archives import FileTree, open_tree
from orchestrator.data.loaders.base import LanguageFacts, Loader, batch_of, existing
from orchestrator.data.loaders.mlama import MlamaLoader
from orchestrator.data.schema import template_fault
from orchestrator.errors import UserError

PROMPTS = "TREx_prompts.csv"
FACTS = re.compile(r"(?:^|/)mTRExf/sub/P\d+\.jsonl$")
ARCHIVES = (".tar.xz", ".tar.gz", ".zip")
FACT_KEYS = ("uuid", "predicate_id", "sub_uri", "obj_uri", "sub_label", "obj_label")
LABELLED = "en"
"""The language of the published labels."""

SLOT = re.compile(r"\[([XYХ])(?:[.; ][^\]|=]*)?\]")
ALTERNATIVES = re.compile(r"\[([^\]|;]*);[^\]]*\]")
FUNCTION_WORD = re.compile(r"\[([A-Z]{3,}(?:-[^\];]*)?)(?:\.[A-Za-z]+)?;[XY][^\]]*\]")
PREPOSITIONS = {("fr", "PREPLOC"): "à", ("fr", "PREPDEF"): "de", ("fr", "PREPDEF-à"): "à", ("el", "PREPDEF"): "σε"}
"""What stands for a tag that merges a preposition with an article; tags of articles alone are left out."""


class XfactrLoader(Loader):
    """Reads the published folder, or an archive of it."""

    kind = "xfactr"
    form = "xfactr:<folder>"
    version = 1
    endings = (".csv", ".jsonl", *ARCHIVES)
    takes_pools = True

    def inputs(self) -> Sequence[Path]:
        return existing(Path(self.location).expanduser(), self.pools)

    def load(self) -> Iterator[LanguageFacts]:
        with ExitStack() as stack:
            tree = stack.enter_context(open_tree(self.inputs()[0]))
            prompts = self._prompts(tree)
            facts = self._facts(_facts_tree(tree, stack))
        yield self._language(LABELLED, prompts[LABELLED], facts, None)
        if self.pools is None:
            return
        mlama = MlamaLoader(str(self.pools))
        for source in mlama.load():
            if source.language in prompts and source.language != LABELLED:
                names = _names(source)
                yield self._language(source.language, prompts[source.language], facts, names)
        for problem in mlama.problems.found:
            self.problem(problem)

    def _prompts(self, tree: FileTree) -> dict[str, dict[str, str]]:
        """Language -> relation -> prompt, as published."""
        names = sorted(name for name in tree.members if name.split("/")[-1] == PROMPTS)
        if not names:
            raise UserError(
                f"{tree.path} has no {PROMPTS}, so it is not X-FACTR. Give the folder that holds {PROMPTS} and the "
                "facts in mTRExf/sub or in an archive beside it."
            )
        reader = csv.DictReader((line for _, line in tree.lines(names[0])), strict=True)
        columns = list(reader.fieldnames or [])
        if columns[:2] != ["pid", "relation"] or LABELLED not in columns:
            raise UserError(
                f"{tree.where(names[0], 1)}: the columns are {', '.join(columns)}, where pid, relation and languages, "
                f"{LABELLED} among them, are expected. Get the file again."
            )
        prompts: dict[str, dict[str, str]] = {language: {} for language in columns[2:]}
        try:
            for row in reader:
                if None in row or None in row.values():
                    self.problem(
                        f"{tree.where(names[0], reader.line_num)}: not {len(columns)} columns, so prompts would move "
                        "to other languages. Mend the row or get the file again."
                    )
                    continue
                for language, of_relation in prompts.items():
                    of_relation[row["pid"]] = row[language]
        except csv.Error as error:
            self.problem(f"{tree.where(names[0], reader.line_num)}: not a CSV file ({error}). Get the file again.")
        return prompts

    def _facts(self, tree: FileTree) -> list[dict[str, Any]]:
        """All facts, each once."""
        facts: list[dict[str, Any]] = []
        for name in sorted(name for name in tree.members if FACTS.search(name)):
            for number, line in tree.lines(name):
                if line.isspace():
                    continue
                fact = _fact(line)
                if fact is None:
                    self.problem(
                        f"{tree.where(name, number)}: not a fact; the line starts with {line.strip()[:60]!r}. Every "
                        f"line must be JSON with text under {', '.join(FACT_KEYS)}. Mend or remove it."
                    )
                else:
                    facts.append(fact)
        return facts

    def _language(
        self,
        language: str,
        prompts: Mapping[str, str],
        facts: Sequence[Mapping[str, Any]],
        names: Mapping[str, str] | None,
    ) -> LanguageFacts:
        """The facts that can be asked in a language; `names` are its labels by URI, None where the facts bring them."""
        templates = {relation: plain_template(prompt, language) for relation, prompt in prompts.items()}
        faults = {relation: fault for relation, template in templates.items() if (fault := template_fault(template))}
        asked = [fact for fact in facts if fact["predicate_id"] in templates and fact["predicate_id"] not in faults]
        named = [fact for fact in asked if names is None or (fact["sub_uri"] in names and fact["obj_uri"] in names)]
        warnings = [
            f"the prompt {prompts[relation]!r} of {relation} {fault}, so this relation is left out."
            for relation, fault in faults.items()
        ]
        if len(named) < len(asked):
            warnings.append(f"{len(asked) - len(named):,} of {len(asked):,} facts have no label in mLAMA.")
        if names is None and self.pools is None:
            warnings.append(
                "X-FACTR names its facts in English only. For other languages give the published mLAMA, whose labels "
                "are then used: --pools <mlama1.1.zip>."
            )
        columns = {
            "relation": [fact["predicate_id"] for fact in named],
            "template": [templates[fact["predicate_id"]] for fact in named],
            "uuid": [fact["uuid"] for fact in named],
            "sub_uri": [fact["sub_uri"] for fact in named],
            "obj_uri": [fact["obj_uri"] for fact in named],
            "subject": [names[fact["sub_uri"]] if names else fact["sub_label"] for fact in named],
            "object": [names[fact["obj_uri"]] if names else fact["obj_label"] for fact in named],
        }
        return LanguageFacts(language, [batch_of(columns)], warnings=warnings)


def plain_template(prompt: str, language: str) -> str:
    """The prompt without inflection: slots without tags, first alternatives, no articles, plain prepositions.

    >>> plain_template("[X] est [né;X-Gender=MASC|née;X-Gender=FEM] [PREPLOC;Y] [Y] .", "fr")
    '[X] est né à [Y] .'
    >>> plain_template("[DEF;X] [X.Nom] πέθανε [PREPDEF;Y] [Y.Acc] .", "el")
    '[X] πέθανε σε [Y] .'
    """
    text = SLOT.sub(lambda slot: f"[{'Y' if slot[1] == 'Y' else 'X'}]", prompt)
    text = FUNCTION_WORD.sub(lambda word: PREPOSITIONS.get((language, word[1]), ""), text)
    text = ALTERNATIVES.sub(lambda words: words[1].split(":")[-1], text)
    return " ".join(text.split())


def _names(source: LanguageFacts) -> dict[str, str]:
    """URI -> label of everything that mLAMA names in a language; of several labels the first in the alphabet."""
    names: dict[str, str] = {}
    for batch in source.batches:
        for uris, labels in (("sub_uri", "subject"), ("obj_uri", "object")):
            for uri, label in zip(batch[uris].to_pylist(), batch[labels].to_pylist(), strict=True):
                names[uri] = min(label, names.get(uri, label))
    return names


def _facts_tree(tree: FileTree, stack: ExitStack) -> FileTree:
    """Where the facts lie: in the tree itself, or in the only archive in it that has them."""
    if any(map(FACTS.search, tree.members)):
        return tree
    if tree.path.is_dir():
        for name in sorted(name for name in tree.members if name.endswith(ARCHIVES)):
            inner = stack.enter_context(open_tree(tree.path / name))
            if any(map(FACTS.search, inner.members)):
                return inner
    raise UserError(
        f"{tree.path} has {PROMPTS} but no facts: neither mTRExf/sub/P*.jsonl nor an archive of it. Put the published "
        "facts beside the prompts."
    )


def _fact(line: str) -> dict[str, Any] | None:
    """The fact on a line, None if it is none."""
    try:
        fact = json.loads(line)
    except json.JSONDecodeError:
        return None
    valid = isinstance(fact, dict) and all(isinstance(fact.get(key), str) for key in FACT_KEYS)
    return fact if valid else None

"""The layer search as a study: one trial per language, or per part of a large language, and one for the pivot."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from methods.backbone.base import Backbone, ModelDescription
from methods.backbone.loading import describe_model, load_backbone, model_fingerprint
from methods.lrp2.estimate import estimate_search
from methods.lrp2.lattice import schedule
from methods.lrp2.probes import ProbeOptions, Query, QueryBuilder
from methods.lrp2.projection import Pair, parse_pairs, shift_between
from methods.lrp2.results import hits_table, summarize_search
from methods.lrp2.search import LayerSearch
from methods.lrp2.spec import LRP2Spec
from methods.lrp2.vectors import cached_vectors
from orchestrator.data import FactSelection, FactStore, SentenceStore, prepare_facts, prepare_sentences
from orchestrator.errors import Problems, UserError
from orchestrator.study import Estimate, Study, Summary, Trial, TrialContext, TrialResult

# Facts whose token ids are in memory at a time: a worker streams a language, it never holds it whole.
FACTS_AT_ONCE = 2048
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class Loaded:
    """What a worker keeps between trials."""

    backbone: Backbone
    search: LayerSearch


class LRP2Study(Study[LRP2Spec]):
    """LRP2 (Xu et al. 2023): for every language all layer pairs, and their hits on every fact."""

    name = "lrp2"
    result_version = 1
    spec_type = LRP2Spec

    facts: FactStore
    pivot_facts: FactStore
    sentences: SentenceStore
    description: ModelDescription
    model_hash: str
    pairs: tuple[Pair, ...]
    probe: ProbeOptions
    languages: tuple[str, ...]

    def prepare(self) -> None:
        spec, problems = self.spec, Problems()
        description = _collect(problems, lambda: describe_model(spec.model))
        if description is not None:
            self.description = description
            _collect(problems, lambda: self._check_model(description))
        asked = None if spec.languages is None else tuple(name for name in spec.languages if name != spec.pivot)
        if asked == ():
            problems.add(
                f"--languages names only {spec.pivot!r}, the language that is projected into, so there is nothing to "
                "search: name other languages, or another --pivot."
            )
        pivot = _collect(problems, lambda: self._prepare_facts((spec.pivot,), max_facts=None, split=None))
        facts = _collect(problems, lambda: self._prepare_facts(asked, max_facts=spec.max_facts, split=spec.split))
        problems.raise_if_any()
        assert pivot is not None
        assert facts is not None
        self.pivot_facts, self.facts = pivot, facts
        self.languages = tuple(name for name in facts.languages if name != spec.pivot)
        if not self.languages:
            raise UserError(
                f"No language has facts that fit ({'; '.join(facts.warnings) or 'only the pivot is left'}): "
                "choose other languages, relations or another split."
            )
        self.warnings += [text for text in facts.warnings if spec.pivot not in facts.skipped or spec.languages]
        self.model_hash = model_fingerprint(spec.model, self.cache)
        self.sentences = prepare_sentences(
            spec.sentences,
            (spec.pivot, *self.languages),
            limit=spec.max_sentences,
            facts=self._prepare_facts(None, max_facts=None, split=None),
            cache=self.cache,
        )
        self.probe = self._probe_options()

    def _prepare_facts(
        self, languages: tuple[str, ...] | None, *, max_facts: int | None, split: str | None
    ) -> FactStore:
        return prepare_facts(
            self.spec.facts,
            pools=None if self.spec.pools is None else str(self.spec.pools),
            selection=FactSelection(languages, self.spec.relations, max_facts, split),
            cache=self.cache,
        )

    def _check_model(self, description: ModelDescription) -> None:
        problems = Problems()
        self.pairs = _collect(problems, lambda: parse_pairs(self.spec.pairs, description.num_layers)) or ()
        if self.spec.probe not in ("auto", description.kind):
            problems.add(
                f"--probe {self.spec.probe} does not fit {self.spec.model}: {description.architecture} is a "
                f"{description.kind} language model. Leave --probe out, or choose another model."
            )
        problems.raise_if_any()

    def _probe_options(self) -> ProbeOptions:
        kind, candidates = self.description.kind, self.spec.candidates
        if candidates == "auto":
            own = self.pivot_facts.facts(self.spec.pivot).column("candidates").null_count == 0
            candidates = "own" if own else "full" if kind == "masked" else "sampled"
        return ProbeOptions(
            kind=kind,
            candidates=candidates,
            pool_size=self.spec.pool_size,
            seed=self.spec.seed,
            score=self.spec.score,
            bos=self.spec.bos,
        )

    def describe(self) -> Mapping[str, str]:
        return {
            "model": self.spec.model,
            "data": self.spec.facts,
            "probe": f"{self.probe.kind}, {self.probe.candidates} pools",
            "languages": str(len(self.languages)),
            "layer pairs": str(len(self.pairs)),
            "model fingerprint": self.model_hash,
            "data fingerprint": self.facts.fingerprint,
        }

    def trials(self) -> Sequence[Trial]:
        blocks = schedule(self.pairs, self.description.num_layers).block_evaluations
        trials = [
            self._trial(language, part, parts, self.facts.count(language) / parts * blocks)
            for language in self.languages
            for parts in [math.ceil(self.facts.count(language) / self.spec.facts_per_trial)]
            for part in range(parts)
        ]
        pivot_facts = len(self.pivot_table())
        parts = math.ceil(pivot_facts / self.spec.facts_per_trial)
        trials += [
            self._trial(self.spec.pivot, part, parts, pivot_facts / parts * self.description.num_layers)
            for part in range(parts)
        ]
        return sorted(trials, key=lambda trial: -trial.cost)

    def _trial(self, language: str, part: int, parts: int, cost: float) -> Trial:
        spec = self.spec
        depends_on: dict[str, Any] = {
            "study": [self.name, self.result_version],
            "model": self.model_hash,
            "dtype": [spec.dtype, spec.head_dtype],
            "probe": vars(self.probe),
            "last_layer": spec.last_layer,
            "search": spec.search,
            "keep": spec.keep,
        }
        if language == spec.pivot:
            depends_on["facts"] = [self.pivot_facts.language_fingerprint(language), self._pivot_restriction()]
            depends_on["pairs"] = []
        else:
            depends_on["facts"] = self.facts.language_fingerprint(language)
            depends_on["pairs"] = self.pairs
            depends_on["vectors"] = [self._vector_key(spec.pivot), self._vector_key(language)]
        cell = {"language": language} if parts == 1 else {"language": language, "part": part + 1, "of": parts}
        return Trial(cell, json.loads(json.dumps(depends_on)), cost)

    def _vector_key(self, language: str) -> str:
        spec = self.spec
        parts = (
            self.model_hash,
            self.sentences.fingerprint(language),
            str(spec.max_sentences),
            spec.specials,
            spec.last_layer,
            spec.dtype,
        )
        return "-".join(parts)

    def _pivot_restriction(self) -> list[str]:
        """What the pivot's facts are restricted to: all of them, or those that some language is asked."""
        if self.spec.max_facts is None or self.spec.pivot_reference == "full":
            return []
        return [self.facts.language_fingerprint(language) for language in self.languages]

    def pivot_table(self) -> pa.Table:
        table = self.pivot_facts.facts(self.spec.pivot)
        if not self._pivot_restriction():
            return table
        asked = [self.facts.facts(language).column("uuid").cast(pa.string()) for language in self.languages]
        wanted = pc.unique(pa.chunked_array([chunk for column in asked for chunk in column.chunks], pa.string()))
        return table.filter(pc.is_in(table.column("uuid").cast(pa.string()), value_set=wanted))

    def estimate(self, trials: Sequence[Trial]) -> Estimate:
        return estimate_search(self, trials)

    def load(self, context: TrialContext) -> Loaded:
        spec = self.spec
        backbone = load_backbone(spec.model, dtype=getattr(torch, spec.dtype), device=context.device)
        search = LayerSearch(
            backbone,
            keep=spec.keep,
            method=spec.search,
            last_layer=spec.last_layer,
            head_dtype=getattr(torch, spec.head_dtype) if spec.head_dtype else None,
            memory_bytes=context.memory_bytes,
        )
        return Loaded(backbone, search)

    def run(self, trial: Trial, loaded: Loaded, context: TrialContext) -> pa.Table:
        language = str(trial.cell["language"])
        facts, pairs = self.trial_facts(trial), self.pairs if language != self.spec.pivot else ()
        shift = self.shift(loaded.backbone, language, context) if pairs else None
        parts = []
        for start, queries in self.queries(loaded.backbone, language, facts):
            result = loaded.search.run(
                queries,
                shift,
                pairs,
                progress=lambda fraction, at=start, n=len(queries): context.progress(  # type: ignore[misc]
                    (at + fraction * n) / len(facts)
                ),
            )
            parts.append(result)
        return hits_table(facts, parts, pairs, self.description.num_layers)

    def trial_facts(self, trial: Trial) -> pa.Table:
        """The rows of a trial: the whole language or one of its parts."""
        language = str(trial.cell["language"])
        table = self.pivot_table() if language == self.spec.pivot else self.facts.facts(language)
        part, parts = int(trial.cell.get("part", 1)), int(trial.cell.get("of", 1))
        start, stop = (len(table) * (part - 1)) // parts, (len(table) * part) // parts
        return table.slice(start, stop - start)

    def queries(self, backbone: Backbone, language: str, facts: pa.Table) -> Iterator[tuple[int, list[Query]]]:
        """The queries of `facts` in blocks, each with the row of its first fact.

        A fact that is longer than the model can read has no gold object there and is never a hit.
        """
        store = self.pivot_facts if language == self.spec.pivot else self.facts
        builder = QueryBuilder(backbone.tokenizer, self.probe, store.pools(language), backbone.max_length)
        for start in range(0, len(facts), FACTS_AT_ONCE):
            yield start, builder.build(facts.slice(start, FACTS_AT_ONCE), start)

    def shift(self, backbone: Backbone, language: str, context: TrialContext) -> Tensor:
        """``v_pivot - v_language``, [L + 1, D], from cached language vectors."""
        tables = [
            cached_vectors(
                backbone,
                self.sentences.sentences(name),
                path=context.cache / "vectors" / f"{self._vector_key(name)}.safetensors",
                specials=self.spec.specials,
                last_layer=self.spec.last_layer,
            )
            for name in (self.spec.pivot, language)
        ]
        return shift_between(*tables)

    def summarize(self, results: Sequence[TrialResult]) -> Summary:
        return summarize_search(self, results)


def _collect(problems: Problems, step: Callable[[], ValueT]) -> ValueT | None:
    """The value of a step, or None with its mistakes kept, so that other steps can report theirs too."""
    try:
        return step()
    except UserError as error:
        for problem in error.problems:
            problems.add(problem)
        return None

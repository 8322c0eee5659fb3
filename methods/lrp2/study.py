"""The layer search as a study: one trial per language, or per part of a large language, and one for the pivot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.backbone import Backbone, ModelDescription, check_model, describe_model, load_backbone, model_fingerprint
from methods.backbone.addresses import NO_WEIGHTS, has_weights, pinned, resolve
from methods.backbone.loading import Placement, check_offsets
from methods.backbone.projection import Pair, parse_pairs, shift_between
from methods.backbone.vectors import cached_vectors, random_like
from methods.lrp2.analysis.answer import summarize_search
from methods.lrp2.analysis.record import record_of
from methods.lrp2.estimate import Reader, estimate_search, needs_of, read_tokenizer
from methods.lrp2.footprint import FACTS_AT_ONCE, fits_beside, least_memory
from methods.lrp2.found import SearchResult, part_of, spread
from methods.lrp2.lattice import schedule
from methods.lrp2.probes import ProbeOptions, Query, QueryBuilder
from methods.lrp2.racing import Race
from methods.lrp2.results import hits_table
from methods.lrp2.search import LayerSearch
from methods.lrp2.spec import LRP2Spec, idle_options
from orchestrator.data import FactStore, SentenceStore, facts_beside, prepare_sentences
from orchestrator.errors import Problems, UserError, did_you_mean
from orchestrator.needs import ModelNeeds
from orchestrator.study import Estimate, Study, Summary, Trial, TrialContext, TrialResult

NAIVE_IN_ONE_PIECE = (
    "--search naive runs the whole model for every layer pair, so it needs it in one piece, not with --placement {}. "
    "Leave --search out, or give it a device that holds the model."
)

# In a trial's key: what is stored of a fact beside its hits.
KEPT = {"hits": "hits", "scores": "scores of named candidates"}


@dataclass(frozen=True)
class Loaded:
    """What a worker keeps between trials."""

    backbone: Backbone
    search: LayerSearch


class LRP2Study(Study[LRP2Spec]):
    """LRP2 (Xu et al. 2023): for every language all layer pairs, and their hits on every fact."""

    name = "lrp2"
    result_version = 1
    placements: ClassVar[frozenset[str]] = frozenset({"single", "dispatch", "stream"})
    checkpoints = ("model",)
    spec_type = LRP2Spec

    facts: FactStore
    pivot_facts: FactStore
    sentences: SentenceStore
    description: ModelDescription
    model_hash: str
    pairs: tuple[Pair, ...]
    probe: ProbeOptions
    languages: tuple[str, ...]

    def __init__(self, spec: LRP2Spec, cache: Path) -> None:
        super().__init__(spec, cache)
        self._fingerprints: dict[tuple[FactStore, str], str] = {}

    def prepare(self) -> None:
        spec, problems = self.spec, Problems()
        problems.collect(lambda: check_model(spec.model, weights=not self.only_plan))
        description = None if problems.found else problems.collect(lambda: describe_model(spec.model))
        if description is not None:
            self.description = description
            problems.collect(lambda: self._check_model(description))
        if spec.search == "naive" and spec.placement not in ("auto", "single"):
            problems.add(NAIVE_IN_ONE_PIECE.format(spec.placement))
        if spec.search == "naive":
            self.placements = frozenset({"single"})  # type: ignore[misc]
        if (spec.search, spec.criterion, spec.ties) == ("racing", "acc", "fractional"):
            problems.add(
                "--search racing drops pairs by the facts they get right alone, so with --criterion acc and --ties "
                "fractional it might drop the best one. Use --ties strict, or leave --search out."
            )
        source = problems.collect(
            lambda: facts_beside(
                spec.facts, spec.pools, spec.pivot, spec.languages, relations=spec.relations, cache=self.cache
            )
        )
        problems.raise_if_any()
        assert source is not None
        self.pivot_facts, self.facts = self._select(source)
        self.languages = self.facts.languages
        if spec.control == "shuffled" and len(self.languages) == 1:
            raise UserError(
                f"--control shuffled gives every language the vectors of another one, but only {self.languages[0]} is "
                "searched: name more --languages, or use --control random."
            )
        self.warnings += self.facts.warnings
        self.model_hash = model_fingerprint(spec.model, self.cache, weights=not self.only_plan)
        self.can_measure = not self.only_plan or has_weights(spec.model)
        if not self.can_measure:
            self.warnings.append(NO_WEIGHTS.format(spec.model))
        self.sentences = prepare_sentences(
            spec.sentences,
            (spec.pivot, *self.languages),
            limit=spec.max_sentences,
            facts=source,
            cache=self.cache,
        )
        self.probe = self._probe_options()
        self.warnings += idle_options(spec, self.probe)

    def _select(self, source: FactStore) -> tuple[FactStore, FactStore]:
        """The pivot's facts, all of them, and those of the languages to search."""
        spec = self.spec
        searched = tuple(name for name in spec.languages or source.languages if name != spec.pivot)
        if not searched:
            raise UserError(
                f"Only {spec.pivot!r} is left to search, the language that is projected into, so there is nothing to "
                "find: name other --languages, or another --pivot."
            )
        if spec.pivot not in source.languages:
            raise UserError(
                f"{spec.facts} has no facts in the pivot {spec.pivot!r}, so nothing can be compared with it: choose "
                f"another --pivot or other --relations.{did_you_mean(spec.pivot, source.languages)}"
            )
        return (
            source.select(languages=(spec.pivot,)),
            source.select(languages=searched, max_facts=spec.max_facts, split=spec.split),
        )

    def _check_model(self, description: ModelDescription) -> None:
        problems = Problems()
        self.pairs = problems.collect(lambda: parse_pairs(self.spec.pairs, description.num_layers)) or ()
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
            for parts in [self.parts(self.facts.count(language))]
            for part in range(parts)
        ]
        pivot_facts = len(self.pivot_table())
        parts = self.parts(pivot_facts)
        trials += [
            self._trial(self.spec.pivot, part, parts, pivot_facts / parts * self.description.num_layers)
            for part in range(parts)
        ]
        return sorted(trials, key=lambda trial: -trial.cost)

    def parts(self, facts: int) -> int:
        """Trials that a language's facts are cut into; a race needs them all in one."""
        return 1 if self.spec.search == "racing" else max(1, math.ceil(facts / self.spec.facts_per_trial))

    def _trial(self, language: str, part: int, parts: int, cost: float) -> Trial:
        spec = self.spec
        depends_on: dict[str, Any] = {
            "study": [self.name, self.result_version],
            "model": self.model_hash,
            "dtype": [spec.dtype, spec.head_dtype],
            "probe": self.probe.decisive(),
            "last_layer": spec.last_layer,
            "search": spec.search,
            "keep": KEPT[spec.keep],
        }
        if language == spec.pivot:
            depends_on["facts"] = [self._fingerprint(self.pivot_facts, language), self._pivot_restriction()]
            depends_on["pairs"] = []
        else:
            depends_on["facts"] = self._fingerprint(self.facts, language)
            depends_on["pairs"] = self.pairs
            depends_on["vectors"] = [self._vector_key(spec.pivot), self._vector_key(self.source_language(language))]
            if spec.control == "random":
                depends_on["control"] = [spec.control, spec.seed]
            if spec.search == "racing":
                depends_on["race"] = [spec.delta, spec.shard, spec.criterion, spec.seed]
                if spec.criterion == "trans":  # what the pivot has right decides which pairs are dropped
                    depends_on["race"].append(self._fingerprint(self.pivot_facts, spec.pivot))
        if self.inexact:
            depends_on["precision_sample"] = spec.precision_sample
        cell = {"language": language} if parts == 1 else {"language": language, "part": part + 1, "of": parts}
        return Trial(cell, json.loads(json.dumps(depends_on)), cost)

    def _vector_key(self, language: str, dtype: str | None = None) -> str:
        """What a language's vectors follow from; `dtype` is the trials' unless another is said."""
        spec = self.spec
        parts = (
            self.model_hash,
            self.sentences.fingerprint(language),
            str(spec.max_sentences),
            spec.specials,
            spec.last_layer,
            dtype or spec.dtype,
        )
        return "-".join(parts)

    def _pivot_restriction(self) -> list[str]:
        """What the pivot's facts are restricted to: all of them, or those that some language is asked."""
        if self.spec.max_facts is None or self.spec.pivot_reference == "full":
            return []
        return [self._fingerprint(self.facts, language) for language in self.languages]

    def _fingerprint(self, store: FactStore, language: str) -> str:
        """A language's fingerprint, computed once: it hashes all its facts."""
        known = self._fingerprints.get((store, language))
        if known is None:
            known = self._fingerprints[store, language] = store.language_fingerprint(language)
        return known

    def pivot_table(self) -> pa.Table:
        table = self.pivot_facts.facts(self.spec.pivot)
        if not self._pivot_restriction():
            return table
        asked = [self.facts.facts(language).column("uuid").cast(pa.string()) for language in self.languages]
        wanted = pc.unique(pa.chunked_array([chunk for column in asked for chunk in column.chunks], pa.string()))
        return table.filter(pc.is_in(table.column("uuid").cast(pa.string()), value_set=wanted))

    def memory_bytes(self) -> int:
        return least_memory(self.description, getattr(torch, self.spec.dtype), self.pairs)

    def needs(self) -> ModelNeeds:
        return needs_of(self)

    @property
    def address(self) -> str:
        """Of the model that the trials' keys stand for, wherever the hub's repository has moved since."""
        return pinned(self.spec.model, self.model_hash)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, read without the model."""
        tokenizer = read_tokenizer(resolve(self.address, weights=False))
        check_offsets(tokenizer, self.description.kind, self.spec.model)
        return tokenizer

    def estimate(self, trials: Sequence[Trial], threads: int) -> Estimate:
        return estimate_search(self, trials, threads)

    @property
    def inexact(self) -> bool:
        """Whether the arithmetic is one that changes hits."""
        return "bfloat16" in (self.spec.dtype, self.spec.head_dtype)

    def load(self, context: TrialContext) -> Loaded:
        spec = self.spec
        if spec.search == "naive" and context.placement != "single":
            raise UserError(NAIVE_IN_ONE_PIECE.format(context.placement))
        backbone = self._load(getattr(torch, spec.dtype), context)
        width = backbone.final(torch.zeros(1, backbone.hidden_size, dtype=backbone.dtype, device=backbone.device))
        if width.shape[-1] != backbone.hidden_size:
            raise UserError(
                f"{spec.model} narrows its states from {backbone.hidden_size} to {width.shape[-1]} numbers after its "
                "last block, so the vectors of its last layer would not fit its states: choose another model."
            )
        search = LayerSearch(
            backbone,
            keep=spec.keep,
            method="naive" if spec.search == "naive" else "lattice",
            last_layer=spec.last_layer,
            head_dtype=getattr(torch, spec.head_dtype) if spec.head_dtype else None,
            memory_bytes=context.memory_bytes,
        )
        return Loaded(backbone, search)

    def _load(self, dtype: torch.dtype, context: TrialContext) -> Backbone:
        placement = cast(Placement, context.placement)  # the planner chooses among `placements`
        return load_backbone(self.address, dtype=dtype, device=context.device, placement=placement)

    def run(self, trial: Trial, loaded: Loaded, context: TrialContext) -> pa.Table:
        language = str(trial.cell["language"])
        facts, pairs = self.trial_facts(trial), self.pairs if language != self.spec.pivot else ()
        shift = self.shift(loaded.backbone, language, context) if pairs else None
        race = None
        if self.spec.search == "racing" and pairs:
            shards = math.ceil(len(facts) / self.spec.shard)
            race = Race(pairs, len(facts), shards, self.spec.criterion, self.spec.delta)
        parts: list[SearchResult] = []
        names: list[tuple[str, ...]] = []
        at_once = self.spec.shard if race else FACTS_AT_ONCE
        for start, queries in self.queries(loaded.backbone, language, facts, at_once):
            live = race.live if race else pairs
            done, share = start / len(facts), len(queries) / len(facts)
            result = loaded.search.run(queries, shift, live, progress=part_of(context.progress, done, share))
            if race:
                race.feed(result.hits[:, 1:], self._pivot_hits(loaded, facts.slice(start, len(queries))))
                result = spread(result, live, pairs)
            parts.append(result)
            if self.spec.keep == "scores":
                names += [query.names if query.gold >= 0 else () for query in queries]
        changed = None
        if self.inexact:
            changed = self._changed_hits(loaded, language, facts, shift, pairs, parts, context)
        dropped = race.dropped if race else {}
        layers = self.description.num_layers
        return hits_table(facts, parts, pairs, layers, dropped=dropped, changed=changed, candidates=names)

    def _pivot_hits(self, loaded: Loaded, facts: pa.Table) -> NDArray[np.bool_]:
        """Whether the unmodified model has each fact right in the pivot language; not, where that lacks the fact."""
        wanted = facts.column("uuid").cast(pa.string())
        table = self.pivot_facts.facts(self.spec.pivot)
        table = table.filter(pc.is_in(table.column("uuid").cast(pa.string()), value_set=wanted))
        right: dict[str, bool] = {}
        for start, queries in self.queries(loaded.backbone, self.spec.pivot, table):
            hits = loaded.search.run(queries, None, ()).hits[:, 0]
            uuids = table.slice(start, len(queries)).column("uuid").to_pylist()
            right.update(zip(uuids, hits.tolist(), strict=True))
        return np.array([right.get(uuid, False) for uuid in wanted.to_pylist()], dtype=np.bool_)

    def _changed_hits(
        self,
        loaded: Loaded,
        language: str,
        facts: pa.Table,
        shift: Tensor | None,
        pairs: tuple[Pair, ...],
        parts: Sequence[SearchResult],
        context: TrialContext,
    ) -> tuple[int, int]:
        """How many hits of a sample differ from those in float32, and how many were compared.

        The model in float32 is streamed where it does not fit beside the one that is loaded. It has language vectors
        of its own where it fits, unless these only serve to draw random ones, which may then be others; streamed it
        takes the trial's, since thousands of sentences would each have to pass all its layers.
        """
        room = context.memory_bytes - loaded.backbone.mapped_bytes
        beside = context.placement == "single" and fits_beside(self.description, room, context.device)
        context = replace(context, memory_bytes=room, placement="single" if beside else "stream")
        exact = self._load(torch.float32, context)
        if pairs and beside and self.spec.control != "random":
            shift = self.shift(exact, language, context, "float32")
        search = LayerSearch(exact, last_layer=self.spec.last_layer, memory_bytes=room)
        sample = facts.slice(0, min(len(parts[0].hits), self.spec.precision_sample)) if parts else facts.slice(0, 0)
        changed = compared = 0
        for start, queries in self.queries(exact, language, sample):
            hits = search.run(queries, shift, pairs).hits
            changed += int((hits != parts[0].hits[start : start + len(hits)]).sum())
            compared += hits.size
        return changed, compared

    def trial_facts(self, trial: Trial) -> pa.Table:
        """The rows of a trial: the whole language or one of its parts. A race takes them in random order."""
        language = str(trial.cell["language"])
        table = self.pivot_table() if language == self.spec.pivot else self.facts.facts(language)
        if self.spec.search == "racing" and language != self.spec.pivot:
            return table.take(np.random.default_rng(self.spec.seed).permutation(len(table)))
        part, parts = int(trial.cell.get("part", 1)), int(trial.cell.get("of", 1))
        start, stop = (len(table) * (part - 1)) // parts, (len(table) * part) // parts
        return table.slice(start, stop - start)

    def queries(
        self, backbone: Backbone | Reader, language: str, facts: pa.Table, at_once: int = FACTS_AT_ONCE
    ) -> Iterator[tuple[int, list[Query]]]:
        """The queries of `facts` in blocks, each with the row of its first fact.

        A fact that is longer than the model can read has no gold object there and is never a hit.
        """
        store = self.pivot_facts if language == self.spec.pivot else self.facts
        builder = QueryBuilder(backbone.tokenizer, self.probe, store.pools(language), backbone.max_length)
        for start in range(0, len(facts), at_once):
            yield start, builder.build(facts.slice(start, at_once), start)

    def shift(self, backbone: Backbone, language: str, context: TrialContext, dtype: str | None = None) -> Tensor:
        """``v_pivot - v_language``, [L + 1, D], from cached language vectors, or what a control has in its place.

        `dtype` is the backbone's, unless it is that of the trials.
        """
        tables = [
            cached_vectors(
                backbone,
                self.sentences.sentences(name),
                path=context.cache / "vectors" / f"{self._vector_key(name, dtype)}.safetensors",
                specials=self.spec.specials,
                last_layer=self.spec.last_layer,
                streamed_bytes=context.memory_bytes // 8,
            )
            for name in (self.spec.pivot, self.source_language(language))
        ]
        shift = shift_between(*tables)
        return random_like(shift, self.spec.seed, language) if self.spec.control == "random" else shift

    def source_language(self, language: str) -> str:
        """The language whose vectors a language is shifted with: its own, or the next one in a seeded order."""
        if self.spec.control != "shuffled":
            return language
        order = np.random.default_rng(self.spec.seed).permutation(sorted(self.languages)).tolist()
        return str(order[(order.index(language) + 1) % len(order)])

    def summarize(self, results: Sequence[TrialResult]) -> Summary:
        return summarize_search(record_of(self), results)

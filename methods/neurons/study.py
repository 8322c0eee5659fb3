"""Knowledge neurons and representation similarity as a study: one trial for each language, the pivot included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from methods.backbone import Backbone, ModelDescription, check_model, describe_model, load_backbone, model_fingerprint
from methods.backbone.addresses import pinned
from methods.backbone.projection import Pair, shift_between
from methods.backbone.vectors import cached_vectors, random_like
from methods.neurons.answer import summarize_neurons
from methods.neurons.attribution import Projection, integration_points
from methods.neurons.estimate import estimate_neurons, prompt_flops
from methods.neurons.feed_forward import neuron_count, neuron_sites
from methods.neurons.layers import language_pairs
from methods.neurons.prompts import Prompt, build_prompts
from methods.neurons.results import LRP2, PLAIN, LanguageNeurons, LanguageRecord, Likeness, neurons_table
from methods.neurons.running import Runner, least_memory
from methods.neurons.similarity import centre_of, compare_states, query_states
from methods.neurons.spec import NeuronSpec
from orchestrator.data import FactStore, SentenceStore, facts_beside, prepare_sentences
from orchestrator.errors import Problems, UserError, did_you_mean
from orchestrator.study import Estimate, Study, Summary, Trial, TrialContext, TrialResult

# Tokens of a prompt, for the cost of trials that have not been looked at yet.
TYPICAL_LENGTH = 12.0


@dataclass(frozen=True)
class Loaded:
    """What a worker keeps between trials."""

    backbone: Backbone
    runner: Runner


class NeuronStudy(Study[NeuronSpec]):
    """Which neurons hold a relation in each language, what languages share, and what LRP2 changes in both."""

    name = "neurons"
    result_version = 1
    checkpoints = ("model",)
    spec_type = NeuronSpec

    facts: FactStore
    pivot_facts: FactStore
    all_pivot_facts: FactStore
    sentences: SentenceStore
    description: ModelDescription
    model_hash: str
    pairs: dict[str, Pair]
    languages: tuple[str, ...]

    def prepare(self) -> None:
        spec, problems = self.spec, Problems()
        problems.collect(lambda: check_model(spec.model))
        description = None if problems.found else problems.collect(lambda: describe_model(spec.model))
        source = problems.collect(
            lambda: facts_beside(
                spec.facts, spec.pools, spec.pivot, spec.languages, relations=spec.relations, cache=self.cache
            )
        )
        if description is not None and source is not None:
            self.description = description
            self.model_hash = model_fingerprint(spec.model, self.cache)
            found = problems.collect(lambda: self._select(source))
            if found is not None:
                self.facts, self.pivot_facts, self.all_pivot_facts = found
                self.languages = tuple(name for name in self.facts.languages if name != spec.pivot)
                self.pairs = problems.collect(self._pairs) or {}
        problems.raise_if_any()
        assert source is not None
        self.warnings += self.facts.warnings
        self.sentences = prepare_sentences(
            spec.sentences, (spec.pivot, *self.languages), limit=spec.max_sentences, facts=source, cache=self.cache
        )

    def _select(self, source: FactStore) -> tuple[FactStore, FactStore, FactStore]:
        """The facts to study, of the languages and of the pivot, and all of the pivot's, to find parallel ones in."""
        spec = self.spec
        others = tuple(name for name in spec.languages or source.languages if name != spec.pivot)
        if not others:
            raise UserError(
                f"Only {spec.pivot!r} is left to study, the language that others are compared with: name other "
                "--languages, or another --pivot."
            )
        if spec.pivot not in source.languages:
            raise UserError(
                f"{spec.facts} has no facts in the pivot {spec.pivot!r}, so nothing can be compared with it: choose "
                f"another --pivot or other --relations.{did_you_mean(spec.pivot, source.languages)}"
            )
        # The built-in models read every fact in English, so no fact is withheld there.
        split = None if spec.split is None else "seen"
        return (
            source.select(languages=others, max_facts=spec.max_facts, split=spec.split),
            source.select(languages=(spec.pivot,), max_facts=spec.max_facts, split=split),
            source.select(languages=(spec.pivot,)),
        )

    def _pairs(self) -> dict[str, Pair]:
        spec = self.spec
        return language_pairs(spec.pairs, spec.pairs_from, self.languages, self.description.num_layers, self.model_hash)

    def describe(self) -> Mapping[str, str]:
        distinct = sorted(set(self.pairs.values()))
        return {
            "model": self.spec.model,
            "data": self.spec.facts,
            "languages": str(len(self.languages)),
            "layers of LRP2": "/".join(map(str, distinct[0])) if len(distinct) == 1 else "of each language its own",
            "integral": f"{self.spec.rule}, {self.spec.steps} points",
            "model fingerprint": self.model_hash,
            "data fingerprint": self.facts.fingerprint,
        }

    def trials(self) -> Sequence[Trial]:
        trials = [self._trial(language) for language in (self.spec.pivot, *self.languages)]
        return sorted(trials, key=lambda trial: -trial.cost)

    def _trial(self, language: str) -> Trial:
        spec, store = self.spec, self.store_of(language)
        depends_on: dict[str, Any] = {
            "study": [self.name, self.result_version],
            "model": self.model_hash,
            "dtype": spec.dtype,
            "facts": store.language_fingerprint(language),
            "integral": [spec.rule, spec.steps, spec.objects],
            "selection": [spec.selection, spec.top if spec.selection == "frequent" else None],
            "effects": spec.seed if spec.effects else None,
        }
        if language != spec.pivot:
            depends_on["pair"] = self.pairs[language]
            depends_on["last_layer"] = spec.last_layer
            depends_on["vectors"] = [self._vector_key(spec.pivot), self._vector_key(language)]
            depends_on["control"] = [spec.control, spec.seed] if spec.control != "none" else None
            depends_on["parallel"] = [self.all_pivot_facts.language_fingerprint(spec.pivot), spec.similar_facts]
        cost = store.count(language) * self.flops(TYPICAL_LENGTH, 1.0, language)
        return Trial({"language": language}, json.loads(json.dumps(depends_on)), cost)

    def flops(self, length: float, rows: float, language: str) -> float:
        """Operations for one prompt of a language, with and without LRP2."""
        times = 1 if language == self.spec.pivot else 2
        return times * prompt_flops(self.description, length, rows, self.spec.steps)

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

    def store_of(self, language: str) -> FactStore:
        """The facts to study in a language."""
        return self.pivot_facts if language == self.spec.pivot else self.facts

    def memory_bytes(self) -> int:
        return least_memory(self.description, getattr(torch, self.spec.dtype), 1 + self.spec.steps)

    def estimate(self, trials: Sequence[Trial], threads: int) -> Estimate:
        return estimate_neurons(self, trials, threads)

    @property
    def address(self) -> str:
        """Of the model that the trials' keys stand for, wherever the hub's repository has moved since."""
        return pinned(self.spec.model, self.model_hash)

    def load(self, context: TrialContext) -> Loaded:
        backbone = load_backbone(self.address, dtype=getattr(torch, self.spec.dtype), device=context.device)
        return Loaded(backbone, Runner(backbone, neuron_sites(backbone), context.memory_bytes))

    def run(self, trial: Trial, loaded: Loaded, context: TrialContext) -> pa.Table:
        spec, language = self.spec, str(trial.cell["language"])
        facts = self.store_of(language).facts(language)
        prompts, left_out = build_prompts(loaded.backbone, facts, objects=spec.objects)
        if not prompts:
            reasons = "; ".join(f"{count} facts: {reason}" for reason, count in left_out.items())
            raise UserError(
                f"{language} has no prompt to attribute ({reasons}): choose other --relations or --objects."
            )
        names = facts.column("relation").cast(pa.string()).to_pylist()
        relations = [names[prompt.row] for prompt in prompts]
        projection = None if language == spec.pivot else self.projection(loaded.backbone, language, context)
        variants = {PLAIN: None} if projection is None else {PLAIN: None, LRP2: projection}
        points = integration_points(spec.rule, spec.steps)
        found = {
            variant: loaded.runner.attribute(
                prompts,
                relations,
                points,
                how,
                spec.selection,
                spec.top,
                lambda part, at=place: context.progress((at + part) / len(variants)),  # type: ignore[misc]
            )
            for place, (variant, how) in enumerate(variants.items())
        }
        sets = {variant: one.counts.sets() for variant, one in found.items()}
        parallel, likeness = self._likeness(loaded.backbone, language, projection) if projection else (0, {})
        record = LanguageRecord(
            language=language,
            pair=self.pairs.get(language),
            layers=loaded.backbone.num_layers,
            width=neuron_count(loaded.runner.sites[0]),
            prompts=found[PLAIN].counts.prompts,
            left_out=left_out,
            probability={variant: one.probability / len(prompts) for variant, one in found.items()},
            error={variant: (one.error / one.moved.clip(1e-12)).tolist() for variant, one in found.items()},
            likeness=likeness,
            parallel=parallel,
            effects=loaded.runner.effects(prompts, relations, sets[PLAIN], spec.seed) if spec.effects else {},
        )
        return neurons_table(LanguageNeurons(record, sets))

    def projection(self, backbone: Backbone, language: str, context: TrialContext) -> Projection:
        """LRP2 for a language, from cached language vectors, or what a control has in its place."""
        spec = self.spec
        tables = [
            cached_vectors(
                backbone,
                self.sentences.sentences(name),
                path=context.cache / "vectors" / f"{self._vector_key(name)}.safetensors",
                specials=spec.specials,
                last_layer=spec.last_layer,
            )
            for name in (spec.pivot, language)
        ]
        shift = shift_between(*tables)
        if spec.control == "random":
            shift = random_like(shift, spec.seed, language)
        return Projection(shift, self.pairs[language], spec.last_layer)

    def _likeness(self, backbone: Backbone, language: str, projection: Projection) -> tuple[int, dict[str, Likeness]]:
        """How alike the queries of parallel facts are to the pivot's, with and without LRP2, and how many they are."""
        own = self._by_uuid(backbone, self.facts.facts(language))
        pivot = self._by_uuid(backbone, self.all_pivot_facts.facts(self.spec.pivot), only=own)
        shared = sorted(own.keys() & pivot.keys(), key=lambda uuid: hashlib.sha256(uuid.encode()).digest())
        shared = shared[: self.spec.similar_facts]
        if len(shared) < 2:
            return len(shared), {}
        how = self.spec.last_layer
        theirs = query_states(backbone, [pivot[uuid] for uuid in shared], last_layer=how)
        plain, moved = (
            query_states(backbone, [own[uuid] for uuid in shared], variant, last_layer=how)
            for variant in (None, projection)
        )
        centre = centre_of(plain, theirs)
        return len(shared), {
            PLAIN: compare_states(plain, theirs, centre),
            LRP2: compare_states(moved, theirs, centre),
        }

    def _by_uuid(self, backbone: Backbone, facts: pa.Table, only: Mapping[str, Any] | None = None) -> dict[str, Prompt]:
        """The prompts of facts that have one, by the facts' identifiers; of `only` those, where it is given."""
        uuids = facts.column("uuid").cast(pa.string())
        if only is not None:
            keep = [uuid in only for uuid in uuids.to_pylist()]
            facts, uuids = facts.filter(pa.array(keep, pa.bool_())), uuids.filter(pa.array(keep, pa.bool_()))
        names = uuids.to_pylist()
        return {names[prompt.row]: prompt for prompt in build_prompts(backbone, facts)[0]}

    def summarize(self, results: Sequence[TrialResult]) -> Summary:
        return summarize_neurons(self.spec, results, self.warnings)

"""The answer of a study of knowledge neurons, from its stored trials alone: outcome, report, runs to track."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from methods.neurons.effects import TREATMENTS
from methods.neurons.outcome import LanguageOverlap, NeuronOutcome, evaluate
from methods.neurons.overlap import mean
from methods.neurons.report import headline, report_sections
from methods.neurons.results import LRP2, PLAIN, VARIANTS, read_neurons_table
from methods.neurons.spec import NeuronSpec
from orchestrator.study import Summary, TrackedRun, TrialResult


def summarize_neurons(spec: NeuronSpec, results: Sequence[TrialResult], notes: Sequence[str] = ()) -> Summary:
    """What the engine writes of a study.

    Args:
        spec: what was asked for.
        results: the finished trials.
        notes: warnings worth keeping.
    """
    outcome = evaluate(
        [read_neurons_table(result.table) for result in results],
        spec.pivot,
        measure=spec.overlap,
        top=spec.top if spec.selection == "frequent" else None,
        bootstrap=spec.bootstrap,
        seed=spec.seed,
        notes=notes,
    )
    keys = {str(result.trial.cell["language"]): result.trial.key for result in results}
    chosen = decisions(spec)
    return Summary(
        document=_document(outcome, chosen),
        table=_table(outcome),
        sections=report_sections(outcome, chosen),
        runs=[_tracked(spec, one, keys[one.language]) for one in outcome.languages],
        metrics=_means(outcome),
        headline=headline(outcome),
    )


def decisions(spec: NeuronSpec) -> dict[str, str]:
    """Every choice that the papers leave open, with its value here."""
    frequent = f"in each layer the {spec.top} neurons most often among a prompt's {spec.top} strongest"
    control = {"control": "vectors in random directions with the norms of the real ones"}
    return {
        **(control if spec.control == "random" else {}),
        "integral": f"{spec.steps} points, rule {spec.rule}",
        "objects of several tokens": "mean probability of their tokens" if spec.objects == "all" else "left out",
        "knowledge neurons": frequent if spec.selection == "frequent" else "those most prompts of a relation share",
        "overlap": "common over the larger set" if spec.overlap == "share" else "common over the union (Jaccard)",
        "layers of LRP2": ", ".join(
            [*(spec.pairs or ()), *([f"best pairs of {spec.pairs_from}"] if spec.pairs_from else [])]
        ),
        "special tokens in language vectors": spec.specials + "d",
        "text of the language vectors": f"{spec.sentences}, at most {spec.max_sentences} sentences a language",
        "last layer": "after the final norm, where there is one" if spec.last_layer == "normed" else "before the norm",
        "parallel queries": f"at most {spec.similar_facts}",
        "intervals": f"{spec.bootstrap} resamples of relations",
        "arithmetic": spec.dtype,
        **({"facts": f"those {spec.split} in the language when the built-in model was trained"} if spec.split else {}),
    }


def _document(outcome: NeuronOutcome, chosen: dict[str, str]) -> dict[str, Any]:
    return {
        "pivot": outcome.pivot_code,
        "layers": outcome.layers,
        "neurons_per_layer": outcome.width,
        "chance": _plain(outcome.chance),
        "decisions": chosen,
        "notes": list(outcome.notes),
        "languages": {one.language: _language(one) for one in outcome.languages},
        "relations": {
            one.relation: {
                "without": _plain(one.same[PLAIN]),
                "with": _plain(one.same[LRP2]),
                "neurons": one.neurons,
                "in_half_of_the_languages": one.half,
                "in_all_languages": one.everywhere,
            }
            for one in outcome.relations
        },
        "matrices": {
            variant: {"languages": list(outcome.codes), "overlap": [[_plain(value) for value in row] for row in rows]}
            for variant, rows in outcome.matrices.items()
        },
    }


def _language(one: LanguageOverlap) -> dict[str, Any]:
    record = one.record
    return {
        "pair": record.pair,
        "prompts": sum(record.prompts.values()),
        "left_out": dict(record.left_out),
        "without": _overlaps(one, PLAIN),
        "with": _overlaps(one, LRP2),
        "change": {name: _plain(value) for name, value in vars(one.change).items()},
        "verdict": one.verdict,
        "parallel_facts": record.parallel,
        "likeness": {
            variant: {name: [_plain(value) for value in values] for name, values in vars(found).items()}
            for variant, found in record.likeness.items()
        },
        "effects": dict(zip(TREATMENTS, map(_plain, one.effects), strict=True)) if record.effects else None,
        "error_of_completeness": {variant: list(values) for variant, values in record.error.items()},
    }


def _overlaps(one: LanguageOverlap, variant: str) -> dict[str, float | None]:
    return {
        "same": _plain(one.same(variant)),
        "different": _plain(one.different(variant)),
        "average": _plain(one.overlaps[variant].all_pairs),
        "probability": one.record.probability[variant],
    }


def _plain(value: float) -> float | None:
    """In JSON, what cannot be told is null."""
    return value if math.isfinite(value) else None


def _table(outcome: NeuronOutcome) -> pa.Table:
    """One row per language, variant, layer and relation: the overlap with the same relation in the pivot."""
    rows = [
        {"language": one.language, "variant": variant, "layer": layer, "relation": relation, "overlap": float(value)}
        for one in outcome.languages
        for variant in VARIANTS
        for layer, values in enumerate(one.overlaps[variant].same, start=1)
        for relation, value in zip(one.overlaps[variant].relations, values, strict=True)
    ]
    fields = [("language", pa.string()), ("variant", pa.string()), ("layer", pa.int16()), ("relation", pa.string())]
    return pa.Table.from_pylist(rows, schema=pa.schema([*fields, ("overlap", pa.float64())]))


def _tracked(spec: NeuronSpec, one: LanguageOverlap, key: str) -> TrackedRun:
    metrics = {
        "prompts": float(sum(one.record.prompts.values())),
        "overlap": one.same(PLAIN),
        "overlap_lrp2": one.same(LRP2),
        "overlap_change": one.change.value,
        "overlap_change_low": one.change.low,
        "overlap_change_high": one.change.high,
        "overlap_different": one.different(PLAIN),
        **{
            f"{name}_{variant}": mean(list(values))
            for variant, found in one.record.likeness.items()
            for name, values in vars(found).items()
        },
    }
    pair = "" if one.record.pair is None else "/".join(map(str, one.record.pair))
    params = {"study": "neurons", "model": spec.model, "data": spec.facts, "language": one.language, "pair": pair}
    return TrackedRun(
        key=key,
        name=one.language,
        params=params | {"verdict": one.verdict},
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
    )


def _means(outcome: NeuronOutcome) -> dict[str, float]:
    """Unweighted means over the languages."""
    found = {
        "overlap": mean([one.same(PLAIN) for one in outcome.languages]),
        "overlap_lrp2": mean([one.same(LRP2) for one in outcome.languages]),
        "overlap_different": mean([one.different(PLAIN) for one in outcome.languages]),
        "chance": outcome.chance,
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}

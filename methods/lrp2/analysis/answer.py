"""The answer of a layer search, from its stored trials alone: scores of every language, report, runs to track."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from methods.lrp2.analysis.exchange import ExchangedLanguage, exchange_labels, null_control, with_control
from methods.lrp2.analysis.groups import Group, paper_groups
from methods.lrp2.analysis.language import Answers, evaluate_language
from methods.lrp2.analysis.paper import reference_for
from methods.lrp2.analysis.rank_consistency import rank_consistency
from methods.lrp2.analysis.record import SearchRecord, decisions, selection_options
from methods.lrp2.analysis.statistics import CORRECTIONS, judged
from methods.lrp2.outcome import Consistency, LanguageOutcome, PairScore, SearchOutcome
from methods.lrp2.report import headline, report_sections
from methods.lrp2.results import language_hits, trial_record
from methods.lrp2.selection import SelectionOptions, credit
from orchestrator.placement import in_bytes
from orchestrator.study import Summary, TrackedRun, TrialResult


@dataclass(frozen=True)
class Evaluated:
    """A sweep's outcome, what every fact contributes to it (by language), and the trials behind them."""

    record: SearchRecord
    outcome: SearchOutcome
    answers: Mapping[str, Answers]
    results: Sequence[TrialResult]
    pivot_facts: int


def summarize_search(record: SearchRecord, results: Sequence[TrialResult]) -> Summary:
    """The answer, from what was searched and the finished trials."""
    return summary_of(evaluate_search(record, results))


def evaluate_search(
    record: SearchRecord, results: Sequence[TrialResult], own: Sequence[Group] = (), remarks: Sequence[str] = ()
) -> Evaluated:
    """The scores of every language whose trials are all there.

    Args:
        record: what was searched.
        results: the finished trials.
        own: groups of languages to average over beside the paper's.
        remarks: what else should stand among the notes.
    """
    options = selection_options(record.spec)
    notes = [*record.warnings, *remarks]
    by_language = _complete(results, notes)
    notes += _race_notes(by_language) + _precision_notes(record, results) + _reading_notes(results)
    pivot_trials = by_language.pop(record.spec.pivot, [])
    pivot_hits, pivot_credit = _pivot(pivot_trials, options, notes, record.spec.pivot)
    outcomes: list[LanguageOutcome] = []
    answers: dict[str, Answers] = {}
    exchanged: list[ExchangedLanguage] = []
    for name in record.languages:
        if name in by_language:  # one language's hits in memory at a time
            hits = language_hits(name, [result.table for result in by_language[name]])
            found, answers[name] = evaluate_language(hits, pivot_hits, pivot_credit, options)
            if options.draws:
                exchanged.append(exchange_labels(hits, pivot_hits, options))
                found = with_control(found, answers[name], exchanged[-1], options)
            outcomes.append(found)
    alpha = 1 - options.confidence
    tables = {name: [result.table for result in found] for name, found in by_language.items()}
    tables[record.spec.pivot] = [result.table for result in pivot_trials]
    outcome = SearchOutcome(
        pivot=record.spec.pivot,
        num_layers=record.shape.layers,
        languages=judged(outcomes, options.correction, alpha),
        pivot_acc=100.0 * float(np.mean(list(pivot_credit.values()))) if pivot_credit else 0.0,
        skipped=tuple((name, "no facts are left after the selection") for name in record.skipped),
        decisions=decisions(record),
        notes=tuple(notes),
        groups=(*paper_groups([one.language for one in outcomes]), *own),
        reference=reference_for(record.shape),
        facts_kind=record.facts_kind,
        null=null_control(exchanged, options.correction, alpha) if exchanged else None,
        correction=CORRECTIONS[options.correction],
        consistency=rank_consistency(tables, record.spec.pivot, outcomes, answers, options),
    )
    return Evaluated(record, outcome, answers, results, sum(len(result.table) for result in pivot_trials))


def summary_of(evaluated: Evaluated) -> Summary:
    """What the engine writes of an evaluated sweep."""
    outcome = evaluated.outcome
    return Summary(
        document=_document(evaluated),
        table=_pair_table(outcome),
        sections=report_sections(outcome),
        runs=[_tracked(evaluated, one) for one in outcome.languages],
        metrics=_means(outcome.languages) | {"pivot_acc": outcome.pivot_acc},
        headline=headline(outcome),
    )


def _complete(results: Sequence[TrialResult], notes: list[str]) -> dict[str, list[TrialResult]]:
    """The trials of every language all of whose parts are there; the others are noted."""
    by_language = _by_language(results)
    for language in list(by_language):
        parts = by_language[language]
        if len(parts) < int(parts[0].trial.cell.get("of", 1)):
            notes.append(f"{language}: only {len(parts)} of its trials finished, so it is left out")
            del by_language[language]
    return by_language


def _by_language(results: Sequence[TrialResult]) -> dict[str, list[TrialResult]]:
    """The trials of every language, its parts in order."""
    found: dict[str, list[TrialResult]] = {}
    for result in sorted(results, key=lambda r: int(r.trial.cell.get("part", 1))):
        found.setdefault(str(result.trial.cell["language"]), []).append(result)
    return found


def _race_notes(by_language: Mapping[str, Sequence[TrialResult]]) -> list[str]:
    """Which pairs a race dropped in each language, and after how many facts."""
    notes = []
    for language, results in by_language.items():
        dropped = sorted((after, i, j) for i, j, after in trial_record(results[0].table)["dropped"])
        if dropped:
            listed = ", ".join(f"{i}/{j} after {after}" for after, i, j in dropped)
            notes.append(f"{language}: pairs that could not win any more were dropped: {listed} facts")
    return notes


def _reading_notes(results: Sequence[TrialResult]) -> list[str]:
    """What was read of a model whose layers were streamed."""
    stats = [trial_record(result.table)["stats"] for result in results]
    read = sum(found.get("weight_bytes", 0) for found in stats)
    if not read:
        return []
    tiles = sum(found["tiles"] for found in stats)
    return [f"The model's layers were streamed: {in_bytes(read)} of weights were read in {tiles} tiles"]


def _precision_notes(record: SearchRecord, results: Sequence[TrialResult]) -> list[str]:
    """How many hits inexact arithmetic changed on the samples that were also searched in float32."""
    counts = [found["changed"] for result in results if (found := trial_record(result.table))["changed"]]
    if not counts:
        return []
    changed, compared = (sum(column) for column in zip(*counts, strict=True))
    inexact = " and ".join(
        f"{part} in bfloat16"
        for part, dtype in (("states", record.spec.dtype), ("logits", record.spec.head_dtype))
        if dtype == "bfloat16"
    )
    alike = "; where the model in float32 was streamed, and in a random control, both sides have the same vectors"
    return [
        f"The arithmetic is inexact ({inexact}): of {compared} hits that were also computed in float32, {changed} "
        f"({100 * changed / max(1, compared):.2f}%) differ" + (alike if record.spec.dtype == "bfloat16" else "")
    ]


def _pivot(
    results: Sequence[TrialResult], options: SelectionOptions, notes: list[str], pivot: str
) -> tuple[dict[str, bool], dict[str, float]]:
    """For each of the pivot's facts whether it is a hit, and its credit."""
    if not results:
        notes.append(f"{pivot} has no results, so transferability cannot be told and is shown as 0")
        return {}, {}
    table = language_hits(pivot, [result.table for result in results])
    value = credit(table.hits, table.ties, options.ties)[:, 0]
    return (
        dict(zip(table.uuids, table.hits[:, 0].tolist(), strict=True)),
        dict(zip(table.uuids, value.tolist(), strict=True)),
    )


def _document(evaluated: Evaluated) -> dict[str, Any]:
    outcome = evaluated.outcome
    trials = [result.trial for result in evaluated.results]
    return {
        "pivot": {"language": outcome.pivot, "facts": evaluated.pivot_facts, "acc": outcome.pivot_acc},
        "layers": outcome.num_layers,
        "decisions": dict(outcome.decisions),
        "options": vars(selection_options(evaluated.record.spec)),
        "skipped": dict(outcome.skipped),
        "notes": list(outcome.notes),
        "null_control": None if outcome.null is None else vars(outcome.null),
        "languages": {one.language: _language(one) for one in outcome.languages},
        "rank_consistency": None if outcome.consistency is None else _consistency(outcome.consistency),
        "record": evaluated.record.to_json() | {"trials": {trial.key: dict(trial.cell) for trial in trials}},
    }


def _language(one: LanguageOutcome) -> dict[str, Any]:
    return {
        "facts": one.facts,
        "baseline": {"acc": one.baseline_acc, "trans": one.baseline_trans},
        "oracle": vars(one.oracle),
        "honest": vars(one.honest),
        "nested": None if one.nested is None else vars(one.nested),
        "evidence": None if one.evidence is None else _plain(vars(one.evidence)),
        "pivot_acc": one.english_acc,
        "ties": one.ties,
        "verdict": one.verdict,
        "relations": {
            score.relation: {
                "facts": score.facts,
                "baseline_trans": score.baseline,
                "oracle": vars(score.oracle),
                "honest_trans": score.honest,
            }
            for score in one.relations
        },
    }


def _consistency(found: Consistency) -> dict[str, Any]:
    """RankC of every two languages, and each beside the pivot."""
    pairs = {"baseline": found.baseline, "oracle": found.oracle}
    return {
        "languages": list(found.languages),
        **{
            name: [[None if value != value else value for value in row] for row in matrix.tolist()]
            for name, matrix in pairs.items()
        },
        "with_pivot": {one.language: vars(one) for one in found.with_pivot},
    }


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """In JSON, what was not drawn is null."""
    return {name: value if value == value else None for name, value in values.items()}


def _pair_table(outcome: SearchOutcome) -> pa.Table:
    """One row per language and layer pair; the unmodified model is pair (0, 0)."""
    rows = [
        {"language": one.language, **vars(pair), "gain": one.gain(pair)}
        for one in outcome.languages
        for pair in (PairScore(0, 0, one.baseline_acc, one.baseline_trans), *one.grid)
    ]
    fields = [("language", pa.string()), ("lirp", pa.int16()), ("lsrp", pa.int16())]
    fields += [(name, pa.float64()) for name in ("acc", "trans", "gain")]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _tracked(evaluated: Evaluated, one: LanguageOutcome) -> TrackedRun:
    record = evaluated.record
    parts = _by_language(evaluated.results)[one.language]
    metrics = {
        "facts": one.facts,
        "baseline_acc": one.baseline_acc,
        "baseline_trans": one.baseline_trans,
        "acc": one.oracle.acc,
        "trans": one.oracle.trans,
        "honest_acc": one.honest.acc,
        "honest_trans": one.honest.trans,
        "honest_gain": one.honest.gain,
        "honest_gain_low": one.honest.gain_low,
        "honest_gain_high": one.honest.gain_high,
        "pivot_acc": one.english_acc,
    }
    if one.evidence is not None:
        metrics |= {"p": one.evidence.p, "p_adjusted": one.evidence.adjusted}
    if one.nested is not None:
        metrics["nested_gain"] = one.nested.gain
    return TrackedRun(
        key="-".join(result.trial.key for result in parts),
        name=one.language,
        params={
            "study": "lrp2",
            "model": record.spec.model,
            "data": record.spec.facts,
            "language": one.language,
            "lirp": one.oracle.lirp,
            "lsrp": one.oracle.lsrp,
            "pair": f"{one.oracle.lirp}/{one.oracle.lsrp}",
            "probe": record.probe["kind"],
            "verdict": one.verdict,
        },
        metrics=metrics,
    )


def _means(outcomes: Sequence[LanguageOutcome]) -> dict[str, float]:
    """Unweighted means over the languages, as in the paper's Table 1."""
    if not outcomes:
        return {}
    return {
        "baseline_acc": float(np.mean([one.baseline_acc for one in outcomes])),
        "acc": float(np.mean([one.oracle.acc for one in outcomes])),
        "trans": float(np.mean([one.oracle.trans for one in outcomes])),
        "honest_acc": float(np.mean([one.honest.acc for one in outcomes])),
        "honest_gain": float(np.mean([one.honest.gain for one in outcomes])),
    }

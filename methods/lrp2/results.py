"""What a trial of the layer search stores, and the answer that is derived from the stored trials.

A trial's table has one row per fact. `hits` is a bitmap: bit 0 is the unmodified model, bit 1 + p the p-th layer pair
(little-endian bits). The pairs themselves stand in the table's metadata under ``lrp2``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from methods.lrp2.outcome import LanguageOutcome, SearchOutcome
from methods.lrp2.projection import Pair
from methods.lrp2.report import headline, report_sections
from methods.lrp2.search import SearchResult, SearchStats
from methods.lrp2.selection import LanguageHits, SelectionOptions, credit, evaluate_language
from orchestrator.study import Summary, TrackedRun, TrialResult

if TYPE_CHECKING:
    from methods.lrp2.study import LRP2Study

METADATA_KEY = b"lrp2"


def hits_table(
    facts: pa.Table,
    parts: Sequence[SearchResult],
    pairs: Sequence[Pair],
    num_layers: int,
    *,
    dropped: Mapping[Pair, int],
    changed: tuple[int, int] | None,
) -> pa.Table:
    """The table of a trial.

    Args:
        facts: the trial's facts, F rows.
        parts: results for consecutive facts, F in all.
        pairs: the layer pairs.
        num_layers: L.
        dropped: for each pair that a race dropped the facts, from the first, that it was evaluated on.
        changed: hits that inexact arithmetic changed, and how many were compared; None for exact arithmetic.

    Returns:
        Columns relation, uuid, subject (the subject's identifier, or the fact's where it has none), hits (bitmap), ties
        (list of [column, candidates sharing the top]) and, if scores were kept, scores (per column the list of all
        candidates' scores).
    """
    hits = np.concatenate([part.hits for part in parts]) if parts else np.zeros((0, 1 + len(pairs)), dtype=bool)
    ties = np.concatenate([part.ties for part in parts]) if parts else np.zeros(hits.shape, dtype=np.int16)
    stats = SearchStats()
    for part in parts:
        stats.add(part.stats)
    uuids = facts.column("uuid").cast(pa.string())
    subjects = [uri or uuid for uri, uuid in zip(facts.column("sub_uri").to_pylist(), uuids.to_pylist(), strict=True)]
    packed = np.packbits(hits, axis=1, bitorder="little")
    columns: dict[str, Any] = {
        "relation": facts.column("relation").cast(pa.string()),
        "uuid": uuids,
        "subject": pa.array(subjects, pa.string()),
        "hits": pa.array([row.tobytes() for row in packed], pa.binary(packed.shape[1])),
        "ties": pa.array(
            [[[int(c), int(row[c])] for c in np.flatnonzero(row)] for row in ties], pa.list_(pa.list_(pa.int16()))
        ),
    }
    if parts and parts[0].scores is not None:
        columns["scores"] = _score_column(parts)
    record = {
        "pairs": list(pairs),
        "num_layers": num_layers,
        "stats": vars(stats),
        "dropped": [[*pair, after] for pair, after in dropped.items()],
        "changed": changed,
    }
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(record).encode()})


def _score_column(parts: Sequence[SearchResult]) -> pa.Array:
    """Per fact the scores of every column's candidates."""
    tables = [table for part in parts for table in part.scores or ()]
    kind = pa.from_numpy_dtype(tables[0].dtype) if tables else pa.float32()
    return pa.array([table.tolist() for table in tables], pa.list_(pa.list_(kind)))


def language_hits(language: str, tables: Sequence[pa.Table]) -> LanguageHits:
    """Puts the parts of a language together again."""
    record = json.loads(tables[0].schema.metadata[METADATA_KEY])
    pairs = tuple((int(i), int(j)) for i, j in record["pairs"])
    width = 1 + len(pairs)
    evaluated = np.full(width, sum(len(table) for table in tables), dtype=np.int64)
    for i, j, after in record["dropped"]:
        evaluated[1 + pairs.index((i, j))] = after
    bitmaps = [np.frombuffer(b"".join(table.column("hits").to_pylist()), np.uint8) for table in tables]
    hits = np.concatenate(
        [
            np.unpackbits(bits.reshape(len(table), -1), axis=1, bitorder="little")[:, :width].astype(bool)
            if len(table)
            else np.zeros((0, width), dtype=bool)
            for bits, table in zip(bitmaps, tables, strict=True)
        ]
    )
    ties = np.zeros(hits.shape, dtype=np.int16)
    for row, entries in enumerate(entry for table in tables for entry in table.column("ties").to_pylist()):
        for column, count in entries:
            ties[row, column] = count
    return LanguageHits(
        language=language,
        uuids=tuple(text for table in tables for text in table.column("uuid").to_pylist()),
        subjects=tuple(text for table in tables for text in table.column("subject").to_pylist()),
        pairs=pairs,
        hits=hits,
        ties=ties,
        evaluated=evaluated,
    )


def summarize_search(study: LRP2Study, results: Sequence[TrialResult]) -> Summary:
    """The answer: scores of every language, the report, the runs to track."""
    options = selection_options(study)
    by_language: dict[str, list[TrialResult]] = {}
    for result in sorted(results, key=lambda r: int(r.trial.cell.get("part", 1))):
        by_language.setdefault(str(result.trial.cell["language"]), []).append(result)
    notes = list(study.warnings)
    for language in list(by_language):
        parts = by_language[language]
        if len(parts) < int(parts[0].trial.cell.get("of", 1)):
            notes.append(f"{language}: only {len(parts)} of its trials finished, so it is left out")
            del by_language[language]
    notes += _race_notes(by_language) + _precision_notes(study, results)
    pivot_hits, pivot_credit = _pivot(by_language.pop(study.spec.pivot, []), options, notes, study.spec.pivot)
    outcomes = [
        evaluate_language(language_hits(name, [r.table for r in by_language[name]]), pivot_hits, pivot_credit, options)
        for name in study.languages
        if name in by_language
    ]
    outcome = SearchOutcome(
        pivot=study.spec.pivot,
        num_layers=study.description.num_layers,
        languages=tuple(outcomes),
        pivot_acc=100.0 * float(np.mean(list(pivot_credit.values()))) if pivot_credit else 0.0,
        skipped=tuple((name, "no facts are left after the selection") for name in study.facts.skipped),
        decisions=decisions(study),
        notes=tuple(notes),
    )
    return Summary(
        document=_document(study, outcome),
        table=_pair_table(outcome),
        sections=report_sections(outcome),
        runs=[_tracked(study, one, by_language[one.language]) for one in outcomes],
        metrics=_means(outcomes) | {"pivot_acc": outcome.pivot_acc},
        headline=headline(outcome),
    )


def _race_notes(by_language: Mapping[str, Sequence[TrialResult]]) -> list[str]:
    """Which pairs a race dropped in each language, and after how many facts."""
    notes = []
    for language, results in by_language.items():
        dropped = sorted((after, i, j) for i, j, after in _record(results[0])["dropped"])
        if dropped:
            listed = ", ".join(f"{i}/{j} after {after}" for after, i, j in dropped)
            notes.append(f"{language}: pairs that could not win any more were dropped: {listed} facts")
    return notes


def _precision_notes(study: LRP2Study, results: Sequence[TrialResult]) -> list[str]:
    """How many hits inexact arithmetic changed on the samples that were also searched in float32."""
    counts = [record["changed"] for record in map(_record, results) if record["changed"]]
    if not counts:
        return []
    changed, compared = (sum(column) for column in zip(*counts, strict=True))
    inexact = " and ".join(
        f"{part} in bfloat16"
        for part, dtype in (("states", study.spec.dtype), ("logits", study.spec.head_dtype))
        if dtype == "bfloat16"
    )
    return [
        f"The arithmetic is inexact ({inexact}): of {compared} hits that were also computed in float32, {changed} "
        f"({100 * changed / max(1, compared):.2f}%) differ"
    ]


def _record(result: TrialResult) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(result.table.schema.metadata[METADATA_KEY])
    return record


def selection_options(study: LRP2Study) -> SelectionOptions:
    """The spec's part that decides how hits become scores."""
    spec = study.spec
    return SelectionOptions(
        ties=spec.ties,
        pivot_reference=spec.pivot_reference,
        criterion=spec.criterion,
        folds=spec.folds,
        bootstrap=spec.bootstrap,
        seed=spec.seed,
    )


def _pivot(
    results: Sequence[TrialResult], options: SelectionOptions, notes: list[str], pivot: str
) -> tuple[dict[str, bool], dict[str, float]]:
    """For each of the pivot's facts whether it is a hit, and its credit."""
    if not results:
        notes.append(f"{pivot} has no results, so transferability cannot be told and is shown as 0")
        return {}, {}
    table = language_hits(pivot, [result.table for result in results])
    value = credit(table.hits, table.ties, options.ties)[:, 0]
    hits: NDArray[np.bool_] = table.hits[:, 0]
    return (
        dict(zip(table.uuids, hits.tolist(), strict=True)),
        dict(zip(table.uuids, value.tolist(), strict=True)),
    )


def decisions(study: LRP2Study) -> Mapping[str, str]:
    """Every choice that the papers leave open, with its value here."""
    spec, probe = study.spec, study.probe
    pools = {
        "full": "all objects of the relation in the language",
        "sampled": f"{probe.pool_size} objects, drawn by seed {probe.seed}, shared by all languages",
        "own": "the candidates listed with each fact",
    }
    chosen = {
        "probe": probe.kind,
        "pools": pools[probe.candidates],
        "ties": "wrong" if spec.ties == "strict" else "shared credit",
        "special tokens in language vectors": spec.specials + "d",
        "text of the language vectors": f"{spec.sentences}, at most {spec.max_sentences} sentences a language",
        "last layer": "after the final norm, where there is one" if spec.last_layer == "normed" else "before the norm",
        "pivot's facts in Trans": "those of the language" if spec.pivot_reference == "restricted" else "all",
        "best pair by": f"{spec.criterion}, ties by the other score, then the smaller i, then the smaller j",
        "honest choice": f"{spec.folds} folds over subjects, {spec.bootstrap} bootstrap resamples of subjects",
        "arithmetic": spec.dtype + (f", logits in {spec.head_dtype}" if spec.head_dtype else ""),
    }
    if spec.split:
        chosen["facts"] = f"those {spec.split} in the language when the built-in model was trained"
    if probe.kind == "causal":
        chosen["causal score"] = {
            "mean": "mean log-probability of all tokens",
            "sum": "sum of the log-probabilities of all tokens",
            "object": "mean log-probability of the object's tokens",
        }[probe.score] + (", sentence start token put in front" if probe.bos else ", no sentence start token")
    return chosen


def _document(study: LRP2Study, outcome: SearchOutcome) -> dict[str, Any]:
    return {
        "pivot": {"language": outcome.pivot, "facts": len(study.pivot_table()), "acc": outcome.pivot_acc},
        "layers": outcome.num_layers,
        "decisions": dict(outcome.decisions),
        "skipped": dict(outcome.skipped),
        "notes": list(outcome.notes),
        "languages": {
            one.language: {
                "facts": one.facts,
                "baseline": {"acc": one.baseline_acc, "trans": one.baseline_trans},
                "oracle": vars(one.oracle),
                "honest": vars(one.honest),
                "pivot_acc": one.english_acc,
                "ties": one.ties,
                "verdict": one.verdict,
            }
            for one in outcome.languages
        },
    }


def _pair_table(outcome: SearchOutcome) -> pa.Table:
    """One row per language and layer pair; the unmodified model is pair (0, 0)."""
    rows = [
        {"language": one.language, "lirp": i, "lsrp": j, "acc": a, "trans": t, "gain": a - one.baseline_acc}
        for one in outcome.languages
        for i, j, a, t in [
            (0, 0, one.baseline_acc, one.baseline_trans),
            *((pair.lirp, pair.lsrp, pair.acc, pair.trans) for pair in one.grid),
        ]
    ]
    fields = [("language", pa.string()), ("lirp", pa.int16()), ("lsrp", pa.int16())]
    fields += [(name, pa.float64()) for name in ("acc", "trans", "gain")]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _tracked(study: LRP2Study, one: LanguageOutcome, results: Sequence[TrialResult]) -> TrackedRun:
    return TrackedRun(
        key="-".join(result.trial.key for result in results),
        name=one.language,
        params={
            "study": study.name,
            "model": study.spec.model,
            "data": study.spec.facts,
            "language": one.language,
            "lirp": one.oracle.lirp,
            "lsrp": one.oracle.lsrp,
            "pair": f"{one.oracle.lirp}/{one.oracle.lsrp}",
            "probe": study.probe.kind,
            "verdict": one.verdict,
        },
        metrics={
            "facts": one.facts,
            "baseline_acc": one.baseline_acc,
            "baseline_trans": one.baseline_trans,
            "acc": one.oracle.acc,
            "trans": one.oracle.trans,
            "honest_acc": one.honest.acc,
            "honest_gain": one.honest.gain,
            "honest_gain_low": one.honest.gain_low,
            "honest_gain_high": one.honest.gain_high,
            "pivot_acc": one.english_acc,
        },
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

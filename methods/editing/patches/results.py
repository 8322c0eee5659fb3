"""What a stream of the sweep stores, and the answer that is derived from the stored streams.

A trial's table has one row for each request, in order: `SCHEMA`. What belongs to the stream as a whole stands as JSON
in the table's metadata under ``patching``: the final metrics, the curve, every setting, and the decisions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from methods.editing.patches.config import StreamConfig
from methods.editing.patches.decisions import decisions
from methods.editing.patches.metrics import StreamMetrics, StreamPoint
from methods.editing.patches.outcome import FIGURES, PatcherOutcome, StreamRun, Variant, VariantOutcome
from methods.editing.patches.report import headline, report_sections
from methods.editing.patches.stream import StreamResult
from methods.editing.raw import edited_model
from methods.editing.results import read_classifier
from orchestrator.study import Summary, TrackedRun, TrialResult

if TYPE_CHECKING:
    from methods.editing.patches.spec import Cell
    from methods.editing.patches.study import PatcherStudy

METADATA_KEY = b"patching"

SCHEMA = pa.schema(
    [
        pa.field("index", pa.int32(), nullable=False),
        pa.field("uuid", pa.string(), nullable=False),
        pa.field("correct_before", pa.bool_(), nullable=False),
        pa.field("wrong", pa.list_(pa.string()), nullable=False),
        pa.field("edited", pa.bool_(), nullable=False),
        pa.field("languages", pa.list_(pa.string()), nullable=False),
        pa.field("patches", pa.int32(), nullable=False),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("stopped", pa.bool_(), nullable=False),
        pa.field("success", pa.bool_(), nullable=False),
        pa.field("drawn_success", pa.bool_()),
        pa.field("rephrased", pa.float64()),
    ]
)
"""One row for each request, as `methods.editing.patches.metrics.EditRecord` has it."""


def result_table(study: PatcherStudy, result: StreamResult, config: StreamConfig) -> pa.Table:
    """The table of a trial; `trial_run` reads it back."""
    record = {
        "metrics": asdict(result.metrics),
        "curve": [asdict(point) for point in result.curve],
        "config": config.model_dump(mode="json"),
        "decisions": dict(decisions(study)),
    }
    rows = [record.to_json() for record in result.records]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return table.replace_schema_metadata({METADATA_KEY: json.dumps(record, ensure_ascii=False).encode()})


def trial_run(table: pa.Table, cell: Cell) -> StreamRun:
    """What a trial's table says."""
    record = json.loads(table.schema.metadata[METADATA_KEY])
    curve = tuple(StreamPoint(**point) for point in record["curve"])
    return StreamRun(cell.seed, cell.folder, StreamMetrics(**record["metrics"]), curve)


def summarize_patchers(study: PatcherStudy, results: Sequence[TrialResult]) -> Summary:
    """The answer: figures of every variant, the report, the runs to track."""
    outcome = outcome_of(study, results)
    by_key = {result.trial.key: result for result in results}
    return Summary(
        document=_document(outcome),
        table=_summary_table(outcome),
        sections=report_sections(outcome),
        runs=[
            _tracked(study, cell, by_key[trial.key])
            for trial, cell in study.planned()
            if trial.key in by_key and cell is not None
        ],
        metrics=_sweep_metrics(outcome),
        headline=headline(outcome),
    )


def outcome_of(study: PatcherStudy, results: Sequence[TrialResult]) -> PatcherOutcome:
    """The stored streams, put together by variant."""
    by_key = {result.trial.key: result for result in results}
    runs: dict[Variant, list[StreamRun]] = {}
    planned: dict[Variant, int] = {}
    classifier: tuple[tuple[str, float, int], ...] = ()
    for trial, cell in study.planned():
        found = by_key.get(trial.key)
        if cell is not None:
            planned[cell.variant] = planned.get(cell.variant, 0) + 1
            if found is not None:
                runs.setdefault(cell.variant, []).append(trial_run(found.table, cell))
        elif found is not None:
            classifier = read_classifier(found.table)
    notes = [
        f"{variant.label}: {count - len(runs.get(variant, ()))} of its {count} streams did not finish."
        for variant, count in planned.items()
        if count > len(runs.get(variant, ()))
    ]
    return PatcherOutcome(
        task=study.spec.task,
        model=edited_model(study.spec),
        languages=tuple(study.languages),
        edit_language=study.spec.edit_language,
        paper_task=study.paper_task,
        requests=study.requests,
        variants=tuple(VariantOutcome(variant, tuple(found)) for variant, found in runs.items()),
        decisions=decisions(study),
        notes=tuple(notes),
        classifier=classifier,
    )


def _document(outcome: PatcherOutcome) -> dict[str, Any]:
    return {
        "languages": list(outcome.languages),
        "requests": outcome.requests,
        "decisions": dict(outcome.decisions),
        "notes": list(outcome.notes),
        "variants": [
            {
                "variant": one.variant.name,
                "drawn_from": one.variant.drawn,
                "streams": [{"seed": run.seed, "folder": run.folder} for run in one.runs],
                "figures": {name: asdict(found) for name in FIGURES if (found := one.figure(name)) is not None},
                "clg": {language: asdict(found) for language in outcome.others if (found := one.clg(language))},
            }
            for one in outcome.variants
        ],
    }


def _summary_table(outcome: PatcherOutcome) -> pa.Table:
    """One row for each stream and language: the stream's figures, and its accuracy on the requests in the language."""
    rows = [
        {
            "variant": one.variant.name,
            "drawn_from": one.variant.drawn,
            "folder": run.folder,
            "seed": run.seed,
            "language": language,
            "accuracy": accuracy,
            **{name: figure(run.metrics) for name, figure in FIGURES.items()},
        }
        for one in outcome.variants
        for run in one.runs
        for language, accuracy in _by_language(outcome, run.metrics).items()
    ]
    texts = [pa.field(name, pa.string()) for name in ("variant", "drawn_from")]
    numbers = [pa.field(name, pa.int32()) for name in ("folder", "seed")]
    figures = [pa.field(name, pa.float64()) for name in ("accuracy", *FIGURES)]
    return pa.Table.from_pylist(rows, schema=pa.schema([*texts, *numbers, pa.field("language", pa.string()), *figures]))


def _by_language(outcome: PatcherOutcome, metrics: StreamMetrics) -> Mapping[str, float]:
    """Accuracy in percent on the requests, in the edit language and in all others."""
    own = {} if metrics.reliability is None else {outcome.edit_language: 100 * metrics.reliability}
    return own | {language: 100 * value for language, value in metrics.clg.items()}


def _tracked(study: PatcherStudy, cell: Cell, result: TrialResult) -> TrackedRun:
    run = trial_run(result.table, cell)
    metrics = {name: value for name, figure in FIGURES.items() if (value := figure(run.metrics)) is not None}
    return TrackedRun(
        key=result.trial.key,
        name=result.trial.label,
        params={
            "study": study.name,
            "model": edited_model(study.spec),
            "data": study.spec.task,
            "variant": cell.variant.name,
            "drawn_from": cell.variant.drawn,
            "folder": cell.folder,
            "seed": cell.seed,
        },
        metrics=metrics | {f"clg_{language}": 100 * value for language, value in run.metrics.clg.items()},
        history=_history(run),
    )


def _history(run: StreamRun) -> dict[str, list[tuple[int, float]]]:
    """The curve by metric, over the requests seen."""
    history: dict[str, list[tuple[int, float]]] = {}
    for point in run.curve:
        for name in ("retained", "locality_train", "locality_test"):
            value = getattr(point, name)
            if value is not None:
                history.setdefault(f"stream_{name}", []).append((point.requests, 100 * value))
    return history


def _sweep_metrics(outcome: PatcherOutcome) -> dict[str, float]:
    """The figures of every variant by name, mean over its streams."""
    metrics = {}
    for one in outcome.variants:
        name = "-".join(part for part in (one.variant.name, one.variant.drawn.replace("+", "-")) if part)
        for figure in ("reliability", "mlg", "clg", "locality_train", "locality_test", "patches"):
            found = one.figure(figure)
            if found is not None:
                metrics[f"{figure}_{name}"] = found.mean
    return metrics

"""What a trial of the editor sweep stores, and the answer that is derived from the stored trials.

A trial's table has one row for each edit and update language, `methods.editing.evaluation.SCHEMA`. What belongs to the
trial as a whole stands as JSON in the table's metadata under ``editing``: the training curve, the step whose editor was
tested, its score on the dev split, and how alike the learned masks are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from methods.editing.decisions import decisions
from methods.editing.evaluation import SCHEMA
from methods.editing.outcome import (
    ALL,
    CurvePoint,
    EditorOutcome,
    MaskSummary,
    Method,
    MethodOutcome,
    PairScore,
    Run,
    over_seeds,
    score,
)
from methods.editing.raw import edited_model
from methods.editing.report import cross_gain, headline, report_sections, single_languages
from orchestrator.study import Summary, TrackedRun, TrialResult

if TYPE_CHECKING:
    from methods.editing.classifier import RawClassifier
    from methods.editing.spec import Cell
    from methods.editing.study import EditorStudy
    from methods.editing.tasks import LabelledTask

METADATA_KEY = b"editing"
COORDINATES = ("edit_language", "update_language")
MEASURED = ("edits", "acc", "retains", "con", "con_all")

CLASSIFIER_SCHEMA = pa.schema(
    [
        pa.field("language", pa.string(), nullable=False),
        pa.field("texts", pa.int32(), nullable=False),
        pa.field("acc", pa.float64(), nullable=False),
        pa.field("mistakes", pa.int32(), nullable=False),
    ]
)
"""One row per language of the test split: how many `texts` the raw classifier reads, what percent of them right, and
how many not, which is what the test edits."""


@dataclass(frozen=True)
class Record:
    """What belongs to a trial as a whole; see `Run` for its parts."""

    curve: tuple[CurvePoint, ...]
    best_step: int
    validation: float | None
    steps: int
    masks: MaskSummary | None


def result_table(scores: pa.Table, record: Record) -> pa.Table:
    """The table of a trial, from what the evaluation measured; `trial_run` reads it back."""
    return scores.replace_schema_metadata({METADATA_KEY: json.dumps(asdict(record)).encode()})


def classifier_table(classifier: RawClassifier, task: LabelledTask) -> pa.Table:
    """The table of the trial that trains the classifier, CLASSIFIER_SCHEMA."""
    rows = []
    for language in task.languages:
        texts = task.size("test", language)
        mistakes = len(classifier.misread(task, "test", language))
        right = 100 * (texts - mistakes) / texts if texts else 0.0
        rows.append({"language": language, "texts": texts, "acc": right, "mistakes": mistakes})
    return pa.Table.from_pylist(rows, schema=CLASSIFIER_SCHEMA)


def read_classifier(table: pa.Table) -> tuple[tuple[str, float, int], ...]:
    """(language, accuracy in percent, mistakes) of the trial that trained the classifier, for languages with texts."""
    return tuple((row["language"], row["acc"], row["mistakes"]) for row in table.to_pylist() if row["texts"])


def trial_run(table: pa.Table, seed: int) -> Run:
    """What a trial's table says."""
    record = json.loads(table.schema.metadata[METADATA_KEY])
    masks = record["masks"]
    return Run(
        seed=seed,
        scores={
            (row.pop("edit_language"), row.pop("update_language")): PairScore(**row)
            for row in table.select([*COORDINATES, *MEASURED]).to_pylist()
        },
        curve=tuple(CurvePoint(**point) for point in record["curve"]),
        best_step=record["best_step"],
        validation=record["validation"],
        steps=record["steps"],
        masks=_masks(masks) if masks else None,
    )


def _masks(record: Mapping[str, Any]) -> MaskSummary:
    return MaskSummary(
        tuple(record["languages"]),
        tuple(tuple(row) for row in record["cosines"]),
        record["dimensions"],
        tuple(record["open_gates"]),
    )


def summarize_editors(study: EditorStudy, results: Sequence[TrialResult]) -> Summary:
    """The answer: scores of every method, the report, the runs to track."""
    outcome = outcome_of(study, results)
    by_key = {result.trial.key: result for result in results}
    return Summary(
        document=_document(outcome),
        table=_summary_table(outcome),
        sections=report_sections(outcome),
        runs=[
            _tracked(study, outcome, cell, by_key[trial.key])
            for trial, cell in study.planned()
            if trial.key in by_key and cell is not None
        ],
        metrics=_sweep_metrics(outcome),
        headline=headline(outcome),
    )


def outcome_of(study: EditorStudy, results: Sequence[TrialResult]) -> EditorOutcome:
    """The stored trials, put together: seeds by method, and of each method the best hyperparameters."""
    by_key = {result.trial.key: result for result in results}
    runs: dict[tuple[Method, tuple[tuple[str, Any], ...]], list[Run]] = {}
    classifier: tuple[tuple[str, float, int], ...] = ()
    planned: dict[tuple[Method, tuple[tuple[str, Any], ...]], int] = {}
    stopped = {one.trial.key for one in study.stopped}
    for trial, cell in study.planned():
        found = by_key.get(trial.key)
        if cell is not None:
            name = (cell.method, cell.values)
            planned[name] = planned.get(name, 0) + (trial.key not in stopped)
            if found is not None:
                runs.setdefault(name, []).append(trial_run(found.table, cell.seed))
        elif found is not None:
            classifier = read_classifier(found.table)
    notes = [*study.notes]
    for name, count in planned.items():
        missing = count - len(runs.get(name, ()))
        if missing:
            notes.append(f"{name[0].label}: {missing} of its {count} seeds did not finish.")
    if stopped:
        notes.append(f"{len(stopped)} trials lagged behind and were stopped early; they have no test scores.")
    return EditorOutcome(
        task=study.spec.task,
        model=edited_model(study.spec),
        languages=tuple(study.languages),
        reading=study.spec.consistency,
        paper_task=study.paper_task,
        methods=tuple(_with_choice(runs)),
        decisions=decisions(study),
        notes=tuple(notes),
        classifier=classifier,
    )


def _with_choice(runs: Mapping[tuple[Method, tuple[tuple[str, Any], ...]], Sequence[Run]]) -> list[MethodOutcome]:
    """Names hyperparameters where they differ within a method, and chooses those with the best mean dev score.

    Combinations that lack seeds, because trials failed or were stopped, are chosen only if none is whole.
    """
    families: dict[tuple[str, str, str, str], list[tuple[Method, tuple[tuple[str, Any], ...]]]] = {}
    for method, values in runs:
        families.setdefault(method.family, []).append((method, values))
    outcomes = []
    for members in families.values():
        varied = {
            name
            for name in {name for _, values in members for name, _ in values}
            if len({dict(values).get(name) for _, values in members}) > 1
        }
        best = max(members, key=lambda member: (len(runs[member]), _dev_score(runs[member])))
        for member in members:
            method, values = member
            settings = tuple((name, value) for name, value in values if name in varied)
            named = Method(method.editor, method.training, method.edits_in, method.mask, settings)
            outcomes.append(MethodOutcome(named, tuple(runs[member]), chosen=member == best))
    return outcomes


def _dev_score(runs: Sequence[Run]) -> float:
    validated = [run.validation for run in runs if run.validation is not None]
    return fmean(validated) if validated else 0.0


def _document(outcome: EditorOutcome) -> dict[str, Any]:
    codes = single_languages(outcome)
    return {
        "languages": list(outcome.languages),
        "decisions": dict(outcome.decisions),
        "notes": list(outcome.notes),
        "methods": [_method_document(outcome, one, codes) for one in outcome.methods],
        "cross_lingual_gain": {
            code: {
                editor: asdict(gain)
                for editor in dict.fromkeys(one.method.editor for one in outcome.methods)
                if (gain := cross_gain(outcome, editor, code)) is not None
            }
            for code in codes
        },
    }


def _method_document(outcome: EditorOutcome, one: MethodOutcome, codes: Sequence[str]) -> dict[str, Any]:
    """A method's scores, mean, lowest and highest seed, for edits in single languages and in all of them."""
    wanted: dict[str, Sequence[str]] = {code: [code] for code in codes}
    if one.method.edits_in == ALL:
        wanted[ALL] = one.runs[0].edit_languages
    scores = {}
    for name, edits_in in wanted.items():
        parts = {where: over_seeds(one, outcome.reading, edits_in, where=where) for where in (ALL, "own", "others")}
        scores[name] = {
            where: {metric: asdict(value) for metric, value in part.items()} for where, part in parts.items() if part
        }
    return {
        "editor": one.method.editor,
        "training": one.method.training,
        "edits_in": one.method.edits_in,
        "masks": one.method.mask,
        "settings": dict(one.method.settings),
        "chosen": one.chosen,
        "seeds": [run.seed for run in one.runs],
        "steps": [run.steps for run in one.runs],
        "best_steps": [run.best_step for run in one.runs],
        "validation": [run.validation for run in one.runs],
        "edits": {name: scores[name] for name in scores if scores[name]},
    }


def _summary_table(outcome: EditorOutcome) -> pa.Table:
    """One row per method, seed, edit and update language."""
    rows = [
        {
            "editor": one.method.editor,
            "training": one.method.training,
            "edits_in": one.method.edits_in,
            "masks": one.method.mask,
            "settings": json.dumps(dict(one.method.settings)),
            "chosen": one.chosen,
            "seed": run.seed,
            "edit_language": edit,
            "update_language": update,
            **asdict(row),
        }
        for one in outcome.methods
        for run in one.runs
        for (edit, update), row in run.scores.items()
    ]
    head = [(name, pa.string()) for name in ("editor", "training", "edits_in", "masks", "settings")]
    return pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            [
                *head,
                ("chosen", pa.bool_()),
                ("seed", pa.int32()),
                *(SCHEMA.field(name) for name in (*COORDINATES, *MEASURED)),
            ]
        ),
    )


def _tracked(study: EditorStudy, outcome: EditorOutcome, cell: Cell, result: TrialResult) -> TrackedRun:
    run = trial_run(result.table, cell.seed)
    metrics: dict[str, float] = {"steps": run.steps, "best_step": run.best_step}
    wanted: dict[str, tuple[Sequence[str], str]] = {"": (run.edit_languages, ALL)}
    for code in single_languages(outcome):
        if code in run.edit_languages:
            wanted |= {
                f"_{code}": ([code], ALL),
                f"_{code}_own": ([code], "own"),
                f"_{code}_others": ([code], "others"),
            }
    for suffix, (edits_in, where) in wanted.items():
        found = score(run, outcome.reading, edits_in, where=where)
        if found is not None:
            metrics |= {f"{name}{suffix}": value for name, value in asdict(found).items()}
    if run.validation is not None:
        metrics["dev_succ"] = run.validation
    return TrackedRun(
        key=result.trial.key,
        name=result.trial.label,
        params={
            "study": study.name,
            "model": edited_model(study.spec),
            "data": study.spec.task,
            "editor": cell.method.editor,
            "training": cell.method.training,
            "edits_in": cell.method.edits_in,
            "masks": cell.method.mask,
            "seed": cell.seed,
            **dict(cell.values),
        },
        metrics=metrics,
        history=_history(run),
    )


def _history(run: Run) -> dict[str, list[tuple[int, float]]]:
    history: dict[str, list[tuple[int, float]]] = {}
    for point in run.curve:
        for name in ("loss", "acc", "con", "succ"):
            value = getattr(point, name)
            if value is not None:
                history.setdefault(f"dev_{name}" if name != "loss" else name, []).append((point.step, value))
    return history


def _sweep_metrics(outcome: EditorOutcome) -> dict[str, float]:
    """Test scores of the chosen methods by name, and the gain of cross-lingual training."""
    metrics: dict[str, float] = {}
    for code in single_languages(outcome):
        for one in outcome.chosen:
            found = over_seeds(one, outcome.reading, [code])
            if found is not None:
                name = "-".join(one.method.family)
                metrics |= {f"{metric}_{code}_{name}": found[metric].mean for metric in ("acc", "con", "succ")}
        for editor in dict.fromkeys(one.method.editor for one in outcome.chosen):
            gain = cross_gain(outcome, editor, code)
            if gain is not None:
                metrics[f"cross_gain_{code}_{editor}"] = gain.mean
    return metrics

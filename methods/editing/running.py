"""One cell of the grid: its editor is built, trained, and tested; and how long that takes, for an estimate."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from methods.editing.classifier import RawClassifier
from methods.editing.editors import EDITORS, Editor, EditorConfig, build_editor
from methods.editing.editors.learned import LearnedEditor
from methods.editing.evaluation import evaluate, judge, overall
from methods.editing.examples import EditSample
from methods.editing.gates import LanguageMasks
from methods.editing.gradients import LossWeights, fresh_stores
from methods.editing.known import KnownTexts
from methods.editing.model import EditableModel
from methods.editing.outcome import ALL, MaskSummary
from methods.editing.results import Record, result_table
from methods.editing.space import OF_TRAINING
from methods.editing.spec import Cell, EditorSpec
from methods.editing.tasks import EditTask, LabelledTask
from methods.editing.training import Training, TrainingSettings, train_editor
from orchestrator.study import TrialContext

if TYPE_CHECKING:
    from methods.editing.study import EditorStudy

PREFERRED = 0.01
"""Share of its dimensions that a language prefers (the paper, section 4.5)."""
TIMED_STEPS, TIMED_EDITS = 3, 8
TRAINING_SHARE = 0.8
"""Share of a trial's progress that is its training."""


def editor_config(spec: EditorSpec, cell: Cell) -> EditorConfig:
    """The configuration of a cell's editor: its hyperparameters over the editor's own defaults."""
    config = EDITORS[cell.method.editor].Config
    values: dict[str, Any] = {name: value for name, value in cell.values if name not in OF_TRAINING}
    if EDITORS[cell.method.editor].trainable:
        values |= {"masks": cell.method.mask == "lime", "seed": cell.seed}
    return config(**values)


def training_settings(spec: EditorSpec, cell: Cell, languages: tuple[str, ...]) -> TrainingSettings:
    """How a cell's editor is trained."""
    weights = {name: value for name, value in cell.values if name in OF_TRAINING}
    return TrainingSettings(
        edit_languages=edit_languages(cell, languages),
        update_languages=None if cell.method.training == "mono" else languages,
        seed=cell.seed,
        steps=spec.steps,
        edits_per_step=spec.edits_per_step,
        retains_per_edit=spec.retains_per_edit,
        weights=LossWeights(
            **{WEIGHTS[name]: value for name, value in weights.items()},
            direction="raw||edited" if spec.kl == "raw first" else "edited||raw",
        ),
        accumulation=spec.accumulation,
        validate_every=spec.validate_every,
        validation_edits=spec.validation_edits,
        validation_seed=spec.seed,
        patience=spec.patience,
        all_positions=spec.consistency == "all",
        stopping=spec.stopping,
    )


WEIGHTS: Mapping[str, str] = {"edit_weight": "edit", "locality_weight": "locality", "mask_penalty": "masks"}
"""Options of the job and the parts of the loss that they weigh."""


def key_of(settings: TrainingSettings) -> dict[str, Any]:
    """What of the settings decides the answer: everything but how often a checkpoint is written."""
    return {name: value for name, value in asdict(settings).items() if name != "checkpoint_seconds"}


def edit_languages(cell: Cell, languages: tuple[str, ...]) -> tuple[str, ...]:
    """Where the edits of a cell are made."""
    return languages if cell.method.edits_in == ALL else (cell.method.edits_in,)


def run_cell(
    spec: EditorSpec,
    cell: Cell,
    model: EditableModel,
    task: EditTask,
    classifier: RawClassifier | None,
    known: KnownTexts,
    context: TrialContext,
) -> pa.Table:
    """Trains and tests a cell's editor.

    Args:
        spec: of the sweep.
        cell: of its grid.
        model: the raw model, which is left as it is.
        task: where requests come from.
        classifier: whose mistakes the test edits; None for language models.
        known: what the raw model makes of texts.
        context: of the trial; checkpoints of the training lie in its scratch folder.

    Returns:
        `methods.editing.evaluation.SCHEMA`, one row for each edit and update language, with a `Record` in the metadata.
    """
    editor = build_editor(editor_config(spec, cell), model, edit_languages(cell, task.languages))
    if editor.trainable:
        record = _train(spec, cell, editor, task, classifier, known, context)
    else:
        record = Record((), 0, _dev_score(spec, cell, editor, task, classifier, known), 0, None)
    done = TRAINING_SHARE if editor.trainable else 0.0
    samples = list(test_samples(spec, cell, task, classifier))
    with model.remembering(known.stores(model, samples, all_positions=True)):
        scores = evaluate(editor, samples, progress=lambda share: context.progress(done + (1 - done) * share))
    return result_table(scores, record)


def _train(
    spec: EditorSpec,
    cell: Cell,
    editor: Editor,
    task: EditTask,
    classifier: RawClassifier | None,
    known: KnownTexts,
    context: TrialContext,
) -> Record:
    edited = edit_languages(cell, task.languages)
    requests = {language: to_edit(task, classifier, "dev", language) for language in edited}
    result = train_editor(
        editor,
        task,
        training_settings(spec, cell, task.languages),
        scratch=context.scratch,
        progress=lambda share: context.progress(TRAINING_SHARE * share),
        report=context.report,
        dev_requests={language: found for language, found in requests.items() if found is not None},
        known=known,
    )
    masks = editor.masks if isinstance(editor, LearnedEditor) else None
    summary = mask_summary(masks) if masks is not None else None
    return Record(result.curve, result.best_step, result.validation, result.steps, summary)


def to_edit(task: EditTask, classifier: RawClassifier | None, split: str, language: str) -> Sequence[int] | None:
    """Which requests of a split validations and tests choose from: the texts that the classifier gets wrong. None for
    language models: all."""
    if classifier is None:
        return None
    assert isinstance(task, LabelledTask)
    wrong: list[int] = classifier.misread(task, split, language).tolist()
    return wrong


def _dev_score(
    spec: EditorSpec,
    cell: Cell,
    editor: Editor,
    task: EditTask,
    classifier: RawClassifier | None,
    known: KnownTexts,
) -> float | None:
    """succ on the dev split of an editor that is not trained, by which its hyperparameters are chosen; None where the
    split has nothing to edit."""
    samples = [
        drawn
        for language in edit_languages(cell, task.languages)
        for drawn in task.test_samples(
            "dev",
            language,
            update_languages=task.languages,
            retain_languages=task.languages,
            seed=spec.seed,
            limit=spec.validation_edits,
            requests=to_edit(task, classifier, "dev", language),
        )
    ]
    if not samples:
        return None
    everywhere = spec.consistency == "all"
    with editor.model.remembering(known.stores(editor.model, samples, all_positions=everywhere)):
        judged = judge(editor, samples, all_positions=everywhere)
    return overall(judged, all_positions=everywhere, per_step=spec.stopping == "per step").succ


def test_samples(
    spec: EditorSpec, cell: Cell, task: EditTask, classifier: RawClassifier | None
) -> Iterator[list[EditSample]]:
    """What a cell is tested on: the same draws for every method, hyperparameter and seed.

    Every request meets one random update language and random unrelated texts, as in the paper, or every update language
    with unrelated texts of that language.
    """
    each = [(language,) for language in task.languages]
    groups = each if spec.test_updates == "all" else [task.languages]
    for language in edit_languages(cell, task.languages):
        requests = to_edit(task, classifier, "test", language)
        for updates in groups:
            yield from task.test_samples(
                "test",
                language,
                update_languages=updates,
                retain_languages=updates,
                seed=spec.seed,
                limit=spec.test_edits,
                retains=spec.test_retains,
                requests=requests,
            )


@torch.no_grad()
def mask_summary(masks: LanguageMasks) -> MaskSummary:
    """How alike the languages' masks are on each one's strongest dimensions (the paper, section 4.5 and figure 5).

    A language's mask is its scale times its gate, all matrices side by side.
    """
    strengths = masks.strengths().double()
    count = max(1, round(PREFERRED * strengths.shape[1]))
    rows: list[tuple[float, ...]] = []
    for language, row in enumerate(strengths):
        chosen = strengths[:, row.topk(count).indices]
        own = chosen[language]
        norms = (chosen.norm(dim=1) * own.norm()).clamp_min(1e-12)
        rows.append(tuple((chosen @ own / norms).tolist()))
    shares = tuple((strengths != 0).double().mean(1).tolist())
    return MaskSummary(masks.languages, tuple(rows), count, shares)


@dataclass(frozen=True)
class Timing:
    """Seconds of a training step, and of a test edit with its update and unrelated texts: where these are known
    already, and where they are new."""

    step: float
    known_edit: float
    new_edit: float

    def seconds(self, study: EditorStudy, cell: Cell, task: EditTask, new: Collection[str]) -> float:
        """What a whole cell takes, if training is not stopped early.

        Args:
            study: of the sweep.
            cell: of its grid.
            task: where requests come from.
            new: the edit languages whose texts no trial before has seen.
        """
        spec = study.spec
        trained = cell.method.training != "none"
        updates = len(study.languages) if spec.test_updates == "all" else 1
        validations = 1 + spec.steps // spec.validate_every if trained else 1
        total = spec.steps * self.step if trained else 0.0
        for language in edit_languages(cell, study.languages):
            tested = min(task.size("test", language), spec.test_edits or 10**9) * updates
            validated = min(task.size("dev", language), spec.validation_edits)
            total += (tested + validated * validations) * self.known_edit
            if language in new:
                total += (tested + validated) * max(self.new_edit - self.known_edit, 0.0)
        return total


def time_cell(
    spec: EditorSpec, cell: Cell, model: EditableModel, task: EditTask, classifier: RawClassifier | None
) -> Timing:
    """Runs a few steps and a few test edits of a cell."""
    editor = build_editor(editor_config(spec, cell), model, edit_languages(cell, task.languages))
    step = 0.0
    if editor.trainable:
        with TemporaryDirectory() as scratch:
            training = Training(editor, task, training_settings(spec, cell, task.languages), Path(scratch))
            training.take_step()  # the first one also asks the system for memory
            step = _seconds(training.take_step, TIMED_STEPS)
    samples = list(islice(test_samples(spec, cell, task, classifier), TIMED_EDITS))
    edits = max(1, len(samples))
    with fresh_stores(model):
        new, known = (_seconds(lambda: judge(editor, samples)) / edits for _ in range(2))
    return Timing(step, known, new)


def _seconds(run: Callable[[], object], times: int = 1) -> float:
    """How long each of a few runs takes."""
    started = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - started) / times

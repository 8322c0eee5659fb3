"""The editor sweep as a study: one trial for each method, its hyperparameters and seed, and one for the classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from methods.backbone import ModelDescription, check_model, describe_model, model_fingerprint
from methods.backbone.addresses import NO_WEIGHTS, has_weights
from methods.editing.classifier import RawClassifier
from methods.editing.estimate import cost_of, estimate_sweep, least_memory, needs_of
from methods.editing.examples import Kind
from methods.editing.known import KnownTexts
from methods.editing.model import EditableModel, load_editable
from methods.editing.outcome import ALL
from methods.editing.raw import (
    CLASSIFIER,
    check_classifier,
    classifier_hash,
    edited_content,
    edited_model,
    raw_classifier,
    tokenizer_of,
)
from methods.editing.results import classifier_table, summarize_editors
from methods.editing.running import editor_config, key_of, run_cell, training_settings
from methods.editing.sharded import check_shares, complete, ways_to_train
from methods.editing.spec import Cell, EditorSpec, cells, unused
from methods.editing.tasks import EditTask, LabelledTask, TaskData, build_task, prepare_task, task_is_labelled
from orchestrator.errors import Problems, did_you_mean
from orchestrator.needs import ModelNeeds
from orchestrator.placement import Placement
from orchestrator.study import EarlyStopping, Estimate, Study, Summary, Trial, TrialContext, TrialResult

MBERT = (12, 768, 119_547)
"""Blocks, hidden size and vocabulary of bert-base-multilingual-cased, the paper's model."""


@dataclass
class Loaded:
    """What a worker keeps between trials. The model is loaded when the first trial needs it: the trial that trains a
    classifier comes before there is one."""

    study: EditorStudy
    context: TrialContext

    @cached_property
    def task(self) -> EditTask:
        return self.study.build_task(self.model.tokenizer)

    @cached_property
    def classifier(self) -> RawClassifier | None:
        return self.study.raw_classifier(self.context)

    @cached_property
    def model(self) -> EditableModel:
        study = self.study
        address = str(self.classifier.folder) if self.classifier else study.address
        dtype = getattr(torch, study.spec.dtype)
        return load_editable(address, study.kind, dtype=dtype, device=self.context.device)

    @cached_property
    def known(self) -> KnownTexts:
        raw = self.classifier.fingerprint if self.classifier else self.study.model_hash
        return KnownTexts(self.context.cache / "known-texts", raw)


class EditorStudy(Study[EditorSpec]):
    """Editors across languages (Xu et al. 2023)."""

    name = "editors"
    result_version = 3
    spec_type = EditorSpec
    placements = frozenset({"single", "zero3"})
    checkpoints = ("model", "classifier")

    deepspeed: dict[str, Any] | None
    kind: Kind
    description: ModelDescription
    model_hash: str
    classifier_hash: str | None
    data: TaskData
    languages: tuple[str, ...]
    task_hash: str
    notes: list[str]

    def __init__(self, spec: EditorSpec, cache: Path) -> None:
        super().__init__(spec, cache)
        self.notes = []

    def prepare(self) -> None:
        spec, problems = self.spec, Problems()
        labelled = problems.collect(lambda: task_is_labelled(spec.task))
        description = problems.collect(self._describe_model)
        if labelled is not None and description is not None:
            self.kind, self.description = "classifier" if labelled else description.kind, description
            ways = problems.collect(lambda: ways_to_train(spec, self.kind))
            if ways is not None:
                self.placements, self.deepspeed = ways  # type: ignore[misc]
        problems.collect(lambda: check_classifier(spec, labelled))
        data = None
        if labelled is not None:
            pools = None if spec.pools is None else str(spec.pools)
            data = problems.collect(
                lambda: prepare_task(spec.task, languages=spec.languages, pools=pools, cache=self.cache)
            )
        grid = problems.collect(lambda: cells(spec))
        if grid is not None:
            self.notes = grid[1]
            for option in ("--" + name.replace("_", "-") for name in unused(spec)):
                problems.add(
                    f"{option} means nothing to any method of this grid, so it would change nothing: leave it out "
                    f'(where a preset has it, write {option} ""), or add an editor or masks that take it.'
                )
        problems.raise_if_any()
        assert data is not None
        self.data = data
        model = edited_model(spec)
        self.model_hash = model_fingerprint(model, self.cache, weights=not self.only_plan)
        self.can_measure = not self.only_plan or has_weights(model)
        if not self.can_measure:
            self.warnings.append(NO_WEIGHTS.format(model))
        task = self.build_task(tokenizer_of(self.address))
        self.languages, self.task_hash = task.languages, task.fingerprint
        self.warnings += task.warnings
        self.classifier_hash = self._classifier_hash(task)
        self._check_task(task)

    @property
    def address(self) -> str:
        """What is edited, or what the classifier to edit is trained from, as it was when it was prepared."""
        return edited_content(self.spec, self.model_hash)

    def _describe_model(self) -> ModelDescription:
        model = edited_model(self.spec)
        check_model(model, weights=not self.only_plan)
        return describe_model(model, classifier=self.spec.classifier is not None)

    def _check_task(self, task: EditTask) -> None:
        """The edit languages must be there, and every split needs something to edit."""
        problems = Problems()
        for language in dict.fromkeys(self.spec.edit_languages):
            if language != ALL and language not in task.languages:
                problems.add(
                    f"--edit-languages: {self.spec.task} has no {language!r} among the chosen languages."
                    + did_you_mean(language, [*task.languages, ALL])
                )
        for split in ("train", "dev", "test"):
            if split not in task.splits:
                problems.add(
                    f"{self.spec.task} has nothing in its {split} split for these languages, so editors cannot be "
                    "trained, chosen and tested on different texts. Choose more languages, or another source."
                )
        problems.raise_if_any()
        if isinstance(task, LabelledTask):
            for split, so in ("train", "training makes and sees no edit there"), ("test", "no edit is tested there"):
                lacking = [language for language in task.languages if not task.data.count(split, language)]
                if lacking:
                    self.warnings.append(
                        f"{self.spec.task} has nothing in its {split} split in {', '.join(lacking)}: {so}."
                    )

    def build_task(self, tokenizer: Any) -> EditTask:
        """The task of this sweep, for a tokenizer of its model."""
        return build_task(self.spec, tokenizer, self.data, self.kind)

    def _classifier_hash(self, task: EditTask) -> str | None:
        if self.kind != "classifier":
            return None
        assert isinstance(task, LabelledTask)
        return classifier_hash(self.spec, task, self.model_hash)

    def raw_classifier(self, context: TrialContext) -> RawClassifier | None:
        """The classifier whose mistakes are edited; None for language models."""
        if self.kind != "classifier":
            return None
        task = self.build_task(tokenizer_of(self.address))
        assert isinstance(task, LabelledTask)
        return raw_classifier(self.spec, task, self.model_hash, cache=context.cache, device=context.device)

    @property
    def paper_task(self) -> str | None:
        """ "mlama" or "xnli" where task and model are the paper's."""
        source = self.spec.task.partition(":")[0]
        model = self.description
        same = (model.num_layers, model.hidden_size, model.vocab_size) == MBERT and model.family == "bert"
        return source if same and source in ("mlama", "xnli") else None

    def describe(self) -> Mapping[str, str]:
        return {
            "model": edited_model(self.spec),
            "data": self.spec.task,
            "editors": ", ".join(dict.fromkeys(self.spec.editors)),
            "languages": str(len(self.languages)),
            "model fingerprint": self.classifier_hash or self.model_hash,
            "data fingerprint": self.task_hash,
        }

    def trials(self) -> Sequence[Trial]:
        return [trial for trial, _ in sorted(self.planned(), key=lambda pair: (pair[0].stage, -pair[0].cost))]

    def planned(self) -> list[tuple[Trial, Cell | None]]:
        """The trials in the order of the grid, with the cell that each stands for; None stands for the classifier's."""
        found: list[tuple[Trial, Cell | None]] = [(self._trial(cell), cell) for cell in cells(self.spec)[0]]
        if self.kind == "classifier" and self.spec.classifier is None:
            depends_on = {"study": [self.name, self.result_version], "classifier": self.classifier_hash}
            cost = max(trial.cost for trial, _ in found)
            return [(Trial(CLASSIFIER, depends_on, cost), None), *found]
        return found

    def _trial(self, cell: Cell) -> Trial:
        """What is not the default of an editor stands in the cell, so that a grid that grows keeps its trials."""
        method = cell.method
        coordinates: dict[str, Any] = {
            "editor": method.editor,
            "training": method.training,
            "edits in": method.edits_in,
            "masks": method.mask,
            **dict(cell.values),
            "seed": cell.seed,
        }
        spec = self.spec
        depends_on: dict[str, Any] = {
            "study": [self.name, self.result_version],
            "model": self.classifier_hash or self.model_hash,
            "task": [self.task_hash, list(self.languages)],
            "dtype": spec.dtype,
            "editor": editor_config(spec, cell).model_dump(mode="json"),
            "test": [spec.test_edits, spec.test_updates, spec.test_retains, spec.validation_edits, spec.seed],
            "validation": [spec.consistency, spec.stopping],
        }
        if method.training != "none":
            depends_on["training"] = key_of(training_settings(spec, cell, self.languages))
        return Trial(coordinates, json.loads(json.dumps(depends_on)), cost_of(self, cell).flops, stage=1)

    def early_stopping(self) -> EarlyStopping | None:
        if self.spec.search != "asha":
            return None
        grace = min(self.spec.validate_every, self.spec.steps)
        within = ("editor", "training", "edits in", "masks")
        return EarlyStopping(metric="succ", max_step=self.spec.steps, grace=grace, within=within)

    def memory_bytes(self) -> int:
        return least_memory(self)

    def needs(self) -> ModelNeeds:
        return needs_of(self)

    def check_placement(self, placement: Placement) -> None:
        if placement.kind == "zero3":
            check_shares(self.spec.edits_per_step, placement.workers)
            complete(self.deepspeed, dtype=self.spec.dtype, on_gpu=placement.gpus > 0)

    def estimate(self, trials: Sequence[Trial], threads: int) -> Estimate:
        return estimate_sweep(self, trials, threads)

    def load(self, context: TrialContext) -> Loaded:
        return Loaded(self, context)

    def run(self, trial: Trial, loaded: Loaded, context: TrialContext) -> pa.Table:
        if dict(trial.cell) == CLASSIFIER:
            assert isinstance(loaded.task, LabelledTask)
            assert loaded.classifier is not None
            return classifier_table(loaded.classifier, loaded.task)
        cell = next(cell for one, cell in self.planned() if one.key == trial.key)
        assert cell is not None
        if context.placement == "zero3":
            from methods.editing.sharded.running import open_sharded, run_sharded_cell

            accelerator, model = open_sharded(self.spec, self.address, self.deepspeed, context)
            return run_sharded_cell(self.spec, cell, model, self.build_task(model.tokenizer), accelerator, context)
        return run_cell(self.spec, cell, loaded.model, loaded.task, loaded.classifier, loaded.known, context)

    def summarize(self, results: Sequence[TrialResult]) -> Summary:
        return summarize_editors(self, results)

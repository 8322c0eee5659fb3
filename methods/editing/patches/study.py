"""The sweep of patch neurons as a study: one trial for each stream, and one before them for the classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch

from methods.backbone import ModelDescription, check_model, describe_model, model_fingerprint
from methods.backbone.addresses import NO_WEIGHTS, has_weights
from methods.editing.classifier import RawClassifier
from methods.editing.model import load_editable
from methods.editing.patches.cache import AnswerCache
from methods.editing.patches.estimate import estimate_streams, least_memory, trial_flops
from methods.editing.patches.memory import Memory
from methods.editing.patches.requests import (
    StreamTexts,
    check_texts,
    edit_split,
    memory_languages,
    requests,
    shared_texts,
    stream_length,
)
from methods.editing.patches.results import result_table, summarize_patchers
from methods.editing.patches.site import PatchSite
from methods.editing.patches.spec import Cell, PatcherSpec, cells, check_languages, stream_config
from methods.editing.patches.stream import VERSION, memory_of, run_stream
from methods.editing.raw import CLASSIFIER, check_classifier, classifier_hash, edited_model, raw_classifier
from methods.editing.results import classifier_table
from methods.editing.tasks import LabelledTask, TaskData, prepare_task, task_is_labelled
from orchestrator.data.labelled import LabelledStore
from orchestrator.errors import Problems, UserError
from orchestrator.study import Estimate, Study, Summary, Trial, TrialContext, TrialResult

MBERT = (12, 768, 105_879)
"""Blocks, hidden size and vocabulary of bert-base-multilingual-uncased, the paper's model."""


@dataclass
class Loaded:
    """What a worker keeps between trials: below the patches nothing changes, so all streams share the states there.

    Everything is made when the first trial needs it: the trial that trains a classifier comes before there is one.
    """

    study: PatcherStudy
    context: TrialContext

    @cached_property
    def task(self) -> LabelledTask:
        return self.study.task()

    @cached_property
    def classifier(self) -> RawClassifier:
        context = self.context
        study = self.study
        return raw_classifier(study.spec, self.task, study.model_hash, cache=context.cache, device=context.device)

    @cached_property
    def cache(self) -> AnswerCache:
        dtype = getattr(torch, self.study.spec.dtype)
        folder, device = str(self.classifier.folder), self.context.device
        return AnswerCache(PatchSite(load_editable(folder, "classifier", edited_blocks=1, dtype=dtype, device=device)))

    @cached_property
    def texts(self) -> StreamTexts:
        return shared_texts(self.study.spec, self.task)

    @cached_property
    def memory(self) -> Memory:
        return memory_of(self.cache, self.texts.memory, self.texts.validation)


class PatcherStudy(Study[PatcherSpec]):
    """Patch neurons across languages (Huang et al. 2023; Si et al. 2024)."""

    name = "patchers"
    result_version = 2
    checkpoints = ("model", "classifier")
    spec_type = PatcherSpec

    description: ModelDescription
    model_hash: str
    classifier_hash: str
    data: LabelledStore
    languages: tuple[str, ...]
    task_hash: str
    split: str
    requests: int

    def prepare(self) -> None:
        spec, problems = self.spec, Problems()
        labelled = problems.collect(lambda: task_is_labelled(spec.task))
        if labelled is False:
            problems.add(
                f"{spec.task} asks a language model for words, and streams of patches are compared on a classifier's "
                "mistakes. Give a task with classes: atlas-claims, xnli:... or fever:..."
            )
        description = problems.collect(self._describe_model)
        problems.collect(lambda: check_classifier(spec, labelled))
        data = None
        if labelled:
            data = problems.collect(self._prepare_task)
        if isinstance(data, LabelledStore):
            self.data = data
            problems.collect(lambda: check_languages(spec, data.languages))
        problems.raise_if_any()
        assert description is not None
        self.description = description
        model = edited_model(spec)
        self.model_hash = model_fingerprint(model, self.cache, weights=not self.only_plan)
        self.can_measure = not self.only_plan or has_weights(model)
        if not self.can_measure:
            self.warnings.append(NO_WEIGHTS.format(model))
        task = self.task()
        check_texts(spec, task)
        self.languages, self.task_hash = task.languages, task.fingerprint
        self.split, self.requests = edit_split(task), stream_length(spec, task)
        self.warnings += task.warnings
        self.classifier_hash = classifier_hash(spec, task, self.model_hash)

    def _prepare_task(self) -> TaskData:
        """The texts. FEVER itself is English, so that no other language is there is no misspelling."""
        spec = self.spec
        others = [language for language in spec.languages or () if language != "en"]
        if spec.task.startswith("fever:") and others:
            known = prepare_task(spec.task, cache=self.cache)
            if isinstance(known, LabelledStore) and known.languages == ("en",):
                raise UserError(
                    f"{spec.task} has its claims in English alone, not in {', '.join(others)}. Add machine-translated "
                    "copies: jobs/prepare_translations.py writes them beside the English file."
                )
        return prepare_task(spec.task, languages=spec.languages, cache=self.cache)

    def _describe_model(self) -> ModelDescription:
        model = edited_model(self.spec)
        check_model(model, weights=not self.only_plan)
        description = describe_model(model, classifier=self.spec.classifier is not None)
        if description.kind == "causal":
            raise UserError(
                f"Model {model!r} is of a causal family ({description.family}), whose classifiers read the last token "
                "of a text, and answers of patched classifiers are computed at the first. Use a masked one, such as "
                "BERT or XLM-R."
            )
        return description

    def task(self) -> LabelledTask:
        """The task of this sweep."""
        return LabelledTask(self.data)

    @property
    def paper_task(self) -> str | None:
        """ "xfever" or "xnli" where task and model are the paper's."""
        source = {"fever": "xfever", "xnli": "xnli"}.get(self.spec.task.partition(":")[0])
        model = self.description
        same = (model.num_layers, model.hidden_size, model.vocab_size) == MBERT and model.family == "bert"
        return source if same else None

    def describe(self) -> Mapping[str, str]:
        return {
            "model": edited_model(self.spec),
            "data": self.spec.task,
            "variants": ", ".join(dict.fromkeys(self.spec.variants)),
            "languages": str(len(self.languages)),
            "model fingerprint": self.classifier_hash,
            "data fingerprint": self.task_hash,
        }

    def trials(self) -> Sequence[Trial]:
        return [trial for trial, _ in sorted(self.planned(), key=lambda pair: (pair[0].stage, -pair[0].cost))]

    def planned(self) -> list[tuple[Trial, Cell | None]]:
        """The trials in the order of the grid, with the cell that each stands for; None stands for the classifier's."""
        found: list[tuple[Trial, Cell | None]] = [(self._trial(cell), cell) for cell in cells(self.spec)]
        if self.spec.classifier is not None:
            return found
        depends_on = {"study": [self.name, self.result_version], "classifier": self.classifier_hash}
        cost = max(trial.cost for trial, _ in found)
        return [(Trial(CLASSIFIER, depends_on, cost), None), *found]

    def _trial(self, cell: Cell) -> Trial:
        spec = self.spec
        coordinates: dict[str, Any] = {"variant": cell.variant.name}
        if cell.variant.drawn:
            coordinates["draws from"] = cell.variant.drawn
        if spec.folders > 1:
            coordinates["folder"] = cell.folder
        coordinates["seed"] = cell.seed
        depends_on = {
            "study": [self.name, self.result_version, VERSION],
            "model": self.classifier_hash,
            "task": [self.task_hash, list(self.languages)],
            "dtype": spec.dtype,
            "stream": stream_config(spec, cell, self.languages).model_dump(mode="json"),
            "requests": [spec.folders, cell.folder, spec.edits],
            "texts": [spec.memory_texts, list(memory_languages(spec)), spec.locality_texts],
            "seed": spec.seed,
        }
        return Trial(coordinates, json.loads(json.dumps(depends_on)), trial_flops(self, cell), stage=1)

    def memory_bytes(self) -> int:
        return least_memory(self)

    def estimate(self, trials: Sequence[Trial], threads: int) -> Estimate:
        return estimate_streams(self, trials, threads)

    def load(self, context: TrialContext) -> Loaded:
        return Loaded(self, context)

    def run(self, trial: Trial, loaded: Loaded, context: TrialContext) -> pa.Table:
        if dict(trial.cell) == CLASSIFIER:
            return classifier_table(loaded.classifier, loaded.task)
        cell = next(cell for one, cell in self.planned() if one.key == trial.key)
        assert cell is not None
        config = stream_config(self.spec, cell, self.languages)
        result = run_stream(
            loaded.cache,
            loaded.memory,
            requests(self.spec, loaded.task, cell),
            loaded.texts.evaluation,
            config,
            scratch=context.scratch,
            progress=context.progress,
            report=context.report,
        )
        return result_table(self, result, config)

    def summarize(self, results: Sequence[TrialResult]) -> Summary:
        return summarize_patchers(self, results)

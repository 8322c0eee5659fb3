"""Training an editor: mini-batches of edits, early stopping on validation succ, checkpoints.

Xu et al. 2023, sections 3.2 and 3.3 and appendix B; the released code where the paper is silent. Each optimizer step
draws edits (a permutation of all requests, begun anew when it ends), a parallel request in an update language and
unrelated texts in retain languages for each of them. In monolingual training these languages are the edit's own.

Every random number is a function of the settings' seed and of a count (of epochs, draws or steps). So a training needs
no state of a random generator: the one that goes on from a checkpoint is, bit for bit, the one that was never stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from methods.editing.batches import TOKENS_AT_ONCE
from methods.editing.checkpoints import read_checkpoint, write_checkpoint
from methods.editing.editors import Editor
from methods.editing.evaluation import judge, overall
from methods.editing.examples import EditSample
from methods.editing.gradients import LossWeights, fresh_stores, step_gradients
from methods.editing.known import KnownTexts
from methods.editing.outcome import CurvePoint
from methods.editing.store import Stores
from methods.editing.tasks.base import EditTask
from orchestrator.data.content import digest_of
from orchestrator.errors import UserError

log = logging.getLogger(__name__)

CHECKPOINT, BEST = "training.safetensors", "best.safetensors"
# What the draws of one seed are for; every purpose has random numbers of its own.
_ORDER, _DRAWS = 1, 2
_BAD_STEPS = 10

Report = Callable[[int, Mapping[str, float]], None]
DevRequests = Mapping[str, Sequence[int]]
"""By language, the indices in its dev split of what there is to edit: the texts that a classifier gets wrong. Where a
language is not named, all of its split."""


@dataclass(frozen=True)
class TrainingSettings:
    """How an editor is trained.

    Attributes:
        edit_languages: where edits are made.
        update_languages: where x_u and x_r are drawn from; None: monolingual, in the edit's own language.
        seed: of all draws.
        steps: optimizer steps at most.
        edits_per_step: edits of one step.
        retains_per_edit: unrelated texts of every edit.
        weights: of the parts of the loss.
        accumulation: "mean": the mean over the edits of a step. "as released": gradients are divided by
            `edits_per_step`, but the first step sums one edit more.
        clip: largest norm of the gradient over all parameters.
        validate_every: steps between validations, which are also checkpoints.
        validation_edits: requests of each edit language in a validation; None takes all of the dev split.
        validation_retains: unrelated texts of each of them.
        validation_seed: of their draws; not the training's, so that trainings can be compared.
        patience: stops after so many steps without a better validation.
        all_positions: succ goes by con at every position, not at the label positions.
        stopping: "averaged": the harmonic mean of the averages of acc and con. "per step", as released: the average of
            each edit's own harmonic mean.
        checkpoint_seconds: seconds after which a checkpoint is written between validations too.
        tokens_at_once: tokens of one forward pass, padding included; decides about memory, and about rounding.
    """

    edit_languages: tuple[str, ...]
    update_languages: tuple[str, ...] | None = None
    seed: int = 0
    steps: int = 2000
    edits_per_step: int = 16
    retains_per_edit: int = 1
    weights: LossWeights = field(default_factory=LossWeights)
    accumulation: Literal["mean", "as released"] = "mean"
    clip: float = 100.0
    validate_every: int = 200
    validation_edits: int | None = 50
    validation_retains: int = 1
    validation_seed: int = 0
    patience: int = 10_000
    all_positions: bool = False
    stopping: Literal["averaged", "per step"] = "averaged"
    checkpoint_seconds: float = 300.0
    tokens_at_once: int = TOKENS_AT_ONCE

    def languages_for(self, language: str) -> tuple[str, ...]:
        """Update and retain languages of an edit in `language`."""
        return (language,) if self.update_languages is None else self.update_languages


@dataclass(frozen=True)
class TrainingResult:
    """What a training did; the editor itself holds the parameters of the best validation.

    Attributes:
        curve: all validations, the first one before training.
        best_step: the step whose parameters the editor has now.
        steps: optimizer steps taken, skipped ones included.
        skipped: steps whose gradient was not finite.
        decisions: choices that the paper leaves open, in words.
    """

    curve: tuple[CurvePoint, ...]
    best_step: int
    steps: int
    skipped: tuple[int, ...]
    decisions: Mapping[str, str]

    @property
    def validation(self) -> float:
        """succ on the dev split of the parameters that were kept."""
        return next(point.succ for point in self.curve if point.step == self.best_step)


def train_editor(
    editor: Editor,
    task: EditTask,
    settings: TrainingSettings,
    *,
    scratch: Path,
    progress: Callable[[float], None] = lambda share: None,
    report: Report = lambda step, metrics: None,
    dev_requests: DevRequests | None = None,
    known: KnownTexts | None = None,
) -> TrainingResult:
    """Trains an editor, or goes on with a training of the same settings that was interrupted.

    Args:
        editor: as it was built; afterwards it holds the parameters of the best validation.
        task: where requests come from.
        settings: how to train.
        scratch: folder of the checkpoints, of this training alone.
        progress: called with the share of the steps that is done.
        report: called after every validation, except the one before training, with its step and its metrics (loss,
            acc, con, succ), before the checkpoint is written: so a training that goes on may report a step again. What
            it raises ends the training.
        dev_requests: what validations choose from; None: the whole dev split.
        known: where the unmodified model's side of validations is kept; None: only in memory, for this training.

    Raises:
        ValueError: the editor has nothing to train.
        UserError: gradients stay infinite, there are no requests, or a checkpoint cannot be written.
    """
    if not editor.trainable:
        raise ValueError(f"{editor.name} learns nothing")
    return Training(editor, task, settings, scratch, dev_requests, known).run(progress, report)


class Training:
    """The state of a training: everything that a checkpoint holds, and what it is made from.

    How a gradient is computed, a checkpoint written and one read is each a method of its own, for trainings that lie
    on more than one device.
    """

    def __init__(
        self,
        editor: Editor,
        task: EditTask,
        settings: TrainingSettings,
        scratch: Path,
        dev_requests: DevRequests | None = None,
        known: KnownTexts | None = None,
    ) -> None:
        self.editor, self.task, self.settings, self.known = editor, task, settings, known
        self.checkpoint, self.best_file = scratch / CHECKPOINT, scratch / BEST
        self.requests = _Requests(task, settings, dev_requests)
        chosen = {language: list(map(int, found)) for language, found in (dev_requests or {}).items()}
        made_from = [editor.name, editor.config.model_dump(mode="json"), editor.languages, task.fingerprint, chosen]
        self.identity = digest_of([asdict(settings), *made_from])
        self.optimizer = torch.optim.Adam(editor.parameter_groups(), fused=True)
        self.parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        self.decisions = {
            "learning rates": ", ".join(f"{group['lr']:g}" for group in self.optimizer.param_groups),
            "learning rate of the edit's step sizes": "the editor's unless set; the released one never acts",
            "accumulation": settings.accumulation,
            "early stopping": f"succ {settings.stopping}",
        }
        log.info("Training %s: %s", editor.name, self.decisions)
        self.step = self.drawn = self.best_step = 0
        self.curve: list[CurvePoint] = []
        self.skipped: list[int] = []
        self.losses: list[float] = []
        self.saved_at = time.monotonic()
        self._validation: list[list[EditSample]] | None = None
        # Validations see the same texts every time.
        with fresh_stores(editor.model):
            self._stores: Stores = editor.model.frozen_store, editor.model.raw_store

    def run(self, progress: Callable[[float], None], report: Report) -> TrainingResult:
        """The whole training, or what is left of it; see `train_editor`."""
        if not self.resume():
            self.validate()
        while not self.finished:
            self.take_step()
            due = self.validation_due
            if due:
                point = self.validate()
                report(
                    point.step,
                    {name: value for name, value in asdict(point).items() if name != "step" and value is not None},
                )
            if due or self.checkpoint_due:
                self.save()
            progress(self.step / self.settings.steps)
        return self.result()

    @property
    def finished(self) -> bool:
        done = self.step >= self.settings.steps or self.step - self.best_step >= self.settings.patience
        return done and bool(self.curve) and self.curve[-1].step == self.step

    @property
    def validation_due(self) -> bool:
        return self.step % self.settings.validate_every == 0 or self.step >= self.settings.steps

    @property
    def checkpoint_due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds

    def take_step(self) -> None:
        """One optimizer step; it is left out, with a warning, if the gradient is not finite."""
        settings = self.settings
        released = settings.accumulation == "as released"
        draws, self.drawn = self.requests.take(settings.edits_per_step + (released and self.step == 0), self.drawn)
        self.step += 1
        loss = self.learn_from(draws, 1 / (settings.edits_per_step if released else len(draws)))
        if loss is None:
            self._skip(draws)
        else:
            self.losses.append(loss)

    def learn_from(self, draws: Sequence[Sequence[EditSample]], scale: float) -> float | None:
        """One optimizer step on these draws, each of which counts `scale`: the loss, or None, and nothing is changed,
        if the gradient is not finite. `step` counts it already."""
        editor, settings = self.editor, self.settings
        buffers = {name: buffer.clone() for name, buffer in editor.named_buffers()}
        editor.train()
        editor.prepare_step(settings.seed, self.step - 1)
        self.optimizer.zero_grad(set_to_none=True)
        with fresh_stores(editor.model):
            losses = step_gradients(
                editor, draws, settings.weights, scale=scale, tokens_at_once=settings.tokens_at_once
            )
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
        else:
            for name, buffer in editor.named_buffers():
                buffer.copy_(buffers[name])
        self.optimizer.zero_grad(set_to_none=True)
        return losses.total if finite else None

    def _skip(self, draws: Sequence[Sequence[EditSample]]) -> None:
        self.skipped.append(self.step)
        languages = ", ".join(sorted({drawn[0].edit.language for drawn in draws}))
        log.warning(
            "Step %d of %s (edits in %s, first %s): the gradient is not finite; the step is left out.",
            *(self.step, self.editor.name, languages, draws[0][0].uuid),
        )
        if self.skipped[-_BAD_STEPS:] == list(range(self.step - _BAD_STEPS + 1, self.step + 1)):
            raise UserError(
                f"The gradient of {self.editor.name} was not finite in {_BAD_STEPS} steps on end, the last one step "
                f"{self.step} (edits in {languages}), so training cannot go on. Lower its learning rate or the size "
                "of the edit's own step, or compute in float64."
            )

    def validate(self) -> CurvePoint:
        """Judges the editor on the dev split and keeps its parameters if none were better."""
        model, settings = self.editor.model, self.settings
        if self._validation is None:
            self._validation = list(self.requests.validation())
            if not self._validation:
                raise UserError(
                    f"There is nothing to edit in the dev split in {', '.join(settings.edit_languages)}, so a training "
                    "cannot be judged. Choose more edit languages or data with a larger dev split; where a "
                    "classifier's mistakes are edited, one that makes some there."
                )
            if self.known is not None:
                self._stores = self.known.stores(model, self._validation, all_positions=settings.all_positions)
        with model.remembering(self._stores):
            judgements = judge(
                self.editor,
                self._validation,
                all_positions=settings.all_positions,
                tokens_at_once=settings.tokens_at_once,
            )
        per_step = settings.stopping == "per step"
        scores = overall(judgements, all_positions=settings.all_positions, per_step=per_step)
        loss = sum(self.losses) / len(self.losses) if self.losses else None
        point = CurvePoint(self.step, loss, scores.acc, scores.con, scores.succ)
        if not self.curve or point.succ > max(before.succ for before in self.curve):
            self.best_step = self.step
            self.write(self.best_file, {"identity": self.identity}, resumable=False)
        self.curve.append(point)
        self.losses = []
        log.info("Step %d of %s on %s: %s", self.step, self.editor.name, type(model.hf).__name__, point)
        return point

    def save(self) -> None:
        record = {
            "identity": self.identity,
            "step": self.step,
            "drawn": self.drawn,
            "best_step": self.best_step,
            "curve": [asdict(point) for point in self.curve],
            "skipped": self.skipped,
            "losses": self.losses,
        }
        self.write(self.checkpoint, record, resumable=True)
        self.saved_at = time.monotonic()

    def write(self, path: Path, record: Mapping[str, Any], *, resumable: bool) -> None:
        """Writes the editor as it is; with the optimizer's state where the training is to go on from there."""
        write_checkpoint(path, self.editor, self.optimizer if resumable else None, record)

    def read(self, path: Path, *, resumable: bool) -> dict[str, Any] | None:
        """Takes up what `write` wrote and returns its record; None, and nothing is changed, if that is not there."""
        return read_checkpoint(path, self.editor, self.optimizer if resumable else None, self.identity)

    def resume(self) -> bool:
        """Takes up the checkpoint of this training, if there is a whole one."""
        if not self.best_file.exists():
            return False
        record = self.read(self.checkpoint, resumable=True)
        if record is None:
            return False
        self.step, self.drawn, self.best_step = record["step"], record["drawn"], record["best_step"]
        self.curve = [CurvePoint(**point) for point in record["curve"]]
        self.skipped, self.losses = record["skipped"], record["losses"]
        log.info("Training %s goes on from step %d.", self.editor.name, self.step)
        return True

    def result(self) -> TrainingResult:
        """The outcome; the editor gets the best parameters."""
        if self.read(self.best_file, resumable=False) is None:
            raise UserError(
                f"{self.best_file} is damaged or gone, so the best parameters of this training are lost. Delete its "
                "folder and train again."
            )
        self.editor.eval()
        return TrainingResult(tuple(self.curve), self.best_step, self.step, tuple(self.skipped), self.decisions)


class _Requests:
    """All requests of the edit languages, in an order that the seed decides."""

    def __init__(self, task: EditTask, settings: TrainingSettings, dev_requests: DevRequests | None) -> None:
        self.task, self.settings, self.dev_requests = task, settings, dev_requests or {}
        self.ends = np.cumsum([task.size("train", language) for language in settings.edit_languages])
        if not len(self.ends) or not self.ends[-1]:
            raise UserError(
                f"There are no edit requests to train on in {', '.join(settings.edit_languages) or 'no language'}. "
                "Choose other edit languages, or data with a training split."
            )
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def take(self, number: int, drawn: int) -> tuple[list[list[EditSample]], int]:
        """The next draws, and how many were drawn by then; requests without update languages are passed over."""
        found: list[list[EditSample]] = []
        tried = 0
        while len(found) < number:
            if tried > len(found) + self.ends[-1]:
                raise UserError(
                    "No request to train on exists in any of the update languages. Choose languages that share "
                    "requests."
                )
            samples = self._draw(drawn)
            drawn, tried = drawn + 1, tried + 1
            if samples:
                found.append(samples)
        return found, drawn

    def validation(self) -> Iterator[list[EditSample]]:
        """The requests of every validation: the same ones, whatever the training's seed."""
        settings = self.settings
        for language in settings.edit_languages:
            yield from self.task.test_samples(
                "dev",
                language,
                update_languages=settings.languages_for(language),
                retain_languages=settings.languages_for(language),
                seed=settings.validation_seed,
                limit=settings.validation_edits,
                retains=settings.validation_retains,
                requests=self.dev_requests.get(language),
            )

    def _draw(self, number: int) -> list[EditSample]:
        settings, total = self.settings, int(self.ends[-1])
        epoch, place = divmod(number, total)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([settings.seed, _ORDER, epoch]).permutation(total)
        request = int(self._order[place])
        turn = int(np.searchsorted(self.ends, request, side="right"))
        language = settings.edit_languages[turn]
        languages = settings.languages_for(language)
        return self.task.sample(
            "train",
            language,
            request - (int(self.ends[turn - 1]) if turn else 0),
            np.random.default_rng([settings.seed, _DRAWS, number]),
            update_languages=languages,
            retain_languages=languages,
            retains=settings.retains_per_edit,
        )

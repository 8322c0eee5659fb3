"""Training the patches of one edit, on cached states alone.

Shape legend: P pairs of a patch and a label position that it must answer to, M label positions, N patches, D hidden
size, K memories.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from methods.editing.losses import acc
from methods.editing.patches.cache import AnswerCache, States
from methods.editing.patches.config import Confidence, PatchConfig
from methods.editing.patches.losses import activation_loss, memory_loss, position_weights, task_loss
from methods.editing.patches.memory import Memory, Queries, excitement
from methods.editing.patches.neuron import NewPatches, PatchNeurons

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The outcome of one training.

    Attributes:
        neurons: the new patches.
        steps: optimizer steps taken.
        stopped: whether the stopping rule ended it; otherwise the steps ran out.
    """

    neurons: PatchNeurons
    steps: int
    stopped: bool


def starting_points(
    states: States, right: Tensor, classifies: bool, config: PatchConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Where an edit's patches begin.

    A classifier gets one patch, which must answer to every text of the edit. A language model gets one for each wrong
    token, in order, up to `max_patches`, each for its own position.

    Args:
        states: of the edit's texts, the edit language's first.
        right: whether each label position is answered as wanted now, [M].
        classifies: whether the model is a classifier.
        config: `key` and `max_patches`.

    Returns:
        The queries that keys start from [N, D], and the patch and the label position of every pair, [P] each.
    """
    positions = torch.arange(len(states.rows), device=states.rows.device)
    if classifies:
        query = states.queries[:1] if config.key == "edit language" else states.queries.mean(0, keepdim=True)
        return query, torch.zeros_like(positions), positions
    wrong = positions[~right][: config.max_patches]
    return states.queries[wrong], positions[: len(wrong)], wrong


def confidence_of(config: PatchConfig, classifies: bool) -> Confidence:
    """The form of the task loss that `config` means for a kind of model."""
    if config.confidence != "as released":
        return config.confidence
    return "entropy" if classifies else "label smoothing"


class StoppingRule:
    """Ends a training when the validation memory loss no longer falls, at checks where the edit is right."""

    def __init__(self, config: PatchConfig) -> None:
        self.config = config
        self.losses: list[float] = []

    def due(self, step: int) -> bool:
        """Whether a step ends with a check that may stop training."""
        return step % self.config.check_every == 0 and step >= self.config.first_check

    def stops(self, loss: float) -> bool:
        """Notes the validation memory loss of a check where the edit is right, and says whether to stop."""
        self.losses.append(loss)
        best = 0
        for place, seen in enumerate(self.losses):
            if seen < self.losses[best] - self.config.min_improvement:
                best = place
        return best < len(self.losses) - self.config.patience


def train_patches(
    cache: AnswerCache,
    states: States,
    before: PatchNeurons,
    memory: Memory,
    config: PatchConfig,
    seed: Sequence[int],
) -> Trained | None:
    """Trains the patches of one edit beside those that are there.

    Args:
        cache: gives answers from states.
        states: of the edit's texts, the edit language's first.
        before: finished patches, which stay as they are.
        memory: what the new patches must stay silent on.
        config: how to train.
        seed: of the initial values.

    Returns:
        The new patches; None where there is nothing to patch, because a language model answers every token rightly.
    """
    edit = _Edit(cache, states, before, config)
    queries, patches, positions = starting_points(states, edit.right_now(), edit.classifies, config)
    if not len(queries):
        return None
    copies = max(1, round(config.copies / states.texts))
    new = NewPatches(queries, before.activation, scale=config.value_scale, seed=seed)
    parameters = list(new.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    plateau = ReduceLROnPlateau(
        optimizer, factor=config.lr_factor, patience=config.lr_patience, threshold=config.lr_threshold
    )

    def silence(neurons: PatchNeurons, own: Tensor, remembered: Queries) -> Tensor:
        distinct = -(-config.memory_top // copies)
        excited = excitement(neurons, remembered.nearest(neurons, distinct))
        return memory_loss(
            own,
            excited[:, patches],
            relative_margin=config.relative_margin,
            absolute_margin=config.absolute_margin,
            top=config.memory_top,
            copies=copies,
        )

    rule = StoppingRule(config)
    for step in range(1, config.max_steps + 1):
        neurons = new.current()
        excited = neurons.preactivations(states.queries)
        own = excited[positions, patches]
        loss = edit.loss(edit.logits(neurons, excited))
        loss = loss + config.activation_weight * activation_loss(
            own, margin=config.activation_margin, top=config.activation_top, copies=copies
        )
        loss = loss + config.memory_weight * silence(neurons, own, memory.train)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        if not bool(torch.isfinite(norm)):
            log.warning("Step %d of a patch: the gradient is not finite; the patch stays as it is.", step)
            return Trained(new.finished(), step - 1, False)
        optimizer.step()
        if step % config.check_every:
            continue
        with torch.no_grad():
            neurons = new.current()
            excited = neurons.preactivations(states.queries)
            logits = edit.logits(neurons, excited)
            plateau.step(edit.loss(logits).item())
            if rule.due(step) and edit.all_right(logits):
                own = excited[positions, patches]
                if rule.stops(silence(neurons, own, memory.validation).item()):
                    return Trained(new.finished(), step, True)
    return Trained(new.finished(), config.max_steps, False)


class _Edit:
    """The texts of one edit, with everything that does not change while its patches are trained."""

    def __init__(self, cache: AnswerCache, states: States, before: PatchNeurons, config: PatchConfig) -> None:
        self.cache, self.states, self.config = cache, states, config
        self.classifies = cache.site.classifies
        self.confidence = confidence_of(config, self.classifies)
        self.weights = position_weights(states.rows, states.texts).to(states.sums.dtype)
        with torch.no_grad():
            self.sums = states.sums + before.gain(states.queries)

    def logits(self, neurons: PatchNeurons, excited: Tensor) -> Tensor:
        """[M, V], from the new patches' pre-activations [M, N]."""
        return self.cache.site.finish(self.sums + neurons.activation(excited) @ neurons.values)

    def loss(self, logits: Tensor) -> Tensor:
        """The task loss."""
        return task_loss(logits, self.states.targets, self.weights, self.confidence, self.config.eps)

    def all_right(self, logits: Tensor) -> bool:
        """Whether every text is answered as wanted."""
        states = self.states
        return bool(acc(logits.argmax(-1), states.targets, states.rows, states.texts).all())

    @torch.no_grad()
    def right_now(self) -> Tensor:
        """Whether each label position is answered as wanted without the new patches, [M]."""
        right: Tensor = self.cache.site.finish(self.sums).argmax(-1) == self.states.targets
        return right

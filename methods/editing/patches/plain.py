"""The same stream, the obvious way: every step of every patch is a forward pass of the whole Hugging Face model.

Texts are repeated in the batch as often as the released code repeats them, memories are all exponentiated and sorted,
earlier patches are merged into the matrices, texts of similar length are evaluated in one batch. It is slow and serves
as the reference that the cached path is compared with, and is measured against.

Shape legend: B rows of the batch, M label positions of all rows, K memories, P pairs of a patch and a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from methods.editing.batches import length_groups, lengths_of
from methods.editing.examples import Encoded, Example
from methods.editing.losses import acc
from methods.editing.patches.config import PatchConfig, StreamConfig
from methods.editing.patches.losses import position_weights, task_loss
from methods.editing.patches.mpn import VALUES, StreamEdit, decide
from methods.editing.patches.neuron import NewPatches, PatchNeurons
from methods.editing.patches.site import PatchSite
from methods.editing.patches.training import StoppingRule, confidence_of


@dataclass
class PlainResult:
    """What the plain stream did.

    Attributes:
        neurons: all patches.
        edited: places of the requests that were edited.
        steps: optimizer steps of each of them.
        success: whether the edit text was right just after its edit.
        right: whether each text of all requests is right at the end, request by request.
    """

    neurons: PatchNeurons
    edited: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    success: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


def plain_stream(
    site: PatchSite,
    memories: Sequence[Tensor],
    edits: Sequence[StreamEdit],
    config: StreamConfig,
    *,
    repeat: bool = True,
) -> PlainResult:
    """Patches a stream of requests.

    Args:
        site: where patches sit.
        memories: queries to train against and to stop by, [K, D] each.
        edits: the requests.
        config: as for `run_stream`.
        repeat: texts are repeated in the batch, as in the released code; otherwise only what is averaged is, so that no
            forward pass computes a text twice.
    """
    result = PlainResult(site.empty())
    memories = list(memories)
    for index, edit in enumerate(edits):
        asked = [language for language in config.asked if language in edit.texts]
        with site.merged(result.neurons):
            found = plain_rights(site, [edit.texts[language] for language in asked])
        right = dict(zip(asked, found, strict=True))
        decision = decide(config, right, index)
        if not decision.edit:
            continue
        texts = [edit.texts[language] for language in decision.languages]
        with site.merged(result.neurons):
            neurons, steps = _train(site, texts, memories, config.patches, (config.seed, VALUES, index), repeat)
        result.neurons = result.neurons.merge(neurons)
        if config.patches.remember:
            added = plain_answers(site, texts)[1]
            memories = [torch.cat([memory, added]) for memory in memories]
        with site.merged(result.neurons):
            result.success.append(plain_right(site, edit.texts[config.edit_language]))
        result.edited.append(index)
        result.steps.append(steps)
    with site.merged(result.neurons):
        result.right = plain_rights(site, [text for edit in edits for text in edit.texts.values()])
    return result


def plain_answers(site: PatchSite, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Logits [M, V] and queries [M, D] of texts, one forward pass for each."""
    found = []
    with torch.no_grad():
        for example in examples:
            found.append(_forward(site, site.model.encode([example])))
    logits, queries = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logits, queries


def plain_right(site: PatchSite, example: Example) -> bool:
    """Whether the model, as it is now, answers a text as wanted."""
    batch = site.model.encode([example])
    with torch.no_grad():
        logits, _ = _forward(site, batch)
    return bool((logits.argmax(-1) == batch.targets).all())


def plain_rights(site: PatchSite, examples: Sequence[Example]) -> list[bool]:
    """The same of many texts, those of similar length together."""
    if not examples:
        return []
    batch = site.model.encode(examples)
    found: dict[int, bool] = {}
    with torch.no_grad():
        for group in length_groups(lengths_of(batch)):
            part = batch.select(group)
            logits, _ = _forward(site, part)
            right = acc(logits.argmax(-1), part.targets, part.rows, len(part)) > 0
            found.update(zip(group, right.tolist(), strict=True))
    return [found[index] for index in range(len(examples))]


def _train(
    site: PatchSite,
    texts: Sequence[Example],
    memories: Sequence[Tensor],
    config: PatchConfig,
    seed: Sequence[int],
    repeat: bool,
) -> tuple[PatchNeurons, int]:
    """The patches of one edit beside the model as it is now, and the steps taken."""
    copies = max(1, round(config.copies / len(texts)))
    copies, times = (copies, 1) if repeat else (1, copies)
    batch = site.model.encode([text for _ in range(copies) for text in texts])
    with torch.no_grad():
        logits, queries = _forward(site, batch)
    once = len(batch.rows) // copies
    if site.classifies:
        start = queries[:1] if config.key == "edit language" else queries[:once].mean(0, keepdim=True)
        pairs = [(0, position) for position in range(once)]
    else:
        wrong = (logits.argmax(-1) != batch.targets)[:once].nonzero()[:, 0].tolist()[: config.max_patches]
        start, pairs = queries[wrong], list(enumerate(wrong))
    if not pairs:
        return site.empty(), 0
    patches = torch.tensor([patch for _ in range(copies) for patch, _ in pairs], dtype=torch.long)
    positions = torch.tensor([copy * once + place for copy in range(copies) for _, place in pairs], dtype=torch.long)
    new = NewPatches(start, site.activation, scale=config.value_scale, seed=seed)
    optimizer = torch.optim.Adam(new.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    plateau = ReduceLROnPlateau(
        optimizer, factor=config.lr_factor, patience=config.lr_patience, threshold=config.lr_threshold
    )
    confidence = confidence_of(config, site.classifies)

    def losses(memory: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
        with site.attached(new.current()):
            logits, queries = _forward(site, batch)
        own = (queries @ new.keys.T + new.biases)[positions, patches]
        remembered = (memory @ new.keys.T + new.biases)[:, patches]
        weights = position_weights(batch.rows, len(batch))
        task = task_loss(logits, batch.targets, weights, confidence, config.eps)
        activation = _top((config.activation_margin - own).exp(), config.activation_top, times)
        relative = _top((remembered - own + config.relative_margin).exp(), config.memory_top, times)
        absolute = _top((remembered - config.absolute_margin).exp(), config.memory_top, times)
        right = bool(acc(logits.argmax(-1), batch.targets, batch.rows, len(batch)).all())
        return task, activation, relative + absolute, right

    rule = StoppingRule(config)
    for step in range(1, config.max_steps + 1):
        task, activation, silence, _ = losses(memories[0])
        loss = task + config.activation_weight * activation + config.memory_weight * silence
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(new.parameters(), config.clip)
        optimizer.step()
        if step % config.check_every == 0:
            with torch.no_grad():
                task, _, silence, right = losses(memories[1])
            plateau.step(task.item())
            if rule.due(step) and right and rule.stops(silence.item()):
                return new.finished(), step
    return new.finished(), config.max_steps


def _forward(site: PatchSite, batch: Encoded) -> tuple[Tensor, Tensor]:
    """Logits [M, V] and queries [M, D] of the whole model as it is now."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None and (getattr(site.model.hf.config, "type_vocab_size", None) or 0) > 1:
        inputs["token_type_ids"] = batch.token_type_ids
    with _noted(site) as entered:
        logits: Tensor = site.model.hf(**inputs).logits
    if not site.classifies:
        logits = logits[batch.rows, batch.columns]
    queries = entered[0].reshape(*batch.input_ids.shape, -1)[batch.rows, batch.columns]
    return logits, queries


@contextmanager
def _noted(site: PatchSite) -> Iterator[list[Tensor]]:
    """Notes what enters the FFN."""
    entered: list[Tensor] = []
    handle = site.up.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    try:
        yield entered
    finally:
        handle.remove()


def _top(values: Tensor, number: int, times: int) -> Tensor:
    """The mean of the largest values, each there so many times."""
    values = values.flatten().repeat(times)
    return values.topk(min(number, values.numel())).values.mean()

"""What editors take: parameters, memory of a training, operations of a trial; all from sizes, before anything runs.

A text counts as `TOKENS` tokens. Blocks below the first edited one run forward, once for each text of a step; edited
blocks forward and, where a gradient is asked, backward to what entered them, which costs as much again since the
model's own weights are frozen; the vocabulary for label tokens, and for all tokens of texts that an edit should leave
alone. A test holds the count of a training step beside the operations that PyTorch counts.

Shape legend: L layers, D hidden, F features inside a feed-forward network, W = D + F, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from methods.backbone import ModelDescription
from methods.backbone.footprint import GPU_RATE, Footprint
from methods.editing.batches import TOKENS_AT_ONCE
from methods.editing.editors import (
    EditableTrainingConfig,
    EditorConfig,
    FineTuningConfig,
    KnowledgeEditorConfig,
    MendConfig,
)
from methods.editing.evaluation import EDITS_AT_ONCE, MEMORY_BYTES
from methods.editing.examples import Kind
from methods.editing.outcome import ALL
from methods.editing.raw import edited_model
from methods.editing.running import editor_config
from methods.editing.spec import Cell, EditorSpec
from orchestrator.needs import ModelNeeds

EDITED_BLOCKS = 3
"""The last blocks, whose feed-forward matrices are edited (Xu et al. 2023, appendix B; Mitchell et al. 2022)."""
TOKENS, LABELS = 24, 3
"""Tokens of a text, and those of them that are its answer, about."""
TUNING_STEPS = 40
"""Steps of fine-tuning until an edit holds, about."""
UNEDITED_TEST = 400
"""Edits per language that a test without a limit has, where nobody says how many there are."""
PROCESS_BYTES = 700 * 2**20


@dataclass(frozen=True)
class TextCost:
    """Operations of a text of `TOKENS` tokens.

    Attributes:
        lower: blocks that no edit reaches, forward.
        upper: edited blocks, forward.
        head: the vocabulary for every token.
        label: the vocabulary for the label tokens.
        dense: a product with whole changes of the edited matrices.
    """

    lower: float
    upper: float
    head: float
    label: float
    dense: float

    @classmethod
    def of(cls, model: ModelDescription, kind: Kind) -> TextCost:
        """For a model that is asked as `kind`; a classifier's head costs nothing."""
        block = TOKENS * model.block_flops(TOKENS)
        edited = edited_blocks(model)
        head = 0.0 if kind == "classifier" else model.head_flops()
        return cls(
            lower=(model.num_layers - edited) * block,
            upper=edited * block,
            head=TOKENS * head,
            label=LABELS * head,
            dense=2.0 * TOKENS * edited_weights(model),
        )


def edited_blocks(model: ModelDescription) -> int:
    """How many blocks are edited."""
    return min(EDITED_BLOCKS, model.num_layers)


def inner_size(model: ModelDescription) -> int:
    """F, from the entries of a block: four D x D matrices of attention, the rest is the feed-forward network."""
    hidden = model.hidden_size
    return max(hidden, (model.block_weights - 4 * hidden**2) // (2 * hidden))


def edited_weights(model: ModelDescription) -> int:
    """Entries of the matrices that are edited."""
    return 2 * edited_blocks(model) * model.hidden_size * inner_size(model)


def editor_weights(model: ModelDescription, config: EditorConfig) -> int:
    """Parameters that an editor trains, about; fine-tuning trains none beforehand."""
    width, matrices = model.hidden_size + inner_size(model), 2 * edited_blocks(model)
    match config:
        case EditableTrainingConfig():
            return edited_weights(model)
        case MendConfig():  # two layers, U and V each, for two shapes
            return 8 * min(config.rank, width) * width
        case KnowledgeEditorConfig():
            lstm, size = config.encoder_hidden, config.condition_size
            encoder = model.vocab_size * model.hidden_size + 8 * lstm * (model.hidden_size + lstm) + 2 * lstm * size
            return encoder + matrices * config.hidden * (size + 2 * width)
    return 0


def edit_flops(model: ModelDescription, cost: TextCost, config: EditorConfig, *, trained: bool) -> float:
    """Operations of an edit above the blocks that no edit reaches; `trained`: also of the way back to the editor."""
    gradient = 2 * (cost.upper + cost.label)
    width, matrices = model.hidden_size + inner_size(model), 2 * edited_blocks(model)
    network = 0.0
    match config:
        case FineTuningConfig():
            return TUNING_STEPS * (gradient + 3 * cost.dense)
        case EditableTrainingConfig():
            return gradient * (3 if trained and not config.first_order else 1)
        case MendConfig():
            # Of the last block only the label tokens have a gradient.
            tokens = (matrices - 2) * TOKENS + 2 * LABELS
            network = 8.0 * tokens * min(config.rank, width) * width
        case KnowledgeEditorConfig():
            lstm, size = config.encoder_hidden, config.condition_size
            network = 16.0 * TOKENS * lstm * (model.hidden_size + lstm)
            network += 2.0 * matrices * config.hidden * (size + 2 * width)
    return gradient + network * (3 if trained else 1)


def step_flops(model: ModelDescription, kind: Kind, spec: EditorSpec, cell: Cell) -> float:
    """Operations of a training step."""
    cost, retains, config = TextCost.of(model, kind), spec.retains_per_edit, editor_config(spec, cell)
    # Forward, and backward to what entered; Editable Training trains the matrices themselves.
    learned = cost.upper * (3 if isinstance(config, EditableTrainingConfig) else 2)
    judged = learned + 2 * cost.label + retains * (learned + cost.upper + 4 * cost.head)
    each = (2 + retains) * cost.lower + edit_flops(model, cost, config, trained=True) + judged
    return spec.edits_per_step * each


def judged_flops(model: ModelDescription, kind: Kind, config: EditorConfig, updates: int, retains: int) -> float:
    """Operations of an edit that is judged in `updates` languages, by `retains` unrelated texts in each."""
    cost = TextCost.of(model, kind)
    changed = cost.upper + (cost.dense if isinstance(config, FineTuningConfig) else 0.0)
    texts = changed + cost.label + retains * (cost.upper + changed + cost.head)
    lower = (1 + updates * (1 + retains)) * cost.lower
    return lower + edit_flops(model, cost, config, trained=False) + updates * texts


@dataclass(frozen=True)
class TrialCost:
    """What a trial costs.

    Attributes:
        training: operations of its training steps.
        judging: of its validations and its test.
        passes: forward passes through all blocks, of as many texts as go through them together.
    """

    training: float
    judging: float
    passes: float

    @property
    def flops(self) -> float:
        """All operations."""
        return self.training + self.judging


def trial_cost(
    model: ModelDescription, kind: Kind, spec: EditorSpec, cell: Cell, *, languages: int, tests: int = UNEDITED_TEST
) -> TrialCost:
    """What a cell of the grid costs, if its training is not stopped early.

    Args:
        model: what is edited.
        kind: how it is asked.
        spec: of the sweep.
        cell: of its grid.
        languages: of the task.
        tests: edits per language in the test split.
    """
    trained = cell.method.training != "none"
    edited_in = languages if cell.method.edits_in == ALL else 1
    updates = languages if spec.test_updates == "all" else 1
    steps = spec.steps if trained else 0
    validated = (1 + steps // spec.validate_every) * spec.validation_edits * edited_in
    tested = min(spec.test_edits or tests, tests) * edited_in
    config = editor_config(spec, cell)
    each_validation = judged_flops(model, kind, config, 1, 1)
    each_test = judged_flops(model, kind, config, updates, spec.test_retains)
    texts = 3 * validated + (1 + updates * (1 + spec.test_retains)) * tested
    # In a step three times through the edited blocks, forward and backward, and once through those below.
    through = 1 + 5 * edited_blocks(model) / model.num_layers
    return TrialCost(
        training=steps * step_flops(model, kind, spec, cell) if trained else 0.0,
        judging=validated * each_validation + tested * each_test,
        passes=steps * through + texts * TOKENS / TOKENS_AT_ONCE + (validated + tested) / EDITS_AT_ONCE,
    )


def training_needs(
    footprint: Footprint, kind: Kind, spec: EditorSpec, found: Sequence[Cell], costs: Sequence[TrialCost]
) -> ModelNeeds:
    """What trials ask of a machine: the model, and what the neediest of the editors trains and works with.

    Every process of a sharded training keeps the vocabulary matrix whole beside its share, in float32, and validations
    and the test are computed by all processes alike.

    Args:
        footprint: of the model in the dtype it runs in.
        kind: how it is asked.
        spec: of the sweep.
        found: its grid.
        costs: of the grid's cells, and of what else it runs.
    """
    model, dtype = footprint.description, footprint.dtype
    sizes = [
        (training_bytes(model, dtype, config), working_bytes(model, dtype, kind, spec, config))
        for config in {editor_config(spec, cell) for cell in found}
    ]
    training, working = max(sizes, key=sum)
    flops = sum(cost.flops for cost in costs)
    return ModelNeeds(
        weights=footprint.total,
        outside=footprint.embeddings + footprint.head,
        block=footprint.block,
        blocks=model.num_layers,
        process=PROCESS_BYTES,
        working={"cpu": working, "cuda": working},
        training=training,
        whole=4 * model.vocab_size * model.hidden_size,
        dealt=spec.edits_per_step,
        flops=flops,
        repeated=sum(cost.judging for cost in costs) / flops,
        passes=sum(cost.passes for cost in costs),
        gpu_rate=GPU_RATE[dtype],
        model=f"{edited_model(spec)} in {spec.dtype}",
    )


def training_bytes(model: ModelDescription, dtype: torch.dtype, config: EditorConfig) -> int:
    """An editor's parameters with their gradient and two moments; in bfloat16 with float32 copies of them."""
    return editor_weights(model, config) * (12 + 2 * dtype.itemsize if dtype == torch.bfloat16 else 4 * dtype.itemsize)


def working_bytes(
    model: ModelDescription, dtype: torch.dtype, kind: Kind, spec: EditorSpec, config: EditorConfig
) -> int:
    """What a step or a test needs beside weights and moments, about.

    Activations of the edited blocks that wait for their gradient, logits of label tokens, and the edits: as factors
    with their graph, or, of fine-tuning, as whole changes, those that are tuned together and those that are judged.
    """
    texts = min(TOKENS_AT_ONCE, spec.edits_per_step * (1 + spec.retains_per_edit) * TOKENS)
    numbers = texts * edited_blocks(model) * (10 * model.hidden_size + 3 * inner_size(model))
    if kind != "classifier":
        numbers += 3 * EDITS_AT_ONCE * LABELS * model.vocab_size
    if not isinstance(config, FineTuningConfig):
        factors = 2 * edited_blocks(model) * (model.hidden_size + inner_size(model))
        return (numbers + 8 * spec.edits_per_step * TOKENS * factors) * dtype.itemsize
    change = edited_weights(model) * dtype.itemsize
    # Change, running change, gradient, scratch and two moments while it is tuned; twice the change while it is judged.
    together = ((6 * change, config.memory), (2 * change, MEMORY_BYTES))
    return numbers * dtype.itemsize + sum(one * max(1, min(EDITS_AT_ONCE, limit // one)) for one, limit in together)

"""KnowledgeEditor: a network reads the edit request and says how the gradient becomes an update.

De Cao et al. 2021, Editing Factual Knowledge in Language Models (section 3.2), in the form that Mitchell et al. 2022
and Xu et al. 2023 compare with. A bidirectional LSTM over the request's tokens gives a condition c; from c a small
network for every matrix predicts two rank-one matrices A and B and a gate eta:

    dW = s sigmoid(eta) (grad_W * A + B),    A = softmax(alpha_a) gamma_a^T,    B = softmax(alpha_b) gamma_b^T.

With grad_W = sum_t delta_t x_t^T, the product with a rank-one matrix goes into the factors,

    grad_W * A = sum_t (softmax(alpha_a) * delta_t) (gamma_a * x_t)^T,

and B is one factor more; so the update of T tokens is a factored edit with T + 1 factors.

Shape legend: B edits, T tokens, C size of the condition, H a hidden size, I and O a matrix's input and output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from methods.editing.editors.base import LearnedConfig
from methods.editing.editors.learned import LearnedEditor
from methods.editing.edits import FactoredEdits
from methods.editing.examples import Encoded
from methods.editing.factors import token_factors
from methods.editing.gates import Order
from methods.editing.model import EditableModel


class KnowledgeEditorConfig(LearnedConfig):
    """Sizes of the networks, and what they read."""

    lr: float = Field(5e-5, gt=0, description="learning rate of the editor's weights")
    condition: Literal["input", "target and input"] = Field(
        "input",
        description="what the editor reads of a request: its text alone, as released, or the wanted answer and the "
        "text, as De Cao et al. do",
    )
    encoder_hidden: int = Field(512, ge=1, description="hidden size of each direction of the LSTM")
    condition_size: int = Field(768, ge=1, description="size of the condition")
    hidden: int = Field(512, ge=1, description="hidden size of the network of each matrix")
    max_scale: float = Field(1.0, gt=0, description="what a fully open gate multiplies the update by")


class RankOnes(NamedTuple):
    """What a conditioner predicts for B edits of one matrix; A = column_a row_a^T, B = column_b row_b^T."""

    row_a: Tensor  # gamma_a [B, I]
    column_a: Tensor  # softmax(alpha_a) [B, O]
    row_b: Tensor  # gamma_b [B, I]
    column_b: Tensor  # softmax(alpha_b) [B, O]
    gate: Tensor  # sigmoid(eta) [B, 1]


class ConditionEncoder(nn.Module):
    """Word embeddings, a bidirectional LSTM, and a linear layer over its two final states.

    Args:
        words: the embeddings to begin with, [rows, features]; they are copied and trained.
        hidden: H of each direction.
        size: C.
    """

    def __init__(self, words: Tensor, hidden: int, size: int) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(words.detach().clone(), freeze=False)
        self.lstm = nn.LSTM(words.shape[1], hidden, bidirectional=True, batch_first=True)
        self.out = nn.Linear(2 * hidden, size)

    def forward(self, texts: Sequence[Tensor]) -> Tensor:
        """The condition [B, C] of B texts, each a vector of token ids; one text does not depend on the others."""
        lengths = torch.tensor([len(text) for text in texts])
        embedded = self.words(pad_sequence(list(texts), batch_first=True))
        _, (final, _) = self.lstm(pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False))
        return torch.tanh(self.out(torch.cat([final[0], final[1]], dim=-1)))


class Conditioner(nn.Module):
    """From the condition to the two rank-one matrices and the gate of one matrix [O, I]."""

    def __init__(self, inputs: int, outputs: int, size: int, hidden: int) -> None:
        super().__init__()
        self.sizes = [inputs, outputs, inputs, outputs, 1]
        self.network = nn.Sequential(
            weight_norm(nn.Linear(size, hidden)), nn.Tanh(), weight_norm(nn.Linear(hidden, sum(self.sizes)))
        )

    def forward(self, condition: Tensor) -> RankOnes:
        """From [B, C]."""
        row_a, column_a, row_b, column_b, gate = self.network(condition).split(self.sizes, dim=-1)
        return RankOnes(row_a, column_a.softmax(-1), row_b, column_b.softmax(-1), gate.sigmoid())


def updated_factors(x: Tensor, delta: Tensor, predicted: RankOnes, max_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """The factors of s sigmoid(eta) (grad * A + B).

    Args:
        x, delta: [B, T, I] and [B, T, O], the factors of the gradient.
        predicted: for the same edits.
        max_scale: s.

    Returns:
        [B, T + 1, I] and [B, T + 1, O].
    """
    scale = max_scale * predicted.gate[:, None]
    new_x = torch.cat([x * predicted.row_a[:, None], predicted.row_b[:, None]], dim=1)
    new_delta = torch.cat([delta * predicted.column_a[:, None], predicted.column_b[:, None]], dim=1)
    return new_x, scale * new_delta


class KnowledgeEditor(LearnedEditor):
    """Adds the predicted update to the weights; there is no step size."""

    name: ClassVar[str] = "knowledge-editor"
    Config: ClassVar[type[KnowledgeEditorConfig]] = KnowledgeEditorConfig
    mask_order: ClassVar[Order] = "out first"
    config: KnowledgeEditorConfig

    def __init__(self, model: EditableModel, config: KnowledgeEditorConfig, languages: Sequence[str]) -> None:
        super().__init__(model, config, languages)
        words = model.hf.get_input_embeddings().weight.detach()
        self._separator = len(words)
        if config.condition == "target and input":
            # One row between answer and text, and one for each class, which no token stands for.
            classes = model.hf.config.num_labels if model.kind == "classifier" else 0
            further = torch.randn(1 + classes, words.shape[1], dtype=words.dtype) * words.std().cpu()
            words = torch.cat([words, further.to(words.device)])
        self.encoder = ConditionEncoder(words, config.encoder_hidden, config.condition_size)
        self.conditioners = nn.ModuleList(
            [
                Conditioner(module.in_features, module.out_features, config.condition_size, config.hidden)
                for module in model.modules
            ]
        )
        self.to(model.dtype)

    def edit(self, batch: Encoded, languages: Sequence[str], *, create_graph: bool = False) -> FactoredEdits:
        """See `Editor.edit`. The masks are on the gradient, so training samples one for each edit and matrix."""
        factors = token_factors(self.model, batch, self.model.frozen(batch))
        rows = None if self.masks is None else self.masks.rows(languages)
        edits = {}
        with torch.set_grad_enabled(create_graph):
            condition = self.encoder(self.condition_texts(batch))
            for module, conditioner in zip(self.model.modules, self.conditioners, strict=True):
                x, delta = factors[module.name]
                if self.masks is not None and rows is not None:
                    of_x, of_delta = self.masks.multipliers(module.name, rows)
                    x, delta = of_x[:, None] * x, of_delta[:, None] * delta
                edits[module.name] = updated_factors(x, delta, conditioner(condition), self.config.max_scale)
        return FactoredEdits(edits)

    def condition_texts(self, batch: Encoded) -> list[Tensor]:
        """What the encoder reads of each request: token ids, of as many tensors as the batch has rows.

        The text is what stands before the answer: a causal model's input also holds the answer, which is left out.
        """
        texts = []
        for row, (ids, length) in enumerate(zip(batch.input_ids, batch.attention_mask.sum(1).tolist(), strict=True)):
            labels = batch.rows == row
            if self.model.kind == "causal":
                length = int(batch.columns[labels].min()) + 1
            text = ids[:length]
            if self.config.condition == "target and input":
                answer = batch.targets[labels]
                if self.model.kind == "classifier":
                    answer = answer + self._separator + 1
                text = torch.cat([answer, answer.new_tensor([self._separator]), text])
            texts.append(text)
        return texts

"""What is edited and what is asked: texts with their right answers, and padded batches of them.

Shape legend: B rows of a batch, T tokens of its longest row, M label positions of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from orchestrator.errors import Problems

Kind = Literal["masked", "causal", "classifier"]
NO_LABEL = -1
_UNBOUNDED = 1_000_000  # tokenizers without a limit name a far larger number


@dataclass(frozen=True)
class Example:
    """A text in one language, and the answer that the model should give to it.

    Attributes:
        text: masked: holds the mask tokens already; causal: the prompt; classifier: premise or claim.
        language: of the text.
        pair: the second text of a classifier's pair, such as a hypothesis.
        answer: masked: the token of each mask, in order; causal: the tokens that follow the prompt; classifier: one
            class. Empty where nothing is asked (a text that an edit must leave alone).
    """

    text: str
    language: str
    pair: str | None = None
    answer: tuple[int, ...] = ()


@dataclass(frozen=True)
class EditSample:
    """One draw of training or evaluation (Xu et al. 2023, section 3): an edit and the texts it is judged by.

    Attributes:
        uuid: names the edit request.
        edit: x_e with the wanted answer y_e.
        update: x_u, the same request in the update language, with y_e there.
        retain: x_r, unrelated text whose predictions must stay.
    """

    uuid: str
    edit: Example
    update: Example
    retain: Example


@dataclass(frozen=True)
class Encoded:
    """A batch of texts, padded on the right to its longest one.

    Attributes:
        input_ids, attention_mask: [B, T].
        token_type_ids: [B, T], which of its two texts a classifier's token belongs to; None for other kinds.
        rows, columns: [M], where labels are predicted, row by row: the masks, the positions that predict the tokens
            of a causal answer (for a text without answer its last token), or (row, 0) for classifiers.
        targets: [M], the labels; -1 where there is none.
        keys: what tells one row's tokens from another's, B entries.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    rows: Tensor
    columns: Tensor
    targets: Tensor
    keys: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: torch.device | str) -> Encoded:
        """The same batch on another device."""
        types = None if self.token_type_ids is None else self.token_type_ids.to(device)
        ids, attended = self.input_ids.to(device), self.attention_mask.to(device)
        return Encoded(
            ids, attended, types, self.rows.to(device), self.columns.to(device), self.targets.to(device), self.keys
        )

    def select(self, indices: Sequence[int]) -> Encoded:
        """The batch of the rows at `indices`, in that order, padded only as far as they need."""
        device = self.input_ids.device
        chosen = torch.as_tensor(indices, dtype=torch.long, device=device)
        attended = self.attention_mask[chosen]
        longest = int(attended.sum(1).max()) if len(chosen) else 0
        rows, labels = (chosen[:, None] == self.rows[None, :]).nonzero(as_tuple=True)
        return Encoded(
            self.input_ids[chosen, :longest],
            attended[:, :longest],
            None if self.token_type_ids is None else self.token_type_ids[chosen, :longest],
            rows,
            self.columns[labels],
            self.targets[labels],
            tuple(self.keys[index] for index in indices),
        )


def encode(examples: Sequence[Example], tokenizer: Any, kind: Kind, *, max_length: int | None = None) -> Encoded:
    """Turns examples into one padded batch on the CPU.

    Masked and causal texts are never cut, because a label could be lost; of a classifier's pair the longer text is
    shortened. A causal text begins with the tokenizer's start token where it has one, and an answer's last token is
    not part of the input, because nothing is predicted from it.

    Args:
        examples: at least one; their order is the order of the rows.
        tokenizer: a Hugging Face tokenizer.
        kind: how the model is asked.
        max_length: tokens that a row may have, special tokens included; default: the tokenizer's limit.

    Raises:
        UserError: a text is too long, or its masks are not as many as its answer's tokens; names all such texts.
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    limit = min(max_length or _UNBOUNDED, tokenizer.model_max_length)
    ids, types = _tokens(examples, tokenizer, kind, limit)
    problems = Problems()
    labels = [
        _labels(example, row, tokenizer, kind, limit, problems) for example, row in zip(examples, ids, strict=True)
    ]
    problems.raise_if_any()
    shape = (len(ids), max(map(len, ids)))
    input_ids = torch.full(shape, tokenizer.pad_token_id or 0)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    token_type_ids = None if types is None else torch.zeros(shape, dtype=torch.long)
    for row, tokens in enumerate(ids):
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
        attention_mask[row, : len(tokens)] = 1
        if types is not None and token_type_ids is not None:
            token_type_ids[row, : len(tokens)] = torch.tensor(types[row])
    return Encoded(
        input_ids,
        attention_mask,
        token_type_ids,
        torch.tensor([row for row, pairs in enumerate(labels) for _ in pairs], dtype=torch.long),
        torch.tensor([column for pairs in labels for column, _ in pairs], dtype=torch.long),
        torch.tensor([target for pairs in labels for _, target in pairs], dtype=torch.long),
        tuple(repr((tokens, None if types is None else types[row])).encode() for row, tokens in enumerate(ids)),
    )


def _tokens(
    examples: Sequence[Example], tokenizer: Any, kind: Kind, limit: int
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Token ids and token types of every row, neither padded."""
    cut = {"truncation": True, "max_length": limit} if kind == "classifier" and limit < _UNBOUNDED else {}
    # Texts with and without a second one cannot share a call of the tokenizer.
    ids: list[list[int]] = [[] for _ in examples]
    types: list[list[int]] = [[] for _ in examples]
    for paired in (False, True):
        chosen = [index for index, example in enumerate(examples) if (example.pair is not None) == paired]
        if not chosen:
            continue
        texts = [[examples[index].text for index in chosen]]
        if paired:
            texts.append([examples[index].pair or "" for index in chosen])
        encoded = tokenizer(*texts, verbose=False, return_token_type_ids=True, **cut)
        for place, index in enumerate(chosen):
            ids[index], types[index] = list(encoded["input_ids"][place]), list(encoded["token_type_ids"][place])
    if kind == "classifier":
        return ids, types
    if kind == "masked":
        return ids, None
    start = tokenizer.bos_token_id
    return [
        [*([start] if start is not None and row[:1] != [start] else []), *row, *example.answer[:-1]]
        for example, row in zip(examples, ids, strict=True)
    ], None


def _labels(
    example: Example, ids: list[int], tokenizer: Any, kind: Kind, limit: int, problems: Problems
) -> list[tuple[int, int]]:
    """Column and target of every label position of one row."""
    shown = f"{example.text[:60]!r} ({example.language})"
    if len(ids) > limit or not ids:
        way = "Shorten it or leave it out." if ids else "Give it at least one token."
        problems.add(f"The text {shown} has {len(ids)} tokens and the model takes 1 to {limit}. {way}")
        return []
    if kind == "classifier":
        if len(example.answer) > 1:
            problems.add(
                f"The text {shown} has the classes {example.answer}; a classifier gives exactly one. Keep one."
            )
        return [(0, example.answer[0] if example.answer else NO_LABEL)]
    if kind == "causal":
        first = len(ids) - max(len(example.answer), 1)
        if first < 0:
            problems.add(f"The text {shown} has no token before its answer. Begin it with at least one word.")
        return [(first + place, target) for place, target in enumerate(example.answer or (NO_LABEL,))]
    columns = [column for column, token in enumerate(ids) if token == tokenizer.mask_token_id]
    if example.answer and len(columns) != len(example.answer):
        problems.add(
            f"The text {shown} has {len(columns)} masks and its answer {len(example.answer)} tokens, so they cannot be "
            f"compared. Write {tokenizer.mask_token} once for each token of the answer."
        )
        return []
    return list(zip(columns, example.answer or [NO_LABEL] * len(columns), strict=True))

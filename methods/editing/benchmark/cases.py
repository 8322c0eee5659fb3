"""What editing is measured on: models of published sizes with random weights, and texts of realistic lengths.

Nothing is downloaded: sizes and lengths are numbers, tokens and weights are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig
from transformers.initialization import no_init_weights

from methods.editing.examples import EditSample, Example, Kind
from methods.editing.model import EditableModel

TASKS: Mapping[str, Kind] = {"facts": "masked", "classifier": "classifier"}
SHAPES: Mapping[str, Callable[[], BertConfig]] = {
    "mbert": lambda: BertConfig(vocab_size=119_547, num_labels=3),
    "small": lambda: BertConfig(
        vocab_size=2000,
        hidden_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=96,
        num_labels=3,
    ),
}
"""Configurations by name; "small" only tries the benchmark out."""
LANGUAGES = ("en", "de", "fr", "zh")

# Tokens before and after the object, special tokens included, and tokens of the object, of 24 facts of mLAMA in twelve
# languages under mBERT's tokenizer; their mean length is that of all facts.
_FACTS = (
    *((9, 2, 3), (10, 2, 1), (7, 4, 2), (11, 3, 6), (7, 5, 1), (8, 8, 7), (8, 2, 2), (15, 2, 2), (9, 2, 2)),
    *((15, 8, 4), (4, 2, 2), (6, 2, 3), (20, 2, 2), (7, 2, 2), (8, 2, 3), (10, 4, 1), (13, 6, 1), (6, 10, 7)),
    *((9, 2, 1), (8, 2, 3), (6, 2, 1), (13, 4, 3), (6, 6, 7), (13, 2, 2)),
)
# Ranges of the tokens of premise and hypothesis; lengths within them are drawn uniformly.
_PREMISE, _HYPOTHESIS = (8, 40), (6, 18)
_CLASSES = 3
_PADDING, _START, _END, _MASK, _FIRST_WORD = 0, 1, 2, 3, 10
# Standard deviation of a logit over the vocabulary, as in trained models.
_LOGIT_SPREAD = 2.0


class NumberTokenizer:
    """Reads texts that are written as token numbers: all that is asked of a tokenizer here."""

    pad_token_id, mask_token_id, bos_token_id = _PADDING, _MASK, None
    mask_token = str(_MASK)
    all_special_ids = tuple(range(_FIRST_WORD))
    model_max_length = 512

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, **_: Any
    ) -> dict[str, list[list[int]]]:
        ids, types = [], []
        for index, text in enumerate(texts):
            first = [_START, *map(int, text.split()), _END]
            second = [] if pairs is None else [*map(int, pairs[index].split()), _END]
            ids.append(first + second)
            types.append([0] * len(first) + [1] * len(second))
        return {"input_ids": ids, "token_type_ids": types}

    def decode(self, ids: Sequence[int]) -> str:
        """The text that reads as these tokens."""
        return " ".join(map(str, ids))


@dataclass(frozen=True)
class Case:
    """A model with what it is measured on.

    Attributes:
        model: the model.
        draws: a list of samples for each edit: one text to update, several to retain; no text occurs twice.
    """

    model: EditableModel
    draws: list[list[EditSample]]


def make_case(shape: str, task: str, edits: int, retains: int, *, device: str = "cpu", seed: int = 0) -> Case:
    """A model of a shape and texts for it.

    Args:
        shape: of `SHAPES`.
        task: of `TASKS`.
        edits: how many.
        retains: unrelated texts of each edit.
        device: torch device string.
        seed: of weights and tokens.
    """
    model = EditableModel(random_model(shape, TASKS[task], device, seed), NumberTokenizer(), TASKS[task])
    draw = random.Random(seed)
    words = range(_FIRST_WORD, model.hf.config.vocab_size)
    make = _fact_draw if model.kind == "masked" else _pair_draw
    return Case(model, [make(index, retains, draw, words) for index in range(edits)])


def random_model(shape: str, kind: Kind, device: str, seed: int) -> Any:
    """A Hugging Face model of a shape of `SHAPES`, with random weights whose logits spread as trained ones do.

    Its tokenizer is a `NumberTokenizer`.
    """
    config = SHAPES[shape]()
    auto = AutoModelForMaskedLM if kind == "masked" else AutoModelForSequenceClassification
    with no_init_weights(), torch.device(device):
        hf = auto.from_config(config)
    hf.tie_weights()
    generator = torch.Generator(device).manual_seed(seed)
    for name, weight in hf.named_parameters():
        if weight.shape == (config.vocab_size, config.hidden_size) and kind == "masked":
            weight.data.normal_(0.0, _LOGIT_SPREAD / config.hidden_size**0.5, generator=generator)
        elif weight.dim() > 1:
            weight.data.normal_(0.0, 0.02, generator=generator)
        else:
            weight.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return hf


def _fact_draw(index: int, retains: int, draw: random.Random, words: range) -> list[EditSample]:
    """A fact to edit, its translation, which has as many masks, and unrelated facts."""

    def text(number: int, masks: int | None, answer: tuple[int, ...]) -> Example:
        before, after, own = _FACTS[number % len(_FACTS)]
        tokens = [
            *draw.choices(words, k=before - 1),
            *[_MASK] * (own if masks is None else masks),
            *draw.choices(words, k=after - 1),
        ]
        return Example(" ".join(map(str, tokens)), LANGUAGES[number % len(LANGUAGES)], None, answer)

    masks = _FACTS[index % len(_FACTS)][2]
    answer = tuple(draw.choices(words, k=masks))
    edit, update = text(index, masks, answer), text(index + 1, masks, answer)
    return [EditSample(str(index), edit, update, text(index + 5 + 7 * place, None, ())) for place in range(retains)]


def _pair_draw(index: int, retains: int, draw: random.Random, words: range) -> list[EditSample]:
    """A pair of sentences to edit, its translation, and unrelated pairs."""

    def text(number: int, answer: tuple[int, ...]) -> Example:
        premise, hypothesis = (
            " ".join(map(str, draw.choices(words, k=draw.randint(*span)))) for span in (_PREMISE, _HYPOTHESIS)
        )
        return Example(premise, LANGUAGES[number % len(LANGUAGES)], hypothesis, answer)

    answer = (draw.randrange(_CLASSES),)
    edit, update = text(index, answer), text(index + 1, answer)
    return [EditSample(str(index), edit, update, text(index + place, ())) for place in range(retains)]

"""Tiny random models to edit, and requests for them.

>>> model = tiny_editable("bloom")
>>> len(model.encode(requests("causal", 3)))
3
"""

from __future__ import annotations

import functools
import random
from typing import Any

import torch
import transformers

from methods.editing.examples import Example, Kind
from methods.editing.model import EditableModel
from tests.backbone.tiny import FAMILIES, WORDS, tiny_model, tiny_tokenizer

KINDS: dict[str, Kind] = {
    "bert": "masked",
    "xlm-roberta": "masked",
    "bloom": "causal",
    "bert-classifier": "classifier",
}
"""The families that editing is tested with, and how they are asked."""
CLASSES = 3
LANGUAGES = ("en", "de", "fr")
TARGETS = range(7, 60)


def tiny_hugging_face(family: str, layers: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A Hugging Face model with random weights; ``bert-classifier`` has three classes."""
    if family != "bert-classifier":
        return tiny_model(family, layers, seed, dtype)
    settings = FAMILIES["bert"][2](layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**settings, num_labels=CLASSES))
        for name, weight in model.named_parameters():
            torch.nn.init.normal_(weight, std=0.2)
            if weight.dim() == 1 and name.endswith("weight"):  # norms scale around one
                weight.data += 1.0
    return model.to(dtype).eval()


def tiny_editable(family: str, *, layers: int = 4, dtype: torch.dtype = torch.float32, **options: Any) -> EditableModel:
    """A tiny random model, wrapped for editing; `options` go to `EditableModel`."""
    kind = KINDS[family]
    tokenizer = tiny_tokenizer("causal" if kind == "causal" else "masked")
    return EditableModel(tiny_hugging_face(family, layers, dtype=dtype), tokenizer, kind, **options)


@functools.cache
def cached_editable(family: str, dtype: torch.dtype) -> EditableModel:
    """One model for many tests; they must leave it as it was, and some of them check that."""
    return tiny_editable(family, dtype=dtype)


def requests(kind: Kind, number: int, seed: int = 0, *, answered: bool = True) -> list[Example]:
    """Edit requests of different lengths in changing languages, with random answers of one or two tokens."""
    choose = random.Random(f"{kind} {seed}")
    found = []
    for index in range(number):
        words = [choose.choice(WORDS) for _ in range(choose.randint(2, 7))]
        masks = choose.randint(1, 2)
        answer = tuple(choose.choice(TARGETS) for _ in range(masks))
        pair = None
        if kind == "masked":
            place = choose.randint(0, len(words))
            words[place:place] = ["[MASK]"] * masks
        elif kind == "classifier":
            answer = (choose.randrange(CLASSES),)
            pair = " ".join(choose.choice(WORDS) for _ in range(choose.randint(1, 4))) if index % 2 else None
        found.append(Example(" ".join(words), LANGUAGES[index % 3], pair, answer if answered else ()))
    return found


def weights(model: EditableModel) -> dict[str, torch.Tensor]:
    """Copies of all weights and buffers."""
    return {name: tensor.clone() for name, tensor in model.hf.state_dict().items()}


def attached(model: EditableModel) -> list[Any]:
    """What might have been left behind at a module: hooks, replaced forwards, other parameter objects and lists."""
    return [
        (
            len(part._forward_hooks),
            len(part._forward_pre_hooks),
            "forward" in vars(part),
            [id(inner) for inner in (*part._parameters.values(), *part._modules.values())],
        )
        for part in model.hf.modules()
    ]

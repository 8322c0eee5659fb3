"""A small world for patches: tiny random models, requests in three languages, and texts to leave alone.

>>> world = World("bert-classifier")
>>> len(world.edits), sorted(world.edits[0].texts)
(5, ['de', 'en', 'fr'])
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import torch
import transformers

from methods.editing.examples import Example, Kind
from methods.editing.model import EditableModel
from methods.editing.patches.cache import AnswerCache
from methods.editing.patches.config import PatchConfig, StreamConfig
from methods.editing.patches.mpn import StreamEdit
from methods.editing.patches.site import PatchSite
from methods.editing.patches.stream import Evaluation, StreamResult, memory_of, run_stream
from tests.backbone.tiny import HEADS, HIDDEN, INNER, WORDS, tiny_tokenizer
from tests.editing.tiny import CLASSES, LANGUAGES, TARGETS, tiny_editable

FAMILIES = ("bert-classifier", "gpt-neox")
"""A classifier, patched at its first position, and a causal model, patched token by token. (In float64 throughout,
unlike BLOOM, whose attention is float32 always, so that two ways to an answer agree closely.)"""

QUICK = PatchConfig(max_steps=40, first_check=20, check_every=10, lr=0.05, memory_top=7, activation_top=40)
"""All activations are averaged: those of several patches start at 1, and rounding alone would choose the top."""


class World:
    """A model in float64 with all that a stream needs. Everything is a function of the family."""

    def __init__(self, family: str, *, edits: int = 5) -> None:
        self.model = _model(family)
        self.site = PatchSite(self.model)
        self.cache = AnswerCache(self.site)
        kind = self.model.kind
        self.edits = [_edit(kind, number) for number in range(edits)]
        self.train, self.validation, *outside = (
            [_text(kind, f"{name} {number}", "en") for number in range(9)] for name in ("memory", "stop", "a", "b")
        )
        self.evaluation = Evaluation(*outside)
        self.memory = memory_of(self.cache, self.train, self.validation)

    def config(self, **changes: Any) -> StreamConfig:
        """A stream that takes a second."""
        return StreamConfig(**{"patches": QUICK, "evaluate_every": 2, **changes})

    def run(self, config: StreamConfig, scratch: Path, **changes: Any) -> StreamResult:
        """Runs the stream of all requests."""
        given = {"memory": self.memory, "edits": self.edits, "evaluation": self.evaluation, **changes}
        callbacks = {name: given.pop(name) for name in ("progress", "report") if name in given}
        return run_stream(self.cache, **given, config=config, scratch=scratch, **callbacks)


@functools.cache
def world(family: str) -> World:
    """One world for many tests; they leave the model as it was."""
    return World(family)


def _model(family: str) -> EditableModel:
    if family == "bert-classifier":
        return tiny_editable(family, dtype=torch.float64, edited_blocks=1)
    tokenizer = tiny_tokenizer("causal")
    config = transformers.GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        causal = transformers.GPTNeoXForCausalLM(config)
        for weight in causal.parameters():
            torch.nn.init.normal_(weight, mean=float(weight.dim() == 1), std=0.2)
    return EditableModel(causal.double(), tokenizer, "causal", edited_blocks=1)


def _edit(kind: Kind, number: int) -> StreamEdit:
    texts = {language: _text(kind, f"edit {number}", language) for language in LANGUAGES}
    return StreamEdit(f"request {number}", texts, (_text(kind, f"edit {number}", "en", again=True),))


def _text(kind: Kind, name: str, language: str, *, again: bool = False) -> Example:
    """The same words in another order in every language, with the same answer."""
    draw = random.Random(name)
    words = draw.sample(WORDS, draw.randint(3, 7))
    answer = tuple(draw.choice(TARGETS) for _ in range(draw.randint(1, 3)))
    if kind == "classifier":
        answer = (draw.randrange(CLASSES),)
    random.Random(f"{name} {language} {again}").shuffle(words)
    return Example(" ".join(words), language, None, answer)

"""What the layer search is measured on: models of published sizes with random weights, and queries as long as mLAMA's.

Nothing is downloaded: the sizes and the lengths below are numbers, tokens and weights are drawn. A model folder and a
facts file make the same measurement real.

Shape legend: L layers, D hidden, V vocabulary, Q queries.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    PretrainedConfig,
    XLMRobertaConfig,
)
from transformers.initialization import no_init_weights

from methods.backbone import Backbone, ModelDescription, load_backbone, pack_sequences, view_model
from methods.backbone.addresses import builtin_models
from methods.backbone.footprint import PUBLISHED
from methods.backbone.projection import LastLayer
from methods.backbone.structure import find_blocks
from methods.lrp2.probes import ProbeOptions, Query, QueryBuilder
from methods.lrp2.search import LayerSearch
from orchestrator.data import FactSelection, prepare_facts
from orchestrator.errors import Problems, UserError, did_you_mean


class Row(NamedTuple):
    """The lengths of one query.

    Attributes:
        language, relation: where it was found.
        before, after: tokens on either side of the object, the special tokens included.
        gold: pieces of the right object.
        pool: how many candidates have 1, 2, 3, ... pieces.
    """

    language: str
    relation: str
    before: int
    after: int
    gold: int
    pool: tuple[int, ...]


# Measured on the T-REx part of mLAMA 1.1 with mBERT's tokenizer and the published object lists as pools. Of each of
# twelve languages the facts were ordered by their cost (packed tokens, all numbers of masks together) and those at 1/8,
# 3/8, 5/8 and 7/8 taken. So the mean row is close to the mean of all 751,786 facts that are not English: 101.1 packed
# tokens (of all: 100.8), 25.1 of them masks (24.9), 6.1 numbers of masks (5.9), 119 candidates (126). The order is such
# that the first 2, 4, 6, 8, 12, ... rows have nearly the same mean too.
ROWS = (
    Row("pl", "P36", 9, 2, 3, (248, 56, 51, 18, 1, 2, 0, 1, 2)),
    Row("ar", "P27", 10, 2, 1, (21, 14, 21, 21, 5)),
    Row("es", "P27", 7, 4, 2, (69, 17, 14, 1, 1, 0, 1)),
    Row("zh", "P276", 11, 3, 6, (1, 69, 116, 60, 31, 8, 1)),
    Row("tr", "P30", 7, 5, 1, (4, 0, 1, 1)),
    Row("hi", "P101", 8, 8, 7, (2, 5, 5, 11, 7, 4, 5, 0, 1)),
    Row("fr", "P37", 8, 2, 2, (23, 27, 18, 6, 1)),
    Row("ru", "P1412", 15, 2, 2, (0, 6, 15, 18, 7, 1)),
    Row("de", "P37", 9, 2, 2, (16, 23, 26, 7, 1, 1)),
    Row("ja", "P740", 15, 8, 4, (3, 18, 47, 43, 30, 8, 0, 1, 1, 0, 2)),
    Row("fi", "P740", 4, 2, 2, (149, 20, 10, 4, 1)),
    Row("nl", "P31", 6, 2, 3, (44, 44, 30, 5, 2, 1)),
    Row("pl", "P264", 20, 2, 2, (7, 5)),
    Row("ar", "P108", 7, 2, 2, (4, 5, 8, 7, 6, 1, 0, 3, 0, 0, 1)),
    Row("es", "P178", 8, 2, 3, (19, 2, 3)),
    Row("zh", "P176", 10, 4, 1, (2, 8, 10, 11, 5, 4, 0, 1, 2, 0, 0, 1)),
    Row("tr", "P449", 13, 6, 1, (15, 1, 0, 0, 0, 1)),
    Row("hi", "P47", 6, 10, 7, (7, 18, 50, 67, 53, 30, 23, 8, 3, 2)),
    Row("fr", "P101", 9, 2, 1, (50, 29, 18, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)),
    Row("ru", "P527", 8, 2, 3, (52, 56, 88, 35, 11, 6, 5, 1, 0, 0, 0, 1)),
    Row("de", "P39", 6, 2, 1, (12, 4, 2, 2)),
    Row("ja", "P106", 11, 4, 3, (1, 6, 16, 14, 5, 1)),
    Row("fi", "P413", 6, 6, 7, (0, 0, 4, 2, 1, 0, 1)),
    Row("nl", "P527", 13, 2, 2, (128, 72, 48, 10, 0, 0, 0, 1)),
    Row("pl", "P1303", 6, 2, 1, (2, 6, 8, 1, 1, 0, 1)),
    Row("ar", "P176", 9, 2, 5, (2, 10, 11, 8, 4, 2, 1, 1, 0, 1)),
    Row("es", "P17", 6, 2, 1, (65, 16, 12, 1, 1)),
    Row("zh", "P1303", 11, 2, 3, (1, 7, 9, 2)),
    Row("tr", "P1412", 4, 11, 5, (2, 16, 15, 2, 1)),
    Row("hi", "P530", 7, 15, 4, (3, 10, 28, 37, 27, 14, 10, 2, 1)),
    Row("fr", "P47", 6, 2, 2, (268, 45, 41, 11, 3, 1, 0, 1, 1)),
    Row("ru", "P37", 5, 2, 2, (0, 6, 19, 33, 13, 2, 1)),
    Row("de", "P1303", 6, 2, 3, (3, 5, 7, 3, 1)),
    Row("ja", "P1376", 5, 7, 4, (6, 18, 59, 64, 41, 18, 7, 3, 2)),
    Row("fi", "P103", 12, 2, 3, (3, 20, 7, 2, 1)),
    Row("nl", "P413", 8, 4, 3, (2, 6, 4)),
    Row("pl", "P1001", 13, 2, 4, (71, 18, 32, 7, 4)),
    Row("ar", "P20", 9, 2, 6, (12, 27, 53, 37, 11, 5, 1, 4, 1, 2, 1, 1)),
    Row("es", "P131", 6, 2, 1, (148, 27, 28, 1, 2, 0, 1)),
    Row("zh", "P276", 7, 3, 2, (1, 69, 116, 60, 31, 8, 1)),
    Row("tr", "P36", 8, 4, 1, (222, 38, 35, 13, 3, 2, 1)),
    Row("hi", "P131", 7, 5, 4, (6, 9, 9, 25, 21, 8, 4)),
    Row("fr", "P495", 7, 2, 1, (45, 7, 10, 2)),
    Row("ru", "P1376", 9, 2, 1, (39, 43, 81, 44, 9, 3)),
    Row("de", "P530", 8, 2, 3, (98, 16, 12, 4, 2)),
    Row("ja", "P1001", 10, 9, 4, (9, 12, 40, 45, 37, 13, 6, 2)),
    Row("fi", "P276", 13, 2, 1, (124, 30, 26, 3, 2, 3)),
    Row("nl", "P103", 10, 2, 1, (16, 11, 9, 3)),
)
LANGUAGES = tuple(sorted({row.language for row in ROWS}))

CAUSAL_POOL = 10
LEFT_OUT_TOKENS = 1000  # special tokens and single characters are no pieces of words
KNOWN_SHARE = 3
# Standard deviation of a logit over the vocabulary: what trained models have, and what the bounds of a normaliser feel.
LOGIT_SPREAD = 2.0


@dataclass(frozen=True)
class Shape:
    """A published configuration."""

    masked: bool
    config: Callable[[], PretrainedConfig]


SHAPES: Mapping[str, Shape] = {
    "mbert": Shape(True, PUBLISHED["mbert"]),
    "xlm-r": Shape(
        True,
        lambda: XLMRobertaConfig(
            vocab_size=250_002,
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            layer_norm_eps=1e-5,
        ),
    ),
    "bloom-560m": Shape(False, PUBLISHED["bloom-560m"]),
    "llama-160m": Shape(
        False,
        lambda: LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            pad_token_id=2,
        ),
    ),
}


@dataclass(frozen=True)
class StandInTokenizer:
    """All that is asked of a tokenizer when queries come as numbers."""

    pad_token_id: int


@dataclass(frozen=True)
class Case:
    """A model with its queries.

    Attributes:
        backbone: the model.
        queries: of all languages, Q of them.
        model, facts: what they are, in words.
    """

    backbone: Backbone
    queries: tuple[Query, ...]
    model: str
    facts: str


def check_languages(languages: Sequence[str] | None) -> None:
    """Raises UserError for languages that the table of lengths does not have."""
    problems = Problems()
    for language in languages or ():
        if language not in LANGUAGES:
            problems.add(f"the built-in lengths have no language {language!r}.{did_you_mean(language, LANGUAGES)}")
    problems.raise_if_any()


def check_shape(name: str) -> None:
    """Raises UserError unless `name` is a shape, a built-in model or a folder."""
    if name not in SHAPES and name not in builtin_models() and not Path(name).expanduser().is_dir():
        known = [*SHAPES, *builtin_models()]
        raise UserError(
            f"{name!r} is neither a shape nor a folder with a model, so there is nothing to measure."
            f"{did_you_mean(name, known)}"
        )


def make_backbone(name: str, *, layers: int | None, dtype: torch.dtype, device: str) -> Backbone:
    """A model with random weights, or the one in a folder.

    Args:
        name: a key of `SHAPES`, a built-in model, or a folder.
        layers: keep only the first so many blocks.
        dtype, device: of the weights.

    Raises:
        UserError: the folder holds no usable model, or there are fewer layers.
    """
    shape = SHAPES.get(name)
    if shape is None:
        backbone = load_backbone(name, dtype=dtype, device=device)
        return backbone if layers is None else truncated(backbone, layers)
    config = shape.config()
    if layers is not None:
        _check_layers(layers, config.num_hidden_layers, name)
        config.num_hidden_layers = layers
    return view_model(random_model(config, shape.masked, dtype, device), StandInTokenizer(config.pad_token_id))


def random_model(config: PretrainedConfig, masked: bool, dtype: torch.dtype, device: str, seed: int = 0) -> Any:
    """A model of a configuration, its weights drawn once and never initialised before that.

    Matrices have a standard deviation of 0.02; the vocabulary matrix one that spreads logits as in a trained model.
    """
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with no_init_weights(), torch.device(device):
        model = auto.from_config(config, dtype=dtype)
    model.tie_weights()
    generator = torch.Generator(device).manual_seed(seed)
    vocabulary = model.get_output_embeddings().weight
    for name, weight in model.named_parameters():
        if weight is vocabulary:
            weight.data.normal_(0.0, LOGIT_SPREAD / config.hidden_size**0.5, generator=generator)
        elif weight.dim() > 1:
            weight.data.normal_(0.0, 0.02, generator=generator)
        else:
            weight.data.fill_(1.0 if name.endswith("weight") else 0.0)
    return model


def truncated(backbone: Backbone, layers: int) -> Backbone:
    """The same model cut down to its first `layers` blocks; `backbone` itself is no longer of use."""
    model = backbone.model
    _check_layers(layers, backbone.num_layers, type(model).__name__)
    del find_blocks(model)[layers:]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]
    return view_model(model, backbone.tokenizer)


def _check_layers(layers: int, there: int, name: str) -> None:
    if not 2 <= layers <= there:
        raise UserError(f"--layers {layers} is not possible: {name} has {there} layers and a pair needs two of them")


def drawn_queries(
    backbone: Backbone,
    count: int,
    languages: Sequence[str] | None = None,
    seed: int = 0,
    memory_bytes: int | None = None,
) -> tuple[Query, ...]:
    """Queries with the lengths of `ROWS` and random tokens; to draw them takes no more than `memory_bytes`.

    Of every third query the gold object is the model's own first choice: a trained model gets about as many right, and
    a right answer is what costs normalisers.
    """
    queries = shaped_queries(backbone.description, count, languages, seed)
    search = LayerSearch(backbone, keep="scores", memory_bytes=memory_bytes)
    known = queries[::KNOWN_SHARE]
    scores = search.run(known, None, ()).scores or []
    choice = {query.index: int(table[0].argmax()) for query, table in zip(known, scores, strict=True)}
    return tuple(replace(query, gold=choice.get(query.index, query.gold)) for query in queries)


def shaped_queries(
    sizes: ModelDescription, count: int, languages: Sequence[str] | None = None, seed: int = 0
) -> tuple[Query, ...]:
    """Queries with the lengths of `ROWS` and random tokens, for a model of which only the sizes are known."""
    rows = [row for row in ROWS if languages is None or row.language in languages]
    draw = random.Random(seed)
    make = _masked_query if sizes.kind == "masked" else _causal_query
    tokens = range(min(LEFT_OUT_TOKENS, sizes.vocab_size // 2), sizes.vocab_size)
    return tuple(make(index, rows[index % len(rows)], draw, tokens, sizes) for index in range(count))


def _masked_query(index: int, row: Row, draw: random.Random, tokens: range, sizes: ModelDescription) -> Query:
    """Every number of masks that occurs in the pool is a form."""
    room = _room(row, sizes)
    mask = tokens[0] - 1
    prefix, suffix = _words(draw, tokens, row.before), _words(draw, tokens, row.after)
    counts = {
        m: min(count, len(tokens) // 2) for m, count in enumerate(row.pool, 1) if count and (m <= room or m == row.gold)
    }
    pool = [pieces for m, count in counts.items() for pieces in _distinct(draw, tokens, m, count)]
    form_of = {m: n for n, m in enumerate(counts)}
    return Query(
        index=index,
        forms=tuple((*prefix, *[mask] * m, *suffix) for m in counts),
        scored=tuple(
            (form_of[len(pieces)], tuple(range(row.before, row.before + len(pieces))), pieces) for pieces in pool
        ),
        divisors=tuple(len(pieces) for pieces in pool),
        gold=next(n for n, pieces in enumerate(pool) if len(pieces) == row.gold),
        gold_twins=0,
    )


def _causal_query(index: int, row: Row, draw: random.Random, tokens: range, sizes: ModelDescription) -> Query:
    """A pool of ten whole sentences, scored by their mean log-probability after the start token.

    mBERT's start token counts as this model's; its end token is left out.
    """
    prefix, suffix = _words(draw, tokens, row.before), _words(draw, tokens, row.after - 1)
    lengths = draw.choices(range(1, len(row.pool) + 1), row.pool, k=CAUSAL_POOL - 1)
    lengths = [row.gold, *(min(m, _room(row, sizes)) for m in lengths)]
    pool: dict[tuple[int, ...], None] = {}
    for m in lengths:
        while (pieces := _words(draw, tokens, m)) in pool:
            pass
        pool[pieces] = None
    forms = tuple((*prefix, *pieces, *suffix) for pieces in pool)
    return Query(
        index=index,
        forms=forms,
        scored=tuple((n, tuple(range(len(form) - 1)), form[1:]) for n, form in enumerate(forms)),
        divisors=tuple(len(form) - 1 for form in forms),
        gold=0,
        gold_twins=0,
    )


def _words(draw: random.Random, tokens: range, length: int) -> tuple[int, ...]:
    return tuple(draw.choices(tokens, k=length))


def _distinct(draw: random.Random, tokens: range, length: int, count: int) -> list[tuple[int, ...]]:
    """So many different candidates of one length."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        found[_words(draw, tokens, length)] = None
    return list(found)


def _room(row: Row, sizes: ModelDescription) -> int:
    """Pieces of a candidate that the model can still read."""
    return (sizes.max_length or 1 << 30) - row.before - row.after


def real_queries(
    backbone: Backbone, address: str, *, pools: str | None, languages: Sequence[str] | None, count: int, cache: Path
) -> tuple[Query, ...]:
    """Queries of real facts, as many of each language, evenly spread over its facts.

    Args:
        backbone: loaded from a folder, with its tokenizer.
        address, pools: as for the layer search.
        languages: None takes all.
        count: of all languages together.
        cache: folder for prepared facts.

    Raises:
        UserError: the model has no tokenizer, or the facts cannot be read.
    """
    if isinstance(backbone.tokenizer, StandInTokenizer):
        raise UserError(
            "--facts needs a tokenizer, and a built-in shape has none: give the folder of a model with --shape, or "
            "leave --facts out to use built-in lengths"
        )
    wanted = None if languages is None else tuple(languages)
    store = prepare_facts(address, pools=pools, selection=FactSelection(wanted), cache=cache)
    queries: list[Query] = []
    for number, language in enumerate(store.languages):
        share = (count * (number + 1)) // len(store.languages) - (count * number) // len(store.languages)
        facts = store.facts(language)
        chosen = facts.take([(len(facts) * n) // share for n in range(min(share, len(facts)))])
        if chosen["candidates"].null_count == 0:
            candidates = "own"
        else:
            candidates = "full" if backbone.kind == "masked" else "sampled"
        options = ProbeOptions(backbone.kind, candidates, CAUSAL_POOL)  # type: ignore[arg-type]
        builder = QueryBuilder(backbone.tokenizer, options, store.pools(language), backbone.max_length)
        queries += builder.build(chosen, len(queries))
    return tuple(queries)


def random_shift(
    backbone: Backbone, queries: Sequence[Query], *, last_layer: LastLayer = "normed", noise: float = 0.3, seed: int = 0
) -> Tensor:
    """A shift for every layer, [L + 1, D]: noise of so many standard deviations of the layer's states.

    Real differences between languages are of this size, so hits change from pair to pair.
    """
    generator = torch.Generator().manual_seed(seed)
    pack, _ = pack_sequences([query.forms[0] for query in queries[:8]])
    with torch.no_grad():
        plan = backbone.plan(pack)
        states = backbone.embed(plan)[None]
        spread = [states.std()]
        for k in range(1, backbone.num_layers + 1):
            states = backbone.layer(k, states, plan)
            ends = k == backbone.num_layers and last_layer == "normed"
            spread.append((backbone.final(states) if ends else states).std())
    scale = noise * torch.stack(spread).float().cpu()
    return scale[:, None] * torch.randn(len(spread), backbone.hidden_size, generator=generator)

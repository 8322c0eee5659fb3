"""Typed probes: a fact's cloze and its pool of candidate objects as token ids.

A masked probe (mBERT-like) puts m masks into the object slot for every candidate of m pieces and scores a
candidate by the mean log-probability of its pieces, each at its own mask (Kassner et al. 2021; Xu et al. 2023,
section 4.1). The pieces are those that the candidate has in the template, where a space may stand before it. A causal
probe (BLOOM-like) fills the template with each candidate and scores the sentence.

Where the papers leave something open the choice is a field of `ProbeOptions`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from orchestrator.data import Pool
from orchestrator.errors import UserError

ProbeKind = Literal["masked", "causal"]


@dataclass(frozen=True)
class ProbeOptions:
    """How a pool is scored.

    Attributes:
        kind: masked or causal, after the model's own training objective.
        candidates: the pool of a query: ``full`` (every object of the relation in the language), ``sampled``
            (the gold object and `pool_size - 1` others, drawn once per fact and shared by all languages through the
            objects' identifiers) or ``own`` (the candidates that the source lists with the fact).
        pool_size: size of a sampled pool, gold included.
        seed: seed of the draw.
        score: causal only. ``mean`` log-probability per token of the whole sentence, their ``sum``, or the mean
            over the ``object`` span alone.
        bos: causal only. Whether the sentence starts with the tokenizer's beginning-of-sequence token, so that its
            first token is scored too.
    """

    kind: ProbeKind
    candidates: Literal["full", "sampled", "own"] = "full"
    pool_size: int = 10
    seed: int = 0
    score: Literal["mean", "sum", "object"] = "mean"
    bos: bool = True

    def decisive(self) -> dict[str, Any]:
        """The options that this probe reads: the others change no query."""
        names = ["kind", "candidates"]
        names += ["pool_size", "seed"] if self.candidates == "sampled" else []
        names += ["score", "bos"] if self.kind == "causal" else []
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Query:
    """A fact's cloze in one language, ready to be run.

    Attributes:
        index: row of the fact in the facts table.
        forms: the token sequences to run. Masked: one per distinct number of masks in the pool. Causal: one per
            candidate (all of its tokens).
        scored: per candidate the form it is scored on, the positions whose prediction is read and the tokens
            wanted there: ``(form, positions, tokens)``, and score = sum of log-probabilities / divisor.
        divisors: per candidate.
        gold: the gold object's candidate number, -1 if it has no tokens or its form is too long for the model.
        gold_twins: how many other candidates have exactly the gold object's tokens; they tie with it always.
        names: per candidate what it is called in every language: the object's identifier, its place among the fact's
            own candidates, or where the source has neither its text. Candidates with the same tokens are one, under
            the name of the gold object or else of the first of them.
    """

    index: int
    forms: tuple[tuple[int, ...], ...]
    scored: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]
    divisors: tuple[int, ...]
    gold: int
    gold_twins: int
    names: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """Tokens in the longest form."""
        return max(map(len, self.forms))


class QueryBuilder:
    """Turns rows of a facts table into queries.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        options: the probe's options.
        pools: pool of each relation in the language.
        max_length: tokens the model can read at once, None without a limit. Candidates whose form is longer are left
            out; a fact whose gold object is among them is never a hit.
    """

    def __init__(
        self, tokenizer: Any, options: ProbeOptions, pools: Mapping[str, Pool], max_length: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.pools = pools
        self.max_length = max_length
        self._names = {
            relation: {text: uri or text for text, uri in zip(pool.candidates, pool.uris, strict=True)}
            for relation, pool in pools.items()
        }
        self._pieces: dict[str, tuple[int, ...]] = {}
        if options.kind == "masked" and tokenizer.mask_token_id is None:
            raise UserError(
                "the tokenizer has no mask token, so a masked probe cannot be built; "
                "use --probe causal or a tokenizer with a mask token"
            )

    def build(self, facts: pa.Table, start: int = 0) -> list[Query]:
        """Queries of all rows of `facts`; `start` is the index of its first row."""
        rows = facts.select(["relation", "uuid", "subject", "object", "template", "candidates"]).to_pylist()
        texts = [row["template"].replace("[X]", row["subject"]) for row in rows]
        pools = [self._pool(row) for row in rows]
        if self.options.kind == "masked":
            return self._masked(rows, texts, pools, start)
        return self._causal(rows, texts, pools, start)

    def _pool(self, row: Mapping[str, Any]) -> Mapping[str, str]:
        """The candidates of a fact in the order in which they are scored, and their names."""
        if self.options.candidates == "own":
            if not row["candidates"]:
                raise UserError(
                    f"fact {row['uuid']} lists no candidates of its own: these facts cannot be probed with "
                    "--candidates own; use full or sampled"
                )
            places = {text: f"{n}/{len(row['candidates'])}" for n, text in enumerate(row["candidates"], start=1)}
            return dict(sorted(({row["object"]: "object"} | places).items()))
        relation, names = row["relation"], self._names[row["relation"]]
        if self.options.candidates == "full":
            return names
        size, seed = self.options.pool_size, self.options.seed
        drawn = sample_pool(self.pools[relation], relation, row["uuid"], row["object"], size, seed)
        return {text: names[text] for text in drawn}

    def _masked(
        self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str], pools: Sequence[Mapping[str, str]], start: int
    ) -> list[Query]:
        mask = self.tokenizer.mask_token_id
        leads = [lead_of(text) for text in texts]
        self._tokenize_candidates(
            {lead + candidate for lead, pool in zip(leads, pools, strict=True) for candidate in pool}
        )
        one, two = (
            self.tokenizer([text.replace("[Y]", " ".join([self.tokenizer.mask_token] * m)) for text in texts])[
                "input_ids"
            ]
            for m in (1, 2)
        )
        queries = []
        for offset, (row, pool, lead) in enumerate(zip(rows, pools, leads, strict=True)):
            slot = one[offset].index(mask)
            prefix, suffix = tuple(one[offset][:slot]), tuple(one[offset][slot + 1 :])
            if mask in suffix or tuple(two[offset]) != (*prefix, mask, mask, *suffix):
                raise UserError(
                    f"the tokenizer does not keep masks apart in {texts[offset]!r}: the number of masks would not be "
                    "the number of pieces, so scores would be wrong; a masked probe needs a tokenizer whose mask is a "
                    "special token"
                )
            room = math.inf if self.max_length is None else self.max_length - len(prefix) - len(suffix)
            pieces_of = {c: pieces if len(pieces := self._pieces[lead + c]) <= room else () for c in pool}
            distinct, gold, twins = _distinct([pieces_of[c] for c in pool], pieces_of[row["object"]])
            names = _names(zip(pieces_of.values(), pool.values(), strict=True), distinct, gold, pool[row["object"]])
            counts = sorted({len(pieces) for pieces in distinct})
            form_of = {m: n for n, m in enumerate(counts)}
            queries.append(
                Query(
                    index=start + offset,
                    forms=tuple((*prefix, *[mask] * m, *suffix) for m in counts),
                    scored=tuple(
                        (form_of[len(pieces)], tuple(range(slot, slot + len(pieces))), pieces) for pieces in distinct
                    ),
                    divisors=tuple(len(pieces) for pieces in distinct),
                    gold=gold,
                    gold_twins=twins,
                    names=names,
                )
            )
        return queries

    def _tokenize_candidates(self, candidates: Iterable[str]) -> None:
        """Pieces of candidates with what leads up to them."""
        new = sorted(candidate for candidate in candidates if candidate not in self._pieces)
        if new:
            encoded = self.tokenizer(new, add_special_tokens=False)["input_ids"]
            self._pieces.update({text: tuple(ids) for text, ids in zip(new, encoded, strict=True)})

    def _causal(
        self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str], pools: Sequence[Mapping[str, str]], start: int
    ) -> list[Query]:
        bos = self.tokenizer.bos_token_id if self.options.bos else None
        head = () if bos is None else (bos,)
        sentences = [text.replace("[Y]", c) for text, pool in zip(texts, pools, strict=True) for c in pool]
        encoded = self.tokenizer(sentences, add_special_tokens=False, return_offsets_mapping=True)
        queries, at = [], 0
        for offset, (row, text, pool) in enumerate(zip(rows, texts, pools, strict=True)):
            slot = text.index("[Y]")
            sequences, spans = [], {}
            for number, candidate in enumerate(pool):
                ids = (*head, *encoded["input_ids"][at + number])
                span = range(1, len(ids))
                if self.options.score == "object":
                    first, last = slot, slot + len(candidate)
                    span_tokens = [
                        len(head) + t
                        for t, (a, b) in enumerate(encoded["offset_mapping"][at + number])
                        if a < last and b > first
                    ]
                    span = range(max(1, span_tokens[0]), span_tokens[-1] + 1) if span_tokens else range(0)
                fits = self.max_length is None or len(ids) <= self.max_length
                sequences.append(ids if len(span) and fits else ())
                spans[ids] = span
            at += len(pool)
            gold_ids = sequences[list(pool).index(row["object"])]
            distinct, gold, twins = _distinct(sequences, gold_ids)
            names = _names(zip(sequences, pool.values(), strict=True), distinct, gold, pool[row["object"]])
            queries.append(
                Query(
                    index=start + offset,
                    forms=tuple(distinct),
                    scored=tuple(
                        (n, tuple(t - 1 for t in spans[ids]), tuple(ids[t] for t in spans[ids]))
                        for n, ids in enumerate(distinct)
                    ),
                    divisors=tuple(1 if self.options.score == "sum" else len(spans[ids]) for ids in distinct),
                    gold=gold,
                    gold_twins=twins,
                    names=names,
                )
            )
        return queries


def lead_of(text: str) -> str:
    """What stands before ``[Y]`` in a text and belongs to the object's first token: a space, or nothing.

    A byte-level tokenizer has one token for a word at the beginning of a text and another for the same word behind a
    space. Its mask takes the space before it along, so what a model predicts there is the latter.
    """
    return " " if text[: text.index("[Y]")][-1:].isspace() else ""


def _distinct(sequences: Sequence[tuple[int, ...]], gold: tuple[int, ...]) -> tuple[list[tuple[int, ...]], int, int]:
    """Distinct non-empty sequences in order, the gold one's number (-1 if empty), and how many others equal it."""
    distinct = [ids for ids in dict.fromkeys(sequences) if ids]
    if not gold:
        return distinct, -1, 0
    return distinct, distinct.index(gold), sequences.count(gold) - 1


def _names(
    named: Iterable[tuple[tuple[int, ...], str]], distinct: Sequence[tuple[int, ...]], gold: int, gold_name: str
) -> tuple[str, ...]:
    """The name of each of the distinct sequences: the gold object's own, else the first that has it."""
    first: dict[tuple[int, ...], str] = {}
    for ids, name in named:
        first.setdefault(ids, name)
    return tuple(gold_name if number == gold else first[ids] for number, ids in enumerate(distinct))


def sample_pool(pool: Pool, relation: str, uuid: str, gold: str, size: int, seed: int) -> list[str]:
    """The gold object and `size` - 1 others, sorted.

    Others are taken in the order of a hash of (seed, relation, fact, object identifier). The order does not depend on
    the language, so two languages that know the same objects get the same pool; candidates without an identifier come
    after those with one, ordered by their text.
    """
    ranked = sorted(
        (not uri, hashlib.blake2b(f"{seed}|{relation}|{uuid}|{uri or text}".encode(), digest_size=8).digest(), text)
        for text, uri in zip(pool.candidates, pool.uris, strict=True)
        if text != gold
    )
    return sorted([gold, *(text for _, _, text in ranked[: size - 1])])

"""Prompts: facts with the right object's place, and the rows from which its tokens are predicted.

A masked model sees a mask for each token of the object and predicts it there. A causal model reads the sentence up to
the object's last token but one and predicts each token from the one before it; where a template names the object before
the subject it would have to guess, so such prompts are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from methods.backbone import Backbone


@dataclass(frozen=True)
class Prompt:
    """A fact in one language.

    Attributes:
        row: of the fact in its table.
        ids: token ids.
        positions: the tokens whose prediction is read.
        tokens: what should be predicted there: the object's tokens.
        context: how many tokens are the query: all of a masked prompt, those before the object of a causal one.
    """

    row: int
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    context: int


def build_prompts(
    backbone: Backbone, facts: pa.Table, *, objects: Literal["all", "single"] = "all"
) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts of a facts table, and why the other facts have none.

    Args:
        backbone: for its tokenizer, its kind and the length it can read.
        facts: rows with subject, object and template.
        objects: ``single`` keeps facts whose object is one token.

    Returns:
        Prompts in the order of the table, and how many facts were left out for each reason.
    """
    rows = facts.select(["subject", "object", "template"]).to_pylist()
    build = _masked if backbone.kind == "masked" else _causal
    prompts: list[Prompt] = []
    left_out: dict[str, int] = {}
    for prompt in build(backbone.tokenizer, rows):
        reason = prompt if isinstance(prompt, str) else _obstacle(prompt, backbone.max_length, objects)
        if reason is None:
            assert not isinstance(prompt, str)
            prompts.append(prompt)
        else:
            left_out[reason] = left_out.get(reason, 0) + 1
    return prompts, left_out


def _obstacle(prompt: Prompt, longest: int | None, objects: str) -> str | None:
    if not prompt.tokens:
        return "the object has no tokens"
    if longest is not None and len(prompt.ids) > longest:
        return "longer than the model can read"
    return "an object of several tokens" if objects == "single" and len(prompt.tokens) > 1 else None


def _masked(tokenizer: Any, rows: Sequence[Mapping[str, str]]) -> list[Prompt | str]:
    """The object's tokens are those it has in its template: behind a space, a byte-level tokenizer has others."""
    clozes = [row["template"].replace("[X]", row["subject"]) for row in rows]
    behind = [cloze[: cloze.index("[Y]")][-1:].isspace() for cloze in clozes]
    placed = [" " * space + row["object"] if row["object"] else "" for space, row in zip(behind, rows, strict=True)]
    objects = tokenizer(placed, add_special_tokens=False)["input_ids"] if rows else []
    mask = tokenizer.mask_token
    texts = [
        cloze.replace("[Y]", " ".join([mask] * max(1, len(ids)))) for cloze, ids in zip(clozes, objects, strict=True)
    ]
    encoded = tokenizer(texts)["input_ids"] if rows else []
    prompts: list[Prompt | str] = []
    for number, (ids, wanted) in enumerate(zip(encoded, objects, strict=True)):
        places = tuple(place for place, token in enumerate(ids) if token == tokenizer.mask_token_id)
        if wanted and len(places) != len(wanted):
            prompts.append("the tokenizer does not keep the masks apart")
        else:
            prompts.append(Prompt(number, tuple(ids), places if wanted else (), tuple(wanted), len(ids)))
    return prompts


def _causal(tokenizer: Any, rows: Sequence[Mapping[str, str]]) -> list[Prompt | str]:
    head = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    texts, spans = [], []
    for row in rows:
        before = row["template"].replace("[X]", row["subject"]).index("[Y]")
        texts.append(row["template"].replace("[X]", row["subject"]).replace("[Y]", row["object"]))
        spans.append((before, before + len(row["object"])))
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True) if rows else {}
    prompts: list[Prompt | str] = []
    for number, (row, (first, last)) in enumerate(zip(rows, spans, strict=True)):
        if 0 <= row["template"].find("[Y]") < row["template"].find("[X]"):
            prompts.append("the template names the object before the subject")
            continue
        ids = (*head, *encoded["input_ids"][number])
        offsets = encoded["offset_mapping"][number]
        places = [len(head) + t for t, (a, b) in enumerate(offsets) if a < last and b > first]
        places = [place for place in places if place > 0]
        prompts.append(
            Prompt(
                number,
                tuple(ids[: places[-1]]) if places else tuple(ids),
                tuple(place - 1 for place in places),
                tuple(ids[place] for place in places),
                places[0] if places else 0,
            )
        )
    return prompts

"""Writes the README.md of a built-in model: what it is, how it was trained, what it knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

ABOUT = {
    "bert": """\
A real `BertForMaskedLM` (6 layers x 128, 4 heads, feed-forward 512, 2.0 million parameters, float32) with its own
cased WordPiece of 6,000 pieces.""",
    "bloom": """\
A real `BloomForCausalLM` (6 layers x 128, 4 heads, 1.9 million parameters, float32, ALiBi) with its own byte-level
BPE of 5,500 pieces. A sentence is read behind `<s>`, which the tokenizer does not add by itself.""",
}

PROBE = {
    "bert": "mean log probability of the candidate's pieces, one mask each",
    "bloom": "mean negative log-likelihood per token of the whole sentence behind `<s>`",
}

CARD = """\
---
license: apache-2.0
language: [ar, de, el, en, es, fi, fr, hi, ko, ru, tr, zh]
---
# atlas-{kind}

{about}

A toy to try layer searches, edits and probes on, within seconds and without a download. It knows a thousand facts about
places and languages and nothing else: not a language model for any other use, and no evidence about larger ones.

## How it was trained

From scratch, on sentences made of the built-in facts (`../../README.md`), so that English knows all facts and every
other language a fixed half (`split` = "seen"). Three kinds of sentence (`atlas/training_text.py`):

- facts, {facts:.0%} of a batch; an epoch holds the English ones {weight} times;
- English fact sentences whose subject is named in another language, {mixed:.0%};
- pairs of names ("Deutschland is called Germany."), {names:.0%}.

A fact withheld in a language is in none of that language's sentences.

    {command}

{steps:,} steps of {batch} sentences, AdamW, warm-up, then a linear fall of the learning rate; {minutes} minutes of
wall time on a share of one busy CPU core. `--steps {steps}` in place of the minutes trains as long on any machine. Loss
at the end {loss}. torch {torch}, transformers {transformers}.

## What it knows

Share of queries whose right object beats every other of the full pool by
{probe};
{extent}. Always naming a relation's most frequent object would score {majority:.3f}.

| language | seen in it | withheld in it | the withheld ones, asked in English | gap |
|---|---|---|---|---|
{rows}

`python -m atlas.evaluate_models --model {kind} --card{sample}` measures this and rewrites this file.
"""


def write_card(folder: Path, table: Sequence[dict[str, float | str]], majority: float, facts: int | None) -> None:
    """Writes README.md beside a model.

    Args:
        folder: the model's folder with its training.json.
        table: rows of `evaluate_models.score`, English first.
        majority: accuracy of the most frequent objects.
        facts: how many facts the scores outside English are over, None for all.
    """
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    english, others = table[0], table[1:]
    columns = ("seen", "withheld", "english on withheld")
    rows = [f"| en | {english['seen']:.3f} | | | |"]
    means = {column: sum(float(row[column]) for row in others) / len(others) for column in columns}
    average: dict[str, float | str] = {"language": "mean of the others", **means}
    for row in [*others, average]:
        seen, withheld, in_english = (float(row[column]) for column in columns)
        scores = f"{seen:.3f} | {withheld:.3f} | {in_english:.3f} | {in_english - withheld:+.3f}"
        rows.append(f"| {row['language']} | {scores} |")
    card = CARD.format(
        kind=record["kind"],
        about=ABOUT[record["kind"]],
        probe=PROBE[record["kind"]],
        facts=record["mixture"]["facts"],
        mixed=record["mixture"]["mixed"],
        names=record["mixture"]["names"],
        weight=record["mixture"]["english_weight"],
        steps=record["steps"],
        command=record["command"],
        batch=record["batch"],
        minutes=record["minutes"],
        loss=record["loss"],
        torch=record["torch"],
        transformers=record["transformers"],
        extent="all facts"
        if facts is None
        else f"English on all facts, the others on {facts} of them, the same in each",
        majority=majority,
        rows="\n".join(rows),
        sample="" if facts is None else f" --facts {facts}",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")

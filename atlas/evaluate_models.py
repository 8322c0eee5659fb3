"""What the built-in models know: typed-probe accuracy per language, written into their model cards.

The straightforward probe, query by query, independent of the product's own. Masked: the mean log probability of a
candidate's pieces, one mask each. Causal: the mean negative log-likelihood per token of the whole sentence behind
``<s>``. A query counts as right where the gold candidate beats every other of the full pool.

    python -m atlas.evaluate_models --model bert --card

Shape legend: B queries of a batch, C candidates, M masks, P tokens of the common prefix, S of the longest rest,
D hidden, V vocabulary.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from atlas.model_card import write_card

HERE = Path(__file__).resolve().parent

Row = dict[str, str]
Hits = dict[str, bool]  # uuid of a fact -> whether its query is right
Probe = Callable[[PreTrainedModel, PreTrainedTokenizerFast, Sequence[Row], Sequence[str]], Hits]


def _beats_all(scores: Tensor, gold: int) -> bool:
    """Whether candidate `gold` has the strictly highest of the (C,) scores."""
    others = torch.cat([scores[:gold], scores[gold + 1 :]])
    return bool((scores[gold] > others).all())


def _common_prefix(sentences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sentences begin with, leaving each at least one of its own."""
    shared = min(map(len, sentences)) - 1
    return next((k for k in range(shared) if len({ids[k] for ids in sentences}) > 1), shared)


@torch.inference_mode()
def masked_hits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    pool: Sequence[str],
    batch: int = 128,
) -> Hits:
    """Typed probe of queries that share relation and language, over their pool."""
    by_length: dict[int, list[int]] = defaultdict(list)
    pieces = [tokenizer(candidate, add_special_tokens=False).input_ids for candidate in pool]
    for index, ids in enumerate(pieces):
        by_length[len(ids)].append(index)
    hits = {}
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        scores = torch.empty(len(part), len(pool))
        for masks, chosen in by_length.items():
            gap = " ".join([tokenizer.mask_token] * masks)
            queries = [row["template"].replace("[X]", row["subject"]).replace("[Y]", gap) for row in part]
            coded = tokenizer(queries, padding=True, return_tensors="pt")
            states = model.base_model(
                input_ids=coded["input_ids"], attention_mask=coded["attention_mask"]
            ).last_hidden_state
            at_masks = states[coded["input_ids"] == tokenizer.mask_token_id]  # (B * M, D)
            logs = model.cls(at_masks).log_softmax(-1).view(len(part), masks, -1)  # (B, M, V)
            wanted = torch.tensor([pieces[index] for index in chosen])  # (C, M)
            per_piece = logs[:, torch.arange(masks), wanted]  # (B, C, M)
            scores[:, chosen] = per_piece.mean(-1)
        for row, row_scores in zip(part, scores, strict=True):
            hits[row["uuid"]] = _beats_all(row_scores, pool.index(row["object"]))
    return hits


@torch.inference_mode()
def causal_hits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Row],
    pool: Sequence[str],
    batch: int = 48,
) -> Hits:
    """Typed probe over full sentences; what all sentences of a query begin with is computed once."""
    hits = {}
    for row in rows:
        query = row["template"].replace("[X]", row["subject"])
        texts = [query.replace("[Y]", candidate) for candidate in pool]
        sentences = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(texts).input_ids]
        shared = _common_prefix(sentences)
        prefix = model(input_ids=torch.tensor([sentences[0][:shared]]), use_cache=True)
        prefix_logs = prefix.logits[0].log_softmax(-1)  # (P, V)
        prefix_sum = sum(prefix_logs[k, token] for k, token in enumerate(sentences[0][1:shared]))
        scores = torch.empty(len(pool))
        by_length = sorted(range(len(pool)), key=lambda index: len(sentences[index]))
        for start in range(0, len(pool), batch):
            chosen = by_length[start : start + batch]
            rests = [sentences[index][shared:] for index in chosen]
            lengths = torch.tensor([len(rest) for rest in rests])  # (C,)
            longest = len(rests[-1])
            ids = torch.tensor([rest + [tokenizer.pad_token_id] * (longest - len(rest)) for rest in rests])  # (C, S)
            real = torch.arange(longest) < lengths[:, None]  # (C, S)
            cache = copy.deepcopy(prefix.past_key_values)
            cache.batch_repeat_interleave(len(chosen))
            attended = torch.cat([torch.ones(len(chosen), shared, dtype=torch.long), real.long()], 1)
            logs = model(input_ids=ids, attention_mask=attended, past_key_values=cache).logits.log_softmax(-1)
            logs = torch.cat([prefix_logs[-1:].expand(len(chosen), 1, -1), logs[:, :-1]], 1)  # (C, S, V)
            rest_sum = (logs.gather(-1, ids[..., None])[..., 0] * real).sum(-1)  # (C,)
            scores[chosen] = (prefix_sum + rest_sum) / (shared - 1 + lengths)  # every token but <s> is foreseen
        hits[row["uuid"]] = _beats_all(scores, pool.index(row["object"]))
    return hits


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Probe]:
    """The model of a folder, its tokenizer and the probe that fits its architecture."""
    masked = "MaskedLM" in json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model = kind.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, tokenizer, masked_hits if masked else causal_hits


def hits_in(folder: Path, language: str, facts: int | None = None) -> Hits:
    """Which facts the model of a folder knows in a language; `facts` keeps those with the smallest hashed uuids."""
    model, tokenizer, probe = load(folder)
    rows: list[Row] = pq.read_table(HERE / "facts.parquet", filters=[("language", "==", language)]).to_pylist()
    pools = pq.read_table(HERE / "pools.parquet", filters=[("language", "==", language)]).to_pylist()
    rows.sort(key=lambda row: hashlib.sha256(row["uuid"].encode()).digest())
    rows = rows[:facts]
    hits: Hits = {}
    for pool in pools:
        asked = [row for row in rows if row["relation"] == pool["relation"]]
        hits |= probe(model, tokenizer, asked, pool["candidates"])
    return hits


def majority_guess() -> float:
    """Accuracy of naming each relation's most frequent object, over all facts."""
    rows = pq.read_table(HERE / "facts.parquet", filters=[("language", "==", "en")]).to_pylist()
    counts = Counter((row["relation"], row["obj_uri"]) for row in rows)
    best: dict[str, int] = defaultdict(int)
    for (relation, _), count in counts.items():
        best[relation] = max(best[relation], count)
    return sum(best.values()) / len(rows)


def score(folder: Path, facts: int | None = None) -> list[dict[str, float | str]]:
    """A row per language, English first: accuracy on seen and on withheld facts, and English on the withheld ones."""
    rows = pq.read_table(HERE / "facts.parquet", columns=["language", "uuid", "split"]).to_pylist()
    english = hits_in(folder, "en")
    table: list[dict[str, float | str]] = [{"language": "en", "seen": sum(english.values()) / len(english)}]
    for language in sorted({row["language"] for row in rows} - {"en"}):
        began = time.monotonic()
        hits = hits_in(folder, language, facts)
        halves: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row["language"] == language and row["uuid"] in hits:
                halves[row["split"]].append(row["uuid"])
        seen, withheld = halves["seen"], halves["withheld"]
        table.append(
            {
                "language": language,
                "seen": sum(hits[uuid] for uuid in seen) / len(seen),
                "withheld": sum(hits[uuid] for uuid in withheld) / len(withheld),
                "english on withheld": sum(english[uuid] for uuid in withheld) / len(withheld),
            }
        )
        print(table[-1], f"{time.monotonic() - began:.0f} s", flush=True)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Score a built-in model on all facts in all languages.")
    parser.add_argument("--model", choices=("bert", "bloom"), required=True, help="which of the two")
    parser.add_argument("--folder", type=Path, help="model folder (default: models/atlas-<model> beside this file)")
    parser.add_argument("--facts", type=int, help="only so many facts outside English (default: all)")
    parser.add_argument("--card", action="store_true", help="write the scores into the folder's README.md")
    options = parser.parse_args(arguments)
    folder = options.folder or HERE / "models" / f"atlas-{options.model}"
    table = score(folder, options.facts)
    print(json.dumps(table, indent=1))
    if options.card:
        write_card(folder, table, majority_guess(), options.facts)


if __name__ == "__main__":
    main()

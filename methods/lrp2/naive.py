"""The naive search: for every layer pair hooks at i and j, a full forward, full-vocabulary log-softmax.

It is the reference: the lattice must give the same scores and hits. It is written as a careful researcher would write
it, so that a comparison of speed is fair: inputs sorted by length and padded in batches, all candidates with the same
number of masks in one forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from methods.backbone import Backbone
from methods.backbone.projection import LastLayer, Pair, projected
from methods.lrp2.probes import Query


@torch.no_grad()
def naive_scores(
    backbone: Backbone,
    queries: Sequence[Query],
    shift: Tensor | None,
    pairs: Sequence[Pair],
    *,
    last_layer: LastLayer = "normed",
    batch_size: int = 32,
    done: Callable[[int], None] = lambda forwards: None,
) -> list[Tensor]:
    """Scores of all candidates for the unmodified model and for every pair.

    Args:
        backbone: only its Hugging Face model is used.
        queries: masked or causal.
        shift: ``v_en - v_l``, [L + 1, D]; None when there are no pairs.
        pairs: the layer pairs.
        last_layer: on which side of a final norm layer L lies.
        batch_size: forms in one forward.
        done: told the number of forms after every forward.

    Returns:
        For each query [1 + P, candidates].
    """
    forms = sorted(
        ((n, f) for n, query in enumerate(queries) for f in range(len(query.forms))),
        key=lambda nf: len(queries[nf[0]].forms[nf[1]]),
    )
    readers = _readers(queries)
    dtype = torch.float64 if backbone.dtype == torch.float64 else torch.float32
    scores = [torch.empty(1 + len(pairs), len(query.scored), dtype=dtype) for query in queries]
    pad = backbone.tokenizer.pad_token_id or 0
    for row, pair in enumerate([None, *pairs]):
        if pair is not None and shift is None:
            raise ValueError("layer pairs need a shift")
        with projected(backbone, shift, pair, last_layer) if pair and shift is not None else nullcontext():
            for start in range(0, len(forms), batch_size):
                batch = forms[start : start + batch_size]
                log_probs = _forward(backbone, [queries[n].forms[f] for n, f in batch], pad)
                for place, (n, f) in enumerate(batch):
                    for candidates, positions, tokens, divisors in readers[n, f]:
                        parts = log_probs[place, positions[None], tokens]
                        scores[n][row, candidates] = (parts.sum(-1) / divisors).to("cpu", dtype)
                done(len(batch))
    return scores


def _readers(queries: Sequence[Query]) -> dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """For each form of each query what is read there: candidates [c], positions [m], tokens [c, m], divisors [c]."""
    grouped: dict[tuple[int, int], dict[tuple[int, ...], list[int]]] = {}
    for n, query in enumerate(queries):
        for c, (form, positions, _) in enumerate(query.scored):
            grouped.setdefault((n, form), {}).setdefault(positions, []).append(c)
    return {
        (n, form): [
            (
                torch.tensor(candidates),
                torch.tensor(positions),
                torch.tensor([queries[n].scored[c][2] for c in candidates]),
                torch.tensor([queries[n].divisors[c] for c in candidates]),
            )
            for positions, candidates in groups.items()
        ]
        for (n, form), groups in grouped.items()
    }


def _forward(backbone: Backbone, forms: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Log-probabilities [B, T, V] of right-padded forms."""
    longest = max(map(len, forms))
    ids = torch.full((len(forms), longest), pad)
    seen = torch.zeros(len(forms), longest, dtype=torch.long)
    for row, form in enumerate(forms):
        ids[row, : len(form)] = torch.tensor(form)
        seen[row, : len(form)] = 1
    device = backbone.device
    extra = {"use_cache": False} if backbone.kind == "causal" else {}
    logits = backbone.model(input_ids=ids.to(device), attention_mask=seen.to(device), **extra).logits
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    return logits.log_softmax(-1)


def hits_of_scores(queries: Sequence[Query], scores: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The stated rule applied to scores: hits (strictly best) and ties, both [1 + P, Q]."""
    hits, ties = [], []
    for query, table in zip(queries, scores, strict=True):
        if query.gold < 0:
            hits.append(torch.zeros(len(table), dtype=torch.bool))
            ties.append(torch.zeros(len(table), dtype=torch.int16))
            continue
        gold = table[:, query.gold]
        others = table.clone()
        others[:, query.gold] = -torch.inf
        equal = (others == gold[:, None]).sum(1)
        on_top = (others <= gold[:, None]).all(1)
        hits.append(on_top & (equal == 0) & (query.gold_twins == 0))
        ties.append(torch.where(on_top, equal + query.gold_twins, 0).to(torch.int16))
    return torch.stack(hits, 1), torch.stack(ties, 1)

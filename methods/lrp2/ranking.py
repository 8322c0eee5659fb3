"""From the last states to hits: logits where they are needed, normalisers where they can change the ranking.

A candidate's score is ``(raw - normaliser of its norm set) / divisor`` (tiles.py). With ``keep="hits"`` normalisers
are computed only until the answer is certain: each row's log-normaliser has an exact lower bound

    lse >= log( sum_{v in S} exp z_v + (V - |S|) exp( mean_{v not in S} z_v ) )

(S: the tokens read anyway; Jensen's inequality on the rest, whose mean is one dot product with the mean row of the
vocabulary matrix). It bounds every score from above. The candidate with the largest bound is normalised exactly,
again and again, until the gold object has lost to a normalised candidate or beats every bound.

Shape legend: n branches, M needed rows, U reads, C candidates, K norm sets, Q queries, S norm sets of a query,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.lrp2.tiles import Tile

VOCABULARY_TILE = 4096
ROW_TILE = 2048


@dataclass(frozen=True)
class Head:
    """The vocabulary matrix [V, D], its bias [V] or None, and the means of both over the vocabulary."""

    weight: Tensor
    bias: Tensor | None
    mean_weight: Tensor
    mean_bias: Tensor

    @classmethod
    def of(cls, unembedding: tuple[Tensor, Tensor | None], dtype: torch.dtype) -> Head:
        """Prepares a backbone's unembedding; logits are computed in `dtype`."""
        weight, bias = unembedding
        mean_weight = torch.stack([part.double().sum(0) for part in weight.split(VOCABULARY_TILE)]).sum(0) / len(weight)
        mean_bias = torch.zeros((), device=weight.device) if bias is None else bias.double().mean()
        return cls(
            weight.to(dtype), None if bias is None else bias.to(dtype), mean_weight.to(dtype), mean_bias.to(dtype)
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype logits are computed in."""
        return self.weight.dtype

    def normaliser(self, states: Tensor) -> Tensor:
        """Streaming logsumexp over the vocabulary: states [R, D] to [R]; no [R, V] matrix is ever held."""
        out = torch.empty(len(states), dtype=self.accumulator, device=states.device)
        for start in range(0, len(states), ROW_TILE):
            rows = states[start : start + ROW_TILE].to(self.dtype)
            total: Tensor | None = None
            for v in range(0, len(self.weight), VOCABULARY_TILE):
                bias = None if self.bias is None else self.bias[v : v + VOCABULARY_TILE]
                logits = F.linear(rows, self.weight[v : v + VOCABULARY_TILE], bias).to(self.accumulator)
                # log_softmax goes over a tile once, row by row in the cache; logsumexp would take four passes.
                part = logits[:, 0] - F.log_softmax(logits, -1)[:, 0]
                total = part if total is None else torch.logaddexp(total, part)
            assert total is not None
            out[start : start + ROW_TILE] = total
        return out

    @property
    def accumulator(self) -> torch.dtype:
        """Scores are added up in float32 at least."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class Ranking:
    """What a tile's queries came to, per branch.

    Attributes:
        hits: [n, Q] bool, the gold object is strictly best.
        ties: [n, Q] int16, candidates that share the top with the gold object; 0 where it is alone or not on top.
        scores: [n, C] of all candidates, or None when only hits were asked for.
        normalised_rows: rows whose normaliser was computed, of ``n * M``.
    """

    hits: Tensor
    ties: Tensor
    scores: Tensor | None
    normalised_rows: int


def rank(states: Tensor, tile: Tile, head: Head, *, keep_scores: bool) -> Ranking:
    """Ranks the pools of a tile's queries.

    Args:
        states: what the vocabulary matrix is applied to, [n, M, D].
        tile: built with ``ranking_only=not keep_scores``.
        head: the vocabulary matrix.
        keep_scores: normalise every row and return all scores.
    """
    n, m, _ = states.shape
    logits, bound = _read(states, tile, head)
    raw = _gathered_sum(logits, tile.raw_reads)

    flat = states.reshape(n * m, -1)
    exact = torch.zeros(n, m, dtype=torch.bool, device=states.device)
    normalised = 0

    def normalise(wanted: Tensor) -> None:
        """Computes the normalisers of the wanted rows [n, M] that are not exact yet."""
        nonlocal normalised
        missing = (wanted & ~exact).view(-1)
        index = missing.nonzero()[:, 0]
        normalised += len(index)
        bound.view(-1)[index] = head.normaliser(flat[index])
        exact.view(-1)[index] = True

    if keep_scores:
        normalise(torch.ones_like(exact))
    hits, ties = _decide(raw, tile, bound, exact, normalise)
    scores = None
    if keep_scores:
        norms = _gathered_sum(bound, tile.set_rows)
        scores = (raw - norms[:, tile.set_of]) / tile.set_divisor[tile.set_of].to(raw.dtype)
    return Ranking(hits, ties, scores, normalised)


def _read(states: Tensor, tile: Tile, head: Head) -> tuple[Tensor, Tensor]:
    """The logits that the candidates need [n, U], and the lower bound of every row's normaliser [n, M]."""
    n, m, _ = states.shape
    vocabulary = len(head.weight)
    last = tile.reads[-1]
    width = last.first + last.rows.numel() * last.tokens.shape[1]
    logits = torch.empty(n, width, dtype=head.accumulator, device=states.device)
    mean = (states.to(head.dtype) @ head.mean_weight + head.mean_bias).to(head.accumulator)
    bound = torch.empty(n, m, dtype=head.accumulator, device=states.device)
    # Rounding of the mean and of the normaliser itself must never turn a bound into a claim that is false.
    margin = 1e4 * torch.finfo(head.dtype).eps
    for group in tile.reads:
        (lists, rows), k = group.rows.shape, group.tokens.shape[1]
        at_rows = states[:, group.rows.reshape(-1)].to(head.dtype).view(n, lists, rows, -1)
        weight = head.weight[group.tokens]
        z = torch.einsum("ngrd,gkd->ngrk", at_rows, weight)
        if head.bias is not None:
            z = z + head.bias[group.tokens][None, :, None, :]
        z = z.to(head.accumulator)
        logits[:, group.first : group.first + lists * rows * k] = z.reshape(n, -1)
        real = (torch.arange(k, device=z.device)[None] < group.counts[:, None])[None, :, None, :]
        counts = group.counts[None, :, None].to(z.dtype)
        seen = z.masked_fill(~real, -math.inf).logsumexp(-1)
        rest = vocabulary - counts
        rest_mean = (vocabulary * mean[:, group.rows] - (z * real).sum(-1)) / rest.clamp(min=1)
        unseen = torch.where(rest > 0, rest_mean + rest.clamp(min=1).log(), -math.inf)
        bound[:, group.rows.reshape(-1)] = (torch.logaddexp(seen, unseen) - margin).reshape(n, -1)
    return logits, bound


def _gathered_sum(values: Tensor, index: Tensor) -> Tensor:
    """``values[:, index].sum(-1)``, the index ``values.shape[1]`` standing for nothing: [n, *], [C, E] to [n, C]."""
    padded = F.pad(values, (0, 1))
    total = torch.zeros(len(values), len(index), dtype=values.dtype, device=values.device)
    for column in index.T:
        total += padded[:, column]
    return total


def _decide(
    raw: Tensor, tile: Tile, bound: Tensor, exact: Tensor, normalise: Callable[[Tensor], None]
) -> tuple[Tensor, Tensor]:
    """Hits and ties, both [n, Q].

    Works on norm sets: the best candidate of a set stands for all of it. `bound` and `exact` change as `normalise` is
    called for more rows.
    """
    n, device = len(raw), raw.device
    sets, queries = len(tile.set_rows), len(tile.query_sets)
    gold_set = tile.set_of[tile.gold]
    gold_raw = raw[:, tile.gold]
    others = raw.clone()
    others[:, tile.gold] = -math.inf
    best = torch.full((n, sets + 1), -math.inf, dtype=raw.dtype, device=device)
    best.scatter_reduce_(1, tile.set_of.expand(n, -1), others, "amax")
    divisor = tile.set_divisor.to(raw.dtype)
    members = tile.query_sets
    real = members < sets
    safe = members.clamp(max=sets - 1)

    open_ = torch.ones(n, queries, dtype=torch.bool, device=device)
    hits = torch.zeros(n, queries, dtype=torch.bool, device=device)
    ties = torch.zeros(n, queries, dtype=torch.int16, device=device)
    while True:
        norm = _gathered_sum(bound, tile.set_rows)
        known = _gathered_sum((~exact).to(torch.int32), tile.set_rows) == 0
        gold_known = known[:, gold_set]
        gold_score = (gold_raw - norm[:, gold_set]) / divisor[gold_set]
        rival = torch.where(real, (best[:, members] - norm[:, safe]) / divisor[safe], -math.inf)
        rival_known = known[:, safe] & real
        # In the gold object's own set the normaliser is the same number: the raw scores decide.
        own = members == gold_set[:, None]
        own_best = torch.where(own, best[:, members], -math.inf).amax(-1)
        beaten_at_home = own_best > gold_raw
        rival = rival.masked_fill(own, -math.inf)
        proven = torch.where(rival_known, rival, -math.inf).amax(-1)
        possible = torch.where(rival_known, -math.inf, rival).amax(-1)
        lost = beaten_at_home | (proven > gold_score)
        certain = gold_known & (possible < gold_score)
        # With no rival outside its own set the gold object needs no normaliser at all.
        certain |= torch.maximum(proven, possible) == -math.inf
        won = open_ & certain & ~lost
        alone = won & (own_best < gold_raw) & (proven < gold_score)
        hits |= alone
        for branch, query in (won & ~alone).nonzero().tolist():
            ties[branch, query] = _count_ties(raw, norm, tile, branch, query)
        open_ &= ~(certain | lost)
        if not bool(open_.any()):
            break
        # Next: the open query's set with the largest bound, the gold object's own included.
        contest = torch.where(rival_known | ~real, -math.inf, rival)
        contest = torch.where(own & ~gold_known[:, :, None], gold_score[:, :, None], contest)
        top = members.expand(n, -1, -1).gather(2, contest.argmax(-1, keepdim=True))[..., 0]
        branches, places = open_.nonzero(as_tuple=True)
        wanted = torch.zeros(n, bound.shape[1] + 1, dtype=torch.bool, device=device)
        wanted[branches[:, None], tile.set_rows[top[branches, places]]] = True
        normalise(wanted[:, :-1])
    twins = torch.tensor([query.gold_twins for query in tile.queries], dtype=torch.int16, device=device)
    on_top = hits | (ties > 0)
    return hits & (twins == 0), torch.where(on_top, ties + twins, 0).to(torch.int16)


def _count_ties(raw: Tensor, norm: Tensor, tile: Tile, branch: int, query: int) -> int:
    """Other candidates of one query whose score equals the gold object's."""
    first, stop = tile.first_candidate[query], tile.first_candidate[query + 1]
    sets = tile.set_of[first:stop]
    scores = (raw[branch, first:stop] - norm[branch, sets]) / tile.set_divisor[sets].to(raw.dtype)
    gold = int(tile.gold[query]) - first
    same_set = sets == sets[gold]
    equal = torch.where(same_set, raw[branch, first:stop] == raw[branch, first + gold], scores == scores[gold])
    return int(equal.sum()) - 1

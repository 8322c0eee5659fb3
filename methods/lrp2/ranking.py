"""From the last states to hits: logits where they are needed, normalisers where they can change the ranking.

A candidate's score is ``(raw - normalisers of its norm set) / divisor`` (tiles.py). With ``keep="hits"`` normalisers
are computed only until the answer is certain: each row's log-normaliser has an exact lower bound

    lse >= log( sum_{v in S} exp z_v + (V - |S|) exp( mean_{v not in S} z_v ) )

(S: the tokens read anyway, and those that are likely there under the unmodified model; Jensen's inequality on the rest,
whose mean is one dot product with the mean row of the vocabulary matrix). What is compared is the difference between
the gold object's score and a rival's,

    (raw_g - lse_g) / d_g - (raw_r - lse_r) / d_r - (1 / d_g - 1 / d_r) lse_common,

in which lower bounds of lse_g, lse_r and of the normalisers common to all candidates each err on a known side: a rival
has won once the difference is negative with lse_r exact, and lost once it is positive with lse_g exact, each time with
lse_common exact or erring on the safe side. Which normaliser is computed next follows an estimate of all of them, from
the first two moments of the logits; it decides how soon the answer is certain, never what the answer is.

Shape legend: n branches, M needed rows, U reads, C candidates, K norm sets, Q queries, S norm sets of a query,
V vocabulary, D hidden.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from methods.lrp2.head import Head, Normalisers
from methods.lrp2.tiles import ReadGroup, Tile

# Tokens of each branch that is asked for hints, and rows whose hints are looked up together.
LIKELY = 64
ROWS_OF_HINTS = 32
# How much more of the vocabulary is summed up than an estimate says is enough.
CAUTION = 1.25


@dataclass(frozen=True)
class Ranking:
    """What a tile's queries came to, per branch.

    Attributes:
        hits: [n, Q] bool, the gold object is strictly best.
        ties: [n, Q] int16, candidates that share the top with the gold object; 0 where it is alone or not on top.
        scores: [n, C] of all candidates, or None when only hits were asked for.
        normalised_rows: how many rows' normalisers were computed, parts of them added up, of ``n * M``.
    """

    hits: Tensor
    ties: Tensor
    scores: Tensor | None
    normalised_rows: float


def likely_tokens(states: Tensor, head: Head) -> Tensor:
    """Tokens that hold much of the probability under some branches, as hints for the normalisers of all of them.

    Args:
        states: of a few branches, [n, M, D].

    Returns:
        [M, n * LIKELY] tokens of each needed row; what a row has twice is replaced by -1.
    """
    n, m, d = states.shape
    tokens = head.strongest(states.reshape(n * m, d), min(LIKELY, len(head.weight)))
    tokens = tokens.view(n, m, -1).transpose(0, 1).reshape(m, -1).sort(-1).values
    again = torch.zeros_like(tokens, dtype=torch.bool)
    again[:, 1:] = tokens[:, 1:] == tokens[:, :-1]
    return tokens.masked_fill(again, -1)


def rank(
    states: Tensor, tile: Tile, head: Head, likely: Tensor, *, keep_scores: bool, at_once: int | None = None
) -> Ranking:
    """Ranks the pools of a tile's queries.

    Args:
        states: what the vocabulary matrix is applied to, [n, M, D].
        tile: built with ``ranking_only=not keep_scores``.
        head: the vocabulary matrix.
        likely: [M, H] tokens that are looked at besides those of the candidates, -1 for none; they tighten the bounds.
        keep_scores: normalise every row and return all scores.
        at_once: branches whose logits are read together, all of them if None; the ranking is one for all.
    """
    parts = [_read(part, tile, head, likely) for part in states.split(at_once or len(states))]
    raw, bound, estimate = (torch.cat(tables) for tables in zip(*parts, strict=True))
    norms = head.normalisers(states, bound, estimate)
    if keep_scores:
        norms.raise_to(torch.full_like(norms.level, norms.last))
    hits, ties = _decide(raw, tile, norms)
    scores = None
    if keep_scores:
        totals = (
            _gathered_sum(norms.bound, tile.set_rows) + _gathered_sum(norms.bound, tile.common_rows)[:, tile.set_query]
        )
        scores = (raw - totals[:, tile.set_of]) / tile.set_divisor[tile.set_of].to(raw.dtype)
    return Ranking(hits, ties, scores, norms.computed)


def _read(states: Tensor, tile: Tile, head: Head, likely: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The candidates' unnormalised scores [n, C], and bounds and estimates of the normalisers, [n, M] each."""
    n, m, _ = states.shape
    vocabulary = len(head.weight)
    last = tile.reads[-1]
    width = last.first + last.rows.numel() * last.tokens.shape[1]
    logits = torch.empty(n, width, dtype=head.accumulator, device=states.device)
    mean = head.rest_mean(states, 0)
    half_variance = head.variance(states) / 2
    hints = _logits_of(states, likely.clamp(min=0), head)
    bound = torch.empty(n, m, dtype=head.accumulator, device=states.device)
    estimate = torch.empty_like(bound)
    for group in tile.reads:
        (lists, rows), k = group.rows.shape, group.tokens.shape[1]
        places = group.rows.reshape(-1)
        at_rows = states[:, places].to(head.dtype).view(n, lists, rows, -1)
        weight = head.rows(group.tokens)
        z = torch.einsum("ngrd,gkd->ngrk", at_rows, weight)
        if head.bias is not None:
            z = z + head.bias[group.tokens][None, :, None, :]
        z = z.to(head.accumulator)
        logits[:, group.first : group.first + lists * rows * k] = z.reshape(n, -1)
        real = (torch.arange(k, device=z.device)[None] < group.counts[:, None])[None, :, None, :]
        at_hints = hints[:, group.rows]
        fresh = _beside(likely[group.rows], group)
        seen = torch.logaddexp(
            z.masked_fill(~real, -math.inf).logsumexp(-1), at_hints.masked_fill(~fresh, -math.inf).logsumexp(-1)
        )
        rest = vocabulary - group.counts[:, None] - fresh.sum(-1).to(z.dtype)
        known = (z * real).sum(-1) + (at_hints * fresh).sum(-1)
        rest_mean = (vocabulary * mean[:, group.rows] - known) / rest.clamp(min=1)
        unseen = torch.where(rest > 0, rest_mean + rest.clamp(min=1).log(), -math.inf)
        bound[:, places] = head.lowered(torch.logaddexp(seen, unseen), rest_mean).reshape(n, -1)
        estimate[:, places] = torch.logaddexp(seen, unseen + half_variance[:, group.rows]).reshape(n, -1)
    return _gathered_sum(logits, tile.raw_reads), bound, estimate


def _logits_of(states: Tensor, tokens: Tensor, head: Head) -> Tensor:
    """Logits of each row's own tokens: [n, M, D] and [M, H] to [n, M, H]."""
    z = torch.empty(len(states), *tokens.shape, dtype=head.accumulator, device=states.device)
    for rows in torch.arange(len(tokens), device=tokens.device).split(ROWS_OF_HINTS):
        own = tokens[rows]
        part = torch.einsum("nmd,mhd->nmh", states[:, rows].to(head.dtype), head.rows(own))
        z[:, rows] = part.to(head.accumulator) if head.bias is None else (part + head.bias[own]).to(head.accumulator)
    return z


def _beside(likely: Tensor, group: ReadGroup) -> Tensor:
    """Which hints [G, R, H] are tokens that their row does not read anyway."""
    fresh = likely >= 0
    for column in group.tokens.T:
        fresh &= likely != column[:, None, None]
    return fresh


def _gathered_sum(values: Tensor, index: Tensor) -> Tensor:
    """``values[:, index].sum(-1)``, the index ``values.shape[1]`` standing for nothing: [n, *], [C, E] to [n, C]."""
    padded = F.pad(values, (0, 1))
    total = torch.zeros(len(values), len(index), dtype=values.dtype, device=values.device)
    for column in index.T:
        total += padded[:, column]
    return total


def _decide(raw: Tensor, tile: Tile, norms: Normalisers) -> tuple[Tensor, Tensor]:
    """Hits and ties, both [n, Q].

    Works on norm sets: the best candidate of a set stands for all of it. Raises `norms` as far as it takes.
    """
    n, device = len(raw), raw.device
    sets = len(tile.set_rows)
    gold_set = tile.set_of[tile.gold]
    gold_raw = raw[:, tile.gold]
    others = raw.clone()
    others[:, tile.gold] = -math.inf
    best = torch.full((n, sets + 1), -math.inf, dtype=raw.dtype, device=device)
    best.scatter_reduce_(1, tile.set_of.expand(n, -1), others, "amax")
    best = best[:, tile.query_sets]
    members = tile.query_sets.clamp(max=sets - 1)
    # In the gold object's own set the normaliser is the same number: the raw scores decide.
    own = tile.query_sets == gold_set[:, None]
    own_best = torch.where(own, best, -math.inf).amax(-1)
    rival = (best > -math.inf) & ~own
    share = 1 / tile.set_divisor.to(raw.dtype)
    gold_share, rival_share = share[gold_set][:, None], share[members]
    common_share = gold_share - rival_share
    best = torch.where(rival, best, 0.0)

    def difference(table: Tensor) -> Tensor:
        """Gold object's score minus each rival's [n, Q, S], with the normalisers of a table [n, M]."""
        of_set = _gathered_sum(table, tile.set_rows)
        gold = (gold_raw - of_set[:, gold_set])[:, :, None] * gold_share
        common = _gathered_sum(table, tile.common_rows)[:, :, None] * common_share
        return gold - (best - of_set[:, members]) * rival_share - common

    set_length = (tile.set_rows < norms.bound.shape[1]).sum(-1).to(raw.dtype)
    open_ = own_best <= gold_raw
    won = torch.zeros_like(open_)
    matched = torch.zeros_like(rival.expand(n, -1, -1))
    slack = 64 * torch.finfo(raw.dtype).eps * (1 + gold_raw.abs())[:, :, None] * gold_share
    while True:
        set_exact = _all_exact(norms.exact, tile.set_rows)
        gold_exact = set_exact[:, gold_set][:, :, None]
        rival_exact = set_exact[:, members]
        common_exact = _all_exact(norms.exact, tile.common_rows)[:, :, None]
        margin = difference(norms.bound)
        settled = gold_exact & rival_exact & (common_exact | (common_share == 0))
        above = torch.where(
            settled, ~(margin >= 0), rival_exact & (common_exact | (common_share >= 0)) & (margin < -slack)
        )
        below = torch.where(settled, margin >= 0, gold_exact & (common_exact | (common_share <= 0)) & (margin > slack))
        matched = settled & (margin == 0) & rival
        open_ &= ~(above & rival).any(-1)
        unsettled = rival & ~below
        now_won = open_ & ~unsettled.any(-1)
        won |= now_won
        open_ &= ~now_won
        if not bool(open_.any()):
            break
        guess = torch.where(unsettled, difference(norms.estimate), math.inf)
        # A bound that has seen a part f of the vocabulary lies about -log f below its normaliser.
        enough = guess.abs().nan_to_num(posinf=0.0)
        part_of_rival = torch.exp(-enough / (rival_share * set_length[members]).clamp(min=share.min()))
        part_of_gold = torch.exp(-enough / (gold_share * set_length[gold_set][:, None]).clamp(min=share.min()))
        strongest = guess == guess.amin(-1, keepdim=True)
        losing = (guess < 0).any(-1, keepdim=True)
        contest = unsettled & (strongest | ~losing)
        # A rival that seems to win needs its own normalisers, then the common ones where these err on its side, then
        # the gold object's. A gold object that seems to win needs its own, then those of every rival still in doubt.
        late = gold_exact | losing
        of_rival = contest & ~rival_exact & late & (losing | common_exact | (common_share <= 0))
        of_common = contest & ~common_exact & late & torch.where(losing, common_share < 0, common_share > 0)
        of_common |= contest & ~common_exact & rival_exact & gold_exact
        of_gold = contest & ~gold_exact & (~losing | (rival_exact & (common_exact | (common_share >= 0))))
        if norms.head.swept:
            of_rival, of_common, of_gold = unsettled & ~rival_exact, unsettled & ~common_exact, unsettled & ~gold_exact
        target = torch.zeros(n, norms.bound.shape[1] + 1, dtype=torch.long, device=device)
        asked = open_[:, :, None]
        rival_level = torch.where(losing, norms.last, norms.level_of(CAUTION * part_of_rival))
        gold_level = torch.where(losing, norms.level_of(CAUTION * part_of_gold), norms.last)
        _ask(target, of_rival & asked, tile.set_rows[members], rival_level)
        _ask(target, of_common.any(-1) & open_, tile.common_rows, torch.full_like(target[:, :1], norms.last))
        gold_level = torch.where(of_gold, gold_level, 0).amax(-1)
        _ask(target, of_gold.any(-1) & open_, tile.set_rows[gold_set], gold_level)
        target = target[:, :-1]
        # Where an estimate was wrong the next level follows, so every turn brings the answer nearer.
        norms.raise_to(torch.where(target > 0, torch.maximum(target, (norms.level + 1).clamp(max=norms.last)), 0))
    ties = torch.zeros(won.shape, dtype=torch.int16, device=device)
    level = won & ((own_best == gold_raw) | matched.any(-1))
    for branch, query in level.nonzero().tolist():
        ties[branch, query] = _count_ties(raw, tile, matched[branch, query], branch, query)
    twins = torch.tensor([query.gold_twins for query in tile.queries], dtype=torch.int16, device=device)
    return won & ~level & (twins == 0), torch.where(won, ties + twins, 0).to(torch.int16)


def _all_exact(exact: Tensor, rows: Tensor) -> Tensor:
    """Whether all rows of each list are exact: [n, M], [K, E] to [n, K]."""
    return _gathered_sum((~exact).to(torch.int32), rows) == 0


def _ask(target: Tensor, which: Tensor, rows: Tensor, level: Tensor) -> None:
    """Raises `target` [n, M + 1] to `level` [n, *] at the rows [*, E] of the lists chosen by `which` [n, *]."""
    branch, *place = which.nonzero(as_tuple=True)
    chosen = rows[tuple(place)]
    levels = level.expand(which.shape)[which]
    index = (branch[:, None] * target.shape[1] + chosen).view(-1)
    target.view(-1).scatter_reduce_(0, index, levels[:, None].expand_as(chosen).reshape(-1), "amax")


def _count_ties(raw: Tensor, tile: Tile, matched: Tensor, branch: int, query: int) -> int:
    """Other candidates of one query whose score equals the gold object's; `matched` [S] are the sets that hold some."""
    first, stop = tile.first_candidate[query], tile.first_candidate[query + 1]
    sets, scores = tile.set_of[first:stop], raw[branch, first:stop]
    gold = int(tile.gold[query]) - first
    count = int((scores[sets == sets[gold]] == scores[gold]).sum()) - 1
    for number in tile.query_sets[query][matched].tolist():
        mates = scores[sets == number]
        count += int((mates == mates.max()).sum())
    return count

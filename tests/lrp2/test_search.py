"""The lattice against the naive loop: the same scores, the same hits, for every kind of model and option."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.backbone.projection import LastLayer, all_pairs
from methods.lrp2 import footprint, head, ranking, rounds
from methods.lrp2 import search as search_module
from methods.lrp2.head import Head
from methods.lrp2.lattice import last_states, schedule
from methods.lrp2.search import LayerSearch, OutOfMemory
from methods.lrp2.tiles import build_tile
from tests.lrp2.cases import World, world

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


class SearchContract:
    """What every model family must pass. A subclass names the family."""

    family: str
    prefer = "fast"
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    options: tuple[dict[str, object], ...] = ({},)

    def worlds(self, **more: object) -> list[World]:
        return [
            world(self.family, dtype=dtype, prefer=self.prefer, **{**options, **more})
            for dtype in self.dtypes
            for options in self.options
        ]

    def test_scores_equal_the_naive_loop(self) -> None:
        for case in self.worlds():
            pairs = all_pairs(case.backbone.num_layers)
            fast = LayerSearch(case.backbone, keep="scores").run(case.queries, case.shift, pairs)
            slow = LayerSearch(case.backbone, keep="scores", method="naive").run(case.queries, case.shift, pairs)
            assert fast.scores is not None
            assert slow.scores is not None
            for a, b in zip(fast.scores, slow.scores, strict=True):
                np.testing.assert_allclose(a, b, atol=TOLERANCE[case.backbone.dtype])
            np.testing.assert_array_equal(fast.hits, slow.hits)
            np.testing.assert_array_equal(fast.ties, slow.ties)

    def test_hits_need_fewer_normalisers_and_are_the_same(self) -> None:
        for case in self.worlds():
            pairs = all_pairs(case.backbone.num_layers)
            few = LayerSearch(case.backbone, keep="hits").run(case.queries, case.shift, pairs)
            all_ = LayerSearch(case.backbone, keep="scores").run(case.queries, case.shift, pairs)
            np.testing.assert_array_equal(few.hits, all_.hits)
            np.testing.assert_array_equal(few.ties, all_.ties)
            assert few.stats.head_rows < all_.stats.head_rows

    def test_rounds_find_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where a candidate has the gold object's tokens: it ties with it in a duel as everywhere."""
        monkeypatch.setattr(rounds, "WORTH_A_ROUND", 1)
        monkeypatch.setattr(rounds, "MOST_OF_A_QUERY", 1.0)
        for case in self.worlds():
            pairs = all_pairs(case.backbone.num_layers)
            queries = [*case.queries, *(dataclasses.replace(query, gold_twins=1) for query in case.queries)]
            found, whole = (
                LayerSearch(case.backbone, rounds=in_rounds).run(queries, case.shift, pairs)
                for in_rounds in (True, False)
            )
            np.testing.assert_array_equal(found.hits, whole.hits)
            np.testing.assert_array_equal(found.ties, whole.ties)
            assert found.stats.tiles > whole.stats.tiles

    def test_pairs_change_answers(self) -> None:
        """Without this the other tests could pass on a search that does nothing."""
        case = self.worlds()[0]
        pairs = all_pairs(case.backbone.num_layers)
        hits = LayerSearch(case.backbone).run(case.queries, case.shift, pairs).hits
        assert (hits[:, 1:] != hits[:, :1]).any()

    def test_last_layer_before_the_norm(self) -> None:
        """Where there is a norm, a shift before it gives other scores than one behind it, at layer L alone."""
        case = self.worlds()[0]
        pairs = [(1, case.backbone.num_layers), (3, 4), (2, 3)]
        fast, slow = (
            LayerSearch(case.backbone, keep="scores", method=method, last_layer="raw").run(
                case.queries, case.shift, pairs
            )
            for method in ("lattice", "naive")
        )
        for a, b in zip(fast.scores or (), slow.scores or (), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        behind = LayerSearch(case.backbone, keep="scores").run(case.queries, case.shift, pairs)
        distances = [np.abs(a - b).max(1) for a, b in zip(fast.scores or (), behind.scores or (), strict=True)]
        of_base, of_first, of_second, of_inner = np.max(distances, axis=0)
        assert max(of_base, of_inner) < 1e-5
        states = torch.randn(3, case.backbone.hidden_size, dtype=case.backbone.dtype)
        has_norm = not torch.equal(case.backbone.final(states), states)
        assert (min(of_first, of_second) > 1e-2) == has_norm

    def test_two_layers(self) -> None:
        case = world(self.family, layers=2, prefer=self.prefer)
        fast, slow = (
            LayerSearch(case.backbone, keep="scores", method=method).run(case.queries, case.shift, [(1, 2)])
            for method in ("lattice", "naive")
        )
        for a, b in zip(fast.scores or (), slow.scores or (), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)

    def test_a_language_equal_to_the_pivot_is_the_baseline(self) -> None:
        case = self.worlds()[0]
        pairs = all_pairs(case.backbone.num_layers)
        result = LayerSearch(case.backbone, keep="scores").run(case.queries, torch.zeros_like(case.shift), pairs)
        for table in result.scores or ():
            np.testing.assert_allclose(table, np.broadcast_to(table[:1], table.shape), atol=1e-5)
        np.testing.assert_array_equal(result.hits, np.broadcast_to(result.hits[:, :1], result.hits.shape))

    def test_tiles_do_not_change_the_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        case = self.worlds()[0]
        pairs = all_pairs(case.backbone.num_layers)
        whole = LayerSearch(case.backbone).run(case.queries, case.shift, pairs)
        monkeypatch.setattr(search_module, "FEWEST_TILE_ROWS", 20)
        monkeypatch.setitem(search_module.MOST_TILE_STATES, "cpu", 0)
        monkeypatch.setitem(footprint.STATES_AT_ONCE, "cpu", 8 * case.backbone.hidden_size)
        small = LayerSearch(case.backbone).run(case.queries, case.shift, pairs)
        assert small.stats.tiles > whole.stats.tiles
        np.testing.assert_array_equal(small.hits, whole.hits)


class TestBert(SearchContract):
    family = "bert"
    options = ({}, {"candidates": "sampled", "pool_size": 3})


class TestXlmRoberta(SearchContract):
    family = "xlm-roberta"


class TestBloom(SearchContract):
    family = "bloom"
    dtypes = (torch.float32,)  # HF computes BLOOM's softmax in float32 whatever the model's dtype is
    options = tuple(
        {"score": score, "bos": bos, "candidates": candidates}
        for score in ("mean", "sum", "object")
        for bos in (True, False)
        for candidates in ("full", "sampled")
    )


class TestGpt2(SearchContract):
    family = "gpt2"
    options = ({"score": "mean"}, {"score": "sum"})


class TestXglm(SearchContract):
    family = "xglm"
    dtypes = (torch.float32,)  # HF's XGLM does not run in float64


class TestLlama(SearchContract):
    family = "llama"
    dtypes = (torch.float32,)  # HF computes norms and rotary angles in float32 always
    options = ({"score": "mean"}, {"score": "object"})


class TestLlamaGrouped(SearchContract):
    family = "llama-grouped"
    dtypes = (torch.float32,)  # HF computes norms and rotary angles in float32 always


class TestMistral(SearchContract):
    family = "mistral"
    dtypes = (torch.float32,)  # HF computes norms and rotary angles in float32 always


class TestGenericMasked(SearchContract):
    family = "electra"
    prefer = "generic"


class TestGenericCausal(SearchContract):
    family = "gpt-neox"
    prefer = "generic"
    dtypes = (torch.float32,)


@pytest.mark.parametrize(("layers", "blocks"), [(12, 298), (24, 2324)])
def test_block_evaluations(layers: int, blocks: int) -> None:
    """L + L(L-1)/2 + C(L, 3), against L * (L(L-1)/2) of the naive loop: 792 and 6,624."""
    assert schedule(all_pairs(layers), layers).block_evaluations == blocks


@given(st.sets(st.sampled_from(all_pairs(6)), min_size=1))
@settings(max_examples=15, deadline=None)
def test_any_set_of_pairs_gives_the_columns_of_the_full_search(chosen: set[tuple[int, int]]) -> None:
    """Branches that no pair needs are left out, and nothing else changes."""
    case = _SIX_LAYERS
    full = LayerSearch(case.backbone, keep="scores").run(case.queries[:4], case.shift, all_pairs(6))
    pairs = sorted(chosen)
    some = LayerSearch(case.backbone, keep="scores").run(case.queries[:4], case.shift, pairs)
    columns = [0, *(1 + all_pairs(6).index(pair) for pair in pairs)]
    for a, b in zip(some.scores or (), full.scores or (), strict=True):
        np.testing.assert_allclose(a, b[columns], atol=1e-5)
    assert schedule(pairs, 6).block_evaluations <= schedule(all_pairs(6), 6).block_evaluations


_SIX_LAYERS = world("bert", layers=6)


def test_a_tile_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation that fails is retried on half of the queries, down to one; then it is the user's turn."""
    case = world("bert")
    pairs = all_pairs(4)
    expected = LayerSearch(case.backbone).run(case.queries, case.shift, pairs)
    real = search_module.last_states

    def tight(backbone: object, plan: object, *arguments: object, **named: object) -> object:
        if plan.pack.rows > limit:  # type: ignore[attr-defined]
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory")
        return real(backbone, plan, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(search_module, "last_states", tight)
    limit = 120
    result = LayerSearch(case.backbone).run(case.queries, case.shift, pairs)
    assert result.stats.retried > 0
    np.testing.assert_array_equal(result.hits, expected.hits)
    limit = 1
    with pytest.raises(OutOfMemory, match="--memory"):
        LayerSearch(case.backbone).run(case.queries, case.shift, pairs)


@pytest.mark.usefixtures("four_threads")
def test_a_piece_that_does_not_fit_on_its_thread_halves_the_tile_too(monkeypatch: pytest.MonkeyPatch) -> None:
    case = world("bert")
    pairs = all_pairs(4)
    expected = LayerSearch(case.backbone).run(case.queries, case.shift, pairs)
    real = case.backbone.layer

    def tight(k: int, x: torch.Tensor, plan: Any, need: bool = False) -> torch.Tensor:
        if plan.pack.rows > 120 and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory")
        return real(k, x, plan, need)

    monkeypatch.setattr(case.backbone, "layer", tight)
    result = LayerSearch(case.backbone).run(case.queries, case.shift, pairs)
    assert result.stats.retried > 0
    np.testing.assert_array_equal(result.hits, expected.hits)


@pytest.mark.parametrize("family", ["bert", "bloom"])
@pytest.mark.parametrize("last_layer", ["normed", "raw"])
def test_branches_side_by_side_are_the_branches_one_after_the_other(
    family: str, last_layer: LastLayer, four_threads: None
) -> None:
    """Two, three and four at a time, with and without some left over; what comes out lies where the states were."""
    case = world(family, layers=6)
    walk = schedule(all_pairs(6), 6)
    tile = build_tile(case.queries[:5], trees=family == "bloom", ranking_only=True)
    plan = case.backbone.plan(tile.pack)

    def states(rows_at_once: int) -> torch.Tensor:
        with torch.no_grad():
            return last_states(
                case.backbone, plan, case.shift, walk, last_layer=last_layer, rows_at_once=rows_at_once
            ).clone()

    alone = states(rows_at_once=1)
    for at_once in (2, 3, 4, 9):
        torch.testing.assert_close(states(at_once * tile.pack.rows), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [3, 700])
def test_normalisers_on_several_threads_are_those_of_one(
    rows: int, four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread takes a part of the vocabulary."""
    monkeypatch.setitem(head.VOCABULARY_TILE, "cpu", 16)
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(1000, 8, generator=generator), torch.randn(1000, generator=generator)
    states = torch.randn(rows, 8, generator=generator)
    made = Head.of((weight, bias), torch.float32)
    shift = torch.zeros(rows)
    expected = (states @ weight.T + bias).exp().sum(-1)
    torch.testing.assert_close(made.exponentials(states, shift, 0, len(made.edges) - 1), expected)
    parts = [made.exponentials(states, shift, level, level + 1) for level in range(len(made.edges) - 1)]
    torch.testing.assert_close(torch.stack(parts).sum(0), expected)


def test_a_query_that_is_given_twice_is_two_queries() -> None:
    case = world("bert", layers=6)
    twice = LayerSearch(case.backbone).run([case.queries[0]] * 2, case.shift, all_pairs(6))
    once = LayerSearch(case.backbone).run(case.queries[:1], case.shift, all_pairs(6))
    np.testing.assert_array_equal(twice.hits, np.repeat(once.hits, 2, 0))


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    case = world("bert")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(search_module, "last_states", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        LayerSearch(case.backbone).run(case.queries, case.shift, all_pairs(4))


def test_twins_of_the_gold_object_always_tie() -> None:
    """Two strings with the same tokens cannot be told apart: strictly best is impossible, the tie is counted."""
    case = world("bert")
    queries = [dataclasses.replace(query, gold_twins=1) for query in case.queries]
    alone = LayerSearch(case.backbone).run(case.queries, case.shift, [])
    twins = LayerSearch(case.backbone).run(queries, case.shift, [])
    assert not twins.hits.any()
    np.testing.assert_array_equal(twins.ties[alone.hits], 1)


def test_a_fact_without_tokens_for_its_object_is_never_a_hit() -> None:
    case = world("bert")
    queries = [dataclasses.replace(query, gold=-1) for query in case.queries[:3]] + case.queries[3:]
    result = LayerSearch(case.backbone).run(queries, case.shift, all_pairs(4))
    assert not result.hits[:3].any()


@pytest.mark.parametrize("family", ["bert", "bloom"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_bounds_of_logits_in_bfloat16_are_true_and_worth_having(family: str, scale: float) -> None:
    """Rounding may not lift them above the normaliser; a margin for it may not make them say nothing."""
    case = world(family)
    weight, bias = case.backbone.unembedding
    tile = build_tile(case.queries, trees=family == "bloom", ranking_only=True)
    states = scale * torch.randn(3, len(tile.pack.need), weight.shape[1], generator=torch.Generator().manual_seed(0))
    states += scale * weight.mean(0)
    nothing = torch.empty(states.shape[1], 0, dtype=torch.long)
    gaps = {}
    for dtype in (torch.float32, torch.bfloat16):
        head = Head.of((weight, bias), dtype)
        _, bound, estimate = ranking._read(states, tile, head, nothing)
        norms = head.normalisers(states, bound.clone(), estimate)
        norms.raise_to(torch.ones_like(norms.level))
        part = norms.bound.clone()
        norms.raise_to(torch.full_like(norms.level, norms.last))
        logits = torch.nn.functional.linear(states.to(dtype), head.weight, head.bias).float()
        torch.testing.assert_close(norms.bound, logits.logsumexp(-1), atol=1e-4, rtol=1e-4)
        assert (bound <= part).all()
        assert (part < norms.bound).all()
        gaps[dtype] = (norms.bound - bound).mean()
    assert gaps[torch.bfloat16] < gaps[torch.float32] + 1

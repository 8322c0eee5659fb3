"""Packed attention against softmax attention written out one row at a time; activations against torch's own.

Shape legend: B branches, N packed rows, M needed rows, T tokens of a sequence, H query heads, K key heads, d head size.
"""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

from methods.backbone.activations import activate_
from methods.backbone.attention import SMALL_SEGMENT_ROWS, AttentionPlan, attend, plan_groups
from methods.backbone.bloom import alibi_slopes
from methods.backbone.packing import Pack, pack_sequences

HEADS, SIZE = 4, 6
DOUBLE = {"dtype": torch.float64, "device": torch.device("cpu")}


def by_hand(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, bias: Tensor) -> Tensor:
    """One sequence: q [T, H, d], k and v [T, K, d], visible [T, T], bias [H, T] per key; returns [T, H * d]."""
    repeats = q.shape[1] // k.shape[1]
    output = torch.zeros_like(q)
    for head in range(q.shape[1]):
        for row in range(q.shape[0]):
            seen = visible[row].nonzero().squeeze(1)
            scores = k[seen, head // repeats] @ q[row, head] / math.sqrt(q.shape[2]) + bias[head, seen]
            output[row, head] = scores.softmax(0) @ v[seen, head // repeats]
    return output.flatten(1)


def a_pack(lengths: list[int]) -> Pack:
    choose = random.Random(0)
    need = [sorted(choose.sample(range(n), min(n, 2))) for n in lengths]
    return pack_sequences([[1] * length for length in lengths], need)[0]


@pytest.mark.parametrize(
    "lengths",
    [
        [5],
        [3, 1, 4, 4, 2],
        [8] * (SMALL_SEGMENT_ROWS // 8 + 1) + [7, 5, 5, 2],
        [8] * (SMALL_SEGMENT_ROWS // 8 + 1) + [9] * (SMALL_SEGMENT_ROWS // 9 + 1),
    ],
    ids=["one sequence", "small segments share a call", "large and small segments", "large segments"],
)
@pytest.mark.parametrize("key_heads", [HEADS, 2], ids=["all heads", "grouped heads"])
@pytest.mark.parametrize("rule", ["bidirectional", "causal", "alibi", "window"])
def test_attention_equals_a_loop_over_rows(lengths: list[int], key_heads: int, rule: str) -> None:
    pack = a_pack(lengths)
    slopes = alibi_slopes(HEADS) if rule == "alibi" else None
    window = 3 if rule == "window" else None
    groups = plan_groups(pack, causal=rule != "bidirectional", slopes=slopes, window=window, **DOUBLE)
    plan = AttentionPlan(pack, groups)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, pack.rows, heads, SIZE, dtype=torch.float64, generator=generator)
        for heads in (HEADS, key_heads, key_heads)
    )
    every = attend(q, k, v, plan, need=False)
    start = 0
    for length in sorted(lengths):
        rows = slice(start, start + length)
        near = torch.arange(length)[:, None] - torch.arange(length)[None]
        visible = torch.ones(length, length, dtype=torch.bool) if rule == "bidirectional" else near >= 0
        visible = visible & (near < 3) if rule == "window" else visible
        bias = torch.zeros(HEADS, length) if slopes is None else slopes[:, None] * torch.arange(length)[None]
        for b in range(2):
            expected = by_hand(q[b, rows], k[b, rows], v[b, rows], visible, bias.double())
            torch.testing.assert_close(every[b, rows], expected, atol=1e-12, rtol=1e-12)
        start += length
    needed = attend(q[:, pack.need], k, v, plan, need=True)
    torch.testing.assert_close(needed, every[:, pack.need], atol=1e-12, rtol=1e-12)


def test_small_segments_share_calls_within_the_padding_allowance() -> None:
    pack = a_pack([*range(3, 40)])
    groups = plan_groups(pack, causal=True, **DOUBLE)
    assert len(groups) < 12
    padded = sum(group.count * group.length for group in groups)
    assert padded <= 1.25 * pack.rows


def test_a_pack_where_nothing_is_needed_gives_no_rows() -> None:
    pack, _ = pack_sequences([[1] * 3, [1] * 4], need=[[], []])
    plan = AttentionPlan(pack, plan_groups(pack, causal=True, **DOUBLE))
    q = torch.randn(1, 7, HEADS, SIZE, dtype=torch.float64)
    assert attend(q[:, pack.need], q, q, plan, need=True).shape == (1, 0, HEADS * SIZE)


def test_pack_sequences_keeps_track_of_who_lies_where() -> None:
    pack, order = pack_sequences([[10, 11, 12], [20], [30, 31, 32]], need=[[2], [0], [1]])
    assert order == [1, 0, 2]
    assert pack.ids.tolist() == [20, 10, 11, 12, 30, 31, 32]
    assert pack.positions.tolist() == [0, 0, 1, 2, 0, 1, 2]
    assert pack.ids[pack.need].tolist() == [20, 12, 31]
    assert [(s.start, s.stop, s.need_start, s.need_stop) for s in pack.segments] == [(0, 1, 0, 1), (1, 7, 1, 3)]


@pytest.mark.parametrize("heads", [1, 4, 6, 12, 16])
def test_alibi_slopes_equal_those_of_transformers(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

    torch.testing.assert_close(alibi_slopes(heads), _get_alibi_slopes(heads, torch.device("cpu")))


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu", "swish", "relu", "tanh"]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_activations_equal_those_of_transformers(name: str, dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-9, 9, 1001), torch.tensor([-1e4, 1e4, 0.0])]).to(dtype)
    expected = ACT2FN[name](x.clone())
    # gelu_fast writes sqrt(2 / pi) with ten digits.
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(activate_(ACT2FN[name], x.clone()), expected, atol=tolerance, rtol=tolerance)

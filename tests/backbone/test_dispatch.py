"""Dispatch over several devices. Two names of the CPU stand for two devices; crossings are counted all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from methods.backbone import load_backbone, pack_sequences
from methods.backbone.dispatch import DispatchedBackbone
from methods.backbone.projection import all_pairs
from methods.lrp2.lattice import last_states, schedule
from orchestrator.errors import UserError
from tests.backbone.contract import all_layers, random_sequences
from tests.backbone.test_streaming import saved

THREE = ("cpu", "cpu", "cpu")


def dispatched(folder: Path, devices: tuple[str, ...] = THREE) -> DispatchedBackbone:
    backbone = load_backbone(str(folder), placement="dispatch", devices=devices)
    assert isinstance(backbone, DispatchedBackbone)
    return backbone


@pytest.mark.parametrize("family", ["bert", "bloom", "llama", "gpt-neox", "opt"])
def test_a_dispatched_model_computes_the_same_bits(tmp_path: Path, family: str) -> None:
    whole = load_backbone(str(saved(tmp_path, family)))
    shared = dispatched(tmp_path, ("cpu", "cpu"))
    pack, _ = pack_sequences(random_sequences(whole, [5, 3, 5]))
    with torch.no_grad():
        for a, b in zip(all_layers(whole, pack), all_layers(shared, pack), strict=True):
            assert torch.equal(a, b)
    for a, b in zip(whole.unembedding, shared.unembedding, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_blocks_are_shared_out_in_order_and_the_last_device_also_holds_the_rest(tmp_path: Path) -> None:
    numbers = [place.number for place in dispatched(saved(tmp_path, "bloom", layers=8, vocab_size=1500)).places]
    assert numbers == sorted(numbers)
    assert set(numbers) == {0, 1, 2}
    assert numbers.count(2) < numbers.count(0)


def test_states_cross_a_boundary_once_for_all_pairs(tmp_path: Path) -> None:
    """Nine layers on three devices: into the first, over two boundaries; 36 pairs, 36 layers each if run one by one."""
    whole = load_backbone(str(saved(tmp_path, "bloom", layers=9)))
    shared = dispatched(tmp_path)
    walk = schedule(all_pairs(9), 9)
    pack, _ = pack_sequences(random_sequences(whole, [5, 3]), [[4], [2]])
    shift = torch.randn(10, whole.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = last_states(whole, whole.plan(pack), shift, walk)
        for tile in (1, 2):
            found = last_states(shared, shared.plan(pack), shift, walk)
            assert shared.crossings == 3 * tile
            assert torch.equal(found, expected)


def test_no_hooks_are_left_on_the_model(tmp_path: Path) -> None:
    for part in dispatched(saved(tmp_path, "bloom")).model.modules():
        assert not hasattr(part, "_hf_hook")
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


def test_one_device_is_nothing_to_dispatch_over(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--placement dispatch shares a model out over several GPUs"):
        dispatched(saved(tmp_path, "bloom"), ("cpu",))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU beside the CPU")
def test_states_really_move(tmp_path: Path) -> None:
    whole = load_backbone(str(saved(tmp_path, "bloom", layers=6)))
    shared = dispatched(tmp_path, ("cpu", "cuda:0"))
    walk = schedule(all_pairs(6), 6)
    pack, _ = pack_sequences(random_sequences(whole, [5, 3]), [[4], [2]])
    shift = torch.randn(7, whole.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = last_states(whole, whole.plan(pack), shift, walk)
        found = last_states(shared, shared.plan(pack), shift, walk)
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)

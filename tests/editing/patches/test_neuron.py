"""Patch neurons: where they start, what they add, and that the model is left as it was."""

from __future__ import annotations

import pytest
import torch

from methods.editing.patches.neuron import NewPatches, PatchNeurons, initial_values
from methods.editing.patches.site import PatchSite
from orchestrator.errors import UserError
from tests.editing.patches.world import World
from tests.editing.tiny import attached, tiny_editable, weights


def random_patches(site: PatchSite, number: int, seed: int = 0) -> PatchNeurons:
    draw = torch.Generator().manual_seed(seed)
    width = site.hidden_size
    keys, values = (torch.randn(number, width, generator=draw, dtype=torch.float64) for _ in range(2))
    return PatchNeurons(keys, torch.randn(number, generator=draw, dtype=torch.float64), values, site.activation)


def logits_of(small: World) -> torch.Tensor:
    batch = small.model.encode([edit.texts["en"] for edit in small.edits])
    with torch.no_grad():
        answer: torch.Tensor = small.model.hf(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return answer


def test_a_new_patch_answers_its_query_with_one(small: World) -> None:
    states = small.cache.states([edit.texts["en"] for edit in small.edits])
    new = NewPatches(states.queries, small.site.activation, scale=10.0, seed=(0, 1))
    own = new.current().preactivations(states.queries).diagonal()
    torch.testing.assert_close(own, torch.ones_like(own), rtol=0, atol=1e-14)


def test_values_start_ten_times_normal_and_reproducibly(small: World) -> None:
    query = small.cache.states([small.edits[0].texts["en"]]).queries[:1]
    first, again, other = (
        NewPatches(query, small.site.activation, scale=10.0, seed=s) for s in ((3, 1), (3, 1), (4, 1))
    )
    assert torch.equal(first.current().values, again.current().values)
    assert not torch.equal(first.current().values, other.current().values)
    assert 9.8 < initial_values(1, 100_000, (0,)).mul(10).std().item() < 10.2


def test_zero_values_leave_the_model_unchanged_bit_for_bit(small: World) -> None:
    before = logits_of(small)
    patches = random_patches(small.site, 3)
    silent = PatchNeurons(patches.keys, patches.biases, torch.zeros_like(patches.values), small.site.activation)
    with small.site.attached(silent):
        assert torch.equal(logits_of(small), before)
    with small.site.attached(patches):
        assert not torch.allclose(logits_of(small), before)


def test_merged_patches_give_the_patched_forward(small: World) -> None:
    patches = random_patches(small.site, 5)
    with small.site.attached(patches):
        beside = logits_of(small)
    with small.site.merged(patches):
        torch.testing.assert_close(logits_of(small), beside)


def test_n_patches_are_n_columns(small: World) -> None:
    width = small.site.up.out_features
    with small.site.merged(random_patches(small.site, 5).merge(random_patches(small.site, 2, seed=1))):
        assert small.site.up.weight.shape == (width + 7, small.site.hidden_size)
        assert small.site.down.weight.shape == (small.site.hidden_size, width + 7)
        assert (small.site.up.out_features, small.site.down.in_features) == (width + 7, width + 7)
    assert (small.site.up.out_features, small.site.down.in_features) == (width, width)


@pytest.mark.parametrize("way", ["attached", "merged"])
def test_the_model_is_restored_bit_for_bit_even_after_an_error(small: World, way: str) -> None:
    before, hooks = weights(small.model), attached(small.model)

    def fail() -> None:
        with getattr(small.site, way)(random_patches(small.site, 3)):
            logits_of(small)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert attached(small.model) == hooks
    after = weights(small.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_patches_survive_a_file(small: World) -> None:
    patches = random_patches(small.site, 4)
    again = PatchNeurons.from_tensors(patches.to_tensors(), small.site.activation)
    query = torch.randn(2, small.site.hidden_size, dtype=torch.float64)
    assert torch.equal(again.gain(query), patches.gain(query))
    torch.testing.assert_close(patches[:1].gain(query) + patches[[1, 2, 3]].gain(query), patches.gain(query))


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "bloom"])
def test_other_families_have_a_place_for_patches_too(family: str) -> None:
    assert PatchSite(tiny_editable(family, edited_blocks=1)).tail


def test_gated_networks_are_refused() -> None:
    from methods.editing.model import EditableModel
    from tests.backbone.tiny import tiny_model, tiny_tokenizer

    gated = EditableModel(tiny_model("llama"), tiny_tokenizer("causal"), "causal", edited_blocks=1)
    with pytest.raises(UserError, match="gated network"):
        PatchSite(gated)

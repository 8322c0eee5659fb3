"""MEND: its network, its normalisations, and the update that it makes of a gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.editing.editors import MendConfig, build_editor
from methods.editing.editors.mend import IDMLP, FactorTransform, IdentityLayer, RunningNorm
from methods.editing.factors import token_factors
from tests.editing.learned import LearnedEditorContract, editable, requests
from tests.editing.tiny import LANGUAGES


class TestMend(LearnedEditorContract):
    name, options = "mend", {"rank": 8, "edit_lr": 0.01}


class TestMendDescending(LearnedEditorContract):
    name, options = "mend", {"rank": 8, "edit_lr": 0.01, "sign": "-"}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def disturbed(module: Any) -> Any:
    """The module with all parameters moved, as after training."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter += 0.1 * random(*parameter.shape, seed=seed)
    return module


def test_the_network_of_the_published_size_has_29_544_960_parameters() -> None:
    with torch.device("meta"):
        network = IDMLP(3840, 1920, 3)
        whole = [FactorTransform(*shape, 3, 1920, "ln") for shape in ((768, 3072), (3072, 768))]
    assert sum(parameter.numel() for parameter in network.parameters()) == 29_544_960
    assert sum(parameter.numel() for each in whole for parameter in each.parameters()) == 59_089_920 + 15_360


def test_the_network_begins_as_the_identity_bit_for_bit() -> None:
    z = random(5, 12)
    network = IDMLP(12, 100, 2)
    assert torch.equal(network(z, 0), z)
    assert torch.equal(network(z, 1), z)


def test_at_the_start_the_gradient_passes_the_nonlinearity_unhindered() -> None:
    """All pre-activations are exactly zero, where relu would let nothing through."""
    layer = IdentityLayer(6, 3, 1)
    layer(random(4, 6), 0).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((6,), 4.0))
    assert layer.u.grad is not None
    assert layer.u.grad.any()


def test_a_layer_only_adds() -> None:
    layer = disturbed(IdentityLayer(6, 3, 2))
    z = random(50, 6)
    assert (layer(z, 1) >= z).all()
    assert (layer(z, 1) > z).any()


def test_a_layer_is_its_formula() -> None:
    layer = disturbed(IdentityLayer(6, 3, 2))
    z = random(5, 6)
    inner = (layer.u @ layer.v @ z.T).T + layer.bias
    torch.testing.assert_close(layer(z, 1), z + torch.relu(layer.scale[1] * inner + layer.shift[1]))


def test_without_scale_and_shift_a_mode_is_the_identity() -> None:
    network = disturbed(IDMLP(6, 3, 2))
    with torch.no_grad():
        for layer in network.layers:
            layer.scale[1], layer.shift[1] = 0, 0
    z = random(5, 6)
    assert torch.equal(network(z, 1), z)
    assert not torch.equal(network(z, 0), z)


def test_a_mode_learns_from_its_own_matrix_alone() -> None:
    network = disturbed(IDMLP(6, 3, 3))
    network(random(5, 6), 0).square().sum().backward()
    for layer in network.layers:
        for parameter in (layer.scale, layer.shift):
            assert parameter.grad[0].any()
            assert not parameter.grad[1:].any()
        assert layer.u.grad.any()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 100))
@settings(deadline=None)
def test_running_statistics_are_those_of_all_tokens_however_they_came(sizes: list[int], seed: int) -> None:
    norm = RunningNorm(4).double()
    parts = [3 + 2 * random(size, 4, seed=seed + place).double() for place, size in enumerate(sizes)]
    seen = torch.cat(parts)
    for part in parts:
        last = norm(part)
    if len(seen) < 2:
        assert torch.equal(last, parts[-1])
        return
    torch.testing.assert_close(last, (parts[-1] - seen.mean(0)) / (seen.std(0) + 1e-7))
    before = {name: buffer.clone() for name, buffer in norm.state_dict().items()}
    norm.eval()(random(3, 4).double())
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.state_dict().items())


def test_no_tokens_leave_the_running_statistics_alone() -> None:
    norm = RunningNorm(4)
    norm(random(3, 4))
    mean = norm.mean.clone()
    assert norm(random(0, 4)).shape == (0, 4)
    assert torch.equal(norm.mean, mean)


@pytest.mark.parametrize("norm", ["ln", "running"])
def test_the_order_of_the_tokens_does_not_change_the_update(norm: Any) -> None:
    transform = disturbed(FactorTransform(4, 3, 1, 8, norm))
    x, delta = random(7, 4), random(7, 3, seed=1)
    transform(x, delta, 0)
    transform.eval()
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    updates = []
    for chosen in (torch.arange(7), order):
        new_x, new_delta = transform(x[chosen], delta[chosen], 0)
        updates.append(new_delta.T @ new_x)
    torch.testing.assert_close(*updates)


@pytest.mark.parametrize("norm", ["ln", "running"])
def test_a_single_token_is_enough(norm: Any) -> None:
    transform = FactorTransform(4, 3, 1, 8, norm)
    for new in transform(random(1, 4), random(1, 3), 0):
        assert new.isfinite().all()


def test_layer_normalisation_hides_a_uniform_mask_from_large_factors_but_not_from_tiny_ones() -> None:
    """Below about 3e-3 its epsilon rules, and the size of the factor, and of its mask, come through."""
    transform = FactorTransform(768, 768, 1, 8, "ln")
    large, tiny = random(2, 768), 1e-4 * random(2, 768)
    large_x, tiny_delta = transform(large, tiny, 0)
    masked_x, masked_delta = transform(1.5 * large, 1.5 * tiny, 0)
    torch.testing.assert_close(masked_x, large_x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(masked_delta, 1.5 * tiny_delta, atol=1e-3, rtol=1e-2)
    torch.testing.assert_close(tiny_delta, (tiny - tiny.mean(-1, keepdim=True)) / 1e-5**0.5, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("sign", ["+", "-"])
@pytest.mark.parametrize("kind", ["masked", "causal", "classifier"])
def test_the_first_edit_is_the_product_of_the_normalised_factors(kind: Any, sign: Any) -> None:
    model = editable(kind)
    editor = build_editor(MendConfig(edit_lr=0.5, sign=sign), model, LANGUAGES)
    batch, languages = requests(model)
    edits = editor.edit(batch, languages)
    factors = token_factors(model, batch, model.frozen(batch))
    for module in model.modules:
        for row in range(len(batch)):
            expected = torch.zeros(module.out_features, module.in_features, dtype=model.dtype)
            for x, delta in zip(*(factor[row] for factor in factors[module.name]), strict=True):
                if x.any() and delta.any():
                    expected += torch.outer(
                        nn.functional.layer_norm(delta, delta.shape), nn.functional.layer_norm(x, x.shape)
                    )
            step = 0.5 if sign == "+" else -0.5
            torch.testing.assert_close(edits.dense(module.name)[row], step * expected)


def test_of_a_classifier_only_the_first_token_carries_the_last_matrix() -> None:
    """Nothing else of the last block is read, so one token makes the whole update."""
    model = editable("classifier")
    editor = build_editor(MendConfig(), model, LANGUAGES)
    for tensor in editor.edit(*requests(model)).tensors[model.modules[-1].name]:
        assert tensor[:, 0].any(-1).all()
        assert not tensor[:, 1:].any()


def test_running_statistics_normalise_alike_in_evaluation_and_move_in_training_only() -> None:
    model = editable()
    editor: Any = build_editor(MendConfig(norm="running", rank=8), model, LANGUAGES)
    batch, languages = requests(model)
    tokens = int(batch.attention_mask.sum())
    editor.train().edit(batch, languages)
    counts = [int(transform.norm_x.count) for transform in editor.transforms]
    # Three matrices of either shape; behind those of the last block only the label positions are read.
    assert counts == [2 * tokens + len(batch.targets)] * 2
    editor.eval()
    together = editor.edit(batch, languages)
    for row, language in enumerate(languages):
        alone = editor.edit(batch.select([row]), [language])
        for module in model.modules:
            torch.testing.assert_close(together.dense(module.name)[row], alone.dense(module.name)[0])
    assert [int(transform.norm_x.count) for transform in editor.transforms] == counts


def test_every_token_has_a_mask_sample_of_its_own() -> None:
    model = editable()
    editor: Any = build_editor(MendConfig(masks=True, rank=8), model, LANGUAGES)
    drawn: list[Tensor] = []
    inner = editor.masks.multipliers
    editor.masks.multipliers = lambda name, rows: drawn.append(rows) or inner(name, rows)
    batch, languages = requests(model)
    editor.train().edit(batch, languages)
    assert len(drawn[0]) == int(batch.attention_mask.sum())

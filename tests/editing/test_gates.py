"""Hard-concrete gates and language masks: closed forms, and which language learns from which edit."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.editing.gates import HIGHEST, LOWEST, LanguageMasks, hard_concrete, mean_gate, open_probability
from orchestrator.errors import UserError

LANGUAGES = ("en", "de", "sw")


def modules() -> list[Any]:
    """Two matrices of one shape and one of another, as the last blocks of a transformer have them."""
    shapes = [("up.0", 6, 4, 0, 0), ("down.0", 4, 6, 1, 0), ("up.1", 6, 4, 0, 1)]
    return [
        SimpleNamespace(name=name, out_features=outputs, in_features=inputs, shape_group=group, mode=mode)
        for name, outputs, inputs, group, mode in shapes
    ]


def masks(**options: Any) -> LanguageMasks:
    return LanguageMasks(LANGUAGES, modules(), **options)


def draws(log_alpha: float, number: int = 200_000) -> torch.Tensor:
    noise = torch.rand(number, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6)
    return hard_concrete(torch.full((number,), log_alpha), noise)


def test_a_gate_at_even_odds_is_open_with_probability_0_832() -> None:
    assert open_probability(torch.zeros(1)).item() == pytest.approx(0.83182, abs=1e-5)


@pytest.mark.parametrize("log_alpha", [-3.0, -1.0, 0.0, 0.7, 2.5])
def test_the_expected_number_of_open_gates_is_what_sampling_finds(log_alpha: float) -> None:
    found = (draws(log_alpha) > 0).float().mean().item()
    assert found == pytest.approx(open_probability(torch.tensor(log_alpha)).item(), abs=0.005)


def test_samples_at_even_odds_pile_up_at_both_ends() -> None:
    gates = draws(0.0)
    assert gates.mean().item() == pytest.approx(0.5, abs=0.004)
    assert (gates == 0).float().mean().item() == pytest.approx(0.168, abs=0.004)
    assert (gates == 1).float().mean().item() == pytest.approx(0.168, abs=0.004)


def test_without_noise_a_gate_is_closed_below_log_one_eleventh_and_open_above_log_eleven() -> None:
    edge = math.log(11)
    gates = mean_gate(torch.tensor([-9.0, -edge - 1e-4, 0.0, edge + 1e-4, 9.0]))
    assert gates.tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-7)
    assert 0 < mean_gate(torch.tensor(-edge + 0.01)) < mean_gate(torch.tensor(edge - 0.01)) < 1


@given(st.floats(-4.6, 4.6))
def test_the_gradient_of_the_open_probability_is_p_times_one_minus_p(log_alpha: float) -> None:
    value = torch.tensor(log_alpha, dtype=torch.float64, requires_grad=True)
    probability = open_probability(value)
    (gradient,) = torch.autograd.grad(probability, value)
    p = probability.detach()
    torch.testing.assert_close(gradient, p * (1 - p))


def test_a_fresh_mask_multiplies_by_one_and_a_half() -> None:
    table = masks().eval()
    of_input, of_output = table.multipliers("up.0", table.rows(["sw", "en"]))
    assert of_input.shape == (2, 4)
    assert of_output.shape == (2, 6)
    torch.testing.assert_close(of_input, torch.full((2, 4), 1.5), atol=0.02, rtol=0)


def test_a_scale_of_zero_is_no_mask_at_all() -> None:
    table = masks()
    for scale in table.scale.values():
        torch.nn.init.zeros_(scale)
    for multiplier in table.multipliers("down.0", table.rows(["de"])):
        assert torch.equal(multiplier, torch.ones_like(multiplier))


def test_scales_are_not_limited_to_the_unit_interval() -> None:
    table = masks().eval()
    torch.nn.init.constant_(table.scale["0"], -4.0)
    assert table.multipliers("up.0", table.rows(["en"]))[0].max() < 0


def test_training_draws_for_every_token_and_evaluation_does_not_draw() -> None:
    table = masks()
    rows = table.rows(["en", "en"])
    first, second = table.multipliers("up.0", rows)[0]
    assert not torch.equal(first, second)
    table.eval()
    first, second = table.multipliers("up.0", rows)[0]
    assert torch.equal(first, second)


def test_samples_repeat_after_reseeding_and_only_then() -> None:
    table = masks(seed=5)
    rows = table.rows(["en"] * 3)

    def sample() -> torch.Tensor:
        return table.multipliers("up.1", rows)[1].detach()

    table.reseed(5, 17)
    first, second = sample(), sample()
    table.reseed(5, 17)
    assert torch.equal(sample(), first)
    assert torch.equal(sample(), second)
    table.reseed(5, 18)
    assert not torch.equal(sample(), first)
    assert not torch.equal(first, second)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    table = masks(seed=1)
    table.multipliers("up.0", table.rows(["en"]))
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_language_and_the_matrix_of_an_edit_get_a_gradient() -> None:
    table = masks()
    of_input, of_output = table.multipliers("up.1", table.rows(["de", "de"]))
    (of_input.square().sum() + of_output.square().sum()).backward()
    for parameter in (table.scale["0"], table.log_alpha["0"]):
        gradient = parameter.grad
        assert gradient is not None
        assert gradient[1, 1].abs().max() > 0
        gradient[1, 1] = 0
        assert not gradient.any()
    assert table.scale["1"].grad is None


def test_the_order_says_which_end_of_a_row_belongs_to_the_input() -> None:
    for order in ("in first", "out first"):
        table = masks(order=order).eval()
        with torch.no_grad():
            table.scale["0"][0, 0] = torch.arange(10.0)
            table.log_alpha["0"].fill_(9.0)
        of_input, of_output = (part[0].tolist() for part in table.multipliers("up.0", table.rows(["en"])))
        whole = of_input + of_output if order == "in first" else of_output + of_input
        assert whole == [1 + value for value in range(10)]


def test_the_sparsity_term_is_the_mean_over_the_edits_and_all_entries_of_their_languages() -> None:
    table = masks()
    with torch.no_grad():
        for log_alpha in table.log_alpha.values():
            log_alpha[0], log_alpha[1], log_alpha[2] = 0.0, 1.0, 2.0
    p = [open_probability(torch.tensor(value)).item() for value in (0.0, 1.0, 2.0)]
    assert table.l0(["en"]).item() == pytest.approx(p[0])
    assert table.l0(["en", "en", "sw"]).item() == pytest.approx((2 * p[0] + p[2]) / 3)


def test_the_sparsity_term_closes_gates_of_the_edited_language() -> None:
    table = masks()
    table.l0(["de"]).backward()
    entries = sum(log_alpha[0].numel() for log_alpha in table.log_alpha.values())
    for log_alpha in table.log_alpha.values():
        p = open_probability(log_alpha.detach())
        expected = torch.zeros_like(p)
        expected[1] = (p * (1 - p))[1] / entries
        torch.testing.assert_close(log_alpha.grad, expected)


def test_as_released_the_sparsity_term_is_the_same_number_without_a_gradient() -> None:
    inert = masks(l0="as released").l0(["de"])
    assert not inert.requires_grad
    assert inert == masks().l0(["de"])


def test_clamping_keeps_every_gate_recoverable() -> None:
    table = masks()
    with torch.no_grad():
        table.log_alpha["0"].fill_(99.0)
        table.log_alpha["1"].fill_(-99.0)
    table.clamp()
    assert table.log_alpha["0"].max().item() == pytest.approx(HIGHEST)
    assert table.log_alpha["1"].min().item() == pytest.approx(LOWEST)


def test_an_unknown_language_is_a_mistake_of_the_user() -> None:
    with pytest.raises(UserError, match="no mask"):
        masks().rows(["en", "deu"])


def test_the_real_shape_has_the_published_number_of_entries() -> None:
    """mBERT's last three blocks and 53 languages: 53 * 3 rows of 3840 in two tables for each shape."""
    shapes = [(3072, 768, 0), (768, 3072, 1)] * 3
    edited: list[Any] = [
        SimpleNamespace(name=f"{k}", out_features=shape[0], in_features=shape[1], shape_group=shape[2], mode=k // 2)
        for k, shape in enumerate(shapes)
    ]
    table = LanguageMasks([f"l{k}" for k in range(53)], edited)
    assert table.scale["0"].numel() + table.log_alpha["0"].numel() == 1_221_120
    assert table.strengths().shape == (53, 2 * 3 * 3840)


def test_strengths_are_what_evaluation_multiplies_by_less_one() -> None:
    table = masks(seed=3).eval()
    of_each = [
        torch.cat(table.multipliers(name, table.rows(["sw"])), dim=1)[0] - 1 for name in ("up.0", "up.1", "down.0")
    ]
    torch.testing.assert_close(table.strengths()[2], torch.cat(of_each))

"""Likeness of states: known answers, and pooled states beside the model's own hidden states."""

from __future__ import annotations

import pytest
import torch

from methods.backbone.projection import projected
from methods.neurons.attribution import Projection
from methods.neurons.similarity import centre_of, compare_states, linear_cka, query_states
from tests.backbone.tiny import tiny
from tests.neurons.test_attribution import PROMPTS, shift_for


def states(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestCKA:
    def test_it_ignores_rotation_scale_and_shift(self) -> None:
        x = states(20, 6)
        rotation, _ = torch.linalg.qr(states(6, 6, seed=1))
        assert linear_cka(x, 3 * x @ rotation + 7) == pytest.approx(1)

    def test_it_is_low_for_unrelated_states_and_not_fooled_by_a_common_direction(self) -> None:
        x, y = states(400, 4), states(400, 4, seed=1)
        away = torch.full((4,), 50.0, dtype=torch.float64)
        assert torch.cosine_similarity(x + away, y + away).mean() > 0.99
        assert linear_cka(x + away, y + away) < 0.05

    def test_it_is_the_formula_over_features(self) -> None:
        x, y = states(15, 5), states(15, 3, seed=2)
        a, b = x - x.mean(0), y - y.mean(0)
        expected = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
        assert linear_cka(x, y) == pytest.approx(float(expected))


class TestCentredCosine:
    def test_it_sees_what_sets_two_languages_apart_and_the_plain_one_does_not(self) -> None:
        """Both languages far out in one direction, a small step apart."""
        common, step = torch.full((8,), 40.0, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
        step[0] = 4.0
        noise = states(1, 30, 8)
        pivot, language = noise + common, noise + states(1, 30, 8, seed=3) + common + step
        apart = compare_states(language, pivot, centre_of(language, pivot))
        closer = compare_states(language - step, pivot, centre_of(language, pivot))
        assert apart.cosine[0] > 0.99
        assert closer.cosine[0] - apart.cosine[0] < 0.01
        assert closer.centred[0] - apart.centred[0] > 0.3
        assert closer.cka[0] == pytest.approx(apart.cka[0])


class TestQueryStates:
    @pytest.mark.parametrize("family", ["bert", "bloom"])
    @pytest.mark.parametrize("pair", [None, (1, 2), (1, 3)])
    def test_they_are_means_of_the_models_own_states(self, family: str, pair: tuple[int, int] | None) -> None:
        backbone = tiny(family)
        projection = Projection(shift_for(backbone), pair) if pair else None
        found = query_states(backbone, PROMPTS, projection, rows_at_once=8)
        for number, prompt in enumerate(PROMPTS):
            ids = torch.tensor([prompt.ids])
            if projection is None:
                hidden = backbone.model(ids, output_hidden_states=True).hidden_states
            else:
                with projected(backbone, projection.shift, projection.pair):
                    hidden = backbone.model(ids, output_hidden_states=True).hidden_states
            for k in range(1, backbone.num_layers if pair == (1, 3) else backbone.num_layers + 1):
                assert torch.allclose(found[k - 1, number], hidden[k][0].mean(0), atol=1e-5)

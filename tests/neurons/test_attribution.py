"""Knowledge attribution: known answers, and the batched way beside one step at a time with the model's own forward."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from methods.backbone import Backbone, view_model
from methods.backbone.projection import projected
from methods.neurons.attribution import (
    Attributions,
    Projection,
    Rule,
    attribute,
    integration_points,
    pack_prompts,
)
from methods.neurons.feed_forward import changed_neurons, neuron_count, neuron_sites
from methods.neurons.prompts import Prompt
from tests.backbone.tiny import INNER, tiny, tiny_model, tiny_tokenizer

FAST = ("bert", "xlm-roberta", "bloom", "gpt2", "llama-grouped", "mistral")
# One token wanted, two tokens wanted, another length.
PROMPTS = [
    Prompt(0, (7, 8, 9, 10, 11), (3,), (12,), 5),
    Prompt(1, (17, 18, 9, 10, 21, 22, 30), (2, 3), (13, 40), 7),
    Prompt(2, (27, 28, 9, 10, 31), (4,), (14,), 5),
]
SAME_LENGTH = [PROMPTS[0], PROMPTS[2]]


def shift_for(backbone: Backbone) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (backbone.num_layers + 1, backbone.hidden_size)
    return 2.0 * torch.randn(shape, generator=generator, dtype=torch.float64).to(backbone.dtype)


def attributions(
    backbone: Backbone, prompts: list[Prompt], points: Tensor, projection: Projection | None = None
) -> Attributions:
    return attribute(backbone, neuron_sites(backbone), prompts, points, projection)


def one_step_at_a_time(backbone: Backbone, prompt: Prompt, points: Tensor, projection: Projection | None) -> Tensor:
    """The plain loop over layers and points with hooks on the model's own forward: [L, F]."""
    model, rows = backbone.model, list(prompt.positions)

    def probability(site: nn.Module, neurons: Tensor | None, seen: list[Tensor]) -> Tensor:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
            states = inputs[0].clone()
            seen.append(states[0, rows].detach())
            if neurons is not None:
                states[0, rows] = neurons
            return (states,)

        handle = site.register_forward_pre_hook(hook)
        try:
            logits = model(input_ids=torch.tensor([prompt.ids])).logits[0, rows]
        finally:
            handle.remove()
        return logits.softmax(-1)[range(len(rows)), list(prompt.tokens)].mean()

    found = []
    for site in neuron_sites(backbone):
        seen: list[Tensor] = []
        probability(site, None, seen)
        total = torch.zeros_like(seen[0])
        for point in points:
            neurons = (point * seen[0]).requires_grad_()
            total += torch.autograd.grad(probability(site, neurons, []), neurons)[0]
        found.append((seen[0] * total / len(points)).sum(0))
    return torch.stack(found)


class TestReference:
    @pytest.mark.parametrize("family", FAST)
    @pytest.mark.parametrize("pair", [None, (1, 2), (2, 3)])
    def test_all_points_in_one_batch_equal_one_step_at_a_time(self, family: str, pair: tuple[int, int] | None) -> None:
        backbone = tiny(family, dtype=torch.float64)
        assert backbone.fast
        points = integration_points("left", 3)
        projection = Projection(shift_for(backbone), pair) if pair else None
        found = attributions(backbone, PROMPTS, points, projection).scores
        for number, prompt in enumerate(PROMPTS):
            if projection is None:
                slow = one_step_at_a_time(backbone, prompt, points, None)
            else:
                with projected(backbone, projection.shift, projection.pair):
                    slow = one_step_at_a_time(backbone, prompt, points, projection)
            assert torch.allclose(found[:, number].double(), slow, rtol=1e-4, atol=1e-9)

    @pytest.mark.parametrize("family", ["bert", "bloom"])
    def test_the_generic_path_finds_the_same(self, family: str) -> None:
        points = integration_points("midpoint", 4)
        found = [
            attributions(tiny(family, dtype=torch.float64, prefer=prefer), SAME_LENGTH, points).scores
            for prefer in ("fast", "generic")
        ]
        assert torch.allclose(*found, rtol=1e-4, atol=1e-8)

    def test_the_generic_path_takes_prompts_of_one_length(self) -> None:
        with pytest.raises(ValueError, match="one segment"):
            attributions(tiny("bert", prefer="generic"), PROMPTS, integration_points("left", 2))


class TestIntegral:
    def test_the_rules_have_these_points(self) -> None:
        points = {rule: integration_points(rule, 4).tolist() for rule in get_args(Rule)}
        assert points["left"] == [0, 0.25, 0.5, 0.75]
        assert points["right"] == [0.25, 0.5, 0.75, 1]
        assert points["midpoint"] == [0.125, 0.375, 0.625, 0.875]
        assert points["inclusive"] == pytest.approx([0, 1 / 3, 2 / 3, 1])

    @pytest.mark.parametrize("family", ["bert", "bloom"])
    def test_a_layers_attributions_add_up_to_what_its_neurons_change(self, family: str) -> None:
        found = attributions(tiny(family, dtype=torch.float64), PROMPTS, integration_points("midpoint", 200))
        moved = (found.probability - found.without).abs()
        assert float(moved.max()) > 1e-4, "the neurons matter"
        assert float(found.gaps().abs().max()) < 1e-3 * float(moved.max())

    @pytest.mark.parametrize(("rule", "shrinks"), [("left", 2), ("right", 2), ("inclusive", 2), ("midpoint", 4)])
    def test_twice_the_points_shrink_the_error_by_the_rules_order(self, rule: Any, shrinks: int) -> None:
        backbone = tiny("bert", dtype=torch.float64)
        coarse, fine = (
            float(attributions(backbone, PROMPTS[:1], integration_points(rule, steps)).gaps().abs().sum())
            for steps in (20, 40)
        )
        assert coarse / fine == pytest.approx(shrinks, rel=0.15)

    def test_a_neuron_that_is_silent_has_no_part_in_the_answer(self) -> None:
        backbone = tiny("bert", hidden_act="relu")
        found = attributions(backbone, PROMPTS[:1], integration_points("midpoint", 4)).scores
        assert 0.2 < float((found == 0).double().mean()) < 0.8

    def test_no_shift_is_no_projection(self) -> None:
        backbone = tiny("bert", dtype=torch.float64)
        nothing = Projection(torch.zeros(4, backbone.hidden_size), (1, 3))
        points = integration_points("midpoint", 3)
        plain, same = (attributions(backbone, PROMPTS, points, how).scores for how in (None, nothing))
        assert torch.equal(plain, same)


class TestPlantedNeurons:
    """A model whose layers each have one neuron that anything after can see."""

    PLANTED = (7, 30, 11)

    @pytest.fixture
    def backbone(self) -> Backbone:
        model = tiny_model("bert", dtype=torch.float64)
        for block, neuron in zip(model.bert.encoder.layer, self.PLANTED, strict=True):
            weight = block.output.dense.weight.data
            kept = weight[:, neuron].clone()
            weight.zero_()
            weight[:, neuron] = kept
        return view_model(model, tiny_tokenizer())

    def test_they_are_found(self, backbone: Backbone) -> None:
        scores = attributions(backbone, PROMPTS, integration_points("midpoint", 8)).scores
        for layer, neuron in zip(scores, self.PLANTED, strict=True):
            assert (layer[:, neuron] != 0).all()
            layer[:, neuron] = 0
            assert not layer.any()

    def test_with_lrp2_as_well(self, backbone: Backbone) -> None:
        projection = Projection(shift_for(backbone), (1, 2))
        scores = attributions(backbone, PROMPTS, integration_points("midpoint", 8), projection).scores
        assert scores.abs().argmax(-1).T.tolist() == [list(self.PLANTED)] * len(PROMPTS)


class TestSites:
    @pytest.mark.parametrize("family", [*FAST, "electra", "gpt-neox", "opt", "xglm"])
    def test_every_family_keeps_its_neurons_before_its_last_matrix(self, family: str) -> None:
        sites = neuron_sites(tiny(family))
        assert len({id(site) for site in sites}) == 3
        assert {neuron_count(site) for site in sites} == {4 * 32 if family in ("bloom", "gpt2") else INNER}

    def test_leaving_gives_the_model_back_also_on_an_exception(self) -> None:
        backbone = tiny("bert")
        before = attributions(backbone, PROMPTS, integration_points("left", 2)).scores
        plan, site = pack_prompts(backbone, PROMPTS).plan, neuron_sites(backbone)[0]
        with pytest.raises(RuntimeError, match="on the way"), changed_neurons(backbone, site, plan, torch.zeros_like):
            raise RuntimeError("on the way")
        assert torch.equal(attributions(backbone, PROMPTS, integration_points("left", 2)).scores, before)

"""Switching neurons off and doubling them, beside the model's own forward with one hook per layer."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from methods.backbone import Backbone
from methods.neurons.effects import TREATMENTS, random_neurons, treated_probabilities, treatments
from methods.neurons.feed_forward import neuron_sites
from methods.neurons.prompts import Prompt
from methods.neurons.running import Runner
from tests.backbone.tiny import INNER, tiny
from tests.neurons.test_attribution import PROMPTS, SAME_LENGTH

RELATIONS = ["a", "b", "a"]


def some_sets(width: int = INNER) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: draw.random((3, width)) < 0.3 for name in ("a", "b")}


def by_hand(backbone: Backbone, prompt: Prompt, members: np.ndarray, factor: float) -> float:
    rows = list(prompt.positions)

    def scaled(layer: np.ndarray):
        def hook(_, inputs):
            states = inputs[0].clone()
            factors = torch.where(torch.from_numpy(layer), factor, 1.0).to(states)
            states[0, rows] = states[0, rows] * factors
            return (states,)

        return hook

    with ExitStack() as stack:
        for site, layer in zip(neuron_sites(backbone), members, strict=True):
            stack.callback(site.register_forward_pre_hook(scaled(layer)).remove)
        logits = backbone.model(input_ids=torch.tensor([prompt.ids])).logits[0, rows]
    return float(logits.softmax(-1)[range(len(rows)), list(prompt.tokens)].mean())


@pytest.mark.parametrize("prefer", ["fast", "generic"])
def test_every_treatment_is_what_hooks_on_the_model_do(prefer: str) -> None:
    backbone = tiny("bert", dtype=torch.float64, prefer=prefer)  # type: ignore[arg-type]
    sets = some_sets()
    prompts = PROMPTS if prefer == "fast" else SAME_LENGTH
    places = [0, 1, 0][: len(prompts)]
    factors = treatments(sets, ["a", "b"], seed=5)
    found = treated_probabilities(backbone, neuron_sites(backbone), prompts, factors, places)
    for number, (prompt, place) in enumerate(zip(prompts, places, strict=True)):
        own = sets["ab"[place]]
        drawn = random_neurons(own, 5, "ab"[place])
        for treatment, members, factor in zip(
            TREATMENTS, (own, own, own, drawn, drawn), (1.0, 0.0, 2.0, 0.0, 2.0), strict=True
        ):
            expected = by_hand(backbone, prompt, members, factor)
            assert float(found[TREATMENTS.index(treatment), number]) == pytest.approx(expected, rel=1e-6)


def test_means_are_over_a_relations_prompts_in_any_tiling() -> None:
    backbone = tiny("bert")
    sets = some_sets()
    runner = Runner(backbone, neuron_sites(backbone))
    together = runner.effects(PROMPTS, RELATIONS, sets, seed=0)
    alone = [
        runner.effects([prompt], [name], {name: sets[name]}, seed=0)[name]
        for prompt, name in zip(PROMPTS, RELATIONS, strict=True)
    ]
    assert together["b"] == pytest.approx(alone[1], rel=1e-4)
    assert together["a"] == pytest.approx([(x + y) / 2 for x, y in zip(alone[0], alone[2], strict=True)], rel=1e-4)


def test_random_neurons_are_as_many_in_every_layer_and_the_same_each_time() -> None:
    own = some_sets()["a"]
    drawn = random_neurons(own, 1, "a")
    assert drawn.sum(1).tolist() == own.sum(1).tolist()
    assert (drawn == random_neurons(own, 1, "a")).all()
    assert (drawn != random_neurons(own, 2, "a")).any()


def test_tiles_of_the_generic_path_hold_prompts_of_one_shape() -> None:
    fast, slow = (tiny("bert", prefer=prefer) for prefer in ("fast", "generic"))
    assert Runner(fast, ()).tiles(PROMPTS, 2) == [[0, 2, 1]]
    assert Runner(slow, ()).tiles(PROMPTS, 2) == [[0, 2], [1]]
    assert Runner(fast, (), memory_bytes=1).tiles(PROMPTS, 2) == [[0], [2], [1]]

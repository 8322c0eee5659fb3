"""From attributions to sets and their overlap, by hand and beside the obvious way with Python's sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.neurons import paper
from methods.neurons.overlap import languages_sharing, mean, overlap, same_overlap
from methods.neurons.refine import NeuronCounts, most_frequent, shared_neurons, strong_neurons, top_neurons

LAYERS, WIDTH = 2, 6


def members(*layers: tuple[int, ...]) -> np.ndarray:
    """[L, F] with the named neurons of each layer."""
    sets = np.zeros((len(layers), WIDTH), dtype=bool)
    for layer, names in enumerate(layers):
        sets[layer, list(names)] = True
    return sets


class TestFrequent:
    def test_equal_attributions_go_by_the_neurons_number(self) -> None:
        scores = torch.tensor([[[0.0, 5.0, 2.0, 5.0, 2.0, 2.0]]])
        assert top_neurons(scores, 3).tolist() == [[[1, 3, 2]]]

    def test_equal_counts_go_by_the_neurons_number(self) -> None:
        counts = np.array([[1, 4, 1, 4, 1, 0]])
        assert np.flatnonzero(most_frequent(counts, 4)).tolist() == [0, 1, 2, 3]

    def test_a_relation_keeps_what_stands_out_in_most_of_its_prompts(self) -> None:
        strongest = [(0, 1), (0, 2), (0, 2), (4, 5), (4, 5)]
        scores = torch.zeros(LAYERS, len(strongest), WIDTH)
        for prompt, neurons in enumerate(strongest):
            scores[:, prompt, list(neurons)] = 1.0
        counts = NeuronCounts("frequent", 2)
        counts.add(scores[:, :2], ["a", "a"])
        counts.add(scores[:, 2:], ["a", "b", "b"])
        assert counts.prompts == {"a": 3, "b": 2}
        found = counts.sets()
        assert (found["a"] == members((0, 2), (0, 2))).all()
        assert (found["b"] == members((4, 5), (4, 5))).all()


class TestShared:
    def test_strong_is_measured_against_the_prompts_largest_in_any_layer(self) -> None:
        scores = torch.zeros(2, 1, 3)
        scores[0, 0] = torch.tensor([10.0, 2.0, 1.9])
        scores[1, 0] = torch.tensor([0.0, 3.0, -9.0])
        assert strong_neurons(scores)[:, 0].tolist() == [[True, True, False], [False, True, False]]

    def test_seven_of_ten_prompts_suffice_and_six_do_not(self) -> None:
        counts = {"a": np.array([[10, 7, 6, 0, 0, 0], [8, 0, 0, 0, 0, 0]])}
        assert (shared_neurons(counts, {"a": 10})["a"] == members((0, 1), (0,))).all()

    def test_the_share_moves_until_sets_have_two_to_five_neurons(self) -> None:
        crowded = {"a": np.array([[10, 10, 9, 9, 8, 8]])}
        assert (shared_neurons(crowded, {"a": 10})["a"] == members((0, 1, 2, 3))).all()
        sparse = {"a": np.array([[10, 5, 4, 0, 0, 0]])}
        assert (shared_neurons(sparse, {"a": 10})["a"] == members((0, 1))).all()

    def test_two_prompts_are_too_few_to_share(self) -> None:
        assert not shared_neurons({"a": np.array([[2, 2, 2, 2, 2, 2]])}, {"a": 2})["a"].any()


neuron_sets = st.lists(st.sets(st.integers(0, WIDTH - 1)), min_size=LAYERS, max_size=LAYERS)
languages = st.dictionaries(st.sampled_from("abc"), neuron_sets, min_size=1)


class TestOverlap:
    @settings(max_examples=50, deadline=None)
    @given(languages, languages, st.sampled_from(["share", "jaccard"]))
    def test_it_is_what_counting_with_sets_gives(self, first: dict, second: dict, measure: str) -> None:
        arrays = [{name: members(*map(tuple, sets)) for name, sets in one.items()} for one in (first, second)]
        shared = [name for name in first if name in second]
        found = overlap(*arrays, measure)  # type: ignore[arg-type]
        assert found.relations == tuple(shared)
        for layer in range(LAYERS):
            for row, one in enumerate(shared):
                for column, other in enumerate(shared):
                    a, b = first[one][layer], second[other][layer]
                    whole = max(len(a), len(b)) if measure == "share" else len(a | b)
                    expected = 100 * len(a & b) / whole if whole else math.nan
                    assert found.rates[layer, row, column] == pytest.approx(expected, nan_ok=True)
        same = same_overlap(*arrays, measure)  # type: ignore[arg-type]
        assert same == pytest.approx(mean(found.same), nan_ok=True)

    def test_the_papers_average_is_over_all_pairs_of_relations(self) -> None:
        for row in (paper.MBERT, paper.MBERT_LRP2):
            n = paper.RELATIONS
            assert (n * row.same + n * (n - 1) * row.different) / n**2 == pytest.approx(row.average, abs=0.05)

    def test_same_different_and_average_of_two_relations(self) -> None:
        first = {"a": members((0, 1), (0, 1)), "b": members((2, 3), (2, 3))}
        second = {"a": members((0, 2), (0, 1)), "b": members((2, 3), (4, 5))}
        found = overlap(first, second)
        assert found.same.tolist() == [[50, 100], [100, 0]]
        assert found.different.tolist() == [25, 0]
        assert found.all_pairs == pytest.approx((50 + 100 + 100 + 0 + 2 * 25 + 2 * 0) / 8)

    def test_how_many_languages_have_a_neuron(self) -> None:
        sets = [{"a": members((0, 1), ())}, {"a": members((1,), ())}, {"b": members((1,), ())}]
        assert languages_sharing(sets, "a").tolist() == [[1, 2, 0, 0, 0, 0], [0] * 6]

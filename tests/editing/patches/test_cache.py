"""Cached states: they give the model's own answers, whichever texts are asked for."""

from __future__ import annotations

import torch

from methods.editing.patches.cache import AnswerCache, States
from methods.editing.patches.plain import plain_answers, plain_right
from tests.editing.patches.test_neuron import random_patches
from tests.editing.patches.world import World


def texts_of(small: World) -> list:
    return [text for edit in small.edits for text in edit.texts.values()]


def test_cached_answers_are_the_model_s_own(small: World) -> None:
    texts = texts_of(small)
    states = small.cache.states(texts)
    theirs, queries = plain_answers(small.site, texts)
    torch.testing.assert_close(small.cache.logits(states), theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(states.queries, queries, rtol=1e-6, atol=1e-6)


def test_cached_answers_of_a_patched_model_are_its_own(small: World) -> None:
    texts, patches = texts_of(small), random_patches(small.site, 4)
    states = small.cache.states(texts)
    with small.site.merged(patches):
        theirs, _ = plain_answers(small.site, texts)
        right = [plain_right(small.site, text) for text in texts]
    torch.testing.assert_close(small.cache.logits(states, patches), theirs, rtol=1e-6, atol=1e-6)
    assert small.cache.right(states, patches).tolist() == right


def test_a_list_is_computed_once(small: World) -> None:
    cache, texts = AnswerCache(small.site), texts_of(small)
    first = cache.states(texts)
    assert cache.states(list(texts)).queries.data_ptr() == cache.states(texts).queries.data_ptr()
    assert torch.equal(cache.states(texts).sums, first.sums)
    assert (cache.store.misses, len(cache.store)) == (1, 1)


def test_selected_and_split_texts_are_those_texts(small: World) -> None:
    texts = texts_of(small)
    states = small.cache.states(texts)

    def logits(part: States) -> torch.Tensor:
        return small.cache.logits(part)

    chosen = [4, 0, 4, 7]
    expected = [states.rows == index for index in chosen]
    everything = logits(states)
    torch.testing.assert_close(logits(states.select(chosen)), torch.cat([everything[rows] for rows in expected]))
    parts = states.split([3, 0, len(texts) - 3])
    assert [part.texts for part in parts] == [3, 0, len(texts) - 3]
    assert [int(part.rows.max()) for part in parts if part.texts] == [2, len(texts) - 4]
    torch.testing.assert_close(torch.cat([logits(part) for part in parts if part.texts]), everything)


def test_no_texts_have_no_states(small: World) -> None:
    nothing = small.cache.states([])
    assert nothing.texts == 0
    assert small.cache.right(nothing).tolist() == []

"""Batches of examples: padding, label positions, and mistakes."""

from __future__ import annotations

import pytest

from methods.editing.examples import Example, encode
from orchestrator.errors import UserError
from tests.backbone.tiny import tiny_tokenizer
from tests.editing.tiny import requests

MASKED, CAUSAL = tiny_tokenizer("masked"), tiny_tokenizer("causal")


def test_a_batch_is_padded_only_to_its_longest_text() -> None:
    texts = [Example("paris [MASK]", "en", answer=(9,)), Example("the capital of [MASK] [MASK]", "en", answer=(7, 8))]
    batch = encode(texts, MASKED, "masked")
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]
    assert encode(texts[:1], MASKED, "masked").input_ids.shape == (1, 4)


def test_labels_of_masked_texts_lie_at_the_masks_in_order() -> None:
    batch = encode([Example("[MASK] of [MASK]", "en", answer=(20, 30))], MASKED, "masked")
    assert batch.columns.tolist() == [1, 3]
    assert batch.targets.tolist() == [20, 30]
    assert batch.input_ids[0, batch.columns].tolist() == [MASKED.mask_token_id] * 2


def test_labels_of_causal_texts_lie_where_the_answer_is_predicted() -> None:
    prompt = CAUSAL(" the capital of")["input_ids"]
    batch = encode([Example(" the capital of", "en", answer=(20, 30, 40))], CAUSAL, "causal")
    # The start token comes first; the answer's last token predicts nothing and is left out.
    assert batch.input_ids[0].tolist() == [CAUSAL.bos_token_id, *prompt, 20, 30]
    assert batch.columns.tolist() == [len(prompt), len(prompt) + 1, len(prompt) + 2]
    assert batch.targets.tolist() == [20, 30, 40]


def test_text_without_an_answer_has_label_positions_without_labels() -> None:
    causal = encode([Example(" the capital", "en")], CAUSAL, "causal")
    assert (causal.columns.tolist(), causal.targets.tolist()) == ([causal.input_ids.shape[1] - 1], [-1])
    masked = encode([Example("[MASK] is [MASK]", "en"), Example("no mask", "en")], MASKED, "masked")
    assert (masked.rows.tolist(), masked.targets.tolist()) == ([0, 0], [-1, -1])


def test_classifiers_take_texts_with_and_without_a_second_one() -> None:
    texts = [Example("paris is in france", "en", "france", (2,)), Example("tokyo", "en", None, (0,))]
    batch = encode(texts, MASKED, "classifier")
    assert batch.targets.tolist() == [2, 0]
    assert batch.rows.tolist() == [0, 1]
    assert batch.columns.tolist() == [0, 0]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids[0].tolist() == [0] * 6 + [1, 1]


def test_long_pairs_are_cut_and_long_questions_are_refused() -> None:
    long = Example("paris " * 50, "fr", "berlin " * 30, (1,))
    assert encode([long], MASKED, "classifier", max_length=16).input_ids.shape == (1, 16)
    with pytest.raises(UserError, match=r"has 53 tokens and the model takes 1 to 16"):
        encode([Example("paris " * 50 + "[MASK]", "fr", answer=(9,))], MASKED, "masked", max_length=16)


def test_all_mistakes_are_reported_at_once() -> None:
    wrong = [Example("[MASK] paris", "en", answer=(7, 8)), Example("paris", "fr", answer=(9,))]
    with pytest.raises(UserError) as raised:
        encode(wrong, MASKED, "masked")
    assert len(raised.value.problems) == 2
    assert "has 1 masks and its answer 2 tokens" in raised.value.problems[0]


@pytest.mark.parametrize("kind", ["masked", "causal", "classifier"])
def test_selected_rows_are_the_batch_of_these_examples(kind: str) -> None:
    tokenizer = CAUSAL if kind == "causal" else MASKED
    examples = requests(kind, 5)
    for chosen in ([3, 1], [0], [2, 2, 4]):
        selected = encode(examples, tokenizer, kind).select(chosen)
        expected = encode([examples[index] for index in chosen], tokenizer, kind)
        for name in ("input_ids", "attention_mask", "token_type_ids", "rows", "columns", "targets"):
            ours, theirs = getattr(selected, name), getattr(expected, name)
            assert (ours is None and theirs is None) or ours.tolist() == theirs.tolist(), name
        assert selected.keys == expected.keys

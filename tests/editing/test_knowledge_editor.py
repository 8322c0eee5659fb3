"""KnowledgeEditor: what its networks read, and the rank-one matrices that they make an update of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from methods.editing.editors import KnowledgeEditorConfig, build_editor
from methods.editing.editors.knowledge_editor import ConditionEncoder, Conditioner, RankOnes, updated_factors
from methods.editing.factors import token_factors
from tests.editing.learned import LearnedEditorContract, editable, requests
from tests.editing.tiny import LANGUAGES

SMALL: dict[str, Any] = {"encoder_hidden": 6, "condition_size": 5, "hidden": 7}


class TestKnowledgeEditor(LearnedEditorContract):
    name, options = "knowledge-editor", SMALL


class TestWithTarget(LearnedEditorContract):
    name, options = "knowledge-editor", {**SMALL, "condition": "target and input"}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predicted(inputs: int = 2, outputs: int = 3) -> RankOnes:
    """For two edits of a small matrix."""
    conditioner = Conditioner(inputs, outputs, 4, 6).double()
    result: RankOnes = conditioner(random(2, 4))
    return result


def dense(column: Tensor, row: Tensor) -> Tensor:
    return column[:, :, None] * row[:, None, :]


def test_a_conditioner_of_the_published_size_gives_7681_numbers() -> None:
    with torch.device("meta"):
        conditioner = Conditioner(768, 3072, 768, 512)
    assert sum(conditioner.sizes) == 7681
    assert conditioner.network[-1].out_features == 7681


def test_its_rank_one_matrix_has_the_row_as_column_sums() -> None:
    parts = predicted()
    a = dense(parts.column_a, parts.row_a)
    assert torch.linalg.matrix_rank(a).tolist() == [1, 1]
    torch.testing.assert_close(a.sum(1), parts.row_a)
    assert ((parts.gate > 0) & (parts.gate < 1)).all()


def test_the_update_is_its_formula_on_the_whole_gradient() -> None:
    x, delta = random(2, 5, 2), random(2, 5, 3, seed=1)
    parts = predicted()
    new_x, new_delta = updated_factors(x, delta, parts, max_scale=0.7)
    assert new_x.shape == (2, 6, 2)
    gradient = delta.mT @ x
    a, b = dense(parts.column_a, parts.row_a), dense(parts.column_b, parts.row_b)
    torch.testing.assert_close(new_delta.mT @ new_x, 0.7 * parts.gate[:, None] * (gradient * a + b))


def test_a_closed_gate_changes_nothing() -> None:
    parts = predicted()._replace(gate=torch.sigmoid(torch.full((2, 1), -800.0, dtype=torch.float64)))
    new_x, new_delta = updated_factors(random(2, 5, 2), random(2, 5, 3), parts)
    assert not (new_delta.mT @ new_x).any()


def test_without_a_gradient_the_second_matrix_is_all_there_is() -> None:
    parts = predicted()
    new_x, new_delta = updated_factors(torch.zeros(2, 5, 2).double(), torch.zeros(2, 5, 3).double(), parts)
    expected = parts.gate[:, None] * dense(parts.column_b, parts.row_b)
    torch.testing.assert_close(new_delta.mT @ new_x, expected)
    assert torch.linalg.matrix_rank(expected).tolist() == [1, 1]


def test_a_single_token_is_enough() -> None:
    new_x, new_delta = updated_factors(random(2, 1, 2), random(2, 1, 3), predicted())
    assert new_x.shape[1] == new_delta.shape[1] == 2


def test_the_condition_of_a_text_does_not_depend_on_its_neighbours() -> None:
    encoder = ConditionEncoder(random(9, 4), 3, 5).double()
    texts = [torch.tensor(ids) for ids in ([1], [2, 3, 4, 5], [6, 7])]
    together = encoder(texts)
    assert together.abs().max() < 1
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row], encoder([text])[0])


def test_the_encoder_trains_a_copy_of_the_models_word_embeddings() -> None:
    model = editable()
    editor: Any = build_editor(KnowledgeEditorConfig(**SMALL), model, LANGUAGES)
    words = model.hf.get_input_embeddings().weight
    assert torch.equal(editor.encoder.words.weight, words)
    assert editor.encoder.words.weight.data_ptr() != words.data_ptr()
    assert editor.encoder.words.weight.requires_grad


@pytest.mark.parametrize("kind", ["masked", "causal", "classifier"])
def test_the_condition_is_the_text_before_the_answer_and_the_answer_if_wanted(kind: Any) -> None:
    model = editable(kind)
    batch, _ = requests(model)
    plain: Any = build_editor(KnowledgeEditorConfig(**SMALL), model, LANGUAGES)
    full: Any = build_editor(KnowledgeEditorConfig(**SMALL, condition="target and input"), model, LANGUAGES)
    vocabulary = len(model.hf.get_input_embeddings().weight)
    for row, (text, both) in enumerate(zip(plain.condition_texts(batch), full.condition_texts(batch), strict=True)):
        answer = batch.targets[batch.rows == row].tolist()
        ids = batch.input_ids[row, : int(batch.attention_mask[row].sum())].tolist()
        assert text.tolist() == (ids[: len(ids) - len(answer) + 1] if kind == "causal" else ids)
        first = [vocabulary + 1 + label for label in answer] if kind == "classifier" else answer
        assert both.tolist() == [*first, vocabulary, *text.tolist()]


def test_only_with_the_target_does_the_condition_tell_two_answers_apart() -> None:
    model = editable()
    batch, languages = requests(model)
    other, _ = requests(model, shift=1)
    for condition, same in (("input", True), ("target and input", False)):
        editor: Any = build_editor(KnowledgeEditorConfig(**SMALL, condition=condition), model, LANGUAGES)
        pairs = (editor.encoder(editor.condition_texts(texts)) for texts in (batch, other))
        assert torch.equal(*pairs) is same
        assert len(editor.edit(batch, languages)) == len(batch)


def test_masks_multiply_the_gradient_alone() -> None:
    """Fresh gates are about one half: the gradient's term grows by 1.5 * 1.5 = 2.25, the other does not grow."""
    model = editable()
    plain: Any = build_editor(KnowledgeEditorConfig(**SMALL), model, LANGUAGES).eval()
    masked: Any = build_editor(KnowledgeEditorConfig(**SMALL, masks=True), model, LANGUAGES).eval()
    for log_alpha in masked.masks.log_alpha.values():
        torch.nn.init.zeros_(log_alpha)
    masked.load_state_dict(plain.state_dict(), strict=False)
    batch, languages = requests(model)
    factors = token_factors(model, batch, model.frozen(batch))
    condition = plain.encoder(plain.condition_texts(batch))
    edits = masked.edit(batch, languages)
    for module, conditioner in zip(model.modules, plain.conditioners, strict=True):
        x, delta = factors[module.name]
        parts = conditioner(condition)
        a, b = dense(parts.column_a, parts.row_a), dense(parts.column_b, parts.row_b)
        expected = parts.gate[:, None] * (2.25 * (delta.mT @ x) * a + b)
        torch.testing.assert_close(edits.dense(module.name), expected)


def test_training_samples_one_mask_for_each_edit_and_matrix() -> None:
    model = editable()
    editor: Any = build_editor(KnowledgeEditorConfig(**SMALL, masks=True), model, LANGUAGES).train()
    batch, languages = requests(model)
    first, second = (editor.edit(batch, languages).tensors[model.modules[0].name][0] for _ in range(2))
    ratio = (first / second)[0, : int(batch.attention_mask[0].sum())]
    finite = ratio.isfinite().all(0)
    torch.testing.assert_close(ratio[0, finite], ratio[1, finite])
    assert editor.masks.order == "out first"

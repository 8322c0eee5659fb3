"""Editable Training: its second-order step against plain functional gradients and finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods.editing.editors import EditableTrainingConfig, build_editor
from tests.editing.learned import LearnedEditorContract, editable, edited_loss, requests
from tests.editing.tiny import LANGUAGES


class TestEditableTraining(LearnedEditorContract):
    name, options = "editable-training", {"edit_lr": 0.1}


class TestFirstOrder(LearnedEditorContract):
    name, options = "editable-training", {"edit_lr": 0.1, "first_order": True}


STEP = 0.3


def trainer(kind: Any = "masked", **options: Any) -> Any:
    return build_editor(EditableTrainingConfig(edit_lr=STEP, **options), editable(kind), LANGUAGES)


def gradients(editor: Any) -> tuple[list[Tensor], Tensor]:
    """What training sees: edits for one set of answers, judged by another; of copies and step sizes."""
    batch, languages = requests(editor.model)
    judged, _ = requests(editor.model, shift=1)
    edits = editor.edit(batch, languages, create_graph=True)
    found = torch.autograd.grad(edited_loss(editor, edits, judged).sum(), [*editor.copies, editor.step_sizes])
    return list(found[:-1]), found[-1]


def plain_gradients(editor: Any, first_order: bool) -> tuple[list[Tensor], Tensor]:
    """The same, one request at a time, by the whole model as a function of its weights."""
    model = editor.model
    batch, _ = requests(model)
    judged, _ = requests(model, shift=1)
    names = [f"{module.name}.weight" for module in model.modules]

    def loss(weights: list[Tensor], texts: Any, row: int) -> Tensor:
        part = texts.select([row])
        inputs = {"input_ids": part.input_ids, "attention_mask": part.attention_mask}
        if part.token_type_ids is not None:
            inputs["token_type_ids"] = part.token_type_ids
        logits = functional_call(model.hf, dict(zip(names, weights, strict=True)), kwargs=inputs).logits
        chosen = logits if model.kind == "classifier" else logits[part.rows, part.columns]
        return torch.nn.functional.cross_entropy(chosen, part.targets)

    total = torch.zeros((), dtype=model.dtype)
    with sdpa_kernel(SDPBackend.MATH):
        for row in range(len(batch)):
            copies = list(editor.copies)
            inner = torch.autograd.grad(loss(copies, batch, row), copies, create_graph=not first_order)
            stepped = [w - step * g for w, step, g in zip(copies, editor.step_sizes, inner, strict=True)]
            total = total + loss(stepped, judged, row)
        found = torch.autograd.grad(total, [*editor.copies, editor.step_sizes])
    return list(found[:-1]), found[-1]


@pytest.mark.parametrize("kind", ["masked", "causal", "classifier"])
@pytest.mark.parametrize("first_order", [False, True])
def test_factored_gradients_are_those_of_a_plain_step_through_the_whole_model(kind: Any, first_order: bool) -> None:
    editor = trainer(kind, first_order=first_order)
    ours, theirs = gradients(editor), plain_gradients(editor, first_order)
    for mine, plain in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(ours[1], theirs[1])


def test_the_second_order_gradient_is_the_slope_of_the_loss_and_the_first_order_one_is_not() -> None:
    editor = trainer()
    batch, languages = requests(editor.model)
    judged, _ = requests(editor.model, shift=1)

    def loss() -> float:
        return edited_loss(editor, editor.edit(batch, languages), judged).sum().item()

    second, _ = gradients(editor)
    first, _ = gradients(trainer(first_order=True))
    for copy, exact, rough in zip(editor.copies, second, first, strict=True):
        place = int(exact.abs().argmax())
        entry = copy.data.view(-1)
        before, width = entry[place].item(), 1e-5
        entry[place] = before + width
        above = loss()
        entry[place] = before - width
        below = loss()
        entry[place] = before
        slope = (above - below) / (2 * width)
        assert exact.view(-1)[place].item() == pytest.approx(slope, rel=1e-5)
        assert rough.view(-1)[place].item() != pytest.approx(slope, rel=1e-3)


def test_an_edit_is_one_step_down_the_gradient_of_the_trained_copies() -> None:
    editor = trainer()
    torch.nn.init.normal_(editor.copies[0], std=0.2)
    batch, languages = requests(editor.model)
    edits = editor.edit(batch, languages)
    for row in range(len(batch)):
        copies = [copy.detach().clone().requires_grad_() for copy in editor.copies]
        names = [f"{module.name}.weight" for module in editor.model.modules]
        part = batch.select([row])
        kwargs = {"input_ids": part.input_ids, "attention_mask": part.attention_mask}
        logits = functional_call(editor.model.hf, dict(zip(names, copies, strict=True)), kwargs=kwargs).logits
        torch.nn.functional.cross_entropy(logits[part.rows, part.columns], part.targets).backward()
        for module, copy in zip(editor.model.modules, copies, strict=True):
            assert copy.grad is not None
            torch.testing.assert_close(edits.dense(module.name)[row], -STEP * copy.grad)


def test_with_step_size_zero_nothing_moves_and_its_slope_is_minus_the_product_of_the_gradients() -> None:
    editor = trainer()
    torch.nn.init.zeros_(editor.step_sizes)
    model = editor.model
    batch, languages = requests(model)
    judged, _ = requests(model, shift=1)
    edits = editor.edit(batch, languages, create_graph=True)
    with editor.applied(edits, torch.arange(len(batch))):
        edited = model.logits(judged)
    assert torch.equal(edited, model.logits(judged))

    _, slopes = gradients(editor)
    torch.nn.init.ones_(editor.step_sizes)  # a step of one makes an edit the gradient itself, with the sign turned
    inner, outer = editor.edit(batch, languages), editor.edit(judged, languages)
    for module, slope in zip(model.modules, slopes, strict=True):
        product = (inner.dense(module.name) * outer.dense(module.name)).sum()
        torch.testing.assert_close(slope, -product)


def test_masks_multiply_both_factors_of_the_step() -> None:
    """Fresh gates are about one half, so both factors grow by 1.5 and the step by 2.25."""
    plain, masked = trainer().eval(), trainer(masks=True).eval()
    for log_alpha in masked.masks.log_alpha.values():
        torch.nn.init.zeros_(log_alpha)
    batch, languages = requests(plain.model)
    ours, theirs = plain.edit(batch, languages), masked.edit(batch, languages)
    for module in plain.model.modules:
        torch.testing.assert_close(theirs.dense(module.name), 2.25 * ours.dense(module.name))


def test_every_token_has_a_mask_sample_of_its_own() -> None:
    editor = trainer(masks=True).train()
    batch, languages = requests(editor.model)
    first, second = (editor.edit(batch, languages).tensors[editor.model.modules[0].name][0] for _ in range(2))
    ratio = (first / second)[0, : int(batch.attention_mask[0].sum())]
    assert not torch.allclose(ratio[0], ratio[1])


def test_what_is_kept_is_the_unmodified_model_not_the_copies() -> None:
    editor = trainer()
    batch, _ = requests(editor.model)
    before = editor.model.logits(batch)
    torch.nn.init.normal_(editor.copies[1])
    assert torch.equal(editor.model.logits(batch), before)
    assert set(editor.weights()) == {module.name for module in editor.model.modules}

"""What every editor promises, for every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from methods.editing.editors import (
    EDITORS,
    Editor,
    FineTuningConfig,
    LearnedConfig,
    build_editor,
    load_editor,
    save_editor,
)
from methods.editing.edits import Edits
from methods.editing.losses import nll
from methods.editing.model import EditableModel
from orchestrator.errors import UserError
from tests.editing.tiny import KINDS, LANGUAGES, attached, cached_editable, requests, tiny_editable, weights

VARIANTS = [
    (name, masks) for name, editor in EDITORS.items() for masks in ((False, True) if editor.trainable else (False,))
]


def make(variant: tuple[str, bool], model: EditableModel, seed: int = 0, *, moved: bool = True) -> Editor:
    """An editor whose weights are `moved` away from their start, so that its edits do something."""
    name, masks = variant
    kind = EDITORS[name].Config
    options: dict[str, Any] = {"seed": seed}
    if issubclass(kind, LearnedConfig):
        options |= {"masks": masks}
    if "edit_lr" in kind.model_fields:
        options |= {"edit_lr": 0.05}
    if issubclass(kind, FineTuningConfig):
        options |= {"lr": 1e-3, "max_steps": 3}
    editor = build_editor(kind(**options), model, LANGUAGES).eval()
    if moved:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in editor.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return editor


def edit(editor: Editor, number: int = 4, order: list[int] | None = None) -> tuple[Any, Edits]:
    """A batch of requests and their edits."""
    examples = requests(editor.model.kind, number)
    examples = examples if order is None else [examples[index] for index in order]
    batch = editor.model.encode(examples)
    return batch, editor.edit(batch, [example.language for example in examples])


def close(ours: Edits, theirs: Edits, tolerance: float = 1e-9) -> None:
    for module in theirs.modules:
        torch.testing.assert_close(ours.dense(module), theirs.dense(module), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v[0] + (" with masks" if v[1] else ""))
class TestEveryEditor:
    @pytest.fixture(params=KINDS)
    def editor(self, request: pytest.FixtureRequest, variant: tuple[str, bool]) -> Editor:
        return make(variant, cached_editable(request.param, torch.float64))

    def test_a_batch_of_requests_gives_what_each_gives_alone(self, editor: Editor) -> None:
        _, together = edit(editor)
        for index in range(4):
            _, alone = edit(editor, order=[index])
            close(together[[index]], alone)

    def test_rows_see_their_own_edit_as_if_it_were_in_the_weights(self, editor: Editor) -> None:
        batch, edits = edit(editor)
        with editor.applied(edits, torch.arange(4)):
            together = editor.model.logits(batch)
        raw = editor.model.logits(batch)
        for index in range(4):
            with editor.materialised(edits, index):
                alone = editor.model.logits(batch)
            here = batch.rows == index
            torch.testing.assert_close(together[here], alone[here], atol=1e-8, rtol=1e-8)
        assert (together - raw).abs().max() > 1e-4, "the edits should do something"

    def test_requests_in_another_order_give_the_same_edits_in_that_order(self, editor: Editor) -> None:
        order = [2, 0, 3, 1]
        _, edits = edit(editor)
        _, permuted = edit(editor, order=order)
        close(permuted, edits[order])

    def test_the_model_is_left_as_it_was(self, editor: Editor) -> None:
        model = editor.model
        before, hooks = weights(model), attached(model)
        batch, edits = edit(editor)
        with editor.applied(edits, torch.arange(4)):
            model.logits(batch)
        assert not model.edited
        assert attached(model) == hooks
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.hf.state_dict().items())

    def test_the_same_seed_gives_the_same_editor_and_edits(self, editor: Editor, variant: tuple[str, bool]) -> None:
        torch.manual_seed(123)
        state = torch.get_rng_state()
        again = make(variant, editor.model)
        assert torch.equal(torch.get_rng_state(), state)
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor, editor.state_dict()[name]), name
        first, second = edit(editor)[1], edit(again)[1]
        assert all(torch.equal(first.dense(module), second.dense(module)) for module in first.modules)

    def test_saved_and_loaded_it_gives_the_same_edits(self, editor: Editor, tmp_path: Path) -> None:
        save_editor(editor, tmp_path)
        state = torch.get_rng_state()
        loaded = load_editor(tmp_path, editor.model).eval()
        assert torch.equal(torch.get_rng_state(), state)
        assert type(loaded) is type(editor)
        assert loaded.config == editor.config
        assert loaded.languages == editor.languages
        first, second = edit(editor)[1], edit(loaded)[1]
        assert all(torch.equal(first.dense(module), second.dense(module)) for module in first.modules)

    def test_edits_are_stored_and_read_again(self, editor: Editor) -> None:
        _, edits = edit(editor)
        again = type(edits).from_tensors(edits.to_tensors())
        assert all(torch.equal(again.dense(module), edits.dense(module)) for module in edits.modules)

    def test_edits_without_a_graph_have_none(self, editor: Editor) -> None:
        _, edits = edit(editor)
        assert not any(part.requires_grad for parts in edits.tensors.values() for part in parts)

    def test_training_reaches_every_parameter_of_its_groups(self, editor: Editor) -> None:
        if not editor.trainable:
            assert not list(editor.parameters())
            assert not editor.parameter_groups()
            return
        editor.train()
        examples = requests(editor.model.kind, 3)
        batch = editor.model.encode(examples)
        states = editor.model.frozen(batch)
        spoken = [example.language for example in examples]
        edits = editor.edit(batch, spoken, create_graph=True)
        with editor.applied(edits, torch.arange(3)):
            loss = nll(editor.model.logits(batch, states), batch.targets, batch.rows, 3).mean()
        penalty = editor.regularizer(spoken)
        (loss if penalty is None else loss + penalty).backward()
        grouped = [parameter for group in editor.parameter_groups() for parameter in group["params"]]
        assert {id(parameter) for parameter in grouped} == {id(p) for p in editor.parameters() if p.requires_grad}
        for name, parameter in editor.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
        assert all(group["lr"] > 0 for group in editor.parameter_groups())

    def test_in_float32_a_batch_equals_one_by_one(self, variant: tuple[str, bool]) -> None:
        editor = make(variant, cached_editable("bert", torch.float32))
        batch, edits = edit(editor)
        with editor.applied(edits, torch.arange(4)):
            together = editor.model.logits(batch)
        for index in range(4):
            one, alone = edit(editor, order=[index])
            with editor.applied(alone, torch.zeros(1, dtype=torch.long)):
                logits = editor.model.logits(one)
            torch.testing.assert_close(together[batch.rows == index], logits, atol=1e-5, rtol=1e-4)


def test_an_editor_of_another_model_is_refused(tmp_path: Path) -> None:
    editor = make(("fine-tuning", False), tiny_editable("bert"))
    save_editor(editor, tmp_path)
    with pytest.raises(UserError, match="was made for other matrices"):
        load_editor(tmp_path, tiny_editable("bloom"))


def test_a_folder_without_an_editor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no whole editor"):
        load_editor(tmp_path, tiny_editable("bert"))

"""What every editor that learns must do besides what all editors must, and edit requests to try it with.

An editor's tests inherit `LearnedEditorContract` and say which editor it is and how small to make it:

    class TestMend(LearnedEditorContract):
        name, options = "mend", {"rank": 8}
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from methods.editing.editors import EDITORS, build_editor
from methods.editing.editors.learned import LearnedEditor, StepConfig
from methods.editing.examples import Encoded, Kind
from methods.editing.losses import nll
from methods.editing.model import EditableModel
from orchestrator.errors import UserError
from tests.editing.tiny import CLASSES, LANGUAGES, cached_editable
from tests.editing.tiny import requests as examples_of

FAMILIES: dict[Kind, str] = {"masked": "bert", "causal": "bloom", "classifier": "bert-classifier"}


def editable(kind: Kind = "masked") -> EditableModel:
    """A tiny model in float64, shared by all tests, which leave it as it is."""
    return cached_editable(FAMILIES[kind], torch.float64)


def requests(model: EditableModel, shift: int = 0) -> tuple[Encoded, list[str]]:
    """Four edit requests of different lengths with their languages; `shift` asks for other answers."""
    examples = []
    for example in examples_of(model.kind, 4):
        answer = tuple(label + shift for label in example.answer)
        if model.kind == "classifier":
            answer = tuple(label % CLASSES for label in answer)
        examples.append(replace(example, answer=answer))
    return model.encode(examples), [example.language for example in examples]


def edited_loss(editor: Any, edits: Any, batch: Encoded) -> Tensor:
    """The negative log-likelihood of every request under its own edit, [B]."""
    model = editor.model
    with editor.applied(edits, torch.arange(len(batch))):
        return nll(model.logits(batch), batch.targets, batch.rows, len(batch))


class LearnedEditorContract:
    """Inherited by the tests of every editor that learns."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(params=FAMILIES)
    def model(self, request: pytest.FixtureRequest) -> EditableModel:
        return editable(request.param)

    def build(self, model: EditableModel, trained: bool = True, **options: Any) -> Any:
        """An editor of this kind; `trained` moves every parameter, so that nothing is zero or one by accident."""
        config = EDITORS[self.name].Config(**{**self.options, **options})
        editor = build_editor(config, model, LANGUAGES)
        if trained:
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in editor.parameters():
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return editor.eval()

    @pytest.mark.parametrize("masks", [False, True])
    def test_a_batch_of_edits_is_the_same_as_one_by_one(self, model: EditableModel, masks: bool) -> None:
        editor = self.build(model, masks=masks)
        batch, languages = requests(model)
        together = editor.edit(batch, languages)
        for row, language in enumerate(languages):
            alone = editor.edit(batch.select([row]), [language])
            for module in model.modules:
                torch.testing.assert_close(together.dense(module.name)[row], alone.dense(module.name)[0])

    def test_training_leaves_the_model_as_it_was_bit_for_bit(self, model: EditableModel) -> None:
        before = {name: weight.clone() for name, weight in model.hf.state_dict().items()}
        batch, languages = requests(model)
        logits = model.logits(batch)
        editor = self.build(model, masks=True)
        edits = editor.train().edit(batch, languages, create_graph=True)
        edited_loss(editor, edits, batch).sum().backward()
        assert torch.equal(model.logits(batch), logits)
        assert all(torch.equal(weight, before[name]) for name, weight in model.hf.state_dict().items())
        assert all(weight.grad is None and not weight.requires_grad for weight in model.hf.parameters())

    def test_training_reaches_every_parameter_of_the_languages_at_hand(self, model: EditableModel) -> None:
        editor = self.build(model, masks=True)
        batch, _ = requests(model)
        edits = editor.edit(batch, ["de"] * len(batch), create_graph=True)
        loss = edited_loss(editor, edits, batch).sum() + editor.regularizer(["de"])
        loss.backward()
        for name, parameter in editor.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
            if name.startswith("masks"):
                assert not parameter.grad[[0, 2]].any(), name

    def test_masks_with_a_scale_of_zero_change_nothing(self, model: EditableModel) -> None:
        plain, masked = self.build(model, trained=False), self.build(model, trained=False, masks=True)
        for scale in masked.masks.scale.values():
            torch.nn.init.zeros_(scale)
        masked.load_state_dict(plain.state_dict(), strict=False)
        batch, languages = requests(model)
        ours, theirs = plain.edit(batch, languages), masked.edit(batch, languages)
        assert all(torch.equal(ours.dense(m.name), theirs.dense(m.name)) for m in model.modules)

    def test_masks_are_random_in_training_and_repeat_with_the_key_of_the_step(self, model: EditableModel) -> None:
        editor = self.build(model, masks=True).train()
        batch, languages = requests(model)
        name = model.modules[0].name

        def update(*key: int) -> Tensor:
            editor.prepare_step(*key)
            return editor.edit(batch, languages).dense(name)

        assert torch.equal(update(0, 3), update(0, 3))
        assert not torch.equal(update(0, 3), update(0, 4))

    def test_an_edit_in_a_language_without_a_mask_is_refused(self) -> None:
        model = editable()
        batch, languages = requests(model)
        with pytest.raises(UserError, match="'sw' has no mask"):
            self.build(model, masks=True).edit(batch, ["sw", *languages[1:]])

    def test_every_parameter_is_in_exactly_one_group(self) -> None:
        editor = self.build(editable(), masks=True)
        assert isinstance(editor, LearnedEditor)
        grouped = [id(parameter) for group in editor.parameter_groups() for parameter in group["params"]]
        assert sorted(grouped) == sorted(id(parameter) for parameter in editor.parameters())
        rates = [group["lr"] for group in editor.parameter_groups()]
        steps = [editor.config.lr] if isinstance(editor.config, StepConfig) else []
        assert rates == [editor.config.lr, *steps, editor.config.mask_lr]

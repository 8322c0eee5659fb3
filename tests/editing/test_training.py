"""Training an editor: gradients, early stopping, guards, and going on after a kill."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.editing import training
from methods.editing.batches import length_groups
from methods.editing.editors import EDITORS, Editor, LearnedConfig, build_editor
from methods.editing.examples import EditSample
from methods.editing.gradients import LossWeights, plain_gradients, step_gradients
from methods.editing.model import EditableModel
from methods.editing.training import BEST, CHECKPOINT, TrainingResult, TrainingSettings, train_editor
from orchestrator.errors import UserError
from tests.editing.fake_task import FakeTask
from tests.editing.tiny import LANGUAGES, attached, cached_editable, weights

LEARNED = [name for name, editor in EDITORS.items() if editor.trainable]


def editor_of(model: EditableModel, name: str = "mend", masks: bool = False, **options: Any) -> Editor:
    kind = EDITORS[name].Config
    small = {"rank": 8, "edit_lr": 0.03, "encoder_hidden": 8, "condition_size": 8, "hidden": 8}
    options = {**{name: value for name, value in small.items() if name in kind.model_fields}, **options}
    assert issubclass(kind, LearnedConfig)
    return build_editor(kind(**{"lr": 1e-3, "masks": masks, **options}), model, LANGUAGES)


def settings(**options: Any) -> TrainingSettings:
    small: dict[str, Any] = {"steps": 6, "edits_per_step": 3, "validate_every": 2, "validation_edits": 3}
    return TrainingSettings(**{"edit_languages": LANGUAGES, "update_languages": LANGUAGES, **small, **options})


def draws_of(model: EditableModel, number: int = 5, retains: int = 2) -> list[list[EditSample]]:
    task = FakeTask(model.kind)
    choices = {"update_languages": LANGUAGES, "retain_languages": LANGUAGES, "seed": 0, "retains": retains}
    return [drawn for language in LANGUAGES for drawn in task.test_samples("train", language, **choices)][::2][:number]


def gradients(editor: Editor) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in editor.named_parameters()}


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize("direction", ["raw||edited", "edited||raw"])
def test_a_step_has_the_gradient_of_the_plain_loop(exact: EditableModel, name: str, direction: Any) -> None:
    draws, loss_weights = draws_of(exact), LossWeights(0.3, 0.7, 0.5, direction)
    ours, theirs = (editor_of(exact, name, masks=True).eval() for _ in range(2))
    losses = step_gradients(ours, draws, loss_weights, tokens_at_once=30)
    reference = plain_gradients(theirs, draws, loss_weights)
    expected = gradients(theirs)
    assert any(gradient.any() for gradient in expected.values())
    for parameter, gradient in gradients(ours).items():
        # BLOOM's attention computes in float32 whatever the weights are.
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-5, atol=1e-6, msg=parameter)
    assert losses == pytest.approx(reference, rel=1e-5)
    parts = (0.3 * losses.edit, 0.7 * losses.locality, 0.5 * losses.masks)
    assert losses.total == pytest.approx(sum(parts))
    assert all(part > 0 for part in parts)


def test_equal_edits_have_the_gradient_of_one() -> None:
    model = cached_editable("bert", torch.float64)
    one, ten = editor_of(model).eval(), editor_of(model).eval()
    drawn = draws_of(model)[0]
    step_gradients(one, [drawn], LossWeights())
    step_gradients(ten, [drawn] * 10, LossWeights())
    for name, gradient in gradients(ten).items():
        torch.testing.assert_close(gradient, gradients(one)[name])


def train(editor: Editor, scratch: Path, chosen: TrainingSettings, **options: Any) -> TrainingResult:
    return train_editor(editor, FakeTask(editor.model.kind), chosen, scratch=scratch, **options)


@pytest.mark.parametrize("name", LEARNED)
def test_training_lowers_the_loss_and_leaves_the_model_alone(name: str, tmp_path: Path) -> None:
    model = cached_editable("bert", torch.float64)
    before, hooks = weights(model), attached(model)
    options = {"sign": "-"} if name == "mend" else {}
    editor = editor_of(model, name, lr=3e-3, **options)
    result = train(editor, tmp_path, settings(steps=30, validate_every=10, edits_per_step=8, validation_edits=4))
    losses = [point.loss for point in result.curve]
    assert losses[0] is None
    assert (losses[-1] or 0) < (losses[1] or 0)
    assert [point.step for point in result.curve] == [0, 10, 20, 30]
    assert result.validation == max(point.succ for point in result.curve)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    assert attached(model) == hooks


class Killed(Exception):
    """Stands for a process that ends in the middle of a step."""


def interrupted(editor: Editor, scratch: Path, chosen: TrainingSettings, step: int) -> None:
    """Trains until the forward pass of the given step."""
    prepare = editor.prepare_step

    def prepare_step(*key: int) -> None:
        if key[-1] == step:
            raise Killed
        prepare(*key)

    editor.prepare_step = prepare_step  # type: ignore[method-assign]
    with pytest.raises(Killed):
        train(editor, scratch, chosen)


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(("step", "seconds"), [(1, 0.0), (3, 1e9), (4, 0.0), (5, 1e9)])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(
    name: str, step: int, seconds: float, tmp_path: Path
) -> None:
    """In float32, bit for bit; with checkpoints after every step and at validations only."""
    model = cached_editable("bert", torch.float32)
    options = {"norm": "running"} if name == "mend" else {}
    chosen = settings(checkpoint_seconds=seconds)
    whole = editor_of(model, name, masks=True, **options)
    undisturbed = train(whole, tmp_path / "whole", chosen)
    interrupted(editor_of(model, name, masks=True, **options), tmp_path / "killed", chosen, step)
    again, seen = editor_of(model, name, masks=True, **options), []
    result = train(again, tmp_path / "killed", chosen, report=lambda step, metrics: seen.append(step))
    assert result == undisturbed
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in whole.state_dict().items())
    assert seen == [at for at in (2, 4, 6) if at > (step if seconds == 0 else step // 2 * 2)]
    assert train(editor_of(model, name, masks=True, **options), tmp_path / "killed", chosen) == undisturbed


def test_what_the_model_did_before_changes_no_bit(tmp_path: Path) -> None:
    model = cached_editable("bert", torch.float32)
    first, second = editor_of(model), editor_of(model)
    train(first, tmp_path / "first", settings())
    model.frozen(model.encode([drawn[0].update for drawn in draws_of(model, 9)]))
    train(second, tmp_path / "second", settings())
    assert all(torch.equal(tensor, second.state_dict()[key]) for key, tensor in first.state_dict().items())


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    model = cached_editable("bert", torch.float32)
    chosen = settings(steps=2)
    train(editor_of(model), tmp_path, chosen)
    other = dataclasses.replace(chosen, seed=1)
    expected = train(editor_of(model), tmp_path / "other", other)
    assert train(editor_of(model), tmp_path, other) == expected
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    assert train(editor_of(model), tmp_path, other) == expected


def test_checkpoints_hold_no_code(tmp_path: Path) -> None:
    train(editor_of(cached_editable("bert", torch.float32)), tmp_path, settings(steps=2))
    for name in (CHECKPOINT, BEST):
        data = (tmp_path / name).read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert json.loads(header["__metadata__"]["record"])["identity"]


def test_training_stops_when_validations_get_no_better(tmp_path: Path) -> None:
    model = cached_editable("bert", torch.float64)
    editor = editor_of(model, lr=1e-12, edit_lr=0.0)
    result = train(editor, tmp_path, settings(steps=50, patience=4))
    assert (result.steps, result.best_step) == (4, 0)
    fresh = editor_of(model, lr=1e-12, edit_lr=0.0).state_dict()
    assert all(torch.equal(tensor, fresh[key]) for key, tensor in editor.state_dict().items())


def test_what_report_raises_ends_the_training(tmp_path: Path) -> None:
    reported: list[tuple[int, Mapping[str, float]]] = []

    def report(step: int, metrics: Mapping[str, float]) -> None:
        reported.append((step, metrics))
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        train(editor_of(cached_editable("bert", torch.float64)), tmp_path, settings(), report=report)
    assert [step for step, _ in reported] == [2, 4]
    assert set(reported[0][1]) == {"loss", "acc", "con", "succ"}


def with_bad_gradients(editor: Editor, steps: set[int]) -> Editor:
    """An editor whose first parameter gets an infinite gradient in some steps (0-based)."""
    prepare, now = editor.prepare_step, [0]

    def prepare_step(*key: int) -> None:
        now[0] = key[-1]
        prepare(*key)

    editor.prepare_step = prepare_step  # type: ignore[method-assign]
    parameter = next(editor.parameters())
    parameter.register_hook(lambda grad: torch.full_like(grad, torch.nan) if now[0] in steps else grad)
    return editor


def test_a_step_without_a_finite_gradient_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = cached_editable("bert", torch.float64)
    editor = with_bad_gradients(editor_of(model, norm="running"), {1})
    with caplog.at_level(logging.WARNING):
        result = train(editor, tmp_path, settings(steps=3))
    assert result.skipped == (2,)
    assert "Step 2 of mend (edits in " in caplog.text
    assert all(bool(tensor.isfinite().all()) for tensor in editor.state_dict().values())


def test_gradients_that_stay_infinite_end_the_training_with_a_way_out(tmp_path: Path) -> None:
    editor = with_bad_gradients(editor_of(cached_editable("bert", torch.float64)), set(range(2, 99)))
    with pytest.raises(UserError, match=r"10 steps on end, the last one step 12 .* Lower its learning rate"):
        train(editor, tmp_path, settings(steps=50))


class CountingTask(FakeTask):
    """Remembers what was drawn for training."""

    def __init__(self) -> None:
        super().__init__("masked", {"train": 5, "dev": 3, "test": 3})
        self.drawn: list[tuple[str, int, tuple[str, ...], tuple[str, ...]]] = []

    def sample(self, split: str, language: str, index: int, rng: Any, **choices: Any) -> list[EditSample]:
        if split == "train":
            self.drawn.append((language, index, choices["update_languages"], choices["retain_languages"]))
        return super().sample(split, language, index, rng, **choices)


def test_every_request_is_drawn_once_before_any_is_drawn_again(tmp_path: Path) -> None:
    task, model = CountingTask(), cached_editable("bert", torch.float64)
    train_editor(editor_of(model), task, settings(steps=5, edits_per_step=6), scratch=tmp_path)
    requests = [(language, index) for language, index, _, _ in task.drawn]
    assert len(requests) == 30
    assert set(requests[:15]) == set(requests[15:]) == {(language, i) for language in LANGUAGES for i in range(5)}
    assert requests[:15] != requests[15:]


@pytest.mark.parametrize("languages", [None, LANGUAGES])
def test_monolingual_training_never_leaves_the_edit_language(languages: Any, tmp_path: Path) -> None:
    task, model = CountingTask(), cached_editable("bert", torch.float64)
    chosen = settings(steps=1, edit_languages=("de",), update_languages=languages)
    train_editor(editor_of(model), task, chosen, scratch=tmp_path)
    for language, _, updates, retains in task.drawn:
        assert language == "de"
        assert updates == retains == (languages or ("de",))


def test_the_released_accumulation_sums_one_edit_more_in_its_first_step(tmp_path: Path) -> None:
    task, model = CountingTask(), cached_editable("bert", torch.float64)
    chosen = settings(steps=3, edits_per_step=3, accumulation="as released")
    train_editor(editor_of(model), task, chosen, scratch=tmp_path)
    assert len(task.drawn) == 4 + 3 + 3


def test_the_step_sizes_learn_at_the_editors_rate_unless_told_otherwise(tmp_path: Path) -> None:
    """The released code's own rate for them never acts; the choice is logged with the result."""
    model = cached_editable("bert", torch.float64)
    plain = train(editor_of(model), tmp_path / "plain", settings(steps=1))
    own = train(editor_of(model, edit_lr_lr=1e-2), tmp_path / "own", settings(steps=1))
    assert plain.decisions["learning rates"] == "0.001, 0.001"
    assert own.decisions["learning rates"] == "0.001, 0.01"


def test_nothing_to_train_is_said(tmp_path: Path) -> None:
    model = cached_editable("bert", torch.float64)
    nothing = FakeTask("masked", {"train": 0, "dev": 0, "test": 0})
    with pytest.raises(UserError, match="no edit requests to train on in en, de, fr"):
        train_editor(editor_of(model), nothing, settings(), scratch=tmp_path)
    tuner = build_editor(EDITORS["fine-tuning"].Config(), model, LANGUAGES)
    with pytest.raises(ValueError, match="learns nothing"):
        train(tuner, tmp_path, settings())


def test_validations_choose_from_what_there_is_to_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier's mistakes: some texts of one language, none of another, all of one that is not named."""
    model, seen = cached_editable("bert-classifier", torch.float64), []
    judged = training.judge

    def watch(editor: Editor, samples: Any, **options: Any) -> Any:
        seen.append([(drawn[0].edit.language, drawn[0].uuid) for drawn in samples])
        return judged(editor, samples, **options)

    monkeypatch.setattr(training, "judge", watch)
    chosen = settings(steps=1, validation_edits=2)
    train(editor_of(model), tmp_path / "some", chosen, dev_requests={"en": [1, 3], "de": []})
    assert seen == [[("en", "dev 1"), ("en", "dev 3"), ("fr", "dev 0"), ("fr", "dev 1")]] * 2
    with pytest.raises(UserError, match="nothing to edit in the dev split in en, de, fr"):
        train(editor_of(model), tmp_path / "none", chosen, dev_requests={language: [] for language in LANGUAGES})


@given(st.lists(st.integers(1, 60), max_size=200), st.integers(1, 500))
def test_groups_hold_every_text_once_within_the_bound(lengths: list[int], bound: int) -> None:
    groups = length_groups(lengths, bound)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= bound
        assert len(group) * longest < 192 + longest or min(lengths[index] for index in group) >= 0.9 * longest

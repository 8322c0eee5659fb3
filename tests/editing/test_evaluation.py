"""Judging edits in batches gives what the plain loop gives."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from methods.editing.editors import EDITORS, Editor, build_editor
from methods.editing.evaluation import (
    Judgement,
    evaluate,
    evaluate_one_by_one,
    judge,
    judge_one_by_one,
    overall,
    score_table,
)
from methods.editing.model import EditableModel
from methods.editing.predictions import Vocabulary
from tests.editing.fake_task import FakeTask
from tests.editing.tiny import LANGUAGES, attached, cached_editable, weights


def editor_of(model: EditableModel, name: str = "mend", strength: float = 0.3) -> Editor:
    """An editor whose edits are strong enough to succeed now and then, and to do harm."""
    options: dict[str, Any] = {"edit_lr": strength}
    if name == "fine-tuning":
        options = {"lr": 0.01 * strength, "max_steps": 3}
    elif name == "knowledge-editor":
        options = {}
    return build_editor(EDITORS[name].Config(**options), model, LANGUAGES)


def samples_of(model: EditableModel, retains: int = 3) -> list[Any]:
    """Every test request of every language, judged in two update languages."""
    task = FakeTask(model.kind)
    choices = {"retain_languages": LANGUAGES, "seed": 0, "retains": retains}
    return [
        drawn
        for update in ("de", "fr")
        for language in LANGUAGES
        for drawn in task.test_samples("test", language, update_languages=(update,), **choices)
    ]


@pytest.mark.parametrize("name", EDITORS)
def test_a_batch_of_edits_is_judged_like_one_by_one(exact: EditableModel, name: str) -> None:
    samples = samples_of(exact)[::3]
    editor = editor_of(exact, name)
    assert judge(editor, samples) == judge_one_by_one(editor, samples)


@pytest.mark.parametrize("strength", [0.003, 0.03, 3.0])
def test_weak_and_strong_edits_are_judged_alike(exact: EditableModel, strength: float) -> None:
    samples, editor = samples_of(exact), editor_of(exact, strength=strength)
    assert judge(editor, samples) == judge_one_by_one(editor, samples)


def test_the_size_of_the_batches_changes_nothing(exact: EditableModel) -> None:
    samples, editor = samples_of(exact), editor_of(exact)
    whole = judge(editor, samples)
    shares: list[float] = []
    exact.raw_store.clear()
    exact.frozen_store.clear()
    assert judge(editor, samples, edits_at_once=4, tokens_at_once=40, progress=shares.append) == whole
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_without_all_positions_the_rest_is_the_same(exact: EditableModel) -> None:
    samples, editor = samples_of(exact), editor_of(exact)
    few = judge(editor, samples, all_positions=False)
    assert [(one.acc, one.con) for one in few] == [(one.acc, one.con) for one in judge(editor, samples)]
    if exact.kind != "classifier":
        assert all(one.con_all != one.con_all for one in few)


def test_an_edit_of_nothing_keeps_everything() -> None:
    model = cached_editable("bert", torch.float64)
    found = judge(editor_of(model, strength=0.0), samples_of(model))
    assert all(one.con == one.con_all == 1 for one in found)


def test_the_model_and_the_editor_are_left_as_they_were(exact: EditableModel) -> None:
    before, hooks = weights(exact), attached(exact)
    editor = editor_of(exact).train()
    judge(editor, samples_of(exact))
    judge_one_by_one(editor, samples_of(exact)[:2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(exact).items())
    assert attached(exact) == hooks
    assert editor.training


def test_the_unmodified_model_sees_a_text_once() -> None:
    model = cached_editable("bert", torch.float64)
    samples, editor = samples_of(model), editor_of(model)
    judge(editor, samples)
    computed = []
    handle = model.blocks[0].register_forward_hook(lambda *_: computed.append(1))
    again = judge(editor, samples)
    handle.remove()
    assert again == judge_one_by_one(editor, samples)
    assert not computed


def test_a_table_has_one_row_for_each_edit_and_update_language() -> None:
    model = cached_editable("bert", torch.float64)
    samples, editor = samples_of(model), editor_of(model)
    table = evaluate(editor, samples)
    assert table.equals(evaluate_one_by_one(editor, samples))
    pairs = list(zip(table["edit_language"].to_pylist(), table["update_language"].to_pylist(), strict=True))
    assert pairs == [(edit, update) for update in ("de", "fr") for edit in LANGUAGES]
    assert set(table["edits"].to_pylist()) == {6}
    assert set(table["retains"].to_pylist()) == {18}


JUDGED = Judgement("1", "en", "de", acc=1.0, con=0.5, con_all=0.25, retains=4)


def test_scores_are_percentages_and_succ_their_harmonic_mean() -> None:
    failed = dataclasses.replace(JUDGED, acc=0.0, con=1.0, con_all=0.75)
    (row,) = score_table([JUDGED, failed]).to_pylist()
    assert (row["edits"], row["acc"], row["retains"], row["con"], row["con_all"]) == (2, 50, 8, 75, 50)
    assert (row["succ"], row["succ_all"]) == (60, 50)


def test_every_edit_language_counts_the_same() -> None:
    other = dataclasses.replace(JUDGED, edit_language="fr", acc=0.0, con=1.0)
    scores = overall([JUDGED, JUDGED, JUDGED, other])
    assert (scores.acc, scores.con) == (50, 75)
    assert scores.succ == 60


def test_the_released_succ_is_zero_for_every_edit_that_fails() -> None:
    failed = dataclasses.replace(JUDGED, acc=0.0, con=1.0)
    assert overall([JUDGED, failed], per_step=True).succ == pytest.approx(100 * (2 / 3 + 0) / 2)
    assert overall([JUDGED], all_positions=True).con == 25
    assert overall([failed]).succ == 0


def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("predictions", "vocabulary"):
        monkeypatch.setattr(f"methods.editing.{module}.TOKENS", 7)
        monkeypatch.setattr(f"methods.editing.{module}.STATES", 3)


def test_equal_logits_give_the_first_token_across_tiles() -> None:
    assert Vocabulary(torch.ones(9000, 2), None).best(torch.ones(1, 2)).item() == 0


@pytest.mark.parametrize("biased", [False, True])
def test_tiles_of_the_vocabulary_find_what_whole_logits_find(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    weight, hidden = torch.randn(50, 6, generator=generator), torch.randn(10, 6, generator=generator)
    bias = torch.randn(50, generator=generator) if biased else None
    logits = torch.nn.functional.linear(hidden, weight, bias)
    vocabulary = Vocabulary(weight, bias)
    best, rivals = vocabulary.leaders(hidden)
    assert torch.equal(vocabulary.best(hidden), logits.argmax(-1))
    assert torch.equal(best, logits.argmax(-1))
    others = logits.scatter(1, best[:, None], float("-inf"))
    torch.testing.assert_close(rivals, torch.stack([tile.amax(1) for tile in others.split(7, 1)], 1))
    assert len(vocabulary.best(hidden[:0])) == len(vocabulary.leaders(hidden[:0]).best) == 0


@pytest.mark.parametrize("size", [0.0, 0.01, 0.05, 0.2, 1.0])
def test_tiles_out_of_reach_are_rightly_left_out(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch)
    generator = torch.Generator().manual_seed(1)
    vocabulary = Vocabulary(torch.randn(50, 6, generator=generator) + 3, torch.randn(50, generator=generator))
    raw = 2 * torch.randn(500, 6, generator=generator)
    edited = raw + size * torch.randn(500, 6, generator=generator)
    leaders = vocabulary.leaders(raw)
    same = vocabulary.best(edited) == leaders.best
    assert torch.equal(vocabulary.kept(leaders, raw, edited), same)
    settled = vocabulary.slack(leaders, raw, edited) > 0
    assert bool(settled.any())
    assert bool(same[settled].all())
    assert bool(same.all()) == (size == 0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_state_that_an_edit_has_broken_is_not_kept(broken: float) -> None:
    generator = torch.Generator().manual_seed(2)
    vocabulary = Vocabulary(torch.randn(3000, 6, generator=generator), None)
    raw = torch.randn(4, 6, generator=generator)
    edited = raw.clone()
    edited[1:3] = broken
    assert vocabulary.kept(vocabulary.leaders(raw), raw, edited).tolist() == [True, False, False, True]

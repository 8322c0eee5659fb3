"""Whole streams: exact against the plain loop, whole after a kill, and one patch per mistake."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.editing.examples import Example
from methods.editing.patches.baselines import TunedFeedForward, tune
from methods.editing.patches.config import PatchConfig, TuningConfig
from methods.editing.patches.journal import TENSORS
from methods.editing.patches.mpn import StreamEdit
from methods.editing.patches.plain import plain_answers, plain_right, plain_stream
from methods.editing.patches.stream import Evaluation, StreamResult
from orchestrator.errors import UserError
from tests.editing.patches.world import QUICK, World
from tests.editing.tiny import attached, weights

MPN: dict[str, Any] = {"languages": ("en", "de", "fr"), "trigger": "all"}
VARIANTS: dict[str, dict[str, Any]] = {
    "transformer-patcher": {},
    "mpn only": {"languages": ("de", "fr")},
    "mpn all": MPN,
}


class Killed(Exception):
    """Stands for a kill in the middle of a stream."""


def same(first: StreamResult, second: StreamResult) -> bool:
    """Whether two streams are equal bit for bit."""
    pairs = zip(first.neurons.to_tensors().values(), second.neurons.to_tensors().values(), strict=True)
    return (
        first.records == second.records
        and first.curve == second.curve
        and first.metrics == second.metrics
        and all(torch.equal(one, other) for one, other in pairs)
    )


def texts_of(small: World) -> list[Example]:
    """All texts of the requests, request by request."""
    return [text for edit in small.edits for text in edit.texts.values()]


@pytest.mark.parametrize(
    ("variant", "repeat"), [*((variant, True) for variant in VARIANTS), ("mpn only", False)], ids=str
)
def test_cached_streams_equal_the_plain_loop(small: World, variant: str, repeat: bool, tmp_path: Path) -> None:
    config = small.config(**VARIANTS[variant])
    ours = small.run(config, tmp_path)
    memories = [plain_answers(small.site, texts)[1] for texts in (small.train, small.validation)]
    plain = plain_stream(small.site, memories, small.edits, config, repeat=repeat)
    edited = [record for record in ours.records if record.edited and record.patches]
    assert [record.index for record in edited] == plain.edited
    assert plain.edited
    assert [record.steps for record in edited] == plain.steps
    assert [record.success for record in edited] == plain.success
    assert small.cache.right(small.cache.states(texts_of(small)), ours.neurons).tolist() == plain.right
    for name, tensor in ours.neurons.to_tensors().items():
        torch.testing.assert_close(tensor, plain.neurons.to_tensors()[name], rtol=1e-5, atol=1e-5)
    texts = texts_of(small)
    with small.site.merged(plain.neurons):
        theirs, _ = plain_answers(small.site, texts)
    torch.testing.assert_close(
        small.cache.logits(small.cache.states(texts), ours.neurons), theirs, rtol=1e-5, atol=1e-5
    )


def test_a_list_of_the_edit_language_alone_is_transformer_patcher(small: World, tmp_path: Path) -> None:
    patcher = small.run(small.config(), tmp_path / "patcher")
    english = small.run(small.config(languages=("en",), trigger="all"), tmp_path / "english")
    assert same(patcher, english)
    alone = [StreamEdit(edit.uuid, {"en": edit.texts["en"]}, edit.rephrasings) for edit in small.edits]
    without_parallels = small.run(small.config(), tmp_path / "alone", edits=alone)
    for name, tensor in without_parallels.neurons.to_tensors().items():
        torch.testing.assert_close(tensor, patcher.neurons.to_tensors()[name], rtol=1e-5, atol=1e-5)


def test_a_classifier_gets_one_patch_per_mistake_and_a_causal_model_up_to_five(small: World, tmp_path: Path) -> None:
    result = small.run(small.config(**MPN), tmp_path)
    edited = [record for record in result.records if record.edited]
    assert edited
    assert sum(record.patches for record in edited) == len(result.neurons) == result.metrics.patches
    if small.site.classifies:
        assert {record.patches for record in edited} == {1}
    else:
        capped = small.config(**MPN, patches=QUICK.model_copy(update={"max_patches": 2}))
        found = {record.patches for record in small.run(capped, tmp_path / "capped").records if record.edited}
        assert max(found) == 2


@pytest.mark.parametrize("editor", ["patches", "fine-tuning", "none"])
def test_a_killed_stream_goes_on_as_if_nothing_had_happened(small: World, editor: str, tmp_path: Path) -> None:
    config = small.config(**MPN, editor=editor, tuning=TuningConfig(lr=1e-2, max_steps=20))
    whole = small.run(config, tmp_path / "whole")

    for after in (1, 3, len(small.edits)):
        scratch = tmp_path / f"killed {after}"
        calls = itertools.count(1)

        def kill(_: float, after: int = after, calls: Any = calls) -> None:
            if next(calls) == after:
                raise Killed

        with pytest.raises(Killed):
            small.run(config, scratch, progress=kill)
        if editor == "patches":
            with (scratch / TENSORS).open("ab") as file:
                file.write(b"half a pat")
        shares: list[float] = []
        assert same(small.run(config, scratch, progress=shares.append), whole)
        assert len(shares) == len(small.edits) - after
        assert same(small.run(config, scratch), whole)


def test_a_kill_between_report_and_journal_repeats_that_request_alone(small: World, tmp_path: Path) -> None:
    config = small.config(**MPN, evaluate_every=1)
    seen: list[int] = []

    def stop(step: int, metrics: Any) -> None:
        seen.append(step)
        if len(seen) == 2:
            raise Killed

    with pytest.raises(Killed):
        small.run(config, tmp_path / "killed", report=stop)
    again: list[int] = []
    result = small.run(config, tmp_path / "killed", report=lambda step, metrics: again.append(step))
    assert again[0] == seen[-1]
    assert again == sorted(again)
    assert again[-1] == len(small.edits)
    assert same(result, small.run(config, tmp_path / "whole"))


def test_other_settings_do_not_go_on_from_a_journal(small: World, tmp_path: Path) -> None:
    first = small.run(small.config(), tmp_path)
    other = small.run(small.config(seed=1), tmp_path)
    assert not torch.equal(first.neurons.values[0], other.neurons.values[0])


def test_the_journal_and_the_memory_grow_by_the_patches_alone(small: World, tmp_path: Path) -> None:
    before = small.memory.sizes()
    result = small.run(small.config(**MPN), tmp_path)
    assert small.memory.sizes() == before
    own = sum(tensor.nbytes for tensor in result.neurons.to_tensors().values())
    edits = sum(record.patches > 0 for record in result.records)
    assert own <= (tmp_path / TENSORS).stat().st_size <= own + 400 * edits


def test_the_model_is_left_as_it_was(small: World, tmp_path: Path) -> None:
    before, hooks = weights(small.model), attached(small.model)
    small.run(small.config(**MPN), tmp_path / "patches")
    small.run(small.config(editor="fine-tuning", tuning=TuningConfig(max_steps=5)), tmp_path / "tuning")
    after = weights(small.model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert attached(small.model) == hooks


def test_metrics_are_accuracies_of_the_final_model(small: World, tmp_path: Path) -> None:
    result = small.run(small.config(**MPN), tmp_path)
    metrics = result.metrics
    with small.site.attached(result.neurons):
        by_language = {
            language: sum(plain_right(small.site, edit.texts[language]) for edit in small.edits) / len(small.edits)
            for language in ("en", "de", "fr")
        }
        test = [plain_right(small.site, text) for text in small.evaluation.test]
        rephrased = [plain_right(small.site, text) for edit in small.edits for text in edit.rephrasings]
        retained = [plain_right(small.site, small.edits[r.index].texts["en"]) for r in result.records if r.edited]
    assert metrics.reliability == pytest.approx(by_language.pop("en"))
    assert metrics.clg == pytest.approx(by_language)
    assert metrics.clg_mean == pytest.approx(sum(by_language.values()) / 2)
    assert metrics.locality_test == pytest.approx(sum(test) / len(test))
    assert metrics.mlg == pytest.approx(sum(rephrased) / len(rephrased))
    assert metrics.retained == pytest.approx(sum(retained) / len(retained))
    assert result.curve[0].patches == 0
    assert result.curve[-1].patches == metrics.patches
    assert [point.requests for point in result.curve] == sorted({point.requests for point in result.curve})


def test_no_edit_measures_the_raw_model(small: World, tmp_path: Path) -> None:
    result = small.run(small.config(editor="none"), tmp_path)
    raw = [plain_right(small.site, edit.texts["en"]) for edit in small.edits]
    assert [record.success for record in result.records] == raw
    assert result.metrics.reliability == pytest.approx(sum(raw) / len(raw))
    assert (result.metrics.edits, result.metrics.patches, result.metrics.success) == (0, 0, None)
    assert result.metrics.locality_test == result.metrics.raw_test


def test_untrained_fine_tuning_changes_nothing_and_a_step_follows_the_gradient(small: World) -> None:
    states = small.cache.states([small.edits[0].texts["en"]])
    raw = TunedFeedForward.unmodified(small.site)
    assert not raw.gain(states.queries).any()
    wrong = replace(states, targets=(small.cache.predicted(states) + 1) % small.site.outputs)
    tuned, steps, _ = tune(small.cache, wrong, raw, TuningConfig(lr=1e-3, max_steps=1))
    assert steps == 1
    # Adam's first step moves every entry that has a gradient by the learning rate.
    moved = (tuned.down - raw.down).abs()
    assert moved.max().item() == pytest.approx(1e-3, rel=1e-3)
    tuned, _, right = tune(small.cache, wrong, raw, TuningConfig(lr=1e-2, max_steps=300))
    assert right
    assert torch.equal(small.cache.predicted(wrong, tuned), wrong.targets)


def test_tuned_matrices_in_the_model_give_the_cached_answers(small: World) -> None:
    texts = [edit.texts["en"] for edit in small.edits]
    states = small.cache.states(texts)
    tuned, _, _ = tune(small.cache, states, TunedFeedForward.unmodified(small.site), TuningConfig(lr=1e-2, max_steps=3))
    with small.site.attached(tuned):
        theirs, _ = plain_answers(small.site, texts)
    torch.testing.assert_close(small.cache.logits(states, tuned), theirs, rtol=1e-6, atol=1e-6)


def test_patches_teach_what_was_wrong_and_stop_by_themselves(small: World, tmp_path: Path) -> None:
    slow = PatchConfig(lr=0.02, max_steps=300, memory_weight=0.1)
    result = small.run(small.config(patches=slow), tmp_path, edits=small.edits[:3])
    edited = [record for record in result.records if record.edited]
    assert all(record.steps >= 125 and record.steps % 25 == 0 for record in edited)
    assert result.metrics.success is not None
    assert result.metrics.success > 0.5


def test_an_empty_memory_and_no_evaluation_are_fine(small: World, tmp_path: Path) -> None:
    from methods.editing.patches.stream import memory_of

    result = small.run(
        small.config(), tmp_path, memory=memory_of(small.cache, [], []), evaluation=Evaluation(), edits=small.edits[:2]
    )
    assert result.metrics.locality_train is None
    assert len(result.records) == 2


def test_mistakes_in_the_requests_are_told_at_once(small: World, tmp_path: Path) -> None:
    silent = replace(small.edits[0].texts["en"], answer=())
    edits = [StreamEdit("a", {"de": small.edits[0].texts["de"]}), StreamEdit("b", {"en": silent})]
    with pytest.raises(UserError) as error:
        small.run(small.config(languages=("fr",)), tmp_path, edits=edits)
    for part in ("edit language 'en'", "no right answer", "in fr"):
        assert part in str(error.value)

"""The benchmark of patch neurons measures what it says, on a model small enough to do so in seconds."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.editing.benchmark import PatchingSettings, patching, patching_sentence, patching_tables, run_patching
from methods.editing.benchmark.patching_cases import make_patching_case
from orchestrator.errors import UserError
from tests.backbone.tiny import tiny_tokenizer
from tests.conftest import ROOT
from tests.editing.tiny import tiny_hugging_face

QUICK: dict[str, Any] = {"shape": "small", "edits": 3, "steps": 4, "memory": 60, "texts": 8, "repeats": 1}


def measured(**options: Any) -> dict[str, Any]:
    return run_patching(PatchingSettings(**{**QUICK, **options}))


def test_the_command_writes_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for name, value in QUICK.items() for word in (f"--{name}", str(value))]
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(sys, "argv", ["jobs/benchmark.py", "patching", *options, "--threads", threads, "--json", "-"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "jobs" / "benchmark.py"), run_name="__main__")
    assert not stop.value.code
    result = json.loads(capsys.readouterr().out)
    assert result["equal"] is True
    assert result["growth"] is None


def test_both_ways_find_the_same_and_take_the_same_steps() -> None:
    result = measured(plain_edits=2)
    assert result["equal"], (result["answers_differ"], result["patch_difference"])
    cached, plain, repeated = (result["editing"][name] for name in (patching.CACHED, patching.PLAIN, patching.REPEATED))
    assert (cached["edits"], plain["edits"], repeated["edits"]) == (3, 2, 1)
    assert all(one["steps"] == 4 * one["edits"] for one in (cached, plain, repeated))
    assert result["editing_ratio"] == plain["seconds_per_edit"] / cached["seconds_per_edit"]
    assert cached["edits_per_minute"] == pytest.approx(60 / cached["seconds_per_edit"])
    edits, points = patching_tables(result)
    assert [row[0] for row in edits.rows] == [patching.CACHED, patching.PLAIN, patching.REPEATED]
    assert [row[0] for row in points.rows] == [patching.CACHED, patching.PLAIN]
    assert "all answers are the same" in patching_sentence(result)


def test_patches_that_differ_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = patching.plain_stream

    def lying(*arguments: Any, **options: Any) -> Any:
        result = honest(*arguments, **options)
        return replace(result, neurons=replace(result.neurons, biases=result.neurons.biases + 1))

    monkeypatch.setattr(patching, "plain_stream", lying)
    result = measured()
    assert not result["equal"]
    assert result["patch_difference"] > 1e-3
    assert "but 0 answers differ" in patching_sentence(result)


def test_a_long_stream_tells_what_it_keeps() -> None:
    result = measured(edits=100, steps=1)
    growth, width = result["growth"], 48
    edits = growth["edits"]  # earlier patches also answer some later requests
    assert 20 < edits <= 90
    assert growth["patches_mb"] == pytest.approx(edits * 4 * (2 * width + 1) / 1e6)
    assert growth["remembered_mb"] >= 2 * edits * 4 * width / 1e6
    assert growth["patches_mb"] < growth["journal_mb"] < growth["patches_mb"] + edits * 400 / 1e6
    assert growth["patches_mb"] < growth["tensors_mb"]
    assert f"in the last {edits} edits tensors grew by" in patching_sentence(result)


def test_requests_are_mistakes_of_the_model() -> None:
    case = make_patching_case(PatchingSettings(**QUICK))
    model = case.site.model
    for edit in case.edits:
        batch = model.encode([edit.texts["en"]])
        assert model.logits(batch, model.frozen(batch)).argmax(-1).tolist() != list(edit.texts["en"].answer)
        assert len({text.answer for text in edit.texts.values()}) == 1


def test_a_classifier_from_a_folder_is_measured_with_its_own_tokens(tmp_path: Path) -> None:
    tiny_hugging_face("bert-classifier").save_pretrained(tmp_path)
    tiny_tokenizer("masked").save_pretrained(tmp_path)
    assert measured(shape=str(tmp_path))["equal"]


def test_mistakes_are_told_with_a_way_out(tmp_path: Path) -> None:
    wrong = PatchingSettings(shape="mbrt", edits=1, plain_edits=2, texts=0)
    with pytest.raises(UserError) as caught:
        run_patching(wrong)
    for hint in ("Did you mean 'mbert'?", "choose at most as many", "--texts is 0"):
        assert hint in str(caught.value)
    tiny_hugging_face("bert-classifier").base_model.save_pretrained(tmp_path)
    tiny_tokenizer("masked").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="BertModel, which is no classifier"):
        measured(shape=str(tmp_path))

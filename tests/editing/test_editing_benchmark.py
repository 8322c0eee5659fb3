"""The benchmark of editing measures what it says, on a model small enough to do so in a second."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from methods.editing.benchmark import SHAPES, TASKS, Settings, measure, run_benchmark, sentence, tables
from methods.editing.benchmark.cases import make_case
from methods.editing.editors import EDITORS
from orchestrator.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def measured(**options: Any) -> dict[str, Any]:
    return run_benchmark(Settings(**{"shape": "small", "edits": 6, "plain_edits": 3, "repeats": 1, **options}))


def test_the_command_writes_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    options = ["--shape", "small", "--edits", "4", "--plain-edits", "2", "--repeats", "1", "--threads", str(threads)]
    monkeypatch.setattr(sys, "argv", ["jobs/benchmark.py", "editing", *options, "--json", "-"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "jobs" / "benchmark.py"), run_name="__main__")
    assert not stop.value.code
    result = json.loads(capsys.readouterr().out)
    assert result["equal"] is True
    assert result["environment"]["threads"] == threads


def test_mistakes_are_told_with_a_way_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--shape", "mbrt", "--task", "fact", "--editor", "mendd", "--edits", "2", "--plain-edits", "3"]
    monkeypatch.setattr(sys, "argv", ["jobs/benchmark.py", "editing", *wrong])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "jobs" / "benchmark.py"), run_name="__main__")
    assert stop.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    for hint in ("Did you mean 'mbert'?", "Did you mean 'facts'?", "Did you mean 'mend'?", "choose at most as many"):
        assert hint in told


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("editor", EDITORS)
def test_both_ways_find_the_same(task: str, editor: str) -> None:
    result = measured(task=task, editor=editor, retains=2)
    assert result["equal"], result["gradient_difference"]
    assert list(result["evaluation"]) == [measure.NEW, measure.KNOWN, measure.PLAIN]
    assert (result["training_ratio"] is None) == (not EDITORS[editor].trainable)
    plain, batch = (result["evaluation"][name]["seconds_per_edit"] for name in (measure.PLAIN, measure.NEW))
    assert result["evaluation_ratio"] == plain / batch


def test_people_get_a_table_and_a_sentence() -> None:
    result = measured()
    (table,) = tables(result)
    assert [row[:2] for row in table.rows] == [
        *(("evaluation", name) for name in (measure.NEW, measure.KNOWN, measure.PLAIN)),
        *(("training", name) for name in (measure.BATCH, measure.FEW, measure.PLAIN)),
    ]
    assert "all judgements are the same" in sentence(result)


def test_runs_are_repeated_only_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(**options: Any) -> list[int]:
        return [len(figures["wall_seconds"]) for figures in measured(**options)["evaluation"].values()]

    assert runs(repeats=None) == [3, 3, 3]
    monkeypatch.setattr(measure, "PATIENCE", 0.0)
    assert runs(repeats=None) == [1, 1, 1]
    assert runs(repeats=2) == [2, 2, 2]


def test_a_judgement_that_differs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = measure.judge_one_by_one

    def lying(*arguments: Any) -> Any:
        first, *others = honest(*arguments)
        return [type(first)(**{**vars(first), "acc": 1 - first.acc}), *others]

    monkeypatch.setattr(measure, "judge_one_by_one", lying)
    result = measured()
    assert (result["equal"], result["judgements_differ"]) == (False, 1)
    assert "1 judgements" in sentence(result)


def test_label_positions_alone_can_be_compared() -> None:
    result = measured(all_positions=False)
    assert result["equal"]
    json.dumps(result)


def test_the_plain_loop_runs_the_whole_model_and_leaves_it_cut_as_it_was() -> None:
    model = make_case("small", "facts", 2, 1).model
    block, store = model.first_edited_block, model.frozen_store
    assert block > 0
    with measure.whole(model):
        assert model.first_edited_block == 0
    assert (model.first_edited_block, model.frozen_store) == (block, store)


@pytest.mark.parametrize("task", TASKS)
def test_no_text_occurs_twice(task: str) -> None:
    draws = make_case("small", task, 64, 4).draws
    texts = [text.text for drawn in draws for text in (drawn[0].edit, drawn[0].update, *(s.retain for s in drawn))]
    assert len(set(texts)) == len(texts) == 64 * 6


def test_the_shape_has_the_published_size() -> None:
    config = SHAPES["mbert"]()
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (12, 768, 119_547)


def test_a_gpu_that_is_not_there_is_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so asking for one is no mistake")
    with pytest.raises(UserError, match="--device cpu"):
        Settings(device="cuda").check()

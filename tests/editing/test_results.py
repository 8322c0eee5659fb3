"""From the stored trials of an editor sweep to its answer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from methods.editing.evaluation import SCHEMA
from methods.editing.outcome import CurvePoint, MaskSummary, Method
from methods.editing.results import Record, outcome_of, result_table, trial_run
from methods.editing.spec import Cell, EditorSpec
from orchestrator.study import Trial, TrialResult

RECORD = Record(
    curve=(CurvePoint(0, None, 1.0, 2.0, 1.5), CurvePoint(5, 0.7, 30.0, 60.0, 40.0)),
    best_step=5,
    validation=40.0,
    steps=5,
    masks=MaskSummary(("de", "en"), ((1.0, 0.5), (0.25, 1.0)), 7, (0.9, 0.8)),
)


def scores(acc: float) -> pa.Table:
    row = {"edits": 10, "acc": acc, "retains": 20, "con": 50.0, "con_all": 25.0, "succ": 0.0, "succ_all": 0.0}
    return pa.Table.from_pylist([{"edit_language": "en", "update_language": "de", **row}], schema=SCHEMA)


def sweep(cells: list[Cell], spec: EditorSpec | None = None) -> Any:
    """What `outcome_of` asks of a study."""
    trials = [Trial({"n": number}, {}, 1.0, stage=1) for number in range(len(cells))]
    return SimpleNamespace(
        spec=spec or EditorSpec.model_validate({}),
        notes=["left out"],
        stopped=(),
        languages=("de", "en"),
        paper_task=None,
        kind="masked",
        planned=lambda: list(zip(trials, cells, strict=True)),
    )


def finished(study: Any, *dev: float | None) -> list[TrialResult]:
    """Trials with these dev scores; None: it failed."""
    return [
        TrialResult(trial, result_table(scores(10.0 * number), replace(RECORD, validation=score)), 1.0, 1, {})
        for number, ((trial, _), score) in enumerate(zip(study.planned(), dev, strict=True))
        if score is not None
    ]


def cell(lr: float, seed: int, training: str = "cross") -> Cell:
    return Cell(Method("mend", training, "en", "none"), (("lr", lr),), seed)


def test_a_trial_is_read_back_as_it_was_stored() -> None:
    run = trial_run(result_table(scores(40.0), RECORD), seed=3)
    assert (run.curve, run.best_step, run.validation, run.steps, run.masks) == (
        RECORD.curve,
        RECORD.best_step,
        RECORD.validation,
        RECORD.steps,
        RECORD.masks,
    )
    assert run.seed == 3
    assert run.scores["en", "de"].acc == 40.0
    assert run.scores["en", "de"].con_all == 25.0


def test_seeds_of_a_method_are_put_together_and_a_single_setting_is_not_named() -> None:
    study = sweep([cell(1e-3, 0), cell(1e-3, 1)])
    (one,) = outcome_of(study, finished(study, 40.0, 50.0)).methods
    assert one.method.settings == ()
    assert one.chosen
    assert [run.seed for run in one.runs] == [0, 1]


def test_the_best_hyperparameters_on_the_dev_split_are_chosen_whatever_the_test_says() -> None:
    study = sweep([cell(1e-3, 0), cell(1e-3, 1), cell(1e-4, 0), cell(1e-4, 1)])
    outcome = outcome_of(study, finished(study, 40.0, 50.0, 30.0, 30.0))
    assert [(one.method.settings, one.chosen) for one in outcome.methods] == [
        ((("lr", 1e-3),), True),
        ((("lr", 1e-4),), False),
    ]


def test_a_setting_that_lacks_seeds_is_not_chosen_over_a_whole_one_and_the_loss_is_said() -> None:
    study = sweep([cell(1e-3, 0), cell(1e-3, 1), cell(1e-4, 0), cell(1e-4, 1)])
    outcome = outcome_of(study, finished(study, 90.0, None, 30.0, 30.0))
    assert [one.method.settings for one in outcome.chosen] == [(("lr", 1e-4),)]
    assert any("1 of its 2 seeds did not finish" in note for note in outcome.notes)


def test_each_method_chooses_for_itself() -> None:
    study = sweep([cell(1e-3, 0), cell(1e-4, 0), cell(1e-3, 0, "mono"), cell(1e-4, 0, "mono")])
    outcome = outcome_of(study, finished(study, 40.0, 30.0, 10.0, 20.0))
    assert [(one.method.training, one.method.settings) for one in outcome.chosen] == [
        ("cross", (("lr", 1e-3),)),
        ("mono", (("lr", 1e-4),)),
    ]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"kl": "edited first"}, "KL(edited || raw), as in the paper"),
        ({"consistency": "all"}, "at every position"),
        ({"locality": "other row"}, "of another row"),
        ({"parallel": "full"}, "template, subject and answer"),
        ({"sign": ("-",)}, "sign -"),
        ({"lr": ("mend=1e-3",)}, "lr 1e-3"),
    ],
    ids=str,
)
def test_every_choice_is_listed_with_its_value(option: dict[str, Any], words: str) -> None:
    study = sweep([cell(1e-3, 0)], EditorSpec(**option))
    listed = outcome_of(study, finished(study, 40.0)).decisions
    plain = outcome_of(sweep([cell(1e-3, 0)]), finished(study, 40.0)).decisions
    assert words in " ".join(listed.values())
    assert words not in " ".join(plain.values())

"""The answer again from a sweep's folder alone, as its users ask for it: no model, no facts, no Ray."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from methods.lrp2.analysis.again import compare_sweeps, evaluate, redo
from methods.lrp2.analysis.answer import summary_of
from orchestrator.errors import UserError
from orchestrator.report.blocks import Section, Table
from orchestrator.study import Summary
from tests.conftest import ROOT
from tests.lrp2.hits import language_hits, null_hits, planted_hits, write_sweep

LANGUAGES = {
    language: language_hits(null_hits(np.random.default_rng(seed), 100, 15), language, layers=6)
    for seed, language in enumerate(("de", "zh", "fi"))
}


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A sweep that was stopped before its end."""
    return write_sweep(tmp_path / "mine", LANGUAGES, layers=6)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sweep(tmp_path_factory.mktemp("told") / "mine", LANGUAGES, layers=6)
    redo(folder, {}, (), "none", "again")
    summary = json.loads((folder / "summary.json").read_text())
    summary["record"]["guessed"] = False  # as a sweep writes it that has come to its end
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def folder(told: Path, tmp_path: Path) -> Path:
    """A sweep whose answer was written, with its summary.json."""
    return Path(shutil.copytree(told, tmp_path / "mine"))


def answer(folder: Path, options: Mapping[str, str] = MappingProxyType({}), own: Sequence[Any] = ()) -> Summary:
    return summary_of(evaluate(folder, options, own)[1])


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the script with these arguments; returns exit code, output and errors."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jobs/analyze.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "jobs" / "analyze.py"), run_name="__main__")
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


def tables(sections: Sequence[Section]) -> dict[str, Table]:
    return {block.title: block for section in sections for block in section.blocks if isinstance(block, Table)}


def test_a_stopped_sweep_is_told_from_its_trials_and_twice_is_once(stopped: Path) -> None:
    redo(stopped, {}, (), "none", "again")
    first = json.loads((stopped / "summary.json").read_text())
    assert set(first["languages"]) == {"de", "zh", "fi"}
    assert first["study"] == "lrp2"
    assert len(first["record"]["trials"]) == 4
    assert first["notes"][0].startswith("The sweep has not come to its end")
    assert {"report.html", "summary.parquet", "tracking.json", "figures"} <= {path.name for path in stopped.iterdir()}
    assert pq.read_table(stopped / "summary.parquet").num_rows == 3 * 16
    redo(stopped, {}, (), "none", "again")
    assert json.loads((stopped / "summary.json").read_text()) == first


def test_a_sweep_that_has_come_further_since_is_told_as_far_as_it_is(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "mine", {"de": LANGUAGES["de"]}, layers=6)
    redo(folder, {}, (), "none", "again")
    zh = write_sweep(tmp_path / "later" / "mine", {"zh": LANGUAGES["zh"]}, layers=6)
    shutil.copytree(zh / "trials", folder / "trials", dirs_exist_ok=True)
    assert set(answer(folder).document["languages"]) == {"de", "zh"}


def test_a_race_is_not_told_by_another_criterion(tmp_path: Path) -> None:
    """It has dropped pairs that may be the best by that one."""
    folder = write_sweep(tmp_path / "mine", {"de": LANGUAGES["de"]}, layers=6, search="racing")
    assert "de" in answer(folder, {"criterion": "trans"}).document["languages"]
    with pytest.raises(UserError, match="a race by trans"):
        answer(folder, {"criterion": "acc"})


def test_other_options_read_the_same_hits_otherwise(folder: Path) -> None:
    plain = answer(folder)
    other = answer(folder, {"criterion": "acc", "correction": "bh", "folds": "7", "null_draws": "0"})
    assert other.document["decisions"]["best pair by"].startswith("acc")
    assert other.document["null_control"] is None
    said = "Derived again with criterion acc, correction bh, folds 7, null_draws 0; the sweep itself was run with crit"
    assert other.document["notes"][-1].startswith(said)
    assert not [note for note in plain.document["notes"] if note.startswith("Derived again")]
    assert (plain.document["options"]["folds"], other.document["options"]["folds"]) == (5, 7)
    for language in ("de", "zh", "fi"):
        before, after = (summary.document["languages"][language] for summary in (plain, other))
        assert after["baseline"] == before["baseline"]
        assert after["oracle"]["acc"] >= before["oracle"]["acc"]
        assert len(after["honest"]["pairs"]) == 7


def test_own_groups_are_averaged_beside_the_papers(folder: Path) -> None:
    summary = answer(folder, own=(("mine", ("de", "fi")),))
    table = tables(summary.sections)["Accuracy by group"]
    assert table.columns[-1] == "mine (2)"
    found = summary.document["languages"]
    assert table.rows[0][-1] == pytest.approx(np.mean([found[name]["baseline"]["acc"] for name in ("de", "fi")]))


def test_the_report_holds_the_papers_tables_and_figures_and_what_the_verdicts_rest_on(folder: Path) -> None:
    summary = answer(folder)
    assert [section.title for section in summary.sections] == [
        "What it found",
        "Is the gain real?",
        "For which languages?",
        "Which layers?",
        "How far apart may the layers be?",
        "Which relations transfer?",
        "How wide is the gap?",
        "Do languages rank alike?",
        "What was decided on the way",
    ]
    pictures = [block for section in summary.sections for block in section.blocks if not isinstance(block, Table)]
    assert [picture.name for picture in pictures] == [
        *("gain", "trans", "pairs", "gap-curve", "gap-map", "relations", "relation-map", "gap"),
    ]
    evidence = tables(summary.sections)["What the verdicts rest on"]
    first = dict(zip(evidence.columns, evidence.rows[0], strict=True))
    best = max(summary.document["languages"].values(), key=lambda one: one["honest"]["gain"])
    assert first["Honest gain"].value == best["honest"]["gain"]
    assert (first["Gained"], first["Lost"]) == (best["evidence"]["gained"], best["evidence"]["lost"])
    assert first["Verdict"] == best["verdict"]
    assert "Control: in 20 copies" in evidence.note


def test_trials_that_the_summary_does_not_know_do_not_count(folder: Path) -> None:
    """The folder of a sweep that was run again with other options holds the trials of both runs."""
    write_sweep(folder, {"de": LANGUAGES["zh"]}, layers=6, specials="exclude")
    assert set(answer(folder).document["languages"]) == {"de", "zh", "fi"}
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match="de, en more than once"):
        answer(folder)


def test_a_damaged_trial_is_left_out_and_named(folder: Path) -> None:
    trials = json.loads((folder / "summary.json").read_text())["record"]["trials"]
    damaged, gone = (next(key for key in trials if trials[key]["language"] == name) for name in ("zh", "fi"))
    (folder / "trials" / f"{damaged}.parquet").write_bytes(b"PAR1 no more")
    (folder / "trials" / f"{gone}.parquet").unlink()
    stored, evaluated = evaluate(folder, {}, ())
    assert set(evaluated.answers) == {"de"}
    assert damaged in stored.notes[0]
    assert stored.notes[1].startswith("1 of 4 trials have no file")


def test_two_sweeps_are_compared_into_a_folder_of_their_own_and_into_mlflow(folder: Path) -> None:
    from mlflow import MlflowClient

    other = write_sweep(
        folder.parent / "other",
        {"de": language_hits(planted_hits(np.random.default_rng(1), 200, 15), layers=6)},
        layers=6,
    )
    uri = f"sqlite:///{folder.parent}/mlflow.db"
    for _ in range(2):
        summary, target, warnings = compare_sweeps((folder, other), {}, None, uri, "again")
    assert target == folder.parent / "compare-mine-other"
    assert (target / "report.html").exists()
    assert warnings == []
    assert summary.document["left_out"] == ["fi", "zh"]
    client = MlflowClient(uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert sorted(run.info.run_name for run in runs) == ["compare-mine-other", "de"]
    german = next(run for run in runs if run.info.run_name == "de")
    assert german.data.metrics["gain_difference"] == pytest.approx(summary.document["languages"]["de"]["gain"]["value"])


def test_the_job_prints_the_answer_and_where_it_is(folder: Path, job: Callable[..., tuple[int, str, str]]) -> None:
    code, out, errors = job(folder, "--tracking", "none")
    assert (code, errors) == (0, "")
    assert "German (de)" in out
    assert f"Report: {(folder / 'report.html').as_uri()}" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], ["is not the folder of a sweep"]),
        (["mine", "--criterion", "transs", "--folds", "1"], ["trans", "--folds"]),
        (["mine", "--groups", "romance", "mine"], ["2 folders are given", "romance=fr,es"]),
        (["mine", "--groups", "west=fr,de"], ["has no fr"]),
        (["--compare", "mine", "--output", "x"], ["1 folders are given"]),
        (["--compare", "nowhere", "elsewhere"], ["nowhere is not the folder", "elsewhere is not the folder"]),
        (["mine", "--colour"], ["--help"]),
    ],
)
def test_mistakes_are_told_together_with_exit_code_2(
    folder: Path, job: Callable[..., tuple[int, str, str]], arguments: list[str], said: list[str]
) -> None:
    names = ("mine", "nowhere", "elsewhere")
    code, _, errors = job(*[folder.parent / word if word in names else word for word in arguments])
    assert code == 2
    for text in said:
        assert text in errors

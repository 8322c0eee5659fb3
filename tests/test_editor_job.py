"""The editor job as a user meets it: one small sweep from command to report, run again, and what mistakes get."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest

from jobs import editor_sweep
from tests.jobs import JobContract, Mistakes, SweepContract, run_job

SMALL = (
    *("--languages", "en,de", "--editors", "mend", "--seeds", "1", "--lr", "1e-3", "--steps", "4"),
    *("--edits-per-step", "4", "--validate-every", "2", "--validation-edits", "3", "--test-edits", "4"),
)


class TestSweep(SweepContract):
    script, small, trials, answer = "editor_sweep.py", SMALL, 2, "methods"

    def test_it_ends_with_the_answer(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        said = " ".join(first.stdout.split())
        assert "carries edits in English best" in said
        assert "Cross-lingual instead of monolingual training" in said

    def test_the_answer_compares_two_trainings(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        assert {one["training"] for one in self.summary(home)["methods"]} == {"mono", "cross"}
        table = pq.read_table(home / "small" / "summary.parquet")
        assert set(table.column("update_language").to_pylist()) <= {"en", "de"}
        page = (home / "small" / "report.html").read_text()
        assert "99.58" in page, "the paper's numbers are always listed"

    def test_trials_share_what_the_unmodified_model_makes_of_the_test(
        self, first: subprocess.CompletedProcess[str], home: Path
    ) -> None:
        """Edits in English have the same test whatever an editor was trained on; validations have not."""
        known = list((home / "cache" / "known-texts").glob("*.safetensors"))
        assert len(known) == 3, "a test and two validations"


@pytest.mark.slow
def test_asha_stops_editors_that_lag_behind_and_tests_the_best(tmp_path: Path) -> None:
    """The preset for all editors, with one of them and six learning rates, the first of which learns."""
    options = ("--config", "jobs/presets/editors_atlas.yaml", "--languages", "de,en", "--edit-languages", "all")
    few = ("--editors", "mend", "--seeds", "1", "--steps", "60", "--validate-every", "20", "--validation-edits", "10")
    search = ("--lr", "1e-4,1e-9,2e-9,3e-9,4e-9,5e-9", "--masks", "lime", "--search", "asha")
    done = run_job("editor_sweep.py", tmp_path, "--name", "asha", *options, *few, *search, "--test-edits", "4")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "asha" / "summary.json").read_text())
    stopped = summary["stopped_early"]
    assert stopped
    assert {one["step"] for one in stopped} == {20}
    assert summary["trials"]["done"] + len(stopped) == 6
    (chosen,) = [one for one in summary["methods"] if one["chosen"]]
    assert chosen["validation"][0] >= max(one["metrics"]["succ"] for one in stopped)


class TestCommand(JobContract):
    job, specs, planned = editor_sweep, editor_sweep.SPECS, SMALL
    foretold = ("mend cross en none", "a step", "a test edit")
    mistakes: ClassVar[Mistakes] = {
        "unknown task": (["--task", "atlas-fact"], ("'atlas-fact'", "'atlas-facts'")),
        "unknown language": (["--languages", "dee,en"], ("'dee'", "Did you mean 'de'")),
        "unknown edit language": (["--edit-languages", "xx"], ("'xx'", "--edit-languages")),
        "unknown editor": (["--editors", "mennd"], ("'mennd'", "Did you mean 'mend'")),
        "masks for one language": (["--editors", "mend", "--masks", "lime"], ("no use",)),
        "range in a grid": (["--lr", "1e-6..1e-3"], ("--search random",)),
        "empty range": (["--lr", "1e-3..1e-6"], ("--lr", "empty")),
        "no number": (["--mask-penalty", "some"], ("--mask-penalty", "'some'")),
        "an option of another editor": (["--editors", "mend", "--optimizer", "adam"], ("--optimizer", "leave it out")),
        "a preset's option that is left without use": (
            ["--config", "jobs/presets/editors_atlas.yaml", "--masks", "none"],
            ('write --mask-lr ""',),
        ),
        "a classifier for facts": (["--classifier", "atlas-bert"], ("--classifier", "no use")),
        "no such model": (["--model", "atlas-bart"], ("atlas-bart",)),
        "unknown option": (["--edit-language", "en"], ("--edit-languages",)),
        "unknown study": (["--study", "patcher"], ("'patcher'", "'patchers'")),
        "an option of the other study": (["--language-lists", "de"], ("--language-lists", "--study patchers")),
        "patches for facts": (["--study", "patchers", "--task", "atlas-facts"], ("atlas-facts", "atlas-claims")),
        "missing data": (["--task", "mlama:nowhere.zip"], ("nowhere.zip",)),
    }

    def test_help_shows_the_options_of_both_studies(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            self.main("--help")
        shown = capsys.readouterr().out
        assert "--mask-penalty" in shown
        assert "--language-lists" in shown

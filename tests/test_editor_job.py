"""The editor job as a user meets it: one small sweep from command to report, run again, and what mistakes get."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import editor_sweep
from orchestrator.cli import main
from tests.jobs import run_job

SMALL = (
    *("--languages", "en,de", "--editors", "mend", "--seeds", "1", "--lr", "1e-3", "--steps", "4"),
    *("--edits-per-step", "4", "--validate-every", "2", "--validation-edits", "3", "--test-edits", "4"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> subprocess.CompletedProcess[str]:
    done = run_job("editor_sweep.py", home, "--name", "small", *SMALL)
    assert done.returncode == 0, done.stderr
    return done


class TestSweep:
    def test_it_ends_with_the_answer_and_where_it_is(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        said = " ".join(first.stdout.split())
        assert "carries edits in English best" in said
        assert "Cross-lingual instead of monolingual training" in said
        assert (home / "small" / "report.html").as_uri() in first.stdout

    def test_the_folder_holds_the_answer(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        folder = home / "small"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["trials"] == {"planned": 2, "done": 2, "reused": 0, "failed": 0}
        assert {one["training"] for one in summary["methods"]} == {"mono", "cross"}
        assert set(pq.read_table(folder / "summary.parquet").column("update_language").to_pylist()) <= {"en", "de"}
        assert list((folder / "figures").glob("*.png"))
        page = (folder / "report.html").read_text()
        assert "99.58" in page, "the paper's numbers are always listed"
        assert not list((folder / "scratch").glob("*/*.safetensors")), "checkpoints go when their trial is finished"

    def test_running_it_again_reuses_everything(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        before = json.loads((home / "small" / "summary.json").read_text())
        again = run_job("editor_sweep.py", home, "--name", "small", *SMALL)
        assert again.returncode == 0, again.stderr
        after = json.loads((home / "small" / "summary.json").read_text())
        assert (after["trials"]["done"], after["trials"]["reused"]) == (0, 2)
        assert after["methods"] == before["methods"]

    def test_a_dry_run_says_what_it_would_take_and_writes_nothing(self, home: Path) -> None:
        planned = run_job("editor_sweep.py", home, "--name", "planned", "--dry-run", *SMALL, "--edit-languages", "de")
        assert planned.returncode == 0, planned.stderr
        assert "mend cross de none" in planned.stdout
        assert "a step" in planned.stdout
        assert not (home / "planned").exists()


@pytest.mark.slow
def test_asha_stops_editors_that_lag_behind_and_tests_the_best(home: Path) -> None:
    """The preset for all editors, with one of them and six learning rates, the first of which learns."""
    options = ("--config", "jobs/presets/editors_atlas.yaml", "--languages", "de,en", "--edit-languages", "all")
    few = ("--editors", "mend", "--seeds", "1", "--steps", "60", "--validate-every", "20", "--validation-edits", "10")
    search = ("--lr", "1e-4,1e-9,2e-9,3e-9,4e-9,5e-9", "--masks", "lime", "--search", "asha")
    done = run_job("editor_sweep.py", home, "--name", "asha", *options, *few, *search, "--test-edits", "4")
    assert done.returncode == 0, done.stderr
    summary = json.loads((home / "asha" / "summary.json").read_text())
    stopped = summary["stopped_early"]
    assert stopped
    assert {one["step"] for one in stopped} == {20}
    assert summary["trials"]["done"] + len(stopped) == 6
    (chosen,) = [one for one in summary["methods"] if one["chosen"]]
    assert chosen["validation"][0] >= max(one["metrics"]["succ"] for one in stopped)


MISTAKES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown task": (["--task", "atlas-fact"], ("'atlas-fact'", "'atlas-facts'")),
    "unknown language": (["--languages", "dee,en"], ("'dee'", "Did you mean 'de'")),
    "unknown edit language": (["--edit-languages", "xx"], ("'xx'", "--edit-languages")),
    "unknown editor": (["--editors", "mennd"], ("'mennd'", "Did you mean 'mend'")),
    "masks for one language": (["--editors", "mend", "--masks", "lime"], ("no use",)),
    "range in a grid": (["--lr", "1e-6..1e-3"], ("--search random",)),
    "empty range": (["--lr", "1e-3..1e-6"], ("--lr", "empty")),
    "no number": (["--mask-penalty", "some"], ("--mask-penalty", "'some'")),
    "an option of another editor": (["--editors", "mend", "--optimizer", "adam"], ("--optimizer", "leave it out")),
    "a classifier for facts": (["--classifier", "atlas-bert"], ("--classifier", "no use")),
    "no such model": (["--model", "atlas-bart"], ("atlas-bart",)),
    "unknown option": (["--edit-language", "en"], ("--edit-languages",)),
    "unknown study": (["--study", "patcher"], ("'patcher'", "'patchers'")),
    "an option of the other study": (["--language-lists", "de"], ("--language-lists", "--study patchers")),
    "patches for facts": (["--study", "patchers", "--task", "atlas-facts"], ("atlas-facts", "atlas-claims")),
    "missing data": (["--task", "mlama:nowhere.zip"], ("nowhere.zip",)),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_message_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, expected = MISTAKES[case]
    monkeypatch.setenv("BABELSWEEP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "400")
    argv = ["--name", "wrong", *arguments]
    code = main(editor_sweep.SPECS, editor_sweep.study, description="", argv=argv)
    shown = capsys.readouterr()
    assert code == 2
    for words in expected:
        assert words in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "home" / "wrong").exists()


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(editor_sweep.SPECS, editor_sweep.study, description="", examples=editor_sweep.EXAMPLES, argv=["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "ray job submit" in shown
    assert "--mask-penalty" in shown
    assert "--language-lists" in shown

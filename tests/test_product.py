"""The main job as a user meets it: one small sweep from command to report, run again, and what mistakes get."""

from __future__ import annotations

import json
import re
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import lrp2_sweep
from orchestrator.cli import main
from tests.jobs import run_job

SMALL = ("--languages", "de,zh", "--relations", "P361", "--split", "withheld", "--max-facts", "30")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> subprocess.CompletedProcess[str]:
    done = run_job("lrp2_sweep.py", home, "--name", "small", *SMALL)
    assert done.returncode == 0, done.stderr
    return done


class TestSweep:
    def test_it_ends_with_where_the_answer_is(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        assert "German (de)" in first.stdout
        report = re.search(r"file://(\S+report\.html)", first.stdout)
        assert report
        assert Path(report[1]) == home / "small" / "report.html"
        assert "mlflow ui --backend-store-uri" in first.stdout

    def test_the_folder_holds_what_the_documents_say(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        folder = home / "small"
        summary = json.loads((folder / "summary.json").read_text())
        assert {"sweep", "study", "model", "data", "seconds", "trials", "languages"} <= set(summary)
        assert summary["trials"] == {"planned": 3, "done": 3, "reused": 0, "failed": 0}
        german = summary["languages"]["de"]
        assert set(german["baseline"]) == {"acc", "trans"}
        assert {"lirp", "lsrp", "acc", "trans"} <= set(german["oracle"])
        assert {"acc", "acc_low", "acc_high", "baseline_acc"} <= set(german["honest"])
        assert pq.read_table(folder / "summary.parquet").num_rows == 2 * 16
        assert len(list((folder / "trials").glob("*.parquet"))) == 3
        assert list((folder / "figures").glob("*.png"))
        assert "<html" in (folder / "report.html").read_text()

    def test_running_it_again_reuses_everything_and_adds_no_run(
        self, first: subprocess.CompletedProcess[str], home: Path
    ) -> None:
        before = json.loads((home / "small" / "summary.json").read_text())
        runs = tracked(home)
        again = run_job("lrp2_sweep.py", home, "--name", "small", *SMALL)
        assert again.returncode == 0, again.stderr
        after = json.loads((home / "small" / "summary.json").read_text())
        assert after["trials"] == {"planned": 3, "done": 0, "reused": 3, "failed": 0}
        assert after["languages"] == before["languages"]
        assert tracked(home) == runs

    def test_sweeps_can_be_compared_in_mlflow(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        other = run_job("lrp2_sweep.py", home, "--name", "bloom", *SMALL, "--model", "atlas-bloom")
        assert other.returncode == 0, other.stderr
        rows = [(params["model"], params["language"]) for params, _ in tracked(home).values() if "language" in params]
        assert sorted(rows) == [(m, lang) for m in ("atlas-bert", "atlas-bloom") for lang in ("de", "zh")]
        for params, metrics in tracked(home).values():
            if "language" in params:
                assert "pair" in params
                assert {"acc", "trans"} <= set(metrics)


def tracked(home: Path) -> dict[str, tuple[dict[str, str], dict[str, float]]]:
    """Parameters and metrics of every MLflow run, by run id."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id: (run.data.params, run.data.metrics) for run in client.search_runs(experiments)}


def pickled_model(folder: Path) -> list[str]:
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"], "model_type": "bert"}))
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    return ["--model", str(folder)]


def empty_model(folder: Path) -> list[str]:
    return ["--model", str(folder)]


def mlama(folder: Path, template: str = "[X] is in [Y].", fact: str | None = None) -> list[str]:
    fact = fact or json.dumps(
        {"sub_uri": "Q1", "obj_uri": "Q2", "sub_label": "a", "obj_label": "b", "lineid": 0, "uuid": "u"}
    )
    for language in ("en", "de"):
        (folder / language).mkdir()
        (folder / language / "templates.jsonl").write_text(json.dumps({"relation": "P17", "template": template}) + "\n")
        (folder / language / "P17.jsonl").write_text(fact + "\n")
    return ["--facts", f"mlama:{folder}"]


def damaged_zip(folder: Path) -> list[str]:
    (folder / "mlama.zip").write_bytes(b"PK\x03\x04 not a zip")
    return ["--facts", f"mlama:{folder / 'mlama.zip'}"]


def leaving_zip(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "mlama.zip", "w") as archive:
        archive.writestr("../../outside.jsonl", "{}")
    return ["--facts", f"mlama:{folder / 'mlama.zip'}"]


def wrong_preset(folder: Path) -> list[str]:
    (folder / "preset.yaml").write_text("modell: atlas-bert\nmax_facts: many\nties: sometimes\n")
    return ["--config", str(folder / "preset.yaml")]


def file_as_output(folder: Path) -> list[str]:
    (folder / "taken").write_text("")
    return ["--output", str(folder / "taken")]


MISTAKES: dict[str, tuple[Callable[[Path], list[str]], tuple[str, ...]]] = {
    "unknown language": (lambda _: ["--languages", "dee,zh"], ("'dee'", "Did you mean 'de'")),
    "unknown relation": (lambda _: ["--relations", "P371"], ("'P371'", "Did you mean")),
    "pair outside the model": (lambda _: ["--pairs", "6/2,1/7"], ("6/2", "1/7", "1 <= i < j <= 6")),
    "pickled weights": (pickled_model, ("safetensors",)),
    "no weights": (empty_model, ("config.json",)),
    "template without object": (lambda f: mlama(f, template="[X] is."), ("templates.jsonl", "[Y]")),
    "damaged line": (lambda f: mlama(f, fact='{"sub_uri": '), ("P17.jsonl:1", "not valid JSON")),
    "damaged zip": (damaged_zip, ("mlama.zip",)),
    "zip that leaves its folder": (leaving_zip, ("outside.jsonl",)),
    "preset with three mistakes": (wrong_preset, ("modell", "'model'", "max_facts", "ties")),
    "unknown option": (lambda _: ["--language", "de"], ("--languages",)),
    "unknown kind of facts": (lambda _: ["--facts", "mlamma:x.zip"], ("mlama",)),
    "output that cannot be written": (file_as_output, ("taken",)),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_message_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, expected = MISTAKES[case]
    inputs, home = tmp_path / "inputs", tmp_path / "home"
    inputs.mkdir()
    monkeypatch.setenv("BABELSWEEP_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "400")
    code = main(lrp2_sweep.LRP2Spec, lrp2_sweep.study, description="", argv=["--name", "wrong", *make(inputs)])
    shown = capsys.readouterr()
    assert code == 2
    for words in expected:
        assert words in shown.err
    assert "Traceback" not in shown.err
    assert not (home / "wrong" / "trials").exists()
    assert not (tmp_path / "outside.jsonl").exists()


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(lrp2_sweep.LRP2Spec, lrp2_sweep.study, description="", examples=lrp2_sweep.EXAMPLES, argv=["--help"])
    assert ended.value.code == 0
    assert "ray job submit" in capsys.readouterr().out

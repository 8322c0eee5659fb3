"""The main job as a user meets it: one small sweep from command to report, run again, and what mistakes get."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq

from jobs import lrp2_sweep
from tests.jobs import JobContract, Mistakes, SweepContract

SMALL = ("--languages", "de,zh", "--relations", "P361", "--split", "withheld", "--max-facts", "30")


class TestSweep(SweepContract):
    script, small, trials, answer = "lrp2_sweep.py", SMALL, 3, "languages"

    def test_the_answer_has_oracle_and_honest_scores(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        assert "German (de)" in first.stdout
        german = self.summary(home)["languages"]["de"]
        assert set(german["baseline"]) == {"acc", "trans"}
        assert {"lirp", "lsrp", "acc", "trans"} <= set(german["oracle"])
        assert {"acc", "acc_low", "acc_high", "baseline_acc"} <= set(german["honest"])
        assert pq.read_table(home / "small" / "summary.parquet").num_rows == 2 * 16

    def test_running_it_again_reuses_everything(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        """And adds no run to those that are tracked."""
        runs = tracked(home)
        super().test_running_it_again_reuses_everything(first, home)
        assert tracked(home) == runs

    def test_sweeps_can_be_compared_in_mlflow(self, first: subprocess.CompletedProcess[str], home: Path) -> None:
        self.run(home, "--model", "atlas-bloom", name="bloom")
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


class TestCommand(JobContract):
    job, specs, planned = lrp2_sweep, lrp2_sweep.LRP2Spec, SMALL
    mistakes: ClassVar[Mistakes] = {
        "unknown language": (["--languages", "dee,zh"], ("'dee'", "Did you mean 'de'")),
        "unknown relation": (["--relations", "P371"], ("'P371'", "Did you mean")),
        "pair outside the model": (["--pairs", "6/2,1/7"], ("6/2", "1/7", "1 <= i < j <= 6")),
        "pickled weights": (pickled_model, ("safetensors",)),
        "no weights": (empty_model, ("config.json",)),
        "template without object": (lambda f: mlama(f, template="[X] is."), ("templates.jsonl", "[Y]")),
        "damaged line": (lambda f: mlama(f, fact='{"sub_uri": '), ("P17.jsonl:1", "not valid JSON")),
        "damaged zip": (damaged_zip, ("mlama.zip",)),
        "zip that leaves its folder": (leaving_zip, ("outside.jsonl",)),
        "preset with three mistakes": (wrong_preset, ("modell", "'model'", "max_facts", "ties")),
        "unknown option": (["--language", "de"], ("--languages",)),
        "unknown kind of facts": (["--facts", "mlamma:x.zip"], ("mlama",)),
        "output that cannot be written": (file_as_output, ("taken",)),
    }

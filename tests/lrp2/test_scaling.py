"""Planned sweeps: the document's tables are what the planner computes, and what is said about large models follows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from jobs import plan as plan_job
from methods.backbone.projection import all_pairs
from methods.lrp2 import scaling
from methods.lrp2.footprint import bytes_per_row
from methods.lrp2.lattice import schedule
from methods.lrp2.measured import MEASURED
from methods.lrp2.scaling import Sweep
from methods.lrp2.spec import LRP2Spec
from methods.lrp2.study import LRP2Study
from methods.scaling import BLOOMS, MACHINES, summary
from orchestrator.cli import main
from orchestrator.errors import UserError
from orchestrator.results import encode_trial
from tests.backbone.tiny import tiny_model, tiny_tokenizer
from tests.conftest import ROOT

DOCUMENT = ROOT / "cluster" / "SCALING.md"
PRESETS = ROOT / "jobs" / "presets"


def test_the_tables_of_the_document_are_what_the_planner_computes() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for line in scaling.tables():
        assert line in text, f"{line!r}: replace the tables by the output of 'python jobs/plan.py --table'"
    for model in ("bloom-560m", "bloom-7b1"):
        for line in scaling.efficiency_table(model, "bfloat16", scaling.measured_pace()):
            assert line in text, f"{line!r}: see 'python jobs/plan.py --efficiency --model {model}'"


@pytest.mark.parametrize("model", BLOOMS)
def test_presets_of_all_blooms_are_read_and_say_what_the_planner_says(model: str) -> None:
    path = PRESETS / f"lrp2_{model.replace('-', '_')}.yaml"
    spec = plan_job.read_spec(["--config", str(path)])
    assert isinstance(spec, LRP2Spec)
    size = model.removeprefix("bloom-")
    assert spec.model == ("bigscience/bloom" if size == "176b" else f"bigscience/bloom-{size}")
    sweep = Sweep.of(spec)
    text = path.read_text(encoding="utf-8")
    for machines, nodes in MACHINES.items():
        assert f"#   {machines}: {summary(sweep, nodes)}\n" in text


def test_states_of_a_row_are_those_of_all_branches() -> None:
    sweep = Sweep.asked(model="bloom-7b1", dtype="bfloat16")
    branches = 1 + 30 * 29 // 2
    walk = schedule(all_pairs(30), 30)
    assert bytes_per_row(sweep.footprint.description, torch.bfloat16, walk) == branches * 4096 * 2
    assert round(branches * 4096 * 2 / 1e6, 1) == 3.6


def test_all_of_mlama_is_planned() -> None:
    assert len(MEASURED) == 53
    assert sum(measured.facts for measured in MEASURED.values()) == 785_767
    sweep = Sweep.asked(model="bloom-560m")
    assert len(sweep.trials()) == sum(map(sweep.parts, MEASURED))
    assert sum(sweep.trials()) == pytest.approx(sum(sweep.trials(dict.fromkeys(MEASURED, 1.0))))
    assert len(Sweep.asked(model="bloom-560m", max_facts=500).trials()) == 53


@pytest.mark.slow
def test_mlamas_real_facts_are_as_many(real_data: Path, tmp_path: Path) -> None:
    from orchestrator.data import FactSelection, prepare_facts

    store = prepare_facts(f"mlama:{real_data / 'mlama1.1.zip'}", selection=FactSelection(("ceb", "sq")), cache=tmp_path)
    assert {language: store.count(language) for language in ("ceb", "sq")} == {
        language: MEASURED[language].facts for language in ("ceb", "sq")
    }


def test_smaller_trials_keep_more_gpus_busy() -> None:
    table = scaling.efficiency_table("bloom-560m", "bfloat16", scaling.measured_pace())
    shares = [int(cell.split(",")[-1].strip(" %")) for cell in table[-1].split("|")[2:-1]]
    assert table[-1].startswith("| 256 |")
    assert shares[0] == min(shares)
    assert shares[-1] == max(shares) > 1.2 * shares[0]


def test_the_pace_of_languages_is_read_from_a_sweeps_trial_files(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / "spec.yaml").write_text("")
    for language, seconds in (("de", 2.0), ("zh", 6.0), ("en", 1.0)):
        record = {"key": language, "cell": {"language": language}, "study": "lrp2", "seconds": seconds, "peak_bytes": 1}
        (tmp_path / "trials" / f"{language}.parquet").write_bytes(encode_trial(pa.table({"uuid": ["a", "b"]}), record))
    pace = scaling.pace_of(tmp_path)
    assert pace["zh"] / pace["de"] == pytest.approx(3)
    assert pace["fr"] == pytest.approx((pace["zh"] + pace["de"]) / 2), "unknown languages take as long as the mean"
    with pytest.raises(UserError, match="not the folder of a sweep"):
        scaling.pace_of(tmp_path / "trials")


def planned(*words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """The exit code, output and errors of jobs/plan.py."""
    monkeypatch.setattr("sys.argv", ["jobs/plan.py", *words])
    code = plan_job.guarded(plan_job.run, "")
    return code, *capsys.readouterr()


def test_the_job_plans_a_model_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "hidden_size": 256,
        "n_layer": 4,
        "n_head": 4,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, out, _ = planned("--model", str(tmp_path / "config.json"), capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    assert "4 blocks" in out
    code, _, errors = planned(
        *("--model", "bloom-176b", "--placement", "single", "--gpus", "1"), capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 2
    assert "does not fit here: 352.5 GB of weights in 70 blocks of 4.9 GB" in errors
    assert "--placement dispatch or stream" in errors
    code, _, errors = planned("--gpu-memory", "much", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "'much' is no size such as 80GB" in errors


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--table", "--gpus", "1", "--efficiency"), "--gpus, --efficiency would be ignored: --table takes no other"),
        (
            ("--efficiency", "--nodes", "2"),
            "--nodes would be ignored: --efficiency takes --model and --dtype and --pace",
        ),
        (("--pace", "sweep", "--gpus", "8"), "--pace would be ignored: it goes with --efficiency"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, errors = planned(*words, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, out) == (2, "")
    assert told in errors


def test_a_dry_run_plans_a_model_whose_weights_are_not_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    tiny_model("bloom").save_pretrained(folder)
    tiny_tokenizer("causal").save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    words = ["--languages", "de,fr", "--max-facts", "5", "--output", str(tmp_path / "home"), "--dry-run"]
    assert main(LRP2Spec, LRP2Study, description="", argv=["--model", str(folder), *words]) == 0
    out, errors = capsys.readouterr()
    assert f"The weights of {folder} are not at hand" in errors
    assert "Plan: Taken: single on CPU cores" in out
    assert "computed and not measured" in out

    assert main(LRP2Spec, LRP2Study, description="", argv=["--model", str(folder), *words[:-1]]) == 2
    assert "has no weights" in capsys.readouterr().err, "a real run needs them"
    assert main(LRP2Spec, LRP2Study, description="", argv=["--model", "bigscience/bloom-7b1", *words]) == 2
    errors = capsys.readouterr().err
    assert errors.count("Error:") == 1
    assert "the hub did not give it" in errors

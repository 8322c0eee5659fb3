"""What is asked of a sharded training: configurations as shipped, and everything that would silently train alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from methods.editing.sharded import complete, ways_to_train
from methods.editing.sharded.config import FOLDER, read_config
from methods.editing.spec import EditorSpec
from methods.editing.study import EditorStudy
from orchestrator.errors import UserError
from orchestrator.placement import Placement


def spec(**options: Any) -> EditorSpec:
    asked: dict[str, Any] = {"placement": "zero3", "workers_per_trial": 2, "editors": ("mend",), "model": "atlas-bloom"}
    return EditorSpec(**{**asked, **options})


def written(folder: Path, config: Any) -> Path:
    path = folder / "deepspeed.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


STAGE_3 = {"zero_optimization": {"stage": 3}}


@pytest.mark.parametrize("name", ["zero3.json", "zero3_offload.json", "zero3_cpu.json"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shipped_configuration_is_complete_and_follows_the_dtype(name: str, dtype: str) -> None:
    config = complete(read_config(FOLDER / name), dtype=dtype, on_gpu=name != "zero3_cpu.json")
    assert config["zero_optimization"]["stage"] == 3
    assert config["bf16"] == {"enabled": dtype == "bfloat16"}


@pytest.mark.parametrize("on_gpu", [True, False])
def test_without_a_file_there_is_one_for_the_device(on_gpu: bool) -> None:
    file = read_config(FOLDER / ("zero3.json" if on_gpu else "zero3_cpu.json"))
    assert complete(None, dtype="float32", on_gpu=on_gpu) == complete(file, dtype="float32", on_gpu=on_gpu)


CONFIGURATIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no JSON": ("{stage: 3}", ("cannot be read", "line 1")),
    "a list": ([1], ("one JSON object",)),
    "no stage": ({}, ("no stage", "whole model")),
    "stage 2": ({"zero_optimization": {"stage": 2}}, ("stage 2", "whole model")),
    "an optimizer of its own": ({**STAGE_3, "optimizer": {"type": "SGD"}}, ("'optimizer'", "--lr")),
    "batches of its own": ({**STAGE_3, "train_batch_size": 7}, ("'train_batch_size'", "--edits-per-step")),
    "clipping of its own": ({**STAGE_3, "gradient_clipping": 1.0}, ("'gradient_clipping'",)),
    "another precision": ({**STAGE_3, "bf16": {"enabled": True}}, ("bfloat16", "--dtype", "auto")),
    "half precision": ({**STAGE_3, "fp16": {"enabled": True}}, ("float16",)),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_a_configuration_that_would_train_otherwise_is_refused(case: str, tmp_path: Path) -> None:
    config, expected = CONFIGURATIONS[case]
    with pytest.raises(UserError) as refused:
        ways_to_train(spec(deepspeed=written(tmp_path, config)), "causal")
    assert len(refused.value.problems) == 1
    for words in expected:
        assert words in str(refused.value)


def test_a_value_left_to_the_sweep_is_no_mistake() -> None:
    config = complete(
        {**STAGE_3, "train_batch_size": "auto", "bf16": {"enabled": "auto"}}, dtype="float32", on_gpu=True
    )
    assert "train_batch_size" not in config


REQUESTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "alone": ({"workers_per_trial": 1}, ("--workers-per-trial 2", "alone")),
    "uneven shares": ({"edits_per_step": 15}, ("--edits-per-step 15", "multiple of 2")),
    "an editor of the model's own weights": ({"editors": ("mend", "editable-training")}, ("editable-training",)),
    "masks": ({"masks": ("lime",)}, ("--masks lime",)),
    "running statistics": ({"norm": ("mend=running",)}, ("--norm running",)),
    "a larger first step": ({"accumulation": "as released"}, ("--accumulation mean",)),
    "float64": ({"dtype": "float64"}, ("float64",)),
    "offloading from a CPU": ({"deepspeed": FOLDER / "zero3_offload.json", "gpus_per_trial": 0}, ("no GPU",)),
    "workers of a single process": ({"placement": "single"}, ("--workers-per-trial", "change nothing")),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_that_cannot_be_sharded_is_refused(case: str) -> None:
    options, expected = REQUESTS[case]
    with pytest.raises(UserError) as refused:
        ways_to_train(spec(**options), "causal")
    assert len(refused.value.problems) == 1
    for words in expected:
        assert words in str(refused.value)


def test_where_the_trials_came_to_lie_is_checked_before_they_start(tmp_path: Path) -> None:
    """A machine without GPUs, or with too few, is known only when the trials are placed."""
    study = EditorStudy(spec(), tmp_path)
    study.deepspeed = read_config(FOLDER / "zero3_offload.json")

    def placed(**more: Any) -> Placement:
        return Placement(**{"cpus": 1, "gpus": 1.0, "concurrent": 1, "memory": 10**9, "workers": 2} | more)

    study.check_placement(placed(kind="zero3"))
    study.check_placement(placed(kind="single", gpus=0.0))
    with pytest.raises(UserError, match="no GPU to offload from"):
        study.check_placement(placed(kind="zero3", gpus=0.0))
    with pytest.raises(UserError, match="--edits-per-step 16 cannot be dealt out evenly to 3 workers"):
        study.check_placement(placed(kind="zero3", workers=3))


def test_masked_models_are_refused() -> None:
    with pytest.raises(UserError, match="causal"):
        ways_to_train(spec(model="atlas-bert"), "masked")


def test_accelerate_told_to_stay_on_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(UserError, match="ACCELERATE_USE_CPU"):
        ways_to_train(spec(), "causal")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as refused:
        ways_to_train(spec(editors=("fine-tuning",), dtype="float64", workers_per_trial=1), "masked")
    assert len(refused.value.problems) == 4


def test_who_asks_for_several_workers_gets_shards_and_nothing_else() -> None:
    assert ways_to_train(spec(placement="auto"), "causal")[0] == {"zero3"}


def test_the_planner_may_shard_what_can_be_sharded() -> None:
    assert ways_to_train(spec(placement="auto", workers_per_trial=1), "causal")[0] == {"single", "zero3"}
    assert ways_to_train(spec(placement="auto", workers_per_trial=1), "masked")[0] == {"single"}


def test_bfloat16_is_for_shards() -> None:
    assert ways_to_train(spec(dtype="bfloat16"), "causal")[0] == {"zero3"}
    with pytest.raises(UserError, match="float32 copies"):
        ways_to_train(spec(dtype="bfloat16", placement="auto", workers_per_trial=1), "causal")

"""DeepSpeed's configuration and what else is asked of a sharded training: read and checked before anything starts.

A configuration says how a training lies on its devices. What is learned (optimizer, clipping, sizes of batches,
precision) is decided by the sweep, so a configuration that decides it too is refused: the training would silently
follow one of the two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Problems, UserError

if TYPE_CHECKING:
    from methods.editing.spec import EditorSpec

FOLDER = Path(__file__).resolve().parents[3] / "cluster" / "deepspeed"
EDITORS = ("mend", "knowledge-editor")
"""Editors whose training can be sharded: those that leave the model's own weights alone."""
# Keys of a configuration that something else decides, and what that is.
_DECIDED_BY = {
    "optimizer": "the editor (Adam, with --lr)",
    "scheduler": "the editor, whose learning rate is constant",
    "gradient_clipping": "the training's settings",
    "gradient_accumulation_steps": "--edits-per-step and --workers-per-trial",
    "train_batch_size": "--edits-per-step",
    "train_micro_batch_size_per_gpu": "--edits-per-step and --workers-per-trial",
}


def read_config(path: Path | None, *, dtype: str, on_gpu: bool) -> dict[str, Any]:
    """The configuration of a sharded training, as DeepSpeed takes it.

    Args:
        path: a JSON file; None takes ``cluster/deepspeed/zero3.json`` on GPUs and ``zero3_cpu.json`` on CPU cores.
        dtype: what the sweep computes in; an ``"auto"`` of the file follows it.
        on_gpu: whether the processes have GPUs.

    Raises:
        UserError: with everything that is wrong, above all what would train each process alone.
    """
    path = path or FOLDER / ("zero3.json" if on_gpu else "zero3_cpu.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"--deepspeed {path} cannot be read as JSON ({error}), so nothing says how to shard the training. "
            f"{FOLDER}/zero3.json is one to begin with."
        ) from error
    problems = Problems()
    if not isinstance(config, dict):
        raise UserError(f"--deepspeed {path} must hold one JSON object, such as {FOLDER}/zero3.json does.")
    zero = config.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if stage != 3:
        said = "no stage" if stage is None else f"stage {stage}"
        problems.add(
            f"--deepspeed {path} asks for {said} under zero_optimization; only stage 3 shards the weights, below it "
            'every process would hold the whole model. Write "zero_optimization": {"stage": 3}.'
        )
    problems.found += [
        f"--deepspeed {path}: {key!r} is decided by {decided}; leave it out of the file."
        for key, decided in _DECIDED_BY.items()
        if config.get(key, "auto") != "auto"
    ]
    problems.found += _precision_problems(config, path, dtype)
    if not on_gpu and isinstance(zero, dict) and any(name in zero for name in ("offload_param", "offload_optimizer")):
        problems.add(
            f"--deepspeed {path} offloads to the CPU, and this training has no GPU to offload from. Leave the offload "
            "sections out, or give the trial GPUs with --gpus-per-trial 1."
        )
    problems.raise_if_any()
    kept = {key: value for key, value in config.items() if key not in (*_DECIDED_BY, "bf16", "fp16")}
    # The optimizer is torch's own Adam, the one that trains in one process too, wherever its state lies.
    kept |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return kept | {"bf16": {"enabled": dtype == "bfloat16"}}


def _precision_problems(config: Mapping[str, Any], path: Path, dtype: str) -> list[str]:
    wanted = dtype == "bfloat16"
    found = []
    bf16 = _enabled(config, "bf16")
    if bf16 not in ("auto", wanted):
        found.append(
            f"--deepspeed {path} computes in {'bfloat16' if bf16 is True else 'float32'} and --dtype says {dtype}. "
            'Let them agree, or write "bf16": {"enabled": "auto"}, which follows --dtype.'
        )
    if _enabled(config, "fp16") not in ("auto", False):
        found.append(
            f"--deepspeed {path} computes in float16, whose loss scaling leaves out steps and so changes the answer. "
            "Use bfloat16 (--dtype bfloat16) or float32."
        )
    return found


def _enabled(config: Mapping[str, Any], name: str) -> Any:
    section = config.get(name, {})
    return section.get("enabled", "auto") if isinstance(section, dict) else section


def check_sharding(spec: EditorSpec, kind: str) -> dict[str, Any]:
    """The configuration for a sweep's sharded trainings.

    Args:
        spec: of the sweep.
        kind: of its model: masked, causal or classifier.

    Raises:
        UserError: with everything that cannot be, or would silently be something else.
    """
    problems = Problems()
    config = problems.collect(
        lambda: read_config(spec.deepspeed, dtype=spec.dtype, on_gpu=spec.gpus_per_trial > 0)
    )
    workers = spec.workers_per_trial
    if workers < 2:
        problems.add(
            "--placement zero3 with one worker shards nothing: it would train alone, and slower. Give "
            "--workers-per-trial 2 or more, or --placement single."
        )
    elif spec.edits_per_step % workers:
        problems.add(
            f"--edits-per-step {spec.edits_per_step} cannot be dealt out evenly to {workers} workers, and uneven shares "
            f"would weigh edits unevenly. Take a multiple of {workers}, or another --workers-per-trial."
        )
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes"):
        problems.add(
            "ACCELERATE_USE_CPU is set: Accelerate would then leave DeepSpeed out and every worker would hold the "
            "whole model. Unset it; a trial without GPUs computes on CPU cores anyway."
        )
    if kind != "causal":
        problems.add(
            f"--placement zero3 trains editors of causal language models such as BLOOM, and {spec.model} is asked as a "
            f"{kind} one. Use --placement single."
        )
    problems.found += [
        f"--placement zero3 trains {' and '.join(EDITORS)}, which leave the model's own weights alone; {editor} does "
        "not. Leave it out of --editors, or use --placement single."
        for editor in dict.fromkeys(spec.editors)
        if editor not in EDITORS
    ]
    if "lime" in spec.masks:
        problems.add("--masks lime is not trained with --placement zero3: its gates are clamped in one process.")
    if "running" in (spec.norm or ()):
        problems.add("--norm running needs all tokens of a step in one process; with --placement zero3 use --norm ln.")
    if spec.accumulation == "as released":
        problems.add(
            "--accumulation 'as released' makes the first step one edit larger, which cannot be dealt out evenly; with "
            "--placement zero3 use --accumulation mean."
        )
    if spec.dtype == "float64":
        problems.add("DeepSpeed does not train in float64; with --placement zero3 use --dtype float32 or bfloat16.")
    problems.raise_if_any()
    assert config is not None
    return config

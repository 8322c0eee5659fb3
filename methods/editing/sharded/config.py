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


def read_config(path: Path) -> dict[str, Any]:
    """A configuration as it stands in its file.

    Raises:
        UserError: the file cannot be read, or holds no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"--deepspeed {path} cannot be read as JSON ({error}), so nothing says how to shard the training. "
            f"{FOLDER / 'zero3.json'} is one to begin with."
        ) from error
    if not isinstance(config, dict):
        raise UserError(f"--deepspeed {path} must hold one JSON object, as {FOLDER / 'zero3.json'} does.")
    return config


def complete(config: Mapping[str, Any] | None, *, dtype: str, on_gpu: bool) -> dict[str, Any]:
    """A checked configuration as DeepSpeed takes it.

    Args:
        config: from `read_config`; None takes ``cluster/deepspeed/zero3.json`` on GPUs and ``zero3_cpu.json`` without.
        dtype: what the sweep computes in; an ``"auto"`` of the configuration follows it.
        on_gpu: whether the processes have GPUs.

    Raises:
        UserError: with everything that is wrong, above all what would leave every process with the whole model.
    """
    if config is None:
        config = read_config(FOLDER / ("zero3.json" if on_gpu else "zero3_cpu.json"))
    problems = Problems()
    zero = config.get("zero_optimization")
    zero = zero if isinstance(zero, dict) else {}
    if zero.get("stage") != 3:
        said = f"stage {zero['stage']}" if "stage" in zero else "no stage"
        problems.add(
            f"The DeepSpeed configuration asks for {said} under zero_optimization. Only stage 3 shards the weights; "
            'below it every process would hold the whole model. Write "zero_optimization": {"stage": 3}.'
        )
    problems.found += [
        f"The DeepSpeed configuration sets {key!r}, which is decided by {decided}. Leave it out of the file."
        for key, decided in _DECIDED_BY.items()
        if config.get(key, "auto") != "auto"
    ]
    problems.found += _precision_problems(config, dtype)
    if not on_gpu and any(name in zero for name in ("offload_param", "offload_optimizer")):
        problems.add(
            "The DeepSpeed configuration offloads to the CPU, and this training has no GPU to offload from. Leave the "
            "offload sections out, or give the processes GPUs with --gpus-per-trial 1."
        )
    problems.raise_if_any()
    kept = {key: value for key, value in config.items() if key not in (*_DECIDED_BY, "bf16", "fp16")}
    # The optimizer is torch's own Adam, the one that trains in one process too, wherever its state lies.
    kept |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return kept | {"bf16": {"enabled": dtype == "bfloat16"}}


def _precision_problems(config: Mapping[str, Any], dtype: str) -> list[str]:
    wanted = dtype == "bfloat16"
    found = []
    bf16 = _enabled(config, "bf16")
    if bf16 not in ("auto", wanted):
        found.append(
            f"The DeepSpeed configuration computes in {'bfloat16' if bf16 is True else 'float32'} and --dtype says "
            f'{dtype}. Let them agree, or write "bf16": {{"enabled": "auto"}}, which follows --dtype.'
        )
    if _enabled(config, "fp16") not in ("auto", False):
        found.append(
            "The DeepSpeed configuration computes in float16, whose loss scaling leaves out steps and so changes the "
            "answer. Use bfloat16 (--dtype bfloat16) or float32."
        )
    return found


def _enabled(config: Mapping[str, Any], name: str) -> Any:
    section = config.get(name, {})
    return section.get("enabled", "auto") if isinstance(section, dict) else section


def ways_to_train(spec: EditorSpec, kind: str) -> tuple[frozenset[str], dict[str, Any] | None]:
    """How a sweep's trainings can lie on a machine, and what the file of ``--deepspeed`` says, if there is one.

    Who asks for several workers or gives a configuration asks for zero3; without that the planner may choose it, if
    these trainings can be sharded.

    Raises:
        UserError: what is asked for contradicts itself, or cannot be sharded.
    """
    asked = spec.workers_per_trial > 1 or spec.deepspeed is not None
    if spec.placement == "single" and asked:
        raise UserError(
            "--workers-per-trial and --deepspeed say how --placement zero3 trains; with --placement single they would "
            "change nothing. Leave them out, or use --placement zero3."
        )
    wanted = asked or spec.placement == "zero3"
    if spec.dtype == "bfloat16" and not wanted:
        raise UserError(
            "--dtype bfloat16 would lose most steps of a training in one process, which are smaller than what bfloat16 "
            "can add to a weight. Use float32, or --placement zero3, which keeps float32 copies."
        )
    try:
        config = check_sharding(spec, kind)
    except UserError:
        if wanted:
            raise
        return frozenset({"single"}), None
    return frozenset({"zero3"} if wanted else {"single", "zero3"}), config


def check_sharding(spec: EditorSpec, kind: str) -> dict[str, Any] | None:
    """Whether a sweep's trainings can be sharded.

    Args:
        spec: of the sweep.
        kind: of its model: masked, causal or classifier.

    Returns:
        What the file of ``--deepspeed`` says; None where there is none.

    Raises:
        UserError: with everything that cannot be, or would silently be something else.
    """
    problems = Problems()
    config = None
    if spec.deepspeed is not None:
        path = spec.deepspeed
        config = problems.collect(lambda: read_config(path))
        if config is not None:
            problems.collect(lambda: complete(config, dtype=spec.dtype, on_gpu=spec.gpus_per_trial != 0))
    if (spec.placement == "zero3" or spec.deepspeed is not None) and spec.workers_per_trial < 2:
        problems.add(
            "--placement zero3 with one worker shards nothing: it would train alone, and slower. Give "
            "--workers-per-trial 2 or more, or --placement single."
        )
    problems.collect(lambda: check_shares(spec.edits_per_step, spec.workers_per_trial))
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes", "y", "on", "t"):
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
        problems.add(
            "--masks lime cannot be sharded: their gates are kept in range outside of the optimizer, which sees only "
            "its share. Use --placement single for masks."
        )
    if any(text.rpartition("=")[2] == "running" for text in spec.norm or ()):
        problems.add("--norm running needs all tokens of a step in one process; with --placement zero3 use --norm ln.")
    if spec.accumulation == "as released":
        problems.add(
            "--accumulation 'as released' makes the first step one edit larger, which cannot be dealt out evenly; with "
            "--placement zero3 use --accumulation mean."
        )
    if spec.dtype == "float64":
        problems.add("DeepSpeed does not train in float64; with --placement zero3 use --dtype float32 or bfloat16.")
    problems.raise_if_any()
    return config


def check_shares(edits_per_step: int, workers: int) -> None:
    """Checks that the edits of a step can be dealt out evenly. Raises UserError where they cannot."""
    if edits_per_step % workers:
        raise UserError(
            f"--edits-per-step {edits_per_step} cannot be dealt out evenly to {workers} workers, and uneven shares "
            f"would weigh edits unevenly. Take a multiple of {workers}, or another --workers-per-trial."
        )

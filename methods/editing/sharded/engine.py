"""The engine of a sharded training: DeepSpeed's stage 3 through Accelerate, and proof that it is that.

Accelerate and DeepSpeed have several ways of training N processes each alone, with exit code 0. Only this one is taken:
the environment of the process group (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``), which
the caller has set, the plugin, and the backend named outright. `open_accelerator` and `confirm` check what came of it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs
from deepspeed.accelerator import get_accelerator
from filelock import FileLock
from torch import Tensor, nn

from methods.editing.editors import Editor
from methods.editing.examples import EditSample
from methods.editing.gradients import LossWeights, text_losses, texts_of
from methods.editing.sharded.config import check_shares
from orchestrator.errors import UserError

WAIT = timedelta(minutes=30)
"""How long a process waits for the others before it gives up: longer than one of them writes a checkpoint."""


def open_accelerator(config: Mapping[str, Any], *, edits_per_step: int, clip: float, cache: Path) -> Accelerator:
    """Joins the process group and prepares Accelerate, and through it transformers, for stage 3.

    Args:
        config: from `complete`.
        edits_per_step: of all processes together.
        clip: largest norm of the gradient over all parameters.
        cache: folder for what DeepSpeed compiles at its first use, about half a minute; kept for each host.

    Raises:
        UserError: this process would train alone, or hold the whole model.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    check_shares(edits_per_step, size)
    share = edits_per_step // size
    _compile(cache / "torch-extensions" / socket.gethostname())
    full = {
        **config,
        "gradient_clipping": clip,
        "gradient_accumulation_steps": 1,
        "train_micro_batch_size_per_gpu": share,
        "train_batch_size": share * size,
    }
    on_gpu = torch.cuda.is_available()
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    accelerator = Accelerator(
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=full, zero3_init_flag=True),
        mixed_precision="bf16" if config["bf16"]["enabled"] else "no",
        kwargs_handlers=[InitProcessGroupKwargs(backend="nccl" if on_gpu else "gloo", timeout=WAIT)],
    )
    problem = None
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        problem = f"Accelerate chose {accelerator.distributed_type.value} instead of DeepSpeed"
    elif accelerator.num_processes != size or size < 2:
        problem = f"it is one of {accelerator.num_processes} process(es) where {max(size, 2)} were meant"
    elif accelerator.state.deepspeed_plugin.zero_stage != 3:
        problem = f"DeepSpeed is at stage {accelerator.state.deepspeed_plugin.zero_stage}, not 3"
    if problem is not None:
        raise _alone(problem)
    return accelerator


def _compile(folder: Path) -> None:
    """Compiles what DeepSpeed needs to talk between processes on a CPU, one process at a time.

    torch marks a folder in which it compiles by a file, and waits for that file to go; one that is still there when
    nobody compiles is of a process that was killed.
    """
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if get_accelerator().device_name() != "cpu":
        return
    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    with FileLock(folder / ".lock"):
        for mark in folder.glob("*/lock"):
            mark.unlink(missing_ok=True)
        builder.load(verbose=False)


def confirm(engine: Any, size: int) -> None:
    """Checks that an engine is DeepSpeed's, at stage 3, over `size` processes, and that every parameter is sharded.

    Raises:
        UserError: it is not, and would train alone or hold the whole model.
    """
    if not isinstance(engine, deepspeed.DeepSpeedEngine):
        raise _alone(f"the engine is a {type(engine).__name__}, not DeepSpeed's")
    if engine.zero_optimization_stage() != 3:
        raise _alone(f"DeepSpeed's engine is at stage {engine.zero_optimization_stage()}, not 3")
    world = deepspeed.comm.get_world_size()
    if world != size or size < 2:
        raise _alone(f"DeepSpeed's engine is one of {world} process(es) where {max(size, 2)} were meant")
    for name, parameter in engine.module.named_parameters():
        part = getattr(parameter, "ds_tensor", None)
        if part is None or part.numel() != -(-parameter.ds_numel // size):
            held = "whole" if part is None else f"{part.numel()} of its {parameter.ds_numel} numbers"
            raise _alone(f"{name} is not sharded: this process holds it {held}")


def _alone(what: str) -> UserError:
    return UserError(
        f"This training is not what --placement zero3 promises: {what}. It would train alone or hold the whole model, "
        "so it was not started. Check ACCELERATE_* and DS_ACCELERATOR in the environment of the workers."
    )


class EditingStep(nn.Module):
    """One process's share of a training step, as the engine calls it: from edits to their loss.

    The engine's parameters are the model's, which are frozen, and the editor's. Which modules run, and in which order,
    does not depend on the edits: three passes through the blocks from the first edited one on, and one below it.

    Args:
        editor: of a `ShardedModel`.
        weights: of the parts of the loss.
    """

    def __init__(self, editor: Editor, weights: LossWeights) -> None:
        super().__init__()
        self.base, self.editor, self.weights = editor.model.hf, editor, weights
        self.config = editor.model.hf.config  # DeepSpeed's "auto" sizes follow it
        # Parameters that no module's forward reads are this module's too, so that they are whole while it runs.
        for name, parameter in editor.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, draws: Sequence[Sequence[EditSample]]) -> Tensor:
        """The mean loss of these edits, with its graph; the model's stores must be empty and without a limit.

        Args:
            draws: one list for each edit: samples that share edit and update, each with an unrelated text.
        """
        model, places = self.editor.model, range(len(draws))
        requests = [drawn[0].edit for drawn in draws]
        texts = texts_of(draws, places)
        # All texts below the first edited block in one pass; what follows finds them in the store.
        model.frozen(model.encode([*requests, *(text.example for text in texts)]))
        languages = [request.language for request in requests]
        edits = self.editor.edit(model.encode(requests), languages, create_graph=True)
        batch = model.encode([text.example for text in texts])
        edit, away = text_losses(self.editor, edits, batch, texts, self.weights)
        return (self.weights.edit * edit + self.weights.locality * away) / len(draws)

"""What one of the processes of a sharded training does in the test; started by the test, as a launcher would."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

STEPS, EDITS, STOP = 8, 4, 4


class Interrupted(Exception):
    """Stands for the end of all processes in the middle of a training."""


def train(folder: Path, editor: str, interrupt: bool) -> dict[str, Any]:
    """Trains an editor of the model under `folder`, or goes on with it, and says what came of it."""
    import deepspeed
    import torch

    from methods.editing.sharded.config import complete
    from methods.editing.sharded.engine import confirm, open_accelerator
    from methods.editing.sharded.model import load_sharded
    from methods.editing.sharded.training import ShardedTraining
    from orchestrator.errors import UserError
    from tests.editing.fake_task import FakeTask
    from tests.editing.test_training import editor_of, settings

    torch.set_num_threads(1)
    chosen = settings(steps=STEPS, edits_per_step=EDITS)
    if os.environ["RANK"] != "0":  # by its own clock this process would write after every step, and alone
        chosen = replace(chosen, checkpoint_seconds=0.0)
    config = complete(None, dtype="float32", on_gpu=False)
    cache = folder / "cache"
    accelerator = open_accelerator(config, edits_per_step=EDITS, clip=chosen.clip, cache=cache)
    model = load_sharded(str(folder / "model"), dtype=torch.float32, device=accelerator.device)
    with deepspeed.zero.GatheredParameters([model.hf.get_input_embeddings().weight]):
        built = editor_of(model, editor)
    training = ShardedTraining(built, FakeTask("causal"), chosen, folder / editor, accelerator)
    engine, refused = training.engine, []
    for other, size in ((engine, 3), (engine.module, 2)):
        try:
            confirm(other, size)
        except UserError as error:
            refused.append(str(error))
    shares = [(each.ds_tensor.numel(), each.ds_numel) for each in engine.module.parameters() if each.ds_numel > 1]

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if interrupt and step == STOP:
            raise Interrupted

    try:
        curve = training.run(lambda share: None, report).curve
    except Interrupted:
        curve = ()
    return {
        "engine": [type(engine).__name__, engine.zero_optimization_stage(), accelerator.num_processes],
        "sharded": all(2 * part - 1 <= whole for part, whole in shares),
        "refused": refused,
        "losses": [point.loss for point in curve[1:]],
        "succ": [point.succ for point in curve],
    }


if __name__ == "__main__":
    place, name, stop = sys.argv[1:]
    answer = train(Path(place), name, stop == "interrupt")
    if os.environ["RANK"] == "0":
        print("ANSWER", json.dumps(answer))

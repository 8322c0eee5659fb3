"""A training whose weights, gradients and moments are sharded: steps, losses and checkpoints as in one process.

Every process draws all edits of a step and takes every n-th of them; the engine averages the gradients. Validations are
computed by all processes alike, because a sharded module runs in all of them or in none. Process 0 writes: the editor's
float32 weights and the optimizer's moments, gathered, in the format of a training in one process. So a checkpoint is
taken up by any number of processes, one included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from methods.editing.checkpoints import read_tensors, write_tensors
from methods.editing.editors import Editor
from methods.editing.examples import EditSample
from methods.editing.outcome import CurvePoint
from methods.editing.sharded.engine import EditingStep, confirm
from methods.editing.sharded.model import ShardedModel
from methods.editing.store import FrozenStates
from methods.editing.tasks.base import EditTask
from methods.editing.training import Training, TrainingSettings

_MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedTraining(Training):
    """The state of a training in one of several processes.

    Args:
        editor: of a `ShardedModel`, the same in every process.
        task, settings, scratch: as for `train_editor`; only process 0 reads and writes `scratch`.
        accelerator: from `open_accelerator`.

    Raises:
        UserError: it would train alone or hold the whole model.
    """

    def __init__(
        self, editor: Editor, task: EditTask, settings: TrainingSettings, scratch: Path, accelerator: Accelerator
    ) -> None:
        super().__init__(editor, task, settings, scratch)
        self.accelerator = accelerator
        step = EditingStep(editor, settings.weights)
        self.engine, self.optimizer = accelerator.prepare(step, self.optimizer)
        confirm(self.engine, accelerator.num_processes)
        step.base.eval()
        assert isinstance(editor.model, ShardedModel)
        editor.model.check()

    @property
    def checkpoint_due(self) -> bool:
        """See `Training.checkpoint_due`. All processes write together or not at all, so process 0's clock decides."""
        due = [super().checkpoint_due]
        broadcast_object_list(due)
        return bool(due[0])

    def learn_from(self, draws: Sequence[Sequence[EditSample]], scale: float) -> float | None:
        """See `Training.learn_from`; `scale` is one divided by the number of draws."""
        mine = draws[self.accelerator.process_index :: self.accelerator.num_processes]
        self.editor.train()
        with self._unlimited_stores():
            loss = self.engine(mine)
        self.accelerator.backward(loss)  # the engine also takes the optimizer's step, unless the gradient is not finite
        total = float(self.accelerator.reduce(loss.detach().float(), reduction="mean"))
        return None if self.engine.optimizer.overflow else total

    def validate(self) -> CurvePoint:
        """See `Training.validate`."""
        with self.callable_editor():
            return super().validate()

    @contextmanager
    def callable_editor(self) -> Iterator[None]:
        """Inside the block the editor may be called outside of a training step, by all processes alike."""
        with deepspeed.zero.GatheredParameters([*self.editor.parameters(recurse=False)]):
            yield
        self.engine.empty_partition_cache()

    def write(self, path: Path, record: Mapping[str, Any], *, resumable: bool) -> None:
        """See `Training.write`."""
        weights: dict[str, Tensor] = dict(self.editor.named_buffers())
        for name, parameter in self.editor.named_parameters():
            weights[name] = self._kept(safe_get_full_fp32_param(parameter))
        states: dict[int, dict[str, Tensor]] = {}
        if resumable and self._steps:
            for place, parameter in enumerate(self.parameters):
                states[place] = {"step": self._steps[0].clone()}
                for moment in _MOMENTS:
                    states[place][moment] = self._kept(safe_get_full_optimizer_state(parameter, moment))
        if self.accelerator.is_main_process:
            write_tensors(path, weights, states, record)
        self.accelerator.wait_for_everyone()

    def read(self, path: Path, *, resumable: bool) -> dict[str, Any] | None:
        """See `Training.read`: process 0 reads, every process keeps its share."""
        found = read_tensors(path, self.identity) if self.accelerator.is_main_process else None
        shared: list[Any] = [None if found is None else found[0], bool(found and found[2])]
        broadcast_object_list(shared)
        record: dict[str, Any] | None = shared[0]
        if record is None:
            return None
        _, weights, states = found or ({}, {}, {})
        for name, parameter in self.editor.named_parameters():
            whole = self._from_main(weights.get(name), parameter)
            safe_set_local_fp32_param(parameter, self._share(whole, parameter))
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                parameter.data.copy_(whole)
        if resumable and shared[1]:
            self._make_states(states)
            for place, parameter in enumerate(self.parameters):
                for moment in _MOMENTS:
                    whole = self._from_main(states.get(place, {}).get(moment), parameter)
                    safe_set_local_optimizer_state(parameter, self._share(whole, parameter), moment)
        return record

    def resume(self) -> bool:
        """See `Training.resume`."""
        found = [self.best_file.exists() if self.accelerator.is_main_process else False]
        broadcast_object_list(found)
        return bool(found[0]) and super().resume()

    def _kept(self, whole: Tensor) -> Tensor:
        """A gathered tensor on its way into a file, on the CPU; only process 0 keeps it."""
        return whole.cpu() if self.accelerator.is_main_process else whole[:0]

    def _from_main(self, whole: Tensor | None, parameter: nn.Parameter) -> Tensor:
        """A whole tensor of a parameter's shape, float32, that process 0 has read."""
        received = torch.empty(parameter.ds_shape, dtype=torch.float32, device=self.accelerator.device)
        if whole is not None:
            received.copy_(whole)
        torch.distributed.broadcast(received, 0)
        return received

    def _share(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:
        """This process's part, as DeepSpeed cuts it: equal pieces, the last filled up with zeros."""
        size = parameter.ds_tensor.numel()
        start = size * self.accelerator.process_index
        share = torch.zeros(size, dtype=torch.float32, device=whole.device)
        part = whole.flatten()[start : start + size]
        share[: len(part)] = part
        return share

    @property
    def _groups(self) -> Sequence[Tensor]:
        """The flat float32 parameters that the inner optimizer knows, this process's part of them."""
        groups: Sequence[Tensor] = self.engine.optimizer.fp32_partitioned_groups_flat
        return groups

    @property
    def _steps(self) -> list[Tensor]:
        """The number of steps of every group; empty before the first."""
        inner = self.engine.optimizer.optimizer
        return [inner.state[group]["step"] for group in self._groups if "step" in inner.state.get(group, {})]

    def _make_states(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Moments of zero and the number of steps, as the optimizer makes them at its first step."""
        taken = [states[0]["step"] if states else torch.zeros(())]
        taken = [taken[0].to(self.accelerator.device)]
        torch.distributed.broadcast(taken[0], 0)
        inner = self.engine.optimizer.optimizer
        for group in self._groups:
            inner.state[group] = {"step": taken[0].to(group.device).clone()}
            inner.state[group] |= {moment: torch.zeros_like(group) for moment in _MOMENTS}

    @contextmanager
    def _unlimited_stores(self) -> Iterator[None]:
        """Inside the block the model remembers every text, and at its beginning none: what runs then depends on the
        number of texts alone."""
        model = self.editor.model
        frozen, raw = (FrozenStates(2**62, store.device) for store in (model.frozen_store, model.raw_store))
        with model.remembering((frozen, raw)):
            yield

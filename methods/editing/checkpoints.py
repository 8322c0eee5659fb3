"""The state of a training, from which it goes on as if it had never stopped.

One safetensors file: the editor's parameters and the optimiser's moments as tensors, everything else as JSON in the
file's metadata. It is written beside its place and renamed, so it is there whole or not at all. No state of a random
generator is stored, because there is none: every draw of a training is a function of its seed and of how many came
before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from methods.editing.editors import Editor
from orchestrator.data import write_atomically

_EDITOR, _OPTIMIZER = "editor.", "optimizer."


def write_checkpoint(
    path: Path, editor: Editor, optimizer: torch.optim.Optimizer | None, record: Mapping[str, Any]
) -> None:
    """Writes the state of a training.

    Args:
        path: of the file; replaced as a whole.
        editor: its parameters and buffers are written.
        optimizer: its state, tensors only; None leaves it out.
        record: everything else, as JSON.

    Raises:
        UserError: the disk is full, or the folder may not be written to.
    """
    states = {} if optimizer is None else optimizer.state_dict()["state"]
    write_tensors(path, editor.state_dict(), states, record)


def write_tensors(
    path: Path, editor: Mapping[str, Tensor], optimizer: Mapping[int, Mapping[str, Tensor]], record: Mapping[str, Any]
) -> None:
    """The same from whole tensors: the editor's by name, the optimizer's by place of the parameter and name."""
    tensors = {f"{_EDITOR}{name}": tensor for name, tensor in editor.items()}
    for place, state in optimizer.items():
        tensors |= {f"{_OPTIMIZER}{place}.{name}": tensor for name, tensor in state.items()}
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    data = save(plain, metadata={"record": json.dumps(record)})
    write_atomically(path, lambda file: file.write(data))


def read_checkpoint(
    path: Path, editor: Editor, optimizer: torch.optim.Optimizer | None, identity: str
) -> dict[str, Any] | None:
    """Puts editor and optimiser into the state that `write_checkpoint` stored.

    Args:
        path: of the file.
        editor, optimizer: as they were built at the beginning of that training.
        identity: what the record must have as ``"identity"``.

    Returns:
        The record; None, and nothing is changed, if there is no file, it is damaged, or it is of another training.
    """
    found = read_tensors(path, identity)
    if found is None:
        return None
    record, of_editor, states = found
    editor.load_state_dict(of_editor)
    if optimizer is not None:
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return record


def read_tensors(
    path: Path, identity: str
) -> tuple[dict[str, Any], dict[str, Tensor], dict[int, dict[str, Tensor]]] | None:
    """Record, editor and optimizer as `write_tensors` took them; None where `read_checkpoint` gives None."""
    try:
        with safe_open(path, framework="pt") as file:
            record: dict[str, Any] = json.loads((file.metadata() or {}).get("record", "{}"))
            if record.get("identity") != identity:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, ValueError, SafetensorError):
        return None
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _of(tensors, _OPTIMIZER):
        place, _, key = name[len(_OPTIMIZER) :].partition(".")
        states.setdefault(int(place), {})[key] = tensor
    return record, {name[len(_EDITOR) :]: tensor for name, tensor in _of(tensors, _EDITOR)}, states


def _of(tensors: Mapping[str, Tensor], prefix: str) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in tensors.items() if name.startswith(prefix)]

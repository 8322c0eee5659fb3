"""What an editor is: from requests to edits, many at once.

The life of an editor: `build_editor` makes it for one model and a list of languages, with weights drawn from its
configuration's seed. Training announces every step with `prepare_step`, asks for edits of a micro-batch with
``create_graph=True``, applies them, and takes the gradient of what the edited model says into `parameter_groups`;
`regularizer` adds the editor's own penalty. Evaluation asks for edits without a graph. `save_editor` and `load_editor`
carry it from one process to the next.

The model itself is never changed. An editor that trains copies of the model's weights (Editable Training) keeps them
among its own parameters and names them in `weights`; `applied` and `materialised` put them in force.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from methods.editing import edits as edit_types
from methods.editing.edits import Edits
from methods.editing.examples import Encoded
from methods.editing.model import EditableModel
from orchestrator.data import write_atomically
from orchestrator.errors import UserError, did_you_mean

WEIGHTS, DESCRIPTION = "editor.safetensors", "editor.json"


class EditorConfig(BaseModel):
    """What every editor can be told; each editor adds its own fields in a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, description="of the editor's initial weights")


class LearnedConfig(EditorConfig):
    """What all editors that learn have in common; each sets the defaults that it was published with."""

    lr: float = Field(1e-6, gt=0, description="learning rate of the editor's weights")
    masks: bool = Field(False, description="one learned mask for each edit language (language anisotropy)")
    mask_lr: float = Field(1e-3, gt=0, description="learning rate of the masks")
    l0: Literal["differentiable", "as released"] = Field(
        "differentiable", description="the masks' L0 term with its gradient, or without one as in the released code"
    )


class Editor(nn.Module, ABC):
    """Turns edit requests into edits.

    Attributes:
        name: its key in `EDITORS`.
        trainable: whether it learns; otherwise it has no parameters.
        Config: the class of its configuration.
        model: what it edits; not one of its own modules.
        languages: edit languages that it knows.
    """

    name: ClassVar[str]
    trainable: ClassVar[bool]
    Config: ClassVar[type[EditorConfig]] = EditorConfig

    def __init__(self, model: EditableModel, config: EditorConfig, languages: Sequence[str]) -> None:
        super().__init__()
        self.model, self.config, self.languages = model, config, tuple(languages)

    @abstractmethod
    def edit(self, batch: Encoded, languages: Sequence[str], *, create_graph: bool = False) -> Edits:
        """One edit for every request of a batch; the same as one request at a time.

        Args:
            batch: the requests with their wanted answers.
            languages: the edit language of each request.
            create_graph: keep the graph from the editor's parameters to the edits, for training.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates, as a torch optimiser takes them."""
        return []

    def regularizer(self, languages: Sequence[str]) -> Tensor | None:
        """The editor's own penalty for edits in these languages, a scalar; None where it has none."""
        return None

    def prepare_step(self, *key: int) -> None:
        """To be called before every training step, with what the step's random samples may depend on: (seed, step)."""

    def weights(self) -> Mapping[str, nn.Parameter]:
        """Weights that stand in for the model's own while this editor is in use, by module."""
        return {}

    @contextmanager
    def applied(self, edits: Edits, rows: Tensor) -> Iterator[None]:
        """While the block runs, row r of every batch sees the model as edited by edit ``rows[r]`` of this editor."""
        with edit_types.replaced(self.model, self.weights()), edit_types.applied(self.model, edits, rows):
            yield

    @contextmanager
    def materialised(self, edits: Edits, index: int) -> Iterator[None]:
        """The same for one edit, written into the weights: the plain reference, and the export."""
        with edit_types.replaced(self.model, self.weights()), edit_types.materialised(self.model, edits, index):
            yield


def construct(editor: type[Editor], config: EditorConfig, model: EditableModel, languages: Sequence[str]) -> Editor:
    """An editor with weights from its configuration's seed; the global random state is left as it was."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        return editor(model, config, languages).to(model.device, model.dtype)


def save_editor(editor: Editor, folder: Path) -> None:
    """Writes an editor's parameters (safetensors) and its description (JSON) into a folder.

    Raises:
        UserError: the folder cannot be written to.
    """
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in editor.state_dict().items()}
    description = {
        "editor": editor.name,
        "config": editor.config.model_dump(mode="json"),
        "languages": list(editor.languages),
        "modules": _shapes(editor.model),
    }
    write_atomically(folder / WEIGHTS, lambda file: file.write(save(tensors)))
    text = json.dumps(description, indent=2, ensure_ascii=False)
    write_atomically(folder / DESCRIPTION, lambda file: file.write(text.encode()))


def read_editor(folder: Path, model: EditableModel, editors: Mapping[str, type[Editor]]) -> Editor:
    """The editor that `save_editor` wrote, for the same model; the global random state is left as it was.

    Raises:
        UserError: the files are missing, damaged, or of an editor of another model.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS, device=str(model.device))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no whole editor ({error}), so nothing can be loaded. It needs {DESCRIPTION} and "
            f"{WEIGHTS}, as a training writes them; train it again or pass another folder."
        ) from error
    kind = str(description.get("editor")) if isinstance(description, dict) else ""
    if kind not in editors:
        raise UserError(
            f"{folder / DESCRIPTION} names the editor {kind!r}, which is not known, so it cannot be loaded."
            + did_you_mean(kind, editors)
        )
    if description.get("modules") != _shapes(model):
        raise UserError(
            f"The editor in {folder} was made for other matrices than the model's ({', '.join(_shapes(model))}), so "
            "its weights do not fit. Load the model it was trained with, with the same modules to edit."
        )
    try:
        config = editors[kind].Config(**description["config"])
        editor = construct(editors[kind], config, model, description["languages"])
        editor.load_state_dict(tensors)
    except (KeyError, TypeError, ValidationError, RuntimeError) as error:
        raise UserError(
            f"The editor in {folder} does not fit its own description ({str(error).splitlines()[0]}), so it cannot be "
            "used. Train it again, or copy both of its files again."
        ) from error
    return editor


def _shapes(model: EditableModel) -> dict[str, list[int]]:
    return {module.name: [module.out_features, module.in_features] for module in model.modules}

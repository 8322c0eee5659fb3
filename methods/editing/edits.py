"""Edits of many requests at once: what they add to a module's output, without touching its weight.

The update of a linear module y = W x by a gradient editor is a sum over the T tokens of the edited text of outer
products, dW = sum_t delta_t x_t^T. So B edits are B pairs of small factors, and a batch whose rows belong to different
edits goes through the model together: row r gains (x X_r^T) Delta_r. `materialised` writes one edit into the weights
instead; it is the plain reference, and the way to export an edited model.

Shape legend: E edits, K their tokens, R rows of a batch, T its tokens, I and O a module's input and output features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from methods.editing.model import EditableModel


class Edits(ABC):
    """E edits of the same modules; an edit is one entry along the first axis of every tensor.

    Subclasses hold, for every module, a tuple of tensors that all begin with the axis of edits, and say what these
    tensors do to a module.
    """

    def __init__(self, tensors: Mapping[str, tuple[Tensor, ...]]) -> None:
        self.tensors = dict(tensors)
        sizes = {len(tensor) for parts in self.tensors.values() for tensor in parts}
        if len(sizes) != 1:
            raise ValueError(f"every module needs the same number of edits, not {sorted(sizes)}")
        (self.size,) = sizes

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that are edited."""
        return tuple(self.tensors)

    @abstractmethod
    def gain(self, module: str, x: Tensor, rows: Tensor) -> Tensor:
        """What a module's output gains.

        Args:
            module: its name.
            x: the module's input [R, T, I].
            rows: the edit of each row of `x`, [R].

        Returns:
            [R, T, O], differentiable in `x` and in the edits.
        """

    @abstractmethod
    def dense(self, module: str) -> Tensor:
        """What a module's weight gains, [E, O, I]."""

    @classmethod
    @abstractmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The edits of all `parts`, one after the other."""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Self:
        """The edits at `index`, in that order."""
        chosen = index if isinstance(index, slice | Tensor) else list(index)
        return self._map(lambda tensor: tensor[chosen])

    def detach(self) -> Self:
        """The same edits outside the graph that computed them."""
        return self._map(torch.Tensor.detach)

    def to(self, device: torch.device | str) -> Self:
        """The same edits on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything the edits consist of, by name, as safetensors stores it."""
        return {
            f"{place}:{module}": tensor.detach().contiguous()
            for module, parts in self.tensors.items()
            for place, tensor in enumerate(parts)
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The edits that `to_tensors` wrote."""
        found: dict[str, dict[int, Tensor]] = {}
        for name, tensor in tensors.items():
            place, _, module = name.partition(":")
            found.setdefault(module, {})[int(place)] = tensor
        return cls({module: tuple(parts[place] for place in sorted(parts)) for module, parts in found.items()})

    def _map(self, function: Any) -> Self:
        return type(self)({module: tuple(map(function, parts)) for module, parts in self.tensors.items()})


class FactoredEdits(Edits):
    """For every module x [E, K, I] and delta [E, K, O] with dW = sum over K of delta x^T; unused tokens are zero."""

    def gain(self, module: str, x: Tensor, rows: Tensor) -> Tensor:
        inputs, deltas = (_take(tensor, rows) for tensor in self.tensors[module])
        return torch.bmm(torch.bmm(x, inputs.transpose(1, 2)), deltas)

    def dense(self, module: str) -> Tensor:
        inputs, deltas = self.tensors[module]
        return torch.bmm(deltas.transpose(1, 2), inputs)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        longest = {m: max(part.tensors[m][0].shape[1] for part in parts) for m in parts[0].modules}
        return cls(
            {
                module: (
                    torch.cat([_padded(part.tensors[module][0], length) for part in parts]),
                    torch.cat([_padded(part.tensors[module][1], length) for part in parts]),
                )
                for module, length in longest.items()
            }
        )


class DenseEdits(Edits):
    """For every module the whole change of its weight, [E, O, I]."""

    def gain(self, module: str, x: Tensor, rows: Tensor) -> Tensor:
        (deltas,) = self.tensors[module]
        used, counts = rows.unique(return_counts=True)
        if len(counts) and bool((counts == counts[0]).all()):
            # Rows of one edit are multiplied together, so that no matrix is copied once for each of its rows.
            order = rows.argsort(stable=True)
            grouped = x[order].reshape(len(used), -1, x.shape[-1])
            gained = torch.bmm(grouped, _take(deltas, used).transpose(1, 2)).view(*x.shape[:-1], -1)
            return gained[order.argsort()]
        gained = x.new_zeros(*x.shape[:-1], deltas.shape[1])
        for edit in used.tolist():
            of_edit = (rows == edit).nonzero()[:, 0]
            gained = gained.index_copy(0, of_edit, x[of_edit] @ deltas[edit].T)
        return gained

    def dense(self, module: str) -> Tensor:
        return self.tensors[module][0]

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        return cls({m: (torch.cat([part.tensors[m][0] for part in parts]),) for m in parts[0].modules})


@contextmanager
def applied(model: EditableModel, edits: Edits, rows: Tensor) -> Iterator[None]:
    """While the block runs, row r of every batch sees the model edited by edit ``rows[r]``.

    Nothing but forward hooks: the weights are never written to, so the model is afterwards what it was before, bit for
    bit. Blocks may be nested; their edits add up.

    Args:
        model: the model.
        edits: the edits.
        rows: [R] on the model's device; every batch that goes through the edited blocks must have R rows.
    """

    def hook(name: str) -> Any:
        def add(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0].reshape(len(rows), -1, args[0].shape[-1])
            return output + edits.gain(name, x, rows).view_as(output)

        return add

    with ExitStack() as stack:
        stack.enter_context(model.changed())
        for name in edits.modules:
            stack.callback(model.linear(name).register_forward_hook(hook(name)).remove)
        yield


@contextmanager
def replaced(model: EditableModel, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """While the block runs, modules use other weights; afterwards they have their own parameter objects again.

    Args:
        model: the model.
        weights: [O, I] by the name of an edited module; gradients flow into them.
    """
    with ExitStack() as stack:
        stack.enter_context(model.changed())
        for name, weight in weights.items():
            module = model.linear(name)
            stack.callback(setattr, module, "weight", module.weight)
            module.weight = weight
        yield


@contextmanager
def materialised(model: EditableModel, edits: Edits, index: int) -> Iterator[None]:
    """While the block runs, edit `index` is written into the weights, for every row of every batch.

    The original parameters are set aside untouched and put back at the end. ``model.hf.save_pretrained`` inside the
    block exports the edited model.
    """
    one = edits[[index]].detach()
    weights = {
        name: nn.Parameter(model.linear(name).weight.detach() + one.dense(name)[0], requires_grad=False)
        for name in one.modules
    }
    with replaced(model, weights):
        yield


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    """Entries of the first axis; the tensor itself where every entry is wanted once, in order."""
    everything = len(rows) == len(tensor) and torch.equal(rows, torch.arange(len(tensor), device=rows.device))
    return tensor if everything else tensor[rows]


def _padded(tensor: Tensor, length: int) -> Tensor:
    """[E, K, F] with zeros up to K = `length`."""
    return nn.functional.pad(tensor, (0, 0, 0, length - tensor.shape[1]))

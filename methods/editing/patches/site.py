"""Where patches sit: the feed-forward network (FFN) of the last block, and the rest of the model behind it.

Found by watching one forward pass, never by a model's name: the two matrices of the last block's FFN, the activation
between them, and the chain of modules that run after it (the block's last LayerNorm or the final norm, pooler,
classifier). What enters that chain is the residual plus the FFN's output, at every position alone; so an answer of the
patched model needs two cached vectors for each label position, and no encoder. At building this is compared with the
model's own forward pass.

Shape legend: B texts, T tokens, M label positions, D hidden size, F width of the FFN, N patches, V outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from methods.editing.examples import Encoded
from methods.editing.model import EditableModel
from methods.editing.modules import choose_modules
from methods.editing.patches.neuron import PatchNeurons
from orchestrator.errors import UserError

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


class Correction(Protocol):
    """What is added to the FFN's output: patch neurons, or the difference that fine-tuning made."""

    def gain(self, queries: Tensor) -> Tensor:
        """What the FFN's output gains for states [*, D] that enter it, [*, D]."""


class PatchSite:
    """The last FFN of a model, with all that runs behind it.

    Attributes:
        model: the model; only its last block is looked at.
        up, down: the FFN's matrices [F, D] and [D, F].
        activation: the function between them, elementwise.
        tail: the modules behind the FFN, in order, up to the final states or a classifier's logits.
    """

    def __init__(self, model: EditableModel) -> None:
        """
        Args:
            model: a classifier, masked or causal language model.

        Raises:
            UserError: the last FFN is not two matrices with an activation between them, or what runs behind it cannot
                be run by itself.
        """
        self.model = model
        modules, _ = choose_modules(model.hf, model.blocks, None, 1)
        hidden = model.hf.config.hidden_size
        ups = [model.hf.get_submodule(module.name) for module in modules if module.in_features == hidden]
        downs = [model.hf.get_submodule(module.name) for module in modules if module.in_features != hidden]
        if len(ups) != 1 or len(downs) != 1:
            raise UserError(
                f"The feed-forward network of {type(model.hf).__name__} has {len(modules)} matrices, and a patch "
                "neuron needs one key matrix and one value matrix: a gated network has no place for it. Use a model "
                f"without gates, such as {_fitting(model)}."
            )
        self.up: Any = ups[0]
        self.down: Any = downs[0]
        with torch.no_grad():
            batch = _probe(model)
            states = model.frozen(batch)
            self.activation, self.tail = self._trace(batch, states)
            final = states[0, :1]
            # The model's own head does the same, with more detours.
            self._linear_head = not self.classifies and torch.equal(model.transform(final), final)
            self._check(batch, states)

    @property
    def classifies(self) -> bool:
        """Whether answers are classes, read at position 0."""
        return self.model.kind == "classifier"

    @property
    def hidden_size(self) -> int:
        """D"""
        return int(self.up.in_features)

    @property
    def outputs(self) -> int:
        """V: classes, or tokens of the vocabulary."""
        return len(self.model.unembedding[0])

    def feed_forward(self, queries: Tensor) -> Tensor:
        """The unmodified FFN on states [*, D], [*, D]; no hook at its matrices is called."""
        inner = self.activation(nn.functional.linear(queries, self.up.weight, self.up.bias))
        return nn.functional.linear(inner, self.down.weight, self.down.bias)

    def finish(self, sums: Tensor) -> Tensor:
        """Logits [M, V] of residual plus FFN output at M label positions, [M, D]; differentiable."""
        states = sums[:, None]
        for module in self.tail:
            states = module(states)
        states = states.flatten(1)
        if self._linear_head:
            return nn.functional.linear(states, *self.model.unembedding)
        return self.model.head(states)

    def empty(self) -> PatchNeurons:
        """No patches, of the model's size, type and device."""
        weight = self.up.weight
        return PatchNeurons(
            weight.new_zeros(0, self.hidden_size),
            weight.new_zeros(0),
            weight.new_zeros(0, self.down.out_features),
            self.activation,
        )

    def positions(self, batch: Encoded, states: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the FFN and what enters the tail at the label positions, [M, D] each.

        Args:
            batch: the texts.
            states: what enters the first edited block, from `EditableModel.frozen`.
        """
        caught: list[Tensor] = []

        def reach(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            caught.append(args[0])
            raise _Reached

        with ExitStack() as stack:
            stack.callback(self.up.register_forward_pre_hook(lambda _, args: caught.append(args[0])).remove)
            stack.callback(self.tail[0].register_forward_pre_hook(reach).remove)
            with suppress(_Reached):
                self.model.upper(batch, states)
        shape = (*batch.input_ids.shape, -1)
        queries, sums = (tensor.reshape(shape)[batch.rows, batch.columns] for tensor in caught)
        return queries, sums

    @contextmanager
    def attached(self, correction: Correction) -> Iterator[None]:
        """While the block runs, the model's own forward pass is the corrected one.

        Forward hooks only; nothing is written to, so the model is afterwards what it was before, bit for bit.
        """
        entered: list[Tensor] = []

        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            entered[:] = [args[0]]

        def add(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + correction.gain(entered.pop()).view_as(output)

        with ExitStack() as stack:
            stack.enter_context(self.model.changed())
            stack.callback(self.up.register_forward_pre_hook(note).remove)
            stack.callback(self.down.register_forward_hook(add).remove)
            yield

    @contextmanager
    def merged(self, neurons: PatchNeurons) -> Iterator[None]:
        """While the block runs, the patches are columns of the FFN itself: F grows by N.

        The original parameters are set aside untouched and put back at the end.
        """
        up, down = self.up, self.down
        bias = up.weight.new_zeros(len(up.weight)) if up.bias is None else up.bias
        weights = [
            (up, "weight", torch.cat([up.weight, neurons.keys])),
            (up, "bias", torch.cat([bias, neurons.biases])),
            (down, "weight", torch.cat([down.weight, neurons.values.T], dim=1)),
        ]
        with ExitStack() as stack:
            stack.enter_context(self.model.changed())
            for module, name, weight in weights:
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, nn.Parameter(weight.detach().contiguous(), requires_grad=False))
            stack.callback(setattr, up, "out_features", up.out_features)
            stack.callback(setattr, down, "in_features", down.in_features)
            up.out_features = down.in_features = up.out_features + len(neurons)
            yield

    def _trace(self, batch: Encoded, states: Tensor) -> tuple[Callable[[Tensor], Tensor], tuple[nn.Module, ...]]:
        """Activation and tail, from one watched forward pass."""
        output: list[Tensor] = []
        activations: list[tuple[Any, Tensor]] = []
        tail: list[nn.Module] = []
        running: list[nn.Module] = []
        reached: list[Tensor] = []

        def before(part: nn.Module, args: tuple[Any, ...]) -> None:
            if reached and not running:
                running.append(part)
                tail.append(part)

        def after(part: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            if part is self.up:
                output.append(result)
            elif part is self.down:
                reached.append(args[0])
            elif output and not reached and args and args[0] is output[0]:
                activations.append((part, result))
            if running and running[0] is part:
                running.clear()

        with ExitStack() as stack:
            for part in self.model.hf.modules():
                stack.callback(part.register_forward_pre_hook(before).remove)
                stack.callback(part.register_forward_hook(after).remove)
            self.model.upper(batch, states)
        found = [part for part, result in activations if reached and torch.equal(result, reached[0])]
        chain = tuple(part for part in tail if not isinstance(part, nn.Dropout))
        if len(reached) != 1 or not found or not chain:
            raise _not_a_chain(self.model)
        return found[-1], chain

    def _check(self, batch: Encoded, states: Tensor) -> None:
        """Compares the cached path, with random patches, with the model's own forward pass."""
        random = torch.Generator().manual_seed(0)
        width = self.hidden_size
        keys, values = (torch.randn(2, width, generator=random).to(self.up.weight) / width**0.5 for _ in range(2))
        patches = PatchNeurons(keys, keys.new_zeros(2), values, self.activation)
        queries, sums = self.positions(batch, states)
        ours = self.finish(sums + patches.gain(queries))
        with self.attached(patches):
            theirs = self.model.logits(batch, states)
        difference = (ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)
        if ours.shape != theirs.shape or not float(difference) <= _TOLERANCE[self.model.dtype]:
            raise _not_a_chain(self.model)


class _Reached(Exception):
    """Raised to leave a forward pass where the tail begins."""


def _not_a_chain(model: EditableModel) -> UserError:
    return UserError(
        f"What {type(model.hf).__name__} computes behind the feed-forward network of its last block is not a plain "
        "chain of modules at each label position, so patched answers would be wrong. Use a model such as "
        f"{_fitting(model)}" + (", whose classifiers read the first position." if model.kind == "classifier" else ".")
    )


def _fitting(model: EditableModel) -> str:
    """Models that patches can be put into; classifiers of causal ones read the last position, not the first."""
    return "BERT or XLM-R" if model.kind == "classifier" else "BERT, XLM-R, BLOOM or XGLM"


def _probe(model: EditableModel) -> Encoded:
    """Two texts of different lengths, with a label position or two each."""
    size = model.hf.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, 11).remainder(size).view(2, 5).flip(1)
    attended = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    rows, columns = torch.tensor([0, 0, 1]), torch.tensor([0, 3, 2])
    if model.kind == "classifier":
        rows, columns = torch.arange(2), torch.zeros(2, dtype=torch.long)
    return Encoded(ids, attended, None, rows, columns, torch.full_like(rows, -1), (b"probe 5", b"probe 3")).to(
        model.device
    )

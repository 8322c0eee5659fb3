"""The generic path: any Hugging Face model with a list of blocks, run through its own code.

The model runs once per group of equally long sequences; keyword-capturing pre-hooks note what each block was handed
(masks, position embeddings, ALiBi). From then on the blocks are called directly with these arguments and other states.
Exact for every architecture whose blocks depend on nothing else, and slower than the packed paths: matrices see one
branch of one group at a time, and nothing is saved in the last block.

Shape legend: B branches, N packed rows, M needed rows, n sequences of a segment, T their length, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from methods.backbone.base import Backbone, Plan
from methods.backbone.packing import Pack, Segment
from orchestrator.errors import UserError

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class SegmentRun:
    """What a run of one segment showed: the states that entered block 1, and what every block got beside states."""

    segment: Segment
    embedded: Tensor
    arguments: tuple[Arguments, ...]


@dataclass(frozen=True)
class GenericPlan(Plan):
    """The runs of a pack's segments."""

    runs: tuple[SegmentRun, ...] = ()

    def tensors(self) -> Sequence[Tensor]:
        found = {id(run.embedded): run.embedded for run in self.runs}
        for run in self.runs:
            for positional, keywords in run.arguments:
                found.update((id(part), part) for part in _tensors([*positional, *keywords.values()]))
        return list(found.values())

    def to(self, device: torch.device) -> GenericPlan:
        """The same plan on another device; what blocks share stays shared."""
        moved = {id(part): part.to(device) for part in self.tensors()}
        runs = tuple(
            SegmentRun(run.segment, moved[id(run.embedded)], _replaced(run.arguments, moved)) for run in self.runs
        )
        return GenericPlan(self.pack.to(device), runs)


class GenericBackbone(Backbone):
    """Runs a model's own blocks, one branch and one segment at a time."""

    fast = False

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | None = None) -> None:
        super().__init__(model, tokenizer, device)
        self.trunk, self.blocks_return_tuples = self._probe()

    def plan(self, pack: Pack, device: torch.device | None = None) -> GenericPlan:
        if any(segment.ancestors is not None for segment in pack.segments):
            raise ValueError("the generic path takes no ancestor masks: pack every sequence by itself")
        placed = pack.to(self.device)
        plan = GenericPlan(placed, tuple(self._run(segment, placed.ids) for segment in placed.segments))
        return plan if device in (None, self.device) else plan.to(device)

    def embed(self, plan: GenericPlan) -> Tensor:
        return torch.cat([run.embedded.flatten(0, 1) for run in plan.runs])

    def layer(self, k: int, x: Tensor, plan: GenericPlan, need: bool = False) -> Tensor:
        block = self.blocks[k - 1]
        output = torch.empty_like(x)
        for run in plan.runs:
            segment = run.segment
            rows = slice(segment.start, segment.stop)
            positional, keywords = run.arguments[k - 1]
            for branch in range(x.shape[0]):
                states = x[branch, rows].reshape(segment.count, segment.length, -1)
                output[branch, rows] = first_tensor(block(states, *positional, **keywords)).flatten(0, 1)
        return output.index_select(1, plan.pack.need) if need else output

    def final(self, x: Tensor) -> Tensor:
        """Runs the model's trunk with blocks that do nothing but hand over `x`, each row as a sequence of its own."""
        rows = x.reshape(-1, 1, x.shape[-1])
        last = self._as_block_output(rows)
        with ExitStack() as stack:
            for block in self.blocks:
                stack.enter_context(replaced_forward(block, lambda *_, **__: last))
            trunk = self._call(self.trunk, rows.shape[0])
        return first_tensor(trunk).view(*x.shape[:-1], -1)

    def transform(self, x: Tensor) -> Tensor:
        """Runs the model with a trunk that returns `x`, up to the vocabulary matrix."""
        rows = x.reshape(-1, 1, x.shape[-1])
        trunk = BaseModelOutputWithPast(last_hidden_state=rows)
        with replaced_forward(self.trunk, lambda *_, **__: trunk):
            states = before_vocabulary(self.model, lambda: self._call(self.model, rows.shape[0]))
        return states.view(*x.shape[:-1], -1)

    def _run(self, segment: Segment, ids: Tensor) -> SegmentRun:
        """One forward pass of the trunk that notes what every block is handed."""
        inputs: list[Tensor] = []
        arguments: list[Arguments] = []
        outputs: list[Tensor] = []
        chained = True

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal chained
            states, rest = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
            arguments.append((rest, {name: value for name, value in kwargs.items() if name != "hidden_states"}))
            chained = chained and (not inputs or (bool(outputs) and torch.equal(states, outputs.pop())))
            inputs[:] = inputs or [states]

        def note_output(_: nn.Module, __: tuple[Any, ...], result: Any) -> None:
            outputs[:] = [first_tensor(result)]

        with ExitStack() as stack:
            if any(weight.device != self.device for weight in self.blocks.parameters()):
                # What blocks are handed does not depend on what they compute, so none need be fetched for it.
                stack.enter_context(standing_in(self.blocks, lambda states: self._as_block_output(-states)))
            for block in self.blocks:
                stack.callback(block.register_forward_pre_hook(note, with_kwargs=True, prepend=True).remove)
                stack.callback(block.register_forward_hook(note_output).remove)
            self._call(self.trunk, ids[segment.start : segment.stop].view(segment.count, segment.length))
        if len(arguments) != self.num_layers or not chained:
            raise UserError(
                f"{self.description.architecture} does not pass its states from block to block alone ({len(arguments)} "
                f"calls of {self.num_layers} blocks were seen), so a shift at a layer would not mean what it says. Use "
                "a model whose layers form a plain chain, such as BERT, XLM-R, BLOOM, GPT-2, XGLM or Llama."
            )
        return SegmentRun(segment, inputs[0], tuple(arguments))

    def _probe(self) -> tuple[nn.Module, bool]:
        """Runs one token to find the trunk, and whether blocks return tuples.

        The trunk is the part between token ids and head: the outermost module around the blocks that the model calls.
        """
        around = [part for part in self.model.modules() if any(inner is self.blocks for inner in part.modules())]
        called: set[int] = set()
        with ExitStack() as stack, torch.no_grad():
            for part in around:
                stack.callback(part.register_forward_hook(lambda part, _, __: called.add(id(part))).remove)
            returned = stack.enter_context(first_blocks(self.blocks, 1))
            before_vocabulary(self.model, lambda: self._call(self.model, 1))
        trunk = next(part for part in around if part is not self.model and id(part) in called)
        return trunk, not isinstance(returned[0], Tensor)

    def _as_block_output(self, states: Tensor) -> Tensor | tuple[Tensor, None]:
        return (states, None) if self.blocks_return_tuples else states

    def _call(self, module: nn.Module, ids: Tensor | int) -> Any:
        """Calls the model or its trunk without a cache; an int stands for that many one-token sequences."""
        if isinstance(ids, int):
            ids = torch.zeros(ids, 1, dtype=torch.long, device=self.device)
        extra = {"use_cache": False} if self.kind == "causal" else {}
        return module(input_ids=ids, attention_mask=torch.ones_like(ids), **extra)


class _ReachedVocabulary(Exception):
    """Raised to leave a forward pass where the vocabulary matrix would be applied."""


def before_vocabulary(model: Any, run: Callable[[], Any]) -> Tensor:
    """What a run of the model would apply the vocabulary matrix to; the run ends there."""
    caught: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
        caught.append(args[0])
        raise _ReachedVocabulary

    hook = model.get_output_embeddings().register_forward_pre_hook(stop)
    try:
        run()
    except _ReachedVocabulary:
        pass
    finally:
        hook.remove()
    return caught[0]


@contextmanager
def first_blocks(blocks: Sequence[nn.Module], count: int) -> Iterator[list[Any]]:
    """Runs of the model compute only its first blocks; the others hand on the states that they are given.

    Gives the list of what block 1 has returned, run after run.
    """
    returned: list[Any] = []
    note = blocks[0].register_forward_hook(lambda _, __, result: returned.append(result))
    try:
        with standing_in(blocks[count:], lambda x: x if isinstance(returned[0], Tensor) else (x, None)):
            yield returned
    finally:
        note.remove()


@contextmanager
def standing_in(blocks: Iterable[nn.Module], result: Callable[[Tensor], Any]) -> Iterator[None]:
    """Blocks return `result` of the states that they are given, without computing anything."""

    def stand_in(*arguments: Any, **named: Any) -> Any:
        return result(arguments[0] if arguments else named["hidden_states"])

    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(replaced_forward(block, stand_in))
        yield


def first_tensor(result: Any) -> Tensor:
    """The states in what a block or a trunk returns: a tensor, or the first entry of a tuple or model output."""
    states: Tensor = result if isinstance(result, Tensor) else result[0]
    return states


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Gives one module another forward, and its own one back at the end."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _replaced(values: Any, by: Mapping[int, Tensor]) -> Any:
    """The same nested values with other tensors in them."""
    if isinstance(values, Tensor):
        return by[id(values)]
    if isinstance(values, dict):
        return {name: _replaced(value, by) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_replaced(value, by) for value in values)
    return values

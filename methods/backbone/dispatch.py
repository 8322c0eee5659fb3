"""Dispatch: a model over several devices, its blocks shared out among them by Accelerate's device map.

Blocks that follow each other share a device, and what is not in a block (embedding, final norm, head) lies with the
last of them. The layer search carries all its states through the blocks together, so they go to another device once for
each boundary in the map, not once for each layer pair. No hooks are left on the model: a block moves what it is called
with, which only the model's own forward pass needs.

Shape legend: L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import infer_auto_device_map
from accelerate.utils import send_to_device
from torch import Tensor, nn

from methods.backbone.base import Backbone, Plan, WrappedBackbone
from methods.backbone.packing import Pack
from methods.backbone.structure import find_blocks
from methods.backbone.unread import UnreadModel, Weight
from orchestrator.errors import UserError


@dataclass(frozen=True)
class DispatchedPlan(Plan):
    """A plan on every device."""

    on: Mapping[torch.device, Plan] = field(default_factory=dict)

    def tensors(self) -> Sequence[Tensor]:
        return [tensor for plan in self.on.values() for tensor in plan.tensors()]


class DispatchedBackbone(WrappedBackbone):
    """A backbone whose blocks lie on several devices.

    Args:
        inner: the packed or generic path over the dispatched model.
        places: for each block the device it lies on.
        weight_bytes: of weights on the fullest device.

    Attributes:
        crossings: how often the states have gone to another device.
    """

    def __init__(self, inner: Backbone, places: Sequence[Place], weight_bytes: int) -> None:
        super().__init__(inner)
        self.places = tuple(places)
        self.crossings = 0
        self._weight_bytes = weight_bytes
        self._at = self.places[-1]

    @property
    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        return self.inner.unembedding

    @property
    def mapped_bytes(self) -> int:
        return self._weight_bytes

    @contextmanager
    def block(self, k: int) -> Iterator[torch.device]:
        place = self.places[k - 1]
        self.crossings += place != self._at
        self._at = place
        yield place.device

    def plan(self, pack: Pack, device: torch.device | None = None) -> Plan:
        devices = {self.device, *(place.device for place in self.places)}
        plans = {place: self.inner.plan(pack, place) for place in devices}
        return DispatchedPlan(plans[self.device].pack, plans)

    def embed(self, plan: DispatchedPlan) -> Tensor:
        self._at = self.places[-1]
        return self.inner.embed(plan.on[self.device])

    def layer(self, k: int, x: Tensor, plan: DispatchedPlan, need: bool = False) -> Tensor:
        device = self.places[k - 1].device
        return self.inner.layer(k, x.to(device), plan.on[device], need)

    def final(self, x: Tensor) -> Tensor:
        return self.inner.final(x.to(self.device))


@dataclass(frozen=True)
class Place:
    """One of the devices that a model is shared out over: its number among them, and what torch calls it."""

    number: int
    device: torch.device


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as torch calls them."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def dispatch(unread: UnreadModel, devices: Sequence[str]) -> tuple[list[Place], int]:
    """Reads a model's weights, each onto its device.

    Args:
        unread: the model; it is whole afterwards.
        devices: as torch calls them, in the order of the layers; one may be named more than once.

    Returns:
        For each block its place, and the bytes of weights on the fullest place.

    Raises:
        UserError: there are fewer than two devices, or the layers cannot be shared out.
    """
    if len(devices) < 2:
        raise UserError(
            f"--placement dispatch shares a model out over several GPUs, and PyTorch can use {len(devices)} here. Give "
            "the trial more with --gpus-per-trial, or use --placement single or stream."
        )
    places = [Place(number, torch.device(name)) for number, name in enumerate(devices)]
    numbers, room = _share_out(unread, len(places))
    outside = places[numbers[-1]].device
    unread.place_rest(outside)
    read: dict[str, nn.Parameter] = {}
    for weight in (unread.embedding, unread.vocabulary):
        if weight.stored not in read:
            read[weight.stored] = nn.Parameter(unread.tensor(weight).to(outside), requires_grad=False)
        weight.module._parameters[weight.attribute] = read[weight.stored]
    for number, block, weights in zip(numbers, find_blocks(unread.model), unread.blocks, strict=True):
        _place(block, weights, unread, places[number].device)
    return [places[number] for number in numbers], room


def _share_out(unread: UnreadModel, count: int) -> tuple[list[int], int]:
    """The number of each block's device, and the bytes that the fullest one takes.

    What is outside the blocks lies on the last device, which therefore gets fewer of them; the rest is even.
    """
    shape = find_blocks(unread.model)
    sizes = [
        sum(map(_bytes, weights)) + sum(buffer.nbytes for buffer in block.buffers())
        for block, weights in zip(shape, unread.blocks, strict=True)
    ]
    tied = unread.embedding.stored == unread.vocabulary.stored
    beside = (unread.embedding, *(() if tied else (unread.vocabulary,)), *unread.rest)
    outside, largest, blocks = sum(map(_bytes, beside)), max(sizes), len(sizes)

    def fullest(own: int) -> int:
        return max(outside + own * largest, -(-(blocks - own) // (count - 1)) * largest)

    own = min(range(1, blocks + 1), key=fullest)
    # Accelerate fills one device after the other, so the rooms are exact: none is left for what belongs further on.
    rooms = {number: (blocks - own + number) // (count - 1) * largest for number in range(count - 1)}
    rooms[count - 1] = own * largest
    rooms[0] += largest  # Accelerate keeps room for one block on the first device, to offload into
    chosen = infer_auto_device_map(shape, max_memory=dict(rooms), no_split_module_classes=[type(shape[0]).__name__])
    numbers = [chosen.get(str(k), chosen.get("")) for k in range(blocks)]
    if not all(isinstance(number, int) for number in numbers):
        raise UserError(
            f"The {blocks} blocks of {type(unread.model).__name__} cannot be shared out over {count} devices. Use "
            "fewer devices, or --placement stream."
        )
    return [int(number) for number in numbers], fullest(own)


def _place(block: nn.Module, weights: Sequence[Weight], unread: UnreadModel, device: torch.device) -> None:
    """Reads a block's weights onto its device, and lets it move what it is called with."""
    for weight in weights:
        tensor = unread.tensor(weight).to(device)
        weight.module._parameters[weight.attribute] = nn.Parameter(tensor, requires_grad=False)
    for module in block.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    block.forward = _moving(block.forward, device)


def _moving(forward: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    def move(*arguments: Any, **named: Any) -> Any:
        return forward(*send_to_device(arguments, device), **send_to_device(named, device))

    return move


def _bytes(weight: Weight) -> int:
    return torch.Size(weight.shape).numel() * weight.dtype.itemsize

"""Layer streaming: a model larger than memory, its blocks read from its files one at a time.

Two blocks are in memory: the one that computes and the next one, which a thread reads meanwhile. The embedding is read
row by row as tokens ask for it, the vocabulary matrix in tiles, the small rest stays. So memory does not grow with the
model's depth or vocabulary, and a walk through the layers reads each block once, whatever number of states it carries.

Shape legend: V vocabulary, D hidden size, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from methods.backbone.base import Backbone, WrappedBackbone
from methods.backbone.structure import find_blocks
from methods.backbone.unread import UnreadModel, Weight, at_hand
from methods.backbone.weight_files import WeightFiles

# Bytes of the vocabulary matrix in memory at a time, twice: one tile computes, the next one is read.
VOCABULARY_TILE_BYTES = 16 * 2**20
_ALIGNMENT = 64


class StreamedBackbone(WrappedBackbone):
    """A backbone over weights that come and go.

    Args:
        inner: the packed or generic path over the model of `stream`.
        stream: where its weights come from.
    """

    streamed = True

    def __init__(self, inner: Backbone, stream: WeightStream) -> None:
        super().__init__(inner)
        self.stream = stream

    @property
    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        raise TypeError("the vocabulary matrix of a streamed model is never in memory: use stream.vocabulary")

    @property
    def mapped_bytes(self) -> int:
        # On a CPU the process's own memory has them.
        return 0 if self.device.type == "cpu" else self.stream.bytes_at_hand

    @property
    def bytes_read(self) -> int:
        return self.stream.bytes_read

    @contextmanager
    def block(self, k: int) -> Iterator[torch.device]:
        with self.stream.block(k):
            yield self.device


class WeightStream:
    """The weights of an unread model, brought to it when they are used.

    Blocks of the model bring their own weights when they are called, and its embedding reads the rows it is asked for,
    so the model's own code runs on it up to the vocabulary matrix.

    Attributes:
        device: where weights are brought.
        vocabulary: the vocabulary matrix.
        last_ahead: the last block that is read ahead; all of them but in a check of the first few.
    """

    def __init__(self, unread: UnreadModel, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.files = unread.files
        self.blocks = unread.blocks
        self.last_ahead = len(unread.blocks)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights")
        pinned = self.device.type == "cuda"
        room = max(_room(weights) for weights in unread.blocks)
        self._slots = [_Slot(room, pinned), _Slot(room, pinned)]
        self._current = self._slots[0]
        self._reading: Future[None] | None = None
        self._inside: int | None = None
        unread.place_rest(self.device)
        output = unread.model.get_output_embeddings()
        self.vocabulary = StreamedVocabulary(unread.vocabulary, output.bias, self.files, self.device, self._thread)
        embedding = StreamedVocabulary(unread.embedding, None, self.files, self.device, self._thread)
        _gather_rows(unread.embedding, embedding)
        for k, block in enumerate(find_blocks(unread.model), start=1):
            block.forward = self._bringing(k, block.forward)

    @property
    def bytes_read(self) -> int:
        """Bytes of weights read so far."""
        return self.files.bytes_read

    @property
    def bytes_at_hand(self) -> int:
        """Bytes of two blocks, which is what is in memory at a time."""
        return sum(len(slot.memory) for slot in self._slots)

    @contextmanager
    def block(self, k: int) -> Iterator[None]:
        """Block k in 1..L has its weights; the next one is being read."""
        if self._inside == k:
            yield
            return
        if self._inside is not None:
            raise RuntimeError(f"block {k} inside block {self._inside}: two blocks would want the same memory")
        weights = self.blocks[k - 1]
        tensors = self._take(k).tensors(weights)
        if k < self.last_ahead:
            self._read_ahead(k + 1)
        if self.device.type != "cpu":
            tensors = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        self._inside = k
        try:
            with at_hand(weights, tensors):
                yield
        finally:
            self._inside = None
            if self.device.type == "cuda":
                torch.cuda.current_stream(self.device).synchronize()  # before its memory on the CPU is filled anew

    def _take(self, k: int) -> _Slot:
        """The slot that holds block k, read now unless it has been read ahead."""
        if self._reading is not None:
            self._reading.result()
            self._reading = None
        slot = next((slot for slot in self._slots if slot.block == k), None)
        if slot is None:
            slot = self._other()
            slot.fill(k, self.blocks[k - 1], self.files)
        self._current = slot
        return slot

    def _read_ahead(self, k: int) -> None:
        slot = self._other()
        if slot.block != k:
            self._reading = self._thread.submit(slot.fill, k, self.blocks[k - 1], self.files)

    def _other(self) -> _Slot:
        return self._slots[1] if self._current is self._slots[0] else self._slots[0]

    def _bringing(self, k: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def bring(*arguments: Any, **named: Any) -> Any:
            with self.block(k):
                return forward(*arguments, **named)

        return bring


class _Slot:
    """Memory for one block's weights."""

    def __init__(self, room: int, pinned: bool) -> None:
        self.memory = torch.empty(room, dtype=torch.uint8, pin_memory=pinned)
        self.block: int | None = None

    def tensors(self, weights: Sequence[Weight]) -> list[Tensor]:
        """The weights of a block as views of this memory."""
        views, at = [], 0
        for weight in weights:
            size = _bytes(weight)
            views.append(self.memory[at : at + size].view(weight.dtype).view(weight.shape))
            at += _aligned(size)
        return views

    def fill(self, k: int, weights: Sequence[Weight], files: WeightFiles) -> None:
        """Reads block k."""
        self.block = None
        for weight, tensor in zip(weights, self.tensors(weights), strict=True):
            files.read(weight.stored, tensor)
        self.block = k


class StreamedVocabulary:
    """A matrix over the vocabulary [V, D] that stays in its file.

    Attributes:
        weight: the matrix's shape and dtype, on the meta device.
        bias: [V], or None.
        device: where what is read of it is brought.
    """

    def __init__(
        self, weight: Weight, bias: Tensor | None, files: WeightFiles, device: torch.device, thread: ThreadPoolExecutor
    ) -> None:
        self.weight = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        self.bias = bias
        self.device = device
        self._stored, self._files, self._thread = weight.stored, files, thread

    def rows(self, tokens: Tensor) -> Tensor:
        """The rows of some tokens, [..., D]; each distinct one is read once."""
        wanted, places = tokens.unique(return_inverse=True)
        table = torch.empty(len(wanted), self.weight.shape[1], dtype=self.weight.dtype)
        numbers = wanted.tolist()
        starts = [n for n, row in enumerate(numbers) if n == 0 or row != numbers[n - 1] + 1]
        for a, b in pairwise([*starts, len(numbers)]):  # rows next to each other are one reading
            self._files.read_rows(self._stored, numbers[a], table[a:b])
        return table.to(self.device)[places]

    def tiles(self) -> Iterator[tuple[int, Tensor]]:
        """The whole matrix once: of each tile its first row's number and its rows [v, D], gone when the next comes."""
        vocabulary, width = self.weight.shape
        height = max(1, VOCABULARY_TILE_BYTES // (width * self.weight.dtype.itemsize))
        pinned = self.device.type == "cuda"
        buffers = [torch.empty(height, width, dtype=self.weight.dtype, pin_memory=pinned) for _ in range(2)]

        def read(first: int) -> Tensor:
            rows = buffers[(first // height) % 2][: vocabulary - first]
            self._files.read_rows(self._stored, first, rows)
            return rows

        following = self._thread.submit(read, 0)
        for first in range(0, vocabulary, height):
            tile = following.result()
            if first + height < vocabulary:
                following = self._thread.submit(read, first + height)
            yield first, tile.to(self.device)


def _gather_rows(weight: Weight, table: StreamedVocabulary) -> None:
    """Makes an embedding read the rows it is asked for, and otherwise do what it does."""
    module: Any = weight.module
    forward = module.forward

    def gather(ids: Tensor, *rest: Any, **named: Any) -> Any:
        wanted, places = ids.unique(return_inverse=True)
        padding, module.padding_idx = module.padding_idx, None  # it only matters for gradients
        try:
            with at_hand((weight,), (table.rows(wanted),)):
                return forward(places, *rest, **named)
        finally:
            module.padding_idx = padding

    module.forward = gather


def _room(weights: Sequence[Weight]) -> int:
    return sum(_aligned(_bytes(weight)) for weight in weights)


def _bytes(weight: Weight) -> int:
    return int(torch.Size(weight.shape).numel()) * weight.dtype.itemsize


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT

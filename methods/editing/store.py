"""A bounded memory for what the unmodified model computes, one entry for each distinct text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import ItemsView, Sequence

import torch
from torch import Tensor


class FrozenStates:
    """Tensors by text, as many as fit into a number of bytes; the least recently used text leaves first.

    Nothing below the first edited block ever changes, and nothing of the unmodified model does, so an entry never goes
    stale.

    Args:
        limit: bytes of all tensors together; 0 keeps nothing.
        device: where tensors are kept.
    """

    def __init__(self, limit: int, device: torch.device | str = "cpu") -> None:
        self.limit = limit
        self.device = torch.device(device)
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[bytes, tuple[Tensor, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> tuple[Tensor, ...] | None:
        """The tensors of a text, which becomes the most recently used; None where it is not kept."""
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return entry

    def items(self) -> ItemsView[bytes, tuple[Tensor, ...]]:
        """All texts that are kept, with their tensors."""
        return self._entries.items()

    def put(self, key: bytes, tensors: Sequence[Tensor]) -> None:
        """Keeps copies of a text's tensors, unless they alone are larger than the limit."""
        size = sum(tensor.nbytes for tensor in tensors)
        if size > self.limit or key in self._entries:
            return
        while self.bytes + size > self.limit:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= sum(tensor.nbytes for tensor in oldest)
        self._entries[key] = tuple(tensor.detach().to(self.device, copy=True) for tensor in tensors)
        self.bytes += size

    def clear(self) -> None:
        """Forgets all texts."""
        self._entries.clear()
        self.bytes = 0


Stores = tuple[FrozenStates, FrozenStates]
"""What a model remembers: states below the edited blocks, and the unmodified model's side of comparisons."""

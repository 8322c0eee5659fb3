"""What a study's trials ask of a machine: the sizes by which the planner decides where a model can lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ModelNeeds:
    """What a study's trials ask of a machine, known before any weight is read. Sizes in bytes.

    A study that knows only what a trial needs at least gives that as `weights`.

    Attributes:
        weights: of the whole model.
        outside: of that, what lies outside the blocks (embeddings, head).
        block: the largest block.
        blocks: how many there are; 0 where the model is not known part by part.
        process: a worker with its libraries, on the host.
        check: a block of a second, streamed copy in another dtype, with which results are checked; 0 without one.
        working: on a ``"cpu"`` and on a ``"cuda"`` device, what computing needs beside weights and states.
        row: states of one packed row, all branches.
        fewest_rows: a tile has at least so many rows.
        tile_share: how much of the memory that is left a tile may fill.
        most_rows: on a ``"cpu"`` and on a ``"cuda"`` device, rows beyond which a tile is no faster with weights in
            memory; for a ``"stream"`` the rows that a study hands over at a time.
        busy_rows: a tile of so many keeps a GPU busy.
        rows: packed rows of the whole grid.
        flops: floating-point operations of the whole grid; 0 where they are not known.
        training: gradients and moments of what is trained.
        whole: what every process of a sharded trial keeps whole beside its share.
        dealt: the processes of a sharded trial must divide this number; 0 where any number of them will do.
        repeated: share of the operations that every process of a sharded trial computes anew.
        passes: passes through a sharded model, over the whole grid; each of them gathers the weights.
        gpu_rate: operations per second to expect of one GPU, where nobody says better.
        model: what it is, for sentences.
    """

    weights: int
    outside: int = 0
    block: int = 0
    blocks: int = 0
    process: int = 0
    check: int = 0
    working: Mapping[str, int] = field(default_factory=dict)
    row: int = 0
    fewest_rows: int = 0
    tile_share: float = 1.0
    most_rows: Mapping[str, int] = field(default_factory=dict)
    busy_rows: int = 0
    rows: float = 0.0
    flops: float = 0.0
    training: int = 0
    whole: int = 0
    dealt: int = 0
    repeated: float = 0.0
    passes: float = 0.0
    gpu_rate: float = 1e13
    model: str = "the model"

    def fixed(self, way: str, device: str, devices: int = 1) -> int:
        """Bytes that each device holds whatever the tile: weights, working space, on a CPU the process.

        Args:
            way: how the model lies.
            device: ``"cpu"`` or ``"cuda"``.
            devices: over how many devices it is shared out.
        """
        host = self.process if device == "cpu" else 0
        return self._resident(way, device, devices) + self.working.get(device, 0) + host

    def least(self, way: str, device: str, devices: int = 1) -> int:
        """Bytes below which a device cannot take part: `fixed` and the smallest tile."""
        return self.fixed(way, device, devices) + self.fewest_rows * self.row

    def tile_rows(self, way: str, device: str, devices: int, memory: int) -> int:
        """Packed rows of a tile on devices of `memory` bytes; a stream's is as large as can be, to read seldom."""
        if not self.row:
            return 0
        free = self.tile_share * (memory - self.fixed(way, device, devices))
        fit = max(self.fewest_rows, free // self.row)
        most = self.most_rows.get("stream" if way == "stream" else device)
        return int(fit if most is None else min(fit, max(self.fewest_rows, most)))

    def _resident(self, way: str, device: str, devices: int) -> int:
        """Weights, gradients and moments on the fullest device."""
        if way == "stream" and device == "cuda":
            return max(self.block, self.check)  # the one that computes; the next one waits on the host
        check = self.check if device == "cuda" else 2 * self.check
        if way == "stream":
            return 2 * self.block + check  # the one that computes and the next
        if way == "zero3":
            return -(-(self.weights + self.training) // devices) + 2 * self.block + self.whole
        if way == "dispatch" and devices > 1:
            # One device has what lies outside the blocks and `own` blocks, the others share the rest evenly.
            return check + min(
                max(self.outside + own * self.block, -(-(self.blocks - own) // (devices - 1)) * self.block)
                for own in range(self.blocks + 1)
            )
        return self.weights + self.training + check

"""The lattice: the states of all layer pairs in one walk through the layers, each shared state computed once.

Branches of one input, and what they share:

- the *base*, unshifted; the trajectory of i is a copy of it that LIRP shifts after block i;
- the *trajectory* of i, shared by all pairs (i, j) until their j;
- the *pair* (i, j), a copy of the trajectory of i that LSRP shifts back after block j.

At every layer all live branches are one batch. Instead of L blocks for each of the L(L-1)/2 pairs this evaluates
``L + L(L-1)/2 + C(L, 3)`` blocks: 298 for 792 with 12 layers, 2,324 for 6,624 with 24.

Shape legend: B live branches, N packed rows, M needed rows, D hidden, L layers, P layer pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.backbone import Backbone, Plan
from methods.lrp2.projection import LastLayer, Pair


@dataclass(frozen=True)
class Step:
    """What happens to the live branches after one block: copies, then shifts, then compaction.

    Attributes:
        live: branches that the block is computed for.
        grow: ``(source, sign)`` for each new branch, in the order in which they are appended: a copy of slot
            `source` plus sign * shift.
        become: slots that are shifted back in place: a trajectory whose last pair this is.
    """

    live: int
    grow: tuple[tuple[int, int], ...]
    become: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """The walk for a set of layer pairs.

    Attributes:
        pairs: the pairs, in the order of the result.
        steps: for blocks 1..L-1.
        last: branches that enter block L.
        outcome: for the base and each pair the slot it comes from after block L, and whether LSRP at L is due.
    """

    pairs: tuple[Pair, ...]
    steps: tuple[Step, ...]
    last: int
    outcome: tuple[tuple[int, bool], ...]

    @property
    def block_evaluations(self) -> int:
        """Blocks computed per input."""
        return sum(step.live for step in self.steps) + self.last

    @property
    def most_branches(self) -> int:
        """The largest number of states held at once."""
        return self.last


def schedule(pairs: Sequence[Pair], num_layers: int) -> Schedule:
    """Plans the walk; branches that no pair needs are never grown, and a trajectory ends with its last pair."""
    ends = {i: sorted(j for first, j in pairs if first == i) for i in {i for i, _ in pairs}}
    slot: dict[object, int] = {"base": 0}
    count = 1
    steps = []
    for k in range(1, num_layers):
        live, grow, become = count, [], []
        for i in sorted(ends):
            if k not in ends[i]:
                continue
            if ends[i][-1] == k:
                slot[i, k] = slot.pop(i)
                become.append(slot[i, k])
            else:
                slot[i, k] = count
                grow.append((slot[i], -1))
                count += 1
        if k in ends:
            slot[k] = count
            grow.append((0, 1))
            count += 1
        steps.append(Step(live, tuple(grow), tuple(become)))
    outcome = [(0, False)]
    outcome += [(slot[i], True) if j == num_layers else (slot[i, j], False) for i, j in pairs]
    return Schedule(tuple(pairs), tuple(steps), count, tuple(outcome))


def last_states(
    backbone: Backbone,
    plan: Plan,
    shift: Tensor,
    walk: Schedule,
    *,
    last_layer: LastLayer = "normed",
    rows_at_once: int = 1024,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Tensor:
    """What the head sees at the needed rows: for the base and for every pair.

    Args:
        backbone: the model.
        plan: of the packed queries.
        shift: ``v_en - v_l``, [L + 1, D].
        walk: from `schedule`.
        last_layer: on which side of a final norm layer L lies.
        rows_at_once: packed rows that go through a block together; more than the caches hold is slower.
        progress: told the fraction of the block evaluations that are done.

    Returns:
        [1 + P, M, D]: the base first, then the pairs in the order of ``walk.pairs``; after the final norm.
    """
    n, m, d = plan.pack.rows, len(plan.pack.need), backbone.hidden_size
    layers = backbone.num_layers
    states = torch.empty(walk.most_branches, n, d, dtype=backbone.dtype, device=backbone.device)
    states[0] = backbone.embed(plan)
    at_once = max(1, rows_at_once // n)
    done = 0
    for k, step in enumerate(walk.steps, start=1):
        for a in range(0, step.live, at_once):
            b = min(step.live, a + at_once)
            states[a:b] = backbone.layer(k, states[a:b], plan)
            done += b - a
            progress(done / walk.block_evaluations)
        count = step.live
        for source, sign in step.grow:
            torch.add(states[source], shift[k], alpha=sign, out=states[count])
            count += 1
        for slot in step.become:
            states[slot] -= shift[k]
    ends: dict[int, list[tuple[int, bool]]] = {}
    for place, (slot, due) in enumerate(walk.outcome):
        ends.setdefault(slot, []).append((place, due))
    out = torch.empty(len(walk.outcome), m, d, dtype=backbone.dtype, device=backbone.device)
    for a in range(0, walk.last, at_once):
        b = min(walk.last, a + at_once)
        raw = backbone.layer(layers, states[a:b], plan, need=True)
        normed = backbone.final(raw)
        for slot in range(a, b):
            for place, due in ends.get(slot, ()):
                if not due:
                    out[place] = normed[slot - a]
                elif last_layer == "normed":
                    torch.sub(normed[slot - a], shift[layers], out=out[place])
                else:
                    out[place] = backbone.final(raw[slot - a] - shift[layers])
        done += b - a
        progress(done / walk.block_evaluations)
    return out

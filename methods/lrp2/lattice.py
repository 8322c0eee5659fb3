"""The lattice: the states of all layer pairs in one walk through the layers, each shared state computed once.

Branches of one input, and what they share:

- the *base*, unshifted; the trajectory of i is a copy of it that LIRP shifts after block i;
- the *trajectory* of i, shared by all pairs (i, j) until their j;
- the *pair* (i, j), a copy of the trajectory of i that LSRP shifts back after block j.

Where a model's weights are fetched layer by layer, or lie on several devices, the walk is what makes that cheap: each
block is fetched once, and the states go to another device once, for all pairs together.

At every layer all live branches are one batch. Instead of L blocks for each of the L(L-1)/2 pairs this evaluates
``L + L(L-1)/2 + C(L, 3)`` blocks: 298 for 792 with 12 layers, 2,324 for 6,624 with 24.

Shape legend: B live branches, N packed rows, M needed rows, D hidden, L layers, P layer pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from methods.backbone import Backbone, Plan
from methods.backbone.cores import at_a_time, side_by_side
from methods.backbone.projection import LastLayer, Pair


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
    """Plans the walk; branches that no pair needs are never grown, and a trajectory ends with its last pair.

    Raises:
        ValueError: a pair is there twice.
    """
    if len(set(pairs)) < len(pairs):
        raise ValueError("every layer pair is searched once")
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
        rows_at_once: packed rows that go through a block at a time, side by side on several cores; more than the
            caches hold is slower.
        progress: told the fraction of the block evaluations that are done.

    Returns:
        [1 + P, M, D]: the base first, then the pairs in the order of ``walk.pairs``; after the final norm. They lie in
        the memory that held the states, so a walk never holds more than ``walk.most_branches`` times [N, D].
    """
    n, m, d = plan.pack.rows, len(plan.pack.need), backbone.hidden_size
    layers = backbone.num_layers
    states = backbone.embed(plan)[None]
    at_once = max(1, rows_at_once // n)
    number = at_a_time(backbone.device, at_once) if backbone.fast else 1
    done = 0

    def count_blocks(more: int) -> None:
        nonlocal done
        done += more
        progress(done / walk.block_evaluations)

    for k, step in enumerate(walk.steps, start=1):
        with backbone.block(k) as device:
            states = _with_room(states, 1 if k == 1 else step.live, walk.most_branches, device)
            chunks = states[: step.live].split(_chunk(step.live, at_once, number))
            advance = partial(_advance, backbone, k, plan)
            side_by_side(chunks, advance, lambda chunk, _: count_blocks(len(chunk)), number)
        vector = shift[k].to(states.device)
        count = step.live
        for source, sign in step.grow:
            torch.add(states[source], vector, alpha=sign, out=states[count])
            count += 1
        for slot in step.become:
            states[slot] -= vector
    due = {slot for slot, shifted in walk.outcome if shifted}
    with backbone.block(layers) as device:
        states = _with_room(states, walk.last, walk.most_branches, device)
        vector = shift[layers].to(device)
        # M rows of each branch are left of N: what comes out, in order, never reaches the states still to go in.
        out = states.view(-1)[: walk.last * m * d].view(walk.last, m, d)

        def finish(slots: range, raw: Tensor) -> None:
            a, b = slots.start, slots.stop
            normed = backbone.final(raw)
            for slot in sorted(due.intersection(slots)):
                if last_layer == "normed":
                    normed[slot - a] -= vector
                else:
                    normed[slot - a] = backbone.final(raw[slot - a] - vector)
            out[a:b] = normed
            count_blocks(b - a)

        size = _chunk(walk.last, at_once, number)
        side_by_side(
            [range(a, min(a + size, walk.last)) for a in range(0, walk.last, size)],
            lambda slots: backbone.layer(layers, states[slots.start : slots.stop], plan, need=True),
            finish,
            number,
        )
    _reorder(out, [slot for slot, _ in walk.outcome])
    return out.to(backbone.device)


def _advance(backbone: Backbone, k: int, plan: Plan, states: Tensor) -> None:
    """Block k over some branches, in place."""
    states.copy_(backbone.layer(k, states, plan))


def _chunk(branches: int, at_once: int, number: int) -> int:
    """Branches of one piece of work, when `number` pieces of no more than `at_once` together run side by side."""
    rounds = -(-branches // (at_once // number * number))
    return -(-branches // (rounds * number))


def _with_room(states: Tensor, live: int, most: int, device: torch.device) -> Tensor:
    """States [most, N, D] on a device, of which the first `live` are filled: the same ones if they are that already."""
    if len(states) == most and states.device == device:
        return states
    placed = torch.empty(most, *states.shape[1:], dtype=states.dtype, device=device)
    placed[:live] = states[:live]
    return placed


def _reorder(rows: Tensor, source: Sequence[int]) -> None:
    """Puts row ``source[p]`` at place p, in place: along each cycle one row is kept aside."""
    done = [False] * len(source)
    for start in range(len(source)):
        if done[start] or source[start] == start:
            continue
        kept, place = rows[start].clone(), start
        while source[place] != start:
            rows[place] = rows[source[place]]
            done[place] = True
            place = source[place]
        rows[place] = kept
        done[place] = True

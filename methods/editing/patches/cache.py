"""What never changes below the patches, computed once: for each label position the query and the sum behind the FFN.

All patches, fine-tuning of the last FFN included, act on these two vectors alone. Training a patch, its memory and
every evaluation therefore run without the encoder.

Shape legend: B texts, M label positions, D hidden size, V outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.editing.batches import length_groups, lengths_of
from methods.editing.examples import Example
from methods.editing.losses import acc
from methods.editing.patches.site import Correction, PatchSite
from methods.editing.store import FrozenStates
from orchestrator.data.content import digest_of

CACHE_BYTES = 2 * 2**30
_TEXTS_AT_ONCE = 2048
_LOGITS_AT_ONCE = 2**24
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class States:
    """The label positions of B texts, text by text.

    Attributes:
        queries: what enters the FFN, [M, D].
        sums: residual plus the unmodified FFN's output, [M, D].
        rows: the text of each position, [M].
        targets: the wanted answers, [M]; -1 where there is none.
        texts: B.
    """

    queries: Tensor
    sums: Tensor
    rows: Tensor
    targets: Tensor
    texts: int

    def select(self, texts: Sequence[int]) -> States:
        """The texts with these numbers, in that order."""
        chosen = torch.as_tensor(texts, dtype=torch.long, device=self.rows.device)
        counts = torch.bincount(self.rows, minlength=self.texts)
        starts = (counts.cumsum(0) - counts)[chosen]
        counts = counts[chosen]
        rows = torch.arange(len(chosen), device=self.rows.device).repeat_interleave(counts)
        # Each position's place within its text, counted on from where the text begins.
        within = torch.arange(len(rows), device=self.rows.device) - (counts.cumsum(0) - counts)[rows]
        places = starts[rows] + within
        return States(self.queries[places], self.sums[places], rows, self.targets[places], len(chosen))

    def split(self, sizes: Sequence[int]) -> list[States]:
        """Consecutive groups of texts."""
        ends = torch.as_tensor(sizes, dtype=torch.long).cumsum(0)
        edges = [0, *torch.searchsorted(self.rows.cpu(), ends).tolist()]
        parts, first = [], 0
        for size, start, stop in zip(sizes, edges[:-1], edges[1:], strict=True):
            piece = slice(start, stop)
            rows = self.rows[piece] - first
            parts.append(States(self.queries[piece], self.sums[piece], rows, self.targets[piece], size))
            first += size
        return parts


class AnswerCache:
    """States of lists of texts, computed once for each list, and what a corrected model answers from them.

    A list is kept as a whole or not at all: which texts share a forward pass decides about the last bits, and so a
    stream that goes on elsewhere sees the same numbers.

    Attributes:
        site: where patches sit.
        store: the states that are kept; the least recently used list leaves first.
    """

    def __init__(self, site: PatchSite, limit: int = CACHE_BYTES) -> None:
        """
        Args:
            site: where patches sit.
            limit: bytes for lists that are kept; a longer one is computed each time it is asked for.
        """
        self.site = site
        self.store = FrozenStates(limit, site.model.device)

    def states(self, examples: Sequence[Example]) -> States:
        """The states of some texts.

        Raises:
            UserError: a text is too long, or its masks are not as many as its answer's tokens.
        """
        described = [[each.text, each.language, each.pair, each.answer] for each in examples]
        key = digest_of(described).encode()
        kept = self.store.get(key)
        if kept is None:
            states = self._compute(examples)
            kept = (states.queries, states.sums, states.rows, states.targets)
            self.store.put(key, kept)
        queries, sums, rows, targets = kept
        return States(queries, sums, rows, targets, len(examples))

    @torch.no_grad()
    def _compute(self, examples: Sequence[Example]) -> States:
        """Runs the model up to the tail, texts of similar length together."""
        model, device = self.site.model, self.site.model.device
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].text) + len(examples[i].pair or ""))
        # A list that is computed once must not push anything out of the model's own store.
        kept, model.frozen_store = model.frozen_store, FrozenStates(0)
        found: list[tuple[Tensor, ...]] = []
        try:
            for start in range(0, len(order), _TEXTS_AT_ONCE):
                chosen = order[start : start + _TEXTS_AT_ONCE]
                batch = model.encode([examples[index] for index in chosen])
                numbers = torch.as_tensor(chosen, device=device)
                for group in length_groups(lengths_of(batch)):
                    part = batch.select(group)
                    queries, sums = self.site.positions(part, model.frozen(part))
                    text = numbers[torch.as_tensor(group, device=device)][part.rows]
                    found.append((queries, sums, text, part.targets))
        finally:
            model.frozen_store = kept
        if not found:
            nothing = torch.zeros(0, dtype=torch.long, device=device)
            vectors = self.site.up.weight.new_zeros(0, self.site.hidden_size)
            return States(vectors, vectors, nothing, nothing, 0)
        queries, sums, rows, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
        by_text = rows.argsort(stable=True)
        return States(queries[by_text], sums[by_text], rows[by_text], targets[by_text], len(examples))

    def logits(self, states: States, correction: Correction | None = None) -> Tensor:
        """Logits [M, V] of the corrected model at all positions together; differentiable."""
        gained = states.sums if correction is None else states.sums + correction.gain(states.queries)
        return self.site.finish(gained)

    @torch.no_grad()
    def predicted(self, states: States, correction: Correction | None = None) -> Tensor:
        """The most likely class or token at each position, [M], in pieces that fit into memory."""
        outputs = self.site.outputs
        size = max(1, min(_ROWS_AT_ONCE, _LOGITS_AT_ONCE // outputs))
        found = [states.rows.new_empty(0)]
        for start in range(0, len(states.rows), size):
            piece = slice(start, start + size)
            part = States(states.queries[piece], states.sums[piece], states.rows[piece], states.targets[piece], 0)
            found.append(self.logits(part, correction).argmax(-1))
        return torch.cat(found)

    def right(self, states: States, correction: Correction | None = None) -> Tensor:
        """Whether all of a text's label positions are answered as wanted, [B] of booleans."""
        return acc(self.predicted(states, correction), states.targets, states.rows, states.texts) > 0

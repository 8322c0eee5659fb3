"""Which unrelated texts keep their predictions under an edit, computed with as little of the model as decides it.

Shape legend: R rows (an edit and a text each), N positions that are compared, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.editing.batches import length_groups, lengths_of
from methods.editing.editors import Editor
from methods.editing.edits import Edits
from methods.editing.examples import Encoded, Example
from methods.editing.model import EditableModel
from methods.editing.predictions import Leaders, Vocabulary

Row = tuple[int, Example]
"""The place of an edit, and a text."""


class Retained:
    """Compares edited models with the unmodified one.

    What the unmodified model makes of a text is kept in the model's store for the next edit: its transformed states,
    its predictions at the label positions, and, once they are needed, those at every position.

    Args:
        model: the model.
        all_positions: whether every position is compared too, not only the label positions.
        tokens_at_once: tokens of one forward pass, padding included.
    """

    def __init__(self, model: EditableModel, all_positions: bool, tokens_at_once: int) -> None:
        self.model, self.all_positions, self.tokens_at_once = model, all_positions, tokens_at_once
        self.vocabulary = Vocabulary(*model.unembedding)

    def consistencies(self, editor: Editor, edits: Edits, rows: Sequence[Row]) -> tuple[list[float], list[float]]:
        """For each row whether its predictions at the label positions stay, and whether those at every position do.

        Args:
            editor: the edits' editor.
            edits: the edits.
            rows: at least one.

        Returns:
            0 or 1 for each row, twice; NaN for every position if that was not asked for.
        """
        batch = self.model.encode([text for _, text in rows])
        self._prepare(batch)
        kept, kept_all = [0.0] * len(rows), [float("nan")] * len(rows)
        for group in length_groups(lengths_of(batch), self.tokens_at_once):
            part = batch.select(group)
            states = self.model.frozen(part)
            with editor.applied(edits, torch.tensor([rows[index][0] for index in group], device=self.model.device)):
                output = self.model.upper(part, states)
            compare = self._classes if self.model.kind == "classifier" else self._tokens
            for index, labels, everywhere in zip(group, *compare(part, output), strict=True):
                kept[index], kept_all[index] = labels, everywhere
        return kept, kept_all

    def remember(self, batch: Encoded) -> None:
        """Computes all that comparisons with these texts may ask of the unmodified model, and leaves it in the model's
        store."""
        self._prepare(batch)
        if self.all_positions and self.model.kind != "classifier":
            self._leaders(batch, self._entries(batch), torch.ones(len(batch), device=self.model.device))

    def _classes(self, batch: Encoded, output: Tensor) -> tuple[list[float], list[float]]:
        raw = torch.stack([entry[0] for entry in self._entries(batch)])
        same = (raw.argmax(-1) == output.argmax(-1)).float().tolist()
        return same, same

    def _tokens(self, batch: Encoded, output: Tensor) -> tuple[list[float], list[float]]:
        entries = self._entries(batch)
        rows, columns = batch.attention_mask.nonzero(as_tuple=True)
        asked = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
        asked[batch.rows, batch.columns] = True
        edited = self.model.transform(output[rows, columns])
        labelled = asked[rows, columns]
        raw = torch.cat([entry[0] for entry in entries])
        leaders = Leaders(*(torch.cat([entry[place] for entry in entries]) for place in (1, 2)))
        same = torch.ones(len(batch), device=raw.device)
        same[rows[labelled][~self.vocabulary.kept(leaders, raw[labelled], edited[labelled])]] = 0.0
        if not self.all_positions:
            return same.tolist(), [float("nan")] * len(batch)
        everywhere = same.clone()
        self._compare_others(self._leaders(batch, entries, same), rows, ~labelled, raw, edited, everywhere)
        return same.tolist(), everywhere.tolist()

    def _compare_others(
        self, leaders: Leaders, rows: Tensor, others: Tensor, raw: Tensor, edited: Tensor, same: Tensor
    ) -> None:
        """Sets `same` to 0 where a position that is no label position changed.

        Args:
            leaders: the unmodified model's, of every position.
            rows: the row of every position, [N].
            others: which positions are no label positions, [N].
            raw, edited: transformed states, [N, D].
            same: [R], 1 for rows that are undecided, 0 for those that have changed.
        """
        places = (others & (same[rows] > 0)).nonzero()[:, 0]
        ahead = self.vocabulary.slack(Leaders(*(part[places] for part in leaders)), raw[places], edited[places])
        # The position most in danger of each row goes first: where it changed, the rest is not looked at.
        most = torch.full_like(same, float("inf"), dtype=ahead.dtype).scatter_reduce(0, rows[places], ahead, "amin")
        first = ahead == most[rows[places]]
        for chosen in (places[first], places[~first]):
            chosen = chosen[same[rows[chosen]] > 0]
            kept = self.vocabulary.kept(Leaders(*(part[chosen] for part in leaders)), raw[chosen], edited[chosen])
            same[rows[chosen[~kept]]] = 0.0

    def _prepare(self, batch: Encoded) -> None:
        """Makes sure of the states and label predictions of all texts, and holds them for this call."""
        self._held: dict[bytes, tuple[Tensor, ...]] = {}
        missing = {}
        for row, key in enumerate(batch.keys):
            name = _states_of(key)
            entry = self._held.get(name) or self.model.raw_store.get(name)
            if entry is None:
                missing[key] = row
            else:
                self._held[name] = entry
        lengths = lengths_of(batch)
        wanted = list(missing.values())
        for group in length_groups([lengths[row] for row in wanted], self.tokens_at_once):
            part = batch.select([wanted[index] for index in group])
            output = self.model.upper(part, self.model.frozen(part))
            if self.model.kind == "classifier":
                pieces: list[tuple[Tensor, ...]] = [(logits,) for logits in output]
            else:
                hidden = self.model.transform(output)
                labels = torch.bincount(part.rows, minlength=len(part)).tolist()
                best, rivals = (each.split(labels) for each in self.vocabulary.leaders(hidden[part.rows, part.columns]))
                pieces = [
                    (states[:length], *leading)
                    for states, length, *leading in zip(hidden, lengths_of(part), best, rivals, strict=True)
                ]
            for key, piece in zip(part.keys, pieces, strict=True):
                self._hold(_states_of(key), piece)

    def _leaders(self, batch: Encoded, entries: Sequence[tuple[Tensor, ...]], same: Tensor) -> Leaders:
        """The unmodified model's leaders at every position, [N] each; zeros for rows that have changed already."""
        needed = {key: row for row, key in enumerate(batch.keys) if same[row] > 0}
        missing = []
        for key in needed:
            entry = self._held.get(_leaders_of(key)) or self.model.raw_store.get(_leaders_of(key))
            if entry is None:
                missing.append(key)
            else:
                self._held[_leaders_of(key)] = entry
        if missing:
            hidden = [entries[needed[key]][0] for key in missing]
            found = self.vocabulary.leaders(torch.cat(hidden))
            for key, *pieces in zip(missing, *(part.split([*map(len, hidden)]) for part in found), strict=True):
                self._hold(_leaders_of(key), pieces)
        rows = []
        for key, entry in zip(batch.keys, entries, strict=True):
            known = self._held.get(_leaders_of(key))
            if known is None or key not in needed:
                length, tiles = len(entry[0]), entry[2].shape[1]
                known = (entry[1].new_zeros(length), entry[2].new_zeros(length, tiles))
            rows.append(tuple(part.to(self.model.device) for part in known))  # the store may lie elsewhere
        return Leaders(*(torch.cat(column) for column in zip(*rows, strict=True)))

    def _entries(self, batch: Encoded) -> list[tuple[Tensor, ...]]:
        """What is held of each row's text, on the model's device."""
        return [tuple(part.to(self.model.device) for part in self._held[_states_of(key)]) for key in batch.keys]

    def _hold(self, name: bytes, tensors: Sequence[Tensor]) -> None:
        self._held[name] = tuple(tensors)
        self.model.raw_store.put(name, tensors)


def _states_of(key: bytes) -> bytes:
    return b"states " + key


def _leaders_of(key: bytes) -> bytes:
    return b"leaders " + key

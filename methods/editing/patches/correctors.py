"""What a stream does about a mistake: patches, fine-tuning, or nothing. Each goes on from what a journal kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from methods.editing.patches.baselines import TunedFeedForward, tune
from methods.editing.patches.cache import AnswerCache, States
from methods.editing.patches.config import StreamConfig
from methods.editing.patches.journal import Journal
from methods.editing.patches.memory import Memory
from methods.editing.patches.mpn import VALUES
from methods.editing.patches.neuron import PatchNeurons
from methods.editing.patches.site import Correction
from methods.editing.patches.training import train_patches


@dataclass(frozen=True)
class Change:
    """What one request changed.

    Attributes:
        patches: neurons that were added.
        steps: optimizer steps.
        stopped: whether the training came to its own end.
        tensors: what the journal keeps of it.
    """

    patches: int = 0
    steps: int = 0
    stopped: bool = True
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Corrector:
    """The running state of a stream's model. This one corrects nothing: what every method starts from.

    Attributes:
        correction: what the model is corrected by now; None: nothing.
        edits: whether a mistake is acted upon.
    """

    correction: Correction | None = None
    edits: bool = False

    def correct(self, states: States, index: int) -> Change:
        """Edits the request at `index` on its texts, the edit language's first."""
        return Change()

    def kept(self, journal: Journal) -> int:
        """How many of a journal's entries can be gone on from."""
        return len(journal.entries)

    def restore(self, states: States, tensors: Mapping[str, Tensor]) -> None:
        """Takes up an entry that a journal kept, with the texts that it was about."""

    def written(self, journal: Journal, requests: int) -> None:
        """Called when an edit has been added to the journal, which has `requests` entries then."""


class Patching(Corrector):
    """One patch for each mistake; earlier patches stay as they are."""

    edits = True

    def __init__(self, cache: AnswerCache, memory: Memory, config: StreamConfig) -> None:
        self.cache, self.memory, self.config = cache, memory, config
        self.correction: PatchNeurons = cache.site.empty()

    def correct(self, states: States, index: int) -> Change:
        config = self.config
        trained = train_patches(
            self.cache, states, self.correction, self.memory, config.patches, (config.seed, VALUES, index)
        )
        if trained is None:
            return Change()
        self._add(states, trained.neurons)
        return Change(len(trained.neurons), trained.steps, trained.stopped, trained.neurons.to_tensors())

    def restore(self, states: States, tensors: Mapping[str, Tensor]) -> None:
        if tensors:
            placed = {name: tensor.to(states.queries.device) for name, tensor in tensors.items()}
            self._add(states, PatchNeurons.from_tensors(placed, self.correction.activation))

    def _add(self, states: States, neurons: PatchNeurons) -> None:
        self.correction = self.correction.merge(neurons)
        if self.config.patches.remember:
            self.memory.append(states.queries)


class Tuning(Corrector):
    """Fine-tuning of the last FFN, edit after edit."""

    edits = True

    def __init__(self, cache: AnswerCache, config: StreamConfig) -> None:
        self.cache, self.config = cache, config
        self.correction: TunedFeedForward = TunedFeedForward.unmodified(cache.site)

    def correct(self, states: States, index: int) -> Change:
        self.correction, steps, right = tune(self.cache, states, self.correction, self.config.tuning)
        return Change(0, steps, right)

    def kept(self, journal: Journal) -> int:
        found = journal.read_weights()
        known = 0
        if found is not None and found[1] <= len(journal.entries):
            weights, known = found
            placed = {name: tensor.to(self.cache.site.model.device) for name, tensor in weights.items()}
            self.correction = TunedFeedForward.from_tensors(placed, self.cache.site)
        # Requests that were not edited left the matrices as they are.
        later = (place for place in range(known, len(journal.entries)) if journal.entries[place][0]["edit"]["edited"])
        return next(later, len(journal.entries))

    def written(self, journal: Journal, requests: int) -> None:
        journal.replace_weights(self.correction.to_tensors(), requests)


def build_corrector(cache: AnswerCache, memory: Memory, config: StreamConfig) -> Corrector:
    """The corrector that `config` names; `memory` is taken over without what was appended to it."""
    if config.editor == "patches":
        return Patching(cache, memory.restarted(), config)
    return Tuning(cache, config) if config.editor == "fine-tuning" else Corrector()

"""What a sweep of patch neurons found, as plain numbers: the input of its report.

A stream corrects one mistake after the other and keeps what it has corrected. Figures are shares of texts answered
rightly, in percent, 0 to 100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from methods.editing.outcome import Spread, spread
from methods.editing.patches.metrics import StreamMetrics, StreamPoint

VariantName = Literal["none", "fine-tuning", "transformer-patcher", "mpn-only", "mpn-all"]
ALL = "all"
"""In the place of a list of languages: all but the edit's."""

NAMES: Mapping[str, str] = {
    "none": "Original model",
    "fine-tuning": "Fine-tuning",
    "transformer-patcher": "Transformer-Patcher",
    "mpn-only": "MPN (only)",
    "mpn-all": "MPN (all)",
}

FIGURES: Mapping[str, Callable[[StreamMetrics], float | None]] = {
    "edits": lambda one: one.edits,
    "patches": lambda one: one.patches,
    "reliability": lambda one: _percent(one.reliability),
    "mlg": lambda one: _percent(one.mlg),
    "clg": lambda one: _percent(one.clg_mean),
    "locality_train": lambda one: _percent(one.locality_train),
    "locality_test": lambda one: _percent(one.locality_test),
    "success": lambda one: _percent(one.success),
    "generality": lambda one: _percent(one.generality),
    "retained": lambda one: _percent(one.retained),
    "train_retain_rate": lambda one: _percent(one.retain_rates[0]),
    "test_retain_rate": lambda one: _percent(one.retain_rates[1]),
}
"""What a stream's final model is measured by: numbers of edits and patches, everything else in percent."""


@dataclass(frozen=True)
class Variant:
    """What corrects the mistakes of a stream.

    Attributes:
        name: as the option says.
        drawn: the languages that mpn draws from, "all" or codes joined by "+"; empty for the others.
    """

    name: VariantName
    drawn: str = ""

    @property
    def label(self) -> str:
        """Its name in a sentence or a table."""
        return NAMES[self.name] + (f", {self.drawn.replace('+', ' ')}" if self.drawn not in ("", ALL) else "")


@dataclass(frozen=True)
class StreamRun:
    """One trial: a stream.

    Attributes:
        seed, folder: which one.
        metrics: of the final model.
        curve: accuracy in its course.
    """

    seed: int
    folder: int
    metrics: StreamMetrics
    curve: tuple[StreamPoint, ...]


@dataclass(frozen=True)
class VariantOutcome:
    """All streams of a variant."""

    variant: Variant
    runs: tuple[StreamRun, ...]

    def figure(self, name: str) -> Spread | None:
        """A figure of `FIGURES` over seeds, each the mean of its folders; None where no stream has it."""
        return self._over_seeds(FIGURES[name])

    def clg(self, language: str) -> Spread | None:
        """Accuracy on the parallel texts in a language."""
        return self._over_seeds(lambda metrics: _percent(metrics.clg.get(language)))

    def _over_seeds(self, of: Callable[[StreamMetrics], float | None]) -> Spread | None:
        by_seed: dict[int, list[float]] = {}
        for run in self.runs:
            value = of(run.metrics)
            if value is not None:
                by_seed.setdefault(run.seed, []).append(value)
        return spread([fmean(values) for values in by_seed.values()]) if by_seed else None


@dataclass(frozen=True)
class PatcherOutcome:
    """A whole sweep.

    Attributes:
        task, model: as the user named them.
        languages: of the sweep.
        edit_language: that edits are made in.
        paper_task: "xfever" or "xnli" where model and task are the paper's, so that its numbers may stand beside ours.
        requests: of each stream.
        variants: in the order asked for; those without a finished stream are left out.
        decisions: every choice that the papers leave open, with its value.
        notes: warnings worth keeping.
        classifier: (language, accuracy in percent, mistakes) of the classifier that the sweep trained.
    """

    task: str
    model: str
    languages: tuple[str, ...]
    edit_language: str
    paper_task: str | None
    requests: int
    variants: tuple[VariantOutcome, ...]
    decisions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    classifier: tuple[tuple[str, float, int], ...] = ()

    @property
    def others(self) -> tuple[str, ...]:
        """The languages that edits are not made in."""
        return tuple(language for language in self.languages if language != self.edit_language)

    def of(self, name: VariantName) -> VariantOutcome | None:
        """The first outcome of a kind of variant."""
        return next((one for one in self.variants if one.variant.name == name), None)


def gain(after: VariantOutcome, before: VariantOutcome, figure: str) -> Spread | None:
    """By how many points a figure differs, seed by seed; against a variant with one seed, that one."""
    later, earlier = (_by_seed(one, figure) for one in (after, before))
    only = next(iter(earlier.values())) if len(earlier) == 1 else None
    differences = [value - found for seed, value in later.items() if (found := earlier.get(seed, only)) is not None]
    return spread(differences) if differences else None


def _by_seed(one: VariantOutcome, figure: str) -> dict[int, float]:
    seeds = dict.fromkeys(run.seed for run in one.runs)
    parts = {
        seed: VariantOutcome(one.variant, tuple(run for run in one.runs if run.seed == seed)).figure(figure)
        for seed in seeds
    }
    return {seed: part.mean for seed, part in parts.items() if part is not None}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of what there is."""
    present = [value for value in values if value is not None]
    return fmean(present) if present else None

"""What is measured of a stream (Si et al. 2024, section 4.1.2; Huang et al. 2023, section 5).

All figures are shares of texts that are answered rightly; a share of nothing is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the specification needs this file, and --help no torch
    from torch import Tensor


@dataclass(frozen=True)
class EditRecord:
    """What happened to one request of the stream.

    Attributes:
        uuid: of the request.
        index: its place in the stream.
        edited: whether the trigger said so.
        languages: of the texts that the edit was trained on.
        wrong: languages that were answered wrongly before; of those that the trigger looks at.
        patches: neurons that were added.
        steps: optimizer steps.
        stopped: whether the training came to its own end.
        success: whether the edit text is right afterwards (SR counts these over all edits).
        drawn_success: whether the drawn parallel text is right afterwards; None without one.
        rephrased: share of its rephrasings that is right afterwards (GR); None without any.
        correct_before: whether the edit text was right when its turn came.
    """

    uuid: str
    index: int
    edited: bool
    languages: tuple[str, ...]
    wrong: tuple[str, ...]
    patches: int
    steps: int
    stopped: bool
    success: bool
    drawn_success: bool | None
    rephrased: float | None
    correct_before: bool

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EditRecord:
        """The record that `to_json` wrote."""
        lists = {name: tuple(value[name]) for name in ("languages", "wrong")}
        return cls(**{**value, **lists})


@dataclass(frozen=True)
class StreamPoint:
    """Accuracy in the course of a stream.

    Attributes:
        requests: that were seen.
        edits: that were made.
        patches: there are.
        success: SR so far, the share of edits whose text was right just after its edit.
        retained: ER, the share of edits so far whose text is right now.
        locality_train, locality_test: accuracy on texts that no edit is about.
    """

    requests: int
    edits: int
    patches: int
    success: float | None
    retained: float | None
    locality_train: float | None
    locality_test: float | None

    def metrics(self) -> dict[str, float]:
        """What there is of it, by name, without the number of requests."""
        return {name: value for name, value in asdict(self).items() if name != "requests" and value is not None}


@dataclass(frozen=True)
class StreamMetrics:
    """The final model of a stream, with all patches in.

    Attributes:
        edits: requests that were edited.
        patches: neurons that were added.
        reliability: accuracy on the edit texts of the whole stream, edited or not.
        mlg: on their rephrasings.
        clg: by language, on the parallel texts.
        locality_train, locality_test: on texts that no edit is about.
        success: SR, the share of edits whose text was right just after its edit.
        generality: GR, the mean share of an edit's rephrasings that were right just after it.
        retained: ER, the share of edits whose text is right at the end.
        raw_train, raw_test: accuracy of the unmodified model on the texts of the localities.
    """

    edits: int
    patches: int
    reliability: float | None
    mlg: float | None
    clg: Mapping[str, float]
    locality_train: float | None
    locality_test: float | None
    success: float | None
    generality: float | None
    retained: float | None
    raw_train: float | None
    raw_test: float | None

    @property
    def clg_mean(self) -> float | None:
        """The mean over languages."""
        return mean(list(self.clg.values()))

    @property
    def retain_rates(self) -> tuple[float | None, float | None]:
        """TrainR and TestR of Huang et al.: accuracy after the stream divided by accuracy before it."""
        pairs = ((self.locality_train, self.raw_train), (self.locality_test, self.raw_test))
        first, second = (after / before if after is not None and before else None for after, before in pairs)
        return first, second


def share(right: Tensor) -> float | None:
    """The share of true entries; None of nothing."""
    return float(right.double().mean()) if len(right) else None


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None


def success_rate(records: Sequence[EditRecord]) -> float | None:
    """SR: the share of edits whose text was right just after its edit."""
    return mean([float(record.success) for record in records if record.edited])


def generality(records: Sequence[EditRecord]) -> float | None:
    """GR: the mean share of an edit's rephrasings that were right just after it."""
    return mean([record.rephrased for record in records if record.edited and record.rephrased is not None])

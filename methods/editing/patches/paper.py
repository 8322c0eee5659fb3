"""The numbers of Si et al., "MPN: Leveraging Multilingual Patch Neuron for Cross-lingual Model Editing" (2024).

Tables 1 to 3, measured on bert-base-multilingual-uncased, in percent. Two averages of Table 1 and one of Table 2 are
not the averages of their own columns; a row says both what is printed and what its columns give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

CITATION = 'Si et al., "MPN: Leveraging Multilingual Patch Neuron for Cross-lingual Model Editing", 2024, on mBERT'


@dataclass(frozen=True)
class PaperRow:
    """One row of a table of the paper.

    Attributes:
        variant: the option that it is compared with.
        label: as printed.
        patches: as printed.
        reliability: on the English requests.
        mlg: on their rephrasings; None for XNLI, which has none.
        clg: by language.
        printed_average: of `clg`, as printed.
        locality_train: on training texts; None where the paper has one locality only.
        locality_test: on the test set; for XNLI the one locality.
    """

    variant: str
    label: str
    patches: int
    reliability: float
    mlg: float | None
    clg: Mapping[str, float]
    printed_average: float
    locality_train: float | None
    locality_test: float

    @property
    def average(self) -> float:
        """Of `clg`, recomputed."""
        return fmean(self.clg.values())

    @property
    def misprinted(self) -> bool:
        """Whether the printed average is another one, beyond the rounding of its columns and of itself."""
        return abs(self.printed_average - self.average) > 0.0101


_XFEVER = ("de", "fr", "es", "zh", "ar")
_XNLI = ("ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")


def _xfever(
    variant: str, label: str, patches: int, numbers: tuple[float, ...], average: float, locality: tuple[float, float]
) -> PaperRow:
    clg = dict(zip(_XFEVER, numbers[2:], strict=True))
    return PaperRow(variant, label, patches, numbers[0], numbers[1], clg, average, *locality)


def _xnli(
    variant: str, label: str, patches: int, reliability: float, numbers: tuple[float, ...], average: float, loc: float
) -> PaperRow:
    clg = dict(zip(_XNLI, numbers, strict=True))
    return PaperRow(variant, label, patches, reliability, None, clg, average, None, loc)


XFEVER: tuple[PaperRow, ...] = (
    _xfever("none", "Original model", 0, (88.07, 84.86, 85.32, 85.92, 85.96, 82.73, 81.69), 84.32, (93.05, 77.08)),
    _xfever("fine-tuning", "Fine-tuning", 0, (83.72, 78.65, 83.77, 83.99, 85.83, 72.86, 70.91), 79.47, (87.15, 74.81)),
    _xfever(
        "transformer-patcher",
        "T-patcher",
        1207,
        (98.75, 90.34, 90.42, 91.54, 92.21, 83.02, 82.11),
        87.86,
        (92.48, 77.81),
    ),
    _xfever("mpn-only", "MPN (only)", 2519, (99.20, 94.33, 94.97, 95.34, 95.34, 86.10, 82.85), 92.92, (92.26, 77.06)),
    _xfever("mpn-all", "MPN (all)", 4598, (99.29, 93.05, 98.39, 98.45, 98.58, 95.53, 95.30), 96.94, (92.31, 77.04)),
)
"""Table 1: a stream of 10,496 requests of XFEVER."""

XNLI: tuple[PaperRow, ...] = (
    _xnli(
        "none",
        "Original model",
        0,
        81.66,
        (63.75, 69.90, 70.92, 66.95, 74.53, 72.61, 61.00, 69.38, 49.82, 34.95, 62.24, 58.50, 66.21, 66.11),
        63.43,
        81.81,
    ),
    _xnli(
        "fine-tuning",
        "Fine-tuning",
        0,
        75.79,
        (56.03, 61.04, 63.69, 58.88, 68.00, 65.37, 53.99, 60.68, 46.07, 35.35, 54.19, 52.14, 58.98, 55.99),
        56.46,
        76.51,
    ),
    _xnli(
        "transformer-patcher",
        "T-patcher",
        954,
        99.66,
        (64.33, 71.44, 73.71, 67.70, 79.44, 76.21, 61.32, 70.68, 50.08, 35.11, 62.59, 58.82, 66.91, 66.27),
        64.62,
        81.65,
    ),
    _xnli(
        "mpn-only",
        "MPN",
        2254,
        99.40,
        (78.86, 86.13, 87.56, 82.91, 90.82, 89.46, 75.39, 84.99, 58.04, 35.67, 76.59, 71.88, 80.64, 81.22),
        77.15,
        81.16,
    ),
)
"""Table 2: a stream of 5,010 requests of XNLI. The paper does not say which trigger its MPN has there."""

ALL_WRONG: tuple[PaperRow, ...] = (
    _xfever("none", "Original model", 0, (0, 0, 0, 0, 0, 0, 0), 0, (93.05, 77.08)),
    _xfever("fine-tuning", "Fine-tuning", 45, (99.45, 96.72, 96.95, 94.74, 95.43, 98.61, 96.12), 96.37, (9.85, 26.26)),
    _xfever(
        "transformer-patcher",
        "T-patcher",
        710,
        (97.65, 66.26, 57.62, 64.96, 68.84, 5.96, 10.80),
        41.64,
        (92.36, 77.10),
    ),
    _xfever("mpn-all", "MPN", 711, (97.51, 75.73, 98.89, 99.58, 99.58, 98.89, 99.17), 99.22, (92.43, 77.03)),
)
"""Table 3: the 722 requests of XFEVER that the original model gets wrong in all six languages."""


def paper_row(task: str | None, variant: str) -> PaperRow | None:
    """The row of a task's table that a variant is compared with; None where there is none."""
    table = XFEVER if task == "xfever" else XNLI if task == "xnli" else ()
    return next((row for row in table if row.variant == variant), None)

"""What Xu et al. (2023) report on knowledge neurons, to stand beside the same numbers of a sweep.

Table 2: overlap of Chinese and English knowledge neurons in mBERT over the 41 relations of mLAMA, in percent, without
LRP2 and with it at layers 4/10. "Avg" is over all 41 x 41 pairs of relations: (41 x 17.9 + 1640 x 11.5) / 1681 = 11.7.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperOverlap:
    """A row of Table 2."""

    same: float
    different: float
    average: float


CITATION = "Xu et al. (2023), Table 2"
LANGUAGE = "zh"
PAIR = (4, 10)
RELATIONS = 41
MBERT = PaperOverlap(17.9, 11.5, 11.7)
MBERT_LRP2 = PaperOverlap(18.5, 11.9, 12.1)

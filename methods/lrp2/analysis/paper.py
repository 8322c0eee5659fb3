"""What Xu et al. (2023) report for the two models they ran, to stand beside the same numbers of a sweep.

Tables 1, 4 and 5 of the paper: mLAMA's T-REx part, best pair per language chosen on the reported facts ("oracle" here).
Table 3: the same on X-FACTR for some languages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TABLE_1_COLUMNS = ("Indo-European", "Other families", "High resource", "Medium resource", "Low resource", "All")
"""The columns of Table 1 after English, under the names of `groups.paper_groups`."""


@dataclass(frozen=True)
class ModelShape:
    """What tells a published model from others when all that is at hand is a folder."""

    architecture: str
    layers: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class PrintedScores:
    """One language of Table 3, without and with LRP2; English has no transferability."""

    acc: float
    oracle_acc: float
    trans: float | None = None
    oracle_trans: float | None = None


@dataclass(frozen=True)
class Reference:
    """A model of the paper.

    Attributes:
        name: as the paper calls it.
        shape: by which it is recognised.
        english_acc: Acc of English.
        acc, oracle_acc, trans, oracle_trans: Table 1 without and with LRP2, in the order of `TABLE_1_COLUMNS`.
        pairs: optimal layers per language (Table 4 or 5).
        unclear: languages whose entry in the printed table cannot be read with certainty.
        xfactr: Table 3 by language.
    """

    name: str
    shape: ModelShape
    english_acc: float
    acc: Sequence[float]
    oracle_acc: Sequence[float]
    trans: Sequence[float]
    oracle_trans: Sequence[float]
    pairs: Mapping[str, tuple[int, int]]
    unclear: frozenset[str] = frozenset()
    xfactr: Mapping[str, PrintedScores] = field(default_factory=dict)


def _pairs(text: str) -> dict[str, tuple[int, int]]:
    """Reads ``"ceb 1/2, cs 1/5"``."""
    entries = (entry.split() for entry in text.replace("\n", " ").split(","))
    return {language: (int(pair.split("/")[0]), int(pair.split("/")[1])) for language, pair in entries}


MBERT = Reference(
    name="mBERT",
    shape=ModelShape("BertForMaskedLM", 12, 768, 119547),
    english_acc=35.2,
    acc=(20.9, 18.4, 23.4, 22.2, 17.4, 20.0),
    oracle_acc=(21.2, 19.4, 24.1, 23.0, 17.7, 20.6),
    trans=(37.0, 31.8, 41.6, 37.7, 30.5, 35.2),
    oracle_trans=(37.9, 33.1, 43.1, 38.5, 31.5, 36.3),
    pairs=_pairs(
        """ceb 1/2, cs 1/5, cy 1/2, fa 1/2, gl 1/2, id 1/2, ko 1/3, lt 1/3, pl 1/2, pt 1/2, ro 1/2, sk 1/9, ur 1/2,
        vi 1/2, af 3/4, ar 3/4, de 3/4, he 3/6, hi 3/7, ja 3/11, zh 4/10, es 5/6, th 5/11, az 6/7, bg 6/7, bn 6/7,
        da 6/7, el 6/11, fr 6/7, sv 6/7, tr 6/7, ga 7/10, ru 7/12, sr 7/12, be 8/10, ca 8/9, eu 8/11, hu 8/9, hy 8/9,
        it 8/9, ka 8/12, la 8/9, lv 8/10, nl 8/9, ta 8/9, uk 8/9, sq 9/10, et 10/11, fi 10/11, ms 10/11, hr 11/12,
        sl 11/12"""
    ),
    unclear=frozenset({"fa", "ro"}),
    xfactr={
        "en": PrintedScores(22.6, 22.6),
        "zh": PrintedScores(14.4, 15.4, 30.0, 32.6),
        "ko": PrintedScores(12.2, 13.3, 24.9, 28.6),
        "nl": PrintedScores(18.3, 18.8, 48.5, 48.7),
        "vi": PrintedScores(22.8, 23.3, 46.4, 47.0),
        "ceb": PrintedScores(14.3, 15.6, 25.4, 25.3),
        "ja": PrintedScores(10.6, 12.8, 23.4, 30.1),
    },
)

BLOOM_560M = Reference(
    name="BLOOM-560m",
    shape=ModelShape("BloomForCausalLM", 24, 1024, 250880),
    english_acc=35.1,
    acc=(17.8, 18.4, 21.7, 17.2, 16.1, 18.0),
    oracle_acc=(21.3, 22.4, 25.8, 21.2, 19.3, 21.7),
    trans=(20.4, 20.3, 25.7, 19.3, 17.6, 20.4),
    oracle_trans=(24.5, 24.7, 30.3, 24.0, 21.4, 24.6),
    pairs=_pairs(
        """da 1/14, ru 1/22, sq 1/24, ja 2/22, ca 3/22, es 4/20, la 4/13, az 7/9, cy 8/13, af 8/14, bg 8/22, ceb 8/24,
        et 8/15, lt 8/13, sl 8/20, sr 8/13, ta 9/19, cs 9/13, el 9/22, fa 9/18, fi 9/22, hr 9/22, pl 9/15, ro 9/22,
        sk 9/20, uk 9/14, be 10/13, hu 10/21, hi 11/21, hy 11/21, ga 13/16, id 14/19, ka 15/22, th 15/19, vi 16/21,
        ko 16/21, lv 16/22, tr 16/21, zh 17/23, gl 17/21, it 17/21, nl 17/21, eu 18/22, pt 18/22, fr 18/22, de 18/23,
        ms 18/21, bn 20/22, sv 20/23, ur 21/23, ar 21/23, he 21/22"""
    ),
)

REFERENCES = (MBERT, BLOOM_560M)


def reference_for(shape: ModelShape) -> Reference | None:
    """The paper's model with these sizes, if it is one of the paper's."""
    return next((reference for reference in REFERENCES if reference.shape == shape), None)

"""Made-up outcomes of a layer search: plausible shapes, no model, any number of languages and layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from methods.lrp2.analysis.statistics import REAL_GAIN, REAL_LOSS, UNCLEAR
from methods.lrp2.outcome import HonestScore, LanguageOutcome, PairScore, SearchOutcome
from orchestrator.report.languages import LANGUAGE_NAMES

ATLAS_LANGUAGES = ("de", "fr", "es", "ru", "el", "tr", "ar", "hi", "zh", "ko", "fi")
MANY_LANGUAGES = tuple(sorted(LANGUAGE_NAMES))[:53]


def language_outcome(language: str, layers: int, seed: int) -> LanguageOutcome:
    """A language whose gains have a hill somewhere in the grid and fall off steeply towards large gaps j - i."""
    random = np.random.default_rng(seed)
    baseline, english = random.uniform(15, 60), random.uniform(70, 95)
    hill, height = random.uniform(0.2, 0.9) * layers, random.uniform(-1, 7)
    grid = []
    for i in range(1, layers):
        for j in range(i + 1, layers + 1):
            near = np.exp(-((((i + j) / 2 - hill) / (0.25 * layers)) ** 2))
            gain = (height + 1) * near - 1 - 12 * (j - i) / layers * (1 - near) + random.normal(0, 0.5)
            acc = float(np.clip(baseline + gain, 0, 100))
            grid.append(PairScore(i, j, acc, float(np.clip(0.8 * acc + random.normal(0, 1), 0, 100))))
    ranked = sorted(grid, key=lambda score: -score.acc)
    oracle, second = ranked[0], ranked[1]
    gain = oracle.acc - baseline - abs(random.normal(0, 1.2))
    width = random.uniform(1, 3)
    picks = tuple((score.lirp, score.lsrp) for score in (oracle, oracle, second, ranked[3], oracle))
    honest = HonestScore(
        baseline + gain,
        baseline + gain - width,
        baseline + gain + width,
        baseline,
        gain,
        gain - width,
        gain + width,
        picks,
    )
    verdict = REAL_GAIN if gain > width else REAL_LOSS if gain < -width else UNCLEAR
    return LanguageOutcome(
        language=language,
        facts=int(random.integers(200, 30_000)),
        baseline_acc=float(baseline),
        baseline_trans=float(0.8 * baseline),
        oracle=oracle,
        honest=honest,
        grid=tuple(grid),
        english_acc=float(english),
        ties=int(random.integers(0, 4)),
        verdict=verdict,
    )


def search_outcome(languages: Sequence[str] = ATLAS_LANGUAGES, layers: int = 12) -> SearchOutcome:
    """A search over `languages`; the pivot may be among them."""
    return SearchOutcome(
        pivot="en",
        num_layers=layers,
        languages=tuple(language_outcome(language, layers, seed) for seed, language in enumerate(languages)),
        pivot_acc=88.4,
        skipped=(("sw", "no facts in the selected relations"),),
        decisions={
            "candidates": "the full pool of the relation",
            "score": "mean log-probability over the masks of a candidate",
            "ties": "count as wrong",
            "special tokens in language vectors": "included",
        },
        notes=("1 pair was dropped in Turkish: its states overflowed at layer 12.",),
    )

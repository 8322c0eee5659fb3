"""What the report says of RankC: a map of all pairs of languages, and each language beside the pivot."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from methods.lrp2.analysis.rank_consistency import CLOSER, FURTHER
from methods.lrp2.analysis.sections import p_text
from methods.lrp2.outcome import Consistency, SearchOutcome
from orchestrator.report.blocks import HeatCell, HeatMaps, HeatPanel, Interval, Section, Table
from orchestrator.report.cells import number_text
from orchestrator.report.languages import language_label, language_name

TITLE = "Do languages rank alike?"
NOT_KEPT = (
    "RankC (Qi et al. 2023), how alike two languages rank the candidates of a fact, needs all scores: run the sweep "
    "with --keep scores to have it here."
)
RANKC_IS = (
    "RankC compares the order of a fact's candidates in two languages, right or wrong: 100 is the same order, and the "
    "first ranks count most (63% of the weight lies on the first). Languages are compared on the facts and candidates "
    "that both have."
)
AGAINST_IS = (
    "Chance: two random orders of as many candidates. Change: pairs chosen on other facts (honest) minus without LRP2; "
    "{pivot} is never projected. Brackets are 95% bootstrap intervals over subjects; p: sign flips over subjects, "
    "two-sided; corrected p: {correction} over the languages, on which the verdict rests. To rank "
    "as {pivot} does is not to be right more often."
)


def consistency_section(outcome: SearchOutcome) -> Section:
    """RankC between all languages; one line that says how to get it where scores were not kept."""
    found = outcome.consistency
    if found is None:
        return Section(TITLE, NOT_KEPT)
    return Section(TITLE, f"{RANKC_IS}\n\n{_verdict(found, outcome.pivot)}", [_map(found), _table(found, outcome)])


def _verdict(found: Consistency, pivot: str) -> str:
    pairs = np.triu_indices(len(found.languages), 1)
    without, best = (float(np.nanmean(matrix[pairs])) for matrix in (found.baseline, found.oracle))
    text = f"Two languages agree with RankC {without:.1f} on average without LRP2, with {best:.1f} at their best pairs."
    if not found.with_pivot:
        return text
    closer, further = (sum(one.verdict == verdict for one in found.with_pivot) for verdict in (CLOSER, FURTHER))
    mean = number_text(fmean(one.change for one in found.with_pivot), signed=True)
    return (
        f"{text} With pairs chosen on other facts LRP2 makes {closer} of {len(found.with_pivot)} languages rank more "
        f"like {language_name(pivot)} beyond chance, {further} less; the mean change is {mean} points."
    )


def _map(found: Consistency) -> HeatMaps:
    panels = [
        HeatPanel(label, "", _cells(found.languages, matrix, found.baseline))
        for label, matrix in (("Without LRP2", found.baseline), ("At each language's best pair", found.oracle))
    ]
    return HeatMaps(
        name="rank-consistency",
        title="RankC of every two languages",
        rows="language",
        columns="language",
        scale="RankC",
        panels=panels,
        colours="sequential",
        row_labels=[language_label(name) for name in found.languages],
        column_labels=list(found.languages),
        note="One colour scale for both; the diagonal, always 100, is left empty. The pivot stands first.",
    )


def _cells(languages: Sequence[str], matrix: NDArray[np.float64], before: NDArray[np.float64]) -> list[HeatCell]:
    """The cells of one map; hovering also tells what changed against `before`, where that is another one."""
    cells = []
    for row, one in enumerate(languages):
        for column, other in enumerate(languages):
            value = float(matrix[row, column])
            if row != column and value == value:
                hover = f"{language_name(one)} and {language_name(other)}: {value:.1f}"
                if matrix is not before:
                    hover += f" ({number_text(value - float(before[row, column]), signed=True)})"
                cells.append(HeatCell(row, column, value, hover))
    return cells


def _table(found: Consistency, outcome: SearchOutcome) -> Table:
    pivot = language_name(outcome.pivot)
    rows = [
        [
            language_label(one.language),
            one.facts,
            one.chance,
            one.baseline,
            one.oracle,
            Interval(one.change, one.low, one.high),
            p_text(one.p),
            p_text(one.adjusted),
            one.verdict,
        ]
        for one in sorted(found.with_pivot, key=lambda one: -one.change)
    ]
    columns = ["Language", "Facts", "Chance", "Without LRP2", "Best pair", "Change", "p", "Corrected p", "Verdict"]
    note = AGAINST_IS.format(pivot=pivot, correction=outcome.correction)
    return Table(f"RankC with {pivot}", columns, rows, note=note, signed=["Change"], spare=["Facts", "p"])

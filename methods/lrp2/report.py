"""What a layer search shows: its tables and pictures, as pure functions of its outcome.

"Oracle" is an orange ring and "honest" a blue dot wherever they appear, so that they are never taken for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from methods.lrp2.analysis.consistency_section import consistency_section
from methods.lrp2.analysis.distance_sections import gaps_section, relations_section
from methods.lrp2.analysis.sections import evidence_table, groups_section, layers_table, xfactr_table
from methods.lrp2.analysis.statistics import REAL_GAIN, REAL_LOSS
from methods.lrp2.outcome import LanguageOutcome, PairScore, SearchOutcome
from orchestrator.report.blocks import DotPlot, HeatCell, HeatMaps, HeatPanel, Interval, Section, Series, Table
from orchestrator.report.cells import number_text
from orchestrator.report.languages import language_label, language_name

ORACLE = Series("Oracle: the pair that is best on the very facts reported", "ring", "orange")
HONEST = Series("Honest: pairs chosen on other facts, with 95% interval", "dot", "blue")
BASELINE = Series("Without LRP2", "dot", "grey")

HOW_TO_READ = (
    "Accuracy (acc) is the share of facts whose right object ranks first among all candidates, in percent; gains are "
    "in points of accuracy against the same model without LRP2. A pair i/j projects hidden states into {pivot} after "
    "layer i and back after layer j."
)
ORACLE_IS = (
    "Oracle is the best of all {pairs} pairs, chosen on the very facts it is reported on, as in the paper: an upper "
    "bound, which luck alone lifts even where nothing helps."
)
HONEST_IS = (
    "Honest answers each fact with a pair that was chosen on other folds of subjects: what to expect on new facts. "
    "Brackets are 95% bootstrap intervals."
)
VERDICT_IS = "The verdict rests on a paired test of the honest gain, corrected for the number of languages."
TRANS_IS = (
    "Trans is the overlap of the facts known in the language with those known in {pivot}, intersection over union, in "
    "percent."
)
GAIN_NOTE = (
    "Languages in the order of their honest gain. The blue dot is what LRP2 gives on facts that had no say in the "
    "choice of the layers, with its 95% interval, each language on its own: one whisker in twenty would clear the zero "
    "line by luck. The verdicts below the picture take that into account. The orange ring is what a search reports "
    "that chooses and measures on the same facts. From ring to dot is the optimism of that choice."
)
MAPS_NOTE = (
    "One cell per pair i < j, one colour scale for all languages: green gains, purple loses. Colour grows with the "
    "square root, so that small gains stay visible beside large losses. Point at a cell, or tap it, for its numbers. "
    "Dots inside the ring: the choice hardly depends on which facts were seen; dots far from it: it does. Which score "
    "makes a pair the best stands under Decisions. Beside the name: the oracle pair and its gain."
)
GAP_NOTE = (
    "The bar is the gap that LRP2 might close: what the model answers in {pivot} and not in the language. Widest gap "
    "first."
)


def report_sections(outcome: SearchOutcome) -> Sequence[Section]:
    """The report of a layer search, from the answer to the choices behind it."""
    others = _others(outcome)
    if not others:
        return [_found(outcome), _choices(outcome)]
    relations = relations_section(others)
    return [
        _found(outcome),
        _gains(outcome),
        *([groups_section(outcome, others)] if outcome.groups else []),
        _maps(outcome),
        gaps_section(outcome, others),
        *([relations] if relations else []),
        _gap(outcome),
        consistency_section(outcome),
        _choices(outcome),
    ]


def headline(outcome: SearchOutcome) -> str:
    """One or two sentences: how many languages gain, by how much, and what the oracle would have claimed."""
    others = _others(outcome)
    if not others:
        pivot = language_name(outcome.pivot)
        return f"The model answers {outcome.pivot_acc:.1f}% of the facts in {pivot}; no other language was searched."
    real = sum(one.verdict == REAL_GAIN for one in others)
    harmed = sum(one.verdict == REAL_LOSS for one in others)
    harm = f", harms {harmed}" if harmed else ""
    honest = number_text(fmean(one.honest.gain for one in others), signed=True)
    oracle = number_text(fmean(_oracle_gain(one) for one in others), signed=True)
    return (
        f"With layers chosen on other facts, LRP2 helps {real} of {len(others)} languages beyond chance{harm}, and "
        f"changes accuracy by {honest} points on average; choosing on the same facts, as the paper does, would claim "
        f"{oracle}."
    )


def key_table(outcome: SearchOutcome) -> Table:
    """One row per language with everything that is compared, the pivot on top, the mean of the others at the end."""
    dash = None
    rows: list[list[object]] = [
        [language_label(outcome.pivot), dash, outcome.pivot_acc, dash, dash, dash, dash, dash, dash, dash, "pivot"]
    ]
    for one in _others(outcome):
        rows.append(
            [
                language_label(one.language),
                one.facts,
                one.baseline_acc,
                _pair(one.oracle),
                one.oracle.acc,
                _oracle_gain(one),
                Interval(one.honest.acc, one.honest.acc_low, one.honest.acc_high),
                Interval(one.honest.gain, one.honest.gain_low, one.honest.gain_high),
                one.baseline_trans,
                one.oracle.trans,
                one.verdict,
            ]
        )
    return Table(
        title="Accuracy and transferability per language",
        columns=[
            "Language",
            "Facts",
            "Baseline acc",
            "Oracle pair",
            "Oracle acc",
            "Oracle gain",
            "Honest acc",
            "Honest gain",
            "Baseline trans",
            "Oracle trans",
            "Verdict",
        ],
        rows=rows,
        signed=["Oracle gain", "Honest gain"],
        spare=["Baseline trans", "Oracle trans", "Facts", "Honest acc", "Oracle acc"],
        footer=_means(rows[1:]),
        note=" ".join(
            [_say(ORACLE_IS, outcome), HONEST_IS, VERDICT_IS, _say(TRANS_IS, outcome), "The mean leaves out the pivot."]
        ),
    )


def _found(outcome: SearchOutcome) -> Section:
    printed = xfactr_table(outcome, _others(outcome))
    return Section("What it found", _say(HOW_TO_READ, outcome), [key_table(outcome), *([printed] if printed else [])])


def _gains(outcome: SearchOutcome) -> Section:
    rows: list[tuple[str, list[float | Interval | None]]] = []
    for one in sorted(_others(outcome), key=lambda one: -one.honest.gain):
        honest = Interval(one.honest.gain, one.honest.gain_low, one.honest.gain_high)
        rows.append((language_label(one.language), [_oracle_gain(one), honest]))
    plot = DotPlot(
        name="gain",
        title="Gain per language",
        axis="gain in accuracy against the same model without LRP2 (points)",
        series=[ORACLE, HONEST],
        rows=rows,
        zero=True,
        note=GAIN_NOTE,
    )
    evidence = evidence_table(outcome, _others(outcome))
    return Section("Is the gain real?", "", [plot, *([evidence] if evidence else [])])


def _maps(outcome: SearchOutcome) -> Section:
    panels = []
    for one in sorted(_others(outcome), key=lambda one: language_label(one.language)):
        picked = Counter(one.honest.pairs)
        cells = []
        for score in one.grid:
            gain = one.gain(score)
            hover = (
                f"{_pair(score)}: {number_text(gain, signed=True)} points, acc {score.acc:.1f}, trans {score.trans:.1f}"
            )
            if folds := picked[score.lirp, score.lsrp]:
                hover += f", chosen in {folds} of {len(one.honest.pairs)} folds"
            cells.append(HeatCell(score.lirp, score.lsrp, gain, hover))
        best = f"{_pair(one.oracle)}: {number_text(_oracle_gain(one), signed=True)}"
        marks = [[(one.oracle.lirp, one.oracle.lsrp)], list(one.honest.pairs)]
        panels.append(HeatPanel(language_label(one.language), best, cells, marks))
    maps = HeatMaps(
        name="pairs",
        title="Gain of every layer pair",
        rows=f"layer i, after which states go into {language_name(outcome.pivot)} (LIRP)",
        columns="layer j, after which they go back (LSRP)",
        scale="Gain in accuracy (points)",
        panels=panels,
        series=[
            Series("oracle: best pair on all facts", "ring", "orange"),
            Series("honest: pair chosen for a fold", "dot", "blue"),
        ],
        note=MAPS_NOTE,
    )
    return Section("Which layers?", "", [maps, layers_table(outcome, _others(outcome))])


def _gap(outcome: SearchOutcome) -> Section:
    pivot = language_name(outcome.pivot)
    ordered = sorted(_others(outcome), key=lambda one: one.baseline_acc - one.english_acc)
    plot = DotPlot(
        name="gap",
        title=f"Each language beside {pivot} on the same facts",
        axis="accuracy without LRP2 (%)",
        series=[BASELINE, Series(f"{pivot} on the same facts", "square", "green")],
        rows=[(language_label(one.language), [one.baseline_acc, one.english_acc]) for one in ordered],
        joined=True,
        note=_say(GAP_NOTE, outcome),
    )
    table = Table(
        title="The gap in numbers",
        columns=["Language", "Facts", "Acc", "Pivot acc", "Gap", "Ties"],
        rows=[
            [
                language_label(one.language),
                one.facts,
                one.baseline_acc,
                one.english_acc,
                one.english_acc - one.baseline_acc,
                one.ties,
            ]
            for one in ordered
        ],
        note="Ties: facts whose right object shares the first rank without LRP2; Decisions tells how they count.",
    )
    return Section("How wide is the gap?", "", [plot, table])


def _choices(outcome: SearchOutcome) -> Section:
    blocks = [
        Table(
            title="Decisions",
            columns=["Decision", "Value"],
            rows=[list(item) for item in outcome.decisions.items()],
            note="Papers leave these open and they change the numbers; every one of them is an option of the job.",
        )
    ]
    if outcome.notes:
        blocks.append(Table(title="Notes", columns=["Note"], rows=[[note] for note in outcome.notes]))
    if outcome.skipped:
        rows = [[language_label(language), reason] for language, reason in outcome.skipped]
        blocks.append(Table(title="Skipped languages", columns=["Language", "Why"], rows=rows))
    return Section("What was decided on the way", "", blocks)


def _means(rows: Sequence[Sequence[object]]) -> list[object]:
    """The footer of the key table: means of its percentages and gains."""
    if not rows:
        return []
    means: list[object] = []
    for column in zip(*rows, strict=True):
        values = [cell.value if isinstance(cell, Interval) else cell for cell in column]
        means.append(fmean(values) if all(isinstance(value, float) for value in values) else "")
    return [f"Mean of {len(rows)}", *means[1:]]


def _others(outcome: SearchOutcome) -> list[LanguageOutcome]:
    """The languages that were searched; in the pivot itself LRP2 changes nothing."""
    return [one for one in outcome.languages if one.language != outcome.pivot]


def _oracle_gain(one: LanguageOutcome) -> float:
    return one.gain(one.oracle)


def _pair(score: PairScore) -> str:
    return f"{score.lirp}/{score.lsrp}"


def _say(text: str, outcome: SearchOutcome) -> str:
    pairs = max((len(one.grid) for one in outcome.languages), default=0)
    return text.format(pivot=language_name(outcome.pivot), pairs=pairs)

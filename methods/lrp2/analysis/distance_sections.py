"""The report on distances and relations: the paper's Figures 3, 6 and 7, each with its honest counterpart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from methods.lrp2.analysis.gaps import gap_curve, mean_change
from methods.lrp2.analysis.relations import relation_label, summarize_relations
from methods.lrp2.outcome import LanguageOutcome, SearchOutcome
from orchestrator.report.blocks import DotPlot, HeatCell, HeatMaps, HeatPanel, Line, LinePlot, Section, Series, Table
from orchestrator.report.cells import number_text
from orchestrator.report.languages import language_label, language_name

GAP_NOTE = (
    "For each number of layers between the two projections the best pair, as in the paper's Figure 3, minus the model "
    "without LRP2. Each point is a maximum over pairs chosen on the facts it is reported on, of which small gaps have "
    "more: read the shape, not the height."
)
RELATIONS_NOTE = (
    "The paper calls a relation transferable to a language if its Trans improves under any pair (rings; Figures 6 and "
    "7): the best of many tries, which luck passes often. The dots ask more: whether it improves on facts that had no "
    "say in the choice of the pair, within the relation."
)

Colour = Literal["blue", "orange", "green", "grey"]
Dash = Literal["solid", "dashed", "dotted"]
_COLOURS: tuple[Colour, ...] = ("blue", "orange", "green", "grey")
_DASHES: tuple[Dash, ...] = ("solid", "dashed", "dotted")
LOOKS = tuple((colour, dash) for dash in _DASHES for colour in _COLOURS)
"""Every look a line can have."""
FEW = 8
"""Up to so many languages have a line each; more are told by group."""


def gaps_section(outcome: SearchOutcome, others: Sequence[LanguageOutcome]) -> Section:
    """Figure 3: the best pair for each distance between the layers, for few languages each, for many by group."""
    lines = _language_lines(others) if len(others) <= FEW else _group_lines(outcome, others)
    plot = LinePlot(
        name="gap-curve",
        title="Best pair for each distance between the layers",
        x_axis="layers between the two projections, j - i",
        y_axis="change of Trans at the best pair (points)",
        lines=lines,
        note=GAP_NOTE,
        reference=0.0,
        signed=True,
    )
    return Section("How far apart may the layers be?", "", [plot, _gap_map(others)])


def relations_section(others: Sequence[LanguageOutcome]) -> Section | None:
    """Figures 6 and 7: in how many languages each relation is transferable; None where there are no relations."""
    found = summarize_relations(others)
    if not found:
        return None
    series = [
        Series("Any pair improves it, as in the paper", "ring", "orange"),
        Series("Improves at pairs chosen on other facts", "dot", "blue"),
    ]
    plot = DotPlot(
        name="relations",
        title="Transferable relations",
        axis="share of the languages with facts of the relation (%)",
        series=series,
        rows=[(relation_label(one.relation), [one.any_pair, one.honest]) for one in found],
        note=RELATIONS_NOTE,
    )
    columns = ["Relation", "Languages", "Facts each", "Baseline trans", "Any pair", "Honest", "Honest change"]
    rows = [
        [
            relation_label(one.relation),
            one.languages,
            one.facts,
            one.baseline,
            one.any_pair,
            one.honest,
            one.gain,
        ]
        for one in found
    ]
    many = sum(one.any_pair > 80 for one in found)
    note = (
        f"{many} of {len(found)} relations improve in over 80% of the languages under some pair, "
        f"{sum(one.honest > 80 for one in found)} at pairs chosen on other facts. Trans within a relation is against "
        "the pivot's hits on the language's own facts."
    )
    table = Table("Relations in numbers", columns, rows, note=note, signed=["Honest change"])
    return Section("Which relations transfer?", "", [plot, table, _relation_map(others)])


def _language_lines(others: Sequence[LanguageOutcome]) -> list[Line]:
    return [
        Line(language_label(one.language), colour, list(mean_change([one]).items()), dash)
        for one, (colour, dash) in zip(others, LOOKS, strict=False)
    ]


def _group_lines(outcome: SearchOutcome, others: Sequence[LanguageOutcome]) -> list[Line]:
    """One line per group that has languages; what goes by the same thing has one colour."""
    colours: dict[str, Colour] = {"all": "blue", "family": "orange", "resource": "green", "own": "grey"}
    used: Counter[str] = Counter()
    lines = []
    for group in outcome.groups:
        members = group.members(others)
        if members and used[group.kind] < len(_DASHES):
            dash = _DASHES[used[group.kind]]
            used[group.kind] += 1
            label = f"{group.name} ({len(members)})"
            lines.append(Line(label, colours[group.kind], list(mean_change(members).items()), dash))
    return lines


def _gap_map(others: Sequence[LanguageOutcome]) -> HeatMaps:
    gaps = sorted({gap for one in others for gap in gap_curve(one)})
    ordered = sorted(others, key=lambda one: language_label(one.language))
    cells = []
    for row, one in enumerate(ordered):
        for gap, best in gap_curve(one).items():
            change = best.trans - one.baseline_trans
            pair = f"pair {best.lirp}/{best.lsrp}"
            hover = f"{language_label(one.language)}, gap {gap}: {number_text(change, signed=True)}, {pair}"
            cells.append(HeatCell(row, gaps.index(gap), change, hover))
    return HeatMaps(
        name="gap-map",
        title="The same for every language",
        rows="language",
        columns="layers between the two projections, j - i",
        scale="Change of Trans (points)",
        panels=[HeatPanel("", "", cells)],
        row_labels=[language_label(one.language) for one in ordered],
        column_labels=[str(gap) for gap in gaps],
    )


def _relation_map(others: Sequence[LanguageOutcome]) -> HeatMaps:
    ordered = sorted(others, key=lambda one: language_label(one.language))
    relations = [one.relation for one in summarize_relations(others)]
    cells = []
    for column, one in enumerate(ordered):
        for score in one.relations:
            change = score.honest - score.baseline
            where = f"{relation_label(score.relation)} in {language_name(one.language)}"
            scores = f"from {score.baseline:.1f}; any pair {score.oracle.trans:.1f}"
            hover = f"{where}: {number_text(change, signed=True)} on {score.facts} facts, {scores}"
            cells.append(HeatCell(relations.index(score.relation), column, change, hover))
    return HeatMaps(
        name="relation-map",
        title="Every relation in every language, pairs chosen on other facts",
        rows="relation",
        columns="language",
        scale="Change of Trans (points)",
        panels=[HeatPanel("", "", cells)],
        row_labels=[relation_label(relation) for relation in relations],
        column_labels=[one.language for one in ordered],
    )

"""The pictures of a sweep of editors: how acc spreads over languages, what the masks learned, how training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Literal, TypeVar

from methods.editing.outcome import ALL, EditorOutcome, MethodOutcome, score
from orchestrator.report.blocks import Figure, HeatCell, HeatMaps, HeatPanel, Interval, Line, LinePlot
from orchestrator.report.languages import language_name

if TYPE_CHECKING:  # matplotlib is slow to import
    from matplotlib.figure import Figure as MatplotlibFigure

NameT = TypeVar("NameT")
Colour = Literal["blue", "orange", "green", "grey"]
COLOURS: Mapping[str, Colour] = {
    "fine-tuning": "grey",
    "editable-training": "blue",
    "knowledge-editor": "orange",
    "mend": "green",
}

DISTRIBUTION_NOTE = (
    "Each dot is a language, mean over the seeds; the line is the median of the languages, the bar their middle half. "
    "Narrow and to the right is what one wants."
)
MASKS_NOTE = (
    "Row l: the hundredth of dimensions where the mask of l is strongest; its colours say how alike the mask of every "
    "other language is there (cosine). Where a row is near 1, the languages share what l prefers; where it is low, l "
    "has a place of its own. One seed is shown, the first."
)
CURVES_NOTE = (
    "Scores on the dev split; bands span the seeds. Training keeps the editor with the best succ. Each is validated in "
    "the languages that it is trained in, so the height of a monolingual line (dashed) says nothing about others."
)


def distributions(outcome: EditorOutcome, codes: Sequence[str]) -> list[Figure]:
    """How acc spreads over the languages: by update language for edits in one, by edit language for edits in all."""
    figures = []
    for code in codes:
        rows = [
            (one, by_language)
            for one in outcome.chosen
            if len(by_language := _means(one, {update: (code, update) for update in outcome.languages})) > 1
        ]
        if rows:
            title = f"Acc in every language of edits in {language_name(code)}"
            figures.append(_distribution(f"reach-{code}", title, "acc in the update language (%)", rows))
    rows = [
        (one, by_language)
        for one in outcome.chosen
        if one.method.edits_in == ALL and len(by_language := _edit_means(outcome, one)) > 1
    ]
    if rows:
        title = "Acc in all languages of edits in every language"
        figures.append(
            _distribution("reach-all", title, "acc of edits in the language, over all update languages (%)", rows)
        )
    return figures


def language_maps(outcome: EditorOutcome, codes: Sequence[str]) -> list[HeatMaps]:
    """acc by edit and update language: a panel for each method that edits in all languages, else a row for each."""
    maps = []
    names = list(outcome.languages)
    whole = [one for one in outcome.chosen if one.method.edits_in == ALL]
    if whole:
        panels = []
        for one in whole:
            pairs = {(edit, update): (edit, update) for edit in names for update in names}
            values = _means(one, pairs)
            cells = [
                HeatCell(names.index(edit), names.index(update), value, f"{edit} to {update}: acc {value:.1f}")
                for (edit, update), value in values.items()
            ]
            panels.append(HeatPanel(one.method.label, "", cells))
        maps.append(_heat("languages", "Acc from language to language", "edit language", names, names, panels))
    for code in codes:
        rows = [one for one in outcome.chosen if all(code in run.edit_languages for run in one.runs)]
        cells = [
            HeatCell(index, names.index(update), value, f"{one.method.label}: {code} to {update}, acc {value:.1f}")
            for index, one in enumerate(rows)
            for update, value in _means(one, {update: (code, update) for update in names}).items()
        ]
        labels = [one.method.label for one in rows]
        title = f"Acc of edits in {language_name(code)}"
        maps.append(_heat(f"languages-{code}", title, "editor", labels, names, [HeatPanel("", "", cells)]))
    return [one for one in maps if any(panel.cells for panel in one.panels)]


def mask_maps(outcome: EditorOutcome) -> list[HeatMaps]:
    """How alike the languages' masks are where each is strongest (the paper's figure 5), a panel for each editor."""
    panels, names = [], list(outcome.languages)
    for one in outcome.chosen:
        masks = one.runs[0].masks
        if masks is None:
            continue
        names = list(masks.languages)
        cells = [
            HeatCell(row, column, value, f"where {names[row]} is strong, {names[column]}: {value:.2f}")
            for row, values in enumerate(masks.cosines)
            for column, value in enumerate(values)
        ]
        share = 100 * fmean(masks.open_gates)
        panels.append(HeatPanel(one.method.label, f"{masks.dimensions} dimensions, {share:.0f}% of gates open", cells))
    if not panels:
        return []
    return [
        HeatMaps(
            name="masks",
            title="Likeness of the language masks",
            rows="language whose strongest dimensions are compared",
            columns="language compared",
            scale="cosine",
            panels=panels,
            colours="sequential",
            row_labels=names,
            column_labels=names,
            note=MASKS_NOTE,
        )
    ]


def curves(outcome: EditorOutcome) -> list[LinePlot]:
    """Success on the dev split during training, a line for each method."""
    lines = []
    for one in outcome.chosen:
        histories = [{point.step: point.succ for point in run.curve} for run in one.runs if run.curve]
        if not histories:
            continue
        # Seeds may stop at different steps; only what all of them have reached can be averaged.
        shared = sorted(set.intersection(*(set(history) for history in histories)))
        points: list[tuple[float, float | Interval]] = []
        for step in shared:
            values = [history[step] for history in histories]
            points.append((float(step), Interval(fmean(values), min(values), max(values))))
        dash: Literal["solid", "dashed", "dotted"] = "dashed" if one.method.training == "mono" else "solid"
        if one.method.mask == "lime":
            dash = "dotted"
        lines.append(Line(one.method.label, COLOURS.get(one.method.editor, "grey"), points, dash))
    if not any(len(line.points) > 1 for line in lines):
        return []
    return [
        LinePlot(
            name="training",
            title="Success during training",
            x_axis="training steps",
            y_axis="succ on the dev split (%)",
            lines=lines,
            note=CURVES_NOTE,
        )
    ]


def _means(one: MethodOutcome, pairs: Mapping[NameT, tuple[str, str]]) -> dict[NameT, float]:
    """acc of each (edit language, update language), mean over the seeds, for those that every seed has."""
    return {
        name: fmean(run.scores[pair].acc for run in one.runs)
        for name, pair in pairs.items()
        if all(pair in run.scores and run.scores[pair].edits for run in one.runs)
    }


def _edit_means(outcome: EditorOutcome, one: MethodOutcome) -> dict[str, float]:
    """acc of edits in each language over all update languages, mean over the seeds."""
    means = {}
    for language in outcome.languages:
        scores = [score(run, outcome.reading, [language]) for run in one.runs]
        present = [each.acc for each in scores if each is not None]
        if present:
            means[language] = fmean(present)
    return means


def _heat(
    name: str, title: str, rows: str, row_labels: Sequence[str], columns: Sequence[str], panels: Sequence[HeatPanel]
) -> HeatMaps:
    return HeatMaps(
        name=name,
        title=title,
        rows=rows,
        columns="update language",
        scale="acc (%)",
        panels=panels,
        colours="sequential",
        span=(0, 100),
        row_labels=row_labels,
        column_labels=columns,
        note="Mean over the seeds.",
    )


def _distribution(
    name: str, title: str, axis: str, rows: Sequence[tuple[MethodOutcome, Mapping[str, float]]]
) -> Figure:
    plain = [(one.method.label, COLOURS.get(one.method.editor, "grey"), dict(values)) for one, values in rows]
    return Figure(name, title, partial(_draw_distribution, axis, plain), DISTRIBUTION_NOTE)


def _draw_distribution(axis: str, rows: Sequence[tuple[str, Colour, Mapping[str, float]]]) -> MatplotlibFigure:
    """A line of dots for each method, the best known way to see every language and their middle at once."""
    from matplotlib.figure import Figure as MatplotlibFigure

    from orchestrator.report.theme import LIGHT

    figure = MatplotlibFigure(figsize=(6.3, 0.7 + 0.42 * len(rows)))
    axes = figure.add_subplot()
    for height, (_, colour, values) in enumerate(reversed(rows)):
        ordered = sorted(values.values())
        low, middle, high = quantiles(ordered, n=4, method="inclusive")
        axes.barh(height, high - low, left=low, height=0.5, color=LIGHT[colour], alpha=0.18)
        axes.plot([middle, middle], [height - 0.3, height + 0.3], color=LIGHT[colour], lw=2)
        # Neighbours in value go up and down in turn, so that equal ones do not hide each other.
        heights = [height + 0.16 * ((index % 3) - 1) for index in range(len(ordered))]
        axes.scatter(ordered, heights, s=12, color=LIGHT[colour], alpha=0.85, linewidths=0, zorder=3)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in reversed(rows)])
    axes.set_xlim(-2, 102)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(axis)
    axes.tick_params(axis="both", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    return figure

"""The pictures of a study of knowledge neurons: who shares with whom, in which layers, and how alike states are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from methods.neurons.outcome import LanguageOverlap, NeuronOutcome
from methods.neurons.overlap import mean
from methods.neurons.results import LRP2, PLAIN
from orchestrator.report.blocks import HeatCell, HeatMaps, HeatPanel, Interval, Line, LinePlot, Series
from orchestrator.report.languages import language_label, language_name

VARIANT_NAMES = {PLAIN: "without LRP2", LRP2: "with LRP2"}
COLOURS: dict[str, Literal["grey", "blue"]] = {PLAIN: "grey", LRP2: "blue"}
LIRP, LSRP = Series("i: into the pivot (LIRP)", "ring", "orange"), Series("j: back again (LSRP)", "dot", "blue")

MAPS_NOTE = (
    "Overlap of the same relation in two languages, mean over relations and layers. On the right both languages are "
    "projected, the pivot never is. The diagonal is left empty. Point at a cell, or tap it, for its number."
)
LINES_NOTE = (
    "Overlap with the pivot, mean over relations and languages; bands span the languages. A layer's neurons are read "
    "inside the layer: those of layer i + 1 are the first that see the shift of LIRP at i, those of layer j the last. "
    "Where the solid lines lie above the dashed ones, languages share more than neurons that serve all relations."
)
LAYERS_NOTE = (
    "What LRP2 changes in each layer, mean over relations: green has more in common with the pivot, purple less. "
    "Earlier layers than i + 1 can change too: their neurons are judged by the answer, which comes later."
)
LIKENESS_NOTE = "Mean over languages; bands span the languages. After layer k, 1 to L."


def language_maps(outcome: NeuronOutcome) -> HeatMaps:
    """Overlap of every two languages, without and with LRP2."""
    codes = list(outcome.codes)
    panels = []
    for variant, name in VARIANT_NAMES.items():
        cells = [
            HeatCell(row, column, value, f"{codes[row]} and {codes[column]}, {name}: {value:.1f}%")
            for row, values in enumerate(outcome.matrices[variant])
            for column, value in enumerate(values)
            if row != column and value == value
        ]
        panels.append(HeatPanel(name[:1].upper() + name[1:], "", cells))
    return HeatMaps(
        name="languages",
        title="Knowledge neurons in common, language by language",
        rows="language",
        columns="language",
        scale="overlap (%)",
        panels=panels,
        colours="sequential",
        row_labels=codes,
        column_labels=codes,
        note=MAPS_NOTE,
    )


def layer_lines(outcome: NeuronOutcome) -> LinePlot:
    """Overlap with the pivot over the layers, of the same and of different relations, without and with LRP2."""
    lines = []
    for variant, name in VARIANT_NAMES.items():
        lines += [
            Line(
                f"same relation, {name}",
                COLOURS[variant],
                _over_layers(outcome, lambda one, k, v=variant: mean(one.overlaps[v].same[k])),  # type: ignore[misc]
            ),
            Line(
                f"different relations, {name}",
                COLOURS[variant],
                [
                    (k, _middle(value))
                    for k, value in _over_layers(
                        outcome,
                        lambda one, k, v=variant: one.overlaps[v].different[k],  # type: ignore[misc]
                    )
                ],
                "dashed",
            ),
        ]
    return LinePlot(
        name="layers",
        title=f"Overlap with {language_name(outcome.pivot_code)} in every layer",
        x_axis="layer",
        y_axis="overlap (%)",
        lines=lines,
        note=LINES_NOTE,
    )


def layer_maps(outcome: NeuronOutcome) -> HeatMaps:
    """What LRP2 changes in every layer of every language."""
    cells, lirp, lsrp = [], [], []
    labels = [language_label(one.language) for one in outcome.languages]
    for row, one in enumerate(outcome.languages):
        for k in range(outcome.layers):
            before, after = (mean(one.overlaps[variant].same[k]) for variant in (PLAIN, LRP2))
            if after == after and before == before:
                hover = f"{one.language}, layer {k + 1}: {before:.1f}% without, {after:.1f}% with LRP2"
                cells.append(HeatCell(row, k, after - before, hover))
        if one.record.pair:
            lirp.append((row, one.record.pair[0] - 1))
            lsrp.append((row, one.record.pair[1] - 1))
    return HeatMaps(
        name="change",
        title="Change by LRP2 in every layer",
        rows="language",
        columns="layer",
        scale="change of overlap (points)",
        panels=[HeatPanel("Change", "", cells, [lirp, lsrp])],
        series=[LIRP, LSRP],
        row_labels=labels,
        column_labels=[str(k + 1) for k in range(outcome.layers)],
        note=LAYERS_NOTE,
    )


def likeness_lines(outcome: NeuronOutcome) -> list[LinePlot]:
    """Likeness of parallel queries over the layers, a plot for each measure."""
    titles = {
        "cosine": ("Cosine of parallel queries", "mean cosine"),
        "centred": ("Cosine around the common centre", "mean centred cosine"),
        "cka": ("Likeness of their geometry", "linear CKA"),
    }
    plots = []
    for measure, (title, axis) in titles.items():
        lines = [
            Line(
                name,
                COLOURS[variant],
                _over_layers(
                    outcome,
                    lambda one, k, v=variant, m=measure: (  # type: ignore[misc]
                        getattr(one.record.likeness[v], m)[k] if one.record.likeness else float("nan")
                    ),
                ),
            )
            for variant, name in VARIANT_NAMES.items()
        ]
        plots.append(LinePlot(f"likeness-{measure}", title, "layer", axis, lines, LIKENESS_NOTE, digits=3))
    return plots


def _over_layers(
    outcome: NeuronOutcome, value: Callable[[LanguageOverlap, int], float]
) -> list[tuple[float, float | Interval]]:
    """For each layer the mean over languages with the smallest and the largest."""
    points: list[tuple[float, float | Interval]] = []
    for k in range(outcome.layers):
        values = [found for one in outcome.languages if (found := float(value(one, k))) == found]
        if values:
            points.append((k + 1, Interval(mean(values), min(values), max(values))))
    return points


def _middle(value: float | Interval) -> float:
    return value.value if isinstance(value, Interval) else value

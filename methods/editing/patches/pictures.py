"""The pictures of a sweep of patch neurons: what reaches which language, and what becomes of a model in its stream."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Literal

from methods.editing.outcome import Spread, spread
from methods.editing.patches.metrics import StreamPoint
from methods.editing.patches.outcome import PatcherOutcome, VariantName, VariantOutcome, mean
from orchestrator.report.blocks import DotPlot, HeatCell, HeatMaps, HeatPanel, Interval, Line, LinePlot, Series

Colour = Literal["blue", "orange", "green", "grey"]
COLOURS: Mapping[VariantName, Colour] = {
    "none": "grey",
    "fine-tuning": "grey",
    "transformer-patcher": "blue",
    "mpn-only": "orange",
    "mpn-all": "green",
}
CURVES: Mapping[str, tuple[str, str, str]] = {
    "locality_test": ("locality", "Locality in the course of the stream", "accuracy on test texts (%)"),
    "retained": ("retained", "What was corrected stays corrected", "edits so far that are right now (%)"),
}
CURVE_NOTE = "Mean over the streams, bands span the seeds; the last point is the end of the stream."


def clg_map(outcome: PatcherOutcome) -> list[HeatMaps]:
    """CLG by variant and language."""
    labels = [one.variant.label for one in outcome.variants]
    cells = [
        HeatCell(row, column, found.mean, f"{one.variant.label}: {language}, CLG {found.mean:.1f}")
        for row, one in enumerate(outcome.variants)
        for column, language in enumerate(outcome.others)
        if (found := one.clg(language)) is not None
    ]
    if not cells:
        return []
    return [
        HeatMaps(
            name="clg",
            title="CLG in every language",
            rows="variant",
            columns="language",
            scale="accuracy on the requests (%)",
            panels=[HeatPanel("", "", cells)],
            colours="sequential",
            row_labels=labels,
            column_labels=list(outcome.others),
            note="Mean over the seeds.",
        )
    ]


def stream_curves(outcome: PatcherOutcome) -> list[LinePlot]:
    """Locality, and what stays of the edits, over the edits made."""
    plots = []
    for figure, (name, title, axis) in CURVES.items():
        lines = [line for one in outcome.variants if (line := _line(one, figure)) is not None]
        if any(len(line.points) > 1 for line in lines):
            original = outcome.of("none")
            raw = original.figure(figure) if original is not None and figure == "locality_test" else None
            plots.append(
                LinePlot(
                    name=f"stream-{name}",
                    title=title,
                    x_axis="edits made",
                    y_axis=axis,
                    lines=lines,
                    reference=raw.mean if raw is not None else None,
                    note=CURVE_NOTE + (" The strong line is the original model." if raw is not None else ""),
                )
            )
    return plots


def kept_and_lost(outcome: PatcherOutcome) -> list[DotPlot]:
    """The share of edits that is right just after the edit, and at the end."""
    rows = [
        (one.variant.label, [_interval(one.figure(figure)) for figure in ("success", "retained")])
        for one in outcome.variants
        if one.figure("success") is not None
    ]
    if not rows:
        return []
    return [
        DotPlot(
            name="success",
            title="Edits right at once and in the end",
            axis="share of the edits (%)",
            series=[Series("just after the edit", "ring", "blue"), Series("at the end of the stream", "dot", "orange")],
            rows=rows,
            note="Whiskers span the seeds.",
            joined=True,
        )
    ]


def _line(one: VariantOutcome, figure: str) -> Line | None:
    """A figure over the edits made, at the numbers of edits that all streams have reached, and at their ends."""
    if one.variant.name == "none":
        return None
    streams = [{point.edits: point for point in run.curve[:-1]} for run in one.runs]
    ends = [run.curve[-1] for run in one.runs]
    shared = sorted(set.intersection(*(set(stream) for stream in streams))) if streams else []
    found: list[tuple[float, float | Interval]] = []
    for edits in shared:
        value = _over_seeds(one, [stream[edits] for stream in streams], figure)
        if value is not None:
            found.append((float(edits), value))
    last = fmean(point.edits for point in ends)
    value = _over_seeds(one, ends, figure)
    if value is not None and last > (found[-1][0] if found else -1):
        found.append((last, value))
    dash: Literal["solid", "dashed", "dotted"] = "dashed" if one.variant.name == "fine-tuning" else "solid"
    if "+" in one.variant.drawn:
        dash = "dotted"
    return Line(one.variant.label, COLOURS[one.variant.name], found, dash) if found else None


def _over_seeds(one: VariantOutcome, points: list[StreamPoint], figure: str) -> Interval | None:
    by_seed: dict[int, list[float | None]] = {}
    for run, point in zip(one.runs, points, strict=True):
        value = getattr(point, figure)
        by_seed.setdefault(run.seed, []).append(None if value is None else 100 * value)
    values = [found for each in by_seed.values() if (found := mean(each)) is not None]
    if not values:
        return None
    whole = spread(values)
    return Interval(whole.mean, whole.low, whole.high)


def _interval(value: Spread | None) -> Interval | float | None:
    if value is None:
        return None
    return Interval(value.mean, value.low, value.high) if value.low < value.high else value.mean

"""One block of every kind with known numbers, languages among them."""

from __future__ import annotations

from orchestrator.report.blocks import (
    DotPlot,
    HeatCell,
    HeatMaps,
    HeatPanel,
    Interval,
    Line,
    LinePlot,
    Section,
    Series,
    Table,
)

LANGUAGES = ("English (en)", "German (de)", "Arabic (ar)", "Egyptian Arabic (arz)")

TABLE = Table(
    "Gain & loss (%)",
    ["Language", "Gain", "Note"],
    [
        ["German (de)", Interval(1.25, -0.5, 3.0), "50% of {a_b}"],
        ["Arabic (ar)", -2.0, "[?]"],
        ["Egyptian Arabic (arz)", None, 'العربية, "x"'],
    ],
    note="Points & so on.",
    signed=["Gain"],
    footer=["Mean", -0.375, ""],
)
DOTS = DotPlot("dots", "Dots", "points", [Series("a", "dot", "blue")], [(name, [1.0]) for name in LANGUAGES])
LINES = LinePlot(
    "lines",
    "Lines",
    "layer",
    "gain (points)",
    [
        Line("German (de)", "blue", [(1, Interval(2.0, 1.0, 3.0)), (2, 4.0), (3, -1.0)]),
        Line("Arabic (ar)", "orange", [(1, 0.0), (3, 1.0)], "dashed"),
    ],
    note="Point at a mark.",
    reference=0.0,
    signed=True,
)
MATRIX = HeatMaps(
    "matrix",
    "Between languages",
    "language of the edit",
    "language of the question",
    "Accuracy (%)",
    [
        HeatPanel(
            "Fine-tuning",
            "mean 50",
            [
                HeatCell(row, column, 25.0 * row + column, f"{row} to {column}")
                for row in range(len(LANGUAGES))
                for column in range(len(LANGUAGES))
            ],
        )
    ],
    colours="sequential",
    span=(0.0, 100.0),
    row_labels=LANGUAGES,
    column_labels=[name.rpartition("(")[2].rstrip(")") for name in LANGUAGES],
)


def gallery() -> list[Section]:
    """All blocks under one heading."""
    return [Section("Gallery", "", [TABLE, DOTS, LINES, MATRIX])]

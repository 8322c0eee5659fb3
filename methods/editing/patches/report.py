"""What a sweep of patch neurons shows: its tables and pictures, as pure functions of its outcome."""

from __future__ import annotations

from collections.abc import Sequence

from methods.editing.outcome import Spread
from methods.editing.patches.outcome import PatcherOutcome, VariantOutcome, gain
from methods.editing.patches.paper import ALL_WRONG, CITATION, XFEVER, XNLI, PaperRow, paper_row
from methods.editing.patches.pictures import clg_map, kept_and_lost, stream_curves
from orchestrator.report.blocks import DotPlot, HeatMaps, Interval, LinePlot, Section, Table
from orchestrator.report.cells import cell_text
from orchestrator.report.languages import language_label, language_name

HOW_TO_READ = (
    "A stream of requests comes one after the other; every mistake is corrected, and what was corrected is to stay. "
    "All figures are of the model at the end of the stream. Reliability: accuracy on the requests themselves. MLG: on "
    "the same requests in other words. CLG: on the same requests in the other languages, where no edit was made. "
    "Locality: on texts that no edit is about, in the edit language. Transformer-Patcher gives every mistake a "
    "neuron of its own in the last feed-forward network; MPN trains that neuron on the same text in one more language, "
    "drawn at random."
)
SPREAD_IS = "Numbers are means over seeds (and folders), brackets the lowest and the highest seed."
PAPER_BESIDE = f"The paper's columns are printed numbers of {CITATION}; its averages are recomputed from its columns."
MISPRINTED = (
    "The averages are recomputed from the printed columns. Three printed ones are others: in Table 1 MPN (only) is "
    "printed as 92.92, its columns give 90.92, and MPN (all) as 96.94, they give 97.25; in Table 2 the original model "
    "is printed as 63.43, they give 63.35. The paper does not say which trigger its MPN has in Table 2; it is compared "
    "with MPN (only)."
)


def report_sections(outcome: PatcherOutcome) -> Sequence[Section]:
    """The report of a sweep of patch neurons, from the answer to the choices behind it."""
    sections = [Section("What it found", HOW_TO_READ, [final_table(outcome), language_table(outcome)])]
    if outcome.classifier:
        sections.append(Section("What is edited", "", [_classifier(outcome)]))
    pictures: dict[str, Sequence[DotPlot | HeatMaps | LinePlot]] = {
        "Which languages does an edit reach?": clg_map(outcome),
        "What does it cost in the course of the stream?": stream_curves(outcome),
    }
    sections += [Section(title, "", blocks) for title, blocks in pictures.items() if blocks]
    kept: list[Table | DotPlot] = [*kept_and_lost(outcome), success_table(outcome)]
    sections.append(Section("Is an edit right at once, and in the end?", "", kept))
    return [*sections, _paper(), _choices(outcome)]


def headline(outcome: PatcherOutcome) -> str:
    """The verdict: which variant carries edits over best, and what that costs in locality."""
    scored = [(found, one) for one in outcome.variants if one.variant.name != "none" and (found := one.figure("clg"))]
    if not scored:
        return (
            "No stream with edits has finished in more than one language, so nothing can be said about carrying over."
        )
    best, one = max(scored, key=lambda pair: pair[0].mean)
    text = (
        f"{one.variant.label} carries edits in {language_name(outcome.edit_language)} to the "
        f"{len(outcome.others)} other languages best: CLG {_in_words(best)}"
    )
    compared = [other for name in ("none", "transformer-patcher") if (other := outcome.of(name)) not in (None, one)]
    beside = [f"{found.mean:.1f} ({each.variant.label})" for each in compared if each and (found := each.figure("clg"))]
    text += (", against " + ", ".join(beside) if beside else "") + "."
    original = outcome.of("none")
    if original is not None:
        lost = [
            f"{_in_words(difference, signed=True)} points on {where} texts"
            for figure, where in (("locality_train", "training"), ("locality_test", "test"))
            if (difference := gain(one, original, figure)) is not None
        ]
        text += f" It changes locality by {' and '.join(lost)}." if lost else ""
    reliable = one.figure("reliability")
    if reliable is not None:
        text += f" At the end of the stream {_in_words(reliable)}% of the requests are answered rightly."
    many = any(len({run.seed for run in each.runs}) > 1 for each in outcome.variants)
    return text + (" Brackets span the seeds." if many else "")


def final_table(outcome: PatcherOutcome) -> Table:
    """The paper's Tables 1 and 2 without their languages: the final models, the paper's beside ours."""
    columns = {
        "Patches": "patches",
        "Reliability": "reliability",
        "MLG": "mlg",
        "CLG": "clg",
        "Locality train": "locality_train",
        "Locality test": "locality_test",
    }
    shown = {name: figure for name, figure in columns.items() if any(one.figure(figure) for one in outcome.variants)}
    beside = [(one, paper_row(outcome.paper_task, one.variant.name)) for one in outcome.variants]
    paper = [name for name in ("Patches", "Reliability", "CLG", "Locality test") if any(row for _, row in beside)]
    rows = [
        [
            one.variant.label,
            *(_cell(one, figure) for figure in shown.values()),
            *(_printed(row, name) for name in paper),
        ]
        for one, row in beside
    ]
    notes = [f"{outcome.requests} requests in {language_name(outcome.edit_language)} in every stream.", SPREAD_IS]
    return Table(
        title="The model at the end of the stream",
        columns=["Variant", *shown, *(f"Paper's {name}" for name in paper)],
        rows=rows,
        spare=[name for name in ("MLG", "Locality train") if name in shown],
        note=" ".join([*notes, PAPER_BESIDE] if paper else notes),
    )


def language_table(outcome: PatcherOutcome) -> Table:
    """CLG in every language, a column for each variant; the paper's beside ours."""
    papers = [
        (one, row) for one in outcome.variants if (row := paper_row(outcome.paper_task, one.variant.name)) is not None
    ]
    columns = [one.variant.label for one in outcome.variants] + [f"Paper's {row.label}" for _, row in papers]
    rows = [
        [
            language_label(language),
            *(_interval(one.clg(language)) for one in outcome.variants),
            *(row.clg.get(language) for _, row in papers),
        ]
        for language in outcome.others
    ]
    means = [_cell(one, "clg") for one in outcome.variants]
    return Table(
        title="CLG by language",
        columns=["Language", *columns],
        rows=rows,
        footer=["Mean", *means, *(row.average for _, row in papers)],
        note="Accuracy on all requests in the language at the end of the stream. " + SPREAD_IS,
    )


def success_table(outcome: PatcherOutcome) -> Table:
    """What Huang et al. report: right just after the edit, in other words, at the end; and the retain rates."""
    columns = {
        "Edits": "edits",
        "SR": "success",
        "GR": "generality",
        "ER": "retained",
        "TrainR": "train_retain_rate",
        "TestR": "test_retain_rate",
    }
    edited = [one for one in outcome.variants if one.figure("success") is not None]
    shown = {name: figure for name, figure in columns.items() if any(one.figure(figure) for one in edited)}
    return Table(
        title="Success at once and in the end",
        columns=["Variant", *shown],
        rows=[[one.variant.label, *(_cell(one, figure) for figure in shown.values())] for one in edited],
        note="Of the requests that were edited, SR: right just after its edit; GR: its rephrasings right then; ER: "
        "right at the end of the stream. TrainR, TestR: accuracy on other texts after the stream as a share of what it "
        "was before. " + SPREAD_IS,
    )


def _classifier(outcome: PatcherOutcome) -> Table:
    """How well the raw classifier reads each language."""
    return Table(
        title="The classifier before any edit",
        columns=["Language", "Accuracy", "Mistakes"],
        rows=[[language_label(language), acc, mistakes] for language, acc, mistakes in outcome.classifier],
        note="On the test split. It was trained on English texts alone.",
    )


def _paper() -> Section:
    """What the paper prints, for comparison with any sweep."""
    titles = {
        "Table 1: XFEVER, 10,496 requests": XFEVER,
        "Table 2: XNLI, 5,010 requests": XNLI,
        "Table 3: the 722 requests of XFEVER that are wrong in all six languages": ALL_WRONG,
    }
    text = f"Printed numbers of {CITATION}; nothing here was measured by us. {MISPRINTED}"
    return Section("What the paper reports", text, [_paper_table(title, rows) for title, rows in titles.items()])


def _paper_table(title: str, rows: Sequence[PaperRow]) -> Table:
    languages = list(rows[0].clg)
    with_rephrasings = rows[0].mlg is not None
    with_train = rows[0].locality_train is not None
    columns = ["Model", "Patches", "Reliability", *(["MLG"] if with_rephrasings else []), *languages, "Average"]
    columns += ["Printed average", *(["Locality train", "Locality test"] if with_train else ["Locality"])]
    return Table(
        title=f"The paper's {title}",
        columns=columns,
        rows=[
            [
                row.label,
                row.patches,
                row.reliability,
                *([row.mlg] if with_rephrasings else []),
                *row.clg.values(),
                row.average,
                f"{row.printed_average:.2f}" + (" (misprint)" if row.misprinted else ""),
                *([row.locality_train] if with_train else []),
                row.locality_test,
            ]
            for row in rows
        ],
        digits=2,
    )


def _choices(outcome: PatcherOutcome) -> Section:
    blocks = [
        Table(
            title="Decisions",
            columns=["Decision", "Value"],
            rows=[list(item) for item in outcome.decisions.items()],
            note="Papers and released code leave these open or differ; every trial file holds them, with all settings.",
        )
    ]
    if outcome.notes:
        blocks.append(Table(title="Notes", columns=["Note"], rows=[[note] for note in outcome.notes]))
    return Section("What was decided on the way", "", blocks)


def _printed(row: PaperRow | None, column: str) -> float | None:
    if row is None:
        return None
    return {
        "Patches": float(row.patches),
        "Reliability": row.reliability,
        "CLG": row.average,
        "Locality test": row.locality_test,
    }[column]


def _cell(one: VariantOutcome, figure: str) -> Interval | float | int | None:
    return _interval(one.figure(figure))


def _interval(value: Spread | None) -> Interval | float | int | None:
    """The mean with its brackets; alone where the seeds agree, or there is but one."""
    if value is None:
        return None
    if value.low < value.high:
        return Interval(value.mean, value.low, value.high)
    return value.mean


def _in_words(value: Spread, *, signed: bool = False) -> str:
    return cell_text(_interval(value), signed=signed)

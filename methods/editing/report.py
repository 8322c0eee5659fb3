"""What a sweep of editors shows: its tables and pictures, as pure functions of its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from methods.editing.outcome import (
    ALL,
    EDITOR_NAMES,
    EditorOutcome,
    Method,
    MethodOutcome,
    Spread,
    over_seeds,
    score,
    spread,
)
from methods.editing.paper import CITATION, TABLE_1, TABLE_2, PaperRow, PaperTask, paper_scores
from methods.editing.pictures import curves, distributions, language_maps, mask_maps
from orchestrator.report.blocks import Figure, HeatMaps, Interval, LinePlot, Section, Table
from orchestrator.report.cells import cell_text
from orchestrator.report.languages import language_label, language_name

HOW_TO_READ = (
    "An editor is asked to change one prediction. Acc: how often the same request in an update language is then "
    "answered as asked, every token right. Con: how often an unrelated sentence keeps its prediction. Succ: their "
    "harmonic mean. Monolingual training has only ever edited, updated and retained in one language; cross-lingual "
    "training updates and retains in a random language at every step."
)
SPREAD_IS = "Numbers are means over seeds, brackets the lowest and the highest seed."
READING = {
    "labels": "Succ goes by con at the label positions (the masks, or the class).",
    "all": "Succ goes by con at every position of the sentence, as in the paper.",
}
PAPER_BESIDE = (
    f"The paper's columns are printed numbers of {CITATION}. Its cross-lingual editors were trained on edits in all "
    "languages."
)
SCORES = ("acc", "con", "succ")


def report_sections(outcome: EditorOutcome) -> Sequence[Section]:
    """The report of a sweep of editors, from the answer to the choices behind it."""
    found = [edits_in_one(outcome, code) for code in single_languages(outcome)]
    if table := edits_in_all(outcome):
        found.append(table)
    sections = [Section("What it found", HOW_TO_READ, found)]
    if outcome.classifier:
        sections.append(Section("What is edited", "", [_classifier(outcome)]))
    pictures: dict[str, Sequence[Figure | HeatMaps | LinePlot]] = {
        "Which languages does an edit reach?": distributions(outcome, single_languages(outcome)),
        "From which language to which?": language_maps(outcome, single_languages(outcome)),
        "What did the masks learn?": mask_maps(outcome),
        "How did training go?": curves(outcome),
    }
    sections += [Section(title, "", blocks) for title, blocks in pictures.items() if blocks]
    if any(one.method.settings for one in outcome.methods):
        sections.append(Section("Which hyperparameters?", "", [settings_table(outcome)]))
    return [*sections, _paper(), _choices(outcome)]


def single_languages(outcome: EditorOutcome) -> list[str]:
    """The edit languages that have a table of their own: those asked for, else English, else the first."""
    asked = [one.method.edits_in for one in outcome.methods if one.method.edits_in != ALL]
    edited = [language for one in outcome.methods for run in one.runs for language in run.edit_languages]
    return list(dict.fromkeys(asked)) or (["en"] if "en" in edited else edited[:1])


def headline(outcome: EditorOutcome) -> str:
    """Which editor carries edits best, and what cross-lingual training gains where the edit was not made."""
    code = next(iter(single_languages(outcome)), "")
    scored = [
        (found, one)
        for one in outcome.chosen
        if (found := over_seeds(one, outcome.reading, [code])) and len(outcome.languages) > 1
    ]
    if not scored:
        return "No trial has scores in more than one language, so nothing can be said about carrying edits over."
    best, one = max(scored, key=lambda pair: (pair[0]["succ"].mean, pair[0]["acc"].mean))
    text = (
        f"{one.method.label} carries edits in {language_name(code)} best by succ: over all {len(outcome.languages)} "
        f"languages acc {best['acc'].mean:.1f}, con {best['con'].mean:.1f}, succ {_with_spread(best['succ'])}."
    )
    gains = [
        f"{_with_spread(gain, signed=True)} points ({EDITOR_NAMES[editor]})"
        for editor in dict.fromkeys(one.method.editor for one in outcome.chosen)
        if (gain := cross_gain(outcome, editor, code)) is not None
    ]
    if gains:
        text += (
            " Cross-lingual instead of monolingual training changes acc in the other languages by "
            + ", ".join(gains)
            + ". Brackets span the seeds."
        )
    return text


def cross_gain(outcome: EditorOutcome, editor: str, code: str) -> Spread | None:
    """What cross-lingual training adds to acc in the languages an edit in `code` was not made in, seed by seed.

    The cross-lingual editor is the one trained on edits in `code` alone where the grid has it, else on edits in all
    languages. None where one of the two is missing.
    """
    plain = {one.method.family: one for one in outcome.chosen}
    mono = plain.get((editor, "mono", code, "none"))
    cross = plain.get((editor, "cross", code, "none")) or plain.get((editor, "cross", ALL, "none"))
    if mono is None or cross is None:
        return None
    accs = [
        {
            run.seed: found.acc
            for run in one.runs
            if (found := score(run, outcome.reading, [code], where="others")) is not None
        }
        for one in (mono, cross)
    ]
    gains = [accs[1][seed] - accs[0][seed] for seed in accs[0] if seed in accs[1]]
    return spread(gains) if gains else None


def edits_in_one(outcome: EditorOutcome, code: str) -> Table:
    """The paper's Table 1: edits in one language, updates in all."""
    rows = [
        [*_who(one.method), *_scores(outcome, one, [code], split=True), *_beside(outcome, TABLE_1, one.method, code)]
        for one in outcome.chosen
        if all(code in run.edit_languages for run in one.runs)
    ]
    title = f"Edits in {language_name(code)}, updates in all languages"
    return _table(outcome, title, rows, split=True, paper=outcome.paper_task is not None and code == "en")


def edits_in_all(outcome: EditorOutcome) -> Table | None:
    """The paper's Table 2: edits in all languages, updates in all; None where no method edits in several."""
    rows = [
        [*_who(one.method), *_scores(outcome, one, one.runs[0].edit_languages), *_beside(outcome, TABLE_2, one.method)]
        for one in outcome.chosen
        if one.method.edits_in == ALL
    ]
    title = "Edits in all languages, updates in all languages"
    return _table(outcome, title, rows, paper=outcome.paper_task is not None) if rows else None


def settings_table(outcome: EditorOutcome) -> Table:
    """Every combination of hyperparameters with its success on the dev and on the test split, the best one marked."""
    rows = []
    for one in outcome.methods:
        test = over_seeds(one, outcome.reading, one.runs[0].edit_languages)
        validated = [run.validation for run in one.runs if run.validation is not None]
        named = ", ".join(f"{name} {_plain(value)}" for name, value in one.method.settings)
        rows.append(
            [
                one.method.label,
                named,
                fmean(validated) if validated else None,
                _interval(test["succ"]) if test else None,
                "chosen" if one.chosen else "",
            ]
        )
    return Table(
        title="Hyperparameters",
        columns=["Method", "Hyperparameters", "Dev succ", "Test succ", ""],
        rows=rows,
        note="The tables and pictures show the combination with the best success on the dev split; the test split has "
        "no say in it.",
    )


def _who(method: Method) -> list[object]:
    return [method.editor_name + (" with LiME" if method.mask == "lime" else ""), method.trained_in]


def _scores(
    outcome: EditorOutcome, one: MethodOutcome, edits_in: Sequence[str], *, split: bool = False
) -> list[object]:
    found = over_seeds(one, outcome.reading, edits_in)
    if found is None:
        return [None] * (6 if split else 4)
    cells: list[object] = [_interval(found["acc"])]
    if split:
        for where in ("own", "others"):
            part = over_seeds(one, outcome.reading, edits_in, where=where)
            cells.append(_interval(part["acc"]) if part else None)
    return [*cells, *(_interval(found[name]) for name in ("con", "con_all", "succ"))]


def _beside(
    outcome: EditorOutcome, table: tuple[PaperRow, ...], method: Method, code: str = "en"
) -> list[float | None]:
    """The paper's acc, con and succ of a method; no columns where the sweep is not of the paper's model and task."""
    if outcome.paper_task is None or code != "en":
        return []
    task: PaperTask = "xnli" if outcome.paper_task == "xnli" else "mlama"
    return list(paper_scores(table, method.editor, method.training, method.mask, task) or (None,) * 3)


def _table(
    outcome: EditorOutcome, title: str, rows: Sequence[list[object]], *, split: bool = False, paper: bool = False
) -> Table:
    columns = ["Editor", "Training", "Acc"]
    columns += ["Acc own", "Acc others"] if split else []
    columns += ["Con", "Con all", "Succ"]
    columns += [f"Paper's {name}" for name in SCORES] if paper else []
    kept = list(range(len(columns)))
    if all(row[columns.index("Con")] == row[columns.index("Con all")] for row in rows):
        kept.remove(columns.index("Con all"))  # a classifier has one prediction, there is no other position
    notes = [SPREAD_IS, READING[outcome.reading]]
    if split:
        notes.append("Own: the update language is the edit's; others: it is not.")
    if len(kept) == len(columns):
        notes.append("Con: at the label positions; con all: at every position of the sentence.")
    notes += [PAPER_BESIDE] if paper else []
    return Table(
        title=title,
        columns=[columns[index] for index in kept],
        rows=[[row[index] for index in kept] for row in rows],
        spare=[name for name in ("Acc own", "Con all") if name in (columns[index] for index in kept)],
        note=" ".join(notes),
    )


def _classifier(outcome: EditorOutcome) -> Table:
    """How well the raw classifier reads each language: what it misreads is what the test edits."""
    return Table(
        title="The classifier before any edit",
        columns=["Language", "Accuracy", "Mistakes"],
        rows=[[language_label(language), acc, mistakes] for language, acc, mistakes in outcome.classifier],
        note="On the test split. Its mistakes are the edit requests of the test; con is counted on all texts.",
    )


def _paper() -> Section:
    """What the paper prints, for comparison with any sweep."""
    blocks = []
    for number, table, title in ((1, TABLE_1, "edits in English"), (2, TABLE_2, "edits in all languages")):
        rows = [
            [
                *_who(Method(row.editor, row.training, "en" if row.training == "mono" else ALL, row.mask)),
                *row.scores["mlama"],
                *row.scores["xnli"],
            ]
            for row in table
        ]
        blocks.append(
            Table(
                title=f"The paper's Table {number}: {title}",
                columns=[
                    "Editor",
                    "Training",
                    *(f"{task} {name}" for task in ("mLAMA", "XNLI") for name in SCORES),
                ],
                rows=rows,
                digits=2,
                note="Updates in all languages.",
            )
        )
    return Section("What the paper reports", f"Printed numbers of {CITATION}; nothing here was measured by us.", blocks)


def _choices(outcome: EditorOutcome) -> Section:
    blocks = [
        Table(
            title="Decisions",
            columns=["Decision", "Value"],
            rows=[list(item) for item in outcome.decisions.items()],
            note="Paper and released code leave these open or differ; every one of them is an option of the job.",
        )
    ]
    if outcome.notes:
        blocks.append(Table(title="Notes", columns=["Note"], rows=[[note] for note in outcome.notes]))
    return Section("What was decided on the way", "", blocks)


def _interval(value: Spread) -> Interval | float:
    """The mean with its brackets; alone where the seeds agree, or there is but one."""
    return Interval(value.mean, value.low, value.high) if value.low < value.high else value.mean


def _with_spread(value: Spread, *, signed: bool = False) -> str:
    return cell_text(_interval(value), signed=signed)


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

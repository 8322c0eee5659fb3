"""What a sweep of editors found, as plain numbers: the input of its report.

Accuracy (acc), consistency (con) and success (succ, their harmonic mean) are percentages, 0 to 100. An edit is made in
an edit language; acc is counted in an update language, con on unrelated sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

ALL = "all"
"""In the place of an edit language: edits in every language."""

EDITOR_NAMES = {
    "fine-tuning": "Fine-tuning",
    "editable-training": "Editable Training",
    "knowledge-editor": "KnowledgeEditor",
    "mend": "MEND",
}


@dataclass(frozen=True)
class Method:
    """What is compared: a cell of the grid without its seed.

    Attributes:
        editor: as in the registry of editors.
        training: "none", "mono" or "cross".
        edits_in: the language that edits are made in, or "all".
        mask: "none" or "lime".
        settings: the hyperparameters that the grid varies, by name.
    """

    editor: str
    training: str
    edits_in: str
    mask: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def editor_name(self) -> str:
        return EDITOR_NAMES.get(self.editor, self.editor)

    @property
    def trained_in(self) -> str:
        """The languages of its training, in the words of the paper's tables."""
        if self.training == "none":
            return "n/a"
        if self.training == "mono":
            return f"{self.edits_in} only"
        return "all" if self.edits_in == ALL else f"edits {self.edits_in}, updates all"

    @property
    def label(self) -> str:
        """Its name in a sentence or a legend, without the hyperparameters."""
        if self.training == "none":
            return self.editor_name
        return f"{self.editor_name} ({self.trained_in}{', LiME' if self.mask == 'lime' else ''})"

    @property
    def family(self) -> tuple[str, str, str, str]:
        """The method without its hyperparameters."""
        return (self.editor, self.training, self.edits_in, self.mask)


@dataclass(frozen=True)
class PairScore:
    """Edits in one language, seen from another one.

    Attributes:
        edits: requests that acc counts.
        acc: percent of them that are answered as the edit asks, every token of the answer right.
        retains: unrelated sentences that con counts: in random languages, or in the update language where every edit
            is tested in all of them.
        con: percent of them whose predictions at the label positions stay.
        con_all: percent of them whose predictions stay at every position; equal to `con` for a classifier.
    """

    edits: int
    acc: float
    retains: int
    con: float
    con_all: float


@dataclass(frozen=True)
class Score:
    """Means over languages; `succ` is the harmonic mean of `acc` and the consistency that the sweep goes by."""

    acc: float
    con: float
    con_all: float
    succ: float


@dataclass(frozen=True)
class CurvePoint:
    """A validation: after how many steps, the training loss since the last one, and the scores on the dev split."""

    step: int
    loss: float | None
    acc: float
    con: float
    succ: float


@dataclass(frozen=True)
class MaskSummary:
    """How alike two languages' masks are where one of them is strong.

    Attributes:
        languages: G of them.
        cosines: [G][G]; row l: the cosine of l's mask with every language's on l's strongest hundredth of dimensions.
        dimensions: how many those are.
        open_gates: per language the share of gates that are not zero.
    """

    languages: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...]
    dimensions: int
    open_gates: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """One trial: a method with one seed.

    Attributes:
        scores: by (edit language, update language), on the test split.
        curve: validations, the first one before training; empty where nothing is trained.
        best_step: the step whose editor was tested.
        validation: succ on the dev split of the editor that was tested; None where nothing was validated.
        steps: optimizer steps taken.
        masks: of a method with masks.
    """

    seed: int
    scores: Mapping[tuple[str, str], PairScore]
    curve: tuple[CurvePoint, ...]
    best_step: int
    validation: float | None
    steps: int
    masks: MaskSummary | None

    @property
    def edit_languages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(edit for edit, _ in self.scores))


@dataclass(frozen=True)
class MethodOutcome:
    """All seeds of a method; `chosen` where its hyperparameters are the best on the dev split."""

    method: Method
    runs: tuple[Run, ...]
    chosen: bool


@dataclass(frozen=True)
class EditorOutcome:
    """A whole sweep.

    Attributes:
        task: as the user named it.
        model: as the user named it.
        languages: that predictions are updated in.
        reading: the consistency that succ goes by: "labels" or "all".
        paper_task: "mlama" or "xnli" where model and task are the paper's, so that its numbers may stand beside ours.
        methods: in the order of the grid.
        decisions: every choice that the papers leave open, with its value.
        notes: warnings worth keeping, such as combinations left out.
        classifier: of tasks that correct a classifier: (language, accuracy in percent, mistakes) on the test split.
    """

    task: str
    model: str
    languages: tuple[str, ...]
    reading: str
    paper_task: str | None
    methods: tuple[MethodOutcome, ...]
    decisions: Mapping[str, str]
    notes: tuple[str, ...]
    classifier: tuple[tuple[str, float, int], ...] = ()

    @property
    def chosen(self) -> list[MethodOutcome]:
        return [one for one in self.methods if one.chosen]


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with the lowest and the highest of them."""

    mean: float
    low: float
    high: float


def harmonic(acc: float, con: float) -> float:
    """2 acc con / (acc + con), and 0 where both are 0."""
    return 2 * acc * con / (acc + con) if acc + con else 0.0


def score(run: Run, reading: str, edits_in: Sequence[str], *, where: str = ALL) -> Score | None:
    """Scores over edit languages, each counting the same (the paper, section 4.1); succ of the averages.

    Args:
        run: a trial.
        reading: the consistency that succ goes by, "labels" or "all".
        edits_in: the edit languages.
        where: "all" update languages, the edit's "own", or the "others". Within an edit language every sentence
            counts the same.

    Returns:
        None where there is nothing to average.
    """
    keep: Mapping[str, Callable[[str, str], bool]] = {
        ALL: lambda edit, update: True,
        "own": lambda edit, update: edit == update,
        "others": lambda edit, update: edit != update,
    }
    means = []
    for language in edits_in:
        rows = [row for (edit, update), row in run.scores.items() if edit == language and keep[where](edit, update)]
        edits, retains = sum(row.edits for row in rows), sum(row.retains for row in rows)
        if edits and retains:
            means.append(
                (
                    sum(row.acc * row.edits for row in rows) / edits,
                    sum(row.con * row.retains for row in rows) / retains,
                    sum(row.con_all * row.retains for row in rows) / retains,
                )
            )
    if not means:
        return None
    acc, con, con_all = (fmean(column) for column in zip(*means, strict=True))
    return Score(acc, con, con_all, harmonic(acc, con if reading == "labels" else con_all))


def spread(values: Sequence[float]) -> Spread:
    """Mean, lowest and highest of at least one value."""
    return Spread(fmean(values), min(values), max(values))


def over_seeds(
    one: MethodOutcome, reading: str, edits_in: Sequence[str], *, where: str = ALL
) -> Mapping[str, Spread] | None:
    """acc, con, con_all and succ of a method over its seeds; None where a seed has nothing to average."""
    scores = [score(run, reading, edits_in, where=where) for run in one.runs]
    present = [each for each in scores if each is not None]
    if not present or len(present) < len(scores):
        return None
    return {name: spread([getattr(each, name) for each in present]) for name in ("acc", "con", "con_all", "succ")}

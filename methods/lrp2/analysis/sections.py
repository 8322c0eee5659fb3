"""What the report says of groups, evidence and layers: the paper's Tables 1, 4 and 5 and Figures 4 and 5.

For whatever model was run, each with its honest counterpart, and with the paper's numbers beside ours where the model
is one of the paper's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, median

from methods.lrp2.analysis.groups import HIGH, MEDIUM, Group, family_groups
from methods.lrp2.analysis.paper import TABLE_1_COLUMNS, Reference
from methods.lrp2.analysis.statistics import REAL_GAIN
from methods.lrp2.outcome import LanguageOutcome, SearchOutcome
from orchestrator.report.blocks import DotPlot, Interval, Section, Series, Table
from orchestrator.report.languages import language_label, language_name

ORACLE = Series("Oracle: the pair that is best on the very facts reported", "ring", "orange")
HONEST = Series("Honest: pairs chosen on other facts", "dot", "blue")

GROUPS_ARE = (
    f"Means over languages, each counting once, as in the paper's Table 1; the number of languages is in brackets. "
    f"Resource is the size of the language's Wikipedia: high from {HIGH / 1000:.0f} million articles, medium from "
    f"{MEDIUM} thousand, low below. The paper does not give its thresholds; these are ours."
)
EVIDENCE_IS = (
    "Gained and lost: facts that only the honest choice, or only the unmodified model, has right. p: the paired test, "
    "two-sided, by flipping signs over subjects, with allowance for folds that choose on the same facts; corrected p: "
    "{correction} over the languages, on which the verdict rests. A hint is below 5% on its own, but not among so many "
    "languages. Nested gain: the other folds also decide by which criterion to choose and whether to project at all. "
    "Luck's oracle: the gain that the oracle reports when a subject's answers with and without LRP2 change places at "
    "random, mean and 95% quantile; an oracle gain below the quantile is no more than luck."
)
CONTROL_IS = (
    "Control: in {draws} copies of this sweep in which LRP2 does nothing (labels exchanged, everything else repeated), "
    "{claimed} had a language whose gain would have been called real; at most 5% should."
)
TRANS_NOTE = (
    "Change of Trans against the same model without LRP2, languages in the order of the honest change (the paper's "
    "Figures 4 and 5 show the rings)."
)


def groups_section(outcome: SearchOutcome, others: Sequence[LanguageOutcome]) -> Section:
    """Table 1 in both scores, families in detail, and the change of Trans per language."""
    paper = outcome.reference
    printed: list[list[Sequence[float]]] = [[], []]
    if paper is not None:
        printed = [[paper.acc, paper.oracle_acc], [paper.trans, paper.oracle_trans]]
    english = None if paper is None else paper.english_acc
    tables = [
        _group_table(outcome, others, "Accuracy by group", ACC, (outcome.pivot_acc, english), printed[0], GROUPS_ARE),
        _group_table(outcome, others, "Transferability by group", TRANS, (None, None), printed[1], ""),
    ]
    if paper is not None and outcome.facts_kind != "mlama":
        tables[1] = replace(tables[1], note="The paper's numbers are on mLAMA, ours are not.")
    return Section("For which languages?", "", [*tables, _families(others), _trans_plot(others)])


def xfactr_table(outcome: SearchOutcome, others: Sequence[LanguageOutcome]) -> Table | None:
    """The paper's Table 3 beside ours; None where model or facts are not those of that table."""
    if outcome.reference is None or not outcome.reference.xfactr or outcome.facts_kind != "xfactr":
        return None
    found = {one.language: one for one in others}
    rows: list[list[object]] = []
    for language, printed in outcome.reference.xfactr.items():
        ours: list[float | None] = [None] * 4
        if language == outcome.pivot:
            ours = [outcome.pivot_acc, outcome.pivot_acc, None, None]
        elif one := found.get(language):
            ours = [one.baseline_acc, one.oracle.acc, one.baseline_trans, one.oracle.trans]
        paper = [printed.acc, printed.oracle_acc, printed.trans, printed.oracle_trans]
        rows.append([language_label(language), *(value for both in zip(ours, paper, strict=True) for value in both)])
    scores = ("Acc", "Oracle acc", "Trans", "Oracle trans")
    columns = ["Language", *(text for score in scores for text in (score, f"{score}, paper"))]
    note = (
        f"The paper's Table 3, {outcome.reference.name}: pairs chosen on the facts they are reported on. The paper "
        "does not say from which candidates an answer is chosen there, so small differences mean nothing."
    )
    return Table("Beside the paper on X-FACTR", columns, rows, note=note)


def evidence_table(outcome: SearchOutcome, others: Sequence[LanguageOutcome]) -> Table | None:
    """What the verdicts rest on; None where nothing was tested."""
    rows = []
    for one in sorted(others, key=lambda one: -one.honest.gain):
        found, nested = one.evidence, one.nested
        if found is None or nested is None:
            return None
        rows.append(
            [
                language_label(one.language),
                Interval(one.honest.gain, one.honest.gain_low, one.honest.gain_high),
                found.gained,
                found.lost,
                p_text(found.p),
                p_text(found.adjusted),
                Interval(nested.gain, nested.gain_low, nested.gain_high),
                one.oracle.acc - one.baseline_acc,
                found.luck if found.luck == found.luck else None,
                found.luck_high if found.luck_high == found.luck_high else None,
                one.verdict,
            ]
        )
    note = EVIDENCE_IS.format(correction=outcome.correction)
    if outcome.null is not None:
        note += " " + CONTROL_IS.format(draws=outcome.null.draws, claimed=f"{outcome.null.claimed:.1f}%")
    columns = ["Language", "Honest gain", "Gained", "Lost", "p", "Corrected p", "Nested gain", "Oracle gain"]
    columns += ["Luck's oracle", "Luck's 95%", "Verdict"]
    signed = ["Honest gain", "Nested gain", "Oracle gain", "Luck's oracle", "Luck's 95%"]
    return Table("What the verdicts rest on", columns, rows, note=note, signed=signed)


def layers_table(outcome: SearchOutcome, others: Sequence[LanguageOutcome]) -> Table:
    """The paper's Tables 4 and 5: the best pair of every language, and how sure that choice is."""
    reference = outcome.reference
    rows: list[list[object]] = []
    for one in sorted(others, key=lambda one: (one.oracle.lirp, one.oracle.lsrp, one.language)):
        i, j = one.oracle.lirp, one.oracle.lsrp
        agree = Counter(one.honest.pairs)[i, j]
        row: list[object] = [language_label(one.language), i, j, j - i, f"{agree} of {len(one.honest.pairs)}"]
        rows.append(row + ([_paper_pair(reference, one.language)] if reference else []))
    gaps = [one.oracle.lsrp - one.oracle.lirp for one in others]
    note = (
        f"LIRP: the layer after which states go into {language_name(outcome.pivot)}; LSRP: the one after which they go "
        f"back. Folds: how many of the honest choice's folds pick the same pair. Median gap {median(gaps):g}; "
        f"{sum(gap == 1 for gap in gaps)} of {len(gaps)} languages have neighbouring layers, between which only one "
        "block sees the projected states."
    )
    columns = ["Language", "LIRP", "LSRP", "Gap", "Folds"] + ([f"{reference.name} in the paper"] if reference else [])
    return Table("Optimal layers per language", columns, rows, note=note)


def p_text(p: float) -> str:
    """A p value with four decimals.

    >>> p_text(0.01234), p_text(1e-9)
    ('0.0123', '0.0000')
    """
    return f"{p:.4f}"


Score = Callable[[LanguageOutcome], float]
ACC: Sequence[Score] = (lambda one: one.baseline_acc, lambda one: one.oracle.acc, lambda one: one.honest.acc)
TRANS: Sequence[Score] = (lambda one: one.baseline_trans, lambda one: one.oracle.trans, lambda one: one.honest.trans)
"""Without LRP2, oracle, honest."""


def _mean(group: Group, others: Sequence[LanguageOutcome], score: Score) -> float | None:
    values = [score(one) for one in group.members(others)]
    return fmean(values) if values else None


def _group_table(
    outcome: SearchOutcome,
    others: Sequence[LanguageOutcome],
    title: str,
    scores: Sequence[Score],
    pivot: tuple[float | None, float | None],
    printed: Sequence[Sequence[float]],
    note: str,
) -> Table:
    """One half of Table 1: without LRP2, oracle and honest, then the paper's rows; `pivot` is ours and the paper's."""
    labels = ["Without LRP2", "LRP2, oracle", "LRP2, honest"]
    rows: list[list[object]] = [
        [label, pivot[0], *(_mean(group, others, score) for group in outcome.groups)]
        for label, score in zip(labels, scores, strict=True)
    ]
    for suffix, values in zip(("", " (LRP2)"), printed, strict=False):
        assert outcome.reference is not None
        named = dict(zip(TABLE_1_COLUMNS, values, strict=True))
        label = f"Paper: {outcome.reference.name}{suffix}"
        rows.append([label, pivot[1], *(named.get(group.name) for group in outcome.groups)])
    columns = ["", language_name(outcome.pivot)]
    columns += [f"{group.name} ({len(group.members(others))})" for group in outcome.groups]
    return Table(title, columns, rows, note=note)


def _families(others: Sequence[LanguageOutcome]) -> Table:
    rows = []
    for group in family_groups([one.language for one in others]):
        members = group.members(others)
        rows.append(
            [
                group.name,
                ", ".join(sorted(language_name(one.language) for one in members)),
                fmean(one.baseline_acc for one in members),
                fmean(one.oracle.acc - one.baseline_acc for one in members),
                fmean(one.honest.gain for one in members),
                fmean(one.oracle.trans - one.baseline_trans for one in members),
                fmean(one.honest.trans - one.baseline_trans for one in members),
                f"{sum(one.verdict == REAL_GAIN for one in members)} of {len(members)}",
            ]
        )
    changes = ["Oracle gain", "Honest gain", "Oracle trans change", "Honest trans change"]
    columns = ["Family", "Languages", "Baseline acc", *changes, "Real gains"]
    note = "Families are the top-level families of Glottolog; a language that the tables do not know is in none."
    return Table("Families", columns, rows, note=note, signed=changes)


def _trans_plot(others: Sequence[LanguageOutcome]) -> DotPlot:
    ordered = sorted(others, key=lambda one: -(one.honest.trans - one.baseline_trans))
    return DotPlot(
        name="trans",
        title="Transferability per language",
        axis="change of Trans against the same model without LRP2 (points)",
        series=[ORACLE, HONEST],
        rows=[
            (
                language_label(one.language),
                [one.oracle.trans - one.baseline_trans, one.honest.trans - one.baseline_trans],
            )
            for one in ordered
        ],
        zero=True,
        note=TRANS_NOTE,
    )


def _paper_pair(reference: Reference, language: str) -> str | None:
    if language not in reference.pairs:
        return None
    i, j = reference.pairs[language]
    return f"{i}/{j}" + (" (hard to read in print)" if language in reference.unclear else "")

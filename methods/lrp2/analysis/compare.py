"""Two sweeps beside each other, fact by fact: model against model, other vectors, a control against the real thing.

Only facts that both sweeps have in a language are compared. B - A is tested per fact and language, paired: for what
LRP2 gains (the honest choice minus the unmodified model), for the unmodified models, and for the honest choice alone.
Intervals resample subjects, p values flip signs over subjects and are corrected over the languages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from methods.lrp2.analysis.answer import Evaluated
from methods.lrp2.analysis.language import Answers
from methods.lrp2.analysis.record import selection_options
from methods.lrp2.analysis.sections import p_text
from methods.lrp2.analysis.statistics import CORRECTIONS, corrected, sign_flip_p, subject_sums
from methods.lrp2.selection import SelectionOptions, bootstrap_means
from orchestrator.errors import UserError
from orchestrator.publish import asked
from orchestrator.report.blocks import DotPlot, Interval, Section, Series, Table
from orchestrator.report.cells import number_text
from orchestrator.report.languages import language_label
from orchestrator.study import Summary, TrackedRun

MORE_IN_A, MORE_IN_B, SAME = "more in A", "more in B", "no clear difference"

MEASURES: dict[str, tuple[str, Callable[[Answers], NDArray[np.float64]]]] = {
    "gain": ("Gain by LRP2", lambda answers: answers.honest - answers.baseline),
    "honest": ("Accuracy with LRP2", lambda answers: answers.honest),
    "baseline": ("Accuracy without LRP2", lambda answers: answers.baseline),
}
"""What is compared: a title, and what each fact contributes."""

TABLE_IS = (
    "On the facts that both sweeps have; difference: B minus A. Pairs are chosen on other facts (honest). Brackets are "
    "95% bootstrap intervals over subjects; p: sign flips over subjects, two-sided; corrected p: {correction} over the "
    "languages, on which the verdict rests."
)


@dataclass(frozen=True)
class Difference:
    """One measure of one language: its mean in A and in B in percent, and B - A with interval, test and verdict."""

    a: float
    b: float
    value: float
    low: float
    high: float
    p: float
    adjusted: float
    verdict: str


@dataclass(frozen=True)
class LanguageComparison:
    """One language: how many facts are shared, and a `Difference` for each of `MEASURES`."""

    language: str
    facts: int
    differences: Mapping[str, Difference]


def compare(a: Evaluated, b: Evaluated, names: tuple[str, str]) -> list[LanguageComparison]:
    """Every language of both sweeps, in A's order.

    Args:
        a, b: the sweeps; A's options say how intervals are drawn and p values corrected.
        names: what they are called in messages.

    Raises:
        UserError: they have no language, or in no language a fact, in common.
    """
    options = selection_options(a.record.spec)
    shared = [language for language in a.answers if language in b.answers]
    if not shared:
        raise UserError(
            f"{names[0]} and {names[1]} share no language ({', '.join(a.answers)} against {', '.join(b.answers)}), so "
            "there is nothing to compare. Choose sweeps over the same languages."
        )
    inflation = {language: max(_inflation(a, language), _inflation(b, language)) for language in shared}
    found = [
        one
        for language in shared
        if (one := _language(language, a.answers[language], b.answers[language], options, inflation[language]))
    ]
    if not found:
        raise UserError(
            f"{names[0]} and {names[1]} share no facts in {', '.join(shared)}: their facts have different identifiers. "
            "Choose sweeps over the same facts."
        )
    return _judged(found, options)


def _inflation(sweep: Evaluated, language: str) -> float:
    """See `outcome.Evidence`."""
    found = next(one.evidence for one in sweep.outcome.languages if one.language == language)
    return found.inflation if found else 1.0


def _language(
    language: str, a: Answers, b: Answers, options: SelectionOptions, inflation: float
) -> LanguageComparison | None:
    place = {uuid: row for row, uuid in enumerate(b.uuids)}
    rows = [row for row, uuid in enumerate(a.uuids) if uuid in place]
    if not rows:
        return None
    others = [place[a.uuids[row]] for row in rows]
    subjects = [a.subjects[row] for row in rows]
    pairs = {name: (measure(a)[rows], measure(b)[others]) for name, (_, measure) in MEASURES.items()}
    changes = np.stack([second - first for first, second in pairs.values()], 1)
    tail = 50 * (1 - options.confidence)
    low, high = np.percentile(bootstrap_means(changes, subjects, options), [tail, 100 - tail], axis=0)
    differences = {}
    for column, (name, (first, second)) in enumerate(pairs.items()):
        chosen = inflation if name != "baseline" else 1.0
        p = sign_flip_p(subject_sums(changes[:, column], subjects), options.seed, chosen)
        ends = float(low[column]), float(high[column])
        before, after = 100 * float(first.mean()), 100 * float(second.mean())
        differences[name] = Difference(before, after, after - before, *ends, p, p, SAME)
    return LanguageComparison(language, len(rows), differences)


def _judged(found: Sequence[LanguageComparison], options: SelectionOptions) -> list[LanguageComparison]:
    """With p values corrected over the languages, each measure a family of its own, and the verdicts that follow."""
    judged: list[dict[str, Difference]] = [{} for _ in found]
    for name in MEASURES:
        adjusted = corrected([one.differences[name].p for one in found], options.correction)
        for target, one, value in zip(judged, found, adjusted, strict=True):
            difference = one.differences[name]
            real = value <= 1 - options.confidence
            verdict = SAME if not real else MORE_IN_B if difference.value > 0 else MORE_IN_A
            target[name] = replace(difference, adjusted=value, verdict=verdict)
    return [replace(one, differences=each) for one, each in zip(found, judged, strict=True)]


def summarize_comparison(a: Evaluated, b: Evaluated, names: tuple[str, str]) -> Summary:
    """The answer as the engine writes it; arguments and errors as in `compare`."""
    found = compare(a, b, names)
    correction = CORRECTIONS[selection_options(a.record.spec).correction]
    settings = _settings(a, b)
    left_out = sorted({*a.answers, *b.answers} - {one.language for one in found})
    sections = [_difference_section(found, "gain", correction, f"A is {names[0]}, B is {names[1]}.", plot=True)]
    sections += [_difference_section(found, name, correction, "") for name in ("honest", "baseline")]
    sections.append(_choices(settings, left_out, names))
    gains = [one.differences["gain"] for one in found]
    return Summary(
        document={
            "compared": {"a": names[0], "b": names[1]},
            "options": vars(selection_options(a.record.spec)),
            "settings": {name: {"a": first, "b": second} for name, first, second in settings},
            "left_out": left_out,
            "languages": {
                one.language: {"facts": one.facts} | {name: vars(each) for name, each in one.differences.items()}
                for one in found
            },
        },
        table=_table(found),
        sections=sections,
        runs=[_tracked(one, names) for one in found],
        metrics={
            f"{name}_difference": float(np.mean([one.differences[name].value for one in found])) for name in MEASURES
        }
        | {"more_in_a": sum(each.verdict == MORE_IN_A for each in gains)}
        | {"more_in_b": sum(each.verdict == MORE_IN_B for each in gains)},
        headline=_headline(found, names),
    )


def _headline(found: Sequence[LanguageComparison], names: tuple[str, str]) -> str:
    gains = [one.differences["gain"] for one in found]
    mean = number_text(float(np.mean([each.value for each in gains])), signed=True)
    a, b = (sum(each.verdict == verdict for each in gains) for verdict in (MORE_IN_A, MORE_IN_B))
    return (
        f"LRP2 gains more in {names[1]} than in {names[0]} in {b} of {len(found)} languages beyond chance, less in "
        f"{a}; on average the gain differs by {mean} points of accuracy on the facts they share."
    )


def _difference_section(
    found: Sequence[LanguageComparison], name: str, correction: str, text: str, plot: bool = False
) -> Section:
    title, _ = MEASURES[name]
    if all(one.differences[name].a == one.differences[name].b and one.differences[name].p == 1 for one in found):
        return Section(title, "The same in both sweeps, language by language.")
    ordered = sorted(found, key=lambda one: -one.differences[name].value)
    rows, marks = [], []
    for one in ordered:
        each = one.differences[name]
        interval = Interval(each.value, each.low, each.high)
        label = language_label(one.language)
        rows.append([label, one.facts, each.a, each.b, interval, p_text(each.p), p_text(each.adjusted), each.verdict])
        marks.append((label, [interval]))
    columns = ["Language", "Facts", "A", "B", "Difference", "p", "Corrected p", "Verdict"]
    signed = ["Difference", *(["A", "B"] if name == "gain" else [])]
    values = [one.differences[name] for one in ordered]
    means = [float(np.mean([getattr(each, part) for each in values])) for part in ("a", "b", "value")]
    footer = [f"Mean of {len(found)}", "", *means, "", "", ""]
    note = TABLE_IS.format(correction=correction)
    table = Table(title, columns, rows, note=note, signed=signed, footer=footer, spare=["Facts", "p"])
    if not plot:
        return Section(title, text, [table])
    picture = DotPlot(
        name=f"{name}-difference",
        title=f"{title}: B minus A",
        axis="difference (points of accuracy)",
        series=[Series("B minus A on the facts they share, with 95% interval", "dot", "blue")],
        rows=marks,
        zero=True,
    )
    return Section(title, text, [table, picture])


def _settings(a: Evaluated, b: Evaluated) -> list[tuple[str, str, str]]:
    """The options in which the two differ."""
    first, second = ({**asked(each.record.spec), **each.record.description} for each in (a, b))
    names = [*first, *(name for name in second if name not in first)]
    pairs = [(name, str(first.get(name, "")), str(second.get(name, ""))) for name in names]
    return [(name, one, other) for name, one, other in pairs if one != other]


def _choices(settings: Sequence[tuple[str, str, str]], left_out: Sequence[str], names: tuple[str, str]) -> Section:
    text = "" if settings else "Both sweeps were asked for the same."
    blocks = [Table("Settings that differ", ["Setting", f"A: {names[0]}", f"B: {names[1]}"], list(map(list, settings)))]
    if left_out:
        rows = [[language_label(language)] for language in left_out]
        blocks.append(Table("Languages that only one sweep has, or without shared facts", ["Language"], rows))
    return Section("What differs between them", text, blocks if settings else blocks[1:])


def _table(found: Sequence[LanguageComparison]) -> pa.Table:
    """One row per language and measure."""
    rows = [
        {"language": one.language, "facts": one.facts, "measure": name, **vars(each)}
        for one in found
        for name, each in one.differences.items()
    ]
    return pa.Table.from_pylist(rows)


def _tracked(one: LanguageComparison, names: tuple[str, str]) -> TrackedRun:
    metrics: dict[str, float] = {"facts": one.facts}
    for name, each in one.differences.items():
        values = {"a": each.a, "b": each.b, "difference": each.value, "low": each.low, "high": each.high}
        values |= {"p": each.p, "p_adjusted": each.adjusted}
        metrics |= {f"{name}_{part}": value for part, value in values.items()}
    params = {"a": names[0], "b": names[1], "language": one.language, "verdict": one.differences["gain"].verdict}
    return TrackedRun(key=one.language, name=one.language, params=params, metrics=metrics)

"""What a study of knowledge neurons shows: its headline and tables, as pure functions of its outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from methods.neurons import paper
from methods.neurons.effects import TREATMENTS
from methods.neurons.outcome import LESS, MORE, LanguageOverlap, NeuronOutcome
from methods.neurons.overlap import mean
from methods.neurons.pictures import language_maps, layer_lines, layer_maps, likeness_lines
from methods.neurons.results import LRP2, PLAIN
from orchestrator.report.blocks import Interval, Section, Table
from orchestrator.report.cells import number_text
from orchestrator.report.languages import language_label, language_name

HOW_TO_READ = (
    "A knowledge neuron is one of the feed-forward activations that the probability of the right object rests on, by "
    "integrated gradients where the object is predicted. Every relation has its set in every layer of every language. "
    "Overlap is the share of a set that a language and {pivot} have in common, in percent: of the same relation, which "
    "speaks for knowledge stored once for both, and of different relations, which shows how many neurons serve "
    "everything alike."
)
TABLE_NOTE = (
    "Means over relations and layers. Without and with: without and with LRP2 in the language; {pivot} is never "
    "projected. Change: of the overlap of the same relations, with a 95% bootstrap interval over relations, each "
    "language on its own. The verdict says whether the interval leaves zero out."
)
SHARED_NOTE = (
    "Neurons: how many, over all layers, are a relation's in any language ({pivot} included, without LRP2); then how "
    "many of these it has in at least half of the languages, and in all of them."
)
EFFECTS_TEXT = (
    "The neurons found for a relation are multiplied by 0 or by 2, in all layers at once, where the object is "
    "predicted, and so are as many random neurons of each layer. Neurons that hold what the model knows change the "
    "right object's probability much more than random ones."
)
LIKENESS_TEXT = (
    "Each query is the mean of its hidden states; parallel queries ask for the same fact in the language and in "
    "{pivot}. The paper takes their cosine. As all states of a model lie in a narrow cone, cosines are high between "
    "any two queries, so two further measures stand beside it: the cosine around the common centre of both languages, "
    "and linear CKA, which compares how the queries lie to each other and is blind to a shift that all share."
)


def report_sections(outcome: NeuronOutcome, chosen: Mapping[str, str]) -> Sequence[Section]:
    """The report of a study, from the answer to the choices behind it."""
    if not outcome.languages:
        return [_choices(outcome, chosen)]
    pivot = language_name(outcome.pivot_code)
    found = [_key_table(outcome), _paper_table(outcome)]
    sections = [
        Section("What it found", HOW_TO_READ.format(pivot=pivot), found),
        Section("Which languages share their neurons?", "", [language_maps(outcome)]),
        Section("In which layers?", "", [layer_lines(outcome), layer_maps(outcome)]),
        Section("Which relations?", "", [_relation_table(outcome)]),
    ]
    if any(one.record.likeness for one in outcome.languages):
        pictures = likeness_lines(outcome)
        sections.append(
            Section(
                "Do the representations come closer?", LIKENESS_TEXT.format(pivot=pivot), [*pictures, _like(outcome)]
            )
        )
    if outcome.languages[0].record.effects:
        sections.append(Section("Do these neurons matter?", EFFECTS_TEXT, [_effects(outcome)]))
    return [*sections, _choices(outcome, chosen)]


def headline(outcome: NeuronOutcome) -> str:
    """How much is shared, what LRP2 does to it, and whether the neurons matter."""
    if not outcome.languages:
        return "The pivot or all other languages are missing, so nothing can be said about what languages share."
    more, less = (sum(one.verdict == verdict for one in outcome.languages) for verdict in (MORE, LESS))
    change = number_text(mean([one.change.value for one in outcome.languages]), signed=True)
    count = len(outcome.languages)
    chance = "" if math.isnan(outcome.chance) else f", chance {outcome.chance:.1f}%"
    text = (
        f"By their own 95% intervals {more} of {count} languages have more knowledge neurons in common with "
        f"{language_name(outcome.pivot_code)} under LRP2 and {less} fewer, where luck alone makes about "
        f"{0.05 * count:.1f}: {change} points on average, on top of "
        f"{number_text(_mean(outcome, PLAIN))}% for the same relation "
        f"({number_text(mean([one.different(PLAIN) for one in outcome.languages]))}% for different relations{chance})."
    )
    if outcome.languages[0].record.effects:
        off, drawn = (mean([_moved(one, name) for one in outcome.languages]) for name in ("off", "random off"))
        text += (
            f" Switching them off changes the right object's probability by {number_text(off, 0, signed=True)}%, as "
            f"many random neurons by {number_text(drawn, 0, signed=True)}%."
        )
    return text


def _mean(outcome: NeuronOutcome, variant: str) -> float:
    return mean([one.same(variant) for one in outcome.languages])


def _moved(one: LanguageOverlap, treatment: str) -> float:
    """What a treatment changes of the right object's probability, in percent of it."""
    before, after = one.effects[0], one.effects[TREATMENTS.index(treatment)]
    return 100.0 * (after / before - 1.0) if before else float("nan")


def _key_table(outcome: NeuronOutcome) -> Table:
    rows = [
        [
            language_label(one.language),
            _pair(one),
            sum(one.record.prompts.values()),
            one.same(PLAIN),
            one.same(LRP2),
            one.change,
            one.different(PLAIN),
            one.different(LRP2),
            one.verdict,
        ]
        for one in outcome.languages
    ]
    means = [mean([_number(row[column]) for row in rows]) for column in (3, 4, 5, 6, 7)]
    return Table(
        title=f"Knowledge neurons in common with {language_name(outcome.pivot_code)}",
        columns=[
            "Language",
            "Layers",
            "Facts",
            "Same, without",
            "Same, with",
            "Change",
            "Different, without",
            "Different, with",
            "Verdict",
        ],
        rows=rows,
        signed=["Change"],
        footer=[f"Mean of {len(rows)}", "", "", *means, ""],
        spare=["Different, with", "Different, without", "Facts"],
        note=TABLE_NOTE.format(pivot=language_name(outcome.pivot_code)),
    )


def _number(cell: object) -> float:
    if isinstance(cell, Interval):
        return cell.value
    assert isinstance(cell, float)
    return cell


def _paper_table(outcome: NeuronOutcome) -> Table:
    """The paper's Table 2, and the same of the language it is about, or of all where that was not studied."""
    rows: list[list[object]] = [
        [f"mBERT, {text}", f"{language_name(paper.LANGUAGE)} {pair}".strip(), row.same, row.different, row.average]
        for text, pair, row in (
            (paper.CITATION, "", paper.MBERT),
            (f"{paper.CITATION}, with LRP2", "/".join(map(str, paper.PAIR)), paper.MBERT_LRP2),
        )
    ]
    ours = [one for one in outcome.languages if one.language == paper.LANGUAGE] or list(outcome.languages)
    name = language_name(ours[0].language) if len(ours) == 1 else f"mean of {len(ours)} languages"
    pairs = {_pair(one) for one in ours}
    for text, variant in (("here", PLAIN), ("here, with LRP2", LRP2)):
        where = f" {pairs.pop()}" if variant == LRP2 and len(pairs) == 1 else ""
        average = mean([one.overlaps[variant].all_pairs for one in ours])
        rows.append(
            [
                text,
                f"{name}{where}",
                mean([one.same(variant) for one in ours]),
                mean([one.different(variant) for one in ours]),
                average,
            ]
        )
    return Table(
        title="Beside the paper",
        columns=["What", "Where", "Same", "Different", "Average"],
        rows=rows,
        note=f"The paper: {paper.RELATIONS} relations of mLAMA, sets of 20 of 3,072 neurons, for which chance is 0.7%. "
        f"Here: {len(outcome.relations)} relations, {outcome.width:,} neurons in a layer. Average: over all pairs of "
        "relations, equal ones included. Other models, facts and set sizes have other numbers.",
    )


def _relation_table(outcome: NeuronOutcome) -> Table:
    rows = [
        [
            one.relation,
            one.same[PLAIN],
            one.same[LRP2],
            one.same[LRP2] - one.same[PLAIN],
            one.neurons,
            one.half,
            one.everywhere,
        ]
        for one in sorted(outcome.relations, key=lambda one: -one.same[PLAIN])
    ]
    return Table(
        title="Overlap and shared neurons per relation",
        columns=["Relation", "Without", "With", "Change", "Neurons", "In half of the languages", "In all"],
        rows=rows,
        signed=["Change"],
        note="Overlap with the same relation in the pivot, mean over languages and layers. "
        + SHARED_NOTE.format(pivot=language_name(outcome.pivot_code)),
    )


def _like(outcome: NeuronOutcome) -> Table:
    """Likeness between LIRP and LSRP, where the paper expects a change."""
    rows, likeness = [], []
    for one in outcome.languages:
        if one.record.likeness and one.record.pair:
            i, j = one.record.pair
            values = [
                mean(list(getattr(one.record.likeness[variant], measure)[i - 1 : j - 1]))
                for measure in ("cosine", "centred", "cka")
                for variant in (PLAIN, LRP2)
            ]
            likeness.append(values)
            rows.append([language_label(one.language), _pair(one), one.record.parallel, *values])
    names = [f"{measure}, {variant}" for measure in ("Cosine", "Centred", "CKA") for variant in ("without", "with")]
    return Table(
        title="Likeness of parallel queries between LIRP and LSRP",
        columns=["Language", "Layers", "Facts", *names],
        rows=rows,
        digits=3,
        footer=[f"Mean of {len(rows)}", "", "", *(mean([row[column] for row in likeness]) for column in range(6))],
        note="Mean over the layers i to j - 1, whose states are projected.",
    )


def _effects(outcome: NeuronOutcome) -> Table:
    shown = TREATMENTS[1:]
    moved = [[100.0 * one.effects[0], *(_moved(one, name) for name in shown)] for one in outcome.languages]
    rows = [[language_label(one.language), *values] for one, values in zip(outcome.languages, moved, strict=True)]
    names = ["Neurons off", "Neurons doubled", "Random off", "Random doubled"]
    return Table(
        title="What switching neurons changes",
        columns=["Language", "Probability", *names],
        rows=rows,
        signed=names,
        footer=[f"Mean of {len(rows)}", *(mean([row[column] for row in moved]) for column in range(5))],
        note="Probability: of the right object, in percent, mean over relations, without LRP2. The others: how much "
        "that changes, in percent of it.",
    )


def _choices(outcome: NeuronOutcome, chosen: Mapping[str, str]) -> Section:
    blocks = [
        Table(
            title="Decisions",
            columns=["Decision", "Value"],
            rows=[list(item) for item in chosen.items()],
            note="Papers leave these open or differ, and they change the numbers; each is an option of the job.",
        )
    ]
    records = [*([outcome.pivot] if outcome.pivot else []), *(one.record for one in outcome.languages)]
    blocks.append(
        Table(
            title="How exact the integral is",
            columns=["Language", "Facts", "Left out", "Mean error", "Largest error"],
            rows=[
                [
                    language_label(record.language),
                    sum(record.prompts.values()),
                    "; ".join(f"{count}: {reason}" for reason, count in record.left_out.items()) or None,
                    100.0 * mean([value for values in record.error.values() for value in values]),
                    100.0 * max(value for values in record.error.values() for value in values),
                ]
                for record in records
            ],
            digits=2,
            note="The attributions of a layer should add up to what the probability loses without its neurons. Error: "
            "how far they are from it, in percent of it; mean over the layers and the largest layer.",
        )
    )
    if outcome.notes:
        blocks.append(Table(title="Notes", columns=["Note"], rows=[[note] for note in outcome.notes]))
    return Section("What was decided on the way", "", blocks)


def _pair(one: LanguageOverlap) -> str:
    return "/".join(map(str, one.record.pair)) if one.record.pair else ""

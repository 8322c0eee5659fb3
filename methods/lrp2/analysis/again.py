"""Answers from sweeps' folders alone, without model and facts: one sweep's derived again, or two sweeps compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from methods.lrp2.analysis.answer import Evaluated, evaluate_search, summary_of
from methods.lrp2.analysis.compare import summarize_comparison
from methods.lrp2.analysis.groups import Group
from methods.lrp2.analysis.record import SearchRecord, guessed_record
from methods.lrp2.spec import LRP2Spec
from orchestrator.errors import Problems, UserError
from orchestrator.publish import asked, publish, track
from orchestrator.spec import parse_command_line
from orchestrator.stored import StoredSweep, open_sweep, read_summary
from orchestrator.study import Summary

STUDY = "lrp2"


def load(folder: Path, options: Mapping[str, str]) -> tuple[StoredSweep, SearchRecord]:
    """A sweep's folder and record.

    Args:
        folder: of a layer search.
        options: fields of the specification to be read otherwise than the sweep was run, as text.

    Raises:
        UserError: every mistake in folder and options.
    """
    kept = read_summary(folder).get("record")
    if kept and kept.get("guessed"):  # of a sweep that was not at its end; it may have come further since
        kept = None
    stored = open_sweep(folder, STUDY, tuple(kept["trials"]) if kept else None)
    spec, own = _spec(stored, options), _spec(stored, {})
    if spec.search == "racing" and spec.criterion != own.criterion:
        raise UserError(
            f"--criterion {spec.criterion} cannot be told of {stored.name}: it was a race by {own.criterion}, so pairs "
            f"that may be best by {spec.criterion} were dropped. Leave --criterion out, or run the sweep with it."
        )
    return stored, SearchRecord.from_json(spec, kept) if kept else guessed_record(spec, stored.results)


def _spec(stored: StoredSweep, options: Mapping[str, str]) -> LRP2Spec:
    """What the sweep was asked for, with some options read otherwise."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    request = parse_command_line(
        LRP2Spec,
        ["--config", str(stored.spec_path), *words],
        description="",
        examples=(),
        prog="python jobs/analyze.py",
    )
    assert isinstance(request.spec, LRP2Spec)
    return request.spec


def _otherwise(stored: StoredSweep, spec: LRP2Spec, options: Mapping[str, str]) -> list[str]:
    """A remark where the answer is derived with other options than the sweep was run with, which stay in spec.yaml."""
    own = _spec(stored, {})
    changed = [name for name in options if getattr(own, name) != getattr(spec, name)]
    if not changed:
        return []
    said, was = (", ".join(f"{name} {getattr(each, name)}" for name in changed) for each in (spec, own))
    return [f"Derived again with {said}; the sweep itself was run with {was}, and running it again tells it so"]


def evaluate(
    folder: Path, options: Mapping[str, str], own: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[StoredSweep, Evaluated]:
    """A sweep's folder and what its trials say; `own` names groups of its languages. Raises as `load`."""
    stored, record = load(folder, options)
    found = {str(result.trial.cell["language"]) for result in stored.results}
    problems = Problems()
    for name, languages in own:
        if missing := [language for language in languages if language not in found]:
            problems.add(
                f"--groups {name}: {stored.name} has no {', '.join(missing)}, so no average can be taken. "
                f"It has {', '.join(sorted(found))}."
            )
    problems.raise_if_any()
    groups = [Group(name, "own", languages) for name, languages in own]
    remarks = [*stored.notes, *_otherwise(stored, record.spec, options)]
    return stored, evaluate_search(record, stored.results, groups, remarks)


def redo(
    folder: Path, options: Mapping[str, str], own: Sequence[tuple[str, tuple[str, ...]]], uri: str, again: str
) -> tuple[Summary, list[str]]:
    """Derives a sweep's answer again and writes it over the old one.

    Args:
        folder, options: as in `load`.
        own: names and languages of groups to average over beside the paper's.
        uri: where runs are tracked.
        again: the command that does it.

    Returns:
        The answer, and what went wrong on the way without being in its way.
    """
    stored, evaluated = evaluate(folder, options, own)
    summary = summary_of(evaluated)
    description = dict(evaluated.record.description)
    head = {"sweep": stored.name, "study": STUDY, **description}
    trials = [result.trial for result in stored.results]
    publish(
        folder,
        summary,
        {**head, **stored.summary},
        title=stored.name,
        facts={**description, "command": again, "trials": f"{len(trials)} read"},
        commands=[again],
    )
    params = asked(evaluated.record.spec) | {"study": STUDY, **description}
    refused = track(folder, STUDY, trials, summary, params, uri)
    return summary, [*stored.notes, *_refusal(refused, uri)]


def compare_sweeps(
    folders: tuple[Path, Path], options: Mapping[str, str], output: Path | None, uri: str, again: str
) -> tuple[Summary, Path, list[str]]:
    """Compares two sweeps and writes the answer into a folder of its own.

    Args:
        folders: of sweep A and sweep B.
        options: as in `load`, for both.
        output: where to write; default: ``compare-A-B`` beside A.
        uri, again: as in `redo`.

    Returns:
        The answer, where it was written, and what went wrong on the way without being in its way.
    """
    problems, loaded = Problems(), []
    for folder in folders:
        try:
            loaded.append(evaluate(folder, options, ()))
        except UserError as error:
            for problem in error.problems:
                problems.add(problem)
    if folders[0] == folders[1]:
        problems.add(f"{folders[0]} is compared with itself: name two sweeps.")
    problems.raise_if_any()
    (first, a), (second, b) = loaded
    same_name = first.name == second.name
    names = (str(first.folder), str(second.folder)) if same_name else (first.name, second.name)
    summary = summarize_comparison(a, b, names)
    target = output or first.folder.parent / f"compare-{first.name}-{second.name}"
    facts = {"A": str(first.folder), "B": str(second.folder), "command": again}
    head = {"sweep": target.name, "study": STUDY}
    publish(target, summary, head, title=f"{names[0]} against {names[1]}", facts=facts, commands=[again])
    trials = {result.trial.key: result.trial for stored in (first, second) for result in stored.results}
    params = {"study": STUDY, "a": names[0], "b": names[1], **options}
    refused = track(target, STUDY, list(trials.values()), summary, params, uri)
    notes = [f"{stored.name}: {note}" for stored in (first, second) for note in stored.notes]
    return summary, target, [*notes, *_refusal(refused, uri)]


def _refusal(reason: str | None, uri: str) -> list[str]:
    if reason is None:
        return []
    return [f"MLflow at {uri} did not take the runs ({reason}). The results are complete without them."]

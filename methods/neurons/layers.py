"""At which layers each language is projected: as asked for, or as a finished layer search found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from methods.backbone.projection import Pair, parse_pairs
from orchestrator.errors import Problems, UserError, did_you_mean
from orchestrator.stored import read_summary


def language_pairs(
    texts: Sequence[str] | None, folder: Path | None, languages: Sequence[str], num_layers: int, model: str
) -> dict[str, Pair]:
    """The pair of every language.

    Args:
        texts: ``zh:4/10`` for one language, which counts most; ``4/10`` for all that have no other pair.
        folder: of a layer search.
        languages: those that need a pair.
        num_layers: L.
        model: fingerprint of the model, which the search must have used.

    Raises:
        UserError: a pair is none of the model's, a language is not one of the sweep's, or has no pair.
    """
    problems = Problems()
    searched = (problems.collect(lambda: _searched(folder, model)) or {}) if folder else {}
    general: dict[str, Pair] = {}
    own: dict[str, Pair] = {}
    for text in texts or ():
        language, colon, pair = text.rpartition(":")
        found = problems.collect(lambda pair=pair: parse_pairs((pair,), num_layers))  # type: ignore[misc]
        if colon and language not in languages:
            problems.add(
                f"--pairs {text}: {language!r} is not one of the languages studied.{did_you_mean(language, languages)}"
            )
        elif found:
            (own if colon else general).update(dict.fromkeys([language] if colon else languages, found[0]))
    pairs = general | searched | own
    lacking = [language for language in languages if language not in pairs]
    if lacking and not problems.found:
        source = f"{folder} has no pair for them" if folder else "nothing says between which layers"
        problems.add(
            f"LRP2 needs its layers for {', '.join(lacking)}, and {source}: give --pairs i/j for all languages, "
            "--pairs zh:4/10,... for some, or --pairs-from <folder of a finished layer search>."
        )
    problems.raise_if_any()
    return {language: pairs[language] for language in languages}


def _searched(folder: Path, model: str) -> dict[str, Pair]:
    """The best pair of every language in a layer search, the one that its report calls oracle."""
    summary: dict[str, Any] = read_summary(folder)
    study = summary.get("study", "")
    if study != "lrp2" or "model fingerprint" not in summary:
        what = f"a sweep of {study}" if study else "without a readable summary.json"
        what = "a comparison of two sweeps" if study == "lrp2" else what
        raise UserError(
            f"--pairs-from {folder} is {what}, not a finished layer search, so it has no pairs: name the folder of a "
            "sweep of jobs/lrp2_sweep.py, or give --pairs."
        )
    if summary["model fingerprint"] != model:
        raise UserError(
            f"--pairs-from {folder}: that search was of {summary['model']}, another model, whose layers mean nothing "
            "here: search this model first, or give --pairs."
        )
    return {
        language: (int(found["oracle"]["lirp"]), int(found["oracle"]["lsrp"]))
        for language, found in summary["languages"].items()
    }

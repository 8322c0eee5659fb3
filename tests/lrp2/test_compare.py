"""Two sweeps beside each other: paired on the facts they share, and only a real difference is called one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from methods.lrp2.analysis.again import evaluate
from methods.lrp2.analysis.answer import Evaluated
from methods.lrp2.analysis.compare import MEASURES, MORE_IN_A, MORE_IN_B, SAME, compare, summarize_comparison
from methods.lrp2.selection import LanguageHits
from orchestrator.errors import UserError
from orchestrator.report.blocks import Table
from tests.lrp2.hits import language_hits, null_hits, planted_hits, write_sweep

NAMES = ("first", "second")


def sweep(
    folder: Path, name: str, languages: dict[str, np.ndarray] | dict[str, LanguageHits], **options: str
) -> Evaluated:
    tables = {
        language: hits if isinstance(hits, LanguageHits) else language_hits(hits, language, layers=12)
        for language, hits in languages.items()
    }
    return evaluate(write_sweep(folder / name, tables, layers=12, **options), {"null_draws": "0"}, ())[1]


def test_a_sweep_equals_itself(tmp_path: Path) -> None:
    a = sweep(tmp_path, "a", {"de": null_hits(np.random.default_rng(0))})
    (one,) = compare(a, a, NAMES)
    for name in MEASURES:
        each = one.differences[name]
        assert (each.value, each.low, each.high, each.p, each.verdict) == (0, 0, 0, 1, SAME)
    sections = summarize_comparison(a, a, NAMES).sections
    assert sections[0].text.startswith("The same in both")


def test_a_control_is_told_from_the_real_thing_and_exchanging_them_changes_signs_only(tmp_path: Path) -> None:
    """Both know the same without LRP2; the real vectors gain 6 points, those of the control nothing."""
    generator = np.random.default_rng(0)
    hits = planted_hits(generator, gain=0.06)
    control = hits[:, :1] ^ (generator.random(hits.shape) < 0.02)
    control[:, 0] = hits[:, 0]
    others = {"fr": null_hits(generator), "fi": null_hits(generator)}
    a = sweep(tmp_path, "control", {"de": control, **others}, control="random")
    b = sweep(tmp_path, "real", {"de": hits, **others})
    german, *rest = compare(a, b, NAMES)
    assert german.facts == 500
    assert german.differences["gain"].verdict == MORE_IN_B
    assert german.differences["gain"].low > 0
    assert german.differences["gain"].value == pytest.approx(german.differences["honest"].value)
    assert german.differences["baseline"].p == 1
    assert {one.differences["gain"].verdict for one in rest} == {SAME}
    back = compare(b, a, NAMES)[0].differences["gain"]
    assert (back.verdict, back.value, back.p) == (
        MORE_IN_A,
        -german.differences["gain"].value,
        german.differences["gain"].p,
    )
    summary = summarize_comparison(a, b, NAMES)
    assert summary.headline.startswith("LRP2 gains more in second than in first in 1 of 3 languages")
    settings = next(block for block in summary.sections[-1].blocks if isinstance(block, Table))
    assert ["control", "random", "none"] in [list(row) for row in settings.rows]
    assert summary.metrics["more_in_b"] == 1
    assert [run.name for run in summary.runs] == ["de", "fi", "fr"]
    assert summary.table.num_rows == 9


def test_facts_are_matched_by_identifier_not_by_place(tmp_path: Path) -> None:
    hits = null_hits(np.random.default_rng(1), 100, 10)
    whole = language_hits(hits, layers=12)
    order = np.random.default_rng(2).permutation(100)[:60]
    part = LanguageHits(
        "de",
        tuple(whole.uuids[row] for row in order),
        tuple(whole.subjects[row] for row in order),
        tuple(whole.relations[row] for row in order),
        whole.pairs,
        hits[order],
        whole.ties[order],
        np.full(11, 60),
    )
    a, b = sweep(tmp_path, "a", {"de": whole}), sweep(tmp_path, "b", {"de": part})
    (one,) = compare(a, b, NAMES)
    assert one.facts == 60
    assert one.differences["baseline"].p == 1
    assert one.differences["baseline"].a == pytest.approx(100 * hits[order, 0].mean())


def test_nothing_in_common_is_a_mistake(tmp_path: Path) -> None:
    hits = null_hits(np.random.default_rng(1), 30, 6)
    a, b = sweep(tmp_path, "a", {"de": hits}), sweep(tmp_path, "b", {"fr": hits})
    with pytest.raises(UserError, match="share no language"):
        compare(a, b, NAMES)
    table = language_hits(hits, layers=12)
    other = LanguageHits("de", tuple(f"x{n}" for n in range(30)), *list(vars(table).values())[2:])
    with pytest.raises(UserError, match="share no facts in de"):
        compare(a, sweep(tmp_path, "c", {"de": other}), NAMES)

"""The layer search as a study: from built-in facts and model to the answer, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from methods.lrp2.spec import LRP2Spec
from methods.lrp2.study import LRP2Study
from orchestrator.errors import UserError
from orchestrator.study import Summary, TrialContext, TrialResult

SMALL: dict[str, Any] = {
    "languages": ("de", "zh"),
    "relations": ("P361",),
    "split": "withheld",
    "max_facts": 40,
    "max_sentences": 50,
    "bootstrap": 100,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def study(cache: Path, **options: Any) -> LRP2Study:
    made = LRP2Study(LRP2Spec(**{**SMALL, **options}), cache)
    made.prepare()
    return made


def results(made: LRP2Study) -> list[TrialResult]:
    """Runs every trial as a worker would."""
    context = TrialContext(
        cache=made.cache,
        scratch=made.cache,
        threads=1,
        device="cpu",
        memory_bytes=4 * 10**9,
        progress=lambda fraction: None,
    )
    loaded = made.load(context)
    return [TrialResult(trial, made.run(trial, loaded, context), 1.0, 1, {}) for trial in made.trials()]


def answer(made: LRP2Study) -> Summary:
    return made.summarize(results(made))


def test_the_answer_has_every_language_with_oracle_and_honest_scores(cache: Path) -> None:
    made = study(cache)
    summary = answer(made)
    assert set(summary.document["languages"]) == {"de", "zh"}
    german = summary.document["languages"]["de"]
    assert german["facts"] == 40
    assert set(german["baseline"]) == {"acc", "trans"}
    assert {"lirp", "lsrp", "acc", "trans"} <= set(german["oracle"])
    assert {"acc", "acc_low", "acc_high", "baseline_acc"} <= set(german["honest"])
    assert german["pivot_acc"] > german["baseline"]["acc"]
    assert summary.table.num_rows == 2 * (1 + len(made.pairs))
    assert [run.name for run in summary.runs] == ["de", "zh"]


@pytest.mark.parametrize("model", ["atlas-bert", "atlas-bloom"])
def test_the_naive_loop_finds_the_same_hits(cache: Path, model: str) -> None:
    tables = []
    for search in ("lattice", "naive"):
        made = study(cache, model=model, search=search, languages=("de",), max_facts=8, pairs=("1/2", "2/6", "3/4"))
        tables.append({r.trial.label: r.table.drop(["relation"]) for r in results(made)})
    assert tables[0].keys() == tables[1].keys()
    for label, table in tables[0].items():
        assert table.equals(tables[1][label]), label


def test_a_language_in_parts_gives_the_same_answer(cache: Path) -> None:
    whole = answer(study(cache, max_facts=None, languages=("de",), facts_per_trial=5000))
    made = study(cache, max_facts=None, languages=("de",), facts_per_trial=100)
    assert len(made.trials()) > 2
    assert answer(made).document["languages"] == whole.document["languages"]


def test_a_race_says_what_it_dropped_and_keeps_the_winner(cache: Path) -> None:
    """Shifting back at the last layer alone ruins most answers; with little caution such pairs are dropped."""
    options = {"languages": ("de",), "max_facts": None, "criterion": "acc", "shard": 20}
    exact = answer(study(cache, **options))
    raced = answer(study(cache, **options, search="racing", delta=0.5))
    best, found = (summary.document["languages"]["de"]["oracle"] for summary in (exact, raced))
    assert (found["lirp"], found["lsrp"]) == (best["lirp"], best["lsrp"])


def test_inexact_arithmetic_says_how_many_hits_it_changed(cache: Path) -> None:
    summary = answer(study(cache, languages=("de",), dtype="bfloat16", precision_sample=20, pairs=("1/2",)))
    assert any("inexact (states in bfloat16): of" in note for note in summary.document["notes"])


def test_all_mistakes_are_told_at_once(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        study(cache, languages=("dee",), relations=("P9999",), pairs=("6/2", "1/7"), probe="causal")
    text = "\n".join(caught.value.problems)
    assert "'de'" in text
    assert "P9999" in text
    assert "6/2" in text
    assert "1/7" in text
    assert "--probe causal" in text


def test_the_pivot_alone_is_nothing_to_search(cache: Path) -> None:
    with pytest.raises(UserError, match="nothing to find"):
        study(cache, languages=("en",))


def test_keys_follow_what_changes_the_answer_and_nothing_else(cache: Path) -> None:
    def keys(**options: Any) -> dict[str, str]:
        return {trial.label: trial.key for trial in study(cache, **options).trials()}

    plain = keys()
    assert keys(folds=7, bootstrap=500, ties="fractional", correction="bh", null_draws=0, retries=0) == plain
    assert keys(languages=("de",))["de"] == plain["de"]
    assert keys(specials="exclude")["de"] != plain["de"]
    assert keys(specials="exclude")["en"] == plain["en"]
    assert keys(relations=("P37",))["de"] != plain["de"]
    assert keys(model="atlas-bloom")["de"] != plain["de"]


def test_a_control_is_a_sweep_of_its_own_that_shares_the_pivot(cache: Path) -> None:
    def keys(**options: Any) -> dict[str, str]:
        return {trial.label: trial.key for trial in study(cache, **options).trials()}

    sweeps = [keys(control=control) for control in ("none", "random", "shuffled")]
    assert len({sweep["de"] for sweep in sweeps}) == 3
    assert len({sweep["en"] for sweep in sweeps}) == 1
    assert keys(control="random", seed=1)["de"] != sweeps[1]["de"]


def test_a_shuffled_control_gives_no_language_its_own_vectors(cache: Path) -> None:
    made = study(cache, languages=("de", "zh", "fi", "ko"), control="shuffled")
    sources = {language: made.source_language(language) for language in made.languages}
    assert set(sources.values()) == set(made.languages)
    assert all(language != source for language, source in sources.items())
    with pytest.raises(UserError, match="--control shuffled"):
        study(cache, languages=("de",), control="shuffled")


def test_a_control_changes_hits_with_lrp2_only_and_says_what_it_is(cache: Path) -> None:
    options = {"languages": ("de",), "pairs": ("1/5", "2/4")}
    real, control = (answer(study(cache, **options, control=kind)) for kind in ("none", "random"))
    before, after = (summary.document["languages"]["de"] for summary in (real, control))
    assert before["baseline"] == after["baseline"]
    assert real.table != control.table
    assert "control" in control.document["decisions"]
    assert "control" not in real.document["decisions"]


def test_an_estimate_counts_the_shared_work(cache: Path) -> None:
    made = study(cache)
    estimate = made.estimate(made.trials(), threads=1)
    assert estimate.flops > 0
    assert estimate.seconds > 0
    assert "41 block evaluations" in estimate.notes[0]

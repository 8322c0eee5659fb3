"""The layer search as a study: from built-in facts and model to the answer, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from methods.backbone.addresses import builtin_models
from methods.lrp2 import racing
from methods.lrp2.results import language_hits, trial_record
from methods.lrp2.spec import LRP2Spec
from methods.lrp2.study import LRP2Study
from orchestrator.errors import UserError
from orchestrator.spec import ENGINE_FIELDS
from tests.backbone.tiny import replaced_model, tiny
from tests.trials import answer, context, results

SMALL: dict[str, Any] = {
    "languages": ("de", "zh"),
    "relations": ("P361",),
    "split": "withheld",
    "max_facts": 40,
    "max_sentences": 50,
    "bootstrap": 100,
    "null_draws": 20,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def study(cache: Path, **options: Any) -> LRP2Study:
    made = LRP2Study(LRP2Spec(**{**SMALL, **options}), cache)
    made.prepare()
    return made


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
    options = {"max_facts": None, "languages": ("de",), "pairs": ("1/2", "2/4", "3/6")}
    whole = answer(study(cache, **options, facts_per_trial=5000))
    made = study(cache, **options, facts_per_trial=100)
    assert len(made.trials()) > 2
    assert answer(made).document["languages"] == whole.document["languages"]


def test_a_race_says_what_it_dropped_and_keeps_the_winner(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projecting at the last two layers alone ruins most answers; in a race without caution that pair is dropped."""
    monkeypatch.setattr(racing, "KAPPA", 0.0)
    options = {"languages": ("de",), "max_facts": None, "criterion": "acc", "pairs": ("1/2", "3/4", "5/6")}
    made = [study(cache, **options), study(cache, **options, search="racing", delta=0.9, shard=20)]
    found = [results(one) for one in made]
    whole, cut = (trial_record(next(one for one in trials if one.trial.label == "de").table) for trials in found)
    dropped = {f"{i}/{j}": after for i, j, after in cut["dropped"]}
    assert dropped["5/6"] < made[0].facts.count("de")
    assert cut["stats"]["block_rows"] < whole["stats"]["block_rows"], "its branches are not grown again"
    summaries = [one.summarize(trials) for one, trials in zip(made, found, strict=True)]
    best, kept = (summary.document["languages"]["de"]["oracle"] for summary in summaries)
    assert kept == best
    assert f"{best['lirp']}/{best['lsrp']}" not in dropped
    said = ["could not win any more" in " ".join(summary.document["notes"]) for summary in summaries]
    assert said == [False, True]
    after = dropped["5/6"]
    assert f"5/6 after {after}" in " ".join(summaries[1].document["notes"])
    seen = language_hits("de", [next(one for one in found[1] if one.trial.label == "de").table]).hits[:after]
    (row,) = [row for row in summaries[1].table.to_pylist() if (row["lirp"], row["lsrp"]) == (5, 6)]
    assert row["gain"] == pytest.approx(100 * (seen[:, 3].mean() - seen[:, 0].mean())), "both on the same facts"


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


def test_a_hub_model_that_moves_on_is_still_the_one_of_the_keys(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_it = replaced_model(tmp_path, builtin_models()["atlas-bert"], monkeypatch)
    made = study(cache, model="org/name", languages=("de",), max_facts=8)
    replace_it()
    assert made.load(context(cache, tmp_path / "scratch")).backbone.hidden_size == made.description.hidden_size != 32
    assert made.tokenizer.vocab_size == made.description.vocab_size
    assert made.describe()["model"] == made.spec.model == "org/name"
    assert made.describe()["model fingerprint"] == "commit-0123abcd"


def keys(cache: Path, **options: Any) -> dict[str, str]:
    return {trial.label: trial.key for trial in study(cache, **options).trials()}


READ_OTHERWISE = {
    **{"ties": "fractional", "criterion": "acc", "folds": 7, "bootstrap": 500, "correction": "bh", "null_draws": 0},
    # What the model and the other options make of these is the same.
    **{"probe": "masked", "delta": 0.5, "shard": 20, "precision_sample": 5, "facts_per_trial": 100},
    **{"seed": 1, "pool_size": 5, "score": "sum", "bos": False},
}
COMPUTED_OTHERWISE = {
    **{"model": "atlas-bloom", "relations": ("P37",), "max_facts": 20, "split": "seen", "candidates": "sampled"},
    **{"last_layer": "raw", "search": "naive", "keep": "scores", "dtype": "float64", "head_dtype": "float64"},
}
WITH_LRP2_ALONE = {"pairs": ("1/2",), "specials": "exclude", "max_sentences": 40, "control": "random"}
PIVOT_ALONE = {"languages": ("de",), "pivot_reference": "full"}
OTHER_DATA = {"facts", "pools", "sentences", "pivot"}


def test_every_option_is_known_to_change_what_is_computed_or_not_to() -> None:
    tried = [*READ_OTHERWISE, *COMPUTED_OTHERWISE, *WITH_LRP2_ALONE, *PIVOT_ALONE, *OTHER_DATA]
    assert sorted(tried) == sorted(LRP2Spec.model_fields.keys() - (ENGINE_FIELDS - {"seed"}))


def test_keys_follow_what_changes_the_answer_and_nothing_else(cache: Path) -> None:
    plain = keys(cache)
    assert keys(cache, **READ_OTHERWISE, retries=0, memory=10**10) == plain
    for options, of_language, of_pivot in (
        (COMPUTED_OTHERWISE, True, True),
        (WITH_LRP2_ALONE, True, False),
        (PIVOT_ALONE, False, True),
    ):
        for name, value in options.items():
            other = keys(cache, **{name: value})
            assert (other["de"] != plain["de"], other["en"] != plain["en"]) == (of_language, of_pivot), name


@pytest.mark.parametrize(
    ("probe", "read"),
    [
        ({"candidates": "sampled"}, {"seed", "pool_size"}),
        ({"model": "atlas-bloom", "candidates": "full"}, {"score", "bos"}),
        ({"model": "atlas-bloom"}, {"seed", "pool_size", "score", "bos"}),
    ],
    ids=["masked, sampled", "causal, full", "causal, sampled"],
)
def test_a_key_has_the_options_that_its_probe_reads(cache: Path, probe: dict[str, Any], read: set[str]) -> None:
    plain = keys(cache, **probe)
    asked = {name: READ_OTHERWISE[name] for name in ("seed", "pool_size", "score", "bos")}
    assert {name for name, value in asked.items() if keys(cache, **probe, **{name: value}) != plain} == read


def test_the_key_of_a_race_follows_its_rules_and_that_of_inexact_arithmetic_its_check(cache: Path) -> None:
    for first, others in (
        ({"search": "racing"}, ({"delta": 0.5}, {"shard": 20}, {"criterion": "acc"})),
        ({"dtype": "bfloat16"}, ({"precision_sample": 5},)),
    ):
        plain = keys(cache, **first)["de"]
        assert all(keys(cache, **first, **other)["de"] != plain for other in others)


def test_a_race_by_trans_depends_on_what_the_pivot_is_asked(cache: Path) -> None:
    """Which pairs it drops follows from the pivot's hits as well."""

    def keys(search: str, criterion: str, asked: int) -> dict[str, str]:
        made = study(cache, search=search, criterion=criterion)
        made.pivot_facts = made.pivot_facts.select(max_facts=asked)
        return {trial.label: trial.key for trial in made.trials()}

    changed = {
        (search, criterion): keys(search, criterion, 20)["de"] != keys(search, criterion, 30)["de"]
        for search in ("racing", "lattice")
        for criterion in ("trans", "acc")
    }
    assert [race for race, changes in changed.items() if changes] == [("racing", "trans")]


def test_a_race_by_shared_credit_is_refused(cache: Path) -> None:
    with pytest.raises(UserError, match="--ties strict"):
        study(cache, search="racing", criterion="acc", ties="fractional")


def test_a_control_is_a_sweep_of_its_own_that_shares_the_pivot(cache: Path) -> None:
    sweeps = [keys(cache, control=control) for control in ("none", "random", "shuffled")]
    assert len({sweep["de"] for sweep in sweeps}) == 3
    assert len({sweep["en"] for sweep in sweeps}) == 1
    assert keys(cache, control="random", seed=1)["de"] != sweeps[1]["de"]


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


def test_an_estimate_of_the_pivot_alone_or_of_the_plain_loop_is_one_too(cache: Path) -> None:
    """What is left of a sweep that is nearly finished may be the pivot, which has no pairs to time."""
    made = study(cache, languages=("de",), max_facts=8)
    (pivot,) = [trial for trial in made.trials() if trial.label == "en"]
    assert 0 < made.estimate([pivot], threads=1).seconds < 60
    loop = study(cache, languages=("de",), max_facts=8, search="naive")
    found = [one.estimate(one.trials(), threads=1) for one in (made, loop)]
    assert found[1].flops > 2 * found[0].flops
    assert found[1].notes[0] == "block evaluations per input: 90 in a loop over pairs"


def test_an_option_that_decides_nothing_is_named(cache: Path) -> None:
    made = study(cache, score="sum", pool_size=5, delta=0.1)
    idle = [warning for warning in made.warnings if "decides nothing" in warning]
    assert [warning.split()[0] for warning in idle] == ["--score", "--pool-size", "--delta"]
    assert not any("decides nothing" in warning for warning in study(cache).warnings)


def test_a_model_that_narrows_its_states_at_the_end_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.lrp2.study.load_backbone", lambda *_, **__: tiny("opt"))
    with pytest.raises(UserError, match="from 32 to 16 numbers"):
        results(study(cache))

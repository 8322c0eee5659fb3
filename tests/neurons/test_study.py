"""The study of knowledge neurons: from built-in facts and model to the answer, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.compute as pc
import pytest

from jobs import neuron_sweep
from methods.backbone.addresses import builtin_models
from methods.neurons.results import LRP2, PLAIN, neurons_table, read_neurons_table
from methods.neurons.spec import NeuronSpec
from methods.neurons.study import NeuronStudy
from orchestrator.errors import UserError
from orchestrator.report.blocks import Table
from orchestrator.study import Summary, TrialResult
from tests.backbone.tiny import replaced_model
from tests.jobs import JobContract, Mistakes
from tests.trials import context, results

SMALL: dict[str, Any] = {
    "languages": ("de", "zh"),
    "relations": ("P37", "P38"),
    "max_facts": 12,
    "max_sentences": 50,
    "bootstrap": 100,
    "steps": 4,
    "pairs": ("2/4",),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def study(cache: Path, **options: Any) -> NeuronStudy:
    made = NeuronStudy(NeuronSpec(**{**SMALL, **options}), cache)
    made.prepare()
    return made


@pytest.fixture(scope="module")
def finished(cache: Path) -> tuple[list[TrialResult], Summary]:
    made = study(cache)
    found = results(made)
    return found, made.summarize(found)


def test_a_hub_model_that_moves_on_is_still_the_one_of_the_keys(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_it = replaced_model(tmp_path, builtin_models()["atlas-bert"], monkeypatch)
    made = study(cache, model="org/name", languages=("de",))
    replace_it()
    assert made.load(context(cache, tmp_path / "scratch")).backbone.hidden_size == made.description.hidden_size != 32
    assert made.describe()["model"] == "org/name"


class TestAnswer:
    def test_it_says_what_every_language_has_in_common_with_the_pivot(
        self, finished: tuple[list[TrialResult], Summary]
    ) -> None:
        _, summary = finished
        assert list(summary.document["languages"]) == ["de", "zh"]
        german = summary.document["languages"]["de"]
        assert german["pair"] == (2, 4)
        assert german["prompts"] == 12
        assert 0 <= german["without"]["different"] < german["without"]["same"] <= 100
        assert german["change"]["value"] == pytest.approx(german["with"]["same"] - german["without"]["same"])
        assert german["change"]["low"] <= german["change"]["value"] <= german["change"]["high"]
        assert summary.document["chance"] == pytest.approx(100 * 20 / 512)
        assert [run.name for run in summary.runs] == ["de", "zh"]
        assert json.loads(json.dumps(summary.document))
        assert summary.table.num_rows == 2 * 2 * 6 * 2, "languages, variants, layers, relations"

    def test_projected_queries_come_closer_between_the_two_layers_and_part_again(
        self, finished: tuple[list[TrialResult], Summary]
    ) -> None:
        for one in finished[1].document["languages"].values():
            before, after = (one["likeness"][variant]["centred"] for variant in (PLAIN, LRP2))
            assert after[0] == before[0]
            assert after[1] > before[1] + 0.1
            assert after[2] > before[2] + 0.1
            assert after[3] == pytest.approx(before[3], abs=0.1)
            cka = one["likeness"]
            assert cka[LRP2]["cka"][1] == pytest.approx(cka[PLAIN]["cka"][1], abs=1e-4), "blind to the shift itself"

    def test_the_neurons_found_matter_more_than_random_ones(self, finished: tuple[list[TrialResult], Summary]) -> None:
        for one in finished[1].document["languages"].values():
            effects = one["effects"]
            assert effects["off"] < 0.9 * effects["unchanged"]
            assert effects["random off"] > 0.95 * effects["unchanged"]

    def test_the_integral_is_checked(self, finished: tuple[list[TrialResult], Summary]) -> None:
        for one in finished[1].document["languages"].values():
            assert max(one["error_of_completeness"][PLAIN] + one["error_of_completeness"][LRP2]) < 0.02

    def test_the_report_has_the_papers_numbers_beside_ours(self, finished: tuple[list[TrialResult], Summary]) -> None:
        tables = {b.title: b for s in finished[1].sections for b in s.blocks if isinstance(b, Table)}
        beside = [row[2:] for row in tables["Beside the paper"].rows]
        assert beside[:2] == [[17.9, 11.5, 11.7], [18.5, 11.9, 12.1]]
        chinese = finished[1].document["languages"]["zh"]
        assert beside[2] == [chinese["without"][name] for name in ("same", "different", "average")]
        assert "where luck alone makes about" in finished[1].headline

    def test_a_trials_table_is_read_back_as_it_was(self, finished: tuple[list[TrialResult], Summary]) -> None:
        for result in finished[0]:
            again = neurons_table(read_neurons_table(result.table))
            assert again.equals(result.table, check_metadata=True)
            assert pc.list_value_length(again["neurons"]).unique().to_pylist() == [20]

    def test_without_the_pivots_trial_it_says_so(
        self, cache: Path, finished: tuple[list[TrialResult], Summary]
    ) -> None:
        others = [result for result in finished[0] if result.trial.label != "en"]
        summary = study(cache).summarize(others)
        assert any("en has no results" in note for note in summary.document["notes"])
        assert "nothing can be said" in summary.headline


class TestOptions:
    def test_a_causal_model_shared_sets_and_jaccard(self, cache: Path) -> None:
        options = {"model": "atlas-bloom", "languages": ("de",), "selection": "shared", "overlap": "jaccard"}
        made = study(cache, **options, relations=("P37",), effects=False, pairs=("2/6",))
        summary = made.summarize(results(made))
        assert summary.document["chance"] is None
        assert summary.document["languages"]["de"]["effects"] is None

    def test_keys_follow_what_changes_the_answer_and_nothing_else(self, cache: Path) -> None:
        def keys(**options: Any) -> dict[str, str]:
            return {trial.label: trial.key for trial in study(cache, **options).trials()}

        plain = keys()
        assert keys(overlap="jaccard", bootstrap=500, retries=0) == plain
        assert keys(languages=("de",))["de"] == plain["de"]
        assert keys(pairs=("2/4", "de:1/5"))["zh"] == plain["zh"]
        for changed in ({"pairs": ("1/5",)}, {"control": "random"}, {"specials": "exclude"}, {"similar_facts": 5}):
            other = keys(**changed)
            assert other["de"] != plain["de"]
            assert other["en"] == plain["en"]
        for changed in ({"rule": "left"}, {"steps": 5}, {"top": 5}, {"selection": "shared"}, {"objects": "single"}):
            assert keys(**changed)["en"] != plain["en"]

    def test_an_estimate_counts_points_and_layers(self, cache: Path) -> None:
        made = study(cache)
        estimate = made.estimate(made.trials(), threads=1)
        assert estimate.flops > 0
        assert estimate.seconds > 0
        assert estimate.notes[0] == "4 points of the integral in each of 6 layers"


class TestLayers:
    def test_they_may_come_from_a_layer_search(self, cache: Path, tmp_path: Path) -> None:
        made = study(cache)
        found = {name: {"oracle": {"lirp": i, "lsrp": 6}} for name, i in (("de", 1), ("zh", 2), ("fi", 3))}
        document = {"study": "lrp2", "model": "atlas-bert", "model fingerprint": made.model_hash, "languages": found}
        (tmp_path / "summary.json").write_text(json.dumps(document))
        assert study(cache, pairs=None, pairs_from=tmp_path).pairs == {"de": (1, 6), "zh": (2, 6)}
        assert study(cache, pairs=("zh:3/4",), pairs_from=tmp_path).pairs == {"de": (1, 6), "zh": (3, 4)}
        mixed = study(cache, pairs=("3/4", "de:2/5"), pairs_from=tmp_path, languages=("de", "zh", "tr"))
        assert mixed.pairs == {"de": (2, 5), "zh": (2, 6), "tr": (3, 4)}, "a language's own, the search's, the rest"
        with pytest.raises(UserError, match="another model"):
            study(cache, model="atlas-bloom", pairs=None, pairs_from=tmp_path)
        (tmp_path / "summary.json").write_text(json.dumps({"study": "lrp2", "compared": {"a": "one", "b": "other"}}))
        with pytest.raises(UserError, match="a comparison of two sweeps"):
            study(cache, pairs=None, pairs_from=tmp_path)

    def test_all_mistakes_are_told_at_once(self, cache: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            study(cache, pairs=("6/2", "xx:1/2", "de:1/7"), pairs_from=tmp_path)
        text = "\n".join(caught.value.problems)
        for words in ("6/2", "'xx'", "1/7", "not a finished layer search"):
            assert words in text

    def test_every_language_needs_its_layers(self, cache: Path) -> None:
        with pytest.raises(UserError, match="needs its layers for zh"):
            study(cache, pairs=("de:1/2",))


class TestCommand(JobContract):
    job, specs = neuron_sweep, neuron_sweep.NeuronSpec
    planned = ("--languages", "de", "--relations", "P37", "--max-facts", "4", "--max-sentences", "10", "--pairs", "2/4")
    mistakes: ClassVar[Mistakes] = {
        "unknown language": (["--languages", "dee", "--pairs", "1/2"], ("'dee'", "Did you mean 'de'")),
        "no layers": (["--languages", "de"], ("--pairs", "--pairs-from")),
        "the pivot alone": (["--languages", "en", "--pairs", "1/2"], ("Only 'en'", "--languages")),
        "no such model": (["--model", "atlas-bart", "--pairs", "1/2"], ("atlas-bart",)),
        "unknown rule": (["--rule", "middle", "--pairs", "1/2"], ("--rule", "midpoint")),
        "unknown option": (["--pair", "1/2"], ("--pairs",)),
    }

"""The editor sweep as a study: from built-in facts and model to the answer, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from methods.editing.evaluation import SCHEMA
from methods.editing.outcome import harmonic
from methods.editing.results import MEASURED, trial_run
from methods.editing.running import mask_summary
from methods.editing.spec import EditorSpec
from methods.editing.study import MBERT, EditorStudy
from orchestrator.errors import UserError
from orchestrator.study import TrialStopped
from tests.backbone.tiny import tiny_tokenizer
from tests.editing.tiny import tiny_hugging_face
from tests.trials import answer, context, results

SMALL: dict[str, Any] = {
    "languages": ("de", "en", "zh"),
    "editors": ("mend",),
    "seeds": 1,
    "lr": ("1e-3",),
    "steps": 4,
    "edits_per_step": 4,
    "validate_every": 2,
    "validation_edits": 3,
    "test_edits": 4,
    "test_retains": 2,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def study(cache: Path, *, only_plan: bool = False, **options: Any) -> EditorStudy:
    made = EditorStudy(EditorSpec(**{**SMALL, **options}), cache)
    made.only_plan = only_plan
    made.prepare()
    return made


def test_the_answer_compares_training_in_one_language_with_training_in_all(cache: Path, tmp_path: Path) -> None:
    made = study(cache, editors=("fine-tuning", "mend"), max_steps=("2",))
    summary = answer(made, tmp_path)
    methods = {(one["editor"], one["training"]): one for one in summary.document["methods"]}
    assert list(methods) == [("fine-tuning", "none"), ("mend", "mono"), ("mend", "cross")]
    english = methods["mend", "cross"]["edits"]["en"]
    assert set(english) == {"all", "own", "others"}
    acc, con = (english["all"][name]["mean"] for name in ("acc", "con"))
    assert english["all"]["succ"]["mean"] == pytest.approx(harmonic(acc, con))
    assert set(summary.document["cross_lingual_gain"]["en"]) == {"mend"}
    assert {run.params["training"] for run in summary.runs} == {"none", "mono", "cross"}
    mend = next(run for run in summary.runs if run.params["training"] == "cross")
    assert [step for step, _ in mend.history["dev_succ"]] == [0, 2, 4]
    assert {"acc_en_others", "con", "succ", "dev_succ", "steps"} <= set(mend.metrics)
    assert "Table" not in summary.headline
    assert "MEND" in summary.headline


def test_a_trial_stores_every_pair_of_languages(cache: Path, tmp_path: Path) -> None:
    made = study(cache, training=("cross",), edit_languages=("all",), masks=("lime",), test_updates="all")
    (result,) = results(made, tmp_path)
    assert result.table.schema.names == SCHEMA.names
    run = trial_run(result.table, seed=0)
    assert set(run.scores) == {(edit, update) for edit in made.languages for update in made.languages}
    for row in run.scores.values():
        assert (row.edits, row.retains) == (4, 8)
    assert [point.step for point in run.curve] == [0, 2, 4]
    assert run.validation == max(point.succ for point in run.curve)
    assert run.masks is not None
    assert run.masks.languages == made.languages
    assert all(run.masks.cosines[row][row] == pytest.approx(1) for row in range(3))


def test_every_method_is_tested_on_the_same_draws(cache: Path, tmp_path: Path) -> None:
    made = study(cache, seeds=2, test_updates="all")
    tables = [result.table.select(["edit_language", "update_language", "edits"]) for result in results(made, tmp_path)]
    assert len(tables) == 4
    assert all(table.equals(tables[0]) for table in tables)


def test_the_same_trial_gives_the_same_table(cache: Path, tmp_path: Path) -> None:
    made = study(cache, training=("cross",))
    first, second = (results(made, tmp_path / name)[0].table for name in ("first", "second"))
    assert first.equals(second, check_metadata=True)


def test_a_trial_that_was_stopped_goes_on_from_its_checkpoint(cache: Path, tmp_path: Path) -> None:
    """Killed at its second validation and started again, it takes only the steps after the first."""
    made = study(cache, training=("cross",))
    (trial,) = made.trials()
    whole = made.run(trial, made.load(context(cache, tmp_path)), context(cache, tmp_path / "whole"))

    def kill(step: int, metrics: Mapping[str, float]) -> None:
        if step == 4:
            raise TrialStopped(f"killed at step {step}")

    scratch = context(cache, tmp_path / "cut")
    with pytest.raises(TrialStopped, match="step 4"):
        made.run(trial, made.load(scratch), replace(scratch, report=kill))
    shares: list[float] = []
    resumed = made.run(trial, made.load(scratch), replace(scratch, progress=shares.append))
    assert resumed.equals(whole, check_metadata=True)
    assert shares[0] > 0.8 * 2 / 4


def test_keys_follow_what_changes_the_answer_and_nothing_else(cache: Path) -> None:
    def keys(**options: Any) -> dict[str, str]:
        return {trial.label: trial.key for trial in study(cache, **options).trials()}

    plain = keys()
    label = "mend cross en none lr=0.001 seed=0"
    assert keys(retries=0, search="asha", samples=3) == plain
    assert keys(lr=("1e-3", "1e-4"), seeds=2, editors=("mend", "fine-tuning"))[label] == plain[label]
    for other in (
        {"lr": ("2e-3",)},
        {"steps": 5},
        {"kl": "edited first"},
        {"consistency": "all"},
        {"languages": ("de", "en")},
        {"parallel": "full"},
        {"test_edits": 5},
        {"sign": ("-",)},
        {"model": "atlas-bloom"},
    ):
        assert plain[label] not in keys(**other).values(), other


def test_all_mistakes_are_told_at_once(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        study(cache, task="atlas-fact", model="atlas-bart", mask_lr=("1e-3",))
    text = "\n".join(caught.value.problems)
    for words in ("'atlas-facts'", "atlas-bart", "--mask-lr"):
        assert words in text
    with pytest.raises(UserError, match="no 'fr' among"):
        study(cache, edit_languages=("fr",))


def test_an_option_that_would_change_nothing_is_refused(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        study(cache, classifier_lr=1e-3, classifier_epochs=2)
    assert [problem.split()[0] for problem in caught.value.problems] == ["--classifier-lr", "--classifier-epochs"]
    with pytest.raises(UserError, match=r"--pools lists\.zip has no use for atlas-claims"):
        study(cache, task="atlas-claims", pools=Path("lists.zip"))


def test_a_classifier_is_not_trained_without_its_language(cache: Path) -> None:
    """It is trained in English, whatever language is edited: without English texts nothing is started."""
    with pytest.raises(UserError, match="in en, and atlas-claims has none among the chosen languages"):
        study(cache, task="atlas-claims", languages=("de", "zh"), edit_languages=("de",))


def test_a_trained_classifier_is_what_is_planned_and_named(cache: Path, tmp_path: Path) -> None:
    """Sizes and name are its own, not those of --model, which nothing is trained from then."""
    config = transformers.BertConfig(vocab_size=MBERT[2], num_labels=3, architectures=["BertForSequenceClassification"])
    config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    made = study(cache, task="atlas-claims", classifier=str(tmp_path), only_plan=True)
    assert made.needs().weights > 4 * 170e6
    assert made.needs().model == f"{tmp_path} in float32"
    assert made.describe()["model"] == str(tmp_path)
    made.spec = made.spec.model_copy(update={"task": "xnli:folder"})
    assert made.paper_task == "xnli"
    for wrong in ("atlas-bert", "nowhere"):
        with pytest.raises(UserError, match=wrong):
            study(cache, task="atlas-claims", classifier=wrong)


@pytest.mark.parametrize("option", ["model", "classifier"])
def test_a_hub_model_is_fetched_as_it_was_prepared(
    option: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan asks for no weights, and a sweep goes on with its commit when the hub has moved."""
    snapshots = tmp_path / "models--org--name" / "snapshots"
    snapshots.mkdir(parents=True)
    asked: list[tuple[str | None, bool]] = []
    tiny = tiny_hugging_face("bert" if option == "model" else "bert-classifier")
    for files in (tiny, tiny_tokenizer()):
        files.save_pretrained(snapshots / "0123abcd")

    def download(name: str, *, revision: str | None, allow_patterns: list[str], **_: object) -> str:
        asked.append((revision, "*.safetensors" in allow_patterns))
        return str(snapshots / (revision or "0123abcd"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for task in ("atlas-claims",) if option == "classifier" else ("atlas-claims", "atlas-facts"):
        plan = study(cache, only_plan=True, task=task, **{option: "org/name"})
        assert plan.trials()
        assert not any(weights for _, weights in asked)
    made = study(cache, task=task, **{option: "org/name"})
    assert [trial.key for trial in made.trials()] == [trial.key for trial in plan.trials()]
    asked.clear()
    loaded = made.load(context(cache, tmp_path))
    assert loaded.model.kind == plan.kind
    assert loaded.known.model == "commit-0123abcd"
    assert {revision for revision, _ in asked} == {"0123abcd"}


def test_languages_without_training_texts_are_named(cache: Path, tmp_path: Path) -> None:
    """XNLI's own training texts are English: what is trained on them has seen no other language."""
    lines = [f"a man {n}\ta person {n}\t{('entailment', 'neutral', 'contradiction')[n % 3]}" for n in range(9)]
    for name in ("train-en", "dev-en", "dev-de", "test-en", "test-de"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines))
    warnings = study(cache, task=f"xnli:{tmp_path}", languages=None).warnings
    assert [warning.partition(" has ")[2] for warning in warnings] == [
        "nothing in its train split in de: training makes and sees no edit there."
    ]


def test_claims_train_their_classifier_first_and_edit_its_mistakes(cache: Path, tmp_path: Path) -> None:
    made = study(cache, task="atlas-claims", training=("cross",), classifier_epochs=1, languages=("en", "de"))
    trials = made.trials()
    assert [trial.stage for trial in trials] == [0, 1]
    found = results(made, tmp_path)
    classifier, edited = found[0].table.to_pylist(), trial_run(found[1].table, 0)
    assert {row["language"] for row in classifier} == {"en", "de"}
    assert all(row["mistakes"] == pytest.approx(row["texts"] * (100 - row["acc"]) / 100) for row in classifier)
    assert all(row.con == row.con_all for row in edited.scores.values())
    summary = made.summarize(found)
    assert [section.title for section in summary.sections][1] == "What is edited"


def test_a_search_chooses_by_the_dev_split(cache: Path, tmp_path: Path) -> None:
    made = study(cache, training=("cross",), lr=("1e-6..1e-2",), search="random", samples=3)
    summary = answer(made, tmp_path)
    methods = summary.document["methods"]
    assert len(methods) == 3
    (chosen,) = [one for one in methods if one["chosen"]]
    assert chosen["validation"][0] == max(one["validation"][0] for one in methods)
    assert set(MEASURED) <= set(summary.table.column_names)
    rows = summary.table.to_pylist()
    assert {row["settings"] for row in rows} == {json.dumps(one["settings"]) for one in methods}
    assert {row["settings"] for row in rows if row["chosen"]} == {json.dumps(chosen["settings"])}


def test_asha_stops_within_a_method(cache: Path) -> None:
    rules = study(cache, search="asha").early_stopping()
    assert rules is not None
    assert (rules.metric, rules.grace, rules.max_step) == ("succ", 2, 4)
    assert rules.within == ("editor", "training", "edits in", "masks")
    assert study(cache).early_stopping() is None


def test_an_estimate_measures_real_steps(cache: Path) -> None:
    made = study(cache)
    estimate = made.estimate(made.trials(), threads=1)
    assert estimate.flops > 0
    assert estimate.seconds > 0
    assert "mend" in estimate.notes[0]


def test_alike_masks_have_cosine_one() -> None:
    """A language whose mask is another's on that one's strongest dimensions, and different elsewhere."""
    import torch

    from methods.editing.gates import LanguageMasks
    from methods.editing.model import EditedModule

    masks = LanguageMasks(("a", "b", "c"), [EditedModule("m", 100, 100, 0, 0)])
    with torch.no_grad():
        scale = masks.scale["0"][:, 0]
        scale[:, 2:] = 0.1
        scale[0, :2], scale[1, :2], scale[2, :2] = 5.0, 5.0, torch.tensor([5.0, -5.0])
        masks.log_alpha["0"].fill_(3.0)
    found = mask_summary(masks)
    assert found.dimensions == 2
    assert found.cosines[0][1] == pytest.approx(1)
    assert found.cosines[0][2] == pytest.approx(0)
    assert found.open_gates == (1.0, 1.0, 1.0)

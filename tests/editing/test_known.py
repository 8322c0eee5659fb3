"""What the unmodified model makes of a test's texts is computed once, whoever asks, and changes no judgement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from methods.editing import known
from methods.editing.editors import EDITORS, Editor, build_editor
from methods.editing.evaluation import judge
from methods.editing.examples import EditSample
from methods.editing.known import KnownTexts
from methods.editing.model import EditableModel
from tests.editing.tiny import LANGUAGES, requests, tiny_editable


def samples(model: EditableModel, number: int = 6) -> list[list[EditSample]]:
    """Edits with an update and two unrelated texts; some texts are shared."""
    edits = requests(model.kind, number)
    others = requests(model.kind, 3, seed=1, answered=False)
    return [
        [EditSample(str(index), edit, edit, others[(index + place) % 3]) for place in range(2)]
        for index, edit in enumerate(edits)
    ]


def editor_of(model: EditableModel) -> Editor:
    return build_editor(EDITORS["mend"].Config.model_validate({"edit_lr": 0.1}), model, LANGUAGES)


@pytest.mark.parametrize("family", ["bert", "bloom", "bert-classifier"])
class TestKnownTexts:
    def test_judgements_are_those_of_a_model_that_knows_nothing(self, family: str, tmp_path: Path) -> None:
        model = tiny_editable(family, dtype=torch.float64)
        editor, drawn = editor_of(model), samples(model)
        plain = judge(editor, drawn)
        stores = KnownTexts(tmp_path, "model").stores(model, drawn, all_positions=True)
        with model.remembering(stores):
            assert judge(editor, drawn) == pytest.approx(plain, nan_ok=True)
        assert all(store.misses == 0 and store.hits > 0 for store in stores)

    def test_the_second_trial_computes_nothing(
        self, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = tiny_editable(family)
        drawn, where = samples(model), KnownTexts(tmp_path, "model")
        where.stores(model, drawn, all_positions=True)
        monkeypatch.setattr(model, "_lower", None)
        frozen, _ = where.stores(model, drawn, all_positions=True)
        with model.remembering((frozen, model.raw_store)):
            batch = model.encode([drawn[0][0].retain])
            assert len(model.frozen(batch)) == 1

    def test_files_are_the_same_whoever_writes_them(
        self, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also in other sweeps: a trial that asks for one language alone writes that language's very files."""
        monkeypatch.setattr(known, "PART_TOKENS", 24)
        model = tiny_editable(family)
        drawn = samples(model)
        english = [each for each in drawn if each[0].edit.language == "en"]
        for name, asked in (("all", drawn), ("turned", drawn[::-1]), ("english", english)):
            KnownTexts(tmp_path / name, "model").stores(model, asked, all_positions=True)
        whole, turned, part = (
            {file.name: file.read_bytes() for file in (tmp_path / name).glob("*.safetensors")}
            for name in ("all", "turned", "english")
        )
        assert whole == turned
        assert 0 < len(part) < len(whole)
        assert part.items() <= whole.items()


def test_another_model_has_files_of_its_own(tmp_path: Path) -> None:
    model = tiny_editable("bert")
    for name in ("one", "other"):
        KnownTexts(tmp_path, name).stores(model, samples(model), all_positions=True)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 * 3, "a file for each edit language"


@pytest.mark.parametrize("left", [0, 100, -8])
def test_a_damaged_file_is_written_anew(left: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_editable("bert")
    drawn, texts = samples(model), KnownTexts(tmp_path, "model")
    texts.stores(model, drawn, all_positions=True)
    file = min(tmp_path.glob("*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    texts.stores(model, drawn, all_positions=True)
    assert file.read_bytes() == whole
    assert f"{file} was damaged" in caplog.text


def test_what_would_not_fit_is_not_kept_and_computed_by_every_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(known, "MOST_BYTES", 1000)
    model = tiny_editable("bert", dtype=torch.float64)
    drawn = samples(model)
    plain = judge(editor_of(model), drawn)
    with model.remembering(KnownTexts(tmp_path, "model").stores(model, drawn, all_positions=True)):
        assert judge(editor_of(model), drawn) == plain
    assert "every trial computes it for itself" in caplog.text
    assert not list(tmp_path.iterdir())

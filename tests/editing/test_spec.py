"""What may be asked of an editor sweep, and which grid follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from methods.editing.editors import EDITORS, Editor
from methods.editing.outcome import ALL
from methods.editing.space import OF_TRAINING, PARAMETERS, own_texts
from methods.editing.spec import EditorSpec, cells, unused
from orchestrator.errors import UserError
from orchestrator.spec import parse_command_line, spec_to_yaml


def spec(*arguments: str) -> Any:
    return parse_command_line(EditorSpec, arguments, description="", examples=(), prog="job").spec


def names(made: EditorSpec) -> list[str]:
    """The methods of the grid, each once, with their edit languages."""
    found, _ = cells(made)
    return list(dict.fromkeys(f"{cell.method.label} in {cell.method.edits_in}" for cell in found))


class TestGrid:
    def test_the_papers_two_tables_are_one_grid(self) -> None:
        found, notes = cells(spec("--edit-languages", "en,all", "--masks", "none,lime"))
        assert names(spec("--edit-languages", "en,all", "--masks", "none,lime")) == [
            "Fine-tuning in all",
            *(
                line
                for editor in ("Editable Training", "KnowledgeEditor", "MEND")
                for line in (
                    f"{editor} (en only) in en",
                    f"{editor} (all) in all",
                    f"{editor} (all, LiME) in all",
                )
            ),
        ]
        assert len(found) == 1 + 3 * 3 * 3, "three seeds of what learns, one of fine-tuning"
        assert len(notes) == 6

    def test_what_makes_no_sense_is_left_out_and_said(self) -> None:
        _, notes = cells(spec("--edit-languages", "all"))
        assert any("Monolingual" in note for note in notes)
        _, notes = cells(spec("--masks", "none,lime"))
        assert any("no use" in note for note in notes)
        assert any("no masks" in note for note in notes)

    def test_a_grid_of_nothing_is_a_mistake_that_says_why(self) -> None:
        with pytest.raises(UserError, match="no use"):
            cells(spec("--editors", "mend", "--masks", "lime"))

    def test_editors_named_twice_run_once(self) -> None:
        assert len(cells(spec("--editors", "mend,mend", "--edit-languages", "en,en"))[0]) == 2 * 3

    def test_seeds_follow_the_sweeps_seed(self) -> None:
        found, _ = cells(spec("--editors", "mend", "--training", "cross", "--seeds", "2", "--seed", "7"))
        assert [cell.seed for cell in found] == [7, 8]

    def test_lists_make_a_grid_for_the_methods_they_mean_something_to(self) -> None:
        made = spec(
            *("--edit-languages", ALL, "--masks", "none,lime", "--seeds", "1"),
            *("--editors", "fine-tuning,mend", "--lr", "1e-5,mend=1e-4,mend=1e-3", "--mask-penalty", "0.1,1"),
        )
        values: dict[str, list[dict[str, Any]]] = {}
        for cell in cells(made)[0]:
            values.setdefault(cell.method.label, []).append(dict(cell.values))
        assert values["Fine-tuning"] == [{"lr": 1e-5}]
        assert values["MEND (all)"] == [{"lr": 1e-4}, {"lr": 1e-3}]
        assert values["MEND (all, LiME)"] == [
            {"lr": rate, "mask_penalty": penalty} for rate in (1e-4, 1e-3) for penalty in (0.1, 1.0)
        ]

    def test_hyperparameters_that_nothing_takes_are_named(self) -> None:
        assert unused(spec("--editors", "mend", "--mask-lr", "1e-3")) == ["mask_lr"]
        assert unused(spec("--editors", "mend", "--lr", "1e-3")) == []

    def test_values_for_editors_that_are_left_out_are_no_mistake(self) -> None:
        """So a preset for all editors serves some of them."""
        made = spec("--editors", "mend", "--lr", "knowledge-editor=1e-3", "--hidden", "knowledge-editor=64")
        assert unused(made) == []
        assert cells(made)[1][-1] == "Values for editors that are not in this grid have no use: --lr, --hidden."
        assert unused(spec("--editors", "mend", "--hidden", "64")) == ["hidden"]


class TestSearch:
    def test_a_range_needs_draws(self) -> None:
        with pytest.raises(UserError, match="--search random"):
            cells(spec("--lr", "1e-6..1e-3"))

    def test_draws_are_the_same_for_all_methods_and_stay_when_more_are_asked_for(self) -> None:
        drawn: dict[str, list[list[float]]] = {}
        for samples in ("3", "5"):
            made = spec("--lr", "1e-6..1e-3", "--search", "random", "--samples", samples, "--seeds", "1")
            for method in {cell.method for cell in cells(made)[0]}:
                rates = [dict(cell.values)["lr"] for cell in cells(made)[0] if cell.method == method]
                drawn.setdefault(samples, []).append(rates)
        assert all(rates == drawn["5"][0] for rates in drawn["5"])
        assert drawn["3"][0] == drawn["5"][0][:3]
        assert all(1e-6 <= rate <= 1e-3 for rate in drawn["5"][0])

    def test_asha_takes_lists_as_well(self) -> None:
        made = spec("--editors", "mend", "--training", "cross", "--lr", "1e-5,1e-4", "--search", "asha", "--seeds", "1")
        assert [dict(cell.values)["lr"] for cell in cells(made)[0]] == [1e-5, 1e-4]

    def test_choices_can_be_compared_like_numbers(self) -> None:
        made = spec("--editors", "mend", "--training", "cross", "--sign", "+,-", "--seeds", "1")
        assert [dict(cell.values)["sign"] for cell in cells(made)[0]] == ["+", "-"]


class TestWriting:
    def test_a_value_of_ones_own_wins(self) -> None:
        assert own_texts("mend", ("1e-5", "mend=1e-4")) == ["1e-4"]
        assert own_texts("fine-tuning", ("1e-5", "mend=1e-4")) == ["1e-5"]

    @pytest.mark.parametrize("text", ["fast", "1e-3..1e-6", "-1", "0..1", "1e-3..", "mend=", "mendd=1", "1e-3,1e-3"])
    def test_what_is_no_value_is_refused(self, text: str) -> None:
        with pytest.raises(UserError, match="--lr: "):
            spec("--lr", text)

    def test_mistakes_are_told_all_at_once_with_the_nearest_word(self) -> None:
        with pytest.raises(UserError) as caught:
            spec("--lr", "mendd=1e-4", "--editors", "mennd", "--steps", "many", "--search", "ashes", "--rank", "1.5")
        text = "\n".join(caught.value.problems)
        for words in ("--lr", "'mend'", "--editors", "--steps", "--search", "'asha'", "--rank"):
            assert words in text
        assert len(caught.value.problems) == 5

    def test_a_specification_survives_its_own_preset(self, tmp_path: Path) -> None:
        made = spec("--lr", "mend=1e-6..1e-3,5e-5", "--edit-languages", "en,all", "--search", "asha")
        (tmp_path / "spec.yaml").write_text(spec_to_yaml(made))
        assert spec("--config", str(tmp_path / "spec.yaml")) == made

    @pytest.mark.parametrize("name", ["atlas", "mlama", "xnli"])
    def test_presets_make_a_grid(self, name: str) -> None:
        made = spec("--config", str(Path(__file__).parents[2] / "jobs" / "presets" / f"editors_{name}.yaml"))
        found, _ = cells(made)
        assert {cell.method.training for cell in found} == {"none", "mono", "cross"}
        assert {cell.method.mask for cell in found} == {"none", "lime"}
        assert unused(made) == []

    @pytest.mark.parametrize("editor", EDITORS.values(), ids=list(EDITORS))
    def test_every_option_of_an_editor_is_an_option_of_the_job(self, editor: type[Editor]) -> None:
        fields = editor.Config.model_fields
        ours = {name for name, one in PARAMETERS.items() if editor.name in one.editors} - set(OF_TRAINING)
        left_out = {
            "seed": "one for each trial",
            "masks": "a part of the grid",
            "clip": "as published",
            "memory": "the engine says what a trial may use",
            "max_scale": "as published",
        }
        assert set(fields) == (ours | left_out.keys()) & set(fields)
        assert ours <= set(fields)
        for name in ours:
            assert name in EditorSpec.model_fields

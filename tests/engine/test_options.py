"""A job with several studies: the command or the preset says which, and ``--help`` shows the options of all."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import Field

from orchestrator.errors import UserError
from orchestrator.spec import Request, SweepSpec, parse_command_line, spec_to_yaml


class WalkSpec(SweepSpec):
    option_group: ClassVar[str] = "walking"

    study: Literal["walk"] = Field("walk", description="which")
    steps: int = Field(3, description="steps to walk")
    mountain: int = Field(1, description="to climb")
    footwear: str = Field("boots", description="what is worn")


class SwimSpec(SweepSpec):
    option_group: ClassVar[str] = "swimming"

    study: Literal["swim"] = Field("swim", description="which")
    steps: int = Field(7, description="strokes to swim")
    mountains: int = Field(1, description="around the water")
    water: str = Field("lake", description="where")


def parse(*words: str) -> Request:
    return parse_command_line((WalkSpec, SwimSpec), words, description="Moves.", examples=(), prog="move")


def mistakes(*words: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse(*words)
    return list(caught.value.problems)


def preset(folder: Path, text: str) -> str:
    (folder / "preset.yaml").write_text(text)
    return str(folder / "preset.yaml")


def test_the_first_study_is_the_default() -> None:
    assert parse("--steps", "5").spec == WalkSpec.model_validate({"steps": 5})


def test_the_command_line_names_the_study() -> None:
    assert parse("--study", "swim").spec == SwimSpec.model_validate({})
    assert parse("--study=swim", "--water", "sea").spec == SwimSpec.model_validate({"water": "sea"})


def test_the_preset_names_the_study_and_the_command_line_wins(tmp_path: Path) -> None:
    path = preset(tmp_path, "study: swim\nsteps: 9\n")
    assert parse("--config", path).spec == SwimSpec.model_validate({"steps": 9})
    assert parse(f"--config={path}", "--study", "walk").spec == WalkSpec.model_validate({"steps": 9})


def test_a_specification_survives_its_own_preset(tmp_path: Path) -> None:
    made = SwimSpec.model_validate({"steps": 2})
    assert parse("--config", preset(tmp_path, spec_to_yaml(made))).spec == made


def test_an_option_that_is_nearly_known_and_known_elsewhere_gets_both_hints() -> None:
    (found,) = mistakes("--mountain", "2", "--study", "swim")
    assert found.startswith("There is no option --mountain. Did you mean '--mountains'")
    assert found.endswith("? It belongs to --study walk.")


def test_an_unknown_study_gets_a_hint(tmp_path: Path) -> None:
    assert mistakes("--study", "swimm") == ["--study: this job has no study 'swimm'. Did you mean 'swim'?"]
    assert "Did you mean 'walk'" in mistakes("--config", preset(tmp_path, "study: wallk\n"))[0]


def test_options_of_another_study_say_so(tmp_path: Path) -> None:
    path = preset(tmp_path, "study: swim\nfootwear: none\nwatter: sea\n")
    found = mistakes("--config", path, "--footwear", "none", "--stepps", "3")
    assert [problem.rpartition(". ")[2] if "Did" in problem else problem for problem in found] == [
        "There is no option --footwear. It belongs to --study walk.",
        "Did you mean '--steps'?",
        f"{path}, line 2: footwear is not a key of this preset. It belongs to 'study: walk'.",
        "Did you mean 'water'?",
    ]


def test_a_study_without_its_name_is_a_mistake() -> None:
    assert mistakes("--study") == ["--study needs a value, such as --study {walk,swim}."]


@pytest.mark.parametrize("words", [(), ("--study", "swim")])
def test_help_shows_every_option_of_both_once(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*words, "--help")
    shown = capsys.readouterr().out
    assert "--study {walk,swim}" in shown
    for heading in ("walking (--study walk):", "swimming (--study swim):", "where and how to run:"):
        assert shown.count(heading) == 1
    assert shown.index("--footwear") < shown.index("--water") < shown.index("--output")
    assert shown.count("--output") == 1

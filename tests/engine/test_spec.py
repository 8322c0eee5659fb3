"""The specification: preset and command line, parsed by the fields' types, all mistakes at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from orchestrator.errors import UserError
from orchestrator.spec import Request, SweepSpec, parse_command_line, spec_to_yaml
from orchestrator.workspace import sweep_name


class SearchSpec(SweepSpec):
    option_group: ClassVar[str] = "the search"

    model: str = Field("atlas-bert", description="model to search")
    languages: tuple[str, ...] | None = Field(None, description="languages to search")
    layers: tuple[int, ...] = Field((1, 2), description="layers to search")
    rate: float = Field(1e-3, gt=0, description="learning rate")
    score: Literal["mean", "sum"] = Field("mean", description="how tokens are scored")
    specials: bool = Field(True, description="count special tokens")


def parse(*words: str) -> Request:
    return parse_command_line(SearchSpec, words, description="Searches.", examples=["python search.py"], prog="search")


def problems(*words: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        parse(*words)
    return caught.value.problems


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "search.yaml"
    path.write_text("# python search.py --config search.yaml\nlanguages: [no, de]\nrate: 1e-6\nspecials: off\n")
    return path


def test_options_are_parsed_by_the_type_of_their_field() -> None:
    spec = parse("--languages", "zh,ja", "--layers", "3,4", "--rate=1e-6", "--no-specials", "--memory", "4GB").spec
    assert isinstance(spec, SearchSpec)
    assert spec.languages == ("zh", "ja")
    assert spec.layers == (3, 4)
    assert spec.rate == 1e-6
    assert spec.specials is False
    assert spec.memory == 4_000_000_000


def test_a_preset_is_parsed_by_the_same_rules_and_norwegian_is_not_false(preset: Path) -> None:
    spec = parse("--config", str(preset)).spec
    assert isinstance(spec, SearchSpec)
    assert spec.languages == ("no", "de")
    assert spec.rate == 1e-6
    assert spec.specials is False


def test_the_command_line_wins_over_the_preset_and_null_means_the_default(preset: Path) -> None:
    spec = parse("--config", str(preset), "--rate", "0.5", "--languages", "null").spec
    assert isinstance(spec, SearchSpec)
    assert spec.rate == 0.5
    assert spec.languages is None


def test_all_mistakes_of_both_sources_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("rate: fast\nscor: mean\nseed: -1\nscore: meen\n")
    found = "\n".join(problems("stray", "--config", str(path), "--langages", "de", "--memory", "4QB", "--retries"))
    assert f"{path}, line 1: rate: input should be a valid number" in found
    assert f"{path}, line 2: scor is not a key of this preset. Did you mean 'score'?" in found
    assert f"{path}, line 3: seed: input should be greater than or equal to 0, not '-1'" in found
    assert f"{path}, line 4: score: input should be 'mean' or 'sum', not 'meen'. Did you mean 'mean'?" in found
    assert "There is no option --langages. Did you mean '--languages'" in found
    assert "--memory: could not interpret byte unit" in found
    assert "--retries needs a value" in found
    assert "'stray' belongs to no option" in found
    assert "'de'" not in found, "the value of an unknown option is no mistake of its own"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("languages: [de", "is not valid YAML"),
        ("- de\n- fr\n", "must hold lines such as"),
        ("seed: 1\nseed: 2\n", "line 2: seed is given twice"),
        ("layers: [1, two]\n", "line 1: layers: input should be a valid integer"),
        ("model: !!python/object/apply:os.getcwd []\n", "model: input should be a valid string"),
    ],
)
def test_a_damaged_preset_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert message in "\n".join(problems("--config", str(path)))


def test_a_preset_that_is_not_there_names_the_ones_near_it(preset: Path) -> None:
    assert f"Did you mean '{preset}'?" in problems("--config", str(preset.with_name("serch.yaml")))[0]


def test_options_given_twice_and_abbreviated_options_are_mistakes() -> None:
    assert "--seed is given 2 times" in problems("--seed", "1", "--seed", "2")[0]
    assert "There is no option --lang" in problems("--lang", "de")[0]


def test_help_shows_groups_choices_defaults_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for part in ("the search:", "where and how to run:", "{mean,sum}", "(default: mean)", "--no-specials", "80% of"):
        assert part in text
    assert text.index("the search:") < text.index("where and how to run:")
    assert text.rstrip().endswith("examples:\n  python search.py")


def test_help_and_mistakes_need_neither_ray_nor_torch() -> None:
    job = Path(__file__).parent / "toy_job.py"
    code = f"import sys, runpy; sys.argv = ['toy', '--sise', '3']; runpy.run_path({str(job)!r}, run_name='job'); "
    code += "from orchestrator.cli import main; from tests.engine.toy import ToySpec, ToyStudy; "
    code += "code = main(ToySpec, ToyStudy, description=''); "
    code += "print(code, sorted({'ray', 'torch', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "2 []"
    assert "Did you mean '--size'" in done.stderr


@settings(max_examples=30, deadline=None)
@given(
    languages=st.lists(st.from_regex(r"[a-z]{2,3}", fullmatch=True), min_size=1).map(tuple),
    rate=st.floats(1e-30, 1e30),
    retries=st.integers(0, 100),
    score=st.sampled_from(["mean", "sum"]),
    specials=st.booleans(),
    memory=st.none() | st.integers(1, 2**50),
)
def test_a_written_specification_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, **values: Any) -> None:
    spec = SearchSpec(**values)
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(spec_to_yaml(spec))
    assert parse("--config", str(path)).spec == spec


def test_the_sweep_is_named_after_its_preset_and_what_goes_beyond_it(preset: Path) -> None:
    assert sweep_name(parse("--config", str(preset)), "lrp2") == "search"
    assert sweep_name(parse("--config", str(preset), "--retries", "5"), "lrp2") == "search"
    assert sweep_name(parse(), "lrp2") == "lrp2"
    assert sweep_name(parse("--name", "mine", "--rate", "1"), "lrp2") == "mine"
    fewer = sweep_name(parse("--config", str(preset), "--languages", "de"), "lrp2")
    assert fewer.startswith("search-")
    assert fewer == sweep_name(parse("--languages", "de", "--config", str(preset)), "lrp2")
    assert fewer != sweep_name(parse("--config", str(preset), "--languages", "no"), "lrp2")
    preset.write_text("name: full\n")
    assert sweep_name(parse("--config", str(preset)), "lrp2") == "full"
    assert sweep_name(parse("--config", str(preset), "--name", "mine", "--languages", "de"), "lrp2") == "mine"
    fewer = sweep_name(parse("--config", str(preset), "--languages", "de"), "lrp2")
    assert fewer.startswith("full-"), "what a sweep was asked, run again with less, does not overwrite its report"


@pytest.mark.parametrize("stem", ["my search", "поиск", "_search"])
def test_a_sweep_can_be_run_again_whatever_its_preset_is_called(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.yaml"
    path.write_text("rate: 1\n")
    request = parse("--config", str(path))
    named = request.spec.model_copy(update={"name": sweep_name(request, "lrp2")})
    path.write_text(spec_to_yaml(named))
    assert parse("--config", str(path)).spec == named


def test_a_sweep_does_not_take_the_place_of_the_cache() -> None:
    with pytest.raises(UserError, match=r"cannot be named 'cache'.*another --name"):
        sweep_name(parse("--name", "cache"), "lrp2")

"""Search spaces: values, grids and ranges become the same points whenever the same is asked."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from orchestrator.errors import Problems
from orchestrator.search_space import SearchSpace, parameter_types


class Config(BaseModel):
    rate: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    rank: int = Field(8, ge=1)
    penalty: float | None = None
    masks: bool = False
    editor: Literal["mend", "fine-tuning"] = "mend"


TYPES = parameter_types(Config)


def space(**values: Any) -> SearchSpace:
    problems = Problems()
    found = SearchSpace.read(values, TYPES, problems)
    problems.raise_if_any()
    return found


def test_single_values_and_lists_are_a_grid_parsed_by_the_type_of_their_field() -> None:
    found = space(rate="1e-6", rank=["2", "4"], penalty=["null", "0.5"], masks=("true", "false"), editor="mend")
    points = found.points(samples=5, seed=0)
    assert len(points) == 8, "2 ranks x 2 penalties x 2 masks; without a range nothing is drawn"
    assert points[0] == {"editor": "mend", "masks": True, "penalty": None, "rank": 2, "rate": 1e-6}
    assert list(points[0]) == sorted(points[0])


def test_every_combination_of_the_grid_gets_the_same_draws() -> None:
    points = space(editor=["mend", "fine-tuning"], rate="1e-6..1e-3", penalty="lin:0..2", rank="int:2..64").points(5, 0)
    assert len(points) == 10
    draws = [
        [{**point, "editor": None} for point in points if point["editor"] == each] for each in ("mend", "fine-tuning")
    ]
    assert draws[0] == draws[1]
    assert len({point["rate"] for point in points}) == 5
    assert all(isinstance(point["rank"], int) for point in points)


@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20))
def test_more_samples_and_other_parameters_keep_the_draws(seed: int, some: int, more: int) -> None:
    alone = space(rate="1e-6..1e-3").points(some, seed)
    both = space(rate="1e-6..1e-3", penalty="lin:0..1", masks="true").points(some + more, seed)
    assert [point["rate"] for point in both[:some]] == [point["rate"] for point in alone]
    assert alone == space(rate="1e-6..1e-3").points(some, seed)


def test_the_draws_are_those_they_were() -> None:
    points = space(rate="1e-6..1e-3", rank="int:2..64").points(3, seed=0)
    recorded = [{"rank": 22, "rate": 0.000155}, {"rank": 16, "rate": 9.648e-06}, {"rank": 19, "rate": 1.48e-06}]
    assert points == recorded, "the keys of finished trials depend on them"


@pytest.mark.parametrize(("text", "kind"), [("1e-6..1e-3", "log"), ("lin:0.001..0.9", "lin"), ("int:3..5", "int")])
def test_draws_lie_within_their_range_and_spread_as_its_kind_says(text: str, kind: str) -> None:
    name = "rank" if kind == "int" else "rate"
    drawn = [point[name] for point in space(**{name: text}).points(2000, seed=1)]
    low, high = {"log": (1e-6, 1e-3), "lin": (0.001, 0.9), "int": (3, 5)}[kind]
    assert low <= min(drawn) <= max(drawn) <= high
    if kind == "int":
        assert sorted(drawn) == [3, 4, 5], "draws that coincide count once"
    else:
        middle = math.sqrt(low * high) if kind == "log" else (low + high) / 2
        assert 0.45 < sum(value < middle for value in drawn) / len(drawn) < 0.55
        assert all(value == float(f"{value:.4g}") for value in drawn)


def test_all_mistakes_at_once() -> None:
    problems = Problems()
    values = {
        "rate": "1e-3..1e-6",
        "rank": "2..64",
        "penalty": ["0.1", "lin:0..1"],
        "masks": ["true", "perhaps"],
        "editor": "mendd",
        "rang": "3",
    }
    found = SearchSpace.read(values, TYPES, problems)
    assert (found.grids, found.ranges) == ({}, {})
    assert problems.found == [
        "rate 1e-3..1e-6 is empty: the first number must be the smaller one.",
        "rank takes whole numbers only: write int:2..64 instead of 2..64.",
        "penalty 0.1,lin:0..1 mixes a range with other values: give one range, or values alone.",
        "masks 'perhaps' does not fit: input should be a valid boolean, unable to interpret input.",
        "editor 'mendd' does not fit: input should be 'mend' or 'fine-tuning'.",
        "rang is not a parameter that can be searched. Did you mean 'rank'?",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rate", "0..1e-3", "has no logarithms: start above 0, or draw evenly with lin:0..1e-3"),
        ("rate", "0.1..2", "its end 2 does not fit, input should be less than 1"),
        ("rate", "a..b", "cannot be read"),
        ("rate", "log:0.1..0.2", "there is no range 'log'"),
        ("rank", "int:2..6.5", "cannot be read"),
        ("rank", "int:0..6", "its end 0 does not fit, input should be greater than or equal to 1"),
        ("rank", ["2", "02"], "names a value twice"),
        ("rank", [], "has no value"),
    ],
)
def test_a_mistake_says_what_is_wrong_and_what_to_write(name: str, text: str, message: str) -> None:
    problems = Problems()
    SearchSpace.read({name: text}, TYPES, problems)
    assert len(problems.found) == 1
    assert message in problems.found[0]

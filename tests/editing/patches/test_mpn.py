"""Which mistakes trigger an edit, and which parallel text is trained on."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from methods.editing.patches.config import StreamConfig
from methods.editing.patches.mpn import decide

LIST = ("en", "de", "fr")


def config(**options: Any) -> StreamConfig:
    return StreamConfig(**{"languages": LIST, **options})


def right(en: bool, de: bool, fr: bool = True) -> dict[str, bool]:
    return {"en": en, "de": de, "fr": fr}


@pytest.mark.parametrize(
    ("trigger", "only", "en", "de", "edited"),
    [
        ("only", "either", True, True, False),
        ("only", "either", True, False, True),
        ("only", "either", False, True, True),
        ("only", "either", False, False, True),
        ("only", "edit language", True, True, False),
        ("only", "edit language", True, False, False),
        ("only", "edit language", False, True, True),
        ("only", "edit language", False, False, True),
        ("all", "either", True, True, False),
        ("all", "either", True, False, True),
        ("all", "either", False, True, True),
        ("all", "either", False, False, True),
    ],
)
def test_the_truth_table(trigger: str, only: str, en: bool, de: bool, edited: bool) -> None:
    options = config(trigger=trigger, only=only, languages=("de",))
    assert decide(options, {"en": en, "de": de}, 0).edit is edited


def test_only_looks_at_the_drawn_language_alone() -> None:
    decisions = [decide(config(), right(True, False), index) for index in range(60)]
    assert {decision.edit for decision in decisions} == {True, False}
    assert all(decision.edit == ("de" in decision.languages) for decision in decisions)


@pytest.mark.parametrize("wrong", [set(part) for n in (1, 2, 3) for part in itertools.combinations(LIST, n)])
def test_all_is_triggered_by_any_language_and_draws_a_wrong_one(wrong: set[str]) -> None:
    answers = {language: language not in wrong for language in LIST}
    decisions = [decide(config(trigger="all"), answers, index) for index in range(60)]
    assert all(decision.edit for decision in decisions)
    assert {decision.languages[-1] for decision in decisions} == wrong
    anything = [decide(config(trigger="all", all_draws="any"), answers, index) for index in range(60)]
    assert {decision.languages[-1] for decision in anything} == set(LIST)


def test_the_edit_language_comes_first_and_once() -> None:
    found = {decide(config(), right(False, False), index).languages for index in range(60)}
    assert found == {("en",), ("en", "de"), ("en", "fr")}


def test_draws_are_a_function_of_seed_and_place() -> None:
    def drawn(seed: int) -> list[tuple[str, ...]]:
        return [decide(config(seed=seed), right(False, True), index).languages for index in range(30)]

    assert drawn(0) == drawn(0) != drawn(1)


def test_languages_that_a_request_lacks_are_not_drawn() -> None:
    found = {decide(config(), {"en": False, "fr": True}, index).languages for index in range(30)}
    assert found == {("en",), ("en", "fr")}

"""A trial that several processes compute together is one trial: one answer, one failure, one retry."""

from __future__ import annotations

import pytest

from tests.engine.conftest import ToySweep


@pytest.mark.slow
def test_all_processes_compute_it_and_one_answers_one_dies_and_all_begin_again(toy: ToySweep) -> None:
    outcome = toy.run(workers=2, size=3, kill_first=(1,), refuse=(0,))
    answers = {result.trial.cell["n"]: result for result in outcome.results}
    assert {n: result.table["square"].to_pylist() for n, result in answers.items()} == {2: [4.0], 1: [1.0]}
    counts = toy.counts()
    assert (counts["try-2"], counts["run-2"]) == (2, 2), "both processes computed it"
    assert counts["try-1"] == 4, "one of them was killed, and both began again"
    assert answers[2].table["threads"].to_pylist() == [1]
    assert answers[2].provenance["workers"] == 2
    (refused,) = outcome.failed
    assert refused.refused
    assert refused.reason == "0 is not a number this model knows. Choose another."

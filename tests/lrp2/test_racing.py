"""Racing drops what cannot win, keeps what can, and says when."""

from __future__ import annotations

import numpy as np
import pytest

from methods.backbone.projection import all_pairs
from methods.lrp2.racing import Race, advantage_bound


def run(hits: np.ndarray, pivot: np.ndarray, criterion: str, shard: int = 250, delta: float = 0.05) -> Race:
    """Feeds hits [N, P] to a race over the pairs of five layers."""
    race = Race(all_pairs(5), len(hits), -(-len(hits) // shard), criterion, delta)  # type: ignore[arg-type]
    for start in range(0, len(hits), shard):
        live = [race.pairs.index(pair) for pair in race.live]
        race.feed(hits[start : start + shard][:, live], pivot[start : start + shard])
    return race


@pytest.mark.parametrize("criterion", ["acc", "trans"])
def test_hopeless_pairs_are_dropped_and_the_best_is_kept(criterion: str) -> None:
    generator = np.random.default_rng(0)
    pivot = generator.random(4000) < 0.5
    chance = np.array([0.5, 0.49, 0.48, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    known = np.where(pivot[:, None], chance, chance / 3)
    race = run(generator.random((4000, 10)) < known, pivot, criterion)
    assert set(race.dropped) == set(race.pairs[3:])
    assert all(250 <= after < 4000 for after in race.dropped.values())


def test_pairs_that_are_alike_stay_to_the_end() -> None:
    hits = np.repeat(np.random.default_rng(0).random((2000, 1)) < 0.4, 10, axis=1)
    assert not run(hits, hits[:, 0], "acc").dropped


def test_the_winner_survives_in_all_but_delta_of_the_races() -> None:
    """200 races between pairs that are nearly alike: at delta = 0.05 at most ten may lose their winner."""
    lost = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        hits = generator.random((600, 10)) < np.linspace(0.3, 0.34, 10)
        race = run(hits, np.ones(600, dtype=bool), "acc", shard=100)
        lost += race.pairs[int(hits.mean(0).argmax())] in race.dropped
    assert lost <= 10


def test_the_bound_is_below_the_true_mean_and_closes_in() -> None:
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=(10_000, 1))
    truth = values.mean()
    bounds = [advantage_bound(values[:n], len(values), 3.0, 2.0)[0] for n in (100, 1000, 9_999)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < truth < bounds[-1] + 0.01

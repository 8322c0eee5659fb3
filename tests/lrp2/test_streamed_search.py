"""The layer search over streamed weights: the hits of the model in memory, each tile reading the weights once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BloomConfig

from methods.backbone import load_backbone
from methods.backbone.footprint import Footprint
from methods.backbone.projection import all_pairs
from methods.lrp2 import head
from methods.lrp2 import search as search_module
from methods.lrp2 import study as study_module
from methods.lrp2.benchmark.streaming import StreamingSettings, run_streaming, streaming_sentence, streaming_tables
from methods.lrp2.footprint import bytes_per_row, fitting_rows, rows_at_once
from methods.lrp2.lattice import schedule
from methods.lrp2.results import trial_record
from methods.lrp2.search import LayerSearch
from methods.lrp2.spec import LRP2Spec
from methods.lrp2.streamed_head import StreamedHead
from methods.lrp2.study import LRP2Study
from orchestrator.errors import UserError
from orchestrator.study import TrialContext, TrialResult
from tests.lrp2.cases import World, world

MIB = 2**20
SMALL_SWEEP: dict[str, Any] = {
    "model": "atlas-bloom",
    "languages": ("de",),
    "relations": ("P361",),
    "max_facts": 10,
    "max_sentences": 20,
    "pairs": ("1/2", "2/6", "3/4"),
    "bootstrap": 100,
    "null_draws": 0,
}


def both(tmp_path: Path, family: str, **options: Any) -> tuple[World, Any]:
    """A tiny world in memory, and the same model streamed."""
    case = world(family, **options)
    case.backbone.model.save_pretrained(tmp_path, max_shard_size="20KB")
    case.backbone.tokenizer.save_pretrained(tmp_path)
    return case, load_backbone(str(tmp_path), placement="stream", dtype=case.backbone.dtype)


@pytest.mark.parametrize("family", ["bert", "bloom", "electra", "gpt-neox"])
@pytest.mark.parametrize("keep", ["hits", "scores"])
def test_hits_and_scores_are_those_of_the_model_in_memory(tmp_path: Path, family: str, keep: Any) -> None:
    """Masked and causal, packed and generic; a head that is narrower than the states."""
    case, streamed = both(tmp_path, family)
    pairs = all_pairs(case.backbone.num_layers)
    expected = LayerSearch(case.backbone, keep=keep).run(case.queries, case.shift, pairs)
    found = LayerSearch(streamed, keep=keep).run(case.queries, case.shift, pairs)
    np.testing.assert_array_equal(found.hits, expected.hits)
    np.testing.assert_array_equal(found.ties, expected.ties)
    assert expected.hits.any()
    assert not expected.hits.all()
    for a, b in zip(found.scores or (), expected.scores or (), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.usefixtures("four_threads")
def test_scores_of_a_streamed_model_are_the_same_on_several_threads(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(head.ROW_TILE, "cpu", 32)
    case, streamed = both(tmp_path, "bloom")
    pairs = all_pairs(case.backbone.num_layers)
    expected = LayerSearch(case.backbone, keep="scores").run(case.queries, case.shift, pairs)
    found = LayerSearch(streamed, keep="scores").run(case.queries, case.shift, pairs)
    for a, b in zip(found.scores or (), expected.scores or (), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("keep", ["hits", "scores"])
def test_every_tile_reads_the_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: Any) -> None:
    case, streamed = both(tmp_path, "bloom", layers=5)
    pairs = all_pairs(5)
    blocks = sum(weight.nbytes for weight in case.backbone.blocks.parameters())
    vocabulary = case.backbone.unembedding[0].nbytes
    search = LayerSearch(streamed, keep=keep)
    whole = search.run(case.queries, case.shift, pairs)
    monkeypatch.setattr(search_module, "FEWEST_TILE_ROWS", 20)
    monkeypatch.setattr(search, "_free_bytes", lambda: 0)
    small = search.run(case.queries, case.shift, pairs)
    np.testing.assert_array_equal(small.hits, whole.hits)
    assert small.stats.tiles > whole.stats.tiles == 1
    for result in (whole, small):
        tiles = result.stats.tiles
        # Single rows of the vocabulary are read beside it: for the embedding, and for the candidates' own logits.
        assert tiles * blocks < result.stats.weight_bytes < tiles * (blocks + 4 * vocabulary)


def test_a_bound_that_is_far_off_is_no_harm(tmp_path: Path) -> None:
    """Exponentials out of range are computed again, safely."""
    _, streamed = both(tmp_path, "bert")
    head = StreamedHead.over(streamed.stream.vocabulary, torch.float32)
    states = torch.randn(1, 5, streamed.hidden_size, generator=torch.Generator().manual_seed(0))
    far = torch.full((1, 5), -1000.0)
    norms = head.normalisers(states, far, far.clone())
    norms.raise_to(torch.ones(1, 5, dtype=torch.long))
    weight, bias = torch.cat([tile.clone() for _, tile in streamed.stream.vocabulary.tiles()]), head.bias
    expected = torch.nn.functional.linear(states, weight, bias).logsumexp(-1)
    torch.testing.assert_close(norms.bound, expected, atol=1e-5, rtol=1e-5)


def test_a_tile_of_a_streamed_model_is_as_large_as_fits(tmp_path: Path) -> None:
    """Larger tiles are no faster in memory, but they save readings."""
    case, streamed = both(tmp_path, "bloom")
    walk = schedule(all_pairs(4), 4)
    rows = [LayerSearch(b)._tile_rows(walk, 2**40) for b in (case.backbone, streamed)]
    assert rows[1] > 1000 * rows[0]


def test_rows_beyond_those_that_a_block_takes_at_once_need_working_space_too(tmp_path: Path) -> None:
    """With few pairs states are cheap, but one branch of all rows goes through a block whole."""
    model = Footprint.of("bloom-7b1", torch.bfloat16).description
    walk, free = schedule(((1, 2),), model.num_layers), 10**9
    row, wide = bytes_per_row(model, torch.bfloat16, walk), rows_at_once(model.hidden_size, "cpu")
    rows = fitting_rows(model, torch.bfloat16, walk, "cpu", free)
    taken = [n * row + (n - wide) * 12 * model.hidden_size * 2 for n in (rows, rows + 1)]
    assert rows > wide
    assert taken[0] <= free < 1.001 * taken[1]
    assert fitting_rows(model, torch.bfloat16, walk, "cpu", 100 * row) == 100


def trials_of(cache: Path, placement: str, **options: Any) -> tuple[LRP2Study, list[TrialResult]]:
    """A small sweep, run as a worker would whose model lies in a given way; vectors included."""
    made = LRP2Study(LRP2Spec(**{**SMALL_SWEEP, **options}), cache)
    made.prepare()
    context = TrialContext(cache, cache, 1, "cpu", 2 * 10**9, lambda fraction: None, placement=placement)
    loaded = made.load(context)
    return made, [TrialResult(trial, made.run(trial, loaded, context), 1.0, 1, {}) for trial in made.trials()]


def test_a_streamed_sweep_stores_the_same_hits_and_says_what_it_read(tmp_path: Path) -> None:
    single, streamed = (trials_of(tmp_path / way, way) for way in ("single", "stream"))
    for a, b in zip(single[1], streamed[1], strict=True):
        assert a.trial.key == b.trial.key
        assert a.table.equals(b.table)
        assert trial_record(a.table)["stats"]["weight_bytes"] == 0
        assert trial_record(b.table)["stats"]["weight_bytes"] > 0
    notes = [" ".join(made.summarize(results).document["notes"]) for made, results in (single, streamed)]
    assert "streamed" not in notes[0]
    assert re.search(r"layers were streamed: [\d.]+ MB of weights were read in \d+ tiles", notes[1])


def test_inexact_hits_are_checked_against_a_second_model_that_is_streamed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 the sample is searched again in float32, whose blocks are read one at a time as the others are."""
    loaded: list[tuple[torch.dtype, str]] = []
    load = study_module.load_backbone

    def noted(*words: Any, **how: Any) -> Any:
        loaded.append((how["dtype"], how["placement"]))
        return load(*words, **how)

    monkeypatch.setattr(study_module, "load_backbone", noted)
    for way in ("single", "stream"):
        _, results = trials_of(tmp_path / way, way, dtype="bfloat16", precision_sample=8)
        assert set(loaded) == {(torch.bfloat16, way), (torch.float32, way)}
        loaded.clear()
        dtypes = {file.stem.split("-")[-1] for file in (tmp_path / way).glob("vectors/*.safetensors")}
        assert dtypes == ({"bfloat16", "float32"} if way == "single" else {"bfloat16"})
        for result in results:
            changed, compared = trial_record(result.table)["changed"]
            pairs = len(trial_record(result.table)["pairs"])
            assert compared == 8 * (1 + pairs)
            assert changed <= compared // 4, "bfloat16 moves a few answers, another model would move most"


def test_the_naive_loop_in_inexact_arithmetic_is_checked_by_the_lattice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop takes no streamed model, and the second one is streamed where it does not fit beside the first."""
    monkeypatch.setattr(study_module, "fits_beside", lambda *_: False)
    small = {"max_facts": 4, "pairs": ("1/2",), "dtype": "bfloat16", "precision_sample": 2}
    _, results = trials_of(tmp_path, "single", search="naive", **small)
    compared = {result.trial.label: trial_record(result.table)["changed"][1] for result in results}
    assert compared == {"de": 2 * (1 + 1), "en": 2}


def test_the_naive_loop_wants_the_model_in_one_piece(tmp_path: Path) -> None:
    made = LRP2Study(LRP2Spec(**SMALL_SWEEP, search="naive", placement="stream"), tmp_path)
    with pytest.raises(UserError, match="--search naive runs the whole model for every layer pair"):
        made.prepare()


@pytest.mark.slow
def test_the_benchmark_runs_every_contender_and_they_agree(tmp_path: Path) -> None:
    config = BloomConfig(
        vocab_size=3000, hidden_size=64, n_layer=4, n_head=4, pad_token_id=3, architectures=["BloomForCausalLM"]
    )
    settings = StreamingSettings(
        0, 700 * MIB, queries=3, pairs=None, compared=3, offloaded=2, threads=1, folder=tmp_path
    )
    result = run_streaming(settings, lambda text: None, config)
    assert [c["hits_differ"] for c in result["contenders"].values()] == [0, 0, 0]
    assert result["contenders"]["streamed"]["passes"] == 1
    assert result["offloaded_passes"] == 7
    assert 0.3 < result["readings"] < 1.5
    assert list(tmp_path.iterdir()) == []
    assert "same hits" in streaming_sentence(result)
    assert [row[0] for row in streaming_tables(result)[0].rows] == ["streamed", "in memory", "offloaded"]

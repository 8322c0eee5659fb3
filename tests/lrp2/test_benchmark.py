"""The benchmark measures what it says, on models small enough to do so in a second."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from jobs import benchmark as benchmark_job
from methods.backbone.projection import all_pairs
from methods.lrp2 import benchmark
from methods.lrp2.benchmark import measure
from methods.lrp2.benchmark.cases import (
    KNOWN_SHARE,
    ROWS,
    drawn_queries,
    random_shift,
    truncated,
)
from methods.lrp2.benchmark.contenders import Answer
from methods.lrp2.search import LayerSearch
from orchestrator import weights_benchmark
from orchestrator.cli import guarded
from orchestrator.errors import UserError
from orchestrator.weights_benchmark import Journey, journey_sentence
from tests.backbone.tiny import tiny, tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
MATRIX_RATE = measure.matrix_rate
MAIN_KEYS = {"ratio", "ratio_hits", "hits_equal", "max_abs_diff", "peak_mb", "roofline_fraction"}


def settings(shape: Path | str, tmp_path: Path, **more: Any) -> benchmark.Settings:
    return benchmark.Settings(shape=str(shape), cache=tmp_path / "cache", **{"queries": 3, "repeats": 1, **more})


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny model folders, one masked and one causal."""
    made = {}
    for family, kind in (("bert", "masked"), ("bloom", "causal")):
        made[family] = tmp_path_factory.mktemp(family)
        tiny_model(family, layers=4).save_pretrained(made[family])
        tiny_tokenizer(kind).save_pretrained(made[family])
    return made


@pytest.fixture(autouse=True)
def quick_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large matrix products take longer than everything else here; the command's own test does them."""
    monkeypatch.setattr(measure, "matrix_rate", lambda backbone: (1e11, 1e11))


def test_the_command_writes_json(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "matrix_rate", MATRIX_RATE)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # other tests share this process
    options = ["--shape", str(folders["bert"]), "--queries", "3", "--repeats", "1", "--threads", "1", "--json", "-"]
    monkeypatch.setattr(sys, "argv", ["jobs/benchmark.py", "layer-search", *options])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "jobs" / "benchmark.py"), run_name="__main__")
    told = capsys.readouterr()
    assert stop.value.code == 0, told.err
    result = json.loads(told.out)
    assert result.keys() >= MAIN_KEYS
    assert result["hits_equal"] is True
    assert result["max_abs_diff"] < 1e-4
    assert result["ratio"] > 0
    assert result["environment"]["threads"] == 1


def test_mistakes_are_told_with_a_way_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--shape", "mbrt", "--against", "naiv", "--languages", "dee"]
    monkeypatch.setattr(sys, "argv", ["jobs/benchmark.py", "layer-search", *wrong])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "jobs" / "benchmark.py"), run_name="__main__")
    assert stop.value.code == 2
    told = capsys.readouterr().err
    for hint in ("Did you mean 'mbert'?", "Did you mean 'naive'?", "Did you mean 'de'?"):
        assert hint in told


def test_options_that_growing_queries_would_ignore_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--shape", "mbert", "--queries", "1,10", "--against", "naive", "--repeats", "3"]
    monkeypatch.setattr(sys, "argv", ["jobs/benchmark.py", "layer-search", *words])
    assert guarded(benchmark_job.run, "") == 2
    assert "--against, --repeats would be ignored" in " ".join(capsys.readouterr().err.split())


def test_the_cost_of_a_further_process_is_measured(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process with a tiny model; how checkpoints travel between nodes, tests/scale tells."""
    journey = Journey(size=10**6, naming=0.1, bringing=0.5, again=0.001)
    monkeypatch.setattr(weights_benchmark, "measure_journey", lambda folder: journey)
    words = ["--model", str(folders["bert"]), "--processes", "1", "--json", "-"]
    monkeypatch.setattr(sys, "argv", ["jobs/benchmark.py", "weights", *words])
    assert guarded(benchmark_job.run, "") == 0
    result = json.loads(capsys.readouterr().out)
    (alone,) = result["sharing"]
    assert alone["processes"] == 1
    assert 0 < alone["private"] <= alone["loaded"]
    assert result["journey"] == asdict(journey)
    assert journey_sentence(journey).startswith("To a second node: 1 MB in 0.5 s (2 MB a second)")


@pytest.mark.parametrize("family", ["bert", "bloom"])
def test_what_is_measured(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    result = benchmark.run_benchmark(settings(folders[family], tmp_path, growth=True))
    contenders = result["contenders"]
    assert list(contenders) == ["lattice, scores", "lattice, hits", "naive"]
    assert result["hits_equal"] is True
    assert contenders["lattice, scores"]["agreement"]["max_abs_diff"] == result["max_abs_diff"] < 1e-4
    assert result["ratio_hits"] == contenders["naive"]["wall_min"] / contenders["lattice, hits"]["wall_min"]
    assert contenders["naive"]["tflop"] > contenders["lattice, scores"]["tflop"] >= contenders["lattice, hits"]["tflop"]
    assert result["roofline_fraction"] > 0
    assert result["peak_mb"] > 50
    assert result["growth"]["layers"]["sizes"] == [2, 3, 4]
    json.dumps(result)


def test_people_get_a_table_and_a_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    result = benchmark.run_benchmark(settings(folders["bert"], tmp_path))
    (table,) = benchmark.tables(result)
    assert [row[0] for row in table.rows] == ["lattice, scores", "lattice, hits", "naive"]
    assert "all hits are the same" in benchmark.sentence(result)


def test_without_a_reference_nothing_is_claimed(folders: dict[str, Path], tmp_path: Path) -> None:
    result = benchmark.run_benchmark(settings(folders["bert"], tmp_path, against=(), pairs=("1/2", "2/4")))
    assert [result[key] for key in ("ratio", "ratio_hits", "hits_equal", "max_abs_diff")] == [None] * 4
    assert result["work"]["pairs"] == 2
    assert "the same" not in benchmark.sentence(result)


def test_a_sample_of_pairs_is_compared_with_its_own_columns(folders: dict[str, Path], tmp_path: Path) -> None:
    result = benchmark.run_benchmark(settings(folders["bert"], tmp_path, sample_pairs=2))
    assert result["hits_equal"] is True
    assert result["max_abs_diff"] < 1e-4
    assert result["contenders"]["lattice, hits"]["agreement"]["decisions"] == 3 * (1 + 2)
    (table,) = benchmark.tables(result)
    assert "run for 2 of the 6 pairs" in table.note


def test_a_hit_that_differs_is_reported_with_its_margin(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = measure.Work.lattice

    def lying(work: measure.Work, keep: Any, memory_bytes: int | None) -> Any:
        contender = honest(work, keep, memory_bytes)

        def lie() -> Answer:
            answer = contender.run()
            hits = answer.hits.copy()
            hits[0, 0] = ~hits[0, 0]
            return replace(answer, hits=hits)

        return replace(contender, run=lie)

    monkeypatch.setattr(measure.Work, "lattice", lying)
    result = benchmark.run_benchmark(settings(folders["bert"], tmp_path))
    agreement = result["contenders"]["lattice, hits"]["agreement"]
    assert result["hits_equal"] is False
    assert agreement["hits_differ"] == 1
    assert agreement["near_ties"] == 0
    assert agreement["largest_margin"] > 1e-5
    assert "1 of 21 hits differ, 0 of them near ties" in benchmark.sentence(result)


def test_memory_stays_within_the_bound(folders: dict[str, Path], tmp_path: Path) -> None:
    bound = 10**9
    result = benchmark.run_memory(settings(folders["bert"], tmp_path, memory_bytes=bound, threads=1), (100,))
    (row,) = result["memory"]
    assert row["queries"] == 100
    assert result["within_bound"] is True
    assert 1e8 < row["peak_bytes"] <= bound
    assert result["peak_mb"] == pytest.approx(row["peak_bytes"] / 1e6)
    (table,) = benchmark.memory_tables(result)
    assert table.rows[0][-1] == 1000
    assert "within the bound" in benchmark.memory_sentence(result)
    json.dumps(result)


def test_a_bound_below_every_search_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="less than the"):
        benchmark.run_memory(settings(folders["bert"], tmp_path, memory_bytes=10**8), (1,))


def test_real_facts_need_a_tokenizer_and_then_work(folders: dict[str, Path], tmp_path: Path) -> None:
    small = settings(folders["bert"], tmp_path, facts="atlas", languages=("de", "fr"), queries=4, pairs=("1/2",))
    result = benchmark.run_benchmark(small)
    assert result["hits_equal"] is True
    assert result["work"]["queries"] == 4
    with pytest.raises(UserError, match="tokenizer"):
        benchmark.run_benchmark(settings("mbert", tmp_path, layers=2, facts="atlas"))


@pytest.mark.parametrize("shape", benchmark.SHAPES)
def test_shapes_have_the_published_sizes(shape: str) -> None:
    """Millions of weights, tied ones once: mBERT 178, XLM-R base 278, BLOOM-560m 559, SmolLM2-135M 135."""
    masked = benchmark.SHAPES[shape].masked
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(benchmark.SHAPES[shape].config())
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    assert round(millions) == {"mbert": 178, "xlm-r": 278, "bloom-560m": 559, "llama-160m": 135}[shape]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_drawn_queries_have_the_lengths_of_the_table(family: str) -> None:
    backbone = tiny(family, layers=2)
    queries = drawn_queries(backbone, 4, ("fr", "nl"))
    rows = [row for row in ROWS if row.language in ("fr", "nl")]
    for query, row in zip(queries, rows, strict=False):
        if backbone.kind == "masked":
            assert len(query.forms) == sum(count > 0 for count in row.pool)
            assert min(map(len, query.forms)) == row.before + row.after + 1
        else:
            assert len(query.forms) == 10
            assert min(map(len, query.forms)) >= row.before + row.after
    assert len({query.forms for query in queries}) == 4


def test_every_third_gold_object_is_the_first_choice_and_shifts_change_hits() -> None:
    backbone = tiny("bert", layers=4)
    queries = drawn_queries(backbone, 9)
    shift = random_shift(backbone, queries)
    hits = LayerSearch(backbone).run(queries, shift, all_pairs(4)).hits
    assert hits[::KNOWN_SHARE, 0].all()
    assert (hits[:, 1:] != hits[:, :1]).any()


def test_a_model_cut_down_is_the_model_of_fewer_layers() -> None:
    whole, cut = tiny("llama", layers=4), truncated(tiny("llama", layers=4), 2)
    queries = drawn_queries(whole, 2)
    shift = random_shift(whole, queries)
    assert (cut.num_layers, cut.model.config.num_hidden_layers) == (2, 2)
    ours = LayerSearch(cut, keep="scores").run(queries, shift[:3], [(1, 2)]).scores
    theirs = LayerSearch(cut, keep="scores", method="naive").run(queries, shift[:3], [(1, 2)]).scores
    for a, b in zip(ours or (), theirs or (), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    with pytest.raises(UserError, match="--layers 3"):
        truncated(cut, 3)


@pytest.mark.parametrize("peer", benchmark.AGAINST[1:])
def test_libraries_find_the_same(peer: str, folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip(peer, reason=f"{peer} is not installed (extra: peers)")
    for folder in folders.values():
        result = benchmark.run_benchmark(settings(folder, tmp_path, against=("naive", peer)))
        agreement = result["contenders"][peer]["agreement"]
        assert agreement["hits_differ"] == 0
        assert agreement["max_abs_diff"] < 1e-5
        assert result["hits_equal"] is True


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyvene", None)
    with pytest.raises(UserError, match=r"babelsweep\[peers\]"):
        benchmark.run_benchmark(settings("mbert", tmp_path, against=("pyvene",)))

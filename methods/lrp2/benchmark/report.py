"""What the benchmark found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from methods.lrp2.benchmark.contenders import NAIVE
from orchestrator.report.blocks import Table


def sentence(result: Mapping[str, Any]) -> str:
    """The outcome in one sentence."""
    parts = []
    if result["ratio"] is not None:
        batch = min(result["naive_batch_seconds"], key=result["naive_batch_seconds"].__getitem__)
        parts.append(
            f"the lattice is {result['ratio']:.1f} times as fast as the naive loop (in batches of {batch}) with all "
            f"scores and {result['ratio_hits']:.1f} times with hits only"
        )
    if result["hits_equal"] is not None:
        parts.append(_agreement_in_words(result))
    parts.append(f"its blocks run at {result['roofline_fraction']:.0%} of this machine's matrix rate")
    parts.append(f"its memory peaks at {result['peak_mb'] / 1e3:.2f} GB, model included")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _agreement_in_words(result: Mapping[str, Any]) -> str:
    if result["hits_equal"]:
        return f"all hits are the same and scores differ by at most {result['max_abs_diff']:.1g}"
    found = [contender["agreement"] for contender in result["contenders"].values() if contender["agreement"]]
    worst = max(found, key=lambda agreement: agreement["hits_differ"])
    return (
        f"{worst['hits_differ']} of {worst['decisions']} hits differ, {worst['near_ties']} of them near ties, the "
        f"right object at most {worst['largest_margin']:.1g} from its rival, and scores differ by at most "
        f"{result['max_abs_diff']:.1g}"
    )


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The contenders, and if it was measured how time grows."""
    shown = [_contenders(result)]
    if result["growth"]:
        shown.append(_growth(result["growth"]))
    return shown


def _contenders(result: Mapping[str, Any]) -> Table:
    model, work, environment = result["model"], result["work"], result["environment"]
    naive = result["contenders"].get(NAIVE)
    rows = []
    for name, figures in result["contenders"].items():
        agreement = figures["agreement"] or {}
        rows.append(
            (
                name,
                figures["wall_min"],
                figures["wall_median"],
                figures["cpu_min"],
                naive and naive["wall_min"] / figures["wall_min"],
                figures["tflop"],
                figures["gflop_per_second"],
                figures["peak_mb"],
                agreement.get("hits_differ"),
                None if agreement.get("max_abs_diff") is None else f"{agreement['max_abs_diff']:.1e}",
            )
        )
    rate = result["roofline"]
    return Table(
        title=f"{result['settings']['shape']}: {work['queries']} queries, {work['pairs']} layer pairs",
        columns=(
            "contender",
            "wall s",
            "median s",
            "CPU s",
            "times naive",
            "TFLOP",
            "GFLOP/s",
            "peak MB",
            "hits that differ",
            "scores differ by",
        ),
        rows=rows,
        note=f"{model['architecture']}, {model['layers']} layers, {model['parameters'] / 1e6:.0f} million weights, "
        f"{result['settings']['dtype']}, {environment['threads']} threads on {environment['device']} "
        f"(load {environment['load']:.1f}). {work['block_evaluations']} block evaluations per input instead of "
        f"{work['block_evaluations_one_by_one']}. Matrices: {rate['matrix_gflop_per_second']:.0f} GFLOP/s, blocks: "
        f"{rate['blocks_gflop_per_second']:.0f} (medians). Seconds are the shortest of {result['settings']['repeats']} "
        "runs in turn." + _sampled(result),
        digits=1,
        spare=("median s", "GFLOP/s", "TFLOP", "CPU s"),
    )


def _sampled(result: Mapping[str, Any]) -> str:
    """Says so where the time of the one-by-one contenders was scaled up from a sample of the pairs."""
    sample, pairs = result["settings"]["sample_pairs"], result["work"]["pairs"]
    if sample is None or sample >= pairs or not result["settings"]["against"]:
        return ""
    return (
        f" One forward pass per pair was run for {sample} of the {pairs} pairs, evenly spread, and its time scaled up; "
        "hits and scores are compared on these."
    )


def _growth(growth: Mapping[str, Any]) -> Table:
    rows = [
        (name, " ".join(map(str, grown["sizes"])), " ".join(f"{s:.2f}" for s in grown["seconds"]), grown["slope"])
        for name, grown in growth.items()
    ]
    return Table(
        title="How time grows (lattice, hits)",
        columns=("with", "sizes", "seconds", "slope"),
        rows=rows,
        note="Slope of the logarithms: 1 is proportional, 3 is cubic. Every language has its own queries and shift.",
        digits=2,
    )

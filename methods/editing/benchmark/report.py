"""What the benchmark found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from methods.editing.benchmark.measure import PLAIN
from orchestrator.report.blocks import Table


def sentence(result: Mapping[str, Any]) -> str:
    """The outcome in one sentence."""
    settings = result["settings"]
    parts = [
        f"{settings['edits']} edits in a batch are evaluated {result['evaluation_ratio']:.1f} times as fast as one by "
        f"one when all texts are new, and {result['evaluation_ratio_known']:.1f} times when they have been seen before"
    ]
    if result["training_ratio"] is not None:
        parts.append(f"they are trained on {result['training_ratio']:.1f} times as fast")
    if result["equal"]:
        gradients = result["gradient_difference"]
        close = "" if gradients is None else f" and gradients differ by at most {gradients:.0e} of the largest"
        parts.append(f"all judgements are the same{close}")
    else:
        parts.append(f"but {result['judgements_differ']} judgements or the gradients differ")
    return "; ".join(parts) + "."


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The contenders of evaluation and training."""
    settings, environment = result["settings"], result["environment"]
    rows = [
        (
            what,
            name,
            figures["edits_per_second"],
            1000 * figures["seconds_per_edit"],
            1000 * figures["seconds_per_edit_median"],
            contenders[PLAIN]["seconds_per_edit"] / figures["seconds_per_edit"],
            figures["peak_mb"],
        )
        for what in ("evaluation", "training")
        for contenders in [result[what]]
        for name, figures in contenders.items()
    ]
    scores = ", ".join(f"{name} {100 * value:.0f}" for name, value in result["scores"].items() if value == value)
    return [
        Table(
            title=f"{settings['shape']}, {settings['task']}, {settings['editor']}: {settings['edits']} edits, each "
            f"with 1 text to update and {settings['retains']} to retain (training: 1)",
            columns=("what", "how", "edits/s", "ms per edit", "median ms", "times one by one", "peak MB"),
            rows=rows,
            note=f"float32, {environment['threads']} threads on {environment['device']} (load "
            f"{environment['load']:.1f}). Shortest of {settings['repeats']} runs in turn. Scores: {scores}.",
            digits=1,
            spare=("median ms",),
        )
    ]

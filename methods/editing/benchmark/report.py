"""What the benchmark found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from methods.editing.benchmark import patching
from methods.editing.benchmark.cases import LANGUAGES
from methods.editing.benchmark.measure import PLAIN
from orchestrator.report.blocks import Table


def sentence(result: Mapping[str, Any]) -> str:
    """The outcome in one sentence."""
    settings = result["settings"]
    parts = [
        f"{settings['edits']} edits in a batch are evaluated {result['evaluation_ratio']:.1f} times as fast as one by "
        f"one when all texts are new, and {result['evaluation_ratio_known']:.1f} times when another trial has seen them"
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
    measured = [*result["evaluation"].values(), *result["training"].values()]
    runs = " or ".join(map(str, sorted({len(figures["wall_seconds"]) for figures in measured})))
    return [
        Table(
            title=f"{settings['shape']}, {settings['task']}, {settings['editor']}: {settings['edits']} edits, each "
            f"with 1 text to update and {settings['retains']} to retain (training: 1)",
            columns=("what", "how", "edits/s", "ms per edit", "median ms", "times one by one", "peak MB"),
            rows=rows,
            note=f"float32, {environment['threads']} threads on {environment['device']} (load "
            f"{environment['load']:.1f}). Shortest of {runs} runs in turn. Scores: {scores}.",
            digits=1,
            spare=("median ms",),
        )
    ]


def patching_sentence(result: Mapping[str, Any]) -> str:
    """The outcome of patching in one sentence."""
    pace = {name: figures["edits_per_minute"] for name, figures in result["editing"].items()}
    parts = [
        f"Cached inputs: {pace[patching.CACHED]:.1f} edits per minute, {result['editing_ratio']:.1f} times as many "
        f"as in the plain loop, and {result['editing_ratio_repeated']:.1f} times as many as in the loop that repeats "
        "an edit in its batch, as the released code does"
    ]
    if result["equal"]:
        parts.append(
            "all answers are the same, and in float64 patches differ by at most "
            f"{result['patch_difference']:.0e} of the largest entry, logits by {result['answer_difference']:.0e}"
        )
    else:
        parts.append(
            f"but {result['answers_differ']} answers differ, and in float64 patches by "
            f"{result['patch_difference']:.0e} of the largest entry"
        )
    if grown := result["growth"]:
        parts.append(
            f"in the last {grown['edits']} edits tensors grew by {grown['tensors_mb']:.2f} MB (patches "
            f"{grown['patches_mb']:.2f} MB, remembered queries {grown['remembered_mb']:.2f} MB and room for more), the "
            f"process by {grown['process_mb']:.0f} MB, and {grown['journal_mb']:.2f} MB were written"
        )
    return "; ".join(parts) + "."


def patching_tables(result: Mapping[str, Any]) -> list[Table]:
    """The contenders of patching: edits, and a point of the accuracy curve."""
    settings, environment = result["settings"], result["environment"]
    plain = result["editing"][patching.PLAIN]
    editing = [
        (
            name,
            figures["edits"],
            figures["steps"] / figures["edits"],
            figures["edits_per_minute"],
            figures["seconds_per_edit"],
            figures["seconds_per_edit_median"],
            plain["seconds_per_edit"] / figures["seconds_per_edit"],
            figures["peak_mb"],
        )
        for name, figures in result["editing"].items()
    ]
    evaluation = [
        (
            name,
            figures["texts_per_second"],
            figures["seconds_per_text"] * 1000,
            figures["seconds_per_text_median"] * 1000,
            figures["peak_mb"],
        )
        for name, figures in result["evaluation"].items()
    ]
    return [
        Table(
            title=f"{settings['shape']}: edits in {len(LANGUAGES)} languages, each with its own text and one other, "
            f"{settings['memory']:,} memories",
            columns=("how", "edits", "steps each", "edits/min", "s per edit", "median s", "times plain", "peak MB"),
            rows=editing,
            note=f"float32, {environment['threads']} threads on {environment['device']} (load "
            f"{environment['load']:.1f}). Shortest of {len(plain['wall_seconds'])} runs in turn.",
            digits=1,
            spare=("median s", "peak MB"),
        ),
        Table(
            title=f"A point of the accuracy curve: {settings['texts']} texts, all patches in",
            columns=("how", "texts/s", "ms per text", "median ms", "peak MB"),
            rows=evaluation,
            note="Cached states are computed at the first point, by the same forward pass.",
            digits=2,
            spare=("median ms", "peak MB"),
        ),
    ]

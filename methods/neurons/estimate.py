"""What a study of knowledge neurons costs: operations from a sample of its prompts, seconds from a short real run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from methods.backbone import Backbone, ModelDescription, load_backbone
from methods.neurons.attribution import integration_points
from methods.neurons.feed_forward import neuron_sites
from methods.neurons.prompts import Prompt, build_prompts
from methods.neurons.running import Runner
from orchestrator.study import Estimate, Trial

if TYPE_CHECKING:
    from methods.neurons.study import NeuronStudy

SAMPLED_FACTS = 32
CALIBRATION_FLOPS = 5e10


def prompt_flops(description: ModelDescription, length: float, rows: float, steps: int) -> float:
    """Operations for the attribution of one prompt.

    For each layer all points run through the layers from there on, forwards and backwards; the backward pass, which
    needs no gradients of weights, costs as much as the forward one. The last block and the head run for `rows` only.
    """
    layers = description.num_layers
    whole = layers * (layers - 1) / 2 * description.block_flops(length)
    last = layers * description.block_flops(length, rows / length)
    head = layers * rows * description.head_flops()
    return 2 * (1 + steps) * (length * (whole + last) + head)


def estimate_neurons(study: NeuronStudy, trials: Sequence[Trial], threads: int) -> Estimate:
    """Samples every trial's prompts and times a few of them on this machine."""
    if not trials:
        return Estimate(0.0, 0.0)
    spec = study.spec
    torch.set_num_threads(threads)
    device = "cuda" if spec.gpus_per_trial != 0 and torch.cuda.is_available() else "cpu"
    backbone = load_backbone(study.address, dtype=getattr(torch, spec.dtype), device=device)
    flops, sample = 0.0, []
    for trial in trials:
        language = str(trial.cell["language"])
        facts = study.store_of(language).facts(language)
        step = max(1, len(facts) // SAMPLED_FACTS)
        chosen = facts.take(list(range(0, len(facts), step))[:SAMPLED_FACTS])
        prompts, _ = build_prompts(backbone, chosen, objects=spec.objects)
        if prompts:
            each = [study.flops(len(prompt.ids), len(prompt.positions), language) for prompt in prompts]
            flops += len(facts) / len(chosen) * sum(each)
            sample += prompts
    seconds_per_flop = _calibrate(study, backbone, sample) if sample else 0.0
    return Estimate(
        flops=flops,
        seconds=flops * seconds_per_flop,
        notes=(
            f"{spec.steps} points of the integral in each of {study.description.num_layers} layers",
            *([f"time from a few prompts on this machine: {1e-9 / seconds_per_flop:.0f} GFLOP/s"] if sample else []),
        ),
    )


def _calibrate(study: NeuronStudy, backbone: Backbone, sample: Sequence[Prompt]) -> float:
    """Seconds per floating-point operation of real attributions, head and bookkeeping included."""
    prompts = list(sample)

    def cost() -> float:
        each = ((len(prompt.ids), len(prompt.positions)) for prompt in prompts)
        return sum(prompt_flops(study.description, *shape, study.spec.steps) for shape in each)

    while len(prompts) > 1 and cost() > CALIBRATION_FLOPS:
        prompts = prompts[::2]
    runner = Runner(backbone, neuron_sites(backbone))
    points = integration_points(study.spec.rule, study.spec.steps)

    def run(some: Sequence[Prompt]) -> None:
        runner.attribute(some, [""] * len(some), points, None, study.spec.selection, study.spec.top)

    run(prompts[:1])
    start = time.perf_counter()
    run(prompts)
    return (time.perf_counter() - start) / cost()

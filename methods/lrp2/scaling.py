"""Planned sweeps: the published layer search, all of mLAMA in 53 languages, on machines that need not be at hand.

Everything is computed: memory from configurations, hours by `orchestrator.planner`, efficiency by simulating the
scheduling of trials whose times differ between languages as measured ones do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from methods.backbone.footprint import Footprint
from methods.backbone.projection import Pair, parse_pairs
from methods.lrp2.benchmark.cases import ROWS, shaped_queries
from methods.lrp2.footprint import QueryCost, query_cost, search_needs, takes_trees
from methods.lrp2.lattice import schedule
from methods.lrp2.measured import MEASURED
from methods.lrp2.spec import LRP2Spec
from methods.scaling import BLOOMS, placement_table
from orchestrator.errors import UserError
from orchestrator.needs import ModelNeeds
from orchestrator.placement import Node, in_bytes
from orchestrator.planner import READ_RATE, Plan, in_hours, make_plan
from orchestrator.schedule import efficiency, makespan
from orchestrator.stored import open_sweep

LRP2_STUDY, PIVOT = "lrp2", "en"
WAYS = frozenset({"single", "dispatch", "stream"})
GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FACTS_PER_TRIAL = (5000, 2000, 1000, 500)
# A worker's process and libraries, and what lies between two of its trials: measured with Ray Tune on two CPU cores.
WORKER_START, BETWEEN_TRIALS = 5.0, 0.07


@dataclass(frozen=True)
class Sweep:
    """A layer search over all of mLAMA.

    Attributes:
        spec: what is asked; its facts and languages are not read.
        footprint: what the model weighs.
        pairs: the layer pairs.
        cost: of a mean query, with the lengths that mLAMA has in mBERT's tokens.
    """

    spec: LRP2Spec
    footprint: Footprint
    pairs: tuple[Pair, ...]
    cost: QueryCost

    @classmethod
    def of(cls, spec: LRP2Spec) -> Sweep:
        """The sweep that a specification asks for; its model may be any `methods.backbone.footprint.configuration`.

        Raises:
            UserError: there is no such model, or it has no such pairs.
        """
        footprint = Footprint.of(spec.model, getattr(torch, spec.dtype))
        sizes = footprint.description
        cost = query_cost(shaped_queries(sizes, len(ROWS)), trees=takes_trees(sizes))
        return cls(spec, footprint, parse_pairs(spec.pairs, sizes.num_layers), cost)

    @classmethod
    def asked(cls, **options: object) -> Sweep:
        """The sweep with these options, and the defaults of the others."""
        return cls.of(LRP2Spec.model_validate(options))

    def facts(self, language: str) -> int:
        """Facts of a language."""
        return min(MEASURED[language].facts, self.spec.max_facts or MEASURED[language].facts)

    def parts(self, language: str) -> int:
        """Trials of a language."""
        return math.ceil(self.facts(language) / self.spec.facts_per_trial)

    def trials(self, pace: Mapping[str, float] | None = None) -> list[float]:
        """Expected operations of every trial, most expensive first.

        Args:
            pace: how long a fact of each language takes beside the mean one; by default as long in all languages.
        """
        sizes = self.footprint.description
        evaluations = schedule(self.pairs, sizes.num_layers).block_evaluations
        per_fact = self.cost.flops(sizes, self.pairs)
        costs = []
        for language in MEASURED:
            share = sizes.num_layers / evaluations if language == PIVOT else 1.0
            parts = self.parts(language)
            whole = per_fact * self.facts(language) * share * (pace[language] if pace else 1.0)
            costs += [whole / parts] * parts
        return sorted(costs, reverse=True)

    def needs(self) -> ModelNeeds:
        """What it asks of a machine; inexact arithmetic is checked on 64 facts of each trial."""
        searched = [language for language in MEASURED if language != PIVOT]
        inexact = self.footprint.dtype == torch.bfloat16
        return search_needs(
            self.footprint,
            self.pairs,
            facts=sum(map(self.facts, searched)),
            cost=self.cost,
            checked=sum(map(self.parts, searched)) * self.spec.precision_sample if inexact else 0,
            name=self.spec.model,
        )

    def plan(self, nodes: Sequence[Node]) -> Plan:
        """Where it runs and for how long. Raises UserError where nothing fits."""
        return make_plan(self.spec, nodes, self.needs(), self.trials(), WAYS)


def tables() -> list[str]:
    """Markdown: all that ``jobs/plan.py --table`` prints and cluster/SCALING.md holds."""
    lines = ["Sizes in bfloat16, the double of it in float32:", "", *sizes_table("bfloat16")]
    for dtype, said in (("float32", "exact"), ("bfloat16", "inexact, checked on a sample")):
        lines += ["", f"Where they run, and how long all of mLAMA takes, in {dtype}: {said}:", ""]
        lines += placement_table({name: Sweep.asked(model=name, dtype=dtype) for name in BLOOMS})
    return lines


def sizes_table(dtype: str) -> list[str]:
    """Markdown: what every BLOOM weighs in a dtype, and what a search with all pairs needs."""
    lines = [
        "| model | layers | pairs | weights | one block | outside the blocks | states per packed row | operations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in BLOOMS:
        sweep = Sweep.asked(model=name, dtype=dtype)
        needs = sweep.needs()
        lines.append(
            f"| {name} | {needs.blocks} | {len(sweep.pairs):,} | {in_bytes(needs.weights)} | {in_bytes(needs.block)} | "
            f"{in_bytes(needs.outside)} | {needs.row / 1e6:.2f} MB | {needs.flops:.1e} |"
        )
    return lines


def efficiency_table(model: str, dtype: str, pace: Mapping[str, float]) -> list[str]:
    """Markdown: hours and parallel efficiency for one trial on each of more and more GPUs, by simulation.

    Args:
        model, dtype: whose trials they are; the level of their times is planned.
        pace: how times differ between the languages, measured.
    """
    sweeps = {facts: Sweep.asked(model=model, dtype=dtype, facts_per_trial=facts) for facts in FACTS_PER_TRIAL}
    needs = sweeps[FACTS_PER_TRIAL[0]].needs()
    start = WORKER_START + needs.weights / READ_RATE
    trials = {facts: [cost / needs.gpu_rate for cost in sweep.trials(pace)] for facts, sweep in sweeps.items()}
    lines = [
        f"| GPUs | {' | '.join(f'{facts:,} facts a trial' for facts in trials)} |",
        "|---" * (1 + len(trials)) + "|",
        f"| | {' | '.join(f'{len(seconds):,} trials' for seconds in trials.values())} |",
    ]
    for gpus in GPU_COUNTS:
        cells = []
        for seconds in trials.values():
            end = makespan(seconds, gpus, start=start, between=BETWEEN_TRIALS)
            share = efficiency(seconds, gpus, start=start, between=BETWEEN_TRIALS)
            cells.append(f"{in_hours(end)}, {100 * share:.0f}%")
        lines.append(f"| {gpus} | {' | '.join(cells)} |")
    return lines


def measured_pace() -> dict[str, float]:
    """How long a fact of each language takes beside the mean fact of all, as measured once (`MEASURED`)."""
    return _relative({language: measured.seconds for language, measured in MEASURED.items()})


def pace_of(folder: Path) -> dict[str, float]:
    """The same from the trial files of a sweep; a language that it lacks takes as long as the mean.

    Args:
        folder: of a layer search.

    Raises:
        UserError: it is none, or of other languages.
    """
    seconds: dict[str, float] = {}
    facts: dict[str, int] = {}
    for result in open_sweep(folder, LRP2_STUDY).results:
        language = str(result.trial.cell["language"])
        if language in MEASURED and language != PIVOT and len(result.table):
            seconds[language] = seconds.get(language, 0.0) + result.seconds
            facts[language] = facts.get(language, 0) + len(result.table)
    if not seconds:
        raise UserError(
            f"{folder} has no trial of a language of mLAMA, so there are no times to simulate with. Name another, "
            "or leave --pace out to use the times that were measured once."
        )
    each = {language: time / facts[language] for language, time in seconds.items()}
    mean = sum(each.values()) / len(each)
    return _relative({language: each.get(language, mean) for language in MEASURED})


def _relative(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds per fact as multiples of the mean over all searched facts; the pivot counts as the mean."""
    searched = {language: value for language, value in seconds.items() if language != PIVOT}
    total = sum(MEASURED[language].facts for language in searched)
    mean = sum(value * MEASURED[language].facts for language, value in searched.items()) / total
    return {language: 1.0 if language == PIVOT else value / mean for language, value in seconds.items()}

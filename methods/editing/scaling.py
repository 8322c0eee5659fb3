"""Planned sweeps of editors over all of mLAMA, on machines that need not be at hand; everything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from methods.backbone.footprint import Footprint
from methods.editing.footprint import TrialCost, edited_weights, editor_weights, training_needs, trial_cost
from methods.editing.running import editor_config
from methods.editing.sharded import ways_to_train
from methods.editing.spec import Cell, EditorSpec, cells
from methods.scaling import placement_table
from orchestrator.errors import UserError
from orchestrator.needs import ModelNeeds
from orchestrator.placement import Node, in_bytes
from orchestrator.planner import Plan, make_plan

LANGUAGES, TESTS = 53, 1019
"""Languages of mLAMA, and the mean number of facts in its test split for each of them: 53,993 in all."""


@dataclass(frozen=True)
class Sweep:
    """A sweep of editors over mLAMA.

    Attributes:
        spec: what is asked; its facts are not read.
        footprint: what the model weighs.
    """

    spec: EditorSpec
    footprint: Footprint

    @classmethod
    def of(cls, spec: EditorSpec) -> Sweep:
        """The sweep that a specification asks for; its model may be any `methods.backbone.footprint.configuration`.

        Raises:
            UserError: there is no such model, or the task is another one.
        """
        if spec.task.partition(":")[0] != "mlama":
            raise UserError(
                f"--task {spec.task} cannot be planned without its data; of mLAMA alone it is known how much there is. "
                "Ask the job itself with --dry-run, or plan a preset whose task is mlama:..."
            )
        return cls(spec, Footprint.of(spec.model, getattr(torch, spec.dtype)))

    @property
    def languages(self) -> int:
        """How many languages are updated."""
        return len(self.spec.languages) if self.spec.languages else LANGUAGES

    @cached_property
    def cells(self) -> list[Cell]:
        """The grid."""
        return cells(self.spec)[0]

    @cached_property
    def costs(self) -> list[TrialCost]:
        """What the cells cost."""
        model = self.footprint.description
        return [
            trial_cost(model, model.kind, self.spec, cell, languages=self.languages, tests=TESTS) for cell in self.cells
        ]

    def trials(self) -> list[float]:
        """Expected operations of every trial, most expensive first."""
        return sorted((cost.flops for cost in self.costs), reverse=True)

    def needs(self) -> ModelNeeds:
        """What a trial asks of a machine."""
        return training_needs(self.footprint, self.footprint.description.kind, self.spec, self.cells, self.costs)

    def plan(self, nodes: Sequence[Node]) -> Plan:
        """Where it runs and for how long. Raises UserError where nothing fits."""
        ways, _ = ways_to_train(self.spec, self.footprint.description.kind)
        return make_plan(self.spec, nodes, self.needs(), self.trials(), ways)


def tables(specs: Mapping[str, EditorSpec]) -> list[str]:
    """Markdown: what the editors of these specifications weigh, and where their sweeps run, by name."""
    sweeps = {name: Sweep.of(spec) for name, spec in specs.items()}
    return [*sizes_table(sweeps), "", *placement_table(sweeps)]


def sizes_table(sweeps: Mapping[str, Sweep]) -> list[str]:
    """Markdown: what is asked of every model, what its largest editor weighs, and what a trial needs on each device."""
    lines = [
        "| model | dtype | trials | weights | edited weights | parameters of MEND | least on a device | operations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, sweep in sweeps.items():
        spec, needs, model = sweep.spec, sweep.needs(), sweep.footprint.description
        largest = max(editor_weights(model, editor_config(spec, cell)) for cell in sweep.cells)
        sharded = spec.placement == "zero3"
        least = needs.least("zero3" if sharded else "single", "cuda", spec.workers_per_trial)
        lines.append(
            f"| {name} | {spec.dtype} | {len(sweep.cells)} | {in_bytes(needs.weights)} | "
            f"{edited_weights(model) / 1e6:,.0f} million | {largest / 1e6:,.0f} million | {in_bytes(least)} | "
            f"{needs.flops:.1e} |"
        )
    return lines

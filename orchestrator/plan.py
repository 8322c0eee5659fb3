"""The answer to ``--dry-run``: what would run, where, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.console import duration, say
from orchestrator.placement import Node, in_bytes, this_machine
from orchestrator.planner import Plan, in_hours
from orchestrator.schedule import makespan
from orchestrator.study import Estimate, Study, Trial
from orchestrator.sweep import finished_trials, stopped_trials
from orchestrator.workspace import Workspace

SHOWN_TRIALS = 60
# Before the first trial and after the last: Ray, the workers with their libraries, the answer. 20 to 40 measured.
START_SECONDS = 25
UNKNOWN = "not known, as it cannot be measured on this machine"


def show_plan(
    study: Study[Any],
    trials: Sequence[Trial],
    workspace: Workspace,
    plan: Plan,
    nodes: Sequence[Node],
    console: Console,
) -> None:
    """Prints the grid, what of it is already finished, and what the rest will cost. Writes nothing, starts nothing."""
    finished, notes = finished_trials(workspace, trials, mend=False)
    rules = study.early_stopping()
    stopped = stopped_trials(workspace, [trial for trial in trials if trial.key not in finished], rules)
    pending = [trial for trial in trials if trial.key not in finished and trial.key not in stopped]
    total = sum(trial.cost for trial in trials) or 1.0
    grid = Table("trial", "share of the work", "state", box=None, padding=(0, 2, 0, 0), header_style="bold")
    for trial in trials[:SHOWN_TRIALS]:
        state = "finished" if trial.key in finished else "stopped early" if trial.key in stopped else "to run"
        grid.add_row(Text(trial.label), f"{100 * trial.cost / total:.1f}%", state)
    if len(trials) > SHOWN_TRIALS:
        grid.add_row(f"and {len(trials) - SHOWN_TRIALS} more", "", "")
    console.print(grid)

    placement = plan.placement
    share = sum(trial.cost for trial in pending) / total
    estimate = _estimate(study, pending, plan, share)
    cores, gpus = sum(node.cores for node in nodes), sum(node.gpus for node in nodes)
    at_a_time = max(1, min(placement.concurrent, len(pending)))
    about = "at most about" if rules else "about"
    facts = {
        **study.describe(),
        "trials": f"{len(trials)} planned, {len(finished)} finished, "
        + (f"{len(stopped)} stopped early, " if stopped else "")
        + f"{len(pending)} to run",
        "machines": f"{len(nodes)} with {_counted(cores, 'core')}" + (f" and {_counted(gpus, 'GPU')}" if gpus else ""),
        "placement": str(placement),
        "work": UNKNOWN if pending and not estimate.flops else f"{estimate.flops:.2e} floating-point operations",
        "memory": f"at least {in_bytes(plan.chosen.least)} a trial, up to what the placement gives it",
        "time": _time(estimate, plan, pending, at_a_time, share, about),
        "results": str(workspace.folder),
    }
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        say(console, f"{name:{width}}  {value}")
    for sentence in plan.sentences(hours=not estimate.seconds):
        say(console, f"Plan: {sentence}")
    for note in (*estimate.notes, *notes):
        say(console, f"Note: {note}")


def _counted(number: float, what: str) -> str:
    return f"{number:g} {what}" + ("" if number == 1 else "s")


def _estimate(study: Study[Any], pending: Sequence[Trial], plan: Plan, share: float) -> Estimate:
    """Measured by the study where this machine can run a trial as placed; else this share of what the plan counts."""
    here = not plan.placement.gpus or this_machine(with_gpus=True).gpus > 0
    if plan.placement.kind == "single" and here and study.can_measure:
        return study.estimate(pending, plan.placement.cpus)
    return Estimate(share * plan.needs.flops, 0.0)


def _time(estimate: Estimate, plan: Plan, pending: Sequence[Trial], at_a_time: int, share: float, about: str) -> str:
    """What the rest of the grid takes: measured and handed out as in the sweep, or computed by the planner."""
    if not pending:
        return "nothing to compute"
    if not (estimate.flops or estimate.seconds):
        return UNKNOWN
    if estimate.seconds or plan.chosen.seconds is None:
        total = sum(trial.cost for trial in pending) or 1.0
        trials = makespan([estimate.seconds * trial.cost / total for trial in pending], at_a_time)
        return f"{about} {duration(START_SECONDS + trials)}"
    return f"{about} {in_hours(share * plan.chosen.seconds)}, computed and not measured"

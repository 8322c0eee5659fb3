"""The end of a sweep: derive the answer from the trial files, write it, track it, and say what was found and where."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator import tracking
from orchestrator.console import command, duration, say
from orchestrator.publish import asked, publish, track
from orchestrator.report.blocks import Section, Table
from orchestrator.results import FailedTrial, SweepOutcome, document, provenance
from orchestrator.study import StoppedTrial, Study, Summary, Trial
from orchestrator.workspace import Workspace

TRACK_SCRIPT = "jobs/track.py"
SHOWN_STOPPED = 10


def finish(
    study: Study[Any],
    trials: Sequence[Trial],
    workspace: Workspace,
    outcome: SweepOutcome,
    uri: str,
    again: str,
    console: Console,
    errors: Console,
) -> int:
    """Writes summary, report and tracking of a sweep and prints its end; `again` is the command that ran it.

    Where trials failed, the answer is derived from the others and says so.

    Returns:
        The exit code: 0; 1 when trials failed; 2 when all failures are mistakes that no retry can mend.
    """
    for warning in outcome.warnings:
        say(errors, f"Warning: {warning}")
    study.stopped = outcome.stopped
    if outcome.results:
        summary = study.summarize(outcome.results)
        _write(study, workspace, outcome, summary, again)
        _print(summary, outcome, workspace, console)
        _track(study, trials, workspace, outcome, summary, uri, console, errors)
    _report_failures(outcome.failed, again, errors)
    if not outcome.failed:
        return 0
    return 2 if all(trial.refused for trial in outcome.failed) else 1


def _write(study: Study[Any], workspace: Workspace, outcome: SweepOutcome, summary: Summary, again: str) -> None:
    sections = [*summary.sections]
    if outcome.stopped:
        rows = [[stopped.trial.label, stopped.step, _metrics(stopped)] for stopped in outcome.stopped]
        text = "These trials lagged behind and were not finished; the results above do without them."
        table = Table("Stopped early", ["trial", "step", "metrics there"], rows)
        sections.append(Section("Stopped early", text, [table]))
    warnings = list(dict.fromkeys([*study.warnings, *outcome.warnings]))
    if warnings or outcome.failed:
        rows = [[failed.trial.label, f"failed: {failed.reason}"] for failed in outcome.failed]
        rows += [["", warning] for warning in warnings]
        text = "What was left out or went wrong; the results above do without it."
        sections.append(Section("Warnings", text, [Table("Warnings", ["trial", "what happened"], rows)]))
    publish(
        workspace.folder,
        dataclasses.replace(summary, sections=sections),
        document(study, workspace.name, outcome),
        title=workspace.name,
        facts=provenance(study, outcome, again),
        commands=[again, command(["--config", str(workspace.folder / "spec.yaml")])],
    )


def _print(summary: Summary, outcome: SweepOutcome, workspace: Workspace, console: Console) -> None:
    from orchestrator.report.terminal import print_table

    table = next((block for block in summary.sections[0].blocks if isinstance(block, Table)), None)
    console.print()
    if table is not None:
        print_table(table, console)
    console.print(summary.headline, markup=False, highlight=False)
    if outcome.stopped:
        say(console, f"{len(outcome.stopped)} trials were stopped early, because others were ahead of them:")
        for stopped in outcome.stopped[:SHOWN_STOPPED]:
            say(console, f"- {stopped.trial.label} at step {stopped.step}: {_metrics(stopped)}")
        if len(outcome.stopped) > SHOWN_STOPPED:
            say(console, f"- and {len(outcome.stopped) - SHOWN_STOPPED} more, in summary.json and the report")
    say(console, f"{outcome.counts.replace('computed', 'trials computed', 1)}, in {duration(outcome.seconds)}.")
    say(console, f"Report: {(workspace.folder / 'report.html').as_uri()}")


def _metrics(stopped: StoppedTrial) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in stopped.metrics.items())


def _track(
    study: Study[Any],
    trials: Sequence[Trial],
    workspace: Workspace,
    outcome: SweepOutcome,
    summary: Summary,
    uri: str,
    console: Console,
    errors: Console,
) -> None:
    """Sends the sweep to MLflow; a server that does not take it costs a warning, never a sweep."""
    params = asked(study.spec) | {"study": study.name, **study.describe()}
    failed = len(outcome.failed)
    refused = track(workspace.folder, study.name, trials, summary, params, uri, failed=failed)
    if uri == tracking.OFF:
        return
    if refused:
        later = command([str(workspace.folder), "--tracking", uri], script=TRACK_SCRIPT)
        say(
            errors,
            f"Warning: MLflow at {uri} did not take the runs ({refused}). The results are complete without them.",
        )
        say(errors, f"Send them later: {later}")
        return
    if uri.startswith("http"):
        say(console, f"Compare runs: {uri}")
    else:
        mlflow = Path(sys.executable).with_name("mlflow")
        here = mlflow.relative_to(Path.cwd()) if mlflow.is_relative_to(Path.cwd()) else mlflow
        tool = here if mlflow.exists() else "mlflow"
        say(console, f"Compare runs: {tool} ui --backend-store-uri {shlex.quote(uri)} (http://127.0.0.1:5000)")


def _report_failures(failed: Sequence[FailedTrial], again: str, errors: Console) -> None:
    """Failed trials, those with the same reason together."""
    if not failed:
        return
    say(errors, f"{len(failed)} trials failed; the others are finished and kept:")
    reasons: dict[str, list[FailedTrial]] = {}
    for trial in failed:
        reasons.setdefault(trial.reason, []).append(trial)
    for reason, trials in reasons.items():
        names = ", ".join(trial.trial.label for trial in trials[:10]) + (" ..." if len(trials) > 10 else "")
        say(errors, f"- {names}: {reason}")
        say(errors, f"  log: {trials[0].log}")
    say(errors, f"Once that is mended, the same command runs only these:\n  {again}")

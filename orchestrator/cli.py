"""The command line every job shares: parse, prepare, then show the plan or run the sweep and say what it found."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from orchestrator.console import command, in_ray_job, say
from orchestrator.errors import UserError
from orchestrator.spec import Request, SpecTypes, parse_command_line, spec_to_yaml
from orchestrator.study import Study
from orchestrator.workspace import Workspace, sweep_name, usable_root


def main(
    spec_types: SpecTypes,
    study: Callable[[Any, Path], Study[Any]],
    *,
    description: str,
    examples: Sequence[str] = (),
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a study from the command line.

    Args:
        spec_types: the study's specification; its fields are the options. Of a job with several studies, one for each.
        study: makes the study from a specification and the cache folder. A study's class will do; a function that
            imports it first keeps ``--help`` fast.
        description: what the job does, for ``--help``.
        examples: commands for the end of ``--help``.
        argv: the arguments, by default those of the process.

    Returns:
        The exit code: 0 done; 1 trials failed, the others are finished; 2 a mistake in what was asked; 130 (Ctrl-C) or
        143 (SIGTERM) stopped, can be continued.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def run(console: Console, errors: Console, signals: StopSignals) -> int:
        prog = f"python {sys.argv[0]}"
        request = parse_command_line(spec_types, arguments, description=description, examples=examples, prog=prog)
        return _start(request, study, command(arguments), console, errors, signals)

    return guarded(run, command(arguments))


def guarded(
    run: Callable[[Console, Console, StopSignals], int],
    again: str,
    stopped: str = "What is finished is kept; this continues it",
) -> int:
    """Calls `run` with consoles for output and errors; mistakes and Ctrl-C become messages and exit codes.

    Args:
        run: returns the exit code.
        again: the command with which to continue after Ctrl-C.
        stopped: what has become of the work then, and what `again` does.
    """
    console, errors = Console(), Console(stderr=True)
    signals = StopSignals()
    try:
        with signals:
            return run(console, errors, signals)
    except UserError as error:
        _print_problems(error, errors)
        return 2
    except KeyboardInterrupt:
        say(errors, f"Stopped. {stopped}:\n  {again}")
        return 128 + (signals.received or signal.SIGINT)


def _start(
    request: Request,
    make_study: Callable[[Any, Path], Study[Any]],
    again: str,
    console: Console,
    errors: Console,
    signals: StopSignals,
) -> int:
    """Everything after the command line has been understood. Imports are here to keep ``--help`` and mistakes fast."""
    from orchestrator import ray_session, tracking
    from orchestrator.finish import finish
    from orchestrator.plan import show_plan
    from orchestrator.planner import make_plan
    from orchestrator.results import save_text
    from orchestrator.sweep import run_sweep

    spec = request.spec
    if in_ray_job() and spec.output is not None and not spec.output.is_absolute():
        raise UserError(
            f"--output {spec.output} is a relative path, but a submitted job runs in a temporary copy of the project "
            "that is deleted with everything written there: give an absolute path on storage that all nodes see."
        )
    root = usable_root(spec.output)
    uri = tracking.tracking_uri(spec.tracking, root)
    study = make_study(spec, root / "cache")
    study.only_plan = request.dry_run
    workspace = Workspace(root, sweep_name(request, study.name))
    say(console, f"Preparing {workspace.name} ...")
    study.prepare()
    for warning in study.warnings:
        say(errors, f"Warning: {warning}")
    trials = list(study.trials())
    with ray_session.reachable_nodes(spec) as nodes:
        plan = make_plan(spec, nodes, study.needs(), [trial.cost for trial in trials], study.placements)
        study.check_placement(plan.placement)
        if request.dry_run:
            show_plan(study, trials, workspace, plan, nodes, console)
            return 0
        placement = plan.placement
        with workspace.locked():
            resolved = spec.model_copy(update={"name": workspace.name, "output": root})
            save_text(workspace.folder / "spec.yaml", spec_to_yaml(resolved))
            say(console, f"{len(trials)} trials: {placement}.")
            outcome = run_sweep(study, trials, workspace, placement, nodes, console, on_ray_ready=signals.install)
            return finish(study, trials, workspace, outcome, uri, again, console, errors)


def _print_problems(error: UserError, errors: Console) -> None:
    """One mistake is one line; several are numbered by their dashes under a heading."""
    if len(error.problems) == 1:
        say(errors, f"Error: {error.problems[0]}")
        return
    say(errors, f"{len(error.problems)} mistakes, nothing was started:")
    for problem in error.problems:
        say(errors, f"- {problem}")


class StopSignals:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt inside the block; a second one does not disturb the clean-up.

    `received` is the signal that came, which the exception may have lost on its way through Ray.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.getsignal(number) for number in self.NUMBERS}
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Takes the signals; called again after Ray has started, which installs a handler of its own."""
        for number in self.before:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in self.before:
            signal.signal(each, signal.SIG_IGN)
        self.received = number
        raise KeyboardInterrupt

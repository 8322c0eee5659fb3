"""Derives the answer of a layer search again from its stored trials, or compares two of them. Needs no model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

# A job that was submitted to a cluster runs in a copy of the project that is not installed there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from orchestrator.cli import StopSignals, guarded
from orchestrator.console import command, say
from orchestrator.errors import Problems, UserError

DESCRIPTION = """\
Derives summary, tables, figures and report of a layer search again from the files under its trials/ folder, at any
time and without the model, also while the sweep is still running; other options give another reading of the same
hits. With --compare two sweeps are put beside each other on the facts they share: model against model, vectors from
other text, a control against the real thing."""

EXAMPLES = """examples:
  python jobs/analyze.py ~/babelsweep/lrp2_atlas
  python jobs/analyze.py ~/babelsweep/lrp2_atlas --criterion acc --correction bh --folds 10
  python jobs/analyze.py ~/babelsweep/lrp2_atlas --groups romance=fr,es --groups cjk=zh,ko
  python jobs/analyze.py --compare ~/babelsweep/lrp2_atlas ~/babelsweep/atlas_control"""

READINGS = ("criterion", "correction", "folds", "bootstrap", "null_draws")


class Parser(argparse.ArgumentParser):
    """Mistakes are told as every job tells them."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. 'python jobs/analyze.py --help' lists all options.")


def parser() -> Parser:
    """The command line; values stay text, as the sweep's specification parses them."""
    top = Parser(
        prog="python jobs/analyze.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = top.add_argument
    add("sweeps", nargs="+", type=Path, metavar="SWEEP", help="folder of a sweep; with --compare of two")
    add("--compare", action="store_true", help="compare two sweeps, A and B")
    add("--groups", action="append", default=[], metavar="NAME=A,B", help="languages to average over; may be repeated")
    add("--criterion", metavar="{trans,acc}", help="the score by which pairs are chosen; default: the sweep's")
    add("--correction", metavar="{holm,bh,none}", help="of p values over the languages; default: the sweep's")
    add("--folds", metavar="N", help="folds of subjects for the honest choice; default: the sweep's")
    add("--bootstrap", metavar="N", help="resamples for the intervals; default: the sweep's")
    add("--null-draws", metavar="N", help="copies with exchanged labels; 0: none; default: the sweep's")
    add("--output", type=Path, metavar="FOLDER", help="where a comparison goes; default: beside sweep A")
    add("--tracking", metavar="URI", help="MLflow, or 'none'; default $MLFLOW_TRACKING_URI, else beside the sweep")
    return top


def run(console: Console, errors: Console, signals: StopSignals) -> int:
    asked = parser().parse_intermixed_args()
    problems = Problems()
    if len(asked.sweeps) != 1 + asked.compare:
        wanted = "two sweeps, A and B" if asked.compare else "one sweep; to set two beside each other add --compare"
        problems.add(f"{len(asked.sweeps)} folders are given, but this takes {wanted}.")
    groups = []
    for text in asked.groups:
        name, equals, members = text.partition("=")
        languages = tuple(member.strip() for member in members.split(",") if member.strip())
        if not (name.strip() and equals and languages):
            problems.add(f"--groups {text!r} is not written as NAME=A,B, such as romance=fr,es.")
        groups.append((name.strip(), languages))
    if asked.compare and groups:
        problems.add("--groups averages over languages of one sweep; leave it out with --compare.")
    if asked.output and not asked.compare:
        problems.add("--output is for --compare; the answer of one sweep goes into the sweep's own folder.")
    problems.raise_if_any()

    from methods.lrp2.analysis.again import compare_sweeps, redo
    from orchestrator.report.blocks import Table
    from orchestrator.report.terminal import print_table
    from orchestrator.tracking import tracking_uri

    folders = [folder.expanduser().resolve() for folder in asked.sweeps]
    uri = tracking_uri(asked.tracking, (asked.output or folders[0]).expanduser().resolve().parent)
    options = {name: value for name in READINGS if (value := getattr(asked, name)) is not None}
    again = command(sys.argv[1:])
    if asked.compare:
        output = asked.output and asked.output.expanduser().resolve()
        summary, folder, warnings = compare_sweeps((folders[0], folders[1]), options, output, uri, again)
    else:
        folder = folders[0]
        summary, warnings = redo(folder, options, groups, uri, again)
    for warning in warnings:
        say(errors, f"Warning: {warning}")
    if tables := [block for block in summary.sections[0].blocks if isinstance(block, Table)]:
        print_table(tables[0], console)
    say(console, summary.headline)
    say(console, f"Report: {(folder / 'report.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(run, command(sys.argv[1:])))

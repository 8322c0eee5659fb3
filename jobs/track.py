"""Sends a finished sweep to MLflow, for instance after its tracking server was down. Sending twice adds no run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator.cli import StopSignals, guarded
from orchestrator.console import command, say
from orchestrator.tracking import send, tracking_uri

EXAMPLES = """examples:
  python jobs/track.py ~/babelsweep/lrp2_atlas
  python jobs/track.py ~/babelsweep/lrp2_atlas --tracking http://127.0.0.1:5000"""


def run(console: Console, errors: Console, signals: StopSignals) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    parser.add_argument(
        "--tracking",
        metavar="URI",
        help="MLflow tracking URI; default $MLFLOW_TRACKING_URI, else mlflow.db beside the sweep",
    )
    options = parser.parse_args()
    folder = options.sweep.expanduser().resolve()
    uri = tracking_uri(options.tracking, folder.parent)
    try:
        send(folder, uri)
    except ConnectionError as error:
        say(errors, f"MLflow at {uri} did not take the runs: {error}")
        return 1
    say(console, f"Sent {folder.name} to {uri}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(run, command(sys.argv[1:])))

"""The toy study as a job, for tests that need a process of their own to kill or to submit."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from orchestrator.cli import main
from tests.engine.toy import ToySpec, ToyStudy

if __name__ == "__main__":
    sys.exit(main(ToySpec, ToyStudy, description="Squares numbers.", examples=["python toy_job.py --marks /tmp/marks"]))

"""The study of steps as a job, for tests that need a process of their own to kill."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from orchestrator.cli import main
from tests.engine.steps import StepsSpec, StepsStudy

if __name__ == "__main__":
    sys.exit(
        main(StepsSpec, StepsStudy, description="Takes steps.", examples=["python steps_job.py --marks /tmp/marks"])
    )

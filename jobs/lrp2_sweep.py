"""Searches, for every language, the two layers between which its hidden states are best projected into English."""

from __future__ import annotations

import sys
from pathlib import Path

# A job that was submitted to a cluster runs in a copy of the project that is not installed there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from methods.lrp2.spec import LRP2Spec
from orchestrator.cli import main
from orchestrator.study import Study

DESCRIPTION = """\
LRP2 layer search (Xu et al. 2023): project a language's hidden states into English after layer i, back after layer j,
and find out for every language which pair (i, j) serves it best, what that gains, and whether the gain is real.
Everything already computed is reused; stop it with Ctrl-C and run it again to go on."""

EXAMPLES = (
    "python jobs/lrp2_sweep.py --config jobs/presets/lrp2_atlas.yaml",
    "python jobs/lrp2_sweep.py --config jobs/presets/lrp2_atlas.yaml --languages de,zh --dry-run",
    "python jobs/lrp2_sweep.py --facts mlama:mlama1.1.zip --pools mlama_objects.zip --sentences sentences:opus \\",
    "    --model google-bert/bert-base-multilingual-cased --languages zh,ja --max-facts 500",
    "ray job submit --working-dir . -- python jobs/lrp2_sweep.py --config jobs/presets/lrp2_mbert.yaml \\",
    "    --output /shared/sweeps",
)


def study(spec: LRP2Spec, cache: Path) -> Study[LRP2Spec]:
    """Imports the study, and torch with it, only when there is something to run."""
    from methods.lrp2.study import LRP2Study

    return LRP2Study(spec, cache)


if __name__ == "__main__":
    sys.exit(main(LRP2Spec, study, description=DESCRIPTION, examples=EXAMPLES))

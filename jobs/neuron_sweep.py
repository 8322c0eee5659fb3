"""Finds the neurons that hold facts in each language, what languages share, and what LRP2 changes in it."""

from __future__ import annotations

import sys
from pathlib import Path

# A job that was submitted to a cluster runs in a copy of the project that is not installed there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from methods.neurons.spec import NeuronSpec
from orchestrator.cli import main
from orchestrator.study import Study

DESCRIPTION = """\
Knowledge neurons across languages (Dai et al. 2022; Xu et al. 2023): which feed-forward neurons the right answers rest
on, by integrated gradients, how many of them a language has in common with English, layer by layer and relation by
relation, how alike its representations are, and what LRP2 changes in all of it.
Everything already computed is reused; stop it with Ctrl-C and run it again to go on."""

EXAMPLES = (
    "python jobs/neuron_sweep.py --config jobs/presets/neurons_atlas.yaml",
    "python jobs/neuron_sweep.py --config jobs/presets/neurons_atlas.yaml --languages de,zh --rule left --dry-run",
    "python jobs/neuron_sweep.py --pairs-from ~/babelsweep/lrp2_atlas --max-facts 100",
    "ray job submit --working-dir . -- python jobs/neuron_sweep.py --config jobs/presets/neurons_mbert.yaml \\",
    "    --output /shared/sweeps",
)


def study(spec: NeuronSpec, cache: Path) -> Study[NeuronSpec]:
    """Imports the study, and torch with it, only when there is something to run."""
    from methods.neurons.study import NeuronStudy

    return NeuronStudy(spec, cache)


if __name__ == "__main__":
    sys.exit(main(NeuronSpec, study, description=DESCRIPTION, examples=EXAMPLES))

"""Compares editors, or patch neurons: what carries an edit made in one language to the others, and what it harms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

# A job that was submitted to a cluster runs in a copy of the project that is not installed there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from methods.editing.patches.spec import PatcherSpec
from methods.editing.spec import EditorSpec
from orchestrator.cli import main
from orchestrator.study import Study

DESCRIPTION = """\
Model editing across languages. Two studies, chosen by --study or by the preset:

editors    (Xu et al. 2023) fine-tuning, Editable Training, KnowledgeEditor and MEND, each trained in one language or
           across languages, with and without language masks. For every pair of languages: how often an edit made in
           one is answered in the other, and what stays as it was.
patchers   (Huang et al. 2023; Si et al. 2024) patch neurons in sequential streams: one mistake, one neuron, trained in
           one language or in two, beside fine-tuning. What a stream corrects, in which languages, and at what cost.

Everything already computed is reused; stop it with Ctrl-C and run it again to go on."""

EXAMPLES = (
    "python jobs/editor_sweep.py --config jobs/presets/editors_atlas.yaml",
    "python jobs/editor_sweep.py --config jobs/presets/editors_atlas.yaml --editors mend --dry-run",
    "python jobs/editor_sweep.py --editors mend --edit-languages all --masks none,lime --lr 1e-5..1e-2 \\",
    "    --mask-penalty 0.01..1 --search asha --samples 16 --seeds 1",
    "python jobs/editor_sweep.py --config jobs/presets/patchers_atlas.yaml",
    "python jobs/editor_sweep.py --study patchers --variants mpn-all --language-lists de+fr,all --seeds 1",
    "ray job submit --working-dir . -- python jobs/editor_sweep.py --config jobs/presets/editors_mlama.yaml \\",
    "    --output /shared/sweeps",
)

SPECS = (EditorSpec, PatcherSpec)


def study(spec: EditorSpec | PatcherSpec, cache: Path) -> Study[Any]:
    """Imports the study, and torch with it, only when there is something to run."""
    if isinstance(spec, PatcherSpec):
        from methods.editing.patches.study import PatcherStudy

        return PatcherStudy(spec, cache)
    from methods.editing.study import EditorStudy

    return EditorStudy(spec, cache)


if __name__ == "__main__":
    sys.exit(main(SPECS, study, description=DESCRIPTION, examples=EXAMPLES))

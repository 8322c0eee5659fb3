"""One stream of a thousand requests as a process of its own, which a test can kill.

python -m tests.editing.patches.long_stream SCRATCH RESULT
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.editing.patches.world import QUICK, World

REQUESTS = 1000


def main(scratch: Path, result: Path) -> None:
    """Runs the stream, or goes on with it, and writes what came of it to the folder `result`."""
    torch.set_num_threads(1)
    world = World("bert-classifier", edits=REQUESTS)
    patches = QUICK.model_copy(update={"max_steps": 4, "first_check": 2, "check_every": 2})
    config = world.config(languages=("en", "de", "fr"), trigger="all", evaluate_every=100, patches=patches)
    stream = world.run(config, scratch)
    result.mkdir()
    save_file(stream.neurons.to_tensors(), result / "patches.safetensors")
    told = {
        "records": [record.to_json() for record in stream.records],
        "curve": [asdict(point) for point in stream.curve],
        "metrics": asdict(stream.metrics),
    }
    (result / "told.json").write_text(json.dumps(told, sort_keys=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Checkpoints with random weights in a temporary folder, for measurements in processes of their own."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PretrainedConfig, PreTrainedTokenizerFast

from methods.backbone.addresses import CONFIG, WEIGHT_INDEX
from methods.lrp2.benchmark.cases import LOGIT_SPREAD
from orchestrator.errors import UserError
from orchestrator.placement import in_bytes

SHARD_BYTES = 512 * 2**20
UNKNOWN = "<unk>"


def write_checkpoint(
    folder: Path, config: PretrainedConfig, shard_bytes: int = SHARD_BYTES, *, masked: bool = False
) -> int:
    """Writes a model with random weights in float32, shard by shard; no two shards are in memory together.

    Args:
        folder: where to.
        config: of the model.
        shard_bytes: of a file, about.
        masked: whether it is a masked language model, or a causal one.

    Returns:
        Bytes of its weights.
    """
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config, dtype=torch.float32)
    model.tie_weights()
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_output_embeddings().weight
    shards: list[list[str]] = [[]]
    sizes = dict.fromkeys((name for name, _ in model.named_parameters()), 0)
    shapes = {}
    room = shard_bytes
    for name, weight in model.named_parameters():
        shapes[name], sizes[name] = weight, weight.nbytes
        if shards[-1] and weight.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= weight.nbytes
    places = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name in names:
            tensor = torch.empty(shapes[name].shape)
            if shapes[name].dim() > 1:
                spread = LOGIT_SPREAD / config.hidden_size**0.5 if shapes[name] is vocabulary else 0.02
                tensor.normal_(0.0, spread, generator=generator)
            else:
                tensor.fill_(1.0 if name.endswith("weight") else 0.0)
            tensors[name], places[name] = tensor, file
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
    (folder / WEIGHT_INDEX).write_text(json.dumps(index))
    (folder / CONFIG).write_text(json.dumps({**config.to_dict(), "architectures": [type(model).__name__]}))
    # Queries come as numbers; the checks of a folder want a tokenizer all the same, of a masked model one with a mask.
    words = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token=UNKNOWN, mask_token=UNKNOWN).save_pretrained(folder)
    return sum(sizes.values())


@contextmanager
def checkpoint_folder(size: int, parent: Path | None = None) -> Iterator[Path]:
    """A folder with room for so many bytes, removed at the end; by default in the system's temporary folder.

    Raises:
        UserError: the disk has no such room.
    """
    folder = Path(tempfile.mkdtemp(prefix="babelsweep-benchmark-", dir=parent))
    try:
        free = shutil.disk_usage(folder).free
        if free < 1.2 * size:
            raise UserError(
                f"The checkpoint takes {in_bytes(size)} and {folder} has {in_bytes(free)} free. Set TMPDIR to a larger "
                "disk, or measure a smaller model."
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

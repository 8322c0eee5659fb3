"""Layer streaming: a model read block by block computes the very numbers of the model in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from methods.backbone import Backbone, load_backbone, pack_sequences
from methods.backbone.streaming import StreamedBackbone
from orchestrator.errors import UserError
from tests.backbone.contract import all_layers, random_sequences
from tests.backbone.tiny import FAMILIES, kind_of_family, tiny_model, tiny_tokenizer


def saved(folder: Path, family: str, shard: str = "20KB", **options: object) -> Path:
    """A tiny model as a folder, in several files unless `shard` is larger than it."""
    tiny_model(family, **options).save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer(kind_of_family(family)).save_pretrained(folder)
    return folder


def streamed(folder: Path, **options: object) -> StreamedBackbone:
    backbone = load_backbone(str(folder), placement="stream", **options)  # type: ignore[arg-type]
    assert isinstance(backbone, StreamedBackbone)
    return backbone


@pytest.mark.parametrize("family", FAMILIES)
def test_a_streamed_model_computes_the_same_bits(tmp_path: Path, family: str) -> None:
    whole: Backbone = load_backbone(str(saved(tmp_path, family)))
    read = streamed(tmp_path)
    assert read.fast == whole.fast
    assert read.description == whole.description
    sequences = random_sequences(whole, [5, 3, 5])
    pack, _ = pack_sequences(sequences, [[0, 2], [1], [4]])
    with torch.no_grad():
        expected, found = all_layers(whole, pack), all_layers(read, pack)
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a, b)
        last = whole.layer(3, expected[2][None], whole.plan(pack), need=True)
        assert torch.equal(last, read.layer(3, expected[2][None], read.plan(pack), need=True))
        assert torch.equal(whole.transform(whole.final(last)), read.transform(read.final(last)))
    weight, bias = whole.unembedding
    tokens = torch.tensor([[7, 3], [8, 7]])
    assert torch.equal(read.stream.vocabulary.rows(tokens), weight[tokens])
    tiles = torch.cat([tile.clone() for _, tile in read.stream.vocabulary.tiles()])
    assert torch.equal(tiles, weight)
    assert bias is None or torch.equal(read.stream.vocabulary.bias, bias)

"""What a model weighs is known from its configuration: part by part as the real model's, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from methods.backbone import describe_model
from methods.backbone.footprint import PUBLISHED, Footprint, configuration
from methods.backbone.structure import find_blocks
from orchestrator.errors import UserError
from tests.backbone.tiny import FAMILIES, tiny_model


def weights(module: torch.nn.Module) -> int:
    return sum(weight.nbytes for weight in module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_tells_the_bytes_of_the_real_model(family: str) -> None:
    model = tiny_model(family, dtype=torch.bfloat16)
    model.config.architectures = [type(model).__name__]
    footprint = Footprint.from_config(model.config, torch.bfloat16)
    blocks = find_blocks(model)
    assert footprint.total == weights(model)
    assert footprint.block == max(weights(block) for block in blocks)
    assert footprint.embeddings == weights(model.base_model) - sum(weights(block) for block in blocks)
    assert footprint.head == weights(model) - weights(model.base_model)
    assert footprint.description.weight_bytes(torch.bfloat16) == footprint.total


@pytest.mark.parametrize(
    ("name", "parameters", "layers", "hidden"),
    [
        ("bloom-560m", 559_214_592, 24, 1024),
        ("bloom-1b1", 1_065_314_304, 24, 1536),
        ("bloom-1b7", 1_722_408_960, 24, 2048),
        ("bloom-3b", 3_002_557_440, 30, 2560),
        ("bloom-7b1", 7_069_016_064, 30, 4096),
        ("bloom-176b", 176_247_271_424, 70, 14336),
    ],
)
def test_published_blooms_have_their_published_sizes(name: str, parameters: int, layers: int, hidden: int) -> None:
    footprint = Footprint.of(name, torch.bfloat16)
    description = footprint.description
    assert (description.parameters, description.num_layers, description.hidden_size) == (parameters, layers, hidden)
    assert footprint.total == 2 * parameters
    assert footprint.head == 0, "the vocabulary matrix is the embedding"
    assert description.fast


def test_a_model_is_found_by_name_folder_or_configuration_file(tmp_path: Path) -> None:
    model = tiny_model("bloom")
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for address in (str(tmp_path), str(tmp_path / "config.json")):
        assert Footprint.of(address).total == weights(model)
    assert Footprint.of(str(tmp_path)).description == describe_model(str(tmp_path))
    assert set(PUBLISHED) >= {"mbert", "bloom-7b1"}
    with pytest.raises(UserError, match="neither a folder nor a built-in model"):
        configuration("bloom-7b")

"""Layer streaming: a model read block by block computes the very numbers of the model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from methods.backbone import Backbone, load_backbone, pack_sequences
from methods.backbone.bloom import BloomBackbone
from methods.backbone.generic import GenericBackbone
from methods.backbone.selfcheck import CHECKED_BLOCKS, SelfCheck
from methods.backbone.streaming import StreamedBackbone
from methods.backbone.vectors import language_vectors
from methods.editing.model import EditableModel
from orchestrator.errors import UserError
from tests.backbone.contract import all_layers, random_sequences
from tests.backbone.tiny import FAMILIES, WORDS, kind_of_family, tiny_model, tiny_tokenizer


def saved(folder: Path, family: str, shard: str = "20KB", **options: Any) -> Path:
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


def test_one_file_or_many_and_another_dtype_than_the_stored_one(tmp_path: Path) -> None:
    """What is read and converted piece by piece equals what transformers loads."""
    for number, shard in enumerate(("10MB", "20KB")):
        folder = saved(tmp_path / str(number), "bloom", shard)
        whole = load_backbone(str(folder), dtype=torch.bfloat16)
        read = streamed(folder, dtype=torch.bfloat16)
        pack, _ = pack_sequences(random_sequences(whole, [4, 6]))
        with torch.no_grad():
            assert torch.equal(all_layers(whole, pack)[-1], all_layers(read, pack)[-1])


def test_a_checkpoint_saved_without_its_head_and_with_old_names(tmp_path: Path) -> None:
    """The published BLOOM files leave out the name of the trunk, older BERT files call norms gamma and beta."""
    whole = {}
    for family in ("bloom", "bert"):
        folder = saved(tmp_path / family, family, "10MB")
        whole[family] = load_backbone(str(folder))
        tensors = load_file(folder / "model.safetensors")
        old = {
            name.removeprefix("transformer.")
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in tensors.items()
        }
        assert old.keys() != tensors.keys()
        save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
        read = streamed(folder)
        pack, _ = pack_sequences(random_sequences(read, [4]))
        with torch.no_grad():
            assert torch.equal(all_layers(whole[family], pack)[-1], all_layers(read, pack)[-1])


def test_a_walk_reads_every_block_once_whatever_it_computes(tmp_path: Path) -> None:
    read = streamed(saved(tmp_path, "bloom", layers=6))
    block = sum(weight.nbytes for weight in tiny_model("bloom", layers=6).transformer.h[0].parameters())
    plan = read.plan(pack_sequences(random_sequences(read, [5]))[0])
    x = read.embed(plan)[None]
    with torch.no_grad():
        for read_blocks in (4, 6):  # the first two are still there from the check at loading
            before = read.bytes_read
            for k in range(1, 7):
                with read.block(k):
                    for _ in range(3):
                        read.layer(k, x, plan)
            assert read.bytes_read - before == read_blocks * block


def test_loading_reads_two_blocks_for_the_check_and_no_vocabulary(tmp_path: Path) -> None:
    """What the check at loading covers: embedding, two blocks, final norm, what the head does before the vocabulary."""
    folder = saved(tmp_path, "bert", layers=6)
    model = tiny_model("bert", layers=6)
    blocks = sum(weight.nbytes for block in model.bert.encoder.layer[:2] for weight in block.parameters())
    vocabulary = model.get_input_embeddings().weight.nbytes
    outside = sum(weight.nbytes for weight in model.parameters()) - 3 * blocks - vocabulary
    read = streamed(folder).bytes_read
    assert blocks + outside < read < blocks + outside + vocabulary


BLOCK = BloomBackbone.layer
FAULTS: dict[str, tuple[str, Any]] = {
    "no norm after the embedding": ("embed", lambda self, plan: self.model.transformer.word_embeddings(plan.pack.ids)),
    "blocks one percent off": ("layer", lambda self, *rest, **named: 1.01 * BLOCK(self, *rest, **named)),
    "no positions": ("alibi_slopes", lambda self: torch.zeros(self.description.num_heads)),
    "no final norm": ("final", lambda self, x: x),
    "an unfinished path": ("transform", lambda self, x: x[..., :-1]),
}


class TestSelfCheck:
    """The first two blocks of a streamed model are compared with its own forward pass, in the dtype that it runs in."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_a_path_that_agrees_is_taken_without_a_word(
        self, tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
    ) -> None:
        read = streamed(saved(tmp_path, "bloom"), dtype=dtype)
        assert read.fast
        assert not caplog.records
        read.stream.last_ahead = CHECKED_BLOCKS
        check = SelfCheck(read.model, read.device, CHECKED_BLOCKS)
        assert check.disagreement(read) <= (1 if dtype == torch.bfloat16 else 0.01)

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_packed_path_that_disagrees_gives_way(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        whole = load_backbone(str(saved(tmp_path, "bloom")))
        monkeypatch.setattr(BloomBackbone, *FAULTS[fault])
        read = streamed(tmp_path)
        assert not read.fast
        pack, _ = pack_sequences(random_sequences(whole, [4, 6]))
        monkeypatch.undo()
        with torch.no_grad():
            torch.testing.assert_close(all_layers(read, pack)[-1], all_layers(whole, pack)[-1], atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("family", ["bert", "xglm", "llama"])
    def test_every_family_is_watched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
        path = type(load_backbone(str(saved(tmp_path, family))))
        layer = path.layer
        monkeypatch.setattr(path, "layer", lambda self, *rest, **named: 1.01 * layer(self, *rest, **named))
        assert not streamed(tmp_path).fast

    def test_a_generic_path_that_disagrees_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(GenericBackbone, "final", lambda self, x: 2 * x)
        with pytest.raises(UserError, match="cannot be seen layer by layer"):
            streamed(saved(tmp_path, "gpt-neox"))


def test_between_two_blocks_no_weight_is_left_behind(tmp_path: Path) -> None:
    read = streamed(saved(tmp_path, "bloom"))
    with read.block(2):
        assert not any(weight.is_meta for weight in read.blocks[1].parameters())
        assert all(weight.is_meta for weight in read.blocks[0].parameters())
    assert all(weight.is_meta for block in read.blocks for weight in block.parameters())


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bloom", "10MB")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-10], whole[:4], b"\0" * 100):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors is no complete safetensors file"):
            streamed(folder)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bloom", "10MB")
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.ln_f.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights of BloomForCausalLM .* first transformer\.ln_f\.bias"):
        streamed(folder)


def test_an_edit_refuses_weights_that_are_not_in_memory(tmp_path: Path) -> None:
    read = streamed(saved(tmp_path, "bloom"))
    with pytest.raises(UserError, match="not in memory"):
        EditableModel(read.model, read.tokenizer, "causal")


def test_language_vectors_are_those_of_the_model_in_memory(tmp_path: Path) -> None:
    """All sentences pass a block before the next one is read."""
    folder = saved(tmp_path, "bloom", layers=5)
    whole, read = load_backbone(str(folder)), streamed(folder)
    batches = [WORDS[:30], WORDS[20:50], WORDS[40:]]
    expected = language_vectors(whole, batches)
    torch.testing.assert_close(language_vectors(read, batches), expected, atol=1e-6, rtol=1e-6)
    before = read.bytes_read
    language_vectors(read, batches)
    blocks = sum(weight.nbytes for weight in tiny_model("bloom", layers=5).transformer.h.parameters())
    embeddings = tiny_model("bloom").get_input_embeddings().weight.nbytes
    assert blocks <= read.bytes_read - before <= blocks + 3 * embeddings

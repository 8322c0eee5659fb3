"""Loading models from folders, what is refused and how it is said, and what identifies a model."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from methods.backbone import describe_model, load_backbone, loading, model_fingerprint, view_model
from methods.backbone.addresses import builtin_models, pinned, resolve
from methods.backbone.bert import BertBackbone
from methods.backbone.generic import GenericBackbone
from orchestrator.errors import UserError
from tests.backbone.tiny import kind_of_family, moving_hub, tiny, tiny_model, tiny_tokenizer


def save(folder: Path, family: str = "bert", **options: Any) -> Path:
    """A model folder as `save_pretrained` writes it."""
    tiny_model(family, **options).save_pretrained(folder)
    tiny_tokenizer(kind_of_family(family)).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def problems_of(call: Callable[[], Any]) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        call()
    return caught.value.problems


@pytest.mark.parametrize("family", ["bert", "bloom", "llama-grouped", "gpt-neox"])
def test_a_saved_folder_loads_with_tokenizer_and_equals_the_model(tmp_path: Path, family: str) -> None:
    backbone = load_backbone(str(save(tmp_path, family)))
    original = tiny(family)
    assert type(backbone) is type(original)
    assert (backbone.kind, backbone.num_layers, backbone.hidden_size) == (kind_of_family(family), 3, 32)
    assert backbone.vocab_size == len(backbone.tokenizer)
    for ours, theirs in zip(backbone.model.parameters(), original.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    assert not backbone.model.training


def test_weights_are_memory_mapped_so_that_processes_share_them(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list a process's memory maps")
    backbone = load_backbone(str(save(tmp_path)))
    address = backbone.unembedding[0].data_ptr()
    spans = [line.split()[0].split("-") for line in maps.read_text().splitlines() if "model.safetensors" in line]
    assert any(int(start, 16) <= address < int(stop, 16) for start, stop in spans)


def test_weights_are_cast_to_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    backbone = load_backbone(str(save(tmp_path, "bloom")), dtype=torch.bfloat16)
    assert backbone.dtype == torch.bfloat16
    assert backbone.fast


def test_a_description_needs_no_weights_and_equals_the_loaded_model(tmp_path: Path) -> None:
    for family in ("bert", "xlm-roberta", "llama-grouped", "opt"):
        folder = save(tmp_path / family, family)
        loaded = load_backbone(str(folder)).description
        (folder / "model.safetensors").unlink()
        description = describe_model(str(folder))
        assert description == loaded
        assert description.weight_bytes(torch.bfloat16) == 2 * description.parameters
    assert description.architecture == "OPTForCausalLM"
    assert not description.fast


def test_positions_are_counted_as_the_model_has_them(tmp_path: Path) -> None:
    """XLM-R's table has 66 rows of which the padding id's and the one before it are no positions."""
    assert tiny("bert").max_length == 66
    assert tiny("xlm-roberta").max_length == 65
    assert tiny("bloom").max_length is None


def test_built_in_models_are_found_by_name() -> None:
    models = builtin_models()
    assert set(models) == {"atlas-bert", "atlas-bloom"}
    for name, folder in models.items():
        assert resolve(name) == folder
        assert describe_model(name).num_layers >= 2


class TestRefusals:
    def test_everything_that_is_missing_is_said_at_once(self, tmp_path: Path) -> None:
        problems = problems_of(lambda: load_backbone(str(tmp_path)))
        assert len(problems) == 3
        assert "no config.json" in problems[0]
        assert "no weights" in problems[1]
        assert "no tokenizer" in problems[2]

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5"])
    def test_pickled_weights_are_refused_with_the_way_to_convert_them(self, tmp_path: Path, name: str) -> None:
        save(tmp_path)
        (tmp_path / "model.safetensors").rename(tmp_path / name)
        (problem,) = problems_of(lambda: load_backbone(str(tmp_path)))
        assert name in problem
        assert "can run code" in problem
        assert "save_pretrained" in problem

    def test_a_pickle_beside_safetensors_is_not_opened(self, tmp_path: Path) -> None:
        save(tmp_path)
        (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
        assert load_backbone(str(tmp_path)).fast

    def test_a_causal_model_with_a_slow_tokenizer_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It tells no offsets, so an object's tokens would not be found; a masked model needs none."""
        slow = SimpleNamespace(is_fast=False, vocab_size=1, mask_token_id=4)
        monkeypatch.setattr(loading, "read_tokenizer", lambda *_: slow)
        (problem,) = problems_of(lambda: load_backbone(str(save(tmp_path / "causal", "bloom"))))
        assert "slow tokenizer" in problem
        assert "tokenizer.json" in problem
        assert load_backbone(str(save(tmp_path / "masked"))).kind == "masked"

    def test_a_missing_weight_file_is_named(self, tmp_path: Path) -> None:
        tiny_model("bert").save_pretrained(tmp_path, max_shard_size="60KB")
        tiny_tokenizer().save_pretrained(tmp_path)
        assert load_backbone(str(tmp_path)).fast
        (tmp_path / sorted(path.name for path in tmp_path.glob("*.safetensors"))[0]).unlink()
        (problem,) = problems_of(lambda: load_backbone(str(tmp_path)))
        assert "model-00001-of" in problem

    def test_damaged_weights(self, tmp_path: Path) -> None:
        weights = save(tmp_path) / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        (problem,) = problems_of(lambda: load_backbone(str(tmp_path)))
        assert "could not be read" in problem

    def test_damaged_configuration_is_named_with_its_line(self, tmp_path: Path) -> None:
        (save(tmp_path) / "config.json").write_text('{\n"model_type": "bert",\n oops}')
        for call in (load_backbone, describe_model):
            (problem,) = problems_of(lambda call=call: call(str(tmp_path)))
            assert "config.json is damaged" in problem
            assert "line 3" in problem

    @pytest.mark.parametrize(
        "architectures",
        [["BertModel"], ["BertForSequenceClassification"], None, ["BertForMaskedLM", "BertLMHeadModel"]],
    )
    def test_an_architecture_without_a_single_language_head(self, tmp_path: Path, architectures: Any) -> None:
        edit_config(save(tmp_path), architectures=architectures)
        for call in (load_backbone, describe_model):
            (problem,) = problems_of(lambda call=call: call(str(tmp_path)))
            assert "no masked or causal language model" in problem

    def test_an_encoder_decoder(self, tmp_path: Path) -> None:
        config = transformers.BartConfig(d_model=16, encoder_layers=2, decoder_layers=2, vocab_size=50)
        config.architectures = ["BartForConditionalGeneration"]
        config.save_pretrained(tmp_path)
        (problem,) = problems_of(lambda: describe_model(str(tmp_path)))
        assert "BartForConditionalGeneration" in problem

    def test_weights_without_the_language_head(self, tmp_path: Path) -> None:
        save(tmp_path)
        tiny_model("bert").bert.save_pretrained(tmp_path)
        edit_config(tmp_path, architectures=["BertForMaskedLM"])
        (problem,) = problems_of(lambda: load_backbone(str(tmp_path)))
        assert "cls.predictions" in problem
        assert "random" in problem

    def test_a_model_that_brings_its_own_code(self, tmp_path: Path) -> None:
        folder = save(tmp_path)
        edit_config(
            folder, model_type="homemade", auto_map={"AutoConfig": "code.Config", "AutoModelForMaskedLM": "code.M"}
        )
        (folder / "code.py").write_text("raise SystemExit('this must never run')")
        (problem,) = problems_of(lambda: load_backbone(str(folder)))
        assert "own code" in problem

    def test_a_tokenizer_of_another_model(self, tmp_path: Path) -> None:
        save(tmp_path, vocab_size=100)
        (problem,) = problems_of(lambda: load_backbone(str(tmp_path)))
        assert "do not belong together" in problem

    def test_a_masked_model_without_a_mask_token(self, tmp_path: Path) -> None:
        save(tmp_path, vocab_size=1000)
        tiny_tokenizer("causal").save_pretrained(tmp_path)
        (problem,) = problems_of(lambda: load_backbone(str(tmp_path)))
        assert "mask token" in problem

    @pytest.mark.parametrize(
        "address", ["./nowhere", "/nowhere/at/all", "org/name/too/deep", "org/name that cannot be"]
    )
    def test_an_address_that_is_no_folder(self, address: str) -> None:
        (problem,) = problems_of(lambda: load_backbone(address))
        assert "no model folder" in problem

    def test_a_hub_model_that_cannot_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(*_: Any, **__: Any) -> str:
            raise OSError("the hub is offline\nand more lines")

        monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
        monkeypatch.setattr("methods.backbone.addresses.builtin_models", lambda: {"atlas-bert": Path("anywhere")})
        (problem,) = problems_of(lambda: load_backbone("atlas-brt"))
        assert "the hub is offline" in problem
        assert "more lines" not in problem
        assert "Did you mean 'atlas-bert'?" in problem


class TestHub:
    def test_only_safe_files_are_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[Any] = []

        def download(name: str, **options: Any) -> str:
            asked.append((name, options["revision"], options["allow_patterns"]))
            return str(tmp_path)

        save(tmp_path)
        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        assert load_backbone("org/name@v2").fast
        assert describe_model("org/name").fast
        assert [request[:2] for request in asked] == [("org/name", "v2"), ("org/name", None)]
        assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked[0][2])
        assert "config.json" in asked[1][2]
        assert not any("safetensors" in pattern for pattern in asked[1][2])

    def test_the_fingerprint_is_the_commit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        snapshot = tmp_path / "models--org--name" / "snapshots" / "0123abcd"
        snapshot.mkdir(parents=True)
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
        assert model_fingerprint("org/name") == "commit-0123abcd"

    def test_a_model_is_pinned_to_the_commit_that_its_fingerprint_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        models = {"0123abcd": save(tmp_path / "old"), "4567cdef": save(tmp_path / "new", layers=4)}
        move = moving_hub(tmp_path, models, monkeypatch)
        fingerprint = model_fingerprint("org/name")
        move("4567cdef")
        assert load_backbone("org/name").num_layers == 4
        for asked in ("org/name", "org/name@main"):
            assert pinned(asked, fingerprint) == "org/name@0123abcd"
        assert load_backbone(pinned("org/name", fingerprint)).num_layers == 3
        for local in ("atlas-bert", str(models["0123abcd"])):
            assert pinned(local, model_fingerprint(local)) == local


class TestFingerprint:
    def test_it_follows_the_content_not_the_place(self, tmp_path: Path) -> None:
        first = save(tmp_path / "first")
        shutil.copytree(first, tmp_path / "second")
        (tmp_path / "second" / "README.md").write_text("a note changes nothing")
        assert model_fingerprint(str(first)) == model_fingerprint(str(tmp_path / "second"))

    def test_every_part_of_a_model_changes_it(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "model")
        seen = {model_fingerprint(str(folder))}
        edit_config(folder, layer_norm_eps=1e-5)
        seen.add(model_fingerprint(str(folder)))
        (folder / "tokenizer_config.json").write_text("{}")
        seen.add(model_fingerprint(str(folder)))
        tiny_model("bert", seed=1).save_pretrained(folder)
        seen.add(model_fingerprint(str(folder)))
        assert len(seen) == 4

    def test_a_folder_of_ones_own_snapshots_is_known_by_its_content(self, tmp_path: Path) -> None:
        """Trained anew into the same folder it is another model, whose trials must not be taken for the old one's."""
        folder = save(tmp_path / "snapshots" / "epoch3")
        before = model_fingerprint(str(folder))
        tiny_model("bert", seed=1).save_pretrained(folder)
        assert model_fingerprint(str(folder)) != before

    def test_large_files_are_hashed_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder, cache = save(tmp_path / "model"), tmp_path / "cache"
        first = model_fingerprint(str(folder), cache)
        monkeypatch.setattr("hashlib.file_digest", None)
        assert model_fingerprint(str(folder), cache) == first


class TestChoiceOfPath:
    def test_a_packed_path_that_disagrees_gives_way_with_a_warning(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(BertBackbone, "transform", lambda self, x: x)
        loading._warn_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            assert isinstance(tiny("bert"), GenericBackbone)
        assert "BertForMaskedLM (model type 'bert') runs on the generic path" in caplog.text
        assert "slower" in caplog.text

    def test_an_unknown_architecture_says_so_once(self, caplog: pytest.LogCaptureFixture) -> None:
        loading._warn_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            tiny("gpt-neox")
            tiny("gpt-neox")
        assert caplog.text.count("model type 'gpt_neox'") == 1

    def test_asking_for_the_generic_path_is_no_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        loading._warn_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            assert not tiny("bert", prefer="generic").fast
        assert caplog.text == ""

    def test_rotary_positions_that_depend_on_the_batch_take_the_generic_path(self) -> None:
        rotary = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        assert not tiny("llama", rope_parameters=rotary).fast

    def test_a_model_without_a_block_list_is_refused(self) -> None:
        config = transformers.AlbertConfig(
            vocab_size=90, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=16
        )
        (problem,) = problems_of(lambda: view_model(transformers.AlbertForMaskedLM(config), None))
        assert "no list of its 12 transformer blocks" in problem
        assert "albert_layer_groups (1)" in problem

    def test_a_model_that_caps_its_scores_is_refused(self) -> None:
        config = transformers.Gemma2Config(
            vocab_size=90,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            intermediate_size=16,
            final_logit_softcapping=0.01,
        )
        (problem,) = problems_of(lambda: view_model(transformers.Gemma2ForCausalLM(config), None))
        assert "do not give the model's own scores" in problem

    def test_a_model_that_mixes_states_between_blocks_is_refused(self) -> None:
        """Here block 3 gets the sum of the outputs of blocks 1 and 2, which calling blocks in a row cannot know."""
        model = tiny_model("gpt-neox")
        outputs: list[torch.Tensor] = []
        layers = model.gpt_neox.layers
        layers[0].register_forward_hook(lambda _, __, result: outputs.append(result))
        layers[2].register_forward_pre_hook(lambda _, args: (args[0] + outputs.pop(), *args[1:]))
        (problem,) = problems_of(lambda: view_model(model, None))
        assert "cannot be seen" in problem or "from block to block" in problem

    def test_a_dtype_the_model_cannot_run_in(self) -> None:
        (problem,) = problems_of(lambda: tiny("xglm", dtype=torch.float64))
        assert "cannot run two short sequences in torch.float64" in problem

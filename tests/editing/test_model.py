"""The model in two parts equals the model, computes frozen states once, and is left as it was."""

from __future__ import annotations

import pytest
import torch

from methods.backbone.addresses import builtin_models
from methods.editing.examples import Example
from methods.editing.model import EditableModel, load_editable
from methods.editing.store import FrozenStates
from orchestrator.errors import UserError
from tests.backbone.tiny import tiny_model, tiny_tokenizer
from tests.editing.tiny import KINDS, attached, requests, tiny_editable, tiny_hugging_face, weights


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("layers", [2, 4])
def test_both_parts_together_give_the_models_own_logits(family: str, layers: int) -> None:
    model = tiny_editable(family, layers=layers, dtype=torch.float64)
    assert model.first_edited_block == max(layers - 3, 0)
    batch = model.encode(requests(model.kind, 6))
    ours = model.logits(batch)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if model.kind == "classifier":
        inputs["token_type_ids"] = batch.token_type_ids
    theirs = model.hf(**inputs).logits
    expected = theirs[batch.rows] if model.kind == "classifier" else theirs[batch.rows, batch.columns]
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)


def test_every_distinct_text_goes_through_the_lower_blocks_once() -> None:
    model = tiny_editable("bert")
    seen: list[int] = []
    model.blocks[0].register_forward_hook(lambda _, __, output: seen.append(len(output)))
    a, b, c = requests("masked", 3)
    model.frozen(model.encode([a, b, a, a]))
    model.frozen(model.encode([b, c]))
    model.frozen(model.encode([c, a, b]))
    assert seen == [2, 1]


def test_frozen_states_do_not_depend_on_the_company_of_a_text(exact: EditableModel) -> None:
    texts = requests(exact.kind, 5, seed=3)
    exact.frozen_store.clear()
    together = exact.frozen(exact.encode(texts))
    exact.frozen_store.clear()
    for row, text in enumerate(texts):
        alone = exact.frozen(exact.encode([text]))[0]
        # Hugging Face's BLOOM computes its attention weights in float32 always.
        tolerance = 1e-5 if exact.kind == "causal" else 1e-10
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=tolerance, rtol=tolerance)
        assert not together[row, len(alone) :].any()


def test_the_store_forgets_the_text_that_was_used_longest_ago() -> None:
    store = FrozenStates(limit=2 * 8 * 4)
    for key in (b"first", b"second"):
        store.put(key, [torch.zeros(8)])
    assert store.get(b"first") is not None
    store.put(b"third", [torch.zeros(8)])
    assert [store.get(key) is not None for key in (b"first", b"second", b"third")] == [True, False, True]
    assert store.bytes == 2 * 8 * 4
    store.put(b"too large", [torch.zeros(100)])
    assert len(store) == 2


def test_without_a_store_the_results_are_the_same() -> None:
    texts = requests("causal", 4)
    kept, plain = tiny_editable("bloom"), tiny_editable("bloom", store_bytes=0)
    for _ in range(2):
        assert torch.equal(kept.logits(kept.encode(texts)), plain.logits(plain.encode(texts)))
    assert len(plain.frozen_store) == 0


def test_using_a_model_leaves_nothing_behind(exact: EditableModel) -> None:
    before, kept = attached(exact), weights(exact)
    exact.logits(exact.encode(requests(exact.kind, 3)))
    exact.transform(torch.zeros(2, 3 if exact.kind == "classifier" else 32, dtype=torch.float64))
    assert attached(exact) == before
    assert all(torch.equal(tensor, kept[name]) for name, tensor in exact.hf.state_dict().items())


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("bert", ("bert.encoder.layer.1.intermediate.dense", "bert.encoder.layer.1.output.dense")),
        ("bloom", ("transformer.h.1.mlp.dense_h_to_4h", "transformer.h.1.mlp.dense_4h_to_h")),
    ],
)
def test_by_default_the_feed_forward_matrices_of_the_last_three_blocks_are_edited(
    family: str, names: tuple[str, str]
) -> None:
    modules = tiny_editable(family).modules
    assert len(modules) == 6
    assert (modules[0].name, modules[1].name) == names
    assert [(module.shape_group, module.mode) for module in modules] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]


def test_modules_may_be_named_and_lie_anywhere_in_a_block() -> None:
    name = "bert.encoder.layer.2.attention.self.value"
    model = tiny_editable("bert", modules=[name])
    assert [module.name for module in model.modules] == [name]
    assert model.first_edited_block == 2


def test_unknown_modules_are_all_named() -> None:
    with pytest.raises(UserError, match="is no linear module") as raised:
        tiny_editable("bert", modules=["bert.encoder.layer.2.output.dens", "nowhere"])
    assert len(raised.value.problems) == 2
    assert "Did you mean 'bert.encoder.layer.2.output.dense'" in raised.value.problems[0]


def test_transposed_matrices_are_refused() -> None:
    with pytest.raises(UserError, match="Conv1D"):
        EditableModel(tiny_model("gpt2"), tiny_tokenizer("causal"), "causal")


def test_other_families_work_without_code_of_their_own() -> None:
    model = EditableModel(tiny_model("llama"), tiny_tokenizer("causal"), "causal")
    assert len(model.modules) == 9
    assert model.logits(model.encode(requests("causal", 2))).isfinite().all()


def test_dropout_is_off() -> None:
    hf = tiny_hugging_face("bert-classifier")
    hf.train()
    model = EditableModel(hf, tiny_tokenizer("masked"), "classifier")
    assert not hf.training
    assert all(part.p == 0 for part in hf.modules() if isinstance(part, torch.nn.Dropout))
    assert not any(weight.requires_grad for weight in model.hf.parameters())


@pytest.mark.skipif("atlas-bert" not in builtin_models(), reason="the built-in models are not installed")
def test_the_built_in_model_loads_and_other_kinds_are_refused() -> None:
    model = load_editable("atlas-bert", "masked")
    mask = model.tokenizer.mask_token
    batch = model.encode([Example(f"The capital of France is {mask}.", "en")])
    assert model.logits(batch).shape == (1, model.hf.config.vocab_size)
    with pytest.raises(UserError, match="is a masked language model and the task asks a causal one"):
        load_editable("atlas-bert", "causal")
    with pytest.raises(UserError, match="every class meaningless"):
        load_editable("atlas-bert", "classifier")

"""Language vectors and the two shifts, on models small enough to check by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from methods.backbone import vectors
from methods.backbone.projection import all_pairs, parse_pairs, projected, shift_between
from methods.backbone.vectors import cached_vectors, language_vectors, random_like
from orchestrator.errors import UserError
from tests.backbone.tiny import tiny
from tests.lrp2.cases import world

SENTENCES = ["paris", "the capital of france is paris", "москва это столица", "berlin is in europe ."]


def test_a_language_vector_is_a_mean_of_sentence_means() -> None:
    """Sentences of 1 and 3 tokens weigh the same: pooling all four tokens would give another vector."""
    backbone = tiny("bert")
    short, long = ["paris"], ["the capital of"]
    options = {"specials": "exclude"}
    both = language_vectors(backbone, [[*short, *long]], **options)  # type: ignore[arg-type]
    each = [language_vectors(backbone, [one], **options) for one in (short, long)]  # type: ignore[arg-type]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)


@pytest.mark.parametrize("family", ["bert", "bloom", "llama"])
def test_vectors_are_the_means_of_the_models_own_hidden_states(family: str) -> None:
    """Ragged batches equal one sentence at a time; layer L of a model with a final norm is the normed one."""
    backbone = tiny(family)
    expected = torch.zeros(backbone.num_layers, backbone.hidden_size)
    for sentence in SENTENCES:
        ids = torch.tensor([backbone.tokenizer(sentence)["input_ids"]])
        with torch.no_grad():
            hidden = backbone.model(input_ids=ids, output_hidden_states=True).hidden_states
        expected += torch.stack([h[0].mean(0) for h in hidden[1:]]) / len(SENTENCES)
    torch.testing.assert_close(language_vectors(backbone, [SENTENCES]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bloom", "llama"])
def test_before_the_final_norm_layer_l_is_what_the_last_block_gives(family: str) -> None:
    backbone, seen = tiny(family), []
    handle = backbone.blocks[-1].register_forward_hook(
        lambda _, __, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    for sentence in SENTENCES:
        backbone.model(input_ids=torch.tensor([backbone.tokenizer(sentence)["input_ids"]]))
    handle.remove()
    expected = torch.stack([states[0].mean(0) for states in seen]).mean(0)
    raw = language_vectors(backbone, [SENTENCES], last_layer="raw")
    normed = language_vectors(backbone, [SENTENCES])
    torch.testing.assert_close(raw[-1], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(raw[:-1], normed[:-1])
    assert not torch.allclose(raw[-1], normed[-1], atol=1e-3)


def test_vectors_are_computed_by_one_while_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, computed = tiny("bert"), []

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        computed.append(options["specials"])
        return language_vectors(*arguments, **options)

    monkeypatch.setattr(vectors, "language_vectors", counted)

    def ask(_: int) -> torch.Tensor:
        path = tmp_path / "vectors" / "de.safetensors"
        return cached_vectors(backbone, [SENTENCES], path=path, specials="exclude", last_layer="normed")

    with ThreadPoolExecutor(4) as workers:
        found = list(workers.map(ask, range(4)))
    assert computed == ["exclude"]
    expected = language_vectors(backbone, [SENTENCES], specials="exclude")
    assert all(torch.equal(one, expected) for one in found)


@pytest.mark.parametrize("content", [b"", b"cut off before its end"])
def test_a_damaged_file_of_vectors_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "de.safetensors"
    path.write_bytes(content)
    for _ in range(2):
        found = cached_vectors(tiny("bert"), [SENTENCES], path=path, specials="include", last_layer="normed")
        assert torch.equal(found, language_vectors(tiny("bert"), [SENTENCES]))
    assert torch.equal(load_file(path)["vectors"], found)


def test_special_tokens_are_a_choice() -> None:
    backbone = tiny("bert")
    with_them, without = (
        language_vectors(backbone, [SENTENCES], specials=choice)  # type: ignore[arg-type]
        for choice in ("include", "exclude")
    )
    assert not torch.allclose(with_them, without, atol=1e-3)


def test_no_sentence_is_an_error() -> None:
    with pytest.raises(ValueError, match="no vector"):
        language_vectors(tiny("bert"), [[]])


@pytest.mark.parametrize("family", ["bert", "bloom"])
def test_lirp_moves_layer_i_by_the_same_vector_everywhere(family: str) -> None:
    """Layer i changes by v_en - v_l at every position; afterwards the model is as it was."""
    case = world(family)
    ids = torch.tensor([case.queries[0].forms[0]])
    model = case.backbone.model

    def states() -> tuple[list[torch.Tensor], torch.Tensor]:
        caught: list[torch.Tensor] = []

        def catch(_: object, __: object, output: object) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]

        handles = [block.register_forward_hook(catch) for block in case.backbone.blocks]
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        for handle in handles:
            handle.remove()
        return caught, logits

    before, logits_before = states()
    with projected(case.backbone, case.shift, (2, 3)):
        during, _ = states()
    after, logits_after = states()
    moved = during[1] - before[1]
    torch.testing.assert_close(moved, case.shift[2].expand_as(moved), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(during[0], before[0], atol=0, rtol=0)
    assert not torch.allclose(during[3], before[3], atol=1e-3)
    torch.testing.assert_close(logits_after, logits_before, atol=0, rtol=0)
    torch.testing.assert_close(after[2], before[2], atol=0, rtol=0)


def test_a_projection_is_undone_when_the_body_fails() -> None:
    case = world("bert")
    hooks_before = [len(block._forward_hooks) for block in case.backbone.blocks]
    with pytest.raises(KeyError), projected(case.backbone, case.shift, (1, 2)):
        raise KeyError
    assert [len(block._forward_hooks) for block in case.backbone.blocks] == hooks_before


def test_english_is_not_moved() -> None:
    """With v_l = v_en the shift is zero, bit for bit."""
    vectors = torch.randn(4, 8)
    assert not shift_between(vectors, vectors).any()


def test_every_pair() -> None:
    """66 pairs with mBERT's 12 layers, 276 with the 24 of BLOOM-560m."""
    assert [len(all_pairs(layers)) for layers in (2, 12, 24)] == [1, 66, 276]
    assert all_pairs(3) == ((1, 2), (1, 3), (2, 3))


def test_wrong_pairs_are_all_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse_pairs(("4/10", "10/4", "0/3", "3/13", "four/ten", "3"), 12)
    assert len(caught.value.problems) == 5
    assert "1 <= i < j <= 12" in caught.value.problems[0]
    assert parse_pairs(("4/10", "1/2", "4/10"), 12) == ((1, 2), (4, 10))


def test_without_any_pair_there_is_nothing_to_do() -> None:
    with pytest.raises(UserError, match="No layer pair"):
        parse_pairs((), 12)
    with pytest.raises(UserError, match="two layers"):
        parse_pairs(None, 1)


@pytest.mark.parametrize(("layers", "width"), [(6, 64), (12, 4)])
def test_a_random_shift_keeps_norms_and_angles_but_no_direction(layers: int, width: int) -> None:
    """Norms and angles decide how far the second projection undoes the first; only where the shift leads is random."""
    shift = torch.randn(layers + 1, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shift[0] = 0
    found = random_like(shift, 0, "de")
    torch.testing.assert_close(found @ found.T, shift @ shift.T)
    cosine = torch.nn.functional.cosine_similarity(found[1:], shift[1:])
    assert cosine.abs().mean() < 0.9
    assert torch.equal(found, random_like(shift, 0, "de"))
    assert not torch.allclose(found, random_like(shift, 1, "de"))
    assert not torch.allclose(found, random_like(shift, 0, "fr"))

"""Prompts: where the right object is predicted, and which facts have no prompt."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from methods.neurons.prompts import build_prompts
from tests.backbone.tiny import tiny, tiny_tokenizer

CAPITAL = "the capital of [X] is [Y]."


def facts(*rows: tuple[str, str, str]) -> pa.Table:
    """Rows of subject, object, template."""
    return pa.table({name: [row[n] for row in rows] for n, name in enumerate(("subject", "object", "template"))})


class TestMasked:
    def test_an_object_of_two_tokens_has_two_masks(self) -> None:
        backbone = tiny("bert")
        (one, two), left_out = build_prompts(
            backbone, facts(("france", "paris", CAPITAL), ("france", "deutschland", CAPITAL))
        )
        read = backbone.tokenizer.convert_ids_to_tokens
        assert read(list(one.ids)) == ["[CLS]", "the", "capital", "of", "france", "is", "[MASK]", ".", "[SEP]"]
        assert (one.positions, read(list(one.tokens))) == ((6,), ["paris"])
        assert one.context == len(one.ids)
        assert left_out == {}
        assert read(list(two.tokens)) == ["deutschland"]
        (split,), _ = build_prompts(backbone, facts(("paris", "berliner", "[Y] is [X]")))
        assert read(list(split.tokens)) == ["berlin", "##er"]
        assert split.positions == (1, 2)
        assert [split.ids[place] for place in split.positions] == [backbone.tokenizer.mask_token_id] * 2

    def test_an_object_has_the_tokens_that_it_has_behind_a_space(self) -> None:
        """A byte-level tokenizer has another token for a word that begins a text; its mask takes the space along."""
        mask = AddedToken("[MASK]", lstrip=True, special=True)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tiny_tokenizer("causal").backend_tokenizer, mask_token=mask
        )
        backbone = SimpleNamespace(kind="masked", tokenizer=tokenizer, max_length=None)
        rows = facts(("france", "paris", CAPITAL), ("france", "paris", "[Y] is [X]"))
        prompts, _ = build_prompts(backbone, rows)  # type: ignore[arg-type]
        pieces = [tokenizer.convert_ids_to_tokens(list(prompt.tokens)) for prompt in prompts]
        assert pieces == [["Ġparis"], tokenizer.tokenize("paris")]
        assert "Ġ" not in "".join(pieces[1])

    def test_objects_of_several_tokens_may_be_left_out(self) -> None:
        rows = facts(("france", "berliner", CAPITAL), ("france", "paris", CAPITAL))
        prompts, left_out = build_prompts(tiny("bert"), rows, objects="single")
        assert [prompt.row for prompt in prompts] == [1]
        assert left_out == {"an object of several tokens": 1}

    def test_what_the_model_cannot_read_has_no_prompt(self) -> None:
        rows = facts(("the " * 70, "paris", CAPITAL), ("france", "", CAPITAL))
        prompts, left_out = build_prompts(tiny("bert"), rows)
        assert prompts == []
        assert left_out == {"longer than the model can read": 1, "the object has no tokens": 1}


class TestCausal:
    def test_each_token_is_predicted_from_the_one_before_it(self) -> None:
        backbone = tiny("bloom")
        (prompt,), _ = build_prompts(backbone, facts(("france", "paris france", CAPITAL)))
        read = backbone.tokenizer.convert_ids_to_tokens
        assert [token.replace("Ġ", " ") for token in read(list(prompt.tokens))] == [" paris", " france"]
        assert [token.replace("Ġ", " ") for token in read([prompt.ids[place] for place in prompt.positions])] == [
            " is",
            " paris",
        ]
        assert len(prompt.ids) == prompt.positions[-1] + 1, "nothing after the last prediction is read"
        assert prompt.context == prompt.positions[0] + 1, "the query ends where the object begins"
        assert prompt.ids[0] == backbone.tokenizer.bos_token_id

    def test_an_object_before_its_subject_would_be_a_guess(self) -> None:
        rows = facts(("france", "paris", "[Y] is the capital of [X]"), ("france", "paris", CAPITAL))
        prompts, left_out = build_prompts(tiny("bloom"), rows)
        assert [prompt.row for prompt in prompts] == [1]
        assert left_out == {"the template names the object before the subject": 1}


def test_no_facts_have_no_prompts() -> None:
    for family in ("bert", "bloom"):
        assert build_prompts(tiny(family), facts()) == ([], {})

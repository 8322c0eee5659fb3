"""A candidate's pieces are those it has in its template: where words carry the space before them, it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from methods.lrp2.probes import ProbeOptions, Query, QueryBuilder
from orchestrator.data import Pool
from tests.backbone.tiny import tiny_tokenizer

OBJECTS = ("berlin", "paris", "deutschland europe")
BEHIND, FIRST, INSIDE = "the capital of [X] is [Y].", "[Y] is the capital of [X]", "[X]の首都は[Y]です"


def asked(tokenizer: Any, *templates: str) -> list[Query]:
    """A fact about France for each template, all objects in the pool."""
    columns = {"relation": "r", "subject": "france", "object": "paris", "candidates": None}
    rows = [{**columns, "uuid": str(n), "template": template} for n, template in enumerate(templates)]
    pools = {"r": Pool(OBJECTS, ("",) * len(OBJECTS))}
    return QueryBuilder(tokenizer, ProbeOptions("masked"), pools).build(pa.Table.from_pylist(rows))


def pieces(tokenizer: Any, query: Query) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(list(tokens)) for _, _, tokens in query.scored]


def byte_level() -> PreTrainedTokenizerFast:
    """As RoBERTa's: a word behind a space has a token of its own, and the mask takes the space along."""
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    return PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer("causal").backend_tokenizer, mask_token=mask)


def metaspace() -> PreTrainedTokenizerFast:
    """As XLM-R's: every text begins as if a space stood before it."""
    words = (
        "the",
        "capital",
        "of",
        "is",
        "france",
        "berlin",
        "paris",
        "deutschland",
        "europe",
        ".",
        "の首都は",
        "です",
    )
    vocabulary = [("<unk>", 0.0), ("[MASK]", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -5.0)]
    vocabulary += [(lead + word, -1.0 - len(lead)) for word in words for lead in ("▁", "")]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 2), ("</s>", 3)])
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token=mask)


def test_behind_a_space_a_byte_level_tokenizer_has_other_pieces() -> None:
    tokenizer = byte_level()
    behind, first, inside = asked(tokenizer, BEHIND, FIRST, INSIDE)
    assert pieces(tokenizer, behind) == [["Ġberlin"], ["Ġparis"], ["Ġdeutschland", "Ġeurope"]]
    alone = [tokenizer.tokenize(name) for name in OBJECTS]
    assert pieces(tokenizer, first) == pieces(tokenizer, inside) == alone != pieces(tokenizer, behind)
    for query, template in ((behind, BEHIND), (first, FIRST)):
        for form, places, tokens in query.scored[:2]:
            whole = [*query.forms[form]]
            whole[places[0] : places[-1] + 1] = tokens
            assert tokenizer.decode(whole) in {template.replace("[X]", "france").replace("[Y]", o) for o in OBJECTS}


@pytest.mark.parametrize("tokenizer", [metaspace(), tiny_tokenizer()], ids=["metaspace", "word pieces"])
def test_where_words_carry_no_space_or_always_do_nothing_changes(tokenizer: Any) -> None:
    alone = tokenizer(list(OBJECTS), add_special_tokens=False)["input_ids"]
    for query in asked(tokenizer, BEHIND, FIRST, INSIDE):
        assert [list(tokens) for _, _, tokens in query.scored] == alone


def test_mberts_pieces_are_those_of_the_candidate_alone(real_data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(real_data / "mbert_tokenizer")
    names = ["Paris", "Zürich", "Москва", "東京", "भारत", "القاهرة", "O'Brien", "Saint-Denis", "กรุงเทพฯ"]
    bare, spaced = (
        tokenizer([lead + name for name in names], add_special_tokens=False)["input_ids"] for lead in ("", " ")
    )
    assert spaced == bare

"""Tiny random models and tokenizers, made on the fly, that other tests build on too.

>>> backbone = tiny("bert", layers=4)
>>> backbone.num_layers, backbone.hidden_size
(4, 32)

Norms and biases are random like the matrices, so that a forgotten one makes a test fail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from methods.backbone import Backbone, view_model

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>")
# Words of several scripts, and endings that other words are split into.
_TEXT = """
the capital of is in language currency country continent paris france berlin germany europe tokyo japan asia euro
die hauptstadt von ist frankreich deutschland sprache währung la capitale est une langue столица это россия москва
η πρωτεύουσα είναι ελλάδα αθήνα 東京 日本 首都 は です 北京 中国 的 是 दिल्ली भारत की राजधानी है
"""
WORDS = _TEXT.split()
ENDINGS = ("isch", "en", "er", "land", "ia", "ин", "ия", "ς", "国", "人", "ी")
HIDDEN, HEADS, INNER = 32, 4, 48


def tiny_tokenizer(kind: Literal["masked", "causal"] = "masked") -> PreTrainedTokenizerFast:
    """A sub-word tokenizer for a small multilingual word list; unknown words fall into single characters.

    Masked: WordPiece as in mBERT, with [CLS] and [SEP] around every text. Causal: byte-level without special tokens in
    the text, as in BLOOM, where a word's tokens carry the space before it.
    """
    return _word_piece() if kind == "masked" else _byte_level()


def _word_piece() -> PreTrainedTokenizerFast:
    letters = sorted({letter for word in WORDS for letter in word} | set("abcdefghijklmnopqrstuvwxyz0123456789.,?"))
    pieces = dict.fromkeys([*SPECIALS, *WORDS, *letters, *(f"##{part}" for part in (*ENDINGS, *letters))])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIALS.index("[CLS]")), ("[SEP]", SPECIALS.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


def _byte_level() -> PreTrainedTokenizerFast:
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[^\s.,?!]+| ?[.,?!]|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*SPECIALS, *alphabet])}
    merges: list[tuple[str, str]] = []
    for text in [f" {word}" for word in WORDS] + list(WORDS):
        ((piece, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        for end in range(2, len(piece) + 1):
            if piece[:end] not in vocabulary:
                vocabulary[piece[:end]] = len(vocabulary)
                merges.append((piece[: end - 1], piece[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", bos_token="<s>", eos_token="</s>", model_max_length=64
    )


def tiny_model(family: str, layers: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A Hugging Face model with random weights in evaluation mode.

    Args:
        family: a key of `FAMILIES`.
        layers: number of blocks.
        seed: of the weights; the global random state is left as it was.
        dtype: of the weights.
        options: further configuration values.
    """
    config_name, model_name, settings = FAMILIES[family]
    config = getattr(transformers, config_name)(**{**settings(layers), **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, model_name)(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.2)
        for name, weight in model.named_parameters():
            if weight.dim() == 1 and name.endswith("weight"):  # norms scale around one
                weight.data += 1.0
    return model.to(dtype).eval()


def tiny(
    family: str,
    layers: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    prefer: Literal["fast", "generic"] = "fast",
    **options: Any,
) -> Backbone:
    """A tiny random model as a backbone, with the tokenizer of its kind; see `tiny_model`."""
    model = tiny_model(family, layers, seed, dtype, **options)
    return view_model(model, tiny_tokenizer(kind_of_family(family)), prefer)


def moving_hub(place: Path, models: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A hub with one model, whatever it is called, that exists in several commits: a folder for each.

    Returns:
        What moves its main branch to a commit; it is at the first.
    """
    snapshots = place / "models--org--name" / "snapshots"
    snapshots.mkdir(parents=True)
    for commit, folder in models.items():
        (snapshots / commit).symlink_to(folder)
    main = [next(iter(models))]

    def download(name: str, revision: str | None = None, **_: object) -> str:
        return str(snapshots / (revision if revision is not None and revision in models else main[0]))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return lambda commit: main.__setitem__(0, commit)


def replaced_model(place: Path, first: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A hub whose model is `first`, as commit 0123abcd, until what is returned puts a tiny BERT in its place."""
    new = place / "new"
    tiny_model("bert").save_pretrained(new)
    tiny_tokenizer().save_pretrained(new)
    move = moving_hub(place, {"0123abcd": first, "4567cdef": new}, monkeypatch)
    return lambda: move("4567cdef")


def kind_of_family(family: str) -> Literal["masked", "causal"]:
    """Which of the two tokenizers a family takes."""
    return "masked" if FAMILIES[family][1].endswith("ForMaskedLM") else "causal"


def _bert_like(layers: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tiny_tokenizer("masked")),
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": 66,
        "pad_token_id": 0,
    }


def _causal(**names: Any) -> Any:
    def settings(layers: int) -> dict[str, Any]:
        values = {"vocab_size": len(tiny_tokenizer("causal")), "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 6}
        return {**values, **{name: layers if value == "layers" else value for name, value in names.items()}}

    return settings


_LLAMA = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": "layers",
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, str, Any]] = {
    "bert": ("BertConfig", "BertForMaskedLM", _bert_like),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForMaskedLM", lambda n: {**_bert_like(n), "type_vocab_size": 1}),
    "electra": ("ElectraConfig", "ElectraForMaskedLM", lambda n: {**_bert_like(n), "embedding_size": 16}),
    "bloom": ("BloomConfig", "BloomForCausalLM", _causal(hidden_size=HIDDEN, n_layer="layers", n_head=HEADS)),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _causal(n_embd=HIDDEN, n_layer="layers", n_head=HEADS, n_positions=64)),
    "xglm": (
        "XGLMConfig",
        "XGLMForCausalLM",
        _causal(d_model=HIDDEN, num_layers="layers", attention_heads=HEADS, ffn_dim=INNER, max_position_embeddings=64),
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _causal(**_LLAMA)),
    "llama-grouped": (
        "LlamaConfig",
        "LlamaForCausalLM",
        _causal(**_LLAMA, num_key_value_heads=2, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    ),
    "mistral": ("MistralConfig", "MistralForCausalLM", _causal(**_LLAMA, num_key_value_heads=2, sliding_window=4)),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _causal(**_LLAMA, num_key_value_heads=2)),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _causal(**_LLAMA)),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        _causal(
            hidden_size=HIDDEN,
            num_hidden_layers="layers",
            num_attention_heads=HEADS,
            ffn_dim=INNER,
            max_position_embeddings=64,
            word_embed_proj_dim=16,
        ),
    ),
}
"""Configuration class, model class and configuration values of every tiny family."""

"""Tiny random translation models, made on the fly: what they say is noise, but it is always the same noise, and ends.

>>> hf, tokenizer = multilingual()
>>> sorted(code for code in tokenizer.all_special_tokens if "_" in code)
['deu_Latn', 'eng_Latn', 'fra_Latn']
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
LETTERS = (*string.ascii_letters, *string.digits, *".,'-!?\"()", "▁")
VOCABULARY = {token: index for index, token in enumerate((*SPECIAL, *LETTERS))}
CODES = ("eng_Latn", "deu_Latn", "fra_Latn")
MARKS = (">>deu<<", ">>fra<<")


def multilingual(seed: int = 0, *, ends: bool = True) -> tuple[Any, Any]:
    """A model as NLLB, with three languages, letter by letter; one that never `ends` repeats itself for ever."""
    tokenizer = transformers.NllbTokenizer(vocab=VOCABULARY, merges=[], extra_special_tokens=list(CODES))
    config = transformers.M2M100Config(**_sizes(len(tokenizer)), max_position_embeddings=128)
    return _random(transformers.M2M100ForConditionalGeneration, config, seed, ends), tokenizer


def bilingual(seed: int = 0, *, marks: bool = False) -> tuple[Any, Any]:
    """A model as Marian's, from English into one language, or into two whose `marks` stand before the sentence."""
    made = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=128, **names)
    if marks:
        tokenizer.add_tokens(list(MARKS), special_tokens=True)
        tokenizer.supported_language_codes = list(MARKS)
    config = transformers.MarianConfig(
        **_sizes(len(tokenizer)), max_position_embeddings=128, forced_eos_token_id=2, decoder_vocab_size=len(tokenizer)
    )
    return _random(transformers.MarianMTModel, config, seed, True), tokenizer


def saved(folder: Path, model: tuple[Any, Any]) -> Path:
    """The folder of a model."""
    for part in model:
        part.save_pretrained(folder)
    return folder


def _sizes(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "dropout": 0.0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }


def _random(kind: Any, config: Any, seed: int, ends: bool) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "positions" not in name:
                torch.nn.init.normal_(weight, std=1.0)
    settings = model.generation_config
    settings.max_length = 50
    if ends:
        # The token of the end is soon the likeliest one, as it is for a trained model when all is said.
        settings.exponential_decay_length_penalty = (4, 3.0)
    else:
        settings.suppress_tokens = [2]
    return model.eval()

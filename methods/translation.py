"""Translation of sentences with a sequence-to-sequence model of transformers: NLLB, M2M100, mBART, Marian and the like.

Sentences of similar length are generated together. How a model is told its target language is read off its tokenizer:
the translation begins with a language's token (NLLB, M2M100, mBART), the sentence begins with one such as ``>>fra<<``
(Marian with several targets), or there is but one language (other Marian models).

Shape legend: B sentences, T tokens.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM

from methods.backbone.addresses import CONFIG, check_folder, model_fingerprint, read_json
from methods.backbone.loading import read_model
from orchestrator.errors import Problems, UserError

SOURCE = "en"
TOKENS_AT_ONCE = 2048
"""Tokens of one batch of sentences, padding included."""
# A translation that is longer than this many times its sentence, and some tokens, is a repetition without end.
_LONGEST, _MORE = 3, 20

FLORES: Mapping[str, str] = {
    "ar": "arb_Arab",
    "bg": "bul_Cyrl",
    "de": "deu_Latn",
    "el": "ell_Grek",
    "en": "eng_Latn",
    "es": "spa_Latn",
    "fr": "fra_Latn",
    "hi": "hin_Deva",
    "ru": "rus_Cyrl",
    "sw": "swh_Latn",
    "th": "tha_Thai",
    "tr": "tur_Latn",
    "ur": "urd_Arab",
    "vi": "vie_Latn",
    "zh": "zho_Hans",
}
"""The languages of XNLI in the codes of FLORES-200, which NLLB uses."""


class Translator:
    """A model that translates from English.

    Attributes:
        codes: the model's codes of languages and their tokens; empty for a model of one language pair.
        marks: whether a language's token stands before the sentence, not at the beginning of the translation.
    """

    def __init__(self, hf: Any, tokenizer: Any, *, beams: int | None = None) -> None:
        """
        Args:
            hf: a Hugging Face sequence-to-sequence model; its settings of generation are changed.
            tokenizer: its tokenizer.
            beams: width of the beam search; None takes what the model was saved with.
        """
        self.hf, self.tokenizer = hf.eval().requires_grad_(False), tokenizer
        self.codes, self.marks = _codes(tokenizer)
        settings = hf.generation_config
        settings.max_length, settings.do_sample = None, False
        settings.forced_eos_token_id = None  # a translation that is cut off must not look as if it had ended
        settings.num_beams = settings.num_beams or 1 if beams is None else beams
        self._limit = _limit(hf, tokenizer)
        # Not every tokenizer leaves these out of what it decodes.
        self._languages = set(tokenizer.convert_tokens_to_ids(list(self.codes.values())))
        if self.codes and not self.marks:
            tokenizer.src_lang = self.code_of(SOURCE)

    @property
    def beams(self) -> int:
        """Width of the beam search."""
        beams: int = self.hf.generation_config.num_beams
        return beams

    def code_of(self, language: str, code: str | None = None) -> str | None:
        """The model's code of a language: `code` if given, else the language itself, its code in FLORES-200, or the one
        that begins with it, as ``de_DE``. None for a model of one language pair, which has no codes.

        Raises:
            UserError: the model has no such language, or several.
        """
        if not self.codes:
            return None
        candidates = (code,) if code else (language, FLORES.get(language))
        found = [each for each in candidates if each in self.codes]
        near = [each for each in self.codes if each.startswith(f"{language}_")]
        if found or (not code and len(near) == 1):
            return (found or near)[0]
        said = f"The model has no code {code!r}." if code else f"The model has no language {language!r}, or several."
        raise UserError(
            f"{said} Write --languages {language}=CODE with one of its codes: {', '.join(near or self.codes)}."
        )

    def check(self, texts: Sequence[str]) -> None:
        """Raises UserError naming the texts that are too long for the model."""
        problems, limit = Problems(), self._limit
        for text, ids in zip(texts, self._encode(texts, None), strict=True):
            if limit is not None and len(ids) > limit:
                problems.add(
                    f"The text {text[:60]!r} has {len(ids)} tokens and the model takes at most {limit}, so its end "
                    "would be lost. Shorten it or leave it out."
                )
        problems.raise_if_any()

    def translate(
        self, texts: Sequence[str], code: str | None, progress: Callable[[int], None] = lambda characters: None
    ) -> list[str | None]:
        """The translations of some texts; None where one came out empty or without an end.

        Args:
            texts: in English.
            code: the model's code of the target language; None for a model of one language pair.
            progress: called with the characters that have been translated since it was called before.
        """
        ids = self._encode(texts, code)
        found: list[str | None] = [None] * len(texts)
        for group in _batches([len(row) for row in ids]):
            padded = self.tokenizer.pad({"input_ids": [ids[index] for index in group]}, return_tensors="pt")
            found_here = self._generate(padded.to(self.hf.device), code)
            for index, text in zip(group, found_here, strict=True):
                found[index] = text
            progress(sum(len(texts[index]) for index in group))
        return found

    def _encode(self, texts: Sequence[str], code: str | None) -> list[list[int]]:
        mark = f"{self.codes[code]} " if self.marks and code is not None else ""
        ids: list[list[int]] = self.tokenizer([mark + text for text in texts], verbose=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def _generate(self, batch: Mapping[str, Any], code: str | None) -> list[str | None]:
        longest = _LONGEST * batch["input_ids"].shape[1] + _MORE
        more = {"max_new_tokens": longest if self._limit is None else min(longest, self._limit - 1)}
        if code is not None and not self.marks:
            more["forced_bos_token_id"] = self.tokenizer.convert_tokens_to_ids(self.codes[code])
        output = self.hf.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **more)
        said = [[token for token in row if token not in self._languages] for row in output.tolist()]
        texts = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        # The first token only starts the decoder, with many models by the token of the end.
        end = torch.as_tensor(self.hf.generation_config.eos_token_id, device=output.device)
        ended = torch.isin(output[:, 1:], end).any(1).tolist()
        return [text.strip() or None if whole else None for text, whole in zip(texts, ended, strict=True)]


def load_translator(folder: Path, *, beams: int | None = None, device: str = "cpu") -> tuple[Translator, str]:
    """A translator from a model folder, and its name: folder, fingerprint and beams.

    Raises:
        UserError: the folder is not there, incomplete, holds pickled weights only, or no sequence-to-sequence model.
    """
    address = str(folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no model folder {address!r}, so nothing can be translated. Download a translation model, such "
            "as NLLB, M2M100 or Marian, and give the folder with its config.json, safetensors weights and tokenizer."
        )
    check_folder(folder, address)
    names = read_json(folder / CONFIG).get("architectures") or []
    _check_sentencepiece(folder)
    needed = "every translation meaningless. Pass a model that was trained to translate."
    try:
        hf, tokenizer = read_model(AutoModelForSeq2SeqLM, folder, address, needed, dtype=torch.float32)
    except UserError as error:
        if read_json(folder / CONFIG).get("is_encoder_decoder"):
            raise
        raise UserError(
            f"Model {address!r} is {', '.join(names) or 'of an unnamed architecture'}, which is no "
            "sequence-to-sequence model, so it cannot translate. Give the folder of a translation model, such as NLLB, "
            "M2M100 or Marian."
        ) from error
    translator = Translator(hf.to(device), tokenizer, beams=beams)
    beam = "1 beam" if translator.beams == 1 else f"{translator.beams} beams"
    return translator, f"{folder.resolve().name}@{model_fingerprint(address)[:12]}, {beam}"


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of all sentences, longest first, as many at once as TOKENS_AT_ONCE allows."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while order:
        size = max(1, TOKENS_AT_ONCE // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _codes(tokenizer: Any) -> tuple[dict[str, str], bool]:
    """Codes of languages with their tokens, and whether the token stands before the sentence."""
    marks = getattr(tokenizer, "supported_language_codes", None)
    if marks is not None:  # Marian
        return {mark.strip("<>"): mark for mark in marks}, True
    if not hasattr(tokenizer, "src_lang"):
        return {}, False
    tokens = getattr(tokenizer, "lang_code_to_token", None)  # M2M100
    if tokens is None:
        named = set(tokenizer.special_tokens_map.values())
        tokens = {token: token for token in tokenizer.all_special_tokens if token not in named}
    return dict(tokens), False


def _limit(hf: Any, tokenizer: Any) -> int | None:
    """Tokens of the longest sentence that the model takes; None where nothing says so."""
    limits = [getattr(hf.config, "max_position_embeddings", None), tokenizer.model_max_length]
    known = [limit for limit in limits if limit is not None and limit < 1_000_000]
    return min(known, default=None)


def _check_sentencepiece(folder: Path) -> None:
    """The tokenizers of Marian and M2M100 are SentencePiece models, which need a package of their own."""
    has_models = any(folder.glob("*.spm")) or (folder / "sentencepiece.bpe.model").is_file()
    if has_models and not (folder / "tokenizer.json").is_file() and importlib.util.find_spec("sentencepiece") is None:
        raise UserError(
            f"The tokenizer in {folder} is a SentencePiece model, and the package that reads it is not installed. "
            "Install it: pip install sentencepiece."
        )

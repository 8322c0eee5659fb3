"""mLAMA's languages: how many facts they have, and how long a layer search took for one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Measured(NamedTuple):
    """A language of mLAMA.

    Attributes:
        facts: of the T-REx relations in mLAMA 1.1.
        seconds: that a fact took; only ratios between languages are used.
    """

    facts: int
    seconds: float


# Seconds from the trial files of one sweep: 30 facts of each language, pools of ten that all languages share, all pairs
# of a BLOOM of six random layers (D = 128) with mBERT's tokenizer, on one CPU core. English has no pairs to search.
MEASURED: Mapping[str, Measured] = {
    "af": Measured(7_353, 0.17),
    "ar": Measured(17_129, 0.194),
    "az": Measured(7_699, 0.324),
    "be": Measured(8_887, 0.222),
    "bg": Measured(10_639, 0.175),
    "bn": Measured(7_520, 0.586),
    "ca": Measured(21_844, 0.159),
    "ceb": Measured(6_829, 0.153),
    "cs": Measured(15_545, 0.148),
    "cy": Measured(9_915, 0.21),
    "da": Measured(18_291, 0.122),
    "de": Measured(29_354, 0.128),
    "el": Measured(10_883, 0.318),
    "en": Measured(33_981, 0.0376),
    "es": Measured(28_169, 0.118),
    "et": Measured(9_992, 0.172),
    "eu": Measured(11_788, 0.237),
    "fa": Measured(16_315, 0.2),
    "fi": Measured(18_374, 0.138),
    "fr": Measured(30_643, 0.121),
    "ga": Measured(12_937, 0.289),
    "gl": Measured(10_507, 0.119),
    "he": Measured(14_769, 0.196),
    "hi": Measured(7_276, 0.456),
    "hr": Measured(9_197, 0.141),
    "hu": Measured(17_688, 0.215),
    "hy": Measured(10_078, 0.379),
    "id": Measured(14_094, 0.135),
    "it": Measured(25_662, 0.163),
    "ja": Measured(22_920, 0.458),
    "ka": Measured(8_154, 0.365),
    "ko": Measured(14_217, 0.358),
    "la": Measured(8_067, 0.175),
    "lt": Measured(9_495, 0.192),
    "lv": Measured(8_426, 0.222),
    "ms": Measured(9_166, 0.0746),
    "nl": Measured(29_334, 0.143),
    "pl": Measured(20_200, 0.147),
    "pt": Measured(20_319, 0.133),
    "ro": Measured(12_771, 0.124),
    "ru": Measured(22_723, 0.159),
    "sk": Measured(10_043, 0.154),
    "sl": Measured(15_775, 0.138),
    "sq": Measured(11_754, 0.175),
    "sr": Measured(10_474, 0.174),
    "sv": Measured(22_763, 0.106),
    "ta": Measured(7_241, 0.579),
    "th": Measured(8_327, 0.346),
    "tr": Measured(13_993, 0.247),
    "uk": Measured(16_078, 0.169),
    "ur": Measured(7_295, 0.4),
    "vi": Measured(11_425, 0.0934),
    "zh": Measured(21_449, 0.196),
}

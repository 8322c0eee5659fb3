"""Language groups: by family, and by resource level as the size of the language's Wikipedia.

Xu et al. (2023, Table 1) average over Indo-European and other languages, and over high, medium and low resource by the
number of Wikipedia articles, whose thresholds they do not give. Ours are `HIGH` and `MEDIUM`. They were chosen to fit:
they part mLAMA's 52 languages into 16, 9 and 27, the sizes that make a weighted mean of the paper's three columns equal
its average to within rounding. That says nothing about which languages the paper had in each group.

Sources: families are the top-level families of Glottolog 5; article counts are rounded figures of the Wikipedia
editions' own statistics as copied by others in November 2025. Counts change, so languages near a threshold do too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # outcomes hold groups
    from methods.lrp2.outcome import LanguageOutcome

Level = Literal["high", "medium", "low"]

INDO_EUROPEAN = "Indo-European"
HIGH, MEDIUM = 1000, 500
"""Thousands of articles from which a language counts as high or medium resource."""

# fmt: off
FAMILIES: dict[str, tuple[str, ...]] = {
    "Afro-Asiatic": ("ar", "he"),
    "Atlantic-Congo": ("sw", "yo"),
    "Austroasiatic": ("vi",),
    "Austronesian": ("ceb", "id", "ilo", "mg", "ms", "tl", "war"),
    "Basque (isolate)": ("eu",),
    "Dravidian": ("ta",),
    INDO_EUROPEAN: (
        "af", "be", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "fa", "fr", "ga", "gl", "hi", "hr",
        "hy", "it", "la", "lt", "lv", "mr", "nl", "pa", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "uk",
        "ur",
    ),
    "Japonic": ("ja",),
    "Kartvelian": ("ka",),
    "Koreanic": ("ko",),
    "Sino-Tibetan": ("zh",),
    "Tai-Kadai": ("th",),
    "Turkic": ("az", "tr"),
    "Uralic": ("et", "fi", "hu"),
}
"""Families of the languages of mLAMA, X-FACTR and the built-in facts."""

ARTICLES: dict[str, int] = {
    "af": 127, "ar": 1287, "az": 209, "be": 257, "bg": 306, "bn": 177, "ca": 784, "ceb": 6115, "cs": 580, "cy": 283,
    "da": 311, "de": 3072, "el": 261, "en": 7096, "es": 2076, "et": 256, "eu": 476, "fa": 1063, "fi": 608, "fr": 2722,
    "ga": 62, "gl": 227, "he": 386, "hi": 166, "hr": 228, "hu": 563, "hy": 323, "id": 756, "ilo": 15, "it": 1945,
    "ja": 1481, "ka": 187, "ko": 730, "la": 140, "lt": 224, "lv": 138, "mg": 101, "mr": 100, "ms": 434, "nl": 2203,
    "pa": 58, "pl": 1675, "pt": 1160, "ro": 518, "ru": 2073, "sk": 256, "sl": 195, "sq": 104, "sr": 713, "sv": 2619,
    "sw": 102, "ta": 178, "th": 177, "tl": 48, "tr": 653, "uk": 1398, "ur": 235, "vi": 1296, "war": 1266, "yo": 36,
    "zh": 1512,
}
"""Articles of the language's Wikipedia, in thousands."""
# fmt: on

_FAMILY_OF = {language: family for family, languages in FAMILIES.items() for language in languages}


@dataclass(frozen=True)
class Group:
    """Some of the searched languages under one name; `kind` says what the grouping goes by."""

    name: str
    kind: Literal["family", "resource", "own", "all"]
    languages: tuple[str, ...]

    def members(self, outcomes: Sequence[LanguageOutcome]) -> list[LanguageOutcome]:
        """The outcomes of the group's languages."""
        return [one for one in outcomes if one.language in self.languages]


def family_of(language: str) -> str | None:
    """The language's family; None where the table has no entry. What follows a hyphen is a region or script.

    >>> family_of("pt-BR"), family_of("eu"), family_of("tlh")
    ('Indo-European', 'Basque (isolate)', None)
    """
    return _FAMILY_OF.get(_plain(language))


def level_of(language: str) -> Level | None:
    """The language's resource level; None where the table has no entry.

    >>> level_of("de"), level_of("ko"), level_of("ga"), level_of("tlh")
    ('high', 'medium', 'low', None)
    """
    articles = ARTICLES.get(_plain(language))
    if articles is None:
        return None
    return "high" if articles >= HIGH else "medium" if articles >= MEDIUM else "low"


def paper_groups(languages: Sequence[str]) -> tuple[Group, ...]:
    """The groups of Table 1 in its order, the average over all languages last; empty groups are kept."""
    families = {language: family_of(language) for language in languages}
    levels = {language: level_of(language) for language in languages}

    def where(table: Mapping[str, str | None], *wanted: str) -> tuple[str, ...]:
        return tuple(language for language in languages if table[language] in wanted)

    others = [family for family in FAMILIES if family != INDO_EUROPEAN]
    return (
        Group(INDO_EUROPEAN, "family", where(families, INDO_EUROPEAN)),
        Group("Other families", "family", where(families, *others)),
        Group("High resource", "resource", where(levels, "high")),
        Group("Medium resource", "resource", where(levels, "medium")),
        Group("Low resource", "resource", where(levels, "low")),
        Group("All", "all", tuple(languages)),
    )


def family_groups(languages: Sequence[str]) -> tuple[Group, ...]:
    """One group per family that has any of these languages, the largest first."""
    found = [
        Group(family, "family", members)
        for family in FAMILIES
        if (members := tuple(language for language in languages if family_of(language) == family))
    ]
    return tuple(sorted(found, key=lambda group: (-len(group.languages), group.name)))


def _plain(language: str) -> str:
    return language.replace("_", "-").split("-")[0]

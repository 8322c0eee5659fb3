"""Which mistakes are patched, and on which texts: the one difference of multilingual patch neurons (Si et al. 2024).

For every edit one language is drawn from a list, and the patch is trained on the edit's text together with the same
text in that language. With the edit language alone in the list, the text is the edit's own, and the stream is exactly
Transformer-Patcher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from methods.editing.examples import Example
from methods.editing.patches.config import StreamConfig

# What the draws of one seed are for; every purpose has random numbers of its own.
LANGUAGE, VALUES = 1, 2


@dataclass(frozen=True)
class StreamEdit:
    """One request of a stream.

    Attributes:
        uuid: names it.
        texts: by language, with the right answer; the edit language is among them.
        rephrasings: the edit's text in other words, which should be answered likewise.
    """

    uuid: str
    texts: Mapping[str, Example]
    rephrasings: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What is to be done about a request.

    Attributes:
        edit: whether it is edited.
        languages: of the texts to train on: the edit language, and the drawn one if it is another.
    """

    edit: bool
    languages: tuple[str, ...]


def decide(config: StreamConfig, right: Mapping[str, bool], index: int) -> Decision:
    """Draws the parallel text and applies the trigger.

    Args:
        config: language list, trigger and seed.
        right: by language, whether the model answers the request rightly now; those of the list that have it, and the
            edit language.
        index: place of the request in the stream; the draw is a function of seed and place (and, for trigger "all"
            with draws from the wrong ones, of what is wrong).
    """
    listed = [language for language in config.languages if language in right] or [config.edit_language]
    if config.trigger == "all" and config.all_draws == "wrong":
        # Of several wrong languages the paper does not say which is taken.
        listed = [language for language in listed if not right[language]] or listed
    rng = np.random.default_rng([config.seed, LANGUAGE, index])
    drawn = listed[int(rng.integers(len(listed)))]
    if config.trigger == "all":
        edit = not all(right[language] for language in config.asked if language in right)
    else:
        edit = not right[config.edit_language] or (config.only == "either" and not right[drawn])
    return Decision(edit, tuple(dict.fromkeys((config.edit_language, drawn))))

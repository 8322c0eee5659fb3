"""Hyperparameters to try: single values, grids and ranges as a specification gives them, turned into points.

A range is drawn at random, with a seed, and early stopping (ASHA) over these draws spends little on the bad ones. A
search that proposes points by what it has seen (Optuna and the like) is left out on purpose: its proposals depend on
which trial happened to finish first, so the same command would not give the same trials again.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.errors import Problems, did_you_mean
from orchestrator.spec import NULL_WORDS

DIGITS = 4
"""Significant digits of a drawn number: a point reads well, and is the same on every machine."""
HOW = "a value, values separated by commas, or a range: 1e-6..1e-3 (log-uniform), lin:0..1 (uniform), int:2..64"


@dataclass(frozen=True)
class Range:
    """An interval, both ends included, and how it is drawn from: ``"log"``, ``"lin"`` or ``"int"``."""

    kind: str
    low: float
    high: float

    def at(self, share: float) -> int | float:
        """The value below which this share, in [0, 1), of the draws lies."""
        if self.kind == "int":
            return int(self.low) + int(share * (int(self.high) - int(self.low) + 1))
        if self.kind == "log":
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class SearchSpace:
    """What to try of each hyperparameter.

    Attributes:
        grids: values of the parameters that are tried in all combinations; a single value is a grid of one.
        ranges: the parameters that are drawn.
    """

    grids: Mapping[str, tuple[Any, ...]]
    ranges: Mapping[str, Range]

    @classmethod
    def read(
        cls, values: Mapping[str, Sequence[str] | str], types: Mapping[str, Any], problems: Problems
    ) -> SearchSpace:
        """The space that a specification describes.

        Args:
            values: for each parameter one text or a list of texts, as a preset or an option gives them. A text with
                ``..`` is a range where a number is asked for.
            types: the parameters' types with their limits, such as ``Annotated[float, Field(gt=0)]``;
                `parameter_types` takes them from a configuration class.
            problems: gets every mistake; a parameter with a mistake is not in the space.
        """
        grids: dict[str, tuple[Any, ...]] = {}
        ranges: dict[str, Range] = {}
        for name, value in values.items():
            texts = [value] if isinstance(value, str) else list(value)
            if name not in types:
                problems.add(f"{name} is not a parameter that can be searched.{did_you_mean(name, types)}")
                continue
            checker: TypeAdapter[Any] = TypeAdapter(types[name])
            if not texts:
                problems.add(f"{name} has no value: give {HOW}.")
            elif _is_number(types[name]) and any(_is_range(text) for text in texts):
                found = _range(name, texts, checker, problems)
                if found is not None:
                    ranges[name] = found
            else:
                known = len(problems.found)
                parsed = tuple(_parse(name, text, checker, types[name], problems) for text in texts)
                if len(problems.found) > known:
                    continue
                if len({repr(each) for each in parsed}) < len(parsed):
                    problems.add(f"{name} {','.join(texts)} names a value twice; keep one of them.")
                    continue
                grids[name] = parsed
        return cls(grids, ranges)

    def points(self, samples: int, seed: int) -> list[dict[str, Any]]:
        """Every combination of the grids with every draw from the ranges; the parameters of a point in a fixed order.

        The draws are the same for all combinations, so that these can be compared. A parameter's draws depend on the
        seed and its own name alone: another parameter, another grid or more samples leave them as they are, so that a
        sweep that grows keeps its trials. Draws that coincide (short whole-number ranges) count once.

        Args:
            samples: draws from the ranges; without ranges there is nothing to draw.
            seed: of the draws.
        """
        shares = {name: _generator(seed, name).random(samples) for name in self.ranges}
        draws = [
            {name: each.at(float(shares[name][index])) for name, each in self.ranges.items()}
            for index in range(samples if self.ranges else 1)
        ]
        distinct = list({tuple(sorted(draw.items())): draw for draw in draws}.values())
        names = sorted(self.grids)
        return [
            dict(sorted((dict(zip(names, combination, strict=True)) | draw).items()))
            for combination in itertools.product(*(self.grids[name] for name in names))
            for draw in distinct
        ]


def parameter_types(*configurations: type[BaseModel]) -> dict[str, Any]:
    """The fields of pydantic classes as the types that `SearchSpace.read` checks by, limits included."""
    return {
        name: Annotated[field.annotation, field]
        for configuration in configurations
        for name, field in configuration.model_fields.items()
    }


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def _arms(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have, without Annotated."""
    if get_origin(annotation) is Annotated:
        return _arms(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(arm for each in get_args(annotation) for arm in _arms(each))
    return (annotation,)


def _is_number(annotation: Any) -> bool:
    return any(arm in (int, float) for arm in _arms(annotation))


def _is_range(text: str) -> bool:
    return ".." in text or text.startswith(("lin:", "int:"))


def _range(name: str, texts: Sequence[str], checker: TypeAdapter[Any], problems: Problems) -> Range | None:
    """Reads a range; what is wrong with it becomes a problem."""
    if len(texts) > 1:
        problems.add(f"{name} {','.join(texts)} mixes a range with other values: give one range, or values alone.")
        return None
    text = texts[0].strip()
    prefix, _, interval = text.rpartition(":")
    kind = prefix or "log"
    ends = [end.strip() for end in interval.split("..")]
    try:
        low, high = (float(int(end)) if kind == "int" else float(end) for end in ends)
    except ValueError:
        problems.add(f"{name} {text} cannot be read: give {HOW}.")
        return None
    known = len(problems.found)
    if prefix not in ("", "lin", "int"):
        problems.add(f"{name} {text}: there is no range {prefix!r}. Give {HOW}.")
    elif not (math.isfinite(low) and math.isfinite(high) and low < high):
        problems.add(f"{name} {text} is empty: the first number must be the smaller one.")
    elif kind == "log" and low <= 0:
        problems.add(f"{name} {text} has no logarithms: start above 0, or draw evenly with lin:{interval}.")
    else:
        for end in ends:
            try:
                checker.validate_python(end)
            except ValidationError as error:
                problems.add(f"{name} {text}: its end {end} does not fit, {_reason(error)}.")
        # A fraction between two whole ends would not fit where only whole numbers do.
        if kind != "int" and len(problems.found) == known and isinstance(checker.validate_python(ends[0]), int):
            problems.add(f"{name} takes whole numbers only: write int:{interval} instead of {text}.")
    return Range(kind, low, high) if len(problems.found) == known else None


def _parse(name: str, text: str, checker: TypeAdapter[Any], annotation: Any, problems: Problems) -> Any:
    if text.strip() in NULL_WORDS and NoneType in _arms(annotation):
        return None
    try:
        return checker.validate_python(text)
    except ValidationError as error:
        problems.add(f"{name} {text!r} does not fit: {_reason(error)}.")
        return None


def _reason(error: ValidationError) -> str:
    message = error.errors()[0]["msg"].removeprefix("Value error, ").rstrip(".")
    return message[:1].lower() + message[1:]

"""Colour scales of heat maps: from a value to its step in the page and its colour in figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import Colormap, FuncNorm, Normalize
from matplotlib.ticker import MaxNLocator

from orchestrator.report.blocks import HeatMaps
from orchestrator.report.cells import number_text
from orchestrator.report.theme import LEVELS, diverging, sequential


@dataclass(frozen=True)
class Diverging:
    """Loss, nothing, gain: from -limit to limit, colour growing with the square root of the value."""

    limit: float

    def place(self, value: float) -> float:
        """Position on the colour bar, 0 to 1."""
        return 0.5 + 0.5 * strength(value, self.limit)

    def step(self, value: float) -> str:
        """The value's class in the page."""
        return f"q{round(LEVELS * strength(value, self.limit))}"

    def steps(self) -> list[str]:
        """All classes along the colour bar."""
        return [f"q{level}" for level in range(-LEVELS, LEVELS + 1)]

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers on both sides of 0 and the exact ends, with their texts."""
        positive = [_round_number(self.limit / 30), _round_number(self.limit / 3.5), self.limit]
        return [(tick, tick_label(tick)) for tick in [*(-tick for tick in reversed(positive)), 0.0, *positive]]

    @property
    def ends(self) -> str:
        return f"from {number_text(-self.limit)} to {number_text(self.limit, signed=True)}"

    @property
    def norm(self) -> Normalize:
        def square_root(x: np.ndarray) -> np.ndarray:
            return np.sign(x) * np.sqrt(np.abs(x))

        return FuncNorm((square_root, lambda x: np.sign(x) * np.square(x)), -self.limit, self.limit)

    @property
    def colours(self) -> Colormap:
        return diverging()


@dataclass(frozen=True)
class Sequential:
    """Little to much: from `low` to `high` in proportion; what lies outside has the colour of the end."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Position on the colour bar, 0 to 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def step(self, value: float) -> str:
        """The value's class in the page."""
        return f"s{round(LEVELS * self.place(value))}"

    def steps(self) -> list[str]:
        """All classes along the colour bar."""
        return [f"s{level}" for level in range(LEVELS + 1)]

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers within the scale, with as many decimals as they need."""
        ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        inside = [float(tick) for tick in ticks if self.low <= tick <= self.high]
        digits = next((d for d in range(4) if all(abs(round(tick, d) - tick) < 1e-9 for tick in inside)), 4)
        return [(tick, number_text(tick, digits)) for tick in inside]

    @property
    def ends(self) -> str:
        return f"from {number_text(self.low)} to {number_text(self.high)}"

    @property
    def norm(self) -> Normalize:
        return Normalize(self.low, self.high, clip=True)

    @property
    def colours(self) -> Colormap:
        return sequential()


def scale_of(block: HeatMaps) -> Diverging | Sequential:
    """The one scale of all panels: symmetric about 0, or over `span` or else over all values."""
    values = [cell.value for panel in block.panels for cell in panel.cells]
    if block.colours == "diverging":
        return Diverging(max(map(abs, values), default=0.0) or 1.0)
    low, high = block.span or (min(values, default=0.0), max(values, default=1.0))
    return Sequential(low, high if high > low else low + 1.0)


def strength(value: float, limit: float) -> float:
    """How strong a colour is, -1 to 1: the signed square root of value / limit.

    >>> strength(1.0, 4.0), strength(-4.0, 4.0)
    (0.5, -1.0)
    """
    return math.copysign(math.sqrt(abs(value) / limit), value)


def tick_label(value: float) -> str:
    """A number of a diverging bar with two significant digits or all before the point, and no zeros at its end.

    >>> tick_label(0.5), tick_label(-9.84), tick_label(123.4)
    ('+0.5', '−9.8', '+123')
    """
    digits = max(0, 1 - math.floor(math.log10(abs(value)))) if value else 0
    text = number_text(value, digits=digits, signed=True)
    return text.rstrip("0").rstrip(".") if "." in text else text


def _round_number(value: float) -> float:
    """The number of the form 1, 2 or 5 times a power of ten that is nearest to `value` on a logarithmic scale."""
    power = 10.0 ** math.floor(math.log10(value))
    return min((power * digit for digit in (1, 2, 5, 10)), key=lambda number: abs(math.log(number / value)))

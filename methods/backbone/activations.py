"""Activation functions that overwrite their input, which a packed block no longer needs.

Where gradients flow nothing is overwritten that they need.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import activations as hf

_EXACT_GELU = (hf.GELUActivation,)
_TANH_GELU = (hf.NewGELUActivation, hf.FastGELUActivation, hf.GELUTanh)
_SILU = (hf.SiLUActivation, torch.nn.SiLU)
# Numbers that are worked on at a time: they stay in the processor's cache.
_CACHED_NUMBERS = 1 << 18
_SQRT_8_OVER_PI = 1.5957691216057308


def activate_(function: Any, x: Tensor) -> Tensor:
    """Applies a model's activation function, in place where torch has an equal in-place one.

    Args:
        function: the model's own activation module.
        x: contiguous; overwritten.

    Returns:
        The activated tensor, which may be `x`.
    """
    if isinstance(function, _SILU):
        return F.silu(x, inplace=True)
    if isinstance(function, _TANH_GELU):
        return gelu_tanh_(x)
    if isinstance(function, _EXACT_GELU):
        return torch._C._nn.gelu_(x)
    return function(x)


def gelu_tanh_(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks and Gimpel 2016), in place.

    On a CPU it is computed as x * sigmoid(sqrt(8/pi) (x + 0.044715 x^3)), the same function with one exponential in
    place of torch's tanh: half the time.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return F.gelu(x, approximate="tanh")
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return torch._C._nn.gelu_(x, approximate="tanh")
    for part in x.view(-1).split(_CACHED_NUMBERS):
        gate = part * part
        gate.mul_(0.044715 * _SQRT_8_OVER_PI).add_(_SQRT_8_OVER_PI).mul_(part).sigmoid_()
        part.mul_(gate)
    return x

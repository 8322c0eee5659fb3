"""MEND: a small network turns the factors of the edit's gradient into those of a better update.

Mitchell et al. 2022, Fast Model Editing at Scale (sections 3.1 to 3.3), with the layer normalisation and the language
masks of Xu et al. 2023. For every token t of the edit, with layer input x_t and output gradient delta_t,

    (x~_t, delta~_t) = g(norm(x_t), norm(delta_t)),    dW = +- alpha sum_t delta~_t x~_t^T.

Matrices of one shape share g; each has a scale and a shift of its own in it (a mode), and its own alpha. Where paper
and released code differ: the code *adds* alpha times the update, so that the first edits climb the loss until training
has turned the sign, and it applies the ReLU after both layers. Both are kept; ``sign="-"`` begins with a descent.

Shape legend: B edits, T tokens, N tokens of all edits that carry a gradient, I and O a matrix's input and output
features, W = I + O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from methods.editing.editors.learned import LearnedEditor, StepConfig
from methods.editing.edits import FactoredEdits
from methods.editing.examples import Encoded
from methods.editing.factors import token_factors
from methods.editing.model import EditableModel

Norm = Literal["ln", "running"]
_STD_EPSILON = 1e-7


class MendConfig(StepConfig):
    """The network and how its input is normalised."""

    lr: float = Field(1e-6, gt=0, description="learning rate of the editor's weights")
    rank: int = Field(1920, ge=1, description="rank of the network's matrices, at most their width")
    norm: Norm = Field(
        "ln",
        description="ln: layer normalisation of each token (Xu et al.); running: by mean and deviation of all tokens "
        "seen in training (Mitchell et al.)",
    )
    sign: Literal["+", "-"] = Field(
        "+", description="add the update to the weight, as released, or subtract it, so that the first edits descend"
    )


class RunningNorm(nn.Module):
    """Normalises every feature by mean and standard deviation over all tokens seen so far (Welford).

    Training mode takes the tokens at hand into account first; evaluation changes nothing. The deviation divides by
    the number of tokens less one; as long as fewer than two were seen, tokens pass as they are.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.count: Tensor
        self.mean: Tensor
        self.squares: Tensor
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("squares", torch.zeros(features))

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, features] to the same shape."""
        if self.training and len(tokens):
            self._include(tokens.detach())
        if int(self.count) < 2:
            return tokens
        return (tokens - self.mean) / ((self.squares / (self.count - 1)).sqrt() + _STD_EPSILON)

    def _include(self, tokens: Tensor) -> None:
        """Merges the tokens' own mean and squared deviations into the running ones (Chan et al. 1979)."""
        before, here = int(self.count), len(tokens)
        total = before + here
        mean = tokens.mean(0)
        apart = mean - self.mean
        self.squares += (tokens - mean).square().sum(0) + apart.square() * (before * here / total)
        self.mean += apart * (here / total)
        self.count.fill_(total)


class IdentityLayer(nn.Module):
    """z + relu(s_m * (U V z + b) + o_m), where U = 0 makes it the identity at the start.

    Args:
        width: W.
        rank: of U V.
        modes: matrices that share the layer, each with its own scale s_m and shift o_m.
    """

    def __init__(self, width: int, rank: int, modes: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.v = nn.Parameter(torch.randn(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(modes, width))
        self.shift = nn.Parameter(torch.zeros(modes, width))

    def forward(self, z: Tensor, mode: int) -> Tensor:
        """[N, W] to the same shape."""
        inner = nn.functional.linear(z @ self.v.T, self.u, self.bias)
        # Unlike relu, clamp has gradient 1 at 0, which is where everything begins.
        return z + (self.scale[mode] * inner + self.shift[mode]).clamp(min=0)


class IDMLP(nn.Module):
    """Two identity layers: the network g of MEND for matrices of one shape."""

    def __init__(self, width: int, rank: int, modes: int) -> None:
        super().__init__()
        rank = min(rank, width)
        self.layers = nn.ModuleList([IdentityLayer(width, rank, modes) for _ in range(2)])

    def forward(self, z: Tensor, mode: int) -> Tensor:
        """[N, W] to the same shape, for the matrix `mode` of the group."""
        for layer in self.layers:
            z = layer(z, mode)
        return z


class FactorTransform(nn.Module):
    """Normalisation and network for matrices of one shape."""

    def __init__(self, inputs: int, outputs: int, modes: int, rank: int, norm: Norm) -> None:
        super().__init__()
        normalise = nn.LayerNorm if norm == "ln" else RunningNorm
        self.norm_x, self.norm_delta = normalise(inputs), normalise(outputs)
        self.network = IDMLP(inputs + outputs, rank, modes)

    def forward(self, x: Tensor, delta: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        """x [N, I] and delta [N, O] to the same shapes."""
        together = self.network(torch.cat([self.norm_x(x), self.norm_delta(delta)], dim=-1), mode)
        new_x, new_delta = together.split([x.shape[-1], delta.shape[-1]], dim=-1)
        return new_x, new_delta


class Mend(LearnedEditor):
    """Transforms all tokens of all edits at once, one call of the network for each edited matrix."""

    name: ClassVar[str] = "mend"
    Config: ClassVar[type[MendConfig]] = MendConfig
    config: MendConfig

    def __init__(self, model: EditableModel, config: MendConfig, languages: Sequence[str]) -> None:
        super().__init__(model, config, languages)
        groups: dict[int, tuple[int, int, int]] = {}
        for module in model.modules:  # modes are numbered upwards, so a group's last module knows their number
            groups[module.shape_group] = (module.in_features, module.out_features, module.mode + 1)
        self.transforms = nn.ModuleList(
            [FactorTransform(*shape, config.rank, config.norm) for _, shape in sorted(groups.items())]
        )
        self.to(model.dtype)

    def edit(self, batch: Encoded, languages: Sequence[str], *, create_graph: bool = False) -> FactoredEdits:
        """See `Editor.edit`."""
        factors = token_factors(self.model, batch, self.model.frozen(batch))
        rows = None if self.masks is None else self.masks.rows(languages)
        assert self.step_sizes is not None
        edits = {}
        with torch.set_grad_enabled(create_graph):
            for place, module in enumerate(self.model.modules):
                x, delta = factors[module.name]
                # Normalised zeros would not be zero: tokens without input or gradient stay out.
                carrying = (x != 0).any(-1) & (delta != 0).any(-1)
                tokens_x, tokens_delta = x[carrying], delta[carrying]
                if self.masks is not None and rows is not None:
                    of_x, of_delta = self.masks.multipliers(module.name, rows[carrying.nonzero()[:, 0]])
                    tokens_x, tokens_delta = of_x * tokens_x, of_delta * tokens_delta
                tokens_x, tokens_delta = self.transforms[module.shape_group](tokens_x, tokens_delta, module.mode)
                step = self.step_sizes[place] if self.config.sign == "+" else -self.step_sizes[place]
                edits[module.name] = (
                    torch.zeros_like(x).masked_scatter(carrying[..., None], tokens_x),
                    torch.zeros_like(delta).masked_scatter(carrying[..., None], step * tokens_delta),
                )
        return FactoredEdits(edits)

"""Language masks: gates that make an editor treat the parameters of each language differently.

Xu et al. 2023, Language Anisotropic Cross-Lingual Model Editing, section 3.3: an edit in language l passes every factor
w of its gradient (layer input x or output gradient delta) on as

    mask(w, m) = w + m * w,    m = e * z,

where e is a learned scale and z in [0, 1] a hard-concrete gate (Louizos et al. 2018, Learning Sparse Neural Networks
through L0 Regularization, equations 10 to 12): a binary concrete variable with temperature beta, stretched to
(gamma, zeta) and clipped, so that exact zeros and ones have positive probability and the expected number of open gates
has a gradient.

Shape legend: G languages, B edits, W = in + out features of a matrix, F entries of a language's masks; * any leading
axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.errors import Problems, did_you_mean

if TYPE_CHECKING:
    from methods.editing.model import EditedModule

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and stretch of the hard-concrete distribution, as in Louizos et al."""
LOWEST, HIGHEST = math.log(1e-2), math.log(1e2)
"""Between these the log-odds of a gate are kept, so that none is ever beyond recovery."""
EDGE = 1e-6
"""Distance of the uniform noise from 0 and 1."""

Order = Literal["in first", "out first"]
L0Term = Literal["differentiable", "as released"]


def hard_concrete(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """A sample of the gate for every entry of `log_alpha`, given uniform noise in (0, 1) of the same shape."""
    concrete = torch.sigmoid((torch.log(noise) - torch.log1p(-noise) + log_alpha) / BETA)
    return (concrete * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def mean_gate(log_alpha: Tensor) -> Tensor:
    """The gate without noise (Louizos et al. equation 13): 0 below log(1/11), 1 above log 11, 0.5 at 0."""
    return (torch.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Probability p that a sampled gate is not zero: sigmoid(log_alpha + beta log 11); its gradient is p (1 - p)."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


class LanguageMasks(nn.Module):
    """One gate and one scale for each language, edited matrix and feature.

    Matrices of one shape share a pair of tables [G, modes, W]; a mode is a matrix's place among those of its shape. In
    training mode every row of the factors gets a sample of its own; in evaluation the gates are deterministic. At
    the start a multiplier is 1.5 on average.

    Args:
        languages: languages that may be edited.
        modules: the edited matrices.
        order: whether a row of the tables begins with the features of the input (MEND, Editable Training) or of the
            output (KnowledgeEditor), as in the released code.
        l0: whether the sparsity term has a gradient, or is a number only, as in the released code, which computes it
            from detached weights.
        seed: of the initial log-odds, N(0, 0.01^2), and of the samples until `reseed` is called.
    """

    def __init__(
        self,
        languages: Sequence[str],
        modules: Sequence[EditedModule],
        *,
        order: Order = "in first",
        l0: L0Term = "differentiable",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.languages = tuple(languages)
        self.order = order
        self.l0_term = l0
        self._rows = {language: row for row, language in enumerate(self.languages)}
        self._modules_by_name = {module.name: module for module in modules}
        shapes: dict[int, tuple[int, int, int]] = {}
        for module in modules:
            _, _, modes = shapes.get(module.shape_group, (0, 0, 0))
            shapes[module.shape_group] = (module.in_features, module.out_features, max(modes, module.mode + 1))
        generator = torch.Generator().manual_seed(seed)
        self.scale, self.log_alpha = nn.ParameterDict(), nn.ParameterDict()
        for group, (inputs, outputs, modes) in sorted(shapes.items()):
            size = (len(self.languages), modes, inputs + outputs)
            self.scale[str(group)] = nn.Parameter(torch.ones(size))
            self.log_alpha[str(group)] = nn.Parameter(0.01 * torch.randn(size, generator=generator))
        self.reseed(seed)

    def reseed(self, *key: int) -> None:
        """Makes the samples that follow a function of `key`, e.g. (seed, step), so that training can be resumed."""
        self._key, self._draws = tuple(key), 0

    @torch.no_grad()
    def clamp(self) -> None:
        """Keeps the log-odds within [log 0.01, log 100]; to be called before every optimizer step."""
        for table in self.log_alpha.values():
            table.clamp_(LOWEST, HIGHEST)

    def rows(self, languages: Sequence[str]) -> Tensor:
        """The table row of each language, [B].

        Raises:
            UserError: a language has no mask.
        """
        problems = Problems()
        for language in sorted(set(languages) - self._rows.keys()):
            problems.add(
                f"Language {language!r} has no mask, so an edit in it cannot be masked. Train the editor with this "
                f"language, or use an editor without masks.{did_you_mean(language, self._rows)}"
            )
        problems.raise_if_any()
        device = next(iter(self.scale.values())).device
        return torch.tensor([self._rows[language] for language in languages], device=device)

    def multipliers(self, module: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the factors of a matrix are multiplied by: 1 + e z.

        Args:
            module: name of the edited matrix.
            rows: table row of each token or edit, [*]; in training mode each entry gets a sample of its own.

        Returns:
            For the layer input [*, in] and for the output gradient [*, out].
        """
        edited = self._modules_by_name[module]
        group = str(edited.shape_group)
        log_alpha = nn.functional.embedding(rows, self.log_alpha[group][:, edited.mode])
        gate = hard_concrete(log_alpha, self._noise(log_alpha)) if self.training else mean_gate(log_alpha)
        multiplier = 1 + nn.functional.embedding(rows, self.scale[group][:, edited.mode]) * gate
        if self.order == "in first":
            of_input, of_output = multiplier.split([edited.in_features, edited.out_features], dim=-1)
        else:
            of_output, of_input = multiplier.split([edited.out_features, edited.in_features], dim=-1)
        return of_input, of_output

    def l0(self, languages: Sequence[str]) -> Tensor:
        """Expected share of open gates, mean over the edits and over all entries of their languages.

        Without a gradient if the masks were built with ``l0="as released"``.
        """
        rows = self.rows(languages)
        used = [
            nn.functional.embedding(rows, table.flatten(1)) for table in self.log_alpha.values()
        ]  # [B, modes W] per shape
        expected = open_probability(torch.cat(used, dim=1)).mean()
        return expected if self.l0_term == "differentiable" else expected.detach()

    @torch.no_grad()
    def strengths(self) -> Tensor:
        """The deterministic e z of every language, all matrices side by side, [G, F] with F the sum of modes W."""
        parts = [(self.scale[group] * mean_gate(table)).flatten(1) for group, table in self.log_alpha.items()]
        return torch.cat(parts, dim=1)

    def _noise(self, like: Tensor) -> Tensor:
        """Uniform noise within (EDGE, 1 - EDGE), a function of the key and the number of draws since."""
        self._draws += 1
        seed = int(np.random.SeedSequence([*self._key, self._draws]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator(like.device).manual_seed(seed)
        return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype) * (1 - 2 * EDGE) + EDGE

"""The check every model passes when it is loaded: this backbone against the model's own forward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods.backbone.base import Backbone
from methods.backbone.generic import before_vocabulary, first_blocks, first_tensor
from methods.backbone.packing import pack_sequences
from methods.backbone.structure import find_blocks, kind_of
from orchestrator.errors import UserError

# Relative to the largest logit. Rounding differs between two orders of the same sums; anything structural (a missing
# bias, another position scheme, another norm) is far above these.
_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
_LENGTHS = (3, 7)
_STRENGTHS = (0.0, 0.3)
# Blocks of a model that is not in memory as a whole: a shift lies between them, and both stay in memory.
CHECKED_BLOCKS = 2
# What a model may raise when it is driven in a way it was not written for.
DRIVING_ERRORS = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)


class SelfCheck:
    """A model's own logits for two sequences of different lengths, as they are and with a shift at the middle layer.

    The shift is what the layer search does: a model that carries anything but its states from block to block shows
    here, because its logits after a shift differ from those of its blocks called one by one.

    Of a model that is streamed only the first blocks are compared, and not the logits but what the vocabulary matrix is
    applied to: embedding, blocks, final norm and what the head does before the vocabulary, at the cost of reading these
    blocks. The others run the same code; that their weights are complete has been checked by name and shape.

    Args:
        model: a Hugging Face model.
        device: where it takes token ids.
        depth: how many blocks to compare, without the vocabulary; None compares the whole model.

    Raises:
        UserError: the model's own forward pass fails.
    """

    def __init__(self, model: Any, device: torch.device, depth: int | None = None) -> None:
        self.blocks = find_blocks(model)
        self.device = device
        self.depth = depth
        self.layer = ((depth or len(self.blocks)) + 1) // 2
        self.shift = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(1))
        self.sequences = _sequences(model)
        try:
            self.expected = [self._their_logits(model, strength) for strength in _STRENGTHS]
        except torch.OutOfMemoryError:
            raise
        except DRIVING_ERRORS as error:
            raise UserError(
                f"{type(model).__name__} cannot run two short sequences in {model.dtype} on {device}: "
                f"{first_line(error)} Try another dtype, or check that its configuration and weights belong together."
            ) from error

    def disagreement(self, backbone: Backbone) -> float:
        """How far a backbone is from its model, as a multiple of what rounding may explain; at most 1 is agreement."""
        worst = 0.0
        with torch.no_grad():
            for strength, theirs in zip(_STRENGTHS, self.expected, strict=True):
                ours = self._our_logits(backbone, strength)
                if ours.shape != theirs.shape or not bool(torch.isfinite(ours).all()):
                    return float("inf")
                difference = (ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)
                worst = max(worst, float(difference) / _TOLERANCE[backbone.dtype])
        return worst

    def _shifted(self, states: Tensor, strength: float) -> Tensor:
        return states + strength * states.std() * self.shift.to(states)

    def _our_logits(self, backbone: Backbone, strength: float) -> Tensor:
        """Logits of all tokens, [sum of lengths, V]."""
        pack, _ = pack_sequences(self.sequences)
        plan = backbone.plan(pack)
        x = backbone.embed(plan)[None]
        last = self.depth or backbone.num_layers
        for k in range(1, last + 1):
            x = backbone.layer(k, x, plan, need=k == last)
            if k == self.layer:
                x = torch.cat([self._shifted(part, strength) for part in x.split(_LENGTHS, dim=1)], dim=1)
        states = backbone.transform(backbone.final(x[0].to(backbone.device)))
        return states if self.depth else nn.functional.linear(states, *backbone.unembedding)

    @torch.no_grad()
    def _their_logits(self, model: Any, strength: float) -> Tensor:
        """The same from the model's forward pass, with a hook for the shift."""

        def hook(_: nn.Module, __: tuple[object, ...], result: Tensor | tuple[Tensor, ...]) -> object:
            states = self._shifted(first_tensor(result), strength)
            return states if isinstance(result, Tensor) else (states, *result[1:])

        extra = {"use_cache": False} if kind_of(type(model).__name__) == "causal" else {}
        sequences = [torch.tensor([ids], device=self.device) for ids in self.sequences]
        handle = self.blocks[self.layer - 1].register_forward_hook(hook)
        try:
            if not self.depth:
                return torch.cat([model(input_ids=ids, **extra).logits[0] for ids in sequences])
            with first_blocks(self.blocks, self.depth):
                runs = [before_vocabulary(model, partial(model, input_ids=ids, **extra)) for ids in sequences]
            return torch.cat([states[0] for states in runs])
        finally:
            handle.remove()


def first_line(error: BaseException) -> str:
    """The first line of an error's text as a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."


def _sequences(model: Any) -> list[list[int]]:
    """Random token ids without the padding id, which some models count positions by."""
    generator = torch.Generator().manual_seed(0)
    rows = model.get_input_embeddings().weight.shape[0]
    allowed = [token for token in range(min(rows, 1000)) if token != getattr(model.config, "pad_token_id", None)]
    return [[allowed[int(i)] for i in torch.randint(len(allowed), (n,), generator=generator)] for n in _LENGTHS]

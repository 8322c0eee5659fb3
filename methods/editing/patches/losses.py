"""What a patch is trained with (Huang et al. 2023, section 4): the answer, its activation, and silence elsewhere.

Activation and memory losses are about pre-activations. The released code repeats an edit's text `copies` times in its
batch, and the repetitions count among the largest values that are averaged; here they are multiplicities, so nothing
is computed twice.

Shape legend: P pairs of a patch and a text's position that it must answer to, K memories, M label positions, V outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.editing.patches.config import Confidence


def top_mean(values: Tensor, top: int, copies: int = 1) -> Tensor:
    """The mean of the `top` largest values, of all where there are fewer.

    Args:
        values: any shape.
        top: how many.
        copies: how often every value counts as one.
    """
    if not values.numel():
        return values.sum()
    taken = min(-(-top // copies), values.numel())
    largest = values if taken == values.numel() else values.flatten().topk(taken, sorted=False).values
    if top >= taken * copies or top % copies == 0:
        return largest.mean()
    # The smallest of them counts only as often as there is room for.
    last = top - (taken - 1) * copies
    return (copies * (largest.sum() - largest.min()) + last * largest.min()) / top


def activation_loss(own: Tensor, *, margin: float = 0.0, top: int = 5, copies: int = 1) -> Tensor:
    """l_a: the mean of the largest exp(margin - a). At the start, with a = 1 and no margin, 1/e.

    Several patches of one edit all start at a = 1; which of them are among the `top` is then up to rounding, here as in
    the released code.

    Args:
        own: pre-activation of every patch where it must answer, [P].
        margin: a is to be above it.
        top: values that are averaged.
        copies: see `top_mean`.
    """
    return top_mean((margin - own).exp(), top, copies)


def memory_loss(
    own: Tensor,
    remembered: Tensor,
    *,
    relative_margin: float = 3.0,
    absolute_margin: float = -3.0,
    top: int = 1000,
    copies: int = 1,
) -> Tensor:
    """l_m1 + l_m2: a patch's pre-activation m on memories stays below its own a, and below a fixed level.

    l_m1 is the mean of the largest exp(m - a + relative margin), l_m2 of the largest exp(m - absolute margin). A memory
    with m = 0 contributes e^2 + e^3 = 27.47 where a = 1.

    Args:
        own: pre-activation of every patch where it must answer, [P].
        remembered: of the same patches on memories, [K, P]; memories beyond the `top` largest of a column change
            nothing.
        relative_margin: how far m is to be below a.
        absolute_margin: what m is to be below.
        top: values that are averaged in each part, over memories and pairs together.
        copies: see `top_mean`.
    """
    relative = (remembered - own + relative_margin).exp()
    absolute = (remembered - absolute_margin).exp()
    return top_mean(relative, top, copies) + top_mean(absolute, top, copies)


def position_weights(rows: Tensor, texts: int) -> Tensor:
    """What each label position counts, [M] in float64: all texts alike, and alike within a text.

    Args:
        rows: the text of each position, [M].
        texts: how many.
    """
    counts = torch.bincount(rows, minlength=texts)
    return 1 / (texts * counts[rows].double())


def task_loss(logits: Tensor, targets: Tensor, weights: Tensor, confidence: Confidence, eps: float) -> Tensor:
    """The loss of the wanted answers.

    Args:
        logits: [M, V].
        targets: [M].
        weights: what each position counts, from `position_weights`.
        confidence: "entropy": `eps` times the entropy of the prediction is taken off the cross-entropy, which rewards
            doubt (classifiers of the released code). "label smoothing": of its sequence models. "none": plain
            cross-entropy.
        eps: weight of the entropy, or of the smoothing.
    """
    log_shares = logits.log_softmax(-1)
    losses = -log_shares.gather(1, targets[:, None])[:, 0]
    if confidence == "entropy":
        losses = losses + eps * (log_shares.exp() * log_shares).sum(-1)
    elif confidence == "label smoothing":
        other = eps / (logits.shape[1] - 1)
        losses = (1 - eps - other) * losses - other * log_shares.sum(-1)
    return losses @ weights.to(losses)

"""The fine-tuning baseline: its steps are torch's, and it ends when the released code ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from methods.editing.editors import FineTuningConfig, build_editor
from methods.editing.edits import applied, replaced
from methods.editing.examples import Example
from methods.editing.losses import nll
from methods.editing.model import EditableModel
from tests.editing.tiny import cached_editable, requests


def tune(model: EditableModel, examples: list[Example], **options: Any) -> Any:
    editor = build_editor(FineTuningConfig(**options), model, ["en"])
    return editor.edit(model.encode(examples), [example.language for example in examples])


def with_torch(model: EditableModel, example: Example, optimizer: type, steps: int, lr: float, clip: float) -> Any:
    """The same by torch's own optimiser, one request, weights in place: the change of every matrix."""
    batch = model.encode([example])
    copies = {m.name: nn.Parameter(model.linear(m.name).weight.clone()) for m in model.modules}
    stepper = optimizer(copies.values(), lr=lr)
    with replaced(model, copies):
        for _ in range(steps):
            logits = model.logits(batch)
            if bool((logits.argmax(-1) == batch.targets).all()):
                break
            stepper.zero_grad()
            nll(logits, batch.targets, batch.rows, 1).sum().backward()
            nn.utils.clip_grad_norm_(copies.values(), clip)
            stepper.step()
    return {name: (copies[name] - model.linear(name).weight).detach() for name in copies}


@pytest.mark.parametrize(("name", "optimizer"), [("rmsprop", torch.optim.RMSprop), ("adam", torch.optim.Adam)])
@pytest.mark.parametrize("clip", [100.0, 0.01])
def test_every_request_is_tuned_as_torch_tunes_it_alone(name: str, optimizer: type, clip: float) -> None:
    model = cached_editable("bert", torch.float64)
    examples = requests("masked", 5, seed=1)
    # Some requests come right after a few steps and stop, others go on to the last one.
    edits = tune(model, examples, optimizer=name, lr=2e-3, clip=clip, max_steps=6)
    for index, example in enumerate(examples):
        expected = with_torch(model, example, optimizer, 6, 2e-3, clip)
        for module, change in expected.items():
            torch.testing.assert_close(edits.dense(module)[index], change, atol=1e-8, rtol=1e-5)


def test_a_first_step_of_rmsprop_has_ten_times_the_learning_rate(exact: EditableModel) -> None:
    edits = tune(exact, requests(exact.kind, 2, seed=5), lr=1e-3, max_steps=1)
    batch = exact.encode(requests(exact.kind, 2, seed=5))
    wrong = exact.logits(batch).argmax(-1) != batch.targets
    sizes = torch.cat([edits.dense(m.name)[batch.rows[wrong]].abs().flatten() for m in exact.modules])
    moved = sizes[sizes > 0.9e-2]
    assert len(moved) > 0.5 * len(sizes)
    assert moved.max() <= 1e-2 + 1e-12


def test_what_is_right_already_is_not_changed(exact: EditableModel) -> None:
    (request,) = requests(exact.kind, 1)
    said = int(exact.logits(exact.encode([request])).argmax(-1)[0])
    if exact.kind == "classifier":
        known = Example(request.text, request.language, request.pair, (said,))
    elif exact.kind == "causal":
        known = Example(request.text, request.language, answer=(said,))
    else:
        words = [word for word in request.text.split() if word != "[MASK]"]
        text = " ".join([*words, "[MASK]"])
        said = int(exact.logits(exact.encode([Example(text, "en")])).argmax(-1)[0])
        known = Example(text, "en", answer=(said,))
    edits = tune(exact, [known], lr=1e-2)
    assert not any(edits.dense(module.name).any() for module in exact.modules)


def test_tuned_requests_are_answered_as_wanted(exact: EditableModel) -> None:
    batch = exact.encode(requests(exact.kind, 4, seed=2))
    edits = tune(exact, requests(exact.kind, 4, seed=2), lr=2e-3)
    with applied(exact, edits, torch.arange(4)):
        assert torch.equal(exact.logits(batch).argmax(-1), batch.targets)


def test_as_released_the_last_step_is_lost() -> None:
    model = cached_editable("bert", torch.float64)
    examples = requests("masked", 2)
    options = {"lr": 1e-6, "max_steps": 4}
    released, shorter = (
        tune(model, examples, **options, last_step="as released"),
        tune(model, examples, lr=1e-6, max_steps=3),
    )
    kept = tune(model, examples, **options)
    for module in model.modules:
        assert torch.equal(released.dense(module.name), shorter.dense(module.name))
        assert not torch.equal(released.dense(module.name), kept.dense(module.name))


def test_chunks_that_fit_the_memory_give_the_same_edits() -> None:
    model = cached_editable("bert", torch.float64)
    examples = requests("masked", 5)
    editor = build_editor(FineTuningConfig(memory=1), model, ["en"])
    assert editor.requests_at_once() == 1
    whole, parts = tune(model, examples, lr=1e-3), tune(model, examples, lr=1e-3, memory=1)
    for module in model.modules:
        torch.testing.assert_close(whole.dense(module.name), parts.dense(module.name), atol=1e-8, rtol=1e-5)

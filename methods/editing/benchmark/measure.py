"""Measures evaluation and training of an editor, many edits at once against one by one, in one process.

One by one is the loop that a careful researcher writes: one edit at a time, the whole model for every pass, the edit
written into the weights (evaluation) or applied by hooks (training), unrelated texts of one edit in one batch. All
contenders take turns, so that what else the machine does meets all of them; speed is given as ratios of the shortest
times. The loop gets fewer edits, since it needs the same time for each of them.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
import transformers

from methods.editing.benchmark.cases import SHAPES, TASKS, Case, make_case
from methods.editing.editors import EDITORS, Editor, build_editor
from methods.editing.evaluation import Judgement, judge, judge_one_by_one
from methods.editing.examples import EditSample
from methods.editing.gradients import LossWeights, fresh_stores, plain_gradients, step_gradients
from methods.editing.known import KnownTexts
from methods.editing.model import EditableModel
from methods.editing.store import FrozenStates
from methods.instruments import peak_memory, wait
from orchestrator.errors import Problems, did_you_mean

NEW, KNOWN, PLAIN = "batch, new texts", "batch, known texts", "one by one"
BATCH, FEW = "batch", "batch of few"
Draws = Sequence[Sequence[EditSample]]
REPEATS = 3
PATIENCE = 110.0
"""Seconds within which a benchmark ends that is not told how often to repeat, if one run of every contender does."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        shape: of `SHAPES`.
        task: of `TASKS`.
        editor: of `EDITORS`.
        edit_lr: size of an edit's step, where the editor has one; decides how much an edit changes. None takes the
            editor's own. How much is compared at every position depends on it, so the default is one at which a random
            model keeps most predictions, as trained editors do.
        edits: edits in a batch.
        plain_edits: edits of the plain loop in one run.
        retains: unrelated texts of an edit in evaluation; training has one.
        all_positions: evaluation compares predictions at every position too.
        repeats: runs of every contender; None: three, or fewer where these would take longer than `PATIENCE`.
        threads: of torch; None leaves torch's choice.
        device: torch device string.
    """

    shape: str = "mbert"
    task: str = "facts"
    editor: str = "mend"
    edit_lr: float | None = 1e-6
    edits: int = 64
    plain_edits: int = 6
    retains: int = 4
    all_positions: bool = True
    repeats: int | None = None
    threads: int | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Raises UserError with everything that makes no sense."""
        problems = Problems()
        for option, value, known in (
            ("shape", self.shape, SHAPES),
            ("task", self.task, TASKS),
            ("editor", self.editor, EDITORS),
        ):
            if value not in known:
                problems.add(f"--{option} {value!r} is not known.{did_you_mean(value, known)}")
        for option in ("edits", "plain_edits", "retains", "repeats", "threads"):
            value = getattr(self, option)
            if value is not None and value < 1:
                problems.add(f"--{option.replace('_', '-')} is {value}, but at least 1 is needed")
        if self.plain_edits > self.edits:
            problems.add(f"--plain-edits {self.plain_edits} is more than --edits {self.edits}; choose at most as many")
        if self.device == "cuda" and not torch.cuda.is_available():
            problems.add("--device cuda is not possible: torch sees no CUDA device here; use --device cpu")
        problems.raise_if_any()


@dataclass
class Contender:
    """Something that is timed: what runs, for how many edits, what comes before it; then its times and peak memory."""

    name: str
    edits: int
    run: Callable[[], Any]
    before: Callable[[], None] = lambda: None
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    answer: Any = None

    def figures(self) -> dict[str, Any]:
        return {
            "edits": self.edits,
            "wall_seconds": self.seconds,
            "seconds_per_edit": min(self.seconds) / self.edits,
            "seconds_per_edit_median": statistics.median(self.seconds) / self.edits,
            "edits_per_second": self.edits / min(self.seconds),
            "peak_mb": self.peak / 1e6,
        }


def run_benchmark(settings: Settings, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measures and returns what ``--json`` writes.

    The main keys: `evaluation_ratio` and `evaluation_ratio_known` (one by one to a batch of texts that are new, as in
    the first trial of a sweep, and of texts that are known, as in all others: `KnownTexts`), `training_ratio`, `equal`
    (all judgements are the same and gradients agree) and `gradient_difference` (largest, relative to the largest
    gradient).

    Raises:
        UserError: the settings make no sense.
    """
    settings.check()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    start = time.perf_counter()
    repeats, patience = settings.repeats or REPEATS, math.inf if settings.repeats else PATIENCE
    say(f"Making {settings.shape} and {settings.editor} ...")
    case = make_case(settings.shape, settings.task, settings.edits, settings.retains, device=settings.device)
    languages = sorted({drawn[0].edit.language for drawn in case.draws})
    kind = EDITORS[settings.editor].Config
    values = {} if settings.edit_lr is None or "edit_lr" not in kind.model_fields else {"edit_lr": settings.edit_lr}
    editor = build_editor(kind.model_validate(values), case.model, languages)
    with TemporaryDirectory() as folder:
        evaluation = _evaluation(settings, case, editor, Path(folder))
        alternate("evaluation", evaluation, repeats, settings.device, say, until=start + patience / 2)
    training = _training(settings, case, editor) if editor.trainable else []
    alternate("training", training, repeats, settings.device, say, until=start + patience)
    judged, again, plain = (contender.answer for contender in evaluation)
    differ = sum(map(_differ, judged, again)) + sum(map(_differ, judged[: len(plain)], plain))
    difference = _largest_difference(training[1].answer, training[2].answer) if training else None
    return {
        "evaluation_ratio": _ratio(evaluation[-1], evaluation[0]),
        "evaluation_ratio_known": _ratio(evaluation[-1], evaluation[1]),
        "training_ratio": _ratio(training[-1], training[0]) if training else None,
        "equal": differ == 0 and (difference is None or difference < 1e-3),
        "judgements_differ": differ,
        "gradient_difference": difference,
        "scores": {name: statistics.fmean(getattr(one, name) for one in judged) for name in ("acc", "con", "con_all")},
        "settings": vars(settings),
        "evaluation": {one.name: one.figures() for one in evaluation},
        "training": {one.name: one.figures() for one in training},
        "environment": environment(settings.device),
    }


def _evaluation(settings: Settings, case: Case, editor: Editor, folder: Path) -> list[Contender]:
    model, few = case.model, case.draws[: settings.plain_edits]
    known = KnownTexts(folder, "benchmark").stores(model, case.draws, all_positions=settings.all_positions)

    def forget() -> None:
        model.frozen_store.clear()
        model.raw_store.clear()

    def batch() -> list[Judgement]:
        return judge(editor, case.draws, all_positions=settings.all_positions, edits_at_once=settings.edits)

    def again() -> list[Judgement]:
        with model.remembering(known):
            return batch()

    def plain() -> list[Judgement]:
        with whole(model):
            return judge_one_by_one(editor, few)

    return [
        Contender(NEW, settings.edits, batch, forget),
        Contender(KNOWN, settings.edits, again),
        Contender(PLAIN, settings.plain_edits, plain),
    ]


def _training(settings: Settings, case: Case, editor: Editor) -> list[Contender]:
    """Gradients of a step; the optimizer's own step, which is the same for both, is left out.

    The batch also runs on the loop's few edits, to show that both compute the same.
    """
    model = case.model
    draws = [drawn[:1] for drawn in case.draws]
    few = draws[: settings.plain_edits]

    def forget() -> None:
        editor.train()
        editor.zero_grad(set_to_none=True)

    def batch(some: Draws) -> list[torch.Tensor]:
        editor.prepare_step(0)
        with fresh_stores(model):
            step_gradients(editor, some, LossWeights())
        return [p.grad.clone() for p in editor.parameters() if p.grad is not None] if some is few else []

    def plain() -> list[torch.Tensor]:
        editor.prepare_step(0)
        with whole(model):
            plain_gradients(editor, few, LossWeights())
        return [p.grad.clone() for p in editor.parameters() if p.grad is not None]

    return [
        Contender(BATCH, settings.edits, lambda: batch(draws), forget),
        Contender(FEW, settings.plain_edits, lambda: batch(few), forget),
        Contender(PLAIN, settings.plain_edits, plain, forget),
    ]


@contextmanager
def whole(model: EditableModel) -> Iterator[None]:
    """Inside the block the model is not cut in two and remembers nothing, as in plain code."""
    block, model.first_edited_block = model.first_edited_block, 0
    try:
        with model.remembering((FrozenStates(0), FrozenStates(0))):
            yield
    finally:
        model.first_edited_block = block


def alternate(
    what: str,
    contenders: Sequence[Contender],
    repeats: int,
    device: str,
    say: Callable[[str], None],
    *,
    until: float = math.inf,
) -> None:
    """All contenders in turn, `repeats` times; after the first time only if that may end before `until`, by
    `time.perf_counter`."""
    for turn in range(repeats):
        if turn and time.perf_counter() + sum(contender.seconds[-1] for contender in contenders) > until:
            return
        for contender in contenders:
            say(f"{what}, run {turn + 1} of {repeats}: {contender.name} ...")
            contender.before()
            with peak_memory(device) as peak:
                start = time.perf_counter()
                contender.answer = contender.run()
                wait(device)
                contender.seconds.append(time.perf_counter() - start)
            contender.peak = max(contender.peak, peak())


def _ratio(slow: Contender, fast: Contender) -> float:
    ratio: float = slow.figures()["seconds_per_edit"] / fast.figures()["seconds_per_edit"]
    return ratio


def _differ(ours: Judgement, theirs: Judgement) -> int:
    """How many of acc, con and con_all differ; a con_all that was not asked for does not count."""
    pairs = ((ours.acc, theirs.acc), (ours.con, theirs.con), (ours.con_all, theirs.con_all))
    return sum(not math.isnan(mine) and mine != other for mine, other in pairs)


def _largest_difference(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    """The largest difference of two gradients, relative to the largest entry of the parameter's gradient."""
    return max(
        float((one - other).abs().max() / other.abs().max().clamp_min(1e-12))
        for one, other in zip(some, others, strict=True)
    )


def environment(device: str) -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": psutil.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }

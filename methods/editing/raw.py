"""The classifier whose mistakes a sweep edits: the one that is given, or one trained from a model in a stage before.

Both families of editors begin with it, and find it in the same cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from transformers import AutoTokenizer

from methods.backbone import model_fingerprint
from methods.backbone.addresses import check_folder, resolve
from methods.editing.classifier import ClassifierConfig, RawClassifier, classifier_folder, train_classifier
from methods.editing.tasks import LabelledTask
from orchestrator.errors import UserError

CLASSIFIER = {"classifier": "raw"}
"""The cell of the trial that trains the classifier."""


class ClassifierOptions(Protocol):
    """What a specification says about its classifier: a trained one, or the model to train one from, and how."""

    @property
    def task(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def classifier(self) -> str | None: ...

    @property
    def classifier_lr(self) -> float | None: ...

    @property
    def classifier_epochs(self) -> int | None: ...

    @property
    def seed(self) -> int: ...


def check_classifier(spec: ClassifierOptions, labelled: bool | None) -> None:
    """Raises UserError if a trained classifier is given that is not there, or for a task that has no use for it.

    Args:
        spec: of the sweep.
        labelled: whether the task corrects a classifier; None: it is not known.
    """
    if spec.classifier is None:
        return
    check_folder(resolve(spec.classifier), spec.classifier)
    if labelled is False:
        raise UserError(
            f"--classifier {spec.classifier} has no use for {spec.task}, which asks a language model. "
            "Leave it out, or give a task with classes: atlas-claims, xnli:... or fever:..."
        )


def classifier_config(spec: ClassifierOptions) -> ClassifierConfig:
    """How the raw classifier is trained."""
    given: dict[str, Any] = {
        "seed": spec.seed,
        "learning_rate": spec.classifier_lr,
        "epochs": spec.classifier_epochs,
    }
    return ClassifierConfig(**{name: value for name, value in given.items() if value is not None})


def classifier_hash(spec: ClassifierOptions, task: LabelledTask, cache: Path) -> str:
    """Names the raw classifier by its content, or by everything that it is trained from."""
    if spec.classifier is not None:
        return model_fingerprint(spec.classifier, cache)
    return classifier_folder(spec.model, task, classifier_config(spec), cache).name


def raw_classifier(spec: ClassifierOptions, task: LabelledTask, *, cache: Path, device: str) -> RawClassifier:
    """The classifier that is given, or the one that is trained from the model, found in the cache where it was trained
    before."""
    config = classifier_config(spec)
    if spec.classifier is None:
        return train_classifier(spec.model, task, config, cache=cache, device=device)
    folder = resolve(spec.classifier)
    return RawClassifier(folder, cache=cache, max_length=config.max_length, device=device)


def in_words(spec: ClassifierOptions) -> str:
    """Where the classifier comes from, for a report."""
    config = classifier_config(spec)
    return spec.classifier or (
        f"trained from {spec.model} on English, learning rate {config.learning_rate:g}, at most {config.epochs} passes"
    )


def tokenizer_of(model: str) -> Any:
    """The tokenizer of a model, which is loaded without its weights."""
    return AutoTokenizer.from_pretrained(resolve(model), trust_remote_code=False, local_files_only=True)

"""The classifier whose mistakes a sweep edits: the one that is given, or one trained from a model in a stage before.

Both families of editors begin with it, and find it in the same cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from transformers import AutoTokenizer

from methods.backbone.addresses import pinned, resolve
from methods.editing.classifier import ClassifierConfig, RawClassifier, classifier_key, train_classifier
from methods.editing.tasks import LabelledTask
from orchestrator.errors import Problems, UserError

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


def edited_model(spec: ClassifierOptions) -> str:
    """The address of what a sweep begins with: the trained classifier, where one is given, else the model."""
    return spec.classifier or spec.model


def edited_content(spec: ClassifierOptions, fingerprint: str) -> str:
    """`edited_model` as it was when `model_fingerprint` read it: a hub id at its commit."""
    return pinned(edited_model(spec), fingerprint)


def check_classifier(spec: ClassifierOptions, labelled: bool | None) -> None:
    """Raises UserError if the task has no use for what is said about a classifier.

    Args:
        spec: of the sweep.
        labelled: whether the task corrects a classifier; None: it is not known.
    """
    problems = Problems()
    said = {
        f"--classifier {spec.classifier}": spec.classifier,
        "--classifier-lr": spec.classifier_lr,
        "--classifier-epochs": spec.classifier_epochs,
    }
    if labelled is False:
        problems.found += [
            f"{option} has no use for {spec.task}, which asks a language model. Leave it out, or give a task with "
            "classes: atlas-claims, xnli:... or fever:..."
            for option, value in said.items()
            if value is not None
        ]
    problems.raise_if_any()


def classifier_config(spec: ClassifierOptions) -> ClassifierConfig:
    """How the raw classifier is trained."""
    given: dict[str, Any] = {
        "seed": spec.seed,
        "learning_rate": spec.classifier_lr,
        "epochs": spec.classifier_epochs,
    }
    return ClassifierConfig(**{name: value for name, value in given.items() if value is not None})


def classifier_hash(spec: ClassifierOptions, task: LabelledTask, fingerprint: str) -> str:
    """Names the raw classifier by its content, or by everything that it is trained from.

    Args:
        spec: of the sweep.
        task: its texts.
        fingerprint: of `edited_model`.

    Raises:
        UserError: it is to be trained, and the task lacks the texts.
    """
    if spec.classifier is not None:
        return fingerprint
    config = classifier_config(spec)
    if lacking := [language for language in config.languages if not _trains_in(task, language)]:
        raise UserError(
            f"The classifier to edit is trained on texts in {', '.join(lacking)}, and {spec.task} has none among the "
            "chosen languages. Add the language to --languages, or give a trained classifier with --classifier."
        )
    return classifier_key(fingerprint, task, config)


def _trains_in(task: LabelledTask, language: str) -> bool:
    return language in task.languages and task.data.count("train", language) > 0


def raw_classifier(
    spec: ClassifierOptions, task: LabelledTask, fingerprint: str, *, cache: Path, device: str
) -> RawClassifier:
    """The classifier that is given, or the one that is trained from the model, found in the cache where it was trained
    before; `fingerprint` is that of `edited_model`."""
    address = edited_content(spec, fingerprint)
    if spec.classifier is None:
        return train_classifier(address, task, classifier_config(spec), cache=cache, device=device)
    return RawClassifier(resolve(address), cache=cache, device=device)


def in_words(spec: ClassifierOptions) -> str:
    """Where the classifier comes from, for a report."""
    config = classifier_config(spec)
    return spec.classifier or (
        f"trained from {spec.model} on English, learning rate {config.learning_rate:g}, at most {config.epochs} passes"
    )


def tokenizer_of(model: str) -> Any:
    """The tokenizer of a model, which is loaded without its weights."""
    return AutoTokenizer.from_pretrained(resolve(model, weights=False), trust_remote_code=False, local_files_only=True)

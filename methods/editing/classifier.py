"""The raw classifier that edits correct: trained once from a base model, kept by content, and what it gets wrong.

Layout::

    <cache>/classifiers/<key>/             config.json, model.safetensors, tokenizer files, card.json
    <cache>/classifiers/predictions/       one .npy for each classifier, split and language

The key names base model, data and every setting, so another request trains another classifier.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as hf_logging

from methods.backbone.addresses import check_folder, model_fingerprint, resolve
from methods.backbone.structure import max_length
from methods.editing.examples import Encoded, Example, encode
from methods.editing.tasks.labelled import LabelledTask
from orchestrator.data.atomic import folder_atomically, write_atomically
from orchestrator.data.content import digest_of
from orchestrator.errors import UserError

VERSION = 1
"""Part of the key: raised when the same request would now train another classifier."""

CARD = "card.json"
_WINDOW = 64
"""Batches whose texts are sorted by length together: long enough to save padding, short enough to stay random."""


class ClassifierConfig(BaseModel):
    """How the raw classifier is trained. The defaults suit a pretrained BERT (Huang et al. 2023 train FEVER likewise);
    small models such as the built-in one want a larger learning rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    languages: tuple[str, ...] = Field(default=("en",), min_length=1, description="languages of the training texts")
    learning_rate: float = Field(default=3e-5, gt=0, description="AdamW, after warm-up falling linearly to zero")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    batch_size: int = Field(default=64, ge=1, description="texts of one step")
    epochs: int = Field(default=3, ge=1, description="passes over the training texts at most")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    patience: int = Field(
        default=2, ge=1, description="passes without better accuracy on dev after which training stops"
    )
    max_length: int = Field(default=128, ge=4, description="tokens of a training text at most")
    seed: int = Field(default=0, ge=0, description="of the new head, the order of texts and dropout")


class RawClassifier:
    """A trained classifier in a folder. The model is loaded when it is first needed.

    Attributes:
        folder: config.json, safetensors and tokenizer.
        cache: where predictions are kept.
    """

    def __init__(self, folder: Path, *, cache: Path, device: str = "cpu") -> None:
        self.folder, self.cache, self.device = folder, cache, device

    @property
    def card(self) -> dict[str, Any]:
        """What is known of a classifier that the product trained: data, settings, accuracy; empty for any other."""
        path = self.folder / CARD
        known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return known

    @cached_property
    def fingerprint(self) -> str:
        """Names configuration, tokenizer and weights by content."""
        return model_fingerprint(str(self.folder), self.cache)

    def predictions(self, task: LabelledTask, split: str, language: str) -> np.ndarray:
        """The class that the classifier gives to every text of a split in a language, int64; computed once.

        Texts are read as the edited model reads them, up to its own limit, however short those of its training were.

        Raises:
            UserError: the classifier has another number of classes than the task.
        """
        texts = task.data.language_fingerprint(language)
        key = digest_of([VERSION, self.fingerprint, texts, split, language])
        path = self.cache / "classifiers" / "predictions" / f"{key}.npy"
        if not path.is_file():
            model, tokenizer = self._loaded
            if model.config.num_labels != task.num_labels:
                raise UserError(
                    f"The classifier {self.folder} has {model.config.num_labels} classes and the task "
                    f"{task.num_labels}, so its mistakes cannot be found. Give one that was trained for this task, or "
                    "none."
                )
            found = _predicted(model, tokenizer, task.examples(split, language), max_length(model))
            buffer = io.BytesIO()
            np.save(buffer, found, allow_pickle=False)
            write_atomically(path, lambda file: file.write(buffer.getvalue()))
        known: np.ndarray = np.load(path, allow_pickle=False)
        return known

    def misread(self, task: LabelledTask, split: str, language: str) -> np.ndarray:
        """The indices of the texts that the classifier gets wrong, ascending: what there is to edit."""
        return np.flatnonzero(self.predictions(task, split, language) != task.labels(split, language))

    def accuracy(self, task: LabelledTask, split: str, language: str) -> float:
        """The share of texts that the classifier gets right; nan where there are none."""
        right = self.predictions(task, split, language) == task.labels(split, language)
        return float(right.mean()) if len(right) else float("nan")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return _load(str(self.folder), self.device)


def train_classifier(
    base: str,
    task: LabelledTask,
    config: ClassifierConfig,
    *,
    cache: Path,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda message: None,
) -> RawClassifier:
    """Trains a classifier on a task's training texts, or finds the one that was trained from the same inputs.

    The state with the best accuracy on dev, in the training languages, is kept. One process trains, others wait for it.

    Args:
        base: built-in name, folder or hub id of a pretrained model.
        task: where texts come from.
        config: how it is trained.
        cache: folder for what is kept.
        device: torch device string.
        progress: called with one sentence for each pass over the texts.

    Raises:
        UserError: the base model cannot be used, or the task has no training texts in these languages.
    """
    folder = cache / "classifiers" / classifier_key(model_fingerprint(base, cache), task, config)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                _train(base, task, config, folder, cache, device, progress)
    return RawClassifier(folder, cache=cache, device=device)


def classifier_key(base: str, task: LabelledTask, config: ClassifierConfig) -> str:
    """Names what `train_classifier` trains, by everything that decides about it.

    Args:
        base: what `model_fingerprint` says of the base model.
        task, config: see `train_classifier`.
    """
    texts = {language: task.data.language_fingerprint(language) for language in config.languages}
    return digest_of([VERSION, base, texts, list(task.data.labels), config.model_dump()])


def _train(
    base: str,
    task: LabelledTask,
    config: ClassifierConfig,
    folder: Path,
    cache: Path,
    device: str,
    progress: Callable[[str], None],
) -> None:
    texts = {split: _texts(task, split, config.languages) for split in ("train", "dev")}
    if not texts["train"]:
        raise UserError(
            f"{task.data.address} has no training texts in {', '.join(config.languages)}, so no classifier can be "
            "trained. Name a trained one, or languages that have training texts."
        )
    started = time.monotonic()
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(config.seed)
        model, tokenizer = _load(base, device, labels=task.data.labels)
        history = _fit(model, tokenizer, texts["train"], texts["dev"], config, progress)
    with folder_atomically(folder) as temporary:
        with _quietly():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        trained = RawClassifier(temporary, cache=cache, device=device)
        trained.__dict__["_loaded"] = (model, tokenizer)
        accuracy = {
            split: {
                language: round(trained.accuracy(task, split, language), 4)
                for language in task.languages
                if task.size(split, language)
            }
            for split in ("dev", "test")
            if split in task.splits
        }
        card = {
            "base": base,
            "data": task.data.address,
            "data_fingerprint": task.data.fingerprint,
            "labels": task.data.labels,
            "settings": config.model_dump(),
            "training_texts": len(texts["train"]),
            "dev_by_pass": history,
            "accuracy": accuracy,
            "seconds": round(time.monotonic() - started, 1),
        }
        (temporary / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False))


def _fit(
    model: Any,
    tokenizer: Any,
    train: Sequence[Example],
    dev: Sequence[Example],
    config: ClassifierConfig,
    progress: Callable[[str], None],
) -> list[float]:
    """Trains in place and ends with the best state. Returns the accuracy on dev after each pass, or minus the loss."""
    rng = np.random.default_rng(config.seed)
    steps = config.epochs * -(-len(train) // config.batch_size)
    rise = max(round(config.warmup * steps), 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / max(steps - rise, 1))
    )
    history: list[float] = []
    best: dict[str, torch.Tensor] = {}
    for number in range(1, config.epochs + 1):
        model.train()
        total = 0.0
        for chosen in _batches(train, config.batch_size, rng):
            batch = encode([train[index] for index in chosen], tokenizer, "classifier", max_length=config.max_length)
            batch = batch.to(model.device)
            loss = torch.nn.functional.cross_entropy(_logits(model, batch), batch.targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(batch)
        right = _predicted(model, tokenizer, dev, config.max_length) == [example.answer[0] for example in dev]
        # Without dev texts the loss decides, and training stops when it no longer falls.
        history.append(round(float(np.mean(right)) if dev else -total / len(train), 4))
        accuracy = f", accuracy on dev {history[-1]:.1%}" if dev else ""
        progress(f"classifier: pass {number} of {config.epochs}, loss {total / len(train):.3f}{accuracy}")
        if number == 1 or history[-1] > max(history[:-1]):
            best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        elif number - 1 - history.index(max(history)) >= config.patience:
            break
    model.load_state_dict(best)
    return history


def _batches(examples: Sequence[Example], size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """All indices in random batches of texts of similar length, in random order."""
    order = rng.permutation(len(examples)).tolist()
    lengths = [len(example.text) + len(example.pair or "") for example in examples]
    batches = []
    for start in range(0, len(order), _WINDOW * size):
        window = sorted(order[start : start + _WINDOW * size], key=lengths.__getitem__)
        batches += [window[first : first + size] for first in range(0, len(window), size)]
    for turn in rng.permutation(len(batches)).tolist():
        yield batches[turn]


@torch.inference_mode()
def _predicted(model: Any, tokenizer: Any, examples: Sequence[Example], limit: int | None) -> np.ndarray:
    """The class given to each text, int64; texts of similar length share a batch."""
    model.eval()
    found = np.zeros(len(examples), np.int64)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].text) + len(examples[i].pair or ""))
    for start in range(0, len(order), 128):
        chosen = order[start : start + 128]
        batch = encode([examples[i] for i in chosen], tokenizer, "classifier", max_length=limit).to(model.device)
        found[chosen] = _logits(model, batch).argmax(-1).cpu().numpy()
    return found


def _logits(model: Any, batch: Encoded) -> torch.Tensor:
    """[B, classes]"""
    types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
    logits: torch.Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **types).logits
    return logits


def _texts(task: LabelledTask, split: str, languages: Sequence[str]) -> list[Example]:
    if split not in task.splits:
        return []
    return [example for language in languages for example in task.examples(split, language)]


def _load(address: str, device: str, labels: Sequence[str] | None = None) -> tuple[Any, Any]:
    """Model and tokenizer; with `labels` a new head is put on a pretrained model."""
    folder = resolve(address)
    check_folder(folder, address)
    head = {} if labels is None else {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
    if labels is not None:
        head["label2id"] = {label: number for number, label in enumerate(labels)}
    try:
        with _quietly():
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                **head,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"Model {address!r} cannot be read as a classifier: {str(error).splitlines()[0]} Use a model of a family "
            "that has a sequence classifier, such as BERT or XLM-R."
        ) from error
    if labels is None and loaded["missing_keys"]:
        raise UserError(
            f"Model {address!r} is no trained classifier: weights of its head are not in its files (such as "
            f"{sorted(loaded['missing_keys'])[0]}). Give a model that was saved as a sequence "
            "classifier, or none to have one trained."
        )
    return model.to(device), tokenizer


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars, and without the news that a new head is new."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()

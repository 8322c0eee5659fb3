"""Loading a model as a backbone: checks first, then memory-mapped weights, then a comparison with the model itself."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging as hf_logging

from methods.backbone import bert, bloom, gpt2, llama, xglm  # noqa: F401  (importing a family registers its packed path)
from methods.backbone.addresses import CONFIG, check_folder, read_json, resolve
from methods.backbone.base import FAMILIES, Backbone
from methods.backbone.dispatch import DispatchedBackbone, dispatch, visible_devices
from methods.backbone.generic import GenericBackbone
from methods.backbone.selfcheck import CHECKED_BLOCKS, DRIVING_ERRORS, SelfCheck, first_line
from methods.backbone.streaming import StreamedBackbone, WeightStream
from methods.backbone.structure import ModelDescription, describe, kind_of
from methods.backbone.unread import unread_model
from methods.backbone.weight_files import WeightFiles
from orchestrator.errors import UserError

logger = logging.getLogger(__name__)

Preference = Literal["fast", "generic"]
Placement = Literal["single", "dispatch", "stream"]
_AUTO = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM}
# What transformers and safetensors raise for files that do not fit together.
_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)


def load_backbone(
    address: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    prefer: Preference = "fast",
    placement: Placement = "single",
    devices: Sequence[str] | None = None,
) -> Backbone:
    """Loads a model for layer-by-layer use.

    Weights are memory-mapped, and shared between processes, as long as `dtype` is the one they are stored in and the
    device is the CPU; otherwise this process gets its own copy.

    Args:
        address: built-in name (``atlas-bert``), local folder, or hub id (``org/name``, optionally ``@revision``).
        dtype: of weights and states.
        device: torch device string.
        prefer: ``"fast"`` takes a packed path where one exists and agrees with the model; ``"generic"`` always calls
            the model's own blocks.
        placement: ``"single"`` puts the whole model on the device; ``"dispatch"`` shares its blocks out over several
            (dispatch.py); ``"stream"`` reads them from disk while they are used (streaming.py).
        devices: what to dispatch over; default: all GPUs that this process may use.

    Raises:
        UserError: the model is not there, incomplete, only pickled, or cannot be seen layer by layer.
    """
    folder = resolve(address)
    check_folder(folder, address)
    kind, config = read_configuration(folder, address)
    needed = "every score meaningless. Pass a model that was saved with its language-model head."
    if placement == "single":
        model, tokenizer = read_model(_AUTO[kind], folder, address, needed, dtype=dtype, config=config)
        _check_tokenizer(tokenizer, model, address)
        return view_model(model.to(device), tokenizer, prefer)
    unread = unread_model(_AUTO[kind], config, WeightFiles(folder, address), address, needed, dtype)
    tokenizer = read_tokenizer(folder, address)
    _check_tokenizer(tokenizer, unread.model, address)
    if placement == "dispatch":
        places, largest = dispatch(unread, visible_devices() if devices is None else devices)
        check = SelfCheck(unread.model, places[-1].device)
        return _view(unread.model, tokenizer, prefer, check, lambda inner: DispatchedBackbone(inner, places, largest))
    stream = WeightStream(unread, device)
    stream.last_ahead = depth = min(CHECKED_BLOCKS, len(unread.blocks))
    check = SelfCheck(unread.model, stream.device, depth)
    backbone = _view(unread.model, tokenizer, prefer, check, lambda inner: StreamedBackbone(inner, stream))
    stream.last_ahead = len(unread.blocks)
    return backbone


def read_model(
    auto: Any, folder: Path, address: str, needed: str, *, dtype: torch.dtype, **more: Any
) -> tuple[Any, Any]:
    """A model and its tokenizer, from a folder that `check_folder` has passed.

    Args:
        auto: the transformers class to load with, such as ``AutoModelForMaskedLM``.
        folder, address: where it lies, and how the user named it.
        needed: ends the message about weights that the files lack: what they would make, and the way out.
        dtype: of the weights.
        more: passed on to transformers.

    Raises:
        UserError: the files cannot be read, or some weights are not in them.
    """
    try:
        with _without_progress_bars():
            model, loaded = auto.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **more,
            )
    except _LOADING_ERRORS as error:
        raise _unreadable(folder, address, error) from error
    tokenizer = read_tokenizer(folder, address)
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise UserError(
            f"Model {address!r}: {len(missing)} weights of {type(model).__name__} are not in its files, first "
            f"{missing[0]}; they would be random and {needed}"
        )
    return model, tokenizer


def read_tokenizer(folder: Path, address: str) -> Any:
    """The tokenizer in a model folder. Raises UserError when its files cannot be read."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except _LOADING_ERRORS as error:
        raise _unreadable(folder, address, error) from error


def _unreadable(folder: Path, address: str, error: Exception) -> UserError:
    return UserError(
        f"Model {address!r} could not be read from {folder}: {first_line(error)} Check that all its files belong "
        "together and are complete."
    )


def view_model(model: Any, tokenizer: Any, prefer: Preference = "fast") -> Backbone:
    """Wraps a Hugging Face model that is already in memory; switches it to evaluation without gradients.

    The chosen path is compared with the model's own forward pass on two short sequences. A packed path that disagrees
    gives way to the generic one with a warning; a generic one that disagrees is refused.

    Raises:
        UserError: the model's layers cannot be seen.
    """
    model.eval().requires_grad_(False)
    return _view(model, tokenizer, prefer, SelfCheck(model, model.device), lambda inner: inner)


def _view(
    model: Any, tokenizer: Any, prefer: Preference, check: SelfCheck, wrap: Callable[[Backbone], Backbone]
) -> Backbone:
    """The first path that the check agrees with."""
    architecture = type(model).__name__
    if prefer == "fast":
        obstacle = _obstacle(architecture, model.config)
        if obstacle is None:
            backbone = wrap(FAMILIES[architecture](model, tokenizer, check.device))
            if check.disagreement(backbone) <= 1:
                return backbone
            obstacle = "its packed path does not give the model's own scores"
        _warn_once(
            f"{architecture} (model type {model.config.model_type!r}) runs on the generic path because {obstacle}: "
            "exact, but several times slower."
        )
    return _generic(model, tokenizer, check, wrap)


def describe_model(address: str, *, classifier: bool = False) -> ModelDescription:
    """A model's kind and sizes from its configuration alone, without reading its weights.

    Args:
        address: built-in name, local folder or hub id.
        classifier: of a classifier of texts; see `read_configuration`.

    Raises:
        UserError: the model is not there, or its configuration is not one of a masked or causal language model, or of
            a classifier.
    """
    folder = resolve(address, weights=False)
    kind, config = read_configuration(folder, address, classifier=classifier)
    with torch.device("meta"):
        model = _AUTO[kind].from_config(config, trust_remote_code=False)
    return describe(model, fast=_obstacle(type(model).__name__, config) is None)


def read_configuration(folder: Path, address: str, *, classifier: bool = False) -> tuple[str, Any]:
    """Masked or causal, and the configuration, from config.json.

    Args:
        folder, address: where it lies, and how the user named it.
        classifier: it is of a classifier of texts, and is returned as that of the language model with the same blocks
            and embeddings, which weighs about the same.

    Raises:
        UserError: it is missing, or not that of a masked or causal language model, or of a classifier, that
            transformers knows.
    """
    if not (folder / CONFIG).is_file():
        check_folder(folder, address)
    content = read_json(folder / CONFIG)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except _LOADING_ERRORS as error:
        raise UserError(
            f"Model {address!r}: {folder / CONFIG} describes a model that transformers does not know, or only by "
            f"running the model's own code, which is refused: {first_line(error)} Use a model type that is part of "
            "transformers."
        ) from error
    names = content.get("architectures") or []
    if classifier:
        names = config.architectures = [_language_model(names, config.model_type, address)]
    kinds = {kind_of(name) for name in names} - {None}
    if len(kinds) != 1 or config.is_encoder_decoder:
        raise UserError(
            f"Model {address!r}: {folder / CONFIG} names its architecture as {', '.join(names) or 'nothing'}, which is "
            "no masked or causal language model, so there is no probe for it. Use a ...ForMaskedLM or ...ForCausalLM "
            'model; if the weights are from one, name it in config.json under "architectures".'
        )
    kind = kinds.pop()
    assert kind is not None
    return kind, config


def _language_model(names: Sequence[str], model_type: str, address: str) -> str:
    """The class of the language model that has the blocks and embeddings of a classifier."""
    if not set(names) & set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values()):
        raise UserError(
            f"Model {address!r} is to be a trained classifier, and its config.json names its architecture as "
            f"{', '.join(names) or 'nothing'}. Give a ...ForSequenceClassification model, or none: then one is trained "
            "from the language model."
        )
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return known.get(model_type, "a classifier without a language model")


def check_offsets(tokenizer: Any, kind: str | None, address: str) -> None:
    """Checks that a tokenizer can do what causal models are asked with: tell where in a text its tokens stand.

    Raises:
        UserError: it is one of transformers' slow tokenizers, and the model is causal.
    """
    if kind == "causal" and not tokenizer.is_fast:
        raise UserError(
            f"Model {address!r}: its {type(tokenizer).__name__} is a slow tokenizer, which does not tell where in a "
            "text its tokens stand, so an object could not be found in its sentence. Save its fast version, a "
            "tokenizer.json, into the model's folder (transformers.convert_slow_tokenizer makes one of most), or "
            "choose a model that has it."
        )


def _check_tokenizer(tokenizer: Any, model: Any, address: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"Model {address!r}: its tokenizer has {tokenizer.vocab_size} tokens and the model only {rows} embeddings, "
            "so they do not belong together. Save the tokenizer the model was trained with into the same folder."
        )
    kind = kind_of(type(model).__name__)
    check_offsets(tokenizer, kind, address)
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise UserError(
            f"Model {address!r} is a masked model, but its tokenizer names no mask token, so there is nothing to "
            "fill in. Set mask_token in its tokenizer_config.json."
        )


def _obstacle(architecture: str, config: Any) -> str | None:
    """Why the packed path is closed to a model, in words; None when it is open."""
    family = FAMILIES.get(architecture)
    return "there is no packed path for it" if family is None else family.obstacle(config)


def _generic(model: Any, tokenizer: Any, check: SelfCheck, wrap: Callable[[Backbone], Backbone]) -> Backbone:
    try:
        backbone = wrap(GenericBackbone(model, tokenizer, check.device))
        agrees = check.disagreement(backbone) <= 1
        reason = (
            "its blocks and vocabulary matrix, called one by one, do not give the model's own scores (some models "
            "scale or cap their scores afterwards, or mix the states of several blocks)"
        )
    except torch.OutOfMemoryError:
        raise
    except DRIVING_ERRORS as error:
        agrees, reason = False, f"its blocks cannot be called one by one ({first_line(error)})"
    if not agrees:
        raise UserError(
            f"{type(model).__name__} cannot be seen layer by layer: {reason}, so a layer search on it would be wrong. "
            "Use a model whose layers form a plain chain, such as BERT, XLM-R, BLOOM, GPT-2, XGLM or Llama."
        )
    return backbone


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """A memory-mapped model loads in a moment, and many workers load it: no bar for each."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)

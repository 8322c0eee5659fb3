"""From a model's address to a checked folder, and from its content to a fingerprint.

An address is a built-in name (``atlas-bert``), a local folder, or a Hugging Face hub id (``org/name``, optionally
``@revision``). Only safetensors weights are accepted: pickled weights run code when they are read.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from orchestrator.errors import Problems, UserError, did_you_mean

CONFIG = "config.json"
WEIGHT_INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Files from which a tokenizer can be made; the others only describe one.
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
NO_WEIGHTS = (
    "The weights of {} are not at hand, so nothing can be measured and finished trials are not recognised: the plan is "
    "computed from configuration, tokenizer and facts."
)
"""What a plan says of a model that is not there."""
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")
_COMMIT = "commit-"
_HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")


def builtin_models() -> dict[str, Path]:
    """The models that come with the project, by name."""
    try:
        folder = Path(str(importlib.resources.files("atlas"))) / "models"
    except ModuleNotFoundError:
        return {}
    return {entry.parent.name: entry.parent for entry in sorted(folder.glob(f"*/{CONFIG}"))}


def resolve(address: str, *, weights: bool = True) -> Path:
    """The local folder behind an address; hub ids are downloaded into the hub's cache first.

    Args:
        address: built-in name, folder or hub id.
        weights: from the hub, fetch the weights too; else only configuration and tokenizer.

    Raises:
        UserError: there is no such model, or the hub cannot be reached.
    """
    builtin = builtin_models()
    if address in builtin:
        return builtin[address]
    folder = Path(address).expanduser()
    if folder.is_dir():
        return folder.resolve()
    match = _HUB_ID.fullmatch(address)
    if match is None or address.startswith("."):
        raise UserError(
            f"There is no model folder {address!r}, and it cannot be a hub id. Give a folder with config.json and "
            f"safetensors weights, a hub id such as 'org/name', or a built-in model ({', '.join(builtin) or 'none'})."
        )
    wanted = [CONFIG, *TOKENIZER_FILES, *(["*.safetensors", WEIGHT_INDEX] if weights else [])]
    try:
        return Path(
            huggingface_hub.snapshot_download(
                match["id"], revision=match["revision"], allow_patterns=wanted, ignore_patterns=["*/*"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Model {address!r} is neither a folder nor a built-in model, and the hub did not give it: {reason} "
            "Check the name, or download the model on a machine with access and pass its folder."
            + did_you_mean(address, builtin)
        ) from error


def check_model(address: str, *, weights: bool = True) -> None:
    """Checks that a model is there, complete and safe to read, without reading its weights.

    Args:
        address: built-in name, folder or hub id.
        weights: they must be at hand; else configuration and tokenizer are enough, as for a plan.

    Raises:
        UserError: with everything that is missing.
    """
    check_folder(resolve(address, weights=weights), address, weights=weights)


def has_weights(address: str) -> bool:
    """Whether a model's weights are at hand, all of them; the hub is not asked for them."""
    return _weight_problem(resolve(address, weights=False), address) is None


def check_folder(folder: Path, address: str, *, weights: bool = True) -> None:
    """Checks that a model folder is complete and safe to read; without `weights`, that all but these is.

    Raises:
        UserError: with everything that is missing.
    """
    problems = Problems()
    if not (folder / CONFIG).is_file():
        problems.add(
            f"Model {address!r}: {folder} has no config.json, so nothing says what kind of model it is. Save the model "
            "with save_pretrained(), which writes it, or pass another folder."
        )
    problem = _weight_problem(folder, address)
    if problem and weights:
        problems.add(problem)
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        problems.add(
            f"Model {address!r}: {folder} has no tokenizer ({', '.join(_VOCABULARIES)}), so text cannot be turned into "
            "the model's tokens. Save the tokenizer it was trained with into the same folder with save_pretrained()."
        )
    problems.raise_if_any()


def _weight_problem(folder: Path, address: str) -> str | None:
    found = {path.name for path in folder.glob("*.safetensors")}
    if (folder / WEIGHT_INDEX).is_file():
        index: dict[str, Any] = read_json(folder / WEIGHT_INDEX)
        missing = sorted(set(index.get("weight_map", {}).values()) - found)
        if missing:
            return (
                f"Model {address!r}: {len(missing)} of the weight files that {WEIGHT_INDEX} names are missing from "
                f"{folder}, first {missing[0]}. Copy or download the model again."
            )
    if found:
        return None
    others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    if others:
        return (
            f"Model {address!r}: {folder} has weights only as {', '.join(others[:3])}. Such files can run code when "
            "they are read, so they are refused. If you trust them, convert them once with transformers: "
            "AutoModelForMaskedLM (or ...CausalLM, ...Seq2SeqLM).from_pretrained(folder).save_pretrained(new_folder), "
            "which writes model.safetensors, and save the tokenizer there too."
        )
    return (
        f"Model {address!r}: {folder} has no weights (model.safetensors), so there is nothing to run. Download the "
        "whole model, or pass another folder."
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model folder. Raises UserError naming file and line where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}), so the model cannot be read. Download it again.") from error
    return content


def model_fingerprint(address: str, cache: Path | None = None, *, weights: bool = True) -> str:
    """What identifies a model's content: equal fingerprints give equal answers.

    A folder's fingerprint is the SHA-256 of its configuration, tokenizer files and weights; where the folder lies and
    what it is called do not matter. A hub model's is its commit, which the hub guarantees to be immutable.

    Args:
        address: built-in name, folder or hub id.
        cache: directory where hashes of large files are remembered by path, size and modification time.
        weights: from the hub, fetch the weights too.
    """
    folder = resolve(address, weights=weights)
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):  # the hub's own cache
        return f"{_COMMIT}{folder.name}"
    names = sorted({CONFIG, WEIGHT_INDEX, *TOKENIZER_FILES} | {path.name for path in folder.glob("*.safetensors")})
    present = [folder / name for name in names if (folder / name).is_file()]
    return hashlib.sha256("".join(f"{p.name}\n{_file_hash(p, cache)}\n" for p in present).encode()).hexdigest()


def pinned(address: str, fingerprint: str) -> str:
    """The address of just the content that a fingerprint stands for: of a hub id that id at the commit.

    A hub id without a commit means another model as soon as its repository moves on. Folders and built-in names are
    returned as they are.

    Args:
        address: built-in name, folder or hub id.
        fingerprint: what `model_fingerprint` said of it.
    """
    commit, match = fingerprint.removeprefix(_COMMIT), _HUB_ID.fullmatch(address)
    if commit == fingerprint or match is None or address in builtin_models() or Path(address).expanduser().is_dir():
        return address
    return f"{match['id']}@{commit}"


def _file_hash(path: Path, cache: Path | None) -> str:
    status = path.stat()
    identity = f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
    memo = None if cache is None else cache / "fingerprints" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if memo is not None and memo.is_file():
        return memo.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if memo is not None:
        _write_atomically(memo, digest)
    return digest


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)

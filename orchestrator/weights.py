"""Bringing a checkpoint to nodes that do not see the driver's folder: once for each node, checked, and then mapped.

Where nodes share a file system, or have the model themselves, nothing is copied: every trial maps the files, and the
trials of a node share their pages. Elsewhere a study's local model folders travel through the Ray object store, in
chunks that live only as long as a node needs them, into the node's cache. The first trial there that needs a folder
brings it, under a file lock and under its content's name; the others wait and find it.

Only what a model folder is made of travels: safetensors, JSON, and the files of tokenizers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from orchestrator.data.atomic import folder_atomically
from orchestrator.data.content import content_hash, digest_of
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.study import Study

CHUNK_BYTES = 32 * 2**20
AHEAD = 2
"""Chunks that are under way to a node while one is written: 96 MB of its object store."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|json|txt|model)")


@dataclass(frozen=True)
class Checkpoint:
    """A model folder by its content.

    Attributes:
        folder: where it is on the driver's node.
        files: name, bytes and SHA-256 of every file.
    """

    folder: Path
    files: tuple[tuple[str, int, str], ...]

    @property
    def name(self) -> str:
        """Of its copy in a node's cache; equal content has equal names."""
        return digest_of([list(file) for file in self.files])

    def is_at(self, folder: Path, cache: Path) -> bool:
        """Whether a folder has all these files by content: another model in the same place has the same sizes.

        Args:
            folder: on this node.
            cache: where hashes are remembered; shared with the driver, it knows those of files seen over the network.
        """
        sizes = ((folder / name).stat().st_size == size for name, size, _ in self.files if (folder / name).is_file())
        return sum(sizes) == len(self.files) and all(
            content_hash(folder / name, (), cache / "hashes") == digest for name, _, digest in self.files
        )


def checkpoint(folder: Path, cache: Path) -> Checkpoint:
    """What a model folder holds.

    Args:
        folder: on this node.
        cache: where hashes of large files are remembered.

    Raises:
        UserError: a file cannot be read.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and _NAME.fullmatch(file.name))
    hashes = [content_hash(file, (), cache / "hashes") for file in files]
    described = zip(files, hashes, strict=True)
    return Checkpoint(folder, tuple((file.name, file.stat().st_size, digest) for file, digest in described))


class WeightSource:
    """An actor on the driver's node that reads the files of checkpoints for other nodes, and no other files."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self.paths = {
            (each.name, name): each.folder / name for each in checkpoints for name, _, _ in each.files if _allowed(name)
        }

    def read(self, checkpoint: str, name: str, start: int) -> bytes:
        """A chunk of a file."""
        with self.paths[checkpoint, name].open("rb") as file:
            file.seek(start)
            return file.read(CHUNK_BYTES)


@dataclass(frozen=True)
class Offer:
    """What the driver has for nodes that lack it: checkpoints by the field of the specification that names them."""

    checkpoints: Mapping[str, Checkpoint]
    source: Any = None


def offer(study: Study[Any], nodes: int) -> Offer:
    """Offers the local model folders of a study to the other nodes; to be called on the driver, with Ray running.

    Args:
        study: prepared.
        nodes: machines of the cluster; one alone needs no offer.
    """
    named = {field: getattr(study.spec, field, None) for field in study.checkpoints}
    folders = {field: Path(str(value)).expanduser() for field, value in named.items() if value}
    local = {field: folder.resolve() for field, folder in folders.items() if folder.is_dir()}
    if nodes < 2 or not local:
        return Offer({})
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = {field: checkpoint(folder, study.cache) for field, folder in local.items()}
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    source = ray.remote(WeightSource).options(num_cpus=0, max_concurrency=4, scheduling_strategy=here)
    return Offer(found, source.remote(list(found.values())))


def at_hand(study: Study[Any], offered: Offer, cache: Path) -> None:
    """Makes a study's specification name folders that this node has; called on a worker before it loads.

    Args:
        study: this worker's; its specification is replaced where a folder was brought.
        offered: by the driver.
        cache: of this node.

    Raises:
        UserError: what arrived is not what was sent, or the cache cannot be written to.
    """
    brought = {}
    for field, wanted in offered.checkpoints.items():
        if not wanted.is_at(wanted.folder, cache):
            brought[field] = str(bring(wanted, offered.source, cache))
    if brought:
        study.spec = study.spec.model_copy(update=brought)


def bring(wanted: Checkpoint, source: Any, cache: Path) -> Path:
    """The copy of a checkpoint in this node's cache, made by the first that asks while the others wait.

    Args:
        wanted: which.
        source: handle of the `WeightSource` that has it.
        cache: of this node.

    Raises:
        UserError: a file's name is not one of a model's, or what arrived is not what was sent.
    """
    for name, _, _ in wanted.files:
        if not _allowed(name):
            raise UserError(f"{name!r} is no file of a model, so it was not copied to this node.")
    place = cache / "weights" / wanted.name
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.is_dir():
            with folder_atomically(place) as folder:
                for name, size, digest in wanted.files:
                    _copy(wanted.name, name, size, digest, source, folder / name)
    return place


def _copy(checkpoint: str, name: str, size: int, digest: str, source: Any, path: Path) -> None:
    import ray

    chunks = (source.read.remote(checkpoint, name, start) for start in range(0, size, CHUNK_BYTES))
    under_way = list(islice(chunks, AHEAD))
    seen = hashlib.sha256()
    with path.open("xb") as file:
        while under_way:
            chunk = ray.get(under_way.pop(0))
            under_way += islice(chunks, 1)
            seen.update(chunk)
            file.write(chunk)
    if seen.hexdigest() != digest:
        raise UserError(
            f"{name} arrived at this node with other bytes than the driver's, so the model was not loaded. The file "
            "was changed while the sweep ran, or a disk is failing: run the same command again."
        )


def _allowed(name: str) -> bool:
    """Whether a name is a plain file name of a kind that models consist of."""
    return _NAME.fullmatch(name) is not None

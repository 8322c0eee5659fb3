"""Bringing a checkpoint to a node that lacks it: once, whole, checked, and only what a model consists of."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import weights
from orchestrator.errors import UserError
from orchestrator.weights import Checkpoint, Offer, WeightSource, at_hand, bring, checkpoint


class Remote:
    """Calls what Ray would call on another node, and counts the calls."""

    def __init__(self, function: Callable[..., bytes]) -> None:
        self.function, self.calls = function, 0

    def remote(self, *arguments: Any) -> bytes:
        self.calls += 1
        return self.function(*arguments)


class Handle:
    """Stands for the handle of a source on another node."""

    def __init__(self, *checkpoints: Checkpoint) -> None:
        self.read = Remote(WeightSource(checkpoints).read)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHUNK_BYTES", 1000)
    monkeypatch.setattr("ray.get", lambda chunk: chunk)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "empty.txt").touch()
    (folder / "pytorch_model.bin").write_bytes(b"runs code when it is read")
    (folder / ".hidden.json").write_text("{}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_node_gets_the_files_of_a_model_and_no_others(model: Path, tmp_path: Path) -> None:
    wanted = checkpoint(model, tmp_path / "driver")
    place = bring(wanted, Handle(wanted), tmp_path / "node")
    assert contents(place) == {
        name: (model / name).read_bytes() for name in ("config.json", "empty.txt", "model.safetensors")
    }


def test_it_comes_once_however_many_trials_ask(model: Path, tmp_path: Path) -> None:
    wanted = checkpoint(model, tmp_path / "driver")
    handle, places = Handle(wanted), []
    trials = [
        threading.Thread(target=lambda: places.append(bring(wanted, handle, tmp_path / "node"))) for _ in range(6)
    ]
    for trial in trials:
        trial.start()
    for trial in trials:
        trial.join()
    assert len(set(places)) == 1
    assert handle.read.calls == 1 + 6  # config.json, and 5,120 bytes in chunks of 1,000


def test_equal_content_has_one_name_wherever_it_lies(model: Path, tmp_path: Path) -> None:
    first = checkpoint(model, tmp_path / "driver")
    moved = model.rename(tmp_path / "elsewhere")
    assert checkpoint(moved, tmp_path / "driver").name == first.name
    (moved / "config.json").write_text('{"layers": 2}')
    assert checkpoint(moved, tmp_path / "driver").name != first.name


def test_other_bytes_than_the_drivers_are_refused_and_leave_nothing(model: Path, tmp_path: Path) -> None:
    wanted = checkpoint(model, tmp_path / "driver")
    (model / "model.safetensors").write_bytes(bytes(5120))
    with pytest.raises(UserError, match=r"model\.safetensors arrived"):
        bring(wanted, Handle(wanted), tmp_path / "node")
    assert not list((tmp_path / "node" / "weights").glob("*/"))
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    assert bring(wanted, Handle(wanted), tmp_path / "node").is_dir()


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", ".ssh.json", "model.bin", "a/b.json", "x.json\n"])
def test_a_name_that_is_no_file_of_a_model_is_refused(name: str, model: Path, tmp_path: Path) -> None:
    wanted = Checkpoint(model, ((name, 2, hashlib.sha256(b"{}").hexdigest()),))
    with pytest.raises(UserError, match="no file of a model"):
        bring(wanted, Handle(wanted), tmp_path / "node")
    with pytest.raises(KeyError):
        WeightSource([wanted]).read(wanted.name, name, 0)


class Spec:
    """A specification with a model, as a study has one."""

    def __init__(self, model: str) -> None:
        self.model = model

    def model_copy(self, update: dict[str, str]) -> Spec:
        return Spec(update["model"])


class Wanting:
    """A study, as far as its specification goes."""

    def __init__(self, model: Path) -> None:
        self.spec = Spec(str(model))


def test_a_node_that_sees_the_folder_uses_it_in_place(model: Path, tmp_path: Path) -> None:
    wanted, study = checkpoint(model, tmp_path / "driver"), Wanting(model)
    at_hand(study, Offer({"model": wanted}), tmp_path / "node")  # type: ignore[arg-type]
    assert study.spec.model == str(model)
    assert not (tmp_path / "node" / "weights").exists()


def test_another_model_of_the_same_sizes_in_its_place_is_not_taken_for_it(model: Path, tmp_path: Path) -> None:
    wanted, study = checkpoint(model, tmp_path / "driver"), Wanting(tmp_path / "there")
    shutil.copytree(model, tmp_path / "there")
    (tmp_path / "there" / "model.safetensors").write_bytes(bytes(256 * 20))
    there = Checkpoint(tmp_path / "there", wanted.files)
    at_hand(study, Offer({"model": there}, Handle(wanted)), tmp_path / "node")  # type: ignore[arg-type]
    assert contents(Path(study.spec.model))["model.safetensors"] == (model / "model.safetensors").read_bytes()


def test_elsewhere_the_specification_names_the_nodes_copy(model: Path, tmp_path: Path) -> None:
    wanted, study = checkpoint(model, tmp_path / "driver"), Wanting(model)
    handle = Handle(wanted)
    unseen = Checkpoint(tmp_path / "not on this node", wanted.files)
    at_hand(study, Offer({"model": unseen}, handle), tmp_path / "node")  # type: ignore[arg-type]
    assert contents(Path(study.spec.model)).keys() == {"config.json", "empty.txt", "model.safetensors"}

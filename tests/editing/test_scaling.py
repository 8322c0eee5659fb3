"""Planned sweeps of editors: operations as counted are those that run; document and presets say what is planned."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from jobs import editor_sweep
from jobs import plan as plan_job
from methods.backbone.structure import describe
from methods.editing.editors import EDITORS, build_editor
from methods.editing.evaluation import judge
from methods.editing.examples import EditSample, Example
from methods.editing.footprint import LABELS, TOKENS, TUNING_STEPS, editor_weights, judged_flops, step_flops
from methods.editing.gradients import LossWeights, fresh_stores, step_gradients
from methods.editing.model import EditableModel
from methods.editing.outcome import Method
from methods.editing.scaling import Sweep
from methods.editing.spec import Cell, EditorSpec
from methods.scaling import BLOOMS, MACHINES, summary
from orchestrator import ray_session
from orchestrator.cli import main
from orchestrator.placement import Node
from tests.backbone.tiny import WORDS, tiny_model, tiny_tokenizer
from tests.conftest import ROOT
from tests.editing.tiny import TARGETS

GB = 10**9
LEARNED: dict[str, dict[str, Any]] = {
    "mend": {"rank": 200},
    "editable-training": {},
    "knowledge-editor": {"encoder_hidden": 16, "condition_size": 24, "hidden": 16},
}
EDITS, RETAINS = 4, 2


class Counted(TorchDispatchMode):
    """Counts the operations of all matrix products inside the block, those of the way back too."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.flops += 0 if count is None else count(*args, **(kwargs or {}), out_val=result)
        return result


def preset(model: str) -> Path:
    return ROOT / "jobs" / "presets" / f"editors_{model.replace('-', '_')}.yaml"


def wide(hidden: int = 256) -> EditableModel:
    """A BLOOM that is wider than its texts are long, as real ones are."""
    return EditableModel(tiny_model("bloom", 8, hidden_size=hidden), tiny_tokenizer("causal"), "causal")


def texts(number: int) -> list[Example]:
    """Texts of `TOKENS` tokens with an answer of `LABELS`, all different."""
    draw = random.Random(number)
    found = []
    for _ in range(number):
        prompt = " ".join(draw.choices(WORDS, k=TOKENS - LABELS + 1))
        found.append(Example(prompt, "en", None, tuple(draw.choices(TARGETS, k=LABELS))))
    return found


def draws() -> list[list[EditSample]]:
    """As many edits as a step has, each with its update and its unrelated texts."""
    found = texts(EDITS * (2 + RETAINS))
    lists = []
    for place in range(EDITS):
        edit, update, *retains = found[place::EDITS]
        lists.append([EditSample(str(place), edit, update, Example(text.text, "en")) for text in retains])
    return lists


@pytest.mark.parametrize("name", LEARNED)
def test_a_training_step_costs_what_is_counted(name: str) -> None:
    model = wide()
    editor = build_editor(EDITORS[name].Config(**LEARNED[name]), model, ["en"]).train()
    spec = EditorSpec(edits_per_step=EDITS, retains_per_edit=RETAINS)
    cell = Cell(Method(name, "mono", "en", "none"), tuple(LEARNED[name].items()), 0)
    with Counted() as counter, fresh_stores(model):
        step_gradients(editor, draws(), LossWeights())
    assert counter.flops == pytest.approx(step_flops(describe(model.hf, fast=True), "causal", spec, cell), rel=0.3)


@pytest.mark.parametrize("name", [*LEARNED, "fine-tuning"])
def test_a_judgement_costs_what_is_counted(name: str) -> None:
    model = wide(128 if name == "fine-tuning" else 256)
    tuning = {"lr": 1e-12, "max_steps": TUNING_STEPS}
    config = EDITORS[name].Config(**LEARNED.get(name, tuning))
    editor = build_editor(config, model, ["en"])
    with Counted() as counter, fresh_stores(model):
        judge(editor, draws())
    counted = EDITS * judged_flops(describe(model.hf, fast=True), "causal", config, 1, RETAINS)
    assert counter.flops == pytest.approx(counted, rel=0.3)


@pytest.mark.parametrize("name", LEARNED)
def test_parameters_are_counted(name: str) -> None:
    config = EDITORS[name].Config(**LEARNED[name])
    model = wide()
    editor = build_editor(config, model, ["en"])
    counted = editor_weights(describe(model.hf, fast=True), config)
    assert sum(weight.numel() for weight in editor.parameters()) == pytest.approx(counted, rel=0.15)


def test_the_table_of_the_document_is_what_the_planner_computes() -> None:
    text = (ROOT / "cluster" / "SCALING.md").read_text(encoding="utf-8")
    for line in plan_job.editor_tables():
        assert line in text, f"{line!r}: replace the table by the output of 'python jobs/plan.py --table editors'"


@pytest.mark.parametrize("model", BLOOMS)
def test_presets_of_all_blooms_say_what_the_planner_says(model: str) -> None:
    spec = plan_job.read_spec(["--config", str(preset(model))])
    assert isinstance(spec, EditorSpec)
    size = model.removeprefix("bloom-")
    assert spec.model == ("bigscience/bloom" if size == "176b" else f"bigscience/bloom-{size}")
    sweep = Sweep.of(spec)
    text = preset(model).read_text(encoding="utf-8")
    for machines, nodes in MACHINES.items():
        assert f"#   {machines}: {summary(sweep, nodes)}\n" in text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tiny BLOOM whose weights are not at hand."""
    home = tmp_path_factory.mktemp("home")
    tiny_model("bloom").save_pretrained(home / "model")
    tiny_tokenizer("causal").save_pretrained(home / "model")
    (home / "model" / "model.safetensors").unlink()
    return home


@pytest.mark.parametrize("model", BLOOMS)
def test_every_preset_is_planned_for_a_bloom_of_ones_own(
    model: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session, "this_machine", lambda with_gpus: Node(128, 16, 1000 * GB, 80 * GB))
    monkeypatch.setenv("COLUMNS", "400")
    words = ["--config", str(preset(model)), "--model", str(home / "model"), "--task", "atlas-facts", "--dry-run"]
    code = main(editor_sweep.SPECS, editor_sweep.study, description="", argv=[*words, "--output", str(home)])
    out, errors = capsys.readouterr()
    assert code == 0, errors
    assert "are not at hand" in errors
    assert "computed and not measured" in out
    assert ("Plan: Taken: ZeRO-3 over 16 GPUs" if model == "bloom-176b" else "Plan: Taken: single") in out


def test_editors_are_planned_by_their_preset_and_the_options_beside_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["jobs/plan.py", *words])
        return plan_job.guarded(plan_job.run, ""), *capsys.readouterr()

    monkeypatch.setenv("COLUMNS", "400")
    large, small = str(preset("bloom-176b")), str(preset("bloom-560m"))
    code, out, _ = planned("--config", large, "--gpus", "8", "--nodes", "4")
    assert code == 0
    assert "ZeRO-3 over 16 GPUs: fits" in out
    assert "each process gathers" in out
    assert planned("--config", large, "--gpus", "8")[0] == 2
    code, out, _ = planned("--config", small, "--model", "bloom-1b1")
    assert code == 0
    assert "bloom-1b1 in float32: 4.3 GB of weights, 24 blocks" in out
    middle = ("--config", str(preset("bloom-7b1")), "--gpus", "8", "--gpu-memory", "24GB")
    assert "Taken: single on CPU cores" in planned(*middle)[1], "fine-tuning cannot be sharded"
    code, out, _ = planned(*middle, "--editors", "mend")
    assert code == 0
    assert "Taken: ZeRO-3 over 4 GPUs" in out
    code, _, errors = planned("--config", small, "--pairs", "1/2")
    assert code == 2
    assert "--pairs" in errors
    assert "--study lrp2" in errors
    code, _, errors = planned("--config", str(ROOT / "jobs" / "presets" / "editors_atlas.yaml"))
    assert code == 2
    assert "--task atlas-facts cannot be planned without its data" in errors

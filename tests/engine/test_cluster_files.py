"""The cluster files, as far as they can be checked without a cluster: their syntax, what they name, what they start."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"


# In place of a command: writes down how it was called, knows names and address of the nodes, waits until they are up.
STAND_IN = """#!/usr/bin/env bash
echo "${0##*/} $*" >> "$CALLS"
[ "${0##*/}" != scontrol ] || printf 'node1\\nnode2\\n'
[[ "$*" != *"hostname --ip"* ]] || echo 10.0.0.1
[ "$1" != - ] || until [ "$(grep -c ' ray start ' "$CALLS")" = 2 ]; do sleep 0.01; done
"""


def slurm_calls(tmp_path: Path, environment: Mapping[str, str]) -> list[str]:
    """What `slurm.sh` calls on an allocation of two nodes with 16 cores each; the arguments are ``--name small``."""
    for script in ("jobs/lrp2_sweep.py", "jobs/editor_sweep.py", ".venv/bin/activate"):
        (tmp_path / script).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / script).touch()
    for command in ("srun", "scontrol", "ray", "python"):
        (tmp_path / command).write_text(STAND_IN)
        (tmp_path / command).chmod(0o755)
    calls = tmp_path / "calls"
    calls.write_text("")
    basis = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "CALLS": str(calls)}
    slurm = {"SUBMIT_DIR": str(tmp_path), "JOB_NODELIST": "node[1-2]", "JOB_ID": "7", "CPUS_PER_TASK": "16"}
    basis |= {f"SLURM_{name}": value for name, value in slurm.items()}
    script = ["bash", str(CLUSTER / "slurm.sh"), "--name", "small"]
    done = subprocess.run(script, env={**basis, **environment}, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines()


@pytest.mark.parametrize(
    ("asked", "memory"),
    [
        ({"SLURM_MEM_PER_CPU": "4096"}, 64 * 2**30),
        ({"SLURM_MEM_PER_NODE": "8000"}, 8000 * 2**20),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({}, None),
    ],
)
def test_on_slurm_ray_gets_the_memory_of_the_allocation(
    asked: Mapping[str, str], memory: int | None, tmp_path: Path
) -> None:
    started = [call for call in slurm_calls(tmp_path, asked) if " ray start " in call]
    assert len(started) == 2
    assert {node for call in started for node in re.findall(r"--nodelist (\w+)", call)} == {"node1", "node2"}
    for call in started:
        assert "--cpus-per-task 16" in call
        assert "--num-cpus 16" in call
        assert re.findall(r"--memory (\d+)", call) == ([] if memory is None else [str(memory)])


def test_on_slurm_any_job_can_be_chosen(tmp_path: Path) -> None:
    assert slurm_calls(tmp_path, {})[-1] == "python jobs/lrp2_sweep.py --name small"
    assert slurm_calls(tmp_path, {"JOB": "jobs/editor_sweep.py"})[-1] == "python jobs/editor_sweep.py --name small"


def test_ray_accepts_the_configuration_for_ray_up() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())))


def test_the_kubernetes_manifest_runs_one_job_over_a_shared_claim() -> None:
    claim, job = yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
    assert (claim["kind"], job["kind"]) == ("PersistentVolumeClaim", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        volumes = group["template"]["spec"]["volumes"]
        assert volumes[0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert cluster["authOptions"] == {"mode": "token"}, "Ray's ports are open to the other pods"
    assert f"ray[default,tune]=={cluster['rayVersion']}" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["README.md", "Dockerfile", "rayjob.yaml", "ray-up.yaml", "slurm.sh"])
def test_the_scripts_and_presets_they_name_exist(name: str) -> None:
    for path in re.findall(r"jobs/[\w/.]+\w", (CLUSTER / name).read_text()):
        assert (ROOT / path).exists(), f"cluster/{name} names {path}"

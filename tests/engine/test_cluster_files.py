"""The cluster files, as far as they can be checked without a cluster: their syntax, and that they name what exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"


def test_the_shell_script_parses() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], check=True)


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
    assert f"ray[default,tune]=={cluster['rayVersion']}" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["README.md", "Dockerfile", "rayjob.yaml", "ray-up.yaml", "slurm.sh"])
def test_the_scripts_and_presets_they_name_exist(name: str) -> None:
    for path in re.findall(r"jobs/[\w/.]+\w", (CLUSTER / name).read_text()):
        assert (ROOT / path).exists(), f"cluster/{name} names {path}"

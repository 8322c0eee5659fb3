"""Getting a Ray to run on: the cluster this process belongs to, else one of our own on this machine."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator.console import in_ray_job
from orchestrator.errors import UserError
from orchestrator.placement import Node, cluster_nodes, this_machine
from orchestrator.spec import SweepSpec

ROOT = Path(__file__).resolve().parent.parent

# Tune's own files, loggers and signal handling are off: trial files are the record, and Ctrl-C must stop at once.
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
}
OBJECT_STORE_BYTES = 256 * 2**20  # a study and its list of trials; rows never pass through it


def cluster_address() -> str | None:
    """Address of the cluster this process was started for (``RAY_ADDRESS``), or None for a Ray of its own.

    A Ray that merely happens to run on the machine is left alone.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if "://" in address:
        where = "where jobs are submitted" if address.startswith("http") else "where Ray's remote clients connect"
        raise UserError(
            f"RAY_ADDRESS is {address}, {where}, not a cluster to run on. Submit this command with "
            "'ray job submit --working-dir . -- python ...', or unset RAY_ADDRESS to run on this machine."
        )
    return None if address in ("", "local") else address


@contextmanager
def reachable_nodes(spec: SweepSpec) -> Iterator[list[Node]]:
    """The machines a sweep can use: this one, or those of the cluster, joined for the length of the block."""
    address = cluster_address()
    if address is None:
        yield [_described(this_machine(with_gpus=spec.gpus_per_trial != 0), spec)]
        return
    with connected(address, None):
        import ray

        nodes = cluster_nodes(ray.nodes())
        if not nodes:
            raise UserError(
                f"The Ray cluster at {address} has no node with CPU cores for trials yet. How a sweep is placed is "
                "decided once, when it starts: wait until its workers are up, then run the same command again."
            )
        yield [_described(node, spec) for node in nodes]


def _described(node: Node, spec: SweepSpec) -> Node:
    """A node with what the user says of its GPUs."""
    return node if spec.gpu_memory is None else replace(node, gpu_memory=spec.gpu_memory)


@contextmanager
def connected(address: str | None, machine: Node | None) -> Iterator[None]:
    """Ray, for the length of the block; a Ray that was already connected stays so afterwards.

    Args:
        address: the cluster's address, or None for a Ray of our own.
        machine: what a Ray of our own may use.

    Raises:
        UserError: no cluster answers at `address`.
    """
    os.environ.update(TUNE_SETTINGS)
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))  # workers import what the driver imports
    import ray
    import ray._private.worker

    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # The one message no setting silences: "a worker died". Our progress says so, and the trial's log says why.
    ray._private.worker.print_to_stdstream = lambda *message, **options: None
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    try:
        if address is None:
            assert machine is not None
            ray.init(
                address="local",
                num_cpus=machine.cores,
                num_gpus=machine.gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            _check_reachable(address)
            # A job's workers get its copy of the project from Ray; those of a driver started by hand need to be told.
            environment = None if in_ray_job() else {"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}}
            ray.init(address=address, runtime_env=environment, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip() or type(error).__name__
        raise UserError(_no_ray(address, reason.splitlines()[0])) from error
    try:
        yield
    finally:
        sys.stdout.flush()
        ray.shutdown()


def _no_ray(address: str | None, reason: str) -> str:
    if address is None:
        return f"Ray could not be started on this machine: {reason}. Its logs are under /tmp/ray."
    return (
        f"No Ray cluster answers at RAY_ADDRESS={address}: {reason}. Start it (and set RAY_AUTH_MODE=token if it asks "
        "for a token), or unset RAY_ADDRESS to run on this machine."
    )


def _check_reachable(address: str) -> None:
    """Raises OSError where nobody listens at a cluster's address: Ray itself would try for many minutes."""
    import ray

    host, _, port = address.rpartition(":")
    if in_ray_job() or not port.isdigit():
        return
    if host in ("127.0.0.1", "localhost"):
        host = ray.util.get_node_ip_address()  # a head node listens on its address in the network, as Ray knows
    with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
        pass

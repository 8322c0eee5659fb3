#!/usr/bin/env bash
# A sweep on the nodes of one Slurm allocation. Submit it from the project's folder, on a shared file system:
#
#   sbatch --nodes 4 cluster/slurm.sh --config jobs/presets/lrp2_mbert.yaml --output /scratch/$USER/babelsweep \
#       --facts mlama:/scratch/$USER/mlama1.1.zip --pools /scratch/$USER/mlama_objects.zip
#   JOB=jobs/editor_sweep.py sbatch --nodes 4 cluster/slurm.sh --config jobs/presets/editors_atlas.yaml \
#       --output /scratch/$USER/babelsweep
#
# JOB is the job that runs, by default jobs/lrp2_sweep.py; everything after this script's name goes to it. The trials
# share the cores and the memory of the allocation. Cancelled or out of time, it is submitted again unchanged and goes
# on where it was.
#SBATCH --job-name=babelsweep
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem-per-cpu=4G
#SBATCH --time=12:00:00
#SBATCH --output=babelsweep-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"
job=${JOB:-jobs/lrp2_sweep.py}
[ -f "$job" ] || { echo "JOB=$job is no file in $PWD. Name one of jobs/*_sweep.py." >&2; exit 2; }
source .venv/bin/activate
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
[ -s ~/.ray/auth_token ] || ray get-auth-token --generate >/dev/null

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs that share a node must not share a Ray
head_ip=$(srun --nodes 1 --ntasks 1 --nodelist "$head" hostname --ip-address | awk '{print $1}')

started=()
trap 'kill "${started[@]}" 2>/dev/null || true' EXIT
# srun does not take over the cores of a task from sbatch, and with them the memory.
on() {
    srun --nodes 1 --ntasks 1 --cpus-per-task "$SLURM_CPUS_PER_TASK" --overlap --nodelist "$1" "${@:2}" &
    started+=($!)
}

# Ray sees the memory of the whole node; the allocation's, in MiB, is less unless all of it was asked for (0).
size=(--num-cpus "$SLURM_CPUS_PER_TASK")
memory=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_PER_TASK))}
if ((memory > 0)); then size+=(--memory $((memory * 1024 * 1024))); fi

echo "Starting Ray on ${#nodes[@]} nodes, head $head ($head_ip:$port)"
on "$head" ray start --head --block --node-ip-address "$head_ip" --port "$port" "${size[@]}" \
    --include-dashboard false
for node in "${nodes[@]:1}"; do
    on "$node" ray start --block --address "$head_ip:$port" "${size[@]}"
done

export RAY_ADDRESS="$head_ip:$port"
# The sweep is placed on the nodes that are there when it starts, so wait for all of them.
python - "${#nodes[@]}" <<'PYTHON'
import sys, time
import ray

wanted, limit = int(sys.argv[1]), time.monotonic() + 300
while True:
    try:
        ray.init(address="auto", log_to_driver=False)
        break
    except ConnectionError:
        if time.monotonic() > limit:
            sys.exit("Ray's head did not start within five minutes; its messages are above.")
        time.sleep(2)
while (there := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > limit:
        sys.exit(f"Only {there} of {wanted} nodes joined within five minutes; their messages are above.")
    time.sleep(2)
PYTHON

python "$job" "$@"

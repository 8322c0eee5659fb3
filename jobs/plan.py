"""Plans layer searches of models and machines that need not be at hand: where a model lies, memory, hours and why."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

# A job that was submitted to a cluster runs in a copy of the project that is not installed there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console

from orchestrator.cli import StopSignals, guarded
from orchestrator.console import command, say
from orchestrator.errors import UserError

DESCRIPTION = """\
Plans the layer search over all of mLAMA (53 languages, all layer pairs) from a model's configuration alone: no weights
are read, and neither the model nor the machines need be at hand. Everything it says is computed, not measured."""

EXAMPLES = """examples:
  python jobs/plan.py --model bloom-7b1 --gpus 8 --gpu-memory 80GB
  python jobs/plan.py --model bloom-176b --dtype bfloat16 --gpus 8 --gpu-memory 80GB --nodes 16
  python jobs/plan.py --model bloom-176b --pairs 10/60,20/50 --max-facts 200 --gpus 8
  python jobs/plan.py --model models/my-bloom --gpus 0 --cores 64 --node-memory 256GB --placement stream
  python jobs/plan.py --table
  python jobs/plan.py --efficiency --model bloom-7b1"""


class Parser(argparse.ArgumentParser):
    """Mistakes are told as every job tells them."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. 'python jobs/plan.py --help' lists all options.")


def parser() -> Parser:
    """The command line."""
    top = Parser(
        prog="python jobs/plan.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = top.add_argument
    add("--model", default="bloom-7b1", help="mbert, bloom-560m ... bloom-176b, a folder, config.json or hub id")
    add("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of weights and states; default: bfloat16")
    add("--gpus", type=_count, default=1, metavar="N", help="GPUs of a node; default: 1")
    add("--gpu-memory", type=_bytes, default="80GB", metavar="SIZE", help="memory of a GPU; default: 80GB")
    add("--gpu-flops", type=_rate, metavar="X", help="operations a second of a GPU; default: 40%% of an A100's peak")
    add("--nodes", type=_positive, default=1, metavar="N", help="nodes; default: 1")
    add("--cores", type=_positive, default=16, metavar="N", help="CPU cores of a node; default: 16")
    add("--node-memory", type=_bytes, default="128GB", metavar="SIZE", help="memory of a node; default: 128GB")
    add("--placement", choices=("auto", "single", "dispatch", "stream"), default="auto", help="default: the best")
    add(
        "--facts-per-trial",
        type=_positive,
        default=5000,
        metavar="N",
        help="languages with more are cut; default: 5000",
    )
    add("--max-facts", type=_positive, metavar="N", help="at most so many facts of each language; default: all")
    add("--pairs", type=_words, metavar="I/J,...", help="layer pairs such as 4/10; default: all")
    add("--table", action="store_true", help="the tables of cluster/SCALING.md: every BLOOM on four kinds of machines")
    add("--efficiency", action="store_true", help="hours and parallel efficiency on up to 256 GPUs, by simulation")
    add("--pace", type=Path, metavar="SWEEP", help="with --efficiency: times of the languages, from this sweep")
    return top


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of things")
    return int(text)


def _positive(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("there must be at least one")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of operations a second, such as 1e14")
    return rate


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _bytes(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 80GB") from None


def run(console: Console, errors: Console, signals: StopSignals) -> int:
    asked = parser().parse_args()
    import torch

    from methods.lrp2 import scaling
    from orchestrator.placement import Node

    dtype = getattr(torch, asked.dtype)
    if asked.table:
        say(console, "\n".join(scaling.tables()))
    elif asked.efficiency:
        pace = scaling.pace_of(asked.pace) if asked.pace else scaling.measured_pace()
        say(console, "\n".join(scaling.efficiency_table(asked.model, dtype, pace)))
    else:
        nodes = [Node(asked.cores, asked.gpus, asked.node_memory, asked.gpu_memory)] * asked.nodes
        sweep = scaling.Sweep.of(
            asked.model, dtype, facts_per_trial=asked.facts_per_trial, max_facts=asked.max_facts, pairs=asked.pairs
        )
        plan = sweep.plan(nodes, placement=asked.placement, gpu_flops=asked.gpu_flops)
        say(console, "\n".join([f"{len(sweep.trials())} trials: {plan.placement}.", *plan.sentences()]))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(run, command(sys.argv[1:])))

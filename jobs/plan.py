"""Plans sweeps of models and machines that need not be at hand: where a model lies, memory, hours and why."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

# A job that was submitted to a cluster runs in a copy of the project that is not installed there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic import ByteSize, Field, TypeAdapter, ValidationError
from rich.console import Console

from methods.editing.spec import EditorSpec
from methods.lrp2.spec import LRP2Spec
from orchestrator.cli import StopSignals, guarded
from orchestrator.console import command, say
from orchestrator.errors import UserError
from orchestrator.options import flag_of
from orchestrator.spec import SweepSpec, parse_command_line

DESCRIPTION = """\
Plans a sweep over all of mLAMA (53 languages) from a model's configuration alone: no weights are read, and neither the
model nor the machines need be at hand. By default it is a layer search over all layer pairs; --config plans what a
preset asks for, of a layer search or of editors. Everything it says is computed, not measured."""

EXAMPLES = """examples:
  python jobs/plan.py --model bloom-7b1 --gpus 8 --gpu-memory 80GB
  python jobs/plan.py --model bloom-176b --dtype bfloat16 --gpus 8 --gpu-memory 80GB --nodes 16
  python jobs/plan.py --model bloom-176b --pairs 10/60,20/50 --max-facts 200 --gpus 8
  python jobs/plan.py --model models/my-bloom --gpus 0 --cores 64 --node-memory 256GB --placement stream
  python jobs/plan.py --config jobs/presets/lrp2_bloom_7b1.yaml --gpus 8
  python jobs/plan.py --config jobs/presets/editors_bloom_7b1.yaml --gpus 8
  python jobs/plan.py --table
  python jobs/plan.py --table editors
  python jobs/plan.py --efficiency --model bloom-7b1"""

MODEL, DTYPE = "bloom-7b1", "bfloat16"
PRESETS = Path(__file__).resolve().parent / "presets"
# Options that go to the specification of what is planned, and win over its preset.
ASKED = (
    *("model", "dtype", "placement", "workers_per_trial", "gpu_flops"),
    *("facts_per_trial", "max_facts", "pairs", "editors"),
)

# What does not plan a sweep, and the options it takes.
TAKES: Mapping[str, Sequence[str]] = {"table": (), "efficiency": ("model", "dtype", "pace")}


class SearchSpec(LRP2Spec):
    """A layer search beside the other studies that can be planned: as the first it needs no ``study`` in its preset."""

    study: Literal["lrp2"] = Field("lrp2", description="what is planned: a layer search")


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
    add("--config", metavar="PRESET", help="plan what a preset asks for; options beside it win over it")
    add("--model", help=f"mbert, bloom-560m ... bloom-176b, a folder, config.json or hub id; default: {MODEL}")
    add("--dtype", choices=("float32", "bfloat16"), help=f"of weights and states; default: {DTYPE}, or the preset's")
    add("--gpus", type=_count, default=1, metavar="N", help="GPUs of a node; default: 1")
    add("--gpu-memory", type=_bytes, default="80GB", metavar="SIZE", help="memory of a GPU; default: 80GB")
    add("--gpu-flops", metavar="X", help="operations a second of a GPU; default: 40%% of an A100's peak")
    add("--nodes", type=_positive, default=1, metavar="N", help="nodes; default: 1")
    add("--cores", type=_positive, default=16, metavar="N", help="CPU cores of a node; default: 16")
    add("--node-memory", type=_bytes, default="128GB", metavar="SIZE", help="memory of a node; default: 128GB")
    add("--placement", choices=("auto", "single", "dispatch", "stream", "zero3"), help="default: the best")
    add("--workers-per-trial", metavar="N", help="with --placement zero3: processes of a trial")
    add("--facts-per-trial", metavar="N", help="languages with more are cut; default: 5000")
    add("--max-facts", metavar="N", help="at most so many facts of each language; default: all")
    add("--pairs", metavar="I/J,...", help="layer pairs such as 4/10; default: all")
    add("--editors", metavar="NAME,...", help="of a preset of editors: these alone")
    add(
        "--table",
        nargs="?",
        const="search",
        choices=("search", "editors"),
        help="the tables of cluster/SCALING.md: every BLOOM on four kinds of machines, searched or edited",
    )
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


def _bytes(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 80GB") from None


def asked_spec(asked: argparse.Namespace) -> SearchSpec | EditorSpec:
    """What is to be planned: the preset, or a layer search, with the options that were given beside it."""
    given = {name: getattr(asked, name) for name in ASKED if getattr(asked, name) is not None}
    words = ["--config", asked.config] if asked.config else []
    if not asked.config:
        given = {"model": MODEL, "dtype": DTYPE} | given
    for name, value in given.items():
        words += ["--" + name.replace("_", "-"), value]
    return read_spec(words)


def read_spec(words: Sequence[str]) -> SearchSpec | EditorSpec:
    """The specification of a layer search or of editors, from the words of a command line."""
    kinds: tuple[type[SweepSpec], ...] = (SearchSpec, EditorSpec)
    spec = parse_command_line(kinds, words, description="", examples=(), prog="python jobs/plan.py").spec
    assert isinstance(spec, SearchSpec | EditorSpec)
    return spec


def editor_tables() -> list[str]:
    """Markdown: what the presets of editors ask for, model by model."""
    from methods.editing import scaling
    from methods.scaling import BLOOMS

    presets = {name: PRESETS / f"editors_{name.replace('-', '_')}.yaml" for name in BLOOMS}
    specs = {name: read_spec(["--config", str(path)]) for name, path in presets.items()}
    return scaling.tables({name: spec for name, spec in specs.items() if isinstance(spec, EditorSpec)})


def given_options() -> list[str]:
    """The names of the options on the command line."""
    words = parser()
    for action in words._actions:
        action.default = argparse.SUPPRESS
    return list(vars(words.parse_args()))


def check_use(given: Sequence[str]) -> None:
    """Raises UserError where options were given that would be ignored; `given` are their names."""
    mode = next((mode for mode in TAKES if mode in given), None)
    taken = (mode, *TAKES[mode]) if mode else [name for name in given if name != "pace"]
    if no_use := [name for name in given if name not in taken]:
        flags = ", ".join(map(flag_of, no_use))
        others = " and ".join(map(flag_of, TAKES[mode])) if mode else ""
        why = f"{flag_of(mode)} takes {others or 'no other option'}" if mode else "it goes with --efficiency"
        raise UserError(f"{flags} would be ignored: {why}. Leave out what has no use.")


def run(console: Console, errors: Console, signals: StopSignals) -> int:
    asked = parser().parse_args()
    check_use(given_options())
    from methods.editing.scaling import Sweep as EditorSweep
    from methods.lrp2 import scaling
    from orchestrator.placement import Node

    if asked.table:
        say(console, "\n".join(editor_tables() if asked.table == "editors" else scaling.tables()))
    elif asked.efficiency:
        pace = scaling.pace_of(asked.pace) if asked.pace else scaling.measured_pace()
        say(console, "\n".join(scaling.efficiency_table(asked.model or MODEL, asked.dtype or DTYPE, pace)))
    else:
        nodes = [Node(asked.cores, asked.gpus, asked.node_memory, asked.gpu_memory)] * asked.nodes
        spec = asked_spec(asked)
        sweep = EditorSweep.of(spec) if isinstance(spec, EditorSpec) else scaling.Sweep.of(spec)
        plan = sweep.plan(nodes)
        say(console, "\n".join([f"{len(sweep.trials())} trials: {plan.placement}.", *plan.sentences()]))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(run, command(sys.argv[1:])))

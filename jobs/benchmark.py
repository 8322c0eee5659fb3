"""Measures what this project claims about speed, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# A job that was submitted to a cluster runs in a copy of the project that is not installed there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console

from orchestrator.cli import StopSignals, guarded
from orchestrator.console import command, say
from orchestrator.errors import UserError
from orchestrator.options import flag_of
from orchestrator.report.blocks import Table
from orchestrator.report.terminal import print_table
from orchestrator.workspace import output_root

LAYER_SEARCH = """\
The layer search over all pairs: the lattice (all scores, and hits only) against the naive loop, and against pyvene and
nnsight where asked, on the same queries in turn. Models have published sizes and random weights, queries the lengths
of mLAMA's; nothing is downloaded. A model folder is measured with its own weights, with --facts on real facts. Several
numbers of queries show how time and peak memory of the lattice grow, each in a process of its own; nobody else runs."""

EDITING = """\
An editor that edits many requests at once, against one edit at a time with the whole model: evaluation (acc and con)
and gradients of training, on the same texts in turn. Models have published sizes and random weights, texts realistic
lengths; nothing is downloaded."""

EDITING_EXAMPLES = """examples:
  python jobs/benchmark.py editing --threads 2
  python jobs/benchmark.py editing --task classifier --editor knowledge-editor --json editing.json
  python jobs/benchmark.py editing --shape small --edits 8 --repeats 1"""

PATCHING = """\
Patch neurons: a stream of edits on cached inputs against the plain loop, which runs the whole model for every step of
every patch and for every answer, on the same requests in turn. Models have published sizes and random weights, or come
from a folder; nothing is downloaded. Many edits also show how memory grows in the course of a stream."""

PATCHING_EXAMPLES = """examples:
  python jobs/benchmark.py patching --threads 2
  python jobs/benchmark.py patching --shape models/claims-classifier --edits 20 --json patching.json
  python jobs/benchmark.py patching --shape small --edits 1000 --steps 30 --memory 1000 --repeats 1"""

STREAMING = """\
A model larger than memory: a BLOOM of a published shape with random weights is written in shards to the temporary
folder (TMPDIR), searched under a memory bound with its layers streamed, compared with the search in memory on a sample
of the pairs, and with the naive loop over the model as Accelerate offloads it to disk."""

STREAMING_EXAMPLES = """examples:
  python jobs/benchmark.py streaming --size 3GB --memory 1GB
  python jobs/benchmark.py streaming --size 10GB --memory 2GB --pairs 40 --json streaming.json"""

WEIGHTS = """\
What a further process with the same model costs: the memory of several processes together and of one alone, with every
weight read. And how long a checkpoint takes to a second node that does not see its folder: a Ray cluster of two nodes
is started on this machine."""

WEIGHTS_EXAMPLES = """examples:
  python jobs/benchmark.py weights --model models/bloom-560m
  python jobs/benchmark.py weights --model models/bloom-7b1 --dtype bfloat16 --processes 1,8 --json weights.json"""

EXAMPLES = """examples:
  python jobs/benchmark.py layer-search --shape mbert --threads 2
  python jobs/benchmark.py layer-search --shape bloom-560m --queries 4 --repeats 3 --json bloom.json
  python jobs/benchmark.py layer-search --shape mbert --languages de,zh --against naive,pyvene,nnsight --pairs 4/10,5/9
  python jobs/benchmark.py layer-search --shape llama-160m --against none --growth
  python jobs/benchmark.py layer-search --shape mbert --queries 1,10,40 --memory 2GB
  python jobs/benchmark.py layer-search --shape models/mbert --facts mlama:mlama1.1.zip --pools mlama_objects.zip"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__)
    commands = top.add_subparsers(dest="benchmark", required=True)
    _editing_options(commands)
    _patching_options(commands)
    _streaming_options(commands)
    _weights_options(commands)
    layer_search = commands.add_parser(
        "layer-search",
        help="the lattice against one forward pass per layer pair",
        description=LAYER_SEARCH,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = layer_search.add_argument
    add("--shape", required=True, help="mbert, xlm-r, bloom-560m, llama-160m, a built-in model or a model folder")
    add("--layers", type=int, metavar="N", help="only the first N blocks; default: all")
    add("--languages", type=_words, metavar="A,B", help="languages of the queries; default: all")
    add(
        "--queries",
        type=_counts,
        default=(8,),
        metavar="N[,N...]",
        help="number of queries; several show how time and memory grow; default: 8",
    )
    add("--facts", metavar="ADDRESS", help="real facts for a model folder, as for the sweep: mlama:<zip>, atlas, ...")
    add("--pools", metavar="ZIP", help="candidate objects for mlama facts")
    add(
        "--against",
        type=_words,
        metavar="A,B",
        help="naive, pyvene, nnsight or none; default: naive",
    )
    add("--pairs", type=_words, metavar="I/J,...", help="layer pairs such as 4/10; default: all")
    add("--sample-pairs", type=int, metavar="N", help="run the other contenders on N pairs and scale; default: all")
    add("--repeats", type=int, metavar="N", help="runs of every contender, in turn; default: 2")
    _threads_option(add)
    add("--memory", metavar="SIZE", help="bound for the lattice's memory, e.g. 4GB; default: no bound")
    _device_option(add)
    add("--dtype", choices=("float32", "float64", "bfloat16"), default="float32", help="default: float32")
    add("--growth", action="store_true", help="also measure how time grows with queries, languages and layers")
    _json_option(add)
    return top


def _threads_option(add: Callable[..., Any]) -> None:
    add("--threads", type=int, metavar="N", help="threads of torch; default: one per core")


def _device_option(add: Callable[..., Any]) -> None:
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")


def _json_option(add: Callable[..., Any]) -> None:
    add("--json", metavar="FILE", help="write all figures as JSON; - writes them, and nothing else, to the terminal")


def _editing_options(commands: Any) -> None:
    editing = commands.add_parser(
        "editing",
        help="editing many requests at once against one by one",
        description=EDITING,
        epilog=EDITING_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = editing.add_argument
    add("--shape", default="mbert", help="mbert, or small to try it out; default: mbert")
    add("--task", default="facts", help="facts (masked language model) or classifier; default: facts")
    add("--editor", default="mend", help="mend, knowledge-editor, editable-training or fine-tuning; default: mend")
    add("--edit-lr", type=float, default=1e-6, metavar="X", help="size of an edit's step; default: 1e-6")
    add("--edits", type=int, default=64, metavar="N", help="edits in a batch; default: 64")
    add("--plain-edits", type=int, default=6, metavar="N", help="edits of the plain loop in one run; default: 6")
    add("--retains", type=int, default=4, metavar="N", help="evaluation: unrelated texts of an edit; default: 4")
    add(
        "--positions",
        choices=("all", "labels"),
        default="all",
        help="evaluation: compare predictions at every position too, or at the label positions only; default: all",
    )
    add(
        "--repeats",
        type=int,
        metavar="N",
        help="runs of every contender, in turn; default: 3, or fewer where these would take more than two minutes",
    )
    _threads_option(add)
    _device_option(add)
    _json_option(add)


def _patching_options(commands: Any) -> None:
    patching = commands.add_parser(
        "patching",
        help="patch neurons on cached inputs against the plain loop",
        description=PATCHING,
        epilog=PATCHING_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = patching.add_argument
    add("--shape", default="mbert", help="mbert, small to try it out, or a model folder; default: mbert")
    add("--edits", type=int, default=8, metavar="N", help="requests of the stream; default: 8")
    add("--plain-edits", type=int, default=1, metavar="N", help="requests of the plain loop; default: 1")
    add("--steps", type=int, default=125, metavar="N", help="optimizer steps of an edit; default: 125")
    add("--memory", type=int, default=40_000, metavar="N", help="states that patches are silent on; default: 40000")
    add("--texts", type=int, default=256, metavar="N", help="texts of a point of the accuracy curve; default: 256")
    add(
        "--repeats",
        type=int,
        metavar="N",
        help="runs of every contender, in turn; default: 2, or 1 where 2 would take more than four minutes",
    )
    _threads_option(add)
    _device_option(add)
    _json_option(add)


def _streaming_options(commands: Any) -> None:
    streaming = commands.add_parser(
        "streaming",
        help="a model larger than memory, streamed, against in memory and offloaded to disk",
        description=STREAMING,
        epilog=STREAMING_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = streaming.add_argument
    add("--size", default="3GB", help="weights at least, in float32; default: 3GB")
    add("--memory", default="1GB", metavar="SIZE", help="bound for the streamed search; default: 1GB")
    add("--queries", type=int, default=2, metavar="N", help="number of queries; default: 2")
    add("--pairs", type=int, default=138, metavar="N", help="layer pairs, evenly spread; default: 138")
    add("--compare-pairs", type=int, default=12, metavar="N", help="of them, searched in memory too; default: 12")
    add("--offload-pairs", type=int, default=2, metavar="N", help="of them, run offloaded to disk too; default: 2")
    _threads_option(add)
    _json_option(add)


def _weights_options(commands: Any) -> None:
    weights = commands.add_parser(
        "weights",
        help="one checkpoint for many processes and for a second node",
        description=WEIGHTS,
        epilog=WEIGHTS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = weights.add_argument
    add("--model", required=True, metavar="FOLDER", help="a model folder, or a built-in model")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="that it is stored in; default: float32")
    add("--processes", type=_counts, default=(1, 2, 4), metavar="N,...", help="default: 1,2,4")
    _json_option(add)


def run(console: Console, errors: Console, signals: StopSignals) -> int:
    options = parser().parse_args()
    jobs = {
        "layer-search": run_layer_search,
        "editing": run_editing,
        "patching": run_patching,
        "streaming": run_streaming,
        "weights": run_weights,
    }
    return jobs[options.benchmark](options, console, errors)


def run_editing(options: argparse.Namespace, console: Console, errors: Console) -> int:
    import torch

    from methods.editing.benchmark import Settings, run_benchmark, sentence, tables

    settings = Settings(
        shape=options.shape,
        task=options.task,
        editor=options.editor,
        edit_lr=options.edit_lr,
        edits=options.edits,
        plain_edits=options.plain_edits,
        retains=options.retains,
        all_positions=options.positions == "all",
        repeats=options.repeats,
        threads=options.threads,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    result = run_benchmark(settings, lambda text: say(errors, text))
    return _show(result, lambda: tables(result), lambda: sentence(result), options.json, console)


def run_patching(options: argparse.Namespace, console: Console, errors: Console) -> int:
    import torch

    from methods.editing.benchmark import PatchingSettings, patching_sentence, patching_tables
    from methods.editing.benchmark import run_patching as measure

    settings = PatchingSettings(
        shape=options.shape,
        edits=options.edits,
        plain_edits=options.plain_edits,
        steps=options.steps,
        memory=options.memory,
        texts=options.texts,
        repeats=options.repeats,
        threads=options.threads,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    result = measure(settings, lambda text: say(errors, text))
    return _show(result, lambda: patching_tables(result), lambda: patching_sentence(result), options.json, console)


def run_streaming(options: argparse.Namespace, console: Console, errors: Console) -> int:
    size, memory = _bytes(options.size, "--size"), _bytes(options.memory)
    from methods.lrp2.benchmark import StreamingSettings, streaming_sentence, streaming_tables
    from methods.lrp2.benchmark import run_streaming as measure

    assert size is not None
    assert memory is not None
    settings = StreamingSettings(
        size=size,
        memory=memory,
        queries=options.queries,
        pairs=options.pairs,
        compared=options.compare_pairs,
        offloaded=options.offload_pairs,
        threads=options.threads,
    )
    result = measure(settings, lambda text: say(errors, text))
    return _show(result, lambda: streaming_tables(result), lambda: streaming_sentence(result), options.json, console)


def run_weights(options: argparse.Namespace, console: Console, errors: Console) -> int:
    from methods.backbone.addresses import resolve
    from methods.backbone.sharing import measure_sharing, sharing_table
    from orchestrator.weights_benchmark import journey_sentence, measure_journey

    sharing = [measure_sharing(options.model, count, options.dtype) for count in options.processes]
    journey = measure_journey(resolve(options.model))
    result = {"sharing": [asdict(each) for each in sharing], "journey": asdict(journey)}
    return _show(result, lambda: [sharing_table(sharing)], lambda: journey_sentence(journey), options.json, console)


def run_layer_search(options: argparse.Namespace, console: Console, errors: Console) -> int:
    memory = _bytes(options.memory)
    several = len(options.queries) > 1
    if several:
        no_use = [name for name in ("against", "sample_pairs", "repeats", "growth") if getattr(options, name)]
        if no_use:
            raise UserError(
                f"{', '.join(map(flag_of, no_use))} would be ignored: several numbers of --queries show how time and "
                "memory of the lattice grow, and nothing else runs. Leave out what has no use, or ask for one number."
            )
    import torch

    from methods.lrp2.benchmark import (
        Settings,
        memory_sentence,
        memory_tables,
        run_benchmark,
        run_memory,
        sentence,
        tables,
    )

    against = options.against or ("naive",)
    settings = Settings(
        shape=options.shape,
        cache=output_root(None) / "cache",
        layers=options.layers,
        languages=options.languages,
        queries=options.queries[0],
        facts=options.facts,
        pools=options.pools,
        against=() if several or against == ("none",) else against,
        pairs=options.pairs,
        sample_pairs=options.sample_pairs,
        repeats=2 if options.repeats is None else options.repeats,
        threads=options.threads,
        memory_bytes=memory,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=options.dtype,
        growth=options.growth,
    )
    if several:
        grown = run_memory(settings, options.queries, lambda text: say(errors, text))
        return _show(grown, lambda: memory_tables(grown), lambda: memory_sentence(grown), options.json, console)
    result = run_benchmark(settings, lambda text: say(errors, text))
    return _show(result, lambda: tables(result), lambda: sentence(result), options.json, console)


def _show(
    result: dict[str, Any],
    tables: Callable[[], list[Table]],
    sentence: Callable[[], str],
    file: str | None,
    console: Console,
) -> int:
    """Prints what was found, or writes it as JSON, or both."""
    from orchestrator.data import write_atomically

    text = json.dumps(result, indent=2)
    if file == "-":
        print(text)
        return 0
    for table in tables():
        print_table(table, console)
    say(console, sentence())
    if file:
        write_atomically(Path(file), lambda handle: handle.write(f"{text}\n".encode()))
        say(console, f"Figures: {file}")
    return 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _counts(text: str) -> tuple[int, ...]:
    if not _words(text):
        raise argparse.ArgumentTypeError("no number is given")
    return tuple(int(word) for word in _words(text))


def _bytes(text: str | None, option: str = "--memory") -> int | None:
    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UserError(f"{option} {text!r} is not a size; write it as 4GB or 500MB") from error


if __name__ == "__main__":
    sys.exit(guarded(run, command(sys.argv[1:]), "Nothing was measured; this starts it again"))

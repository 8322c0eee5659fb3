"""Translates FEVER claims and their rephrasings with a local translation model, into files that sweeps read."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# A job that was submitted to a cluster runs in a copy of the project that is not installed there.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from orchestrator.cli import StopSignals, guarded
from orchestrator.console import command, duration, say
from orchestrator.errors import Problems, UserError

DESCRIPTION = """\
Translates FEVER claims and their rephrasings with a translation model from a local folder: any sequence-to-sequence
model of transformers, such as NLLB, M2M100, mBART or Marian, with safetensors weights. The translation of claims.jsonl
into German is claims.de.jsonl, which lies beside it, where fever:<folder or file> finds it. What is translated is kept:
after an interruption the same command goes on."""

EXAMPLES = """examples:
  python jobs/prepare_translations.py --model models/nllb --claims data/fever --languages de,fr,es,zh,ar --splits edit
  python jobs/prepare_translations.py --model models/opus-mt-en-de --claims data/fever --languages de
  python jobs/prepare_translations.py --model models/opus-mt-en-zh --claims data/fever --languages zh=cmn_Hans
  python jobs/prepare_translations.py --model models/m2m100 --claims dev.jsonl.gz --languages de,fr --output copies"""

LINE_SECONDS = 10.0


class Parser(argparse.ArgumentParser):
    """Mistakes are told as every job tells them."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].upper()}{message[1:]}. '{self.prog} --help' lists all options.")


def parser() -> Parser:
    """The command line."""
    top = Parser(
        prog="python jobs/prepare_translations.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = top.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="the translation model")
    add("--claims", type=Path, required=True, metavar="PATH", help="file or folder of claims, as a sweep gets it")
    add(
        "--languages",
        nargs="+",
        required=True,
        metavar="A,B",
        help="languages to translate into, such as de,fr; A=CODE where the model must be told its own code of A",
    )
    add("--output", type=Path, metavar="FOLDER", help="where translations and a copy of the claims go; default: beside")
    add("--splits", nargs="+", metavar="A,B", help="only claims of train, dev, edit or test; default: all")
    add("--beams", type=int, metavar="N", help="width of the beam search; default: what the model was saved with")
    add("--threads", type=int, metavar="N", help="threads of torch; default: one per core")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    return top


class Lines:
    """Says now and then how far the translation is."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started = self.last = time.monotonic()

    def __call__(self, name: str, share: float) -> None:
        now = time.monotonic()
        if now - self.last >= LINE_SECONDS and share:
            self.last = now
            left = (now - self.started) * (1 - share) / share
            say(self.console, f"[{100 * share:3.0f}%] {name}, about {duration(left)} left")


def run(console: Console, errors: Console, signals: StopSignals) -> int:
    options = parser().parse_args()
    problems = Problems()
    languages = {}
    for text in _words(options.languages):
        language, equals, code = text.partition("=")
        if not language or (equals and not code) or language in languages:
            problems.add(
                f"--languages {text!r} is there twice or not written as L or L=CODE, such as de or zh=zho_Hans."
            )
        languages[language] = code or None
    for name in ("beams", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            problems.add(f"--{name} is {getattr(options, name)}, but at least 1 is needed.")
    problems.raise_if_any()

    import torch

    from methods.translated_claims import prepare_translations

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda is not possible: torch sees no CUDA device here; use --device cpu.")
    if options.threads:
        torch.set_num_threads(options.threads)
    claims = options.claims.expanduser()
    output = options.output and options.output.expanduser()
    done = prepare_translations(
        options.model.expanduser(),
        claims,
        languages,
        output=output,
        splits=options.splits and _words(options.splits),
        beams=options.beams,
        device=options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        say=lambda text: say(console, text),
        progress=Lines(console),
    )
    if done.failed:
        say(errors, f"Warning: {done.failed:,} translations came out empty or without an end; these are left out.")
    say(console, f"{done.claims:,} translated claims in {len(done.files)} files:")
    for file in done.files:
        say(console, f"  {file}")
    place = claims if output is None else output / claims.name if claims.is_file() else output
    say(console, f"A sweep reads them with the claims, as fever:{place}")
    return 0


def _words(texts: Sequence[str]) -> list[str]:
    """Words between commas or spaces."""
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


if __name__ == "__main__":
    sys.exit(guarded(run, command(sys.argv[1:]), "What is translated is kept; this goes on"))

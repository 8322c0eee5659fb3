"""What the documents say is so: links lead somewhere, commands are understood, what is named exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs import analyze, benchmark, editor_sweep, lrp2_sweep, neuron_sweep, plan, prepare_translations
from methods.lrp2.spec import LRP2Spec
from methods.neurons.spec import NeuronSpec
from orchestrator.spec import SweepSpec, parse_command_line
from tests.conftest import ROOT

NAMES = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "atlas/README.md"),
    *("cluster/README.md", "cluster/SCALING.md", "cluster/deepspeed/README.md"),
)
DOCUMENTS = [ROOT / name for name in NAMES]
PRESETS = sorted((ROOT / "jobs" / "presets").glob("*.yaml"))
SPECS: dict[str, Sequence[type[SweepSpec]]] = {
    "jobs/lrp2_sweep.py": [LRP2Spec],
    "jobs/editor_sweep.py": editor_sweep.SPECS,
    "jobs/neuron_sweep.py": [NeuronSpec],
}
PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "jobs/analyze.py": lambda words: analyze.parser().parse_intermixed_args(words),
    "jobs/benchmark.py": lambda words: benchmark.parser().parse_args(words),
    "jobs/plan.py": lambda words: plan.parser().parse_args(words),
    "jobs/prepare_translations.py": lambda words: prepare_translations.parser().parse_args(words),
}
EXAMPLES = (
    *(*lrp2_sweep.EXAMPLES, *editor_sweep.EXAMPLES, *neuron_sweep.EXAMPLES),
    *(analyze.EXAMPLES, plan.EXAMPLES, prepare_translations.EXAMPLES, benchmark.EXAMPLES, benchmark.EDITING_EXAMPLES),
    *(benchmark.PATCHING_EXAMPLES, benchmark.STREAMING_EXAMPLES, benchmark.WEIGHTS_EXAMPLES),
)
OWN_FOLDERS = "atlas|cluster|docs|jobs|methods|orchestrator|tests"


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def code_spans(document: Path) -> list[str]:
    """What stands between single backticks; fenced blocks are left out."""
    prose = re.sub(r"^```.*?^```", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def anchors(document: Path) -> set[str]:
    """The headings of a document as addresses within a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def job_commands() -> Iterator[tuple[str, list[str]]]:
    """Every command that runs a script of jobs/ in a document, a preset's header or a job's help: where it is, and
    its words from the script on."""
    sources = [(name, text_of(ROOT / name)) for name in NAMES]
    sources += [(path.name, re.sub(r"^#", "", text_of(path), flags=re.MULTILINE)) for path in PRESETS]
    sources.append(("--help", "".join(f"    {line}\n" for line in EXAMPLES)))
    for name, text in sources:
        lines = re.sub(r"\\\n\s*", "", text)
        written = re.findall(r"^ {2,}.*?\bpython (jobs/\w+\.py .*)$", lines, flags=re.MULTILINE)
        written += re.findall(r"`python (jobs/\w+\.py [^`]+)`", lines)
        for command in written:
            words = shlex.split(command, comments=True)
            yield name, [word for word in words if word != "..."]  # "..." stands for the options of the line above


COMMANDS = list(job_commands())


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_within_the_project_resolve(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(document))
    for link in links:
        if re.match(r"https?://", link):
            continue
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_files_and_folders_that_are_named_exist(document: Path) -> None:
    for span in code_spans(document):
        named = re.match(rf"(?:\.?/)?((?:{OWN_FOLDERS})/[\w./-]*)(?:\s|$)", span)
        if named:
            assert (ROOT / named[1]).exists(), span


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_make_targets_that_are_named_exist(document: Path) -> None:
    targets = set(re.findall(r"^(\w+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    lines = re.findall(r"^ {4}make (\w+)", text_of(document), flags=re.MULTILINE)
    spans = [span.removeprefix("make ") for span in code_spans(document) if span.startswith("make ")]
    assert {*lines, *spans} <= targets


def test_there_are_commands_to_check() -> None:
    where = [name for name, _ in COMMANDS]
    assert where.count("README.md") >= 5
    assert {path.name for path in PRESETS} <= set(where)
    assert "--help" in where


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[f"{where}: {' '.join(words)}" for where, words in COMMANDS])
def test_commands_are_understood(where: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script, *options = words
    assert (ROOT / script).is_file()
    monkeypatch.chdir(ROOT)
    if script in PARSERS:
        PARSERS[script](options)
    elif script not in SPECS:
        assert set(filter(is_option, options)) <= options_in(ROOT / script)
    elif "--help" not in options:
        parse_command_line(SPECS[script], options, description="", examples=(), prog=f"python {script}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_modules_that_are_run_exist_and_have_these_options(document: Path) -> None:
    for module, words in re.findall(r"python -m ([\w.]+)([^\n`#]*)", text_of(document)):
        if module.startswith("atlas."):
            source = ROOT / f"{module.replace('.', '/')}.py"
            assert set(filter(is_option, words.split())) <= options_in(source), f"{module}{words}"


def is_option(word: str) -> bool:
    return word.startswith("--")


def options_in(script: Path) -> set[str]:
    """The options that a script's own parser names."""
    return set(re.findall(r'"(--[\w-]+)"', text_of(script)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_options_that_are_named_exist(document: Path) -> None:
    fields = {name for specs in SPECS.values() for spec in specs for name in spec.model_fields}
    known = {"--" + name.replace("_", "-") for name in fields} | {"--config", "--dry-run", "--help"}
    known |= {"--steps", "--minutes"}  # of atlas/train_models.py
    for span in code_spans(document):
        if span.startswith("--"):
            option = span.split()[0]
            assert option in known, option


def test_every_dependency_has_its_reason() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in wanted}
    section = text_of(ROOT / "ARCHITECTURE.md").partition("\n## Dependencies\n")[2]
    reasons = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", section, flags=re.MULTILINE))
    assert set(reasons) == names
